//! What holds for any bytes: see `crate::fuzz`.

use super::Id;

const ALPHABET: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// An id is 26 digits of base 32 that fit 128 bits, and is its own text.
pub fn id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let number = text.chars().try_fold(0u128, |n, c| {
        let digit = ALPHABET.find(c)? as u128;
        n.checked_mul(32)?.checked_add(digit)
    });
    let want = number.filter(|_| text.chars().count() == 26);
    let got = text.parse::<Id>();
    assert_eq!(got.is_ok(), want.is_some(), "{text:?}");
    if let Ok(id) = got {
        assert_eq!(id.as_str(), text);
        assert_eq!(id.to_string(), text);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(Id::MIN <= id);
    }
}

//! 26-character sortable ids (Crockford base 32 of 128 bits: 48 bits of Unix
//! milliseconds, 80 random bits), the shape of the original's (spec http-api
//! §1.5) without telling the server's address or start-up order.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Which bytes may stand in an id: one look each, since every call names one.
const LEGAL: [bool; 256] = {
    let mut legal = [false; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        legal[ALPHABET[i] as usize] = true;
        i += 1;
    }
    legal
};

/// What each of those bytes stands for.
const VALUES: [u8; 256] = {
    let mut values = [0; 256];
    let mut value = 0u8;
    while value < 32 {
        values[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// An id as text, held inline: cloning or comparing one allocates nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id([u8; 26]);

/// The text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a 26-character id")]
pub struct NotAnId;

struct Source {
    random: u128,
    last_ms: u64,
}

thread_local! {
    static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
}

impl Id {
    /// The lowest id, for the start of a range.
    pub const MIN: Id = Id([b'0'; 26]);

    /// A new id. Ids made by one thread are strictly increasing in text order;
    /// ids of different threads differ by 80 random bits.
    pub fn new() -> Id {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        SOURCE.with(|cell| {
            let mut slot = cell.borrow_mut();
            let source = slot.get_or_insert_with(|| Source { random: seed(), last_ms: 0 });
            if now_ms > source.last_ms {
                source.last_ms = now_ms;
                source.random = seed_next(source.random);
            } else {
                source.random = source.random.wrapping_add(1);
            }
            Id::encode((u128::from(source.last_ms & 0xffff_ffff_ffff) << 80) | (source.random & ((1 << 80) - 1)))
        })
    }

    /// The id's text form.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("00000000000000000000000000")
    }

    /// Its 128 bits: what is compact to keep. Ids stand in the order of these.
    pub fn bits(&self) -> u128 {
        self.0.iter().fold(0, |bits, byte| (bits << 5) | u128::from(VALUES[usize::from(*byte)]))
    }

    /// The id of these bits.
    pub fn of_bits(bits: u128) -> Id {
        Id::encode(bits)
    }

    fn encode(bits: u128) -> Id {
        let mut text = [0u8; 26];
        for (i, out) in text.iter_mut().enumerate() {
            let shift = 125 - 5 * i;
            *out = ALPHABET[(bits >> shift) as usize & 31];
        }
        Id(text)
    }
}

fn seed() -> u128 {
    let mut bytes = [0u8; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    debug_assert!(matches!(filled, Ok(16)), "16 bytes are always given at once");
    u128::from_ne_bytes(bytes)
}

/// Next value of a 128-bit LCG over the random seed: distinct ids need no
/// system call each.
fn seed_next(x: u128) -> u128 {
    let y = x.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645).wrapping_add(0x5851_F42D_4C95_7F2D_1405_7B7E_F767_814F);
    y ^ (y >> 64)
}

impl Default for Id {
    fn default() -> Id {
        Id::new()
    }
}

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Id, NotAnId> {
        let bytes: [u8; 26] = text.as_bytes().try_into().map_err(|_| NotAnId)?;
        let valid = bytes.iter().all(|b| LEGAL[usize::from(*b)]) && bytes[0] <= b'7';
        if valid { Ok(Id(bytes)) } else { Err(NotAnId) }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_of_the_original() {
        // Spec http-api §1.5: 2023-11-14T22:13:20.123Z, 10.1.2.3, port 8080, counter 1.
        let bits = (1_700_000_000_123u128 << 80) | (0x0a01_0203u128 << 48) | (8080u128 << 32) | 1;
        assert_eq!(Id::encode(bits).as_str(), "01HF7YAT3V180G40RZJ0000001");
    }

    #[test]
    fn increasing_and_parsed_back() {
        let mut last = Id::new();
        for _ in 0..10_000 {
            let next = Id::new();
            assert!(next > last);
            assert_eq!(next.as_str().parse(), Ok(next));
            assert!(Id::of_bits(next.bits()) == next && next.bits() > last.bits());
            last = next;
        }
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in [
            "",
            "x",
            "01HF7YAT3V180G40RZJ000000",
            "01HF7YAT3V180G40RZJ00000011",
            "01hf7yat3v180g40rzj0000001",
            "ZZHF7YAT3V180G40RZJ0000001",
            "01HF7YAT3V180G40RZJ000000é",
        ] {
            assert_eq!(text.parse::<Id>(), Err(NotAnId), "{text}");
        }
    }
}

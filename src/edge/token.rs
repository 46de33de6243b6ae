//! The management API's bearer token.

use crate::http1::Field;

/// Whether a request with these fields may manage: it bears the token, or
/// none is configured.
pub(super) fn allows(token: Option<&str>, fields: &[Field<'_>]) -> bool {
    let Some(token) = token else { return true };
    let mut given = fields.iter().filter(|f| f.name.eq_ignore_ascii_case("authorization"));
    match (given.next(), given.next()) {
        (Some(field), None) => bearer(field.value).is_some_and(|given| same(given, token.as_bytes())),
        _ => false,
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Compares in a time that does not tell how much of it is right.
fn same(given: &[u8], token: &[u8]) -> bool {
    let mut differ = u8::from(given.len() != token.len());
    for (i, byte) in given.iter().enumerate() {
        differ |= byte ^ token.get(i).copied().unwrap_or(0);
        differ = std::hint::black_box(differ);
    }
    differ == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_passes() {
        let with = |value: &str| allows(Some("s3cret"), &[Field { name: "authorization", value: value.as_bytes() }]);
        assert!(with("Bearer s3cret") && with("bearer  s3cret"));
        for value in ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret1", "Bearer S3cret", "Basic s3cret", "s3cret", "Bearer s3cret\0"] {
            assert!(!with(value), "{value}");
        }
        assert!(!allows(Some("s3cret"), &[]));
        let twice = Field { name: "Authorization", value: b"Bearer s3cret" };
        assert!(!allows(Some("s3cret"), &[twice, twice]));
        assert!(allows(None, &[]));
    }
}

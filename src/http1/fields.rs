//! Header fields: what a name and a value may be, finding, hop-by-hop.

/// One header field as it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'b> {
    /// A token (RFC 9110 §5.6.2), in the sender's capitals.
    pub name: &'b str,
    /// Without the white space around it; may hold bytes above 0x7f.
    pub value: &'b [u8],
}

/// The first field of that name (letters' case ignored).
pub fn find<'f, 'b>(fields: &'f [Field<'b>], name: &str) -> Option<&'f Field<'b>> {
    fields.iter().find(|f| f.name.eq_ignore_ascii_case(name))
}

/// How many fields have that name (letters' case ignored).
pub fn count(fields: &[Field<'_>], name: &str) -> usize {
    fields.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).count()
}

/// Whether `bytes` is a token: a field name, a method.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token_byte(b))
}

/// Whether `byte` may stand in a token.
pub fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Looked up, not compared: names are checked byte by byte on every call.
const TOKEN: [bool; 256] = {
    let mut token = [false; 256];
    let mut b = 0u8;
    loop {
        token[b as usize] =
            b.is_ascii_alphanumeric() || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        if b == u8::MAX {
            break;
        }
        b += 1;
    }
    token
};

/// Whether `bytes` may be sent as a field's value: no control byte but tab.
pub fn is_value(bytes: &[u8]) -> bool {
    // To the end in any case: without a way out the compiler takes many at once.
    bytes.iter().fold(true, |clean, &b| clean & is_value_byte(b))
}

/// Whether `byte` may stand in a field's value.
pub fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Fields that concern one connection only and are never passed on. Those a
/// message names in its `Connection` fields are hop-by-hop too: see
/// [`connection_options`].
pub fn is_hop_by_hop(name: &str) -> bool {
    // By length first: most names of a message match none and cost one jump.
    let candidates: &[&str] = match name.len() {
        2 => &["Te"],
        7 => &["Trailer", "Upgrade"],
        10 => &["Connection", "Keep-Alive"],
        16 => &["Proxy-Connection"],
        17 => &["Transfer-Encoding"],
        18 => &["Proxy-Authenticate"],
        19 => &["Proxy-Authorization"],
        _ => return false,
    };
    candidates.iter().any(|c| c.eq_ignore_ascii_case(name))
}

/// The options of all `Connection` fields: `close`, `keep-alive`, names of
/// fields that end here.
pub fn connection_options<'f>(fields: &'f [Field<'_>]) -> impl Iterator<Item = &'f [u8]> {
    fields
        .iter()
        .filter(|f| f.name.eq_ignore_ascii_case("connection"))
        .flat_map(|f| f.value.split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|o| !o.is_empty())
}

//! Just enough JSON for a function that wants one text out of its input.

/// The text of the member `name` of the outermost JSON object, unescaped; None
/// where the input is no object, has no such member, or it is no string.
pub fn string_member(json: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(json).ok()?;
    let mut scan = Scan { rest: text.trim_start().strip_prefix('{')? };
    loop {
        scan.blank();
        let key = scan.string()?;
        scan.blank();
        scan.rest = scan.rest.strip_prefix(':')?;
        scan.blank();
        if key == name {
            return scan.string();
        }
        scan.skip_value()?;
        scan.blank();
        scan.rest = scan.rest.strip_prefix(',')?;
    }
}

/// Appends `text` to `out` as a JSON string with its quotes.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

struct Scan<'a> {
    rest: &'a str,
}

impl Scan<'_> {
    fn blank(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn string(&mut self) -> Option<String> {
        let mut chars = self.rest.strip_prefix('"')?.chars();
        let mut out = String::new();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    'b' => out.push('\u{8}'),
                    'f' => out.push('\u{c}'),
                    'u' => out.push(unescape(&mut chars)?),
                    c @ ('"' | '\\' | '/') => out.push(c),
                    _ => return None,
                },
                c if (c as u32) < 0x20 => return None,
                c => out.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(out)
    }

    /// Steps over any value without checking it closely.
    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            self.blank();
            match self.rest.chars().next()? {
                '"' => drop(self.string()?),
                '{' | '[' => {
                    depth += 1;
                    self.rest = &self.rest[1..];
                }
                '}' | ']' => {
                    depth = depth.checked_sub(1)?;
                    self.rest = &self.rest[1..];
                }
                ',' | ':' if depth > 0 => self.rest = &self.rest[1..],
                _ => {
                    let end = self.rest.find([',', '}', ']', ':', '"', '{', '[']).filter(|&n| n > 0)?;
                    self.rest = &self.rest[end..];
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

fn unescape(chars: &mut std::str::Chars<'_>) -> Option<char> {
    let mut unit = || -> Option<u32> { (0..4).try_fold(0, |n, _| Some(n * 16 + chars.next()?.to_digit(16)?)) };
    let high = unit()?;
    if !(0xd800..0xdc00).contains(&high) {
        return char::from_u32(high);
    }
    if (chars.next()?, chars.next()?) != ('\\', 'u') {
        return None;
    }
    let mut unit = || -> Option<u32> { (0..4).try_fold(0, |n, _| Some(n * 16 + chars.next()?.to_digit(16)?)) };
    let low = unit()?;
    char::from_u32(0x10000 + ((high - 0xd800) << 10) + low.checked_sub(0xdc00)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members() {
        let get = |json: &str| string_member(json.as_bytes(), "name");
        assert_eq!(get(r#"{"name":"you"}"#).as_deref(), Some("you"));
        assert_eq!(get(r#" { "a" : [1,{"name":"no"},"]"], "b":null, "name" : "\u00e9\ud83d\ude00\"\n" } "#).as_deref(), Some("é😀\"\n"));
        for none in ["", "{}", "[]", r#"{"name":1}"#, r#"{"name":"x"#, r#"{"a":{"name":"x"}}"#, r#"{"name"}"#, "\"name\"", r#"{"name":"\ud800"}"#] {
            assert_eq!(get(none), None, "{none}");
        }
        let mut out = String::new();
        push_string(&mut out, "a\"\\\u{1}é");
        assert_eq!(out, "\"a\\\"\\\\\\u0001é\"");
    }
}

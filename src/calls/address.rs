//! What the URL of a callback says: whether it can be one, its host in one
//! spelling, the address it may be, and which are the public network's. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::http::Uri;

/// The address's characters at most.
const MAX_URL: usize = 2048;

/// Why an address cannot be called back.
pub fn check_url(url: &str) -> Result<(), &'static str> {
    if url.len() > MAX_URL {
        return Err("Bad request: Hob-Callback must have at most 2048 characters");
    }
    let uri: Uri = url.parse().map_err(|_| "Bad request: Hob-Callback must be a URL")?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.host().is_some_and(|host| !host.is_empty());
    let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if !(known && host && plain) {
        return Err("Bad request: Hob-Callback must be an http or https URL with a host and without a user");
    }
    let (host, authority) = (uri.host().unwrap_or_default(), uri.authority().map_or("", |authority| authority.as_str()));
    if host.starts_with('[') && literal(host).is_none() {
        return Err("Bad request: Hob-Callback must have an IPv6 address in its brackets, without a zone");
    }
    // One that is no number would stand for the scheme's own.
    match authority[host.len()..].strip_prefix(':') {
        None | Some("") => Ok(()),
        Some(port) if !port.starts_with('+') && port.parse().is_ok_and(|port: u16| port > 0) => Ok(()),
        Some(_) => Err("Bad request: Hob-Callback must have a port of 1 to 65535, or none"),
    }
}

/// The address that a URL has in the place of a host's name and that is not a
/// public one. Where names lead is seen when they are looked up.
pub(super) fn private_address(url: &str) -> Option<IpAddr> {
    url.parse::<Uri>().ok()?.host().and_then(literal).filter(|address| !is_public(*address))
}

/// What is counted by: a receiver has no more of it for its many ports, or for other
/// spellings of its name.
pub(super) fn host(url: &str) -> String {
    url.parse::<Uri>().ok().and_then(|uri| uri.host().map(spelled)).unwrap_or_default()
}

/// Host and port as they were given.
pub(super) fn place(url: &str) -> String {
    url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string)).unwrap_or_default()
}

/// The one spelling of a host, for counting by it. Names are not looked up: two of
/// them are two hosts, wherever they lead.
fn spelled(host: &str) -> String {
    match literal(host) {
        Some(address) => address.to_canonical().to_string(),
        None => without_dot(host).to_ascii_lowercase(),
    }
}

/// The address that a host is by itself, without a look-up: also in the spellings
/// of IPv4 that a resolver takes for one (`127.1`, `0x7f000001`, `017700000001`).
fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => numbers(without_dot(host)).map(IpAddr::V4),
    }
}

fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// `inet_aton`: up to four numbers, the last one takes all bytes that are left.
fn numbers(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| {
        let (digits, base) = match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None if part.len() > 1 && part.starts_with('0') => (part, 8),
            None => (part, 10),
        };
        // A sign would be parsed too.
        if digits.starts_with('+') { None } else { u64::from_str_radix(digits, base).ok() }
    };
    let parts: Vec<u64> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    let left = 4_usize.checked_sub(first.len()).filter(|left| *left > 0)?;
    if first.iter().any(|part| *part > 255) || *last >= 1 << (8 * left) {
        return None;
    }
    let high = first.iter().fold(0, |all, part| all << 8 | part);
    u32::try_from(high << (8 * left) | last).ok().map(Ipv4Addr::from)
}

/// Whether an address may belong to anybody out there: not this host, not a
/// private network, not a cloud's metadata service, not special otherwise.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => public_v4(address),
        IpAddr::V6(address) => public_v6(address),
    }
}

fn public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        // Carriers' own, protocol assignments, benchmarks.
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18);
    !special
}

fn public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match parts {
        // Mapped and compatible IPv4, and ::1, ::.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => public_v4(embedded(high, low)),
        // NAT64 and 6to4 lead to IPv4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => public_v4(embedded(high, low)),
        [0x64, 0xff9b, ..] | [0x2001, 0xdb8, ..] | [0x2001, 0, ..] | [0x100, 0, 0, 0, ..] => false,
        // Only the global unicast range: unique local, link-local, multicast are out.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_can_be_called_back() {
        for good in ["http://a.example/x?y", "https://a.example:8443", "http://127.0.0.1:1/", "http://a.example:/", "http://[::1]:65535", "http://[::1]"] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in ["", "/x", "ftp://a/", "http://", "http://u:p@a/", "http:///x", "unix:///x", &format!("http://a/{}", "x".repeat(MAX_URL))] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        for bad in
            ["http://a:0/", "http://a:65536/", "http://a:x/", "http://a:+1/", "http://[::1]:99999/", "http://[fe80::1%25eth0]/", "http://[x]/", "http://[]/"]
        {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_has_one_spelling() {
        for (text, one) in [
            ("A.Example", "a.example"),
            ("a.example.", "a.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.1", "10.0.0.1"),
            ("10.0.1.", "10.0.0.1"),
            ("0xA.1", "10.0.0.1"),
            ("012.0x0.0.01", "10.0.0.1"),
            ("167772161", "10.0.0.1"),
            ("[::FFFF:10.0.0.1]", "10.0.0.1"),
            ("[0:0:0:0:0:0:0:1]", "::1"),
            ("[2606:4700:0::1]", "2606:4700::1"),
        ] {
            assert_eq!(spelled(text), one, "{text}");
        }
        for name in [
            "a.1",
            "1.2.3.4.5",
            "1.2.3.256",
            "256.1.1.1",
            "10.16777216",
            "4294967296",
            "08.1.1.1",
            "0x",
            "1..2",
            "+1",
            "0x+1",
            "",
            ".",
            "-1",
            "[::1",
            "[1.2.3.4]",
        ] {
            assert_eq!(literal(name), None, "{name}");
        }
    }

    #[test]
    fn special_addresses_are_not_public() {
        let inside = [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.2.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "100::1",
        ];
        for text in inside {
            assert!(!is_public(text.parse().expect("an address")), "{text}");
        }
        for text in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"] {
            assert!(is_public(text.parse().expect("an address")), "{text}");
        }
    }
}

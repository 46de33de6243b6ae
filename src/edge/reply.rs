//! Writing one answer: head into a reused buffer, head and body in one system
//! call.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::sock::Sock;
use crate::call::ClientGone;
use crate::http1::{chunk_head, reason};
use crate::model::Id;
use crate::pool::Stop;
use crate::respond::Answer;

/// The client's view of the connection, and what an answer may do with it.
pub(super) struct Reply<'a> {
    pub(super) sock: &'a Sock,
    pub(super) stop: &'a Stop,
    /// Reused for heads.
    pub(super) out: &'a mut Vec<u8>,
    pub(super) date: &'a mut DateCache,
    /// A client that takes no byte for this long is cut.
    pub(super) patience: Duration,
    pub(super) minor: u8,
    /// The answer to a HEAD has no body.
    pub(super) head_only: bool,
    /// Whether the connection lives on afterwards; answers may clear it.
    pub(super) keep: bool,
    /// The page's origin, when it is allowed to read the answer.
    pub(super) origin: Option<String>,
}

/// How the body of a started answer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outgoing {
    /// No body belongs to it; what is given is dropped.
    Nothing,
    Length(u64),
    Chunks,
    UntilClose,
}

/// A long answer under way. Ends by [`Long::end`]; anything else is a break.
pub(super) struct Long {
    body: Outgoing,
    /// The head is still in `out`, to leave with the first data.
    head_waits: bool,
}

impl Reply<'_> {
    /// Starts a head: status line, then fields by [`Reply::field`].
    pub(super) fn status(&mut self, status: u16) {
        self.sock.begin_answer();
        self.out.clear();
        if status == 200 {
            self.out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
            return;
        }
        self.out.extend_from_slice(b"HTTP/1.1 ");
        self.number(u64::from(status));
        self.out.push(b' ');
        self.out.extend_from_slice(reason(status).as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }

    pub(super) fn call_id(&mut self, id: &Id) {
        self.field("Fn-Call-Id", id.as_str().as_bytes());
    }

    /// The fields we add to every answer, but for those it has already.
    pub(super) fn own_fields(&mut self, has_date: bool, has_server: bool) {
        if !has_date {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            self.out.extend_from_slice(b"Date: ");
            self.out.extend_from_slice(self.date.text(now));
            self.out.extend_from_slice(b"\r\n");
        }
        if let Some(origin) = &self.origin {
            self.out.extend_from_slice(b"Access-Control-Allow-Origin: ");
            self.out.extend_from_slice(origin.as_bytes());
            self.out.extend_from_slice(b"\r\nVary: Origin\r\n");
        }
        if !has_server {
            self.out.extend_from_slice(concat!("Server: hob/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes());
        }
    }

    /// Ends the head and sends it with its whole body.
    pub(super) fn finish(&mut self, status: u16, body: &[u8]) -> Result<(), ClientGone> {
        let body = self.end_head(status, body);
        self.sock.send_all([self.out, body, &[]], self.stop, self.patience)
    }

    /// The same without waiting for the client: what it does not take now comes
    /// back, for [`Reply::rest`].
    pub(super) fn finish_at_once(&mut self, status: u16, body: &[u8]) -> Result<Vec<u8>, ClientGone> {
        let body = self.end_head(status, body);
        let sent = self.sock.send_some([self.out, body, &[]])?;
        let of_head = sent.min(self.out.len());
        let (head, body) = (&self.out[of_head..], &body[sent - of_head..]);
        Ok([head, body].concat())
    }

    /// What `finish_at_once` has left.
    pub(super) fn rest(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        self.sock.send_all([bytes, &[], &[]], self.stop, self.patience)
    }

    /// Ends the head; the body that goes with it.
    fn end_head<'b>(&mut self, status: u16, body: &'b [u8]) -> &'b [u8] {
        let body_allowed = may_have_body(status);
        if body_allowed {
            self.length(body.len() as u64);
        }
        self.connection();
        if self.head_only || !body_allowed { &[] } else { body }
    }

    /// Ends the head of a long answer. It leaves with the first data.
    pub(super) fn start(&mut self, status: u16, len: Option<u64>) -> Long {
        let body = match len {
            _ if !may_have_body(status) => Outgoing::Nothing,
            Some(len) => {
                self.length(len);
                if self.head_only { Outgoing::Nothing } else { Outgoing::Length(len) }
            }
            None if self.head_only => Outgoing::Nothing,
            None if self.minor == 0 => {
                self.keep = false;
                Outgoing::UntilClose
            }
            None => {
                self.out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
                Outgoing::Chunks
            }
        };
        self.connection();
        Long { body, head_waits: true }
    }

    /// Sends the head of a long answer now.
    pub(super) fn flush(&mut self, long: &mut Long) -> Result<(), ClientGone> {
        if !std::mem::take(&mut long.head_waits) {
            return Ok(());
        }
        self.sock.send_all([self.out, &[], &[]], self.stop, self.patience)
    }

    /// More of a long answer. `Err` also when it gives more than it announced.
    pub(super) fn data(&mut self, long: &mut Long, bytes: &[u8]) -> Result<(), ClientGone> {
        if bytes.is_empty() {
            return Ok(());
        }
        if !long.head_waits {
            self.out.clear();
        }
        long.head_waits = false;
        let (bytes, after): (&[u8], &[u8]) = match &mut long.body {
            Outgoing::Nothing => (&[], b""),
            Outgoing::UntilClose => (bytes, b""),
            Outgoing::Length(left) => {
                let len = bytes.len() as u64;
                *left = left.checked_sub(len).ok_or(ClientGone)?;
                (bytes, b"")
            }
            Outgoing::Chunks => {
                chunk_head(bytes.len(), self.out);
                (bytes, b"\r\n")
            }
        };
        self.sock.send_all([self.out, bytes, after], self.stop, self.patience)
    }

    /// Ends a long answer. `Err` also when it gave less than it announced.
    pub(super) fn end(&mut self, long: Long) -> Result<(), ClientGone> {
        if !long.head_waits {
            self.out.clear();
        }
        match long.body {
            Outgoing::Length(1..) => return Err(ClientGone),
            Outgoing::Chunks => self.out.extend_from_slice(b"0\r\n\r\n"),
            Outgoing::Nothing | Outgoing::UntilClose | Outgoing::Length(0) => {}
        }
        self.sock.send_all([self.out, &[], &[]], self.stop, self.patience)
    }

    /// A whole answer with a JSON message.
    pub(super) fn message(&mut self, answer: &Answer, call_id: Option<&Id>) -> Result<(), ClientGone> {
        self.message_of_call(answer, call_id, None)
    }

    /// The same with a call's account of its time.
    pub(super) fn message_of_call(&mut self, answer: &Answer, call_id: Option<&Id>, timing: Option<&str>) -> Result<(), ClientGone> {
        let body = answer.json();
        self.status(answer.status);
        self.field("Content-Type", b"application/json; charset=utf-8");
        if let Some(id) = call_id {
            self.call_id(id);
        }
        if let Some(timing) = timing {
            self.field("Server-Timing", timing.as_bytes());
        }
        if let Some(seconds) = answer.retry_after_s {
            self.out.extend_from_slice(b"Retry-After: ");
            self.number(u64::from(seconds));
            self.out.extend_from_slice(b"\r\n");
        }
        if answer.status == 401 {
            self.field("WWW-Authenticate", b"Bearer realm=\"hob\"");
        }
        self.own_fields(false, false);
        self.finish(answer.status, body.as_bytes())
    }

    /// An answer that broke half way: the client must see that it did.
    pub(super) fn cut(&mut self) {
        self.sock.make_close_abrupt();
        self.keep = false;
    }

    fn length(&mut self, len: u64) {
        self.out.extend_from_slice(b"Content-Length: ");
        self.number(len);
        self.out.extend_from_slice(b"\r\n");
    }

    fn connection(&mut self) {
        if !self.keep {
            self.out.extend_from_slice(b"Connection: close\r\n\r\n");
        } else if self.minor == 0 {
            self.out.extend_from_slice(b"Connection: keep-alive\r\n\r\n");
        } else {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn number(&mut self, number: u64) {
        push_number(self.out, number);
    }
}

/// 1xx, 204 and 304 have no body and announce none.
fn may_have_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

/// Appends a number in decimal.
pub(super) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The `Date` of the current second, formatted once.
#[derive(Debug, Default)]
pub(super) struct DateCache {
    second: u64,
    text: Vec<u8>,
}

impl DateCache {
    /// IMF-fixdate (RFC 9110 §5.6.7) of a Unix time.
    fn text(&mut self, unix: u64) -> &[u8] {
        if self.second != unix || self.text.is_empty() {
            self.second = unix;
            self.text.clear();
            format_date(unix, &mut self.text);
        }
        &self.text
    }
}

fn format_date(unix: u64, out: &mut Vec<u8>) {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Civil date from days (H. Hinnant): years that begin in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let two = |out: &mut Vec<u8>, n: u64| out.extend_from_slice(&[b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8]);
    out.extend_from_slice(DAYS[(days % 7) as usize].as_bytes());
    out.extend_from_slice(b", ");
    two(out, day);
    out.push(b' ');
    out.extend_from_slice(MONTHS[((month - 1) % 12) as usize].as_bytes());
    out.push(b' ');
    two(out, year / 100);
    two(out, year % 100);
    for (separator, n) in [(b' ', seconds / 3600), (b':', seconds / 60 % 60), (b':', seconds % 60)] {
        out.push(separator);
        two(out, n);
    }
    out.extend_from_slice(b" GMT");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let cases = [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_795_487_926, "Tue, 24 Nov 2026 02:38:46 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ];
        let mut cache = DateCache::default();
        for (unix, text) in cases {
            assert_eq!(std::str::from_utf8(cache.text(unix)).expect("ASCII"), text);
        }
    }

    #[test]
    fn numbers() {
        for n in [0, 7, 10, 200, 65_536, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, n);
            assert_eq!(out, n.to_string().as_bytes());
        }
    }
}

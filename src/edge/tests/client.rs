//! A client that sends exactly the bytes it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::http1::{BodyFraming, ChunkedDecoder, parse_response, response_framing};

pub(in crate::edge) struct Client {
    pub(in crate::edge) stream: TcpStream,
    buf: Vec<u8>,
    pub(in crate::edge) was_head: bool,
}

#[derive(Debug)]
pub(in crate::edge) struct Answer {
    pub(in crate::edge) status: u16,
    pub(in crate::edge) minor: u8,
    pub(in crate::edge) fields: Vec<(String, String)>,
    pub(in crate::edge) body: Vec<u8>,
    pub(in crate::edge) framing: BodyFraming,
}

impl Answer {
    pub(in crate::edge) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(in crate::edge) fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count()
    }

    pub(in crate::edge) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// The `message` of an error.
    pub(in crate::edge) fn message(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/json; charset=utf-8"), "{self:?}");
        assert!(self.body.ends_with(b"\n"));
        let value: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        value["message"].as_str().expect("a message").to_owned()
    }
}

impl Client {
    pub(in crate::edge) fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).expect("connects"))
    }

    pub(in crate::edge) fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("time-out");
        Client { stream, buf: Vec::new(), was_head: false }
    }

    pub(in crate::edge) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("sends");
    }

    /// Sends what the peer takes; it may close before all is sent.
    pub(in crate::edge) fn send_maybe(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub(in crate::edge) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("half-closes");
    }

    fn more(&mut self) -> std::io::Result<usize> {
        let mut piece = [0; 64 * 1024];
        let n = self.stream.read(&mut piece)?;
        self.buf.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// The next answer, interim ones included.
    #[track_caller]
    pub(in crate::edge) fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    /// The next answer, or what is wrong with it.
    pub(in crate::edge) fn try_answer(&mut self) -> Result<Answer, String> {
        let (mut answer, len) = loop {
            if let Some(head) = parse_response(&self.buf, 1 << 20).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&self.buf)))? {
                let framing = response_framing(&head, self.was_head).map_err(|e| e.to_string())?;
                let fields = head.fields.iter().map(|f| (f.name.to_owned(), String::from_utf8_lossy(f.value).into_owned())).collect();
                break (Answer { status: head.status, minor: head.minor, fields, body: Vec::new(), framing }, head.len);
            }
            match self.more() {
                Ok(0) => return Err(format!("closed within a head: {:?}", String::from_utf8_lossy(&self.buf))),
                Ok(_) => {}
                Err(e) => return Err(format!("{e} within a head: {:?}", String::from_utf8_lossy(&self.buf))),
            }
        };
        self.buf.drain(..len);
        let mut decoder = ChunkedDecoder::new();
        loop {
            match answer.framing {
                BodyFraming::None => return Ok(answer),
                BodyFraming::Length(len) => {
                    let len = usize::try_from(len).expect("small");
                    if self.buf.len() >= len {
                        answer.body = self.buf.drain(..len).collect();
                        return Ok(answer);
                    }
                }
                BodyFraming::Chunked => {
                    let step = decoder.decode(&self.buf).map_err(|e| e.to_string())?;
                    answer.body.extend_from_slice(step.data);
                    let (consumed, done) = (step.consumed, step.done);
                    self.buf.drain(..consumed);
                    if done {
                        return Ok(answer);
                    }
                    if consumed > 0 {
                        continue;
                    }
                }
                BodyFraming::UntilClose => {}
            }
            match self.more() {
                Ok(0) if answer.framing == BodyFraming::UntilClose => {
                    answer.body = std::mem::take(&mut self.buf);
                    return Ok(answer);
                }
                Ok(0) => return Err("closed within a body".to_owned()),
                Ok(_) => {}
                Err(e) => return Err(format!("{e} within a body")),
            }
        }
    }

    /// Asserts that the server closes and has sent nothing more.
    #[track_caller]
    pub(in crate::edge) fn assert_closed(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.buf), "", "nothing more is sent");
        match self.more() {
            Ok(0) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("not closed: {other:?} {:?}", String::from_utf8_lossy(&self.buf)),
        }
    }

    /// Asserts that nothing arrives within a moment, and the connection lives.
    #[track_caller]
    pub(in crate::edge) fn assert_silent(&mut self, within: Duration) {
        assert_eq!(String::from_utf8_lossy(&self.buf), "", "nothing is sent");
        self.stream.set_read_timeout(Some(within)).expect("time-out");
        match self.more() {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            other => panic!("not silent: {other:?} {:?}", String::from_utf8_lossy(&self.buf)),
        }
        self.stream.set_read_timeout(Some(Duration::from_secs(120))).expect("time-out");
    }
}

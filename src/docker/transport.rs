//! How requests travel: our own client to a Unix socket, ureq to a host.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{Ask, EngineError, Fault, Op, error_text};
use crate::pool::Stop;
use crate::uds::client::{Client, ClientError, Interrupter, Phase, Request, RequestBody, send_over};

/// Connections kept open to the engine.
const KEPT: usize = 8;
/// Connecting to a local socket is immediate or not at all; to a host it is not.
const CONNECT: Duration = Duration::from_secs(5);
/// Largest answer read whole (an image or container list).
const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// Longest line of a stream (an event, a pull's progress).
const MAX_LINE: u64 = 256 * 1024;

#[derive(Debug)]
pub(super) enum Transport {
    /// `pulls` carries what may take minutes and can be called off.
    Unix { client: Client, pulls: Client },
    Tcp {
        base: String,
        /// Host and port.
        authority: String,
        agent: Box<ureq::Agent>,
    },
}

impl Transport {
    /// The way to `host` (`unix:///path`, `tcp://host:port`); `None` for
    /// others. `call_off` ends pulls.
    pub(super) fn to(host: &str, call_off: &Arc<Stop>) -> Option<Transport> {
        match host.split_once("://")? {
            ("unix", path) if path.starts_with('/') => {
                Some(Transport::Unix { client: Client::new(path, KEPT), pulls: Client::new(path, 0).stopped_by(call_off.clone()) })
            }
            ("tcp" | "http", rest) if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic() && b != b'@') => {
                let authority = rest.trim_end_matches('/').to_owned();
                Some(Transport::Tcp { base: format!("http://{authority}"), authority, agent: Box::new(tcp_agent()) })
            }
            _ => None,
        }
    }

    /// Sends; `target` is the whole path. Any status is a success here. `cut`
    /// ends the wait for the answer, but not over TCP.
    pub(super) fn send(
        &self,
        ask: &Ask<'_>,
        target: &str,
        within: Duration,
        idle_within: Option<Duration>,
        cut: Option<&Arc<Stop>>,
        body: &mut dyn Read,
    ) -> Result<Stream, EngineError> {
        match self {
            // Silence between events is no fault; everything else has a bound.
            Transport::Unix { client, pulls } => unix(
                if ask.op == Op::Pull { pulls } else { client },
                ask,
                target,
                within,
                Some(idle_within.unwrap_or(within)).filter(|_| ask.op != Op::Events),
                cut,
                body,
            ),
            Transport::Tcp { base, agent, .. } => tcp(agent, ask, &format!("{base}{target}"), within, body),
        }
    }

    /// Sends a request that turns its connection into a plain stream.
    pub(super) fn hijack(&self, ask: &Ask<'_>, target: &str, within: Duration, cut: Option<&Arc<Stop>>) -> Result<(OwnedFd, Vec<u8>), EngineError> {
        let failed = |e| client_error(ask.op, ask.subject, e);
        let fields = [("Connection", "Upgrade"), ("Upgrade", "tcp")];
        let mut request = Request {
            method: ask.method,
            target,
            fields: &fields,
            body: RequestBody::Empty,
            connect_within: CONNECT.min(within),
            head_within: within,
            idle_within: Some(within),
        };
        let response = match self {
            Transport::Unix { client, .. } => client.send_alone(&mut request, cut),
            Transport::Tcp { authority, .. } => send_over(dial_tcp(authority, CONNECT.min(within)).map_err(|e| away(ask, &e))?, &mut request),
        }
        .map_err(failed)?;
        let status = response.status;
        // Podman answers 200 where the engine switches protocols.
        if status == 101 || status == 200 {
            let no_stream = || EngineError::new(ask.op, ask.subject, Fault::Malformed { what: "it is no stream".to_owned() });
            return response.into_stream().ok_or_else(no_stream);
        }
        let text = response.bytes(64 * 1024).unwrap_or_default();
        Err(EngineError::new(ask.op, ask.subject, Fault::Status { code: status, message: error_text(&text) }))
    }

    /// Whether an open stream can be ended at once from another thread.
    pub(super) fn can_interrupt(&self) -> bool {
        matches!(self, Transport::Unix { .. })
    }
}

fn unix(
    client: &Client,
    ask: &Ask<'_>,
    target: &str,
    within: Duration,
    idle_within: Option<Duration>,
    cut: Option<&Arc<Stop>>,
    body: &mut dyn Read,
) -> Result<Stream, EngineError> {
    let mut fields: Vec<(&str, &str)> = ask.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let body = match &ask.json {
        Some(json) => {
            fields.push(("Content-Type", "application/json"));
            RequestBody::Bytes(json)
        }
        None if ask.op.sends_archive() => {
            fields.push(("Content-Type", "application/x-tar"));
            RequestBody::Reader { reader: body, len: None }
        }
        None => RequestBody::Empty,
    };
    let mut request = Request { method: ask.method, target, fields: &fields, body, connect_within: CONNECT.min(within), head_within: within, idle_within };
    let response = client.send_unless(&mut request, cut).map_err(|e| client_error(ask.op, ask.subject, e))?;
    let interrupter = (ask.op == Op::Events).then(|| response.interrupter());
    Ok(Stream {
        op: ask.op,
        subject: ask.subject.to_owned(),
        status: response.status,
        silence: idle_within.unwrap_or(within),
        interrupter,
        reader: BufReader::new(Box::new(response.reader())),
    })
}

/// The first of a host's addresses that answers; without a port it is HTTP's.
fn dial_tcp(authority: &str, within: Duration) -> io::Result<OwnedFd> {
    let with_port =
        if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) { authority.to_owned() } else { format!("{authority}:80") };
    let mut failure = io::Error::other(format!("{authority} has no address"));
    for address in with_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, within) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                return Ok(stream.into());
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn away(ask: &Ask<'_>, error: &io::Error) -> EngineError {
    EngineError::new(ask.op, ask.subject, Fault::Away { text: error.to_string() })
}

fn tcp_agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT))
        .timeout_resolve(Some(CONNECT))
        .max_idle_connections(KEPT)
        .max_idle_connections_per_host(KEPT)
        .build()
        .new_agent()
}

fn run_bounded(
    agent: &ureq::Agent,
    request: ureq::http::Request<impl ureq::AsSendBody>,
    within: Duration,
) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    agent.run(agent.configure_request(request).timeout_recv_response(Some(within)).timeout_recv_body(Some(within)).build())
}

fn tcp(agent: &ureq::Agent, ask: &Ask<'_>, url: &str, within: Duration, body: &mut dyn Read) -> Result<Stream, EngineError> {
    let mut builder = ureq::http::Request::builder().method(ask.method).uri(url);
    for (name, value) in &ask.fields {
        builder = builder.header(*name, value);
    }
    let malformed = |e: ureq::http::Error| EngineError::new(ask.op, ask.subject, Fault::Malformed { what: e.to_string() });
    let result = if ask.op.sends_archive() {
        let request = builder.header("Content-Type", "application/x-tar").body(ureq::SendBody::from_reader(body)).map_err(malformed)?;
        run_bounded(agent, request, within)
    } else if ask.method == "POST" {
        // With a length, so that it is not sent in chunks: the engine takes an
        // empty chunked body for a body.
        let bytes = ask.json.as_deref().unwrap_or_default();
        let kind = if ask.json.is_some() { "application/json" } else { "text/plain" };
        run_bounded(agent, builder.header("Content-Type", kind).header("Content-Length", bytes.len().to_string()).body(bytes).map_err(malformed)?, within)
    } else {
        run_bounded(agent, builder.body(()).map_err(malformed)?, within)
    };
    let response = result.map_err(|e| EngineError::new(ask.op, ask.subject, ureq_fault(&e, within)))?;
    let status = response.status().as_u16();
    Ok(Stream {
        op: ask.op,
        subject: ask.subject.to_owned(),
        status,
        silence: within,
        interrupter: None,
        reader: BufReader::new(Box::new(response.into_body().into_reader())),
    })
}

/// The body of an answer.
pub(super) struct Stream {
    op: Op,
    subject: String,
    pub(super) status: u16,
    /// The bound on its silence, for the words of an error.
    silence: Duration,
    interrupter: Option<Interrupter>,
    reader: BufReader<Box<dyn Read>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({} {})", self.op.name(), self.subject)
    }
}

impl Stream {
    /// For another thread to end the reading.
    pub(super) fn interrupter(&self) -> Option<Interrupter> {
        self.interrupter.clone()
    }

    /// The whole rest, bounded.
    pub(super) fn bytes(mut self) -> Result<Vec<u8>, EngineError> {
        let mut out = Vec::new();
        self.reader.by_ref().take(MAX_ANSWER + 1).read_to_end(&mut out).map_err(|e| self.failed(&e))?;
        if out.len() as u64 > MAX_ANSWER {
            return Err(EngineError::new(self.op, &self.subject, Fault::Malformed { what: format!("it is larger than {MAX_ANSWER} bytes") }));
        }
        Ok(out)
    }

    /// The next non-blank line; `None` at the end.
    pub(super) fn line(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        loop {
            let mut line = Vec::new();
            let n = self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(|e| self.failed(&e))?;
            if n as u64 == MAX_LINE {
                return Err(EngineError::new(self.op, &self.subject, Fault::Malformed { what: format!("a line is longer than {MAX_LINE} bytes") }));
            }
            if n == 0 {
                return Ok(None);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn failed(&self, e: &std::io::Error) -> EngineError {
        let fault = match e.kind() {
            std::io::ErrorKind::TimedOut => Fault::Timeout { limit: self.silence },
            _ => Fault::Broken { text: e.to_string() },
        };
        EngineError::new(self.op, &self.subject, fault)
    }
}

fn client_error(op: Op, subject: &str, error: ClientError) -> EngineError {
    let fault = match error {
        ClientError::Connect { .. } => Fault::Away { text: error.to_string() },
        ClientError::Timeout { phase: Phase::Connect, .. } => Fault::Away { text: error.to_string() },
        ClientError::Timeout { limit, .. } => Fault::Timeout { limit },
        ClientError::Closed { .. } | ClientError::RequestBody { .. } | ClientError::Interrupted { .. } | ClientError::Io { .. } => {
            Fault::Broken { text: error.to_string() }
        }
        ClientError::Malformed { .. } | ClientError::Head { .. } | ClientError::Chunks { .. } | ClientError::TooLarge { .. } => {
            Fault::Malformed { what: error.to_string() }
        }
    };
    EngineError::new(op, subject, fault)
}

fn ureq_fault(error: &ureq::Error, limit: Duration) -> Fault {
    let text = error.to_string();
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            Fault::Away { text }
        }
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Fault::Away { text },
        ureq::Error::Timeout(_) => Fault::Timeout { limit },
        ureq::Error::Io(_) => Fault::Broken { text },
        _ => Fault::Malformed { what: text },
    }
}

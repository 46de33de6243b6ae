//! Workers around tiny_http: take a request, read its body to the end, answer.

use std::fmt;
use std::io::{self, Cursor, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::PollFlags;
use rustix::fs::{Mode, chmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen as start_listening, socket_with};
use tiny_http::{Header, Request, Response, Server, StatusCode};

use super::resources::{Context, Incoming, Reply, answer_to};
use super::{ApiError, ApiOptions};
use crate::metrics::{Labels, REQUESTS, SERVICE};
use crate::pool::{Stop, wait_for};

/// Largest body kept. The edge's own limit is below it unless it is set higher
/// or off; a resource this large is none.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

/// Between attempts to listen again after accept has failed.
const RENEW_PAUSE: Duration = Duration::from_millis(100);

/// What the workers share.
pub(super) struct Shared {
    context: Context,
    socket: PathBuf,
    stop: Stop,
    /// The last one accepts connections. tiny_http ends its accept loop for
    /// good on any error (out of descriptors, say); then a new server is added,
    /// and the old ones stay for the connections they have.
    servers: Mutex<Vec<Arc<Server>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("socket", &self.socket).field("stop", &self.stop).finish_non_exhaustive()
    }
}

/// A listening socket at `path` that only this user can connect to from the
/// first moment: the mode is set between bind and listen, and until listen a
/// connect is refused. A socket left by an earlier run is replaced.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(ErrorKind::AlreadyExists, "there is something that is not a socket")),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let address = SocketAddrUnix::new(path)?;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address)?;
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    start_listening(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

impl Shared {
    pub(super) fn new(listener: UnixListener, options: ApiOptions) -> Result<Shared, ApiError> {
        let ApiOptions { store, ledger, socket, public_url, images, threads: _, containers, debug_state } = options;
        let stop = Stop::new().map_err(|source| ApiError::Listen { path: socket.clone(), source })?;
        let server = Server::from_listener(listener, None).map_err(|e| ApiError::Serve { path: socket.clone(), text: e.to_string() })?;
        let public_url = public_url.map(|url| url.strip_suffix('/').map(str::to_owned).unwrap_or(url));
        Ok(Shared {
            context: Context { store, ledger, public_url, images, containers, debug_state },
            socket,
            stop,
            servers: Mutex::new(vec![Arc::new(server)]),
        })
    }

    /// A worker's life.
    pub(super) fn work(&self) {
        let Some(mut server) = self.servers.lock().last().cloned() else { return };
        while !self.stop.fired() {
            match server.recv() {
                Ok(request) => self.serve(request),
                Err(_) if self.stop.fired() => return,
                Err(e) => {
                    log::error!("the management API no longer accepts connections on {}: {e}; listening anew", self.socket.display());
                    match self.renewed(&server) {
                        Some(next) => server = next,
                        None => return,
                    }
                }
            }
        }
    }

    /// The server that took over from `failed`, made now if there is none.
    /// `None` when it is time to stop.
    fn renewed(&self, failed: &Arc<Server>) -> Option<Arc<Server>> {
        loop {
            match self.try_renew(failed) {
                Ok(next) => return next,
                Err(text) => log::error!("cannot listen on {}: {text}; trying again", self.socket.display()),
            }
            // An error of poll itself is tried again like the rest.
            let _ = wait_for(self.stop.as_fd(), PollFlags::IN, None, None, Some(Instant::now() + RENEW_PAUSE));
        }
    }

    fn try_renew(&self, failed: &Arc<Server>) -> Result<Option<Arc<Server>>, String> {
        let mut servers = self.servers.lock();
        if self.stop.fired() {
            return Ok(None);
        }
        if let Some(last) = servers.last().filter(|last| !Arc::ptr_eq(last, failed)) {
            return Ok(Some(last.clone()));
        }
        let listener = listen(&self.socket).map_err(|e| e.to_string())?;
        let server = Arc::new(Server::from_listener(listener, None).map_err(|e| e.to_string())?);
        servers.push(server.clone());
        Ok(Some(server))
    }

    /// Wakes every worker, whichever server it waits on.
    pub(super) fn call_off(&self, workers: usize) {
        self.stop.fire();
        for server in self.servers.lock().iter() {
            (0..workers).for_each(|_| server.unblock());
        }
    }

    /// Lets go of the servers, newest first: it owns the socket's path, by which
    /// its accept thread is woken.
    pub(super) fn close(&self) {
        let mut servers = std::mem::take(&mut *self.servers.lock());
        while let Some(server) = servers.pop() {
            drop(server);
        }
    }

    fn serve(&self, mut request: Request) {
        let body = read_body(&mut request);
        let begun = Instant::now();
        let incoming = Incoming {
            method: request.method().as_str().to_owned(),
            target: request.url().to_owned(),
            host: field(&request, "Host").to_owned(),
            https: field(&request, "X-Forwarded-Proto").eq_ignore_ascii_case("https"),
            body,
        };
        let reply = catch_unwind(AssertUnwindSafe(|| answer_to(&self.context, &incoming))).unwrap_or_else(|_| {
            log::error!("a handler panicked: {} {}", incoming.method, incoming.target.split('?').next().unwrap_or_default());
            Reply::internal_error()
        });
        let labels = Labels { method: reply.method, route: reply.route, status: reply.status, blame: SERVICE };
        REQUESTS.count(labels, begun.elapsed());
        if let Err(e) = request.respond(response(reply)) {
            log::debug!("an answer could not be sent: {e}");
        }
    }
}

fn field<'r>(request: &'r Request, name: &'static str) -> &'r str {
    request.headers().iter().find(|h| h.field.equiv(name)).map_or("", |h| h.value.as_str())
}

/// What is wrong with a body.
#[derive(Debug)]
pub(super) enum BodyFault {
    TooLarge { len: usize, max: usize },
    Cut,
}

/// The whole body. What is beyond the limit is read too, and dropped: an unread
/// rest would be allocated in one piece when the request is dropped.
fn read_body(request: &mut Request) -> Result<Vec<u8>, BodyFault> {
    let want = request.body_length().unwrap_or(0);
    let mut body = Vec::with_capacity(want.min(64 * 1024));
    let mut chunk = [0u8; 16 * 1024];
    let mut len = 0;
    loop {
        match request.as_reader().read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                len += n;
                if len <= MAX_BODY {
                    body.extend_from_slice(&chunk[..n]);
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(BodyFault::Cut),
        }
    }
    match len {
        _ if len < want => Err(BodyFault::Cut),
        _ if len > MAX_BODY => Err(BodyFault::TooLarge { len, max: MAX_BODY }),
        _ => Ok(body),
    }
}

fn response(reply: Reply) -> Response<Cursor<Vec<u8>>> {
    let fields = [("Content-Type", reply.content_type), ("Location", reply.location.as_deref().unwrap_or_default())];
    let headers = fields.into_iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| Header::from_bytes(name, value).ok()).collect();
    let len = reply.body.len();
    Response::new(StatusCode(reply.status), headers, Cursor::new(reply.body), Some(len), None).with_chunked_threshold(usize::MAX)
}

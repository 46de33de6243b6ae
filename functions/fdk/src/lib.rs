//! A function development kit: give `serve` a handler, get a function.
//!
//! ```no_run
//! fdk::serve(|request| fdk::Response::json(format!("{{\"bytes\":{}}}", request.body().len())));
//! ```
//!
//! The container contract it follows: read `FN_FORMAT` and `FN_LISTENER`, bind
//! `phony<name>` beside the wanted socket, open it to everyone, then make
//! `<name>` a relative symlink to it (its appearance means "ready"); answer
//! HTTP/1.1 with 200 (done), 502 (the function failed) or 504 (it saw its time
//! was up). Connections are kept alive; each is served by a blocking thread,
//! one read and one write a request. A panic in the handler is a 502.

mod http;
mod json;
mod time;

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

pub use json::{push_string, string_member};

/// What the answer's `Fn-Fdk-Version` says.
pub const VERSION: &str = concat!("fdk-rust/", env!("CARGO_PKG_VERSION"));

/// Threads serving connections; containers may have 50 processes.
const MAX_THREADS: usize = 40;
/// Threads kept waiting for the next connection.
const SPARE_THREADS: usize = 2;
const STACK_BYTES: usize = 512 * 1024;

/// One call's input.
#[derive(Debug)]
pub struct Request<'a> {
    pub(crate) fields: &'a [http::FieldAt],
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
    pub(crate) gateway: bool,
}

impl<'a> Request<'a> {
    /// The whole body.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// A header's value. Behind an HTTP trigger this is the client's header of
    /// that name, else the one sent with the call; names ignore case.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        if self.gateway
            && let Some(value) = self.find(|n| n.len() > 10 && n[..10].eq_ignore_ascii_case(b"Fn-Http-H-") && n[10..].eq_ignore_ascii_case(name.as_bytes()))
        {
            return Some(value);
        }
        self.raw_header(name)
    }

    /// A header exactly as it came over the socket.
    pub fn raw_header(&self, name: &str) -> Option<&'a str> {
        self.find(|n| n.eq_ignore_ascii_case(name.as_bytes()))
    }

    fn find(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<&'a str> {
        let field = self.fields.iter().find(|f| wanted(&self.head[f.name()]))?;
        std::str::from_utf8(&self.head[field.value()]).ok()
    }

    /// The call's id, echoed on the answer by this crate.
    pub fn call_id(&self) -> Option<&'a str> {
        self.raw_header("Fn-Call-Id")
    }

    /// When the call must be answered.
    pub fn deadline(&self) -> Option<SystemTime> {
        time::parse_rfc3339(self.raw_header("Fn-Deadline")?)
    }

    /// Time left until the deadline; 30 s where none was sent.
    pub fn time_left(&self) -> Duration {
        match self.deadline() {
            Some(at) => at.duration_since(SystemTime::now()).unwrap_or_default(),
            None => Duration::from_secs(30),
        }
    }

    /// Whether an HTTP trigger made this call (`Fn-Intent: httprequest`).
    pub fn is_http(&self) -> bool {
        self.gateway
    }

    /// The client's method, behind an HTTP trigger.
    pub fn method(&self) -> Option<&'a str> {
        self.raw_header("Fn-Http-Method").filter(|_| self.gateway)
    }

    /// The client's URL, behind an HTTP trigger.
    pub fn url(&self) -> Option<&'a str> {
        self.raw_header("Fn-Http-Request-Url").filter(|_| self.gateway)
    }
}

/// One call's output. The body may borrow from the request: an echo copies nothing.
#[derive(Debug)]
pub struct Response<'a> {
    pub(crate) status: u16,
    pub(crate) content_type: Cow<'static, str>,
    pub(crate) fields: Vec<(Cow<'static, str>, String)>,
    pub(crate) body: Cow<'a, [u8]>,
}

impl<'a> Response<'a> {
    /// 200 with this body.
    pub fn new(content_type: impl Into<Cow<'static, str>>, body: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
        Response { status: 200, content_type: content_type.into(), fields: Vec::new(), body: body.into() }
    }

    /// 200 with JSON text.
    pub fn json(text: impl Into<String>) -> Response<'a> {
        Response::new("application/json", text.into().into_bytes())
    }

    /// The function failed; the text is for whoever reads the answer on the socket.
    pub fn failed(text: impl Into<String>) -> Response<'a> {
        Response::new("text/plain; charset=utf-8", text.into().into_bytes()).status(502)
    }

    /// The status the HTTP client sees behind a trigger. For a direct call the
    /// contract knows 200, 502 and 504 only: anything else is sent as 200.
    #[must_use]
    pub fn status(mut self, status: u16) -> Response<'a> {
        self.status = status;
        self
    }

    /// Adds a header. Line breaks in it are dropped.
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Response<'a> {
        let mut value: String = value.into();
        value.retain(|c| c != '\r' && c != '\n' && c != '\0');
        self.fields.push((name.into(), value));
        self
    }
}

/// A function: called for each request, from several threads where several
/// connections are open.
pub trait Handler: for<'a> Fn(&Request<'a>) -> Response<'a> + Send + Sync + 'static {}
impl<F: for<'a> Fn(&Request<'a>) -> Response<'a> + Send + Sync + 'static> Handler for F {}

/// Serves calls for ever. Ends the process with code 2 when the environment is
/// not that of a function container.
pub fn serve(handler: impl Handler) -> ! {
    match listener_path().and_then(|path| publish(&path).map_err(|e| format!("cannot listen at {}: {e}", path.display()))) {
        Ok(listener) => run(listener, handler),
        Err(problem) => {
            eprintln!("{VERSION}: {problem}");
            std::process::exit(2)
        }
    }
}

/// The socket path `FN_LISTENER` names, after a look at `FN_FORMAT`.
///
/// # Errors
/// What is wrong with the environment, as a sentence.
pub fn listener_path() -> Result<PathBuf, String> {
    match std::env::var("FN_FORMAT") {
        Ok(format) if !format.is_empty() && format != "http-stream" => return Err(format!("FN_FORMAT is '{format}', only http-stream is spoken")),
        _ => {}
    }
    let listener = std::env::var("FN_LISTENER").map_err(|_| "FN_LISTENER is not set: start this program as a function".to_owned())?;
    match listener.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') && path.len() <= 107 => Ok(PathBuf::from(path)),
        Some(path) => Err(format!("FN_LISTENER's path '{path}' is not absolute, or longer than 107 bytes")),
        None => Err(format!("FN_LISTENER is '{listener}', it must start with unix:")),
    }
}

/// Binds beside `path`, opens the socket to everyone, then shows it at `path`.
///
/// # Errors
/// Whatever the file system says.
pub fn publish(path: &Path) -> io::Result<UnixListener> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
    let phony_name = format!("phony{name}");
    let phony = path.with_file_name(&phony_name);
    for old in [path, phony.as_path()] {
        match std::fs::remove_file(old) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    let listener = UnixListener::bind(&phony)?;
    std::fs::set_permissions(&phony, std::fs::Permissions::from_mode(0o666))?;
    symlink(&phony_name, path)?;
    Ok(listener)
}

struct Crew<H> {
    listener: UnixListener,
    handler: H,
    waiting: AtomicUsize,
    threads: AtomicUsize,
    frame: Option<http::LogFrame>,
}

/// Serves calls on a listener for ever.
pub fn run(listener: UnixListener, handler: impl Handler) -> ! {
    let crew = Arc::new(Crew { listener, handler, waiting: AtomicUsize::new(0), threads: AtomicUsize::new(1), frame: http::LogFrame::from_env() });
    loop {
        member(&crew, true);
    }
}

/// One thread: waits for a connection, sees to it that somebody else waits for
/// the next one, serves it to its end, waits again.
fn member<H: Handler>(crew: &Arc<Crew<H>>, stays: bool) {
    loop {
        crew.waiting.fetch_add(1, Ordering::SeqCst);
        let accepted = crew.listener.accept();
        if crew.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            grow(crew);
        }
        match accepted {
            Ok((stream, _)) => serve_connection(crew, stream),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        if !stays && crew.waiting.load(Ordering::SeqCst) >= SPARE_THREADS {
            crew.threads.fetch_sub(1, Ordering::SeqCst);
            return;
        }
    }
}

fn grow<H: Handler>(crew: &Arc<Crew<H>>) {
    if crew.threads.fetch_add(1, Ordering::SeqCst) >= MAX_THREADS {
        crew.threads.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    let next = Arc::clone(crew);
    let started = std::thread::Builder::new().name("fdk".to_owned()).stack_size(STACK_BYTES).spawn(move || member(&next, false));
    if started.is_err() {
        crew.threads.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve_connection<H: Handler>(crew: &Crew<H>, stream: UnixStream) {
    // An I/O error ends the connection, never the function.
    let _ = http::serve(stream, &crew.handler, crew.frame.as_ref());
}

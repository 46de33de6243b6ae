//! The management API: `/v2` resources, `/version`, `/ping`, `/metrics`,
//! `/openapi.yaml`, on a Unix socket in the data folder.
//!
//! Owns: the socket (mode 0600), its HTTP server and worker threads `api-N`,
//! routes and handlers. Called by: `server`; its requests come from `edge`,
//! which has validated, bounded and re-framed them and checked the token.
//! Blocks on: the socket, the store's writer. Does not: face callers, check
//! tokens, see containers.
//!
//! tiny_http stands behind the edge because it trusts what it reads. INVARIANT:
//! requests here are clean, have a Content-Length, and every body is read to its end
//! before the answer.

mod calls;
mod query;
mod resources;
mod route;
mod serve;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::calls::Ledger;
use crate::metrics::ContainerRow;
use crate::model::ImageAllow;
use crate::pool::{self, SpawnError, Thread};
use crate::store::Store;
use serve::Shared;

/// What hob serves, as the API's users read it.
const OPENAPI: &str = include_str!("../../docs/openapi.yaml");

/// Gathers what each function's containers do and use, for `/metrics`.
pub type Containers = Arc<dyn Fn() -> Vec<ContainerRow> + Send + Sync>;
/// Gives the JSON of `/debug/state`.
pub type DebugState = Arc<dyn Fn() -> String + Send + Sync>;

/// What the API needs.
pub struct ApiOptions {
    pub store: Arc<Store>,
    /// The kept calls; without them their routes answer 410.
    pub ledger: Option<Arc<Ledger>>,
    /// Where to listen; what is there already is replaced if it is a socket.
    pub socket: PathBuf,
    /// Base of the URLs in answers; `None` = from each request's Host.
    pub public_url: Option<String>,
    /// Images functions may have.
    pub images: ImageAllow,
    /// Worker threads, at least 1.
    pub threads: usize,
    /// What each function's containers do and use, for `/metrics`.
    pub containers: Option<Containers>,
    /// Served at `/debug/state` when given.
    pub debug_state: Option<DebugState>,
}

impl fmt::Debug for ApiOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiOptions").field("socket", &self.socket).field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// The API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("cannot listen on {}: {source}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot serve {}: {text}", path.display())]
    Serve { path: PathBuf, text: String },
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// The running API. Dropping it stops it.
#[derive(Debug)]
pub struct Api {
    shared: Arc<Shared>,
    threads: Mutex<Vec<Thread>>,
}

impl Api {
    /// Listens and starts the workers. When this returns, requests are served.
    ///
    /// # Errors
    /// The socket cannot be made, a thread cannot be had.
    pub fn start(options: ApiOptions) -> Result<Api, ApiError> {
        let listener = serve::listen(&options.socket).map_err(|source| ApiError::Listen { path: options.socket.clone(), source })?;
        Api::start_on(listener, options)
    }

    fn start_on(listener: UnixListener, options: ApiOptions) -> Result<Api, ApiError> {
        let threads = options.threads.max(1);
        let shared = Arc::new(Shared::new(listener, options)?);
        let api = Api { shared, threads: Mutex::new(Vec::with_capacity(threads)) };
        for n in 1..=threads {
            let shared = api.shared.clone();
            // An error drops `api`, which stops the workers there are.
            let thread = pool::spawn(format!("api-{n}"), move || shared.work())?;
            api.threads.lock().push(thread);
        }
        Ok(api)
    }

    /// Stops taking requests, lets those being answered finish, joins the
    /// workers and removes the socket. A second stop does nothing.
    pub fn stop(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        self.shared.call_off(threads.len());
        threads.into_iter().for_each(Thread::join);
        self.shared.close();
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop();
    }
}

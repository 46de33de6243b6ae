//! Unix sockets: HTTP/1.1 to the engine, to our own management API and to
//! functions; the folders functions put their sockets in; noticing them.
//!
//! Owns: `client` (blocking, for the engine and tiny_http), `function` (the FDK
//! contract on one container's socket), `iofs` (socket folders), `listener`
//! (one inotify for all). Called by: `hot`, `docker`, `edge`. Blocks on: poll
//! of a socket with deadline and stop. Does not: know slots, containers' lives
//! or routes.

pub mod client;
pub mod function;
pub mod iofs;
pub mod listener;
mod net;
mod tmpfs;

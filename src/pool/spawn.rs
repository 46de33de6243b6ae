//! The only place that starts threads.

use std::io;
use std::thread::JoinHandle;

/// The operating system refused a thread.
#[derive(Debug, thiserror::Error)]
#[error("cannot start thread {name}: {source}")]
pub struct SpawnError {
    pub name: String,
    pub source: io::Error,
}

/// A running thread. Dropping it joins: an owner can't forget one.
#[derive(Debug)]
pub struct Thread {
    name: String,
    handle: Option<JoinHandle<()>>,
}

/// Stack of every hob thread: deep enough for a call with its buffers on the
/// heap, small enough that a thousand cost address space only.
const STACK_BYTES: usize = 512 * 1024;

/// Starts a named thread. Linux shows 15 bytes of the name in `top -H`.
///
/// # Errors
/// `SpawnError` when the system has no thread to give; nothing is left behind.
pub fn spawn(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> Result<Thread, SpawnError> {
    let name = name.into();
    if let Err(source) = crate::fault::at_named("thread", &name) {
        return Err(SpawnError { name, source });
    }
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    match std::thread::Builder::new().name(name.clone()).stack_size(STACK_BYTES).spawn(body) {
        Ok(handle) => Ok(Thread { name, handle: Some(handle) }),
        Err(source) => Err(SpawnError { name, source }),
    }
}

impl Thread {
    /// The thread's full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has ended (a join would not block).
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end. A panic inside it is logged, not passed on.
    pub fn join(mut self) {
        self.join_inner();
    }

    /// Gives it up: only for a process that is about to end.
    pub fn leave(mut self) {
        self.handle.take();
    }

    fn join_inner(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        // The last owner may be the thread itself (an elastic worker that ends).
        if handle.thread().id() == std::thread::current().id() {
            return;
        }
        if handle.join().is_err() {
            log::error!("thread {} panicked", self.name);
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.join_inner();
    }
}

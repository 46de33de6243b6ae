//! The spawner as a process of the server's: how it is started and heard for
//! the first time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::keeper::Options;
use super::spawner;
use super::wire::{self, Tell};
use crate::pool::{SpawnError, Woke, wait_for};

/// The spawner must be ready within this.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The spawner did not come up.
#[derive(Debug, thiserror::Error)]
pub enum SpawnerError {
    #[error("cannot start {}: {source}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("the sandbox cannot work here: {text}")]
    Unable { text: String },
    #[error("the spawner does not answer: {source}")]
    Talk { source: io::Error },
    #[error(transparent)]
    Thread(#[from] SpawnError),
}

pub(super) struct Running {
    pub(super) control: Arc<OwnedFd>,
    pub(super) child: Child,
    pub(super) since: Instant,
}

impl Running {
    /// Ends it: it sees the end of its socket, kills the cells, waits for them.
    pub(super) fn end(mut self) {
        let _ = rustix::net::shutdown(&*self.control, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

pub(super) fn start_spawner(options: &Options) -> Result<(Running, OwnedFd), SpawnerError> {
    let failed = |source| SpawnerError::Start { program: options.program.clone(), source };
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(|e| failed(e.into()))?;
    // Nothing of this process's environment: it may hold secrets.
    let mut child = Command::new(&options.program)
        .arg(spawner::ARGUMENT)
        .args(match &options.own {
            None => vec![options.base.to_string().into()],
            Some(own) => vec![spawner::OWN.into(), own.images.clone().into_os_string(), own.folders.clone().into_os_string()],
        })
        .env_clear()
        .current_dir("/")
        // A terminal's Ctrl-C is for the server, which lets its calls end first.
        .process_group(0)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let until = Instant::now() + READY_WITHIN;
    let ready = match wait_for(ours.as_fd(), PollFlags::IN, None, None, Some(until)) {
        Ok(Woke::Ready) => match wire::receive_packet::<Tell>(ours.as_fd()) {
            Ok(Some((Tell::Ready { .. }, fds))) => fds.into_iter().next().ok_or_else(|| SpawnerError::Unable { text: "no user namespace".to_owned() }),
            Ok(Some((Tell::Unable { text }, _))) => Err(SpawnerError::Unable { text }),
            Ok(_) => Err(SpawnerError::Unable { text: "it ended at once".to_owned() }),
            Err(source) => Err(SpawnerError::Talk { source }),
        },
        Ok(_) => Err(SpawnerError::Unable { text: format!("nothing said within {READY_WITHIN:?}") }),
        Err(source) => Err(SpawnerError::Talk { source }),
    };
    match ready {
        Ok(users) => Ok((Running { control: Arc::new(ours), child, since: Instant::now() }, users)),
        Err(e) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(e)
        }
    }
}

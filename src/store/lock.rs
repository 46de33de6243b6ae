//! INVARIANT: one server per database: an exclusive flock on `<database>.lock`, which the
//! kernel lets go of however the process ends.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::StoreError;

/// Held while open.
#[derive(Debug)]
pub(super) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Makes the database's folder if need be and takes the lock.
    pub(super) fn take(database: &Path) -> Result<FileLock, StoreError> {
        if let Some(folder) = database.parent().filter(|p| !p.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(|source| StoreError::Folder { path: folder.to_owned(), source })?;
        }
        let mut name = database.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = match open {
            Ok(file) => file,
            Err(source) => return Err(StoreError::Lock { path, source }),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let read = file.take(32).read_to_string(&mut pid);
                let holder = read.ok().map(|_| pid.trim().to_owned()).filter(|pid| !pid.is_empty());
                return Err(StoreError::Locked { path, holder });
            }
            Err(errno) => return Err(StoreError::Lock { path, source: errno.into() }),
        }
        // The number is for the message above only; the lock is the truth.
        let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(source) = noted {
            log::warn!("cannot note the process id in {}: {source}", path.display());
        }
        Ok(FileLock { _file: file })
    }
}

//! Noticing that a function's socket has appeared in its folder.
//!
//! Owns: one inotify instance and the thread `uds-watch`. Called by: `hot`
//! (starts). Blocks on: poll of the instance and a stop; callers block on
//! their own channel. Does not: check or connect the socket (`function` does:
//! the event is only the alarm, the connect is the truth).

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use parking_lot::Mutex;
use rustix::event::PollFlags;
use rustix::fs::{AtFlags, statat};

use super::iofs::Folder;
use crate::pool::{SpawnError, Stop, Thread, Woke, spawn, wait_for};

/// The watcher or one watch could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot set up inotify: {source} (limit: fs.inotify.max_user_instances)")]
    Instance { source: io::Error },
    #[error("cannot watch {}: {source} (limit: fs.inotify.max_user_watches)", path.display())]
    Add { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Thread(#[from] SpawnError),
    #[error("the watcher has been stopped")]
    Stopped,
}

/// One inotify instance for all socket folders: an instance costs a kernel
/// grace period to close and there are 128 for a user.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    watches: Watches,
}

#[derive(Debug, Default)]
struct Table {
    stopped: bool,
    next: u64,
    entries: HashMap<WatchDescriptor, Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    name: OsString,
    bell: Sender<()>,
}

/// A wait for one name in one folder. Drop it before the folder.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    descriptor: WatchDescriptor,
    id: u64,
    appeared: Receiver<()>,
}

impl Watcher {
    /// # Errors
    /// When there is no inotify instance, descriptor or thread to be had.
    pub fn start() -> Result<Watcher, WatchError> {
        let inotify = Inotify::init().map_err(|source| WatchError::Instance { source })?;
        let stop = Arc::new(Stop::new().map_err(|source| WatchError::Instance { source })?);
        let shared = Arc::new(Shared { table: Mutex::new(Table::default()), watches: inotify.watches() });
        let thread = spawn("uds-watch", {
            let (shared, stop) = (shared.clone(), stop.clone());
            move || run(inotify, &shared, &stop)
        })?;
        Ok(Watcher { shared, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Watches for `name` to be created in (or moved into) the folder. A name
    /// that is there already counts too. Set it up before whatever makes it.
    ///
    /// # Errors
    /// At the limit of watches, when the folder is gone, after `stop`.
    pub fn watch(&self, folder: &Folder, name: &str) -> Result<Watch, WatchError> {
        let failed = |source| WatchError::Add { path: folder.path().to_owned(), source };
        crate::fault::at("watch.add").map_err(failed)?;
        let descriptor = self.shared.watches.clone().add(folder.path(), WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ONLYDIR).map_err(failed)?;
        let (bell, appeared) = bounded(1);
        let id = {
            let mut table = self.shared.table.lock();
            if table.stopped {
                return Err(WatchError::Stopped);
            }
            table.next += 1;
            let id = table.next;
            table.entries.entry(descriptor.clone()).or_default().push(Entry { id, name: name.into(), bell: bell.clone() });
            id
        };
        // After the entry is in the table: covers what came before the watch
        // and an event that was read between the watch and the entry.
        if statat(folder.fd(), name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            let _ = bell.try_send(());
        }
        Ok(Watch { shared: self.shared.clone(), descriptor, id, appeared })
    }

    /// Ends and joins the thread; every watch is woken a last time.
    pub fn stop(&self) {
        self.stop.fire();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.join();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Watch {
    /// Receives when the name may have appeared (look, then wait again). It is
    /// disconnected when the watcher was stopped.
    pub fn appeared(&self) -> &Receiver<()> {
        &self.appeared
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let last = {
            let mut table = self.shared.table.lock();
            let Some(entries) = table.entries.get_mut(&self.descriptor) else { return };
            entries.retain(|e| e.id != self.id);
            let last = entries.is_empty();
            if last {
                table.entries.remove(&self.descriptor);
            }
            last
        };
        if last {
            // Fails when the folder went first; then the kernel removed it.
            let _ = self.shared.watches.clone().remove(self.descriptor.clone());
        }
    }
}

fn run(mut inotify: Inotify, shared: &Shared, stop: &Stop) {
    let mut buffer = vec![0u8; 16 * 1024];
    while !stop.fired() {
        match wait_for(inotify.as_fd(), PollFlags::IN, None, Some(stop), None) {
            Ok(Woke::Ready) => {}
            Ok(_) => break,
            Err(e) => {
                log::error!("uds-watch: poll failed: {e}");
                break;
            }
        }
        match inotify.read_events(&mut buffer) {
            Ok(events) => {
                let table = shared.table.lock();
                for event in events {
                    if event.mask.contains(EventMask::Q_OVERFLOW) {
                        // Which events were lost is not known: everybody looks.
                        log::warn!("uds-watch: the event queue overflowed");
                        table.entries.values().flatten().for_each(Entry::ring);
                    } else if let (Some(entries), Some(name)) = (table.entries.get(&event.wd), event.name) {
                        entries.iter().filter(|e| e.name == name).for_each(Entry::ring);
                    }
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => {
                log::error!("uds-watch: reading events failed: {e}");
                break;
            }
        }
    }
    // Dropping the senders disconnects every waiter: nobody waits for nothing.
    let mut table = shared.table.lock();
    table.stopped = true;
    table.entries.clear();
}

impl Entry {
    fn ring(&self) {
        // Full means that it has rung and was not looked at yet: enough.
        let _ = self.bell.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uds::iofs::Iofs;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(120);

    #[test]
    fn seen_when_made_moved_linked_or_already_there() {
        let at = std::env::temp_dir().join(format!("hob-watch-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&at);
        let iofs = Iofs::open(&at).expect("open");
        let watcher = Watcher::start().expect("watcher");

        let made = iofs.create("made").expect("folder");
        let watch = watcher.watch(&made, "lsnr.sock").expect("watch");
        let other = watcher.watch(&made, "other.sock").expect("watch");
        assert!(watch.appeared().try_recv().is_err());
        let _phony = UnixListener::bind(made.path().join("phonylsnr.sock")).expect("bind");
        let _socket = UnixListener::bind(made.path().join("lsnr.sock")).expect("bind");
        watch.appeared().recv_timeout(LONG).expect("made");
        assert!(watch.appeared().try_recv().is_err(), "only the wanted name counts");
        drop(watch);
        std::fs::write(made.path().join("other.sock"), "").expect("file");
        other.appeared().recv_timeout(LONG).expect("the second watch of one folder lives on");

        let moved = iofs.create("moved").expect("folder");
        let watch = watcher.watch(&moved, "lsnr.sock").expect("watch");
        std::fs::rename(made.path().join("phonylsnr.sock"), moved.path().join("lsnr.sock")).expect("rename");
        watch.appeared().recv_timeout(LONG).expect("moved in");

        let linked = iofs.create("linked").expect("folder");
        let watch_linked = watcher.watch(&linked, "lsnr.sock").expect("watch");
        std::os::unix::fs::symlink("phonylsnr.sock", linked.path().join("lsnr.sock")).expect("link");
        watch_linked.appeared().recv_timeout(LONG).expect("linked");

        let again = watcher.watch(&linked, "lsnr.sock").expect("watch");
        again.appeared().recv_timeout(LONG).expect("already there");

        drop(moved);
        drop(watch);
        watcher.stop();
        assert!(matches!(watch_linked.appeared().recv_timeout(LONG), Err(crossbeam_channel::RecvTimeoutError::Disconnected)));
        assert!(matches!(watcher.watch(&linked, "x"), Err(WatchError::Stopped)));
        drop((again, watch_linked, other, made, linked));
        std::fs::remove_dir(&at).expect("nothing is left");
    }
}

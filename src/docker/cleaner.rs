//! The image cleaner (spec agent §8.10): above `FN_IMAGE_CLEAN_MAX_SIZE` the
//! images that were used longest ago go, never one in use.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::engine::{EngineError, Fault, Op};
use super::images::{ImageRow, Images};
use crate::metrics::IMAGES_CLEANED;
use crate::pool::{SpawnError, Thread, spawn};

/// Between two rounds, so that an engine in trouble is not pressed.
const ROUND: Duration = Duration::from_millis(500);
/// The engine's list is read again this often: others pull and remove too.
const RELIST: Duration = Duration::from_secs(600);
/// After a round without success.
const RETRY: Duration = Duration::from_secs(60);

/// What the cleaner knows of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: String,
    pub(super) tags: Vec<String>,
    pub(super) bytes: u64,
}

/// Which images there are, who uses them, in which order they would go. Pure.
/// Sizes count layers that images share once for each of them.
#[derive(Debug)]
struct Table {
    max_bytes: u64,
    exempt: HashSet<String>,
    /// Nobody uses them; the longest unused first.
    idle: VecDeque<Known>,
    /// With the names of the containers that use them.
    busy: HashMap<String, (Known, HashSet<String>)>,
}

impl Table {
    fn is_exempt(&self, image: &Known) -> bool {
        image.tags.iter().any(|tag| self.exempt.contains(tag))
    }

    /// It was seen, or used, just now.
    fn update(&mut self, image: Known) {
        if self.is_exempt(&image) {
            self.idle.retain(|i| i.id != image.id);
        } else if let Some((known, _)) = self.busy.get_mut(&image.id) {
            *known = image;
        } else {
            self.idle.retain(|i| i.id != image.id);
            self.idle.push_back(image);
        }
    }

    fn use_it(&mut self, image: Known, user: &str) {
        if self.is_exempt(&image) {
            return;
        }
        self.idle.retain(|i| i.id != image.id);
        self.busy.entry(image.id.clone()).or_insert_with(|| (image, HashSet::new())).1.insert(user.to_owned());
    }

    fn release(&mut self, user: &str) {
        let Some(id) = self.busy.iter().find(|(_, (_, users))| users.contains(user)).map(|(id, _)| id.clone()) else { return };
        if let Some((_, users)) = self.busy.get_mut(&id) {
            users.remove(user);
            if users.is_empty()
                && let Some((image, _)) = self.busy.remove(&id)
            {
                self.idle.push_back(image);
            }
        }
    }

    /// The engine's whole list: what is gone goes, what is new comes last.
    fn sync(&mut self, rows: Vec<Known>) {
        let there: HashSet<String> = rows.iter().map(|r| r.id.clone()).collect();
        self.idle.retain(|i| there.contains(&i.id));
        let known: HashSet<String> = self.idle.iter().map(|i| i.id.clone()).collect();
        for row in rows {
            if !known.contains(&row.id) {
                self.update(row);
            }
        }
    }

    fn is_full(&self) -> bool {
        let idle: u64 = self.idle.iter().map(|i| i.bytes).sum();
        let busy: u64 = self.busy.values().map(|(i, _)| i.bytes).sum();
        idle > 0 && idle.saturating_add(busy) >= self.max_bytes
    }

    /// The next to go. Gone from the table: who fails to remove it puts it back.
    fn pop(&mut self) -> Option<Known> {
        if self.is_full() { self.idle.pop_front() } else { None }
    }
}

/// Told of every use; a thread removes.
#[derive(Debug)]
pub(super) struct Cleaner {
    table: Mutex<Table>,
    bell: Sender<()>,
    rung: Receiver<()>,
}

/// The cleaner's thread. Ends when `stop` is dropped.
#[derive(Debug)]
pub(super) struct Cleaning {
    stop: Sender<()>,
    thread: Thread,
}

impl Cleaning {
    /// Ends it; a removal under way is waited for (60 s at most).
    pub(super) fn join(self) {
        drop(self.stop);
        self.thread.join();
    }
}

impl Cleaner {
    pub(super) fn new(max_bytes: u64, exempt: impl IntoIterator<Item = String>) -> Cleaner {
        let (bell, rung) = bounded(1);
        let table = Table { max_bytes, exempt: exempt.into_iter().collect(), idle: VecDeque::new(), busy: HashMap::new() };
        Cleaner { table: Mutex::new(table), bell, rung }
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let full = {
            let mut table = self.table.lock();
            change(&mut table);
            table.is_full()
        };
        if full {
            // Rung already: it will look anyway.
            let _ = self.bell.try_send(());
        }
    }

    /// The container named `user` is about to be made of it.
    pub(super) fn used(&self, image: Known, user: &str) {
        self.change(|table| table.use_it(image, user));
    }

    /// The container named `user` is gone.
    pub(super) fn released(&self, user: &str) {
        self.change(|table| table.release(user));
    }

    /// Starts the thread.
    pub(super) fn start(self: &Arc<Cleaner>, images: Arc<Images>) -> Result<Cleaning, SpawnError> {
        let (stop, stopped) = bounded(0);
        let cleaner = self.clone();
        let thread = spawn("docker-images", move || cleaner.run(&images, &stopped))?;
        Ok(Cleaning { stop, thread })
    }

    fn run(&self, images: &Images, stopped: &Receiver<()>) {
        let mut listed: Option<Instant> = None;
        // The first look is at once.
        let mut next = Instant::now();
        loop {
            crossbeam_channel::select! {
                recv(stopped) -> _ => return,
                recv(self.rung) -> _ => {}
                recv(crossbeam_channel::at(next)) -> _ => {}
            }
            let begun = Instant::now();
            if listed.is_none_or(|at| begun >= at + RELIST) {
                match images.list() {
                    Ok(rows) => {
                        listed = Some(begun);
                        self.table.lock().sync(in_order(rows));
                    }
                    Err(error) => log::warn!("image cleaner: {error}"),
                }
            }
            let done = listed.is_some() && self.clean(images, stopped);
            next = Instant::now() + if done { RELIST } else { RETRY };
            // A bell meanwhile waits for this.
            if stopped.recv_timeout(ROUND) == Err(crossbeam_channel::RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// Removes until it fits; false when something could not be removed.
    fn clean(&self, images: &Images, stopped: &Receiver<()>) -> bool {
        let tries = self.table.lock().idle.len();
        let mut done = true;
        for _ in 0..tries {
            if stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected) {
                return done;
            }
            // Taken in a statement of its own: no lock while it is removed.
            let next = self.table.lock().pop();
            let Some(image) = next else { return done };
            match remove(images, &image) {
                Ok(()) => {
                    IMAGES_CLEANED.add(1);
                    log::info!("removed image {} ({:.1} MB): FN_IMAGE_CLEAN_MAX_SIZE", name(&image), megabytes(image.bytes));
                }
                Err(error) => {
                    // Somebody else's container uses it: the engine knows.
                    log::debug!("image cleaner: {error}");
                    done = error.status() == Some(409) && done;
                    self.table.lock().update(image);
                }
            }
        }
        done
    }
}

/// Without force: the engine refuses what a container uses, whoever made it.
/// Tag by tag, for an image with several is refused by its id; but a tag that
/// is not the last is taken from an image in use as well, so that is asked.
fn remove(images: &Images, image: &Known) -> Result<(), EngineError> {
    if image.tags.len() > 1 && images.has_containers(&image.id)? {
        let message = "a container uses it".to_owned();
        return Err(EngineError::new(Op::RemoveImage, &image.id, Fault::Status { code: 409, message }));
    }
    let (last, others) = image.tags.split_last().map_or((&image.id, [].as_slice()), |(last, others)| (last, others));
    for tag in others {
        images.remove(tag)?;
    }
    images.remove(last).map(drop)
}

/// Oldest first: nothing is known of their use yet.
fn in_order(mut rows: Vec<ImageRow>) -> Vec<Known> {
    rows.sort_by_key(|row| row.created);
    rows.into_iter().map(Known::from).collect()
}

fn name(image: &Known) -> &str {
    image.tags.first().unwrap_or(&image.id)
}

#[allow(clippy::cast_precision_loss, reason = "for eyes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl From<ImageRow> for Known {
    fn from(row: ImageRow) -> Known {
        let tags = row.repo_tags.unwrap_or_default().into_iter().filter(|t| !t.starts_with("<none>")).collect();
        Known { id: row.id, tags, bytes: u64::try_from(row.size).unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(max_bytes: u64, exempt: &[&str]) -> Table {
        Table { max_bytes, exempt: exempt.iter().map(|e| (*e).to_owned()).collect(), idle: VecDeque::new(), busy: HashMap::new() }
    }

    fn image(n: u32, bytes: u64) -> Known {
        Known { id: format!("id{n}"), tags: vec![format!("x:{n}")], bytes }
    }

    fn drain(table: &mut Table) -> Vec<String> {
        std::iter::from_fn(|| table.pop()).map(|i| i.id).collect()
    }

    /// Pinned by the original: 1 MB, four images of 512 KB, one exempt.
    #[test]
    fn the_oldest_go_and_exempt_ones_never() {
        let mut table = table(1024 * 1024, &["x:2"]);
        table.sync((1..=4).map(|n| image(n, 512 * 1024)).collect());
        assert_eq!(drain(&mut table), ["id1", "id3"]);
    }

    #[test]
    fn what_is_in_use_stays_and_is_the_newest_after_it() {
        let mut table = table(30, &[]);
        table.sync((1..=3).map(|n| image(n, 10)).collect());
        table.use_it(image(1, 10), "a");
        table.use_it(image(1, 10), "b");
        assert!(table.is_full());
        table.release("a");
        table.update(image(2, 10));
        assert_eq!(drain(&mut table), ["id3"]);
        table.release("b");
        table.release("nobody");
        table.sync(vec![image(1, 10), image(2, 10), image(4, 10)]);
        assert_eq!(table.idle.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["id2", "id1", "id4"]);
        table.sync(vec![image(4, 10)]);
        assert_eq!(table.idle.len(), 1);
    }

    #[test]
    fn with_all_in_use_nothing_goes() {
        let mut table = table(1, &[]);
        table.use_it(image(1, 10), "a");
        assert!(!table.is_full() && table.pop().is_none());
    }
}

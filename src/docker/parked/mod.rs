//! Networks made ready: small containers that hold a network namespace, for a
//! start to join. The engine's network hook is a third to a half of a start.
//!
//! Owns: the parked containers of this process, their image, the thread that
//! keeps their number. Called by: `docker` (a start takes one, a removal gives
//! it up). Blocks on: the engine, each request with a limit; its own bell.
//! Does not: decide about functions, or let anything wait for it: where none
//! is ready the start makes its own network, as without a pool.
//!
//! INVARIANT: a namespace has one user and is thrown away after it. What is left in a
//! namespace (connections in TIME_WAIT with the addresses of peers, datagrams
//! still on their way to a port) belonged to that user; the engine, too, gives
//! every container a new one.

mod image;
mod table;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Shared;
use super::engine::{EngineError, Fault};
use super::images::Images;
use crate::call::Exit;
use crate::driver::ExitSink;
use crate::metrics::PARKED;
use crate::model::Id;
use crate::pool::{SpawnError, Thread, spawn};
use image::Machine;
use table::{Next, Table};

/// Label of parked containers, beside the store's and the process's.
pub const LABEL_PARKED: &str = "hob.parked";
/// Create, start or removal of one.
const WITHIN: Duration = Duration::from_secs(20);
/// Ready from the start on a small host, and on a large one.
const FEW: usize = 2;
const MANY: usize = 16;
/// When the server goes, so many remove what is left, within this.
const CREW: usize = 4;
const LAST: Duration = Duration::from_secs(10);

/// The pool. Without a crew (switched off, or an unknown kind of machine) it
/// is empty for ever.
#[derive(Debug)]
pub(super) struct Parked {
    table: Mutex<Table>,
    bell: Sender<()>,
    rung: Receiver<()>,
    machine: Option<Machine>,
}

/// The running crew.
#[derive(Debug)]
pub(super) struct Crew {
    thread: Thread,
}

/// A start under way: background work waits for its end.
#[derive(Debug)]
pub(super) struct Starting<'p>(&'p Parked);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.table.lock().start_ended(Instant::now());
        self.0.ring();
    }
}

/// The name of the image a parked container has on such a machine.
pub(super) fn image_for(architecture: &str) -> Option<String> {
    Machine::named(architecture).map(Machine::image)
}

/// Loads that image, which does nothing but wait; its name.
pub(super) fn load_for(images: &Images, architecture: &str) -> Result<String, String> {
    let machine = Machine::named(architecture).ok_or_else(|| format!("no program for '{architecture}'"))?;
    let archive = machine.archive().map_err(|e| e.to_string())?;
    images.load(&mut archive.as_slice()).map_err(|e| e.to_string())?;
    Ok(machine.image())
}

/// How many are ready before any demand is known: one for each GiB of memory,
/// so that they (and the 13 MB process the engine keeps beside each) take a
/// hundredth of it.
fn from_the_start(memory: u64) -> usize {
    usize::try_from(memory >> 30).unwrap_or(usize::MAX).clamp(FEW, MANY)
}

impl Parked {
    /// At most `most` ready ones, on a host with so much memory (bytes);
    /// `architecture` as the engine names it.
    pub(super) fn new(networks: &[String], most: usize, memory: u64, architecture: &str) -> Parked {
        let machine = Machine::named(architecture).filter(|_| most > 0);
        if machine.is_none() && most > 0 {
            log::info!("networks are not parked: no program for '{architecture}'");
        }
        let (bell, rung) = bounded(1);
        Parked { table: Mutex::new(Table::new(networks, most, from_the_start(memory).min(most))), bell, rung, machine }
    }

    /// A ready network for the container named `user`, as a `NetworkMode`.
    pub(super) fn take(&self, network: Option<&str>, user: &str) -> Option<String> {
        self.machine?;
        let taken = self.table.lock().take(network, user, Instant::now());
        match &taken {
            Some(_) => {
                PARKED.ready.add(-1);
                PARKED.used.add(1);
            }
            None => PARKED.missed.add(1),
        }
        taken.map(|id| format!("container:{id}"))
    }

    /// The container of that name is gone.
    pub(super) fn release(&self, user: &str) {
        if self.table.lock().release(user) {
            self.ring();
        }
    }

    /// A start begins; it ends with the guard.
    pub(super) fn starting(&self) -> Starting<'_> {
        self.table.lock().start_begun();
        Starting(self)
    }

    /// The server goes: no more are made, ready ones are removed.
    pub(super) fn close(&self) {
        self.table.lock().close();
        self.tell();
        self.ring();
    }

    fn ring(&self) {
        // Full: it rings already.
        let _ = self.bell.try_send(());
    }

    fn tell(&self) {
        PARKED.ready.set(i64::try_from(self.table.lock().ready()).unwrap_or(i64::MAX));
    }

    #[cfg(test)]
    pub(super) fn ready(&self) -> Vec<String> {
        self.table.lock().ready_ids()
    }
}

impl Crew {
    /// Starts the thread; `None` where there is nothing to do.
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Option<Crew>, SpawnError> {
        let Some(machine) = shared.parked.machine else { return Ok(None) };
        let worker = Worker { shared: shared.clone(), machine };
        Ok(Some(Crew { thread: spawn("docker-parked", move || worker.lead())? }))
    }

    /// Nobody uses a network any more: removes what is left (bounded), joins.
    pub(super) fn join(self, shared: &Shared) {
        shared.parked.table.lock().end(Instant::now() + LAST);
        shared.parked.ring();
        self.thread.join();
    }
}

struct Worker {
    shared: Arc<Shared>,
    machine: Machine,
}

impl Worker {
    /// The leader works alone, and calls in the others when the server goes.
    fn lead(&self) {
        let mut others: Option<Vec<Thread>> = None;
        while self.round() {
            if others.is_none() && self.shared.parked.table.lock().is_closing() {
                // No threads to be had: the leader does it alone.
                others = Some((1..CREW).filter_map(|n| self.helper(n).ok()).collect());
            }
        }
        others.into_iter().flatten().for_each(Thread::join);
        let left = self.shared.parked.table.lock().doomed();
        if left > 0 {
            log::error!("{left} parked networks are left behind; the next start removes them");
        }
    }

    fn helper(&self, n: usize) -> Result<Thread, SpawnError> {
        let worker = Worker { shared: self.shared.clone(), machine: self.machine };
        spawn(format!("docker-parked-{n}"), move || while worker.round() {})
    }

    /// One piece of work, or a wait for some; false at the end.
    fn round(&self) -> bool {
        let parked = &self.shared.parked;
        let (next, more) = {
            let mut table = parked.table.lock();
            (table.next(Instant::now()), table.is_closing() && table.doomed() > 0)
        };
        // A ring wakes one of the crew: it wakes the next.
        if more || next == Next::End {
            parked.ring();
        }
        match next {
            Next::End => return false,
            Next::Wait(until) => self.wait(until),
            work => self.work(work),
        }
        true
    }

    fn wait(&self, until: Option<Instant>) {
        let rung = &self.shared.parked.rung;
        match until {
            None => drop(rung.recv()),
            Some(at) => drop(rung.recv_deadline(at)),
        }
    }

    fn work(&self, next: Next) {
        match next {
            Next::Make(network) => self.make(network),
            Next::Remove(id) => self.remove(&id),
            Next::Orphan(name) => {
                log::warn!("container {name} is removed: what held its network has ended");
                if let Err(e) = self.shared.engine.remove(&name, WITHIN) {
                    log::error!("{e}");
                }
            }
            Next::Wait(_) | Next::End => {}
        }
    }

    fn make(&self, network: Option<String>) {
        let parked = &self.shared.parked;
        match self.bring_up(network.as_deref()) {
            Ok(id) => parked.table.lock().made(network.as_deref(), id),
            Err(error) => {
                let delay = parked.table.lock().failed(network.as_deref(), Instant::now());
                match delay {
                    Some(delay) => log::warn!("no network is parked, starts make their own ({error}); next try in {} s", delay.as_secs()),
                    None => log::debug!("no network is parked: {error}"),
                }
            }
        }
        parked.tell();
    }

    fn bring_up(&self, network: Option<&str>) -> Result<String, EngineError> {
        let engine = &self.shared.engine;
        let name = format!("hob-parked-{}", Id::new());
        let body = self.body(network);
        let made = match engine.create(&name, &body, WITHIN) {
            Err(e) if e.is_gone() && e.message().contains("No such image") => {
                self.load(&self.shared.images)?;
                engine.create(&name, &body, WITHIN)
            }
            done => done,
        };
        let id = made.inspect_err(|_| self.shared.discard(&name, false))?;
        // Known before it runs, so that no end goes unseen.
        self.shared.exits.register(&id, Arc::new(Death { shared: Arc::downgrade(&self.shared), id: id.clone() }));
        engine.start(&id, WITHIN).inspect_err(|_| {
            self.shared.exits.cancel(&id);
            self.shared.discard(&id, true);
        })?;
        Ok(id)
    }

    fn load(&self, images: &Images) -> Result<(), EngineError> {
        let malformed = |e: std::io::Error| EngineError::new(super::Op::LoadImage, "parked", Fault::Malformed { what: e.to_string() });
        let archive = self.machine.archive().map_err(malformed)?;
        images.load(&mut archive.as_slice()).map(drop)
    }

    /// Nothing but a network: no rights, nothing to write on, no output.
    fn body(&self, network: Option<&str>) -> Value {
        let mut labels = self.shared.labels();
        labels.insert(LABEL_PARKED.to_owned(), "1".into());
        let mut body = json!({
            "Image": self.machine.image(),
            "User": "65534:65534",
            "Labels": labels,
            "HostConfig": {
                "ReadonlyRootfs": true, "CapDrop": ["all"], "SecurityOpt": ["no-new-privileges"], "LogConfig": {"Type": "none", "Config": {}},
            },
        });
        match network {
            Some(network) => body["HostConfig"]["NetworkMode"] = network.into(),
            // Who joins gets this name.
            None => body["Hostname"] = self.shared.hostname.as_str().into(),
        }
        body
    }

    fn remove(&self, id: &str) {
        self.shared.exits.cancel(id);
        let parked = &self.shared.parked;
        let within = if parked.table.lock().is_closing() { LAST } else { WITHIN };
        if let Err(e) = self.shared.engine.remove(id, within) {
            log::warn!("{e}");
            self.shared.discard(id, true);
        }
        parked.tell();
    }
}

/// Told when a parked container ended by itself.
struct Death {
    shared: Weak<Shared>,
    id: String,
}

impl ExitSink for Death {
    fn exited(&self, exit: Exit) {
        let Some(shared) = self.shared.upgrade() else { return };
        let user = shared.parked.table.lock().died(&self.id);
        log::warn!("parked network {} has ended ({exit}){}", self.id, if user.is_some() { ", in use" } else { "" });
        shared.parked.tell();
        shared.parked.ring();
    }
}

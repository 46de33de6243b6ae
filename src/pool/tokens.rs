//! Memory and CPU reservations: who may have a container made, in which order.
//!
//! `Ledger` is the pure part: totals, what is held by whom, the line of those
//! who wait and the rule for who is next. `Tokens` puts it behind one
//! parking_lot mutex and condvar. INVARIANT: used + free = total, always; a
//! `Token` gives back exactly once, on drop.
//!
//! Who is next: the waiting queue that holds least; among equals the one whose
//! caller has waited longest. Nobody is passed: what the next one needs is
//! kept for it until it fits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::metrics::UTILISATION;

use super::sync::{Condvar, Mutex, MutexGuard};

/// An amount of memory and CPU. All arithmetic is checked or saturating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    pub mib: u64,
    pub mcpu: u64,
}

impl Need {
    /// Whether `self` fits into `room`.
    pub fn fits(self, room: Need) -> bool {
        self.mib <= room.mib && self.mcpu <= room.mcpu
    }

    /// `self - other`, each not below zero.
    pub fn minus(self, other: Need) -> Need {
        Need { mib: self.mib.saturating_sub(other.mib), mcpu: self.mcpu.saturating_sub(other.mcpu) }
    }

    /// `self + other`, saturating.
    pub fn plus(self, other: Need) -> Need {
        Need { mib: self.mib.saturating_add(other.mib), mcpu: self.mcpu.saturating_add(other.mcpu) }
    }

    pub fn is_zero(self) -> bool {
        self.mib == 0 && self.mcpu == 0
    }
}

/// Told when its place was granted or became the next one. Must not block.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

struct Waiting {
    place: u64,
    owner: u64,
    need: Need,
    since: Instant,
    granted: bool,
    notify: Notify,
}

#[derive(Default)]
struct Ledger {
    total: Need,
    used: Need,
    /// Part of `used` whose containers are on their way out.
    leaving: Need,
    held: HashMap<u64, Need>,
    line: Vec<Waiting>,
    next_place: u64,
}

impl Ledger {
    fn free(&self) -> Need {
        self.total.minus(self.used)
    }

    fn take(&mut self, owner: u64, need: Need) {
        self.used = self.used.plus(need);
        let held = self.held.entry(owner).or_default();
        *held = held.plus(need);
    }

    fn give_back(&mut self, owner: u64, need: Need, leaving: bool) {
        self.used = self.used.minus(need);
        if leaving {
            self.leaving = self.leaving.minus(need);
        }
        if let Some(held) = self.held.get_mut(&owner) {
            *held = held.minus(need);
            if held.is_zero() {
                self.held.remove(&owner);
            }
        }
    }

    /// The place to be served next: least held first, then longest wait.
    fn next(&self) -> Option<usize> {
        let key = |w: &Waiting| (self.held.get(&w.owner).map_or(0, |h| h.mib), w.since, w.place);
        (0..self.line.len()).filter(|&i| !self.line[i].granted).min_by_key(|&i| key(&self.line[i]))
    }

    /// Grants as many places as fit, in order. Returns whom to tell.
    fn grant(&mut self) -> Vec<Notify> {
        let mut told = Vec::new();
        while let Some(i) = self.next() {
            if !self.line[i].need.fits(self.free()) {
                // The new head may have to make room: let it look.
                told.push(self.line[i].notify.clone());
                break;
            }
            self.line[i].granted = true;
            let (owner, need) = (self.line[i].owner, self.line[i].need);
            self.take(owner, need);
            told.push(self.line[i].notify.clone());
        }
        told
    }
}

/// The node's reservations.
pub struct Tokens {
    ledger: Mutex<Ledger>,
    changed: Condvar,
    /// Somebody waits: read without the lock on every finish.
    contended: AtomicBool,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("usage", &self.usage()).finish()
    }
}

/// A reservation. Dropping it gives it back.
#[derive(Debug)]
pub struct Token {
    tokens: Arc<Tokens>,
    owner: u64,
    need: Need,
    leaving: bool,
}

/// A place in the line. Dropping it leaves the line (and gives back what was
/// granted but not taken).
#[derive(Debug)]
pub struct Place {
    tokens: Arc<Tokens>,
    id: u64,
    owner: u64,
    need: Need,
}

/// What is reserved, for metrics and `/debug/state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub total: Need,
    pub used: Need,
    pub waiting: usize,
}

impl Tokens {
    pub fn new(total: Need) -> Arc<Tokens> {
        let ledger = Ledger { total, ..Ledger::default() };
        publish(&ledger);
        Arc::new(Tokens { ledger: Mutex::new(ledger), changed: Condvar::new(), contended: AtomicBool::new(false) })
    }

    /// Everything there is to give.
    pub fn total(&self) -> Need {
        self.ledger.lock().total
    }

    /// A token at once, unless somebody is in line before or it does not fit.
    pub fn try_take(self: &Arc<Tokens>, owner: u64, need: Need) -> Option<Token> {
        let mut ledger = self.ledger.lock();
        if ledger.next().is_some() || !need.fits(ledger.free()) {
            return None;
        }
        ledger.take(owner, need);
        publish(&ledger);
        Some(Token { tokens: self.clone(), owner, need, leaving: false })
    }

    /// Joins the line. `since` is when the caller it is for began to wait.
    pub fn line_up(self: &Arc<Tokens>, owner: u64, need: Need, since: Instant, notify: Notify) -> Place {
        let mut ledger = self.ledger.lock();
        let id = ledger.next_place;
        ledger.next_place += 1;
        ledger.line.push(Waiting { place: id, owner, need, since, granted: false, notify });
        let told = ledger.grant();
        self.after(ledger, told);
        Place { tokens: self.clone(), id, owner, need }
    }

    /// Whether somebody waits in line (a hint, without the lock).
    pub fn contended(&self) -> bool {
        self.contended.load(Ordering::Relaxed)
    }

    /// Lets the next in line look again: an idle container may have appeared.
    pub fn nudge(&self) {
        let notify = {
            let ledger = self.ledger.lock();
            ledger.next().map(|i| ledger.line[i].notify.clone())
        };
        if let Some(notify) = notify {
            notify();
        }
    }

    /// What each owner holds, in MiB.
    pub fn held_mib(&self) -> HashMap<u64, u64> {
        self.ledger.lock().held.iter().map(|(owner, need)| (*owner, need.mib)).collect()
    }

    pub fn usage(&self) -> Usage {
        let ledger = self.ledger.lock();
        Usage { total: ledger.total, used: ledger.used, waiting: ledger.line.len() }
    }

    /// Waits until nothing is reserved any more. False when the deadline came first.
    pub fn wait_all_returned(&self, deadline: Instant) -> bool {
        let mut ledger = self.ledger.lock();
        while !ledger.used.is_zero() {
            let late;
            (ledger, late) = self.changed.wait_until(ledger, Some(deadline));
            if late {
                return ledger.used.is_zero();
            }
        }
        true
    }

    fn after(&self, ledger: MutexGuard<'_, Ledger>, told: Vec<Notify>) {
        publish(&ledger);
        self.contended.store(ledger.next().is_some(), Ordering::Relaxed);
        drop(ledger);
        self.changed.notify_all();
        for notify in told {
            notify();
        }
    }
}

fn publish(ledger: &Ledger) {
    let (used, free) = (ledger.used, ledger.free());
    let bytes = |mib: u64| i64::try_from(mib.saturating_mul(1 << 20)).unwrap_or(i64::MAX);
    let mcpu = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    UTILISATION.memory_used.set(bytes(used.mib));
    UTILISATION.memory_free.set(bytes(free.mib));
    UTILISATION.cpu_used.set(mcpu(used.mcpu));
    UTILISATION.cpu_free.set(mcpu(free.mcpu));
}

impl Token {
    pub fn need(&self) -> Need {
        self.need
    }

    /// The container behind it is being removed: whoever waits need not evict
    /// more on its account.
    pub fn mark_leaving(&mut self) {
        if !std::mem::replace(&mut self.leaving, true) {
            let mut ledger = self.tokens.ledger.lock();
            ledger.leaving = ledger.leaving.plus(self.need);
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut ledger = self.tokens.ledger.lock();
        ledger.give_back(self.owner, self.need, self.leaving);
        let told = ledger.grant();
        self.tokens.after(ledger, told);
    }
}

impl Place {
    /// The token, once granted.
    pub fn take(&mut self) -> Option<Token> {
        let mut ledger = self.tokens.ledger.lock();
        let at = ledger.line.iter().position(|w| w.place == self.id && w.granted)?;
        ledger.line.swap_remove(at);
        Some(Token { tokens: self.tokens.clone(), owner: self.owner, need: self.need, leaving: false })
    }

    /// Waits for the grant.
    pub fn wait(&mut self, deadline: Instant) -> Option<Token> {
        loop {
            if let Some(token) = self.take() {
                return Some(token);
            }
            let ledger = self.tokens.ledger.lock();
            if ledger.line.iter().any(|w| w.place == self.id && w.granted) {
                continue;
            }
            let (ledger, late) = self.tokens.changed.wait_until(ledger, Some(deadline));
            drop(ledger);
            if late {
                return self.take();
            }
        }
    }

    /// If this place is the next to be served: what is missing, beyond what is
    /// already on its way out. `None` when another is before it.
    pub fn missing(&self) -> Option<Need> {
        let ledger = self.tokens.ledger.lock();
        let next = ledger.next()?;
        (ledger.line[next].place == self.id).then(|| self.need.minus(ledger.free().plus(ledger.leaving)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut ledger = self.tokens.ledger.lock();
        let Some(at) = ledger.line.iter().position(|w| w.place == self.id) else { return };
        let gone = ledger.line.swap_remove(at);
        if gone.granted {
            ledger.give_back(self.owner, self.need, false);
        }
        let told = ledger.grant();
        self.tokens.after(ledger, told);
    }
}

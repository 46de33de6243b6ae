//! The ends that are still to be told, of calls that wait, run or are over: so
//! many at most, and half of that to one host, since nobody but the host decides
//! when they are. What is too much is refused before it is accepted.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::address::host;
use super::database::{Database, LedgerError, id};
use super::record::Accepted;
use crate::call::DetachError;
use crate::model::Id;

#[derive(Debug, Default)]
pub(super) struct Promises(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// Whose end is to be told, with its function and the host.
    calls: HashMap<Id, (Id, Arc<str>)>,
    hosts: HashMap<Arc<str>, usize>,
}

impl Book {
    fn add(&mut self, call: Id, fn_id: Id, url: &str) {
        let host: Arc<str> = host(url).into();
        if self.calls.insert(call, (fn_id, host.clone())).is_none() {
            *self.hosts.entry(host).or_default() += 1;
        }
    }

    fn remove(&mut self, call: &Id) {
        let Some((_, host)) = self.calls.remove(call) else { return };
        if let Some(count) = self.hosts.get_mut(&host) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&host);
            }
        }
    }
}

impl Promises {
    /// Those of the file.
    pub(super) fn of(database: &Database) -> Result<Promises, LedgerError> {
        let mut book = Book::default();
        database.read(|c| {
            let sql = "SELECT id, fn_id, url FROM callbacks UNION ALL SELECT id, fn_id, callback FROM queue WHERE dead = 0 AND callback IS NOT NULL";
            let mut statement = c.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                book.add(id(row, 0)?, id(row, 1)?, row.get_ref(2)?.as_str()?);
            }
            Ok(())
        })?;
        Ok(Promises(Mutex::new(book)))
    }

    /// Promises to tell the call's end, if it wants that and there is room.
    ///
    /// # Errors
    /// See [`DetachError::FullCallbacks`].
    pub(super) fn promise(&self, call: &Accepted, limit: usize) -> Result<(), DetachError> {
        let Some(url) = &call.callback else { return Ok(()) };
        let mut book = self.0.lock();
        let of_host = limit.div_ceil(2);
        if book.hosts.get(host(url).as_str()).is_some_and(|count| *count >= of_host) {
            return Err(DetachError::FullCallbacks { limit: of_host, to: "this host" });
        }
        if book.calls.len() >= limit {
            return Err(DetachError::FullCallbacks { limit, to: "all hosts" });
        }
        book.add(call.id, call.fn_id, url);
        Ok(())
    }

    /// A call that runs again is told of again, whether its last end was told or
    /// not; it is not refused for the limit.
    pub(super) fn again(&self, call: Id, fn_id: Id, url: &str) {
        self.0.lock().add(call, fn_id, url);
    }

    /// It is told, or is not to be.
    pub(super) fn remove(&self, call: &Id) {
        self.0.lock().remove(call);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().calls.len()
    }

    pub(super) fn are_none(&self) -> bool {
        self.0.lock().calls.is_empty()
    }

    /// Nobody is to be told of a function that is no more.
    pub(super) fn forget(&self, fn_id: &Id) {
        let mut book = self.0.lock();
        let gone: Vec<Id> = book.calls.iter().filter(|(_, (of, _))| of == fn_id).map(|(call, _)| *call).collect();
        gone.iter().for_each(|call| book.remove(call));
    }
}

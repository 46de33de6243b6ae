//! Records of calls that went well, many in a row of the database: where a
//! function's calls are many some 40 bytes each instead of 300, and none of the
//! work that a row of its own costs. One that comes alone gains nothing by it:
//! its pack takes as much as a row. What failed, and what is detached, has a row of its own (`calls`).
//!
//! A pack is one function's, sorted by id, and its ids lie within [`SPAN_MS`]:
//! so the packs that may hold an id are few, and found by their last one.

use super::record::{Phases, Record, Status, known_start};
use crate::model::{Id, Timestamp};

/// Between the times of the first and the last id of a pack.
const SPAN_MS: u64 = 1000;
/// Records in a pack at most.
const MOST: usize = 512;
/// Bits of an id below its time.
const BELOW_TIME: u32 = 80;
/// How a pack is written; the first byte of each.
const FORM: u8 = 1;
const STARTS: [&str; 5] = ["", "hot", "waited", "frozen", "cold"];

/// A row of packed records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    pub fn_id: Id,
    pub app_id: Id,
    pub first: Id,
    pub last: Id,
    /// When the first of its calls was made, and the last was made or ended.
    pub oldest: Timestamp,
    pub newest: Timestamp,
    pub count: usize,
    pub data: Vec<u8>,
}

/// The bytes are no pack of this form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a pack of records")]
pub(super) struct NotAPack;

/// Whether a record says nothing that a pack does not.
pub(super) fn fits(record: &Record) -> bool {
    record.status == Status::Success && !record.detached && record.attempts == 0 && record.error.is_none()
}

/// The packs of what has gathered; all of it must fit.
pub fn packed(records: &mut [&Record]) -> Vec<Pack> {
    records.sort_unstable_by(|a, b| (&a.fn_id, &a.app_id, &a.id).cmp(&(&b.fn_id, &b.app_id, &b.id)));
    let together = |a: &Record, b: &Record| (a.fn_id, a.app_id) == (b.fn_id, b.app_id);
    let mut packs = Vec::new();
    let mut rest = &*records;
    while let Some(first) = rest.first() {
        let until = after(&first.id);
        let count = rest.iter().take(MOST).take_while(|r| together(r, first) && r.id < until).count();
        let (these, others) = rest.split_at(count);
        packs.extend(pack(these));
        rest = others;
    }
    packs
}

/// One pack of records that belong together, in the order of their ids.
pub(super) fn pack(records: &[&Record]) -> Option<Pack> {
    let (first, last) = (records.first()?, records.last()?);
    let mut writer = Writer { data: Vec::with_capacity(16 + records.len() * 48), container: None, trigger: None };
    writer.data.push(FORM);
    records.iter().for_each(|record| writer.record(record));
    Some(Pack {
        fn_id: first.fn_id,
        app_id: first.app_id,
        first: first.id,
        last: last.id,
        oldest: records.iter().map(|r| r.created).min()?,
        newest: records.iter().flat_map(|r| [Some(r.created), r.completed]).flatten().max()?,
        count: records.len(),
        data: writer.data,
    })
}

/// The first id that cannot be in a pack whose last may be `id`, or that
/// begins with it.
pub(super) fn after(id: &Id) -> Id {
    Id::of_bits(id.bits().saturating_add(u128::from(SPAN_MS) << BELOW_TIME))
}

/// What is in a pack, in the order of the ids.
pub(super) fn unpacked(fn_id: Id, app_id: Id, data: &[u8]) -> Result<Vec<Record>, NotAPack> {
    let Some((&FORM, data)) = data.split_first() else { return Err(NotAPack) };
    let mut reader = Reader { data, container: None, trigger: None };
    let mut records = Vec::new();
    while !reader.data.is_empty() {
        records.push(reader.record(fn_id, app_id)?);
    }
    Ok(records)
}

/// How an optional id is told.
const NONE: u8 = 0;
const SAME: u8 = 1;
const OTHER: u8 = 2;

struct Writer {
    data: Vec<u8>,
    /// Of the record before, since most are the same.
    container: Option<Id>,
    trigger: Option<Id>,
}

impl Writer {
    fn record(&mut self, r: &Record) {
        self.bits(&r.id);
        self.number(folded(r.created.0.wrapping_sub(made(&r.id))));
        self.time(r.started, r.created);
        self.time(r.completed, r.created);
        self.data.push(STARTS.iter().zip(0..).find(|(known, _)| **known == r.start).map_or(0, |(_, n)| n));
        let p = &r.phases;
        for number in [r.waited_us, r.ran_us, r.request_bytes, r.response_bytes, p.start_us, p.boot_us, p.thaw_us, p.dispatch_us, p.function_us] {
            self.number(number);
        }
        for number in [r.cpu_us, r.memory_peak] {
            self.number(number.map_or(0, |n| n.saturating_add(1)));
        }
        let before = (std::mem::replace(&mut self.container, r.container), std::mem::replace(&mut self.trigger, r.trigger));
        self.id(before.0, r.container);
        self.id(before.1, r.trigger);
    }

    fn bits(&mut self, id: &Id) {
        self.data.extend_from_slice(&id.bits().to_be_bytes());
    }

    /// Seven bits a byte, the lowest first; the highest bit says that more follow.
    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.data.push(n.to_le_bytes()[0] | 0x80);
            n >>= 7;
        }
        self.data.push(n.to_le_bytes()[0]);
    }

    fn time(&mut self, time: Option<Timestamp>, base: Timestamp) {
        self.number(time.map_or(0, |t| folded(t.0.wrapping_sub(base.0)).saturating_add(1)));
    }

    fn id(&mut self, before: Option<Id>, id: Option<Id>) {
        match id {
            None => self.data.push(NONE),
            _ if before == id => self.data.push(SAME),
            Some(id) => {
                self.data.push(OTHER);
                self.bits(&id);
            }
        }
    }
}

struct Reader<'a> {
    data: &'a [u8],
    container: Option<Id>,
    trigger: Option<Id>,
}

impl Reader<'_> {
    fn record(&mut self, fn_id: Id, app_id: Id) -> Result<Record, NotAPack> {
        let id = self.bits()?;
        let created = Timestamp(made(&id).wrapping_add(unfolded(self.number()?)));
        let (started, completed) = (self.time(created)?, self.time(created)?);
        let start = known_start(STARTS.get(usize::from(self.byte()?)).ok_or(NotAPack)?);
        let mut numbers = [0; 9];
        for number in &mut numbers {
            *number = self.number()?;
        }
        let [waited_us, ran_us, request_bytes, response_bytes, start_us, boot_us, thaw_us, dispatch_us, function_us] = numbers;
        let (cpu_us, memory_peak) = (self.number()?.checked_sub(1), self.number()?.checked_sub(1));
        self.container = self.id(self.container)?;
        self.trigger = self.id(self.trigger)?;
        Ok(Record {
            id,
            app_id,
            fn_id,
            detached: false,
            status: Status::Success,
            created,
            started,
            completed,
            attempts: 0,
            start,
            waited_us,
            ran_us,
            request_bytes,
            response_bytes,
            container: self.container,
            error: None,
            trigger: self.trigger,
            phases: Phases { start_us, boot_us, thaw_us, dispatch_us, function_us },
            cpu_us,
            memory_peak,
        })
    }

    fn byte(&mut self) -> Result<u8, NotAPack> {
        let (byte, rest) = self.data.split_first().ok_or(NotAPack)?;
        self.data = rest;
        Ok(*byte)
    }

    fn bits(&mut self) -> Result<Id, NotAPack> {
        let (bits, rest) = self.data.split_first_chunk().ok_or(NotAPack)?;
        self.data = rest;
        Ok(Id::of_bits(u128::from_be_bytes(*bits)))
    }

    fn number(&mut self) -> Result<u64, NotAPack> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(NotAPack)
    }

    fn time(&mut self, base: Timestamp) -> Result<Option<Timestamp>, NotAPack> {
        Ok(self.number()?.checked_sub(1).map(|n| Timestamp(base.0.wrapping_add(unfolded(n)))))
    }

    fn id(&mut self, before: Option<Id>) -> Result<Option<Id>, NotAPack> {
        match self.byte()? {
            NONE => Ok(None),
            SAME => Ok(before),
            OTHER => self.bits().map(Some),
            _ => Err(NotAPack),
        }
    }
}

/// When an id was made.
fn made(id: &Id) -> i64 {
    i64::try_from(id.bits() >> BELOW_TIME).unwrap_or(0)
}

/// Small numbers of either sign as small ones without.
fn folded(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

fn unfolded(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -(n & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids() -> impl Strategy<Value = Id> {
        // Times close together, so that packs have more than one record.
        (1_700_000_000_000u128..1_700_000_004_000, 0..1u128 << BELOW_TIME).prop_map(|(ms, low)| Id::of_bits((ms << BELOW_TIME) | low))
    }

    fn some_ids() -> impl Strategy<Value = Option<Id>> {
        prop_oneof![Just(None), Just(Some(Id::MIN)), ids().prop_map(Some)]
    }

    prop_compose! {
        fn record()(
            id in ids(), function in 0..2u128, container in some_ids(), trigger in some_ids(),
            times in (any::<i32>(), any::<Option<i32>>(), any::<Option<i32>>()), start in 0..STARTS.len(),
            n in any::<[u64; 4]>(), p in any::<[u32; 5]>(), cpu_us in any::<Option<u32>>(), memory_peak in any::<Option<u32>>(),
        ) -> Record {
            let created = Timestamp(made(&id) + i64::from(times.0));
            let later = |span: Option<i32>| span.map(|span| Timestamp(created.0 + i64::from(span)));
            let p = p.map(u64::from);
            Record {
                id, fn_id: Id::of_bits(function), app_id: Id::MIN, detached: false, status: Status::Success, created,
                started: later(times.1), completed: later(times.2), attempts: 0, start: STARTS[start],
                waited_us: n[0], ran_us: n[1], request_bytes: n[2], response_bytes: n[3], container, error: None, trigger,
                phases: Phases { start_us: p[0], boot_us: p[1], thaw_us: p[2], dispatch_us: p[3], function_us: p[4] },
                cpu_us: cpu_us.map(u64::from), memory_peak: memory_peak.map(u64::from),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(records in prop::collection::vec(record(), 0..40)) {
            let mut sorted: Vec<&Record> = records.iter().collect();
            let packs = packed(&mut sorted);
            let mut found = Vec::new();
            for pack in &packs {
                let these = unpacked(pack.fn_id, pack.app_id, &pack.data).expect("its own form");
                prop_assert_eq!((these.len(), these[0].id, these[these.len() - 1].id), (pack.count, pack.first, pack.last));
                prop_assert!(pack.last < after(&pack.first) && these.is_sorted_by_key(|r| r.id));
                prop_assert!(these.iter().all(|r| (pack.oldest..=pack.newest).contains(&r.created)));
                found.extend(these);
            }
            let mut expected = records.clone();
            expected.sort_by_key(|r| (r.fn_id, r.id));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn other_bytes_are_refused_or_are_some_records(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpacked(Id::MIN, Id::MIN, &data);
            let _ = unpacked(Id::MIN, Id::MIN, &[&[FORM], data.as_slice()].concat());
        }
    }

    /// The promise behind the form: a usual record is small.
    #[test]
    fn a_record_is_some_40_bytes() {
        let mut records = Vec::new();
        for n in 0..100u64 {
            let id = Id::new();
            let created = Timestamp(made(&id));
            records.push(Record {
                id,
                fn_id: Id::MIN,
                app_id: Id::MIN,
                detached: false,
                status: Status::Success,
                created,
                started: Some(created),
                completed: Some(Timestamp(created.0 + 3)),
                attempts: 0,
                start: "hot",
                waited_us: 5 + n,
                ran_us: 3000,
                request_bytes: 64,
                response_bytes: 640,
                container: Some(Id::MIN),
                error: None,
                trigger: None,
                phases: Phases { dispatch_us: 20, function_us: 2980, ..Phases::default() },
                cpu_us: None,
                memory_peak: None,
            });
        }
        let mut refs: Vec<&Record> = records.iter().collect();
        let size: usize = packed(&mut refs).iter().map(|p| p.data.len()).sum();
        assert!(size < 100 * 40 + 40, "{size}");
    }
}

//! One share-partition: which records of a partition the members of a share group have, on the node that leads it.
//!
//! ```text
//!                 acquire                    accept, reject, gap, release; lock over; session over
//!   Available ──────────────> Acquired(lock) ──────────────────────────> Moving(write) ─── written ───> kept as told
//!       ^                        |  ^                                                                      |
//!       |                        +--+ renew                                                                |
//!       +------------------- released, and not delivered too often ---------------------------------------+
//!
//!   start                                      end              log end
//!     |== acquired, or kept, or available again =|=== never given ==|
//! ```
//! Between `start` and `end` there are at most as many records as may be under way. Everything below `start` is handled.
//! What moves is written by [`Write`]s, one at a time and in order; only then does it count ([`SharePartition::written`]).
//! Whoever can't have a write written must forget all of this and begin anew with what is kept: nobody knows then what is.
//!
//! It must not know of logs, wire formats and nodes; time is handed in.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::kept::{Cause, Kept, Span};
use super::runs::Runs;

/// What a group has set for itself; handed in with each call, since it may change at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How long a member may keep a record, in nanoseconds.
    pub(crate) lock_ns: u64,
    /// Deliveries of one record.
    pub(crate) max_deliveries: u16,
    /// Records between start and end.
    pub(crate) max_locks: u32,
    /// What is given up is copied before it is archived.
    pub(crate) dead_letters: bool,
}

/// What a member says of records that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is no record at this offset.
    Gap,
    Accept,
    Release,
    Reject,
    /// It needs more time.
    Renew,
}

/// The same for a run of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) first: i64,
    /// Inclusive.
    pub(crate) last: i64,
    pub(crate) verdict: Verdict,
}

/// Records that a member was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acquired {
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// This delivery counted.
    pub(crate) count: u16,
}

/// How much a member takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appetite {
    /// Records.
    pub(crate) most: usize,
    /// Not one more; else the batch of the log that is begun is given whole.
    pub(crate) strict: bool,
}

/// The member does not have these records (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotHeld;

/// A change for the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    /// Grows by one with each.
    pub(crate) number: u64,
    /// Where the share-partition begins: what lies below is handled.
    pub(crate) start: i64,
    pub(crate) spans: Vec<Span>,
}

/// Records that are to be copied before they are archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condemned {
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) count: u16,
    pub(crate) cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Settled(Kept),
    Acquired { count: u16, lock: u64 },
    Moving { to: Kept, write: u64 },
}

/// Nothing kept: available, and never delivered.
const FRESH: Cell = Cell::Settled(Kept::Available { count: 0 });

#[derive(Debug)]
struct Lock {
    member: Arc<str>,
    deadline_ns: u64,
    /// The offsets that it was given for.
    first: i64,
    last: i64,
    /// Records that are still held.
    left: i64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SharePartition {
    start: i64,
    end: i64,
    cells: Runs<Cell>,
    locks: BTreeMap<u64, Lock>,
    deadlines: BTreeSet<(u64, u64)>,
    last_lock: u64,
    /// The number that the next write will have.
    next_write: u64,
    in_flight: Option<u64>,
    /// The next write has something to say.
    dirty: bool,
    /// Some records are to be copied.
    has_condemned: bool,
}

impl SharePartition {
    /// As it was kept.
    pub(crate) fn new(start: i64, spans: &[Span]) -> Self {
        let mut cells = Runs::default();
        for span in spans {
            cells.set(span.first, span.last, Cell::Settled(span.kept));
        }
        cells.cut_below(start);
        let end = cells.last().map_or(start, |last| last.saturating_add(1)).max(start);
        let mut partition = Self {
            start,
            end,
            cells,
            locks: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            last_lock: 0,
            next_write: 1,
            in_flight: None,
            dirty: false,
            has_condemned: spans.iter().any(|span| matches!(span.kept, Kept::Condemned { .. })),
        };
        partition.advance_start();
        partition
    }

    /// Everything below is handled.
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// When a lock ends.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at_ns, _)| *at_ns)
    }

    /// Whether nobody has a record, everything is written, and nothing is to be copied.
    pub(crate) fn is_idle(&self) -> bool {
        self.locks.is_empty() && self.in_flight.is_none() && !self.dirty && !self.has_condemned
    }

    /// The first offset that may be given to somebody, if it is below `upto`.
    pub(crate) fn next_offset(&self, settings: &Settings, upto: i64) -> Option<i64> {
        let last = self.end.min(upto) - 1;
        let free = |(_, _, cell): &(i64, i64, Option<Cell>)| is_available(cell.unwrap_or(FRESH)).is_some();
        if let Some((first, _, _)) = self.cells.cover(self.start, last).into_iter().find(free) {
            return Some(first);
        }
        (self.end < upto && self.end < self.window_end(settings)).then_some(self.end)
    }

    fn window_end(&self, settings: &Settings) -> i64 {
        self.start.saturating_add(i64::from(settings.max_locks))
    }

    /// Gives a member what is available in these batches (first and last offset of each), which were read from `from` on.
    pub(crate) fn acquire(
        &mut self,
        member: &Arc<str>,
        now_ns: u64,
        settings: &Settings,
        appetite: Appetite,
        from: i64,
        batches: &[(i64, i64)],
    ) -> Vec<Acquired> {
        let mut given = Vec::new();
        let mut taken = 0usize;
        let mut cursor = from.max(self.start);
        for (first, last) in batches {
            // Where the log has no batch there is nothing to be given.
            self.archive(cursor, first - 1, settings);
            cursor = cursor.max(last.saturating_add(1));
            let room = appetite.most.saturating_sub(taken);
            if room == 0 {
                break;
            }
            let most = if appetite.strict { room } else { usize::MAX };
            taken += self.take(*first, *last, settings, most, &mut given);
        }
        self.lock(member, now_ns, settings, &mut given)
    }

    /// What of these offsets is available, up to so many records. Gives how many.
    fn take(&self, first: i64, last: i64, settings: &Settings, most: usize, given: &mut Vec<Acquired>) -> usize {
        let last = last.min(self.window_end(settings) - 1);
        let mut left = i64::try_from(most).unwrap_or(i64::MAX);
        let before = left;
        for (first, last, cell) in self.cells.cover(first.max(self.start), last) {
            let Some(count) = is_available(cell.unwrap_or(FRESH)) else { continue };
            let last = last.min(first.saturating_add(left - 1));
            if left <= 0 {
                break;
            }
            left -= last - first + 1;
            given.push(Acquired { first, last, count: count.saturating_add(1) });
        }
        usize::try_from(before - left).unwrap_or(usize::MAX)
    }

    fn lock(
        &mut self,
        member: &Arc<str>,
        now_ns: u64,
        settings: &Settings,
        given: &mut Vec<Acquired>,
    ) -> Vec<Acquired> {
        let (Some(first), Some(last)) = (given.first().map(|run| run.first), given.last().map(|run| run.last)) else {
            return Vec::new();
        };
        let left = given.iter().map(|run| run.last - run.first + 1).sum();
        let lock = self.new_lock(member, now_ns, settings, (first, last), left);
        for run in given.iter() {
            self.cells.set(run.first, run.last, Cell::Acquired { count: run.count, lock });
        }
        self.end = self.end.max(last.saturating_add(1));
        std::mem::take(given)
    }

    fn new_lock(
        &mut self,
        member: &Arc<str>,
        now_ns: u64,
        settings: &Settings,
        (first, last): (i64, i64),
        left: i64,
    ) -> u64 {
        self.last_lock += 1;
        let deadline_ns = now_ns.saturating_add(settings.lock_ns);
        self.locks.insert(self.last_lock, Lock { member: Arc::clone(member), deadline_ns, first, last, left });
        self.deadlines.insert((deadline_ns, self.last_lock));
        self.last_lock
    }

    /// Nobody is to get what of these offsets is available: there is no record, or it belongs to an aborted transaction.
    pub(crate) fn archive(&mut self, first: i64, last: i64, settings: &Settings) {
        let last = last.min(self.window_end(settings) - 1);
        for (first, last, cell) in self.cells.cover(first.max(self.start), last) {
            if is_available(cell.unwrap_or(FRESH)).is_some() {
                self.begin_move(first, last, Kept::Archived);
            }
        }
    }

    /// The log begins later than it did: what is gone is handled. What is on its way is left to its write.
    pub(crate) fn log_start_moved(&mut self, log_start: i64) {
        if log_start <= self.start {
            return;
        }
        let held: Vec<_> = self.cells.within(self.start, log_start - 1).collect();
        for (first, last, cell) in held {
            self.let_go(cell, last - first + 1);
        }
        self.cells.cut_below(log_start);
        self.start = log_start;
        self.end = self.end.max(log_start);
        self.dirty = true;
        self.advance_start();
    }

    /// A member says what has become of records: all of it, or nothing. Gives the write that must be written before this may
    /// be answered, if one must.
    pub(crate) fn acknowledge(
        &mut self,
        member: &Arc<str>,
        now_ns: u64,
        settings: &Settings,
        acks: &[Ack],
    ) -> Result<Option<u64>, NotHeld> {
        for ack in acks {
            let first = ack.first.max(self.start);
            let held = |(_, _, cell): &(i64, i64, Option<Cell>)| match cell {
                Some(Cell::Acquired { lock, .. }) => self.locks.get(lock).is_some_and(|lock| lock.member == *member),
                Some(Cell::Settled(_) | Cell::Moving { .. }) | None => false,
            };
            // Below the start all is handled already: whoever had that was too slow, or the records are gone.
            if !self.cells.cover(first, ack.last.min(self.end)).iter().all(held) || ack.last > self.end {
                return Err(NotHeld);
            }
        }
        let mut moved = false;
        for ack in acks {
            moved |= self.apply(member, now_ns, settings, *ack);
        }
        Ok(moved.then_some(self.next_write))
    }

    fn apply(&mut self, member: &Arc<str>, now_ns: u64, settings: &Settings, ack: Ack) -> bool {
        let mut moved = false;
        let pieces: Vec<_> = self.cells.within(ack.first.max(self.start), ack.last).collect();
        for (first, last, cell) in pieces {
            let Cell::Acquired { count, .. } = cell else { continue };
            let to = match ack.verdict {
                Verdict::Accept => Kept::Acknowledged,
                Verdict::Gap => Kept::Archived,
                Verdict::Release => released(count, settings),
                Verdict::Reject => given_up(count, Cause::Rejected, settings),
                Verdict::Renew => {
                    self.let_go(cell, last - first + 1);
                    let lock = self.new_lock(member, now_ns, settings, (first, last), last - first + 1);
                    self.cells.set(first, last, Cell::Acquired { count, lock });
                    continue;
                }
            };
            self.let_go(cell, last - first + 1);
            self.begin_move(first, last, to);
            moved = true;
        }
        moved
    }

    /// Whoever held so many of these records holds them no more.
    fn let_go(&mut self, cell: Cell, records: i64) {
        let Cell::Acquired { lock: id, .. } = cell else { return };
        let Some(lock) = self.locks.get_mut(&id) else { return };
        lock.left -= records;
        if lock.left <= 0 {
            self.deadlines.remove(&(lock.deadline_ns, id));
            self.locks.remove(&id);
        }
    }

    fn begin_move(&mut self, first: i64, last: i64, to: Kept) {
        self.cells.set(first, last, Cell::Moving { to, write: self.next_write });
        self.end = self.end.max(last.saturating_add(1));
        self.dirty = true;
    }

    /// The session of a member is over: others may have what it has.
    pub(crate) fn release_member(&mut self, member: &str, settings: &Settings) {
        let of_member = self.locks.iter().filter(|(_, lock)| &*lock.member == member);
        for id in of_member.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.release_lock(id, settings);
        }
    }

    /// Locks whose time is over end. Gives whether there were any.
    pub(crate) fn tick(&mut self, now_ns: u64, settings: &Settings) -> bool {
        let mut any = false;
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(at_ns, _)| *at_ns <= now_ns) {
            self.release_lock(id, settings);
            any = true;
        }
        any
    }

    fn release_lock(&mut self, id: u64, settings: &Settings) {
        let Some(lock) = self.locks.remove(&id) else { return };
        self.deadlines.remove(&(lock.deadline_ns, id));
        for (first, last, cell) in self.cells.within(lock.first, lock.last).collect::<Vec<_>>() {
            if let Cell::Acquired { count, lock } = cell
                && lock == id
            {
                self.begin_move(first, last, released(count, settings));
            }
        }
    }

    /// Records that are to be copied; each is archived with [`SharePartition::copied`].
    pub(crate) fn condemned(&self) -> Option<Condemned> {
        if !self.has_condemned {
            return None;
        }
        self.cells.iter().find_map(|(first, last, cell)| match cell {
            Cell::Settled(Kept::Condemned { count, cause }) => Some(Condemned { first, last, count, cause }),
            Cell::Settled(Kept::Available { .. } | Kept::Acknowledged | Kept::Archived)
            | Cell::Acquired { .. }
            | Cell::Moving { .. } => None,
        })
    }

    /// There are copies of these records, or nobody wants any.
    pub(crate) fn copied(&mut self, first: i64, last: i64) {
        for (first, last, cell) in self.cells.within(first, last).collect::<Vec<_>>() {
            if matches!(cell, Cell::Settled(Kept::Condemned { .. })) {
                self.begin_move(first, last, Kept::Archived);
            }
        }
    }

    /// What is to be written now, if there is something and no other write is on its way.
    pub(crate) fn take_write(&mut self) -> Option<Write> {
        if self.in_flight.is_some() || !self.dirty {
            return None;
        }
        let number = self.next_write;
        self.next_write += 1;
        self.in_flight = Some(number);
        self.dirty = false;
        let of_write = |(first, last, cell)| match cell {
            Cell::Moving { to, write } if write == number => Some(Span { first, last, kept: to }),
            Cell::Moving { .. } | Cell::Settled(_) | Cell::Acquired { .. } => None,
        };
        Some(Write { number, start: self.start, spans: self.cells.iter().filter_map(of_write).collect() })
    }

    /// The write that was on its way is written. Gives its number.
    pub(crate) fn written(&mut self) -> Option<u64> {
        let number = self.in_flight.take()?;
        let of_write = |(first, last, cell)| match cell {
            Cell::Moving { to, write } if write == number => Some((first, last, to)),
            Cell::Moving { .. } | Cell::Settled(_) | Cell::Acquired { .. } => None,
        };
        for (first, last, to) in self.cells.iter().filter_map(of_write).collect::<Vec<_>>() {
            self.cells.set(first, last, Cell::Settled(to));
            self.has_condemned |= matches!(to, Kept::Condemned { .. });
        }
        let condemned = |(_, _, cell)| match cell {
            Cell::Settled(Kept::Condemned { .. }) | Cell::Moving { .. } => true,
            Cell::Settled(_) | Cell::Acquired { .. } => false,
        };
        self.has_condemned = self.has_condemned && self.cells.iter().any(condemned);
        self.advance_start();
        Some(number)
    }

    /// The coordinator does the same when it is told: no write need say it.
    fn advance_start(&mut self) {
        while let Some((first, last, Cell::Settled(kept))) = self.cells.first() {
            if first > self.start || !kept.is_final() {
                break;
            }
            self.start = last.saturating_add(1);
            self.cells.cut_below(self.start);
        }
        self.end = self.end.max(self.start);
    }
}

/// Deliveries of a record that may be given to somebody.
fn is_available(cell: Cell) -> Option<u16> {
    match cell {
        Cell::Settled(Kept::Available { count }) => Some(count),
        Cell::Settled(Kept::Acknowledged | Kept::Archived | Kept::Condemned { .. })
        | Cell::Acquired { .. }
        | Cell::Moving { .. } => None,
    }
}

fn released(count: u16, settings: &Settings) -> Kept {
    if count >= settings.max_deliveries {
        given_up(count, Cause::MaxDeliveries, settings)
    } else {
        Kept::Available { count }
    }
}

fn given_up(count: u16, cause: Cause, settings: &Settings) -> Kept {
    if settings.dead_letters { Kept::Condemned { count, cause } } else { Kept::Archived }
}

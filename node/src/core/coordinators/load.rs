//! Reading a partition's records back without holding anything up: a bounded piece per turn, a few coordinators at once.
//!
//! It reads to where the log ended when this node began to lead it. What is durable there may not be committed yet: only
//! when it is does the coordinator serve, so that it never answers from a record that could be taken back (trap 24).

use wherry_wire::types::{LogId, Offset};

use super::seats::{Machine, Office, Phase, Seats};
use crate::core::Core;
use crate::core::store::{LogError, LogInfo, LogStore, Read, ReadToken, ReadUpTo, Served};
use crate::limits::{GROUP_LOAD_BYTES, GROUP_LOAD_RETRY_MS, MAX_GROUP_LOADS};

/// How far a coordinator has read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    next: Offset,
    /// Where the log ended when this node began to lead it.
    upto: Offset,
    step: Step,
}

/// What a load does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Reads, in the next turn.
    Read,
    /// Waits for the disk to bring what it asked for.
    Reading,
    /// Reads at this time: the store had too much to do.
    ReadAt(u64),
    /// Waits until more of the log is durable, or committed. Looked at in every turn.
    Wait,
}

impl Load {
    /// Of a log as it is now; one that is still to be made is empty.
    pub(super) fn of(info: Option<&LogInfo>) -> Self {
        let (next, upto) = info.map_or((Offset(0), Offset(0)), |info| (info.log_start, info.log_end));
        Self { next, upto, step: Step::Read }
    }

    /// The last offset to be read; the one before the first if there are none.
    pub(super) fn last(&self) -> Offset {
        Offset(self.upto.0.saturating_sub(1))
    }
}

impl<M: Machine> Seats<M> {
    /// When a load goes on by itself.
    pub(super) fn load_deadline(&self) -> Option<u64> {
        let loads = self.loading.iter().filter_map(|partition| self.load(*partition));
        let deadlines = loads.filter_map(|(_, load)| match load.step {
            Step::Read => Some(0),
            Step::ReadAt(at_ns) => Some(at_ns),
            Step::Reading | Step::Wait => None,
        });
        deadlines.min()
    }

    /// Whose read this is, if it is one of these.
    pub(crate) fn take_read(&mut self, token: ReadToken) -> Option<i32> {
        let at = self.reads.iter().position(|(awaited, _)| *awaited == token)?;
        Some(self.reads.swap_remove(at).1)
    }

    fn load(&self, partition: i32) -> Option<(LogId, Load)> {
        let seat = self.seats.get(&partition)?;
        match seat.phase {
            Phase::Loading(load) => Some((seat.log, load)),
            Phase::Queued(_) | Phase::Serving | Phase::Damaged => None,
        }
    }

    fn set_step(&mut self, partition: i32, to: Step) {
        if let Some(seat) = self.seats.get_mut(&partition)
            && let Phase::Loading(load) = &mut seat.phase
        {
            load.step = to;
        }
    }

    /// Its place is free for another. A read that is on its way finds nobody.
    pub(super) fn end_load(&mut self, partition: i32) {
        self.loading.retain(|loading| *loading != partition);
        self.reads.retain(|(_, reading)| *reading != partition);
    }

    /// The next that waits to be loaded, if there is a place.
    fn next_load(&mut self) -> Option<i32> {
        if self.loading.len() >= MAX_GROUP_LOADS {
            return None;
        }
        let partition = self.queue.pop_front()?;
        if let Some(seat) = self.seats.get_mut(&partition)
            && let Phase::Queued(load) = seat.phase
        {
            seat.phase = Phase::Loading(load);
            self.loading.push(partition);
        }
        Some(partition)
    }

    fn replay(&mut self, partition: i32, served: &Served) -> Result<(), String> {
        let Some(seat) = self.seats.get_mut(&partition) else { return Ok(()) };
        let Phase::Loading(load) = &mut seat.phase else { return Ok(()) };
        if served.next <= load.next {
            return Err(format!("nothing to read at {}, before its end", load.next));
        }
        for batch in &served.batches {
            seat.machine.replay(batch)?;
        }
        load.next = served.next;
        Ok(())
    }

    /// The node goes on without this partition's coordinator: the others must not suffer, and what it holds must not be
    /// served by half.
    fn damaged(&mut self, partition: i32, why: &str, what: &str) {
        self.end_load(partition);
        let Some(seat) = self.seats.get_mut(&partition) else { return };
        seat.phase = Phase::Damaged;
        // What was read so far is of no use.
        seat.machine.forget();
        tracing::error!(
            log = %seat.log, %why,
            "the {what} of this partition can't be read and are not served; let another replica lead it, or restore its log"
        );
    }
}

impl<S: LogStore> Core<S> {
    /// Begins as many loads as there are places for. Those that have nothing to read are done at once; the others read in
    /// the next turn, however many partitions this node begins to lead in this one.
    pub(crate) fn admit_loads<M: Office<S>>(&mut self) {
        while let Some(partition) = M::seats(self).next_load() {
            self.end_if_loaded::<M>(partition);
        }
    }

    /// Goes on with every load, each by a bounded piece.
    pub(crate) fn load_coordinators<M: Office<S>>(&mut self) {
        let loading = &M::seats(self).loading;
        if loading.is_empty() {
            return;
        }
        for partition in loading.clone() {
            self.load_some::<M>(partition);
        }
        self.admit_loads::<M>();
    }

    /// A read of a load came back from the disk.
    pub(crate) fn load_read_done<M: Office<S>>(&mut self, partition: i32, result: Result<Served, LogError>) {
        M::seats(self).set_step(partition, Step::Read);
        self.take_load::<M>(partition, result);
    }

    fn load_some<M: Office<S>>(&mut self, partition: i32) {
        let Some((log, load)) = M::seats(self).load(partition) else { return };
        match load.step {
            Step::Reading => return,
            Step::ReadAt(at_ns) if at_ns > self.now.monotonic_ns => return,
            Step::Read | Step::ReadAt(_) | Step::Wait => {}
        }
        if load.next < load.upto {
            self.read_some::<M>(partition, log, load.next);
        }
        self.end_if_loaded::<M>(partition);
    }

    /// All is read: the coordinator serves as soon as all is committed.
    fn end_if_loaded<M: Office<S>>(&mut self, partition: i32) {
        let Some((log, load)) = M::seats(self).load(partition) else { return };
        if load.next < load.upto {
            return;
        }
        if self.committed_end(log).is_some_and(|end| end >= load.upto) {
            self.end_of_load::<M>(partition);
        } else {
            M::seats(self).set_step(partition, Step::Wait);
        }
    }

    fn read_some<M: Office<S>>(&mut self, partition: i32, log: LogId, next: Offset) {
        let Some(committed) = self.committed_end(log).filter(|end| *end > next) else {
            return M::seats(self).set_step(partition, Step::Wait);
        };
        match self.store.read(log, next, ReadUpTo::Offset(committed), GROUP_LOAD_BYTES, true) {
            Ok(Read::Ready(served)) => {
                M::seats(self).set_step(partition, Step::Read);
                self.take_load::<M>(partition, Ok(served));
            }
            Ok(Read::Pending(token)) => {
                let seats = M::seats(self);
                seats.reads.push((token, partition));
                seats.set_step(partition, Step::Reading);
            }
            Err(error) => self.take_load::<M>(partition, Err(error)),
        }
    }

    fn take_load<M: Office<S>>(&mut self, partition: i32, result: Result<Served, LogError>) {
        let replayed = match result {
            Ok(served) => M::seats(self).replay(partition, &served),
            Err(LogError::Busy { .. }) => {
                let at_ns = self.now.monotonic_ns.saturating_add(GROUP_LOAD_RETRY_MS * 1_000_000);
                return M::seats(self).set_step(partition, Step::ReadAt(at_ns));
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = replayed {
            M::seats(self).damaged(partition, &why, M::WHAT);
        }
    }

    fn end_of_load<M: Office<S>>(&mut self, partition: i32) {
        let seats = M::seats(self);
        seats.end_load(partition);
        let Some(seat) = seats.seats.get_mut(&partition) else { return };
        seat.phase = Phase::Serving;
        tracing::debug!(partition, epoch = seat.epoch.0, "the {} of this partition are coordinated here", M::WHAT);
        M::loaded(self, partition);
    }
}

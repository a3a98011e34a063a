//! Reading a partition's records back without holding anything up: a bounded piece per turn, a few coordinators at once.
//!
//! It reads to where the log ended when this node began to lead it. What is durable there may not be committed yet: only
//! when it is does the coordinator serve, so that it never answers from a record that could be taken back (trap 24).

use wherry_wire::types::{LogId, Offset};

use super::{GroupDesk, Phase};
use crate::core::store::{LogError, LogInfo, LogStore, Read, ReadToken, ReadUpTo, Served};
use crate::core::{Core, records};
use crate::groups::Groups;
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

impl GroupDesk {
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
        let coordinator = self.coordinators.get(&partition)?;
        match coordinator.phase {
            Phase::Loading(load) => Some((coordinator.log, load)),
            Phase::Queued(_) | Phase::Serving | Phase::Damaged => None,
        }
    }

    fn set_step(&mut self, partition: i32, to: Step) {
        if let Some(coordinator) = self.coordinators.get_mut(&partition)
            && let Phase::Loading(load) = &mut coordinator.phase
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
        if let Some(coordinator) = self.coordinators.get_mut(&partition)
            && let Phase::Queued(load) = coordinator.phase
        {
            coordinator.phase = Phase::Loading(load);
            self.loading.push(partition);
        }
        Some(partition)
    }
}

impl<S: LogStore> Core<S> {
    /// Begins as many loads as there are places for. Those that have nothing to read are done at once; the others read in
    /// the next turn, however many partitions this node begins to lead in this one.
    pub(super) fn admit_loads(&mut self) {
        while let Some(partition) = self.desk.next_load() {
            self.end_if_loaded(partition);
        }
    }

    /// Goes on with every load, each by a bounded piece.
    pub(crate) fn load_groups(&mut self) {
        if self.desk.loading.is_empty() {
            return;
        }
        for partition in self.desk.loading.clone() {
            self.load_some(partition);
        }
        self.admit_loads();
    }

    /// A read of a load came back from the disk.
    pub(crate) fn group_read_done(&mut self, partition: i32, result: Result<Served, LogError>) {
        self.desk.set_step(partition, Step::Read);
        self.take_load(partition, result);
    }

    fn load_some(&mut self, partition: i32) {
        let Some((log, load)) = self.desk.load(partition) else { return };
        match load.step {
            Step::Reading => return,
            Step::ReadAt(at_ns) if at_ns > self.now.monotonic_ns => return,
            Step::Read | Step::ReadAt(_) | Step::Wait => {}
        }
        if load.next < load.upto {
            self.read_some(partition, log, load.next);
        }
        self.end_if_loaded(partition);
    }

    /// All is read: the coordinator serves as soon as all is committed.
    fn end_if_loaded(&mut self, partition: i32) {
        let Some((log, load)) = self.desk.load(partition) else { return };
        if load.next < load.upto {
            return;
        }
        if self.committed_end(log).is_some_and(|end| end >= load.upto) {
            self.loaded(partition);
        } else {
            self.desk.set_step(partition, Step::Wait);
        }
    }

    fn read_some(&mut self, partition: i32, log: LogId, next: Offset) {
        let Some(committed) = self.committed_end(log).filter(|end| *end > next) else {
            return self.desk.set_step(partition, Step::Wait);
        };
        match self.store.read(log, next, ReadUpTo::Offset(committed), GROUP_LOAD_BYTES, true) {
            Ok(Read::Ready(served)) => {
                self.desk.set_step(partition, Step::Read);
                self.take_load(partition, Ok(served));
            }
            Ok(Read::Pending(token)) => {
                self.desk.reads.push((token, partition));
                self.desk.set_step(partition, Step::Reading);
            }
            Err(error) => self.take_load(partition, Err(error)),
        }
    }

    fn take_load(&mut self, partition: i32, result: Result<Served, LogError>) {
        let replayed = match result {
            Ok(served) => self.replay_groups(partition, &served),
            Err(LogError::Busy { .. }) => {
                let at_ns = self.now.monotonic_ns.saturating_add(GROUP_LOAD_RETRY_MS * 1_000_000);
                return self.desk.set_step(partition, Step::ReadAt(at_ns));
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = replayed {
            self.damaged(partition, &why);
        }
    }

    fn replay_groups(&mut self, partition: i32, served: &Served) -> Result<(), String> {
        let Some(coordinator) = self.desk.coordinators.get_mut(&partition) else { return Ok(()) };
        let Phase::Loading(load) = &mut coordinator.phase else { return Ok(()) };
        if served.next <= load.next {
            return Err(format!("nothing to read at {}, before its end", load.next));
        }
        for batch in &served.batches {
            for (key, value) in records::pairs(batch)? {
                let replayed = coordinator.groups.replay(&key.unwrap_or_default(), value.as_deref());
                replayed.map_err(|error| error.to_string())?;
            }
        }
        load.next = served.next;
        Ok(())
    }

    fn loaded(&mut self, partition: i32) {
        let now = self.group_time();
        self.desk.end_load(partition);
        let Some(coordinator) = self.desk.coordinators.get_mut(&partition) else { return };
        coordinator.phase = Phase::Serving;
        let meta = &self.meta;
        let effects = coordinator.groups.loaded(now, |name| meta.topic(name).map(|topic| topic.id));
        tracing::debug!(partition, epoch = coordinator.epoch.0, "the groups of this partition are coordinated here");
        self.desk.set_alarm(partition);
        self.run_group_effects(partition, effects);
    }

    /// The node goes on without this partition's groups: the others must not suffer, and these must not be served by half.
    fn damaged(&mut self, partition: i32, why: &str) {
        self.desk.end_load(partition);
        let Some(coordinator) = self.desk.coordinators.get_mut(&partition) else { return };
        coordinator.phase = Phase::Damaged;
        // What was read so far is of no use.
        if let Ok(empty) = Groups::new(self.desk.settings.clone(), 0) {
            coordinator.groups = empty;
        }
        let log = coordinator.log;
        tracing::error!(
            %log, %why,
            "the groups of this partition can't be read and are not served; let another replica lead it, or restore its log"
        );
    }
}

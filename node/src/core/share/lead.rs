//! The share-partitions of the partitions that this node leads: each is begun when somebody first asks for it, with what its
//! coordinator keeps, and forgotten when the group has no sessions here any more, when the node leads the partition no more,
//! or when a change of it could not be written: then nobody here knows what is kept.
//!
//! ```text
//!  ask ──> Reading ──┬─ something is kept ───────────────────────────────> Open
//!                    └─ nothing ──> Looking (by time) ──> Beginning ────────^
//!  Open ── change ──> write ── written ──> who waits is answered
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wherry_metadata::ShareReset;
use wherry_wire::codec::ResponseError;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::Asker;
use super::requests::PartId;
use crate::core::Core;
use crate::core::store::{LogError, LogStore, Lookup, ReadToken};
use crate::limits::MAX_LED_SHARE_PARTITIONS;
use crate::share::ledger::{Found, Key, Refusal, Request, Response, Writer};
use crate::share::partition::{Settings, SharePartition};

/// A group's view of a log, in the order of logs.
pub(super) type Place = (LogId, Arc<str>);

#[derive(Debug)]
enum Phase {
    Reading,
    /// For the first record of a time.
    Looking,
    /// The first state is being written.
    Beginning(i64),
    Open(SharePartition),
}

/// One share-partition.
#[derive(Debug)]
struct Led {
    /// Tells it from a later one in the same place.
    id: u64,
    epoch: LeaderEpoch,
    state_epoch: i32,
    phase: Phase,
    /// Acknowledgements that wait for a write, in the order of the writes.
    waiting: Vec<(u64, PartId)>,
    /// Its entry among the alarms.
    alarm_ns: Option<u64>,
    /// Nobody has a session any more: forgotten as soon as all is written.
    retired: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    led: BTreeMap<Place, Led>,
    by_id: BTreeMap<u64, Place>,
    by_group: BTreeMap<Arc<str>, BTreeSet<LogId>>,
    alarms: BTreeSet<(u64, u64)>,
    lookups: Vec<(ReadToken, u64)>,
    last_id: u64,
    /// Of reads and writes: they are told apart, and ordered, by it.
    last_sequence: u64,
}

impl Partitions {
    /// When a lock ends.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.alarms.first().map(|(at_ns, _)| *at_ns)
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut Led> {
        self.led.get_mut(self.by_id.get(&id)?)
    }

    fn writer(&mut self, epoch: LeaderEpoch) -> Writer {
        self.last_sequence += 1;
        Writer { leader_epoch: epoch.0, sequence: self.last_sequence }
    }

    fn insert(&mut self, place: Place, epoch: LeaderEpoch) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        let led = Led {
            id,
            epoch,
            state_epoch: 0,
            phase: Phase::Reading,
            waiting: Vec::new(),
            alarm_ns: None,
            retired: false,
        };
        self.by_id.insert(id, place.clone());
        self.by_group.entry(Arc::clone(&place.1)).or_default().insert(place.0);
        self.led.insert(place, led);
        id
    }

    fn remove(&mut self, id: u64) -> Option<(Place, Led)> {
        let place = self.by_id.remove(&id)?;
        let led = self.led.remove(&place)?;
        if let Some(at_ns) = led.alarm_ns {
            self.alarms.remove(&(at_ns, id));
        }
        self.lookups.retain(|(_, of)| *of != id);
        if let Some(logs) = self.by_group.get_mut(&place.1) {
            logs.remove(&place.0);
            if logs.is_empty() {
                self.by_group.remove(&place.1);
            }
        }
        Some((place, led))
    }

    fn set_alarm(&mut self, id: u64) {
        let Some(led) = self.by_id.get(&id).and_then(|place| self.led.get_mut(place)) else { return };
        let Phase::Open(partition) = &led.phase else { return };
        let alarm_ns = partition.next_deadline();
        if led.alarm_ns != alarm_ns {
            if let Some(before_ns) = std::mem::replace(&mut led.alarm_ns, alarm_ns) {
                self.alarms.remove(&(before_ns, id));
            }
            self.alarms.extend(alarm_ns.map(|at_ns| (at_ns, id)));
        }
    }

    fn of_group(&self, group: &str) -> Vec<u64> {
        let Some((group, logs)) = self.by_group.get_key_value(group) else { return Vec::new() };
        logs.iter().filter_map(|log| self.led.get(&(*log, Arc::clone(group)))).map(|led| led.id).collect()
    }
}

impl<S: LogStore> Core<S> {
    /// What a group has set for itself; where it has not, what this node has.
    pub(super) fn share_settings(&self, group: &str) -> Settings {
        let number = |name| self.meta.group_config(group, name).and_then(|value| value.parse::<u32>().ok());
        let config = &self.config;
        let lock_ms = number("share.record.lock.duration.ms").unwrap_or(config.group_share_record_lock_duration_ms);
        let deliveries = number("share.delivery.count.limit").and_then(|count| u16::try_from(count).ok());
        Settings {
            lock_ns: u64::from(lock_ms) * 1_000_000,
            max_deliveries: deliveries.unwrap_or(config.group_share_delivery_count_limit),
            max_locks: number("share.partition.max.record.locks")
                .unwrap_or(config.group_share_partition_max_record_locks),
            dead_letters: self
                .meta
                .group_config(group, "wherry.dead.letter.topic")
                .is_some_and(|topic| !topic.is_empty()),
        }
    }

    /// How long a group's members may keep a record, in milliseconds.
    pub(crate) fn share_lock_ms(&self, group: &str) -> u64 {
        self.share_settings(group).lock_ns / 1_000_000
    }

    /// Whether a group's members see only what transactions have committed.
    pub(super) fn shares_committed(&self, group: &str) -> bool {
        self.meta.group_config(group, "share.isolation.level") == Some("read_committed")
    }

    /// The share-partition, if it is open. Where it is not begun yet, it is from now on: who waits for the log is woken when
    /// it is open.
    ///
    /// # Errors
    /// This node does not lead the partition, or has as many as it may.
    pub(super) fn open_share(
        &mut self,
        group: &Arc<str>,
        log: LogId,
    ) -> Result<Option<&mut SharePartition>, ResponseError> {
        let epoch = self.leads(log)?;
        if !self.may_acknowledge() {
            return Err(ResponseError::NotLeaderOrFollower);
        }
        let place = (log, Arc::clone(group));
        if !self.shares.partitions.led.contains_key(&place) {
            if self.shares.partitions.led.len() >= MAX_LED_SHARE_PARTITIONS {
                return Err(ResponseError::KafkaStorageError);
            }
            let id = self.shares.partitions.insert(place.clone(), epoch);
            let key = Key { group: Arc::clone(group), topic: log.topic, partition: log.partition };
            let writer = self.shares.partitions.writer(epoch);
            self.ask_shares(Asker::Partition(id), Request::Read { key, writer });
        }
        let Some(led) = self.shares.partitions.led.get_mut(&place) else { return Ok(None) };
        led.retired = false;
        match &mut led.phase {
            Phase::Open(partition) => Ok(Some(partition)),
            Phase::Reading | Phase::Looking | Phase::Beginning(_) => Ok(None),
        }
    }

    /// Whose view of which log a share-partition is.
    pub(super) fn share_place(&self, id: u64) -> Option<Place> {
        self.shares.partitions.by_id.get(&id).cloned()
    }

    /// Does something with a share-partition, if it is open.
    pub(super) fn with_share<T>(&mut self, id: u64, act: impl FnOnce(&mut SharePartition) -> T) -> Option<T> {
        match &mut self.shares.partitions.get_mut(id)?.phase {
            Phase::Open(partition) => Some(act(partition)),
            Phase::Reading | Phase::Looking | Phase::Beginning(_) => None,
        }
    }

    /// Somebody waits for a write of this share-partition.
    pub(super) fn await_share_write(&mut self, group: &Arc<str>, log: LogId, write: u64, part: PartId) {
        if let Some(led) = self.shares.partitions.led.get_mut(&(log, Arc::clone(group))) {
            led.waiting.push((write, part));
        }
    }

    /// Something was done to a share-partition: what is to be written is written, and its next alarm set.
    pub(super) fn share_changed(&mut self, group: &Arc<str>, log: LogId) {
        if let Some(id) = self.shares.partitions.led.get(&(log, Arc::clone(group))).map(|led| led.id) {
            self.share_changed_by_id(id);
        }
    }

    pub(super) fn share_changed_by_id(&mut self, id: u64) {
        self.shares.partitions.set_alarm(id);
        if self.with_share(id, |partition| partition.condemned().is_some()) == Some(true) {
            self.shares.letters.want(id);
        }
        let Some(place) = self.shares.partitions.by_id.get(&id).cloned() else { return };
        let Some(led) = self.shares.partitions.led.get_mut(&place) else { return };
        let (epoch, state_epoch) = (led.epoch, led.state_epoch);
        let Phase::Open(partition) = &mut led.phase else { return };
        let Some(write) = partition.take_write() else {
            if led.retired && partition.is_idle() {
                self.shares.partitions.remove(id);
            }
            return;
        };
        let (log, group) = place;
        let key = Key { group, topic: log.topic, partition: log.partition };
        let writer = self.shares.partitions.writer(epoch);
        let (start, spans) = (write.start, write.spans);
        let request = Request::Write { key, writer, state_epoch, initial: false, start, spans };
        self.ask_shares(Asker::Partition(id), request);
    }

    /// The coordinator answers what a share-partition asked.
    pub(super) fn share_partition_answered(&mut self, id: u64, response: Response) {
        let Some(led) = self.shares.partitions.get_mut(id) else { return };
        match (&mut led.phase, response) {
            (_, Response::Refused(refusal)) => self.share_lost(id, refusal),
            (Phase::Reading, Response::Found(Some(found))) => self.share_found(id, &found),
            (Phase::Reading, Response::Found(None)) => self.begin_share(id),
            (Phase::Beginning(start), Response::Done) => {
                let found = Found { state_epoch: 0, start: *start, spans: Vec::new() };
                self.share_found(id, &found);
            }
            (Phase::Open(partition), Response::Done) => {
                let number = partition.written().unwrap_or(u64::MAX);
                let of_write = |(write, _): &mut (u64, PartId)| *write <= number;
                let done: Vec<_> = led.waiting.extract_if(.., of_write).map(|(_, part)| part).collect();
                let log = self.shares.partitions.by_id.get(&id).map(|(log, _)| *log);
                for part in done {
                    self.share_acknowledged(part, None);
                }
                self.share_changed_by_id(id);
                if let Some(log) = log {
                    self.wake_shares(log);
                }
            }
            // Not what was asked: the next question is asked anew.
            (Phase::Reading | Phase::Looking | Phase::Beginning(_) | Phase::Open(_), _) => {
                self.share_lost(id, Refusal::NotAvailable);
            }
        }
    }

    fn share_found(&mut self, id: u64, found: &Found) {
        let Some(place) = self.shares.partitions.by_id.get(&id).cloned() else { return };
        let Some(led) = self.shares.partitions.get_mut(id) else { return };
        led.state_epoch = found.state_epoch;
        led.phase = Phase::Open(SharePartition::new(found.start, &found.spans));
        tracing::debug!(group = %place.1, log = %place.0, start = found.start, "a share-partition is open");
        self.share_changed_by_id(id);
        self.wake_shares(place.0);
    }

    /// Nothing is kept of it: the group says where it begins.
    fn begin_share(&mut self, id: u64) {
        let Some((log, group)) = self.shares.partitions.by_id.get(&id).cloned() else { return };
        let reset = self.meta.group_config(&group, "share.auto.offset.reset").and_then(ShareReset::parse);
        let info = self.store.info(log);
        // What is committed may not be known yet to a new leader: whoever waits asks again.
        let (Some(info), Some(committed)) = (info, self.committed_end(log)) else {
            return self.share_lost(id, Refusal::NotAvailable);
        };
        match reset.unwrap_or(ShareReset::Latest) {
            ShareReset::Earliest => self.begin_share_at(id, info.log_start.0),
            ShareReset::Latest => self.begin_share_at(id, committed.0),
            ShareReset::ByDuration(ms) => {
                let since_ms = self.now.wall_ms.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX)).max(0);
                match self.store.find_offset_by_time(log, since_ms, committed) {
                    Ok(Lookup::Ready(found)) => self.begin_share_at(id, found.map_or(committed.0, |(at, _)| at.0)),
                    Ok(Lookup::Pending(token)) => {
                        if let Some(led) = self.shares.partitions.get_mut(id) {
                            led.phase = Phase::Looking;
                        }
                        self.shares.partitions.lookups.push((token, id));
                    }
                    Err(_) => self.share_lost(id, Refusal::NotAvailable),
                }
            }
        }
    }

    fn begin_share_at(&mut self, id: u64, start: i64) {
        let Some((log, group)) = self.shares.partitions.by_id.get(&id).cloned() else { return };
        let Some(led) = self.shares.partitions.get_mut(id) else { return };
        led.phase = Phase::Beginning(start);
        let epoch = led.epoch;
        let writer = self.shares.partitions.writer(epoch);
        let key = Key { group, topic: log.topic, partition: log.partition };
        let request = Request::Write { key, writer, state_epoch: 0, initial: true, start, spans: Vec::new() };
        self.ask_shares(Asker::Partition(id), request);
    }

    /// A lookup by time came back from the disk. False: it was not one of these.
    pub(crate) fn share_lookup_done(
        &mut self,
        token: ReadToken,
        result: &Result<Option<(Offset, i64)>, LogError>,
    ) -> bool {
        let lookups = &mut self.shares.partitions.lookups;
        let Some(at) = lookups.iter().position(|(awaited, _)| *awaited == token) else { return false };
        let (_, id) = lookups.swap_remove(at);
        let log = self.shares.partitions.by_id.get(&id).map(|(log, _)| *log);
        let latest = log.and_then(|log| self.committed_end(log)).map(|end| end.0);
        match (result, latest) {
            (Ok(Some((offset, _))), _) => self.begin_share_at(id, offset.0),
            (Ok(None), Some(latest)) => self.begin_share_at(id, latest),
            (Ok(None), None) | (Err(_), _) => self.share_lost(id, Refusal::NotAvailable),
        }
        true
    }

    /// Nobody here knows what is kept of a share-partition: it is begun anew when somebody asks for it. What its members have
    /// they have no more.
    fn share_lost(&mut self, id: u64, refusal: Refusal) {
        let Some(((log, group), led)) = self.shares.partitions.remove(id) else { return };
        self.shares.letters.forget(id);
        tracing::debug!(%log, %group, ?refusal, "a share-partition is forgotten");
        let error = match refusal {
            Refusal::FencedLeader => ResponseError::NotLeaderOrFollower,
            // It was reset: what the members have is somebody else's again.
            Refusal::FencedStateEpoch => ResponseError::InvalidRecordState,
            Refusal::Loading | Refusal::NotAvailable | Refusal::NotCoordinator => {
                ResponseError::CoordinatorNotAvailable
            }
            Refusal::TooMany => ResponseError::KafkaStorageError,
        };
        for (_, part) in led.waiting {
            self.share_acknowledged(part, Some(error));
        }
        let was_open = matches!(led.phase, Phase::Open(_));
        if was_open {
            // Whoever waits for records begins it anew.
            self.wake_shares(log);
        } else {
            self.share_unavailable(log, &group, ResponseError::KafkaStorageError);
        }
    }

    /// The leader of a log may be another one.
    pub(super) fn share_leadership_changed(&mut self, log: LogId) {
        let from = (log, Arc::from(""));
        let of_log = self.shares.partitions.led.range(from..).take_while(|((of, _), _)| *of == log);
        let epoch = self.leads(log).ok();
        let lost: Vec<u64> = of_log.filter(|(_, led)| Some(led.epoch) != epoch).map(|(_, led)| led.id).collect();
        for id in lost {
            self.share_lost(id, Refusal::FencedLeader);
        }
    }

    /// The time of locks is over.
    pub(super) fn end_share_locks(&mut self) {
        let now_ns = self.now.monotonic_ns;
        while let Some((_, id)) = self.shares.partitions.alarms.first().copied().filter(|(at_ns, _)| *at_ns <= now_ns) {
            let Some((_, group)) = self.shares.partitions.by_id.get(&id).cloned() else { return };
            let settings = self.share_settings(&group);
            if let Some(Led { phase: Phase::Open(partition), .. }) = self.shares.partitions.get_mut(id) {
                partition.tick(now_ns, &settings);
            }
            self.share_changed_by_id(id);
        }
    }

    /// A member has no session any more: what it has is for others.
    pub(super) fn release_share_member(&mut self, group: &Arc<str>, member: &str) {
        let settings = self.share_settings(group);
        for id in self.shares.partitions.of_group(group) {
            if let Some(Led { phase: Phase::Open(partition), .. }) = self.shares.partitions.get_mut(id) {
                partition.release_member(member, &settings);
            }
            self.share_changed_by_id(id);
        }
    }

    /// A group has no session here any more: others may change what is kept of it, so it is read anew when it has one again.
    pub(super) fn retire_share_group(&mut self, group: &str) {
        for id in self.shares.partitions.of_group(group) {
            if let Some(led) = self.shares.partitions.get_mut(id) {
                led.retired = true;
            }
            self.share_changed_by_id(id);
        }
    }
}

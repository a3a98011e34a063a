//! One membership of a group: its partitions' windows, and the application's receivers that share them.
//!
//! Pure: inputs carry the time, effects are drained by the driver. It must not know HTTP, channels or the cluster.
//!
//! Who gets what: a partition belongs to one receiver at a time, so that its messages are handled in order; it changes hands only while
//! nothing of it is held. Receivers that can take messages get equal shares. All pulls together are one receiver.

mod moves;
mod shares;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use wherry_client::{CommitOffset, ConsumedRecord, TopicPartition};

use super::ack_id::AckId;
use super::progress::Runs;
use super::window::{Acked, Progress, Waiters, Window};
use crate::limits;
pub use moves::Leased;
use shares::Shares;

/// A subscription, by number.
pub type SubId = u64;
/// A unary call, by number.
pub type CallId = u64;

/// Who receives messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Receiver {
    /// A subscription.
    Sub(SubId),
    /// The pulls.
    Pulls,
}

/// Who settles messages and waits for the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A subscription.
    Sub(SubId),
    /// The ack id at this index of a unary call.
    Call(CallId, usize),
}

/// What to do with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is done.
    Ack,
    /// Again, not before this long from now.
    Nack(Duration),
    /// More time: this long from now, or the receiver's ack timeout.
    Extend(Option<Duration>),
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged durably.
    Acknowledged,
    /// Handed back.
    Released,
    /// Has more time.
    Extended,
    /// No longer the caller's.
    Lost,
    /// The commit was refused; the driver knows why.
    Refused,
}

/// A message on its way to the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Names this delivery.
    pub id: AckId,
    /// The message.
    pub record: ConsumedRecord,
}

/// What the driver has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send to a subscription. It gets no more until [`Group::sent`].
    Deliver(SubId, Vec<Outgoing>),
    /// Answer a pull.
    Answer(CallId, Vec<Outgoing>),
    /// Tell the outcome.
    Settled(Caller, AckId, Outcome),
    /// Stop reading these partitions.
    Pause(Vec<TopicPartition>),
    /// Read them again.
    Resume(Vec<TopicPartition>),
}

/// Counted since it was last asked for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Deliveries.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Those that were not the first.
    pub redelivered: u64,
    /// Ack timeouts.
    pub timeouts: u64,
    /// Acknowledgements confirmed.
    pub acknowledged: u64,
    /// Messages handed back.
    pub released: u64,
    /// Acknowledgements that came too late.
    pub lost: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Group {
    session: u64,
    window_messages: usize,
    max_credits: u32,
    generation: i32,
    windows: BTreeMap<u32, Partition>,
    by_partition: HashMap<TopicPartition, u32>,
    /// Generation in which a partition was last given up: what came under it is no longer ours.
    given_up: HashMap<TopicPartition, i32>,
    next_window: u32,
    subs: BTreeMap<SubId, Sub>,
    pulls: VecDeque<Pull>,
    pull_timeout: Duration,
    /// The commit in progress: what becomes durable with it.
    committing: Option<Vec<(u32, i64)>>,
    /// Most bytes that may stand beside an offset.
    beside_bytes: usize,
    /// Partitions that are being moved: what comes of them is from before.
    moving: HashSet<TopicPartition>,
    /// Partitions are about to be taken away; what is held of them may be settled until then.
    revoke_by: Option<Instant>,
    draining: bool,
    effects: Vec<Effect>,
    tally: Tally,
}

#[derive(Debug)]
struct Partition {
    at: TopicPartition,
    window: Window<ConsumedRecord, Receiver, Waiter>,
    owner: Option<Receiver>,
    /// Generation under which the ownership began.
    since: i32,
    revoking: bool,
    paused: bool,
}

#[derive(Debug)]
struct Sub {
    credits: u32,
    ack_timeout: Duration,
    /// A frame is on its way that has to leave first.
    busy: bool,
    /// Settles what it has, gets no more.
    finishing: bool,
    /// Its credits are what this leaves beside the messages that it has not settled.
    window: Option<u32>,
}

#[derive(Debug)]
struct Pull {
    id: CallId,
    max: usize,
    ack_timeout: Duration,
}

/// Someone who waits for an acknowledgement, and which delivery they acknowledged.
#[derive(Debug, Clone, Copy)]
struct Waiter {
    caller: Caller,
    attempt: u32,
}

impl Group {
    /// A membership that owns nothing yet.
    #[must_use]
    pub fn new(session: u64, window_messages: usize, max_credits: u32) -> Self {
        Self {
            session,
            window_messages,
            max_credits,
            generation: -1,
            windows: BTreeMap::new(),
            by_partition: HashMap::new(),
            given_up: HashMap::new(),
            next_window: 0,
            subs: BTreeMap::new(),
            pulls: VecDeque::new(),
            pull_timeout: limits::ACK_TIMEOUT_DEFAULT,
            committing: None,
            beside_bytes: limits::BESIDE_BYTES,
            moving: HashSet::new(),
            revoke_by: None,
            draining: false,
            effects: Vec::new(),
            tally: Tally::default(),
        }
    }

    // Receivers.

    /// A subscription opens.
    pub fn subscribe(&mut self, id: SubId, credits: u32, ack_timeout: Duration) {
        let credits = credits.min(self.max_credits);
        self.subs.insert(id, Sub { credits, ack_timeout, busy: false, finishing: false, window: None });
    }

    /// A subscription has as many credits as this leaves beside the messages that it has not settled.
    pub fn bound(&mut self, id: SubId, window: u32) {
        if let Some(sub) = self.subs.get_mut(&id) {
            sub.window = Some(window.min(self.max_credits));
        }
    }

    fn renew_credits(&mut self) {
        if self.subs.values().all(|sub| sub.window.is_none()) {
            return;
        }
        let mut held: HashMap<SubId, usize> = HashMap::new();
        for partition in self.windows.values() {
            if let Some(Receiver::Sub(id)) = partition.owner {
                *held.entry(id).or_default() += partition.window.held();
            }
        }
        for (id, sub) in &mut self.subs {
            if let Some(window) = sub.window {
                let held = u32::try_from(held.get(id).copied().unwrap_or(0)).unwrap_or(u32::MAX);
                sub.credits = window.saturating_sub(held);
            }
        }
    }

    /// A subscription may get more.
    pub fn credit(&mut self, id: SubId, more: u32) {
        if let Some(sub) = self.subs.get_mut(&id) {
            sub.credits = sub.credits.saturating_add(more).min(self.max_credits);
        }
    }

    /// A subscription can't be sent to for the moment, until [`Group::sent`].
    pub fn hold(&mut self, id: SubId) {
        if let Some(sub) = self.subs.get_mut(&id) {
            sub.busy = true;
        }
    }

    /// The last frame to a subscription has left.
    pub fn sent(&mut self, id: SubId) {
        if let Some(sub) = self.subs.get_mut(&id) {
            sub.busy = false;
        }
    }

    /// A subscription gets no more; what it has not settled goes back.
    pub fn finish(&mut self, id: SubId) {
        if let Some(sub) = self.subs.get_mut(&id) {
            sub.finishing = true;
            self.take_back(Receiver::Sub(id));
        }
    }

    /// A subscription is gone.
    pub fn unsubscribe(&mut self, id: SubId) {
        if self.subs.remove(&id).is_some() {
            self.take_back(Receiver::Sub(id));
        }
    }

    fn take_back(&mut self, from: Receiver) {
        for partition in self.windows.values_mut() {
            if partition.owner == Some(from) {
                partition.window.release(from);
                partition.owner = None;
            }
        }
    }

    /// A pull waits for messages.
    pub fn pull(&mut self, id: CallId, max: usize, ack_timeout: Duration) {
        self.pull_timeout = ack_timeout;
        self.pulls.push_back(Pull { id, max, ack_timeout });
    }

    /// A pull has waited long enough; `false` if it was answered already.
    pub fn end_pull(&mut self, id: CallId) -> bool {
        let before = self.pulls.len();
        self.pulls.retain(|pull| pull.id != id);
        self.pulls.len() < before
    }

    /// These messages did not reach the application.
    pub fn undelivered(&mut self, messages: &[Outgoing]) {
        for id in messages.iter().map(|message| message.id) {
            if let Some(partition) = self.windows.get_mut(&id.window) {
                partition.window.nack(id.offset, id.attempt, None);
            }
        }
    }

    /// No more deliveries; settling goes on. Pulls that wait are answered.
    pub fn drain(&mut self) {
        self.draining = true;
        for pull in std::mem::take(&mut self.pulls) {
            self.effects.push(Effect::Answer(pull.id, Vec::new()));
        }
    }

    /// Whether anybody receives.
    #[must_use]
    pub fn has_receivers(&self) -> bool {
        !self.subs.is_empty() || !self.pulls.is_empty()
    }

    /// Whether messages are out, or acknowledgements wait to be durable.
    #[must_use]
    pub fn has_open_business(&self) -> bool {
        self.committing.is_some() || self.windows.values().any(|p| p.window.held() > 0 || p.window.commit_due())
    }

    /// Whether acknowledgements wait to be durable.
    #[must_use]
    pub fn has_uncommitted(&self) -> bool {
        self.committing.is_some() || self.windows.values().any(|p| p.window.commit_due())
    }

    // Settling.

    /// The application settles a delivery.
    pub fn settle(&mut self, caller: Caller, id: AckId, verb: Verb, now: Instant) {
        let window = if id.session == self.session { self.windows.get_mut(&id.window) } else { None };
        let Some(partition) = window else {
            return self.settled(caller, id, Outcome::Lost);
        };
        let window = &mut partition.window;
        let outcome = match verb {
            Verb::Ack => match window.ack(id.offset, id.attempt, Waiter { caller, attempt: id.attempt }) {
                Acked::Waiting => return,
                Acked::Confirmed => Outcome::Acknowledged,
                Acked::Lost => Outcome::Lost,
            },
            Verb::Nack(delay) => {
                let not_before = (!delay.is_zero()).then(|| now + delay);
                if window.nack(id.offset, id.attempt, not_before) { Outcome::Released } else { Outcome::Lost }
            }
            Verb::Extend(by) => {
                let default = match partition.owner {
                    Some(Receiver::Sub(sub)) => self.subs.get(&sub).map_or(self.pull_timeout, |sub| sub.ack_timeout),
                    Some(Receiver::Pulls) | None => self.pull_timeout,
                };
                let until = now + by.unwrap_or(default);
                if window.extend(id.offset, id.attempt, until) { Outcome::Extended } else { Outcome::Lost }
            }
        };
        self.settled(caller, id, outcome);
    }

    fn settled(&mut self, caller: Caller, id: AckId, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged => self.tally.acknowledged += 1,
            Outcome::Released => self.tally.released += 1,
            Outcome::Lost => self.tally.lost += 1,
            Outcome::Extended | Outcome::Refused => {}
        }
        self.effects.push(Effect::Settled(caller, id, outcome));
    }

    fn tell(&mut self, window: u32, waiting: Vec<(i64, Waiters<Waiter>)>, outcome: Outcome) {
        for (offset, waiters) in waiting {
            for Waiter { caller, attempt } in waiters {
                let id = AckId { session: self.session, window, attempt, offset };
                self.settled(caller, id, outcome);
            }
        }
    }

    /// The next commit, if one is due and none is in progress: a generation, and how far each partition is.
    pub fn commit(&mut self) -> Option<(i32, Vec<CommitOffset>)> {
        if self.committing.is_some() {
            return None;
        }
        let (mut due, mut next) = (Vec::new(), Vec::new());
        for (id, partition) in &mut self.windows {
            if let Some(progress) = partition.window.progress(self.beside_bytes) {
                due.push((*id, progress.next));
                next.push(offset(&partition.at, progress));
            }
        }
        if due.is_empty() {
            return None;
        }
        self.committing = Some(due);
        Some((self.generation, next))
    }

    /// The commit in progress is durable.
    pub fn commit_done(&mut self) {
        for (id, next) in self.committing.take().unwrap_or_default() {
            if let Some(partition) = self.windows.get_mut(&id) {
                let confirmed = partition.window.committed(next);
                self.tell(id, confirmed, Outcome::Acknowledged);
            }
        }
    }

    /// The commit in progress failed, and will be tried again.
    pub fn commit_failed(&mut self) {
        for (id, _) in self.committing.take().unwrap_or_default() {
            if let Some(partition) = self.windows.get_mut(&id) {
                partition.window.not_committed();
            }
        }
    }

    /// The cluster takes less beside an offset than was tried.
    pub fn say_less(&mut self) {
        self.beside_bytes /= 2;
    }

    /// The commit in progress was refused for good: those who wait are told.
    pub fn commit_refused(&mut self) {
        for (id, _) in self.committing.take().unwrap_or_default() {
            if let Some(partition) = self.windows.get_mut(&id) {
                let waiting = partition.window.uncommittable();
                self.tell(id, waiting, Outcome::Refused);
            }
        }
    }

    // Membership.

    /// A new generation is in force.
    pub fn assigned(&mut self, generation: i32, added: &[TopicPartition]) {
        self.generation = generation;
        for at in added {
            let same =
                self.by_partition.get(at).and_then(|id| self.windows.get(id)).is_some_and(|p| p.since == generation);
            if !same {
                self.end_window(at);
                self.open_window(at, generation);
            }
        }
    }

    fn open_window(&mut self, at: &TopicPartition, since: i32) -> u32 {
        let id = self.next_window;
        self.next_window = self.next_window.wrapping_add(1);
        let partition =
            Partition { at: at.clone(), window: Window::new(), owner: None, since, revoking: false, paused: false };
        self.windows.insert(id, partition);
        self.by_partition.insert(at.clone(), id);
        id
    }

    fn end_window(&mut self, at: &TopicPartition) {
        if let Some(id) = self.by_partition.remove(at)
            && let Some(partition) = self.windows.remove(&id)
        {
            let waiting = partition.window.end();
            self.tell(id, waiting, Outcome::Lost);
        }
    }

    /// These partitions are about to go: nothing more of them is delivered; what is out may be settled until `by`.
    pub fn revoking(&mut self, partitions: &[TopicPartition], by: Instant) {
        for at in partitions {
            if let Some(partition) = self.by_partition.get(at).and_then(|id| self.windows.get_mut(id)) {
                partition.revoking = true;
            }
        }
        self.revoke_by = Some(self.revoke_by.map_or(by, |earlier| earlier.min(by)));
    }

    /// Gives up partitions that are to go, once nothing of them is out any more or time is up. `true`: they were given up now, and
    /// the cluster has to be told.
    pub fn give_up_revoked(&mut self, now: Instant) -> bool {
        let Some(by) = self.revoke_by else { return false };
        let mut going = self.windows.iter().filter(|(_, partition)| partition.revoking);
        let unsettled = going.any(|(id, p)| {
            let committing = self.committing.iter().flatten().any(|(committing, _)| committing == id);
            p.window.held() > 0 || p.window.commit_due() || committing
        });
        if unsettled && now < by {
            return false;
        }
        self.revoke_by = None;
        let going = self.windows.values().filter(|partition| partition.revoking);
        let going: Vec<TopicPartition> = going.map(|partition| partition.at.clone()).collect();
        self.lost(self.generation, &going);
        true
    }

    /// These partitions are gone.
    pub fn lost(&mut self, generation: i32, partitions: &[TopicPartition]) {
        for at in partitions {
            self.given_up.insert(at.clone(), generation);
            self.end_window(at);
        }
    }

    /// The membership ended: everything is gone.
    pub fn reset(&mut self) {
        let all: Vec<TopicPartition> = self.by_partition.keys().cloned().collect();
        all.iter().for_each(|at| self.end_window(at));
        self.given_up.clear();
        self.moving.clear();
        self.generation = -1;
        self.revoke_by = None;
        self.committing = None;
    }

    /// Records came. `resumed` knows where the group had left off in a partition, and what was acknowledged above.
    pub fn records(
        &mut self,
        records: Vec<ConsumedRecord>,
        mut resumed: impl FnMut(&TopicPartition) -> Option<(i64, Runs)>,
    ) {
        let mut last: Option<(TopicPartition, u32)> = None;
        let mut full = Vec::new();
        for record in records {
            let id = match &last {
                Some((at, id)) if at.partition == record.partition && at.topic == record.topic => *id,
                _ => {
                    let at = TopicPartition { topic: record.topic.clone(), partition: record.partition };
                    let Some(id) = self.window_for(&at, record.generation) else { continue };
                    if let Some(partition) = self.windows.get_mut(&id)
                        && !partition.window.begun()
                        && let Some((committed, above)) = resumed(&at)
                    {
                        partition.window.resume(committed, above);
                    }
                    last = Some((at, id));
                    id
                }
            };
            let Some(partition) = self.windows.get_mut(&id) else { continue };
            if record.generation < partition.since {
                continue;
            }
            let bytes = record.size();
            partition.window.push(record.offset, bytes, record);
            if !partition.paused && partition.window.len() >= self.window_messages {
                partition.paused = true;
                full.push(partition.at.clone());
            }
        }
        if !full.is_empty() {
            self.effects.push(Effect::Pause(full));
        }
    }

    /// The window of a partition that a record came from; `None` where it is no longer ours.
    fn window_for(&mut self, at: &TopicPartition, generation: i32) -> Option<u32> {
        if self.moving.contains(at) {
            return None;
        }
        if let Some(id) = self.by_partition.get(at) {
            return Some(*id);
        }
        if self.given_up.get(at).is_some_and(|given_up| generation <= *given_up) {
            return None;
        }
        // The cluster hands it to us, so it is ours; the news of the assignment follows.
        Some(self.open_window(at, generation))
    }

    // Time and deliveries.

    /// Time passed, or anything else happened: takes back what timed out, delivers what can be delivered.
    pub fn turn(&mut self, now: Instant) {
        for partition in self.windows.values_mut() {
            self.tally.timeouts += partition.window.tick(now) as u64;
        }
        if !self.draining {
            self.renew_credits();
            self.deliver(now);
        }
        self.resume();
    }

    fn resume(&mut self) {
        let half = self.window_messages / 2;
        let mut room = Vec::new();
        for partition in self.windows.values_mut().filter(|partition| partition.paused) {
            if partition.window.len() <= half {
                partition.paused = false;
                room.push(partition.at.clone());
            }
        }
        if !room.is_empty() {
            self.effects.push(Effect::Resume(room));
        }
    }

    fn deliver(&mut self, now: Instant) {
        let ids: Vec<u32> = self.windows.iter().filter(|(_, p)| p.deliverable(now)).map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return;
        }
        let mut batches: BTreeMap<SubId, Batch> = BTreeMap::new();
        let mut shares = Shares::of(self);
        for id in ids {
            while let Some(receiver) = self.receiver(id, &mut shares) {
                let took = match receiver {
                    Receiver::Sub(sub) => self.fill(id, sub, batches.entry(sub).or_default(), now),
                    Receiver::Pulls => self.answer(id, now),
                };
                if !took {
                    break;
                }
            }
        }
        for (sub, batch) in batches.into_iter().filter(|(_, batch)| !batch.messages.is_empty()) {
            if let Some(sub) = self.subs.get_mut(&sub) {
                sub.busy = true;
            }
            self.effects.push(Effect::Deliver(sub, batch.messages));
        }
    }

    /// Who gets the next messages of a partition.
    fn receiver(&mut self, id: u32, shares: &mut Shares) -> Option<Receiver> {
        let partition = self.windows.get(&id)?;
        let owner = partition.owner;
        if let Some(owner) = owner {
            let over = shares.over(owner);
            if partition.window.held() > 0 {
                // Handed over once what is out has come back.
                return (!over && self.can_take(owner)).then_some(owner);
            }
            if !over && self.can_take(owner) {
                return Some(owner);
            }
        }
        let taker = shares.poorest(|receiver| self.can_take(receiver))?;
        shares.moved(owner, taker);
        self.windows.get_mut(&id)?.owner = Some(taker);
        Some(taker)
    }

    fn can_take(&self, receiver: Receiver) -> bool {
        match receiver {
            Receiver::Sub(id) => self.subs.get(&id).is_some_and(|sub| sub.credits > 0 && !sub.busy && !sub.finishing),
            Receiver::Pulls => !self.pulls.is_empty(),
        }
    }

    /// Moves messages of a partition into the frame of a subscription; `false` when nothing more goes.
    fn fill(&mut self, id: u32, sub_id: SubId, batch: &mut Batch, now: Instant) -> bool {
        let (Some(partition), Some(sub)) = (self.windows.get_mut(&id), self.subs.get_mut(&sub_id)) else {
            return false;
        };
        while sub.credits > 0 {
            if batch.messages.len() >= limits::DELIVERY_MESSAGES || batch.bytes >= limits::DELIVERY_BYTES {
                sub.busy = true;
                return false;
            }
            let taken = partition.window.take(now, Receiver::Sub(sub_id), sub.ack_timeout);
            let Some(taken) = taken else { return false };
            sub.credits -= 1;
            batch.bytes += taken.bytes;
            self.tally.count(taken.attempt, taken.bytes);
            let id = AckId { session: self.session, window: id, attempt: taken.attempt, offset: taken.offset };
            batch.messages.push(Outgoing { id, record: taken.message });
        }
        false
    }

    /// Answers the pull that waits longest with messages of a partition; `false` when there are none.
    fn answer(&mut self, id: u32, now: Instant) -> bool {
        let (Some(partition), Some(pull)) = (self.windows.get_mut(&id), self.pulls.front()) else {
            return false;
        };
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while messages.len() < pull.max && bytes < limits::DELIVERY_BYTES {
            let Some(taken) = partition.window.take(now, Receiver::Pulls, pull.ack_timeout) else { break };
            bytes += taken.bytes;
            self.tally.count(taken.attempt, taken.bytes);
            let id = AckId { session: self.session, window: id, attempt: taken.attempt, offset: taken.offset };
            messages.push(Outgoing { id, record: taken.message });
        }
        if messages.is_empty() {
            return false;
        }
        let pull = pull.id;
        self.pulls.pop_front();
        self.effects.push(Effect::Answer(pull, messages));
        true
    }

    /// How many more messages could be delivered than there are.
    #[must_use]
    pub fn demand(&self, now: Instant) -> usize {
        if self.draining {
            return 0;
        }
        let subs: usize = self.subs.values().filter(|sub| !sub.finishing).map(|sub| sub.credits as usize).sum();
        let pulls: usize = self.pulls.iter().map(|pull| pull.max).sum();
        let ready: usize = self.windows.values().filter(|p| p.deliverable(now)).map(|p| p.window.backlog()).sum();
        (subs + pulls).saturating_sub(ready)
    }

    /// Bytes of messages in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.windows.values().map(|partition| partition.window.bytes()).sum()
    }

    /// When [`Group::turn`] should be called next, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let blocked = |p: &Partition| p.window.blocked_until().filter(|until| *until > now);
        let windows = self.windows.values().flat_map(|p| [p.window.next_timeout(), blocked(p)]);
        windows.flatten().chain(self.revoke_by).min()
    }

    /// What has to be done, in order.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What was counted since the last call.
    pub fn tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }
}

impl Partition {
    fn deliverable(&self, now: Instant) -> bool {
        self.window.backlog() > 0
            && !self.revoking
            && !self.window.held_back()
            && self.window.blocked_until().is_none_or(|until| until <= now)
    }
}

impl Tally {
    fn count(&mut self, attempt: u32, bytes: usize) {
        self.delivered += 1;
        self.delivered_bytes += bytes as u64;
        self.redelivered += u64::from(attempt > 1);
    }
}

#[derive(Debug, Default)]
struct Batch {
    messages: Vec<Outgoing>,
    bytes: usize,
}

fn offset(at: &TopicPartition, progress: Progress) -> CommitOffset {
    CommitOffset { at: at.clone(), offset: progress.next, metadata: progress.beside.into() }
}

#[cfg(test)]
mod tests;

//! A partition as its leader sees it: who has how much of it on disk, how far it is committed, who waits for that, and
//! who should be in the in-sync set. Pure: it knows no store, link or clock.
//!
//! ```text
//!            subscribed / progress                    advance               release
//! followers ───────────────────────> durable ends ─────────────> high watermark ─────> acknowledgements
//!                                        │ behind for too long, or caught up
//!                                        └──> proposed in-sync set ──(metadata)──> update / refused
//! ```

use std::collections::VecDeque;

use smallvec::SmallVec;
use uuid::Uuid;
use wherry_wire::types::{LeaderEpoch, Offset};

use super::limits::WATCH_EVERY_NS;
use super::message::Alias;
use super::{LinkId, Member, WaitId};
use crate::mutation::mutated;

/// What the metadata says of a partition that this node leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderRole {
    /// Counts leaderships.
    pub leader_epoch: LeaderEpoch,
    /// Counts changes.
    pub partition_epoch: i32,
    /// All replicas, this node among them.
    pub replicas: Vec<i32>,
    /// The in-sync ones.
    pub isr: Vec<i32>,
    /// `min.insync.replicas` of the topic; more than there are replicas counts as all of them.
    pub min_insync_replicas: usize,
}

/// One subscription of one follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) link: LinkId,
    pub(super) alias: Alias,
}

#[derive(Debug)]
pub(super) struct Follower {
    pub(super) node: i32,
    pub(super) source: Option<Source>,
    /// Of the process behind the newest subscription.
    incarnation: Option<Uuid>,
    /// What is on its disk, by its own word in this epoch; `None` before its first.
    durable_end: Option<Offset>,
    /// When it last had everything; `None`: not in this epoch.
    caught_up_ns: Option<u64>,
    /// When it has this, it was caught up at that time.
    mark: (Offset, u64),
}

impl Follower {
    fn new(node: i32) -> Self {
        Self { node, source: None, incarnation: None, durable_end: None, caught_up_ns: None, mark: (Offset::ZERO, 0) }
    }

    fn has(&self, end: Offset) -> bool {
        self.durable_end.is_some_and(|durable| durable >= end)
    }

    fn lags(&self, log_end: Offset, now_ns: u64, lag_ns: u64) -> bool {
        !self.has(log_end) && self.caught_up_ns.is_none_or(|at| now_ns.saturating_sub(at) > lag_ns)
    }

    fn reported(&mut self, durable_end: Offset, log_end: Offset, now_ns: u64) {
        self.durable_end = Some(durable_end);
        if durable_end >= log_end {
            self.caught_up_ns = Some(now_ns);
        } else if durable_end >= self.mark.0 {
            self.caught_up_ns = self.caught_up_ns.max(Some(self.mark.1));
        } else {
            return;
        }
        self.mark = (log_end, now_ns);
    }
}

/// A change of the in-sync set that is not answered.
#[derive(Debug)]
struct Pending {
    isr: Vec<i32>,
    partition_epoch: i32,
}

#[derive(Debug)]
pub(super) struct Leader {
    own: i32,
    pub(super) role: LeaderRole,
    pending: Option<Pending>,
    followers: SmallVec<[Follower; 2]>,
    high_watermark: Option<Offset>,
    /// What this node knew before it led: true, but perhaps less than others have seen.
    inherited: Option<Offset>,
    epoch_start: Offset,
    log_end: Offset,
    durable_end: Offset,
    /// Ascending by offset.
    waits: VecDeque<(Offset, WaitId)>,
    /// No proposal before this, after a refused one.
    propose_after_ns: u64,
}

impl Leader {
    /// A leader of an epoch that begins where its log ends now.
    pub(super) fn new(own: i32, role: LeaderRole, log_end: Offset, durable_end: Offset, now_ns: u64) -> Self {
        let mut leader = Self {
            own,
            role,
            pending: None,
            followers: SmallVec::new(),
            high_watermark: None,
            inherited: None,
            epoch_start: log_end,
            log_end,
            durable_end,
            waits: VecDeque::new(),
            propose_after_ns: 0,
        };
        leader.match_followers(now_ns);
        leader
    }

    /// A true high watermark, learnt as a follower.
    pub(super) fn inherit(mut self, high_watermark: Option<Offset>) -> Self {
        self.inherited = high_watermark;
        self
    }

    /// The same epoch, with other replicas or in-sync replicas. Returns the subscriptions of those who are no replicas now.
    pub(super) fn update(&mut self, role: LeaderRole, now_ns: u64) -> Vec<Source> {
        // Epochs are compared when a change is applied: an older one was applied, or never will be.
        if self.pending.as_ref().is_some_and(|p| p.partition_epoch < role.partition_epoch) {
            self.pending = None;
        }
        self.role = role;
        self.match_followers(now_ns)
    }

    fn match_followers(&mut self, now_ns: u64) -> Vec<Source> {
        let replicas = &self.role.replicas;
        let gone = self.followers.iter().filter(|f| !replicas.contains(&f.node)).filter_map(|f| f.source).collect();
        self.followers.retain(|f| replicas.contains(&f.node));
        for node in replicas.iter().filter(|n| **n != self.own) {
            if self.followers.iter().all(|f| f.node != *node) {
                let mut follower = Follower::new(*node);
                if self.role.isr.contains(node) {
                    follower.caught_up_ns = Some(now_ns);
                    follower.mark = (self.log_end, now_ns);
                }
                self.followers.push(follower);
            }
        }
        gone
    }

    pub(super) fn followers(&self) -> &[Follower] {
        &self.followers
    }

    pub(super) fn high_watermark(&self) -> Option<Offset> {
        self.high_watermark
    }

    pub(super) fn is_replica(&self, node: i32) -> bool {
        self.role.replicas.contains(&node)
    }

    pub(super) fn is_in_sync(&self, node: i32) -> bool {
        self.role.isr.contains(&node)
    }

    fn follower(&mut self, node: i32) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|f| f.node == node)
    }

    /// The own log moved.
    pub(super) fn own_log(&mut self, log_end: Offset, durable_end: Offset, now_ns: u64) {
        if log_end > self.log_end {
            let before = self.log_end;
            for follower in self.followers.iter_mut().filter(|f| f.has(before)) {
                follower.caught_up_ns = Some(now_ns);
                follower.mark = (log_end, now_ns);
            }
        }
        self.log_end = log_end;
        self.durable_end = if mutated!(OwnEndNotDurable) { log_end } else { durable_end };
    }

    /// A follower whose log is the beginning of this one follows. Returns its former subscription.
    pub(super) fn subscribed(
        &mut self,
        node: i32,
        source: Source,
        incarnation: Uuid,
        durable_end: Offset,
        now_ns: u64,
    ) -> Option<Source> {
        let log_end = self.log_end;
        let follower = self.follower(node)?;
        follower.incarnation = Some(incarnation);
        follower.mark = (log_end, now_ns);
        // Less than it had is believed: its disk may be another one.
        if durable_end >= log_end {
            follower.reported(durable_end, log_end, now_ns);
        } else {
            follower.durable_end = Some(durable_end);
        }
        follower.source.replace(source)
    }

    /// A follower's durable end moved.
    pub(super) fn progress(&mut self, node: i32, source: Source, durable_end: Offset, now_ns: u64) {
        let log_end = self.log_end;
        let Some(follower) = self.follower(node).filter(|f| f.source == Some(source)) else { return };
        if !follower.has(durable_end) {
            follower.reported(durable_end, log_end, now_ns);
        }
    }

    /// A subscription is over. What the follower has on disk, it has.
    pub(super) fn unsubscribed(&mut self, node: i32, source: Source) {
        if let Some(follower) = self.follower(node).filter(|f| f.source == Some(source)) {
            follower.source = None;
        }
    }

    /// Fewer than the replicas can't be required (KIP-966).
    pub(super) fn minimum(&self) -> usize {
        self.role.min_insync_replicas.clamp(1, self.role.replicas.len().max(1))
    }

    /// Trap 9: until a change is answered, whoever is in one of the two sets counts.
    fn counts(&self, node: i32) -> bool {
        let pending = self.pending.as_ref().map(|p| p.isr.contains(&node));
        if mutated!(CountAnyReplica) {
            return self.follower_end(node).is_some();
        }
        match pending {
            Some(pending) if mutated!(OnlyProposedIsr) => pending,
            Some(_) if mutated!(OnlyCommittedIsr) => self.is_in_sync(node),
            Some(pending) => pending || self.is_in_sync(node),
            None => self.is_in_sync(node),
        }
    }

    fn follower_end(&self, node: i32) -> Option<Offset> {
        self.followers.iter().find(|f| f.node == node).and_then(|f| f.durable_end)
    }

    /// Smallest durable end of those who count; `None` while one of them has not reported in this epoch (trap 10).
    fn committed(&self) -> Option<Offset> {
        let mut least = self.durable_end;
        let at_once = self.high_watermark.is_none() && mutated!(EstablishAtOnce);
        if at_once || mutated!(IgnoreFollowers) {
            return Some(least);
        }
        if mutated!(FastestReplica) {
            return self.followers.iter().filter(|f| self.counts(f.node)).filter_map(|f| f.durable_end).max();
        }
        for follower in self.followers.iter().filter(|f| self.counts(f.node)) {
            least = least.min(follower.durable_end?);
        }
        Some(least)
    }

    /// Moves the high watermark, if it may: only forward, only with enough in-sync replicas (KIP-966), and only while
    /// this node knows by its own clock that nobody else leads. Returns whether it moved.
    pub(super) fn advance(&mut self, lease_valid: bool) -> bool {
        let Some(committed) = self.committed().filter(|_| lease_valid) else { return false };
        let enough = self.role.isr.len() >= self.minimum() || mutated!(BelowMinimum);
        let to = if enough { Some(committed) } else { self.inherited.map(|hw| hw.min(self.durable_end)) };
        let moved = to > self.high_watermark;
        self.high_watermark = self.high_watermark.max(to);
        moved
    }

    /// Registers who waits until everything below `offset` is committed.
    pub(super) fn wait_for(&mut self, offset: Offset, id: WaitId) {
        let at = self.waits.iter().rposition(|(o, _)| *o <= offset).map_or(0, |i| i + 1);
        self.waits.insert(at, (offset, id));
    }

    /// Forgets a wait.
    pub(super) fn cancel(&mut self, offset: Offset, id: WaitId) {
        let from = self.waits.partition_point(|(o, _)| *o < offset);
        let found = self.waits.range(from..).take_while(|(o, _)| *o == offset).position(|(_, w)| *w == id);
        if let Some(at) = found {
            self.waits.remove(from + at);
        }
    }

    /// The next wait that is over (INV-4: none without a lease).
    pub(super) fn release(&mut self, lease_valid: bool) -> Option<WaitId> {
        let (offset, _) = self.waits.front()?;
        let committed = self.high_watermark >= Some(*offset) || mutated!(ReleaseOnAppend);
        if !lease_valid || !committed {
            return None;
        }
        self.waits.pop_front().map(|(_, id)| id)
    }

    /// Everyone who waits: the leadership is over.
    pub(super) fn take_waits(&mut self) -> impl Iterator<Item = WaitId> + '_ {
        self.waits.drain(..).map(|(_, id)| id)
    }

    /// Whether a follower out of the in-sync set may join: everything committed is on its disk.
    fn may_join(&self, follower: &Follower, now_ns: u64, lag_ns: u64) -> bool {
        if mutated!(ExpandAnyone) {
            return follower.source.is_some();
        }
        // The committed records of earlier epochs lie below this epoch's start; those of this one below its watermark.
        follower.source.is_some()
            && follower.has(self.epoch_start.max(self.high_watermark.unwrap_or(Offset::ZERO)))
            && !follower.lags(self.log_end, now_ns, lag_ns)
    }

    /// The in-sync set as it should be, if that is another; it is pending from now on.
    pub(super) fn propose(&mut self, now_ns: u64, lag_ns: u64) -> Option<Vec<Member>> {
        if self.pending.is_some() || now_ns < self.propose_after_ns {
            return None;
        }
        let mut isr: Vec<Member> = vec![Member { node: self.own, incarnation: None }];
        let mut changed = false;
        for follower in &self.followers {
            let is_in = self.is_in_sync(follower.node);
            let stays = is_in && !follower.lags(self.log_end, now_ns, lag_ns);
            let joins = !is_in && self.may_join(follower, now_ns, lag_ns);
            if stays || joins {
                // It is this process of the replica that was seen to have caught up, not a later one.
                let incarnation = follower.incarnation.filter(|_| joins);
                isr.push(Member { node: follower.node, incarnation });
            }
            changed |= is_in != (stays || joins);
        }
        if !changed {
            return None;
        }
        let nodes = isr.iter().map(|m| m.node).collect();
        self.pending = Some(Pending { isr: nodes, partition_epoch: self.role.partition_epoch });
        Some(isr)
    }

    /// A proposal was refused, for good.
    pub(super) fn refused(&mut self, partition_epoch: i32, now_ns: u64) {
        if self.pending.as_ref().is_some_and(|p| p.partition_epoch == partition_epoch) {
            self.pending = None;
            self.propose_after_ns = now_ns.saturating_add(WATCH_EVERY_NS);
        }
    }

    /// Whether time alone may change something: somebody is behind, or may join later.
    pub(super) fn needs_watch(&self) -> bool {
        self.followers.iter().any(|f| if self.is_in_sync(f.node) { !f.has(self.log_end) } else { f.source.is_some() })
    }
}

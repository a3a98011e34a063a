//! One group: its states, members and what can be read off them. Moves between states are in `rebalance.rs`.
//!
//! ```text
//!            join                    all joined / time is up          leader's assignment is durable
//!   Empty ---------> PreparingRebalance ---------> CompletingRebalance ---------> Stable
//!     ^  ^              | ^    ^                       |                            |
//!     |  +--------------+ |    +---- join, leave, -----+                            |
//!     |   nobody joined   |          expiry, failed append                          |
//!     |                   +------------------ join, leave, expiry ------------------+
//!     +--> Dead (its tombstones are being written; back to Empty if that fails)
//! ```
//!
//! It must not know how long things may take beyond the deadlines that it keeps, nor how state is encoded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::consumer::{self, ConsumerGroup};
use super::offsets::Offsets;
use super::record::{GroupRecord, MemberRecord};
use super::share::{self, ShareGroup};
use super::subscription;
use super::types::{GroupError, JoinMember, PersistId, Protocol, Record, RequestRef, StateName};

/// Where a group is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// No members.
    Empty,
    /// Members are to (re)join until a deadline.
    PreparingRebalance(Joining),
    /// A generation has begun; the leader is to say who does what.
    CompletingRebalance(Completing),
    /// The assignment is durable. Members who have not fetched it by the deadline are let go.
    Stable {
        /// `None` once all have fetched it.
        sync_deadline_ns: Option<u64>,
    },
    /// The tombstones are on their way.
    Dead {
        /// The write that ends the group.
        deleting: PersistId,
    },
}

/// A rebalance that collects members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Joining {
    /// Those who have not rejoined by then are out.
    pub(super) deadline_ns: u64,
    /// Set while a group that was empty waits for company.
    pub(super) initial: Option<InitialDelay>,
}

/// The wait of a group's first rebalance: each new member prolongs it, up to a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InitialDelay {
    /// No longer than this in any case.
    pub(super) limit_ns: u64,
    /// Somebody came since the last time.
    pub(super) grew: bool,
}

/// A generation whose assignment is not durable yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Completing {
    /// Those who have not sent a SyncGroup by then are out.
    pub(super) sync_deadline_ns: u64,
    /// The write of the leader's assignment, once it has come.
    pub(super) persisting: Option<PersistId>,
}

/// What a member's open request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    Nothing,
    Join(RequestRef),
    Sync(RequestRef),
}

/// How far a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Has never been answered: it does not send heartbeats, and may not know its id.
    New,
    /// Was told its generation.
    Joined,
    /// Has asked for its assignment.
    Synced,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) session_timeout_ms: u32,
    pub(super) rebalance_timeout_ms: u32,
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    pub(super) waiting: Waiting,
    pub(super) progress: Progress,
    /// Out after this, unless a request of its is open.
    pub(super) deadline_ns: u64,
}

impl Member {
    /// Who waits in a request is alive; but a new member may have gone without a word.
    pub(super) fn expired(&self, now_ns: u64) -> bool {
        let kept_alive = self.waiting != Waiting::Nothing && self.progress != Progress::New;
        !kept_alive && self.deadline_ns <= now_ns
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|p| &*p.name == protocol).map(|p| p.metadata.clone()).unwrap_or_default()
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|p| &*p.name == protocol)
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        metadata_bytes(&self.protocols)
    }
}

/// What a member's protocols weigh.
pub(super) fn metadata_bytes(protocols: &[Protocol]) -> usize {
    protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum()
}

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: Arc<str>,
    pub(super) state: State,
    /// Of the state `Empty`: since when; offsets expire by it.
    pub(super) since_ms: i64,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<Arc<str>>,
    pub(super) protocol_name: Option<Arc<str>>,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Static members: instance id to member id.
    pub(super) instances: BTreeMap<Arc<str>, Arc<str>>,
    /// The write of a static member's return. One at a time: each writes the whole group, so that one that fails can
    /// only be undone if no other follows it.
    pub(super) returning: Option<PersistId>,
    /// Member ids given out (KIP-394) that have not joined yet, with the time when they are forgotten.
    pub(super) pending_members: BTreeMap<Arc<str>, u64>,
    pub(super) offsets: Offsets,
    /// A group of the new protocol (KIP-848). The classic one has no members then: its state is `Empty`, or `Dead`.
    pub(super) consumer: Option<Box<ConsumerGroup>>,
    /// A share group (KIP-932). It is neither of the others then, and has no offsets.
    pub(super) share: Option<Box<ShareGroup>>,
    /// The log holds, or may hold, a record of this group: it takes a tombstone to end it.
    pub(super) recorded: bool,
    /// No deadline of this group is earlier; `u64::MAX` for none.
    pub(super) wake_ns: u64,
    /// What `wake_ns` was when the alarm was set.
    pub(super) alarm_ns: u64,
}

impl Group {
    pub(super) fn new(id: Arc<str>, now_ms: i64) -> Self {
        Self {
            id,
            state: State::Empty,
            since_ms: now_ms,
            generation: 0,
            protocol_type: None,
            protocol_name: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            returning: None,
            pending_members: BTreeMap::new(),
            offsets: Offsets::default(),
            consumer: None,
            share: None,
            recorded: false,
            wake_ns: u64::MAX,
            alarm_ns: u64::MAX,
        }
    }

    pub(super) fn state_name(&self) -> StateName {
        if let (State::Empty, Some(consumer)) = (&self.state, &self.consumer) {
            return consumer.state_name();
        }
        if let (State::Empty, Some(share)) = (&self.state, &self.share) {
            return share.state_name();
        }
        match self.state {
            State::Empty => StateName::Empty,
            State::PreparingRebalance(_) => StateName::PreparingRebalance,
            State::CompletingRebalance(_) => StateName::CompletingRebalance,
            State::Stable { .. } => StateName::Stable,
            State::Dead { .. } => StateName::Dead,
        }
    }

    /// Nothing is lost when this group is dropped from memory.
    pub(super) fn is_vacant(&self) -> bool {
        let managed = self.consumer.is_some() || self.share.is_some();
        let nothing = !managed && self.pending_members.is_empty() && self.offsets.is_empty();
        self.state == State::Empty && !self.recorded && nothing
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub(super) fn count_joining(&self) -> usize {
        self.members.values().filter(|m| matches!(m.waiting, Waiting::Join(_))).count()
    }

    /// Whether a member with these protocols fits in.
    pub(super) fn has_common_protocol(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|p| self.members.values().all(|m| m.supports(&p.name)))
    }

    /// The member must exist and not be fenced by a newer one of the same instance id.
    pub(super) fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance) = instance_id {
            match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMemberId),
                Some(current) if &**current != member_id => return Err(GroupError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    pub(super) fn check_generation(&self, generation: i32) -> Result<(), GroupError> {
        if generation == self.generation { Ok(()) } else { Err(GroupError::IllegalGeneration) }
    }

    /// Each member votes for the first of its protocols that all can use; most votes win, then the name.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let choice = member.protocols.iter().find(|p| self.members.values().all(|m| m.supports(&p.name)));
            if let Some(protocol) = choice {
                *votes.entry(&protocol.name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| Arc::clone(name))
    }

    /// The members as their leader sees them.
    pub(super) fn members_for_leader(&self) -> Vec<JoinMember> {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let describe = |m: &Member| JoinMember {
            member_id: Arc::clone(&m.id),
            instance_id: m.instance_id.clone(),
            metadata: m.metadata(protocol),
        };
        self.members.values().map(describe).collect()
    }

    /// The topics that the members read; `None` if that can't be told.
    pub(super) fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        if self.protocol_type.as_deref() != Some(subscription::PROTOCOL_TYPE) {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            // Before the first choice of a protocol any will do: clients subscribe alike in all.
            let protocol = self.protocol_name.as_deref().filter(|p| member.supports(p));
            let protocol = protocol.or_else(|| member.protocols.first().map(|p| &*p.name)).unwrap_or_default();
            topics.extend(subscription::topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }

    pub(super) fn max_rebalance_timeout_ms(&self) -> u32 {
        self.members.values().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0)
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.members.values().map(Member::metadata_bytes).sum()
    }

    /// The group as it is written, with the assignments given or those that the members have.
    pub(super) fn to_record(&self, assignments: Option<&BTreeMap<Arc<str>, Bytes>>) -> GroupRecord {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let describe = |m: &Member| MemberRecord {
            member_id: Arc::clone(&m.id),
            instance_id: m.instance_id.clone(),
            client_id: Arc::clone(&m.client_id),
            client_host: Arc::clone(&m.client_host),
            session_timeout_ms: m.session_timeout_ms,
            rebalance_timeout_ms: m.rebalance_timeout_ms,
            metadata: m.metadata(protocol),
            assignment: match assignments {
                Some(map) => map.get(&m.id).cloned().unwrap_or_default(),
                None => m.assignment.clone(),
            },
        };
        GroupRecord {
            since_ms: self.since_ms,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone(),
            members: self.members.values().map(describe).collect(),
        }
    }

    /// What ends the records of a consumer or share group; nothing, if it is neither.
    pub(super) fn consumer_tombstones(&self) -> Vec<Record> {
        let facts = self.consumer.as_ref().map(|consumer| consumer.tombstones()).unwrap_or_default();
        let share = self.share.as_ref().map(|_| share::record::record(&self.id, None));
        facts.iter().map(|fact| consumer::record::encode(&self.id, fact)).chain(share).collect()
    }

    /// Makes sure that the group is looked at by then.
    pub(super) fn wake_by(&mut self, deadline_ns: u64) {
        self.wake_ns = self.wake_ns.min(deadline_ns);
    }

    /// The earliest deadline there is now.
    pub(super) fn earliest_deadline(&self) -> u64 {
        let members = self.members.values().filter(|m| m.waiting == Waiting::Nothing || m.progress == Progress::New);
        let members = members.map(|m| m.deadline_ns).min();
        let pending = self.pending_members.values().copied().min();
        let state = match &self.state {
            State::Empty | State::Dead { .. } => None,
            State::PreparingRebalance(joining) => Some(joining.deadline_ns),
            State::CompletingRebalance(completing) => Some(completing.sync_deadline_ns),
            State::Stable { sync_deadline_ns } => *sync_deadline_ns,
        };
        let consumer = self.consumer.as_ref().map(|consumer| consumer.earliest_deadline());
        let share = self.share.as_ref().map(|share| share.earliest_deadline());
        members.into_iter().chain(pending).chain(state).chain(consumer).chain(share).min().unwrap_or(u64::MAX)
    }
}

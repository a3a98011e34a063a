//! The types that openraft is instantiated with, and what stands for them in records and messages.
//!
//! The encoded forms are our own, not openraft's: its upgrade must not change what disks and peers hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use openraft::{CommittedLeaderId, EntryPayload, LogId, SnapshotMeta, StoredMembership};
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::executor::Runtime;
use super::{QuorumError, limits};

openraft::declare_raft_types!(
    /// What openraft works on here.
    pub(super) Types:
        D = Payload,
        R = (),
        NodeId = i32,
        Node = Member,
        Entry = openraft::Entry<Types>,
        SnapshotData = Payload,
        AsyncRuntime = Runtime
);

pub(super) type Raft = openraft::Raft<Types>;
pub(super) type Entry = openraft::Entry<Types>;
pub(super) type Vote = openraft::Vote<i32>;
pub(super) type StorageError = openraft::StorageError<i32>;
pub(super) type Membership = openraft::Membership<i32, Member>;
pub(super) type Meta = SnapshotMeta<i32, Member>;

/// Where a member of the quorum is, and which volume it had when it was added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// Id of the member's data directory: a replaced volume has another one.
    pub directory: Uuid,
    /// `host:port` of its listener for other nodes.
    pub addr: String,
}

/// Bytes whose meaning only the owner knows. Cloning shares them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Payload(Rc<[u8]>);

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(PayloadVisitor)
    }
}

/// Takes bytes that lie in the input already: nothing is allocated by a declared length.
struct PayloadVisitor;

impl Visitor<'_> for PayloadVisitor {
    type Value = Payload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Payload, E> {
        Ok(bytes.into())
    }
}

/// Who asks to lead, or leads, in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ballot {
    pub(super) term: u64,
    pub(super) node: i32,
    pub(super) committed: bool,
}

impl From<Vote> for Ballot {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Self {
        if ballot.committed {
            Self::new_committed(ballot.term, ballot.node)
        } else {
            Self::new(ballot.term, ballot.node)
        }
    }
}

/// An entry's place in the log, and the leader that put it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) term: u64,
    pub(super) node: i32,
    pub(super) index: u64,
}

impl From<LogId<i32>> for Position {
    fn from(id: LogId<i32>) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<Position> for LogId<i32> {
    fn from(at: Position) -> Self {
        Self::new(CommittedLeaderId::new(at.term, at.node), at.index)
    }
}

/// Members, and the sets of voters whose majorities must agree (two while they are being changed).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MembershipRecord {
    voters: Vec<BTreeSet<i32>>,
    members: BTreeMap<i32, Member>,
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
        }
    }
}

impl MembershipRecord {
    fn check(&self) -> Result<(), QuorumError> {
        let known = self.voters.iter().flatten().all(|voter| self.members.contains_key(voter));
        if !known || self.voters.len() > 2 {
            return Err(QuorumError::Malformed("a membership with voters that are no members".into()));
        }
        check_members(&self.members)
    }
}

impl From<MembershipRecord> for Membership {
    fn from(membership: MembershipRecord) -> Self {
        Self::new(membership.voters, membership.members)
    }
}

/// Refuses more members, or longer addresses, than a message has room for.
pub(super) fn check_members(members: &BTreeMap<i32, Member>) -> Result<(), QuorumError> {
    let long = members.values().any(|member| member.addr.len() > limits::MAX_ADDR_BYTES);
    if long || members.len() > limits::MAX_MEMBERS {
        return Err(QuorumError::TooLarge { what: "the membership", max: limits::MAX_MEMBERS });
    }
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Content {
    Blank,
    Normal(Payload),
    Membership(MembershipRecord),
}

/// An entry of the log in encoded form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntryRecord {
    pub(super) at: Position,
    content: Content,
}

impl From<&Entry> for EntryRecord {
    fn from(entry: &Entry) -> Self {
        let content = match &entry.payload {
            EntryPayload::Blank => Content::Blank,
            EntryPayload::Normal(payload) => Content::Normal(payload.clone()),
            EntryPayload::Membership(membership) => Content::Membership(membership.into()),
        };
        Self { at: entry.log_id.into(), content }
    }
}

impl TryFrom<EntryRecord> for Entry {
    type Error = QuorumError;

    fn try_from(entry: EntryRecord) -> Result<Self, QuorumError> {
        let payload = match entry.content {
            Content::Blank => EntryPayload::Blank,
            Content::Normal(payload) => EntryPayload::Normal(payload),
            Content::Membership(membership) => {
                membership.check()?;
                EntryPayload::Membership(membership.into())
            }
        };
        Ok(Self { log_id: entry.at.into(), payload })
    }
}

/// Entries that follow one another, the first right after `before`, in terms that never fall.
pub(super) fn check_consecutive(before: Option<Position>, entries: &[EntryRecord]) -> Result<(), QuorumError> {
    let mut last = before;
    for entry in entries {
        let next = last.map_or(Some(0), |last| last.index.checked_add(1));
        let falls = last.is_some_and(|last| (entry.at.term, entry.at.node) < (last.term, last.node));
        if next != Some(entry.at.index) || falls {
            let why = format!("entry {} (term {}) can't follow {last:?}", entry.at.index, entry.at.term);
            return Err(QuorumError::Malformed(why));
        }
        last = Some(entry.at);
    }
    Ok(())
}

/// About how many bytes an entry takes in a message or record.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    const HEADER: usize = 40;
    HEADER
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(payload) => payload.len(),
            EntryPayload::Membership(membership) => {
                membership.nodes().map(|(_, member)| HEADER + member.addr.len()).sum::<usize>()
            }
        }
}

/// What a snapshot covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Coverage {
    pub(super) at: Position,
    membership_at: Option<Position>,
    membership: MembershipRecord,
}

impl Coverage {
    /// `None` for a snapshot of nothing, which is never written.
    pub(super) fn of(meta: &Meta) -> Option<Self> {
        Some(Self {
            at: meta.last_log_id?.into(),
            membership_at: meta.last_membership.log_id().map(Into::into),
            membership: meta.last_membership.membership().into(),
        })
    }

    pub(super) fn into_meta(self) -> Result<Meta, QuorumError> {
        self.membership.check()?;
        let membership = StoredMembership::new(self.membership_at.map(Into::into), self.membership.into());
        Ok(meta(self.at.into(), membership))
    }
}

/// The description of the snapshot of everything up to `last`.
pub(super) fn meta(last: LogId<i32>, membership: StoredMembership<i32, Member>) -> Meta {
    let snapshot_id = format!("{}-{}-{}", last.leader_id.term, last.leader_id.node_id, last.index);
    SnapshotMeta { last_log_id: Some(last), last_membership: membership, snapshot_id }
}

/// The version of records and messages that this code writes, and the only one it reads.
const ENCODING_VERSION: u8 = 1;

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, QuorumError> {
    postcard::to_extend(value, vec![ENCODING_VERSION]).map_err(|error| QuorumError::Malformed(error.to_string()))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, QuorumError> {
    if bytes.len() > max {
        return Err(QuorumError::TooLarge { what: "an encoded record or message", max });
    }
    let Some((&version, rest)) = bytes.split_first() else {
        return Err(QuorumError::Malformed("no bytes at all".into()));
    };
    if version != ENCODING_VERSION {
        return Err(QuorumError::UnknownVersion { version, known: ENCODING_VERSION });
    }
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        Ok((_, left)) => Err(QuorumError::Malformed(format!("{} bytes too many", left.len()))),
        Err(error) => Err(QuorumError::Malformed(error.to_string())),
    }
}

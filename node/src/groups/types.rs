//! What goes into the group coordinator and what comes out: typed requests, responses and effects.
//!
//! It must not know the wire encoding: `node/src/api` translates. Where versions of a request differ, the difference is
//! a field here (`known_member_id_required`, `skip_assignment`), never a version number.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;
pub use wherry_log::Now;

pub use super::consumer::types::{
    AssignedTopic, ConsumerDescribeRequest, ConsumerDescribeResponse, ConsumerHeartbeatRequest,
    ConsumerHeartbeatResponse, DescribedConsumer, DescribedConsumerGroup, TopicPartitions,
};

pub(crate) use super::share::describe::ASSIGNOR as SHARE_ASSIGNOR;
pub use super::share::types::{
    DescribedShareGroup, DescribedSharer, ShareDescribeRequest, ShareDescribeResponse, ShareHeartbeatRequest,
    ShareHeartbeatResponse,
};

/// The caller's name for a request: comes back in its one reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestRef(pub u64);

/// Names one [`Effect::Persist`]; grows by one with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistId(pub u64);

/// One record for the coordinator's compacted log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Says what the record is about; the latest record of a key wins.
    pub key: Bytes,
    /// The state, or `None`: a tombstone.
    pub value: Option<Bytes>,
}

/// What the driver must do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answer a request. Each request gets exactly one, unless it was abandoned.
    Reply {
        /// The request that this answers.
        request: RequestRef,
        /// The answer.
        response: Response,
    },
    /// Append these records to the coordinator's log, after those of all earlier `Persist`s, and say when they are
    /// durable (or why not) with [`Input::Persisted`], in the order of the ids. The records may be cut into several
    /// batches. They are in the order in which a torn append does the least harm.
    Persist {
        /// Comes back in [`Input::Persisted`].
        id: PersistId,
        /// Never empty.
        records: Vec<Record>,
    },
    /// As `Persist`, in a transaction: the batches say so, and whose it is.
    PersistTransactional {
        /// Comes back in [`Input::Persisted`].
        id: PersistId,
        /// Whose transaction.
        transaction: Transaction,
        /// Never empty.
        records: Vec<Record>,
    },
}

/// A producer whose transaction a commit belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Its id.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
}

/// What one step asks for.
pub type Effects = Vec<Effect>;

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A client asks.
    Request {
        /// The caller's name for it; not in use by another unanswered request.
        request: RequestRef,
        /// What it asks.
        body: Request,
    },
    /// The connection of an unanswered request is gone. It may still be answered; the answer goes nowhere.
    Abandoned {
        /// The request.
        request: RequestRef,
    },
    /// The records of an [`Effect::Persist`] are durable, or never will be.
    Persisted {
        /// Which.
        id: PersistId,
        /// `Err`: none of them is counted as written; the coordinator rolls back.
        result: Result<(), PersistError>,
    },
    /// The marker that ends a producer's transaction is committed in the coordinator's log.
    TransactionEnded {
        /// Whose.
        producer_id: i64,
        /// It committed; else it aborted.
        commit: bool,
    },
    /// A topic is gone: so are the offsets committed for it.
    TopicDeleted {
        /// Its name.
        topic: Arc<str>,
    },
    /// The log takes the records of an [`Effect::Persist`] not at all. MUST come before any other input; that the write
    /// failed is said once more, in its turn, by [`Input::Persisted`].
    Refused {
        /// Which.
        id: PersistId,
        /// Why.
        error: PersistError,
    },
    /// Topics have come, or gone, or have more partitions.
    TopicsChanged,
    /// Time has passed: [`super::Groups::next_deadline`] was reached.
    Tick,
}

/// Why records could not be made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PersistError {
    /// The log can't take records now (full, fenced, stopping): clients should ask again, perhaps elsewhere.
    #[error("the log of the group coordinator takes no records now")]
    NotAvailable,
    /// The records are larger than the log's limit: asking again will not help.
    #[error("the records of the group coordinator are too large for its log")]
    TooLarge,
    /// They belong to a transaction that the log does not take: there is a newer producer, or it has ended.
    #[error("the producer of the transaction is fenced")]
    Fenced,
}

/// A request to the coordinator.
#[derive(Debug, Clone)]
pub enum Request {
    /// JoinGroup.
    Join(JoinRequest),
    /// SyncGroup.
    Sync(SyncRequest),
    /// Heartbeat.
    Heartbeat(HeartbeatRequest),
    /// LeaveGroup.
    Leave(LeaveRequest),
    /// OffsetCommit.
    OffsetCommit(OffsetCommitRequest),
    /// OffsetFetch.
    OffsetFetch(OffsetFetchRequest),
    /// OffsetDelete.
    OffsetDelete(OffsetDeleteRequest),
    /// ListGroups.
    List(ListRequest),
    /// DescribeGroups.
    Describe(DescribeRequest),
    /// DeleteGroups.
    Delete(DeleteRequest),
    /// ConsumerGroupHeartbeat.
    ConsumerHeartbeat(ConsumerHeartbeatRequest),
    /// ConsumerGroupDescribe.
    ConsumerDescribe(ConsumerDescribeRequest),
    /// ShareGroupHeartbeat.
    ShareHeartbeat(ShareHeartbeatRequest),
    /// ShareGroupDescribe.
    ShareDescribe(ShareDescribeRequest),
}

/// The answer to a [`Request`] of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// JoinGroup.
    Join(JoinResponse),
    /// SyncGroup.
    Sync(SyncResponse),
    /// Heartbeat.
    Heartbeat(HeartbeatResponse),
    /// LeaveGroup.
    Leave(LeaveResponse),
    /// OffsetCommit.
    OffsetCommit(OffsetCommitResponse),
    /// OffsetFetch.
    OffsetFetch(OffsetFetchResponse),
    /// OffsetDelete.
    OffsetDelete(OffsetDeleteResponse),
    /// ListGroups.
    List(ListResponse),
    /// DescribeGroups.
    Describe(DescribeResponse),
    /// DeleteGroups.
    Delete(DeleteResponse),
    /// ConsumerGroupHeartbeat.
    ConsumerHeartbeat(ConsumerHeartbeatResponse),
    /// ConsumerGroupDescribe.
    ConsumerDescribe(ConsumerDescribeResponse),
    /// ShareGroupHeartbeat.
    ShareHeartbeat(ShareHeartbeatResponse),
    /// ShareGroupDescribe.
    ShareDescribe(ShareDescribeResponse),
}

/// An assignment strategy that a member can use, with what it tells the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// e.g. `range`.
    pub name: Arc<str>,
    /// Opaque to the coordinator, but for the topics in those of type `consumer`.
    pub metadata: Bytes,
}

/// JoinGroup v0-9.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// Empty for a member that has no id yet.
    pub member_id: Arc<str>,
    /// Set for a static member (KIP-345, v5+).
    pub instance_id: Option<Arc<str>>,
    /// `consumer`, `connect`, ...
    pub protocol_type: Arc<str>,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
    /// Silence after which the member is out.
    pub session_timeout_ms: i32,
    /// Time to rejoin in a rebalance; v0 has none: pass the session timeout.
    pub rebalance_timeout_ms: i32,
    /// From the request header; becomes the readable part of the member id.
    pub client_id: Arc<str>,
    /// Where it connects from, e.g. `/10.0.0.7`.
    pub client_host: Arc<str>,
    /// v4+: a dynamic member without an id is given one and asked to come again with it (KIP-394).
    pub known_member_id_required: bool,
    /// v9+: a static leader that comes back may be told not to assign again (KIP-814).
    pub skip_assignment: bool,
}

/// One member as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinMember {
    /// The member.
    pub member_id: Arc<str>,
    /// If it is static.
    pub instance_id: Option<Arc<str>>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// Answer to [`JoinRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinResponse {
    /// The verdict.
    pub error: GroupError,
    /// The generation joined; -1 with an error.
    pub generation: i32,
    /// v7+.
    pub protocol_type: Option<Arc<str>>,
    /// The chosen protocol; before v7 an absent one is sent as an empty string.
    pub protocol_name: Option<Arc<str>>,
    /// The leader's member id; empty with an error.
    pub leader: Arc<str>,
    /// v9+: the leader must not assign.
    pub skip_assignment: bool,
    /// The id of the member that asked (also with `MemberIdRequired`).
    pub member_id: Arc<str>,
    /// All members, for the leader; nobody for the others.
    pub members: Vec<JoinMember>,
}

/// SyncGroup v0-5.
#[derive(Debug, Clone)]
pub struct SyncRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// The generation that the member joined.
    pub generation: i32,
    /// The member.
    pub member_id: Arc<str>,
    /// If it is static.
    pub instance_id: Option<Arc<str>>,
    /// v5+; compared where present.
    pub protocol_type: Option<Arc<str>>,
    /// v5+; compared where present.
    pub protocol_name: Option<Arc<str>>,
    /// Member id and assignment; from the leader only.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// Answer to [`SyncRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncResponse {
    /// The verdict.
    pub error: GroupError,
    /// v5+.
    pub protocol_type: Option<Arc<str>>,
    /// v5+.
    pub protocol_name: Option<Arc<str>>,
    /// What the leader gave this member.
    pub assignment: Bytes,
}

/// Heartbeat v0-4.
#[derive(Debug, Clone)]
pub struct HeartbeatRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// The generation that the member believes in.
    pub generation: i32,
    /// The member.
    pub member_id: Arc<str>,
    /// If it is static.
    pub instance_id: Option<Arc<str>>,
}

/// Answer to [`HeartbeatRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatResponse {
    /// The verdict.
    pub error: GroupError,
}

/// LeaveGroup v0-5; before v3 with one member.
#[derive(Debug, Clone)]
pub struct LeaveRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// Who leaves.
    pub members: Vec<LeavingMember>,
}

/// Who leaves: by member id, or (an administrator does that) by instance id with an empty member id.
#[derive(Debug, Clone)]
pub struct LeavingMember {
    /// The member, or empty.
    pub member_id: Arc<str>,
    /// If it is static.
    pub instance_id: Option<Arc<str>>,
}

/// Answer to [`LeaveRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveResponse {
    /// The verdict on the whole. Before v3 send the first member's where this is `None`.
    pub error: GroupError,
    /// One for each that was asked for, in their order.
    pub members: Vec<LeftMember>,
}

/// What became of one leaving member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftMember {
    /// As asked.
    pub member_id: Arc<str>,
    /// As asked.
    pub instance_id: Option<Arc<str>>,
    /// The verdict.
    pub error: GroupError,
}

/// OffsetCommit v2-10.
#[derive(Debug, Clone)]
pub struct OffsetCommitRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// -1 for commits of no member; the epoch of a member of a consumer group.
    pub generation: i32,
    /// Empty for commits of no member.
    pub member_id: Arc<str>,
    /// If it is static.
    pub instance_id: Option<Arc<str>>,
    /// v9+: the client knows consumer groups, and their errors.
    pub knows_consumer_groups: bool,
    /// v2-4: how long to keep the offsets, in place of the configured retention.
    pub retention_ms: Option<i64>,
    /// What to commit.
    pub topics: Vec<CommitTopic>,
    /// TxnOffsetCommit: they count when this transaction commits.
    pub transaction: Option<Transaction>,
}

/// Offsets of one topic.
#[derive(Debug, Clone)]
pub struct CommitTopic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id now: an offset must not pass to another topic that gets the name later.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<CommitPartition>,
}

/// One partition's offset.
#[derive(Debug, Clone)]
pub struct CommitPartition {
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the record before it, or -1.
    pub leader_epoch: i32,
    /// The client's note.
    pub metadata: Arc<str>,
    /// Set by a caller who has refused it already (no such topic, not authorised): handed through to the answer.
    pub refused: Option<GroupError>,
}

/// Answer to [`OffsetCommitRequest`]: same topics and partitions, same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommitResponse {
    /// It answers TxnOffsetCommit.
    pub transactional: bool,
    /// Per topic.
    pub topics: Vec<TopicErrors>,
}

/// Verdicts on one topic's partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicErrors {
    /// Its name.
    pub name: Arc<str>,
    /// Its id as the request had it (nil in OffsetDelete).
    pub topic_id: Uuid,
    /// Partition and verdict.
    pub partitions: Vec<(i32, GroupError)>,
}

/// OffsetFetch v1-9; before v8 with one group.
#[derive(Debug, Clone)]
pub struct OffsetFetchRequest {
    /// Which groups.
    pub groups: Vec<FetchGroup>,
    /// v7+: offsets that an open transaction may change are refused (KIP-447).
    pub require_stable: bool,
}

/// One group's part of [`OffsetFetchRequest`].
#[derive(Debug, Clone)]
pub struct FetchGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// v9+: the member of a consumer group that asks, with its epoch.
    pub member: Option<(Arc<str>, i32)>,
    /// Topics with their partitions; `None` for all that the group has.
    pub topics: Option<Vec<(Arc<str>, Vec<i32>)>>,
}

/// Answer to [`OffsetFetchRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetFetchResponse {
    /// In the order asked.
    pub groups: Vec<FetchedGroup>,
}

/// One group's offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// The verdict; with an error there are no topics.
    pub error: GroupError,
    /// Per topic.
    pub topics: Vec<FetchedTopic>,
    /// No topics were named: these are all that there are.
    pub everything: bool,
}

/// One topic's offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedTopic {
    /// Its name.
    pub name: Arc<str>,
    /// Per partition.
    pub partitions: Vec<FetchedOffset>,
}

/// A committed offset, or -1 where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedOffset {
    /// The partition.
    pub partition: i32,
    /// The next offset to read, or -1.
    pub offset: i64,
    /// -1 if unknown.
    pub leader_epoch: i32,
    /// The client's note.
    pub metadata: Arc<str>,
    /// Why it is not told.
    pub error: GroupError,
}

/// OffsetDelete v0.
#[derive(Debug, Clone)]
pub struct OffsetDeleteRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// What to delete.
    pub topics: Vec<DeleteTopicOffsets>,
}

/// Offsets of one topic.
#[derive(Debug, Clone)]
pub struct DeleteTopicOffsets {
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions; where the caller has refused one already, why.
    pub partitions: Vec<(i32, Option<GroupError>)>,
}

/// Answer to [`OffsetDeleteRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetDeleteResponse {
    /// The verdict on the whole; with an error there are no topics.
    pub error: GroupError,
    /// Per topic.
    pub topics: Vec<TopicErrors>,
}

/// ListGroups v0-5.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// v4+: names of states, in any case; none for all.
    pub states: Vec<Arc<str>>,
    /// v5+: names of types, in any case; none for all.
    pub types: Vec<Arc<str>>,
}

/// Answer to [`ListRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListResponse {
    /// The verdict.
    pub error: GroupError,
    /// By group id.
    pub groups: Vec<ListedGroup>,
}

/// One group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// The group.
    pub group_id: Arc<str>,
    /// Empty for groups that only hold offsets.
    pub protocol_type: Arc<str>,
    /// Its state.
    pub state: StateName,
    /// [`GROUP_TYPE_CLASSIC`], [`GROUP_TYPE_CONSUMER`] or [`GROUP_TYPE_SHARE`].
    pub group_type: &'static str,
}

/// DescribeGroups v0-6.
#[derive(Debug, Clone)]
pub struct DescribeRequest {
    /// Which groups.
    pub groups: Vec<Arc<str>>,
}

/// Answer to [`DescribeRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribeResponse {
    /// In the order asked.
    pub groups: Vec<DescribedGroup>,
}

/// One group in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedGroup {
    /// The verdict. `GroupIdNotFound` was not an error before v6: send none, with the state `Dead`.
    pub error: GroupError,
    /// The group.
    pub group_id: Arc<str>,
    /// Its state; `Dead` if there is no such group.
    pub state: StateName,
    /// Empty for groups that only hold offsets.
    pub protocol_type: Arc<str>,
    /// The chosen protocol of a stable group.
    pub protocol: Arc<str>,
    /// By member id.
    pub members: Vec<DescribedMember>,
}

/// One member in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedMember {
    /// The member.
    pub member_id: Arc<str>,
    /// If it is static.
    pub instance_id: Option<Arc<str>>,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Where it connects from.
    pub client_host: Arc<str>,
    /// Its metadata for the chosen protocol, in a stable group.
    pub metadata: Bytes,
    /// Its assignment, in a stable group.
    pub assignment: Bytes,
}

/// DeleteGroups v0-2.
#[derive(Debug, Clone)]
pub struct DeleteRequest {
    /// Which groups.
    pub groups: Vec<Arc<str>>,
}

/// Answer to [`DeleteRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteResponse {
    /// In the order asked.
    pub results: Vec<(Arc<str>, GroupError)>,
}

/// The states of a group as tools show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateName {
    /// No members; perhaps offsets.
    Empty,
    /// Waiting for members to (re)join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Everyone has, or may fetch, an assignment.
    Stable,
    /// Gone, or going.
    Dead,
    /// A consumer group whose target is still to be made.
    Assigning,
    /// A consumer group in which not all have yet what they are to have.
    Reconciling,
}

impl StateName {
    /// The name as the protocol writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
        }
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type of groups whose members assign, as ListGroups v5 names it.
pub const GROUP_TYPE_CLASSIC: &str = "classic";
/// The type of groups whose members share partitions (KIP-932).
pub const GROUP_TYPE_SHARE: &str = "share";
/// The type of groups whose coordinator assigns (KIP-848).
pub const GROUP_TYPE_CONSUMER: &str = "consumer";

/// Verdicts, as the protocol numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupError {
    /// No error.
    None,
    /// The topic or partition does not exist.
    UnknownTopicOrPartition,
    /// The note on an offset is too long.
    OffsetMetadataTooLarge,
    /// The coordinator is still replaying its log.
    CoordinatorLoadInProgress,
    /// Not now: ask again.
    CoordinatorNotAvailable,
    /// Another node coordinates this group: ask which.
    NotCoordinator,
    /// The generation is not the current one.
    IllegalGeneration,
    /// No protocol in common with the group.
    InconsistentGroupProtocol,
    /// An empty or overlong group id.
    InvalidGroupId,
    /// The group does not know this member.
    UnknownMemberId,
    /// The session timeout is outside the configured bounds.
    InvalidSessionTimeout,
    /// Rejoin.
    RebalanceInProgress,
    /// The group holds as many offsets as it may.
    InvalidCommitOffsetSize,
    /// Not authorised for the topic.
    TopicAuthorizationFailed,
    /// Not authorised for the group.
    GroupAuthorizationFailed,
    /// The group's partition does not belong to the transaction.
    InvalidTxnState,
    /// The transactional id has another producer id.
    InvalidProducerIdMapping,
    /// The transaction can only be aborted.
    TransactionAbortable,
    /// There is a newer producer with the transactional id, or the transaction has ended.
    InvalidProducerEpoch,
    /// An open transaction may change the offset.
    UnstableOffsetCommit,
    /// A limit named in [`super::GroupsConfig`] is exceeded by one request.
    InvalidRequest,
    /// The group has members.
    NonEmptyGroup,
    /// There is no such group.
    GroupIdNotFound,
    /// Come again with the member id in this answer.
    MemberIdRequired,
    /// The group, or the coordinator, has as many members (groups, bytes) as it may.
    GroupMaxSizeReached,
    /// Another member has taken over this instance id.
    FencedInstanceId,
    /// The group's members read the topic.
    GroupSubscribedToTopic,
    /// The topic id is not known.
    UnknownTopicId,
    /// The member's epoch is not the current one: it gives up all partitions and joins anew.
    FencedMemberEpoch,
    /// Another member uses the instance id, and has not left.
    UnreleasedInstanceId,
    /// There is no such assignor.
    UnsupportedAssignor,
    /// The member's epoch is not the current one: it asks again with that of its next heartbeat.
    StaleMemberEpoch,
    /// The pattern is malformed, or too large.
    InvalidRegularExpression,
    /// Not in this version of the request.
    UnsupportedVersion,
}

impl GroupError {
    /// The protocol's number.
    pub const fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::UnknownTopicOrPartition => 3,
            Self::OffsetMetadataTooLarge => 12,
            Self::CoordinatorLoadInProgress => 14,
            Self::CoordinatorNotAvailable => 15,
            Self::NotCoordinator => 16,
            Self::IllegalGeneration => 22,
            Self::InconsistentGroupProtocol => 23,
            Self::InvalidGroupId => 24,
            Self::UnknownMemberId => 25,
            Self::InvalidSessionTimeout => 26,
            Self::RebalanceInProgress => 27,
            Self::InvalidCommitOffsetSize => 28,
            Self::TopicAuthorizationFailed => 29,
            Self::GroupAuthorizationFailed => 30,
            Self::InvalidRequest => 42,
            Self::InvalidProducerEpoch => 47,
            Self::InvalidTxnState => 48,
            Self::InvalidProducerIdMapping => 49,
            Self::UnstableOffsetCommit => 88,
            Self::NonEmptyGroup => 68,
            Self::GroupIdNotFound => 69,
            Self::MemberIdRequired => 79,
            Self::GroupMaxSizeReached => 81,
            Self::FencedInstanceId => 82,
            Self::GroupSubscribedToTopic => 86,
            Self::UnknownTopicId => 100,
            Self::FencedMemberEpoch => 110,
            Self::UnreleasedInstanceId => 111,
            Self::UnsupportedAssignor => 112,
            Self::StaleMemberEpoch => 113,
            Self::InvalidRegularExpression => 128,
            Self::UnsupportedVersion => 35,
            Self::TransactionAbortable => 120,
        }
    }
}

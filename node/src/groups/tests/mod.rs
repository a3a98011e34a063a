//! A coordinator with a log that can fail and a clock that can be moved, and what clients say to it.

mod admin;
mod consumer;
mod consumer_walk;
mod join;
mod offsets;
mod rebalance;
mod restart;
mod share;
mod statics;
mod transactional;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::types::*;
use super::{Cluster, GroupOverrides, Groups, GroupsConfig, TopicView};

const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;
const GROUP: &str = "g";

/// What is durable: the compacted log.
type Durable = BTreeMap<Bytes, Bytes>;

struct World {
    groups: Groups,
    config: GroupsConfig,
    now: Now,
    replies: BTreeMap<RequestRef, Response>,
    /// Appends that are not answered yet.
    appends: Vec<(PersistId, Vec<Record>)>,
    /// The log takes no records, and says so at once.
    refusing: Option<PersistError>,
    refused: Vec<PersistId>,
    cluster: TestCluster,
    durable: Durable,
    /// Appends are durable at once.
    prompt: bool,
    last_request: u64,
    starts: u64,
}

/// Topics by name, with ids and partitions.
#[derive(Default, Clone)]
struct TestCluster {
    topics: BTreeMap<Arc<str>, TopicView>,
    overrides: GroupOverrides,
    lives: u128,
    /// Topics that who asks may not know of.
    hidden: BTreeSet<Arc<str>>,
    rules: u64,
}

impl TestCluster {
    /// Makes a topic, or makes it larger.
    fn set(&mut self, name: &str, partitions: i32) {
        self.lives += 1;
        let id = Uuid::from_u128(self.lives);
        self.topics.entry(name.into()).or_insert(TopicView { id, partitions }).partitions = partitions;
    }

    fn id(&self, name: &str) -> Uuid {
        self.topics[name].id
    }
}

impl Cluster for TestCluster {
    fn topic(&self, name: &str) -> Option<TopicView> {
        self.topics.get(name).copied()
    }

    fn topic_name(&self, id: Uuid) -> Option<Arc<str>> {
        self.topics.iter().find(|(_, topic)| topic.id == id).map(|(name, _)| Arc::clone(name))
    }

    fn topic_names(&self) -> Box<dyn Iterator<Item = Arc<str>> + '_> {
        Box::new(self.topics.keys().cloned())
    }

    fn may_describe(&self, name: &str) -> bool {
        !self.hidden.contains(name)
    }

    fn rules_version(&self) -> u64 {
        self.rules
    }

    fn overrides(&self, _: &str) -> GroupOverrides {
        self.overrides
    }

    fn share_overrides(&self, _group: &str) -> GroupOverrides {
        GroupOverrides::default()
    }

    fn share_protocol(&self) -> bool {
        true
    }

    fn consumer_protocol(&self) -> bool {
        true
    }
}

fn config() -> GroupsConfig {
    GroupsConfig { initial_rebalance_delay_ms: 0, ..GroupsConfig::default() }
}

impl World {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: GroupsConfig) -> Self {
        let now = Now { monotonic_ns: 1_000_000_000, wall_ms: 1_700_000_000_000 };
        let mut groups = Groups::new(config.clone(), 1).unwrap();
        assert_eq!(groups.loaded(now, |_| None), vec![]);
        let (replies, appends, durable) = (BTreeMap::new(), Vec::new(), Durable::new());
        let (refusing, refused, cluster) = (None, Vec::new(), TestCluster::default());
        let (prompt, last_request, starts) = (true, 0, 1);
        Self {
            groups,
            config,
            now,
            replies,
            appends,
            refusing,
            refused,
            cluster,
            durable,
            prompt,
            last_request,
            starts,
        }
    }

    fn step(&mut self, input: Input) {
        let effects = self.groups.step(self.now, &self.cluster, input);
        self.take(effects);
    }

    fn take(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Reply { request, response } => {
                    let earlier = self.replies.insert(request, response);
                    assert_eq!(earlier, None, "two replies to {request:?}");
                }
                Effect::Persist { id, records } => {
                    assert!(!records.is_empty());
                    self.appends.push((id, records));
                    if let Some(error) = self.refusing {
                        self.refused.push(id);
                        self.step(Input::Refused { id, error });
                    }
                }
                Effect::PersistTransactional { .. } => panic!("tests of transactions have a log of their own"),
            }
        }
        while self.prompt && !self.appends.is_empty() {
            self.append_done(Ok(()));
        }
    }

    /// The oldest append succeeds or fails.
    fn append_done(&mut self, result: Result<(), PersistError>) {
        let (id, records) = self.appends.remove(0);
        let was_refused = self.refused.contains(&id);
        let result = if was_refused { Err(PersistError::NotAvailable) } else { result };
        if result.is_ok() {
            for record in records {
                match record.value {
                    Some(value) => self.durable.insert(record.key, value),
                    None => self.durable.remove(&record.key),
                };
            }
        }
        self.step(Input::Persisted { id, result });
    }

    fn send(&mut self, body: Request) -> RequestRef {
        self.last_request += 1;
        let request = RequestRef(self.last_request);
        self.step(Input::Request { request, body });
        request
    }

    fn ask(&mut self, body: Request) -> Response {
        let request = self.send(body);
        self.replies.remove(&request).expect("an answer at once")
    }

    fn advance(&mut self, ms: u64) {
        let end = self.now.monotonic_ns + ms * 1_000_000;
        for _ in 0..10_000 {
            let Some(deadline) = self.groups.next_deadline().filter(|d| *d <= end) else { break };
            self.move_to(deadline);
            self.step(Input::Tick);
        }
        assert!(self.groups.next_deadline().is_none_or(|d| d > end), "the clock's work never ends");
        self.move_to(end);
    }

    fn move_to(&mut self, ns: u64) {
        let passed = ns.saturating_sub(self.now.monotonic_ns);
        self.now.monotonic_ns += passed;
        self.now.wall_ms = 1_700_000_000_000 + i64::try_from(self.now.monotonic_ns / 1_000_000).unwrap();
    }

    /// The process dies with what is not durable, and another starts.
    fn restart(&mut self) {
        self.restart_where(|_| Some(Uuid::nil()));
    }

    fn restart_where(&mut self, topic_id: impl Fn(&str) -> Option<Uuid>) {
        self.starts += 1;
        self.groups = Groups::new(self.config.clone(), self.starts).unwrap();
        self.appends.clear();
        self.refused.clear();
        for (key, value) in &self.durable {
            self.groups.replay(key, Some(value)).unwrap();
        }
        let effects = self.groups.loaded(self.now, topic_id);
        self.take(effects);
    }

    // What clients say.

    fn join_reply(&mut self, request: RequestRef) -> Option<JoinResponse> {
        match self.replies.remove(&request)? {
            Response::Join(response) => Some(response),
            other => panic!("{other:?}"),
        }
    }

    fn sync_reply(&mut self, request: RequestRef) -> Option<(GroupError, Bytes)> {
        match self.replies.remove(&request)? {
            Response::Sync(response) => Some((response.error, response.assignment)),
            other => panic!("{other:?}"),
        }
    }

    fn join_now(&mut self, join: JoinRequest) -> JoinResponse {
        let request = self.send(Request::Join(join));
        self.join_reply(request).expect("an answer at once")
    }

    fn heartbeat(&mut self, member: &JoinResponse) -> GroupError {
        self.heartbeat_as(&member.member_id, None, member.generation)
    }

    fn heartbeat_as(&mut self, member_id: &str, instance: Option<&str>, generation: i32) -> GroupError {
        let body = HeartbeatRequest {
            group_id: GROUP.into(),
            generation,
            member_id: member_id.into(),
            instance_id: instance.map(Into::into),
        };
        match self.ask(Request::Heartbeat(body)) {
            Response::Heartbeat(response) => response.error,
            other => panic!("{other:?}"),
        }
    }

    /// A leave of one member; its own verdict.
    fn leave(&mut self, member_id: &str, instance: Option<&str>) -> GroupError {
        let member = LeavingMember { member_id: member_id.into(), instance_id: instance.map(Into::into) };
        match self.ask(Request::Leave(LeaveRequest { group_id: GROUP.into(), members: vec![member] })) {
            Response::Leave(response) => response.members.first().map_or(response.error, |m| m.error),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, member: Option<&JoinResponse>, topic: &str, offset: i64) -> GroupError {
        let request = self.send(commit(member, topic, offset));
        self.commit_reply(request).expect("an answer at once")
    }

    fn commit_reply(&mut self, request: RequestRef) -> Option<GroupError> {
        match self.replies.remove(&request)? {
            Response::OffsetCommit(response) => Some(response.topics[0].partitions[0].1),
            other => panic!("{other:?}"),
        }
    }

    /// The committed offset of partition 0.
    fn committed(&mut self, topic: &str) -> i64 {
        let topics = Some(vec![(Arc::from(topic), vec![0])]);
        let groups = vec![FetchGroup { group_id: GROUP.into(), member: None, topics }];
        match self.ask(Request::OffsetFetch(OffsetFetchRequest { groups, require_stable: true })) {
            Response::OffsetFetch(response) => response.groups[0].topics[0].partitions[0].offset,
            other => panic!("{other:?}"),
        }
    }

    fn describe(&mut self) -> DescribedGroup {
        match self.ask(Request::Describe(DescribeRequest { groups: vec![GROUP.into()] })) {
            Response::Describe(mut response) => response.groups.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> StateName {
        self.describe().state
    }

    fn delete(&mut self) -> GroupError {
        let request = self.send(Request::Delete(DeleteRequest { groups: vec![GROUP.into()] }));
        self.delete_reply(request).expect("an answer at once")
    }

    fn delete_reply(&mut self, request: RequestRef) -> Option<GroupError> {
        match self.replies.remove(&request)? {
            Response::Delete(response) => Some(response.results[0].1),
            other => panic!("{other:?}"),
        }
    }

    /// A group of this many members, in the state `CompletingRebalance`; the leader comes first.
    fn joined(&mut self, members: usize) -> Vec<JoinResponse> {
        let mut joined: Vec<JoinResponse> = Vec::new();
        for _ in 0..members {
            let mut requests = vec![self.send(Request::Join(newcomer()))];
            // Those who are in must rejoin, or they are expelled.
            requests.extend(joined.iter().map(|member| self.send(Request::Join(rejoin(member)))).collect::<Vec<_>>());
            joined = requests.into_iter().map(|r| self.join_reply(r).expect("all have joined")).collect();
        }
        joined.sort_by_key(|m| m.leader != m.member_id);
        assert!(joined.len() == members && joined.iter().all(|m| m.error == GroupError::None), "{joined:?}");
        joined
    }

    /// The leader assigns each member its own id; everyone fetches it.
    fn synced(&mut self, members: &[JoinResponse]) {
        let followers: Vec<_> = members[1..].iter().map(|m| self.send(Request::Sync(follow(m)))).collect();
        let leader = self.send(Request::Sync(assign(&members[0], members)));
        for (request, member) in followers.into_iter().chain([leader]).zip(members[1..].iter().chain([&members[0]])) {
            let (error, assignment) = self.sync_reply(request).expect("an assignment");
            assert_eq!((error, &assignment[..]), (GroupError::None, member.member_id.as_bytes()));
        }
    }

    fn stable(&mut self, members: usize) -> Vec<JoinResponse> {
        let members = self.joined(members);
        self.synced(&members);
        members
    }
}

/// A `consumer` subscription.
fn subscription(topics: &[&str], user_data: &[u8]) -> Bytes {
    let mut out = vec![0, 1];
    out.extend(u32::try_from(topics.len()).unwrap().to_be_bytes());
    for topic in topics {
        out.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend(u32::try_from(user_data.len()).unwrap().to_be_bytes());
    out.extend(user_data);
    out.into()
}

fn protocols(names: &[&str]) -> Vec<Protocol> {
    names.iter().map(|name| Protocol { name: (*name).into(), metadata: subscription(&["t"], b"") }).collect()
}

/// A member of the time before KIP-394.
fn newcomer() -> JoinRequest {
    JoinRequest {
        group_id: GROUP.into(),
        member_id: "".into(),
        instance_id: None,
        protocol_type: "consumer".into(),
        protocols: protocols(&["range"]),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        known_member_id_required: false,
        skip_assignment: false,
    }
}

fn static_newcomer(instance: &str) -> JoinRequest {
    JoinRequest { instance_id: Some(instance.into()), known_member_id_required: true, ..newcomer() }
}

fn rejoin(member: &JoinResponse) -> JoinRequest {
    JoinRequest { member_id: member.member_id.clone(), ..newcomer() }
}

fn follow(member: &JoinResponse) -> SyncRequest {
    SyncRequest {
        group_id: GROUP.into(),
        generation: member.generation,
        member_id: member.member_id.clone(),
        instance_id: None,
        protocol_type: member.protocol_type.clone(),
        protocol_name: member.protocol_name.clone(),
        assignments: Vec::new(),
    }
}

fn assign(leader: &JoinResponse, members: &[JoinResponse]) -> SyncRequest {
    let own = |m: &JoinResponse| (m.member_id.clone(), Bytes::copy_from_slice(m.member_id.as_bytes()));
    SyncRequest { assignments: members.iter().map(own).collect(), ..follow(leader) }
}

fn commit(member: Option<&JoinResponse>, topic: &str, offset: i64) -> Request {
    let partition = CommitPartition { partition: 0, offset, leader_epoch: 5, metadata: "note".into(), refused: None };
    Request::OffsetCommit(OffsetCommitRequest {
        group_id: GROUP.into(),
        generation: member.map_or(-1, |m| m.generation),
        member_id: member.map_or("".into(), |m| m.member_id.clone()),
        instance_id: None,
        knows_consumer_groups: false,
        retention_ms: None,
        topics: vec![CommitTopic { name: topic.into(), topic_id: Uuid::nil(), partitions: vec![partition] }],
        transaction: None,
    })
}

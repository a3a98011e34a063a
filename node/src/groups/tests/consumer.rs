//! Consumer groups, one behaviour at a time. Members here are honest clients: they give up what they are told to, and say so.

use std::collections::BTreeSet;

use super::super::consumer::current::Progress;
use super::super::consumer::state::ConsumerGroup;
use super::*;

type Owned = BTreeSet<(Uuid, i32)>;

/// A client of the new protocol.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) id: Arc<str>,
    pub(super) instance: Option<Arc<str>>,
    pub(super) epoch: i32,
    pub(super) topics: Vec<Arc<str>>,
    pub(super) regex: Option<Arc<str>>,
    pub(super) assignor: Option<Arc<str>>,
    pub(super) owned: Owned,
    /// What it was last told to have.
    pub(super) told: Owned,
}

impl Consumer {
    pub(super) fn new(id: &str, topics: &[&str]) -> Self {
        let topics = topics.iter().map(|topic| Arc::from(*topic)).collect();
        let (owned, told) = (Owned::new(), Owned::new());
        Self { id: id.into(), instance: None, epoch: 0, topics, regex: None, assignor: None, owned, told }
    }

    fn with_instance(id: &str, instance: &str, topics: &[&str]) -> Self {
        Self { instance: Some(instance.into()), ..Self::new(id, topics) }
    }

    fn with_regex(id: &str, regex: &str) -> Self {
        Self { regex: Some(regex.into()), ..Self::new(id, &[]) }
    }

    /// Says everything; when it joins, that it has nothing.
    pub(super) fn full(&self) -> ConsumerHeartbeatRequest {
        ConsumerHeartbeatRequest {
            group_id: GROUP.into(),
            member_id: Arc::clone(&self.id),
            member_epoch: self.epoch,
            instance_id: self.instance.clone(),
            rack_id: None,
            rebalance_timeout_ms: Some(REBALANCE_MS),
            topics: Some(self.topics.clone()),
            regex: self.regex.clone(),
            assignor: self.assignor.clone(),
            owned: Some(if self.epoch == 0 { Vec::new() } else { listed(&self.owned) }),
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            makes_own_id: true,
        }
    }

    /// Says that it is there, and what it has.
    pub(super) fn brief(&self) -> ConsumerHeartbeatRequest {
        ConsumerHeartbeatRequest {
            rebalance_timeout_ms: None,
            topics: None,
            regex: None,
            assignor: None,
            ..self.full()
        }
    }

    fn leaving(&self, epoch: i32) -> ConsumerHeartbeatRequest {
        ConsumerHeartbeatRequest { member_epoch: epoch, owned: None, ..self.brief() }
    }

    pub(super) fn take(&mut self, response: &ConsumerHeartbeatResponse) {
        if response.error != GroupError::None {
            return;
        }
        self.epoch = response.member_epoch;
        if let Some(assignment) = &response.assignment {
            self.told = owned(assignment);
        }
        if self.owned.is_subset(&self.told) {
            self.owned.clone_from(&self.told);
        }
    }

    /// It has given up what it is not to have any more.
    pub(super) fn revoked(&mut self) {
        self.owned.clone_from(&self.told);
    }
}

pub(super) fn owned(partitions: &TopicPartitions) -> Owned {
    partitions.iter().flat_map(|(topic, of)| of.iter().map(|partition| (*topic, *partition))).collect()
}

fn listed(owned: &Owned) -> TopicPartitions {
    let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in owned {
        topics.entry(*topic).or_default().push(*partition);
    }
    topics.into_iter().collect()
}

pub(super) fn response(reply: Response) -> ConsumerHeartbeatResponse {
    match reply {
        Response::ConsumerHeartbeat(response) => response,
        other => panic!("{other:?}"),
    }
}

impl World {
    fn beat(&mut self, request: ConsumerHeartbeatRequest) -> ConsumerHeartbeatResponse {
        response(self.ask(Request::ConsumerHeartbeat(request)))
    }

    /// A whole heartbeat of an honest client.
    fn consumer(&mut self, consumer: &mut Consumer) -> ConsumerHeartbeatResponse {
        let request = if consumer.epoch == 0 { consumer.full() } else { consumer.brief() };
        let response = self.beat(request);
        consumer.take(&response);
        response
    }

    #[track_caller]
    fn joined_consumer(&mut self, mut consumer: Consumer) -> Consumer {
        let response = self.consumer(&mut consumer);
        assert_eq!(response.error, GroupError::None, "{response:?}");
        consumer
    }

    /// Everyone comes in turn until nothing changes any more.
    #[track_caller]
    fn settle(&mut self, consumers: &mut [&mut Consumer]) {
        for _ in 0..10 {
            for consumer in consumers.iter_mut() {
                let response = self.consumer(consumer);
                assert_eq!(response.error, GroupError::None, "{response:?}");
                consumer.revoked();
            }
        }
        assert_eq!(self.group().state_name(), StateName::Stable);
    }

    pub(super) fn group(&self) -> &ConsumerGroup {
        self.groups.groups[GROUP].consumer.as_ref().unwrap()
    }

    fn describe_consumer(&mut self) -> DescribedConsumerGroup {
        let body = ConsumerDescribeRequest { groups: vec![GROUP.into()] };
        match self.ask(Request::ConsumerDescribe(body)) {
            Response::ConsumerDescribe(mut response) => response.groups.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn commit_as(&mut self, id: &str, epoch: i32, topic: &str, partition: i32) -> GroupError {
        let Request::OffsetCommit(mut body) = commit(None, topic, 1) else { panic!() };
        body.member_id = id.into();
        body.generation = epoch;
        body.knows_consumer_groups = true;
        body.topics[0].topic_id = self.cluster.id(topic);
        body.topics[0].partitions[0].partition = partition;
        let request = self.send(Request::OffsetCommit(body));
        self.commit_reply(request).unwrap()
    }

    fn fetch_as(&mut self, member: Option<(&str, i32)>) -> GroupError {
        let member = member.map(|(id, epoch)| (Arc::from(id), epoch));
        let groups = vec![FetchGroup { group_id: GROUP.into(), member, topics: None }];
        match self.ask(Request::OffsetFetch(OffsetFetchRequest { groups, require_stable: true })) {
            Response::OffsetFetch(response) => response.groups[0].error,
            other => panic!("{other:?}"),
        }
    }
}

fn world() -> World {
    let mut world = World::new();
    world.cluster.set("t", 6);
    world
}

#[test]
fn one_member_gets_everything_with_its_first_heartbeat() {
    let mut world = world();
    let mut a = Consumer::new("a", &["t"]);
    let response = world.consumer(&mut a);
    assert_eq!((response.error, response.member_epoch, a.owned.len()), (GroupError::None, 1, 6));
    assert_eq!((response.member_id.as_deref(), response.heartbeat_interval_ms), (Some("a"), 5_000));
    let again = world.consumer(&mut a);
    assert_eq!((again.member_epoch, again.assignment), (1, None), "nothing is new");
    let full = world.beat(a.full());
    assert_eq!(owned(&full.assignment.unwrap()).len(), 6, "who says all is told all");
    assert_eq!(world.group().state_name(), StateName::Stable);
}

#[test]
fn what_a_newcomer_gets_is_given_up_first() {
    let mut world = world();
    let mut a = world.joined_consumer(Consumer::new("a", &["t"]));
    let mut b = world.joined_consumer(Consumer::new("b", &["t"]));
    assert_eq!((b.epoch, b.owned.len()), (2, 0), "nothing is free yet");
    assert_eq!(world.group().state_name(), StateName::Reconciling);
    let told = world.consumer(&mut a);
    assert_eq!((told.member_epoch, a.told.len(), a.owned.len()), (1, 3, 6), "a is to give up, in its old epoch");
    assert_eq!(world.consumer(&mut b).assignment, None, "a has not said yet that it did");
    assert_eq!(world.consumer(&mut a).member_epoch, 1);
    a.revoked();
    assert_eq!(world.consumer(&mut a).member_epoch, 2);
    world.consumer(&mut b);
    assert_eq!(b.owned.len(), 3);
    assert!(a.owned.is_disjoint(&b.owned));
    assert_eq!(world.group().state_name(), StateName::Stable);
}

#[test]
fn who_leaves_gives_all_to_the_others() {
    let mut world = world();
    let (mut a, mut b) = (Consumer::new("a", &["t"]), Consumer::new("b", &["t"]));
    world.settle(&mut [&mut a, &mut b]);
    let left = world.beat(b.leaving(-1));
    assert_eq!((left.error, left.member_epoch, left.member_id.as_deref()), (GroupError::None, -1, Some("b")));
    assert_eq!(world.group().state_name(), StateName::Assigning);
    world.consumer(&mut a);
    assert_eq!((a.epoch, a.owned.len()), (3, 6));
    assert_eq!(world.beat(b.leaving(-1)).error, GroupError::UnknownMemberId);
    assert_eq!(world.beat(a.leaving(-1)).error, GroupError::None);
    assert_eq!(world.state_of_list(), ("Empty".into(), "consumer"));
}

impl World {
    fn state_of_list(&mut self) -> (String, &'static str) {
        match self.ask(Request::List(ListRequest::default())) {
            Response::List(response) => (response.groups[0].state.to_string(), response.groups[0].group_type),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn silence_ends_a_session_and_so_does_holding_on_to_partitions() {
    let mut world = world();
    let (mut a, mut b) = (Consumer::new("a", &["t"]), Consumer::new("b", &["t"]));
    world.settle(&mut [&mut a, &mut b]);
    world.advance(40_000);
    world.consumer(&mut a);
    world.advance(5_000);
    assert_eq!(world.consumer(&mut b).error, GroupError::UnknownMemberId, "b was silent for 45 s");
    b.epoch = 0;
    b.owned.clear();
    world.consumer(&mut a);
    world.consumer(&mut b);
    world.consumer(&mut a);
    let epoch = a.epoch;
    for _ in 0..11 {
        world.advance(5_000);
        assert_eq!(world.consumer(&mut a).member_epoch, epoch, "a is asked to give up, and does not");
        world.consumer(&mut b);
    }
    assert!(b.owned.is_empty());
    world.advance(5_000);
    assert_eq!(world.consumer(&mut a).error, GroupError::UnknownMemberId, "its rebalance timeout of 60 s is over");
    world.consumer(&mut b);
    assert_eq!(b.owned.len(), 6);
}

#[test]
fn the_group_may_have_a_session_and_an_interval_of_its_own() {
    let mut world = world();
    world.cluster.overrides = GroupOverrides { session_timeout_ms: Some(60_000), heartbeat_interval_ms: Some(7_000) };
    let mut a = Consumer::new("a", &["t"]);
    assert_eq!(world.consumer(&mut a).heartbeat_interval_ms, 7_000);
    world.advance(59_000);
    assert_eq!(world.consumer(&mut a).error, GroupError::None);
    world.advance(60_000);
    assert_eq!(world.consumer(&mut a).error, GroupError::UnknownMemberId);
}

#[test]
fn epochs_fence() {
    let mut world = world();
    let mut a = world.joined_consumer(Consumer::new("a", &["t"]));
    let with =
        |epoch, owned: Option<TopicPartitions>| ConsumerHeartbeatRequest { member_epoch: epoch, owned, ..a.brief() };
    assert_eq!(world.beat(with(2, None)).error, GroupError::FencedMemberEpoch);
    world.joined_consumer(Consumer::new("b", &["t"]));
    world.consumer(&mut a);
    a.revoked();
    // The answer with epoch 2 is lost: a comes again with 1.
    let before = a.clone();
    assert_eq!(world.consumer(&mut a).member_epoch, 2);
    let again = world.beat(before.full());
    assert_eq!((again.error, again.member_epoch), (GroupError::None, 2));
    assert_eq!(
        world.beat(ConsumerHeartbeatRequest { owned: None, ..before.brief() }).error,
        GroupError::FencedMemberEpoch
    );
    let more = vec![(world.cluster.id("t"), (0..6).collect())];
    let request = ConsumerHeartbeatRequest { owned: Some(more), ..before.brief() };
    assert_eq!(world.beat(request).error, GroupError::FencedMemberEpoch, "it says that it has what it does not");
    // It gives up all, and comes again under its id.
    let rejoin = ConsumerHeartbeatRequest { member_epoch: 0, owned: Some(Vec::new()), ..before.full() };
    let response = world.beat(rejoin);
    assert_eq!((response.error, response.member_epoch), (GroupError::None, 2));
    assert_eq!(owned(&response.assignment.unwrap()).len(), 3);
}

#[test]
fn commits_and_fetches_are_of_the_present_epoch() {
    use GroupError::{GroupIdNotFound, None, StaleMemberEpoch, UnknownMemberId};
    let mut world = world();
    assert_eq!(world.commit_as("a", 1, "t", 0), GroupIdNotFound);
    let mut a = world.joined_consumer(Consumer::new("a", &["t"]));
    assert_eq!(world.commit_as("a", 1, "t", 0), None);
    assert_eq!(world.commit_as("a", 2, "t", 0), StaleMemberEpoch);
    assert_eq!(world.commit_as("a", 0, "t", 0), StaleMemberEpoch);
    assert_eq!(world.commit_as("b", 1, "t", 0), UnknownMemberId);
    assert_eq!(world.commit_as("", -1, "t", 0), UnknownMemberId, "the group has members");
    assert_eq!(world.fetch_as(Some(("a", 1))), None);
    assert_eq!(world.fetch_as(Some(("a", 0))), StaleMemberEpoch);
    assert_eq!(world.fetch_as(Some(("b", 1))), UnknownMemberId);
    assert_eq!(world.fetch_as(Option::None), None, "tools say no member");
    let mut b = world.joined_consumer(Consumer::new("b", &["t"]));
    world.consumer(&mut a);
    a.revoked();
    world.consumer(&mut a);
    world.consumer(&mut b);
    let (kept, moved) = (a.owned.first().unwrap().1, b.owned.first().unwrap().1);
    assert_eq!(a.epoch, 2);
    assert_eq!(world.commit_as("a", 1, "t", kept), None, "it had it in epoch 1 and has it still");
    assert_eq!(world.commit_as("a", 1, "t", moved), StaleMemberEpoch, "that is b's by now");
    assert_eq!(world.commit_as("b", 1, "t", moved), StaleMemberEpoch, "b got it in epoch 2");
    let Request::OffsetCommit(old) = commit(Option::None, "t", 1) else { panic!() };
    let old = OffsetCommitRequest { member_id: "a".into(), generation: 2, ..old };
    let request = world.send(Request::OffsetCommit(old));
    assert_eq!(world.commit_reply(request), Some(GroupError::UnsupportedVersion));
    let in_transaction = |member: &str, generation| {
        let Request::OffsetCommit(body) = commit(Option::None, "t", 1) else { panic!() };
        let transaction = Some(Transaction { producer_id: 1, producer_epoch: 0 });
        Request::OffsetCommit(OffsetCommitRequest { member_id: member.into(), generation, transaction, ..body })
    };
    for (member, generation, expected) in [("a", 3, GroupError::IllegalGeneration), ("x", 2, UnknownMemberId)] {
        let request = world.send(in_transaction(member, generation));
        assert_eq!(world.commit_reply(request), Some(expected), "{member} {generation}");
    }
    for consumer in [&a, &b] {
        world.beat(consumer.leaving(-1));
    }
    assert_eq!(world.commit_as("", -1, "t", 0), None, "nobody is there: tools may");
}

#[test]
fn static_members_come_back_to_what_they_had() {
    let mut world = world();
    let (mut a, mut b) = (Consumer::with_instance("a", "i", &["t"]), Consumer::with_instance("b", "j", &["t"]));
    world.settle(&mut [&mut a, &mut b]);
    let (epoch, had) = (world.group().epoch, a.owned.clone());
    let other = Consumer::with_instance("a2", "i", &["t"]);
    assert_eq!(world.beat(other.full()).error, GroupError::UnreleasedInstanceId);
    let left = world.beat(a.leaving(-2));
    assert_eq!((left.error, left.member_epoch), (GroupError::None, -2));
    world.consumer(&mut b);
    assert_eq!(b.owned.len(), 3, "nothing moves");
    let back = world.joined_consumer(other);
    assert_eq!((back.epoch, &back.owned), (epoch, &had));
    assert_eq!(world.group().epoch, epoch, "no rebalance");
    let old = ConsumerHeartbeatRequest { member_epoch: epoch, ..a.brief() };
    assert_eq!(world.beat(old).error, GroupError::FencedInstanceId);
    assert_eq!(world.beat(a.leaving(-1)).error, GroupError::FencedInstanceId);
    // Gone for longer than its session: others get it.
    world.beat(back.leaving(-2));
    world.advance(40_000);
    world.consumer(&mut b);
    world.advance(5_000);
    world.consumer(&mut b);
    assert_eq!(b.owned.len(), 6);
    let unknown = ConsumerHeartbeatRequest { member_epoch: 5, ..back.brief() };
    assert_eq!(world.beat(unknown).error, GroupError::UnknownMemberId);
}

#[test]
fn an_administrator_removes_static_members() {
    let mut world = world();
    let (mut a, mut b) = (Consumer::with_instance("a", "i", &["t"]), Consumer::new("b", &["t"]));
    world.settle(&mut [&mut a, &mut b]);
    assert_eq!(world.leave("b", None), GroupError::UnknownMemberId, "members of this kind leave by a heartbeat");
    assert_eq!(world.leave("", Some("nobody")), GroupError::UnknownMemberId);
    assert_eq!(world.leave("", Some("i")), GroupError::None);
    world.consumer(&mut b);
    assert_eq!(b.owned.len(), 6);
}

#[test]
fn topics_that_come_grow_and_go_are_noticed() {
    let mut world = world();
    let mut a = world.joined_consumer(Consumer::new("a", &["t", "u"]));
    assert_eq!(a.owned.len(), 6);
    world.cluster.set("u", 2);
    world.step(Input::TopicsChanged);
    world.consumer(&mut a);
    assert_eq!((a.epoch, a.owned.len()), (2, 8));
    world.cluster.set("t", 7);
    world.step(Input::TopicsChanged);
    world.consumer(&mut a);
    assert_eq!((a.epoch, a.owned.len()), (3, 9));
    world.cluster.set("other", 7);
    world.step(Input::TopicsChanged);
    world.consumer(&mut a);
    assert_eq!((a.epoch, a.owned.len()), (3, 9), "not one of its topics");
    world.cluster.topics.remove("t");
    world.step(Input::TopicDeleted { topic: "t".into() });
    world.consumer(&mut a);
    a.revoked();
    world.consumer(&mut a);
    assert_eq!((a.epoch, a.owned.len()), (4, 2));
    // The same name is another topic.
    world.cluster.set("t", 3);
    world.step(Input::TopicsChanged);
    world.consumer(&mut a);
    assert_eq!((a.epoch, a.owned.len()), (5, 5));
}

#[test]
fn a_changed_subscription_takes_effect_at_once() {
    let mut world = world();
    world.cluster.set("u", 2);
    let mut a = world.joined_consumer(Consumer::new("a", &["t"]));
    a.topics = vec!["u".into()];
    let response = world.beat(a.full());
    a.take(&response);
    assert_eq!((a.told.len(), response.member_epoch), (0, 1), "first it gives up what it does not want");
    a.revoked();
    world.consumer(&mut a);
    assert_eq!((a.epoch, a.owned.len()), (2, 2));
}

#[test]
fn patterns_are_resolved_here() {
    let mut world = world();
    world.cluster.set("tea", 2);
    world.cluster.set("coffee", 1);
    let mut a = world.joined_consumer(Consumer::with_regex("a", "t.*"));
    assert_eq!(a.owned.len(), 8);
    let bad = Consumer::with_regex("b", "t(");
    let refused = world.beat(bad.full());
    assert_eq!(refused.error, GroupError::InvalidRegularExpression);
    assert!(refused.message.unwrap().contains("t("));
    assert_eq!(world.group().members.len(), 1, "it is as if b had never come");
    world.advance(11_000);
    world.cluster.set("tonic", 3);
    world.step(Input::TopicsChanged);
    world.consumer(&mut a);
    assert_eq!(a.owned.len(), 11);
    // Looked up again, but not all the time.
    world.cluster.set("toast", 1);
    world.step(Input::TopicsChanged);
    world.advance(5_000);
    world.consumer(&mut a);
    assert_eq!(a.owned.len(), 11);
    world.advance(5_000);
    world.consumer(&mut a);
    assert_eq!(a.owned.len(), 12);
    a.regex = Some("".into());
    a.topics = vec!["coffee".into()];
    let response = world.beat(a.full());
    a.take(&response);
    a.revoked();
    world.consumer(&mut a);
    assert_eq!((a.owned.len(), world.group().regexes.len()), (1, 0), "nobody has the pattern any more");
}

#[test]
fn patterns_match_what_their_members_may_know_of() {
    let mut world = world();
    world.cluster.set("tea", 2);
    world.cluster.set("coffee", 1);
    world.cluster.hidden.insert("tea".into());
    let mut a = world.joined_consumer(Consumer::with_regex("a", "te.*"));
    assert!(a.owned.is_empty() && world.group().regexes["te.*"].topics.is_empty());
    let beat = |world: &mut World, a: &mut Consumer| {
        world.consumer(a);
        a.revoked();
        world.consumer(a);
        a.owned.len()
    };
    // It is looked up again when what may be known of changes, without a topic that comes; but not all the time.
    world.cluster.hidden.clear();
    world.cluster.rules += 1;
    world.advance(5_000);
    assert_eq!(beat(&mut world, &mut a), 0);
    world.advance(5_000);
    assert_eq!(beat(&mut world, &mut a), 2);
    world.cluster.hidden.insert("tea".into());
    world.advance(11_000);
    assert_eq!(beat(&mut world, &mut a), 2, "no rule has changed");
    world.cluster.rules += 1;
    assert_eq!(beat(&mut world, &mut a), 0);
    assert_eq!(world.group().members.len(), 1);
}

#[test]
fn who_may_know_less_does_not_look_up_the_patterns_of_others() {
    let mut world = world();
    world.cluster.set("tea", 2);
    world.cluster.set("coffee", 1);
    let mut a = world.joined_consumer(Consumer::with_regex("a", "te.*"));
    let mut b = world.joined_consumer(Consumer::with_regex("b", "co.*"));
    world.cluster.set("teapot", 1);
    world.step(Input::TopicsChanged);
    world.advance(11_000);
    world.cluster.hidden.extend(["tea", "teapot"].map(Arc::from));
    world.consumer(&mut b);
    world.cluster.hidden.clear();
    assert_eq!(world.group().regexes["te.*"].topics.len(), 1, "b does not look for a");
    world.consumer(&mut a);
    assert_eq!((a.owned.len(), b.owned.len()), (3, 1));
}

#[test]
fn assignors_are_chosen_by_members() {
    let mut world = world();
    world.cluster.set("u", 6);
    let mut a = Consumer { assignor: Some("range".into()), ..Consumer::new("a", &["t", "u"]) };
    let mut b = Consumer { assignor: Some("range".into()), ..Consumer::new("b", &["t", "u"]) };
    world.settle(&mut [&mut a, &mut b]);
    assert_eq!(&*world.describe_consumer().assignor, "range");
    let of = |owned: &Owned, topic: Uuid| owned.iter().filter(|o| o.0 == topic).map(|o| o.1).collect::<Vec<_>>();
    let (t, u) = (world.cluster.id("t"), world.cluster.id("u"));
    assert_eq!((of(&a.owned, t), of(&a.owned, u)), (vec![0, 1, 2], vec![0, 1, 2]));
    let other = Consumer { assignor: Some("sticky".into()), ..Consumer::new("c", &["t"]) };
    let refused = world.beat(other.full());
    assert_eq!(refused.error, GroupError::UnsupportedAssignor);
    assert!(refused.message.unwrap().contains("uniform, range"));
}

#[test]
fn malformed_heartbeats_are_refused_with_a_sentence() {
    let mut world = world();
    let good = Consumer::new("a", &["t"]).full();
    let long: Arc<str> = "x".repeat(2_000).into();
    type Spoil<'a> = &'a dyn Fn(&mut ConsumerHeartbeatRequest);
    let every: [Spoil<'_>; 13] = [
        &|r| r.group_id = "".into(),
        &|r| r.member_id = "".into(),
        &|r| r.instance_id = Some("".into()),
        &|r| r.rack_id = Some("".into()),
        &|r| r.rebalance_timeout_ms = None,
        &|r| r.owned = None,
        &|r| r.owned = Some(vec![(Uuid::from_u128(1), vec![0])]),
        &|r| r.topics = None,
        &|r| r.member_epoch = -3,
        &|r| r.member_epoch = -2,
        &|r| r.member_id = Arc::clone(&long),
        &|r| r.regex = Some(Arc::clone(&long)),
        &|r| r.topics = Some(vec!["t".into(); 10_001]),
    ];
    for (n, spoil) in every.iter().enumerate() {
        let mut request = good.clone();
        spoil(&mut request);
        let refused = world.beat(request);
        assert_eq!(refused.error, GroupError::InvalidRequest, "{n}");
        assert!(refused.message.is_some_and(|message| message.len() > 10), "{n}");
    }
    assert_eq!(world.groups.groups.len(), 0);
    let old = ConsumerHeartbeatRequest { member_id: "".into(), makes_own_id: false, ..good };
    let response = world.beat(old);
    assert_eq!(response.error, GroupError::None, "version 0: it is given an id");
    assert!(response.member_id.is_some_and(|id| id.len() > 30));
}

#[test]
fn unknown_groups_members_and_full_groups() {
    let mut world = World::with(GroupsConfig { max_consumer_group_size: 2, max_groups: 1, ..config() });
    world.cluster.set("t", 2);
    let mut stranger = Consumer::new("s", &["t"]);
    stranger.epoch = 3;
    assert_eq!(world.beat(stranger.brief()).error, GroupError::GroupIdNotFound);
    world.joined_consumer(Consumer::new("a", &["t"]));
    world.joined_consumer(Consumer::new("b", &["t"]));
    assert_eq!(world.beat(stranger.brief()).error, GroupError::UnknownMemberId);
    assert_eq!(world.beat(Consumer::new("c", &["t"]).full()).error, GroupError::GroupMaxSizeReached);
    let elsewhere = ConsumerHeartbeatRequest { group_id: "h".into(), ..Consumer::new("c", &["t"]).full() };
    assert_eq!(world.beat(elsewhere).error, GroupError::GroupMaxSizeReached);
}

#[test]
fn an_empty_group_changes_its_kind() {
    let mut world = world();
    // Offsets of a classic group stay when it becomes one of the new kind.
    let members = world.stable(1);
    assert_eq!(world.commit(Some(&members[0]), "t", 7), GroupError::None);
    let mut a = Consumer::new("a", &["t"]);
    let refused = world.beat(a.full());
    assert_eq!(refused.error, GroupError::GroupIdNotFound);
    assert!(refused.message.unwrap().contains("classic"));
    assert_eq!(world.heartbeat(&members[0]), GroupError::None, "nothing has happened to the classic group");
    world.leave(&members[0].member_id, None);
    world.consumer(&mut a);
    assert_eq!((a.owned.len(), world.committed("t")), (6, 7));
    assert!(!world.durable.keys().any(|key| key[..2] == [2, 0]), "the classic record is gone");
    assert_eq!(world.state(), StateName::Dead, "DescribeGroups does not know it");
    // And back.
    assert_eq!(world.join_now(newcomer()).error, GroupError::InconsistentGroupProtocol);
    world.beat(a.leaving(-1));
    let members = world.stable(1);
    assert_eq!(world.state(), StateName::Stable);
    assert_eq!(world.committed("t"), 7);
    assert!(!world.durable.keys().any(|key| key[0] == 0), "nothing is left of the consumer group");
    a.epoch = 1;
    assert_eq!(world.beat(a.brief()).error, GroupError::GroupIdNotFound);
    world.restart();
    assert_eq!(world.heartbeat(&members[0]), GroupError::None);
}

#[test]
fn groups_are_described_and_deleted() {
    let mut world = world();
    let mut a = Consumer::with_instance("a", "i", &["t"]);
    world.consumer(&mut a);
    world.commit_as("a", 1, "t", 0);
    world.joined_consumer(Consumer::new("b", &["t"]));
    let described = world.describe_consumer();
    assert_eq!(described.state, Some(StateName::Reconciling));
    assert_eq!((described.epoch, described.assignment_epoch, &*described.assignor), (2, 2, "uniform"));
    let member = &described.members[0];
    assert_eq!((&*member.member_id, member.instance_id.as_deref(), member.epoch), ("a", Some("i"), 1));
    assert_eq!((member.assignment[0].partitions.len(), member.target[0].partitions.len()), (6, 3));
    assert_eq!((&*member.assignment[0].name, &*member.topics[0]), ("t", "t"));
    assert_eq!(world.delete(), GroupError::NonEmptyGroup);
    for id in ["a", "b"] {
        let instance = (id == "a").then(|| Arc::from("i"));
        world.beat(ConsumerHeartbeatRequest { instance_id: instance, ..Consumer::new(id, &[]).leaving(-1) });
    }
    assert_eq!(world.delete(), GroupError::None);
    assert_eq!((world.durable.len(), world.groups.groups.len()), (0, 0));
    assert_eq!(world.describe_consumer().error, GroupError::GroupIdNotFound);
}

#[test]
fn a_failed_deletion_leaves_the_group_as_it_was() {
    let mut world = world();
    let a = world.joined_consumer(Consumer::new("a", &["t"]));
    world.beat(a.leaving(-1));
    let epoch = world.group().epoch;
    world.prompt = false;
    let request = world.send(Request::Delete(DeleteRequest { groups: vec![GROUP.into()] }));
    let joining = world.send(Request::ConsumerHeartbeat(Consumer::new("b", &["t"]).full()));
    let refused = response(world.replies.remove(&joining).unwrap());
    assert_eq!(refused.error, GroupError::CoordinatorNotAvailable);
    world.append_done(Err(PersistError::NotAvailable));
    assert_eq!(world.delete_reply(request), Some(GroupError::CoordinatorNotAvailable));
    assert_eq!(world.group().epoch, epoch);
}

#[test]
fn offsets_of_topics_that_are_read_are_not_deleted_and_do_not_expire() {
    let mut world = World::with(GroupsConfig { offsets_retention_ms: 3_600_000, ..config() });
    world.cluster.set("t", 1);
    world.cluster.set("u", 1);
    let mut a = world.joined_consumer(Consumer::new("a", &["t"]));
    for topic in ["t", "u"] {
        assert_eq!(world.commit_as("a", 1, topic, 0), GroupError::None);
    }
    let delete = |topic: &str| {
        let topics = vec![DeleteTopicOffsets { name: topic.into(), partitions: vec![(0, None)] }];
        Request::OffsetDelete(OffsetDeleteRequest { group_id: GROUP.into(), topics })
    };
    let verdict = |response| match response {
        Response::OffsetDelete(response) => response.topics[0].partitions[0].1,
        other => panic!("{other:?}"),
    };
    assert_eq!(verdict(world.ask(delete("t"))), GroupError::GroupSubscribedToTopic);
    for _ in 0..110 {
        world.advance(40_000);
        world.consumer(&mut a);
    }
    assert_eq!((world.committed("t"), world.committed("u")), (1, -1), "u is not read, and old");
    world.beat(a.leaving(-1));
    world.advance(2 * 3_600_000);
    assert_eq!(world.groups.groups.len(), 0, "nobody, nothing");
    assert_eq!(world.durable.len(), 0);
}

#[test]
fn nothing_is_answered_before_it_is_durable() {
    let mut world = world();
    world.prompt = false;
    let mut a = Consumer::new("a", &["t"]);
    let joining = world.send(Request::ConsumerHeartbeat(a.full()));
    assert!(!world.replies.contains_key(&joining));
    // What is described, or answered without a write of its own, waits as well.
    let again = world.send(Request::ConsumerHeartbeat(a.full()));
    let describing = world.send(Request::ConsumerDescribe(ConsumerDescribeRequest { groups: vec![GROUP.into()] }));
    assert!(world.replies.is_empty());
    world.append_done(Ok(()));
    assert_eq!(world.replies.len(), 3);
    a.take(&response(world.replies.remove(&joining).unwrap()));
    let again = response(world.replies.remove(&again).unwrap());
    assert_eq!((again.error, again.member_epoch, a.owned.len()), (GroupError::None, 1, 6));
    world.replies.remove(&describing);
    // A coordinator that resigns answers whoever waits.
    let left = world.send(Request::ConsumerHeartbeat(a.leaving(-1)));
    let describing = world.send(Request::ConsumerDescribe(ConsumerDescribeRequest { groups: vec![GROUP.into()] }));
    let groups = std::mem::replace(&mut world.groups, Groups::new(config(), 9).unwrap());
    let effects = groups.resign();
    world.take(effects);
    assert_eq!(response(world.replies.remove(&left).unwrap()).error, GroupError::NotCoordinator);
    match world.replies.remove(&describing).unwrap() {
        Response::ConsumerDescribe(response) => assert_eq!(response.groups[0].error, GroupError::NotCoordinator),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_log_refuses_has_not_happened() {
    let mut world = world();
    let a = world.joined_consumer(Consumer::new("a", &["t"]));
    let before = format!("{:?}", world.group());
    world.prompt = false;
    world.refusing = Some(PersistError::NotAvailable);
    let joining = world.send(Request::ConsumerHeartbeat(Consumer::new("b", &["t"]).full()));
    assert_eq!(response(world.replies.remove(&joining).unwrap()).error, GroupError::CoordinatorNotAvailable);
    world.refusing = Some(PersistError::TooLarge);
    let leaving = world.send(Request::ConsumerHeartbeat(a.leaving(-1)));
    assert_eq!(response(world.replies.remove(&leaving).unwrap()).error, GroupError::GroupMaxSizeReached);
    let strip = |text: String| text.split("seen_topics").next().unwrap().to_owned();
    assert_eq!(strip(format!("{:?}", world.group())), strip(before), "all is as it was");
    // What comes meanwhile builds on that, and the late word of the failure changes nothing.
    world.refusing = None;
    let joining = world.send(Request::ConsumerHeartbeat(Consumer::new("c", &["t"]).full()));
    for _ in 0..3 {
        world.append_done(Ok(()));
    }
    assert_eq!(response(world.replies.remove(&joining).unwrap()).member_epoch, 2);
    assert_eq!(world.group().members.keys().map(|id| &**id).collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn a_classic_group_whose_place_was_not_taken_after_all_is_as_before() {
    let mut world = world();
    let members = world.stable(1);
    world.leave(&members[0].member_id, None);
    let generation = world.groups.groups[GROUP].generation;
    world.refusing = Some(PersistError::NotAvailable);
    let joining = world.send(Request::ConsumerHeartbeat(Consumer::new("a", &["t"]).full()));
    assert_eq!(response(world.replies.remove(&joining).unwrap()).error, GroupError::CoordinatorNotAvailable);
    assert_eq!(world.state_of_list(), ("Empty".into(), "classic"));
    assert_eq!(world.groups.groups[GROUP].generation, generation);
    // A group that only the heartbeat would have made is gone.
    let other = ConsumerHeartbeatRequest { group_id: "h".into(), ..Consumer::new("a", &["t"]).full() };
    world.send(Request::ConsumerHeartbeat(other));
    assert!(!world.groups.groups.contains_key("h"));
}

#[test]
fn a_restart_changes_nothing() {
    let mut world = world();
    world.cluster.set("tea", 2);
    let (mut a, mut b) = (Consumer::with_instance("a", "i", &["t"]), Consumer::with_regex("b", "te."));
    world.settle(&mut [&mut a, &mut b]);
    let epoch = world.group().epoch;
    world.restart();
    for consumer in [&mut a, &mut b] {
        let response = world.consumer(consumer);
        assert_eq!((response.error, response.member_epoch), (GroupError::None, epoch));
    }
    assert_eq!((a.owned.len(), b.owned.len()), (6, 2));
    // In the middle of a rebalance.
    let mut c = world.joined_consumer(Consumer::new("c", &["t"]));
    world.consumer(&mut a);
    assert_eq!(world.group().members["a"].current.progress, Progress::Unrevoked);
    world.restart();
    assert_eq!(world.group().members["a"].current.progress, Progress::Unrevoked);
    a.revoked();
    world.settle(&mut [&mut a, &mut b, &mut c]);
    assert_eq!((a.owned.len(), c.owned.len()), (3, 3));
    // Sessions go on.
    world.restart();
    world.advance(46_000);
    assert_eq!(world.group().members.len(), 0);
}

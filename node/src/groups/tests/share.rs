//! Share groups: who reads what, epochs, sessions, restarts, writes that fail, and groups of other kinds under the same id.

use super::*;

/// What a member is told: the verdict, its epoch, and what it reads if that is said.
type Told = (GroupError, i32, Option<Vec<(Uuid, Vec<i32>)>>);

fn request(member: &str, epoch: i32, topics: Option<&[&str]>) -> Request {
    Request::ShareHeartbeat(ShareHeartbeatRequest {
        group_id: GROUP.into(),
        member_id: member.into(),
        member_epoch: epoch,
        rack_id: None,
        topics: topics.map(|topics| topics.iter().map(|topic| Arc::from(*topic)).collect()),
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
    })
}

fn told(response: Response) -> Told {
    let Response::ShareHeartbeat(response) = response else { panic!("{response:?}") };
    (response.error, response.member_epoch, response.assignment)
}

fn beat(world: &mut World, member: &str, epoch: i32, topics: Option<&[&str]>) -> Told {
    told(world.ask(request(member, epoch, topics)))
}

fn described(world: &mut World) -> DescribedShareGroup {
    let body = Request::ShareDescribe(ShareDescribeRequest { groups: vec![GROUP.into()] });
    let Response::ShareDescribe(mut response) = world.ask(body) else { panic!() };
    response.groups.remove(0)
}

/// A prompt log, and topics of one and four partitions.
fn world() -> World {
    let mut world = World::new();
    world.prompt = true;
    world.cluster.set("one", 1);
    world.cluster.set("four", 4);
    world
}

#[test]
fn partitions_are_dealt_evenly_and_shared_where_members_are_more() {
    let mut world = world();
    let (one, four) = (world.cluster.id("one"), world.cluster.id("four"));
    let (error, epoch, assignment) = beat(&mut world, "a", 0, Some(&["four"]));
    assert_eq!((error, epoch, assignment), (GroupError::None, 1, Some(vec![(four, vec![0, 1, 2, 3])])));
    assert_eq!(beat(&mut world, "b", 0, Some(&["four"])).2, Some(vec![(four, vec![1, 3])]));
    assert_eq!(beat(&mut world, "a", 1, None), (GroupError::None, 2, Some(vec![(four, vec![0, 2])])));
    assert_eq!(beat(&mut world, "a", 2, None), (GroupError::None, 2, None), "as before");
    assert_eq!(beat(&mut world, "b", 2, Some(&["one"])).2, Some(vec![(one, vec![0])]), "it wants another");
    assert_eq!(beat(&mut world, "a", 2, None).2, Some(vec![(four, vec![0, 1, 2, 3])]));
    assert_eq!(beat(&mut world, "c", 0, Some(&["one"])).2, Some(vec![(one, vec![0])]), "two share it");
    assert_eq!(described(&mut world).members.len(), 3);
    world.cluster.set("four", 5);
    world.step(Input::TopicsChanged);
    assert_eq!(beat(&mut world, "a", 3, None).2, Some(vec![(four, vec![0, 1, 2, 3, 4])]));
}

#[test]
fn epochs_and_members_are_checked() {
    let mut world = world();
    assert_eq!(beat(&mut world, "a", 3, None).0, GroupError::GroupIdNotFound);
    assert_eq!(beat(&mut world, "a", 0, None).0, GroupError::InvalidRequest, "it does not say what it wants");
    assert_eq!(beat(&mut world, "a", -2, None).0, GroupError::InvalidRequest);
    assert_eq!(beat(&mut world, "", 0, Some(&["one"])).0, GroupError::InvalidRequest);
    beat(&mut world, "a", 0, Some(&["one"]));
    assert_eq!(beat(&mut world, "b", 1, None).0, GroupError::UnknownMemberId);
    assert_eq!(beat(&mut world, "a", 2, None).0, GroupError::FencedMemberEpoch);
    assert_eq!(
        beat(&mut world, "a", 0, Some(&["one"])),
        (GroupError::None, 1, Some(vec![(world.cluster.id("one"), vec![0])]))
    );
    world.config.max_share_group_size = 1;
    world.restart();
    assert_eq!(beat(&mut world, "b", 0, Some(&["one"])).0, GroupError::GroupMaxSizeReached);
    assert_eq!(beat(&mut world, "a", -1, None), (GroupError::None, -1, None));
    assert_eq!(beat(&mut world, "a", -1, None).0, GroupError::UnknownMemberId);
}

#[test]
fn who_is_silent_is_out_and_the_others_read_what_it_read() {
    let mut world = world();
    let four = world.cluster.id("four");
    beat(&mut world, "a", 0, Some(&["four"]));
    beat(&mut world, "b", 0, Some(&["four"]));
    world.advance(40_000);
    assert_eq!(beat(&mut world, "a", 1, None).1, 2);
    world.advance(10_000);
    assert_eq!(described(&mut world).members.len(), 1);
    let (error, _, assignment) = beat(&mut world, "a", 2, None);
    assert_eq!((error, assignment), (GroupError::None, Some(vec![(four, vec![0, 1, 2, 3])])));
    world.advance(50_000);
    let group = described(&mut world);
    assert_eq!((group.state, group.members.len()), (Some(StateName::Empty), 0));
}

#[test]
fn members_are_known_after_a_restart() {
    let mut world = world();
    beat(&mut world, "a", 0, Some(&["four"]));
    beat(&mut world, "b", 0, Some(&["one"]));
    world.restart();
    let group = described(&mut world);
    assert_eq!((group.epoch, group.members.len()), (2, 2));
    let four = world.cluster.id("four");
    let (error, epoch, assignment) = beat(&mut world, "a", 2, None);
    assert_eq!((error, epoch, assignment), (GroupError::None, 3, Some(vec![(four, vec![0, 1, 2, 3])])));
    world.advance(46_000);
    assert_eq!(described(&mut world).state, Some(StateName::Empty), "their sessions began with the restart");
    let delete = Request::Delete(DeleteRequest { groups: vec![GROUP.into()] });
    let Response::Delete(deleted) = world.ask(delete) else { panic!() };
    assert_eq!(deleted.results[0].1, GroupError::None);
    assert!(world.durable.is_empty());
}

#[test]
fn nothing_is_told_before_it_is_durable_and_a_refused_write_is_undone() {
    let mut world = world();
    beat(&mut world, "a", 0, Some(&["four"]));
    world.prompt = false;
    let joins = world.send(request("b", 0, Some(&["four"])));
    let asks = world.send(request("a", 1, None));
    assert!(world.replies.is_empty(), "what a would be told speaks of b");
    world.append_done(Ok(()));
    assert_eq!(told(world.replies.remove(&joins).unwrap()).1, 2);
    assert_eq!(told(world.replies.remove(&asks).unwrap()).1, 2);
    world.prompt = true;
    world.refusing = Some(PersistError::NotAvailable);
    assert_eq!(beat(&mut world, "c", 0, Some(&["four"])).0, GroupError::CoordinatorNotAvailable);
    assert_eq!(beat(&mut world, "a", -1, None).0, GroupError::CoordinatorNotAvailable);
    world.refusing = None;
    let group = described(&mut world);
    assert_eq!((group.epoch, group.members.len()), (2, 2));
    world.refusing = Some(PersistError::NotAvailable);
    let mut empty = World::new();
    (empty.prompt, empty.refusing) = (true, world.refusing);
    empty.cluster = world.cluster.clone();
    assert_eq!(beat(&mut empty, "a", 0, Some(&["four"])).0, GroupError::CoordinatorNotAvailable);
    assert_eq!(described(&mut empty).error, GroupError::GroupIdNotFound, "the group was not founded");
}

#[test]
fn a_log_that_takes_nothing_is_not_asked_again_at_once_to_end_a_session() {
    let mut world = world();
    beat(&mut world, "a", 0, Some(&["four"]));
    world.refusing = Some(PersistError::NotAvailable);
    world.advance(50_000);
    assert_eq!(described(&mut world).members.len(), 1);
    world.refusing = None;
    world.advance(50_000);
    assert_eq!(described(&mut world).members.len(), 0);
}

#[test]
fn groups_of_different_kinds_do_not_mix() {
    let mut world = world();
    beat(&mut world, "a", 0, Some(&["four"]));
    let list = Request::List(ListRequest { types: vec!["share".into()], states: Vec::new() });
    let Response::List(listed) = world.ask(list) else { panic!() };
    assert_eq!((listed.groups.len(), listed.groups[0].group_type), (1, GROUP_TYPE_SHARE));
    let classic = Request::Describe(DescribeRequest { groups: vec![GROUP.into()] });
    let Response::Describe(classic) = world.ask(classic) else { panic!() };
    assert_eq!(classic.groups[0].error, GroupError::GroupIdNotFound);
    let delete = Request::Delete(DeleteRequest { groups: vec![GROUP.into()] });
    let Response::Delete(deleted) = world.ask(delete) else { panic!() };
    assert_eq!(deleted.results[0].1, GroupError::NonEmptyGroup);
    assert_eq!(world.groups.sharers(GROUP), Ok(1));
    assert_eq!(world.groups.sharers("another"), Err(GroupError::GroupIdNotFound));
}

//! What people see of groups, and how they delete them.

use super::*;

fn list(world: &mut World, states: &[&str], types: &[&str]) -> Vec<(String, StateName)> {
    let arcs = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    match world.ask(Request::List(ListRequest { states: arcs(states), types: arcs(types) })) {
        Response::List(response) => {
            assert_eq!(response.error, GroupError::None);
            response.groups.iter().map(|g| (g.group_id.to_string(), g.state)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut world = World::new();
    world.stable(1);
    let Request::OffsetCommit(mut request) = commit(None, "t", 1) else { unreachable!() };
    request.group_id = "offsets".into();
    world.ask(Request::OffsetCommit(request));
    let (stable, empty) = (("g".to_owned(), StateName::Stable), ("offsets".to_owned(), StateName::Empty));
    assert_eq!(list(&mut world, &[], &[]), [stable.clone(), empty.clone()]);
    assert_eq!(list(&mut world, &["stable"], &["Classic"]), [stable]);
    assert_eq!(list(&mut world, &["Empty", "Dead"], &[]), [empty]);
    assert_eq!(list(&mut world, &["nonsense"], &[]), []);
    assert_eq!(list(&mut world, &[], &["consumer"]), [], "there are none of that type");
}

#[test]
fn a_stable_group_is_described_in_full_and_others_without_assignments() {
    let mut world = World::new();
    let members = world.stable(2);
    let group = world.describe();
    assert_eq!((group.error, group.state, &*group.protocol), (GroupError::None, StateName::Stable, "range"));
    assert_eq!((&*group.protocol_type, group.members.len()), ("consumer", 2));
    for member in &group.members {
        assert_eq!((&*member.client_id, &*member.client_host), ("client", "/127.0.0.1"));
        assert_eq!(member.metadata, subscription(&["t"], b""));
        assert_eq!(&member.assignment[..], member.member_id.as_bytes());
    }
    world.send(Request::Join(rejoin(&members[0])));
    let group = world.describe();
    assert_eq!((group.state, &*group.protocol), (StateName::PreparingRebalance, ""));
    assert!(group.members.iter().all(|m| m.metadata.is_empty() && m.assignment.is_empty()));
}

#[test]
fn a_group_that_does_not_exist_is_dead() {
    let group = World::new().describe();
    assert_eq!((group.error, group.state), (GroupError::GroupIdNotFound, StateName::Dead));
}

#[test]
fn only_empty_groups_are_deleted_and_only_once_that_is_durable() {
    let mut world = World::new();
    assert_eq!(world.delete(), GroupError::GroupIdNotFound);
    let members = world.stable(1);
    world.commit(Some(&members[0]), "t", 1);
    assert_eq!(world.delete(), GroupError::NonEmptyGroup);
    world.leave(&members[0].member_id, None);
    world.prompt = false;
    let request = world.send(Request::Delete(DeleteRequest { groups: vec![GROUP.into(), GROUP.into()] }));
    assert_eq!(world.delete_reply(request), None);
    assert_eq!(world.join_now(newcomer()).error, GroupError::CoordinatorNotAvailable, "not while it is dying");
    assert_eq!(world.commit(None, "t", 9), GroupError::CoordinatorNotAvailable);
    world.append_done(Err(PersistError::NotAvailable));
    assert_eq!(world.delete_reply(request), Some(GroupError::CoordinatorNotAvailable));
    assert_eq!((world.state(), world.committed("t")), (StateName::Empty, 1), "it is as it was");
    world.prompt = true;
    assert_eq!(world.delete(), GroupError::None);
    assert_eq!((world.state(), world.committed("t")), (StateName::Dead, -1));
    assert!(world.durable.is_empty() && world.groups.groups.is_empty());
}

#[test]
fn a_delete_covers_commits_that_are_on_their_way() {
    let mut world = World::new();
    world.prompt = false;
    world.send(commit(None, "t", 1));
    let request = world.send(Request::Delete(DeleteRequest { groups: vec![GROUP.into()] }));
    world.append_done(Ok(()));
    world.append_done(Ok(()));
    assert_eq!(world.delete_reply(request), Some(GroupError::None));
    assert!(world.durable.is_empty() && world.groups.groups.is_empty());
}

#[test]
fn a_group_of_ids_only_is_deleted_without_a_write() {
    let mut world = World::new();
    world.prompt = false;
    world.join_now(JoinRequest { known_member_id_required: true, ..newcomer() });
    assert_eq!(world.delete(), GroupError::None);
    assert_eq!((world.groups.groups.len(), world.appends.len()), (0, 0));
}

#[test]
fn requests_that_name_too_many_are_refused_whole() {
    let mut world = World::with(GroupsConfig { max_names_per_request: 2, ..config() });
    let names: Vec<Arc<str>> = vec!["a".into(), "b".into(), "c".into()];
    match world.ask(Request::Describe(DescribeRequest { groups: names.clone() })) {
        Response::Describe(response) => assert_eq!(response.groups[2].error, GroupError::InvalidRequest),
        other => panic!("{other:?}"),
    }
    match world.ask(Request::Delete(DeleteRequest { groups: names })) {
        Response::Delete(response) => assert_eq!(response.results[0].1, GroupError::InvalidRequest),
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let swapped = GroupsConfig { min_session_timeout_ms: 2, max_session_timeout_ms: 1, ..config() };
    assert!(Groups::new(swapped, 0).is_err());
    let long = GroupsConfig { max_offset_metadata_bytes: 70_000, ..config() };
    assert!(Groups::new(long, 0).unwrap_err().to_string().contains("max_offset_metadata_bytes is 70000"));
    let long = GroupsConfig { max_id_bytes: 65_500, ..config() };
    assert!(Groups::new(long, 0).is_err());
}

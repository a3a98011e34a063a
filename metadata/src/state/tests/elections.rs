//! Elections that someone asks for.

use super::*;

fn all(state: &mut Metadata, unclean: bool) -> Vec<Outcome<Elected>> {
    match state.done(Command::ElectLeaders { partitions: None, unclean }) {
        Change::LeadersElected(outcomes) => outcomes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_preferred_leader_comes_back() {
    let mut state = cluster(3, 1, &[0, 1, 2]);
    assert_eq!(state.elect(false), Err(MetadataError::ElectionNotNeeded(pid(1, 0))));
    state.done(fence(0));
    assert_eq!(state.elect(false), Err(MetadataError::PreferredLeaderNotAvailable(pid(1, 0))));
    state.done(unfence(0));
    assert_eq!(state.elect(false), Err(MetadataError::PreferredLeaderNotAvailable(pid(1, 0))), "not in sync yet");
    assert!(state.preferred_leader_moves().is_empty());
    state.ask_isr(&[0, 1, 2]).unwrap();
    assert_eq!(state.roles().0, Some(1), "leaderships do not jump by themselves");
    assert_eq!(state.preferred_leader_moves(), [pid(1, 0)]);
    let elected = state.elect(false).unwrap();
    assert_eq!(elected, Elected { leader: 0, leader_epoch: 2, data_loss: None });
    assert!(state.preferred_leader_moves().is_empty());
}

#[test]
fn who_shuts_down_is_not_preferred() {
    let mut state = cluster(2, 2, &[0, 1]);
    state.done(stop(0));
    assert_eq!(state.roles(), (Some(1), vec![0, 1], vec![]));
    assert!(state.preferred_leader_moves().is_empty());
    assert_eq!(state.elect(false), Err(MetadataError::PreferredLeaderNotAvailable(pid(1, 0))));
}

#[test]
fn without_a_list_only_what_needs_it() {
    let mut state = running(2);
    state.done(create_on(2, 1, &[&[1, 0], &[0, 1], &[1, 0]]));
    state.done(fence(1));
    assert!(all(&mut state, false).is_empty());
    state.done(unfence(1));
    for partition in [2, 0] {
        let id = pid(2, partition);
        let Partition { leader_epoch, partition_epoch, .. } = *state.partition(id).unwrap();
        let isr = vec![(0, incarnation(0, 0)), (1, incarnation(1, 0))];
        state.ask(0, PartitionChange { id, leader_epoch, partition_epoch, isr }).unwrap();
    }
    let elected = all(&mut state, false);
    assert_eq!(elected.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [pid(2, 0), pid(2, 2)]);
    assert!(elected.iter().all(|(_, r)| r.as_ref().is_ok_and(|e| e.leader == 1)));
}

#[test]
fn an_unclean_election_is_loud() {
    let mut state = cluster(2, 1, &[0, 1]);
    assert_eq!(state.elect(true), Err(MetadataError::ElectionNotNeeded(pid(1, 0))));
    state.ask_isr(&[0]).unwrap();
    state.done(fence(0));
    let epoch = state.first().leader_epoch;
    let elected = state.elect(true).unwrap();
    assert_eq!((elected.leader, elected.leader_epoch), (1, epoch + 1));
    let loss = elected.data_loss.unwrap();
    assert_eq!(loss.passed_over, [0]);
    let said = loss.to_string();
    for part in ["unclean election: node 1 leads", "messages may be lost", "can't be known", "truncated: [0]"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(state.roles(), (Some(1), vec![1], vec![]));
    // Who had everything comes back as a follower.
    state.done(unfence(0));
    assert_eq!(state.roles(), (Some(1), vec![1], vec![]));
}

#[test]
fn unclean_needs_somebody_who_runs() {
    let mut state = cluster(2, 1, &[0, 1]);
    state.done(fence(1));
    state.done(fence(0));
    assert_eq!(state.elect(true), Err(MetadataError::EligibleLeadersNotAvailable(pid(1, 0))));
    assert!(all(&mut state, true).is_empty());
    state.done(unfence(1));
    let elected = all(&mut state, true);
    assert!(matches!(&elected[..], [(_, Ok(Elected { leader: 1, data_loss: Some(_), .. }))]));
}

#[test]
fn unclean_prefers_something_over_an_empty_disk_and_never_takes_damage() {
    // Node 0 was alone in sync, and comes back with a new disk; node 1 lags behind but has something.
    let mut state = cluster(2, 1, &[0, 1]);
    state.ask_isr(&[0]).unwrap();
    state.done(register_as(0, 1, 1, None));
    state.done(Command::Unfence { node_id: 0, incarnation: incarnation(0, 1) });
    let mut other = state.clone();
    assert_eq!(state.elect(true).unwrap().leader, 1);
    // If that is damaged, the empty one is all there is.
    other.lose(1, pid(1, 0)).unwrap();
    assert_eq!(other.elect(true).unwrap().leader, 0);
    let mut state = cluster(1, 1, &[0]);
    state.lose(0, pid(1, 0)).unwrap();
    assert_eq!(state.elect(true), Err(MetadataError::EligibleLeadersNotAvailable(pid(1, 0))));
    // A new disk ends the damage.
    state.done(register_as(0, 1, 1, None));
    state.done(Command::Unfence { node_id: 0, incarnation: incarnation(0, 1) });
    let loss = state.elect(true).unwrap().data_loss.unwrap();
    assert!(loss.to_string().contains("No replica was left"), "{loss}");
}

#[test]
fn unknown_partitions() {
    let mut state = cluster(1, 1, &[0]);
    let partitions = Some(vec![pid(9, 0), pid(1, 0)]);
    for unclean in [false, true] {
        let Change::LeadersElected(outcomes) =
            state.done(Command::ElectLeaders { partitions: partitions.clone(), unclean })
        else {
            panic!()
        };
        assert_eq!(outcomes[0].1, Err(MetadataError::UnknownPartition(pid(9, 0))));
        assert_eq!(outcomes[1].1, Err(MetadataError::ElectionNotNeeded(pid(1, 0))));
    }
}

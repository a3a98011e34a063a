//! Topics, configurations, producer ids, the cluster's id.

use super::*;

fn with_config(name: &str, n: u128, key: &str, value: &str) -> Command {
    Command::CreateTopic {
        name: name.into(),
        id: id(n),
        partitions: 1,
        replication_factor: 1,
        configs: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        internal: false,
        assignment: None,
    }
}

fn alter(key: &str, value: Option<&str>) -> Command {
    Command::AlterTopicConfigs { id: id(1), set: BTreeMap::from([(key.to_owned(), value.map(str::to_owned))]) }
}

#[test]
fn create_lookup_delete() {
    let mut state = running(1);
    let applied = state.apply(payload(create("a", 1, 3, 1)));
    assert_eq!(applied.results, [Ok(Change::TopicCreated { id: id(1) })]);
    assert_eq!(applied.touched, [pid(1, 0), pid(1, 1), pid(1, 2)]);
    assert_eq!(state.topic("a").unwrap().id, id(1));
    assert_eq!(&*state.topic_by_id(id(1)).unwrap().name, "a");
    assert_eq!((state.partition_count(), state.topic("a").unwrap().partition_count()), (3, 3));
    assert!(state.partition(pid(1, 2)).is_some());
    assert!(state.partition(pid(1, 3)).is_none() && state.partition(pid(1, -1)).is_none());
    assert!(matches!(state.refused(create("a", 2, 1, 1)), MetadataError::TopicExists(_)));
    assert!(matches!(state.refused(create("b", 1, 1, 1)), MetadataError::TopicIdExists(_)));
    assert!(matches!(state.refused(create("b", 0, 1, 1)), MetadataError::TopicIdExists(_)));
    let applied = state.apply(payload(Command::DeleteTopic { id: id(1) }));
    assert!(matches!(applied.results[0], Ok(Change::TopicDeleted { .. })));
    assert_eq!(applied.touched.len(), 3);
    assert!(state.topic("a").is_none());
    assert_eq!(state.partition_count(), 0);
    assert!(matches!(state.refused(Command::DeleteTopic { id: id(1) }), MetadataError::UnknownTopic(_)));
    // The same name again is another topic.
    state.done(create("a", 3, 1, 1));
    assert!(state.topic_by_id(id(1)).is_none());
}

#[test]
fn names_that_collide_are_refused_until_the_other_is_gone() {
    let mut state = running(1);
    state.done(create("a.b", 1, 1, 1));
    let error = state.refused(create("a_b", 2, 1, 1));
    assert!(error.to_string().contains("'a.b'"), "{error}");
    state.done(Command::DeleteTopic { id: id(1) });
    state.done(create("a_b", 2, 1, 1));
}

#[test]
fn partitions_only_grow() {
    let mut state = running(1);
    for bad in [-1, 0, i32::MAX] {
        assert!(matches!(state.refused(create("a", 1, bad, 1)), MetadataError::InvalidPartitions(_)));
    }
    state.done(create("a", 1, 2, 1));
    let grow = |partitions| Command::GrowTopic { id: id(1), partitions, assignment: None };
    for bad in [-1, 0, 1, 2, i32::MAX] {
        assert!(matches!(state.refused(grow(bad)), MetadataError::InvalidPartitions(_)));
    }
    let applied = state.apply(payload(grow(4)));
    assert_eq!(applied.results, [Ok(Change::TopicGrown { id: id(1), from: 2, to: 4 })]);
    assert_eq!(applied.touched, [pid(1, 2), pid(1, 3)]);
    assert_eq!((state.partition_count(), state.topic("a").unwrap().partition_count()), (4, 4));
}

#[test]
fn message_ids_stay_where_they_are_remembered() {
    let mut state = running(1);
    state.done(create("a", 1, 2, 1));
    let grow = |partitions| Command::GrowTopic { id: id(1), partitions, assignment: None };
    let window = |ms: &str| {
        let set = BTreeMap::from([("wherry.dedupe.window.ms".to_owned(), Some(ms.to_owned()))]);
        Command::AlterTopicConfigs { id: id(1), set }
    };
    let spread = |state: &Metadata| state.topic("a").unwrap().id_partition_count();
    state.done(grow(3));
    assert_eq!(spread(&state), 3, "without a window there is nothing to remember");
    state.done(window("60000"));
    state.done(grow(5));
    state.done(grow(6));
    state.done(window("90000"));
    assert_eq!(spread(&state), 3);
    let restored = Metadata::restore(&state.snapshot()).unwrap();
    assert_eq!((spread(&restored), restored.snapshot()), (3, state.snapshot()));
    state.done(window("0"));
    state.done(window("60000"));
    assert_eq!(spread(&state), 6);
}

#[test]
fn growth_with_chosen_replicas() {
    let mut state = cluster(3, 1, &[0, 1]);
    let grow = |partitions, lists: &[&[i32]]| Command::GrowTopic {
        id: id(1),
        partitions,
        assignment: Some(lists.iter().map(|l| l.to_vec()).collect()),
    };
    for bad in [grow(3, &[&[1, 2]]), grow(2, &[&[1]]), grow(2, &[&[1, 1]]), grow(2, &[&[1, 7]]), grow(2, &[&[]])] {
        assert!(matches!(state.refused(bad), MetadataError::InvalidReplicaAssignment(_)));
    }
    state.done(grow(3, &[&[1, 2], &[2, 0]]));
    let replicas = |n| state.partition(pid(1, n)).unwrap().replicas.to_vec();
    assert_eq!((replicas(1), replicas(2)), (vec![1, 2], vec![2, 0]));
}

#[test]
fn replicas_need_nodes_that_run() {
    let mut state = Metadata::default();
    for factor in [-1, 1] {
        let error = state.refused(create("a", 1, 1, factor));
        assert!(matches!(error, MetadataError::InvalidReplicationFactor(_)));
        assert!(error.to_string().contains("0 nodes are registered, 0 of them running"), "{error}");
    }
    let mut state = running(2);
    for factor in [-2, 0, 3, i16::MAX] {
        let error = state.refused(create("a", 1, 1, factor));
        assert!(matches!(error, MetadataError::InvalidReplicationFactor(_)), "{factor}");
    }
    state.done(fence(0));
    state.done(stop(1));
    for factor in [-1, 1, 2] {
        let error = state.refused(create("a", 1, 1, factor));
        assert!(error.to_string().contains("2 nodes are registered, 0 of them running"), "{error}");
    }
}

#[test]
fn nodes_that_do_not_run_get_only_what_the_running_ones_are_too_few_for() {
    for idle in [fence(1), stop(1)] {
        let mut state = running(4);
        state.done(idle);
        state.done(create("three", 2, 12, 3));
        assert!(state.topic("three").unwrap().partitions.iter().all(|p| !p.replicas.contains(&1)));
        state.done(create("four", 1, 12, 4));
        for partition in &state.topic("four").unwrap().partitions {
            assert_eq!((partition.replicas.len(), partition.replicas.last()), (4, Some(&1)));
            assert_eq!((partition.isr.len(), partition.leader), (3, partition.replicas.first().copied()));
            assert!(!partition.isr.contains(&1));
            assert_eq!(partition.blank.as_slice(), [1], "it has seen nothing");
        }
        assert!(matches!(state.refused(create("five", 3, 1, 5)), MetadataError::InvalidReplicationFactor(_)));
        state.done(Command::GrowTopic { id: id(1), partitions: 13, assignment: None });
    }
}

#[test]
fn a_node_that_did_not_run_is_in_sync_when_it_has_caught_up() {
    let mut state = running(3);
    state.done(fence(2));
    state.done(create("a", 1, 1, -1));
    let (leader, isr) = (state.first().leader, state.first().isr.to_vec());
    assert_eq!((state.first().replicas.len(), isr.len(), isr.contains(&2)), (3, 2, false));
    state.done(unfence(2));
    assert_eq!((state.first().leader, state.first().isr.len()), (leader, 2), "running is not being in sync");
    assert_eq!(state.ask_isr(&[0, 1, 2]), Ok(()));
    assert!(state.first().blank.is_empty());
}

#[test]
fn the_last_replicas_spread_over_racks_too() {
    let mut state = Metadata::default();
    for (node, rack) in [(0, "a"), (1, "b"), (2, "a"), (3, "b"), (4, "c")] {
        state.done(register_as(node, 0, 0, Some(rack)));
    }
    state.done(unfence(0));
    state.done(unfence(2));
    state.done(create("a", 1, 8, 3));
    for partition in &state.topic("a").unwrap().partitions {
        assert!(partition.isr.iter().all(|n| [0, 2].contains(n)) && partition.isr.len() == 2);
        assert!([1, 3, 4].contains(partition.replicas.last().unwrap()));
    }
    state.done(fence(2));
    state.done(create("b", 2, 8, 3));
    for partition in &state.topic("b").unwrap().partitions {
        let racks: BTreeSet<_> = partition.replicas.iter().map(|n| state.broker(*n).unwrap().rack.clone()).collect();
        assert_eq!((partition.replicas.first(), racks.len()), (Some(&0), 3));
    }
}

#[test]
fn the_default_is_three_replicas_or_as_many_as_run() {
    for (nodes, expected) in [(1, 1), (2, 2), (3, 3), (5, 3)] {
        let mut state = running(nodes);
        state.done(create("a", 1, 1, -1));
        assert_eq!(state.first().replicas.len(), expected);
        assert_eq!(usize::try_from(state.topic("a").unwrap().replication_factor), Ok(expected));
    }
}

#[test]
fn chosen_replicas() {
    let mut state = running(3);
    state.done(fence(2));
    let bad: [(&[&[i32]], &str); 7] = [
        (&[&[0, 0]], "twice"),
        (&[&[0, 9]], "not registered"),
        (&[&[]], "from 1 to 16"),
        (&[&[0, 1], &[0]], "are not 2 replicas"),
        (&[&[2]], "none of the nodes"),
        (&[&[0; 17]], "from 1 to 16"),
        (&[&[-1]], "not registered"),
    ];
    for (lists, why) in bad {
        let error = state.refused(create_on(1, 1, lists));
        assert!(matches!(error, MetadataError::InvalidReplicaAssignment(_)));
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(matches!(state.refused(create_on(1, 1, &[])), MetadataError::InvalidPartitions(_)));
    // A node that does not run is no in-sync replica of what it has never seen.
    state.done(create_on(1, 1, &[&[2, 1, 0]]));
    assert_eq!(state.roles(), (Some(1), vec![0, 1], vec![]));
}

#[test]
fn counts_must_agree_with_the_chosen_replicas() {
    let mut state = running(2);
    let with = |count, factor| {
        let Command::CreateTopic { name, id, configs, internal, assignment, .. } = create_on(1, 1, &[&[0, 1]]) else {
            panic!()
        };
        Command::CreateTopic { name, id, partitions: count, replication_factor: factor, configs, internal, assignment }
    };
    assert!(matches!(state.refused(with(2, -1)), MetadataError::InvalidReplicaAssignment(_)));
    assert!(matches!(state.refused(with(-1, 1)), MetadataError::InvalidReplicationFactor(_)));
    state.done(with(1, 2));
}

#[test]
fn configs() {
    let mut state = running(1);
    assert!(matches!(state.refused(with_config("a", 1, "no.such.key", "1")), MetadataError::InvalidConfig(_)));
    assert!(matches!(state.refused(with_config("a", 1, "retention.ms", "x")), MetadataError::InvalidConfig(_)));
    state.done(with_config("a", 1, "retention.ms", "1000"));
    assert_eq!(state.topic("a").unwrap().config.retention_ms, Some(1000));
    state.done(alter("cleanup.policy", Some("compact")));
    assert!(state.topic("a").unwrap().config.is_compacted());
    state.done(alter("retention.ms", None));
    assert_eq!(state.topic("a").unwrap().config.retention_ms, Some(604_800_000));
    assert!(matches!(state.refused(alter("nope", Some("1"))), MetadataError::InvalidConfig(_)));
    state.done(alter("nope", None));
    assert_eq!((state.min_insync(id(1)), state.min_insync(id(9))), (1, 1));
    state.done(alter("min.insync.replicas", Some("2")));
    assert_eq!(state.min_insync(id(1)), 2);
}

#[test]
fn a_lower_minimum_ends_eligibility() {
    let mut state = cluster(3, 2, &[0, 1, 2]);
    state.ask_isr(&[0]).unwrap();
    assert_eq!(state.roles(), (Some(0), vec![0], vec![1, 2]));
    let applied = state.apply(payload(alter("min.insync.replicas", Some("1"))));
    // From now on node 0 commits alone, so the others may miss something.
    assert_eq!(state.roles(), (Some(0), vec![0], vec![]));
    assert_eq!(applied.touched, [pid(1, 0)]);
}

#[test]
fn producer_ids_are_given_once() {
    let mut state = Metadata::default();
    let reserve = |first, count| Command::ReserveProducerIds { first, count };
    state.done(reserve(0, 1000));
    assert!(matches!(state.refused(reserve(0, 1000)), MetadataError::StaleProducerIds { expected: 1000, .. }));
    assert!(matches!(state.refused(reserve(1000, 0)), MetadataError::InvalidRequest(_)));
    assert!(matches!(state.refused(reserve(1000, i64::MAX)), MetadataError::InvalidRequest(_)));
    assert_eq!(state.next_producer_id(), 1000);
}

#[test]
fn one_cluster_id() {
    let mut state = Metadata::default();
    let name = |s: &str| Command::SetClusterId { cluster_id: s.into() };
    state.done(name("one"));
    state.done(name("one"));
    assert!(matches!(state.refused(name("two")), MetadataError::ClusterIdMismatch { .. }));
    assert!(matches!(state.refused(name("")), MetadataError::InvalidRequest(_)));
}

#[test]
fn listing_is_by_name() {
    let mut state = running(1);
    for (n, name) in ["c", "a", "b"].into_iter().enumerate() {
        state.done(create(name, n as u128 + 1, 1, 1));
    }
    let names = |from| state.topics_from(from).map(|t| t.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(""), ["a", "b", "c"]);
    assert_eq!(names("aa"), ["b", "c"]);
}

#[test]
fn one_refusal_does_not_stop_the_next() {
    let mut state = running(1);
    let commands = vec![create("a", 1, 1, 1), create("a", 2, 1, 1), create("b", 3, 1, 1)];
    let applied = state.apply(Payload { origin: None, commands });
    assert_eq!(applied.results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(state.topic_count(), 2);
}

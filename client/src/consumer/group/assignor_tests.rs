//! Tests of the assignors: what must hold for each, on small cases by hand and on random groups.

use super::*;

fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn member(id: &str, topics: &[&str], owned: &[TopicPartition], generation: i32) -> Member {
    let topics = topics.iter().map(|t| Arc::from(*t)).collect();
    let subscription = Subscription { topics, owned: owned.to_vec(), generation, ..Subscription::default() };
    Member { id: id.into(), instance_id: None, subscription }
}

fn topics(of: &[(&str, i32)]) -> Topics {
    of.iter().map(|(t, n)| (Arc::from(*t), *n)).collect()
}

fn all(assignment: &Assignment) -> Vec<TopicPartition> {
    let mut all: Vec<_> = assignment.values().flatten().cloned().collect();
    all.sort();
    all
}

#[test]
fn range_gives_contiguous_shares_per_topic() {
    let members = vec![member("b", &["x", "y"], &[], -1), member("a", &["x", "y"], &[], -1)];
    let got = assign(Assignor::Range, members, &topics(&[("x", 3), ("y", 1)]));
    assert_eq!(got["a"], [at("x", 0), at("x", 1), at("y", 0)]);
    assert_eq!(got["b"], [at("x", 2)]);
}

#[test]
fn round_robin_deals_across_topics() {
    let members = vec![member("a", &["x", "y"], &[], -1), member("b", &["x", "y"], &[], -1)];
    let got = assign(Assignor::RoundRobin, members, &topics(&[("x", 3), ("y", 1)]));
    assert_eq!(got["a"], [at("x", 0), at("x", 2)]);
    assert_eq!(got["b"], [at("x", 1), at("y", 0)]);
}

#[test]
fn static_members_are_ordered_by_instance() {
    let mut members = vec![member("a", &["x"], &[], -1), member("b", &["x"], &[], -1)];
    members[0].instance_id = Some("2".into());
    members[1].instance_id = Some("1".into());
    let got = assign(Assignor::Range, members, &topics(&[("x", 2)]));
    assert_eq!((&got["b"][..], &got["a"][..]), (&[at("x", 0)][..], &[at("x", 1)][..]));
}

#[test]
fn cooperative_takes_away_first_and_gives_later() {
    let owned: Vec<_> = (0..4).map(|p| at("x", p)).collect();
    let topics = topics(&[("x", 4)]);
    let first = assign(
        Assignor::CooperativeSticky,
        vec![member("a", &["x"], &owned, 1), member("b", &["x"], &[], -1)],
        &topics,
    );
    assert_eq!((first["a"].len(), first["b"].len()), (2, 0), "what moves is held back");
    let second = assign(
        Assignor::CooperativeSticky,
        vec![member("a", &["x"], &first["a"], 2), member("b", &["x"], &[], 2)],
        &topics,
    );
    assert_eq!(second["a"], first["a"]);
    assert_eq!(second["b"].len(), 2);
}

#[test]
fn an_outdated_claim_loses() {
    let topics = topics(&[("x", 2)]);
    let zombie = member("a", &["x"], &[at("x", 0), at("x", 1)], 3);
    let owner = member("b", &["x"], &[at("x", 0)], 5);
    let got = assign(Assignor::CooperativeSticky, vec![zombie, owner], &topics);
    assert_eq!((&got["a"][..], &got["b"][..]), (&[at("x", 1)][..], &[at("x", 0)][..]));
}

#[test]
fn sticky_reads_what_it_wrote() {
    let topics = topics(&[("x", 4)]);
    let had = [at("x", 1), at("x", 3)];
    let mut a = member("a", &["x"], &[], -1);
    a.subscription.user_data = Some(user_data(&had, 4));
    let got = assign(Assignor::Sticky, vec![a, member("b", &["x"], &[], -1)], &topics);
    assert_eq!(got["a"], had);
    assert_eq!(got["b"], [at("x", 0), at("x", 2)]);
}

/// Random groups: everything is assigned exactly once to a subscriber, balanced where all subscribe alike, and stable.
#[test]
fn random_groups_are_covered_balanced_and_stable() {
    let mut seed = 1u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for _ in 0..300 {
        let names = ["x", "y", "z"];
        let counts: Vec<(&str, i32)> = names.iter().map(|n| (*n, i32::try_from(random(9)).unwrap())).collect();
        let topics = topics(&counts);
        let alike = random(2) == 0;
        let mut members = Vec::new();
        for m in 0..1 + random(6) {
            let wants: Vec<_> = names.iter().filter(|_| alike || random(3) > 0).copied().collect();
            members.push(member(&format!("m{m}"), &wants, &[], -1));
        }
        let wanted: Vec<_> = all_partitions(&topics).filter(|p| !subscribers(&members, &p.topic).is_empty()).collect();
        for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::Sticky, Assignor::CooperativeSticky] {
            let got = assign(assignor, members.clone(), &topics);
            assert_eq!(all(&got), wanted, "{assignor:?}");
            for m in &members {
                assert!(got[&m.id].iter().all(|p| m.subscription.topics.contains(&p.topic)), "{assignor:?}");
            }
            if alike && assignor != Assignor::Range {
                let loads = || got.values().map(Vec::len);
                assert!(loads().max().unwrap() - loads().min().unwrap() <= 1, "{assignor:?} {got:?}");
            }
        }
        let before = assign(Assignor::CooperativeSticky, members.clone(), &topics);
        for m in &mut members {
            m.subscription.owned = before[&m.id].clone();
            m.subscription.generation = 1;
        }
        assert_eq!(assign(Assignor::CooperativeSticky, members, &topics), before, "nothing moves without need");
    }
}

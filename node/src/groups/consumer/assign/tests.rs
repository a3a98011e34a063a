//! Random walks over groups that change: what is assigned is whole, even, and stays where it was as far as it can.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

/// Members by name with what they want and have.
type Group = BTreeMap<String, (BTreeSet<usize>, Parts)>;

fn id(topic: usize) -> Uuid {
    Uuid::from_u128(topic as u128 + 1)
}

fn assigned(assignor: Assignor, topics: &[i32], group: &Group) -> Vec<(String, Parts)> {
    let members = group.iter().map(|(name, (wanted, before))| MemberSpec {
        name,
        topics: wanted.iter().copied().collect::<Vec<_>>().into(),
        before: Some(before),
    });
    let topics = topics.iter().enumerate().map(|(n, partitions)| TopicSpec { id: id(n), partitions: *partitions });
    let spec = Spec { topics: topics.collect(), members: members.collect() };
    group.keys().cloned().zip(assignor.assign(&spec)).collect()
}

fn size(parts: &Parts) -> usize {
    parts.values().map(BTreeSet::len).sum()
}

/// Every partition that somebody wants has exactly one owner, who wants it; there are no others.
fn check_whole(topics: &[i32], group: &Group, result: &[(String, Parts)]) {
    let mut owners: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
    for (name, parts) in result {
        for (topic, partitions) in parts {
            assert!(group[name].0.iter().any(|wanted| id(*wanted) == *topic), "{name} got a topic it does not want");
            assert!(!partitions.is_empty());
            for partition in partitions {
                let other = owners.insert((*topic, *partition), name);
                assert_eq!(other, None, "{partition} given twice");
            }
        }
    }
    for (topic, partitions) in topics.iter().enumerate() {
        let wanted = group.values().any(|(wanted, _)| wanted.contains(&topic));
        let count = owners.keys().filter(|(owned, _)| *owned == id(topic)).count();
        assert_eq!(count, if wanted { usize::try_from(*partitions).unwrap() } else { 0 });
        assert!(owners.keys().all(|(t, p)| *t != id(topic) || (0..*partitions).contains(p)));
    }
}

/// No single partition could move to make it more even.
fn check_even(group: &Group, result: &[(String, Parts)]) {
    for (from, parts) in result {
        for (to, others) in result {
            let shared = parts.keys().any(|topic| group[to].0.iter().any(|wanted| id(*wanted) == *topic));
            assert!(!shared || size(parts) < size(others) + 2, "{from} has {} and {to} {}", size(parts), size(others));
        }
    }
}

/// Where all want the same: no even assignment would have left more in place.
fn check_sticky(topics: &[i32], group: &Group, result: &[(String, Parts)]) {
    let wanted = &group.values().next().unwrap().0;
    let valid = |parts: &Parts| -> usize {
        let of = |(topic, partitions): (&Uuid, &BTreeSet<i32>)| {
            let topic = wanted.iter().find(|wanted| id(**wanted) == *topic);
            topic.map_or(0, |topic| partitions.iter().filter(|p| **p < topics[*topic]).count())
        };
        parts.iter().map(of).sum()
    };
    let mut had: Vec<usize> = group.values().map(|(_, before)| valid(before)).collect();
    had.sort_unstable_by(|a, b| b.cmp(a));
    let total: usize = wanted.iter().map(|topic| usize::try_from(topics[*topic]).unwrap()).sum();
    let (least, extra) = (total / group.len(), total % group.len());
    let most: usize = had.iter().enumerate().map(|(n, had)| (*had).min(least + usize::from(n < extra))).sum();
    let stayed: usize = result
        .iter()
        .flat_map(|(name, parts)| {
            parts.iter().map(|(topic, partitions)| {
                group[name].1.get(topic).map_or(0, |before| before.intersection(partitions).count())
            })
        })
        .sum();
    assert_eq!(stayed, most, "as much as could stay");
}

fn walk(assignor: Assignor, seed: u64, alike: bool) {
    let mut rng = Rng(seed);
    let mut topics: Vec<i32> = (0..1 + rng.below(6)).map(|_| i32::try_from(rng.below(12)).unwrap()).collect();
    let mut wanted: BTreeSet<usize> = (0..topics.len()).filter(|_| rng.below(3) > 0).collect();
    let mut group = Group::new();
    let mut named = 0;
    for _ in 0..60 {
        match rng.below(6) {
            0 | 1 => {
                let wants =
                    if alike { wanted.clone() } else { (0..topics.len()).filter(|_| rng.below(2) > 0).collect() };
                group.insert(format!("m{:04}", rng.below(10_000)), (wants, Parts::new()));
                named += 1;
            }
            2 if group.len() > 1 => {
                let gone = group.keys().nth(rng.below(group.len())).cloned().unwrap();
                group.remove(&gone);
            }
            3 => {
                let grown = rng.below(topics.len());
                topics[grown] += 1;
            }
            4 if alike => {
                wanted = (0..topics.len()).filter(|_| rng.below(3) > 0).collect();
                group.values_mut().for_each(|member| member.0.clone_from(&wanted));
            }
            4 => {
                let topics = topics.len();
                if let Some(member) = group.values_mut().next() {
                    member.0 = (0..topics).filter(|_| rng.below(2) > 0).collect();
                }
            }
            _ => {}
        }
        if group.is_empty() {
            continue;
        }
        let result = assigned(assignor, &topics, &group);
        check_whole(&topics, &group, &result);
        if assignor == Assignor::Uniform {
            check_even(&group, &result);
            if alike {
                check_sticky(&topics, &group, &result);
            }
        }
        for (name, parts) in result {
            group.get_mut(&name).unwrap().1 = parts;
        }
        let again = assigned(assignor, &topics, &group);
        assert!(
            again.iter().all(|(name, parts)| group[name].1 == *parts),
            "nothing has changed, and yet something moved"
        );
    }
    assert!(named > 0);
}

#[test]
fn uniform_over_the_same_topics_is_whole_even_and_sticky() {
    (0..200).for_each(|seed| walk(Assignor::Uniform, seed, true));
}

#[test]
fn uniform_over_different_topics_is_whole_and_even() {
    (0..200).for_each(|seed| walk(Assignor::Uniform, 10_000 + seed, false));
}

#[test]
fn ranges_are_whole() {
    (0..100).for_each(|seed| walk(Assignor::Range, 20_000 + seed, seed % 2 == 0));
}

#[test]
fn ranges_of_topics_of_one_size_lie_together() {
    let group: Group = ["a", "b", "c"].map(|name| (name.to_owned(), ([0, 1].into(), Parts::new()))).into();
    for (_, parts) in assigned(Assignor::Range, &[7, 7], &group) {
        assert_eq!(parts[&id(0)], parts[&id(1)]);
    }
    let sizes: Vec<usize> = assigned(Assignor::Range, &[7, 7], &group).iter().map(|(_, parts)| size(parts)).collect();
    assert_eq!(sizes, [6, 4, 4], "the first get what is left over");
}

#[test]
fn a_large_group_is_assigned_in_one_go() {
    let wanted: BTreeSet<usize> = (0..100).collect();
    let mut group: Group = (0..1_000).map(|n| (format!("m{n:04}"), (wanted.clone(), Parts::new()))).collect();
    group.get_mut("m0000").unwrap().0.remove(&99); // one is different: the general way
    let topics = vec![100; 100];
    let result = assigned(Assignor::Uniform, &topics, &group);
    check_whole(&topics, &group, &result);
    assert!(result.iter().all(|(_, parts)| size(parts) == 10));
}

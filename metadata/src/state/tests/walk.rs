//! Random walks over all commands, with what must hold after each step.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::partition::is_unfenced;
use crate::{Origin, decode_payload, encode_payload};

const NODES: i32 = 5;

/// A step in terms of the state it meets, so that most of them mean something.
#[derive(Debug, Clone)]
enum Step {
    Register(i32, bool, bool),
    Fence(i32),
    Unfence(i32),
    Stop(i32),
    Unregister(i32),
    Create(u128, i32, i16, usize),
    Chosen(u128, usize, Vec<i32>),
    Delete(u128),
    Grow(u128, i32),
    Minimum(u128, usize),
    Isr(u128, i32, Vec<i32>, i32),
    Elect(u128, i32, bool),
    ElectAll(bool),
    Move(u128, i32, Option<Vec<i32>>),
    Lose(i32, u128, i32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 0..NODES;
    let topic = || 1..4u128;
    let nodes = || prop::collection::vec(0..NODES, 0..5);
    let one = prop_oneof![
        2 => (node(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(n, i, d)| Step::Register(n, i, d)),
        3 => node().prop_map(Step::Fence),
        8 => node().prop_map(Step::Unfence),
        1 => node().prop_map(Step::Stop),
        1 => node().prop_map(Step::Unregister),
        3 => (topic(), 0..4, -1..5i16, 1..4usize).prop_map(|(t, p, f, m)| Step::Create(t, p, f, m)),
        2 => (topic(), 1..4usize, nodes()).prop_map(|(t, m, n)| Step::Chosen(t, m, n)),
        1 => topic().prop_map(Step::Delete),
        1 => (topic(), 0..5).prop_map(|(t, p)| Step::Grow(t, p)),
        1 => (topic(), 1..4usize).prop_map(|(t, m)| Step::Minimum(t, m)),
        12 => (topic(), 0..3, nodes(), 0..8).prop_map(|(t, p, n, stale)| Step::Isr(t, p, n, i32::from(stale == 0))),
        2 => (topic(), 0..3, any::<bool>()).prop_map(|(t, p, u)| Step::Elect(t, p, u)),
        1 => any::<bool>().prop_map(Step::ElectAll),
        5 => (topic(), 0..3, prop::option::weighted(0.7, nodes())).prop_map(|(t, p, n)| Step::Move(t, p, n)),
        1 => (node(), topic(), 0..3).prop_map(|(n, t, p)| Step::Lose(n, t, p)),
    ];
    prop::collection::vec(one, 1..120)
}

struct Walk {
    state: Metadata,
    starts: u128,
    /// Topic ids are never used again.
    topics: BTreeMap<u128, u128>,
}

impl Walk {
    fn now(&self, node: i32) -> Uuid {
        self.state.broker(node).map_or(Uuid::nil(), |b| b.incarnation)
    }

    fn topic(&self, t: u128) -> u128 {
        self.topics.get(&t).copied().unwrap_or(t)
    }

    fn pid(&self, t: u128, partition: i32) -> PartitionId {
        pid(self.topic(t), partition)
    }

    fn fresh(&mut self, t: u128) -> u128 {
        if self.state.topic(&format!("topic-{t}")).is_none() {
            self.starts += 1;
            self.topics.insert(t, self.starts * 10 + t);
        }
        self.topic(t)
    }

    fn command(&mut self, step: Step) -> Command {
        match step {
            Step::Register(node, new, disk) => {
                self.starts += u128::from(new);
                let (start, mut rack) = (self.starts, Some("a"));
                rack = rack.filter(|_| node % 2 == 0);
                register_as(node, start, if disk { start } else { 0 }, rack)
            }
            Step::Fence(node_id) => Command::Fence { node_id, incarnation: self.now(node_id) },
            Step::Unfence(node_id) => Command::Unfence { node_id, incarnation: self.now(node_id) },
            Step::Stop(node_id) => Command::BeginShutdown { node_id, incarnation: self.now(node_id) },
            Step::Unregister(node_id) => Command::UnregisterBroker { node_id },
            Step::Create(t, partitions, factor, min) => {
                let mut command = create(&format!("topic-{t}"), self.fresh(t), partitions, factor);
                if let Command::CreateTopic { configs, .. } = &mut command {
                    configs.insert("min.insync.replicas".into(), min.to_string());
                }
                command
            }
            Step::Chosen(t, min, nodes) => {
                let mut command = create_on(self.fresh(t), min, &[&nodes]);
                if let Command::CreateTopic { name, .. } = &mut command {
                    *name = format!("topic-{t}");
                }
                command
            }
            Step::Delete(t) => Command::DeleteTopic { id: id(self.topic(t)) },
            Step::Grow(t, partitions) => Command::GrowTopic { id: id(self.topic(t)), partitions, assignment: None },
            Step::Minimum(t, min) => Command::AlterTopicConfigs {
                id: id(self.topic(t)),
                set: BTreeMap::from([("min.insync.replicas".to_owned(), Some(min.to_string()))]),
            },
            Step::Isr(t, p, nodes, stale) => self.isr(self.pid(t, p), &nodes, stale),
            Step::Elect(t, p, unclean) => Command::ElectLeaders { partitions: Some(vec![self.pid(t, p)]), unclean },
            Step::ElectAll(unclean) => Command::ElectLeaders { partitions: None, unclean },
            Step::Move(t, p, target) => Command::Reassign { partitions: vec![(self.pid(t, p), target)] },
            Step::Lose(node_id, t, p) => {
                Command::LoseReplica { node_id, incarnation: self.now(node_id), partitions: vec![self.pid(t, p)] }
            }
        }
    }

    /// The leader asks for itself and those of the nodes that are replicas; or for all replicas.
    fn isr(&self, id: PartitionId, nodes: &[i32], stale: i32) -> Command {
        let Some(p) = self.state.partition(id) else {
            return Command::AlterPartitions { node_id: 0, incarnation: self.now(0), changes: vec![] };
        };
        let node_id = p.leader.unwrap_or(0);
        let fit = |n: &i32| {
            *n == node_id || (is_unfenced(&self.state.brokers, *n) && (nodes.is_empty() || nodes.contains(n)))
        };
        let isr = p.replicas.iter().copied().filter(fit).map(|n| (n, self.now(n))).collect();
        let (leader_epoch, partition_epoch) = (p.leader_epoch, p.partition_epoch + stale);
        let change = PartitionChange { id, leader_epoch, partition_epoch, isr };
        Command::AlterPartitions { node_id, incarnation: self.now(node_id), changes: vec![change] }
    }
}

fn must_hold(state: &Metadata) {
    let mut count = 0;
    for (id, p) in state.partitions() {
        count += 1;
        let min = p.effective_min(state.min_insync(id.topic));
        let within = |nodes: &Nodes| nodes.iter().all(|n| p.replicas.contains(n));
        assert!(!p.replicas.is_empty(), "{id}: {p:?}");
        assert!([&p.isr, &p.elr, &p.adding, &p.removing, &p.damaged, &p.blank].into_iter().all(within), "{id}: {p:?}");
        assert!(p.replicas.iter().all(|n| state.broker(*n).is_some()), "{id}: {p:?}");
        assert!(!p.elr.iter().any(|n| p.isr.contains(n)), "{id}: {p:?}");
        assert!(!p.damaged.iter().any(|n| p.isr.contains(n) || p.elr.contains(n)), "{id}: {p:?}");
        assert!(p.elr.is_empty() || p.isr.len() < min, "eligible at the minimum: {id}: {p:?}");
        let runs = |n: &i32| is_unfenced(&state.brokers, *n);
        if let Some(leader) = p.leader {
            assert!(p.isr.contains(&leader) && runs(&leader), "{id}: {p:?}");
            assert!(p.isr.iter().all(runs), "waits for one that is fenced: {id}: {p:?}");
            let moves_on = |n: &i32| state.broker(*n).is_some_and(Broker::is_active);
            assert!(moves_on(&leader) || !p.isr.iter().any(moves_on), "{id}: {p:?}");
        } else {
            assert!(!p.isr.iter().any(runs), "nobody leads: {id}: {p:?}");
            assert!(!p.isr.is_empty() || !p.elr.iter().any(|n| state.broker(*n).is_some_and(Broker::is_active)));
        }
    }
    assert_eq!(count, state.partition_count());
}

fn moved_forward(before: &Metadata, after: &Metadata, applied: &Applied) {
    for (id, now) in after.partitions() {
        let Some(then) = before.partition(id) else {
            assert!(applied.touched.contains(&id));
            continue;
        };
        assert_eq!(then != now, applied.touched.contains(&id), "{id}");
        assert_eq!(
            now.leader_epoch - then.leader_epoch,
            i32::from(now.leader != then.leader),
            "{id}: {then:?} {now:?}"
        );
        assert_eq!(now.partition_epoch - then.partition_epoch, i32::from(now != then), "{id}: {then:?} {now:?}");
    }
    assert!(before.partitions().all(|(id, _)| after.partition(id).is_some() || applied.touched.contains(&id)));
}

/// Which replicas have all that was committed, if leaders commit whenever they may: with as many in-sync replicas as the
/// minimum asks for, and what the others have is not waited for.
#[derive(Default)]
struct Committed(BTreeMap<PartitionId, BTreeSet<i32>>);

impl Committed {
    fn step(&mut self, before: &Metadata, after: &Metadata, command: &Command, applied: &Applied) {
        if let Ok(change) = &applied.results[0] {
            self.forget(command, change);
        }
        let asked = matches!(command, Command::AlterPartitions { .. });
        self.0.retain(|id, _| after.partition(*id).is_some());
        for (id, p) in after.partitions() {
            let isr: BTreeSet<i32> = p.isr.iter().copied().collect();
            let known = self.0.entry(id).or_insert_with(|| isr.clone());
            // Who joins because the leader says so is caught up; nobody else may be taken for it.
            if asked {
                known.extend(&isr);
            }
            assert!(isr.is_subset(known), "{id}: {p:?} but {known:?} have all; was {:?}", before.partition(id));
            assert!(p.elr.iter().all(|n| known.contains(n)), "{id}: {p:?} but {known:?} have all");
            if p.leader.is_some() && isr.len() >= p.effective_min(after.min_insync(id.topic)) {
                *known = isr;
            }
        }
    }

    /// Copies that are gone, and what an unclean election gave up.
    fn forget(&mut self, command: &Command, change: &Change) {
        match (command, change) {
            (_, Change::BrokerRegistered { node_id, new_directory: true, .. }) => {
                self.0.values_mut().for_each(|known| known.retain(|n| n != node_id));
            }
            (Command::LoseReplica { node_id, partitions, .. }, _) => {
                for id in partitions {
                    self.0.get_mut(id).map(|known| known.remove(node_id));
                }
            }
            (_, Change::LeadersElected(outcomes)) => {
                let unclean = outcomes.iter().filter_map(|(_, r)| r.as_ref().ok()?.data_loss.as_ref());
                for loss in unclean {
                    self.0.insert(loss.id, BTreeSet::from([loss.leader]));
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn invariants_hold(steps in steps(), cut in 0..120usize) {
        let mut walk = Walk { state: running(NODES), starts: 10, topics: BTreeMap::new() };
        let mut committed = Committed::default();
        let mut follower = walk.state.clone();
        for (n, step) in steps.into_iter().enumerate() {
            let command = walk.command(step);
            let origin = Origin { node_id: 1, incarnation: id(1), sequence: n as u64 + 1 };
            let payload = Payload { origin: Some(origin), commands: vec![command.clone()] };
            let before = walk.state.clone();
            let checked = before.check(&command);
            let applied = walk.state.apply(payload.clone());
            prop_assert_eq!(applied.results[0].as_ref().err(), checked.as_ref().err());
            must_hold(&walk.state);
            moved_forward(&before, &walk.state, &applied);
            committed.step(&before, &walk.state, &command, &applied);
            // A retry is skipped, and changes nothing.
            let after = walk.state.clone();
            prop_assert!(walk.state.apply(payload.clone()).skipped);
            prop_assert_eq!(&walk.state, &after);
            // Another node that gets the same bytes, from a snapshot on, decides the same.
            if n == cut {
                follower = Metadata::restore(&follower.snapshot()).unwrap();
            }
            prop_assert_eq!(follower.apply(decode_payload(&encode_payload(&payload)).unwrap()), applied);
            prop_assert_eq!(&follower, &walk.state);
        }
        prop_assert_eq!(follower.snapshot(), walk.state.snapshot());
        prop_assert_eq!(follower.rebalance_plan(5), walk.state.rebalance_plan(5));
    }
}

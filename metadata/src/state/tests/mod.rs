//! The state machine against its rules. What every test needs: a cluster that says what it is doing.

mod balance;
mod brokers;
mod elections;
mod groups;
mod isr;
mod reassign;
mod security;
mod snapshots;
mod topics;
mod walk;

use super::*;
use crate::{Nodes, PartitionChange};

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn pid(topic: u128, partition: i32) -> PartitionId {
    PartitionId { topic: id(topic), partition }
}

/// The process of a node: its first, second, ...
fn incarnation(node: i32, start: u128) -> Uuid {
    id(1_000 * (u128::try_from(node).unwrap() + 1) + start)
}

fn directory(node: i32, disk: u128) -> Uuid {
    id(1_000_000 + 1_000 * u128::try_from(node).unwrap() + disk)
}

fn register_as(node_id: i32, start: u128, disk: u128, rack: Option<&str>) -> Command {
    Command::RegisterBroker {
        node_id,
        incarnation: incarnation(node_id, start),
        directory: directory(node_id, disk),
        host: format!("node-{node_id}"),
        port: 9092,
        rack: rack.map(str::to_owned),
        endpoints: BTreeMap::new(),
    }
}

fn register(node: i32, start: u128) -> Command {
    register_as(node, start, 0, None)
}

fn fence(node_id: i32) -> Command {
    Command::Fence { node_id, incarnation: incarnation(node_id, 0) }
}

fn unfence(node_id: i32) -> Command {
    Command::Unfence { node_id, incarnation: incarnation(node_id, 0) }
}

fn stop(node_id: i32) -> Command {
    Command::BeginShutdown { node_id, incarnation: incarnation(node_id, 0) }
}

fn create(name: &str, n: u128, partitions: i32, replication_factor: i16) -> Command {
    Command::CreateTopic {
        name: name.into(),
        id: id(n),
        partitions,
        replication_factor,
        configs: BTreeMap::new(),
        internal: false,
        assignment: None,
    }
}

fn create_on(n: u128, min: usize, replicas: &[&[i32]]) -> Command {
    Command::CreateTopic {
        name: format!("topic-{n}"),
        id: id(n),
        partitions: -1,
        replication_factor: -1,
        configs: BTreeMap::from([("min.insync.replicas".to_owned(), min.to_string())]),
        internal: false,
        assignment: Some(replicas.iter().map(|r| r.to_vec()).collect()),
    }
}

fn payload(command: Command) -> Payload {
    Payload { origin: None, commands: vec![command] }
}

/// Nodes that run, and one topic with id 1 whose partition 0 has these replicas.
fn cluster(nodes: i32, min: usize, replicas: &[i32]) -> Metadata {
    let mut state = running(nodes);
    state.done(create_on(1, min, &[replicas]));
    state
}

fn running(nodes: i32) -> Metadata {
    let mut state = Metadata::default();
    for node in 0..nodes {
        state.done(register(node, 0));
        state.done(unfence(node));
    }
    state
}

impl Metadata {
    fn run(&mut self, command: Command) -> Result<Change, MetadataError> {
        self.apply(payload(command)).results.remove(0)
    }

    #[track_caller]
    fn done(&mut self, command: Command) -> Change {
        self.run(command).unwrap()
    }

    #[track_caller]
    fn refused(&mut self, command: Command) -> MetadataError {
        let before = self.clone();
        let checked = self.check(&command).unwrap_err();
        let error = self.run(command).unwrap_err();
        assert_eq!(checked, error);
        assert_eq!(*self, before, "a refused command changed the state");
        error
    }

    #[track_caller]
    fn first(&self) -> &Partition {
        self.partition(pid(1, 0)).unwrap()
    }

    /// A leader asks for these in-sync replicas of the first partition.
    fn ask_isr(&mut self, isr: &[i32]) -> Result<(), MetadataError> {
        let Partition { leader, leader_epoch, partition_epoch, .. } = *self.first();
        let leader = leader.unwrap_or(0);
        let isr = isr.iter().map(|n| (*n, self.broker(*n).map_or(Uuid::nil(), |b| b.incarnation))).collect();
        let change = PartitionChange { id: pid(1, 0), leader_epoch, partition_epoch, isr };
        self.ask(leader, change)
    }

    fn ask(&mut self, node_id: i32, change: PartitionChange) -> Result<(), MetadataError> {
        let incarnation = self.broker(node_id).map_or(Uuid::nil(), |b| b.incarnation);
        let changes = vec![change];
        match self.run(Command::AlterPartitions { node_id, incarnation, changes })? {
            Change::PartitionsAltered(mut outcomes) => outcomes.remove(0).1,
            other => panic!("{other:?}"),
        }
    }

    fn lose(&mut self, node_id: i32, partition: PartitionId) -> Result<(), MetadataError> {
        let incarnation = self.broker(node_id).unwrap().incarnation;
        match self.run(Command::LoseReplica { node_id, incarnation, partitions: vec![partition] })? {
            Change::ReplicasLost(mut outcomes) => outcomes.remove(0).1,
            other => panic!("{other:?}"),
        }
    }

    fn elect(&mut self, unclean: bool) -> Result<Elected, MetadataError> {
        match self.run(Command::ElectLeaders { partitions: Some(vec![pid(1, 0)]), unclean })? {
            Change::LeadersElected(mut outcomes) => outcomes.remove(0).1,
            other => panic!("{other:?}"),
        }
    }

    fn move_to(&mut self, target: Option<&[i32]>) -> Result<(), MetadataError> {
        match self.run(Command::Reassign { partitions: vec![(pid(1, 0), target.map(<[i32]>::to_vec))] })? {
            Change::Reassigned(mut outcomes) => outcomes.remove(0).1,
            other => panic!("{other:?}"),
        }
    }

    /// Leader, in-sync and eligible replicas of the first partition, sorted.
    fn roles(&self) -> (Option<i32>, Vec<i32>, Vec<i32>) {
        let sorted = |nodes: &Nodes| {
            let mut nodes = nodes.to_vec();
            nodes.sort_unstable();
            nodes
        };
        let p = self.first();
        (p.leader, sorted(&p.isr), sorted(&p.elr))
    }
}

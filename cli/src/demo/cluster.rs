//! What the cluster says of itself: who leads what, and who is in sync. It decides who is killed next.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;
use wherry_client::admin::{NewTopic, PartitionDescription};
use wherry_client::{Admin, Client, ClientConfig};

use crate::commands::topic;
use crate::connect;

/// How often the cluster is asked.
const LOOK: Duration = Duration::from_millis(25);
/// Copies of each partition, where there are so many nodes.
const REPLICAS: usize = 3;
/// Copies that an acknowledgement speaks of, where there are several.
const MIN_IN_SYNC: &str = "2";

/// A view of the cluster from outside.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) client: Client,
    nodes: usize,
    topic: String,
}

/// What was seen at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Leader of the metadata quorum.
    pub(crate) controller: Option<usize>,
    partitions: Vec<PartitionDescription>,
}

impl View {
    /// Waits until every node takes part.
    pub(crate) async fn open(nodes: &[String], topic: &str) -> Result<Self> {
        let client = Client::connect(ClientConfig::new(nodes.iter().cloned())).await?;
        let view = Self { client, nodes: nodes.len(), topic: topic.into() };
        connect::await_nodes(&view.admin(), view.nodes).await?;
        Ok(view)
    }

    fn admin(&self) -> Admin {
        self.client.admin()
    }

    /// There is one node only.
    pub(crate) fn is_alone(&self) -> bool {
        self.nodes == 1
    }

    /// Makes the topic. The leader of the quorum is the preferred leader of most partitions: its loss shall hurt.
    pub(crate) async fn create_topic(&self, partitions: i32) -> Result<()> {
        let new = if self.is_alone() {
            NewTopic::new(&*self.topic, partitions)
        } else {
            let first = self.admin().cluster().await?.controller.unwrap_or(0);
            NewTopic::placed(&*self.topic, placement(partitions, self.nodes, first))
                .config("min.insync.replicas", MIN_IN_SYNC)
        };
        let created = self.admin().create_topics(&[new], false).await?;
        topic::only(created, &self.topic)
    }

    pub(crate) async fn look(&self) -> Result<Seen> {
        let controller = self.admin().cluster().await?.controller.and_then(|id| usize::try_from(id).ok());
        let topic = topic::only(self.admin().describe_topics(&[&*self.topic]).await?, &self.topic)?;
        Ok(Seen { controller, partitions: topic.partitions })
    }

    /// Waits until every partition has all its replicas in sync, by a view that is newer than `seen`; false if that takes longer
    /// than `patience`.
    pub(crate) async fn await_in_sync(&self, seen: &Seen, patience: Duration) -> Result<bool> {
        let begun = Instant::now();
        loop {
            let now = self.look().await?;
            if now.is_not_older(seen) && now.is_in_sync() {
                return Ok(true);
            }
            if begun.elapsed() > patience {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Replicas of each partition, on consecutive nodes; two of three partitions begin at `first`, the others at each other node in turn.
fn placement(partitions: i32, nodes: usize, first: i32) -> Vec<Vec<i32>> {
    let count = i32::try_from(nodes).unwrap_or(1).max(1);
    let replicas = i32::try_from(nodes.min(REPLICAS)).unwrap_or(1);
    let leader = |partition: i32| match partition % 3 {
        2 => first + 1 + partition / 3 % (count - 1).max(1),
        _ => first,
    };
    // What follows a leader changes from partition to partition, so that its load does not all go to one node.
    let turn = |partition: i32| if partition % 2 == 0 { 1 } else { count - 1 };
    let nodes =
        |partition: i32| (0..replicas).map(move |n| (leader(partition) + n * turn(partition)) % count).collect();
    (0..partitions).map(nodes).collect()
}

impl Seen {
    pub(crate) fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Partitions that a node leads.
    pub(crate) fn led_by(&self, node: usize) -> Vec<i32> {
        let led = self.partitions.iter().filter(|partition| leader(partition) == Some(node));
        led.map(|partition| partition.partition).collect()
    }

    /// Who is to be killed: the leader of the quorum, else who leads the most; never the same one twice in a row if there are others.
    pub(crate) fn victim(&self, last: Option<usize>) -> usize {
        if let Some(controller) = self.controller.filter(|node| Some(*node) != last) {
            return controller;
        }
        let mut led: BTreeMap<usize, usize> = BTreeMap::new();
        for node in self.partitions.iter().filter_map(leader).filter(|node| Some(*node) != last) {
            *led.entry(node).or_default() += 1;
        }
        let most = led.into_iter().max_by_key(|(_, count)| *count).map(|(node, _)| node);
        most.or(last).unwrap_or(0)
    }

    fn is_in_sync(&self) -> bool {
        self.partitions.iter().all(|partition| partition.in_sync.len() == partition.replicas.len())
    }

    /// Leaderships only become newer: a view with an older one is from before.
    fn is_not_older(&self, than: &Self) -> bool {
        let mut pairs = self.partitions.iter().zip(&than.partitions);
        pairs.all(|(now, before)| now.leader_epoch >= before.leader_epoch)
    }
}

fn leader(partition: &PartitionDescription) -> Option<usize> {
    partition.leader.and_then(|id| usize::try_from(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(controller: Option<usize>, leaders: &[i32]) -> Seen {
        let partition = |(partition, leader): (i32, &i32)| PartitionDescription {
            partition,
            leader: Some(*leader),
            leader_epoch: 3,
            replicas: vec![0, 1, 2],
            in_sync: vec![0, 1, 2],
            offline: Vec::new(),
        };
        Seen { controller, partitions: (0..).zip(leaders).map(partition).collect() }
    }

    #[test]
    fn the_first_node_leads_most_and_every_partition_has_three_different_ones() {
        let placed = placement(6, 3, 2);
        assert_eq!(placed.iter().filter(|nodes| nodes[0] == 2).count(), 4);
        assert_eq!((placed[2][0], placed[5][0]), (0, 1));
        for mut nodes in placement(20, 5, 4).into_iter().chain(placed) {
            nodes.sort_unstable();
            nodes.dedup();
            assert_eq!(nodes.len(), 3);
        }
    }

    #[test]
    fn who_leads_is_killed_but_nobody_twice_in_a_row() {
        assert_eq!(seen(Some(2), &[2, 2, 0]).victim(None), 2);
        assert_eq!(seen(Some(2), &[2, 2, 1, 1, 0]).victim(Some(2)), 1);
        assert_eq!(seen(Some(1), &[2, 2, 0]).victim(Some(2)), 1);
        assert_eq!(seen(Some(0), &[0]).victim(Some(0)), 0, "there is no other");
    }

    #[test]
    fn an_old_view_is_not_believed() {
        let (now, mut old) = (seen(None, &[0, 1]), seen(None, &[0, 1]));
        old.partitions[1].leader_epoch = 2;
        assert!(now.is_not_older(&old) && !old.is_not_older(&now) && now.is_in_sync());
        old.partitions[0].in_sync.pop();
        assert!(!old.is_in_sync());
    }
}

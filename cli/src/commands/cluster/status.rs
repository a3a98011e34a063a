//! `wherry cluster status`.

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use wherry_client::admin::{Admin, NodeDescription, QuorumDescription, QuorumMember, TopicDescription};

use crate::connect::ClusterArgs;
use crate::output::{self, Output};

/// Tell how the cluster is: nodes, metadata quorum, partitions that lack replicas
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry cluster status
  wherry cluster status -b node-1:9092,node-2:9092 --output json")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    cluster_id: Option<String>,
    nodes: Vec<Node>,
    quorum: Quorum,
    partitions: Partitions,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: i32,
    address: String,
    rack: Option<String>,
    /// Whether the cluster counts on it.
    running: bool,
    role: &'static str,
    /// Entries of the metadata that it lacks, as far as the quorum's leader knows.
    behind: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Quorum {
    leader: i32,
    term: i32,
    committed: i64,
    voters: Vec<i32>,
    observers: Vec<i32>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Partitions {
    topics: usize,
    partitions: usize,
    /// Fewer replicas are in sync than there are.
    under_replicated: usize,
    /// Nobody leads.
    offline: usize,
    /// Another than the preferred replica leads.
    not_preferred: usize,
    /// They move to other nodes.
    moving: usize,
}

pub(crate) async fn run(args: StatusArgs, output: Output) -> Result<()> {
    let admin = args.cluster.connect().await?.admin();
    let cluster = admin.cluster().await.context("can't describe the cluster")?;
    let nodes = admin.nodes().await.context("can't describe the nodes")?;
    let quorum = admin.quorum().await.context("can't describe the metadata quorum")?;
    let status = Status {
        cluster_id: cluster.cluster_id.map(|id| id.to_string()),
        nodes: nodes.iter().map(|node| known(node, &quorum)).collect(),
        partitions: partitions(&admin).await?,
        quorum: Quorum {
            leader: quorum.leader,
            term: quorum.term,
            committed: quorum.committed,
            voters: ids(&quorum.voters),
            observers: ids(&quorum.observers),
        },
    };
    match output {
        Output::Json => output::json(&status),
        Output::Table => print(&status),
    }
}

fn ids(members: &[QuorumMember]) -> Vec<i32> {
    members.iter().map(|member| member.id).collect()
}

fn known(node: &NodeDescription, quorum: &QuorumDescription) -> Node {
    let all = || quorum.voters.iter().chain(&quorum.observers);
    let end = |id: i32| all().find(|member| member.id == id).and_then(|member| member.log_end);
    let is_voter = quorum.voters.iter().any(|voter| voter.id == node.id);
    Node {
        id: node.id,
        address: format!("{}:{}", node.host, node.port),
        rack: node.rack.as_ref().map(ToString::to_string),
        running: !node.fenced,
        role: match is_voter {
            _ if node.id == quorum.leader => "leader",
            true => "voter",
            false => "observer",
        },
        behind: end(quorum.leader).zip(end(node.id)).map(|(all, has)| (all - has).max(0)),
    }
}

async fn partitions(admin: &Admin) -> Result<Partitions> {
    let topics = admin.list_topics().await.context("can't list the topics")?;
    let names: Vec<&str> = topics.iter().map(|topic| &*topic.name).collect();
    let each = admin.describe_topics(&names).await.context("can't describe the topics")?;
    // A topic that was deleted meanwhile has no state.
    let found: Vec<TopicDescription> = each.into_iter().filter_map(|(_, topic)| topic.ok()).collect();
    let moving = admin.reassignments().await.context("can't list reassignments")?.len();
    Ok(Partitions { moving, ..counted(&found) })
}

fn counted(topics: &[TopicDescription]) -> Partitions {
    let all = || topics.iter().flat_map(|topic| &topic.partitions);
    Partitions {
        topics: topics.len(),
        partitions: all().count(),
        under_replicated: all().filter(|p| p.in_sync.len() < p.replicas.len()).count(),
        offline: all().filter(|p| p.leader.is_none()).count(),
        not_preferred: all().filter(|p| p.leader.is_some() && p.leader != p.replicas.first().copied()).count(),
        moving: 0,
    }
}

fn print(status: &Status) -> Result<()> {
    output::line(format!("Cluster {}\n", status.cluster_id.as_deref().unwrap_or("without an id")))?;
    let mut table = output::table(&["node", "address", "rack", "state", "metadata", "behind"]);
    for node in &status.nodes {
        table.add_row(vec![
            node.id.to_string(),
            node.address.clone(),
            node.rack.clone().unwrap_or_else(|| "-".into()),
            if node.running { "running" } else { "fenced" }.into(),
            node.role.into(),
            node.behind.map_or_else(|| "unknown".into(), |behind| behind.to_string()),
        ]);
    }
    output::print(&table, "No node is registered.")?;
    let Quorum { leader, term, committed, voters, .. } = &status.quorum;
    let voters: Vec<String> = voters.iter().map(i32::to_string).collect();
    output::line(format!(
        "\nMetadata: node {leader} leads in term {term}; voters {}; {committed} entries decided",
        voters.join(",")
    ))?;
    let p = &status.partitions;
    output::line(format!(
        "Partitions: {} of {} topics; {} under-replicated, {} offline, {} not led by the preferred replica, {} moving",
        p.partitions, p.topics, p.under_replicated, p.offline, p.not_preferred, p.moving
    ))
}

#[cfg(test)]
mod tests {
    use wherry_client::admin::PartitionDescription;

    use super::*;

    #[test]
    fn partitions_are_counted_by_what_they_lack() {
        let partition = |leader, replicas: &[i32], in_sync: &[i32]| PartitionDescription {
            partition: 0,
            leader,
            leader_epoch: 1,
            replicas: replicas.to_vec(),
            in_sync: in_sync.to_vec(),
            offline: Vec::new(),
        };
        let topic = TopicDescription {
            name: "t".into(),
            id: uuid::Uuid::nil(),
            internal: false,
            partitions: vec![
                partition(Some(1), &[1, 2], &[1, 2]),
                partition(Some(2), &[1, 2], &[2]),
                partition(None, &[1], &[]),
            ],
        };
        let expected =
            Partitions { topics: 1, partitions: 3, under_replicated: 2, offline: 1, not_preferred: 1, moving: 0 };
        assert_eq!(counted(&[topic]), expected);
    }
}

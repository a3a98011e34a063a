//! `wherry group describe`: members, positions and lag.

use std::collections::HashMap;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use wherry_client::TopicPartition;
use wherry_client::admin::{Admin, GroupDescription, OffsetSpec};

use crate::commands::topic;
use crate::connect::ClusterArgs;
use crate::output::{self, Output};

/// Describe a consumer group: members, positions, lag
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry group describe billing
  wherry group describe billing --output json | jq .lag")]
pub(crate) struct DescribeArgs {
    /// Its name
    group: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    group: String,
    state: String,
    assignor: String,
    coordinator: i32,
    /// Messages that the group has not acknowledged, over all partitions in which it has a position.
    lag: i64,
    members: Vec<Member>,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    member_id: String,
    client_id: String,
    host: String,
    partitions: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    topic: String,
    partition: i32,
    /// Next offset that the group will get; absent: it has acknowledged nothing yet.
    position: Option<i64>,
    end_offset: i64,
    lag: Option<i64>,
    member_id: Option<String>,
}

pub(crate) async fn run(args: DescribeArgs, output: Output) -> Result<()> {
    let admin = args.cluster.connect().await?.admin();
    let group = topic::only(admin.describe_groups(&[&args.group]).await?, &args.group)
        .with_context(|| format!("can't describe group {}", args.group))?;
    let partitions = partitions(&admin, &group).await?;
    let described = Described {
        group: group.group.to_string(),
        state: group.state.to_string(),
        assignor: group.protocol.to_string(),
        coordinator: group.coordinator,
        lag: partitions.iter().filter_map(|p| p.lag).sum(),
        members: members(&group),
        partitions,
    };
    match output {
        Output::Json => output::json(&described),
        Output::Table => print(&described),
    }
}

fn members(group: &GroupDescription) -> Vec<Member> {
    let member = |m: &wherry_client::admin::MemberDescription| Member {
        member_id: m.member_id.to_string(),
        client_id: m.client_id.to_string(),
        host: m.client_host.to_string(),
        partitions: m.assignment.len(),
    };
    group.members.iter().map(member).collect()
}

async fn partitions(admin: &Admin, group: &GroupDescription) -> Result<Vec<Partition>> {
    let committed = admin.group_offsets(&group.group, None).await?;
    let positions: HashMap<_, _> = committed.into_iter().map(|c| (c.at, c.offset)).collect();
    let owners: HashMap<_, _> = group
        .members
        .iter()
        .flat_map(|m| m.assignment.iter().map(move |at| (at.clone(), m.member_id.to_string())))
        .collect();
    let mut places: Vec<TopicPartition> = positions.keys().chain(owners.keys()).cloned().collect();
    places.sort();
    places.dedup();
    let ends = admin.list_offsets(&places.iter().map(|p| (p.clone(), OffsetSpec::Latest)).collect::<Vec<_>>()).await?;
    let rows = ends.into_iter().filter_map(|(at, end)| {
        // A deleted topic leaves positions behind; they have no lag.
        let end_offset = end.ok()?.offset;
        let position = positions.get(&at).copied();
        Some(Partition {
            topic: at.topic.to_string(),
            partition: at.partition,
            position,
            end_offset,
            lag: position.map(|position| (end_offset - position).max(0)),
            member_id: owners.get(&at).cloned(),
        })
    });
    Ok(rows.collect())
}

fn print(described: &Described) -> Result<()> {
    output::line(format!(
        "Group {}  state {}  lag {}  members {}\n",
        described.group,
        described.state,
        described.lag,
        described.members.len()
    ))?;
    let mut table = output::table(&["topic", "partition", "position", "end", "lag", "member"]);
    let or_none = |number: Option<i64>| number.map_or_else(|| "-".into(), |n| n.to_string());
    for p in &described.partitions {
        table.add_row(vec![
            p.topic.clone(),
            p.partition.to_string(),
            or_none(p.position),
            p.end_offset.to_string(),
            or_none(p.lag),
            p.member_id.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    output::print(&table, "It has no positions and no partitions.")
}

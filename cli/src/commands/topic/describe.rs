//! `wherry topic describe`.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use wherry_client::admin::{Admin, ConfigEntry, ConfigResource, OffsetSpec, TopicDescription};
use wherry_client::{Isolation, TopicPartition};

use crate::connect::ClusterArgs;
use crate::exit;
use crate::output::{self, Output};

/// Describe a topic: partitions, offsets, settings
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry topic describe orders
  wherry topic describe orders --all-settings")]
pub(crate) struct DescribeArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Settings that have their default as well
    #[arg(long)]
    all_settings: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    name: String,
    id: String,
    partitions: Vec<Partition>,
    settings: Vec<Setting>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    /// First offset there is.
    start_offset: i64,
    /// Offset of the next message.
    end_offset: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Setting {
    name: String,
    value: Option<String>,
    is_default: bool,
}

pub(crate) async fn run(args: DescribeArgs, output: Output) -> Result<()> {
    let admin = args.cluster.connect().await?.admin();
    let topic = super::only(admin.describe_topics(&[&args.name]).await?, &args.name)
        .with_context(|| format!("can't describe topic {}", args.name))?;
    let settings =
        super::only(admin.describe_configs(&[ConfigResource::Topic(topic.name.clone())]).await?, &args.name)?;
    let described = Described {
        name: topic.name.to_string(),
        id: topic.id.to_string(),
        partitions: partitions(&admin, &topic).await?,
        settings: settings.into_iter().filter(|entry| args.all_settings || !entry.is_default).map(shown).collect(),
    };
    match output {
        Output::Json => output::json(&described),
        Output::Table => print(&described),
    }
}

fn shown(entry: ConfigEntry) -> Setting {
    Setting { name: entry.name, value: entry.value, is_default: entry.is_default }
}

async fn partitions(admin: &Admin, topic: &TopicDescription) -> Result<Vec<Partition>> {
    let places: Vec<_> =
        topic.partitions.iter().map(|p| TopicPartition::new(topic.name.clone(), p.partition)).collect();
    let starts = offsets(admin, &places, OffsetSpec::Earliest).await?;
    let ends = offsets(admin, &places, OffsetSpec::Latest).await?;
    let rows = topic.partitions.iter().zip(starts).zip(ends).map(|((p, start_offset), end_offset)| Partition {
        partition: p.partition,
        leader: p.leader,
        leader_epoch: p.leader_epoch,
        replicas: p.replicas.clone(),
        in_sync: p.in_sync.clone(),
        start_offset,
        end_offset,
    });
    Ok(rows.collect())
}

/// Offsets in the order of `places`.
pub(crate) async fn offsets(admin: &Admin, places: &[TopicPartition], spec: OffsetSpec) -> Result<Vec<i64>> {
    offsets_as(admin, places, spec, Isolation::ReadUncommitted).await
}

/// The same, as far as such a reader may see.
pub(crate) async fn offsets_as(
    admin: &Admin,
    places: &[TopicPartition],
    spec: OffsetSpec,
    isolation: Isolation,
) -> Result<Vec<i64>> {
    let asked: Vec<_> = places.iter().map(|place| (place.clone(), spec)).collect();
    let each = admin.list_offsets_as(&asked, isolation).await?;
    each.into_iter()
        .map(|(place, outcome)| Ok(outcome.with_context(|| format!("can't look up offsets of {place}"))?.offset))
        .collect()
}

fn print(described: &Described) -> Result<()> {
    output::line(format!("Topic {}  (id {})\n", described.name, described.id))?;
    let mut table = output::table(&["partition", "leader", "epoch", "replicas", "in sync", "start", "end", "messages"]);
    for p in &described.partitions {
        table.add_row(vec![
            p.partition.to_string(),
            p.leader.map_or_else(|| "none".into(), |leader| leader.to_string()),
            p.leader_epoch.to_string(),
            list(&p.replicas),
            list(&p.in_sync),
            p.start_offset.to_string(),
            p.end_offset.to_string(),
            (p.end_offset - p.start_offset).to_string(),
        ]);
    }
    output::print(&table, "It has no partitions.")?;
    let mut table = output::table(&["setting", "value"]);
    for setting in &described.settings {
        table.add_row(vec![setting.name.clone(), setting.value.clone().unwrap_or_default()]);
    }
    output::line("")?;
    output::print(&table, "Every setting has its default; --all-settings lists them.")
}

fn list(ids: &[i32]) -> String {
    let ids: Vec<_> = ids.iter().map(i32::to_string).collect();
    ids.join(",")
}

/// Partitions of a topic.
pub(crate) async fn places(admin: &Admin, topic: &str) -> Result<Vec<TopicPartition>> {
    let described = super::only(admin.describe_topics(&[topic]).await?, topic)?;
    let name: Arc<str> = described.name.clone();
    Ok(described.partitions.iter().map(|p| TopicPartition::new(name.clone(), p.partition)).collect())
}

/// An offset that was named, for each of these partitions; a wrong usage where one does not have it.
pub(crate) async fn checked_offset(admin: &Admin, places: &[TopicPartition], offset: i64) -> Result<Vec<i64>> {
    let starts = offsets(admin, places, OffsetSpec::Earliest).await?;
    let ends = offsets(admin, places, OffsetSpec::Latest).await?;
    for (place, (start, end)) in places.iter().zip(starts.into_iter().zip(ends)) {
        if !(start..=end).contains(&offset) {
            return Err(exit::usage(format!("{place} has offsets {start} to {end}, not {offset}; choose one of them")));
        }
    }
    Ok(vec![offset; places.len()])
}

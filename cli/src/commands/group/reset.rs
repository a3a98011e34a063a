//! `wherry group reset`: moves the positions of a group without members.

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use wherry_client::TopicPartition;
use wherry_client::admin::{Admin, OffsetSpec};

use crate::commands::topic::describe;
use crate::connect::ClusterArgs;
use crate::output::{self, Output};
use crate::{exit, text};

/// Move the positions of a consumer group
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry group reset billing --topic orders --to earliest --dry-run
  wherry group reset billing --topic orders --to latest
  wherry group reset billing --topic orders --to 2026-01-31T12:00:00Z
  wherry group reset billing --topic orders --to 2h              (two hours ago)
  wherry group reset billing --topic orders --partition 3 --offset 4711

A group that has members is refused: stop its consumers first.")]
pub(crate) struct ResetArgs {
    /// Its name
    group: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Topics in which it moves; all those in which it has a position, if absent
    #[arg(short, long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Only this partition
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// earliest, latest, or a time
    #[arg(long, value_name = "POSITION", required_unless_present = "offset", conflicts_with = "offset")]
    to: Option<String>,
    /// This offset
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..), requires = "partition")]
    offset: Option<i64>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    topic: String,
    partition: i32,
    from: Option<i64>,
    to: i64,
}

enum Target {
    Offset(i64),
    Spec(OffsetSpec),
}

pub(crate) async fn run(args: ResetArgs, output: Output) -> Result<()> {
    let target = target(&args)?;
    let admin = args.cluster.connect().await?.admin();
    let committed = admin.group_offsets(&args.group, None).await?;
    let places = places(&admin, &args, committed.iter().map(|c| c.at.clone()).collect()).await?;
    let offsets = match target {
        Target::Offset(offset) => describe::checked_offset(&admin, &places, offset).await?,
        Target::Spec(spec) => looked_up(&admin, &places, spec).await?,
    };
    if !args.dry_run {
        let moves: Vec<_> = places.iter().cloned().zip(offsets.iter().copied()).collect();
        for (place, outcome) in admin.alter_group_offsets(&args.group, &moves).await? {
            outcome.with_context(|| format!("can't move group {} in {place}", args.group))?;
        }
    }
    let rows: Vec<_> = places
        .iter()
        .zip(offsets)
        .map(|(place, to)| Row {
            topic: place.topic.to_string(),
            partition: place.partition,
            from: committed.iter().find(|c| c.at == *place).map(|c| c.offset),
            to,
        })
        .collect();
    if args.dry_run {
        output::note("Nothing was moved (--dry-run).");
    }
    output::rows(output, &rows, &["topic", "partition", "from", "to"], "There is nothing to move.", |row| {
        let from = row.from.map_or_else(|| "-".into(), |from| from.to_string());
        vec![row.topic.clone(), row.partition.to_string(), from, row.to.to_string()]
    })
}

fn target(args: &ResetArgs) -> Result<Target> {
    if let Some(offset) = args.offset {
        return Ok(Target::Offset(offset));
    }
    match args.to.as_deref() {
        Some("earliest") => Ok(Target::Spec(OffsetSpec::Earliest)),
        Some("latest") => Ok(Target::Spec(OffsetSpec::Latest)),
        Some(time) => Ok(Target::Spec(OffsetSpec::Timestamp(text::moment(time).map_err(exit::usage)?))),
        None => Err(exit::usage("where to? say --to earliest, --to latest, --to TIME or --offset N")),
    }
}

async fn places(admin: &Admin, args: &ResetArgs, committed: Vec<TopicPartition>) -> Result<Vec<TopicPartition>> {
    let mut places = Vec::new();
    for topic in &args.topics {
        places.extend(describe::places(admin, topic).await?);
    }
    if args.topics.is_empty() {
        places = committed;
    }
    if let Some(partition) = args.partition {
        places.retain(|place| place.partition == partition);
    }
    if places.is_empty() {
        return Err(exit::usage(format!("group {} has no position there; name topics with --topic", args.group)));
    }
    places.sort();
    Ok(places)
}

/// A time after the last message means the end.
async fn looked_up(admin: &Admin, places: &[TopicPartition], spec: OffsetSpec) -> Result<Vec<i64>> {
    let found = describe::offsets(admin, places, spec).await?;
    let ends = describe::offsets(admin, places, OffsetSpec::Latest).await?;
    Ok(found.into_iter().zip(ends).map(|(found, end)| if found < 0 { end } else { found }).collect())
}

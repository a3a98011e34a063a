//! `wherry cluster reassign`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use tokio::time::Instant;
use wherry_client::TopicPartition;
use wherry_client::admin::{Admin, Reassignment};

use super::{Place, all_done, partitions, place};
use crate::connect::ClusterArgs;
use crate::exit;
use crate::output::{self, Output};
use crate::text;

/// How often it is looked whether moves are done.
const LOOK: Duration = Duration::from_millis(500);

/// Move partitions to other nodes, or give them more or fewer replicas
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry cluster reassign orders:3 --to 1,2,4            (node 1 is to lead)
  wherry cluster reassign orders --to 1,2,4 --wait 10m   (each partition; the nodes take turns to lead)
  wherry cluster reassign orders --cancel
  wherry cluster reassign                                (what is under way)

The old replicas serve until the new ones have everything.")]
pub(crate) struct ReassignArgs {
    /// Topics, or partitions as TOPIC:PARTITION; without any, tells what is under way
    #[arg(value_parser = place, value_name = "TOPIC[:PARTITION]")]
    of: Vec<Place>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Ids of the nodes that are to have a replica
    #[arg(long, value_name = "NODE", value_delimiter = ',', conflicts_with = "cancel", requires = "of")]
    to: Vec<i32>,
    /// Go back to the replicas of before
    #[arg(long, requires = "of")]
    cancel: bool,
    /// Wait until the moves are done, at most so long
    #[arg(long, value_parser = text::duration, value_name = "DURATION", conflicts_with = "cancel")]
    wait: Option<Duration>,
}

pub(crate) async fn run(args: ReassignArgs, output: Output) -> Result<()> {
    if !args.of.is_empty() && args.to.is_empty() && !args.cancel {
        return Err(exit::usage("say --to which nodes, or --cancel"));
    }
    let admin = args.cluster.connect().await?.admin();
    if args.of.is_empty() {
        let under_way = admin.reassignments().await.context("can't list reassignments")?;
        return list(&under_way, output);
    }
    let named = partitions(&admin, &args.of).await?;
    let moves: Vec<_> = if args.cancel {
        let under_way = admin.reassignments().await.context("can't list reassignments")?;
        let is_moving = |at: &TopicPartition| under_way.iter().any(|move_| move_.at == *at);
        named.into_iter().filter(is_moving).map(|at| (at, None)).collect()
    } else {
        // A partition that was named gets the nodes as they were named.
        let turn = |at: &TopicPartition| if args.of.iter().any(|of| of.is(at)) { 0 } else { at.partition };
        named.into_iter().map(|at| (turned(&args.to, turn(&at)), at)).map(|(to, at)| (at, Some(to))).collect()
    };
    let each = admin.reassign(&moves).await.context("can't reassign")?;
    let done = all_done(each, if args.cancel { "cancel the reassignment of" } else { "reassign" })?;
    if let Some(limit) = args.wait {
        settled(&admin, &done, limit).await?;
    }
    let word = match (args.cancel, args.wait) {
        (true, _) => "cancelled",
        (false, None) => "begun",
        (false, Some(_)) => "done",
    };
    match output {
        Output::Json => output::json(&json!({"partitions": done.len(), "reassignment": word})),
        Output::Table => output::line(format!("Reassignment of {} partitions {word}.", done.len())),
    }
}

/// The nodes, another one first for each partition.
fn turned(nodes: &[i32], partition: i32) -> Vec<i32> {
    let mut nodes = nodes.to_vec();
    let by = usize::try_from(partition).unwrap_or(0).checked_rem(nodes.len()).unwrap_or(0);
    nodes.rotate_left(by);
    nodes
}

async fn settled(admin: &Admin, moved: &[TopicPartition], limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let under_way = admin.reassignments().await.context("can't list reassignments")?;
        let left = under_way.iter().filter(|move_| moved.contains(&move_.at)).count();
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{left} partitions still move after {}s; `wherry cluster reassign` tells which", limit.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn list(under_way: &[Reassignment], output: Output) -> Result<()> {
    let nodes = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    match output {
        Output::Json => {
            let row = |r: &Reassignment| {
                json!({
                    "topic": &*r.at.topic, "partition": r.at.partition, "replicas": r.replicas,
                    "adding": r.adding, "removing": r.removing,
                })
            };
            output::json(&under_way.iter().map(row).collect::<Vec<_>>())
        }
        Output::Table => {
            let mut table = output::table(&["topic", "partition", "replicas", "adding", "removing"]);
            for r in under_way {
                let (topic, partition) = (r.at.topic.to_string(), r.at.partition.to_string());
                table.add_row(vec![topic, partition, nodes(&r.replicas), nodes(&r.adding), nodes(&r.removing)]);
            }
            output::print(&table, "No partition moves.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_take_turns() {
        let turns: Vec<_> = (0..4).map(|partition| turned(&[1, 2, 3], partition)).collect();
        assert_eq!(turns, [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]);
        assert_eq!(turned(&[], 3), Vec::<i32>::new());
    }
}

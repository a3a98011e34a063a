//! `wherry cluster elect-leaders`.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use wherry_client::admin::Election;

use super::{Place, all_done, partitions, place};
use crate::commands::topic::confirmed;
use crate::connect::ClusterArgs;
use crate::exit;
use crate::output::{self, Output};

/// Let the preferred replicas lead again, or any replica where none that has everything is left
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry cluster elect-leaders                           (all that are not led by their preferred replica)
  wherry cluster elect-leaders orders payments:3
  wherry cluster elect-leaders payments:3 --unclean --yes

An unclean election chooses a replica that was NOT in sync, for a partition that nobody leads. Messages that were
acknowledged and that it does not have are lost for good. Bring the nodes that have them back first, if you can.")]
pub(crate) struct ElectArgs {
    /// Topics, or partitions as TOPIC:PARTITION; all that need it if absent
    #[arg(value_parser = place, value_name = "TOPIC[:PARTITION]")]
    of: Vec<Place>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Take a replica that is not in sync: acknowledged messages may be LOST
    #[arg(long)]
    unclean: bool,
    /// Really do it
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(args: ElectArgs, output: Output) -> Result<()> {
    let election = if args.unclean { Election::Unclean } else { Election::Preferred };
    if args.unclean {
        output::note(
            "WARNING: an unclean election loses every acknowledged message that the new leader does not have.",
        );
        if args.of.is_empty() {
            return Err(exit::usage("name the topics or partitions that are to be led at that price"));
        }
        confirmed(args.yes, "losing messages")?;
    }
    let admin = args.cluster.connect().await?.admin();
    let named = partitions(&admin, &args.of).await?;
    let asked = (!args.of.is_empty()).then_some(named.as_slice());
    let each = admin.elect_leaders(election, asked).await.context("can't elect leaders")?;
    let done = all_done(each, "elect a leader of")?;
    match output {
        Output::Json => {
            let list: Vec<_> = done.iter().map(|at| json!({"topic": &*at.topic, "partition": at.partition})).collect();
            output::json(&list)
        }
        Output::Table if done.is_empty() => output::line("Every partition has the leader that it should have."),
        Output::Table => output::line(format!("{} partitions have the leader that they should have.", done.len())),
    }
}

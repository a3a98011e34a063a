//! `wherry group delete`.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::commands::topic;
use crate::connect::ClusterArgs;
use crate::output::{self, Output};

/// Delete a consumer group and its positions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry group delete billing --yes

A group that has members is refused: stop its consumers first.")]
pub(crate) struct DeleteArgs {
    /// Its name
    group: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Yes, forget how far it had come
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(args: DeleteArgs, output: Output) -> Result<()> {
    topic::confirmed(args.yes, "deleting a group's positions")?;
    let admin = args.cluster.connect().await?.admin();
    topic::only(admin.delete_groups(&[&args.group]).await?, &args.group)
        .with_context(|| format!("can't delete group {}", args.group))?;
    match output {
        Output::Json => output::json(&json!({"group": args.group, "deleted": true})),
        Output::Table => output::line(format!("Deleted group {}.", args.group)),
    }
}

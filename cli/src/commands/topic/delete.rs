//! `wherry topic delete`.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::connect::ClusterArgs;
use crate::output::{self, Output};

/// Delete a topic and everything in it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry topic delete orders --yes")]
pub(crate) struct DeleteArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Yes, delete its messages for good
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(args: DeleteArgs, output: Output) -> Result<()> {
    super::confirmed(args.yes, "deleting a topic and its messages")?;
    let admin = args.cluster.connect().await?.admin();
    super::only(admin.delete_topics(&[&args.name]).await?, &args.name)
        .with_context(|| format!("can't delete topic {}", args.name))?;
    match output {
        Output::Json => output::json(&json!({"name": args.name, "deleted": true})),
        Output::Table => output::line(format!("Deleted topic {}.", args.name)),
    }
}

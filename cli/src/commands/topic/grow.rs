//! `wherry topic grow`.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::connect::ClusterArgs;
use crate::output::{self, Output};

/// Add partitions to a topic
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry topic grow orders --to 12

Keys that went to one partition may go to another afterwards: order per key holds within the messages before and
within those after, not between them. Partitions can't be taken away again.")]
pub(crate) struct GrowArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The new number of partitions
    #[arg(long, value_name = "PARTITIONS", value_parser = clap::value_parser!(i32).range(1..))]
    to: i32,
}

pub(crate) async fn run(args: GrowArgs, output: Output) -> Result<()> {
    let admin = args.cluster.connect().await?.admin();
    super::only(admin.create_partitions(&[(&args.name, args.to)]).await?, &args.name)
        .with_context(|| format!("can't grow topic {} to {} partitions", args.name, args.to))?;
    match output {
        Output::Json => output::json(&json!({"name": args.name, "partitions": args.to})),
        Output::Table => output::line(format!("Topic {} has {} partitions now.", args.name, args.to)),
    }
}

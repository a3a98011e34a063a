//! `wherry topic list`.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::connect::ClusterArgs;
use crate::output::{self, Output};

/// List topics
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry topic list
  wherry topic list --all --output json | jq -r '.[].name'")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Internal topics as well
    #[arg(short, long)]
    all: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    id: String,
    partitions: usize,
    internal: bool,
}

pub(crate) async fn run(args: ListArgs, output: Output) -> Result<()> {
    let topics = args.cluster.connect().await?.admin().list_topics().await?;
    let shown = topics.into_iter().filter(|topic| args.all || !topic.internal);
    let rows: Vec<_> = shown
        .map(|topic| Row {
            name: topic.name.to_string(),
            id: topic.id.to_string(),
            partitions: topic.partitions,
            internal: topic.internal,
        })
        .collect();
    output::rows(output, &rows, &["name", "partitions", "id"], "There are no topics.", |row| {
        vec![row.name.clone(), row.partitions.to_string(), row.id.clone()]
    })
}

//! `wherry group list`.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::connect::ClusterArgs;
use crate::output::{self, Output};

/// List consumer groups
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry group list
  wherry group list --output json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    group: String,
    state: Option<String>,
    protocol_type: String,
}

pub(crate) async fn run(args: ListArgs, output: Output) -> Result<()> {
    let groups = args.cluster.connect().await?.admin().list_groups().await?;
    let rows: Vec<_> = groups
        .into_iter()
        .map(|group| Row {
            group: group.group.to_string(),
            state: group.state.map(|state| state.to_string()),
            protocol_type: group.protocol_type.to_string(),
        })
        .collect();
    output::rows(output, &rows, &["group", "state"], "There are no groups.", |row| {
        vec![row.group.clone(), row.state.clone().unwrap_or_else(|| "-".into())]
    })
}

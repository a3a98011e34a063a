//! `wherry topic alter`.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use wherry_client::admin::{ConfigChange, ConfigResource};

use crate::connect::ClusterArgs;
use crate::exit;
use crate::output::{self, Output};

/// Change settings of a topic
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry topic alter orders --set retention.ms=86400000
  wherry topic alter orders --reset retention.ms

Settings that are not named stay as they are. `wherry topic describe` lists them.")]
pub(crate) struct AlterArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Give a setting a value; may be given more than once
    #[arg(long, value_parser = super::setting, value_name = "KEY=VALUE")]
    set: Vec<(String, String)>,
    /// Back to the default; may be given more than once
    #[arg(long, value_name = "KEY")]
    reset: Vec<String>,
    /// Only say whether it could be done
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: AlterArgs, output: Output) -> Result<()> {
    let set = args.set.into_iter().map(|(key, value)| ConfigChange::Set(key, value));
    let changes: Vec<_> = set.chain(args.reset.into_iter().map(ConfigChange::Reset)).collect();
    if changes.is_empty() {
        return Err(exit::usage("nothing to change; say --set KEY=VALUE or --reset KEY"));
    }
    let admin = args.cluster.connect().await?.admin();
    let topic = ConfigResource::Topic(Arc::from(args.name.as_str()));
    let each = admin.alter_configs(&[(topic, changes)], args.dry_run).await?;
    super::only(each, &args.name).with_context(|| format!("can't alter topic {}", args.name))?;
    match output {
        Output::Json => output::json(&json!({"name": args.name, "altered": !args.dry_run})),
        Output::Table if args.dry_run => output::line(format!("Topic {} could be altered.", args.name)),
        Output::Table => output::line(format!("Altered topic {}.", args.name)),
    }
}

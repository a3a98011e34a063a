//! `wherry topic create`.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use wherry_client::admin::NewTopic;

use crate::connect::ClusterArgs;
use crate::output::{self, Output};

/// Create a topic
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry topic create orders --partitions 6
  wherry topic create ledger --replication-factor 3 --config min.insync.replicas=2
  wherry topic create audit --config retention.ms=-1
  wherry topic create customers --config cleanup.policy=compact")]
pub(crate) struct CreateArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Number of partitions; the node's default if absent
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Replicas of each partition, each on a node of its own; the node's default if absent
    #[arg(short, long, value_name = "REPLICAS", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A setting; may be given more than once
    #[arg(short, long = "config", value_parser = super::setting, value_name = "KEY=VALUE")]
    configs: Vec<(String, String)>,
    /// Do not complain if it exists already
    #[arg(long)]
    if_not_exists: bool,
    /// Only say whether it could be created
    #[arg(long)]
    dry_run: bool,
}

/// `TOPIC_ALREADY_EXISTS` of the Kafka protocol.
const EXISTS: i16 = 36;

pub(crate) async fn run(args: CreateArgs, output: Output) -> Result<()> {
    let admin = args.cluster.connect().await?.admin();
    let topic = NewTopic {
        name: args.name.as_str().into(),
        partitions: args.partitions,
        replication: args.replication_factor,
        assignment: Vec::new(),
        configs: args.configs,
    };
    let outcome = super::only(admin.create_topics(&[topic], args.dry_run).await?, &args.name);
    let created = match outcome {
        Ok(()) => !args.dry_run,
        Err(error) if args.if_not_exists && is_exists(&error) => false,
        Err(error) => return Err(error).with_context(|| format!("can't create topic {}", args.name)),
    };
    match output {
        Output::Json => output::json(&json!({"name": args.name, "created": created})),
        Output::Table if args.dry_run => output::line(format!("Topic {} could be created.", args.name)),
        Output::Table if created => output::line(format!("Created topic {}.", args.name)),
        Output::Table => output::line(format!("Topic {} exists already; left as it is.", args.name)),
    }
}

fn is_exists(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(wherry_client::ClientError::Rejected { code: EXISTS, .. }))
}

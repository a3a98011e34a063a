//! `wherry sidecar drain`.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::talk::{self, Where};
use crate::output::{self, Output};
use crate::text;

/// How much longer than its own time the sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// End deliveries of a running sidecar in good order: for a pod's preStop hook
///
/// Nothing more is delivered; returns when everything that was delivered is acknowledged durably and the groups are left, so that
/// others have what was fetched ahead, or when the time is over. Publishing goes on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry sidecar drain
  wherry sidecar drain --timeout 25s --socket /run/wherry/app.sock")]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    at: Where,
    /// Longest to wait
    #[arg(long, value_parser = text::duration, default_value = "20s", value_name = "DURATION")]
    timeout: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Drained {
    drained: bool,
    groups: i64,
    waited_ms: u64,
}

pub(super) async fn run(args: DrainArgs, output: Output) -> Result<()> {
    let path = format!("/v1/drain?timeout={}ms", args.timeout.as_millis());
    let answer: Drained = talk::ask(&args.at, "POST", &path, args.timeout + PATIENCE).await?;
    match output {
        Output::Json => output::json(&answer)?,
        Output::Table if answer.drained => output::line(format!("drained in {} ms", answer.waited_ms))?,
        Output::Table => {}
    }
    if !answer.drained {
        bail!(
            "after {:?} {} groups still wait for acknowledgements; they are delivered again elsewhere once the sidecar stops",
            args.timeout,
            answer.groups
        );
    }
    Ok(())
}

//! `wherry group ...`, one file per command.

mod delete;
mod describe;
mod list;
mod reset;

use anyhow::Result;
use clap::Subcommand;

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    List(list::ListArgs),
    Describe(describe::DescribeArgs),
    Reset(reset::ResetArgs),
    Delete(delete::DeleteArgs),
}

pub(crate) async fn run(command: GroupCommand, output: Output) -> Result<()> {
    match command {
        GroupCommand::List(args) => list::run(args, output).await,
        GroupCommand::Describe(args) => describe::run(args, output).await,
        GroupCommand::Reset(args) => reset::run(args, output).await,
        GroupCommand::Delete(args) => delete::run(args, output).await,
    }
}

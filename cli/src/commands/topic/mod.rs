//! `wherry topic ...`, one file per command.

mod alter;
mod create;
mod delete;
pub(crate) mod describe;
mod grow;
mod list;

use anyhow::{Result, anyhow};
use clap::Subcommand;

use crate::exit;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    List(list::ListArgs),
    Create(create::CreateArgs),
    Describe(describe::DescribeArgs),
    Alter(alter::AlterArgs),
    Grow(grow::GrowArgs),
    Delete(delete::DeleteArgs),
}

pub(crate) async fn run(command: TopicCommand, output: Output) -> Result<()> {
    match command {
        TopicCommand::List(args) => list::run(args, output).await,
        TopicCommand::Create(args) => create::run(args, output).await,
        TopicCommand::Describe(args) => describe::run(args, output).await,
        TopicCommand::Alter(args) => alter::run(args, output).await,
        TopicCommand::Grow(args) => grow::run(args, output).await,
        TopicCommand::Delete(args) => delete::run(args, output).await,
    }
}

/// Parses `key=value`.
pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("{text:?} is not key=value; write for example retention.ms=86400000")),
    }
}

/// The only outcome of a call about one thing.
pub(crate) fn only<K, T>(each: Vec<(K, wherry_client::Result<T>)>, what: &str) -> Result<T> {
    match each.into_iter().next() {
        Some((_, outcome)) => Ok(outcome?),
        None => Err(anyhow!("the node gave no answer about {what}; look at its log")),
    }
}

/// Destroying something asks for the word of whoever does it.
pub(crate) fn confirmed(yes: bool, what: &str) -> Result<()> {
    if yes { Ok(()) } else { Err(exit::usage(format!("{what} can't be undone; say --yes to do it"))) }
}

//! The command line: what there is, and who runs it.

mod cluster;
mod completions;
mod consume;
mod group;
mod log;
mod node;
mod produce;
mod security;
mod sidecar;
pub(crate) mod topic;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use wherry_telemetry::{Format, LogConfig, Logs};

use crate::output::Output;
use crate::{demo, exit};

/// A messaging mesh: durable logs, and a sidecar that gives applications one local endpoint
#[derive(Debug, Parser)]
#[command(name = "wherry", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  wherry demo                                see it work: processes, a kill -9, and a verdict
  wherry up -f examples/quickstart.yaml      a node and a sidecar in one process
  echo hello | wherry produce orders         publish lines
  wherry consume orders --from earliest      read them back
  wherry topic list                          what there is
  wherry group describe billing              how far a group has come, and its lag";

/// Flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// How to answer
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// What to log to standard error, as info or warn,wherry_node=debug
    #[arg(long, global = true, env = "WHERRY_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How log lines look
    #[arg(long, global = true, env = "WHERRY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::UpArgs),
    Demo(demo::DemoArgs),
    Node(Box<node::NodeArgs>),
    Sidecar(sidecar::SidecarArgs),
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    /// Topics: list, create, describe, alter, grow, delete
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// The cluster: its state, where replicas are, who leads
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Consumer groups: list, describe with lag, reset, delete
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// The files of a node
    #[command(subcommand)]
    Log(log::LogCommand),
    Completions(completions::CompletionsArgs),
}

/// Runs a command.
///
/// # Errors
/// Whatever goes wrong; [`exit::report`] says it and chooses the exit code.
pub(crate) async fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { common, command } = cli;
    let (service, usual) = match &command {
        Command::Node(_) => ("wherry-node", "info"),
        Command::Sidecar(_) => ("wherry-sidecar", "info"),
        Command::Up(_) => ("wherry", "info"),
        Command::Demo(_)
        | Command::Produce(_)
        | Command::Consume(_)
        | Command::Topic(_)
        | Command::Group(_)
        | Command::Cluster(_)
        | Command::Log(_)
        | Command::Completions(_) => ("wherry-cli", "error"),
    };
    let logs = set_up_logs(&common, service, usual)?;
    let outcome = dispatch(command, &common).await;
    tokio::task::spawn_blocking(|| logs.finish()).await?;
    outcome
}

async fn dispatch(command: Command, common: &Common) -> Result<ExitCode> {
    let done = match command {
        Command::Demo(args) => return Box::pin(demo::run(args, common)).await,
        Command::Log(command) => return log::run(command, common.output),
        Command::Up(args) => Box::pin(up::run(args, common.output)).await,
        Command::Node(args) => Box::pin(node::run(*args, common.output)).await,
        Command::Sidecar(args) => Box::pin(sidecar::run(args, common.output)).await,
        Command::Produce(args) => Box::pin(produce::run(args, common.output)).await,
        Command::Consume(args) => Box::pin(consume::run(args, common.output)).await,
        Command::Topic(command) => Box::pin(topic::run(command, common.output)).await,
        Command::Cluster(command) => Box::pin(cluster::run(command, common.output)).await,
        Command::Group(command) => Box::pin(group::run(command, common.output)).await,
        Command::Completions(args) => completions::run(&args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn set_up_logs(common: &Common, service: &'static str, usual: &str) -> Result<Logs> {
    let format = match common.log_format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
    };
    let filter = common.log.clone().unwrap_or_else(|| usual.to_owned());
    wherry_telemetry::init(&LogConfig { format, filter, service }).map_err(|e| exit::usage(e.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn look(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no description");
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                if sub.get_subcommands().next().is_none() {
                    let help = sub.clone().render_long_help().to_string();
                    assert!(help.contains("Example"), "{path} shows no example");
                }
                look(sub, &path);
            }
        }
        look(&Cli::command(), "wherry");
    }
}

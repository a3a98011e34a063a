//! `wherry completions SHELL`.

use std::io;

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(wherry completions bash)
  wherry completions zsh > ~/.zfunc/_wherry
  wherry completions fish > ~/.config/fish/completions/wherry.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "wherry", &mut script);
    io::Write::write_all(&mut io::stdout(), &script)?;
    Ok(())
}

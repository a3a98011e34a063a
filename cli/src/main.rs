//! The `wherry` binary: parses arguments and wires the roles, nothing else.
//!
//! One file per command in [`commands`]; the end-to-end check `wherry demo` has its own room in [`demo`]. Exit codes are in
//! [`exit`]. What a command answers goes to standard output, everything else to standard error.

mod commands;
mod connect;
mod demo;
mod exit;
mod output;
mod roles;
mod security;
mod text;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&anyhow::anyhow!(error).context("can't start the runtime")),
    };
    let outcome = runtime.block_on(commands::run(cli));
    // Tasks that block (a read of standard input) must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}

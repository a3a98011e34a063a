//! The harness of the end-to-end tests: starting servers and stock clients as processes, and judging what came out.
//!
//! It must not know anything of Wherry but its command line (`server.rs`) and the Kafka protocol's promises: every
//! test runs unchanged against Apache Kafka (`WHERRY_E2E_TARGET=kafka`), which proves the test before it judges us.
//!
//! Settings: `WHERRY_E2E_TARGET` (`wherry`, or `kafka`), `WHERRY_E2E_IO` (`io-uring` or `threads`: only that driver),
//! `WHERRY_BIN` (a built `wherry`; otherwise it is built), `WHERRY_CACHE` (where setup.sh keeps the clients),
//! `WHERRY_KEEP` (the data of clusters stays, to be looked at), `WHERRY_LOAD_LOGS` (a directory for what producers log).

pub mod clients;
pub mod cluster;
pub mod judge;
pub mod loopback;
pub mod loopfs;
pub mod mesh;
pub mod net;
pub mod process;
pub mod records;
pub mod server;
pub mod share;
pub mod shop;
pub mod transactions;

use std::io::Write;
use std::time::{Duration, Instant};

/// Whatever clients connect to.
pub trait Target {
    /// Addresses, as clients take them.
    fn brokers(&self) -> String;
    /// A client program, put where it can reach them.
    fn place(&self, program: process::Program) -> process::Program;
    /// The end of what it said, for messages.
    fn last_words(&self) -> String;
}

/// How long anything that a test waits for may take. Generous: machines that run tests are slow and shared.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Says something that must be seen even when the test passes: the test runner hides what passing tests print.
pub fn notice(text: &str) {
    let _ = writeln!(std::io::stderr(), "\nNOTICE: {text}\n");
}

/// Says how a long test went, or goes.
pub fn report(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The number in an environment variable, or `default` where it is not set.
///
/// # Errors
/// It is set, but not to a number.
pub fn setting(name: &str, default: u64) -> anyhow::Result<u64> {
    let Ok(text) = std::env::var(name) else { return Ok(default) };
    text.parse().map_err(|_| anyhow::anyhow!("{name}={text} is not a number"))
}

/// Waits until `condition` holds, asking every few milliseconds, at most [`PATIENCE`].
pub fn until(what: &str, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !condition()? {
        anyhow::ensure!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

//! Runs simulated lives of a node, many or one: `wherry-sim --seeds 1000`, `wherry-sim --seed 7 --trace`.

use std::process::ExitCode;

use clap::Parser;

/// Deterministic simulation of a Wherry node under crashes and power cuts.
#[derive(Debug, Parser)]
struct Args {
    /// Lives to run.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first one's seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print everything that happens, on standard error.
    #[arg(long)]
    trace: bool,
    /// Break a piece on purpose, to see that it is noticed.
    #[arg(long)]
    sabotage: Option<wherry_sim::Sabotage>,
    /// Print one line per life.
    #[arg(long)]
    verbose: bool,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]
fn main() -> ExitCode {
    let args = Args::parse();
    let sabotage = args.sabotage.unwrap_or_default();
    let mut broken = 0;
    let mut total = wherry_sim::Outcome::default();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        match wherry_sim::run(seed, wherry_sim::Options { print_trace: args.trace, sabotage }) {
            Ok(outcome) => {
                if args.verbose || args.seeds == 1 {
                    println!("seed {seed}: {outcome:?}");
                }
                total.acknowledged += outcome.acknowledged;
                total.records += outcome.records;
                total.kills += outcome.kills;
                total.power_cuts += outcome.power_cuts;
                total.interrupted_starts += outcome.interrupted_starts;
                total.broken_connections += outcome.broken_connections;
                total.generations += outcome.generations;
                total.commits += outcome.commits;
                total.events += outcome.events;
                total.virtual_ms += outcome.virtual_ms;
            }
            Err(violation) => {
                broken += 1;
                eprintln!("BROKEN {violation}");
            }
        }
    }
    println!(
        "{} lives, {broken} broken; {} kills, {} power cuts, {} starts interrupted, {} connections broken; \
         {} records acknowledged of {} in the logs; {} group generations, {} commits; {} events in {} virtual seconds",
        args.seeds,
        total.kills,
        total.power_cuts,
        total.interrupted_starts,
        total.broken_connections,
        total.acknowledged,
        total.records,
        total.generations,
        total.commits,
        total.events,
        total.virtual_ms / 1_000
    );
    if broken > 0 {
        eprintln!("{broken} lives broke a promise; replay one with --seed S --trace");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

//! Runs simulated lives of a cluster, many or one: `wherry-sim --seeds 1000`, `wherry-sim --seed 7 --trace`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use wherry_sim::{Extra, Options, Outcome, Violation};

/// Deterministic simulation of a Wherry cluster under crashes, power cuts, pauses and partitions.
#[derive(Debug, Parser)]
struct Args {
    /// Lives to run.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first one's seed.
    #[arg(long, visible_alias = "start", default_value_t = 0)]
    seed: u64,
    /// Nodes of each cluster: 1, 3 or 5; without it, each seed decides.
    #[arg(long, value_parser = nodes)]
    nodes: Option<usize>,
    /// Lives at a time; without it, as many as there are cores.
    #[arg(long)]
    jobs: Option<usize>,
    /// Print everything that happens, on standard error, and what the nodes log, as RUST_LOG says.
    #[arg(long)]
    trace: bool,
    /// Break a piece on purpose, to see that it is noticed.
    #[arg(long)]
    sabotage: Option<wherry_sim::Sabotage>,
    /// Bits of segment files rot, on a minority of the nodes.
    #[arg(long)]
    rot: bool,
    /// Nodes lose their disks and come back empty, one at a time.
    #[arg(long)]
    lost_disks: bool,
    /// Every life has transactional clients.
    #[arg(long)]
    transactions: bool,
    /// Every life has publishers of messages with ids.
    #[arg(long)]
    ids: bool,
    /// Live with one of the node's mutations.
    #[cfg(feature = "mutations")]
    #[arg(long, value_parser = mutation)]
    mutation: Option<wherry_node::mutation::Mutation>,
    /// Try every mutation of the node over these seeds, and say which were caught.
    #[cfg(feature = "mutations")]
    #[arg(long)]
    mutations: bool,
    /// Print one line per life.
    #[arg(long)]
    verbose: bool,
}

fn nodes(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a cluster has 1, 3 or 5 nodes".into()),
    }
}

#[cfg(feature = "mutations")]
fn mutation(text: &str) -> Result<wherry_node::mutation::Mutation, String> {
    use wherry_node::mutation::Mutation;
    let known = || Mutation::ALL.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ");
    Mutation::named(text).ok_or_else(|| format!("there are: {}", known()))
}

impl Args {
    fn options(&self) -> Options {
        Options {
            print_trace: self.trace,
            sabotage: self.sabotage.unwrap_or_default(),
            nodes: self.nodes,
            extra: Extra { rot: self.rot, lost_disks: self.lost_disks, transactions: self.transactions, ids: self.ids },
            #[cfg(feature = "mutations")]
            mutation: self.mutation,
        }
    }

    fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.trace { 1 } else { self.jobs.unwrap_or_else(cores).max(1) }
    }

    fn range(&self) -> std::ops::Range<u64> {
        self.seed..self.seed.saturating_add(self.seeds)
    }

    /// What to type to see this life again.
    fn replay(&self, violation: &Violation) -> String {
        let mut command = format!(
            "cargo run -p wherry-sim --release -- --seed {} --nodes {} --trace",
            violation.seed, violation.nodes
        );
        let flags = [(" --rot", self.rot), (" --lost-disks", self.lost_disks), (" --transactions", self.transactions)];
        for (flag, is_set) in flags.into_iter().chain([(" --ids", self.ids)]) {
            command += if is_set { flag } else { "" };
        }
        command
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.trace {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    #[cfg(feature = "mutations")]
    if args.mutations {
        return hunt(&args);
    }
    live(&args)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]
fn live(args: &Args) -> ExitCode {
    let total = Mutex::new((Outcome::default(), 0_u64));
    each(args.jobs(), args.range(), |seed| {
        let outcome = wherry_sim::run(seed, args.options());
        let Ok(mut total) = total.lock() else { return };
        match outcome {
            Ok(outcome) => {
                if args.verbose || args.seeds == 1 {
                    println!("seed {seed}: {outcome:?}");
                }
                total.0.add(&outcome);
            }
            Err(violation) => {
                total.1 += 1;
                eprintln!("BROKEN {violation}\n  {}", args.replay(&violation));
            }
        }
    });
    let Ok((total, broken)) = total.into_inner() else { return ExitCode::FAILURE };
    summarize(args, &total, broken);
    if broken > 0 {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Does this with every number, several at a time.
fn each(jobs: usize, numbers: std::ops::Range<u64>, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(numbers.start);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if !numbers.contains(&number) {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

#[expect(clippy::print_stdout, reason = "a command line program")]
fn summarize(args: &Args, total: &Outcome, broken: u64) {
    println!(
        "{} lives, {broken} broken; {} nodes; {} records acknowledged, {} in the logs; {} leader epochs; {} group \
         generations, {} commits; {} transactions committed, {} aborted; {} duplicates told; {} events in {} virtual seconds",
        args.seeds,
        total.nodes,
        total.acknowledged,
        total.records,
        total.epochs,
        total.generations,
        total.commits,
        total.transactions,
        total.aborted,
        total.duplicates,
        total.events,
        total.virtual_ms / 1_000
    );
    println!("befell: {:?}", total.faults);
}

#[cfg(feature = "mutations")]
#[expect(clippy::print_stdout, reason = "a command line program")]
fn hunt(args: &Args) -> ExitCode {
    use wherry_node::mutation::Mutation;
    let missed = AtomicU64::new(0);
    each(args.jobs(), 0..Mutation::ALL.len() as u64, |number| {
        let Some(mutation) = usize::try_from(number).ok().and_then(|n| Mutation::ALL.get(n)) else { return };
        let caught = wherry_sim::hunt(*mutation, args.range(), 1, args.options());
        missed.fetch_add(u64::from(caught.caught == 0), Ordering::Relaxed);
        let verdict = caught.first.unwrap_or_else(|| "not caught".into());
        println!("{:<28} {:>4} lives  {verdict}", mutation.name(), caught.lives);
    });
    let missed = missed.into_inner();
    println!("{} mutations, {missed} not caught in {} lives", Mutation::ALL.len(), args.seeds);
    if missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

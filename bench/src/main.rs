//! `wherry-bench`: runs the figures and writes their tables. It parses arguments and calls the library, nothing else.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wherry_bench::app::{self, AppArgs};
use wherry_bench::cluster::pipeline::{self, ClusterPipelineArgs};
use wherry_bench::cluster::steady::{self, SteadyArgs};
use wherry_bench::figures::{Run, cluster, consume, failover, idle, latency, produce, restart, sidecar, topics};
use wherry_bench::measure::{Sample, Samples, say};
use wherry_bench::null_node::NullNode;
use wherry_bench::raw::{self, PipelineArgs};
use wherry_bench::report::{Verdict, cases, write};
use wherry_bench::setup::Setup;

/// Measures Wherry side by side with Apache Kafka and a null node.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    setup: Setup,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Measure figures (all of them when none is named).
    Run {
        /// Which ones.
        figures: Vec<Figure>,
    },
    /// Make the tables again from `results.jsonl` files.
    Report {
        /// The files.
        files: Vec<PathBuf>,
    },
    /// Be an application at a sidecar: publish one by one, and perhaps receive.
    App(AppArgs),
    /// Produce with many requests in flight on one plain socket, round robin over topics.
    Pipeline(PipelineArgs),
    /// The same on a cluster: several connections to each broker, in turn over the partitions that it leads.
    ClusterPipeline(ClusterPipelineArgs),
    /// Produce steadily to each partition of a topic and watch for gaps; `age` and `take` on standard input.
    Steady(SteadyArgs),
    /// Serve as the null node.
    NullNode {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:9092")]
        listen: SocketAddr,
        /// Partitions of every topic.
        #[arg(long, default_value_t = 12)]
        partitions: i32,
        /// Value size of the records that it serves.
        #[arg(long, default_value_t = 1024)]
        record_bytes: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Figure {
    Produce,
    ProduceJava,
    Consume,
    Latency,
    Topics,
    Restart,
    Idle,
    Sidecar,
    /// Three nodes: throughput and latency.
    Cluster,
    /// Three nodes with many partitions: throughput, and idle.
    Partitions,
    /// Three nodes, of which one is killed, paused or stopped.
    Failover,
}

impl Figure {
    fn run(self) -> Run {
        match self {
            Figure::Produce => produce::run,
            Figure::ProduceJava => produce::run_java,
            Figure::Consume => consume::run,
            Figure::Latency => latency::run,
            Figure::Topics => topics::run,
            Figure::Restart => restart::run,
            Figure::Idle => idle::run,
            Figure::Sidecar => sidecar::run,
            Figure::Cluster => cluster::run,
            Figure::Partitions => cluster::run_partitions,
            Figure::Failover => failover::run,
        }
    }
}

fn measure(mut setup: Setup, figures: &[Figure]) -> Result<()> {
    raise_open_files()?;
    setup.prepare()?;
    let chosen = if figures.is_empty() { Figure::value_variants() } else { figures };
    let mut samples = Samples::open(&setup)?;
    for figure in chosen {
        // One figure that fails does not cost the others.
        if let Err(e) = figure.run()(&setup, &mut samples) {
            say(&format!("FAILED: {figure:?}: {e:#}"));
        }
        summarize(&setup, &samples.all)?;
    }
    print(&summarize(&setup, &samples.all)?);
    Ok(())
}

fn report(setup: &Setup, files: &[PathBuf]) -> Result<()> {
    let mut samples: Vec<Sample> = Vec::new();
    for file in files {
        for line in std::fs::read_to_string(file)?.lines() {
            samples.push(serde_json::from_str(line)?);
        }
    }
    std::fs::create_dir_all(&setup.out)?;
    print(&summarize(setup, &samples)?);
    Ok(())
}

fn summarize(setup: &Setup, samples: &[Sample]) -> Result<String> {
    let cases = cases(samples);
    let asked =
        [produce::asked(), consume::asked(), latency::asked(), restart::asked(), idle::asked(), sidecar::asked()]
            .into_iter()
            .chain([cluster::asked(), failover::asked()])
            .flatten();
    let judged = |(figure, case, ask)| cases.iter().find(|c| c.figure == figure && c.case == case)?.judge(ask);
    let mut verdicts: Vec<Verdict> = asked.filter_map(judged).collect();
    verdicts.extend(topics::verdicts(&cases));
    verdicts.extend(cluster::verdicts(&cases));
    write(setup, &cases, &verdicts)
}

fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Brokers with many topics need many files; they inherit this limit.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Action::Run { figures } => measure(arguments.setup, &figures),
        Action::Report { files } => report(&arguments.setup, &files),
        Action::App(app) => {
            print(&app::run(&app)?.to_string());
            Ok(())
        }
        Action::Pipeline(pipeline) => {
            print(&raw::run(&pipeline)?.to_string());
            Ok(())
        }
        Action::ClusterPipeline(args) => {
            print(&pipeline::run(&args)?.to_string());
            Ok(())
        }
        Action::Steady(args) => steady::run(&args),
        Action::NullNode { listen, partitions, record_bytes } => NullNode { partitions, record_bytes }.serve(listen),
    }
}

//! `wherry demo`: the mesh as separate processes, real input, nodes killed with `kill -9` in mid-run, and a verdict.
//!
//! ```text
//!  producers ── gRPC ──> sidecar 0 ─┐    node 0    ┌─> sidecar 0 ── gRPC ──> group ordered (member 0)
//!            ── gRPC ──> sidecar 1 ─┴─>  node 1 ───┼─> sidecar 1 ── gRPC ──> group ordered (member 1)
//!                                        node 2    └─> sidecar 1 ── gRPC ──> group independent
//!                                        X -9
//! ```
//! Producers and subscribers are tasks of this process and write down all they send and receive ([`ledger`]); [`mod@conduct`] kills;
//! [`mod@verdict`] judges the books. This room must not know how node and sidecar work: it sees what an application sees.

mod books;
mod cluster;
mod conduct;
mod input;
mod ledger;
mod mesh;
mod outage;
mod progress;
mod publisher;
mod report;
mod subscriber;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use wherry_client::admin::OffsetSpec;
use wherry_client::{Client, TopicPartition};

use crate::commands::Common;
use crate::commands::topic::describe;
use crate::exit;
use crate::output::{self, Output};
use crate::roles::IoArg;
use crate::text::{duration, shown_count};
use books::Books;
use cluster::View;
use conduct::Conductor;
use input::Input;
use mesh::Mesh;
use outage::{Outage, outages};
use progress::Progress;
use report::{Figures, Report};
use verdict::{Run, judge};

/// Start a mesh, stream real log lines through it, kill its nodes in mid-run, and judge the result
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry demo
  wherry demo --input /var/log/syslog --messages 1000000
  wherry demo --kills 3 --json > verdict.json
  wherry demo --nodes 1

It starts three nodes and two sidecars as processes of their own in a temporary directory. Producers publish lines through the
sidecars; two groups receive and acknowledge them. The node that leads is killed with SIGKILL in mid-run; the others go on
without it until it is started again. When it is in sync, the next one is killed. At the end every message must have been
received by each group: none lost, none duplicated, none out of order per key.

The exit code is 0 if the verdict is good, 1 if not.")]
pub(crate) struct DemoArgs {
    /// Lines to send; by default the machine's own logs, else generated order events
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Messages to send; a shorter input is repeated
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=MESSAGES_MAX))]
    messages: u32,
    /// Producers, each with its own stream
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    producers: u32,
    /// Partitions of the topic
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=1000))]
    partitions: i32,
    /// Nodes: 1, 3 or 5
    #[arg(long, default_value_t = 3, value_parser = nodes)]
    nodes: usize,
    /// Times that a node is killed; 2 if absent, 1 where there is one node
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=100))]
    kills: Option<u32>,
    /// Messages of one producer that have no acknowledgement yet
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    /// How nodes do their I/O
    #[arg(long, value_enum, default_value_t = IoArg::Auto)]
    io: IoArg,
    /// Give up when nothing has moved for this long
    #[arg(long, value_parser = duration, default_value = "60s", value_name = "DURATION")]
    patience: Duration,
    /// Where the temporary directory is made
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Keep the data and the logs of the processes (a bad verdict keeps them anyway)
    #[arg(long)]
    keep: bool,
    /// Same as --output json
    #[arg(long)]
    json: bool,
}

/// The books hold every message.
const MESSAGES_MAX: i64 = 50_000_000;
const SIDECARS: usize = 2;
/// Ordered: one member behind each sidecar. Independent: one member alone.
const ORDERED: &str = "ordered";
const INDEPENDENT: &str = "independent";

fn nodes(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|nodes| [1, 3, 5].contains(nodes)).ok_or_else(|| "write 1, 3 or 5".into())
}

impl DemoArgs {
    fn kills(&self) -> u32 {
        self.kills.unwrap_or(if self.nodes == 1 { 1 } else { 2 })
    }
}

pub(crate) async fn run(args: DemoArgs, common: &Common) -> Result<ExitCode> {
    let output = if args.json { Output::Json } else { common.output };
    let directory = make_directory(args.directory.as_deref())?;
    let outcome = tokio::select! {
        outcome = Box::pin(perform(&args, &directory)) => outcome,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("can't wait for Ctrl-C")?;
            remove(&directory, args.keep);
            return Ok(ExitCode::from(exit::INTERRUPTED));
        }
    };
    let mut report = outcome.with_context(|| format!("the demo broke off; logs are in {}", directory.display()))?;
    let keep = args.keep || !report.verdict.good;
    report.kept = keep.then(|| directory.display().to_string());
    remove(&directory, keep);
    match output {
        Output::Json => output::json(&report)?,
        Output::Table => report::print(&report)?,
    }
    Ok(if report.verdict.good { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn make_directory(parent: Option<&Path>) -> Result<PathBuf> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let directory = parent.join(format!("wherry-demo-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&directory)
        .with_context(|| format!("can't make {}; choose another place with --directory", directory.display()))?;
    Ok(directory)
}

fn remove(directory: &Path, keep: bool) {
    if !keep && let Err(error) = std::fs::remove_dir_all(directory) {
        output::note(format!("can't remove {}: {error}", directory.display()));
    }
}

/// A connection to a sidecar, as an application makes it.
async fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = endpoint.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(4 * WINDOW_BYTES);
    endpoint.connect().await.with_context(|| format!("can't reach the sidecar at {address}"))
}

/// HTTP/2 flow control window of a stream towards us, in bytes.
const WINDOW_BYTES: u32 = 1024 * 1024;

async fn perform(args: &DemoArgs, directory: &Path) -> Result<Report> {
    let input = Input::open(args.input.as_deref()).map_err(|error| exit::usage(format!("{error:#}")))?;
    let progress = Progress::new();
    progress.event(&format!("Input: {}, {} lines.", input.origin, shown_count(input.len() as u64)));
    let mut mesh = Mesh::start(directory, args.nodes, SIDECARS, args.io.name()).await?;
    let (nodes, sidecars) = (mesh.node_addresses(), mesh.sidecar_addresses());
    progress.event(&format!("{}, sidecars at {}.", nodes_at(&nodes), listed(&sidecars)));
    let (origin, lines) = (input.origin.clone(), input.len());
    let stages = args.kills() + 1;
    let books = Arc::new(Books::new(input, args.messages, args.producers, stages, &[ORDERED, INDEPENDENT]));
    let view = View::open(&nodes, &books.topic).await?;
    view.create_topic(args.partitions).await?;

    let stop = CancellationToken::new();
    let mut subscribers = subscribers(&books, &sidecars, &stop);
    let publishers = publishers(&books, &sidecars, in_flight(args));
    let shown = tokio::spawn(progress.clone().show(books.clone(), stop.clone()));
    let conductor = Conductor {
        mesh: &mut mesh,
        view: &view,
        books: &books,
        progress: &progress,
        publishers,
        patience: args.patience,
    };
    let kills = conductor.run(args.kills()).await;
    stop.cancel();
    shown.await?;
    while let Some(subscriber) = subscribers.join_next().await {
        subscriber??;
    }
    let outages = outages(&kills?, &books.published(), view.is_alone());
    let records_in_log = records_in_log(&view.client, &books.topic, args.partitions).await?;
    let report = Report {
        verdict: verdict(args, &books, records_in_log, &outages),
        input: origin,
        lines_of_input: lines,
        producers: books.planned.len(),
        processes: nodes
            .iter()
            .map(|at| format!("node {at}"))
            .chain(sidecars.iter().map(|at| format!("sidecar {at}")))
            .collect(),
        figures: Figures::from(&books)?,
        outages,
        kept: None,
    };
    mesh.stop().await;
    Ok(report)
}

fn nodes_at(addresses: &[String]) -> String {
    format!("{} at {}", if addresses.len() == 1 { "Node" } else { "Nodes" }, listed(addresses))
}

/// As in "a, b and c".
fn listed(words: &[String]) -> String {
    match words {
        [most @ .., last] if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        few => few.concat(),
    }
}

fn subscribers(books: &Arc<Books>, sidecars: &[String], stop: &CancellationToken) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    for sidecar in sidecars {
        tasks.spawn(subscriber::subscribe(books.clone(), 0, sidecar.clone(), stop.clone()));
    }
    if let Some(sidecar) = sidecars.last() {
        tasks.spawn(subscriber::subscribe(books.clone(), 1, sidecar.clone(), stop.clone()));
    }
    tasks
}

/// At most an eighth of a stage: what is done while a node is down must be more than what was on its way when it was killed.
fn in_flight(args: &DemoArgs) -> usize {
    let most = args.messages / (8 * (args.kills() + 1) * args.producers);
    args.in_flight.min(most).max(1) as usize
}

fn publishers(books: &Arc<Books>, sidecars: &[String], in_flight: usize) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    for (producer, sidecar) in (0..).zip(sidecars.iter().cycle().take(books.planned.len())) {
        tasks.spawn(publisher::publish(books.clone(), producer, sidecar.clone(), in_flight));
    }
    tasks
}

/// By the node's own offsets, whatever the groups received.
async fn records_in_log(client: &Client, topic: &str, partitions: i32) -> Result<u64> {
    let places: Vec<_> = (0..partitions).map(|partition| TopicPartition::new(topic, partition)).collect();
    let starts = describe::offsets(&client.admin(), &places, OffsetSpec::Earliest).await?;
    let ends = describe::offsets(&client.admin(), &places, OffsetSpec::Latest).await?;
    Ok(ends.iter().zip(starts).map(|(end, start)| u64::try_from(end - start).unwrap_or(0)).sum())
}

fn verdict(args: &DemoArgs, books: &Books, records_in_log: u64, outages: &[Outage]) -> verdict::Verdict {
    let survived = |outage: &&Outage| outage.until_next_acknowledgement_ms.is_some() && outage.in_sync_ms.is_some();
    let survived = outages.iter().filter(survived).count();
    let run = Run {
        planned: u64::from(args.messages),
        records_in_log,
        kills_planned: args.kills(),
        kills_survived: u32::try_from(survived).unwrap_or(u32::MAX),
    };
    let received: Vec<_> = books.groups.iter().map(|group| (group.name, group.received())).collect();
    let groups: Vec<_> = received.iter().map(|(name, received)| (*name, &**received)).collect();
    judge(run, &books.published(), &groups)
}

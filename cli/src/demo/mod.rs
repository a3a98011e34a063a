//! `wherry demo`: the mesh as separate processes, real input, a `kill -9` in mid-run, and a verdict.
//!
//! ```text
//!  producers ── gRPC ──> sidecar 0 ─┐            ┌─> sidecar 0 ── gRPC ──> group ordered (member 0)
//!            ── gRPC ──> sidecar 1 ─┴─> node ────┼─> sidecar 1 ── gRPC ──> group ordered (member 1)
//!                                        X -9    └─> sidecar 1 ── gRPC ──> group independent
//! ```
//! Producers and subscribers are tasks of this process and write down all they send and receive ([`ledger`]); [`mod@verdict`] judges
//! the books. This room must not know how node and sidecar work: it sees what an application sees.

mod books;
mod input;
mod ledger;
mod mesh;
mod progress;
mod publisher;
mod report;
mod subscriber;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use wherry_client::admin::{NewTopic, OffsetSpec};
use wherry_client::{Client, ClientConfig, TopicPartition};

use crate::commands::Common;
use crate::commands::topic::{self, describe};
use crate::exit;
use crate::output::{self, Output};
use crate::roles::IoArg;
use crate::text::{duration, shown_count};
use books::Books;
use input::Input;
use ledger::Micros;
use mesh::Mesh;
use progress::Progress;
use report::{Figures, Outage, Report};
use verdict::{Run, judge};

/// Start a mesh, stream real log lines through it, kill the node in mid-run, and judge the result
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry demo
  wherry demo --input /var/log/syslog --messages 1000000
  wherry demo --kills 3 --json > verdict.json

It starts one node and two sidecars as processes of their own in a temporary directory. Producers publish lines through the
sidecars; two groups receive and acknowledge them. The node is killed with SIGKILL in mid-run and started again. At the end
every message must have been received by each group: none lost, none duplicated, none out of order per key.

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
    /// Times that the node is killed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    kills: u32,
    /// Messages of one producer that have no acknowledgement yet
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    /// How the node does its I/O
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
/// How long subscribers still listen when everything has been received: for what should not come.
const LISTEN_ON: Duration = Duration::from_secs(1);
/// How often the end of the run is looked for.
const LOOK: Duration = Duration::from_millis(20);

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
    let mut mesh = Mesh::start(directory, SIDECARS, args.io.name()).await?;
    let sidecars = mesh.sidecar_addresses();
    progress.event(&format!("Node at {}, sidecars at {}.", mesh.node_address(), sidecars.join(" and ")));
    let client = Client::connect(ClientConfig::new([mesh.node_address()])).await?;
    let (origin, lines) = (input.origin.clone(), input.len());
    let books = Arc::new(Books::new(input, args.messages, args.producers, &[ORDERED, INDEPENDENT]));
    let created = client.admin().create_topics(&[NewTopic::new(&*books.topic, args.partitions)], false).await?;
    topic::only(created, &books.topic)?;

    let stop = CancellationToken::new();
    let mut subscribers = subscribers(&books, &sidecars, &stop);
    let mut publishers = publishers(&books, &sidecars, in_flight(args));
    let shown = tokio::spawn(progress.clone().show(books.clone(), stop.clone()));
    let kills = conduct(args, &mut mesh, &books, &progress, &mut publishers).await;
    stop.cancel();
    shown.await?;
    while let Some(subscriber) = subscribers.join_next().await {
        subscriber??;
    }
    let outages = outages(&kills?, &books);
    let records_in_log = records_in_log(&client, &books.topic, args.partitions).await?;
    let report = Report {
        verdict: verdict(args, &books, records_in_log, &outages),
        input: origin,
        lines_of_input: lines,
        producers: books.planned.len(),
        processes: std::iter::once(format!("node {}", mesh.node_address()))
            .chain(sidecars.iter().map(|at| format!("sidecar {at}")))
            .collect(),
        figures: Figures::from(&books)?,
        outages,
        kept: None,
    };
    mesh.stop().await;
    Ok(report)
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

/// At most half of what is sent between two kills: a kill must hit while there is more to come.
fn in_flight(args: &DemoArgs) -> usize {
    let most = args.messages / (2 * (args.kills + 1) * args.producers);
    args.in_flight.min(most).max(1) as usize
}

fn publishers(books: &Arc<Books>, sidecars: &[String], in_flight: usize) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    for (producer, sidecar) in (0..).zip(sidecars.iter().cycle().take(books.planned.len())) {
        tasks.spawn(publisher::publish(books.clone(), producer, sidecar.clone(), in_flight));
    }
    tasks
}

/// A kill, and when it was.
struct Kill {
    at: Micros,
    served_again: Micros,
    acknowledged_before: u64,
    restart_ms: u64,
}

/// Kills and restarts at their times, and waits for the end: everything received and acknowledged, or nothing moves any more.
async fn conduct(
    args: &DemoArgs,
    mesh: &mut Mesh,
    books: &Books,
    progress: &Progress,
    publishers: &mut JoinSet<Result<()>>,
) -> Result<Vec<Kill>> {
    let mut kills = Vec::new();
    let mut watch = Watch::new(args.patience);
    while !groups_receive(books) && !watch.is_stuck(books) {
        tokio::time::sleep(LOOK).await;
    }
    books.open_gate();
    progress.event("Every group receives; now at full speed.");
    for kill in 1..=args.kills {
        let due = u64::from(args.messages) * u64::from(kill) / (u64::from(args.kills) + 1);
        while acknowledged(books) < due && !watch.is_stuck(books) {
            // Bounded: a notice may come between the look and the wait.
            let _ = tokio::time::timeout(LOOK, books.acknowledged.notified()).await;
            tell_failures(publishers, progress);
        }
        if acknowledged(books) >= due {
            kills.push(kill_and_restart(mesh, books, progress).await?);
            watch = Watch::new(args.patience);
        }
    }
    while !is_done(books, publishers) && !watch.is_stuck(books) {
        tell_failures(publishers, progress);
        if let Some(dead) = mesh.dead()? {
            return Err(anyhow!(dead));
        }
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(LISTEN_ON).await;
    Ok(kills)
}

async fn kill_and_restart(mesh: &mut Mesh, books: &Books, progress: &Progress) -> Result<Kill> {
    mesh.kill_node().await?;
    let (at, acknowledged_before) = (books.now(), acknowledged(books));
    progress.event(&format!("Killed the node (SIGKILL) after {} acknowledgements.", shown_count(acknowledged_before)));
    mesh.restart_node().await?;
    let served_again = books.now();
    let restart_ms = (served_again - at) / 1000;
    progress.event(&format!("The node serves again, {restart_ms} ms later."));
    Ok(Kill { at, served_again, acknowledged_before, restart_ms })
}

/// Says which producers gave up, and why.
fn tell_failures(publishers: &mut JoinSet<Result<()>>, progress: &Progress) {
    while let Some(ended) = publishers.try_join_next() {
        let outcome = ended.unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = outcome {
            progress.event(&format!("A producer failed: {error:#}"));
        }
    }
}

/// Every group has acknowledged what was sent before the gate.
fn groups_receive(books: &Books) -> bool {
    let first: u64 = (0..).zip(&books.planned).map(|(producer, _)| u64::from(books.before_gate(producer))).sum();
    books.groups.iter().all(|group| group.received().counts().confirmed >= first)
}

fn acknowledged(books: &Books) -> u64 {
    books.published().acknowledgements()
}

/// No producer works any more, and every group has acknowledged all there is.
fn is_done(books: &Books, publishers: &JoinSet<Result<()>>) -> bool {
    let all = acknowledged(books);
    publishers.is_empty() && books.groups.iter().all(|group| group.received().counts().confirmed >= all)
}

/// Notices when nothing moves any more.
struct Watch {
    patience: Duration,
    seen: u64,
    since: Instant,
}

impl Watch {
    fn new(patience: Duration) -> Self {
        Self { patience, seen: 0, since: Instant::now() }
    }

    fn is_stuck(&mut self, books: &Books) -> bool {
        let received = books.groups.iter().map(|group| group.received().counts());
        let moved: u64 = received.map(|counts| counts.received + counts.confirmed + counts.repeated).sum();
        let now = acknowledged(books) + moved;
        if now != self.seen {
            (self.seen, self.since) = (now, Instant::now());
        }
        self.since.elapsed() > self.patience
    }
}

fn outages(kills: &[Kill], books: &Books) -> Vec<Outage> {
    let published = books.published();
    let next_after =
        |at: Micros| published.all().filter_map(|(_, sent)| sent.ack).map(|(_, ack)| ack).filter(|ack| *ack > at).min();
    let outage = |kill: &Kill| Outage {
        acknowledged_before: kill.acknowledged_before,
        restart_ms: kill.restart_ms,
        // Answers that were on their way when it was killed prove nothing: only those of the restarted node count.
        until_next_acknowledgement_ms: next_after(kill.served_again).map(|next| (next - kill.at) / 1000),
    };
    kills.iter().map(outage).collect()
}

/// By the node's own offsets, whatever the groups received.
async fn records_in_log(client: &Client, topic: &str, partitions: i32) -> Result<u64> {
    let places: Vec<_> = (0..partitions).map(|partition| TopicPartition::new(topic, partition)).collect();
    let starts = describe::offsets(&client.admin(), &places, OffsetSpec::Earliest).await?;
    let ends = describe::offsets(&client.admin(), &places, OffsetSpec::Latest).await?;
    Ok(ends.iter().zip(starts).map(|(end, start)| u64::try_from(end - start).unwrap_or(0)).sum())
}

fn verdict(args: &DemoArgs, books: &Books, records_in_log: u64, outages: &[Outage]) -> verdict::Verdict {
    let survived = outages.iter().filter(|outage| outage.until_next_acknowledgement_ms.is_some()).count();
    let run = Run {
        planned: u64::from(args.messages),
        records_in_log,
        kills_planned: args.kills,
        kills_survived: u32::try_from(survived).unwrap_or(u32::MAX),
    };
    let received: Vec<_> = books.groups.iter().map(|group| (group.name, group.received())).collect();
    let groups: Vec<_> = received.iter().map(|(name, received)| (*name, &**received)).collect();
    judge(run, &books.published(), &groups)
}

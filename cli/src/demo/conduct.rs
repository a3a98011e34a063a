//! The course of a run: when what is killed and started again, and when it is over.
//!
//! A run has one more stage than kills, of equal numbers of messages. In each but the last, a node is killed half-way:
//! ```text
//!  stage:  |- - - - - - kill - - - restart - - - |  (waits until it is in sync)  |- - - ...
//! ```
//! With several nodes the restart comes late: the others go on meanwhile. Producers are held back at the end of a stage only if
//! they get there before the node is in sync again.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::task::JoinSet;

use super::books::Books;
use super::cluster::View;
use super::mesh::Mesh;
use super::outage::{Kill, is_replaced};
use super::progress::Progress;
use crate::text::shown_count;

/// How often conditions are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long subscribers still listen when everything has been received: for what should not come.
const LISTEN_ON: Duration = Duration::from_secs(1);

/// A run under way.
pub(crate) struct Conductor<'a> {
    pub(crate) mesh: &'a mut Mesh,
    pub(crate) view: &'a View,
    pub(crate) books: &'a Books,
    pub(crate) progress: &'a Progress,
    pub(crate) publishers: JoinSet<Result<()>>,
    /// Give up when nothing has moved for so long.
    pub(crate) patience: Duration,
}

impl Conductor<'_> {
    /// Kills and restarts at their times, and waits for the end: everything received and acknowledged, or nothing moves any more.
    pub(crate) async fn run(mut self, kills: u32) -> Result<Vec<Kill>> {
        let books = self.books;
        self.wait(|_| groups_received_first(books)).await?;
        self.progress.event("Every group receives; now at full speed.");
        let mut done: Vec<Kill> = Vec::new();
        for stage in 1..=kills {
            books.open_stage();
            let length = books.planned_until(stage) - books.planned_until(stage - 1);
            let half = books.planned_until(stage) - length / 2;
            if !self.wait(|_| acknowledged(books) >= half).await? {
                break;
            }
            let last = done.last().map(|kill| kill.node);
            let restart_after = half + length / 4..books.planned_until(stage);
            done.push(self.kill_and_restart(last, restart_after).await?);
        }
        // What is left, or the rest of a run that is stuck.
        for _ in done.len()..=kills as usize {
            books.open_stage();
        }
        self.wait(|publishers| is_done(books, publishers)).await?;
        tokio::time::sleep(LISTEN_ON).await;
        Ok(done)
    }

    async fn kill_and_restart(&mut self, last: Option<usize>, restart_after: Range<u64>) -> Result<Kill> {
        let seen = self.view.look().await?;
        let node = seen.victim(last);
        self.mesh.kill_node(node).await?;
        let (at, acknowledged_before) = (self.books.now(), acknowledged(self.books));
        let led = seen.led_by(node);
        let kill = Kill {
            node,
            led_quorum: seen.controller == Some(node),
            led,
            partitions: seen.partitions(),
            acknowledged_before,
            at,
            restarted: at,
            listens: at,
            in_sync: None,
        };
        self.say_killed(&kill);
        if self.view.is_alone() {
            self.bring_back_alone(kill).await
        } else {
            self.bring_back(kill, restart_after).await
        }
    }

    fn say_killed(&self, kill: &Kill) {
        let after = format!("after {} acknowledgements", shown_count(kill.acknowledged_before));
        self.progress.event(&if self.view.is_alone() {
            format!("Killed the node (SIGKILL) {after}.")
        } else {
            let quorum = if kill.led_quorum { "the quorum and " } else { "" };
            let (led, all) = (kill.led.len(), kill.partitions);
            format!("Killed node {} (SIGKILL), which led {quorum}{led} of {all} partitions, {after}.", kill.node)
        });
    }

    async fn bring_back_alone(&mut self, kill: Kill) -> Result<Kill> {
        self.mesh.start_node(kill.node).await?;
        let listens = self.books.now();
        self.progress.event(&format!("The node serves again, {} ms later.", (listens - kill.at) / 1000));
        Ok(Kill { listens, in_sync: Some(listens), ..kill })
    }

    /// The others go on for a while before the node is started, also with what it led. `restart_after`: so many
    /// acknowledgements at least, and where the producers are held back.
    async fn bring_back(&mut self, kill: Kill, restart_after: Range<u64>) -> Result<Kill> {
        let books = self.books;
        self.wait(|_| {
            let all = acknowledged(books);
            all >= restart_after.start && (all >= restart_after.end || is_replaced(&kill, &books.published()))
        })
        .await?;
        let without = acknowledged(books) - kill.acknowledged_before;
        // Its own view is old when it comes back: nobody is believed who has not seen that others lead what it led.
        let seen = self.view.look().await?;
        let restarted = books.now();
        self.mesh.start_node(kill.node).await?;
        let listens = books.now();
        let in_sync = self.view.await_in_sync(&seen, self.patience).await?.then(|| books.now());
        self.progress.event(&match in_sync {
            Some(at) => format!(
                "Without node {} went on {} messages in {:.1} s. Started again, it is in sync after {} ms.",
                kill.node,
                shown_count(without),
                (restarted - kill.at) as f64 / 1e6,
                (at - restarted) / 1000
            ),
            None => format!("Node {} was started again, but did not get in sync.", kill.node),
        });
        Ok(Kill { restarted, listens, in_sync, ..kill })
    }

    /// False if nothing moves any more.
    async fn wait(&mut self, condition: impl Fn(&JoinSet<Result<()>>) -> bool) -> Result<bool> {
        let mut watch = Watch::new(self.patience);
        while !condition(&self.publishers) {
            if watch.is_stuck(self.books) {
                return Ok(false);
            }
            if let Some(dead) = self.mesh.dead()? {
                return Err(anyhow!(dead));
            }
            self.tell_failures();
            // Bounded: a notice may come between the look and the wait.
            let _ = tokio::time::timeout(LOOK, self.books.acknowledged.notified()).await;
        }
        Ok(true)
    }

    /// Says which producers gave up, and why.
    fn tell_failures(&mut self) {
        while let Some(ended) = self.publishers.try_join_next() {
            let outcome = ended.unwrap_or_else(|error| Err(error.into()));
            if let Err(error) = outcome {
                self.progress.event(&format!("A producer failed: {error:#}"));
            }
        }
    }
}

/// Every group has acknowledged what was sent before the first stage.
fn groups_received_first(books: &Books) -> bool {
    let first = books.planned_until(0);
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

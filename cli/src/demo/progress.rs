//! Live progress: bars where standard error is a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::books::Books;
use crate::output;
use crate::text::shown_count;

/// How often bars are drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Shows progress and events.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Something happened.
    pub(crate) fn event(&self, what: &str) {
        match &self.bars {
            Some(bars) => {
                // A terminal that is gone can't be told.
                let _ = bars.println(what);
            }
            None => output::note(what),
        }
    }

    /// Shows the books until `stop`.
    pub(crate) async fn show(self, books: Arc<Books>, stop: CancellationToken) {
        match self.bars {
            Some(ref bars) => draw(bars, &books, &stop).await,
            None => write(&books, &stop).await,
        }
    }
}

/// Acknowledged publishes, and per group what it received and what is confirmed.
fn counts(books: &Books) -> (u64, Vec<(&'static str, u64)>) {
    let acknowledged = books.published().acknowledgements();
    (acknowledged, books.groups.iter().map(|group| (group.name, group.received().counts().confirmed)).collect())
}

async fn draw(bars: &MultiProgress, books: &Books, stop: &CancellationToken) {
    let planned = books.planned.iter().copied().map(u64::from).sum();
    let bar = |name: &str| {
        let style = ProgressStyle::with_template("{prefix:>24} {wide_bar} {human_pos} of {human_len}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        bars.add(ProgressBar::new(planned)).with_style(style).with_prefix(name.to_owned())
    };
    let published = bar("published, durable");
    let groups: Vec<_> = books.groups.iter().map(|group| bar(&format!("group {}", group.name))).collect();
    loop {
        let stopped = tokio::time::timeout(REDRAW, stop.cancelled()).await.is_ok();
        let (acknowledged, received) = counts(books);
        published.set_position(acknowledged);
        for (bar, (_, confirmed)) in groups.iter().zip(received) {
            bar.set_position(confirmed);
        }
        if stopped {
            break;
        }
    }
    for bar in groups.iter().chain([&published]) {
        bar.abandon();
    }
}

async fn write(books: &Books, stop: &CancellationToken) {
    while tokio::time::timeout(LINE_EVERY, stop.cancelled()).await.is_err() {
        let (acknowledged, received) = counts(books);
        let received: Vec<_> = received.iter().map(|(name, n)| format!("{name} {}", shown_count(*n))).collect();
        output::note(format!("  published {}  {}", shown_count(acknowledged), received.join("  ")));
    }
}

//! Faults that a test asks a simulated disk for. Decides which operation is hit; what then happens is the disk's affair.

use std::path::PathBuf;

/// What kind of operation a fault looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOn {
    /// [`Op::Open`](super::super::Op::Open).
    Open,
    /// [`Op::Write`](super::super::Op::Write), durable or not.
    Write,
    /// [`Op::Read`](super::super::Op::Read).
    Read,
    /// [`Op::Sync`](super::super::Op::Sync).
    Sync,
    /// [`Op::SyncDir`](super::super::Op::SyncDir).
    SyncDir,
    /// Rename, remove, create a directory, remove a directory, list.
    Names,
    /// [`Op::Grow`](super::super::Op::Grow).
    Grow,
}

/// What goes wrong. An action that makes no sense for an operation fails it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAction {
    /// Reports an error. A write wrote nothing. A sync does what Linux does: its data is marked clean, seen by reads,
    /// lost at the next power cut, and later syncs succeed.
    Fail,
    /// Reports a full file system; nothing is written.
    Full,
    /// A write whose data reached the cache but not the disk, and says so: reads see it, a power cut loses it.
    FailAfterCache,
    /// A seeded, proper subset of the blocks is written (durably, if that was asked for), then an error is reported.
    TornThenFail,
    /// A seeded, proper subset of the blocks is written, and success is reported.
    TornSilently,
    /// Success is reported; reads see the data until the next power cut, which loses it (a drive that lies).
    LoseAtPowerCut,
    /// Success is reported; nothing was written.
    LoseNow,
    /// Success is reported; the data went this many blocks further (or back) in the same file.
    Misdirect {
        /// Distance in blocks.
        blocks: i64,
    },
    /// A read returns at most this many bytes, although the file has more.
    ShortRead {
        /// Bytes.
        bytes: usize,
    },
    /// A read returns its data with this bit inverted, counted from the start of the read; the file is as it was.
    FlipInRead {
        /// Bit number.
        bit: usize,
    },
    /// The operation takes this many more steps.
    Slow {
        /// Virtual steps.
        steps: u64,
    },
}

/// A rule: the `nth` and following matching operations, `times` of them, go wrong.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which operations.
    pub on: FaultOn,
    /// Matches a path that contains this text; empty matches all.
    pub path: String,
    /// 1 is the next matching operation.
    pub nth: u64,
    /// How many matching operations in a row are hit; `u64::MAX` for all that follow.
    pub times: u64,
    /// What goes wrong.
    pub action: FaultAction,
}

impl Fault {
    /// The next matching operation, once.
    #[must_use]
    pub fn next(on: FaultOn, path: &str, action: FaultAction) -> Self {
        Self { on, path: path.to_owned(), nth: 1, times: 1, action }
    }

    /// The `nth` matching operation (1 is the next), once.
    #[must_use]
    pub fn nth(on: FaultOn, path: &str, nth: u64, action: FaultAction) -> Self {
        Self { on, path: path.to_owned(), nth, times: 1, action }
    }

    /// Every matching operation from now on.
    #[must_use]
    pub fn always(on: FaultOn, path: &str, action: FaultAction) -> Self {
        Self { on, path: path.to_owned(), nth: 1, times: u64::MAX, action }
    }
}

/// The rules in force, with their counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    rules: Vec<(Fault, u64)>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.rules.push((fault, 0));
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// Counts this operation against every rule; the first rule that is due decides.
    pub(super) fn check(&mut self, on: FaultOn, paths: &[PathBuf]) -> Option<FaultAction> {
        let mut action = None;
        for (rule, seen) in &mut self.rules {
            if rule.on != on || !paths.iter().any(|path| path.to_string_lossy().contains(&rule.path)) {
                continue;
            }
            *seen += 1;
            let due = *seen >= rule.nth && *seen - rule.nth < rule.times;
            if due && action.is_none() {
                action = Some(rule.action);
            }
        }
        action
    }
}

//! Whom to keep dialled, and when to try again.
//!
//! ```text
//!  target added ──► due now ──dial──► Linked ──ended──► Waiting (25 ms .. 1 s, jittered, doubling) ──► due
//! ```
//! A link that held for a second starts the delays from the beginning.

use std::collections::BTreeMap;

use super::{Class, LinkId, Target};
use crate::entropy::Entropy;

const MS: u64 = 1_000_000;
/// First delay before a dial is repeated, in nanoseconds, and the longest one; the half to the whole of it is waited.
const FIRST_DELAY_NS: u64 = 50 * MS;
const LAST_DELAY_NS: u64 = 1_000 * MS;
/// A link that was up for this long was a good one, in nanoseconds.
const STABLE_NS: u64 = 1_000 * MS;

/// A target's identity: its address may change, or is all there is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TargetKey {
    Node(i32, Class),
    Address(String, u16, Class),
}

impl TargetKey {
    pub(super) fn of(target: &Target) -> Self {
        match target.node {
            Some(node) => Self::Node(node, target.class),
            None => Self::Address(target.host.clone(), target.port, target.class),
        }
    }

    /// The node, if it is known.
    pub(super) fn node(&self) -> Option<i32> {
        match self {
            Self::Node(node, _) => Some(*node),
            Self::Address(..) => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DialState {
    Waiting { until_ns: u64 },
    Linked(LinkId),
}

#[derive(Debug)]
struct Dial {
    target: Target,
    state: DialState,
    attempts: u32,
    /// What was said of it last.
    complaint: Option<String>,
}

/// All targets.
#[derive(Debug)]
pub(super) struct Dials {
    targets: BTreeMap<TargetKey, Dial>,
    jitter: Entropy,
}

impl Dials {
    pub(super) fn new(seed: u64) -> Self {
        Self { targets: BTreeMap::new(), jitter: Entropy::seeded(seed) }
    }

    /// A new target is due at once; a changed address too. Gives the link to the old address.
    pub(super) fn add(&mut self, target: Target, now_ns: u64) -> Option<LinkId> {
        let key = TargetKey::of(&target);
        let known = self.targets.get(&key);
        if known.is_some_and(|dial| dial.target == target) {
            return None;
        }
        let old = known.and_then(Dial::link);
        let state = DialState::Waiting { until_ns: now_ns };
        self.targets.insert(key, Dial { target, state, attempts: 0, complaint: None });
        old
    }

    /// Forgets all targets but these; gives the links to the others.
    pub(super) fn retain(&mut self, keep: impl Fn(&TargetKey) -> bool) -> Vec<LinkId> {
        let (kept, gone) = std::mem::take(&mut self.targets).into_iter().partition(|(key, _)| keep(key));
        self.targets = kept;
        gone.values().filter_map(Dial::link).collect()
    }

    /// A target has a link; gives the target.
    pub(super) fn linked(&mut self, key: &TargetKey, link: LinkId) -> Option<&Target> {
        let dial = self.targets.get_mut(key)?;
        dial.state = DialState::Linked(link);
        Some(&dial.target)
    }

    /// Whether a target has a link, or is being dialled.
    pub(super) fn is_linked(&self, key: &TargetKey) -> bool {
        self.targets.get(key).is_some_and(|dial| dial.link().is_some())
    }

    /// A target is none any more, whatever becomes of its link.
    pub(super) fn forget(&mut self, key: &TargetKey) {
        self.targets.remove(key);
    }

    /// Whether this complaint is news.
    pub(super) fn complain(&mut self, key: &TargetKey, why: &str) -> bool {
        let Some(dial) = self.targets.get_mut(key) else { return false };
        let is_news = dial.complaint.as_deref() != Some(why);
        dial.complaint = Some(why.to_owned());
        is_news
    }

    /// There is nothing to complain of any more.
    pub(super) fn praise(&mut self, key: &TargetKey) {
        if let Some(dial) = self.targets.get_mut(key) {
            dial.complaint = None;
        }
    }

    /// A link of a target ended after it was up for `up_ns`.
    pub(super) fn ended(&mut self, key: &TargetKey, link: LinkId, up_ns: Option<u64>, now_ns: u64) {
        let Some(dial) = self.targets.get_mut(key).filter(|dial| dial.link() == Some(link)) else { return };
        if up_ns.is_some_and(|up| up >= STABLE_NS) {
            dial.attempts = 0;
        }
        let delay = (FIRST_DELAY_NS << dial.attempts.min(10)).min(LAST_DELAY_NS);
        dial.attempts = dial.attempts.saturating_add(1);
        let until_ns = now_ns + delay / 2 + self.jitter.seed() % (delay / 2);
        dial.state = DialState::Waiting { until_ns };
    }

    /// Targets whose time has come.
    pub(super) fn due(&self, now_ns: u64) -> Vec<TargetKey> {
        let due = |dial: &Dial| matches!(dial.state, DialState::Waiting { until_ns } if until_ns <= now_ns);
        self.targets.iter().filter(|(_, dial)| due(dial)).map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.targets.values().filter_map(Dial::waits_until).min()
    }
}

impl Dial {
    fn link(&self) -> Option<LinkId> {
        match self.state {
            DialState::Linked(link) => Some(link),
            DialState::Waiting { .. } => None,
        }
    }

    fn waits_until(&self) -> Option<u64> {
        match self.state {
            DialState::Linked(_) => None,
            DialState::Waiting { until_ns } => Some(until_ns),
        }
    }
}

//! Topics: one that was made stays, one that was deleted is gone, until somebody asks otherwise.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;

/// What the node has said of a topic last, or what it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Asked, not answered: either may be.
    Open,
    There,
    Gone,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct TopicOracle {
    fates: BTreeMap<String, Fate>,
    /// A request that speaks of them may still arrive: nothing is known of them any more.
    doubtful: BTreeSet<String>,
}

/// What must be there and what must not, for whoever asks now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    fates: BTreeMap<String, Fate>,
}

impl TopicOracle {
    pub(crate) fn asked(&mut self, topic: &str) {
        self.fates.insert(topic.to_owned(), Fate::Open);
    }

    pub(crate) fn doubted(&mut self, topic: &str) {
        self.asked(topic);
        self.doubtful.insert(topic.to_owned());
    }

    pub(crate) fn made(&mut self, topic: &str) {
        self.settle(topic, Fate::There);
    }

    pub(crate) fn deleted(&mut self, topic: &str) {
        self.settle(topic, Fate::Gone);
    }

    fn settle(&mut self, topic: &str, fate: Fate) {
        if !self.doubtful.contains(topic) {
            self.fates.insert(topic.to_owned(), fate);
        }
    }

    /// Whether clients may count on it: it was made, and nobody wants it gone.
    pub(crate) fn is_there(&self, topic: &str) -> bool {
        self.fates.get(topic) == Some(&Fate::There)
    }

    pub(crate) fn expected(&self) -> Expected {
        Expected { fates: self.fates.clone() }
    }
}

impl Expected {
    /// A node lists these topics: each was asked for.
    pub(crate) fn judge_strangers(&self, listed: &[String]) -> Verdict {
        if let Some(stranger) = listed.iter().find(|name| !self.fates.contains_key(*name)) {
            return Err(format!("topic '{stranger}' is listed, and nobody made it"));
        }
        Ok(())
    }

    /// A node that knows all lists these topics.
    pub(crate) fn judge(&self, listed: &[String]) -> Verdict {
        self.judge_strangers(listed)?;
        for (name, fate) in &self.fates {
            match (fate, listed.contains(name)) {
                (Fate::There, false) => return Err(format!("topic '{name}' was made, acknowledged, and is gone")),
                (Fate::Gone, true) => return Err(format!("topic '{name}' was deleted, acknowledged, and is back")),
                (Fate::Open, _) | (Fate::There, true) | (Fate::Gone, false) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_is_seen() {
        let mut oracle = TopicOracle::default();
        oracle.asked("t");
        let either = oracle.expected();
        assert_eq!((either.judge(&[]), either.judge(&["t".into()])), (Ok(()), Ok(())));
        oracle.made("t");
        assert!(oracle.expected().judge(&[]).is_err());
        oracle.deleted("t");
        assert!(oracle.expected().judge(&["t".into()]).is_err());
        assert!(oracle.expected().judge(&["u".into()]).is_err());
        oracle.doubted("t");
        oracle.made("t");
        let either = oracle.expected();
        assert_eq!((either.judge(&[]), either.judge(&["t".into()])), (Ok(()), Ok(())));
    }
}

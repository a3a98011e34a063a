//! What is counted by topic. Applications choose topics, so the number of those with a name of their own is bounded: the rest are
//! counted together.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::fast::RandomState;

use super::Counter;
use crate::limits;

/// Name under which the topics beyond the bound are counted. No topic can have it.
pub const OTHERS: &str = "(others)";

/// Of one topic.
#[derive(Debug, Default)]
pub struct TopicCounts {
    /// Messages taken for publishing.
    pub published: Counter,
    /// Their bytes: keys, payloads, headers.
    pub bytes: Counter,
    /// Messages whose publishing failed.
    pub failed: Counter,
    /// Messages that had been published before, by message id.
    pub duplicates: Counter,
}

impl TopicCounts {
    /// A message was taken.
    pub(crate) fn took(&self, bytes: usize) {
        self.published.add(1);
        self.bytes.add(bytes as u64);
    }
}

/// Of all topics.
#[derive(Debug, Default)]
pub struct TopicStats {
    topics: RwLock<HashMap<Arc<str>, Arc<TopicCounts>, RandomState>>,
    others: Arc<TopicCounts>,
}

impl TopicStats {
    /// Where this topic is counted.
    pub fn of(&self, topic: &Arc<str>) -> Arc<TopicCounts> {
        if let Some(known) = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return known.clone();
        }
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics.len() >= limits::METRIC_TOPICS && !topics.contains_key(topic) {
            return self.others.clone();
        }
        topics.entry(topic.clone()).or_default().clone()
    }

    /// All that have been counted, by name.
    #[must_use]
    pub fn all(&self) -> Vec<(Arc<str>, Arc<TopicCounts>)> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = topics.iter().map(|(topic, counts)| (topic.clone(), counts.clone())).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        if self.others.published.get() + self.others.failed.get() > 0 {
            all.push((OTHERS.into(), self.others.clone()));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_bound_are_counted_together() {
        let stats = TopicStats::default();
        for number in 0..limits::METRIC_TOPICS + 5 {
            stats.of(&format!("t{number}").into()).published.add(1);
        }
        stats.of(&"t0".into()).published.add(1);
        let all = stats.all();
        assert_eq!(all.len(), limits::METRIC_TOPICS + 1);
        assert_eq!(stats.of(&"t0".into()).published.get(), 2, "who was first keeps its name");
        let (name, others) = all.last().expect("others");
        assert_eq!((&**name, others.published.get()), (OTHERS, 5));
    }
}

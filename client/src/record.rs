//! What goes in and what comes out: records, their places, their receipts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use wherry_wire::records::MESSAGE_ID_HEADER;

/// A header of a record: name and value (`None` is the protocol's null, distinct from empty).
pub type Header = (Arc<str>, Option<Bytes>);

/// A partition of a topic, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Index of the partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// A partition of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A record to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceRecord {
    /// Where to.
    pub topic: Arc<str>,
    /// Which partition; `None` lets the partitioner choose: by key as Kafka's clients do, or a sticky one without a key.
    pub partition: Option<i32>,
    /// Decides the partition and what compaction keeps.
    pub key: Option<Bytes>,
    /// The message; `None` is a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(String, Bytes)>,
    /// Milliseconds since the epoch; `None` is now.
    pub timestamp_ms: Option<i64>,
}

impl ProduceRecord {
    /// A record with a value and nothing else.
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
            timestamp_ms: None,
        }
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// To this partition, whatever the key says.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With this header, after those it has.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The application's id of the message: the first header of that name, if it is not empty.
    #[must_use]
    pub fn message_id(&self) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(name, _)| name == MESSAGE_ID_HEADER);
        found.map(|(_, id)| id.as_ref()).filter(|id| !id.is_empty())
    }

    /// With this time in milliseconds since the epoch.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }
}

/// What a group commits for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitOffset {
    /// Where.
    pub at: TopicPartition,
    /// Next offset to consume.
    pub offset: i64,
    /// Kept beside it and handed to whoever goes on from there; its meaning is the committer's. Brokers bound its length
    /// (`offset.metadata.max.bytes`).
    pub metadata: Arc<str>,
}

impl CommitOffset {
    /// An offset with nothing beside it.
    #[must_use]
    pub fn new(at: TopicPartition, offset: i64) -> Self {
        Self { at, offset, metadata: "".into() }
    }

    pub(crate) fn all(next: &[(TopicPartition, i64)]) -> Vec<Self> {
        next.iter().map(|(at, offset)| Self::new(at.clone(), *offset)).collect()
    }
}

/// The receipt of an acknowledged record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMetadata {
    /// Topic it went to.
    pub topic: Arc<str>,
    /// Partition it went to.
    pub partition: i32,
    /// Its offset; -1 where the broker does not say: `acks = None`, or a duplicate whose original offset it no longer knows.
    pub offset: i64,
    /// Milliseconds since the epoch: the record's, or the broker's where the topic uses append time.
    pub timestamp_ms: i64,
    /// A record with the same message id was there already: this one was not appended, and place and offset are those of the
    /// first one. Its time is not known here; `timestamp_ms` is what this record would have had.
    pub duplicate: bool,
}

/// What a topic does with message ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupeWindow {
    /// How long they are remembered at least.
    pub window: Duration,
    /// They are spread over the first so many partitions.
    pub partitions: i32,
}

/// A record as consumed. Key, value and header values share the memory of the batch they came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Topic it came from.
    pub topic: Arc<str>,
    /// Partition it came from.
    pub partition: i32,
    /// Its offset; commit `offset + 1` once it is processed.
    pub offset: i64,
    /// Epoch of the leader that appended it; -1 unknown.
    pub leader_epoch: i32,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Generation of the group under which it was handed out; -1 without a group. A commit of a later generation is refused for it.
    pub generation: i32,
    /// The key.
    pub key: Option<Bytes>,
    /// The message; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values, in order, repeats kept.
    pub headers: Vec<Header>,
}

impl ConsumedRecord {
    /// Bytes of key, value and headers: what it counts for against bounds.
    #[must_use]
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + length(value)).sum();
        length(&self.key) + length(&self.value) + headers
    }
}

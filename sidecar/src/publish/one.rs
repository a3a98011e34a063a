//! Publishing one message, or a batch whose messages stand or fall one by one.

use std::time::Instant;

use wherry_client::RecordMetadata;
use wherry_proto::v1::{self, DeliveryLevel, PublishResult, PublishStatus};

use super::outlet::{Answer, Offered};
use super::record::{self, TopicNames, TraceContext};
use crate::backend::Backend;
use crate::error::Failure;
use crate::shared::Shared;
use crate::spool::Published;

/// What the answer to a publish means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// The sidecar has it.
    AtMostOnce,
    /// It is durable.
    #[default]
    AtLeastOnce,
    /// It is durable, and there once, whoever published it before: by its id.
    EffectivelyOnce,
}

impl Level {
    /// As an application asks for it.
    ///
    /// # Errors
    /// `INVALID` for what is unknown.
    pub fn of(asked: i32) -> Result<Self, Failure> {
        match DeliveryLevel::try_from(asked) {
            Ok(DeliveryLevel::Unspecified | DeliveryLevel::AtLeastOnce) => Ok(Self::AtLeastOnce),
            Ok(DeliveryLevel::AtMostOnce) => Ok(Self::AtMostOnce),
            Ok(DeliveryLevel::EffectivelyOnce) => Ok(Self::EffectivelyOnce),
            Err(_) => Err(Failure::invalid(
                "INVALID",
                format!("delivery level {asked} is unknown to this sidecar; use one of DeliveryLevel"),
            )),
        }
    }
}

/// A message that was taken: its result is still to come.
#[derive(Debug)]
pub(crate) struct Publishing<R> {
    receipt: R,
    since: Instant,
}

/// Takes a message. Waits for space.
pub(crate) async fn take<B: Backend>(
    shared: &Shared<B>,
    message: v1::Message,
    topics: &mut TopicNames,
    trace: &TraceContext,
    level: Level,
) -> Result<Publishing<Answer<B::Receipt>>, Failure> {
    let taken = start(shared, message, topics, trace, level).await;
    if taken.is_err() {
        shared.stats.publish_failed.add(1);
    }
    taken
}

async fn start<B: Backend>(
    shared: &Shared<B>,
    message: v1::Message,
    topics: &mut TopicNames,
    trace: &TraceContext,
    level: Level,
) -> Result<Publishing<Answer<B::Receipt>>, Failure> {
    let size = record::size(&message);
    let topic = topics.get(&message.topic)?;
    let record = record::record(message, topic, size, shared.limits.message_bytes, trace)?;
    let since = Instant::now();
    let receipt = match shared.outlet.try_send(record, level)? {
        Offered::Now(answer) => answer,
        Offered::Later(parcel) => shared.outlet.send(parcel, level).await?,
    };
    shared.stats.published.add(1);
    shared.stats.published_bytes.add(size as u64);
    Ok(Publishing { receipt, since })
}

/// Waits for the result of a message, as far as `level` asks.
pub(crate) async fn finish<B: Backend>(
    shared: &Shared<B>,
    publishing: Publishing<Answer<B::Receipt>>,
    level: Level,
) -> Result<PublishResult, Failure> {
    match level {
        Level::AtMostOnce => Ok(accepted()),
        Level::AtLeastOnce | Level::EffectivelyOnce => {
            let outcome = publishing.receipt.await;
            shared.stats.publish_latency.observe(publishing.since.elapsed(), 1);
            outcome.map(|published| result(&published)).inspect_err(|_| shared.stats.publish_failed.add(1))
        }
    }
}

/// The result of a durable message.
pub(crate) fn result(published: &Published) -> PublishResult {
    let topic = match published {
        Published::Committed(metadata) => metadata.topic.as_ref().into(),
        // Whoever asked knows.
        Published::Spooled => String::new(),
    };
    PublishResult { topic, ..result_on_stream(published) }
}

/// The same without the topic, which the application knows.
pub(crate) fn result_on_stream(published: &Published) -> PublishResult {
    match published {
        Published::Committed(metadata) => place(metadata),
        Published::Spooled => {
            PublishResult { offset: -1, status: PublishStatus::Spooled.into(), ..PublishResult::default() }
        }
    }
}

/// The result of a record that the cluster has.
pub(crate) fn committed(metadata: &RecordMetadata) -> PublishResult {
    PublishResult { topic: metadata.topic.as_ref().into(), ..place(metadata) }
}

fn place(metadata: &RecordMetadata) -> PublishResult {
    PublishResult {
        topic: String::new(),
        partition: metadata.partition,
        offset: metadata.offset,
        timestamp: Some(record::timestamp(metadata.timestamp_ms)),
        status: PublishStatus::Committed.into(),
        duplicate: metadata.duplicate,
    }
}

/// The result of a message that nobody waits for.
pub(crate) fn accepted() -> PublishResult {
    PublishResult { offset: -1, status: PublishStatus::Accepted.into(), ..PublishResult::default() }
}

//! Where a reply goes: three headers of its request, of which the reply repeats the last.

use std::sync::Arc;

use bytes::Bytes;
use tonic::Code;
use wherry_client::{ConsumedRecord, ProduceRecord};

use super::may_reply_to;
use crate::error::Failure;
use crate::publish::record::check_topic;

/// Header with the topic for the reply.
pub(crate) const REPLY_TOPIC_HEADER: &str = "wherry-reply-topic";
/// Header with the partition for the reply, in decimal digits.
pub(crate) const REPLY_PARTITION: &str = "wherry-reply-partition";
/// Header with what names the request to its sidecar.
pub(crate) const CORRELATION_ID: &str = "wherry-correlation-id";

/// Where a reply goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) correlation: Bytes,
}

impl Address {
    /// Adds it to a request.
    pub(crate) fn write(&self, request: &mut ProduceRecord) {
        request.headers.push((REPLY_TOPIC_HEADER.to_owned(), Bytes::copy_from_slice(self.topic.as_bytes())));
        request.headers.push((REPLY_PARTITION.to_owned(), self.partition.to_string().into()));
        request.headers.push((CORRELATION_ID.to_owned(), self.correlation.clone()));
    }

    /// Takes it from a request; `None` for what is not one.
    pub(crate) fn read(request: &ConsumedRecord) -> Option<Self> {
        let text = |name| std::str::from_utf8(header(request, name)?).ok();
        let topic = text(REPLY_TOPIC_HEADER)?;
        let partition = text(REPLY_PARTITION)?.parse().ok().filter(|partition| *partition >= 0)?;
        let correlation = Bytes::copy_from_slice(header(request, CORRELATION_ID)?);
        Some(Self { topic: topic.into(), partition, correlation })
    }

    /// Refuses topics that are not for replies.
    pub(super) fn check(&self, ours: &Arc<str>) -> Result<(), Failure> {
        if check_topic(&self.topic).is_ok() && may_reply_to(&self.topic, ours) {
            return Ok(());
        }
        let shown: String = self.topic.chars().take(64).collect();
        Err(Failure::lasting(
            Code::FailedPrecondition,
            "NOT_A_REPLY_TOPIC",
            format!(
                "the request wants its reply in {shown:?}, which is not for replies: only {ours} and topics that begin with wherry.replies are; have the requester use one of these"
            ),
        ))
    }

    /// Makes a record the reply to this.
    pub(super) fn answer(&self, reply: &mut ProduceRecord) {
        reply.partition = Some(self.partition);
        reply.headers.push((CORRELATION_ID.to_owned(), self.correlation.clone()));
    }
}

/// The last header of this name.
pub(super) fn header<'a>(record: &'a ConsumedRecord, name: &str) -> Option<&'a [u8]> {
    record.headers.iter().rev().find(|(found, _)| &**found == name)?.1.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumed(record: ProduceRecord) -> ConsumedRecord {
        ConsumedRecord {
            topic: record.topic,
            partition: 0,
            offset: 0,
            leader_epoch: 0,
            timestamp_ms: 0,
            generation: -1,
            key: None,
            value: record.value,
            headers: record.headers.into_iter().map(|(name, value)| (name.into(), Some(value))).collect(),
        }
    }

    #[test]
    fn comes_back_as_it_went() {
        let address = Address { topic: "wherry.replies".into(), partition: 7, correlation: Bytes::from_static(b"a-1") };
        let mut request = ProduceRecord::new("orders", "x");
        address.write(&mut request);
        assert_eq!(Address::read(&consumed(request)), Some(address));
    }

    #[test]
    fn what_is_no_request_has_no_address() {
        let with = |headers: &[(&str, &'static str)]| {
            let record = ProduceRecord::new("orders", "x");
            let add = |record: ProduceRecord, (name, value): &(&str, &'static str)| record.header(*name, *value);
            Address::read(&consumed(headers.iter().fold(record, add)))
        };
        let (topic, partition, id) = ((REPLY_TOPIC_HEADER, "t"), (REPLY_PARTITION, "1"), (CORRELATION_ID, "c"));
        assert!(with(&[topic, partition, id]).is_some());
        for wrong in [&[][..], &[topic, partition], &[topic, id], &[partition, id]] {
            assert_eq!(with(wrong), None);
        }
        assert_eq!(with(&[topic, (REPLY_PARTITION, "-1"), id]), None);
        assert_eq!(with(&[topic, (REPLY_PARTITION, "x"), id]), None);
    }

    #[test]
    fn replies_go_to_reply_topics_only() {
        let to = |topic: &str| Address { topic: topic.into(), partition: 0, correlation: Bytes::new() };
        let ours: Arc<str> = "answers".into();
        for good in ["answers", "wherry.replies", "wherry.replies.shop"] {
            assert_eq!(to(good).check(&ours), Ok(()));
        }
        for bad in ["payments", "__consumer_offsets", "", "wherry.replies/..", "answers2"] {
            assert_eq!(to(bad).check(&ours).expect_err(bad).reason, "NOT_A_REPLY_TOPIC");
        }
    }
}

//! What a broker's answer to a produce request means for each batch in it. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::ProduceResponse;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use wherry_wire::codec::dedupe;

use super::lane::Answer;
use crate::cluster::codes::{self, Advice};
use crate::net::NetError;
use crate::record::TopicPartition;

/// What one partition's answer means; and whether its leader should be looked up again.
pub(super) fn of_partition(place: &TopicPartition, answer: &PartitionProduceResponse) -> (Answer, bool) {
    let Some(error) = codes::error(answer.error_code) else {
        let (base_offset, append_time_ms) = (answer.base_offset, answer.log_append_time_ms);
        return (Answer::Acknowledged { base_offset, append_time_ms }, false);
    };
    let duplicates = dedupe::read_duplicates(&answer.unknown_tagged_fields);
    match error {
        ResponseError::InvalidRecord if !duplicates.is_empty() => (Answer::Duplicates(duplicates), false),
        // It has the batch, but no longer knows where.
        ResponseError::DuplicateSequenceNumber => (Answer::Acknowledged { base_offset: -1, append_time_ms: -1 }, false),
        ResponseError::OutOfOrderSequenceNumber | ResponseError::UnknownProducerId => (Answer::OutOfSequence, false),
        ResponseError::InvalidProducerEpoch
        | ResponseError::ProducerFenced
        | ResponseError::InvalidProducerIdMapping => (Answer::IdentityLost, false),
        ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge => {
            let what = format!("produce to {place}");
            (Answer::TooLarge(codes::rejected(&what, error, answer.error_message.as_deref())), false)
        }
        other => by_advice(place, other, answer.error_message.as_deref()),
    }
}

fn by_advice(place: &TopicPartition, error: ResponseError, message: Option<&str>) -> (Answer, bool) {
    let cause = || -> Arc<str> { codes::describe(error, message).into() };
    match codes::advice(error) {
        Advice::Again => (Answer::Retry { cause: cause(), maybe_written: false }, false),
        Advice::Elsewhere => (Answer::Retry { cause: cause(), maybe_written: false }, true),
        Advice::Unknown => (Answer::Retry { cause: cause(), maybe_written: true }, false),
        Advice::Fail => (Answer::Refused(codes::rejected(&format!("produce to {place}"), error, message)), false),
    }
}

/// What it means that no answer came.
pub(super) fn of_failure(error: &NetError) -> Answer {
    match error {
        NetError::NotSent(cause) => Answer::Retry { cause: cause.clone(), maybe_written: false },
        NetError::Lost(cause) | NetError::Malformed(cause) => {
            Answer::Retry { cause: cause.clone(), maybe_written: true }
        }
        NetError::Unsupported { what, broker } => {
            let (what, broker) = ((*what).into(), broker.clone());
            Answer::Refused(crate::error::ClientError::Unsupported { what, broker })
        }
    }
}

/// The answers by topic and partition.
pub(super) fn index(answer: &ProduceResponse) -> HashMap<(&str, i32), &PartitionProduceResponse> {
    let topics = answer.responses.iter();
    topics.flat_map(|t| t.partition_responses.iter().map(|p| ((t.name.as_str(), p.index), p))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i16) -> (Answer, bool) {
        of_partition(
            &TopicPartition::new("t", 0),
            &PartitionProduceResponse::default().with_error_code(code).with_base_offset(7),
        )
    }

    #[test]
    fn codes_are_decided() {
        assert!(matches!(answer(0), (Answer::Acknowledged { base_offset: 7, .. }, false)));
        assert!(matches!(answer(46), (Answer::Acknowledged { base_offset: -1, .. }, false)));
        assert!(matches!(answer(45), (Answer::OutOfSequence, false)));
        assert!(matches!(answer(59), (Answer::OutOfSequence, false)));
        assert!(matches!(answer(47), (Answer::IdentityLost, false)));
        assert!(matches!(answer(6), (Answer::Retry { maybe_written: false, .. }, true)));
        assert!(matches!(answer(7), (Answer::Retry { maybe_written: true, .. }, false)));
        assert!(matches!(answer(19), (Answer::Retry { maybe_written: false, .. }, false)));
        assert!(matches!(answer(20), (Answer::Retry { maybe_written: true, .. }, false)));
        assert!(matches!(answer(10), (Answer::TooLarge(_), false)));
        assert!(matches!(answer(87), (Answer::Refused(_), false)));
    }
}

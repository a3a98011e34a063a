//! From a record to what an application receives.

use wherry_client::ConsumedRecord;
use wherry_proto::v1;

use super::ack_id::AckId;
use super::group::Outgoing;
use crate::publish::record::{CONTENT_TYPE, MESSAGE_ID, timestamp};

/// What an application receives for these.
pub(crate) fn received(messages: Vec<Outgoing>) -> Vec<v1::ReceivedMessage> {
    let ids: Vec<AckId> = messages.iter().map(|message| message.id).collect();
    AckId::encode_all(ids.into_iter())
        .zip(messages)
        .map(|(ack_id, Outgoing { id, record })| v1::ReceivedMessage {
            ack_id,
            offset: record.offset,
            timestamp: Some(timestamp(record.timestamp_ms)),
            attempt: id.attempt,
            message: Some(message(record)),
        })
        .collect()
}

/// What an application receives for these where there is nothing to acknowledge.
pub(crate) fn plain(records: Vec<ConsumedRecord>) -> Vec<v1::ReceivedMessage> {
    let received = |record: ConsumedRecord| v1::ReceivedMessage {
        ack_id: bytes::Bytes::new(),
        offset: record.offset,
        timestamp: Some(timestamp(record.timestamp_ms)),
        attempt: 1,
        message: Some(message(record)),
    };
    records.into_iter().map(received).collect()
}

/// The message of a record.
pub(crate) fn message(record: ConsumedRecord) -> v1::Message {
    let mut message = v1::Message {
        topic: record.topic.as_ref().into(),
        key: record.key,
        event_time: Some(timestamp(record.timestamp_ms)),
        partition: Some(record.partition),
        tombstone: record.value.is_none(),
        payload: record.value.unwrap_or_default(),
        ..v1::Message::default()
    };
    for (name, value) in record.headers {
        let value = value.unwrap_or_default();
        let field = match &*name {
            CONTENT_TYPE => &mut message.content_type,
            MESSAGE_ID => &mut message.message_id,
            _ => {
                message.headers.push(v1::Header { name: name.as_ref().into(), value });
                continue;
            }
        };
        match String::from_utf8(value.into()) {
            Ok(text) => *field = text,
            // Not ours: whoever wrote it meant something else by this name.
            Err(bytes) => {
                message.headers.push(v1::Header { name: name.as_ref().into(), value: bytes.into_bytes().into() });
            }
        }
    }
    message
}

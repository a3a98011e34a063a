//! From an application's message to a record: what is checked, and where each field goes.
//!
//! Content type and message id travel as headers `content-type` (as in the CloudEvents binding for Kafka) and `wherry-message-id`; a
//! trace context given with the call as `traceparent` (W3C), unless the message has one.

use std::sync::Arc;

use bytes::Bytes;
use tonic::Code;
use wherry_client::ProduceRecord;
use wherry_proto::v1;

use crate::error::Failure;
use crate::limits;

/// Header of the media type of the payload.
pub const CONTENT_TYPE: &str = "content-type";
/// Header of the application's id of the message.
pub use wherry_client::MESSAGE_ID_HEADER as MESSAGE_ID;
/// Header of the trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Header of what tracing systems add to it.
pub const TRACESTATE: &str = "tracestate";
/// Names that only the sidecar may use.
const RESERVED: &str = "wherry-";

/// Trace context that came with a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// Value of `traceparent`; empty if there was none.
    pub parent: Bytes,
    /// Value of `tracestate`; empty if there was none.
    pub state: Bytes,
}

impl TraceContext {
    /// Takes it from the headers of a request (or the metadata of a gRPC call). What is not a trace context is ignored, as the W3C
    /// says.
    #[must_use]
    pub fn of(headers: &axum::http::HeaderMap) -> Self {
        let value = |name| headers.get(name).map(axum::http::HeaderValue::as_bytes).unwrap_or_default();
        let parent = value(TRACEPARENT);
        if !is_traceparent(parent) {
            return Self::default();
        }
        let state = value(TRACESTATE);
        let state = if state.len() <= limits::TEXT_BYTES { state } else { &[] };
        Self { parent: Bytes::copy_from_slice(parent), state: Bytes::copy_from_slice(state) }
    }
}

/// `version-traceid-parentid-flags`, in lower-case hexadecimal.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    value.len() == 55
        && [2, 35, 52].iter().all(|dash| value[*dash] == b'-')
        && [0..2, 3..35, 36..52, 53..55].into_iter().all(|part| hex(&value[part]))
}

/// Topic names that one caller has used, so that a name is checked and allocated once.
#[derive(Debug, Default)]
pub struct TopicNames {
    known: Vec<Arc<str>>,
}

impl TopicNames {
    /// The shared name, checked.
    ///
    /// # Errors
    /// `INVALID_TOPIC`.
    pub fn get(&mut self, name: &str) -> Result<Arc<str>, Failure> {
        if let Some(at) = self.known.iter().position(|known| &**known == name) {
            return Ok(self.known[at].clone());
        }
        check_topic(name)?;
        if self.known.len() == limits::STREAM_TOPICS {
            self.known.clear();
        }
        let shared: Arc<str> = name.into();
        self.known.push(shared.clone());
        Ok(shared)
    }
}

/// Refuses names that no topic can have.
///
/// # Errors
/// `INVALID_TOPIC`.
pub fn check_topic(name: &str) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() {
        return Err(Failure::invalid("INVALID_TOPIC", "the message names no topic; set `topic`, or a default topic"));
    }
    if name.len() > limits::TOPIC_NAME_BYTES || !name.bytes().all(plain) || name == "." || name == ".." {
        let shown: String = name.chars().take(64).collect();
        return Err(Failure::invalid(
            "INVALID_TOPIC",
            format!(
                "{shown:?} can't be a topic: use 1 to 249 letters, digits, '.', '_' and '-', and not just '.' or '..'"
            ),
        ));
    }
    Ok(())
}

/// Bytes of a message that count against bounds: key, payload, headers.
#[must_use]
pub fn size(message: &v1::Message) -> usize {
    let headers: usize = message.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    let key = message.key.as_ref().map_or(0, Bytes::len);
    key + message.payload.len() + headers + message.content_type.len() + message.message_id.len()
}

/// The record for a message of this size, to this topic.
///
/// # Errors
/// `MESSAGE_TOO_LARGE`, `INVALID_MESSAGE`.
pub fn record(
    message: v1::Message,
    topic: Arc<str>,
    size: usize,
    limit: usize,
    trace: &TraceContext,
) -> Result<ProduceRecord, Failure> {
    check(&message, size, limit)?;
    let timestamp_ms = message.event_time.map(|time| millis(&time)).transpose()?;
    let value = if message.tombstone { None } else { Some(message.payload) };
    let mut headers: Vec<(String, Bytes)> =
        message.headers.into_iter().map(|header| (header.name, header.value)).collect();
    if !message.content_type.is_empty() {
        headers.push((CONTENT_TYPE.to_owned(), message.content_type.into()));
    }
    if !message.message_id.is_empty() {
        headers.push((MESSAGE_ID.to_owned(), message.message_id.into()));
    }
    add_trace(&mut headers, trace);
    Ok(ProduceRecord { topic, partition: message.partition, key: message.key, value, headers, timestamp_ms })
}

fn add_trace(headers: &mut Vec<(String, Bytes)>, trace: &TraceContext) {
    if trace.parent.is_empty() || headers.iter().any(|(name, _)| name == TRACEPARENT) {
        return;
    }
    headers.push((TRACEPARENT.to_owned(), trace.parent.clone()));
    if !trace.state.is_empty() {
        headers.push((TRACESTATE.to_owned(), trace.state.clone()));
    }
}

fn check(message: &v1::Message, size: usize, limit: usize) -> Result<(), Failure> {
    let invalid = |what: &'static str| Err(Failure::invalid("INVALID_MESSAGE", what));
    if size > limit {
        return Err(Failure::lasting(
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
            format!(
                "the message has {size} bytes, more than limits.message_bytes = {limit}: send less, or raise the limit of sidecar and topic"
            ),
        ));
    }
    if message.tombstone && !message.payload.is_empty() {
        return invalid("a tombstone has no payload: leave out `payload`, or `tombstone`");
    }
    if message.tombstone && message.key.is_none() {
        return invalid("a tombstone needs a key: set `key` to that of the messages to remove");
    }
    if message.partition.is_some_and(|partition| partition < 0) {
        return invalid("`partition` is negative: leave it out to let the sidecar choose");
    }
    if message.headers.len() > limits::HEADERS {
        return invalid("more than 256 headers: put the data into the payload");
    }
    if message.content_type.len() > limits::TEXT_BYTES || message.message_id.len() > limits::TEXT_BYTES {
        return invalid("`content_type` or `message_id` is longer than 1024 bytes: shorten it");
    }
    for header in &message.headers {
        if header.name.is_empty() || header.name.len() > limits::TEXT_BYTES {
            return invalid("a header's name is empty or longer than 1024 bytes: correct it");
        }
        if header.name.starts_with(RESERVED) {
            return invalid(
                "a header's name begins with `wherry-`, which is reserved: choose another; for a message id set `message_id`",
            );
        }
    }
    Ok(())
}

/// Milliseconds since the epoch.
pub(crate) fn millis(time: &prost_types::Timestamp) -> Result<i64, Failure> {
    let within =
        time.seconds.checked_mul(1000).filter(|_| (0..1_000_000_000).contains(&time.nanos) && time.seconds >= 0);
    match within {
        Some(ms) => Ok(ms + i64::from(time.nanos / 1_000_000)),
        None => Err(Failure::invalid(
            "INVALID_MESSAGE",
            "a time is before 1970 or not valid: correct it (`event_time`, or what was asked for)",
        )),
    }
}

/// Milliseconds since the epoch, as applications get them.
#[must_use]
pub fn timestamp(ms: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1000)).unwrap_or_default() * 1_000_000;
    prost_types::Timestamp { seconds: ms.div_euclid(1000), nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> v1::Message {
        v1::Message { topic: "orders".into(), payload: Bytes::from_static(b"x"), ..v1::Message::default() }
    }

    fn made(message: v1::Message) -> Result<ProduceRecord, Failure> {
        let size = size(&message);
        let topic = TopicNames::default().get(&message.topic)?;
        record(message, topic, size, 1000, &TraceContext::default())
    }

    #[test]
    fn fields_go_where_consumers_look_for_them() {
        let record = made(v1::Message {
            key: Some(Bytes::new()),
            headers: vec![v1::Header { name: "a".into(), value: Bytes::from_static(b"1") }; 2],
            content_type: "text/plain".into(),
            message_id: "m-1".into(),
            event_time: Some(prost_types::Timestamp { seconds: 2, nanos: 3_999_999 }),
            partition: Some(4),
            ..message()
        })
        .expect("valid");
        let names: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "a", CONTENT_TYPE, MESSAGE_ID]);
        assert_eq!((record.key, record.partition, record.timestamp_ms), (Some(Bytes::new()), Some(4), Some(2003)));
        assert_eq!(record.value, Some(Bytes::from_static(b"x")));
    }

    #[test]
    fn an_empty_payload_is_not_a_tombstone() {
        let empty = made(v1::Message { payload: Bytes::new(), ..message() }).expect("valid");
        assert_eq!(empty.value, Some(Bytes::new()));
        let key = Some(Bytes::from_static(b"k"));
        let gone = made(v1::Message { payload: Bytes::new(), tombstone: true, key, ..message() }).expect("valid");
        assert_eq!(gone.value, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |message: v1::Message, reason: &str| {
            let failure = made(message).expect_err(reason);
            assert_eq!(failure.reason, reason, "{failure}");
        };
        refused(v1::Message { topic: String::new(), ..message() }, "INVALID_TOPIC");
        refused(v1::Message { topic: "..".into(), ..message() }, "INVALID_TOPIC");
        refused(v1::Message { topic: "a/b".into(), ..message() }, "INVALID_TOPIC");
        refused(v1::Message { topic: "x".repeat(250), ..message() }, "INVALID_TOPIC");
        refused(v1::Message { payload: vec![0; 1001].into(), ..message() }, "MESSAGE_TOO_LARGE");
        refused(v1::Message { tombstone: true, ..message() }, "INVALID_MESSAGE");
        refused(v1::Message { partition: Some(-1), ..message() }, "INVALID_MESSAGE");
        let header = |name: &str| v1::Header { name: name.into(), value: Bytes::new() };
        refused(v1::Message { headers: vec![header("")], ..message() }, "INVALID_MESSAGE");
        refused(v1::Message { headers: vec![header("wherry-x")], ..message() }, "INVALID_MESSAGE");
        refused(v1::Message { headers: vec![header("a"); 257], ..message() }, "INVALID_MESSAGE");
        let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        refused(v1::Message { event_time: time(-1, 0), ..message() }, "INVALID_MESSAGE");
        refused(v1::Message { event_time: time(i64::MAX, 0), ..message() }, "INVALID_MESSAGE");
        refused(v1::Message { event_time: time(0, -1), ..message() }, "INVALID_MESSAGE");
    }

    #[test]
    fn a_trace_context_is_added_unless_the_message_has_one() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = axum::http::HeaderMap::new();
        headers.insert(TRACEPARENT, valid.parse().expect("value"));
        let trace = TraceContext::of(&headers);
        assert_eq!(trace.parent, valid);
        let with = record(message(), "orders".into(), 1, 10, &trace).expect("valid");
        assert_eq!(with.headers, [(TRACEPARENT.to_owned(), Bytes::from_static(valid.as_bytes()))]);
        let own = v1::Header { name: TRACEPARENT.into(), value: Bytes::from_static(b"own") };
        let kept =
            record(v1::Message { headers: vec![own], ..message() }, "orders".into(), 1, 10, &trace).expect("valid");
        assert_eq!(kept.headers, [(TRACEPARENT.to_owned(), Bytes::from_static(b"own"))]);
        for wrong in ["", "00-x", &valid.replace('a', "A"), &valid.replace('-', "+")] {
            headers.insert(TRACEPARENT, wrong.parse().expect("value"));
            assert_eq!(TraceContext::of(&headers), TraceContext::default(), "{wrong}");
        }
    }

    #[test]
    fn names_are_kept_bounded() {
        let mut names = TopicNames::default();
        for number in 0..1000 {
            names.get(&format!("t{number}")).expect("valid");
            assert!(names.known.len() <= limits::STREAM_TOPICS);
        }
        assert!(Arc::ptr_eq(&names.get("t999").expect("valid"), &names.get("t999").expect("valid")));
    }
}

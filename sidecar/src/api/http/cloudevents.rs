//! CloudEvents 1.0 over HTTP, mapped to messages as its binding for Kafka has it.
//!
//! | CloudEvent | message |
//! |---|---|
//! | every attribute `x` | header `ce_x` |
//! | `datacontenttype` | content type |
//! | `id` | message id as well |
//! | `time` | event time as well |
//! | `partitionkey` (extension) | key as well |
//! | data | payload |
//!
//! Published in binary mode (headers `ce-*`) and structured mode (`application/cloudevents+json`, or a batch of these); pulled in
//! structured mode, as a batch, in which the extension `wherryackid` is what is to be acknowledged.

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use wherry_proto::v1;

use super::json::{ack_id, is_json, time};
use crate::error::Failure;
use crate::limits;

/// One event.
const STRUCTURED: &str = "application/cloudevents+json";
/// Several events.
pub(super) const BATCH: &str = "application/cloudevents-batch+json";
/// Begins the names of HTTP headers that are attributes.
const HTTP_PREFIX: &str = "ce-";
/// Begins the names of message headers that are attributes.
const KAFKA_PREFIX: &str = "ce_";
/// Attributes that every event has.
const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];
/// The version of the specification.
const VERSION: &str = "1.0";

/// How a request's body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is no event.
    None,
    /// Its data; the attributes are headers.
    Binary,
    /// An event.
    Structured,
    /// An array of events.
    Batch,
}

/// What a request carries.
pub(super) fn kind(headers: &HeaderMap) -> Kind {
    match media_type(headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()) {
        STRUCTURED => Kind::Structured,
        BATCH => Kind::Batch,
        _ if headers.contains_key("ce-specversion") => Kind::Binary,
        _ => Kind::None,
    }
}

/// Whether whoever asks wants events.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|one| matches!(media_type(one), STRUCTURED | BATCH))
}

fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

fn invalid(what: impl Into<String>) -> Failure {
    Failure::invalid("INVALID_CLOUDEVENT", format!("{}; see the CloudEvents specification 1.0", what.into()))
}

/// Makes a message an event whose attributes are in the headers of its request.
pub(super) fn binary(mut message: v1::Message, headers: &HeaderMap) -> Result<v1::Message, Failure> {
    let mut attributes = Vec::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(HTTP_PREFIX) {
            let value = percent_decoded(value.as_bytes()).ok_or_else(|| invalid(format!("ce-{name} is not UTF-8")))?;
            attributes.push((name.to_owned(), value));
        }
    }
    mapped(&mut message, attributes)?;
    Ok(message)
}

/// Values of attributes may have bytes as `%XX` (HTTP binding, 3.1.3.2).
fn percent_decoded(value: &[u8]) -> Option<String> {
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut decoded, mut rest) = (Vec::with_capacity(value.len()), value);
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                decoded.push(hex(*high)? << 4 | hex(*low)?);
                rest = after;
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// The message of an event in JSON, to this topic.
pub(super) fn structured(event: &RawValue, topic: &str) -> Result<v1::Message, Failure> {
    let fields: Map<String, Value> = serde_json::from_str(event.get())
        .map_err(|error| invalid(format!("the event is not a JSON object: {error}")))?;
    let mut message = v1::Message { topic: topic.to_owned(), ..v1::Message::default() };
    let mut attributes = Vec::new();
    let (mut data, mut binary) = (false, None);
    for (name, value) in fields {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("data", _) => data = true,
            ("data_base64", Value::String(text)) => binary = Some(text),
            ("datacontenttype", Value::String(text)) => message.content_type = text,
            (_, Value::String(text)) => attributes.push((name, text)),
            (_, value @ (Value::Bool(_) | Value::Number(_))) => attributes.push((name, value.to_string())),
            (_, Value::Array(_) | Value::Object(_)) => {
                return Err(invalid(format!("the attribute {name} is not a string, a number or a boolean")));
            }
        }
    }
    match (data, binary) {
        (true, Some(_)) => return Err(invalid("`data` and `data_base64` are both there")),
        (true, None) => message.payload = payload(event, &mut message.content_type)?,
        (false, Some(text)) => {
            let bytes =
                STANDARD.decode(text).map_err(|error| invalid(format!("`data_base64` is not base64: {error}")))?;
            message.payload = bytes.into();
        }
        (false, None) => {}
    }
    mapped(&mut message, attributes)?;
    Ok(message)
}

#[derive(serde::Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The bytes of `data`: JSON as it stands there, or the text of a string where the content is not JSON.
fn payload(event: &RawValue, content_type: &mut String) -> Result<Bytes, Failure> {
    let Data { data } = serde_json::from_str(event.get()).map_err(|error| invalid(error.to_string()))?;
    if content_type.is_empty() {
        "application/json".clone_into(content_type);
    }
    if !is_json(content_type)
        && let Ok(text) = serde_json::from_str::<String>(data.get())
    {
        return Ok(text.into());
    }
    Ok(Bytes::copy_from_slice(data.get().as_bytes()))
}

/// Puts attributes where they belong in a message.
fn mapped(message: &mut v1::Message, attributes: Vec<(String, String)>) -> Result<(), Failure> {
    for required in REQUIRED {
        if !attributes.iter().any(|(name, value)| name == required && !value.is_empty()) {
            return Err(invalid(format!("the attribute {required} is missing or empty")));
        }
    }
    for (name, value) in attributes {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            return Err(invalid(format!("{name:?} can't be an attribute: use lower-case letters and digits")));
        }
        match name.as_str() {
            "specversion" if value != VERSION => {
                return Err(invalid(format!("specversion is {value:?}, not {VERSION}")));
            }
            "id" if value.len() > limits::TEXT_BYTES => return Err(invalid("the id is longer than 1024 bytes")),
            "id" if message.message_id.is_empty() => message.message_id.clone_from(&value),
            "time" => {
                let time: jiff::Timestamp =
                    value.parse().map_err(|error| invalid(format!("time is {value:?}: {error}")))?;
                let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
                message.event_time = Some(prost_types::Timestamp { seconds, nanos });
            }
            "partitionkey" if message.key.is_none() => message.key = Some(Bytes::copy_from_slice(value.as_bytes())),
            _ => {}
        }
        message.headers.push(v1::Header { name: format!("{KAFKA_PREFIX}{name}"), value: value.into() });
    }
    Ok(())
}

/// A message that was pulled, as an event. One that is none is wrapped in one.
pub(super) fn event(received: v1::ReceivedMessage) -> Value {
    let message = received.message.unwrap_or_default();
    let place = format!("{}/{}/{}", message.topic, message.partition.unwrap_or_default(), received.offset);
    let mut event = if media_type(&message.content_type) == STRUCTURED {
        serde_json::from_slice::<Map<String, Value>>(&message.payload).unwrap_or_default()
    } else {
        Map::new()
    };
    if event.is_empty() {
        for header in &message.headers {
            let name = match header.name.as_str() {
                name @ ("traceparent" | "tracestate") => name,
                name => name.strip_prefix(KAFKA_PREFIX).unwrap_or_default(),
            };
            if let (false, Ok(value)) = (name.is_empty(), std::str::from_utf8(&header.value)) {
                event.insert(name.to_owned(), value.into());
            }
        }
        data(&mut event, &message);
    }
    let mut or = |name: &str, value: Option<String>| {
        if let (false, Some(value)) = (event.contains_key(name), value) {
            event.insert(name.to_owned(), value.into());
        }
    };
    or("specversion", Some(VERSION.to_owned()));
    or("id", Some(if message.message_id.is_empty() { place } else { message.message_id }));
    or("source", Some(format!("/topics/{}", message.topic)));
    or("type", Some("wherry.message".to_owned()));
    or("time", received.timestamp.and_then(time));
    or("partitionkey", message.key.and_then(|key| String::from_utf8(key.into()).ok()));
    event.insert("wherryackid".to_owned(), ack_id(&received.ack_id).into());
    Value::Object(event)
}

fn data(event: &mut Map<String, Value>, message: &v1::Message) {
    if message.tombstone {
        return;
    }
    if !message.content_type.is_empty() {
        event.insert("datacontenttype".to_owned(), message.content_type.as_str().into());
    }
    let json = if is_json(&message.content_type) { serde_json::from_slice(&message.payload).ok() } else { None };
    let text = if is_json(&message.content_type) { None } else { std::str::from_utf8(&message.payload).ok() };
    match (json, text) {
        (Some(json), _) => event.insert("data".to_owned(), json),
        (None, Some(text)) => event.insert("data".to_owned(), text.into()),
        (None, None) => event.insert("data_base64".to_owned(), STANDARD.encode(&message.payload).into()),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(event: &Value) -> Result<v1::Message, Failure> {
        structured(&serde_json::value::to_raw_value(event).expect("json"), "orders")
    }

    fn minimal() -> Value {
        json!({"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.placed"})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut event = minimal();
        event[name] = value;
        event
    }

    fn received(message: v1::Message) -> v1::ReceivedMessage {
        let message = v1::Message { partition: Some(1), ..message };
        v1::ReceivedMessage { ack_id: "id".into(), offset: 5, message: Some(message), ..v1::ReceivedMessage::default() }
    }

    #[test]
    fn attributes_go_where_the_binding_says() {
        let mut full = with("data", json!({"n": 1.50}));
        full["time"] = json!("2026-01-02T03:04:05.678Z");
        full["partitionkey"] = json!("customer-1");
        full["count"] = json!(3);
        let message = read(&full).expect("valid");
        assert_eq!((message.topic.as_str(), message.message_id.as_str()), ("orders", "7"));
        assert_eq!(message.key.as_deref(), Some(b"customer-1".as_slice()));
        assert_eq!(message.event_time.expect("a time").nanos, 678_000_000);
        assert_eq!(
            (message.content_type.as_str(), &*message.payload),
            ("application/json", br#"{"n":1.5}"#.as_slice())
        );
        let header = |name: &str| message.headers.iter().find(|header| header.name == name).map(|h| h.value.clone());
        for (name, value) in [("ce_id", "7"), ("ce_source", "/shop"), ("ce_type", "order.placed"), ("ce_count", "3")] {
            assert_eq!(header(name).as_deref(), Some(value.as_bytes()), "{name}");
        }
        let back = event(received(message));
        assert_eq!((&back["id"], &back["count"], &back["data"]), (&json!("7"), &json!("3"), &json!({"n": 1.5})));
        assert_eq!((&back["time"], &back["wherryackid"]), (&json!("2026-01-02T03:04:05.678Z"), &json!("aWQ")));
    }

    #[test]
    fn data_of_every_kind_comes_back() {
        for (name, value, content_type) in [
            ("data", json!("text"), "text/plain"),
            ("data", json!([1, null]), "application/vnd.x+json"),
            ("data", json!("a JSON string"), "application/json"),
            ("data_base64", json!("/wA="), "application/octet-stream"),
        ] {
            let mut sent = with(name, value.clone());
            sent["datacontenttype"] = json!(content_type);
            let back = event(received(read(&sent).expect("valid")));
            assert_eq!((&back[name], &back["datacontenttype"]), (&value, &json!(content_type)));
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for wrong in [
            json!({}),
            json!([]),
            with("specversion", json!("0.3")),
            with("id", json!("")),
            with("id", json!(null)),
            with("time", json!("yesterday")),
            with("upper_Case", json!("x")),
            with("nested", json!({})),
            with("data_base64", json!("?")),
        ] {
            assert_eq!(read(&wrong).expect_err("refused").reason, "INVALID_CLOUDEVENT", "{wrong}");
        }
        let mut both = with("data", json!(1));
        both["data_base64"] = json!("/wA=");
        assert!(read(&both).is_err());
    }

    #[test]
    fn values_in_headers_are_percent_encoded() {
        assert_eq!(percent_decoded(b"Euro%20%E2%82%AC %zz 5%"), Some("Euro € %zz 5%".to_owned()));
        assert_eq!(percent_decoded(b"%ff"), None);
    }

    #[test]
    fn messages_that_are_no_events_are_wrapped() {
        let plain = v1::Message { topic: "orders".into(), payload: "x".into(), ..v1::Message::default() };
        let wrapped = event(received(plain));
        assert_eq!((&wrapped["id"], &wrapped["type"]), (&json!("orders/1/5"), &json!("wherry.message")));
        assert_eq!((&wrapped["source"], &wrapped["data"]), (&json!("/topics/orders"), &json!("x")));
        // One that another client wrote in structured mode is itself.
        let content_type = "application/cloudevents+json; charset=utf-8".to_owned();
        let payload = minimal().to_string().into();
        let written = v1::Message { content_type, payload, ..v1::Message::default() };
        let mut expected = minimal();
        expected["wherryackid"] = json!("aWQ");
        assert_eq!(event(received(written)), expected);
    }
}

//! Messages as JSON.
//!
//! Bytes appear three ways: as text (`payload`, `key`, `value`), as base64 (`payload_base64`, `key_base64`, `value_base64`), and a payload
//! also as JSON (`json`). To publish, give one of them; what is received has the first that fits: `json` where the content type says so
//! and it parses, text where it is UTF-8, else base64.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wherry_proto::v1;

use crate::error::Failure;

const JSON_TYPE: &str = "application/json";

/// A delivery level.
#[expect(clippy::enum_variant_names, reason = "the levels are called so")]
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DeliveryName {
    #[default]
    AtLeastOnce,
    AtMostOnce,
    EffectivelyOnce,
}

impl DeliveryName {
    pub(super) fn level(self) -> v1::DeliveryLevel {
        match self {
            Self::AtLeastOnce => v1::DeliveryLevel::AtLeastOnce,
            Self::AtMostOnce => v1::DeliveryLevel::AtMostOnce,
            Self::EffectivelyOnce => v1::DeliveryLevel::EffectivelyOnce,
        }
    }
}

/// Where a new group begins.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartName {
    #[default]
    Earliest,
    Latest,
}

/// How payloads, keys and header values appear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Encoding {
    /// As JSON or text where they are that.
    #[default]
    Auto,
    /// As base64 always.
    Base64,
}

impl From<StartName> for v1::InitialPosition {
    fn from(name: StartName) -> Self {
        match name {
            StartName::Earliest => Self::Earliest,
            StartName::Latest => Self::Latest,
        }
    }
}

/// A message to publish.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishJson {
    topic: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    payload: Option<String>,
    payload_base64: Option<String>,
    json: Option<Box<RawValue>>,
    #[serde(default)]
    headers: Vec<HeaderJson>,
    content_type: Option<String>,
    event_time: Option<jiff::Timestamp>,
    message_id: Option<String>,
    partition: Option<i32>,
    #[serde(default)]
    tombstone: bool,
}

/// A header.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderJson {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// One message, or several.
#[derive(Debug)]
pub(super) enum OneOrMany {
    One(Box<PublishJson>),
    Many(Vec<PublishJson>),
}

impl PublishJson {
    /// The message, to this topic if it names none.
    pub(super) fn message(self, topic: &str) -> Result<v1::Message, Failure> {
        let is_json = self.json.is_some();
        let key = bytes("key", self.key, self.key_base64, None)?;
        let payload = bytes("payload", self.payload, self.payload_base64, self.json)?.unwrap_or_default();
        let headers = self.headers.into_iter().map(HeaderJson::header).collect::<Result<_, _>>()?;
        let default_type = if is_json { JSON_TYPE } else { "" };
        Ok(v1::Message {
            topic: self.topic.unwrap_or_else(|| topic.to_owned()),
            key,
            payload,
            headers,
            content_type: self.content_type.unwrap_or_else(|| default_type.to_owned()),
            event_time: self
                .event_time
                .map(|time| prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }),
            message_id: self.message_id.unwrap_or_default(),
            partition: self.partition,
            tombstone: self.tombstone,
        })
    }
}

impl HeaderJson {
    fn header(self) -> Result<v1::Header, Failure> {
        let value = bytes("value", self.value, self.value_base64, None)?.unwrap_or_default();
        Ok(v1::Header { name: self.name, value })
    }
}

fn bytes(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
    json: Option<Box<RawValue>>,
) -> Result<Option<Bytes>, Failure> {
    match (text, base64, json) {
        (None, None, None) => Ok(None),
        (Some(text), None, None) => Ok(Some(text.into())),
        (None, Some(base64), None) => match STANDARD.decode(base64) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => {
                Err(Failure::invalid("INVALID_BASE64", format!("`{name}_base64` is not standard base64: {error}")))
            }
        },
        (None, None, Some(json)) => Ok(Some(String::from(Box::<str>::from(json)).into())),
        (Some(_), _, _) | (None, Some(_), Some(_)) => Err(Failure::invalid(
            "INVALID_MESSAGE",
            format!("`{name}` is given in more than one way; give it as text, as base64 or as `json`"),
        )),
    }
}

/// The result of one message.
#[derive(Debug, Serialize)]
pub(super) struct ResultJson {
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl From<v1::PublishResult> for ResultJson {
    fn from(result: v1::PublishResult) -> Self {
        let status = result.status();
        let committed = status == v1::PublishStatus::Committed;
        Self {
            topic: result.topic,
            partition: committed.then_some(result.partition),
            offset: committed.then_some(result.offset),
            timestamp: result.timestamp.and_then(time),
            status: match status {
                v1::PublishStatus::Committed => "committed",
                v1::PublishStatus::Accepted | v1::PublishStatus::Unspecified => "accepted",
                v1::PublishStatus::Spooled => "spooled",
            },
            duplicate: result.duplicate,
        }
    }
}

/// A message that was pulled.
#[derive(Debug, Serialize)]
pub(super) struct ReceivedJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    ack_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tombstone: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    content_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message_id: String,
}

impl ReceivedJson {
    /// As JSON; with payload and key as base64 in any case where `base64` is asked for.
    pub(super) fn of(received: v1::ReceivedMessage, base64: bool) -> Self {
        let message = received.message.unwrap_or_default();
        let (key, key_base64) = message.key.map_or((None, None), |key| text_or_base64(&key, base64));
        let json = if base64 || message.tombstone { None } else { raw_json(&message.content_type, &message.payload) };
        let (payload, payload_base64) =
            if json.is_some() || message.tombstone { (None, None) } else { text_or_base64(&message.payload, base64) };
        Self {
            ack_id: ack_id(&received.ack_id),
            topic: message.topic,
            partition: message.partition,
            offset: Some(received.offset).filter(|_| message.partition.is_some()),
            timestamp: received.timestamp.and_then(time),
            attempt: received.attempt,
            key,
            key_base64,
            json,
            payload,
            payload_base64,
            tombstone: message.tombstone,
            headers: message.headers.into_iter().map(|header| header_json(header, base64)).collect(),
            content_type: message.content_type,
            message_id: message.message_id,
        }
    }
}

/// A message that did not come as a delivery: a reply.
pub(super) fn reply(message: v1::Message) -> ReceivedJson {
    let timestamp = message.event_time;
    let received = v1::ReceivedMessage { message: Some(message), timestamp, ..v1::ReceivedMessage::default() };
    ReceivedJson::of(received, false)
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn header_json(header: v1::Header, base64: bool) -> HeaderJson {
    let (value, value_base64) = text_or_base64(&header.value, base64);
    HeaderJson { name: header.name, value, value_base64 }
}

fn text_or_base64(bytes: &Bytes, base64: bool) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !base64 => (Some(text.to_owned()), None),
        Ok(_) | Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// Whether a media type is one of JSON.
pub(super) fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type == JSON_TYPE || media_type.ends_with("+json")
}

fn raw_json(content_type: &str, payload: &[u8]) -> Option<Box<RawValue>> {
    if !is_json(content_type) {
        return None;
    }
    serde_json::from_slice(payload).ok()
}

/// An ack id, as it appears in JSON: base64 without padding, safe in URLs.
pub(super) fn ack_id(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An ack id that came back. What is not base64 is kept as it is, to be refused with the others that are not ack ids.
pub(super) fn read_ack_id(text: String) -> Bytes {
    URL_SAFE_NO_PAD.decode(&text).unwrap_or_else(|_| text.into_bytes()).into()
}

/// A time, to the millisecond.
pub(super) fn time(time: prost_types::Timestamp) -> Option<String> {
    let time = jiff::Timestamp::new(time.seconds, time.nanos).ok()?;
    Some(format!("{time:.3}"))
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not an untagged enum: its errors would not say what is wrong.
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let many = raw.get().trim_start().starts_with('[');
        let parsed = if many {
            serde_json::from_str(raw.get()).map(Self::Many)
        } else {
            serde_json::from_str(raw.get()).map(Self::One)
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

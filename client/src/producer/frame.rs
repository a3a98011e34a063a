//! Produce requests as frames, without copying records: chunks for one vectored write. Pure.
//!
//! Versions 3 to 12 (topics by name); from 9 on in the flexible encoding (KIP-482).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use wherry_wire::batch::HEADER_LEN;
use wherry_wire::codec::dedupe;

/// From here on lengths are varints and structures end with tagged fields.
const FLEXIBLE: i16 = 9;

/// One batch to send.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) header: [u8; HEADER_LEN],
    pub(super) body: Bytes,
    /// The broker is asked which of its message ids it knows.
    pub(super) asks: bool,
}

impl Part {
    fn len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }
}

/// What the request says besides its batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope<'a> {
    pub(super) version: i16,
    pub(super) correlation: i32,
    pub(super) client_id: &'a str,
    pub(super) transactional_id: Option<&'a str>,
    pub(super) acks: i16,
    pub(super) timeout_ms: i32,
}

struct Writer {
    flexible: bool,
    small: BytesMut,
    chunks: Vec<Bytes>,
}

impl Writer {
    fn uvarint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.small.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.small.put_u8(value as u8);
    }

    fn count(&mut self, count: usize) {
        if self.flexible {
            self.uvarint(count + 1);
        } else {
            self.small.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn string(&mut self, text: &str) {
        if self.flexible {
            self.uvarint(text.len() + 1);
        } else {
            self.small.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        }
        self.small.put_slice(text.as_bytes());
    }

    fn no_tags(&mut self) {
        if self.flexible {
            self.small.put_u8(0);
        }
    }

    /// The one tagged field that we know of.
    fn tag(&mut self, tag: i32, value: &[u8]) {
        self.uvarint(1);
        self.uvarint(usize::try_from(tag).unwrap_or(0));
        self.uvarint(value.len());
        self.small.put_slice(value);
    }

    fn records(&mut self, part: &Part) {
        self.count(part.len());
        self.small.put_slice(&part.header);
        self.chunks.push(self.small.split().freeze());
        self.chunks.push(part.body.clone());
    }
}

/// The frame, length prefix included. Parts of one topic share its entry.
pub(super) fn encode(envelope: Envelope<'_>, mut parts: Vec<Part>) -> Vec<Bytes> {
    parts.sort_by(|a, b| a.topic.cmp(&b.topic));
    let names: usize = parts.iter().map(|p| p.topic.len()).sum();
    let ids = envelope.client_id.len() + envelope.transactional_id.map_or(0, str::len);
    let capacity = 64 + ids + names + parts.len() * (HEADER_LEN + 32);
    let mut w = Writer {
        flexible: envelope.version >= FLEXIBLE,
        small: BytesMut::with_capacity(capacity),
        chunks: Vec::with_capacity(2 * parts.len() + 1),
    };
    w.small.put_u32(0);
    w.small.put_i16(0);
    w.small.put_i16(envelope.version);
    w.small.put_i32(envelope.correlation);
    w.small.put_u16(u16::try_from(envelope.client_id.len()).unwrap_or(0));
    w.small.put_slice(envelope.client_id.as_bytes());
    w.no_tags();
    match envelope.transactional_id {
        Some(id) => w.string(id),
        None if w.flexible => w.small.put_u8(0),
        None => w.small.put_i16(-1),
    }
    w.small.put_i16(envelope.acks);
    w.small.put_i32(envelope.timeout_ms);
    let topics = || parts.chunk_by(|a, b| a.topic == b.topic);
    w.count(topics().count());
    for topic in topics() {
        w.string(topic.first().map_or("", |p| &p.topic));
        w.count(topic.len());
        for part in topic {
            w.small.put_i32(part.partition);
            w.records(part);
            w.no_tags();
        }
        w.no_tags();
    }
    if w.flexible && parts.iter().any(|part| part.asks) {
        w.tag(dedupe::TAG, &dedupe::asked());
    } else {
        w.no_tags();
    }
    w.chunks.push(w.small.freeze());
    with_length(w.chunks)
}

fn with_length(mut chunks: Vec<Bytes>) -> Vec<Bytes> {
    let length: usize = chunks.iter().map(Bytes::len).sum::<usize>() - 4;
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(first) = chunks.first_mut() {
        // The first chunk shares its allocation with later ones, so the prefix is a chunk of its own.
        let rest = first.slice(4..);
        *first = rest;
        chunks.insert(0, Bytes::copy_from_slice(&length));
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;
    use kafka_protocol::messages::{ProduceRequest, RequestHeader};
    use kafka_protocol::protocol::{Decodable, HeaderVersion};

    fn part(topic: &str, partition: i32, body: usize) -> Part {
        Part { topic: topic.into(), partition, header: [7; HEADER_LEN], body: vec![9; body].into(), asks: false }
    }

    #[test]
    fn one_batch_that_asks_is_enough() {
        for (version, asked) in [(8, false), (9, true), (12, true)] {
            let envelope =
                Envelope { version, correlation: 1, client_id: "", transactional_id: None, acks: -1, timeout_ms: 1 };
            let parts = vec![part("a", 0, 10), Part { asks: true, ..part("b", 0, 10) }];
            let mut frame = Bytes::from(encode(envelope, parts).concat()).slice(4..);
            RequestHeader::decode(&mut frame, ProduceRequest::header_version(version)).unwrap();
            let request = ProduceRequest::decode(&mut frame, version).unwrap();
            assert_eq!(dedupe::is_asked(&request.unknown_tagged_fields), asked, "v{version}");
        }
    }

    #[test]
    fn every_version_decodes_to_what_was_said() {
        let parts = || vec![part("a", 0, 10), part("bb", 1, 0), part("a", 3, 300)];
        for (version, transactional_id) in (3..=12).flat_map(|version| [(version, None), (version, Some("tx"))]) {
            let envelope =
                Envelope { version, correlation: 77, client_id: "me", transactional_id, acks: -1, timeout_ms: 1234 };
            let mut frame = Bytes::from(encode(envelope, parts()).concat());
            assert_eq!(usize::try_from(frame.get_u32()).unwrap(), frame.remaining(), "v{version}");
            let header = RequestHeader::decode(&mut frame, ProduceRequest::header_version(version)).unwrap();
            assert_eq!((header.correlation_id, header.client_id.as_deref()), (77, Some("me")));
            let request = ProduceRequest::decode(&mut frame, version).unwrap();
            assert!(!frame.has_remaining(), "v{version}");
            assert_eq!((request.acks, request.timeout_ms), (-1, 1234));
            assert_eq!(request.transactional_id.as_ref().map(|id| id.as_str()), transactional_id);
            let mut got = Vec::new();
            for topic in &request.topic_data {
                let one = |p: &kafka_protocol::messages::produce_request::PartitionProduceData| {
                    (topic.name.as_str(), p.index, p.records.as_ref().unwrap().len())
                };
                got.extend(topic.partition_data.iter().map(one));
            }
            assert_eq!(got, [("a", 0, 71), ("a", 3, 361), ("bb", 1, 61)]);
        }
    }
}

//! What nodes and our own client say to each other about message ids, in tagged fields (KIP-482) of the protocol's messages:
//! whoever does not know them skips them.
//!
//! ```text
//! Metadata response, topic:      window in ms i64 | partitions that ids are spread over i32
//! Produce request:               version u8: the producer knows what to do with duplicates that are named
//! Produce response, partition:   { index of the record in its batch u32 | offset of the first one i64, -1 unknown }
//! ```
//! A batch with duplicates is refused as a whole (`INVALID_RECORD`), nothing of it is appended: the producer sends the others
//! again.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

/// The tag of all three fields: far above what Kafka gives out, which is counted from 0.
pub const TAG: i32 = 22_344;
const VERSION: u8 = 1;
const DUPLICATE_BYTES: usize = 12;

/// Tagged fields, as the messages hold those that they don't know.
pub type Tags = BTreeMap<i32, Bytes>;

/// What a topic does with message ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicIds {
    /// How long ids are remembered at least, in milliseconds.
    pub window_ms: u64,
    /// Ids are spread over the first so many partitions.
    pub partitions: i32,
}

impl TopicIds {
    /// Adds it to a topic's fields.
    pub fn write(&self, tags: &mut Tags) {
        let mut bytes = BytesMut::with_capacity(12);
        bytes.put_u64(self.window_ms);
        bytes.put_i32(self.partitions);
        tags.insert(TAG, bytes.freeze());
    }

    /// What a topic's fields say; `None` where ids mean nothing.
    #[must_use]
    pub fn read(tags: &Tags) -> Option<Self> {
        let bytes = tags.get(&TAG)?;
        let window_ms = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let partitions = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
        (window_ms > 0 && partitions > 0).then_some(Self { window_ms, partitions })
    }
}

/// The field of a produce request.
#[must_use]
pub fn asked() -> Bytes {
    Bytes::from_static(&[VERSION])
}

/// Whether a produce request has the field.
#[must_use]
pub fn is_asked(tags: &Tags) -> bool {
    tags.get(&TAG).is_some_and(|bytes| bytes.first() == Some(&VERSION))
}

/// A record whose id is known already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// Its place in its batch.
    pub index: u32,
    /// Offset of the record that had the id first; -1 where that is one of the same batch.
    pub offset: i64,
}

/// Adds duplicates to a partition's fields.
pub fn write_duplicates(duplicates: &[Duplicate], tags: &mut Tags) {
    let mut bytes = BytesMut::with_capacity(duplicates.len() * DUPLICATE_BYTES);
    for duplicate in duplicates {
        bytes.put_u32(duplicate.index);
        bytes.put_i64(duplicate.offset);
    }
    tags.insert(TAG, bytes.freeze());
}

/// The duplicates that a partition's fields name; none where they are not what they should be: ascending by index.
#[must_use]
pub fn read_duplicates(tags: &Tags) -> Vec<Duplicate> {
    let bytes = tags.get(&TAG).map_or(&[][..], |bytes| bytes.as_ref());
    let (entries, rest) = bytes.as_chunks::<DUPLICATE_BYTES>();
    let read = |entry: &[u8; DUPLICATE_BYTES]| {
        let index = u32::from_be_bytes(entry.get(..4)?.try_into().ok()?);
        Some(Duplicate { index, offset: i64::from_be_bytes(entry.get(4..)?.try_into().ok()?) })
    };
    let duplicates: Vec<Duplicate> = entries.iter().filter_map(read).collect();
    let ascending = duplicates.is_sorted_by(|a, b| a.index < b.index);
    if rest.is_empty() && ascending { duplicates } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
    use crate::codec::messages::{ProduceRequest, ProduceResponse};
    use crate::codec::{decode_response, encode_response};

    #[test]
    fn what_is_written_is_read() {
        let ids = TopicIds { window_ms: 600_000, partitions: 12 };
        let mut tags = Tags::new();
        ids.write(&mut tags);
        assert_eq!(TopicIds::read(&tags), Some(ids));
        let duplicates = [Duplicate { index: 0, offset: 7 }, Duplicate { index: 9, offset: -1 }];
        write_duplicates(&duplicates, &mut tags);
        assert_eq!(read_duplicates(&tags), duplicates);
        tags.insert(TAG, asked());
        assert!(is_asked(&tags));
    }

    #[test]
    fn nonsense_names_nothing() {
        for bytes in [&[][..], &[1; 11], &[0; 24], &[0; 13]] {
            let tags = Tags::from([(TAG, Bytes::copy_from_slice(bytes))]);
            assert_eq!(read_duplicates(&tags), [], "{bytes:?}");
            assert_eq!(TopicIds::read(&tags), None, "{bytes:?}");
            assert!(!is_asked(&tags) || bytes == [1; 11], "{bytes:?}");
        }
        assert_eq!((read_duplicates(&Tags::new()), TopicIds::read(&Tags::new())), (Vec::new(), None));
    }

    /// The fields survive the codec, and only where the encoding is flexible.
    #[test]
    fn the_codec_carries_them() {
        let mut partition = PartitionProduceResponse::default();
        write_duplicates(&[Duplicate { index: 3, offset: 4 }], &mut partition.unknown_tagged_fields);
        let topic = TopicProduceResponse::default().with_partition_responses(vec![partition]);
        let response = ProduceResponse::default().with_responses(vec![topic]);
        for (version, named) in [(8, 0), (9, 1), (12, 1)] {
            let frame = encode_response(version, 5, &response).unwrap();
            let (_, answer) = decode_response::<ProduceRequest>(frame.slice(4..), version).unwrap();
            let tags = &answer.responses[0].partition_responses[0].unknown_tagged_fields;
            assert_eq!(read_duplicates(tags).len(), named, "v{version}");
        }
    }
}

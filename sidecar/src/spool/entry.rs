//! A message at rest: a record of the log engine with the message's own key, value, headers and time, and one header more.
//!
//! That header, which never leaves the spool, has what a record does not say of itself:
//! ```text
//!  0 version u8 | 1 partition i32, -1 none | 5 when it was spooled i64, ms | 13 topic
//! ```
//! All numbers big endian. A message in quarantine has the cause in yet another header. Bytes that are read may be damaged or of
//! another version: they are refused, not guessed at.

use bytes::Bytes;
use wherry_client::ProduceRecord;
use wherry_wire::batch::{self, CheckedBatch};
use wherry_wire::compress::Codec;
use wherry_wire::records::{self, BatchBuilder, Stamp};

use crate::limits;
use crate::publish::record::MESSAGE_ID;

const META: &str = "wherry-spool";
const CAUSE: &str = "wherry-spool-cause";
const VERSION: u8 = 1;
const TOPIC_AT: usize = 13;
/// What a record takes beside its parts, at most: lengths, times, the header above.
const OVERHEAD: usize = 64;

/// A message with its place in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: i64,
    pub(super) spooled_ms: i64,
    pub(super) bytes: usize,
    pub(super) record: ProduceRecord,
}

/// Bytes that a message counts for.
pub(super) fn size(record: &ProduceRecord) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
    let part = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    part(&record.key) + part(&record.value) + headers + record.topic.len() + OVERHEAD
}

/// One batch of these messages.
///
/// # Errors
/// A sentence, where they can't be a batch.
pub(super) fn encode<'a>(
    records: impl IntoIterator<Item = &'a ProduceRecord>,
    now_ms: i64,
    cause: Option<&str>,
) -> Result<CheckedBatch, String> {
    let mut builder = BatchBuilder::new(Codec::Lz4, None);
    for record in records {
        let mut meta = Vec::with_capacity(TOPIC_AT + record.topic.len());
        meta.push(VERSION);
        meta.extend(record.partition.unwrap_or(-1).to_be_bytes());
        meta.extend(now_ms.to_be_bytes());
        meta.extend(record.topic.as_bytes());
        let mut headers: Vec<(&[u8], &[u8])> =
            record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_ref())).collect();
        headers.push((META.as_bytes(), &meta));
        if let Some(cause) = cause {
            headers.push((CAUSE.as_bytes(), cause.as_bytes()));
        }
        // Without a time of its own it has that of being published, which is now and not when it is forwarded.
        let timestamp_ms = record.timestamp_ms.unwrap_or(now_ms);
        let appended = builder.append(timestamp_ms, record.key.as_deref(), record.value.as_deref(), &headers);
        appended.map_err(|error| error.to_string())?;
    }
    let bytes = builder.build(Stamp::NONE).map_err(|error| error.to_string())?;
    let raw = batch::split(bytes).next().ok_or("a batch without records")?;
    raw.and_then(batch::RawBatch::check).map_err(|error| error.to_string())
}

/// The messages of a batch.
///
/// # Errors
/// A sentence: what is wrong with the bytes.
pub(super) fn decode(bytes: &Bytes) -> Result<Vec<Entry>, String> {
    let raw = batch::split(bytes.clone()).next().ok_or("no batch")?.map_err(|error| error.to_string())?;
    let header = *raw.header();
    let set = records::records(&header, bytes, limits::SPOOL_BATCH_DECOMPRESSED).map_err(|error| error.to_string())?;
    let entry = |record: Result<records::Record, records::RecordError>| {
        let record = record.map_err(|error| error.to_string())?;
        let offset = header.base_offset.0 + i64::from(record.offset_delta);
        one(record, offset, header.base_timestamp).ok_or_else(|| {
            format!(
                "the message at offset {offset} has no header {META} of version {VERSION}: another program wrote it"
            )
        })
    };
    set.into_iter().map(entry).collect()
}

fn one(record: records::Record, offset: i64, base_timestamp: i64) -> Option<Entry> {
    let mut meta = None;
    let mut headers = Vec::with_capacity(record.headers.len());
    for header in record.headers.iter() {
        let (name, value) = (String::from_utf8(header.key.to_vec()).ok()?, header.value.unwrap_or_default());
        match name.as_str() {
            META => meta = Some(value),
            CAUSE => {}
            _ => headers.push((name, value)),
        }
    }
    let meta = meta.filter(|meta| meta.len() > TOPIC_AT && meta.first() == Some(&VERSION))?;
    let partition = i32::from_be_bytes(meta.get(1..5)?.try_into().ok()?);
    let spooled_ms = i64::from_be_bytes(meta.get(5..TOPIC_AT)?.try_into().ok()?);
    let topic = std::str::from_utf8(meta.get(TOPIC_AT..)?).ok()?;
    let record = ProduceRecord {
        topic: topic.into(),
        partition: (partition >= 0).then_some(partition),
        key: record.key,
        value: record.value,
        headers,
        timestamp_ms: Some(base_timestamp.saturating_add(record.timestamp_delta)),
    };
    Some(Entry { offset, spooled_ms, bytes: size(&record), record })
}

/// The message as it is forwarded. One that the application gave no id gets one that names its place, so that it is the same
/// however often it is sent.
pub(super) fn outgoing(entry: &Entry, spool: uuid::Uuid) -> ProduceRecord {
    let mut record = entry.record.clone();
    if !record.headers.iter().any(|(name, _)| name == MESSAGE_ID) {
        let id = format!("spool-{}-{}", spool.simple(), entry.offset);
        record.headers.push((MESSAGE_ID.to_owned(), id.into()));
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn message() -> impl Strategy<Value = ProduceRecord> {
        let headers = proptest::collection::vec(("[a-z]{1,8}", bytes()), 0..4);
        let times = proptest::option::of(0..i64::MAX / 4);
        (
            "[a-z]{1,20}",
            proptest::option::of(0..9),
            proptest::option::of(bytes()),
            proptest::option::of(bytes()),
            headers,
            times,
        )
            .prop_map(|(topic, partition, key, value, headers, timestamp_ms)| ProduceRecord {
                topic: topic.into(),
                partition,
                key,
                value,
                headers,
                timestamp_ms,
            })
    }

    proptest! {
        #[test]
        fn what_is_spooled_comes_back(messages in proptest::collection::vec(message(), 1..20), cause: bool) {
            let batch = encode(&messages, 7_000, cause.then_some("why")).unwrap();
            let back = decode(batch.bytes()).unwrap();
            prop_assert_eq!(back.len(), messages.len());
            for (number, (entry, message)) in back.iter().zip(&messages).enumerate() {
                let timestamp_ms = Some(message.timestamp_ms.unwrap_or(7_000));
                prop_assert_eq!(&entry.record, &ProduceRecord { timestamp_ms, ..message.clone() });
                prop_assert_eq!((entry.offset, entry.spooled_ms), (i64::try_from(number).unwrap(), 7_000));
            }
        }
    }

    #[test]
    fn what_another_program_wrote_is_refused() {
        let mut builder = BatchBuilder::new(Codec::None, None);
        builder.append::<&[u8], &[u8]>(1, None, Some(b"x"), &[]).unwrap();
        let error = decode(&builder.build(Stamp::NONE).unwrap()).unwrap_err();
        assert!(error.contains("another program"), "{error}");
        assert!(decode(&Bytes::from_static(b"nonsense")).is_err());
    }

    #[test]
    fn the_id_given_here_names_the_place_and_yields_to_the_applications_own() {
        let batch =
            encode([&ProduceRecord::new("t", "a"), &ProduceRecord::new("t", "b").header(MESSAGE_ID, "own")], 1, None);
        let back = decode(batch.unwrap().bytes()).unwrap();
        let spool = uuid::Uuid::from_u128(5);
        let first = outgoing(&back[0], spool);
        assert_eq!(first.headers, [(MESSAGE_ID.to_owned(), "spool-00000000000000000000000000000005-0".into())]);
        assert_eq!(first, outgoing(&back[0], spool), "the same each time");
        assert_eq!(outgoing(&back[1], spool).headers, [(MESSAGE_ID.to_owned(), "own".into())]);
    }
}

//! Dead letters: copies of the records that a share group gives up, with headers that say where they come from and why.

use bytes::Bytes;
use wherry_wire::batch::{BatchHeader, CheckedBatch, RawBatch, split};
use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Header, Stamp, records};

use super::partition::Condemned;
use crate::limits::{MAX_INSPECTED_BATCH_BYTES, MAX_LETTER_BYTES};

/// Where records come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) group: &'a str,
}

/// Copies of some of the condemned records.
#[derive(Debug)]
pub(crate) struct Letters {
    /// Nothing, where there are no such records any more.
    pub(crate) batch: Option<CheckedBatch>,
    /// The last offset of which there is a copy, or no record.
    pub(crate) upto: i64,
}

/// Copies the condemned records that are in these batches, as many as fit; the batches were read from the first of them on.
///
/// # Errors
/// A batch can't be read, or a copy not be made: what is wrong.
pub(crate) fn letters(batches: &[Bytes], condemned: Condemned, origin: Origin<'_>) -> Result<Letters, String> {
    let mut builder = BatchBuilder::new(Codec::None, None);
    // Of what was not read nothing is known.
    let mut upto = condemned.first - 1;
    for batch in batches {
        let header = BatchHeader::read(batch, 0).map_err(|error| error.to_string())?;
        if header.base_offset.0 > condemned.last {
            upto = condemned.last;
            break;
        }
        if !header.is_control() {
            let set = records(&header, batch, MAX_INSPECTED_BATCH_BYTES).map_err(|error| error.to_string())?;
            for record in &set {
                let record = record.map_err(|error| error.to_string())?;
                let offset = header.base_offset.0.saturating_add(i64::from(record.offset_delta));
                if !(condemned.first..=condemned.last).contains(&offset) {
                    continue;
                }
                if builder.len() >= MAX_LETTER_BYTES {
                    return finished(builder, offset - 1);
                }
                let headers: Vec<Header> =
                    record.headers().map(owned).chain(added(condemned, origin, offset)).collect();
                let headers = headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
                let timestamp_ms = header.base_timestamp.saturating_add(record.timestamp_delta);
                builder
                    .append_nullable(timestamp_ms, record.key, record.value, headers)
                    .map_err(|error| error.to_string())?;
            }
        }
        upto = upto.max(header.last_offset().0.min(condemned.last));
    }
    finished(builder, upto)
}

fn owned((key, value): (&[u8], Option<&[u8]>)) -> Header {
    Header { key: Bytes::copy_from_slice(key), value: value.map(Bytes::copy_from_slice) }
}

fn added(condemned: Condemned, origin: Origin<'_>, offset: i64) -> impl Iterator<Item = Header> {
    let header = |name: &'static str, value: String| Header {
        key: Bytes::from_static(name.as_bytes()),
        value: Some(Bytes::from(value)),
    };
    [
        header("wherry-dead-letter-cause", condemned.cause.as_str().to_owned()),
        header("wherry-dead-letter-topic", origin.topic.to_owned()),
        header("wherry-dead-letter-partition", origin.partition.to_string()),
        header("wherry-dead-letter-offset", offset.to_string()),
        header("wherry-dead-letter-group", origin.group.to_owned()),
        header("wherry-dead-letter-deliveries", condemned.count.to_string()),
    ]
    .into_iter()
}

fn finished(mut builder: BatchBuilder, upto: i64) -> Result<Letters, String> {
    if builder.is_empty() {
        return Ok(Letters { batch: None, upto });
    }
    let bytes = builder.build(Stamp::NONE).map_err(|error| error.to_string())?;
    Ok(Letters { batch: Some(checked(bytes)?), upto })
}

/// A batch that is to be appended, checked as one that a client sends (INV-6).
///
/// # Errors
/// It is not exactly one batch, or damaged.
pub(crate) fn checked(bytes: Bytes) -> Result<CheckedBatch, String> {
    let mut batches = split(bytes);
    let batch = batches.next().ok_or("an empty batch")?.and_then(RawBatch::check).map_err(|error| error.to_string())?;
    if batches.next().is_some() { Err("more than one batch".into()) } else { Ok(batch) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Cause;

    const ORIGIN: Origin<'static> = Origin { topic: "t", partition: 3, group: "g" };

    fn batch(base: i64, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::Lz4, None);
        for value in values {
            builder.append(1_000, Some(b"k"), Some(value.as_bytes()), &[("h", "v")]).unwrap();
        }
        let checked = checked(builder.build(Stamp::NONE).unwrap()).unwrap();
        let mut bytes = vec![0; checked.len()];
        checked.write_at(wherry_wire::types::Offset(base), wherry_wire::types::LeaderEpoch(0), &mut bytes).unwrap();
        bytes.into()
    }

    fn condemned(first: i64, last: i64) -> Condemned {
        Condemned { first, last, count: 5, cause: Cause::MaxDeliveries }
    }

    /// Values and headers of the copies.
    fn read(letters: &Letters) -> Vec<(String, Vec<(String, String)>)> {
        let Some(batch) = &letters.batch else { return Vec::new() };
        let set = records(batch.header(), batch.bytes(), 1 << 20).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        set.iter()
            .map(|record| {
                let record = record.unwrap();
                assert_eq!(record.key, Some(&b"k"[..]));
                let headers = record.headers().map(|(key, value)| (text(key), text(value.unwrap()))).collect();
                (text(record.value.unwrap()), headers)
            })
            .collect()
    }

    #[test]
    fn copies_say_where_they_come_from_and_why() {
        let batches = [batch(10, &["a", "b", "c"]), batch(13, &["d"]), batch(14, &["e"])];
        let letters = letters(&batches, condemned(11, 13), ORIGIN).unwrap();
        let copies = read(&letters);
        assert_eq!(letters.upto, 13);
        assert_eq!(copies.iter().map(|(value, _)| value.as_str()).collect::<Vec<_>>(), ["b", "c", "d"]);
        let headers: Vec<(&str, &str)> =
            copies[2].1.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            headers,
            [
                ("h", "v"),
                ("wherry-dead-letter-cause", "max-deliveries"),
                ("wherry-dead-letter-topic", "t"),
                ("wherry-dead-letter-partition", "3"),
                ("wherry-dead-letter-offset", "13"),
                ("wherry-dead-letter-group", "g"),
                ("wherry-dead-letter-deliveries", "5"),
            ]
        );
    }

    #[test]
    fn what_was_not_read_is_left_for_the_next_time_and_what_is_gone_is_done() {
        let part = letters(&[batch(10, &["a"])], condemned(10, 20), ORIGIN).unwrap();
        assert_eq!((read(&part).len(), part.upto), (1, 10));
        let gone = letters(&[batch(30, &["a"])], condemned(10, 20), ORIGIN).unwrap();
        assert_eq!((read(&gone).len(), gone.upto), (0, 20));
        let nothing = letters(&[], condemned(10, 20), ORIGIN).unwrap();
        assert_eq!((read(&nothing).len(), nothing.upto), (0, 9));
        let large = "x".repeat(MAX_LETTER_BYTES);
        let many = letters(&[batch(10, &[&large, "b"])], condemned(10, 11), ORIGIN).unwrap();
        assert_eq!((read(&many).len(), many.upto), (1, 10));
        assert!(letters(&[Bytes::from_static(b"no batch")], condemned(0, 1), ORIGIN).is_err());
    }
}

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::batch::{BatchHeader, CRC_START, CheckedBatch, HEADER_LEN, split};
use crate::compress::{Codec, DecompressError};
use crate::limits::{DECOMPRESSOR_WORKSPACE_BYTES, MAX_RECORD_HEADERS};
use crate::meter::peak;

const LIMIT: usize = 1 << 20;
const KEYED: ValidateOptions = ValidateOptions { require_keys: true, max_len: LIMIT };
const ANY: ValidateOptions = ValidateOptions { require_keys: false, max_len: LIMIT };
const NO_HEADERS: &[(&str, &str)] = &[];

fn checked(batch: Bytes) -> CheckedBatch {
    let mut batches = split(batch);
    let batch = batches.next().expect("one batch").expect("framed").check().expect("its CRC");
    assert!(batches.next().is_none());
    batch
}

fn validated(batch: &CheckedBatch, options: ValidateOptions) -> Result<RecordsSummary, InvalidRecords> {
    validate_records(batch.header(), batch.bytes(), options)
}

/// A batch around records that are encoded already, header and CRC in order.
fn around(records: &[u8], count: i32, last_delta: i32) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None, None);
    builder.append(5, None, None, NO_HEADERS).unwrap();
    let mut batch = builder.build(Stamp::NONE).unwrap()[..HEADER_LEN].to_vec();
    batch.extend_from_slice(records);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[23..27].copy_from_slice(&last_delta.to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crate::batch::crc32c(&batch[CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    checked(batch.into())
}

fn encoded(fields: &[&[u8]]) -> Vec<u8> {
    let body = fields.concat();
    let mut record = Vec::new();
    varint::put(&mut record, body.len() as i64);
    record.extend_from_slice(&body);
    record
}

fn number(value: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint::put(&mut bytes, value);
    bytes
}

/// A null key and value, no headers.
fn plain(offset_delta: i64) -> Vec<u8> {
    encoded(&[&[0, 0], &number(offset_delta), &[1, 1, 0]])
}

#[test]
fn what_is_built_is_read_back() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec, None);
        for i in 0..500_i64 {
            let value = format!("value {i}");
            let headers = [("h", "1"), ("h", "2"), ("", "")];
            let delta = builder.append(1_000_000 + (i * 7) % 13, Some(b"key"), Some(value.as_bytes()), &headers);
            assert_eq!(delta, Ok(i as i32));
        }
        let stamp = Stamp { producer_id: 5, producer_epoch: 2, base_sequence: 77 };
        let batch = checked(builder.build(stamp).unwrap());
        let header = batch.header();
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (5, 2, 77));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_000_000, 1_000_012));
        assert_eq!((header.record_count, header.last_offset_delta), (500, 499));
        assert_eq!(header.compression(), codec.id());
        let summary = validated(&batch, KEYED).unwrap();
        assert_eq!((summary.count, summary.max_timestamp), (500, 1_000_012));
        let all: Vec<_> = records(header, batch.bytes(), LIMIT).unwrap().into_iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 500);
        assert_eq!(all[499].value.as_deref(), Some(&b"value 499"[..]));
        let names: Vec<_> = all[3].headers.iter().map(|h| (h.name().into_owned(), h.value)).collect();
        let some = |text: &'static str| Some(Bytes::from(text));
        assert_eq!(names, [("h".into(), some("1")), ("h".into(), some("2")), (String::new(), some(""))]);
    }
}

/// Written by the Java client 4.1 (`MemoryRecords.withIdempotentRecords`), once per codec: 40 records, every fifth key and
/// every seventh value null, two headers of the same name, the second one null.
#[test]
fn what_the_java_client_wrote_is_read() {
    for (codec, bytes) in [
        (Codec::None, &include_bytes!("../../testdata/java-none.batch")[..]),
        (Codec::Gzip, include_bytes!("../../testdata/java-gzip.batch")),
        (Codec::Snappy, include_bytes!("../../testdata/java-snappy.batch")),
        (Codec::Lz4, include_bytes!("../../testdata/java-lz4.batch")),
        (Codec::Zstd, include_bytes!("../../testdata/java-zstd.batch")),
    ] {
        let batch = checked(Bytes::from_static(bytes));
        let header = batch.header();
        assert_eq!(header.compression(), codec.id());
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (4242, 3, 17));
        let summary = validated(&batch, ANY).unwrap();
        assert_eq!((summary.count, summary.max_timestamp), (40, header.max_timestamp));
        for (i, record) in records(header, batch.bytes(), LIMIT).unwrap().iter().enumerate() {
            let record = record.unwrap();
            let text = |format: String, every: usize| (!i.is_multiple_of(every)).then(|| format.into_bytes());
            assert_eq!(record.key.map(<[u8]>::to_vec), text(format!("key-{i}"), 5));
            assert_eq!(record.value.map(<[u8]>::to_vec), text(format!("a value that repeats itself, number {i}"), 7));
            assert_eq!(header.base_timestamp + record.timestamp_delta, 1_700_000_000_000 + i as i64);
            let headers: Vec<_> = record.headers().collect();
            assert_eq!(headers, [(&b"h"[..], Some(&b"1"[..])), (b"h", None)]);
        }
    }
}

#[test]
fn uncompressed_records_are_slices_of_the_batch() {
    let mut builder = BatchBuilder::new(Codec::None, None);
    builder.append(0, Some(b"key"), Some(b"value"), &[("name", "content")]).unwrap();
    let batch = checked(builder.build(Stamp::NONE).unwrap());
    let inside = batch.bytes().as_ptr_range();
    let record = records(batch.header(), batch.bytes(), LIMIT).unwrap().into_iter().next().unwrap().unwrap();
    for part in [record.key.clone(), record.value.clone(), record.headers.iter().next().unwrap().value] {
        assert!(inside.contains(&part.unwrap().as_ptr()), "copied");
    }
}

#[test]
fn a_sealed_batch_takes_any_stamp_and_is_the_same_batch() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec, None);
        let fill = |builder: &mut BatchBuilder| {
            for i in 0..50 {
                builder.append(1000 - i, None, Some(&[7; 100]), NO_HEADERS).unwrap();
            }
        };
        fill(&mut builder);
        let sealed = builder.seal().unwrap();
        assert!(builder.is_empty());
        fill(&mut builder);
        for epoch in 0..3 {
            let stamp = Stamp { producer_id: 9, producer_epoch: epoch, base_sequence: 3 };
            let batch = checked(sealed.to_bytes(stamp));
            assert_eq!(batch.len(), sealed.len());
            assert_eq!(batch.header().producer_epoch, epoch);
            assert_eq!((sealed.count(), sealed.max_timestamp()), (50, 1000));
            assert!(validated(&batch, ANY).is_ok());
        }
        assert_eq!(builder.build(Stamp::NONE).unwrap(), sealed.to_bytes(Stamp::NONE));
    }
}

#[test]
fn a_builder_starts_afresh_after_a_batch() {
    let mut builder = BatchBuilder::new(Codec::Lz4, None);
    builder.append(900, None, Some(b"old"), NO_HEADERS).unwrap();
    builder.seal().unwrap();
    assert_eq!((builder.count(), builder.len()), (0, HEADER_LEN));
    builder.append(100, None, Some(b"new"), NO_HEADERS).unwrap();
    let batch = checked(builder.build(Stamp::NONE).unwrap());
    assert_eq!((batch.header().base_timestamp, batch.header().max_timestamp), (100, 100));
    assert_eq!(builder.build(Stamp::NONE), Err(BuildError::Empty));
    assert!(matches!(builder.seal(), Err(BuildError::Empty)));
}

#[test]
fn attributes_say_what_was_set() {
    let mut builder = BatchBuilder::new(Codec::Zstd, None);
    builder.set_transactional(true);
    builder.append(0, Some(b"k"), None, NO_HEADERS).unwrap();
    let batch = checked(builder.build(Stamp::NONE).unwrap());
    assert!(batch.header().is_transactional() && !batch.header().is_control());
    builder.set_control(true);
    builder.append(0, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 0]), NO_HEADERS).unwrap();
    let marker = checked(builder.build(Stamp::NONE).unwrap());
    assert!(marker.header().is_transactional() && marker.header().is_control());
    assert_eq!(marker.header().compression(), 0);
    builder.set_transactional(false);
    builder.set_control(false);
    builder.append(0, None, None, NO_HEADERS).unwrap();
    assert_eq!(checked(builder.build(Stamp::NONE).unwrap()).header().attributes, 4);
}

#[test]
fn a_batch_that_would_be_too_large_stays_as_it_was() {
    let mut builder = BatchBuilder::new(Codec::None, None);
    let large = vec![0; 60 << 20];
    builder.append(0, None, Some(&large), NO_HEADERS).unwrap();
    let len = builder.len();
    assert!(matches!(builder.append(0, None, Some(&large), NO_HEADERS), Err(BuildError::TooLarge { .. })));
    assert_eq!((builder.len(), builder.count()), (len, 1));
}

#[test]
fn a_record_is_appended_without_allocating() {
    let mut builder = BatchBuilder::with_capacity(Codec::None, None, 100_000);
    let ((), taken) = peak(|| {
        for _ in 0..500 {
            builder.append(12, Some(b"key"), Some(&[0; 100]), &[("a", "b")]).unwrap();
        }
    });
    assert_eq!(taken, 0);
}

#[test]
fn varints_at_their_edges() {
    for (value, len) in [
        (0, 1),
        (-1, 1),
        (63, 1),
        (-64, 1),
        (64, 2),
        (-65, 2),
        (i64::from(i32::MAX), 5),
        (i64::from(i32::MIN), 5),
        (i64::MAX, 10),
        (i64::MIN, 10),
    ] {
        let bytes = number(value);
        assert_eq!((bytes.len(), varint::len(value)), (len, len), "{value}");
        let mut rest = &bytes[..];
        assert_eq!((varint::take(&mut rest), rest.len()), (Some(value), 0));
        for cut in 0..len {
            assert_eq!(varint::take(&mut &bytes[..cut]), None);
        }
    }
    assert_eq!(varint::take(&mut &[0xFF; 9].iter().chain(&[2]).copied().collect::<Vec<_>>()[..]), None);
    assert_eq!(varint::take(&mut &[0x80; 20][..]), None);
}

fn what(records: &[u8], count: i32, last_delta: i32) -> &'static str {
    match validated(&around(records, count, last_delta), ANY) {
        Err(InvalidRecords::Record(error)) => error.what,
        Err(InvalidRecords::Disagrees { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_that_contradict_their_header_are_refused() {
    let three = [plain(0), plain(1), plain(2)].concat();
    assert!(validated(&around(&three, 3, 2), ANY).is_ok());
    assert_eq!(what(&three, 3, 5), "the record count is not the last offset delta plus one");
    assert_eq!(what(&three, 2, 1), "bytes after the last record that the header counts");
    assert_eq!(what(&three, 4, 3), "no length");
    assert_eq!(what(&[plain(0), plain(2)].concat(), 2, 1), "an offset beyond the batch's last");
    assert_eq!(what(&[plain(0), plain(0)].concat(), 2, 1), "an offset not above the one before");
    assert_eq!(what(&[plain(-1), plain(0)].concat(), 2, 1), "an offset not above the one before");
    assert_eq!(what(&[plain(1), plain(2)].concat(), 2, 1), "offset deltas do not count up by one");
    assert_eq!(what(&[], 0, 0), "no records");
    assert_eq!(what(&[plain(0), vec![8]].concat(), 2, 1), "longer than the batch");
}

#[test]
fn gaps_that_compaction_left_are_read_but_not_taken_from_a_producer() {
    let batch = around(&[plain(2), plain(7)].concat(), 2, 9);
    let deltas: Vec<_> =
        records(batch.header(), batch.bytes(), LIMIT).unwrap().iter().map(|r| r.unwrap().offset_delta).collect();
    assert_eq!(deltas, [2, 7]);
    assert!(validated(&batch, ANY).is_err());
}

#[test]
fn records_that_lie_inside_are_refused() {
    let many = number(MAX_RECORD_HEADERS as i64 + 1);
    let huge = number(i64::MAX);
    let zero: &[u8] = &[0, 0, 0];
    for (fields, expected) in [
        (vec![&[][..]], "cut short, or a length beyond its end"),
        (vec![zero], "cut short, or a length beyond its end"),
        (vec![zero, &huge], "cut short, or a length beyond its end"),
        (vec![zero, &[3]], "cut short, or a length beyond its end"),
        (vec![zero, &[1], &huge], "cut short, or a length beyond its end"),
        (vec![zero, &[1, 1], &[1]], "cut short, or a length beyond its end"),
        (vec![zero, &[1, 1], &many], "too many headers"),
        (vec![zero, &[1, 1], &huge], "too many headers"),
        (vec![zero, &[1, 1], &[2]], "a header that does not parse"),
        (vec![zero, &[1, 1], &[2, 1]], "a header that does not parse"),
        (vec![zero, &[1, 1], &[2, 0, 9]], "a header that does not parse"),
        (vec![zero, &[1, 1], &[0, 0]], "bytes left over at its end"),
        (vec![&[0, 0], &number(1 << 33), &[1, 1, 0]], "an offset delta beyond 32 bits"),
    ] {
        assert_eq!(what(&encoded(&fields), 1, 0), expected, "{fields:?}");
    }
    assert_eq!(what(&number(-5), 1, 0), "no length");
    assert_eq!(what(&number(i64::MAX), 1, 0), "longer than the batch");
}

#[test]
fn an_error_ends_the_records_and_says_where_it_is() {
    let batch = around(&[plain(0), vec![200]].concat(), 2, 1);
    let all: Vec<_> = records(batch.header(), batch.bytes(), LIMIT).unwrap().into_iter().collect();
    assert_eq!(all.len(), 2);
    let error = all[1].clone().unwrap_err();
    assert_eq!((error.index, error.at), (1, plain(0).len()));
}

#[test]
fn a_count_of_two_billion_takes_no_memory() {
    let batch = around(&plain(0), i32::MAX, i32::MAX - 1);
    let (result, taken) = peak(|| validated(&batch, ANY));
    assert!(result.is_err());
    assert!(taken < 1000, "{taken}");
}

#[test]
fn keys_are_required_where_they_are() {
    let mut builder = BatchBuilder::new(Codec::Snappy, None);
    builder.append(0, Some(b"k"), None, NO_HEADERS).unwrap();
    builder.append(0, Some(b""), Some(b"v"), NO_HEADERS).unwrap();
    builder.append(0, None, Some(b"v"), NO_HEADERS).unwrap();
    let batch = checked(builder.build(Stamp::NONE).unwrap());
    assert_eq!(validated(&batch, KEYED), Err(InvalidRecords::Keyless { index: 2 }));
    assert_eq!(validated(&batch, ANY).map(|summary| summary.count), Ok(3));
}

#[test]
fn a_batch_that_explodes_is_refused_at_the_bound() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec, None);
        builder.append(0, None, Some(&vec![0; 16 << 20]), NO_HEADERS).unwrap();
        let batch = checked(builder.build(Stamp::NONE).unwrap());
        let (result, taken) = peak(|| validated(&batch, ANY));
        let Err(InvalidRecords::Unreadable(error)) = result else { panic!("{codec}: {result:?}") };
        let expected = match codec {
            Codec::None => matches!(error, RecordsError::TooLarge { limit: LIMIT, .. }),
            _ => {
                matches!(error, RecordsError::Decompress { source: DecompressError::TooLarge { limit: LIMIT, .. }, .. })
            }
        };
        assert!(expected, "{codec}: {error}");
        assert!(taken <= LIMIT + DECOMPRESSOR_WORKSPACE_BYTES, "{codec}: {taken}");
    }
}

#[test]
fn an_unknown_codec_is_refused() {
    let batch = around(&plain(0), 1, 0);
    for id in 5..8 {
        let header = BatchHeader { attributes: i16::from(id), ..*batch.header() };
        let error = records(&header, batch.bytes(), LIMIT).map(drop).unwrap_err();
        assert_eq!(error, RecordsError::UnknownCodec { base_offset: header.base_offset, id });
    }
}

type Made = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn made() -> impl Strategy<Value = Made> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..140);
    let headers = prop::collection::vec((bytes(), prop::option::of(bytes())), 0..4);
    let time = prop_oneof![0..2_000_000_i64, any::<i32>().prop_map(i64::from)];
    (time, prop::option::of(bytes()), prop::option::of(bytes()), headers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_survive_the_trip(
        given in prop::collection::vec(made(), 1..12),
        codec in prop::sample::select(&Codec::ALL),
    ) {
        let mut builder = BatchBuilder::new(codec, None);
        for (time, key, value, headers) in &given {
            let pairs: Vec<(&[u8], &[u8])> =
                headers.iter().map(|(k, v)| (&k[..], v.as_deref().unwrap_or_default())).collect();
            let bound = BatchBuilder::size_bound(key.as_deref(), value.as_deref(), &pairs);
            let before = builder.len();
            let headers = headers.iter().map(|(k, v)| (&k[..], v.as_deref()));
            builder.append_nullable(*time, key.as_deref(), value.as_deref(), headers).unwrap();
            prop_assert!(builder.len() - before <= bound);
        }
        let len = builder.len();
        let batch = checked(builder.build(Stamp::NONE).unwrap());
        prop_assert!(codec != Codec::None || batch.len() == len);
        let header = *batch.header();
        prop_assert_eq!(header.base_timestamp, given[0].0);
        prop_assert_eq!(header.max_timestamp, given.iter().map(|g| g.0).max().unwrap());
        prop_assert_eq!(validated(&batch, ANY).map(|s| s.max_timestamp), Ok(header.max_timestamp));
        let set = records(&header, batch.bytes(), LIMIT).unwrap();
        let read: Vec<Made> = set.iter().map(|record| {
            let record = record.unwrap();
            let headers = record.headers().map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec))).collect();
            let time = header.base_timestamp + record.timestamp_delta;
            (time, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), headers)
        }).collect();
        prop_assert_eq!(&read, &given);
        // What is borrowed and what is owned are the same.
        for (borrowed, owned) in set.iter().zip(set.clone()) {
            let (borrowed, owned) = (borrowed.unwrap(), owned.unwrap());
            prop_assert_eq!(borrowed.key, owned.key.as_deref());
            prop_assert_eq!(borrowed.value, owned.value.as_deref());
            prop_assert_eq!(borrowed.header_count, owned.headers.len());
            for ((k, v), header) in borrowed.headers().zip(owned.headers.iter()) {
                prop_assert_eq!((k, v), (&header.key[..], header.value.as_deref()));
            }
        }
    }
}

/// Reads whatever there is; returns the memory that it took.
fn exhaust(header: &BatchHeader, batch: &Bytes, limit: usize) -> usize {
    let (_, taken) = peak(|| {
        let _valid = validate_records(header, batch, ValidateOptions { require_keys: true, max_len: limit });
        if let Ok(set) = records(header, batch, limit) {
            for record in set.into_iter().flatten() {
                assert_eq!(record.headers.iter().count(), record.headers.len());
            }
        }
    });
    taken
}

#[test]
fn flipped_bits_under_a_mended_crc_are_survived() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec, None);
        for i in 0..10 {
            builder.append(i, Some(b"key"), Some(b"some value"), &[("h", "x")]).unwrap();
        }
        let batch = checked(builder.build(Stamp::NONE).unwrap());
        for bit in HEADER_LEN * 8..batch.len() * 8 {
            let mut bytes = batch.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let taken = exhaust(batch.header(), &bytes.into(), 100_000);
            assert!(taken <= 100_000 + DECOMPRESSOR_WORKSPACE_BYTES, "{taken}");
        }
    }
}

#[test]
fn fuzz_records_from_nowhere() {
    bolero::check!().with_iterations(20_000).with_type::<(u8, u8, u8, Vec<u8>)>().for_each(
        |(codec, count, last, body)| {
            let batch = around(body, i32::from(*count), i32::from(*last));
            let header = BatchHeader { attributes: i16::from(*codec % 8), ..*batch.header() };
            let taken = exhaust(&header, batch.bytes(), 10_000);
            assert!(taken <= 10_000 + DECOMPRESSOR_WORKSPACE_BYTES, "{taken}");
        },
    );
}

#[test]
fn fuzz_batches_from_nowhere() {
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
        let given = Bytes::copy_from_slice(bytes);
        let (_, taken) = peak(|| {
            let mut sum = 0;
            for batch in split(given).map_while(Result::ok) {
                sum += batch.header().len;
                let _checked = batch.check();
            }
            assert!(sum <= bytes.len());
        });
        assert!(taken < 4096, "{taken}");
    });
}

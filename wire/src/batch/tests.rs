use proptest::prelude::*;

use super::*;
use crate::compress::Codec;
use crate::records::{BatchBuilder, Stamp};

fn batch(records: usize, stamp: Stamp) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, None);
    for i in 0..records {
        builder.append(1_700_000_000_000 + i as i64, Some(b"key"), Some(b"value"), &[("h", "x")]).unwrap();
    }
    builder.build(stamp).unwrap()
}

fn one(bytes: Bytes) -> Result<CheckedBatch, BatchError> {
    let mut batches = split(bytes);
    let first = batches.next().expect("something")?.check();
    assert!(batches.next().is_none());
    first
}

#[test]
fn the_crc_is_castagnoli() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    assert_eq!(crc32c(b""), 0);
}

/// The layout as the specification gives it, not as our builder writes it.
#[test]
fn a_header_is_read_field_by_field() {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&0x0102_0304_0506_0708_i64.to_be_bytes());
    bytes.extend_from_slice(&49_i32.to_be_bytes());
    bytes.extend_from_slice(&7_i32.to_be_bytes());
    bytes.push(2);
    bytes.extend_from_slice(&0xDEAD_BEEF_u32.to_be_bytes());
    bytes.extend_from_slice(&0x0034_i16.to_be_bytes());
    bytes.extend_from_slice(&9_i32.to_be_bytes());
    bytes.extend_from_slice(&1000_i64.to_be_bytes());
    bytes.extend_from_slice(&2000_i64.to_be_bytes());
    bytes.extend_from_slice(&77_i64.to_be_bytes());
    bytes.extend_from_slice(&3_i16.to_be_bytes());
    bytes.extend_from_slice(&55_i32.to_be_bytes());
    bytes.extend_from_slice(&10_i32.to_be_bytes());
    let header = BatchHeader::read(&bytes, 0).unwrap();
    let expected = BatchHeader {
        base_offset: Offset(0x0102_0304_0506_0708),
        len: 61,
        leader_epoch: LeaderEpoch(7),
        crc: 0xDEAD_BEEF,
        attributes: 0x34,
        last_offset_delta: 9,
        base_timestamp: 1000,
        max_timestamp: 2000,
        producer_id: 77,
        producer_epoch: 3,
        base_sequence: 55,
        record_count: 10,
    };
    assert_eq!(header, expected);
    assert!(header.is_control() && header.is_transactional());
    assert_eq!(header.compression(), 4);
    assert_eq!(header.producer(), Some(ProducerId(77)));
    assert_eq!(header.last_offset(), Offset(0x0102_0304_0506_0711));
    assert_eq!(header.next_offset(), Offset(0x0102_0304_0506_0712));
}

#[test]
fn batches_are_cut_apart_without_copying() {
    let whole = Bytes::from([batch(1, Stamp::NONE), batch(5, Stamp::NONE), batch(2, Stamp::NONE)].concat());
    let inside = whole.as_ptr_range();
    let cut: Vec<_> = split(whole.clone()).map(|batch| batch.unwrap().check().unwrap()).collect();
    assert_eq!(cut.iter().map(|b| b.header().record_count).collect::<Vec<_>>(), [1, 5, 2]);
    assert!(cut.iter().all(|batch| inside.contains(&batch.bytes().as_ptr())));
    assert_eq!(cut.iter().map(CheckedBatch::len).sum::<usize>(), whole.len());
    assert!(split(Bytes::new()).next().is_none());
}

#[test]
fn every_prefix_is_an_error_and_nothing_comes_after_it() {
    let whole = batch(3, Stamp::NONE);
    for len in 1..whole.len() {
        let mut batches = split(whole.slice(..len));
        let error = batches.next().unwrap().map(drop).unwrap_err();
        assert!(matches!(error, BatchError::Truncated { at: 0, have, .. } if have == len), "{error}");
        assert!(batches.next().is_none());
    }
}

#[test]
fn an_error_says_where_the_batch_stands() {
    let good = batch(1, Stamp::NONE);
    let mut second = good.to_vec();
    let last = second.len() - 1;
    second[last] ^= 1;
    let mut batches = split([&good[..], &second].concat().into());
    assert!(batches.next().unwrap().unwrap().check().is_ok());
    let error = batches.next().unwrap().unwrap().check().unwrap_err();
    assert!(matches!(error, BatchError::Crc { at, .. } if at == good.len()), "{error}");
}

/// Base offset and leader epoch are the log's to set, so they lie outside the CRC (INV-3); anything else is noticed (INV-6).
#[test]
fn a_flipped_bit_is_noticed_wherever_it_is_not_the_logs() {
    let whole = batch(3, Stamp { producer_id: 1, producer_epoch: 0, base_sequence: 0 });
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let of_the_log = matches!(bit / 8, 0..8 | 12..16);
        let shorter = (8..12).contains(&(bit / 8));
        let result = split(bytes.into()).next().unwrap().and_then(RawBatch::check);
        assert_eq!(result.is_ok(), of_the_log, "byte {}: {result:?}", bit / 8);
        assert!(!shorter || result.is_err());
    }
}

#[test]
fn formats_before_v2_are_told_apart_even_when_short() {
    let mut old = vec![0; 30];
    for magic in [0, 1, 3, 127, -1] {
        old[16] = i8::cast_unsigned(magic);
        assert_eq!(BatchHeader::read(&old, 5), Err(BatchError::Magic { at: 5, magic }));
    }
}

#[test]
fn lengths_and_counts_that_make_no_sense_are_refused() {
    let good = batch(1, Stamp::NONE);
    let with = |at: usize, value: i32| {
        let mut bytes = good.to_vec();
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        split(bytes.into()).next().unwrap().map(drop).unwrap_err()
    };
    for length in [0, -1, i32::MIN, 48] {
        assert!(matches!(with(8, length), BatchError::Header { .. }), "{length}");
    }
    assert!(matches!(with(8, i32::MAX), BatchError::Truncated { .. }));
    assert!(matches!(with(23, -1), BatchError::Header { .. }));
    assert!(matches!(with(57, -1), BatchError::Header { .. }));
}

#[test]
fn a_batch_is_written_with_its_place_and_otherwise_as_it_came() {
    let checked = one(batch(3, Stamp::NONE)).unwrap();
    let mut target = vec![0xEE; checked.len() + 10];
    let header = checked.write_at(Offset(1 << 40), LeaderEpoch(12), &mut target).unwrap();
    assert_eq!((header.base_offset, header.leader_epoch), (Offset(1 << 40), LeaderEpoch(12)));
    assert_eq!(header.last_offset(), Offset((1 << 40) + 2));
    let (written, after) = target.split_at(checked.len());
    assert!(after.iter().all(|byte| *byte == 0xEE));
    assert_eq!(BatchHeader::read(written, 0), Ok(header));
    assert_eq!(written[16..], checked.bytes()[16..]);
    assert!(one(Bytes::copy_from_slice(written)).is_ok());
    let mut short = vec![0; checked.len() - 1];
    assert_eq!(checked.write_at(Offset::ZERO, LeaderEpoch(0), &mut short), None);
    assert!(short.iter().all(|byte| *byte == 0));
}

#[test]
fn offsets_do_not_overflow() {
    let header = BatchHeader { base_offset: Offset(i64::MAX), ..*one(batch(3, Stamp::NONE)).unwrap().header() };
    assert_eq!((header.last_offset(), header.next_offset()), (Offset(i64::MAX), Offset(i64::MAX)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_follows_a_header_is_cut_within_its_bytes(
        header in prop::collection::vec(any::<u8>(), HEADER_LEN),
        length in prop_oneof![any::<i32>(), 49..200_i32],
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = [header, rest].concat();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        let total = bytes.len();
        for raw in split(bytes.into()).flatten() {
            prop_assert!(raw.header().len <= total);
            prop_assert!(raw.header().record_count >= 0 && raw.header().last_offset_delta >= 0);
            let _checked = raw.check();
        }
    }
}

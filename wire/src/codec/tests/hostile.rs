//! Frames that lie. Every one ends in an error, and takes no memory to speak of (INV-8).

use super::samples::{Form, Place};
use super::*;
use crate::codec::schema::{self, Problem};
use crate::limits::{MAX_CONTROL_FRAME_BYTES, MAX_REQUEST_ELEMENTS, MAX_TAGGED_FIELDS};
use crate::meter::peak;
use bytes::{BufMut, BytesMut};

/// Messages of an error, and its path.
const ERROR_BYTES: usize = 4096;

/// What a frame of so many bytes may take when it is decoded: the smallest elements become structs some 40 times as large,
/// and a struct with an unknown tagged field gets a map node.
pub(super) fn decode_bound(len: usize) -> usize {
    ERROR_BYTES + 64 * len + 640 * len.min(MAX_TAGGED_FIELDS)
}

fn decode(
    direction: Direction,
    message: &'static Message,
    version: i16,
    body: &[u8],
) -> (Result<(), DecodeError>, usize) {
    match direction {
        Direction::Request => {
            let frame = request_frame(message, version, body);
            peak(|| decode_request(frame).map(drop))
        }
        Direction::Response => {
            let frame = response_frame(message, version, body);
            // Of a response that decodes, the second encoding is measured as well; those are not hostile.
            peak(|| decode_any_response(message.api_key, version, frame).map(drop))
        }
    }
}

#[test]
fn every_count_and_length_that_lies_is_refused_without_memory() {
    let lies = [i32::MAX as u32, 0x7FFF_FFFE, 1 << 28, 1 << 20, 0xFFFF_FFFE, 0x8000_0000, 0x8000_0001];
    let mut told = 0;
    for direction in [Direction::Request, Direction::Response] {
        each_sample(direction, 6, |message, version, sample| {
            if direction == Direction::Request && !is_served(message, version) {
                return;
            }
            for place in &sample.places {
                for lie in lies {
                    if place.form == Form::Short && (lie as u16).cast_signed() < 1000 {
                        continue;
                    }
                    let body = sample.with(*place, lie);
                    let name = format!("{} v{version} at {}: {lie:#x}", message.name, place.at);
                    let (result, bytes) = decode(direction, message, version, &body);
                    let Err(DecodeError::Malformed(fault)) = result else { panic!("{name}: {result:?}") };
                    // A count is refused where it stands, before any element is looked at.
                    let early = !matches!(fault.problem, Problem::Truncated | Problem::TooManyElements);
                    assert!(early, "{name}: {fault}");
                    assert!(bytes <= ERROR_BYTES, "{name} took {bytes} bytes");
                    told += 1;
                }
            }
        });
    }
    assert!(told > 50_000, "{told}");
}

#[test]
fn a_count_of_one_too_many_never_passes_for_sound() {
    each_sample(Direction::Request, 4, |message, version, sample| {
        if !is_served(message, version) {
            return;
        }
        for place in sample.places.iter().filter(|place| place.is_count) {
            let remaining = sample.bytes.len() - place.at - place.len;
            let body = sample.with(*place, remaining as u32 + 1);
            let (result, bytes) = decode(Direction::Request, message, version, &body);
            assert!(matches!(result, Err(DecodeError::Malformed(_))), "{} v{version} at {}", message.name, place.at);
            assert!(bytes <= ERROR_BYTES, "{bytes}");
        }
    });
}

#[test]
fn every_prefix_is_refused() {
    for direction in [Direction::Request, Direction::Response] {
        each_sample(direction, 3, |message, version, sample| {
            if direction == Direction::Request && !is_served(message, version) {
                return;
            }
            for len in 0..sample.bytes.len() {
                let body = &sample.bytes[..len];
                let (result, bytes) = decode(direction, message, version, body);
                assert!(result.is_err(), "{} v{version}: {len} of {}", message.name, sample.bytes.len());
                assert!(bytes <= ERROR_BYTES, "{bytes}");
            }
        });
    }
}

#[test]
fn every_prefix_of_a_header_is_refused() {
    let message = schema::find(Direction::Request, 3, 12).unwrap();
    let frame = request_frame(message, 12, &[]);
    for len in 0..frame.len() {
        assert!(matches!(decode_request(frame.slice(..len)), Err(DecodeError::Header { .. })), "{len}");
        assert!(len >= 5 || decode_response::<messages::MetadataRequest>(frame.slice(..len), 12).is_err());
    }
}

#[test]
fn flipped_bits_neither_panic_nor_take_memory() {
    for direction in [Direction::Request, Direction::Response] {
        each_sample(direction, 2, |message, version, sample| {
            if direction == Direction::Request && !is_served(message, version) {
                return;
            }
            let mut random = Random(sample.bytes.len() as u64);
            for at in 0..sample.bytes.len() {
                let mut body = sample.bytes.clone();
                body[at] ^= 1 << random.below(8);
                let walked = schema::walk(direction, message, version, &body);
                let (result, bytes) = decode(direction, message, version, &body);
                let name = format!("{} v{version}, byte {at}", message.name);
                // Nothing that the walk refused is decoded, but for ApiVersions with error 35.
                assert!(walked.is_ok() || result.is_err() || message.api_key == 18, "{name}");
                assert!(bytes <= decode_bound(body.len()), "{name} took {bytes} of {}", body.len());
            }
        });
    }
}

#[test]
fn a_fault_is_named_by_path_and_position() {
    let message = schema::find(Direction::Request, 0, 9).unwrap();
    let mut body = BytesMut::new();
    body.put_slice(&[0, 0, 1, 0, 0, 0, 0]); // no transactional id, acks, timeout
    body.put_slice(&[2, 2, b't', 2]); // one topic, one partition
    body.put_slice(&[0, 0, 0, 5, 0xFF, 0xFF, 0x03, 9]); // index, records of 65,534 bytes, one there
    let fault = schema::walk(Direction::Request, message, 9, &body).unwrap_err();
    assert_eq!(fault.path, "topic_data[0].partition_data[0].records");
    assert_eq!(fault.problem, Problem::Length { declared: 65_534, remaining: 1 });
    assert_eq!(fault.at, body.len() - 1);
    assert_eq!(
        fault.to_string(),
        "ProduceRequest v9: topic_data[0].partition_data[0].records at byte 18: 65534 bytes declared, 1 there"
    );
}

#[test]
fn all_elements_of_a_request_together_are_bounded() {
    let count = MAX_REQUEST_ELEMENTS;
    // OffsetDelete: one group, one topic, many partitions of four bytes.
    let frame = |partitions: usize| {
        let mut frame = BytesMut::from(&b"\0\x2f\0\0\0\0\0\x01\xff\xff\0\x01g\0\0\0\x01\0\x01t"[..]);
        frame.put_i32(partitions as i32);
        frame.put_bytes(0, partitions * 4);
        frame.freeze()
    };
    assert!(decode_request(frame(count - 1)).is_ok());
    let (result, bytes) = peak(|| decode_request(frame(count)));
    let Err(DecodeError::Malformed(fault)) = result else { panic!("{result:?}") };
    assert_eq!((fault.problem, fault.path.as_str()), (Problem::TooManyElements, "topics[0].partitions"));
    assert!(bytes <= ERROR_BYTES + count * 4 * 3, "{bytes}");
}

#[test]
fn tagged_fields_are_bounded_in_number_and_held_to_their_length() {
    let message = schema::find(Direction::Request, 60, 0).unwrap();
    let walk = |tags: &[u8]| {
        let mut body = vec![0];
        body.extend_from_slice(tags);
        schema::walk(Direction::Request, message, 0, &body).map_err(|fault| fault.problem)
    };
    assert_eq!(walk(&[1, 90, 2, 0, 0]), Ok(6));
    assert_eq!(walk(&[1, 90, 3, 0, 0]), Err(Problem::Length { declared: 3, remaining: 2 }));
    assert_eq!(walk(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]), Err(Problem::TooManyTaggedFields));
    assert_eq!(walk(&[0xFF, 0xFF, 0xFF, 0xFF, 0x1F]), Err(Problem::Varint));
    assert_eq!(walk(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0]), Err(Problem::Varint));
    // A known tag whose content is shorter than it says: Fetch's cluster id.
    let fetch = schema::find(Direction::Request, 1, 12).unwrap();
    let mut body = vec![0; 4 + 4 + 4 + 4 + 1 + 4 + 4];
    body.extend_from_slice(&[1, 1, 1]); // no topics, none forgotten, no rack
    let known = |content: &[u8]| [&body, content].concat();
    assert_eq!(schema::walk(Direction::Request, fetch, 12, &known(&[1, 0, 2, 2, b'c'])), Ok(body.len() + 5));
    let lying = schema::walk(Direction::Request, fetch, 12, &known(&[1, 0, 3, 2, b'c', 0])).unwrap_err();
    assert_eq!((lying.problem, lying.path.as_str()), (Problem::TagLength, "tag 0"));
}

#[test]
fn a_control_request_as_long_as_a_produce_may_be_is_refused() {
    let mut frame = BytesMut::zeroed(MAX_CONTROL_FRAME_BYTES + 1);
    frame[..4].copy_from_slice(&[0, 3, 0, 1]);
    assert!(matches!(decode_request(frame.freeze()), Err(DecodeError::TooLarge { api_key: 3, .. })));
}

#[test]
fn places_are_what_they_are_taken_for() {
    let message = schema::find(Direction::Request, 3, 1).unwrap();
    let sample = sample(message, 1, &mut Random(1));
    let first: Place = sample.places[0];
    assert_eq!((first.at, first.len, first.form, first.is_count), (0, 4, Form::Long, true));
}

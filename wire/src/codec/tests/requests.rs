//! The seam itself: what is well formed passes, unchanged, in every version; and which versions those are.

use super::*;
use crate::codec::schema::{self, Field, Kind};
use crate::limits::MAX_NESTING;
use bytes::{BufMut, BytesMut};
use messages::{ApiVersionsRequest, MetadataRequest, ProduceRequest};

#[test]
fn the_walk_takes_exactly_what_the_schema_writes() {
    for direction in [Direction::Request, Direction::Response] {
        each_sample(direction, 30, |message, version, sample| {
            let walked = schema::walk(direction, message, version, &sample.bytes);
            assert_eq!(walked, Ok(sample.bytes.len()), "{} v{version}", message.name);
        });
    }
}

#[test]
fn every_served_request_decodes_and_encodes_to_the_same_again() {
    let mut seen = 0;
    each_sample(Direction::Request, 30, |message, version, sample| {
        if !is_served(message, version) {
            return;
        }
        seen += 1;
        let frame = request_frame(message, version, &sample.bytes);
        let request = decode_request(frame).unwrap_or_else(|error| panic!("{} v{version}: {error}", message.name));
        assert_eq!(request.header.client_id.as_deref(), Some("me"));
        assert_eq!(request.header.correlation_id, 7);
        assert_eq!(request.header.api_key, request.body.api_key());
        let again = decode_request(encode_any_request(&request).slice(4..)).expect("decodes what it encoded");
        assert_eq!(again, request, "{} v{version}", message.name);
    });
    assert!(seen > 2000, "{seen}");
}

#[test]
fn every_response_decodes_and_encodes_to_the_same_again() {
    each_sample(Direction::Response, 30, |message, version, sample| {
        // An ApiVersions response with error 35 is one of version 0, whatever was asked.
        if message.api_key == ApiKey::ApiVersions as i16 && sample.bytes.starts_with(&35_i16.to_be_bytes()) {
            return;
        }
        let frame = response_frame(message, version, &sample.bytes);
        assert_eq!(correlation_id(&frame), Some(7));
        let once = decode_any_response(message.api_key, version, frame);
        let once = once.unwrap_or_else(|error| panic!("{} v{version}: {error}", message.name));
        let twice = decode_any_response(message.api_key, version, once.slice(4..)).expect("decodes what it encoded");
        assert_eq!(once, twice, "{} v{version}", message.name);
    });
}

#[test]
fn only_what_can_be_decoded_is_served_and_both_tables_agree() {
    let keys: Vec<i16> = api_versions().iter().map(|served| served.api as i16).collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    let known: Vec<i16> = REQUESTS.iter().map(|message| message.api_key).collect();
    assert_eq!(keys, known);
    for served in api_versions() {
        let mut crate_versions = served.api.valid_versions();
        if matches!(served.api, ApiKey::ShareFetch | ApiKey::ShareAcknowledge) {
            // Version 2 is made here.
            crate_versions.max = 2;
        }
        assert!(served.min_version >= crate_versions.min && served.max_version <= crate_versions.max, "{served:?}");
        assert!(served.advertised_min_version <= served.min_version);
        for version in served.min_version..=served.max_version {
            let key = served.api as i16;
            let request = schema::find(Direction::Request, key, version).expect("a known request");
            let response = schema::find(Direction::Response, key, version).expect("a known response");
            assert_eq!(served.api.request_header_version(version), if request.is_flexible(version) { 2 } else { 1 });
            let tags = response.is_flexible(version) && served.api != ApiKey::ApiVersions;
            assert_eq!(served.api.response_header_version(version), i16::from(tags), "{served:?}");
            assert!(can_decode_response(served.api, version));
        }
    }
    let produce = served_api(0).expect("Produce is served");
    assert_eq!((produce.advertised_min_version, produce.min_version), (0, 3));
    assert_eq!(served_api(4), None);
}

#[test]
fn no_message_is_nested_deeper_than_the_limit() {
    fn depth(fields: &[Field]) -> usize {
        fn of(kind: &Kind) -> usize {
            match kind {
                Kind::Array(element) => 1 + of(element),
                Kind::Struct(fields) => depth(fields),
                Kind::Fixed(_) | Kind::String | Kind::Bytes | Kind::Records => 0,
            }
        }
        1 + fields.iter().map(|field| of(&field.kind)).max().unwrap_or(0)
    }
    let deepest = REQUESTS.iter().chain(RESPONSES).map(|message| depth(message.fields)).max();
    assert!(deepest.is_some_and(|deepest| deepest <= MAX_NESTING), "{deepest:?}");
}

fn bare(api_key: i16, version: i16) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i16(api_key);
    frame.put_i16(version);
    frame.put_i32(99);
    frame.put_i16(-1);
    frame.freeze()
}

#[test]
fn an_unknown_version_of_api_versions_is_told_apart() {
    for version in [5, 6, 100, i16::MAX, -1] {
        let error = DecodeError::ApiVersionsVersion { api_version: version, correlation_id: 99 };
        assert_eq!(decode_request(bare(18, version)), Err(error));
    }
}

#[test]
fn what_is_not_served_is_refused() {
    for (api_key, api_version) in [(0, 0), (0, 2), (0, 14), (1, 3), (1, 18), (8, 10), (9, 0), (4, 0), (999, 0), (-1, 0)]
    {
        let error = DecodeError::UnsupportedVersion { api_key, api_version, correlation_id: 99 };
        assert_eq!(decode_request(bare(api_key, api_version)), Err(error));
    }
}

#[test]
fn a_refused_api_versions_response_is_read_in_version_0() {
    let list = vec![messages::api_versions_response::ApiVersion::default().with_api_key(18).with_max_version(3)];
    let refusal = messages::ApiVersionsResponse::default().with_error_code(35).with_api_keys(list);
    let frame = encode_response(0, 5, &refusal).unwrap();
    let (id, read) = decode_response::<ApiVersionsRequest>(frame.slice(4..), 4).unwrap();
    assert_eq!((id, read.error_code, read.api_keys.len()), (5, 35, 1));
}

#[test]
fn records_are_slices_of_the_frame() {
    let records = Bytes::from(vec![0xAB; 10_000]);
    let partition = messages::produce_request::PartitionProduceData::default().with_records(Some(records.clone()));
    let topic = messages::produce_request::TopicProduceData::default().with_partition_data(vec![partition]);
    for version in 3..=13 {
        let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic.clone()]);
        let frame = encode_request(1, None, version, &request).unwrap();
        assert_eq!(frame.first_chunk::<4>(), Some(&(frame.len() as i32 - 4).to_be_bytes()));
        let inside = frame.as_ptr_range();
        let decoded = decode_request(frame.slice(4..)).unwrap();
        assert_eq!(decoded.header.client_id, None);
        let RequestBody::Produce(produce) = decoded.body else { panic!("not a Produce") };
        let found = produce.topic_data[0].partition_data[0].records.clone().unwrap();
        assert_eq!(found, records);
        assert!(inside.contains(&found.as_ptr()), "copied");
    }
}

#[test]
fn bytes_after_the_body_are_tolerated_as_kafka_does() {
    let frame = encode_request(1, None, 1, &MetadataRequest::default().with_topics(None)).unwrap();
    let mut longer = BytesMut::from(&frame[4..]);
    longer.put_slice(b"more");
    assert!(decode_request(longer.freeze()).is_ok());
}

#[test]
fn a_field_that_the_version_does_not_have_is_not_encoded_silently() {
    let request = MetadataRequest::default().with_topics(None).with_include_topic_authorized_operations(true);
    let error = encode_request(1, None, 1, &request).unwrap_err();
    assert!(matches!(error, EncodeError::Refused { api_key: 3, version: 1, .. }), "{error}");
}

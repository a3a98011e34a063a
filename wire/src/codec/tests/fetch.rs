//! The hand-written Fetch response against the crate's decoder, in every version.

use super::*;
use crate::codec::messages::fetch_response as wire;
use uuid::Uuid;

fn head(version: i16, topics: usize) -> FetchResponseHead {
    FetchResponseHead { version, correlation_id: 42, throttle_time_ms: 3, error_code: 0, session_id: 77, topics }
}

const ABORTED: [AbortedTransaction; 2] = [
    AbortedTransaction { producer_id: 9, first_offset: 100 },
    AbortedTransaction { producer_id: 10, first_offset: 300 },
];
const NODE: NodeEndpoint<'_> = NodeEndpoint { node_id: 2, host: "node-2.example", port: 9092, rack: Some("b") };

fn write(version: i16, chunks: &[Bytes]) -> Vec<Bytes> {
    let mut writer = FetchResponseWriter::new(&head(version, 2)).unwrap();
    writer.topic("first", Uuid::from_u128(1), 3).unwrap();
    writer.partition(&FetchPartition::new(0, 500, 400, 10), chunks.iter().cloned()).unwrap();
    writer.partition(&FetchPartition::error(1, 6), []).unwrap();
    let full = FetchPartition {
        aborted: Some(&ABORTED),
        preferred_read_replica: 2,
        diverging: Some((4, 50)),
        leader: Some(LeaderHint { leader_id: 2, leader_epoch: 8 }),
        ..FetchPartition::new(2, 7, 7, 0)
    };
    writer.partition(&full, [chunks[0].clone()]).unwrap();
    writer.topic("second", Uuid::from_u128(2), 1).unwrap();
    writer.partition(&FetchPartition::new(0, 0, 0, 0), [Bytes::new()]).unwrap();
    let len = writer.len();
    let plain = NodeEndpoint { node_id: 3, rack: None, ..NODE };
    let written = writer.finish(&[NODE, plain]).unwrap();
    assert!(written.iter().map(Bytes::len).sum::<usize>() >= len);
    written
}

fn expected(version: i16, chunks: &[Bytes]) -> messages::FetchResponse {
    let since = |first: i16| version >= first;
    let partition = |index, high: i64, stable: i64, start: i64, records: &[u8]| {
        wire::PartitionData::default()
            .with_partition_index(index)
            .with_high_watermark(high)
            .with_last_stable_offset(stable)
            .with_log_start_offset(if since(5) { start } else { -1 })
            .with_aborted_transactions(None)
            .with_records(Some(Bytes::copy_from_slice(records)))
    };
    let mut full = partition(2, 7, 7, 0, &chunks[0]);
    let aborted = |t: &AbortedTransaction| {
        wire::AbortedTransaction::default().with_producer_id(t.producer_id.into()).with_first_offset(t.first_offset)
    };
    full.aborted_transactions = Some(ABORTED.iter().map(aborted).collect());
    if since(11) {
        full.preferred_read_replica = 2.into();
    }
    if since(12) {
        full.diverging_epoch = wire::EpochEndOffset::default().with_epoch(4).with_end_offset(50);
        full.current_leader = wire::LeaderIdAndEpoch::default().with_leader_id(2.into()).with_leader_epoch(8);
    }
    let topic = |name: &'static str, id: u128, partitions| {
        let topic = wire::FetchableTopicResponse::default().with_partitions(partitions);
        if since(13) {
            topic.with_topic_id(Uuid::from_u128(id))
        } else {
            topic.with_topic(StrBytes::from_static_str(name).into())
        }
    };
    let failed = partition(1, -1, -1, -1, b"").with_error_code(6);
    let first = vec![partition(0, 500, 400, 10, &chunks.concat()), failed, full];
    let mut response = messages::FetchResponse::default()
        .with_throttle_time_ms(3)
        .with_session_id(if since(7) { 77 } else { 0 })
        .with_responses(vec![topic("first", 1, first), topic("second", 2, vec![partition(0, 0, 0, 0, b"")])]);
    if since(16) {
        let node = |id: i32, rack: Option<&'static str>| {
            wire::NodeEndpoint::default()
                .with_node_id(id.into())
                .with_host(StrBytes::from_static_str("node-2.example"))
                .with_port(9092)
                .with_rack(rack.map(StrBytes::from_static_str))
        };
        response.node_endpoints = vec![node(2, Some("b")), node(3, None)];
    }
    response
}

#[test]
fn every_version_is_read_as_it_was_meant() {
    for chunks in
        [vec![Bytes::from_static(b"one batch")], vec![Bytes::from(vec![1; 300]), Bytes::from(vec![2; 70_000])]]
    {
        for version in 4..=18 {
            let frame = write(version, &chunks).concat();
            assert_eq!(frame.first_chunk::<4>(), Some(&(frame.len() as i32 - 4).to_be_bytes()));
            let body = Bytes::from(frame).slice(4..);
            let (id, read) = decode_response::<messages::FetchRequest>(body.clone(), version).unwrap();
            assert_eq!((id, &read), (42, &expected(version, &chunks)), "v{version}");
            let again = encode_response(version, 42, &read).unwrap();
            assert_eq!(again.slice(4..), body, "v{version}: the crate writes the same bytes");
        }
    }
}

#[test]
fn records_are_passed_on_and_not_copied() {
    let chunks = [Bytes::from(vec![1; 1000]), Bytes::from(vec![2; 2000])];
    for version in [4, 12, 17] {
        let written = write(version, &chunks);
        for chunk in &chunks {
            assert!(written.iter().any(|w| w.as_ptr() == chunk.as_ptr() && w.len() == chunk.len()), "v{version}");
        }
    }
}

#[test]
fn nothing_to_say_is_a_valid_response() {
    for version in 4..=18 {
        let frame = FetchResponseWriter::new(&head(version, 0)).unwrap().finish(&[]).unwrap();
        assert_eq!(frame.len(), 1);
        let (_, read) = decode_response::<messages::FetchRequest>(frame[0].slice(4..), version).unwrap();
        assert!(read.responses.is_empty());
    }
}

#[test]
fn what_was_announced_must_come() {
    let begin = || {
        let mut writer = FetchResponseWriter::new(&head(17, 2)).unwrap();
        writer.topic("t", Uuid::nil(), 2).unwrap();
        writer.partition(&FetchPartition::error(0, 3), []).unwrap();
        writer
    };
    let partitions = EncodeError::Count { what: "partitions", announced: 2, written: 1 };
    assert_eq!(begin().topic("u", Uuid::nil(), 0), Err(partitions.clone()));
    assert_eq!(begin().finish(&[]), Err(partitions));
    let mut writer = begin();
    writer.partition(&FetchPartition::error(1, 3), []).unwrap();
    assert_eq!(writer.finish(&[]), Err(EncodeError::Count { what: "topics", announced: 2, written: 1 }));
    assert!(FetchResponseWriter::new(&head(3, 0)).is_err());
    assert!(FetchResponseWriter::new(&head(19, 0)).is_err());
}

#[test]
fn a_response_larger_than_a_frame_is_refused() {
    let chunk = Bytes::from(vec![0; 1 << 20]);
    let mut writer = FetchResponseWriter::new(&head(12, 1)).unwrap();
    writer.topic("t", Uuid::nil(), 1).unwrap();
    let many = std::iter::repeat_n(chunk, 101);
    let result = writer.partition(&FetchPartition::new(0, 1, 1, 0), many);
    assert!(matches!(result, Err(EncodeError::TooLarge { .. })), "{result:?}");
}

#[test]
fn produce_responses_survive_the_trip_in_every_version() {
    use messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
    for version in 3..=13 {
        let mut partition = PartitionProduceResponse::default().with_index(3).with_base_offset(1 << 40);
        if version >= 5 {
            partition.log_start_offset = 12;
        }
        if version >= 8 {
            partition.error_message = Some(StrBytes::from_static_str("why"));
        }
        let mut topic = TopicProduceResponse::default().with_partition_responses(vec![partition]);
        if version >= 13 {
            topic.topic_id = Uuid::from_u128(5);
        } else {
            topic.name = StrBytes::from_static_str("t").into();
        }
        let response = messages::ProduceResponse::default().with_responses(vec![topic]).with_throttle_time_ms(1);
        let frame = encode_response(version, 11, &response).unwrap();
        let read = decode_response::<messages::ProduceRequest>(frame.slice(4..), version).unwrap();
        assert_eq!(read, (11, response), "v{version}");
    }
}

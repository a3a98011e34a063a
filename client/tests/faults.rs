//! Faults against Apache Kafka: the broker is killed and restarted under load, and connections are cut at any byte. Nothing
//! acknowledged is lost, nothing is there twice, the order is kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::kafka::{Kafka, skip};
use support::node::{Node, free_port};
use support::proxy::Proxy;
use support::{connect, topic, until, within};
use wherry_client::{
    Client, Codec, ConsumerConfig, OffsetReset, ProduceRecord, ProducerConfig, RecordMetadata, TopicPartition,
};

const TEST: Duration = Duration::from_secs(150);
const PARTITIONS: i32 = 3;

/// Sends numbered records to every partition until told to stop; returns the receipts, each with its number.
async fn load(
    client: Client,
    config: ProducerConfig,
    topic: Arc<str>,
    total: u64,
    acknowledged: Arc<AtomicU64>,
) -> Vec<(u64, RecordMetadata)> {
    let producer = client.producer(config).await.unwrap();
    let mut waiting = Vec::new();
    for number in 0..total {
        let partition = i32::try_from(number % 3).unwrap();
        let mut value = number.to_be_bytes().to_vec();
        value.resize(200, 0);
        let delivery = producer.send(ProduceRecord::new(topic.clone(), value).partition(partition)).await.unwrap();
        let acknowledged = acknowledged.clone();
        waiting.push(tokio::spawn(async move {
            let receipt = delivery.await.unwrap();
            acknowledged.fetch_add(1, Ordering::SeqCst);
            (number, receipt)
        }));
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let mut receipts = Vec::new();
    for one in waiting {
        receipts.push(one.await.unwrap());
    }
    producer.close().await.unwrap();
    receipts
}

/// Reads everything back: each partition holds exactly its numbers, in order, at the offsets that the receipts named.
async fn verify(client: &Client, topic: &Arc<str>, total: u64, receipts: &[(u64, RecordMetadata)]) {
    assert_eq!(receipts.len(), usize::try_from(total).unwrap());
    // Small answers, so that one fits into what the proxy lets through.
    let config = ConsumerConfig {
        auto_offset_reset: OffsetReset::Earliest,
        fetch_max_bytes: 100_000,
        partition_max_bytes: 30_000,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).await.unwrap();
    let places: Vec<_> = (0..PARTITIONS).map(|p| TopicPartition::new(topic.clone(), p)).collect();
    consumer.assign(&places).await.unwrap();
    let mut next: Vec<u64> = vec![0, 1, 2];
    let mut seen = 0;
    while seen < total {
        for record in consumer.poll(1000).await.unwrap() {
            let number = u64::from_be_bytes(record.value.unwrap()[..8].try_into().unwrap());
            let expected = &mut next[usize::try_from(record.partition).unwrap()];
            assert_eq!(number, *expected, "partition {} offset {}", record.partition, record.offset);
            *expected += 3;
            seen += 1;
            let (sent, receipt) = &receipts[usize::try_from(number).unwrap()];
            assert_eq!((*sent, receipt.partition), (number, record.partition));
            assert!(receipt.offset == -1 || receipt.offset == record.offset, "{receipt:?} at {}", record.offset);
        }
    }
    let nothing = tokio::time::timeout(Duration::from_millis(500), consumer.poll(1)).await;
    assert!(nothing.is_err(), "more than was sent: {nothing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_loses_and_repeats_nothing() {
    if skip() {
        return;
    }
    within("kill -9", TEST, async {
        let kafka = Arc::new(tokio::task::spawn_blocking(Kafka::start).await.unwrap());
        let client = connect(&kafka.address()).await;
        let topic = topic(&client, "kill", PARTITIONS).await;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let total = 40_000;
        let config = ProducerConfig { batch_bytes: 4000, ..ProducerConfig::default() };
        let work = tokio::spawn(load(client.clone(), config, topic.clone(), total, acknowledged.clone()));
        for round in 1..=2u64 {
            let target = round * 9000;
            until("progress", async || acknowledged.load(Ordering::SeqCst) > target).await;
            let kafka = kafka.clone();
            tokio::task::spawn_blocking(move || {
                kafka.kill();
                kafka.restart();
            })
            .await
            .unwrap();
        }
        let receipts = work.await.unwrap();
        verify(&client, &topic, total, &receipts).await;
        let kafka = Arc::into_inner(kafka);
        tokio::task::spawn_blocking(move || drop(kafka)).await.unwrap();
    })
    .await;
}

/// Through a proxy that cuts every connection at a random byte, in either direction.
async fn cuts(proxy: Proxy) {
    let client = connect(&format!("127.0.0.1:{}", proxy.port)).await;
    for (codec, reach) in [(Codec::None, 30_000), (Codec::Zstd, 3000)] {
        proxy.stop_cutting();
        let topic = topic(&client, codec.name(), PARTITIONS).await;
        let before = proxy.cuts();
        proxy.cut_within(reach);
        let acknowledged = Arc::new(AtomicU64::new(0));
        let total = 6_000;
        let config = ProducerConfig { codec, batch_bytes: 4000, ..ProducerConfig::default() };
        let receipts = load(client.clone(), config, topic.clone(), total, acknowledged).await;
        assert!(proxy.cuts() > before + 5, "the proxy hardly cut: {}", proxy.cuts());
        proxy.cut_within(400_000);
        verify(&client, &topic, total, &receipts).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_and_repeat_nothing_on_kafka() {
    if skip() {
        return;
    }
    within("cuts", TEST, async {
        let kafka = tokio::task::spawn_blocking(Kafka::start).await.unwrap();
        let (port, target) = kafka.proxied();
        cuts(Proxy::start(port, target, 42).await).await;
        tokio::task::spawn_blocking(move || drop(kafka)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_and_repeat_nothing_on_wherry() {
    within("cuts", TEST, async {
        let port = free_port();
        let node = tokio::task::spawn_blocking(move || Node::start(Some(port))).await.unwrap();
        cuts(Proxy::start(port, node.port(), 43).await).await;
        tokio::task::spawn_blocking(move || drop(node)).await.unwrap();
    })
    .await;
}

//! Transactions, against Apache Kafka and against our own node: what commits is read whole, what aborts is not read, and the
//! newest producer of a transactional id is the only one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use support::{PATIENCE, connect, topic, unique, within};
use wherry_client::{
    Client, ClientError, ConsumerConfig, Isolation, OffsetReset, ProduceRecord, ProducerConfig, TopicPartition,
    TransactionConfig, TransactionalProducer,
};

async fn producer(client: &Client, id: &str) -> TransactionalProducer {
    client.transactional_producer(ProducerConfig::default(), TransactionConfig::new(id)).await.unwrap()
}

fn reader(group: &str, isolation: Isolation) -> ConsumerConfig {
    ConsumerConfig {
        auto_offset_reset: OffsetReset::Earliest,
        isolation,
        session_timeout: Duration::from_secs(6),
        heartbeat_interval: Duration::from_millis(200),
        revoke_grace: Duration::from_secs(3),
        ..ConsumerConfig::in_group(group)
    }
}

fn places(topic: &Arc<str>, partitions: i32) -> Vec<TopicPartition> {
    (0..partitions).map(|partition| TopicPartition { topic: topic.clone(), partition }).collect()
}

/// The values in these partitions, read until a marker that is sent after everything.
async fn values(client: &Client, topic: &Arc<str>, partitions: i32, isolation: Isolation) -> Vec<String> {
    let plain = client.producer(ProducerConfig::default()).await.unwrap();
    for partition in 0..partitions {
        let last = ProduceRecord::new(topic.clone(), "last").partition(partition);
        plain.send(last).await.unwrap().await.unwrap();
    }
    let mut consumer = client.consumer(reader(&unique("readers"), isolation)).await.unwrap();
    consumer.assign(&places(topic, partitions)).await.unwrap();
    let (mut seen, mut ended) = (Vec::new(), BTreeSet::new());
    within("everything is readable", PATIENCE, async {
        while ended.len() < partitions as usize {
            for record in consumer.poll(1_000).await.unwrap() {
                match String::from_utf8(record.value.unwrap().to_vec()).unwrap() {
                    value if value == "last" => drop(ended.insert(record.partition)),
                    value => seen.push(value),
                }
            }
        }
    })
    .await;
    seen.sort();
    seen
}

async fn send(producer: &TransactionalProducer, topic: &Arc<str>, values: &[&str]) {
    for (n, value) in values.iter().enumerate() {
        let partition = i32::try_from(n % 3).unwrap();
        let record = ProduceRecord::new(topic.clone(), (*value).to_owned()).partition(partition);
        drop(producer.send(record).await.unwrap());
    }
}

async fn what_commits_is_read_and_what_aborts_is_not(address: String) {
    let client = connect(&address).await;
    let topic = topic(&client, "tx", 3).await;
    let producer = producer(&client, &unique("id")).await;
    for round in 0..6 {
        producer.begin().unwrap();
        let values: Vec<String> = (0..4).map(|n| format!("{round}-{n}")).collect();
        send(&producer, &topic, &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
        if round % 2 == 0 { producer.commit().await.unwrap() } else { producer.abort().await.unwrap() }
    }
    let committed = values(&client, &topic, 3, Isolation::ReadCommitted).await;
    let expected: Vec<String> =
        [0, 2, 4].iter().flat_map(|round| (0..4).map(move |n| format!("{round}-{n}"))).collect();
    assert_eq!(committed, expected);
    let all = values(&client, &topic, 3, Isolation::ReadUncommitted).await;
    assert!(all.len() >= committed.len() && committed.iter().all(|value| all.contains(value)));
    producer.close().await.unwrap();
}

async fn the_order_of_calls_is_minded(address: String) {
    let client = connect(&address).await;
    let topic = topic(&client, "order", 3).await;
    let producer = producer(&client, &unique("id")).await;
    let early = producer.send(ProduceRecord::new(topic.clone(), "early")).await;
    assert!(matches!(early, Err(ClientError::Config { .. })), "{early:?}");
    assert!(matches!(producer.commit().await, Err(ClientError::Config { .. })));
    assert!(matches!(producer.abort().await, Err(ClientError::Config { .. })));
    producer.begin().unwrap();
    assert!(matches!(producer.begin(), Err(ClientError::Config { .. })));
    producer.commit().await.unwrap();
    producer.begin().unwrap();
    producer.abort().await.unwrap();
    producer.begin().unwrap();
    send(&producer, &topic, &["in"]).await;
    producer.commit().await.unwrap();
    assert_eq!(values(&client, &topic, 3, Isolation::ReadCommitted).await, ["in"]);
}

async fn the_newest_producer_fences_the_others_and_ends_what_they_began(address: String) {
    let client = connect(&address).await;
    let topic = topic(&client, "fence", 3).await;
    let id = unique("id");
    let first = producer(&client, &id).await;
    first.begin().unwrap();
    send(&first, &topic, &["old-a", "old-b"]).await;
    first.send(ProduceRecord::new(topic.clone(), "old-c")).await.unwrap().await.unwrap();
    let second = producer(&client, &id).await;
    second.begin().unwrap();
    send(&second, &topic, &["new-a", "new-b"]).await;
    let fenced = first.commit().await;
    assert!(matches!(fenced, Err(ClientError::Fenced { .. })), "{fenced:?}");
    second.commit().await.unwrap();
    assert_eq!(values(&client, &topic, 3, Isolation::ReadCommitted).await, ["new-a", "new-b"]);
}

async fn a_transaction_that_takes_too_long_is_over(address: String) {
    let client = connect(&address).await;
    let topic = topic(&client, "slow", 3).await;
    let transactions =
        TransactionConfig { timeout: Duration::from_millis(50), ..TransactionConfig::new(&*unique("id")) };
    let producer = client.transactional_producer(ProducerConfig::default(), transactions).await.unwrap();
    producer.begin().unwrap();
    producer.send(ProduceRecord::new(topic.clone(), "late").partition(0)).await.unwrap().await.unwrap();
    // Until it is aborted, readers of committed records can't pass it.
    assert!(values(&client, &topic, 3, Isolation::ReadCommitted).await.is_empty());
    let ended = producer.commit().await;
    assert!(matches!(ended, Err(ClientError::Fenced { .. } | ClientError::AbortOnly { .. })), "{ended:?}");
}

/// Reads, writes what it read, and commits both together; every third time it aborts and goes back.
async fn offsets_and_records_count_together(address: String) {
    const RECORDS: usize = 300;
    let client = connect(&address).await;
    let (from, to) = (topic(&client, "from", 3).await, topic(&client, "to", 3).await);
    let plain = client.producer(ProducerConfig::default()).await.unwrap();
    for n in 0..RECORDS {
        drop(plain.send(ProduceRecord::new(from.clone(), n.to_string())).await.unwrap());
    }
    plain.flush().await.unwrap();
    let group = unique("copiers");
    let producer = producer(&client, &unique("id")).await;
    let (mut copied, mut round) = (0, 0);
    while copied < RECORDS {
        // A member of its own each time: what it finds is what the last one committed.
        let mut consumer = client.consumer(reader(&group, Isolation::ReadCommitted)).await.unwrap();
        consumer.subscribe(&[&from]).await.unwrap();
        for _ in 0..3 {
            let records = consumer.poll(40).await.unwrap();
            let membership = consumer.membership().unwrap();
            let mut next = std::collections::BTreeMap::new();
            producer.begin().unwrap();
            for record in &records {
                let value = record.value.clone().unwrap();
                drop(producer.send(ProduceRecord::new(to.clone(), value)).await.unwrap());
                let place = TopicPartition { topic: from.clone(), partition: record.partition };
                next.insert(place, record.offset + 1);
            }
            let next: Vec<_> = next.into_iter().collect();
            producer.send_offsets(&membership, &next).await.unwrap();
            round += 1;
            if round % 3 == 0 {
                producer.abort().await.unwrap();
                break;
            }
            producer.commit().await.unwrap();
            copied += records.len();
            if copied >= RECORDS {
                break;
            }
        }
        consumer.close().await.unwrap();
    }
    let mut expected: Vec<String> = (0..RECORDS).map(|n| n.to_string()).collect();
    expected.sort();
    assert_eq!(values(&client, &to, 3, Isolation::ReadCommitted).await, expected);
}

async fn a_member_that_was_replaced_commits_nothing(address: String) {
    let client = connect(&address).await;
    let from = topic(&client, "stale", 3).await;
    let group = unique("readers");
    let mut consumer = client.consumer(reader(&group, Isolation::ReadCommitted)).await.unwrap();
    consumer.subscribe(&[&from]).await.unwrap();
    let plain = client.producer(ProducerConfig::default()).await.unwrap();
    plain.send(ProduceRecord::new(from.clone(), "x")).await.unwrap().await.unwrap();
    let record = loop {
        if let Some(record) = consumer.poll(10).await.unwrap().pop() {
            break record;
        }
    };
    let membership = consumer.membership().unwrap();
    consumer.close().await.unwrap();
    let producer = producer(&client, &unique("id")).await;
    producer.begin().unwrap();
    let next = [(TopicPartition { topic: from.clone(), partition: record.partition }, record.offset + 1)];
    let refused = producer.send_offsets(&membership, &next).await;
    assert!(matches!(refused, Err(ClientError::Stale { .. })), "{refused:?}");
    assert!(matches!(producer.commit().await, Err(ClientError::AbortOnly { .. })));
    producer.abort().await.unwrap();
    producer.begin().unwrap();
    producer.commit().await.unwrap();
    let admin = client.admin();
    let committed = admin.group_offsets(&group, None).await.unwrap();
    assert!(committed.is_empty(), "{committed:?}");
}

on_both! {
    what_commits_is_read_and_what_aborts_is_not,
    the_order_of_calls_is_minded,
    the_newest_producer_fences_the_others_and_ends_what_they_began,
    a_transaction_that_takes_too_long_is_over,
    offsets_and_records_count_together,
    a_member_that_was_replaced_commits_nothing,
}

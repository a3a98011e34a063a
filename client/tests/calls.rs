//! The client against Apache Kafka and against Wherry: producing and consuming with every codec, positions, commits, admin calls.
//! One broker of each kind for all tests here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use support::{Random, connect, topic, topic_with, unique, within};
use wherry_client::admin::{ConfigChange, ConfigResource, NewTopic, OffsetSpec};
use wherry_client::{
    Acks, Client, ClientError, Codec, ConsumedRecord, Consumer, ConsumerConfig, OffsetReset, ProduceRecord,
    ProducerConfig, TopicPartition,
};

const TEST: Duration = Duration::from_secs(90);

fn earliest() -> ConsumerConfig {
    ConsumerConfig { auto_offset_reset: OffsetReset::Earliest, ..ConsumerConfig::default() }
}

fn places(topic: &Arc<str>, partitions: i32) -> Vec<TopicPartition> {
    (0..partitions).map(|p| TopicPartition::new(topic.clone(), p)).collect()
}

async fn read(consumer: &mut Consumer, count: usize) -> Vec<ConsumedRecord> {
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(consumer.poll(count - records.len()).await.unwrap());
    }
    records
}

async fn fill(client: &Client, topic: &Arc<str>, partition: i32, count: u32) {
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    for i in 0..count {
        let record = ProduceRecord::new(topic.clone(), i.to_be_bytes().to_vec()).partition(partition);
        drop(producer.send(record).await.unwrap());
    }
    producer.close().await.unwrap();
}

async fn end(client: &Client, at: &TopicPartition) -> i64 {
    let found = client.admin().list_offsets(&[(at.clone(), OffsetSpec::Latest)]).await.unwrap();
    found[0].1.as_ref().unwrap().offset
}

async fn offsets_are_contiguous_and_in_order(address: String) {
    within("produce", TEST, async {
        let client = connect(&address).await;
        let topic = topic(&client, "order", 1).await;
        let producer = client.producer(ProducerConfig::default()).await.unwrap();
        let mut deliveries = Vec::new();
        for i in 0..50_000u32 {
            let record = ProduceRecord::new(topic.clone(), i.to_be_bytes().to_vec());
            deliveries.push(producer.send(record).await.unwrap());
        }
        for (i, delivery) in (0..).zip(deliveries) {
            let receipt = delivery.await.unwrap();
            assert_eq!((receipt.partition, receipt.offset), (0, i));
        }
        assert_eq!(end(&client, &places(&topic, 1)[0]).await, 50_000);
        producer.close().await.unwrap();
        let after = producer.send(ProduceRecord::new(topic, "late")).await;
        assert!(matches!(after, Err(ClientError::Closed { .. })), "{after:?}");
    })
    .await;
}

/// What goes in comes out, with every codec and both sides' edge cases: null and empty keys, values and headers, repeats.
async fn every_codec_brings_back_what_went_in(address: String) {
    within("codecs", TEST, async {
        let client = connect(&address).await;
        for codec in Codec::ALL {
            let topic = topic(&client, codec.name(), 1).await;
            let producer = client.producer(ProducerConfig { codec, ..ProducerConfig::default() }).await.unwrap();
            let mut random = Random::new(u64::from(codec.id()) + 1);
            let mut sent = Vec::new();
            for i in 0..500u32 {
                let length = usize::try_from(random.below(3000)).unwrap();
                let mut record =
                    ProduceRecord::new(topic.clone(), random.bytes(length)).timestamp_ms(1_000_000 + i64::from(i));
                record.key = (i % 3 > 0).then(|| i.to_le_bytes()[..usize::try_from(i % 3).unwrap()].to_vec().into());
                if i % 7 == 0 {
                    record.value = None;
                }
                for h in 0..i % 4 {
                    record = record.header(format!("h{}", h / 2), random.bytes(h as usize));
                }
                sent.push(record.clone());
                drop(producer.send(record).await.unwrap());
            }
            producer.close().await.unwrap();
            let mut consumer = client.consumer(earliest()).await.unwrap();
            consumer.assign(&places(&topic, 1)).await.unwrap();
            for (i, (sent, got)) in sent.iter().zip(read(&mut consumer, 500).await).enumerate() {
                assert_eq!(got.offset, i64::try_from(i).unwrap(), "{codec}");
                assert_eq!((&got.key, &got.value, Some(got.timestamp_ms)), (&sent.key, &sent.value, sent.timestamp_ms));
                let headers: Vec<_> = got.headers.iter().map(|(n, v)| (n.to_string(), v.clone().unwrap())).collect();
                assert_eq!(headers, sent.headers, "{codec} {i}");
            }
        }
    })
    .await;
}

async fn keys_choose_partitions_and_keyless_records_spread(address: String) {
    within("partitions", TEST, async {
        let client = connect(&address).await;
        let topic = topic(&client, "spread", 6).await;
        let config =
            ProducerConfig { batch_bytes: 1000, linger: Duration::from_millis(5), ..ProducerConfig::default() };
        let producer = client.producer(config).await.unwrap();
        let mut keyed = Vec::new();
        for i in 0..300u32 {
            let record = ProduceRecord::new(topic.clone(), "v").key(format!("key-{i}"));
            keyed.push(producer.send(record).await.unwrap());
            drop(producer.send(ProduceRecord::new(topic.clone(), vec![0; 50])).await.unwrap());
        }
        for (i, delivery) in keyed.into_iter().enumerate() {
            let key = format!("key-{i}");
            let expected = wherry_client::producer::partitioner::partition_of(key.as_bytes(), 6);
            assert_eq!(delivery.await.unwrap().partition, i32::try_from(expected).unwrap(), "{key}");
        }
        producer.flush().await.unwrap();
        let mut keyless = 0;
        for at in places(&topic, 6) {
            keyless += end(&client, &at).await;
            assert!(end(&client, &at).await > 0, "{at} got nothing");
        }
        assert_eq!(keyless, 600);
        let wrong = producer.send(ProduceRecord::new(topic, "x").partition(6)).await;
        assert!(matches!(wrong, Err(ClientError::NoSuchTopic { .. })), "{wrong:?}");
    })
    .await;
}

async fn every_level_of_acknowledgement(address: String) {
    within("acks", TEST, async {
        let client = connect(&address).await;
        for acks in [Acks::None, Acks::Leader, Acks::All] {
            let topic = topic(&client, "acks", 1).await;
            let config = ProducerConfig { acks, idempotent: false, ..ProducerConfig::default() };
            let producer = client.producer(config).await.unwrap();
            for i in 0..100i64 {
                let receipt = producer.send(ProduceRecord::new(topic.clone(), "x")).await.unwrap().await.unwrap();
                assert_eq!(receipt.offset, if acks == Acks::None { -1 } else { i });
            }
            producer.close().await.unwrap();
            let at = places(&topic, 1);
            support::until("all there", async || end(&client, &at[0]).await == 100).await;
        }
        let wrong = ProducerConfig { acks: Acks::Leader, ..ProducerConfig::default() };
        assert!(matches!(client.producer(wrong).await, Err(ClientError::Config { .. })));
    })
    .await;
}

async fn limits_hold(address: String) {
    within("limits", TEST, async {
        let client = connect(&address).await;
        let topic = topic_with(&client, NewTopic::new(unique("limits"), 1).config("max.message.bytes", "2000")).await;
        // Batches larger than the topic takes: they are split, and only the record that is too large alone is refused.
        let linger = Duration::from_millis(20);
        let config =
            ProducerConfig { max_buffer_bytes: 1_100_000, batch_bytes: 8000, linger, ..ProducerConfig::default() };
        let producer = client.producer(config).await.unwrap();
        let local = producer.send(ProduceRecord::new(topic.clone(), vec![0; 1_000_001])).await;
        assert!(matches!(local, Err(ClientError::TooLarge { .. })), "{local:?}");
        // The broker refuses one record in the middle: those around it must be delivered, in order.
        let mut deliveries = Vec::new();
        for i in 0..40u8 {
            let size = if i == 20 { 5000 } else { 800 };
            deliveries.push(producer.send(ProduceRecord::new(topic.clone(), vec![i; size])).await.unwrap());
        }
        for (i, delivery) in deliveries.into_iter().enumerate() {
            let result = delivery.await;
            if i == 20 {
                assert!(matches!(&result, Err(ClientError::Rejected { code: 10, .. })), "{result:?}");
            } else {
                let expected = i64::try_from(if i > 20 { i - 1 } else { i }).unwrap();
                assert_eq!(result.unwrap().offset, expected);
            }
        }
        // Far more than the buffer holds: senders are slowed, nothing is lost.
        for i in 0..20_000u32 {
            drop(producer.send(ProduceRecord::new(topic.clone(), vec![i.to_le_bytes()[0]; 400])).await.unwrap());
        }
        producer.flush().await.unwrap();
        assert_eq!(end(&client, &places(&topic, 1)[0]).await, 20_039);
    })
    .await;
}

async fn an_unknown_topic_is_said_to_be_unknown(address: String) {
    within("unknown topic", TEST, async {
        let client = connect(&address).await;
        let producer = client.producer(ProducerConfig::default()).await.unwrap();
        let sent = producer.send(ProduceRecord::new(unique("nowhere"), "x")).await;
        assert!(matches!(sent, Err(ClientError::NoSuchTopic { .. })), "{sent:?}");
    })
    .await;
}

async fn seek_pause_and_resume(address: String) {
    within("seek", TEST, async {
        let client = connect(&address).await;
        let topic = topic(&client, "seek", 2).await;
        fill(&client, &topic, 0, 5000).await;
        fill(&client, &topic, 1, 5000).await;
        let at = places(&topic, 2);
        let mut consumer = client.consumer(earliest()).await.unwrap();
        consumer.assign(&at).await.unwrap();
        assert_eq!(consumer.assignment(), at);
        let first = read(&mut consumer, 100).await;
        let position = consumer.position(&at[0]).unwrap_or(0) + consumer.position(&at[1]).unwrap_or(0);
        assert_eq!(position, i64::try_from(first.len()).unwrap());
        consumer.pause(&at[..1]);
        consumer.seek(&at[1], 4990).unwrap();
        let tail = read(&mut consumer, 10).await;
        assert!(tail.iter().zip(4990..).all(|(r, offset)| r.partition == 1 && r.offset == offset), "{tail:?}");
        consumer.seek(&at[0], 7).unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(700), consumer.poll(1)).await;
        assert!(nothing.is_err(), "paused, and the other at its end: {nothing:?}");
        consumer.resume(&at[..1]);
        let resumed = consumer.poll(1).await.unwrap();
        assert_eq!((resumed[0].partition, resumed[0].offset), (0, 7));
        assert_eq!(consumer.lag(&at[1]), Some(0));
        assert!(consumer.seek(&TopicPartition::new("other", 0), 0).is_err());
    })
    .await;
}

async fn reset_policies(address: String) {
    within("reset", TEST, async {
        let client = connect(&address).await;
        let topic = topic(&client, "reset", 1).await;
        fill(&client, &topic, 0, 100).await;
        let at = places(&topic, 1);
        client.admin().delete_records(&[(at[0].clone(), 40)]).await.unwrap()[0].1.as_ref().unwrap();
        let with = |auto_offset_reset| ConsumerConfig { auto_offset_reset, ..ConsumerConfig::default() };

        let mut consumer = client.consumer(with(OffsetReset::Earliest)).await.unwrap();
        consumer.assign(&at).await.unwrap();
        assert_eq!(consumer.poll(1).await.unwrap()[0].offset, 40);
        consumer.seek(&at[0], 3).unwrap();
        assert_eq!(consumer.poll(1).await.unwrap()[0].offset, 40, "outside the log: reset");

        let mut consumer = client.consumer(with(OffsetReset::Latest)).await.unwrap();
        consumer.assign(&at).await.unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(700), consumer.poll(1)).await;
        assert!(nothing.is_err(), "{nothing:?}");
        fill(&client, &topic, 0, 1).await;
        assert_eq!(consumer.poll(1).await.unwrap()[0].offset, 100);

        let mut consumer = client.consumer(with(OffsetReset::Fail)).await.unwrap();
        consumer.assign(&at).await.unwrap();
        assert!(matches!(consumer.poll(1).await, Err(ClientError::OutOfRange { offset: -1, .. })));
        consumer.seek(&at[0], 5).unwrap();
        assert!(matches!(consumer.poll(1).await, Err(ClientError::OutOfRange { offset: 5, .. })));
        consumer.seek(&at[0], 50).unwrap();
        assert_eq!(consumer.poll(1).await.unwrap()[0].offset, 50);

        // Whether the place was found wanting before the seek or not, is nobody's business.
        for pause in [0, 1, 20, 300] {
            let mut consumer = client.consumer(with(OffsetReset::Fail)).await.unwrap();
            consumer.assign(&at).await.unwrap();
            tokio::time::sleep(Duration::from_millis(pause)).await;
            consumer.seek(&at[0], 50).unwrap();
            assert_eq!(consumer.poll(1).await.unwrap()[0].offset, 50, "after {pause} ms");
        }
    })
    .await;
}

async fn commit_and_resume_without_membership(address: String) {
    within("commit", TEST, async {
        let client = connect(&address).await;
        let topic = topic(&client, "commit", 1).await;
        fill(&client, &topic, 0, 100).await;
        let at = places(&topic, 1);
        let config = ConsumerConfig { group: Some(unique("lone").to_string()), ..earliest() };
        let mut consumer = client.consumer(config.clone()).await.unwrap();
        consumer.assign(&at).await.unwrap();
        assert_eq!(read(&mut consumer, 30).await.last().unwrap().offset, 29);
        assert_eq!(consumer.committed(&at).await.unwrap(), []);
        consumer.commit(&[(at[0].clone(), 25)]).await.unwrap();
        assert_eq!(consumer.committed(&at).await.unwrap(), [(at[0].clone(), 25)]);
        consumer.commit_async(&[(at[0].clone(), 30)]).unwrap();
        consumer.close().await.unwrap();
        let mut consumer = client.consumer(config).await.unwrap();
        consumer.assign(&at).await.unwrap();
        assert_eq!(consumer.poll(1).await.unwrap()[0].offset, 30);
        let without = client.consumer(ConsumerConfig::default()).await.unwrap();
        assert!(matches!(without.commit(&[(at[0].clone(), 1)]).await, Err(ClientError::Config { .. })));
    })
    .await;
}

/// Memory for what is fetched ahead is bounded, and a consumer that stops polling and goes on again misses nothing.
async fn prefetch_is_bounded_and_complete(address: String) {
    within("prefetch", TEST, async {
        let client = connect(&address).await;
        let topic = topic(&client, "prefetch", 4).await;
        let producer = client.producer(ProducerConfig::default()).await.unwrap();
        for i in 0..20_000u32 {
            let record = ProduceRecord::new(topic.clone(), vec![i.to_le_bytes()[0]; 1000]);
            let partition = i32::try_from(i % 4).unwrap();
            drop(producer.send(record.partition(partition)).await.unwrap());
        }
        producer.close().await.unwrap();
        let config = ConsumerConfig {
            prefetch_bytes: 300_000,
            fetch_max_bytes: 100_000,
            partition_max_bytes: 50_000,
            ..earliest()
        };
        let mut consumer = client.consumer(config).await.unwrap();
        consumer.assign(&places(&topic, 4)).await.unwrap();
        let mut next = BTreeMap::new();
        let mut seen = 0;
        while seen < 20_000 {
            for record in consumer.poll(777).await.unwrap() {
                let expected = next.entry(record.partition).or_insert(0);
                assert_eq!(record.offset, *expected);
                *expected += 1;
                seen += 1;
            }
        }
        assert!(next.values().all(|n| *n == 5000));
    })
    .await;
}

async fn admin_topics_and_configs(address: String) {
    within("admin", TEST, async {
        let client = connect(&address).await;
        let admin = client.admin();
        let cluster = admin.cluster().await.unwrap();
        assert_eq!(cluster.brokers.len(), 1);
        assert!(cluster.cluster_id.is_some() && cluster.controller.is_some());

        let name = unique("admin");
        let new = NewTopic::new(name.clone(), 2).config("retention.ms", "12345");
        assert!(admin.create_topics(std::slice::from_ref(&new), true).await.unwrap()[0].1.is_ok(), "only validated");
        assert!(admin.create_topics(std::slice::from_ref(&new), false).await.unwrap()[0].1.is_ok());
        let again = admin.create_topics(&[new], false).await.unwrap();
        assert!(matches!(&again[0].1, Err(ClientError::Rejected { code: 36, .. })), "{again:?}");
        support::until("listed", async || admin.list_topics().await.unwrap().iter().any(|t| t.name == name)).await;

        assert!(admin.create_partitions(&[(&name, 5)]).await.unwrap()[0].1.is_ok());
        let fewer = admin.create_partitions(&[(&name, 3)]).await.unwrap();
        assert!(matches!(&fewer[0].1, Err(ClientError::Rejected { code: 37, .. })), "{fewer:?}");
        support::until("five partitions", async || {
            let described = admin.describe_topics(&[&name]).await.unwrap();
            described[0].1.as_ref().is_ok_and(|t| t.partitions.len() == 5 && t.partitions[4].leader.is_some())
        })
        .await;
        let missing = admin.describe_topics(&["no-such-topic"]).await.unwrap();
        assert!(matches!(&missing[0].1, Err(ClientError::NoSuchTopic { .. })), "{missing:?}");

        let resource = ConfigResource::Topic(name.clone());
        let value = async || {
            let configs = admin.describe_configs(std::slice::from_ref(&resource)).await.unwrap().remove(0).1.unwrap();
            let retention = configs.into_iter().find(|c| c.name == "retention.ms").unwrap();
            (retention.value.unwrap(), retention.is_default)
        };
        assert_eq!(value().await, ("12345".to_owned(), false));
        let alter =
            async |change| admin.alter_configs(&[(resource.clone(), vec![change])], false).await.unwrap().remove(0).1;
        alter(ConfigChange::Set("retention.ms".into(), "777".into())).await.unwrap();
        support::until("altered", async || value().await.0 == "777").await;
        alter(ConfigChange::Reset("retention.ms".into())).await.unwrap();
        support::until("reset", async || value().await.1).await;
        let wrong = alter(ConfigChange::Set("retention.ms".into(), "soon".into())).await;
        assert!(matches!(wrong, Err(ClientError::Rejected { code: 40, .. })), "{wrong:?}");

        assert!(admin.delete_topics(&[&name]).await.unwrap()[0].1.is_ok());
        support::until("gone", async || !admin.list_topics().await.unwrap().iter().any(|t| t.name == name)).await;
        let gone = admin.delete_topics(&[&name]).await.unwrap();
        assert!(matches!(&gone[0].1, Err(ClientError::NoSuchTopic { .. })), "{gone:?}");
    })
    .await;
}

async fn admin_offsets(address: String) {
    within("offsets", TEST, async {
        let client = connect(&address).await;
        let admin = client.admin();
        let topic = topic(&client, "offsets", 1).await;
        let at = places(&topic, 1).remove(0);
        let producer = client.producer(ProducerConfig::default()).await.unwrap();
        for i in 0..10i64 {
            let record = ProduceRecord::new(topic.clone(), "x").timestamp_ms(1000 + 10 * i);
            producer.send(record).await.unwrap().await.unwrap();
        }
        let look = async |spec| admin.list_offsets(&[(at.clone(), spec)]).await.unwrap().remove(0).1.unwrap();
        assert_eq!(look(OffsetSpec::Earliest).await.offset, 0);
        assert_eq!(look(OffsetSpec::Latest).await.offset, 10);
        let found = look(OffsetSpec::Timestamp(1025)).await;
        assert_eq!((found.offset, found.timestamp_ms), (3, 1030));
        assert_eq!(look(OffsetSpec::Timestamp(9999)).await.offset, -1);
        assert_eq!(look(OffsetSpec::MaxTimestamp).await.offset, 9);
        let low = admin.delete_records(&[(at.clone(), 4)]).await.unwrap();
        assert_eq!(low[0].1, Ok(4));
        assert_eq!(look(OffsetSpec::Earliest).await.offset, 4);
        let beyond = admin.delete_records(&[(at.clone(), 400)]).await.unwrap();
        assert!(matches!(&beyond[0].1, Err(ClientError::Rejected { code: 1, .. })), "{beyond:?}");
        let nowhere = TopicPartition::new(topic, 9);
        let missing = admin.list_offsets(&[(nowhere, OffsetSpec::Latest)]).await.unwrap();
        assert!(matches!(&missing[0].1, Err(ClientError::NoSuchTopic { .. })), "{missing:?}");
    })
    .await;
}

async fn admin_groups(address: String) {
    within("groups", TEST, async {
        let client = connect(&address).await;
        let admin = client.admin();
        let topic = topic(&client, "groups", 2).await;
        let at = places(&topic, 2);
        let group = unique("admin-group");
        let set = [(at[0].clone(), 11), (at[1].clone(), 22)];
        for (place, result) in admin.alter_group_offsets(&group, &set).await.unwrap() {
            assert_eq!(result, Ok(()), "{place}");
        }
        let all = admin.group_offsets(&group, None).await.unwrap();
        assert_eq!(all.iter().map(|c| c.offset).collect::<BTreeSet<_>>(), BTreeSet::from([11, 22]));
        let one = admin.group_offsets(&group, Some(&at[1..])).await.unwrap();
        assert_eq!((one.len(), one[0].offset), (1, 22));
        assert!(admin.list_groups().await.unwrap().iter().any(|g| g.group == group));
        let described = admin.describe_groups(&[&group]).await.unwrap().remove(0).1.unwrap();
        assert_eq!((&*described.state, described.members.len()), ("Empty", 0));
        assert_eq!(admin.delete_group_offsets(&group, &at[..1]).await.unwrap()[0].1, Ok(()));
        assert_eq!(admin.group_offsets(&group, None).await.unwrap().len(), 1);
        assert_eq!(admin.delete_groups(&[&group]).await.unwrap()[0].1, Ok(()));
        assert!(admin.group_offsets(&group, None).await.unwrap().is_empty());
        let gone = admin.delete_groups(&[&group]).await.unwrap();
        assert!(matches!(&gone[0].1, Err(ClientError::Rejected { code: 69, .. })), "{gone:?}");
    })
    .await;
}

on_both! {
    offsets_are_contiguous_and_in_order,
    every_codec_brings_back_what_went_in,
    keys_choose_partitions_and_keyless_records_spread,
    every_level_of_acknowledgement,
    limits_hold,
    an_unknown_topic_is_said_to_be_unknown,
    seek_pause_and_resume,
    reset_policies,
    commit_and_resume_without_membership,
    prefetch_is_bounded_and_complete,
    admin_topics_and_configs,
    admin_offsets,
    admin_groups,
}

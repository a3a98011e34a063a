//! The client against Apache Kafka: producing, consuming, groups, admin calls. One broker for all tests here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::kafka::shared;
use support::{connect, topic, within};
use wherry_client::admin::OffsetSpec;
use wherry_client::{ProduceRecord, ProducerConfig, TopicPartition};

const TEST: Duration = Duration::from_secs(60);

#[tokio::test]
async fn produces_in_order_with_contiguous_offsets() {
    let Some(address) = shared() else { return };
    within("produce", TEST, async {
        let client = connect(&address).await;
        let topic: Arc<str> = topic(&client, "produce", 1).await;
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
        let at = TopicPartition::new(topic, 0);
        let end = client.admin().list_offsets(&[(at, OffsetSpec::Latest)]).await.unwrap();
        assert_eq!(end[0].1.as_ref().unwrap().offset, 50_000);
        producer.close().await.unwrap();
    })
    .await;
}

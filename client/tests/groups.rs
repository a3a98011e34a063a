//! Groups against Apache Kafka: members that join, leave and die; commits; static membership. One broker for all tests here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{connect, topic, unique, until, within};
use tokio::task::JoinHandle;
use wherry_client::{
    Assignor, Client, ClientError, CommitOffset, ConsumerConfig, OffsetReset, ProduceRecord, ProducerConfig,
    RebalanceEvent, TopicPartition, TransactionConfig,
};

const TEST: Duration = Duration::from_secs(120);

fn config(group: &str, assignor: Assignor) -> ConsumerConfig {
    ConsumerConfig {
        auto_offset_reset: OffsetReset::Earliest,
        assignors: vec![assignor],
        session_timeout: Duration::from_secs(6),
        heartbeat_interval: Duration::from_millis(200),
        rebalance_timeout: Duration::from_secs(20),
        revoke_grace: Duration::from_secs(3),
        ..ConsumerConfig::in_group(group)
    }
}

/// What all members together have seen: by record, how often it came, and whether a commit confirmed it.
#[derive(Default)]
struct Ledger {
    seen: HashMap<(i32, i64), u32>,
    confirmed: HashMap<(i32, i64), ()>,
    after_confirmation: Vec<(i32, i64)>,
}

struct Member {
    stop: Arc<AtomicBool>,
    assigned: Arc<Mutex<Vec<TopicPartition>>>,
    task: JoinHandle<()>,
}

impl Member {
    fn start(client: &Client, config: ConsumerConfig, topic: Arc<str>, ledger: Arc<Mutex<Ledger>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let assigned = Arc::new(Mutex::new(Vec::new()));
        let client = client.clone();
        let task = tokio::spawn(work(client, config, topic, ledger, stop.clone(), assigned.clone()));
        Self { stop, assigned, task }
    }

    fn count(&self) -> usize {
        self.assigned.lock().unwrap().len()
    }

    async fn leave(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }

    /// Without a word: no commit, no leave.
    fn die(self) {
        self.task.abort();
    }
}

async fn work(
    client: Client,
    config: ConsumerConfig,
    topic: Arc<str>,
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    assigned: Arc<Mutex<Vec<TopicPartition>>>,
) {
    let mut consumer = client.consumer(config).await.unwrap();
    consumer.subscribe(&[&topic]).await.unwrap();
    while !stop.load(Ordering::SeqCst) {
        let polled = tokio::time::timeout(Duration::from_millis(50), consumer.poll(50)).await;
        *assigned.lock().unwrap() = consumer.assignment();
        let Ok(records) = polled else { continue };
        let records = records.unwrap();
        let mut next = HashMap::new();
        {
            let mut ledger = ledger.lock().unwrap();
            for record in &records {
                let id = (record.partition, record.offset);
                *ledger.seen.entry(id).or_default() += 1;
                if ledger.confirmed.contains_key(&id) {
                    ledger.after_confirmation.push(id);
                }
                next.insert(TopicPartition::new(topic.clone(), record.partition), record.offset + 1);
            }
        }
        let next: Vec<_> = next.into_iter().collect();
        match consumer.commit_in_generation(records[0].generation, &next).await {
            Ok(()) => {
                let mut ledger = ledger.lock().unwrap();
                ledger.confirmed.extend(records.iter().map(|r| ((r.partition, r.offset), ())));
            }
            Err(ClientError::Stale { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    consumer.close().await.unwrap();
}

async fn produce_until(client: Client, topic: Arc<str>, partitions: i32, stop: Arc<AtomicBool>) -> Vec<i64> {
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let mut counts = vec![0; usize::try_from(partitions).unwrap()];
    while !stop.load(Ordering::SeqCst) {
        for (partition, count) in (0..).zip(&mut counts) {
            drop(producer.send(ProduceRecord::new(topic.clone(), "x").partition(partition)).await.unwrap());
            *count += 1;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    producer.close().await.unwrap();
    counts
}

async fn shares(what: &str, members: &[&Member], expected: &[usize]) {
    until(&format!("{what}: shares {expected:?}"), async || {
        let mut counts: Vec<_> = members.iter().map(|m| m.count()).collect();
        counts.sort_unstable();
        counts == expected
    })
    .await;
}

/// Members come and go under load, one of them without a word: everything is seen, nothing comes again after its commit was
/// confirmed, and the shares are even each time.
async fn come_and_go(address: String, assignor: Assignor) {
    within(assignor.name(), TEST, async {
        let client = connect(&address).await;
        let topic = topic(&client, assignor.name(), 6).await;
        let group = unique("group");
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let load = tokio::spawn(produce_until(client.clone(), topic.clone(), 6, stop.clone()));
        let start = || Member::start(&client, config(&group, assignor), topic.clone(), ledger.clone());
        let a = start();
        shares("one", &[&a], &[6]).await;
        let (b, c) = (start(), start());
        shares("three", &[&a, &b, &c], &[2, 2, 2]).await;
        b.leave().await;
        shares("one left", &[&a, &c], &[3, 3]).await;
        c.die();
        shares("one died", &[&a], &[6]).await;
        let d = start();
        shares("one more", &[&a, &d], &[3, 3]).await;
        stop.store(true, Ordering::SeqCst);
        let counts = load.await.unwrap();
        until("everything seen", async || {
            let seen = ledger.lock().unwrap().seen.len();
            seen == usize::try_from(counts.iter().sum::<i64>()).unwrap()
        })
        .await;
        a.leave().await;
        d.leave().await;
        let ledger = ledger.lock().unwrap();
        assert_eq!(ledger.after_confirmation, [], "came again after its commit was confirmed");
        for (partition, count) in (0..).zip(counts) {
            assert!((0..count).all(|offset| ledger.seen.contains_key(&(partition, offset))));
        }
    })
    .await;
}

async fn members_come_and_go_cooperative(address: String) {
    come_and_go(address, Assignor::CooperativeSticky).await;
}

async fn members_come_and_go_range(address: String) {
    come_and_go(address, Assignor::Range).await;
}

async fn members_come_and_go_sticky(address: String) {
    come_and_go(address, Assignor::Sticky).await;
}

async fn a_group_resumes_where_it_committed(address: String) {
    within("resume", TEST, async {
        let client = connect(&address).await;
        let topic = topic(&client, "resume", 1).await;
        let producer = client.producer(ProducerConfig::default()).await.unwrap();
        for i in 0..100u8 {
            drop(producer.send(ProduceRecord::new(topic.clone(), vec![i])).await.unwrap());
        }
        producer.flush().await.unwrap();
        let group = unique("group");
        let automatic = ConsumerConfig {
            auto_commit_interval: Some(Duration::ZERO),
            ..config(&group, Assignor::CooperativeSticky)
        };
        let mut consumer = client.consumer(automatic).await.unwrap();
        let mut events = consumer.events();
        consumer.subscribe(&[&topic]).await.unwrap();
        let mut count = 0;
        while count < 42 {
            count += consumer.poll(42 - count).await.unwrap().len();
        }
        let Some(RebalanceEvent::Assigned { generation, added, assignment }) = events.try_next() else { panic!() };
        assert_eq!((added.len(), assignment.len(), generation), (1, 1, consumer.generation()));
        assert!(consumer.member_id().is_some());
        let described = client.admin().describe_groups(&[&group]).await.unwrap().remove(0).1.unwrap();
        assert_eq!((&*described.state, &*described.protocol), ("Stable", "cooperative-sticky"));
        assert_eq!(described.members[0].assignment, assignment);
        consumer.close().await.unwrap();
        let emptied = client.admin().describe_groups(&[&group]).await.unwrap().remove(0).1.unwrap();
        assert_eq!(&*emptied.state, "Empty", "closing leaves at once");

        let mut consumer = client.consumer(config(&group, Assignor::Range)).await.unwrap();
        consumer.subscribe(&[&topic]).await.unwrap();
        let record = consumer.poll(1).await.unwrap().remove(0);
        assert_eq!((record.offset, record.value.as_deref()), (42, Some(&[42][..])));
        let stale = consumer.commit_in_generation(record.generation - 1, &[(assignment[0].clone(), 50)]).await;
        assert!(matches!(stale, Err(ClientError::Stale { .. })), "{stale:?}");
        let foreign = consumer.commit(&[(TopicPartition::new("other", 0), 1)]).await;
        assert!(matches!(foreign, Err(ClientError::Stale { .. })), "{foreign:?}");
        consumer.close().await.unwrap();
    })
    .await;
}

/// A topic that appears after the subscription, and partitions that are added, are found.
async fn new_topics_and_partitions_are_found(address: String) {
    within("new topics", TEST, async {
        let client = connect(&address).await;
        let name = unique("later");
        let mut quick = support::config(&address);
        quick.metadata_max_age = Duration::from_millis(500);
        let member = Client::connect(quick).await.unwrap();
        let mut consumer = member.consumer(config(&unique("group"), Assignor::CooperativeSticky)).await.unwrap();
        consumer.subscribe(&[&name]).await.unwrap();
        until("joined", async || consumer.generation() >= 1).await;
        assert!(consumer.assignment().is_empty());
        let new = wherry_client::admin::NewTopic::new(name.clone(), 1);
        client.admin().create_topics(&[new], false).await.unwrap().remove(0).1.unwrap();
        until("the topic is found", async || consumer.assignment().len() == 1).await;
        client.admin().create_partitions(&[(&name, 3)]).await.unwrap().remove(0).1.unwrap();
        until("the partitions are found", async || consumer.assignment().len() == 3).await;
    })
    .await;
}

async fn static_members_come_back_without_a_rebalance(address: String) {
    within("static", TEST, async {
        let client = connect(&address).await;
        let topic = topic(&client, "static", 4).await;
        let group = unique("group");
        let instance =
            |id: &str| ConsumerConfig { group_instance_id: Some(id.to_owned()), ..config(&group, Assignor::Range) };
        let join = async |id| {
            let mut consumer = client.consumer(instance(id)).await.unwrap();
            consumer.subscribe(&[&topic]).await.unwrap();
            consumer
        };
        let a = join("a").await;
        let b = join("b").await;
        until("divided", async || a.assignment().len() == 2 && b.assignment().len() == 2).await;
        let (generation, before) = (a.generation(), b.assignment());
        b.close().await.unwrap();
        let b = join("b").await;
        until("back", async || b.assignment() == before).await;
        assert_eq!(a.generation(), generation, "nobody else noticed");
        let usurper = join("b").await;
        let mut b = b;
        let fenced = within("fenced", TEST, b.poll(1)).await;
        assert!(matches!(fenced, Err(ClientError::Fenced { .. })), "{fenced:?}");
        usurper.close().await.unwrap();
    })
    .await;
}

/// What a committer writes beside an offset is there for whoever goes on from it, be it committed plainly or in a transaction.
async fn what_stands_beside_an_offset_comes_back(address: String) {
    let client = connect(&address).await;
    let topic = topic(&client, "beside", 1).await;
    let at = TopicPartition { topic: topic.clone(), partition: 0 };
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    for n in 0..4 {
        producer.send(ProduceRecord::new(topic.clone(), n.to_string())).await.unwrap().await.unwrap();
    }
    let group = unique("beside");
    let join = async || {
        let mut consumer = client.consumer(config(&group, Assignor::CooperativeSticky)).await.unwrap();
        consumer.subscribe(&[&topic]).await.unwrap();
        let records = within("records", TEST, consumer.poll(1)).await.unwrap();
        (consumer, records[0].offset)
    };
    let beside = |offset, metadata: &str| CommitOffset { at: at.clone(), offset, metadata: metadata.into() };
    let (consumer, first) = join().await;
    assert_eq!((first, consumer.resumed(&at)), (0, None));
    let committer = consumer.committer();
    committer.commit_all_in_generation(consumer.generation(), &[beside(1, "plainly")]).await.unwrap();
    consumer.close().await.unwrap();
    let (consumer, first) = join().await;
    assert_eq!((first, consumer.resumed(&at)), (1, Some((1, "plainly".into()))));
    let id = TransactionConfig::new(&*unique("id"));
    let transactions = client.transactional_producer(ProducerConfig::default(), id).await.unwrap();
    transactions.begin().unwrap();
    let membership = consumer.membership().unwrap();
    transactions.send_all_offsets(&membership, &[beside(2, "together")]).await.unwrap();
    transactions.commit().await.unwrap();
    consumer.close().await.unwrap();
    let (mut consumer, first) = join().await;
    assert_eq!((first, consumer.resumed(&at)), (2, Some((2, "together".into()))));
    consumer.seek(&at, 0).unwrap();
    assert_eq!(consumer.resumed(&at), None);
    consumer.close().await.unwrap();
}

on_both! {
    what_stands_beside_an_offset_comes_back,
    members_come_and_go_cooperative,
    members_come_and_go_range,
    members_come_and_go_sticky,
    a_group_resumes_where_it_committed,
    new_topics_and_partitions_are_found,
    static_members_come_back_without_a_rebalance,
}

//! Publishing while the cluster is away: nothing lost, nothing twice, in order, within bounds, and said as it is.

use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use wherry_proto::v1::publish_ack::Outcome;
use wherry_proto::v1::{
    self, DeliveryLevel, PublishResult, PublishStatus, PublishStreamRequest, PublishStreamResponse,
};
use wherry_sidecar::backend::memory::MemoryCluster;
use wherry_sidecar::{SidecarConfig, SpoolConfig};

use crate::support::{Rig, config, connect, eventually, message, soon, until};

const AFTER: Duration = Duration::from_millis(100);

fn spooling(directory: &Path) -> SidecarConfig {
    let spool = SpoolConfig { after: AFTER, bytes: 64 << 20, ..SpoolConfig::new(directory) };
    SidecarConfig { spool: Some(spool), ..config() }
}

async fn rig(cluster: &MemoryCluster, config: SidecarConfig) -> Rig {
    let sidecar = soon(wherry_sidecar::spawn_on(config, cluster.clone())).await.expect("starts");
    let channel = connect(&sidecar).await;
    Rig { cluster: cluster.clone(), sidecar, channel }
}

impl Rig {
    async fn send(&self, text: &str) -> Result<PublishResult, tonic::Status> {
        self.send_at(text, DeliveryLevel::AtLeastOnce).await
    }

    async fn send_at(&self, text: &str, delivery: DeliveryLevel) -> Result<PublishResult, tonic::Status> {
        let request = v1::PublishRequest { message: Some(message("orders", text)), delivery: delivery.into() };
        let answer = soon(self.publisher().publish(request)).await?;
        Ok(answer.into_inner().result.expect("a result"))
    }

    async fn status_of(&self, text: &str) -> PublishStatus {
        self.send(text).await.expect("published").status()
    }

    fn waiting(&self) -> i64 {
        self.sidecar.stats.spool.messages.get()
    }
}

/// What is in the topic, in order.
fn texts(cluster: &MemoryCluster) -> Vec<String> {
    let records = cluster.records("orders", 0);
    records
        .iter()
        .map(|record| String::from_utf8(record.value.clone().expect("a value").to_vec()).expect("text"))
        .collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn publishing_goes_on_while_the_cluster_is_away() {
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("orders", 1));
    let rig = rig(&cluster, spooling(dir.path())).await;
    assert_eq!(rig.status_of("0").await, PublishStatus::Committed);
    cluster.away(true);
    for number in 1..20 {
        let result = rig.send(&number.to_string()).await.expect("published");
        assert_eq!((result.status(), result.offset), (PublishStatus::Spooled, -1));
    }
    assert_eq!((texts(&cluster), rig.waiting()), (numbers(0..1), 19));
    cluster.away(false);
    eventually("all are forwarded", || rig.waiting() == 0).await;
    // The way is closed again as soon as nothing is left.
    while rig.status_of("20").await != PublishStatus::Committed {}
    assert_eq!(texts(&cluster)[..20], numbers(0..20));
    let ids: Vec<_> = cluster.records("orders", 0).iter().map(|record| record.headers.clone()).collect();
    assert!(ids[0].is_empty(), "{:?}", ids[0]);
    assert!(ids[1..20].iter().all(|headers| &*headers[0].0 == "wherry-message-id"), "{ids:?}");
}

#[tokio::test]
async fn what_may_have_arrived_is_not_sent_again_and_comes_first() {
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("orders", 1));
    let rig = rig(&cluster, spooling(dir.path())).await;
    cluster.hold(true);
    let mut client = rig.publisher();
    let first = tokio::spawn(async move {
        client.publish(v1::PublishRequest { message: Some(message("orders", "0")), delivery: 0 }).await
    });
    eventually("it has waited long enough", || rig.sidecar.stats.spool.spooling.get() == 1).await;
    for number in 1..5 {
        assert_eq!(rig.status_of(&number.to_string()).await, PublishStatus::Spooled);
    }
    assert_eq!(rig.waiting(), 4, "they wait for the one that may have arrived");
    cluster.hold(false);
    let first = soon(first).await.expect("ends").expect("published").into_inner().result.expect("a result");
    assert_eq!(first.status(), PublishStatus::Committed);
    until(&cluster, |cluster| texts(cluster).len() == 5).await;
    assert_eq!(texts(&cluster), numbers(0..5));
}

#[tokio::test]
async fn the_next_sidecar_forwards_what_the_last_one_left() {
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("orders", 1));
    cluster.away(true);
    let first = rig(&cluster, spooling(dir.path())).await;
    for number in 0..10 {
        assert_eq!(first.status_of(&number.to_string()).await, PublishStatus::Spooled);
    }
    let second = wherry_sidecar::spawn_on(spooling(dir.path()), cluster.clone()).await.expect_err("in use");
    assert!(second.to_string().contains("can't open the spool"), "{second}");
    soon(first.sidecar.stop()).await;
    // It closed the cluster's producer with itself.
    let cluster = MemoryCluster::new().with_topic("orders", 1);
    let second = rig(&cluster, spooling(dir.path())).await;
    until(&cluster, |cluster| texts(cluster).len() == 10).await;
    assert_eq!(texts(&cluster), numbers(0..10));
    eventually("it is empty", || second.waiting() == 0).await;
    soon(second.sidecar.stop()).await;
    let cluster = MemoryCluster::new().with_topic("orders", 1);
    let third = rig(&cluster, spooling(dir.path())).await;
    assert_eq!(third.status_of("new").await, PublishStatus::Committed);
    assert_eq!(texts(&cluster), ["new"], "what was forwarded is not forwarded again");
}

#[tokio::test]
async fn a_full_spool_slows_and_then_refuses_with_a_sentence() {
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("orders", 1));
    cluster.away(true);
    let rig = rig(&cluster, spooling(dir.path())).await;
    let mut payload = vec![0u8; 900_000];
    let mut state = 7u32;
    let mut spooled = 0;
    let refused = loop {
        // Not to be compressed.
        payload.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let message = Some(v1::Message { payload: payload.clone().into(), ..message("orders", "") });
        match soon(rig.publisher().publish(v1::PublishRequest { message, delivery: 0 })).await {
            Ok(answer) => assert_eq!(answer.into_inner().result.expect("a result").status(), PublishStatus::Spooled),
            Err(status) => break status,
        }
        spooled += 1;
        assert!(spooled < 100, "it has no bound");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.metadata().get("wherry-reason").expect("a reason"), "SPOOL_FULL");
    assert!(refused.message().contains("--spool-bytes"), "{refused}");
    assert!(spooled >= 20, "{spooled}");
    let taken: u64 = walk(dir.path());
    assert!(taken <= 64 << 20, "{taken} bytes on disk");
    cluster.away(false);
    eventually("all are forwarded", || rig.waiting() == 0).await;
    assert_eq!(cluster.records("orders", 0).len(), spooled);
    while rig.status_of("small").await != PublishStatus::Committed {}
}

fn walk(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => walk(&entry.path()),
            Ok(metadata) => metadata.len(),
            // Removed meanwhile.
            Err(_) => 0,
        })
        .sum()
}

#[tokio::test]
async fn what_the_cluster_refuses_goes_aside_and_holds_nothing_up() {
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("orders", 1));
    cluster.away(true);
    let rig = rig(&cluster, spooling(dir.path())).await;
    for number in 0..6 {
        let topic = if number % 2 == 0 { "orders" } else { "gone" };
        let message = Some(message(topic, &number.to_string()));
        let answer =
            soon(rig.publisher().publish(v1::PublishRequest { message, delivery: 0 })).await.expect("published");
        assert_eq!(answer.into_inner().result.expect("a result").status(), PublishStatus::Spooled);
    }
    cluster.away(false);
    let spool = &rig.sidecar.stats.spool;
    eventually("none is left", || spool.messages.get() == 0).await;
    assert_eq!(texts(&cluster), ["0", "2", "4"]);
    assert_eq!((spool.refused.get(), spool.quarantine_messages.get()), (3, 3));
    let (topic, cause) = spool.last_refused().expect("a cause");
    assert!(topic == "gone" && cause.contains("does not exist"), "{topic}: {cause}");
    soon(rig.sidecar.stop()).await;
    let next = self::rig(&MemoryCluster::new(), spooling(dir.path())).await;
    eventually("the quarantine is still there", || next.sidecar.stats.spool.quarantine_messages.get() == 3).await;
}

#[tokio::test]
async fn at_most_once_passes_the_spool_by() {
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("orders", 1));
    let rig = rig(&cluster, spooling(dir.path())).await;
    cluster.away(true);
    assert_eq!(rig.status_of("kept").await, PublishStatus::Spooled);
    let result = rig.send_at("not kept", DeliveryLevel::AtMostOnce).await.expect("taken");
    assert_eq!(result.status(), PublishStatus::Accepted);
    assert_eq!(rig.waiting(), 1);
}

#[tokio::test]
async fn stopping_leaves_in_the_spool_what_the_cluster_does_not_take() {
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("orders", 1));
    let mut stream = {
        let rig = rig(&cluster, spooling(dir.path())).await;
        cluster.away(true);
        let stream = Publishing::open(&rig).await;
        for number in 0..50 {
            stream.send(number).await;
        }
        eventually("all are taken", || rig.sidecar.stats.published.get() == 50).await;
        soon(rig.sidecar.stop()).await;
        stream
    };
    let results = stream.results(50).await;
    assert!(results.iter().all(|(_, status)| *status == PublishStatus::Spooled), "{results:?}");
    let cluster = MemoryCluster::new().with_topic("orders", 1);
    let _next = rig(&cluster, spooling(dir.path())).await;
    until(&cluster, |cluster| texts(cluster).len() == 50).await;
    assert_eq!(texts(&cluster), numbers(0..50));
}

struct Publishing {
    say: mpsc::Sender<PublishStreamRequest>,
    heard: Streaming<PublishStreamResponse>,
}

impl Publishing {
    async fn open(rig: &Rig) -> Self {
        let (say, said) = mpsc::channel(64);
        let heard = soon(rig.publisher().publish_stream(ReceiverStream::new(said))).await.expect("opens").into_inner();
        Self { say, heard }
    }

    async fn send(&self, number: usize) {
        let message = Some(message("orders", &number.to_string()));
        let frame = PublishStreamRequest { correlation_id: number as u64, message, options: None };
        soon(self.say.send(frame)).await.expect("open");
    }

    async fn results(&mut self, count: usize) -> Vec<(u64, PublishStatus)> {
        let mut results = Vec::new();
        while results.len() < count {
            let response = soon(self.heard.message()).await.expect("answers").expect("goes on");
            for ack in response.acks {
                match ack.outcome {
                    Some(Outcome::Result(result)) => results.push((ack.correlation_id, result.status())),
                    other => panic!("{other:?}"),
                }
            }
        }
        results
    }
}

#[tokio::test]
async fn outages_that_come_and_go_lose_repeat_and_reorder_nothing() {
    const MESSAGES: usize = 20_000;
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("orders", 1));
    let spool = SpoolConfig { after: Duration::from_millis(5), bytes: 64 << 20, ..SpoolConfig::new(dir.path()) };
    let rig = rig(&cluster, SidecarConfig { spool: Some(spool), ..config() }).await;
    let Publishing { say, heard } = Publishing::open(&rig).await;
    let weather = {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            for step in 0u64.. {
                match step % 7 {
                    0 | 3 => cluster.away(true),
                    1 => cluster.hold(true),
                    2 | 5 => cluster.away(false),
                    _ => cluster.hold(false),
                }
                tokio::time::sleep(Duration::from_millis(3 + step * 5 % 17)).await;
            }
        })
    };
    let sending = tokio::spawn(async move {
        for number in 0..MESSAGES {
            let message = Some(message("orders", &number.to_string()));
            let frame = PublishStreamRequest { correlation_id: number as u64, message, options: None };
            say.send(frame).await.expect("open");
            if number % 97 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        say
    });
    let (ignored, _) = mpsc::channel(1);
    let results = Publishing { say: ignored, heard }.results(MESSAGES).await;
    weather.abort();
    drop(soon(sending).await.expect("sends"));
    cluster.hold(false);
    cluster.away(false);
    eventually("all are forwarded", || rig.waiting() == 0).await;
    let spooled = results.iter().filter(|(_, status)| *status == PublishStatus::Spooled).count();
    assert!(spooled > 0 && spooled < MESSAGES, "{spooled} of {MESSAGES} were spooled: both ways are taken");
    assert_eq!(texts(&cluster), numbers(0..MESSAGES));
}

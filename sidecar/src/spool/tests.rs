//! The task of the spool by itself: a failed disk, its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use wherry_client::ProduceRecord;

use super::driver::Driver;
use super::store::{self, Store};
use super::{Published, Spool};
use crate::backend::memory::MemoryCluster;
use crate::stats::Stats;

const AFTER: Duration = Duration::from_millis(20);

struct Rig {
    spool: Spool,
    stats: Arc<Stats>,
    task: tokio::task::JoinHandle<()>,
}

fn rig(cluster: &MemoryCluster, directory: &Path, disk: impl FnOnce(&mut Driver<MemoryCluster>)) -> Rig {
    let store = Store::new(store::open(directory, 64 << 20, 1_000_000).expect("opens")).expect("is watched");
    let stats = Arc::new(Stats::default());
    let mut driver = Driver::new(cluster.clone(), store, AFTER, stats.clone());
    disk(&mut driver);
    let (inbox, commands) = mpsc::channel(8);
    let task = tokio::spawn(driver.run(commands));
    let room_bytes = 1 << 20;
    Rig { spool: Spool { inbox, room: Arc::new(Semaphore::new(room_bytes)), room_bytes }, stats, task }
}

impl Rig {
    async fn publish(&self, text: &'static str) -> Published {
        let publish = async { self.spool.send(ProduceRecord::new("t", text)).await.expect("taken").await };
        tokio::time::timeout(Duration::from_secs(20), publish).await.expect("in time").expect("published")
    }
}

fn texts(cluster: &MemoryCluster) -> Vec<String> {
    let mut texts: Vec<String> = cluster
        .records("t", 0)
        .into_iter()
        .map(|record| String::from_utf8(record.value.expect("a value").to_vec()).expect("text"))
        .collect();
    texts.sort();
    texts
}

#[tokio::test]
async fn a_failed_disk_closes_the_spool_and_publishing_goes_on() {
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("t", 1));
    cluster.away(true);
    let before = rig(&cluster, dir.path(), |_| {});
    assert_eq!(before.publish("a").await, Published::Spooled);
    drop(before.spool);
    before.task.await.expect("ends");
    cluster.away(false);
    let after = rig(&cluster, dir.path(), |driver| driver.fail("a write failed"));
    assert!(matches!(after.publish("b").await, Published::Committed(_)));
    assert_eq!(after.stats.spool.why_closed().as_deref(), Some("a write failed"));
    // What it holds is forwarded all the same, as far as it can be read.
    tokio::time::timeout(Duration::from_secs(20), cluster.until(|cluster| texts(cluster) == ["a", "b"]))
        .await
        .expect("both");
}

#[tokio::test]
async fn a_closed_spool_takes_nothing_more() {
    let (dir, cluster) = (tempfile::tempdir().expect("a directory"), MemoryCluster::new().with_topic("t", 1));
    cluster.away(true);
    let rig = rig(&cluster, dir.path(), |_| {});
    assert_eq!(rig.publish("a").await, Published::Spooled);
    assert_eq!(rig.stats.spool.spooling.get(), 1);
    rig.spool.flush().await;
    rig.spool.close().await;
    assert!(rig.spool.send(ProduceRecord::new("t", "late")).await.is_err(), "closed");
    rig.task.await.expect("ends");
    assert_eq!(rig.stats.spool.opened.get(), 0);
}

#[test]
fn a_directory_that_another_has_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = store::open(dir.path(), 64 << 20, 1_000_000).expect("opens");
    assert!(store::open(dir.path(), 64 << 20, 1_000_000).is_err());
    drop(first);
    assert!(store::open(dir.path(), 64 << 20, 1_000_000).is_ok());
}

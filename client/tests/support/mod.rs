//! What the integration tests share: a broker to test against, a proxy that cuts connections, waiting with a bound.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, unreachable_pub)]

pub mod kafka;
pub mod node;
pub mod proxy;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wherry_client::admin::NewTopic;
use wherry_client::{Client, ClientConfig};

/// How long any single condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Quick retries, so that tests with faults don't spend their time in pauses.
pub fn config(address: &str) -> ClientConfig {
    ClientConfig {
        retry_backoff: Duration::from_millis(20),
        retry_backoff_max: Duration::from_millis(250),
        call_timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(5),
        ..ClientConfig::new([address])
    }
}

pub async fn connect(address: &str) -> Client {
    Client::connect(config(address)).await.expect("the broker must be reachable")
}

/// A name that no other test uses.
pub fn unique(prefix: &str) -> Arc<str> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// A new topic.
pub async fn topic(client: &Client, prefix: &str, partitions: i32) -> Arc<str> {
    topic_with(client, NewTopic::new(unique(prefix), partitions)).await
}

pub async fn topic_with(client: &Client, new: NewTopic) -> Arc<str> {
    let name = new.name.clone();
    for (name, result) in client.admin().create_topics(&[new], false).await.unwrap() {
        result.unwrap_or_else(|e| panic!("create {name}: {e}"));
    }
    name
}

/// Bounds a whole test.
pub async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("{what}: not done within {limit:?}"))
}

/// Waits until `condition` holds, within [`PATIENCE`].
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    within(what, PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A small seeded generator, so that a failure can be repeated.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit.max(1)
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[5]).collect()
    }
}

/// Runs each test against Apache Kafka and against Wherry's node.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_kafka {
            $(#[tokio::test] async fn $name() {
                if let Some(address) = $crate::support::kafka::shared() {
                    super::$name(address).await;
                }
            })*
        }
        mod on_wherry {
            $(#[tokio::test] async fn $name() {
                super::$name($crate::support::node::shared()).await;
            })*
        }
    };
}

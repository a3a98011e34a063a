//! Wherry's own node in this process, as the other target of the same tests.

use std::net::TcpListener;
use std::sync::OnceLock;

use tempfile::TempDir;
use wherry_node::config::{Advertised, NodeConfig};
use wherry_node::{NodeHandle, spawn};

/// A node and its data.
pub struct Node {
    handle: Option<NodeHandle>,
    _dir: TempDir,
}

impl Node {
    /// Starts one; clients are told to connect to `advertised`, or to it itself.
    pub fn start(advertised: Option<u16>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            advertised: advertised.map(|port| Advertised { host: "127.0.0.1".into(), port }),
            data_dir: dir.path().to_owned(),
            group_initial_rebalance_delay_ms: 100,
            ..NodeConfig::default()
        };
        Self { handle: Some(spawn(config).unwrap()), _dir: dir }
    }

    pub fn port(&self) -> u16 {
        self.handle.as_ref().unwrap().addr().port()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
            handle.join().unwrap();
        }
    }
}

/// The address of the node that all tests of this binary share.
pub fn shared() -> String {
    static SHARED: OnceLock<Node> = OnceLock::new();
    format!("127.0.0.1:{}", SHARED.get_or_init(|| Node::start(None)).port())
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

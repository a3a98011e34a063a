//! Configuration of a sidecar: safe defaults, and a sentence for each combination that makes no sense.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use wherry_client::{ClientConfig, Codec, ProducerConfig, SecurityConfig};

use crate::limits::Limits;
use crate::publish::record::check_topic;
use crate::requests::REPLY_TOPIC;

/// The port that applications know, on localhost.
pub const DEFAULT_PORT: u16 = 7070;

/// What a sidecar is told at start.
#[derive(Debug, Clone)]
pub struct SidecarConfig {
    /// Where gRPC and HTTP are served. Localhost: whoever reaches it acts as the application. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Also serve on this Unix socket. A socket that a dead sidecar left behind is replaced.
    pub socket: Option<PathBuf>,
    /// Allow `listen` to be an address that others can reach.
    pub allow_remote: bool,
    /// Where to ask for the cluster first, as `host:port`.
    pub bootstrap: Vec<String>,
    /// Name under which nodes log this sidecar.
    pub client_id: String,
    /// How connections to nodes are encrypted and authenticated.
    pub security: SecurityConfig,
    /// How messages are sent.
    pub producer: ProducerTuning,
    /// How long to wait for the cluster when a call needs it and it is not there.
    pub cluster_wait: Duration,
    /// Longest for stopping in good order; then what is left is cut off.
    pub drain_timeout: Duration,
    /// Topic in which this sidecar looks for replies to its requests; made when it is first needed.
    pub reply_topic: String,
    /// What an application may make the sidecar hold.
    pub limits: Limits,
}

/// How messages are sent.
#[derive(Debug, Clone)]
pub struct ProducerTuning {
    /// Compression of batches.
    pub codec: Codec,
    /// Wait for more messages this long before a batch goes that is not full. Zero: no delay; batches form while others are
    /// on their way.
    pub linger: Duration,
    /// Size at which a batch is full, in bytes before compression.
    pub batch_bytes: usize,
    /// From taking a message to its result, all retries included.
    pub delivery_timeout: Duration,
    /// Bytes of messages without a result, over all streams. At the bound streams are not read.
    pub buffer_bytes: usize,
}

impl Default for ProducerTuning {
    fn default() -> Self {
        Self {
            codec: Codec::Lz4,
            linger: Duration::ZERO,
            batch_bytes: 256 * 1024,
            delivery_timeout: Duration::from_secs(120),
            buffer_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Default for SidecarConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            socket: None,
            allow_remote: false,
            bootstrap: vec!["127.0.0.1:9092".into()],
            client_id: "wherry-sidecar".into(),
            security: SecurityConfig::default(),
            producer: ProducerTuning::default(),
            cluster_wait: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            reply_topic: REPLY_TOPIC.into(),
            limits: Limits::default(),
        }
    }
}

impl SidecarConfig {
    /// Refuses what can't work.
    ///
    /// # Errors
    /// A sentence: which setting, why, and what to do.
    pub fn check(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() && !self.allow_remote {
            return Err(format!(
                "listen is {}, which others can reach: they could publish and read as this application. Use 127.0.0.1, or set allow_remote",
                self.listen
            ));
        }
        if self.bootstrap.is_empty() {
            return Err("bootstrap is empty: name at least one node as host:port".into());
        }
        if let Some(wrong) = self.bootstrap.iter().find(|address| !is_host_port(address)) {
            return Err(format!(
                "bootstrap has {wrong:?}, which is not host:port; write for example node-0.wherry:9092"
            ));
        }
        if self.producer.buffer_bytes < self.limits.message_bytes {
            return Err(format!(
                "producer.buffer_bytes is {}, below limits.message_bytes = {}: the largest message could never be sent; raise it",
                self.producer.buffer_bytes, self.limits.message_bytes
            ));
        }
        if self.producer.batch_bytes == 0 {
            return Err("producer.batch_bytes is 0: nothing could ever be sent; leave it at its default".into());
        }
        if self.producer.linger >= self.producer.delivery_timeout {
            return Err(format!(
                "producer.linger ({:?}) is not below producer.delivery_timeout ({:?}): every message would time out; lower it",
                self.producer.linger, self.producer.delivery_timeout
            ));
        }
        if check_topic(&self.reply_topic).is_err() {
            return Err(format!(
                "reply_topic is {:?}, which no topic can be called; leave it at {REPLY_TOPIC}, or choose another",
                self.reply_topic
            ));
        }
        self.limits.check()
    }

    pub(crate) fn client(&self) -> ClientConfig {
        ClientConfig {
            bootstrap: self.bootstrap.clone(),
            client_id: self.client_id.clone(),
            security: self.security.clone(),
            ..ClientConfig::default()
        }
    }

    /// How producers of transactions send: several of them, each with what one transaction may have at most.
    pub(crate) fn transactions(&self) -> ProducerConfig {
        let most = self.limits.transaction_bytes.max(self.limits.message_bytes);
        ProducerConfig { max_buffer_bytes: 2 * most + RECORD_OVERHEAD_BYTES, ..self.producer() }
    }

    pub(crate) fn producer(&self) -> ProducerConfig {
        let tuning = &self.producer;
        let defaults = ProducerConfig::default();
        ProducerConfig {
            codec: tuning.codec,
            linger: tuning.linger,
            batch_bytes: tuning.batch_bytes,
            delivery_timeout: tuning.delivery_timeout,
            max_buffer_bytes: tuning.buffer_bytes.max(self.limits.message_bytes + RECORD_OVERHEAD_BYTES),
            max_record_bytes: self.limits.message_bytes + RECORD_OVERHEAD_BYTES,
            max_request_bytes: defaults.max_request_bytes.max(self.limits.message_bytes + 2 * RECORD_OVERHEAD_BYTES),
            ..defaults
        }
    }
}

/// What a record may be larger than its message: lengths, the sidecar's own headers.
const RECORD_OVERHEAD_BYTES: usize = 8 * 1024;

fn is_host_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut SidecarConfig), says: &str) {
        let mut config = SidecarConfig::default();
        change(&mut config);
        let sentence = config.check().expect_err(says);
        assert!(sentence.contains(says), "{sentence}");
    }

    #[test]
    fn defaults_are_accepted() {
        assert_eq!(SidecarConfig::default().check(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_sentence() {
        refused(|c| c.listen = "0.0.0.0:7070".parse().expect("address"), "allow_remote");
        refused(|c| c.bootstrap.clear(), "bootstrap is empty");
        refused(|c| c.bootstrap = vec!["node-0".into()], "not host:port");
        refused(|c| c.bootstrap = vec![":9092".into()], "not host:port");
        refused(|c| c.producer.buffer_bytes = 1, "producer.buffer_bytes");
        refused(|c| c.producer.batch_bytes = 0, "producer.batch_bytes");
        refused(|c| c.producer.linger = Duration::from_secs(600), "producer.linger");
        refused(|c| c.reply_topic = "a/b".into(), "reply_topic");
        refused(|c| c.limits.connections = 0, "limits.connections");
        refused(|c| c.limits.stream_bytes = 10, "limits.stream_bytes");
        refused(|c| c.limits.message_bytes = usize::MAX / 4, "producer.buffer_bytes");
    }
}

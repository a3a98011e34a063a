//! Settings of a node. Unknown keys and unsafe combinations are refused at start, with a sentence.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::core::store::{BLOCK, EngineConfig};
use crate::limits::{Limits, MAX_LISTENERS, MAX_OFFSETS_TOPIC_PARTITIONS, MAX_SHARE_SPANS};
use crate::security::authorizer::AuthorizationConfig;
use crate::security::config::{ClientAuth, LinkAuth, ListenerConfig, Protocol, TlsConfig};
use crate::security::sasl::SaslConfig;
use crate::transactions::TransactionsConfig;

/// Which driver owns sockets and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoDriver {
    /// io_uring where it is permitted, threads elsewhere.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// Threads and plain system calls.
    Threads,
}

/// Where clients are told to connect.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advertised {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Sizes of the log engine that an operator may choose.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineOptions {
    /// Disk space of the journal in bytes: it bounds what must be replayed after a crash.
    pub journal_bytes: u64,
    /// Memory for recent batches in bytes.
    pub tail_bytes: usize,
    /// Memory for chunks read from disk in bytes.
    pub read_cache_bytes: usize,
    /// Free disk space kept for deletes and metadata in bytes; below it appends are refused.
    pub reserve_bytes: u64,
    /// Rate at which what rests on disk is read again and its checksums verified, in bytes per second; 0: never.
    pub scrub_bytes_per_s: u64,
    /// Rate at which the space of deleted data goes back to the file system while there is room, in bytes per second; 0: at once.
    pub erase_bytes_per_s: u64,
    /// Segment files open at the most; fewer where the process may not open so many.
    pub open_files: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let engine = EngineConfig::default();
        Self {
            journal_bytes: engine.journal_file_bytes * u64::try_from(engine.journal_files).unwrap_or(3),
            tail_bytes: engine.tail_bytes,
            read_cache_bytes: engine.read_cache_bytes,
            reserve_bytes: engine.reserve_bytes,
            scrub_bytes_per_s: engine.scrub_bytes_per_s,
            erase_bytes_per_s: engine.erase_bytes_per_s,
            open_files: engine.open_files,
        }
    }
}

/// Smallest journal in bytes.
pub const MIN_JOURNAL_BYTES: u64 = 16 << 20;

impl EngineOptions {
    /// The engine's own settings: the journal is cut into files of at most 64 MiB, at least four.
    #[must_use]
    pub fn engine_config(&self) -> EngineConfig {
        let block = u64::try_from(BLOCK).unwrap_or(4096);
        let file = (self.journal_bytes / 4).min(64 << 20) / block * block;
        let files = usize::try_from(self.journal_bytes / file.max(1)).unwrap_or(4).max(4);
        EngineConfig {
            journal_file_bytes: file,
            journal_files: files,
            tail_bytes: self.tail_bytes,
            read_cache_bytes: self.read_cache_bytes,
            reserve_bytes: self.reserve_bytes,
            scrub_bytes_per_s: self.scrub_bytes_per_s,
            erase_bytes_per_s: self.erase_bytes_per_s,
            open_files: self.open_files,
            ..EngineConfig::default()
        }
    }
}

/// A node with a vote on the metadata.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voter {
    /// Its id in the cluster.
    pub node_id: i32,
    /// Name or address at which the other nodes reach it.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// How a node finds the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// The first voters of the metadata quorum, this node among them if it is one.
    pub voters: Vec<Voter>,
    /// Addresses, as `host:port`, of any nodes of the cluster.
    pub seeds: Vec<String>,
    /// How nodes prove to each other that they are of this cluster. Without, whoever reaches the listener may say it is one.
    pub authentication: Option<LinkAuth>,
}

/// Numbers of voters that a quorum may have.
const QUORUM_SIZES: [usize; 3] = [1, 3, 5];
/// Seed addresses of a node.
const MAX_SEEDS: usize = 64;

impl ClusterConfig {
    /// The seeds, taken apart.
    pub fn seed_addresses(&self) -> impl Iterator<Item = (String, u16)> {
        self.seeds.iter().filter_map(|seed| host_and_port(seed))
    }

    fn validate(&self, node_id: i32) -> Result<(), String> {
        if !self.voters.is_empty() && !QUORUM_SIZES.contains(&self.voters.len()) {
            return Err(format!("cluster.voters has {} nodes; a quorum has 1, 3 or 5", self.voters.len()));
        }
        for (at, voter) in self.voters.iter().enumerate() {
            voter.validate()?;
            if self.voters[..at].iter().any(|other| other.node_id == voter.node_id) {
                return Err(format!("cluster.voters names node {} twice; ids are unique", voter.node_id));
            }
        }
        if self.seeds.len() > MAX_SEEDS {
            return Err(format!("cluster.seeds has {} addresses; {MAX_SEEDS} are enough", self.seeds.len()));
        }
        if let Some(bad) = self.seeds.iter().find(|seed| host_and_port(seed).is_none()) {
            return Err(format!("cluster.seeds: '{bad}' is not of the form host:port"));
        }
        if self.seeds.is_empty() && !self.voters.iter().any(|voter| voter.node_id == node_id) {
            return Err(format!(
                "node {node_id} is not among cluster.voters and cluster.seeds is empty: it could not find its cluster; \
                 add it to the voters or give seeds"
            ));
        }
        Ok(())
    }
}

impl Voter {
    /// `host:port`, as members of the quorum are named.
    #[must_use]
    pub fn addr(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn validate(&self) -> Result<(), String> {
        if self.node_id < 0 {
            return Err(format!("cluster.voters: node_id {} is negative; ids start at 0", self.node_id));
        }
        if !is_host(&self.host) || self.port == 0 {
            return Err(format!(
                "cluster.voters: '{}:{}' of node {} is not an address that others can reach",
                self.host, self.port, self.node_id
            ));
        }
        Ok(())
    }
}

fn is_host(host: &str) -> bool {
    (1..=255).contains(&host.len())
}

/// Takes `host:port` apart; an IPv6 address is in brackets.
pub(crate) fn host_and_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    is_host(host).then(|| (host.to_owned(), port))
}

/// Settings of one node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Address that the Kafka protocol is served on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where clients are told to connect; `listen` if it is a concrete address.
    pub advertised: Option<Advertised>,
    /// Listeners by name, in place of `listen` and `advertised`, which are one without protection.
    pub listeners: Vec<ListenerConfig>,
    /// Name of the listener that the other nodes connect to; the first one if there is none. Where it is encrypted, this
    /// node dials the others encrypted too.
    pub internal_listener: Option<String>,
    /// Certificates of all listeners that have none of their own.
    pub tls: Option<TlsConfig>,
    /// How clients authenticate themselves where the protocol of their listener is SASL_TLS or SASL_PLAINTEXT.
    pub sasl: Option<SaslConfig>,
    /// Who may do what; without, everybody everything.
    pub authorization: Option<AuthorizationConfig>,
    /// Directory of everything that lasts. One node at a time.
    pub data_dir: PathBuf,
    /// Id of this node in its cluster, not negative.
    pub node_id: i32,
    /// Id of the cluster; a new data directory without one makes its own.
    pub cluster_id: Option<String>,
    /// The other nodes; a node without is a cluster of its own.
    pub cluster: Option<ClusterConfig>,
    /// Failure domain that is told to clients.
    pub rack: Option<String>,
    /// Whether asking for an unknown topic makes it.
    pub auto_create_topics: bool,
    /// Partitions of a topic that does not say.
    pub default_partitions: i32,
    /// Replicas of a topic that does not say; -1 for three, or as many as there are nodes.
    pub default_replication_factor: i16,
    /// Whether replicas move by themselves when nodes come or go.
    pub auto_rebalance: bool,
    /// Whether consumers that say their rack are sent to an in-sync replica in it, where there is one and the leader is in
    /// another. Nodes without racks send nobody anywhere.
    pub follower_reads: bool,
    /// How an in-sync replica that had not everything for so long is no longer one, in milliseconds.
    pub replica_lag_time_ms: u64,
    /// Bytes per second that this node sends to each other one for replicas that are not in sync; none: no limit.
    pub catch_up_bytes_per_s: Option<u64>,
    /// How long an empty consumer group waits for more members before its first assignment, in milliseconds.
    pub group_initial_rebalance_delay_ms: u32,
    /// Silence after which a member of a consumer group (KIP-848) is out, in milliseconds, unless the group says otherwise.
    pub group_consumer_session_timeout_ms: u32,
    /// How often members of a consumer group are to send a heartbeat, in milliseconds, unless the group says otherwise.
    pub group_consumer_heartbeat_interval_ms: u32,
    /// Silence after which a member of a share group (KIP-932) is out, in milliseconds, unless the group says otherwise.
    pub group_share_session_timeout_ms: u32,
    /// How often members of a share group are to send a heartbeat, in milliseconds, unless the group says otherwise.
    pub group_share_heartbeat_interval_ms: u32,
    /// How long a member of a share group may keep a record, in milliseconds, unless the group says otherwise.
    pub group_share_record_lock_duration_ms: u32,
    /// Deliveries of one record to members of a share group, unless the group says otherwise.
    pub group_share_delivery_count_limit: u16,
    /// Records of one partition that members of a share group may have at once, unless the group says otherwise.
    pub group_share_partition_max_record_locks: u32,
    /// Partitions of the topic that keeps the state of share groups, each with a coordinator of its own. It is made when the
    /// first share group asks for it and keeps its size.
    pub share_topic_partitions: i32,
    /// Partitions of the topic that keeps the groups' state, each with a coordinator of its own. It is made when the first
    /// group asks for it and keeps its size.
    pub offsets_topic_partitions: i32,
    /// Partitions of the topic that keeps the transactions' state, each with a coordinator of its own. It is made when the
    /// first transactional producer asks for it and keeps its size.
    pub transactions_topic_partitions: i32,
    /// The longest that a producer may have its transactions last, in milliseconds (`transaction.max.timeout.ms`).
    pub transaction_max_timeout_ms: i32,
    /// A transactional id that nobody used for so long is forgotten, in milliseconds (`transactional.id.expiration.ms`).
    pub transactional_id_expiration_ms: u64,
    /// Bounds.
    pub limits: Limits,
    /// Sizes of the log engine.
    pub engine: EngineOptions,
    /// Which driver.
    pub io: IoDriver,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9092)),
            advertised: None,
            listeners: Vec::new(),
            internal_listener: None,
            tls: None,
            sasl: None,
            authorization: None,
            data_dir: PathBuf::from("wherry-data"),
            node_id: 0,
            cluster_id: None,
            cluster: None,
            rack: None,
            auto_create_topics: false,
            default_partitions: 1,
            default_replication_factor: -1,
            auto_rebalance: true,
            follower_reads: true,
            replica_lag_time_ms: 10_000,
            catch_up_bytes_per_s: None,
            group_initial_rebalance_delay_ms: 3_000,
            group_consumer_session_timeout_ms: 45_000,
            group_consumer_heartbeat_interval_ms: 5_000,
            group_share_session_timeout_ms: 45_000,
            group_share_heartbeat_interval_ms: 5_000,
            group_share_record_lock_duration_ms: 30_000,
            group_share_delivery_count_limit: 5,
            group_share_partition_max_record_locks: 2_000,
            share_topic_partitions: 16,
            offsets_topic_partitions: 16,
            transactions_topic_partitions: 16,
            transaction_max_timeout_ms: TransactionsConfig::default().max_timeout_ms,
            transactional_id_expiration_ms: TransactionsConfig::default().id_expiration_ms,
            limits: Limits::default(),
            engine: EngineOptions::default(),
            io: IoDriver::Auto,
        }
    }
}

impl NodeConfig {
    fn validate_share_groups(&self) -> Result<(), String> {
        let (partitions, most) = (self.share_topic_partitions, MAX_OFFSETS_TOPIC_PARTITIONS);
        if !(1..=most).contains(&partitions) {
            return Err(format!("share_topic_partitions {partitions} must be from 1 to {most}"));
        }
        let (interval, session) = (self.group_share_heartbeat_interval_ms, self.group_share_session_timeout_ms);
        if interval == 0 || interval >= session {
            return Err(format!(
                "group_share_heartbeat_interval_ms {interval} must be above 0 and below group_share_session_timeout_ms \
                 {session}"
            ));
        }
        let (locks, most) = (self.group_share_partition_max_record_locks as usize, MAX_SHARE_SPANS);
        if !(1..=most).contains(&locks) {
            return Err(format!("group_share_partition_max_record_locks {locks} must be from 1 to {most}"));
        }
        if self.group_share_record_lock_duration_ms == 0 || self.group_share_delivery_count_limit == 0 {
            return Err(
                "group_share_record_lock_duration_ms and group_share_delivery_count_limit must be above 0".into()
            );
        }
        Ok(())
    }

    /// Refuses what can't work or is not safe.
    ///
    /// # Errors
    /// A sentence that says what to set.
    pub fn validate(&self) -> Result<(), String> {
        if self.node_id < 0 {
            return Err(format!("node_id {} is negative; ids start at 0", self.node_id));
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err("data_dir is empty; name a directory".into());
        }
        let most = wherry_metadata::limits::MAX_PARTITIONS_PER_TOPIC;
        if !(1..=most).contains(&self.default_partitions) {
            return Err(format!("default_partitions {} must be from 1 to {most}", self.default_partitions));
        }
        let (partitions, most) = (self.offsets_topic_partitions, MAX_OFFSETS_TOPIC_PARTITIONS);
        if !(1..=most).contains(&partitions) {
            return Err(format!("offsets_topic_partitions {partitions} must be from 1 to {most}"));
        }
        self.validate_share_groups()?;
        let (interval, session) = (self.group_consumer_heartbeat_interval_ms, self.group_consumer_session_timeout_ms);
        if interval == 0 || interval >= session {
            return Err(format!(
                "group_consumer_heartbeat_interval_ms {interval} must be above 0 and below \
                 group_consumer_session_timeout_ms {session}"
            ));
        }
        self.validate_transactions()?;
        self.validate_listeners()?;
        self.authorization.as_ref().map_or(Ok(()), AuthorizationConfig::validate)?;
        if self.cluster_id.as_ref().is_some_and(String::is_empty) {
            return Err("cluster_id is empty; leave it out to have one made".into());
        }
        if let Some(cluster) = &self.cluster {
            cluster.validate(self.node_id)?;
        }
        if self.engine.journal_bytes < MIN_JOURNAL_BYTES {
            return Err(format!("engine.journal_bytes {} is below {MIN_JOURNAL_BYTES}", self.engine.journal_bytes));
        }
        self.limits.validate()?;
        self.engine.engine_config().validate()
    }

    fn validate_transactions(&self) -> Result<(), String> {
        let (partitions, most) = (self.transactions_topic_partitions, MAX_OFFSETS_TOPIC_PARTITIONS);
        if !(1..=most).contains(&partitions) {
            return Err(format!("transactions_topic_partitions {partitions} must be from 1 to {most}"));
        }
        if self.transaction_max_timeout_ms < 1 {
            return Err(format!("transaction_max_timeout_ms {} must be positive", self.transaction_max_timeout_ms));
        }
        if self.transactional_id_expiration_ms == 0 {
            return Err("transactional_id_expiration_ms 0 would forget every transactional id at once".into());
        }
        Ok(())
    }

    /// The settings of the transaction coordinators.
    pub(crate) fn transactions(&self) -> TransactionsConfig {
        TransactionsConfig {
            max_timeout_ms: self.transaction_max_timeout_ms,
            id_expiration_ms: self.transactional_id_expiration_ms,
            ..TransactionsConfig::default()
        }
    }

    fn validate_listeners(&self) -> Result<(), String> {
        let listeners = self.all_listeners();
        if listeners.len() > MAX_LISTENERS {
            return Err(format!("there are {} listeners; {MAX_LISTENERS} are the most", listeners.len()));
        }
        for (at, listener) in listeners.iter().enumerate() {
            listener.validate(self.tls.as_ref())?;
            if listeners[..at].iter().any(|other| other.name == listener.name) {
                return Err(format!("there are two listeners '{}'; names are unique", listener.name));
            }
        }
        let sasl: Vec<Protocol> = listeners.iter().map(|l| l.protocol).filter(|p| p.has_sasl()).collect();
        match &self.sasl {
            None if !sasl.is_empty() => {
                return Err("a listener asks its clients to authenticate themselves, but not how; set sasl".into());
            }
            Some(config) if !sasl.is_empty() => config.validate(sasl.contains(&Protocol::SaslPlaintext))?,
            Some(_) | None => {}
        }
        let names = || listeners.iter().map(|listener| listener.name.as_str());
        match &self.internal_listener {
            Some(name) if !names().any(|other| other == name) => {
                Err(format!("internal_listener '{name}' is not there"))
            }
            Some(_) | None => self.validate_links(),
        }
    }

    /// Nodes that trust whoever says it is one must not stand beside listeners that trust nobody.
    fn validate_links(&self) -> Result<(), String> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let internal = self.internal();
        let tls = internal.tls.as_ref().or(self.tls.as_ref());
        if internal.protocol.is_encrypted() && tls.is_none_or(|tls| tls.ca.is_none()) {
            return Err(format!(
                "listener '{}' is encrypted and other nodes are dialled: set tls.ca to know them by",
                internal.name
            ));
        }
        match &cluster.authentication {
            None if self.is_secured() => {
                Err("listeners are secured, but whoever reaches this node may say it is one of its cluster; \
                 set cluster.authentication"
                    .into())
            }
            Some(LinkAuth::Certificates { .. })
                if !internal.protocol.is_encrypted() || tls.is_none_or(|tls| tls.client_auth == ClientAuth::None) =>
            {
                Err(format!(
                    "cluster.authentication is by certificates, but listener '{}' does not ask for any; \
                     set its protocol to TLS or SASL_TLS and tls.client_auth to requested or required",
                    internal.name
                ))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether any listener is protected, or anything forbidden to anybody.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.authorization.is_some() || self.listeners.iter().any(|listener| listener.protocol != Protocol::Plaintext)
    }

    /// All listeners; at least one.
    #[must_use]
    pub fn all_listeners(&self) -> Vec<ListenerConfig> {
        if !self.listeners.is_empty() {
            return self.listeners.clone();
        }
        vec![ListenerConfig {
            name: Protocol::Plaintext.name().into(),
            listen: self.listen,
            advertised: self.advertised.clone(),
            protocol: Protocol::Plaintext,
            tls: None,
        }]
    }

    /// The listener that other nodes connect to.
    #[must_use]
    pub fn internal(&self) -> ListenerConfig {
        let mut all = self.all_listeners();
        let named = |listener: &ListenerConfig| Some(&listener.name) == self.internal_listener.as_ref();
        let at = all.iter().position(named).unwrap_or(0);
        all.swap_remove(at)
    }

    /// Where this node is found, given the addresses that its listeners were really bound to.
    #[must_use]
    pub fn advertised_at(&self, bound: &[SocketAddr]) -> Endpoints {
        let all = self.all_listeners();
        let at: Vec<(String, Advertised)> = all
            .iter()
            .zip(bound)
            .map(|(listener, addr)| (listener.name.clone(), listener.advertised_at(*addr)))
            .collect();
        let internal = self.internal().name;
        let first = at.iter().find(|(name, _)| *name == internal).or(at.first());
        let internal = first.map_or_else(|| Advertised { host: String::new(), port: 0 }, |(_, at)| at.clone());
        // One listener is the internal one; a list of it would say nothing.
        let by_name = if at.len() > 1 { at.into_iter().collect() } else { BTreeMap::new() };
        Endpoints { internal, by_name }
    }
}

/// Where a node is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// By other nodes.
    pub internal: Advertised,
    /// By clients, per name of a listener; empty if all come to the internal one.
    pub by_name: BTreeMap<String, Advertised>,
}

impl From<Advertised> for Endpoints {
    fn from(internal: Advertised) -> Self {
        Self { internal, by_name: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(NodeConfig::default().validate(), Ok(()));
    }

    #[test]
    fn bad_settings_get_a_sentence() {
        type Spoil = fn(&mut NodeConfig);
        let every: [(Spoil, &str); 21] = [
            (|c| c.node_id = -1, "node_id"),
            (|c| c.default_partitions = 0, "default_partitions"),
            (|c| c.offsets_topic_partitions = 1_001, "offsets_topic_partitions"),
            (|c| c.group_consumer_heartbeat_interval_ms = 45_000, "group_consumer_heartbeat_interval_ms"),
            (|c| c.transactions_topic_partitions = 0, "transactions_topic_partitions"),
            (|c| c.transaction_max_timeout_ms = 0, "transaction_max_timeout_ms"),
            (|c| c.transactional_id_expiration_ms = 0, "transactional_id_expiration_ms"),
            (|c| c.listen = SocketAddr::from(([0, 0, 0, 0], 9092)), "advertised"),
            (|c| c.data_dir = PathBuf::new(), "data_dir"),
            (|c| c.engine.journal_bytes = 4096, "journal_bytes"),
            (|c| c.engine.tail_bytes = 1, "tail_bytes"),
            (|c| c.limits.requests_per_connection = 0, "requests_per_connection"),
            (|c| c.cluster = Some(ClusterConfig::default()), "seeds"),
            (|c| c.cluster = Some(cluster(&[1], &[])), "node 0 is not among"),
            (|c| c.cluster = Some(cluster(&[0, 1], &[])), "1, 3 or 5"),
            (|c| c.cluster = Some(cluster(&[0, 1, 1], &[])), "twice"),
            (|c| c.cluster = Some(cluster(&[0, 1, -1], &[])), "negative"),
            (|c| c.cluster = Some(cluster(&[], &["here"])), "host:port"),
            (|c| c.cluster = Some(cluster(&[], &["here:0"])), "host:port"),
            (|c| c.cluster = Some(cluster(&[], &["::1:9092"])), "host:port"),
            (|c| c.cluster = Some(cluster(&[], &["a:1"; 65])), "enough"),
        ];
        for (spoil, word) in every {
            let mut config = NodeConfig::default();
            spoil(&mut config);
            let sentence = config.validate().unwrap_err();
            assert!(sentence.contains(word), "{sentence}");
        }
    }

    fn cluster(voters: &[i32], seeds: &[&str]) -> ClusterConfig {
        let voter = |node_id: &i32| Voter { node_id: *node_id, host: "node".into(), port: 9092 };
        ClusterConfig {
            voters: voters.iter().map(voter).collect(),
            seeds: seeds.iter().map(|s| (*s).into()).collect(),
            authentication: None,
        }
    }

    #[test]
    fn voters_and_joiners_are_valid() {
        for (node_id, cluster) in [(0, cluster(&[0, 1, 2], &[])), (7, cluster(&[], &["a:1", "[::1]:2"]))] {
            let config = NodeConfig { node_id, cluster: Some(cluster), ..NodeConfig::default() };
            assert_eq!(config.validate(), Ok(()));
        }
        let addresses: Vec<_> = cluster(&[], &["a:1", "[::1]:2"]).seed_addresses().collect();
        assert_eq!(addresses, [("a".to_owned(), 1), ("::1".to_owned(), 2)]);
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<NodeConfig>(r#"{"node_id": 3}"#).is_ok());
        let error = serde_json::from_str::<NodeConfig>(r#"{"nod_id": 3}"#).unwrap_err().to_string();
        assert!(error.contains("nod_id"), "{error}");
    }

    fn listener(name: &str, protocol: Protocol) -> ListenerConfig {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        ListenerConfig { name: name.into(), listen, advertised: None, protocol, tls: None }
    }

    #[test]
    fn advertises_what_was_bound() {
        let config = NodeConfig::default();
        let at = config.advertised_at(&[SocketAddr::from(([127, 0, 0, 1], 5))]);
        assert_eq!(at, Advertised { host: "127.0.0.1".into(), port: 5 }.into());
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:7".parse().unwrap();
        assert_eq!(config.advertised_at(&[mapped]).internal.host, "10.0.0.1", "an IPv4 address is advertised as one");
        let config = NodeConfig {
            listeners: vec![listener("outside", Protocol::Plaintext), listener("inside", Protocol::Plaintext)],
            internal_listener: Some("inside".into()),
            ..NodeConfig::default()
        };
        let port = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let at = config.advertised_at(&[port(5), port(6)]);
        assert_eq!((at.internal.port, at.by_name["outside"].port, at.by_name["inside"].port), (6, 5, 6));
    }

    #[test]
    fn bad_listeners_get_a_sentence() {
        let tls = || TlsConfig { certificate: "c".into(), key: "k".into(), ca: None, client_auth: ClientAuth::None };
        type Spoil = fn(&mut NodeConfig, TlsConfig);
        let every: [(Spoil, &str); 8] = [
            (|c, _| c.listeners = vec![listener("a", Protocol::Tls)], "no certificate"),
            (|c, _| c.listeners = vec![listener("a b", Protocol::Plaintext)], "letters"),
            (
                |c, _| c.listeners = vec![listener("a", Protocol::Plaintext), listener("a", Protocol::Plaintext)],
                "unique",
            ),
            (|c, _| c.listeners = (0..17).map(|n| listener(&n.to_string(), Protocol::Plaintext)).collect(), "most"),
            (|c, _| c.internal_listener = Some("b".into()), "not there"),
            (
                |c, tls| c.listeners = vec![ListenerConfig { tls: Some(tls), ..listener("a", Protocol::Plaintext) }],
                "has cert",
            ),
            (
                |c, tls| {
                    c.listeners = vec![listener("a", Protocol::Tls)];
                    (c.tls, c.cluster) = (Some(tls), Some(cluster(&[0], &[])));
                },
                "tls.ca",
            ),
            (
                |c, tls| {
                    c.listeners = vec![listener("in", Protocol::Plaintext), listener("out", Protocol::Tls)];
                    (c.tls, c.cluster) = (Some(tls), Some(cluster(&[0], &[])));
                },
                "cluster.authentication",
            ),
        ];
        for (spoil, word) in every {
            let mut config = NodeConfig::default();
            spoil(&mut config, tls());
            let sentence = config.validate().unwrap_err();
            assert!(sentence.contains(word), "{sentence}");
        }
    }

    #[test]
    fn journal_files_share_the_journal() {
        for bytes in [MIN_JOURNAL_BYTES, 100 << 20, 768 << 20, 8 << 30] {
            let engine = EngineOptions { journal_bytes: bytes, ..EngineOptions::default() }.engine_config();
            assert_eq!(engine.validate(), Ok(()));
            let files = u64::try_from(engine.journal_files).unwrap();
            assert!(engine.journal_file_bytes * files <= bytes);
        }
    }
}

//! The start of a node: its own state is read back, logs are made to agree with it, and a new incarnation begins.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use uuid::Uuid;
use wherry_metadata::quorum::{Quorum, QuorumConfig, QuorumError, Stored};
use wherry_metadata::{Command, Endpoint, Metadata};
use wherry_wire::types::LogId;

use super::Core;
use super::acks::Acks;
use super::conns::Connections;
use super::consensus::{AfterCommit, Consensus, QUORUM_LOG};
use super::coordinators::GroupDesk;
use super::durable::DurableQueue;
use super::internal_log::replay;
use super::producer_ids::ProducerIds;
use super::purgatory::Purgatory;
use super::sessions::Sessions;
use super::share::ShareDesk;
use super::store::{Cleanup, Disk, Engine, Event, LogConfig, LogStore, Now};
use super::throttle::Throttle;
use super::transactional_commit::TransactionalCommits;
use super::transactions::TransactionDesk;
use super::verify::Questions;
use crate::api;
use crate::cluster::Cluster;
use crate::config::{Advertised, Endpoints, NodeConfig, Voter};
use crate::entropy::Entropy;
use crate::error::NodeError;
use crate::groups::GroupsConfig;
use crate::replication::{Replicas, ReplicationConfig};
use crate::security::secrets::Secrets;
use crate::stats::NodeStats;

impl<D: Disk> Core<Engine<D>> {
    /// Opens the data directory that `disk` is rooted in and recovers everything acknowledged. Blocks on the disk.
    /// `advertised` is where clients are told to connect.
    ///
    /// # Errors
    /// [`NodeError`]: the node must not start.
    pub fn open(config: NodeConfig, advertised: impl Into<Endpoints>, disk: D, now: Now) -> Result<Self, NodeError> {
        config.validate().map_err(NodeError::Config)?;
        let (engine, recovery) = Engine::open(disk, config.engine.engine_config(), now, Uuid::new_v4())?;
        tracing::info!(?recovery, "recovered the data directory");
        Self::with_store(config, advertised, engine, now)
    }
}

impl<S: LogStore> Core<S> {
    /// The node over a store that is open already.
    ///
    /// # Errors
    /// [`NodeError`]: the node must not start.
    pub fn with_store(
        config: NodeConfig,
        advertised: impl Into<Endpoints>,
        store: S,
        now: Now,
    ) -> Result<Self, NodeError> {
        Self::with_entropy(config, advertised, store, now, Entropy::system())
    }

    /// As [`Core::with_store`], with ids from `entropy`: for simulation.
    ///
    /// # Errors
    /// [`NodeError`]: the node must not start.
    pub fn with_entropy(
        config: NodeConfig,
        advertised: impl Into<Endpoints>,
        mut store: S,
        now: Now,
        entropy: Entropy,
    ) -> Result<Self, NodeError> {
        let endpoints = advertised.into();
        config.validate().map_err(NodeError::Config)?;
        let groups = GroupsConfig {
            initial_rebalance_delay_ms: config.group_initial_rebalance_delay_ms,
            consumer_session_timeout_ms: config.group_consumer_session_timeout_ms,
            consumer_heartbeat_interval_ms: config.group_consumer_heartbeat_interval_ms,
            share_session_timeout_ms: config.group_share_session_timeout_ms,
            share_heartbeat_interval_ms: config.group_share_heartbeat_interval_ms,
            ..GroupsConfig::default()
        };
        groups.validate().map_err(|error| NodeError::Config(error.to_string()))?;
        let transactions = config.transactions();
        let quorum = load_quorum(&mut store, &config, now, entropy.seed())?;
        let incarnation = entropy.uuid();
        let voters = first_voters(&config, &endpoints.internal);
        let mut replication = ReplicationConfig::new(config.node_id);
        replication.replica_lag_time_ms = config.replica_lag_time_ms;
        replication.catch_up_bytes_per_s = config.catch_up_bytes_per_s;
        let mut core = Self {
            listeners: config.all_listeners(),
            config,
            endpoints,
            store,
            meta: Metadata::default(),
            consensus: Consensus::new(quorum),
            cluster: Cluster::new(voters),
            replicas: Replicas::new(replication),
            acks: Acks::new(),
            held: VecDeque::new(),
            log_work: VecDeque::new(),
            census_ns: None,
            rebuilt: HashSet::default(),
            producer_ids: ProducerIds::default(),
            durable: DurableQueue::default(),
            stalled: VecDeque::new(),
            verification: super::verification::Verification::default(),
            markers: super::markers::Markers::default(),
            message_ids: super::message_ids::MessageIds::new(entropy.seed()),
            purgatory: Purgatory::new(),
            lookups: api::list_offsets::Lookups::default(),
            sessions: Sessions::new(session_seed(entropy.seed())),
            desk: GroupDesk::new(groups),
            transactions: TransactionDesk::new(transactions),
            shares: ShareDesk::default(),
            share_descriptions: api::share::offsets::Descriptions::default(),
            questions: Questions::default(),
            transactional_commits: TransactionalCommits::default(),
            stats: Arc::new(NodeStats::default()),
            secrets: Secrets::default(),
            throttle: Throttle::default(),
            entropy,
            now,
            incarnation,
            links: None,
            conns: Connections::default(),
            effects: Vec::new(),
            events: Vec::new(),
            stopping: false,
            unsettled: VecDeque::new(),
            settling: false,
        };
        core.open_links();
        if core.links.is_some() {
            core.consensus.quorum.set_may_elect(false);
        }
        core.begin_incarnation()?;
        Ok(core)
    }

    /// Has this process registered: what it led before, it leads no more. A node that is the whole quorum waits for it;
    /// another one serves what it may and hears from the others.
    fn begin_incarnation(&mut self) -> Result<(), NodeError> {
        let command = Command::RegisterBroker {
            node_id: self.config.node_id,
            incarnation: self.incarnation,
            directory: self.store.directory(),
            host: self.endpoints.internal.host.clone(),
            port: self.endpoints.internal.port,
            rack: self.config.rack.clone(),
            endpoints: self.endpoints.by_name.iter().map(|(name, at)| (name.clone(), endpoint(at))).collect(),
        };
        self.propose(vec![command], AfterCommit::Nothing).map_err(|(error, _)| NodeError::State(error.to_string()))?;
        if self.config.cluster.is_some() {
            return Ok(());
        }
        let active = |core: &Self| core.meta.broker(core.config.node_id).is_some_and(|b| !b.fenced);
        let now = self.now;
        self.turn(now);
        while !(self.stopping || self.cluster.registered && active(self) && !self.consensus.has_pending()) {
            self.store.wait(now);
            self.turn(now);
        }
        match self.effects.drain(..).find_map(|effect| match effect {
            super::Effect::Stop { reason } => Some(reason),
            super::Effect::Send { .. }
            | super::Effect::Close { .. }
            | super::Effect::Connect { .. }
            | super::Effect::Promote { .. }
            | super::Effect::Authenticated { .. }
            | super::Effect::PauseReads { .. }
            | super::Effect::ResumeReads { .. } => None,
        }) {
            Some(reason) => Err(NodeError::Stopped(reason)),
            None => Ok(()),
        }
    }
}

/// Who begins a new cluster; a node without others is the whole of it.
fn first_voters(config: &NodeConfig, advertised: &Advertised) -> Vec<Voter> {
    match &config.cluster {
        Some(cluster) => cluster.voters.clone(),
        None => vec![Voter { node_id: config.node_id, host: advertised.host.clone(), port: advertised.port }],
    }
}

fn endpoint(at: &Advertised) -> Endpoint {
    Endpoint { host: at.host.clone(), port: at.port }
}

fn session_seed(random: u64) -> i32 {
    i32::try_from(random & 0x3fff_ffff).unwrap_or(0)
}

/// An internal log keeps everything until the node says otherwise.
pub(crate) fn internal_log_config(cleanup: Cleanup) -> LogConfig {
    LogConfig { retention_ms: -1, retention_bytes: -1, cleanup, segment_bytes: 64 << 20, ..LogConfig::default() }
}

/// Makes an internal log, or configures the one that is there.
fn internal_log<S: LogStore>(store: &mut S, now: Now, log: LogId, cleanup: Cleanup) -> Result<(), NodeError> {
    let failed = |error: super::store::LogError| NodeError::State(error.to_string());
    if store.info(log).is_some() {
        return store.configure(log, internal_log_config(cleanup)).map_err(failed);
    }
    let ticket = store.create_log(log, internal_log_config(cleanup)).map_err(failed)?;
    wait_durable(store, now, ticket)
}

/// What the quorum's log holds: the beginning of this node's part in it.
fn load_quorum<S: LogStore>(store: &mut S, config: &NodeConfig, now: Now, seed: u64) -> Result<Quorum, NodeError> {
    let failed = |error: QuorumError| NodeError::State(error.to_string());
    internal_log(store, now, QUORUM_LOG, Cleanup::Delete)?;
    let mut records = Vec::new();
    replay(store, now, QUORUM_LOG, |(_, value)| {
        records.push(value.unwrap_or_default());
        Ok(())
    })?;
    let stored = Stored::replay(&records).map_err(failed)?;
    let quorum = QuorumConfig {
        heartbeat_ms: 60,
        election_min_ms: 300,
        election_max_ms: 600,
        ..QuorumConfig::new(config.node_id, seed)
    };
    Quorum::open(quorum, stored, now.monotonic_ns).map_err(failed)
}

fn wait_durable<S: LogStore>(store: &mut S, now: Now, ticket: super::store::Ticket) -> Result<(), NodeError> {
    let mut events = Vec::new();
    loop {
        store.wait(now);
        store.events(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Durable(upto) if upto >= ticket => return Ok(()),
                Event::Failed(reason) => return Err(NodeError::State(reason)),
                Event::Durable(_)
                | Event::Advanced(_)
                | Event::Sealed(_)
                | Event::ReadDone(..)
                | Event::LookupDone(..)
                | Event::Room
                | Event::Full(_)
                | Event::StableMoved(_)
                | Event::StartMoved(..)
                | Event::LogFailed(..) => {}
            }
        }
    }
}

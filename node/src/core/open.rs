//! The start of a node: its own state is read back, logs are made to agree with it, and a new incarnation begins.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use uuid::Uuid;
use wherry_metadata::{Command, Metadata, Record};
use wherry_wire::types::LogId;

use super::Core;
use super::command_log::{AfterCommit, CommandLog, METADATA_LOG, log_config};
use super::conns::Connections;
use super::durable::DurableQueue;
use super::internal_log::replay;
use super::producer_ids::ProducerIds;
use super::purgatory::Purgatory;
use super::sessions::Sessions;
use super::store::{Cleanup, Disk, Engine, Event, LogConfig, LogStore, Now};
use crate::api;
use crate::api::groups::{GROUP_LOG, GroupDesk};
use crate::config::{Advertised, NodeConfig};
use crate::entropy::Entropy;
use crate::error::NodeError;
use crate::groups::{Groups, GroupsConfig};
use crate::limits::SNAPSHOT_AFTER_COMMANDS;
use crate::stats::NodeStats;

impl<D: Disk> Core<Engine<D>> {
    /// Opens the data directory that `disk` is rooted in and recovers everything acknowledged. Blocks on the disk.
    /// `advertised` is where clients are told to connect.
    ///
    /// # Errors
    /// [`NodeError`]: the node must not start.
    pub fn open(config: NodeConfig, advertised: Advertised, disk: D, now: Now) -> Result<Self, NodeError> {
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
    pub fn with_store(config: NodeConfig, advertised: Advertised, store: S, now: Now) -> Result<Self, NodeError> {
        Self::with_entropy(config, advertised, store, now, Entropy::system())
    }

    /// As [`Core::with_store`], with ids from `entropy`: for simulation.
    ///
    /// # Errors
    /// [`NodeError`]: the node must not start.
    pub fn with_entropy(
        config: NodeConfig,
        advertised: Advertised,
        mut store: S,
        now: Now,
        entropy: Entropy,
    ) -> Result<Self, NodeError> {
        config.validate().map_err(NodeError::Config)?;
        let (meta, replayed) = load_metadata(&mut store, now)?;
        let desk = load_groups(&mut store, &config, now, entropy.seed())?;
        let mut core = Self {
            config,
            advertised,
            store,
            meta,
            commands: CommandLog { pending: 0, since_snapshot: replayed },
            log_work: VecDeque::new(),
            producer_ids: ProducerIds::default(),
            durable: DurableQueue::default(),
            stalled: VecDeque::new(),
            purgatory: Purgatory::new(),
            lookups: api::list_offsets::Lookups::default(),
            sessions: Sessions::new(session_seed(entropy.seed())),
            desk,
            stats: Arc::new(NodeStats::default()),
            entropy,
            now,
            conns: Connections::default(),
            effects: Vec::new(),
            events: Vec::new(),
            stopping: false,
            unsettled: VecDeque::new(),
            settling: false,
        };
        core.begin_incarnation()?;
        core.agree_with_logs()?;
        core.groups_loaded();
        core.stats.topics.set(core.meta.topic_count() as u64);
        core.stats.partitions.set(core.meta.partition_count() as u64);
        core.stats.ready.set(1);
        Ok(core)
    }

    /// Names the cluster and registers this process start: leader epochs rise (a node never resumes an epoch it led).
    fn begin_incarnation(&mut self) -> Result<(), NodeError> {
        let mut commands = Vec::new();
        match (self.meta.cluster_id(), self.config.cluster_id.clone()) {
            (None, given) => {
                let cluster_id = given.unwrap_or_else(|| self.entropy.uuid().simple().to_string());
                commands.push(Command::SetClusterId { cluster_id });
            }
            (Some(found), Some(asked)) if found != asked => {
                return Err(NodeError::Config(format!(
                    "the data directory belongs to cluster '{found}', not to '{asked}'; set another data_dir or cluster_id"
                )));
            }
            (Some(_), _) => {}
        }
        commands.push(Command::RegisterBroker {
            node_id: self.config.node_id,
            incarnation: self.entropy.uuid(),
            host: self.advertised.host.clone(),
            port: self.advertised.port,
            rack: self.config.rack.clone(),
        });
        for command in &commands {
            self.meta.check(command)?;
        }
        self.propose(commands, AfterCommit::Nothing).map_err(|(error, _)| NodeError::State(error.to_string()))?;
        self.commit_now()
    }

    /// Blocks until every proposal so far is durable and applied.
    fn commit_now(&mut self) -> Result<(), NodeError> {
        let now = self.now;
        while self.commands.pending > 0 && !self.stopping {
            self.store.wait(now);
            self.turn(now);
        }
        match self.effects.drain(..).find_map(|effect| match effect {
            super::Effect::Stop { reason } => Some(reason),
            super::Effect::Send { .. }
            | super::Effect::Close { .. }
            | super::Effect::PauseReads { .. }
            | super::Effect::ResumeReads { .. } => None,
        }) {
            Some(reason) => Err(NodeError::Stopped(reason)),
            None => Ok(()),
        }
    }

    /// A crash can leave a topic without its logs, or logs without their topic: the metadata decides.
    fn agree_with_logs(&mut self) -> Result<(), NodeError> {
        let wanted: BTreeSet<LogId> = self
            .meta
            .topics_from("")
            .flat_map(|topic| (0..topic.partitions).map(|partition| LogId { topic: topic.id, partition }))
            .collect();
        let found: BTreeSet<LogId> = self.store.logs().into_iter().collect();
        for log in found.difference(&wanted).filter(|log| !is_internal(log)) {
            tracing::info!(%log, "removing a log that no topic has");
            self.log_work.push_back(super::command_log::LogWork::Delete(*log));
        }
        for log in wanted.difference(&found) {
            tracing::info!(%log, "making a log that its topic lacks");
            self.log_work.push_back(super::command_log::LogWork::Create(*log));
        }
        for log in wanted.intersection(&found) {
            let Some(topic) = self.meta.topic_by_id(log.topic) else { continue };
            self.store.configure(*log, log_config(&topic.config)).map_err(|e| NodeError::State(e.to_string()))?;
        }
        self.do_log_work();
        Ok(())
    }

    /// Writes a snapshot of the metadata when its log has grown, and lets what lies before it go.
    pub(crate) fn snapshot_if_due(&mut self) {
        let live = self.meta.topic_count().saturating_add(SNAPSHOT_AFTER_COMMANDS);
        if self.commands.since_snapshot < live || self.commands.pending > 0 {
            return;
        }
        self.commands.since_snapshot = 0;
        let Some(before) = self.store.info(METADATA_LOG).map(|info| info.log_end) else { return };
        let snapshot: Vec<Record> = self.meta.snapshot();
        match self.append_records(&snapshot) {
            Ok(ticket) => self.durable.push(ticket, super::Then::TrimMetadata { before }),
            Err(error) => tracing::warn!(%error, "no snapshot of the metadata now; the log grows on"),
        }
    }
}

fn is_internal(log: &LogId) -> bool {
    *log == METADATA_LOG || *log == GROUP_LOG
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

fn load_metadata<S: LogStore>(store: &mut S, now: Now) -> Result<(Metadata, usize), NodeError> {
    let mut meta = Metadata::default();
    let mut count = 0;
    internal_log(store, now, METADATA_LOG, Cleanup::Delete)?;
    replay(store, now, METADATA_LOG, |(_, value)| {
        let record = wherry_metadata::decode(&value.unwrap_or_default())?;
        count += 1;
        meta.replay(record)?;
        Ok(())
    })?;
    Ok((meta, count))
}

fn load_groups<S: LogStore>(store: &mut S, config: &NodeConfig, now: Now, seed: u64) -> Result<GroupDesk, NodeError> {
    let settings =
        GroupsConfig { initial_rebalance_delay_ms: config.group_initial_rebalance_delay_ms, ..GroupsConfig::default() };
    let mut groups = Groups::new(settings, seed).map_err(|error| NodeError::Config(error.to_string()))?;
    internal_log(store, now, GROUP_LOG, Cleanup::Compact)?;
    replay(store, now, GROUP_LOG, |(key, value)| {
        groups.replay(&key.unwrap_or_default(), value.as_deref()).map_err(|error| NodeError::State(error.to_string()))
    })?;
    Ok(GroupDesk::new(groups))
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
                | Event::ReadDone(..)
                | Event::LookupDone(..)
                | Event::Room
                | Event::Full(_)
                | Event::StartMoved(..)
                | Event::LogFailed(..) => {}
            }
        }
    }
}

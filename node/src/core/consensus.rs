//! The node's part in the metadata quorum: proposals until they are applied here, what consensus writes, and what it
//! decides.
//!
//! ```text
//!  propose ─> queued ─> given (numbered; to the quorum here, or to the node that leads it) ─> Committed ─> apply ─> after
//!                          └── another leader, or no sign of life: given again; the state machine skips what it has seen
//! ```
//! A command takes effect when it is committed and applied, not before: nobody sees a topic that a crash could take back.
//! Whether it succeeds is decided by the state machine then; `Metadata::check` before is only there to keep hopeless
//! commands out of the log.

use std::collections::VecDeque;

use bytes::Bytes;
use uuid::Uuid;
use wherry_metadata::quorum::{Message, Output, ProposalId, Quorum, QuorumError, WriteId};
use wherry_metadata::{
    Applied, Change, Command, Metadata, MetadataError, Origin, PartitionId, Payload, decode_payload, encode_payload,
};
use wherry_wire::types::{LogId, Offset};

use super::store::{LogError, LogStore};
use super::{Core, Then};
use crate::api;
use crate::cluster::control::Control;
use crate::limits;

/// Log of the quorum: a reserved topic id that no topic can have (ids are random, version 4).
pub const QUORUM_LOG: LogId = LogId { topic: Uuid::from_u128(0x7768_6572_7279_0000_0000_0000_0000_0003), partition: 0 };
/// Payloads of this node that are under way at once: what comes meanwhile goes together into the next one.
const MAX_GIVEN: usize = 4;
/// Proposals are given again when nothing was heard of them for so long, in nanoseconds.
const GIVE_AGAIN_NS: u64 = 1_000_000_000;
/// Bytes of commands in one payload, about; a command is never cut. A payload is one record of the quorum log.
const MAX_GROUP_BYTES: usize = 64 << 10;

/// Which handler goes on after a commit.
#[derive(Debug)]
pub(crate) enum AfterCommit {
    /// Nobody waits.
    Nothing,
    /// CreateTopics.
    CreateTopics(Box<api::create_topics::Pending>),
    /// Topics made because someone asked for them.
    AutoCreate(Box<api::metadata::Pending>),
    /// DeleteTopics.
    DeleteTopics(Box<api::delete_topics::Pending>),
    /// CreatePartitions.
    CreatePartitions(Box<api::create_partitions::Pending>),
    /// ElectLeaders.
    ElectLeaders(Box<api::elect_leaders::Pending>),
    /// AlterPartitionReassignments.
    Reassign(Box<api::reassignments::Pending>),
    /// UnregisterBroker.
    Unregister(Box<api::Ctx>),
    /// AlterConfigs and IncrementalAlterConfigs.
    AlterConfigs(Box<api::alter_configs::Pending>),
    /// UpdateFeatures.
    UpdateFeatures(Box<api::update_features::Pending>),
    /// AlterUserScramCredentials.
    AlterScram(Box<api::scram::Pending>),
    /// CreateAcls and DeleteAcls.
    AlterAcls(Box<api::acls::Pending>),
    /// AlterClientQuotas.
    AlterQuotas(Box<api::client_quotas::Pending>),
    /// A block of producer ids.
    ProducerIds,
    /// A topic that keeps coordinators' state.
    CoordinatorTopic(super::coordinators::CoordinatorTopic),
    /// In-sync sets that leaders here proposed.
    InSync(Vec<crate::replication::IsrChange>),
}

/// What became of each command of a proposal.
pub(crate) type Results = Vec<Result<Change, MetadataError>>;

/// Commands that belong together.
#[derive(Debug)]
struct Proposal {
    commands: VecDeque<Command>,
    /// Of the commands that were applied already.
    results: Results,
    /// Commands that are given and not applied.
    given: usize,
    after: AfterCommit,
}

/// A payload that is under way.
#[derive(Debug)]
struct Given {
    sequence: u64,
    bytes: Bytes,
    commands: usize,
    /// Told to the present leader.
    told: bool,
}

/// Records of the quorum that the store could not take at once.
#[derive(Debug)]
struct Write {
    id: WriteId,
    records: Vec<Vec<u8>>,
    supersedes: bool,
}

/// See the module.
pub(crate) struct Consensus {
    pub(crate) quorum: Quorum,
    /// In the order in which they were made; the first ones are (partly) given.
    proposals: VecDeque<Proposal>,
    given: VecDeque<Given>,
    last_sequence: u64,
    /// Commands that are proposed and not applied.
    pending: usize,
    told_ns: u64,
    writes: VecDeque<Write>,
    /// Commands applied since the last snapshot.
    since_snapshot: usize,
    /// This node's own proposals here, to see that they failed.
    asked: VecDeque<ProposalId>,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("status", self.quorum.status()).field("pending", &self.pending).finish()
    }
}

impl Consensus {
    pub(crate) fn new(quorum: Quorum) -> Self {
        Self {
            quorum,
            proposals: VecDeque::new(),
            given: VecDeque::new(),
            last_sequence: 0,
            pending: 0,
            told_ns: 0,
            writes: VecDeque::new(),
            since_snapshot: 0,
            asked: VecDeque::new(),
        }
    }

    /// The node that leads the quorum, if one is known.
    pub(crate) fn leader(&self) -> Option<i32> {
        self.quorum.status().leader
    }

    /// Whoever leads has to be told everything again.
    pub(crate) fn tell_again(&mut self) {
        for given in &mut self.given {
            given.told = false;
        }
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.pending > 0
    }

    /// Numbers and encodes what goes together into the next payload.
    fn group(&mut self, node_id: i32, incarnation: Uuid) -> bool {
        let mut commands = Vec::new();
        let mut bytes = 0;
        for proposal in &mut self.proposals {
            while bytes < MAX_GROUP_BYTES
                && let Some(command) = proposal.commands.pop_front()
            {
                bytes += size(&command);
                proposal.given += 1;
                commands.push(command);
            }
        }
        if commands.is_empty() {
            return false;
        }
        self.last_sequence += 1;
        let origin = Origin { node_id, incarnation, sequence: self.last_sequence };
        let count = commands.len();
        let bytes = encode_payload(&Payload { origin: Some(origin), commands });
        let given = Given { sequence: self.last_sequence, bytes: bytes.into(), commands: count, told: false };
        self.given.push_back(given);
        true
    }

    /// A payload of this node was applied: the proposals that are whole now.
    fn applied(&mut self, sequence: u64, results: Results) -> Vec<(AfterCommit, Results)> {
        let mut done = Vec::new();
        if self.given.front().is_none_or(|given| given.sequence != sequence) {
            return done;
        }
        let commands = self.given.pop_front().map_or(0, |given| given.commands);
        self.pending = self.pending.saturating_sub(commands);
        let mut results = results.into_iter();
        while let Some(proposal) = self.proposals.front_mut() {
            while proposal.given > 0
                && let Some(result) = results.next()
            {
                proposal.given -= 1;
                proposal.results.push(result);
            }
            if proposal.given > 0 || !proposal.commands.is_empty() {
                break;
            }
            done.extend(self.proposals.pop_front().map(|proposal| (proposal.after, proposal.results)));
        }
        done
    }

    /// When proposals should be looked at again.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        // Without a leader there is nobody to tell; a new one is told at once.
        let waits = !self.given.is_empty() && self.leader().is_some();
        let again = waits.then_some(self.told_ns + GIVE_AGAIN_NS);
        [self.quorum.next_deadline(), again].into_iter().flatten().min()
    }
}

/// About how many bytes a command takes.
fn size(command: &Command) -> usize {
    const USUAL: usize = 200;
    const PARTITION: usize = 150;
    match command {
        Command::CreateTopic { configs, assignment, .. } => {
            let text: usize = configs.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
            USUAL + text + assignment.as_ref().map_or(0, |a| a.len() * 40)
        }
        Command::GrowTopic { assignment, .. } => USUAL + assignment.as_ref().map_or(0, |a| a.len() * 40),
        Command::AlterTopicConfigs { set, .. } | Command::AlterGroupConfigs { set, .. } => {
            USUAL + set.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, String::len) + 8).sum::<usize>()
        }
        Command::AlterPartitions { changes, .. } => USUAL + changes.len() * 2 * PARTITION,
        Command::ElectLeaders { partitions, .. } => USUAL + partitions.as_ref().map_or(0, |p| p.len() * PARTITION),
        Command::Reassign { partitions } => USUAL + partitions.len() * PARTITION,
        Command::LoseReplica { partitions, .. } => USUAL + partitions.len() * PARTITION,
        Command::CreateAcls { acls } => {
            USUAL + acls.iter().map(|a| USUAL + a.name.len() + a.principal.len()).sum::<usize>()
        }
        Command::DeleteAcls { filters } => USUAL + filters.len() * 2 * USUAL,
        Command::SetScram { user, .. } => 4 * USUAL + user.len(),
        Command::AlterQuotas { .. } => 4 * USUAL,
        Command::DeleteTopic { .. }
        | Command::UpdateFeatures { .. }
        | Command::ReserveProducerIds { .. }
        | Command::SetClusterId { .. }
        | Command::RegisterBroker { .. }
        | Command::Fence { .. }
        | Command::Unfence { .. }
        | Command::BeginShutdown { .. }
        | Command::UnregisterBroker { .. }
        | Command::RemoveScram { .. } => USUAL,
    }
}

impl<S: LogStore> Core<S> {
    /// Has commands committed; `after` goes on when they are applied here.
    ///
    /// # Errors
    /// Nothing was proposed; `after` comes back so that its request can be answered.
    pub(crate) fn propose(
        &mut self,
        commands: Vec<Command>,
        after: AfterCommit,
    ) -> Result<(), (LogError, AfterCommit)> {
        let waiting = self.consensus.pending.saturating_add(commands.len());
        if waiting > limits::MAX_PENDING_COMMANDS {
            return Err((LogError::Busy { waiting }, after));
        }
        self.consensus.pending = waiting;
        let proposal = Proposal { commands: commands.into(), results: Vec::new(), given: 0, after };
        self.consensus.proposals.push_back(proposal);
        Ok(())
    }

    /// Brings proposals under way, and again where nothing came of them.
    pub(super) fn give_proposals(&mut self) {
        let now_ns = self.now.monotonic_ns;
        let (node_id, incarnation) = (self.config.node_id, self.incarnation);
        let Some(leader) = self.consensus.leader() else { return };
        while self.consensus.given.len() < MAX_GIVEN && self.consensus.group(node_id, incarnation) {}
        if now_ns >= self.consensus.told_ns + GIVE_AGAIN_NS {
            self.consensus.tell_again();
        }
        for n in 0..self.consensus.given.len() {
            let Some(given) = self.consensus.given.get(n).filter(|given| !given.told) else { continue };
            let bytes = given.bytes.clone();
            self.consensus.told_ns = now_ns;
            // Without a link it is tried again when there is one, or when the time has come.
            if !self.give(leader, bytes) {
                break;
            }
            if let Some(given) = self.consensus.given.get_mut(n) {
                given.told = true;
            }
        }
    }

    fn give(&mut self, leader: i32, payload: Bytes) -> bool {
        if leader == self.config.node_id {
            return self.propose_here(&payload);
        }
        self.send_control(leader, &Control::Propose(payload))
    }

    /// A payload goes into the quorum's log, if this node leads it.
    pub(crate) fn propose_here(&mut self, payload: &Bytes) -> bool {
        match self.consensus.quorum.propose(payload.as_ref()) {
            Ok(id) => {
                self.consensus.asked.push_back(id);
                true
            }
            Err(error) => {
                tracing::debug!(%error, "a proposal is not taken now");
                false
            }
        }
    }

    /// What this node proposes as leader of the quorum, as often as it seems needed: it changes nothing when it comes twice.
    pub(crate) fn propose_as_controller(&mut self, commands: Vec<Command>) {
        if !commands.is_empty() {
            let payload = encode_payload(&Payload { origin: None, commands });
            self.propose_here(&payload.into());
        }
    }

    /// Lets consensus go on, and does what it wants until it rests.
    pub(super) fn run_quorum(&mut self) {
        self.write_quorum();
        self.consensus.quorum.tick(self.now.monotonic_ns);
        loop {
            self.give_proposals();
            let Some(output) = self.consensus.quorum.next_output() else { break };
            self.quorum_output(output);
        }
        self.snapshot_if_due();
    }

    fn quorum_output(&mut self, output: Output) {
        match output {
            Output::Send { to, message } => self.send_quorum(to, &message),
            Output::Write { id, records, supersedes } => {
                self.consensus.writes.push_back(Write { id, records, supersedes });
                self.write_quorum();
            }
            Output::Committed { index, payload, .. } => self.committed(index, &payload),
            Output::BuildSnapshot { index } => {
                let snapshot = self.meta.snapshot();
                if let Err(error) = self.consensus.quorum.snapshot_built(index, snapshot) {
                    tracing::error!(%error, "no snapshot of the metadata; its log grows on");
                }
            }
            Output::InstallSnapshot { bytes, .. } => self.install(&bytes),
            Output::Answered { id, result } => self.quorum_answered(id, result),
            Output::Leader { term, leader } => self.quorum_leader(term, leader),
            Output::Fatal(reason) => self.stop_now(format!("the metadata quorum of this node stopped: {reason}")),
        }
    }

    /// Lost, as messages may be, if there is no link, or if not the one is there that the quorum means.
    fn send_quorum(&mut self, to: i32, message: &Message) {
        if self.is_other_volume(to) {
            return;
        }
        match message.encode() {
            Ok(bytes) => drop(self.send_control(to, &Control::Quorum(bytes.into()))),
            Err(error) => tracing::error!(%error, to, "can't send a message of the quorum"),
        }
    }

    fn quorum_answered(&mut self, id: ProposalId, result: Result<u64, QuorumError>) {
        let own = self.consensus.asked.iter().position(|asked| *asked == id);
        if let Some(at) = own {
            self.consensus.asked.remove(at);
        } else {
            self.change_answered(id, &result);
        }
        if let Err(error) = result {
            tracing::debug!(%error, "the quorum did not take something");
            if own.is_some() {
                self.consensus.tell_again();
            }
        }
    }

    fn quorum_leader(&mut self, term: u64, leader: Option<i32>) {
        tracing::info!(term, ?leader, "leader of the metadata quorum");
        self.consensus.tell_again();
        self.consensus.told_ns = 0;
        let leads = leader == Some(self.config.node_id);
        self.set_controller(leads);
        self.cluster.lease.beat_soon();
        if leads {
            self.name_cluster();
        }
    }

    /// The leader of a new quorum names the cluster.
    fn name_cluster(&mut self) {
        if self.meta.cluster_id().is_none() {
            let given = self.config.cluster_id.clone();
            let cluster_id = given.unwrap_or_else(|| self.entropy.uuid().simple().to_string());
            self.propose_as_controller(vec![Command::SetClusterId { cluster_id }]);
        }
    }

    /// Appends what consensus wants written, in order, as far as the store takes it.
    fn write_quorum(&mut self) {
        while let Some(write) = self.consensus.writes.pop_front() {
            let begins = self.store.info(QUORUM_LOG).map(|info| info.log_end);
            match self.append_values(QUORUM_LOG, &write.records) {
                Ok(ticket) => {
                    let trim = begins.filter(|_| write.supersedes);
                    self.durable.push(ticket, Then::QuorumWritten { id: write.id, trim });
                }
                Err(LogError::Busy { .. }) => {
                    self.consensus.writes.push_front(write);
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the quorum can't write");
                    self.consensus.quorum.write_failed(write.id);
                }
            }
        }
    }

    /// Records of the quorum are on disk.
    pub(super) fn quorum_written(&mut self, id: WriteId, trim: Option<Offset>) {
        self.consensus.quorum.write_done(id);
        if let Some(before) = trim
            && let Err(error) = self.store.delete_records(QUORUM_LOG, before)
        {
            tracing::warn!(%error, "the quorum's log keeps what its snapshot replaced");
        }
    }

    fn committed(&mut self, index: u64, payload: &[u8]) {
        let payload = match decode_payload(payload) {
            Ok(payload) => payload,
            // To skip it would make this node's metadata another than the others'.
            Err(error) => return self.stop_now(format!("can't apply entry {index} of the metadata: {error}")),
        };
        self.consensus.since_snapshot += payload.commands.len();
        let nodes: Vec<i32> = payload.commands.iter().filter_map(node_of).collect();
        let applied = self.meta.apply(payload);
        self.follow(&applied);
        for node in nodes {
            self.node_changed(node);
        }
        self.conclude_own(applied);
        self.stats.topics.set(self.meta.topic_count() as u64);
        self.stats.partitions.set(self.meta.partition_count() as u64);
    }

    /// Who proposed it here goes on.
    fn conclude_own(&mut self, applied: Applied) {
        let (node_id, incarnation) = (self.config.node_id, self.incarnation);
        let Some(origin) = applied.origin.filter(|o| (o.node_id, o.incarnation) == (node_id, incarnation)) else {
            return;
        };
        if applied.skipped {
            return;
        }
        for (after, results) in self.consensus.applied(origin.sequence, applied.results) {
            self.after_commit(after, results);
        }
    }

    fn after_commit(&mut self, after: AfterCommit, results: Results) {
        match after {
            AfterCommit::Nothing => {}
            AfterCommit::CreateTopics(pending) => api::create_topics::committed(self, *pending, results),
            AfterCommit::AutoCreate(pending) => api::metadata::committed(self, &pending),
            AfterCommit::DeleteTopics(pending) => api::delete_topics::committed(self, *pending, results),
            AfterCommit::CreatePartitions(pending) => api::create_partitions::committed(self, *pending, results),
            AfterCommit::ElectLeaders(pending) => api::elect_leaders::committed(self, *pending, results),
            AfterCommit::Reassign(pending) => api::reassignments::committed(self, *pending, results),
            AfterCommit::Unregister(ctx) => api::unregister_broker::committed(self, &ctx, results),
            AfterCommit::AlterConfigs(pending) => api::alter_configs::committed(self, *pending, results),
            AfterCommit::UpdateFeatures(pending) => api::update_features::committed(self, &pending, results),
            AfterCommit::AlterScram(pending) => api::scram::committed(self, *pending, results),
            AfterCommit::AlterAcls(pending) => api::acls::committed(self, *pending, results),
            AfterCommit::AlterQuotas(pending) => api::client_quotas::committed(self, *pending, results),
            AfterCommit::ProducerIds => self.producer_ids_committed(results),
            AfterCommit::CoordinatorTopic(topic) => self.coordinator_topic_committed(topic, results),
            AfterCommit::InSync(changes) => self.in_sync_decided(&changes, results),
        }
    }

    /// The quorum's leader sent the whole state.
    pub(super) fn install(&mut self, snapshot: &[u8]) {
        match Metadata::restore(snapshot) {
            Ok(meta) => {
                let gone: Vec<PartitionId> = self.meta.partitions().map(|(id, _)| id).collect();
                self.meta = meta;
                self.consensus.since_snapshot = 0;
                self.follow_everything(gone);
                self.conclude_unseen();
            }
            Err(error) => self.stop_now(format!("can't take a snapshot of the metadata: {error}")),
        }
    }

    /// What of this node was applied on the way to a snapshot is over; what came of it, the snapshot does not say.
    fn conclude_unseen(&mut self) {
        let last = self.meta.last_sequence(self.config.node_id, self.incarnation);
        while let Some(given) = self.consensus.given.front().filter(|given| given.sequence <= last) {
            let results = vec![Err(MetadataError::OutcomeUnknown); given.commands];
            for (after, results) in self.consensus.applied(given.sequence, results) {
                self.after_commit(after, results);
            }
        }
    }

    /// Has a snapshot written when the log has grown.
    fn snapshot_if_due(&mut self) {
        let live = self.meta.topic_count().saturating_add(limits::SNAPSHOT_AFTER_COMMANDS);
        if self.consensus.since_snapshot >= live && self.consensus.quorum.snapshot_now() {
            self.consensus.since_snapshot = 0;
            while let Some(output) = self.consensus.quorum.next_output() {
                self.quorum_output(output);
            }
        }
    }
}

/// The node whose standing a command is about.
fn node_of(command: &Command) -> Option<i32> {
    match command {
        Command::RegisterBroker { node_id, .. }
        | Command::Fence { node_id, .. }
        | Command::Unfence { node_id, .. }
        | Command::BeginShutdown { node_id, .. }
        | Command::UnregisterBroker { node_id } => Some(*node_id),
        Command::CreateTopic { .. }
        | Command::DeleteTopic { .. }
        | Command::GrowTopic { .. }
        | Command::AlterTopicConfigs { .. }
        | Command::AlterGroupConfigs { .. }
        | Command::UpdateFeatures { .. }
        | Command::ReserveProducerIds { .. }
        | Command::SetClusterId { .. }
        | Command::AlterPartitions { .. }
        | Command::ElectLeaders { .. }
        | Command::Reassign { .. }
        | Command::LoseReplica { .. }
        | Command::CreateAcls { .. }
        | Command::DeleteAcls { .. }
        | Command::SetScram { .. }
        | Command::RemoveScram { .. }
        | Command::AlterQuotas { .. } => None,
    }
}

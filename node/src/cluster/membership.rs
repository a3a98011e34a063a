//! Who belongs to the quorum and how nodes come to it: the first voters begin a cluster, others join one, addresses change.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use wherry_metadata::quorum::{Member, Members};

use super::HAND_OVER_NS;
use super::bootstrap::{self, Step};
use super::control::{Control, Join, Other};
use super::links::{Class, Target};
use crate::config::{Voter, host_and_port};
use crate::core::Core;
use crate::core::store::LogStore;

/// How often a node without a cluster looks for one, in nanoseconds.
const LOOK_NS: u64 = 200_000_000;
/// How long a voter listens for a leader before it stands for election, in nanoseconds: some of a leader's heartbeats.
const LISTEN_NS: u64 = 500_000_000;
/// How long a node that asked to join is dialled, so that it can be told no, in nanoseconds.
const JOINING_NS: u64 = 10_000_000_000;
/// Nodes that ask to join at once; more have to ask again.
const MAX_JOINING: usize = 64;

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    look_ns: u64,
    begun: bool,
    /// Not members yet: address, and until when they are dialled.
    joining: BTreeMap<i32, (String, u64)>,
    /// Since when this node is linked with a majority of the voters.
    together_ns: Option<u64>,
    may_elect: bool,
    /// The members that the targets of links were made from; none if something else changed since.
    aimed: Option<Rc<Members>>,
}

impl Membership {
    /// Something changed: look again in this turn.
    pub(crate) fn hurry(&mut self) {
        self.look_ns = 0;
    }

    /// Other nodes are to be linked with.
    pub(crate) fn aim_again(&mut self) {
        self.aimed = None;
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let elect = self.together_ns.filter(|_| !self.may_elect).map(|since| since + LISTEN_NS);
        [(self.look_ns < u64::MAX).then_some(self.look_ns), elect].into_iter().flatten().min()
    }
}

impl<S: LogStore> Core<S> {
    /// Begins a cluster, looks for one, keeps links to its members.
    pub(super) fn tend_membership(&mut self) {
        let now_ns = self.now.monotonic_ns;
        if now_ns >= self.cluster.membership.look_ns {
            let dialled = self.cluster.membership.joining.len();
            self.cluster.membership.joining.retain(|_, (_, until)| now_ns < *until);
            if self.cluster.membership.joining.len() < dialled {
                self.cluster.membership.aim_again();
            }
            self.seek_cluster();
            let announced = self.announce_address();
            let settled = self.cluster.registered && announced && self.cluster.membership.joining.is_empty();
            self.cluster.membership.look_ns = if settled { u64::MAX } else { now_ns + LOOK_NS };
        }
        self.aim_links();
    }

    fn seek_cluster(&mut self) {
        let status = self.consensus.quorum.status();
        if status.last_index.is_some() || self.cluster.registered || self.cluster.membership.begun {
            return;
        }
        let (me, directory) = (self.config.node_id, self.store.directory());
        match bootstrap::next_step(me, directory, &self.cluster.voters, &self.cluster.seen()) {
            Step::Wait(missing) => tracing::debug!(?missing, "waiting for the other voters to begin the cluster"),
            Step::Initialize(members) => match self.consensus.quorum.initialize(members) {
                Ok(_) => self.cluster.membership.begun = true,
                Err(error) => tracing::warn!(%error, "can't begin the cluster yet"),
            },
            Step::Join(node) => {
                let join = Join { node_id: me, directory, addr: self.own_address() };
                self.send_control(node, &Control::Other(Other::Join(join)));
            }
        }
    }

    /// Whether the quorum knows where this node is; if not, it is told again.
    fn announce_address(&mut self) -> bool {
        let me = self.config.node_id;
        let addr = self.own_address();
        let known = self.consensus.quorum.status().members.all.get(&me);
        let Some(member) = known.filter(|member| member.addr != addr) else { return true };
        let join = Join { node_id: me, directory: member.directory, addr };
        match self.consensus.leader() {
            Some(leader) if leader == me => self.join_asked(join),
            Some(leader) => drop(self.send_control(leader, &Control::Other(Other::Join(join)))),
            None => {}
        }
        false
    }

    /// Where other nodes reach this one.
    fn own_address(&self) -> String {
        let voter = self.cluster.voters.iter().find(|voter| voter.node_id == self.config.node_id);
        voter.map_or_else(|| address(&self.endpoints.internal.host, self.endpoints.internal.port), Voter::addr)
    }

    /// A node wants to be a member.
    pub(super) fn join_asked(&mut self, join: Join) {
        let leader = self.consensus.leader();
        if leader != Some(self.config.node_id) {
            if let Some(leader) = leader.filter(|leader| *leader != join.node_id) {
                self.send_control(leader, &Control::Other(Other::Join(join)));
            }
            return;
        }
        let known = self.consensus.quorum.status().members.all.get(&join.node_id).cloned();
        match known {
            Some(member) if member.directory == join.directory => self.member_moved(&join, &member),
            Some(member) => self.refuse_join(&join, &member),
            None => {
                let member = Member { directory: join.directory, addr: join.addr };
                tracing::info!(node = join.node_id, ?member, "a node joins the cluster");
                if let Err(error) = self.consensus.quorum.add_learner(join.node_id, member) {
                    tracing::debug!(%error, "it has to ask again");
                }
            }
        }
    }

    fn member_moved(&mut self, join: &Join, member: &Member) {
        if member.addr != join.addr {
            let moved = Member { directory: member.directory, addr: join.addr.clone() };
            if let Err(error) = self.consensus.quorum.update_member(join.node_id, moved) {
                tracing::debug!(%error, "its address is changed later");
            }
        }
    }

    fn refuse_join(&mut self, join: &Join, member: &Member) {
        let reason = format!(
            "node {id} has been in this cluster with another volume (data directory {old}, now {new}). What that volume \
             held is not here, so it can't go on as the same node. Bring the old volume back, or start it with an empty \
             volume under a node id that was never used, and remove node {id} from the cluster",
            id = join.node_id,
            old = member.directory,
            new = join.directory,
        );
        tracing::error!(%reason, "refusing a node");
        let joining = &mut self.cluster.membership.joining;
        if joining.len() < MAX_JOINING {
            joining.insert(join.node_id, (join.addr.clone(), self.now.monotonic_ns + JOINING_NS));
            self.cluster.membership.aim_again();
        }
        self.aim_links();
        self.send_control(join.node_id, &Control::Other(Other::JoinRefused { reason }));
    }

    /// Keeps control links to every member (to the nodes that the settings name, before there are members), and data
    /// links to the nodes that lead what this one follows.
    fn aim_links(&mut self) {
        if self.links.is_none() {
            return;
        }
        let members = &self.consensus.quorum.status().members;
        if self.cluster.membership.aimed.as_ref().is_some_and(|aimed| Rc::ptr_eq(aimed, members)) {
            return;
        }
        let members = Rc::clone(members);
        let targets = self.targets(&members);
        self.cluster.membership.aimed = Some(members);
        self.cluster.membership.hurry();
        self.with_links(|links, now_ns| links.set_targets(now_ns, targets.into_iter()));
    }

    fn targets(&self, members: &Members) -> Vec<Target> {
        let me = self.config.node_id;
        let mut addresses: BTreeMap<i32, (String, u16)> = BTreeMap::new();
        if members.all.is_empty() {
            addresses.extend(self.cluster.voters.iter().map(|v| (v.node_id, (v.host.clone(), v.port))));
        }
        let joining = self.cluster.membership.joining.iter().map(|(node, (addr, _))| (*node, addr.as_str()));
        let known = members.all.iter().map(|(node, member)| (*node, member.addr.as_str()));
        addresses.extend(joining.chain(known).filter_map(|(node, addr)| Some((node, host_and_port(addr)?))));
        addresses.remove(&me);
        let target = |node: Option<i32>, class, (host, port): (String, u16)| Target { node, class, host, port };
        let followed: BTreeSet<i32> = self.cluster.followed.iter().copied().collect();
        let data = addresses.iter().filter(|(node, _)| followed.contains(node));
        let mut targets: Vec<Target> = data.map(|(n, at)| target(Some(*n), Class::Data, at.clone())).collect();
        if members.all.is_empty()
            && let Some(cluster) = &self.config.cluster
        {
            targets.extend(cluster.seed_addresses().map(|at| target(None, Class::Control, at)));
        }
        targets.extend(addresses.into_iter().map(|(node, at)| target(Some(node), Class::Control, at)));
        targets
    }

    /// A voter that has just come up, or was cut off, does not stand for election before it has been linked with a majority
    /// for a while: there may be a leader that it has not heard yet, and a higher term would depose it for nothing.
    pub(super) fn mind_elections(&mut self) {
        if self.links.is_none() {
            return;
        }
        let now_ns = self.now.monotonic_ns;
        let voters = &self.consensus.quorum.status().members.voters;
        let linked = voters.iter().filter(|node| self.is_linked(**node)).count();
        if 2 * linked <= voters.len() {
            self.cluster.membership.together_ns = None;
        } else {
            self.cluster.membership.together_ns.get_or_insert(now_ns);
        }
        let may = self.cluster.membership.together_ns.is_some_and(|since| now_ns >= since + LISTEN_NS);
        if self.cluster.membership.may_elect != may {
            self.cluster.membership.may_elect = may;
            self.consensus.quorum.set_may_elect(may);
        }
    }

    fn is_linked(&self, node: i32) -> bool {
        let heard = self.cluster.speaking.contains(&node);
        let dialled = self.links.as_ref().is_some_and(|links| links.link_to(node, Class::Control).is_some());
        node == self.config.node_id || heard && dialled
    }

    /// Other voters that could lead the quorum in place of this node, if it leads.
    pub(super) fn heirs(&self) -> impl Iterator<Item = i32> {
        let me = self.config.node_id;
        let status = self.consensus.quorum.status();
        let voters = (status.leader == Some(me)).then_some(&status.members.voters);
        let others = voters.into_iter().flatten().copied().filter(move |node| *node != me);
        others.filter(|node| self.cluster.speaking.contains(node))
    }

    /// A node that stops lets another voter lead the quorum. It stays until that does: what it has decided last, the
    /// others would learn only after an election.
    pub(super) fn leave_quorum(&mut self) {
        let now_ns = self.now.monotonic_ns;
        if self.cluster.hand_over_ns.is_none_or(|at| now_ns < at) {
            return;
        }
        self.cluster.hand_over_ns = Some(now_ns + HAND_OVER_NS);
        self.hand_over_quorum();
    }

    /// A leader of the quorum hands it to another voter, if one has everything.
    pub(super) fn hand_over_quorum(&mut self) {
        for node in self.heirs().collect::<Vec<_>>() {
            if self.consensus.quorum.transfer_to(node).is_ok() {
                return;
            }
        }
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

//! The moves of a group between its states: who begins a rebalance, who ends it, what members are told.
//!
//! It must not know of requests beyond the references it answers: the handlers (`join.rs`, `sync.rs`, ...) check them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::consumer::timeout;
use super::group::{Completing, Group, InitialDelay, Joining, Member, Progress, State, Waiting};
use super::outbox::{Ctx, Pending};
use super::record::group_record;
use super::share;
use super::types::{GroupError, JoinRequest, JoinResponse, PersistId, Protocol, RequestRef, Response, SyncResponse};

/// While none of a group's static members has rejoined, it is looked at again no sooner than this.
const MIN_RETRY_MS: u32 = 1_000;

impl JoinResponse {
    pub(super) fn refused(member_id: Arc<str>, error: GroupError) -> Response {
        Response::Join(Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol_name: None,
            leader: "".into(),
            skip_assignment: false,
            member_id,
            members: Vec::new(),
        })
    }
}

impl SyncResponse {
    pub(super) fn refused(error: GroupError) -> Response {
        Response::Sync(Self { error, protocol_type: None, protocol_name: None, assignment: Bytes::new() })
    }
}

/// The protocols of a request, in memory of their own: a slice would keep the whole frame alive as long as the member.
pub(super) fn own_protocols(protocols: &[Protocol]) -> Vec<Protocol> {
    let own = |p: &Protocol| Protocol { name: Arc::clone(&p.name), metadata: Bytes::copy_from_slice(&p.metadata) };
    protocols.iter().map(own).collect()
}

/// A timeout from the wire; zero would make the group spin.
fn timeout_ms(wire: i32) -> u32 {
    u32::try_from(wire).unwrap_or(0).max(1)
}

impl Group {
    /// A new member, and the rebalance that it causes.
    pub(super) fn admit(&mut self, ctx: &mut Ctx<'_>, request: RequestRef, member_id: Arc<str>, join: &JoinRequest) {
        let deadline_ns = ctx.after_ms(ctx.config.new_member_join_timeout_ms);
        let member = Member {
            id: Arc::clone(&member_id),
            instance_id: join.instance_id.clone(),
            client_id: Arc::clone(&join.client_id),
            client_host: Arc::clone(&join.client_host),
            session_timeout_ms: timeout_ms(join.session_timeout_ms),
            rebalance_timeout_ms: timeout_ms(join.rebalance_timeout_ms),
            protocols: own_protocols(&join.protocols),
            assignment: Bytes::new(),
            waiting: Waiting::Join(request),
            progress: Progress::New,
            deadline_ns,
        };
        if self.members.is_empty() {
            self.protocol_type = Some(Arc::clone(&join.protocol_type));
        }
        if let Some(instance) = &join.instance_id {
            self.instances.insert(Arc::clone(instance), Arc::clone(&member_id));
        }
        if let State::PreparingRebalance(Joining { initial: Some(initial), .. }) = &mut self.state {
            initial.grew = true;
        }
        self.leader.get_or_insert_with(|| Arc::clone(&member_id));
        self.pending_members.remove(&member_id);
        self.members.insert(member_id, member);
        self.wake_by(deadline_ns);
        ctx.outbox.park(request, &self.id);
        self.rebalance_if_settled(ctx);
        self.complete_join_if_ready(ctx);
    }

    /// A member comes again, and the rebalance that it causes.
    pub(super) fn readmit(&mut self, ctx: &mut Ctx<'_>, request: RequestRef, member_id: &str, join: &JoinRequest) {
        self.update_member(ctx, member_id, join);
        self.release(ctx, member_id, GroupError::RebalanceInProgress);
        if let Some(member) = self.members.get_mut(member_id) {
            member.waiting = Waiting::Join(request);
            ctx.outbox.park(request, &self.id);
        }
        self.rebalance_if_settled(ctx);
        self.complete_join_if_ready(ctx);
    }

    /// Takes over what a member says of itself when it joins.
    pub(super) fn update_member(&mut self, ctx: &Ctx<'_>, member_id: &str, join: &JoinRequest) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        member.protocols = own_protocols(&join.protocols);
        member.session_timeout_ms = timeout_ms(join.session_timeout_ms);
        member.rebalance_timeout_ms = timeout_ms(join.rebalance_timeout_ms);
        member.client_id = Arc::clone(&join.client_id);
        member.client_host = Arc::clone(&join.client_host);
        self.touch(ctx, member_id);
    }

    /// The member is alive.
    pub(super) fn touch(&mut self, ctx: &Ctx<'_>, member_id: &str) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        member.deadline_ns = ctx.after_ms(member.session_timeout_ms);
        let deadline_ns = member.deadline_ns;
        self.wake_by(deadline_ns);
    }

    /// Answers the member's open request, if there is one, with an error.
    pub(super) fn release(&mut self, ctx: &mut Ctx<'_>, member_id: &str, error: GroupError) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        match std::mem::replace(&mut member.waiting, Waiting::Nothing) {
            Waiting::Nothing => {}
            Waiting::Join(request) => {
                let member_id = if error == GroupError::UnknownMemberId { "".into() } else { Arc::clone(&member.id) };
                ctx.outbox.reply(request, JoinResponse::refused(member_id, error));
            }
            Waiting::Sync(request) => ctx.outbox.reply(request, SyncResponse::refused(error)),
        }
    }

    /// Takes a member out; the caller goes on with [`Group::members_gone`].
    pub(super) fn remove_member(&mut self, ctx: &mut Ctx<'_>, member_id: &str) {
        self.release(ctx, member_id, GroupError::UnknownMemberId);
        let Some(member) = self.members.remove(member_id) else { return };
        if let Some(instance) = &member.instance_id
            && self.instances.get(instance) == Some(&member.id)
        {
            self.instances.remove(instance);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Members, or ids given out, are gone: others may be waiting for just that.
    pub(super) fn members_gone(&mut self, ctx: &mut Ctx<'_>) {
        match self.state {
            State::Empty | State::Dead { .. } => {}
            State::Stable { .. } | State::CompletingRebalance(_) => self.prepare_rebalance(ctx),
            State::PreparingRebalance(_) => self.complete_join_if_ready(ctx),
        }
    }

    /// Gives a static member's place to a new id; the old one is fenced. Returns the member as it was.
    pub(super) fn replace_static(&mut self, ctx: &mut Ctx<'_>, old_id: &Arc<str>, new_id: &Arc<str>) -> Option<Member> {
        self.release(ctx, old_id, GroupError::FencedInstanceId);
        let old = self.members.remove(old_id)?;
        let new = Member { id: Arc::clone(new_id), ..old.clone() };
        self.put_in_place(old_id, new);
        Some(old)
    }

    /// Puts a member in the place of the one with this id.
    pub(super) fn put_in_place(&mut self, replaced: &str, member: Member) {
        self.members.remove(replaced);
        if self.is_leader(replaced) {
            self.leader = Some(Arc::clone(&member.id));
        }
        if let Some(instance) = &member.instance_id {
            self.instances.insert(Arc::clone(instance), Arc::clone(&member.id));
        }
        self.wake_by(member.deadline_ns);
        self.members.insert(Arc::clone(&member.id), member);
    }

    /// Begins a rebalance unless one collects members already.
    pub(super) fn rebalance_if_settled(&mut self, ctx: &mut Ctx<'_>) {
        match self.state {
            State::Empty | State::Stable { .. } | State::CompletingRebalance(_) => self.prepare_rebalance(ctx),
            State::PreparingRebalance(_) | State::Dead { .. } => {}
        }
    }

    /// Begins a rebalance: members learn of it from their heartbeats.
    pub(super) fn prepare_rebalance(&mut self, ctx: &mut Ctx<'_>) {
        self.release_syncs(ctx, GroupError::RebalanceInProgress);
        let timeout_ms = self.max_rebalance_timeout_ms();
        let delay_ms = ctx.config.initial_rebalance_delay_ms;
        let joining = if self.state == State::Empty && delay_ms > 0 {
            let limit_ns = ctx.after_ms(timeout_ms.max(delay_ms));
            Joining { deadline_ns: ctx.after_ms(delay_ms), initial: Some(InitialDelay { limit_ns, grew: false }) }
        } else {
            Joining { deadline_ns: ctx.after_ms(timeout_ms), initial: None }
        };
        self.wake_by(joining.deadline_ns);
        self.state = State::PreparingRebalance(joining);
        self.complete_join_if_ready(ctx);
    }

    /// Ends the collecting of members when there is nobody left to wait for.
    pub(super) fn complete_join_if_ready(&mut self, ctx: &mut Ctx<'_>) {
        let State::PreparingRebalance(joining) = &self.state else { return };
        let everyone = self.pending_members.is_empty() && self.count_joining() == self.members.len();
        if everyone && (joining.initial.is_none() || self.members.is_empty()) {
            self.complete_join(ctx);
        }
    }

    /// Ends the collecting of members: who has not rejoined is out, but for static members, whom only their session
    /// ends.
    fn complete_join(&mut self, ctx: &mut Ctx<'_>) {
        let absent = |m: &&Member| !matches!(m.waiting, Waiting::Join(_)) && m.instance_id.is_none();
        let absent: Vec<_> = self.members.values().filter(absent).map(|m| Arc::clone(&m.id)).collect();
        for member_id in absent {
            self.remove_member(ctx, &member_id);
        }
        if self.members.is_empty() {
            return self.become_empty(ctx);
        }
        if !self.elect_joining_leader() {
            let deadline_ns = ctx.after_ms(self.max_rebalance_timeout_ms().max(MIN_RETRY_MS));
            self.state = State::PreparingRebalance(Joining { deadline_ns, initial: None });
            return self.wake_by(deadline_ns);
        }
        self.begin_generation(ctx);
    }

    /// The leader must be there to assign. False: nobody is.
    fn elect_joining_leader(&mut self) -> bool {
        let is_joining = |m: &Member| matches!(m.waiting, Waiting::Join(_));
        if self.leader.as_ref().and_then(|id| self.members.get(id)).is_some_and(is_joining) {
            return true;
        }
        let next = self.members.values().find(|m| is_joining(m)).map(|m| Arc::clone(&m.id));
        let found = next.is_some();
        self.leader = next.or_else(|| self.leader.take());
        found
    }

    fn begin_generation(&mut self, ctx: &mut Ctx<'_>) {
        self.generation = next_generation(self.generation);
        self.protocol_name = self.select_protocol();
        let sync_deadline_ns = ctx.after_ms(self.max_rebalance_timeout_ms());
        self.state = State::CompletingRebalance(Completing { sync_deadline_ns, persisting: None });
        self.wake_by(sync_deadline_ns);
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for member_id in ids {
            self.answer_join(ctx, &member_id);
        }
    }

    /// Tells a member the generation, if it waits for it.
    fn answer_join(&mut self, ctx: &mut Ctx<'_>, member_id: &Arc<str>) {
        let response = self.current_generation_for(member_id);
        let Some(member) = self.members.get_mut(member_id) else { return };
        member.progress = Progress::Joined;
        if let Waiting::Join(request) = std::mem::replace(&mut member.waiting, Waiting::Nothing) {
            ctx.outbox.reply(request, Response::Join(response));
            self.touch(ctx, member_id);
        }
    }

    /// The generation as this member is told of it.
    pub(super) fn current_generation_for(&self, member_id: &Arc<str>) -> JoinResponse {
        let members = if self.is_leader(member_id) { self.members_for_leader() } else { Vec::new() };
        JoinResponse {
            error: GroupError::None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: Arc::clone(member_id),
            members,
        }
    }

    /// The last member is gone.
    fn become_empty(&mut self, ctx: &mut Ctx<'_>) {
        self.generation = next_generation(self.generation);
        self.protocol_name = None;
        self.leader = None;
        self.state = State::Empty;
        self.since_ms = ctx.now.wall_ms;
        if self.recorded || !self.offsets.is_empty() {
            self.write(ctx, None, Pending::EmptyGroup { group: Arc::clone(&self.id) });
        }
    }

    /// Writes the group as it is, with these assignments or those that the members have.
    pub(super) fn write(
        &mut self,
        ctx: &mut Ctx<'_>,
        assignments: Option<&BTreeMap<Arc<str>, Bytes>>,
        pending: Pending,
    ) -> PersistId {
        self.recorded = true;
        let record = group_record(&self.id, Some(&self.to_record(assignments)));
        ctx.outbox.persist(vec![record], pending)
    }

    /// The leader's assignment is durable: it is what members get from now on.
    pub(super) fn assigned(&mut self, ctx: &mut Ctx<'_>, by: PersistId, mut assignments: BTreeMap<Arc<str>, Bytes>) {
        let State::CompletingRebalance(completing) = &self.state else { return };
        if completing.persisting != Some(by) {
            return;
        }
        let sync_deadline_ns = completing.sync_deadline_ns;
        for member in self.members.values_mut() {
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
        }
        self.state = State::Stable { sync_deadline_ns: Some(sync_deadline_ns) };
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for member_id in ids {
            self.answer_sync(ctx, &member_id);
        }
        self.end_sync_if_all_have();
    }

    /// The leader's assignment can't be made durable: everyone starts again.
    pub(super) fn not_assigned(&mut self, ctx: &mut Ctx<'_>, by: PersistId, error: GroupError) {
        let State::CompletingRebalance(completing) = &self.state else { return };
        if completing.persisting == Some(by) {
            self.release_syncs(ctx, error);
            self.prepare_rebalance(ctx);
        }
    }

    /// Gives a member that waits for it its assignment.
    fn answer_sync(&mut self, ctx: &mut Ctx<'_>, member_id: &str) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        let Waiting::Sync(request) = member.waiting else { return };
        member.waiting = Waiting::Nothing;
        let response = self.assignment_for(member_id);
        ctx.outbox.reply(request, response);
        self.touch(ctx, member_id);
    }

    /// The assignment as this member is told of it.
    pub(super) fn assignment_for(&self, member_id: &str) -> Response {
        Response::Sync(SyncResponse {
            error: GroupError::None,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            assignment: self.members.get(member_id).map(|m| m.assignment.clone()).unwrap_or_default(),
        })
    }

    /// Nobody is left who has yet to ask for an assignment.
    pub(super) fn end_sync_if_all_have(&mut self) {
        let all_have = self.members.values().all(|m| m.progress == Progress::Synced);
        if let State::Stable { sync_deadline_ns } = &mut self.state
            && all_have
        {
            *sync_deadline_ns = None;
        }
    }

    fn release_syncs(&mut self, ctx: &mut Ctx<'_>, error: GroupError) {
        let waits = |m: &&Member| matches!(m.waiting, Waiting::Sync(_));
        let ids: Vec<_> = self.members.values().filter(waits).map(|m| Arc::clone(&m.id)).collect();
        for member_id in ids {
            self.release(ctx, &member_id, error);
            self.touch(ctx, &member_id);
        }
    }

    /// The connection of a waiting request is gone: nobody will get the answer.
    pub(super) fn abandoned(&mut self, ctx: &mut Ctx<'_>, request: RequestRef) {
        let waits = |m: &&Member| m.waiting == Waiting::Join(request) || m.waiting == Waiting::Sync(request);
        let Some(member_id) = self.members.values().find(waits).map(|m| Arc::clone(&m.id)) else { return };
        let Some(member) = self.members.get_mut(&member_id) else { return };
        member.waiting = Waiting::Nothing;
        match member.progress {
            // Its first answer would have told it that it is a member: it can only come back as another, so the
            // others need not wait for it. A static member comes back to the same place.
            Progress::New if member.instance_id.is_none() => {
                self.remove_member(ctx, &member_id);
                self.members_gone(ctx);
            }
            Progress::New => {
                member.progress = Progress::Joined;
                self.touch(ctx, &member_id);
            }
            Progress::Synced if matches!(self.state, State::CompletingRebalance(_)) => {
                member.progress = Progress::Joined;
                self.touch(ctx, &member_id);
            }
            Progress::Joined | Progress::Synced => self.touch(ctx, &member_id),
        }
    }

    /// Does what the clock asks for.
    pub(super) fn on_time(&mut self, ctx: &mut Ctx<'_>) {
        self.expire_members(ctx);
        self.end_late_state(ctx);
        timeout::on_time(self, ctx);
        share::heartbeat::on_time(self, ctx);
        self.wake_ns = self.earliest_deadline();
    }

    fn expire_members(&mut self, ctx: &mut Ctx<'_>) {
        let now_ns = ctx.now.monotonic_ns;
        let expired = self.members.values().filter(|m| m.expired(now_ns));
        let expired: Vec<_> = expired.map(|m| Arc::clone(&m.id)).collect();
        let known = self.members.len() + self.pending_members.len();
        for member_id in &expired {
            self.remove_member(ctx, member_id);
        }
        self.pending_members.retain(|_, deadline_ns| *deadline_ns > now_ns);
        if !expired.is_empty() || self.members.len() + self.pending_members.len() < known && self.is_joining() {
            self.members_gone(ctx);
        }
    }

    fn is_joining(&self) -> bool {
        matches!(self.state, State::PreparingRebalance(_))
    }

    fn end_late_state(&mut self, ctx: &mut Ctx<'_>) {
        let now_ns = ctx.now.monotonic_ns;
        let delay_ns = ctx.after_ms(ctx.config.initial_rebalance_delay_ms);
        match &mut self.state {
            State::Empty | State::Dead { .. } => {}
            State::PreparingRebalance(joining) if joining.deadline_ns <= now_ns => match &mut joining.initial {
                Some(initial) if initial.grew && initial.limit_ns > now_ns => {
                    initial.grew = false;
                    joining.deadline_ns = delay_ns.min(initial.limit_ns);
                }
                Some(_) | None => self.complete_join(ctx),
            },
            State::CompletingRebalance(Completing { sync_deadline_ns, .. })
            | State::Stable { sync_deadline_ns: Some(sync_deadline_ns) }
                if *sync_deadline_ns <= now_ns =>
            {
                self.expel_unsynced(ctx);
            }
            State::PreparingRebalance(_) | State::CompletingRebalance(_) | State::Stable { .. } => {}
        }
    }

    /// Members who never asked for their assignment would leave partitions unread.
    fn expel_unsynced(&mut self, ctx: &mut Ctx<'_>) {
        let late = self.members.values().filter(|m| m.progress != Progress::Synced);
        let late: Vec<_> = late.map(|m| Arc::clone(&m.id)).collect();
        for member_id in &late {
            self.remove_member(ctx, member_id);
        }
        if late.is_empty() {
            self.postpone_sync(ctx);
        } else {
            self.members_gone(ctx);
        }
    }

    /// All have asked, and the leader's assignment is still being written: that ends in an answer or an error.
    fn postpone_sync(&mut self, ctx: &Ctx<'_>) {
        let deadline_ns = ctx.after_ms(self.max_rebalance_timeout_ms().max(MIN_RETRY_MS));
        match &mut self.state {
            State::CompletingRebalance(completing) => completing.sync_deadline_ns = deadline_ns,
            State::Stable { sync_deadline_ns } => *sync_deadline_ns = None,
            State::Empty | State::PreparingRebalance(_) | State::Dead { .. } => {}
        }
    }
}

/// Generations only grow; after two billion they start again.
fn next_generation(generation: i32) -> i32 {
    generation.checked_add(1).unwrap_or(1)
}

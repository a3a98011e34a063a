//! What is asked of all groups of a coordinator about those of the new protocol ([`super::consumer`]): the group is found,
//! made, or put in the place of another, and what the log refuses is undone.

use std::sync::Arc;

use super::group::State;
use super::outbox::Pending;
use super::types::{
    ConsumerDescribeRequest, ConsumerDescribeResponse, ConsumerHeartbeatRequest, ConsumerHeartbeatResponse, GroupError,
    Now, PersistError, PersistId, RequestRef, Response,
};
use super::{Cluster, Groups, consumer, group_error, join, refuse};

impl Groups {
    pub(super) fn consumer_heartbeat(
        &mut self,
        now: Now,
        cluster: &dyn Cluster,
        request: RequestRef,
        mut body: ConsumerHeartbeatRequest,
    ) {
        let refuse = |error, text: &str| ConsumerHeartbeatResponse::refused(error, text);
        if !cluster.consumer_protocol() {
            let text = "group.version is 0: the protocol of consumer groups is off";
            return self.outbox.reply(request, refuse(GroupError::UnsupportedVersion, text));
        }
        if !self.groups.contains_key(&body.group_id) {
            if body.member_epoch != consumer::current::JOINING {
                let text = format!("Group {} not found.", body.group_id);
                return self.outbox.reply(request, refuse(GroupError::GroupIdNotFound, &text));
            }
            if self.groups.len() >= self.config.max_groups {
                let text = "this coordinator has as many groups as it may; delete some";
                return self.outbox.reply(request, refuse(GroupError::GroupMaxSizeReached, text));
            }
            self.group_or_new(&body.group_id, now.wall_ms);
        }
        join::bound_texts(&self.config, [&mut body.client_id, &mut body.client_host]);
        let new_id = self.ids.next(&body.client_id);
        let with = consumer::heartbeat::With { cluster, topics_version: self.topics_version, now, new_id };
        self.with_group(now, &body.group_id, |group, ctx| {
            consumer::heartbeat::heartbeat(group, ctx, &with, request, &body);
        });
    }

    /// What is described may still be on its way to the log: the answer waits for it.
    pub(super) fn consumer_describe(
        &mut self,
        cluster: &dyn Cluster,
        request: RequestRef,
        body: &ConsumerDescribeRequest,
    ) {
        let mut last_write = None;
        let mut groups = Vec::with_capacity(body.groups.len());
        for group_id in &body.groups {
            let group = self.groups.get(group_id).filter(|group| !matches!(group.state, State::Dead { .. }));
            groups.push(match group.map(|group| &group.consumer) {
                Some(Some(consumer)) => {
                    last_write = last_write.max(consumer.last_write);
                    consumer::describe::describe(group_id, consumer, cluster)
                }
                Some(None) => {
                    let text = format!("Group {group_id} is not a consumer group.");
                    consumer::describe::absent(group_id, GroupError::GroupIdNotFound, Some(text))
                }
                None => {
                    let text = format!("Group {group_id} not found.");
                    consumer::describe::absent(group_id, GroupError::GroupIdNotFound, Some(text))
                }
            });
        }
        let response = Response::ConsumerDescribe(ConsumerDescribeResponse { groups });
        self.outbox.reply_after(last_write, request, response);
    }

    /// A consumer group without members gives its place to a classic one. Should the tombstones not be written, the classic
    /// group's own record, which comes later, ends it as well.
    pub(super) fn leave_consumer_group(&mut self, group_id: &Arc<str>) -> Result<(), GroupError> {
        let Some(group) = self.groups.get_mut(group_id) else { return Ok(()) };
        if matches!(group.state, State::Dead { .. }) {
            return Ok(());
        }
        if group.share.is_some() {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        match &group.consumer {
            None => return Ok(()),
            Some(consumer) if !consumer.members.is_empty() => return Err(GroupError::InconsistentGroupProtocol),
            Some(_) => {}
        }
        let records = group.consumer_tombstones();
        group.consumer = None;
        if !records.is_empty() {
            self.outbox.persist(records, Pending::EmptyGroup { group: Arc::clone(group_id) });
        }
        Ok(())
    }

    /// The log does not take a change of a consumer group, which is made already: it is undone before anything builds on it.
    /// Other writes only change anything when they are durable: what failed of them is told in its turn.
    pub(super) fn refused(&mut self, now: Now, id: PersistId, error: PersistError) {
        if !matches!(self.outbox.pending(id), Some(Pending::Consumer { .. } | Pending::Share { .. })) {
            return;
        }
        match self.outbox.take_pending(id) {
            Some(Pending::Consumer { group, undo, answer }) => {
                self.undo_consumer(now, &group, undo, answer, error);
            }
            Some(Pending::Share { group, before, answer }) => self.undo_share(now, &group, before, answer, error),
            Some(_) | None => {}
        }
    }

    pub(super) fn undo_consumer(
        &mut self,
        now: Now,
        group_id: &Arc<str>,
        undo: consumer::Undo,
        answer: Option<(RequestRef, Response)>,
        error: PersistError,
    ) {
        if let Some((request, response)) = answer {
            self.outbox.reply(request, refuse::instead(response, group_error(error), &error.to_string()));
        }
        self.with_group(now, group_id, |group, ctx| {
            undo.apply(group);
            consumer::timeout::arm(group, ctx);
        });
    }
}

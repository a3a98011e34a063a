//! What is asked of all groups of a coordinator about share groups ([`super::share`]): the group is found or made, and what
//! the log refuses is undone.

use super::group::State;
use super::share::ShareGroup;
use super::types::{
    GroupError, Now, PersistError, RequestRef, Response, ShareDescribeRequest, ShareDescribeResponse,
    ShareHeartbeatRequest, ShareHeartbeatResponse,
};
use super::{Cluster, Groups, group_error, join, refuse, share};

impl Groups {
    pub(super) fn share_heartbeat(
        &mut self,
        now: Now,
        cluster: &dyn Cluster,
        request: RequestRef,
        mut body: ShareHeartbeatRequest,
    ) {
        let refuse = |error, text: &str| ShareHeartbeatResponse::refused(error, text);
        if !cluster.share_protocol() {
            let text = "share.version is 0: share groups are off";
            return self.outbox.reply(request, refuse(GroupError::UnsupportedVersion, text));
        }
        if !self.groups.contains_key(&body.group_id) {
            if body.member_epoch != 0 {
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
        let topics_version = self.topics_version;
        self.with_group(now, &body.group_id, |group, ctx| {
            share::heartbeat::heartbeat(group, ctx, cluster, topics_version, request, &body);
        });
    }

    /// What is described may still be on its way to the log: the answer waits for it.
    pub(super) fn share_describe(&mut self, cluster: &dyn Cluster, request: RequestRef, body: &ShareDescribeRequest) {
        let mut last_write = None;
        let mut groups = Vec::with_capacity(body.groups.len());
        for group_id in &body.groups {
            let group = self.groups.get(group_id).filter(|group| !matches!(group.state, State::Dead { .. }));
            let text = match group.map(|group| &group.share) {
                Some(Some(share)) => {
                    last_write = last_write.max(share.last_write);
                    groups.push(share::describe::describe(group_id, share, cluster));
                    continue;
                }
                Some(None) => format!("Group {group_id} is not a share group."),
                None => format!("Group {group_id} not found."),
            };
            groups.push(share::describe::absent(group_id, GroupError::GroupIdNotFound, Some(text)));
        }
        let response = Response::ShareDescribe(ShareDescribeResponse { groups });
        self.outbox.reply_after(last_write, request, response);
    }

    /// How many members a share group has.
    ///
    /// # Errors
    /// There is no such group, or it is of another kind.
    pub(crate) fn sharers(&self, group_id: &str) -> Result<usize, GroupError> {
        let group = self.groups.get(group_id).filter(|group| !matches!(group.state, State::Dead { .. }));
        let share = group.and_then(|group| group.share.as_ref()).ok_or(GroupError::GroupIdNotFound)?;
        Ok(share.members.len())
    }

    pub(super) fn undo_share(
        &mut self,
        now: Now,
        group_id: &str,
        before: Option<Box<ShareGroup>>,
        answer: Option<(RequestRef, Response)>,
        error: PersistError,
    ) {
        if let Some((request, response)) = answer {
            self.outbox.reply(request, refuse::instead(response, group_error(error), &error.to_string()));
        }
        self.with_group(now, group_id, |group, ctx| {
            group.share = before;
            // Those who were to be out are so after another session: the log must not be asked again and again meanwhile.
            let members = group.share.iter_mut().flat_map(|share| share.members.values_mut());
            for member in members.filter(|member| member.session_ns <= now.monotonic_ns) {
                member.session_ns = u64::MAX;
            }
            share::heartbeat::arm(group, ctx);
        });
    }
}

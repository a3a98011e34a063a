//! The end of a coordinator that lives on elsewhere: whoever waits is told to look for the new one.
//!
//! What was appended may still be committed; whether it is, the new coordinator will see in the log. So nobody is told that
//! a write failed, only that this is not the place to ask any more.

use std::sync::Arc;

use super::group::{Member, Waiting};
use super::outbox::Pending;
use super::transactional::OpenCommit;
use super::types::{Effects, GroupError, JoinResponse, RequestRef, Response, SyncResponse};
use super::{Groups, commit, offset_delete, refuse};

const ERROR: GroupError = GroupError::NotCoordinator;

impl Groups {
    /// Answers whatever waits, and is no more.
    pub fn resign(mut self) -> Effects {
        for pending in self.outbox.drain_pending() {
            if let Some((request, response)) = of_write(pending) {
                self.outbox.reply(request, response);
            }
        }
        for (request, response) in self.outbox.drain_held() {
            self.outbox.reply(request, refuse::instead(response, ERROR, ""));
        }
        for (request, response) in self.groups.values().flat_map(|group| group.members.values()).filter_map(of_member) {
            self.outbox.reply(request, response);
        }
        self.outbox.take_effects()
    }
}

/// Who waits for this write.
fn of_write(pending: Pending) -> Option<(RequestRef, Response)> {
    match pending {
        // Those who wait for an assignment wait as members.
        Pending::Assignment { .. } | Pending::EmptyGroup { .. } | Pending::Forget { .. } => None,
        Pending::StaticMember { request, .. } => Some((request, JoinResponse::refused("".into(), ERROR))),
        Pending::Commit { request, response, .. } => {
            Some((request, Response::OffsetCommit(commit::failed(response, ERROR))))
        }
        Pending::Consumer { answer, .. } | Pending::Share { answer, .. } => {
            answer.map(|(request, response)| (request, refuse::instead(response, ERROR, "")))
        }
        Pending::OpenCommit(OpenCommit { request, response, .. }) => {
            Some((request, Response::OffsetCommit(commit::failed(response, ERROR))))
        }
        Pending::OffsetDelete { request, .. } => Some((request, offset_delete::refused(ERROR))),
        Pending::DeleteGroups { groups, request, mut response } => {
            for (_, verdict) in response.results.iter_mut().filter(|(id, _)| groups.contains(id)) {
                *verdict = ERROR;
            }
            Some((request, Response::Delete(response)))
        }
    }
}

fn of_member(member: &Member) -> Option<(RequestRef, Response)> {
    match member.waiting {
        Waiting::Nothing => None,
        Waiting::Join(request) => Some((request, JoinResponse::refused(Arc::clone(&member.id), ERROR))),
        Waiting::Sync(request) => Some((request, SyncResponse::refused(ERROR))),
    }
}

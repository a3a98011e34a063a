//! Requests on their way to coordinators and back. One that names groups of several partitions is cut, and answered when
//! all its parts are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::permit::{Permit, placed};
use super::seats::Phase;
use super::{CoordinatorTopic, GroupDesk};
use crate::api::{Ctx, Outcome, groups};
use crate::core::Core;
use crate::core::share::Asker;
use crate::core::store::LogStore;
use crate::groups::types::{ListRequest, ListResponse};
use crate::groups::{
    GroupError, Input, Part, Request, RequestRef, Response, Split, malformed, partition_of, refused, split,
};
use crate::share::ledger;

/// A request that is not answered.
#[derive(Debug)]
pub(super) enum Waiting {
    /// One coordinator has it.
    Whole { ctx: Ctx, partition: i32 },
    /// Several have a part of it each, listed with their partitions.
    Cut { ctx: Ctx, answer: Response, parts: BTreeMap<u64, i32> },
    /// A part of that request, with the places of its answer there.
    Part { of: u64, places: Vec<usize> },
}

impl GroupDesk {
    fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    fn enter(&mut self, waiting: Waiting) -> u64 {
        let request = self.next_request();
        self.waiting.insert(request, waiting);
        request
    }

    /// Registers a request with all its parts; gives its number, and theirs.
    fn enter_cut(&mut self, ctx: &Ctx, answer: Response, parts: Vec<Part>) -> (u64, Vec<(u64, i32, Request)>) {
        let of = self.next_request();
        let mut entered = Vec::with_capacity(parts.len());
        for Part { partition, places, body } in parts {
            entered.push((self.enter(Waiting::Part { of, places }), partition, body));
        }
        let parts = entered.iter().map(|(request, partition, _)| (*request, *partition)).collect();
        self.waiting.insert(of, Waiting::Cut { ctx: ctx.clone(), answer, parts });
        (of, entered)
    }

    /// Takes an answer; gives a request that is answered by it, with the whole answer.
    fn answered(&mut self, request: u64, response: Response) -> Option<(u64, Ctx, Response)> {
        match self.waiting.remove(&request)? {
            Waiting::Whole { ctx, .. } => Some((request, ctx, response)),
            Waiting::Part { of, places } => self.part_answered(of, request, &places, response),
            // Coordinators know its parts, not the request.
            Waiting::Cut { .. } => None,
        }
    }

    fn part_answered(
        &mut self,
        of: u64,
        part: u64,
        places: &[usize],
        response: Response,
    ) -> Option<(u64, Ctx, Response)> {
        let Some(Waiting::Cut { answer, parts, .. }) = self.waiting.get_mut(&of) else { return None };
        answer.place(places, response);
        parts.remove(&part);
        if !parts.is_empty() {
            return None;
        }
        match self.waiting.remove(&of)? {
            Waiting::Cut { ctx, answer, .. } => Some((of, ctx, answer)),
            Waiting::Whole { .. } | Waiting::Part { .. } => None,
        }
    }

    /// Forgets a request; gives those that coordinators know of it, with their partitions.
    pub(super) fn abandon(&mut self, request: u64) -> Vec<(u64, i32)> {
        match self.waiting.remove(&request) {
            None | Some(Waiting::Part { .. }) => Vec::new(),
            Some(Waiting::Whole { partition, .. }) => vec![(request, partition)],
            Some(Waiting::Cut { parts, .. }) => {
                for part in parts.keys() {
                    self.waiting.remove(part);
                }
                parts.into_iter().collect()
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn waiting_requests(&self) -> usize {
        self.waiting.len()
    }

    /// The groups of all coordinators here. If one can't say, the list is not whole, and says so.
    fn list(&self, request: &ListRequest) -> ListResponse {
        let mut whole = ListResponse { error: GroupError::None, groups: Vec::new() };
        for (_, seat) in self.seats.iter() {
            match seat.phase {
                Phase::Serving => whole.groups.append(&mut seat.machine.list(request).groups),
                Phase::Queued(_) | Phase::Loading(_) => whole.error = GroupError::CoordinatorLoadInProgress,
                Phase::Damaged if whole.error == GroupError::None => whole.error = GroupError::CoordinatorNotAvailable,
                Phase::Damaged => {}
            }
        }
        whole.groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        whole
    }
}

impl<S: LogStore> Core<S> {
    /// Hands a request to the coordinators of its groups.
    pub(crate) fn ask_groups(&mut self, ctx: &Ctx, body: Request) -> Outcome {
        if let Some(response) = malformed(&self.desk.settings, &body) {
            return groups::answer(self, ctx, response);
        }
        match self.permit_groups(ctx, body) {
            Permit::All(body) => self.ask_coordinators(ctx, body),
            Permit::Nothing(response) => groups::answer(self, ctx, response),
            Permit::Some { whole, places, body } => self.ask_about_some(ctx, whole, &places, body),
        }
    }

    fn ask_coordinators(&mut self, ctx: &Ctx, body: Request) -> Outcome {
        let Some(partitions) = self.offsets_partitions() else { return self.ask_nobody(ctx, &body) };
        match split(body, partitions) {
            Split::One { partition, body } => self.ask_one(ctx, partition, body),
            Split::Many { whole, parts } if parts.is_empty() => groups::answer(self, ctx, whole),
            Split::Many { whole, parts } => self.ask_many(ctx, whole, parts),
            Split::Everyone(body) => self.list_groups(ctx, &body),
        }
    }

    /// The items of `body` have these places in the whole answer; the others are answered there already.
    fn ask_about_some(&mut self, ctx: &Ctx, mut whole: Response, places: &[usize], body: Request) -> Outcome {
        let Some(partitions) = self.offsets_partitions() else {
            whole.place(places, refused(GroupError::CoordinatorNotAvailable, &body));
            return groups::answer(self, ctx, whole);
        };
        match split(body, partitions) {
            Split::Many { parts, .. } => self.ask_many(ctx, whole, placed(parts, places)),
            Split::One { .. } | Split::Everyone(_) => groups::answer(self, ctx, whole),
        }
    }

    fn list_groups(&self, ctx: &Ctx, body: &ListRequest) -> Outcome {
        let response = self.permit_list(ctx, self.desk.list(body));
        groups::answer(self, ctx, Response::List(response))
    }

    /// No group was ever heard of: there are none to be listed, and others have the topic made.
    fn ask_nobody(&mut self, ctx: &Ctx, body: &Request) -> Outcome {
        if let Request::List(body) = body {
            return self.list_groups(ctx, body);
        }
        self.make_topic(CoordinatorTopic::Offsets);
        groups::answer(self, ctx, refused(GroupError::CoordinatorNotAvailable, body))
    }

    fn ask_one(&mut self, ctx: &Ctx, partition: i32, body: Request) -> Outcome {
        if let Some(error) = self.group_refusal(partition) {
            return groups::answer(self, ctx, refused(error, &body));
        }
        let request = self.desk.enter(Waiting::Whole { ctx: ctx.clone(), partition });
        self.remember(ctx, request);
        let input = Input::Request { request: RequestRef(request), body };
        self.step_groups_for(Some(&ctx.caller), partition, input);
        // If it was answered, its slot is filled already.
        Outcome::Later
    }

    /// Why the coordinator of this partition can't be asked. Without authority another one may be it by now: even what is
    /// only read, such as committed offsets, may be out of date (INV-4).
    fn group_refusal(&self, partition: i32) -> Option<GroupError> {
        let unsure = !self.may_acknowledge();
        self.desk.refusal(partition).or_else(|| unsure.then_some(GroupError::CoordinatorNotAvailable))
    }

    /// How many members a share group has.
    ///
    /// # Errors
    /// There is no such group, or its coordinator is not here.
    pub(crate) fn sharers_of(&self, group: &str) -> Result<usize, GroupError> {
        let partitions = self.offsets_partitions().ok_or(GroupError::CoordinatorNotAvailable)?;
        let partition = partition_of(group, partitions);
        if let Some(error) = self.group_refusal(partition) {
            return Err(error);
        }
        match self.desk.seats.get(partition) {
            Some(seat) if seat.is_serving() => seat.machine.sharers(group),
            Some(_) | None => Err(GroupError::CoordinatorLoadInProgress),
        }
    }

    fn ask_many(&mut self, ctx: &Ctx, whole: Response, parts: Vec<Part>) -> Outcome {
        let (request, parts) = self.desk.enter_cut(ctx, whole, parts);
        self.remember(ctx, request);
        for (part, partition, body) in parts {
            let request = RequestRef(part);
            match self.group_refusal(partition) {
                Some(error) => self.group_reply(request, refused(error, &body)),
                None => self.step_groups_for(Some(&ctx.caller), partition, Input::Request { request, body }),
            }
        }
        Outcome::Later
    }

    /// The connection knows what to abandon when it ends.
    fn remember(&mut self, ctx: &Ctx, request: u64) {
        if let Some(connection) = self.connection(ctx.id.conn) {
            connection.group_requests.push(request);
        }
    }

    pub(super) fn group_reply(&mut self, request: RequestRef, response: Response) {
        let Some((request, ctx, response)) = self.desk.answered(request.0, response) else { return };
        if let Some(connection) = self.connection(ctx.id.conn) {
            connection.group_requests.retain(|waiting| *waiting != request);
        }
        self.forget_deleted(&response);
        let outcome = groups::answer(self, &ctx, response);
        self.finish(ctx.id, outcome);
    }

    /// What share coordinators keep of groups that are gone goes with them.
    fn forget_deleted(&mut self, response: &Response) {
        let Response::Delete(response) = response else { return };
        if self.coordinator_topic(CoordinatorTopic::Shares).is_none() {
            return;
        }
        for (group, _) in response.results.iter().filter(|(_, error)| *error == GroupError::None) {
            self.ask_shares(Asker::Nobody, ledger::Request::Delete { group: Arc::clone(group), topics: None });
        }
    }
}

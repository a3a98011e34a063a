//! What is asked of share coordinators, on whichever node: again and again until one answers, or for so long that who waits
//! has to be told.
//!
//! ```text
//!  ask_shares ──> asked ──┬─ here, or at the coordinator's node ──> answered
//!                   ^     └─ not now, link lost, no answer ─┐
//!                   └───────────── a little later ──────────┘      for some seconds, then it is refused
//! ```
//! All of it may be asked twice: coordinators tell by its sequence what they have heard before.

use std::collections::{BTreeMap, BTreeSet};

use super::coordinate::Waiter;
use crate::api;
use crate::cluster::control::Control;
use crate::cluster::share::ShareMessage;
use crate::core::Core;
use crate::core::coordinators::CoordinatorTopic;
use crate::core::store::LogStore;
use crate::groups::partition_of;
use crate::limits::{MAX_SHARE_QUESTIONS, SHARE_ASK_AGAIN_MS, SHARE_PATIENCE_MS, SHARE_RETRY_MS};
use crate::share::ledger::{Refusal, Request, Response};

/// What goes on with the answer.
#[derive(Debug)]
pub(crate) enum Asker {
    /// A share-partition that is led here.
    Partition(u64),
    /// A request about what is kept.
    Api(Box<api::share::offsets::Pending>),
    /// Nobody waits: it is to be done all the same.
    Nobody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Asked of this node.
    Asked(i32),
    /// To be asked.
    Later,
}

#[derive(Debug)]
struct Question {
    asker: Asker,
    request: Request,
    step: Step,
    /// When it is asked again, or given up.
    wake_ns: u64,
    until_ns: u64,
}

/// Questions of this node. Bounded: beyond, they are refused.
#[derive(Debug, Default)]
pub(super) struct Questions {
    last: u64,
    open: BTreeMap<u64, Question>,
    wakes: BTreeSet<(u64, u64)>,
}

impl Questions {
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.wakes.first().map(|(at_ns, _)| *at_ns)
    }

    fn set(&mut self, number: u64, step: Step, wake_ns: u64) {
        let Some(question) = self.open.get_mut(&number) else { return };
        self.wakes.remove(&(question.wake_ns, number));
        let wake_ns = wake_ns.min(question.until_ns);
        (question.step, question.wake_ns) = (step, wake_ns);
        self.wakes.insert((wake_ns, number));
    }

    fn take(&mut self, number: u64) -> Option<Question> {
        let question = self.open.remove(&number)?;
        self.wakes.remove(&(question.wake_ns, number));
        Some(question)
    }
}

impl<S: LogStore> Core<S> {
    /// Asks the coordinator of the request's group. `asker` always hears of it, perhaps at once.
    pub(crate) fn ask_shares(&mut self, asker: Asker, request: Request) {
        if self.shares.questions.open.len() >= MAX_SHARE_QUESTIONS {
            return self.conclude_share_question(asker, Response::Refused(Refusal::NotAvailable));
        }
        let until_ns = self.after_ms(SHARE_PATIENCE_MS);
        let questions = &mut self.shares.questions;
        questions.last += 1;
        let number = questions.last;
        let question = Question { asker, request, step: Step::Later, wake_ns: until_ns, until_ns };
        questions.open.insert(number, question);
        questions.wakes.insert((until_ns, number));
        self.ask_share_question(number);
    }

    pub(super) fn after_ms(&self, ms: u64) -> u64 {
        self.now.monotonic_ns.saturating_add(ms * 1_000_000)
    }

    fn ask_share_question(&mut self, number: u64) {
        let Some(question) = self.shares.questions.open.get(&number) else { return };
        let request = question.request.clone();
        let Some(node) = self.share_coordinator(request.group()) else {
            return self.share_question_later(number);
        };
        let again_ns = self.after_ms(SHARE_ASK_AGAIN_MS);
        self.shares.questions.set(number, Step::Asked(node), again_ns);
        if node == self.config.node_id {
            self.ask_ledger(Waiter::Here(number), request);
        } else if !self.send_control(node, &Control::Share(ShareMessage::Ask { number, request })) {
            self.share_question_later(number);
        }
    }

    /// The node whose coordinator has a group. Where there is none yet, the topic of their state is made.
    fn share_coordinator(&mut self, group: &str) -> Option<i32> {
        let Some(topic) = self.coordinator_topic(CoordinatorTopic::Shares) else {
            self.make_topic(CoordinatorTopic::Shares);
            return None;
        };
        topic.partition(partition_of(group, topic.partition_count()))?.leader
    }

    fn share_question_later(&mut self, number: u64) {
        let at_ns = self.after_ms(SHARE_RETRY_MS);
        self.shares.questions.set(number, Step::Later, at_ns);
    }

    /// The coordinator here answers.
    pub(super) fn share_question_answered(&mut self, number: u64, response: Response) {
        match response {
            Response::Refused(refusal) if refusal.may_pass() => self.share_question_later(number),
            response => {
                if let Some(question) = self.shares.questions.take(number) {
                    self.conclude_share_question(question.asker, response);
                }
            }
        }
    }

    /// The coordinator's node answers; unless another was asked since.
    pub(super) fn share_node_answered(&mut self, node: i32, number: u64, response: Response) {
        let asked = self.shares.questions.open.get(&number).map(|question| question.step);
        if asked == Some(Step::Asked(node)) {
            self.share_question_answered(number, response);
        }
    }

    pub(super) fn ask_share_questions_again(&mut self) {
        let now_ns = self.now.monotonic_ns;
        while let Some((_, number)) = self.shares.questions.wakes.first().copied().filter(|(at_ns, _)| *at_ns <= now_ns)
        {
            let is_over = self.shares.questions.open.get(&number).is_none_or(|question| question.until_ns <= now_ns);
            if !is_over {
                self.ask_share_question(number);
            } else if let Some(question) = self.shares.questions.take(number) {
                self.conclude_share_question(question.asker, Response::Refused(Refusal::NotAvailable));
            }
        }
    }

    /// A coordinator serves from now on: what waits is asked at once.
    pub(super) fn hurry_share_questions(&mut self) {
        let later = self.shares.questions.open.iter().filter(|(_, question)| question.step == Step::Later);
        let now_ns = self.now.monotonic_ns;
        for number in later.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.shares.questions.set(number, Step::Later, now_ns);
        }
    }

    /// The link to a node is lost, and what it was asked with it.
    pub(crate) fn share_questions_without(&mut self, node: i32) {
        let lost = self.shares.questions.open.iter().filter(|(_, question)| question.step == Step::Asked(node));
        for number in lost.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.share_question_later(number);
        }
    }

    fn conclude_share_question(&mut self, asker: Asker, response: Response) {
        match asker {
            Asker::Partition(id) => self.share_partition_answered(id, response),
            Asker::Api(pending) => api::share::offsets::answered(self, *pending, response),
            Asker::Nobody => {
                if let Response::Refused(refusal) = response {
                    tracing::warn!(?refusal, "what is kept of a share group could not be deleted");
                }
            }
        }
    }
}

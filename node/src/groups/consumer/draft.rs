//! Changes on their way to the log: made at once, answered when durable, undone if the log refuses them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fact::Fact;
use super::record;
use super::state::ConsumerGroup;
use crate::groups::group::Group;
use crate::groups::outbox::{Ctx, Pending};
use crate::groups::types::{Record, RequestRef, Response};

/// What it takes to be as before.
#[derive(Debug, Default)]
pub(in crate::groups) struct Undo {
    facts: Vec<Fact>,
    classic: Option<Classic>,
}

/// What was left of the classic group, whose place a consumer group took.
#[derive(Debug)]
struct Classic {
    since_ms: i64,
    generation: i32,
    protocol_type: Option<Arc<str>>,
    pending_members: BTreeMap<Arc<str>, u64>,
    recorded: bool,
}

/// The changes of one request, or of one look at the clock.
#[derive(Debug, Default)]
pub(super) struct Draft {
    records: Vec<Record>,
    undo: Undo,
}

impl Draft {
    pub(super) fn put(&mut self, group_id: &str, consumer: &mut ConsumerGroup, fact: Fact) {
        self.records.push(record::encode(group_id, &fact));
        self.undo.facts.push(consumer.apply(fact));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The classic group, which has no members, gives its place to a consumer group.
    pub(super) fn take_place(&mut self, group: &mut Group) {
        if group.recorded {
            self.records.push(crate::groups::record::group_record(&group.id, None));
        }
        self.undo.classic = Some(Classic {
            since_ms: group.since_ms,
            generation: std::mem::take(&mut group.generation),
            protocol_type: group.protocol_type.take(),
            pending_members: std::mem::take(&mut group.pending_members),
            recorded: std::mem::take(&mut group.recorded),
        });
        group.consumer = Some(Box::default());
    }

    /// Nothing of it happened.
    pub(super) fn drop(self, group: &mut Group) {
        self.undo.apply(group);
    }

    /// Hands it to the log; the answer, if somebody waits for one, comes when it is durable.
    pub(super) fn finish(self, group: &mut Group, ctx: &mut Ctx<'_>, answer: Option<(RequestRef, Response)>) {
        let Some(consumer) = &mut group.consumer else { return };
        if self.records.is_empty() {
            if let Some((request, response)) = answer {
                ctx.outbox.reply_after(consumer.last_write, request, response);
            }
            return;
        }
        let pending = Pending::Consumer { group: Arc::clone(&group.id), undo: self.undo, answer };
        consumer.last_write = Some(ctx.outbox.persist(self.records, pending));
    }
}

impl Undo {
    /// Puts everything back; the last change first.
    pub(in crate::groups) fn apply(self, group: &mut Group) {
        if let Some(consumer) = &mut group.consumer {
            for fact in self.facts.into_iter().rev() {
                consumer.apply(fact);
            }
            // What was looked up for it is to be looked up again.
            consumer.seen_topics = None;
            consumer.looks.clear();
        }
        if let Some(classic) = self.classic {
            group.consumer = None;
            group.since_ms = classic.since_ms;
            group.generation = classic.generation;
            group.protocol_type = classic.protocol_type;
            group.pending_members = classic.pending_members;
            group.recorded = classic.recorded;
        }
    }
}

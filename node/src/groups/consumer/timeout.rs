//! What the clock asks of a consumer group: who was not heard of for a session, or did not give up in time what it must, is
//! out.

use std::sync::Arc;

use super::draft::Draft;
use super::leave;
use crate::groups::group::Group;
use crate::groups::outbox::Ctx;

/// Fences those whose time is over.
pub(in crate::groups) fn on_time(group: &mut Group, ctx: &mut Ctx<'_>) {
    let id = Arc::clone(&group.id);
    let Some(consumer) = &mut group.consumer else { return };
    let now_ns = ctx.now.monotonic_ns;
    let is_late = |member: &super::state::Member| {
        member.session_ns <= now_ns || member.revoke_ns.is_some_and(|revoke_ns| revoke_ns <= now_ns)
    };
    let late = consumer.members.iter().filter(|(_, member)| is_late(member));
    let late: Vec<Arc<str>> = late.map(|(id, _)| Arc::clone(id)).collect();
    if !late.is_empty() {
        tracing::info!(group = %id, members = ?late, "members of a consumer group are fenced: their time is over");
        let mut draft = Draft::default();
        leave::fence(&id, consumer, &mut draft, &late);
        draft.finish(group, ctx, None);
    }
}

/// Members whose session has no end yet have one from now on: those that were replayed, or brought back.
pub(in crate::groups) fn arm(group: &mut Group, ctx: &Ctx<'_>) {
    let Some(consumer) = &mut group.consumer else { return };
    let session_ns = ctx.after_ms(ctx.config.consumer_session_timeout_ms);
    for member in consumer.members.values_mut() {
        if member.session_ns == u64::MAX {
            member.session_ns = session_ns;
        }
        if member.current.progress == super::current::Progress::Unrevoked && member.revoke_ns.is_none() {
            let timeout_ms = u32::try_from(member.meta.rebalance_timeout_ms).unwrap_or(0).max(1);
            member.revoke_ns = Some(ctx.after_ms(timeout_ms));
        }
    }
    let deadline_ns = consumer.earliest_deadline();
    group.wake_by(deadline_ns);
}

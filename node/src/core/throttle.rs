//! Quotas at work: what a request used is counted, its answer says how long its client should wait, and until then the
//! connection is not read (KIP-219).

use std::collections::BTreeSet;
use std::net::IpAddr;

use wherry_metadata::quota::QuotaKey;

use super::store::LogStore;
use super::{ConnId, Core};
use crate::api::Ctx;
use crate::limits::MAX_REQUEST_THROTTLE_NS;
use crate::security::quotas::{BURST_S, Quotas, of_address, of_client};

/// What is counted, and who waits.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    quotas: Quotas,
    /// Muted connections by the end of it. At most one entry per connection that is there, and few of those that are not.
    muted: BTreeSet<(u64, ConnId)>,
    /// The time that handlers take, where somebody can tell: in nanoseconds, only ever compared with itself.
    clock: Option<fn() -> u64>,
}

impl Throttle {
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.muted.first().map(|(until_ns, _)| *until_ns)
    }
}

impl<S: LogStore> Core<S> {
    /// A clock for what requests cost; without one they cost nothing.
    pub fn use_cost_clock(&mut self, clock: fn() -> u64) {
        self.throttle.clock = Some(clock);
    }

    /// The caller used so much; gives how long it has to wait, in milliseconds, and mutes its connection as long.
    #[expect(clippy::cast_precision_loss, reason = "amounts far beyond 2^50 bytes are no matter of precision")]
    pub(crate) fn charge(&mut self, ctx: &Ctx, key: QuotaKey, amount: usize) -> i32 {
        let wait_ns = self.charge_ns(ctx, key, amount as f64);
        self.mute(ctx.id.conn, wait_ns);
        i32::try_from(wait_ns.div_ceil(1_000_000)).unwrap_or(i32::MAX)
    }

    fn charge_ns(&mut self, ctx: &Ctx, key: QuotaKey, amount: f64) -> u64 {
        if self.meta.quotas().is_empty() {
            return 0;
        }
        let client_id = ctx.client_id.as_deref().unwrap_or_default();
        let quota = of_client(self.meta.quotas(), key, ctx.caller.principal.name(), client_id);
        quota.map_or(0, |quota| self.throttle.quotas.charge(key, quota, amount, self.now.monotonic_ns))
    }

    /// The most that one answer may have of a quota, so that its client is not held up for longer than a burst.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is above zero, and saturates")]
    pub(crate) fn burst(&self, ctx: &Ctx, key: QuotaKey) -> usize {
        if self.meta.quotas().is_empty() {
            return usize::MAX;
        }
        let client_id = ctx.client_id.as_deref().unwrap_or_default();
        let quota = of_client(self.meta.quotas(), key, ctx.caller.principal.name(), client_id);
        quota.map_or(usize::MAX, |quota| (quota.per_s * BURST_S).max(1.0) as usize)
    }

    /// Whether an address may open one more connection now.
    pub(super) fn may_connect(&mut self, host: IpAddr) -> bool {
        let key = QuotaKey::ConnectionCreationRate;
        let quota = if self.meta.quotas().is_empty() { None } else { of_address(self.meta.quotas(), key, host) };
        quota.is_none_or(|quota| self.throttle.quotas.take(key, quota, 1.0, self.now.monotonic_ns))
    }

    /// When a request is begun, for [`Core::charge_time`]; none where its cost is no matter.
    pub(crate) fn cost_begins(&self) -> Option<u64> {
        self.throttle.clock.filter(|_| !self.meta.quotas().is_empty()).map(|clock| clock())
    }

    /// The request took the core's thread since then; in percent of it, as the quota is.
    #[expect(clippy::cast_precision_loss, reason = "a request takes less than 2^50 nanoseconds")]
    pub(crate) fn charge_time(&mut self, ctx: &Ctx, began: Option<u64>) {
        let (Some(began), Some(clock)) = (began, self.throttle.clock) else { return };
        let percent_seconds = clock().saturating_sub(began) as f64 / 1e9 * 100.0;
        let wait_ns = self.charge_ns(ctx, QuotaKey::RequestPercentage, percent_seconds);
        self.mute(ctx.id.conn, wait_ns.min(MAX_REQUEST_THROTTLE_NS));
    }

    fn mute(&mut self, conn: ConnId, wait_ns: u64) {
        let until_ns = self.now.monotonic_ns.saturating_add(wait_ns);
        let Some(connection) = self.conns.get_mut(conn) else { return };
        if wait_ns == 0 || connection.muted_until_ns.is_some_and(|until| until >= until_ns) {
            return;
        }
        if let Some(before) = connection.muted_until_ns.replace(until_ns) {
            self.throttle.muted.remove(&(before, conn));
        }
        self.throttle.muted.insert((until_ns, conn));
        self.stats.throttled.add(1);
    }

    /// Connections whose time is over go on.
    pub(super) fn unmute(&mut self) {
        while let Some((until_ns, conn)) = self.throttle.muted.first().copied() {
            if until_ns > self.now.monotonic_ns {
                return;
            }
            self.throttle.muted.pop_first();
            if let Some(connection) = self.conns.get_mut(conn) {
                connection.muted_until_ns = None;
            }
            self.settle(conn);
        }
    }

    pub(super) fn forget_muted(&mut self, conn: ConnId) {
        if let Some(until_ns) = self.conns.get_mut(conn).and_then(|connection| connection.muted_until_ns) {
            self.throttle.muted.remove(&(until_ns, conn));
        }
    }
}

//! What the metrics say of groups: counted once in a while after something happened to one, since that looks at all of them.

use super::GroupDesk;
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::GroupsStats;
use crate::limits::COORDINATOR_CENSUS_MS;

impl GroupDesk {
    /// Something happened to a group.
    pub(super) fn ask_census(&mut self, now_ns: u64) {
        self.census_ns.get_or_insert(now_ns.saturating_add(COORDINATOR_CENSUS_MS * 1_000_000));
    }
}

impl<S: LogStore> Core<S> {
    /// Counts the groups, if it is time.
    pub(crate) fn count_groups(&mut self) {
        let now_ns = self.now.monotonic_ns;
        if self.desk.census_ns.take_if(|at_ns| *at_ns <= now_ns).is_none() {
            return;
        }
        let mut all = GroupsStats::default();
        for (_, seat) in self.desk.seats.iter() {
            all += seat.machine.stats();
        }
        let groups = all.empty + all.rebalancing + all.stable;
        for (gauge, count) in [
            (&self.stats.groups, groups),
            (&self.stats.consumer_groups, all.consumer),
            (&self.stats.groups_rebalancing, all.rebalancing),
            (&self.stats.group_members, all.members),
        ] {
            gauge.set(count as u64);
        }
    }
}

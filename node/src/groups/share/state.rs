//! A share group: who is in it, and what each is to read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::assign::assign;
use crate::groups::cluster::Cluster;
use crate::groups::consumer::state::Parts;
use crate::groups::types::{PersistId, StateName};

/// What a member says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::groups) struct Meta {
    pub(in crate::groups) rack_id: Option<Arc<str>>,
    pub(in crate::groups) client_id: Arc<str>,
    pub(in crate::groups) client_host: Arc<str>,
    pub(in crate::groups) topics: BTreeSet<Arc<str>>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::groups) struct Member {
    pub(in crate::groups) meta: Arc<Meta>,
    /// What it was told last, and before that; not written: unknown after a restart.
    pub(in crate::groups) epochs: Option<(i32, i32)>,
    /// Out after this.
    pub(in crate::groups) session_ns: u64,
}

/// The group.
#[derive(Debug, Clone, Default)]
pub(in crate::groups) struct ShareGroup {
    /// Grows when members, what they want, or their topics change.
    pub(in crate::groups) epoch: i32,
    pub(in crate::groups) members: BTreeMap<Arc<str>, Member>,
    /// Who is to read what, in this epoch.
    pub(in crate::groups) targets: BTreeMap<Arc<str>, Arc<Parts>>,
    /// The cluster's topics as of which that was made; none: it was not.
    pub(in crate::groups) seen_topics: Option<u64>,
    /// The last write about this group: what is answered of it waits for that.
    pub(in crate::groups) last_write: Option<PersistId>,
}

impl ShareGroup {
    /// Looks again who is to read what. Whether that is something else than before.
    pub(in crate::groups) fn assign(&mut self, cluster: &dyn Cluster, topics_version: u64) -> bool {
        let wishes = self.members.iter().map(|(id, member)| (id, &member.meta.topics)).collect();
        let targets = assign(&wishes, cluster);
        self.seen_topics = Some(topics_version);
        let changed = targets != self.targets;
        self.targets = targets;
        changed
    }

    pub(in crate::groups) fn state_name(&self) -> StateName {
        if self.members.is_empty() { StateName::Empty } else { StateName::Stable }
    }

    /// The earliest deadline there is.
    pub(in crate::groups) fn earliest_deadline(&self) -> u64 {
        self.members.values().map(|member| member.session_ns).min().unwrap_or(u64::MAX)
    }
}

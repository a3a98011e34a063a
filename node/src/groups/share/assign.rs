//! Who reads which partitions: every partition is read by somebody who wants it, every member that wants something reads
//! something, and as evenly as that allows. Members may share partitions. The same members and topics lead to the same
//! assignment, so that it need not be remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::groups::cluster::Cluster;
use crate::groups::consumer::state::Parts;

/// What each member wants.
pub(super) type Wishes<'a> = Vec<(&'a Arc<str>, &'a BTreeSet<Arc<str>>)>;

/// By member; of those that get nothing there is no entry.
pub(super) fn assign(wishes: &Wishes<'_>, cluster: &dyn Cluster) -> BTreeMap<Arc<str>, Arc<Parts>> {
    let mut assigned: BTreeMap<Arc<str>, Parts> = BTreeMap::new();
    let alike = wishes.windows(2).all(|pair| pair[0].1 == pair[1].1);
    if alike {
        let members: Vec<_> = wishes.iter().map(|(member, _)| *member).collect();
        let topics = wishes.first().into_iter().flat_map(|(_, topics)| topics.iter());
        let partitions: Vec<_> = topics.flat_map(|topic| partitions(topic, cluster)).collect();
        deal(&members, &partitions, &mut assigned);
    } else {
        // Each topic among those who want it.
        for topic in wishes.iter().flat_map(|(_, topics)| topics.iter()).collect::<BTreeSet<_>>() {
            let wanting = wishes.iter().filter(|(_, topics)| topics.contains(topic));
            let members: Vec<_> = wanting.map(|(member, _)| *member).collect();
            deal(&members, &partitions(topic, cluster), &mut assigned);
        }
    }
    assigned.into_iter().map(|(member, parts)| (member, Arc::new(parts))).collect()
}

fn partitions(topic: &str, cluster: &dyn Cluster) -> Vec<(Uuid, i32)> {
    let view = cluster.topic(topic);
    view.into_iter().flat_map(|view| (0..view.partitions).map(move |partition| (view.id, partition))).collect()
}

/// In turn, until all partitions and all members have had one.
fn deal(members: &[&Arc<str>], partitions: &[(Uuid, i32)], assigned: &mut BTreeMap<Arc<str>, Parts>) {
    if members.is_empty() || partitions.is_empty() {
        return;
    }
    let rounds = members.len().max(partitions.len());
    for (member, (topic, partition)) in members.iter().cycle().zip(partitions.iter().cycle()).take(rounds) {
        assigned.entry(Arc::clone(member)).or_default().entry(*topic).or_default().insert(*partition);
    }
}

//! How a cluster begins, and how a node without state finds one. Pure: what is known in, the next step out.
//!
//! A new cluster is made once, by the first of its configured voters, and only when *all* of them have been seen without
//! any state: then nothing can exist that it would fork from. Whoever has no state and finds a node that has some joins it.
//! A node whose volume was replaced is told so by the leader of the quorum, which knows the directory that it had (trap 23).

use std::collections::BTreeMap;

use uuid::Uuid;
use wherry_metadata::quorum::Member;

use crate::config::Voter;

/// What another node said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) directory: Uuid,
    /// It is part of a cluster already.
    pub(crate) initialised: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing yet; for whom.
    Wait(Vec<i32>),
    /// Begin the cluster.
    Initialize(BTreeMap<i32, Member>),
    /// There is one: ask this node to be let in.
    Join(i32),
}

/// The next step of a node without state.
pub(crate) fn next_step(me: i32, directory: Uuid, voters: &[Voter], seen: &BTreeMap<i32, Seen>) -> Step {
    if let Some((node, _)) = seen.iter().find(|(_, seen)| seen.initialised) {
        return Step::Join(*node);
    }
    let missing: Vec<i32> = voters.iter().map(|v| v.node_id).filter(|id| *id != me && !seen.contains_key(id)).collect();
    let first = voters.iter().map(|v| v.node_id).min();
    if !missing.is_empty() || first != Some(me) {
        return Step::Wait(missing);
    }
    let directory_of = |id: i32| if id == me { Some(directory) } else { seen.get(&id).map(|s| s.directory) };
    let members = voters
        .iter()
        .filter_map(|v| directory_of(v.node_id).map(|directory| (v.node_id, Member { directory, addr: v.addr() })));
    Step::Initialize(members.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters() -> Vec<Voter> {
        (0..3).map(|node_id| Voter { node_id, host: format!("node-{node_id}"), port: 9092 }).collect()
    }

    fn blank(n: u128) -> Seen {
        Seen { directory: Uuid::from_u128(n), initialised: false }
    }

    fn step(me: i32, seen: &[(i32, Seen)]) -> Step {
        next_step(me, Uuid::from_u128(7), &voters(), &seen.iter().copied().collect())
    }

    #[test]
    fn the_first_voter_begins_when_it_has_seen_all() {
        assert_eq!(step(0, &[]), Step::Wait(vec![1, 2]));
        assert_eq!(step(0, &[(1, blank(1))]), Step::Wait(vec![2]));
        assert_eq!(step(1, &[(0, blank(0)), (2, blank(2))]), Step::Wait(vec![]), "not the first");
        let Step::Initialize(members) = step(0, &[(1, blank(1)), (2, blank(2))]) else { panic!() };
        assert_eq!(members.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(members[&0].directory, Uuid::from_u128(7));
        assert_eq!(members[&2], Member { directory: Uuid::from_u128(2), addr: "node-2:9092".into() });
    }

    #[test]
    fn nobody_begins_beside_a_cluster() {
        let there = Seen { initialised: true, ..blank(1) };
        assert_eq!(step(0, &[(1, there), (2, blank(2))]), Step::Join(1));
        assert_eq!(step(5, &[(1, there)]), Step::Join(1));
        assert_eq!(step(5, &[(1, blank(1))]), Step::Wait(vec![0, 2]), "no voter: never begins");
    }

    #[test]
    fn one_voter_begins_at_once() {
        let one = [Voter { node_id: 4, host: "here".into(), port: 1 }];
        let step = next_step(4, Uuid::from_u128(1), &one, &BTreeMap::new());
        assert!(matches!(step, Step::Initialize(members) if members.len() == 1));
    }
}

//! Groups: one owner per partition and generation, and a commit that was acknowledged is never forgotten.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::logs::Place;

#[derive(Debug, Default)]
struct Progress {
    attempted: BTreeSet<i64>,
    acknowledged: i64,
    /// All below was given to a member of the group.
    delivered: i64,
}

/// See the module. One group.
#[derive(Debug, Default)]
pub(crate) struct GroupOracle {
    owners: BTreeMap<i32, BTreeMap<Place, String>>,
    progress: BTreeMap<Place, Progress>,
    generations: BTreeSet<i32>,
    commits: u64,
}

impl GroupOracle {
    /// A member was given these partitions in this generation.
    pub(crate) fn assigned(&mut self, generation: i32, member: &str, places: &[Place]) -> Verdict {
        self.generations.insert(generation);
        let owners = self.owners.entry(generation).or_default();
        for place in places {
            let owner = owners.entry(*place).or_insert_with(|| member.to_owned());
            if owner != member {
                return Err(format!("generation {generation}: {place:?} belongs to {owner} and to {member}"));
            }
        }
        Ok(())
    }

    /// A member is about to commit.
    pub(crate) fn committing(&mut self, place: Place, offset: i64) {
        self.progress.entry(place).or_default().attempted.insert(offset);
    }

    /// The node says that this commit is durable.
    pub(crate) fn committed(&mut self, place: Place, offset: i64) {
        let progress = self.progress.entry(place).or_default();
        progress.acknowledged = progress.acknowledged.max(offset);
        self.commits += 1;
    }

    /// What whoever asks from now on must be told at least.
    pub(crate) fn floor(&self, place: Place) -> i64 {
        self.progress.get(&place).map_or(0, |progress| progress.acknowledged)
    }

    /// A member asked, when the floor was this, and is told that offset (-1: none): what was told once is told again.
    pub(crate) fn fetched(&mut self, place: Place, floor: i64, offset: i64) -> Verdict {
        if offset.max(0) < floor {
            return Err(format!("{place:?}: committed {floor} and acknowledged, but {offset} is what the node has"));
        }
        let attempted = self.progress.get(&place).is_some_and(|progress| progress.attempted.contains(&offset));
        if offset >= 0 && !attempted {
            return Err(format!("{place:?}: nobody ever committed {offset}"));
        }
        let progress = self.progress.entry(place).or_default();
        progress.acknowledged = progress.acknowledged.max(offset);
        Ok(())
    }

    /// A member was given the record at this offset.
    pub(crate) fn delivered(&mut self, place: Place, offset: i64) -> Verdict {
        let progress = self.progress.entry(place).or_default();
        if offset > progress.delivered {
            return Err(format!("{place:?}: the group was given {offset}, but never {}", progress.delivered));
        }
        progress.delivered = progress.delivered.max(offset + 1);
        Ok(())
    }

    /// Generations in which somebody was given something, and acknowledged commits.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.generations.len() as u64, self.commits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_is_seen() {
        let place = ("t", 0);
        let mut oracle = GroupOracle::default();
        assert_eq!(oracle.assigned(1, "a", &[place]), Ok(()));
        assert_eq!(oracle.assigned(1, "a", &[place]), Ok(()));
        assert!(oracle.assigned(1, "b", &[place]).is_err(), "two owners");
        assert_eq!(oracle.assigned(2, "b", &[place]), Ok(()));
        oracle.committing(place, 5);
        assert_eq!(oracle.fetched(place, oracle.floor(place), -1), Ok(()));
        oracle.committed(place, 5);
        assert_eq!(oracle.fetched(place, oracle.floor(place), 5), Ok(()));
        assert!(oracle.fetched(place, oracle.floor(place), -1).is_err(), "forgotten");
        assert!(oracle.fetched(place, 5, 6).is_err(), "invented");
        assert_eq!(oracle.delivered(place, 0), Ok(()));
        assert_eq!(oracle.delivered(place, 0), Ok(()), "again, after a rebalance");
        assert!(oracle.delivered(place, 2).is_err(), "1 was skipped");
    }
}

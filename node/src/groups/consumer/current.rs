//! From the partitions that a member has to those that it is to have: it first gives up, and says so, then it gets. A
//! partition that another member has yet to give up is not given to it.
//!
//! ```text
//!               must give something up               has told that it did
//!   Stable ────────────────────────────> Unrevoked ───────────────────────┐
//!     ^  │  others have what it is to get                                 │
//!     │  └───────────────────────────────> Unreleased <───────────────────┤
//!     └──────────────────────────────────────┴────────────────────────────┘
//!                      it has all that it is to have
//! ```
//! Rules: KIP-848; the epoch at which each partition was given is kept as in KIP-1251. A pure function: it must not know
//! of the group beyond what it is handed.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::state::Parts;

/// Partitions by topic, each with the epoch in which the member got it.
pub(in crate::groups) type Held = BTreeMap<Uuid, BTreeMap<i32, i32>>;

/// The epoch of a member that has joined, but was not assigned to yet.
pub(in crate::groups) const JOINING: i32 = 0;
/// The epoch of a member that leaves.
pub(in crate::groups) const LEAVING: i32 = -1;
/// The epoch of a static member that leaves to come back.
pub(in crate::groups) const LEAVING_FOR_NOW: i32 = -2;

/// How far a member is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::groups) enum Progress {
    /// Has all that it is to have, as of its epoch.
    #[default]
    Stable,
    /// Is to give something up.
    Unrevoked,
    /// Waits for others to give something up.
    Unreleased,
}

/// What a member has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::groups) struct Current {
    pub(in crate::groups) epoch: i32,
    /// The one before: its answer may have been lost.
    pub(in crate::groups) previous_epoch: i32,
    pub(in crate::groups) progress: Progress,
    pub(in crate::groups) assigned: Held,
    /// What it is to give up, and may still have.
    pub(in crate::groups) revoking: Held,
}

impl Current {
    /// Whether it has all that it is to have as of this epoch.
    pub(in crate::groups) fn is_at(&self, target_epoch: i32) -> bool {
        self.progress == Progress::Stable && self.epoch == target_epoch
    }

    /// The epoch in which the member got a partition that it has, or has yet to give up.
    pub(in crate::groups) fn given_in(&self, topic: Uuid, partition: i32) -> Option<i32> {
        let of = |held: &Held| held.get(&topic)?.get(&partition).copied();
        of(&self.assigned).or_else(|| of(&self.revoking))
    }

    fn at(&self, epoch: i32, progress: Progress, assigned: Held, revoking: Held) -> Self {
        Self { epoch, previous_epoch: self.epoch, progress, assigned, revoking }
    }
}

/// What a member says that it has; `None`: as before.
pub(in crate::groups) type Owned<'a> = Option<&'a [(Uuid, Vec<i32>)]>;

/// Where a member is to go.
pub(in crate::groups) struct Aim<'a> {
    pub(in crate::groups) epoch: i32,
    pub(in crate::groups) target: &'a Parts,
    /// Whether it wants this topic.
    pub(in crate::groups) wants: &'a dyn Fn(Uuid) -> bool,
    /// Whether nobody else has this partition.
    pub(in crate::groups) is_free: &'a dyn Fn(Uuid, i32) -> bool,
    /// It wants others than before: it gives up at once what it does not want.
    pub(in crate::groups) wants_others: bool,
    pub(in crate::groups) owned: Owned<'a>,
}

/// The next step of a member; `None`: it stays as it is.
pub(in crate::groups) fn next(current: &Current, aim: &Aim<'_>) -> Option<Current> {
    let next = match current.progress {
        Progress::Stable if current.epoch != aim.epoch => advance(current, aim),
        Progress::Stable if aim.wants_others => give_up_unwanted(current, aim)?,
        Progress::Stable => return None,
        Progress::Unrevoked if still_has(&current.revoking, aim.owned) => {
            if !aim.wants_others {
                return None;
            }
            give_up_unwanted(current, aim)?
        }
        Progress::Unrevoked | Progress::Unreleased => advance(current, aim),
    };
    // The same again is no step: it would forget the epoch before.
    let same = (next.epoch, next.progress) == (current.epoch, current.progress)
        && next.assigned == current.assigned
        && next.revoking == current.revoking;
    (!same).then_some(next)
}

/// Whether the member still has some of these. One that does not say, may.
fn still_has(revoking: &Held, owned: Owned<'_>) -> bool {
    let Some(owned) = owned else { return true };
    owned.iter().any(|(topic, partitions)| {
        revoking.get(topic).is_some_and(|held| partitions.iter().any(|partition| held.contains_key(partition)))
    })
}

/// Takes away topics that the member does not want any more, without looking at the target.
fn give_up_unwanted(current: &Current, aim: &Aim<'_>) -> Option<Current> {
    let (mut assigned, mut revoking) = (Held::new(), current.revoking.clone());
    for (topic, held) in &current.assigned {
        if (aim.wants)(*topic) {
            assigned.insert(*topic, held.clone());
        } else {
            revoking.entry(*topic).or_default().extend(held);
        }
    }
    if assigned.len() == current.assigned.len() {
        return None;
    }
    if still_has(&revoking, aim.owned) {
        Some(current.at(current.epoch, Progress::Unrevoked, assigned, revoking))
    } else {
        Some(current.at(current.epoch, current.progress, assigned, current.revoking.clone()))
    }
}

/// As far towards the target as can be now.
fn advance(current: &Current, aim: &Aim<'_>) -> Current {
    let Split { kept, revoking, free, all_free } = split(current, aim);
    // It stays in its epoch until it has given up what it must.
    if !revoking.is_empty() && still_has(&revoking, aim.owned) {
        return current.at(current.epoch, Progress::Unrevoked, kept, revoking);
    }
    let mut assigned = kept;
    for (topic, partition) in free {
        assigned.entry(topic).or_default().insert(partition, aim.epoch);
    }
    let progress = if all_free { Progress::Stable } else { Progress::Unreleased };
    current.at(aim.epoch, progress, assigned, Held::new())
}

struct Split {
    kept: Held,
    revoking: Held,
    free: Vec<(Uuid, i32)>,
    /// Nothing that it is to have is with others.
    all_free: bool,
}

fn split(current: &Current, aim: &Aim<'_>) -> Split {
    let mut split = Split { kept: Held::new(), revoking: Held::new(), free: Vec::new(), all_free: true };
    let is_target = |topic: &Uuid, partition: &i32| {
        aim.target.get(topic).is_some_and(|partitions| partitions.contains(partition)) && (aim.wants)(*topic)
    };
    for (topic, held) in &current.assigned {
        for (partition, epoch) in held {
            let to = if is_target(topic, partition) { &mut split.kept } else { &mut split.revoking };
            to.entry(*topic).or_default().insert(*partition, *epoch);
        }
    }
    for (topic, partitions) in aim.target.iter().filter(|(topic, _)| (aim.wants)(**topic)) {
        for partition in partitions {
            if split.kept.get(topic).is_some_and(|kept| kept.contains_key(partition)) {
                continue;
            }
            if (aim.is_free)(*topic, *partition) {
                split.free.push((*topic, *partition));
            } else {
                split.all_free = false;
            }
        }
    }
    split
}

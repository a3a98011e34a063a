//! Moving partitions to other nodes.
//!
//! ```text
//!   replicas [1 2 3], target [4 2 3]
//!     -> replicas [4 2 3 1]  adding [4]  removing [1]     4 copies; 1 serves on
//!     -> once 4, 2 and 3 are in sync: replicas [4 2 3]    (in the same change that brings the last of them in)
//!   cancelled before that: what was added goes, what was to be removed stays
//! ```

use super::{Change, Metadata, limits, place};
use crate::partition::without;
use crate::{MetadataError, Nodes, Partition, PartitionId};

impl Metadata {
    pub(super) fn reassign(
        &mut self,
        partitions: Vec<(PartitionId, Option<Vec<i32>>)>,
        touched: &mut Vec<PartitionId>,
    ) -> Change {
        let outcomes = partitions.into_iter().map(|(id, target)| (id, self.move_one(id, target.as_deref(), touched)));
        Change::Reassigned(outcomes.collect())
    }

    fn move_one(
        &mut self,
        id: PartitionId,
        target: Option<&[i32]>,
        touched: &mut Vec<PartitionId>,
    ) -> Result<(), MetadataError> {
        let now = self.known_partition(id)?;
        let next = match target {
            Some(target) => self.begun(id, now, target)?,
            None => cancelled(id, now)?,
        };
        self.change_partition(id, touched, |p, _| *p = next);
        Ok(())
    }

    fn begun(&self, id: PartitionId, now: &Partition, target: &[i32]) -> Result<Partition, MetadataError> {
        place::check_list(&self.brokers, target)?;
        let mut next = now.clone();
        let has_data = |n: &i32| now.isr.contains(n) || now.elr.contains(n);
        // What an earlier reassignment was bringing and has not got far with is simply not brought.
        let mut removing = without(&now.replicas, target);
        removing.retain(|n| !now.adding.contains(n) || has_data(n));
        next.replicas = target.iter().chain(&removing).copied().collect();
        if next.replicas.len() > 2 * limits::MAX_REPLICAS {
            return Err(MetadataError::InvalidReplicaAssignment(format!(
                "{id} would have {} replicas while it moves; let the reassignment under way end first",
                next.replicas.len()
            )));
        }
        let is_new = |n: &i32| !now.replicas.contains(n) || now.adding.contains(n);
        next.adding = next.replicas.iter().copied().filter(is_new).collect();
        next.removing = removing;
        next.blank.extend(target.iter().copied().filter(|n| !now.replicas.contains(n)));
        Ok(next)
    }
}

fn cancelled(id: PartitionId, now: &Partition) -> Result<Partition, MetadataError> {
    if !now.is_reassigning() {
        return Err(MetadataError::NoReassignment(id));
    }
    let mut next = now.clone();
    let stays = |nodes: &Nodes| without(nodes, &now.adding);
    next.replicas = stays(&now.replicas);
    next.isr = stays(&now.isr);
    next.elr = stays(&now.elr);
    next.adding.clear();
    next.removing.clear();
    let had_data = !(now.isr.is_empty() && now.elr.is_empty());
    if next.replicas.is_empty() || (had_data && next.isr.is_empty() && next.elr.is_empty()) {
        return Err(MetadataError::InvalidRequest(format!(
            "the reassignment of {id} can't be cancelled: only replicas that it brought have all data"
        )));
    }
    Ok(next)
}

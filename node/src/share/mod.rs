//! Work queues: share groups (KIP-932), whose members take records of the same partition and acknowledge each by itself.
//!
//! ```text
//!  partition.rs  one share-partition, on the node that leads the partition: who has which records
//!  ledger/       what has become of them, durably: the share coordinator, over a partition of `__share_group_state`
//!  letter.rs     copies of what is given up
//!  kept.rs       what is kept of a record    runs.rs  the same for a run of offsets    code.rs  both as bytes
//! ```
//! Pure state machines: inputs and time handed in, effects out. They know nothing of connections, wire formats, logs or
//! clocks. Who is in a group is for [`crate::groups`] to say; who asks whom on which node, for `core::share`.
//!
//! Every change of what is kept of a record is written before it counts: an acknowledgement is answered, and a record that
//! was released is given to another, only when the coordinator's log has it.

pub(crate) mod code;
pub(crate) mod kept;
pub(crate) mod ledger;
pub(crate) mod letter;
pub(crate) mod partition;
pub(crate) mod runs;

#[cfg(test)]
pub(crate) use kept::Cause;
pub(crate) use kept::{Kept, Span};

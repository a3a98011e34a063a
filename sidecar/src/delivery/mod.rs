//! Delivery: messages of groups to the application, and its acknowledgements back to the cluster.
//!
//! [`window`] is one partition, [`group`] all partitions and receivers of one membership; both are pure. [`driver`] runs a group as one
//! task, [`registry`] finds it, [`ack_id`] is what an application hands back.
//!
//! The promise: an acknowledgement is confirmed only when the offset commit that covers it is durable at the coordinator: by its offset,
//! up to which everything is acknowledged, or by what stands beside it ([`progress`]). So nothing that was confirmed comes again,
//! whoever restarts, and nothing that was not acknowledged is skipped.

pub mod ack_id;
pub(crate) mod broadcast;
pub(crate) mod driver;
pub mod group;
pub(crate) mod message;
pub mod progress;
pub(crate) mod registry;
pub(crate) mod sink;
pub mod window;

pub(crate) use registry::Groups;

//! Bounds of replication, by name (INV-7, INV-8).

/// Bytes of one Data message before the next is begun; one batch may exceed it.
pub(super) const DATA_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes that one read for one follower asks for: the unit of fairness among the partitions of a link.
pub(super) const READ_BYTES: usize = 256 << 10;
/// Reads for one link in one turn; the rest comes in the next turn.
pub(super) const READS_PER_TURN: usize = 256;
/// Reads from disk under way for one link.
pub(super) const COLD_READS_PER_LINK: usize = 4;
/// Of so many reads for a link, one goes to the partitions that are far behind, even if live ones wait.
pub(super) const COLD_EVERY: u32 = 5;
/// Partitions subscribed to over one link.
pub(super) const MAX_SUBSCRIPTIONS_PER_LINK: usize = 500_000;
/// Subscriptions that are ahead of this node's metadata, kept until it catches up.
pub(super) const MAX_EARLY_SUBSCRIPTIONS: usize = 100_000;
/// Subscriptions sent in one turn over one link.
pub(super) const SUBSCRIPTIONS_PER_TURN: usize = 1_024;
/// Entries in one Subscribe or Progress message.
pub(super) const ENTRIES_PER_MESSAGE: usize = 1_024;
/// Led partitions looked at for lag in one turn.
pub(super) const WATCHED_PER_TURN: usize = 1_024;
/// Most credit a leader remembers for a link, in bytes: a follower that grants more is wrong.
pub(super) const MAX_CREDIT_BYTES: i64 = 1 << 30;
/// Bytes held for a link while the disk is behind, beyond its window: what was on its way when the window was used up.
pub(super) const HELD_SLACK_BYTES: usize = 128 << 20;
/// First and longest pause before a subscription is tried again, in nanoseconds.
pub(super) const RETRY_FIRST_NS: u64 = 50_000_000;
/// See [`RETRY_FIRST_NS`].
pub(super) const RETRY_MAX_NS: u64 = 1_000_000_000;
/// Pause before a read that failed is tried again, and before a refused change of the in-sync set is, in nanoseconds.
pub(super) const READ_RETRY_NS: u64 = 20_000_000;
/// How often a partition with a replica behind is looked at, at the most; nanoseconds.
pub(super) const WATCH_EVERY_NS: u64 = 1_000_000_000;

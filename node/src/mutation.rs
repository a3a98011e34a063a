//! Bugs on request: each breaks one rule that promises rest on, so that tests can show that somebody would notice.
//!
//! Outside tests, and without the feature `mutations`, nothing here costs anything: [`Mutation::active`] is `false`. With
//! it, a mutation is active in one thread, for as long as its `Enabled` lives. Never for production.

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A rule that is broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutation {
            $($(#[$doc])* $name,)*
        }

        impl Mutation {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As it is called on a command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

mutations! {
    /// A request is answered when its records are in memory (INV-1).
    AckBeforeDurable,
    /// What follows a batch that was given up with the leadership is out of order, which a producer may not be told.
    ForgetGivenUp,
    /// A coordinator of transactions refuses for good by what it knew, deposed or not.
    HastyRefusals,
    /// The group coordinator acts on records that are in memory (INV-1).
    CommitBeforeDurable,
    /// Consensus counts on what is only in memory (trap 23).
    HastyQuorum,
    /// A process does what the metadata say of an earlier process of its node: it resumes an epoch that it led (trap 20).
    ResumeEpoch,
    /// A node never doubts its authority to acknowledge (INV-4).
    NoAuthority,
    /// Authority outlasts the session that it came from (INV-4).
    LongLease,
    /// The leader of the quorum answers heartbeats though no majority stands behind it.
    LonelyController,
    /// A new leader of the quorum fences whom it has not heard, at once.
    HastyController,
    /// Readers see what is not committed (INV-2).
    ReadUncommitted,
    /// A leader counts its own end before it is durable.
    OwnEndNotDurable,
    /// A follower reports what it appended, not what is durable.
    FollowerEndNotDurable,
    /// The high watermark follows the fastest in-sync replica.
    FastestReplica,
    /// The high watermark ignores the followers.
    IgnoreFollowers,
    /// The high watermark counts the leader and whoever replicates, in sync or not: a majority of replicas.
    CountAnyReplica,
    /// A new leader takes its own end for the high watermark without waiting for its in-sync replicas.
    EstablishAtOnce,
    /// Only the proposed in-sync set counts while a change is pending.
    OnlyProposedIsr,
    /// Only the committed in-sync set counts while a change is pending.
    OnlyCommittedIsr,
    /// The high watermark advances below the minimum of in-sync replicas.
    BelowMinimum,
    /// Acknowledgements go out when a record is appended.
    ReleaseOnAppend,
    /// Waiting acknowledgements go out when leadership is lost.
    ReleaseOnLoss,
    /// A replica is proposed for the in-sync set without having caught up.
    ExpandAnyone,
    /// A leader does not compare logs.
    NoDivergenceCheck,
    /// A follower that is told to truncate goes on at its own end.
    ForgetTruncation,
    /// A follower truncates only to where the leader's log ends (before KIP-279).
    TruncateToLeadersEndOnly,
    /// A follower truncates to its high watermark (before KIP-101).
    TruncateToHighWatermark,
    /// Acknowledgements of replicated records go out without a lease.
    NoLease,
    /// Readers of committed records see all that is replicated.
    StableIsCommitted,
    /// Readers of committed records are not told what was aborted.
    NoAbortedList,
    /// Partitions are told how a transaction ends before that is committed.
    HastyMarkers,
    /// Only one partition of a transaction is told how it ends.
    OneMarker,
    /// The transaction coordinator takes any epoch of a producer.
    AnyEpoch,
    /// A new producer goes on at once with the transaction that its predecessor left open.
    NoFencing,
    /// Transactions may stay open for ever.
    NoTransactionTimeout,
    /// A partition takes a batch of a transaction that nobody added it to.
    NoVerification,
    /// Offsets that an aborted transaction committed count.
    AbortedOffsetsCount,
    /// A leader does not read message ids back from its log.
    UnreadIds,
    /// A message is told as a duplicate of one that is not committed.
    HastyDuplicates,
    /// Offsets that an open transaction may change are told as if they were stable.
    UnstableOffsets,
}

impl Mutation {
    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutation| mutation.name().eq_ignore_ascii_case(name))
    }

    /// Whether this rule is to be broken here and now.
    #[cfg(not(any(test, feature = "mutations")))]
    #[inline]
    pub(crate) const fn active(self) -> bool {
        false
    }

    /// Whether this rule is to be broken here and now.
    #[cfg(any(test, feature = "mutations"))]
    pub(crate) fn active(self) -> bool {
        enabled::ACTIVE.get() == Some(self)
    }
}

/// Whether this rule is to be broken here and now.
macro_rules! mutated {
    ($name:ident) => {
        $crate::mutation::Mutation::$name.active()
    };
}

pub(crate) use mutated;

#[cfg(any(test, feature = "mutations"))]
pub use enabled::{Enabled, enable};

#[cfg(any(test, feature = "mutations"))]
mod enabled {
    use std::cell::Cell;
    use std::marker::PhantomData;

    use super::Mutation;

    thread_local! {
        pub(super) static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// While this lives, its mutation is active in this thread.
    #[derive(Debug)]
    pub struct Enabled(PhantomData<*const ()>);

    /// Breaks a rule in this thread.
    #[must_use]
    pub fn enable(mutation: Mutation) -> Enabled {
        ACTIVE.set(Some(mutation));
        Enabled(PhantomData)
    }

    impl Drop for Enabled {
        fn drop(&mut self) {
            ACTIVE.set(None);
        }
    }
}

//! Every known mutation of the node, over many lives: which does somebody notice?

use wherry_node::mutation::Mutation;

use crate::options::Extra;
use crate::{Options, run};

/// What became of one mutation.
#[derive(Debug, Clone)]
pub struct Caught {
    /// Which.
    pub mutation: Mutation,
    /// Lives that were lived with it.
    pub lives: u64,
    /// How many of them were seen to break a promise.
    pub caught: u64,
    /// The first that was.
    pub first: Option<String>,
}

/// Lives must have the clients that a mutation is about.
fn where_it_shows(mutation: Mutation, asked: Extra) -> Extra {
    use Mutation as M;
    match mutation {
        M::UnreadIds | M::HastyDuplicates => Extra { ids: true, ..asked },
        M::HastyRefusals
        | M::HastyMarkers
        | M::OneMarker
        | M::AnyEpoch
        | M::NoFencing
        | M::NoTransactionTimeout
        | M::NoVerification
        | M::AbortedOffsetsCount
        | M::UnstableOffsets
        | M::StableIsCommitted
        | M::NoAbortedList => Extra { transactions: true, ..asked },
        M::AckBeforeDurable
        | M::ForgetGivenUp
        | M::CommitBeforeDurable
        | M::HastyQuorum
        | M::ResumeEpoch
        | M::NoAuthority
        | M::LongLease
        | M::LonelyController
        | M::HastyController
        | M::ReadUncommitted
        | M::OwnEndNotDurable
        | M::FollowerEndNotDurable
        | M::FastestReplica
        | M::IgnoreFollowers
        | M::CountAnyReplica
        | M::EstablishAtOnce
        | M::OnlyProposedIsr
        | M::OnlyCommittedIsr
        | M::BelowMinimum
        | M::ReleaseOnAppend
        | M::ReleaseOnLoss
        | M::ExpandAnyone
        | M::NoDivergenceCheck
        | M::ForgetTruncation
        | M::TruncateToLeadersEndOnly
        | M::TruncateToHighWatermark
        | M::NoLease => asked,
    }
}

/// Lives with a mutation until it was caught `enough` times.
#[must_use]
pub fn hunt(mutation: Mutation, seeds: std::ops::Range<u64>, enough: u64, options: Options) -> Caught {
    let mut caught = Caught { mutation, lives: 0, caught: 0, first: None };
    let extra = where_it_shows(mutation, options.extra);
    let options = Options { extra, ..options };
    for seed in seeds {
        caught.lives += 1;
        if let Err(violation) = run(seed, Options { mutation: Some(mutation), ..options }) {
            caught.caught += 1;
            caught.first.get_or_insert(violation.to_string());
        }
        if caught.caught >= enough {
            break;
        }
    }
    caught
}

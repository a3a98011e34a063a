//! Every known mutation of the node, over many lives: which does somebody notice?

use wherry_node::mutation::Mutation;

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

/// Lives with a mutation until it was caught `enough` times.
#[must_use]
pub fn hunt(mutation: Mutation, seeds: std::ops::Range<u64>, enough: u64, options: Options) -> Caught {
    let mut caught = Caught { mutation, lives: 0, caught: 0, first: None };
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

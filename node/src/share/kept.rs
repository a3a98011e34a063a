//! What is kept of a record that somebody was given: it outlives the node that gave it.

/// Why a record is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A consumer says that it can't be handled.
    Rejected,
    /// It was delivered as often as the group allows.
    MaxDeliveries,
}

impl Cause {
    /// As the header of a dead letter says it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::MaxDeliveries => "max-deliveries",
        }
    }
}

/// What has become of a record. Where nothing is kept it is available, and was never delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// To be delivered once more.
    Available {
        /// Deliveries until now.
        count: u16,
    },
    /// Handled.
    Acknowledged,
    /// Given up, or not there at all.
    Archived,
    /// Given up, but not before there is a copy where the group has its dead letters.
    Condemned {
        /// Deliveries.
        count: u16,
        /// Why.
        cause: Cause,
    },
}

impl Kept {
    /// Whether nobody will ever get it: the start of the share-partition may move past it.
    pub(crate) const fn is_final(self) -> bool {
        match self {
            Self::Acknowledged | Self::Archived => true,
            Self::Available { .. } | Self::Condemned { .. } => false,
        }
    }
}

/// The same for a run of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: i64,
    /// Inclusive.
    pub(crate) last: i64,
    pub(crate) kept: Kept,
}

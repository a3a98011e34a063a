//! Features (KIP-584): what the cluster as a whole can do, in levels that an administrator may raise and lower. Clients look
//! at them to know what they may use.
//!
//! Levels that mean something else in Kafka's own innards (`metadata.version`, `kraft.version`,
//! `eligible.leader.replicas.version`) have one level here, the one whose behaviour this is.

/// A feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Kafka's name.
    pub name: &'static str,
    /// Lowest level that there is.
    pub min: i16,
    /// Highest level that there is.
    pub max: i16,
    /// Level where nobody has set one.
    pub default: i16,
}

const fn feature_of(name: &'static str, min: i16, max: i16) -> Feature {
    Feature { name, min, max, default: max }
}

/// Sorted by name.
static FEATURES: &[Feature] = &[
    // In-sync replicas that fell out below the minimum may still be elected (KIP-966).
    feature_of("eligible.leader.replicas.version", 1, 1),
    // 1: the protocol of KIP-848.
    feature_of("group.version", 0, 1),
    // Voters can be added and removed (KIP-853).
    feature_of("kraft.version", 1, 1),
    // 4.1-IV1: the version whose requests are served.
    feature_of("metadata.version", 27, 27),
    // 1: share groups (KIP-932).
    feature_of("share.version", 0, 1),
    // 2: the protocol of KIP-890.
    feature_of("transaction.version", 0, 2),
];

/// All features, sorted by name.
#[must_use]
pub fn features() -> &'static [Feature] {
    FEATURES
}

/// The feature of that name.
#[must_use]
pub fn feature(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}

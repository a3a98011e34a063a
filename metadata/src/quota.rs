//! Quotas: how much users, clients and addresses may ask of a node (KIP-13, KIP-546, KIP-599, KIP-612).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::MetadataError;
use crate::state::limits;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaKey {
    /// Bytes per second that may be written.
    ProducerByteRate,
    /// Bytes per second that may be read.
    ConsumerByteRate,
    /// Percent of one thread's time.
    RequestPercentage,
    /// Changes of topics per second, in partitions.
    ControllerMutationRate,
    /// New connections per second from an address.
    ConnectionCreationRate,
}

/// All of them.
pub const QUOTA_KEYS: [QuotaKey; 5] = [
    QuotaKey::ProducerByteRate,
    QuotaKey::ConsumerByteRate,
    QuotaKey::RequestPercentage,
    QuotaKey::ControllerMutationRate,
    QuotaKey::ConnectionCreationRate,
];

impl QuotaKey {
    /// As Kafka calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProducerByteRate => "producer_byte_rate",
            Self::ConsumerByteRate => "consumer_byte_rate",
            Self::RequestPercentage => "request_percentage",
            Self::ControllerMutationRate => "controller_mutation_rate",
            Self::ConnectionCreationRate => "connection_creation_rate",
        }
    }

    /// The one that Kafka calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        QUOTA_KEYS.into_iter().find(|key| key.name() == name)
    }

    /// Whether it is for addresses, rather than for users and clients.
    #[must_use]
    pub fn is_for_addresses(self) -> bool {
        self == Self::ConnectionCreationRate
    }
}

/// A limit; finite and above zero.
#[derive(Debug, Clone, Copy)]
pub struct QuotaValue(f64);

impl QuotaValue {
    /// None for what can't be a limit.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (value.is_finite() && value > 0.0).then_some(Self(value))
    }

    /// The limit.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for QuotaValue {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for QuotaValue {}

impl fmt::Display for QuotaValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As text: it comes back to the bit.
impl Serialize for QuotaValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QuotaValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let value = f64::from_str(&text).ok().and_then(Self::new);
        value.ok_or_else(|| serde::de::Error::custom("a quota that is no number above zero"))
    }
}

/// One of a kind, or whoever has no quota of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaName {
    /// Everybody else.
    Default,
    /// That one.
    Named(String),
}

/// Whom a quota is for: a user, a client id, both together, or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaEntity {
    /// User, without its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<QuotaName>,
    /// Client id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<QuotaName>,
    /// Address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<QuotaName>,
}

/// Quotas of one entity.
pub type QuotaSet = BTreeMap<QuotaKey, QuotaValue>;

impl QuotaEntity {
    /// Refuses what nobody can be.
    ///
    /// # Errors
    /// [`MetadataError::InvalidRequest`].
    pub fn check(&self) -> Result<(), MetadataError> {
        let wrong = |why: &str| Err(MetadataError::InvalidRequest(why.into()));
        match (&self.user, &self.client_id, &self.ip) {
            (None, None, None) => return wrong("a quota is for a user, a client id, both, or an address"),
            (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                return wrong("a quota for an address can't be for a user or a client id too");
            }
            (_, _, _) => {}
        }
        let parts = [&self.user, &self.client_id, &self.ip];
        let bad = |name: &QuotaName| match name {
            QuotaName::Default => false,
            QuotaName::Named(name) => name.is_empty() || name.len() > limits::MAX_USER_NAME,
        };
        if parts.into_iter().flatten().any(bad) {
            return wrong("the name in a quota is empty or too long");
        }
        match &self.ip {
            Some(QuotaName::Named(ip)) if ip.parse::<std::net::IpAddr>().is_err() => {
                wrong("a quota for an address needs one, such as 10.0.0.1")
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether it can have such a quota.
    ///
    /// # Errors
    /// [`MetadataError::InvalidRequest`].
    pub fn check_key(&self, key: QuotaKey) -> Result<(), MetadataError> {
        if key.is_for_addresses() == self.ip.is_some() {
            return Ok(());
        }
        Err(MetadataError::InvalidRequest(format!("'{}' is not for this kind of entity", key.name())))
    }
}

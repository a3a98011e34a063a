//! Credentials of users for SCRAM: what is kept of their passwords, which is not enough to log in with.

use serde::{Deserialize, Serialize};

use crate::MetadataError;
use crate::state::limits;

/// Hash of the mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScramMechanism {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

impl ScramMechanism {
    /// Bytes of its keys.
    #[must_use]
    pub fn key_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// What is kept of a password (RFC 5802, section 3). Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScramCredential {
    /// Goes into the password before it is stretched.
    #[serde(with = "hex")]
    pub salt: Vec<u8>,
    /// How often it is.
    pub iterations: i32,
    /// `H(ClientKey)`.
    #[serde(with = "hex")]
    pub stored_key: Vec<u8>,
    /// `ServerKey`.
    #[serde(with = "hex")]
    pub server_key: Vec<u8>,
}

impl std::fmt::Debug for ScramCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScramCredential").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl ScramCredential {
    pub(crate) fn check(&self, user: &str, mechanism: ScramMechanism) -> Result<(), MetadataError> {
        let bytes = mechanism.key_bytes();
        let keys = self.stored_key.len() == bytes && self.server_key.len() == bytes;
        let salt = (1..=limits::MAX_SALT).contains(&self.salt.len());
        if user.is_empty() || user.len() > limits::MAX_USER_NAME || !keys || !salt || self.iterations < 1 {
            return Err(MetadataError::InvalidRequest("a SCRAM credential that makes no sense".into()));
        }
        Ok(())
    }
}

/// Bytes as hexadecimal text.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.ok_or_else(|| serde::de::Error::custom("bytes that are not written in hexadecimal"))
    }
}

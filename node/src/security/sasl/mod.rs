//! SASL exchanges, the node's side: a mechanism takes what the client says and answers, until it knows who that is or
//! turns it away. Without I/O; what is known of users is handed in.
//!
//! ```text
//!  Exchange::begin(mechanism) ── step(bytes) ──► Challenge ── step ──► ... ──► Success { principal } | Failure
//! ```
//! What a failure says to the client never tells whether the user exists.

pub mod oauth;
pub mod plain;
pub mod scram;

use serde::Deserialize;

use super::secrets::Secrets;
use oauth::OauthConfig;
use scram::ScramServer;
use wherry_metadata::{ScramCredential, ScramMechanism};

/// A way to authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub enum Mechanism {
    /// RFC 4616: name and password as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// RFC 7677.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// RFC 7628: a token that somebody else signed.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

/// All of them.
pub const MECHANISMS: [Mechanism; 4] =
    [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512, Mechanism::OauthBearer];

impl Mechanism {
    /// As clients call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }

    /// The one that clients call so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        MECHANISMS.into_iter().find(|mechanism| mechanism.name() == name)
    }

    /// Its hash, if it is SCRAM.
    #[must_use]
    pub fn scram(self) -> Option<ScramMechanism> {
        match self {
            Self::ScramSha256 => Some(ScramMechanism::Sha256),
            Self::ScramSha512 => Some(ScramMechanism::Sha512),
            Self::Plain | Self::OauthBearer => None,
        }
    }
}

impl std::str::FromStr for Mechanism {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || MECHANISMS.map(Self::name).join(", ");
        Self::named(&text.to_ascii_uppercase())
            .ok_or_else(|| format!("'{text}' is no mechanism; there are {}", known()))
    }
}

/// Settings of SASL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SaslConfig {
    /// What clients may use.
    pub mechanisms: Vec<Mechanism>,
    /// PLAIN without TLS: everybody on the network reads the passwords.
    pub allow_plain_without_tls: bool,
    /// File with a user in each line, `NAME:PASSWORD`, for PLAIN.
    pub plain_users: Option<std::path::PathBuf>,
    /// Whose tokens are taken, for OAUTHBEARER.
    pub oauth: Option<OauthConfig>,
    /// After so long a client has to authenticate itself again, in milliseconds (KIP-368); 0: never, unless its token ends.
    pub max_reauth_ms: u64,
}

impl Default for SaslConfig {
    fn default() -> Self {
        Self {
            mechanisms: vec![Mechanism::ScramSha256, Mechanism::ScramSha512],
            allow_plain_without_tls: false,
            plain_users: None,
            oauth: None,
            max_reauth_ms: 0,
        }
    }
}

impl SaslConfig {
    /// Refuses what can't work or is not safe; `clear`: some listener with SASL does not encrypt.
    pub(crate) fn validate(&self, clear: bool) -> Result<(), String> {
        let has = |mechanism| self.mechanisms.contains(&mechanism);
        if self.mechanisms.is_empty() {
            return Err("sasl.mechanisms is empty; nobody could authenticate".into());
        }
        if has(Mechanism::Plain) && clear && !self.allow_plain_without_tls {
            return Err(
                "sasl: PLAIN on a listener without TLS shows passwords to everybody on the network; encrypt the \
                        listener, or set sasl.allow_plain_without_tls"
                    .into(),
            );
        }
        if has(Mechanism::Plain) && self.plain_users.is_none() {
            return Err("sasl: PLAIN is offered but there are no users; set sasl.plain_users".into());
        }
        match (&self.oauth, has(Mechanism::OauthBearer)) {
            (None, true) => Err("sasl: OAUTHBEARER is offered but no tokens would be taken; set sasl.oauth".into()),
            (Some(oauth), true) => oauth.validate(),
            (Some(_) | None, false) => Ok(()),
        }
    }
}

/// What comes of a client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is to answer this.
    Challenge(Vec<u8>),
    /// It is who it says.
    Success {
        /// Its name.
        user: String,
        /// The last words to it.
        bytes: Vec<u8>,
        /// When this ends, in milliseconds of the wall clock.
        until_ms: Option<i64>,
    },
    /// It is not, or makes no sense; for the log, and in general terms for the client.
    Failure(String),
}

/// What exchanges need to know.
pub struct Known<'a> {
    /// From files.
    pub secrets: &'a Secrets,
    /// Whose tokens are taken.
    pub oauth: Option<&'a OauthConfig>,
    /// Of SCRAM, by user.
    pub scram: &'a dyn Fn(&str) -> Option<ScramCredential>,
    /// Wall clock.
    pub wall_ms: i64,
}

/// An exchange that has begun.
#[derive(Debug)]
pub enum Exchange {
    /// Its only message is waited for.
    Plain,
    /// Somewhere in it.
    Scram(Box<ScramServer>),
    /// A token is waited for, or the client's consent to its refusal.
    Oauth {
        /// Why it was refused.
        refused: Option<String>,
    },
}

impl Exchange {
    /// Of that mechanism; `nonce` is random, and nobody's yet.
    #[must_use]
    pub fn begin(mechanism: Mechanism, nonce: String) -> Self {
        match mechanism {
            Mechanism::Plain => Self::Plain,
            Mechanism::ScramSha256 => Self::Scram(Box::new(ScramServer::new(ScramMechanism::Sha256, nonce))),
            Mechanism::ScramSha512 => Self::Scram(Box::new(ScramServer::new(ScramMechanism::Sha512, nonce))),
            Mechanism::OauthBearer => Self::Oauth { refused: None },
        }
    }

    /// Takes a client's message.
    pub fn step(&mut self, message: &[u8], known: &Known<'_>) -> Step {
        match self {
            Self::Plain => plain::step(message, known.secrets),
            Self::Scram(scram) => scram.step(message, known),
            Self::Oauth { refused: Some(why) } => Step::Failure(std::mem::take(why)),
            Self::Oauth { refused } => match oauth::step(message, known) {
                Ok(success) => success,
                Err(oauth::Refusal::Malformed(why)) => Step::Failure(why),
                Err(oauth::Refusal::Token(why)) => {
                    // RFC 7628, 3.2.2: the client hears of it in a challenge, and answers that with one byte.
                    *refused = Some(why);
                    Step::Challenge(br#"{"status":"invalid_token"}"#.to_vec())
                }
            },
        }
    }
}

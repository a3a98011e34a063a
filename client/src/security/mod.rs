//! How a client proves who it is, and whom it believes. It knows files and mechanisms, not the protocol around them.

mod scram;
mod tls;

use std::path::PathBuf;

use bytes::Bytes;

use scram::ScramClient;
pub(crate) use tls::connector;

/// Of every connection; by default neither encrypted nor authenticated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// Encrypt, and check who answers.
    pub tls: Option<TlsConfig>,
    /// Say who this is.
    pub sasl: Option<SaslConfig>,
}

/// Files are read for each connection: what is renewed in them is used without a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file of the authorities that brokers' certificates are trusted by; those of the system if there is none.
    pub ca: Option<PathBuf>,
    /// PEM files of this client's certificate, with those of its issuers behind it, and of its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// How to authenticate.
#[derive(Clone, PartialEq, Eq)]
pub enum SaslConfig {
    /// Name and password as they are: over TLS only, or everybody on the network reads them.
    Plain {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// The password is not shown, and the broker has to know it too.
    Scram {
        /// Hash function.
        hash: ScramHash,
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token from a file, which somebody else renews.
    OauthBearer {
        /// Read for each authentication.
        token_file: PathBuf,
    },
}

/// Hash function of SCRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramHash {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

impl std::fmt::Debug for SaslConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SaslConfig").field("mechanism", &self.mechanism()).finish_non_exhaustive()
    }
}

impl SecurityConfig {
    /// Refuses what can't work or is not safe.
    pub(crate) fn check(&self) -> Result<(), String> {
        if matches!(self.sasl, Some(SaslConfig::Plain { .. })) && self.tls.is_none() {
            return Err("security.sasl is PLAIN without TLS: everybody on the network could read the password; set \
                        security.tls, or use SCRAM"
                .into());
        }
        Ok(())
    }
}

impl SaslConfig {
    /// As brokers call it.
    #[must_use]
    pub fn mechanism(&self) -> &'static str {
        match self {
            Self::Plain { .. } => "PLAIN",
            Self::Scram { hash: ScramHash::Sha256, .. } => "SCRAM-SHA-256",
            Self::Scram { hash: ScramHash::Sha512, .. } => "SCRAM-SHA-512",
            Self::OauthBearer { .. } => "OAUTHBEARER",
        }
    }

    /// Begins an exchange.
    pub(crate) async fn begin(&self) -> Result<Exchange, String> {
        Ok(match self {
            Self::Plain { user, password } => Exchange::Once(format!("\0{user}\0{password}")),
            Self::Scram { hash, user, password } => {
                Exchange::Scram(Box::new(ScramClient::new(*hash, user, password, scram::nonce()?)))
            }
            Self::OauthBearer { token_file } => {
                let token = tokio::fs::read_to_string(token_file).await;
                let token = token.map_err(|error| format!("{}: {error}", token_file.display()))?;
                Exchange::Once(format!("n,,\x01auth=Bearer {}\x01\x01", token.trim()))
            }
        })
    }
}

/// An exchange under way.
pub(crate) enum Exchange {
    /// One message says everything; whatever is answered is the end of it.
    Once(String),
    /// That message was sent.
    Sent,
    Scram(Box<ScramClient>),
}

impl Exchange {
    /// What to say first.
    pub(crate) fn first(&mut self) -> Bytes {
        match self {
            Self::Once(message) => {
                let message = std::mem::take(message);
                *self = Self::Sent;
                message.into()
            }
            Self::Sent => Bytes::new(),
            Self::Scram(scram) => scram.first().into(),
        }
    }

    /// Takes the broker's answer; gives what to say next, or nothing at the end.
    pub(crate) fn next(&mut self, answer: &[u8]) -> Result<Option<Bytes>, String> {
        match self {
            // OAUTHBEARER tells of a refusal so, and wants one byte before it fails in earnest.
            Self::Once(_) | Self::Sent if !answer.is_empty() => Ok(Some(Bytes::from_static(b"\x01"))),
            Self::Once(_) | Self::Sent => Ok(None),
            Self::Scram(scram) => scram.next(answer).map(|next| next.map(Bytes::from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown_nor_sent_in_the_open() {
        let sasl = SaslConfig::Plain { user: "u".into(), password: "secret".into() };
        assert!(!format!("{sasl:?}").contains("secret"));
        let mut config = SecurityConfig { tls: None, sasl: Some(sasl) };
        assert!(config.check().unwrap_err().contains("TLS"));
        config.tls = Some(TlsConfig::default());
        assert_eq!(config.check(), Ok(()));
    }

    #[tokio::test]
    async fn one_message_says_who_it_is() {
        let mut exchange = SaslConfig::Plain { user: "u".into(), password: "p".into() }.begin().await.unwrap();
        assert_eq!(exchange.first(), &b"\0u\0p"[..]);
        assert_eq!(exchange.next(b""), Ok(None));
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        assert!(SaslConfig::OauthBearer { token_file: token_file.clone() }.begin().await.is_err());
        std::fs::write(&token_file, "t.o.k\n").unwrap();
        let mut exchange = SaslConfig::OauthBearer { token_file }.begin().await.unwrap();
        assert_eq!(exchange.first(), &b"n,,\x01auth=Bearer t.o.k\x01\x01"[..]);
        assert_eq!(exchange.next(b"{}"), Ok(Some(Bytes::from_static(b"\x01"))));
    }
}

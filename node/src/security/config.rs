//! Settings of listeners and of what secures them.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::config::Advertised;

/// What protects a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Protocol {
    /// Nothing: everybody on the network reads along, and everybody is `User:ANONYMOUS`.
    #[default]
    Plaintext,
    /// TLS; clients are known by their certificates, if they have any.
    #[serde(alias = "SSL")]
    Tls,
    /// Clients authenticate themselves, and everybody on the network reads along.
    SaslPlaintext,
    /// TLS, and clients authenticate themselves in it.
    #[serde(alias = "SASL_SSL")]
    SaslTls,
}

impl Protocol {
    /// Whether it encrypts.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::SaslTls)
    }

    /// Whether clients have to authenticate themselves.
    #[must_use]
    pub fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslTls)
    }

    /// As settings and Kafka call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Tls => "TLS",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslTls => "SASL_TLS",
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().replace('-', "_").as_str() {
            "PLAINTEXT" => Ok(Self::Plaintext),
            "TLS" | "SSL" => Ok(Self::Tls),
            "SASL_PLAINTEXT" => Ok(Self::SaslPlaintext),
            "SASL_TLS" | "SASL_SSL" => Ok(Self::SaslTls),
            _ => Err(format!("'{text}' is no protocol; write plaintext, tls, sasl-plaintext or sasl-tls")),
        }
    }
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Its name: clients that came by it are sent to the addresses of the same name on other nodes.
    pub name: String,
    /// Address that it serves; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where clients are told to connect; `listen` if it is a concrete address.
    #[serde(default)]
    pub advertised: Option<Advertised>,
    /// What protects it.
    #[serde(default)]
    pub protocol: Protocol,
    /// Certificates of its own, in place of the node's.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
}

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    None,
    /// They are asked; who has none is `User:ANONYMOUS`.
    Requested,
    /// Who has none is turned away.
    Required,
}

/// Certificates. The files are looked at again every few seconds: new ones are used without a restart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the node's certificate, followed by those of its issuers.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// PEM file of the authorities whose certificates are trusted: of clients, and of the nodes that this one dials.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Whether clients show a certificate.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// How nodes prove to each other that they are of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LinkAuth {
    /// By their certificates, which must have been issued by `tls.ca` and name the node:
    /// `wherry://CLUSTER_ID/node/NODE_ID` as a subject alternative name; or, where `principals` has any, one of these.
    Certificates {
        /// Names of nodes as principals (`User:CN=...`); a `*` at the end stands for any rest.
        #[serde(default)]
        principals: Vec<String>,
    },
    /// By a secret that all of them have.
    Secret {
        /// File that holds it, 16 bytes at least.
        file: PathBuf,
    },
}

/// Characters of a listener's name.
const MAX_NAME: usize = 64;

impl ListenerConfig {
    /// Refuses what can't work.
    pub(crate) fn validate(&self, node_tls: Option<&TlsConfig>) -> Result<(), String> {
        let name = &self.name;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
            return Err(format!("listener '{name}': a name has 1 to {MAX_NAME} letters, digits, '-', '_' or '.'"));
        }
        match &self.advertised {
            None if self.listen.ip().is_unspecified() => {
                return Err(format!(
                    "listener '{name}': {} is every address of this machine, so clients can't be told where to connect; \
                     set advertised",
                    self.listen
                ));
            }
            Some(advertised) if advertised.host.is_empty() || advertised.host.len() > 255 => {
                return Err(format!("listener '{name}': advertised.host must have 1 to 255 characters"));
            }
            Some(_) | None => {}
        }
        let tls = self.tls.as_ref().or(node_tls);
        match (self.protocol.is_encrypted(), tls) {
            (true, None) => Err(format!("listener '{name}' is encrypted but there is no certificate; set tls")),
            (true, Some(tls)) => tls.validate().map_err(|why| format!("listener '{name}': {why}")),
            (false, _) if self.tls.is_some() => {
                Err(format!("listener '{name}' has certificates but its protocol is {}", self.protocol.name()))
            }
            (false, _) => Ok(()),
        }
    }

    /// Where clients connect, given the address that was really bound.
    #[must_use]
    pub fn advertised_at(&self, bound: SocketAddr) -> Advertised {
        match &self.advertised {
            Some(advertised) if advertised.port != 0 => advertised.clone(),
            Some(advertised) => Advertised { host: advertised.host.clone(), port: bound.port() },
            None => Advertised { host: bound.ip().to_canonical().to_string(), port: bound.port() },
        }
    }
}

impl TlsConfig {
    fn validate(&self) -> Result<(), String> {
        if self.client_auth != ClientAuth::None && self.ca.is_none() {
            return Err("clients are asked for certificates but no authority is trusted; set tls.ca".into());
        }
        Ok(())
    }
}

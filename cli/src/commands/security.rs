//! Arguments of `wherry node` about listeners and what secures them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use wherry_node::NodeConfig;
use wherry_node::config::Advertised;
use wherry_node::security::authorizer::AuthorizationConfig;
use wherry_node::security::config::{ClientAuth, LinkAuth, ListenerConfig, Protocol, TlsConfig};
use wherry_node::security::sasl::oauth::OauthConfig;
use wherry_node::security::sasl::{Mechanism, SaslConfig};

use super::node::advertised;
use crate::text;

/// `[NAME=][PROTOCOL://]ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    name: Option<String>,
    protocol: Protocol,
    address: SocketAddr,
}

/// `[NAME=]HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advertise {
    name: Option<String>,
    at: Advertised,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClientAuthArg {
    None,
    Requested,
    Required,
}

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct SecurityArgs {
    /// Address to serve: NAME=PROTOCOL://ADDRESS, of which name and protocol may be left out, with the protocols plaintext,
    /// tls, sasl-plaintext and sasl-tls; port 0 takes a free one. Several times for several listeners
    #[arg(long, value_name = "[NAME=][PROTOCOL://]ADDRESS", value_parser = listen, default_value = "127.0.0.1:9092")]
    listen: Vec<Listen>,
    /// Where clients are told to connect, as [NAME=]HOST:PORT; needed where a listener is every address
    #[arg(long, value_name = "[NAME=]HOST:PORT", value_parser = advertise)]
    advertise: Vec<Advertise>,
    /// The listener that other nodes connect to; the first one if there is none
    #[arg(long, value_name = "NAME")]
    internal_listener: Option<String>,
    /// PEM file with this node's certificate, and those of its issuers behind it; looked at again every few seconds
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// PEM file with the authorities that clients' and other nodes' certificates are trusted by
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Whether clients are asked for a certificate
    #[arg(long, value_enum, default_value_t = ClientAuthArg::None)]
    tls_client_auth: ClientAuthArg,
    /// How clients may authenticate themselves: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER
    #[arg(long, value_name = "MECHANISM", value_delimiter = ',', default_value = "SCRAM-SHA-256,SCRAM-SHA-512")]
    sasl_mechanisms: Vec<Mechanism>,
    /// File with NAME:PASSWORD in each line, for PLAIN; looked at again every few seconds
    #[arg(long, value_name = "FILE")]
    sasl_plain_users: Option<PathBuf>,
    /// Take passwords over connections that everybody on the network can read
    #[arg(long)]
    sasl_allow_plain_without_tls: bool,
    /// After so long a client has to authenticate itself again; 0s: never, unless its token ends
    #[arg(long, value_parser = text::duration, value_name = "DURATION", default_value = "0s")]
    sasl_max_reauth: Duration,
    /// File with the public keys of whoever issues tokens, for OAUTHBEARER: a JSON Web Key Set, or one key in PEM
    #[arg(long, value_name = "FILE")]
    oauth_keys: Option<PathBuf>,
    /// Who must have issued a token
    #[arg(long, value_name = "ISSUER")]
    oauth_issuer: Option<String>,
    /// For whom a token must be: one of these
    #[arg(long, value_name = "AUDIENCE")]
    oauth_audience: Vec<String>,
    /// Claim of a token that names the user
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    oauth_principal_claim: String,
    /// Take tokens that nobody has signed: for tests only
    #[arg(long)]
    oauth_allow_unsecured: bool,
    /// Let callers do only what ACLs allow
    #[arg(long)]
    authorize: bool,
    /// A principal that may do everything, such as User:admin
    #[arg(long, value_name = "PRINCIPAL", requires = "authorize")]
    super_user: Vec<String>,
    /// Let everybody do everything with what no ACL is about
    #[arg(long, requires = "authorize")]
    allow_everyone_if_no_acl_found: bool,
    /// File with a secret that all nodes of the cluster have and prove to each other
    #[arg(long, value_name = "FILE", conflicts_with = "link_certificates")]
    link_secret: Option<PathBuf>,
    /// Have nodes know each other by certificates that name wherry://CLUSTER_ID/node/NODE_ID
    #[arg(long)]
    link_certificates: bool,
    /// Principals of nodes, in place of that name; a * at the end stands for any rest
    #[arg(long, value_name = "PRINCIPAL", requires = "link_certificates")]
    link_principal: Vec<String>,
}

fn named(text: &str) -> (Option<String>, &str) {
    match text.split_once('=') {
        Some((name, rest)) => (Some(name.to_owned()), rest),
        None => (None, text),
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    let (name, rest) = named(text);
    let (protocol, address) = match rest.split_once("://") {
        Some((protocol, address)) => (protocol.parse()?, address),
        None => (Protocol::Plaintext, rest),
    };
    let address = address.parse().map_err(|_| format!("'{address}' is no address such as 127.0.0.1:9092"))?;
    Ok(Listen { name, protocol, address })
}

fn advertise(text: &str) -> Result<Advertise, String> {
    let (name, at) = named(text);
    Ok(Advertise { name, at: advertised(at)? })
}

impl SecurityArgs {
    /// Puts them into the settings.
    pub(crate) fn apply(self, config: &mut NodeConfig) -> Result<()> {
        let tls = self.tls();
        let sasl = self.sasl();
        let guarded = self.listen.iter().any(|listen| listen.protocol.has_sasl());
        config.tls = tls;
        config.sasl = guarded.then_some(sasl);
        config.authorization = self.authorize.then(|| AuthorizationConfig {
            super_users: self.super_user.clone(),
            allow_everyone_if_no_acl_found: self.allow_everyone_if_no_acl_found,
        });
        let link = self.link();
        match (&mut config.cluster, link) {
            (Some(cluster), link) => cluster.authentication = link,
            (None, Some(_)) => bail!("this node has no other nodes to authenticate; set --voters or --seeds"),
            (None, None) => {}
        }
        config.internal_listener = self.internal_listener.clone();
        self.listeners(config)
    }

    fn listeners(self, config: &mut NodeConfig) -> Result<()> {
        let mut advertised = self.advertise;
        if let ([Listen { name: None, protocol: Protocol::Plaintext, address }], [] | [Advertise { name: None, .. }]) =
            (self.listen.as_slice(), advertised.as_slice())
        {
            config.listen = *address;
            config.advertised = advertised.pop().map(|advertise| advertise.at);
            return Ok(());
        }
        for Listen { name, protocol, address } in self.listen {
            let name = name.unwrap_or_else(|| protocol.name().to_owned());
            let at = advertised.iter().position(|a| a.name.as_ref().is_none_or(|wanted| *wanted == name));
            let advertised = at.map(|at| advertised.remove(at).at);
            config.listeners.push(ListenerConfig { name, listen: address, advertised, protocol, tls: None });
        }
        match advertised.first() {
            Some(Advertise { name, .. }) => {
                bail!("--advertise {} is for no listener", name.as_deref().unwrap_or_default())
            }
            None => Ok(()),
        }
    }

    fn tls(&self) -> Option<TlsConfig> {
        let client_auth = match self.tls_client_auth {
            ClientAuthArg::None => ClientAuth::None,
            ClientAuthArg::Requested => ClientAuth::Requested,
            ClientAuthArg::Required => ClientAuth::Required,
        };
        let (certificate, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(TlsConfig { certificate, key, ca: self.tls_ca.clone(), client_auth })
    }

    fn sasl(&self) -> SaslConfig {
        let oauth = self.sasl_mechanisms.contains(&Mechanism::OauthBearer).then(|| OauthConfig {
            keys: self.oauth_keys.clone(),
            issuer: self.oauth_issuer.clone(),
            audience: self.oauth_audience.clone(),
            principal_claim: self.oauth_principal_claim.clone(),
            allow_unsecured: self.oauth_allow_unsecured,
            ..OauthConfig::default()
        });
        SaslConfig {
            mechanisms: self.sasl_mechanisms.clone(),
            allow_plain_without_tls: self.sasl_allow_plain_without_tls,
            plain_users: self.sasl_plain_users.clone(),
            oauth,
            max_reauth_ms: u64::try_from(self.sasl_max_reauth.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn link(&self) -> Option<LinkAuth> {
        let secret = self.link_secret.clone().map(|file| LinkAuth::Secret { file });
        let principals = self.link_principal.clone();
        secret.or(self.link_certificates.then_some(LinkAuth::Certificates { principals }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        security: SecurityArgs,
    }

    fn config(arguments: &[&str]) -> Result<NodeConfig> {
        let cli = Cli::try_parse_from([&["wherry"], arguments].concat())?;
        let mut config = NodeConfig::default();
        cli.security.apply(&mut config)?;
        config.validate().map_err(anyhow::Error::msg)?;
        Ok(config)
    }

    #[test]
    fn a_plain_listener_is_as_it_always_was() {
        assert_eq!(config(&[]).unwrap(), NodeConfig::default());
        let one = config(&["--listen", "0.0.0.0:1", "--advertise", "a.b:2"]).unwrap();
        assert_eq!((one.listen.port(), one.advertised.map(|at| at.port), one.listeners.len()), (1, Some(2), 0));
    }

    #[test]
    fn listeners_have_names_protocols_and_addresses() {
        let tls = ["--tls-cert", "c", "--tls-key", "k"];
        let listeners = ["--listen", "in=plaintext://127.0.0.1:1", "--listen", "out=sasl-tls://0.0.0.0:2"];
        let at = ["--advertise", "out=a.b:3", "--internal-listener", "in"];
        let config = config(&[&listeners[..], &tls[..], &at[..]].concat()).unwrap();
        assert_eq!(config.internal_listener.as_deref(), Some("in"));
        assert_eq!(config.listeners[1].protocol, Protocol::SaslTls);
        assert_eq!(config.listeners[1].advertised, Some(Advertised { host: "a.b".into(), port: 3 }));
        assert!(config.sasl.is_some() && config.authorization.is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            &["--listen", "x://127.0.0.1:1"][..],
            &["--listen", "tls://127.0.0.1:1"],
            &["--listen", "here"],
            &["--listen", "127.0.0.1:1", "--advertise", "other=a:1"],
            &["--tls-cert", "c"],
            &["--super-user", "User:a"],
            &["--authorize", "--super-user", "a"],
            &["--link-secret", "f"],
            &["--listen", "sasl-plaintext://127.0.0.1:1", "--sasl-mechanisms", "PLAIN", "--sasl-plain-users", "f"],
            &["--sasl-mechanisms", "GSSAPI"],
        ] {
            assert!(config(bad).is_err(), "{bad:?}");
        }
    }
}

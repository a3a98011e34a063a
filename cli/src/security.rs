//! Flags that say how to prove who this is, and whom to believe.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use wherry_client::{SaslConfig, ScramHash, SecurityConfig, TlsConfig};

/// How to authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MechanismArg {
    Plain,
    #[value(name = "scram-sha-256")]
    ScramSha256,
    #[value(name = "scram-sha-512")]
    ScramSha512,
    Oauthbearer,
}

/// See the module.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct ClientSecurityArgs {
    /// Encrypt connections to nodes
    #[arg(long, env = "WHERRY_TLS")]
    tls: bool,
    /// PEM file of the authorities that nodes' certificates are trusted by; those of the system if there is none
    #[arg(long, value_name = "FILE", env = "WHERRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// PEM file of this client's certificate
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "WHERRY_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "WHERRY_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Authenticate this way
    #[arg(long, value_enum, ignore_case = true, value_name = "MECHANISM", env = "WHERRY_SASL")]
    sasl: Option<MechanismArg>,
    /// Name of the user
    #[arg(long, value_name = "NAME", env = "WHERRY_USER")]
    user: Option<String>,
    /// File with the password in its first line
    #[arg(long, value_name = "FILE", env = "WHERRY_PASSWORD_FILE")]
    password_file: Option<PathBuf>,
    /// File with the token, for oauthbearer; read again for each connection
    #[arg(long, value_name = "FILE", env = "WHERRY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl ClientSecurityArgs {
    pub(crate) fn config(&self) -> Result<SecurityConfig> {
        let certificate = self.tls_cert.clone().zip(self.tls_key.clone());
        let wanted = self.tls || self.tls_ca.is_some() || certificate.is_some();
        let tls = wanted.then(|| TlsConfig { ca: self.tls_ca.clone(), certificate });
        let Some(mechanism) = self.sasl else {
            ensure!(
                self.user.is_none() && self.password_file.is_none() && self.token_file.is_none(),
                "--user, --password-file and --token-file say who this is, but not how to prove it; add --sasl MECHANISM"
            );
            return Ok(SecurityConfig { tls, sasl: None });
        };
        let sasl = match mechanism {
            MechanismArg::Oauthbearer => match self.token_file.clone() {
                Some(token_file) => SaslConfig::OauthBearer { token_file },
                None => bail!("--sasl oauthbearer needs --token-file"),
            },
            MechanismArg::Plain => {
                let (user, password) = self.password()?;
                SaslConfig::Plain { user, password }
            }
            MechanismArg::ScramSha256 => {
                let (user, password) = self.password()?;
                SaslConfig::Scram { hash: ScramHash::Sha256, user, password }
            }
            MechanismArg::ScramSha512 => {
                let (user, password) = self.password()?;
                SaslConfig::Scram { hash: ScramHash::Sha512, user, password }
            }
        };
        Ok(SecurityConfig { tls, sasl: Some(sasl) })
    }

    fn password(&self) -> Result<(String, String)> {
        let (Some(user), Some(file)) = (&self.user, &self.password_file) else {
            bail!("passwords need --user and --password-file");
        };
        let text = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
        let password = text.lines().next().unwrap_or_default().to_owned();
        ensure!(!password.is_empty(), "{} holds no password in its first line", file.display());
        Ok((user.clone(), password))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_make_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, "secret\nmore\n").unwrap();
        let none = ClientSecurityArgs::default();
        assert_eq!(none.config().unwrap(), SecurityConfig::default());
        let scram = ClientSecurityArgs {
            tls_ca: Some("ca".into()),
            sasl: Some(MechanismArg::ScramSha512),
            user: Some("u".into()),
            password_file: Some(password_file.clone()),
            ..none.clone()
        };
        let config = scram.config().unwrap();
        assert!(config.tls.is_some());
        let (hash, user, password) = (ScramHash::Sha512, "u".into(), "secret".into());
        assert_eq!(config.sasl, Some(SaslConfig::Scram { hash, user, password }));
        for bad in [
            ClientSecurityArgs { sasl: None, ..scram.clone() },
            ClientSecurityArgs { user: None, ..scram.clone() },
            ClientSecurityArgs { password_file: Some("nowhere".into()), ..scram.clone() },
            ClientSecurityArgs { sasl: Some(MechanismArg::Oauthbearer), ..scram.clone() },
        ] {
            assert!(bad.config().is_err(), "{bad:?}");
        }
    }
}

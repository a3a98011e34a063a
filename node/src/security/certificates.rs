//! Certificates from files, for whoever secures connections with them, and again when the files change.
//!
//! ```text
//!  files ── read, compare ──► the same: nothing      ── new, good ──► replace, for connections from now on
//!                                                    ── new, bad  ──► say so once, keep the old
//! ```
//! Contents are compared, not times: what mounts secrets swaps links and keeps times.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::config::{ClientAuth, TlsConfig};
use crate::limits::MAX_SECRET_FILE_BYTES;
use crate::net::tls::{ClientTls, ServerTls};

/// How often files are looked at.
pub const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What the files of a [`TlsConfig`] hold.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

/// Certificates of one setting, in use.
pub struct Certificates {
    config: TlsConfig,
    seen: Contents,
    server: Arc<ServerTls>,
    client: Option<Arc<ClientTls>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the files. `dials`: other nodes are called with them too.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn load(config: &TlsConfig, dials: bool) -> Result<Self, String> {
        let seen = Contents::read(config)?;
        let server = Arc::new(ServerTls::new(seen.server(config)?));
        let client = if dials { Some(Arc::new(ClientTls::new(seen.client(config)?))) } else { None };
        Ok(Self { config: config.clone(), seen, server, client })
    }

    /// For accepted connections.
    #[must_use]
    pub fn server(&self) -> Arc<ServerTls> {
        Arc::clone(&self.server)
    }

    /// For dialled connections.
    #[must_use]
    pub fn client(&self) -> Option<Arc<ClientTls>> {
        self.client.clone()
    }

    /// Looks at the files again: whether something new is in use, or why what is new is not used. Says the same only once.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn refresh(&mut self) -> Result<bool, String> {
        let now = match Contents::read(&self.config) {
            Ok(now) if now == self.seen => return Ok(false),
            Ok(now) => now,
            Err(why) => return Err(why),
        };
        self.seen = now;
        let server = self.seen.server(&self.config)?;
        if let Some(client) = &self.client {
            client.replace(self.seen.client(&self.config)?);
        }
        self.server.replace(server);
        Ok(true)
    }
}

impl Contents {
    fn read(config: &TlsConfig) -> Result<Self, String> {
        let ca = config.ca.as_deref().map(read_bounded).transpose()?;
        Ok(Self { certificate: read_bounded(&config.certificate)?, key: read_bounded(&config.key)?, ca })
    }

    fn chain(&self, config: &TlsConfig) -> Result<Vec<CertificateDer<'static>>, String> {
        certificates(&self.certificate, &config.certificate)
    }

    fn private_key(&self, config: &TlsConfig) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| format!("{}: no private key in PEM: {error}", config.key.display()))
    }

    fn roots(&self, config: &TlsConfig) -> Result<Arc<RootCertStore>, String> {
        let (Some(ca), Some(path)) = (&self.ca, &config.ca) else {
            return Err("no authority is trusted; set tls.ca".into());
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca, path)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(Arc::new(roots))
    }

    fn server(&self, config: &TlsConfig) -> Result<Arc<ServerConfig>, String> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let verifier = |roots| WebPkiClientVerifier::builder_with_provider(roots, provider());
        let builder = match config.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::Requested => {
                let verifier = verifier(self.roots(config)?).allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
            }
            ClientAuth::Required => {
                let verifier = verifier(self.roots(config)?).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
            }
        };
        let made = builder.with_single_cert(self.chain(config)?, self.private_key(config)?);
        made.map(Arc::new).map_err(|error| unfit(config, &error))
    }

    fn client(&self, config: &TlsConfig) -> Result<Arc<ClientConfig>, String> {
        let made = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.roots(config)?)
            .with_client_auth_cert(self.chain(config)?, self.private_key(config)?);
        made.map(Arc::new).map_err(|error| unfit(config, &error))
    }
}

fn unfit(config: &TlsConfig, error: &rustls::Error) -> String {
    format!("{} with {}: {error}", config.certificate.display(), config.key.display())
}

/// The cryptography that everything here computes with.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(format!("{}: it holds no certificate in PEM", path.display())),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("{}: no certificate in PEM: {error}", path.display())),
    }
}

/// A small file; one that is larger is refused before it is in memory.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_SECRET_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_SECRET_FILE_BYTES {
        return Err(format!("{}: it has more than {MAX_SECRET_FILE_BYTES} bytes", path.display()));
    }
    Ok(bytes)
}

/// Something that is made of files and can be made anew.
pub trait Refresh: Send {
    /// What it is, for the log.
    fn name(&self) -> String;

    /// Looks at the files again; true if something new is in use.
    ///
    /// # Errors
    /// Why what is new is not used.
    fn refresh(&mut self) -> Result<bool, String>;
}

impl Refresh for Certificates {
    fn name(&self) -> String {
        format!("certificate {}", self.config.certificate.display())
    }

    fn refresh(&mut self) -> Result<bool, String> {
        Certificates::refresh(self)
    }
}

/// Looks at files again and again, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Watcher(#[expect(dead_code, reason = "its end is the signal")] Sender<()>);

impl Watcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(mut watched: Vec<Box<dyn Refresh>>, every: Duration) -> std::io::Result<Self> {
        let (alive, ended) = channel();
        let mut said: Vec<Option<String>> = watched.iter().map(|_| None).collect();
        std::thread::Builder::new().name("wherry-files".into()).spawn(move || {
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                for (watched, said) in watched.iter_mut().zip(&mut said) {
                    look(watched.as_mut(), said);
                }
            }
        })?;
        Ok(Self(alive))
    }
}

fn look(watched: &mut dyn Refresh, said: &mut Option<String>) {
    match watched.refresh() {
        Ok(true) => {
            *said = None;
            tracing::info!(what = watched.name(), "a file has changed; what is new in it is used from now on");
        }
        Ok(false) => {}
        Err(why) if said.as_ref() == Some(&why) => {}
        Err(why) => {
            tracing::error!(what = watched.name(), %why, "a file has changed for the worse; the old one stays in use");
            *said = Some(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_certificates::Authority;
    use super::*;

    fn refusal(config: &TlsConfig) -> String {
        Certificates::load(config, true).unwrap_err()
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let authority = Authority::new();
        authority.issue("node", None);
        authority.issue("other", None);
        let good = authority.tls("node", ClientAuth::Required);
        let rubbish = authority.path("rubbish");
        std::fs::write(&rubbish, "rubbish").unwrap();
        std::fs::write(authority.path("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
        for (bad, word) in [
            (TlsConfig { certificate: authority.path("nowhere"), ..good.clone() }, "nowhere"),
            (TlsConfig { certificate: rubbish.clone(), ..good.clone() }, "rubbish"),
            (TlsConfig { key: rubbish.clone(), ..good.clone() }, "rubbish"),
            (TlsConfig { ca: Some(rubbish), ..good.clone() }, "rubbish"),
            (TlsConfig { key: authority.path("other.key"), ..good.clone() }, "other.key"),
            (TlsConfig { ca: Some(authority.path("large")), ..good.clone() }, "more than"),
            (TlsConfig { ca: None, ..good.clone() }, "tls.ca"),
        ] {
            let sentence = refusal(&bad);
            assert!(sentence.contains(word), "{sentence}");
        }
        assert!(Certificates::load(&good, true).is_ok());
    }

    #[test]
    fn files_are_used_anew_when_they_changed_and_are_good() {
        let authority = Authority::new();
        authority.issue("node", None);
        authority.issue("next", None);
        let config = authority.tls("node", ClientAuth::None);
        let mut certificates = Certificates::load(&config, false).unwrap();
        let current = |c: &Certificates| Arc::as_ptr(&c.server.current());
        let first = current(&certificates);
        assert_eq!(certificates.refresh(), Ok(false));
        std::fs::copy(authority.path("next.pem"), &config.certificate).unwrap();
        assert!(certificates.refresh().unwrap_err().contains("node.pem"), "the key is still the old one");
        assert_eq!(certificates.refresh(), Ok(false), "said once");
        assert_eq!(current(&certificates), first);
        std::fs::copy(authority.path("next.key"), &config.key).unwrap();
        assert_eq!(certificates.refresh(), Ok(true));
        let second = current(&certificates);
        assert_ne!(second, first);
        std::fs::remove_file(&config.key).unwrap();
        assert!(certificates.refresh().is_err());
        assert_eq!(current(&certificates), second);
    }
}

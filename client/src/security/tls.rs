//! What TLS connections are made with.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::TlsConfig;

/// Reads the files.
pub(crate) async fn connector(config: &TlsConfig) -> io::Result<TlsConnector> {
    let roots = match &config.ca {
        Some(ca) => roots(ca).await?,
        None => system_roots()?,
    };
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let made = match &config.certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let pem = read(key).await?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| wrong(key, &e))?;
            let chain = certificates(certificate).await?;
            builder.with_client_auth_cert(chain, key).map_err(|e| wrong(certificate, &e))?
        }
    };
    Ok(TlsConnector::from(Arc::new(made)))
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|e| wrong(path, &e))
}

fn wrong(path: &Path, why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {why}", path.display()))
}

async fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let pem = read(path).await?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|e| wrong(path, &e))?;
    if all.is_empty() {
        return Err(wrong(path, &"it holds no certificate in PEM"));
    }
    Ok(all)
}

async fn roots(path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path).await? {
        roots.add(certificate).map_err(|e| wrong(path, &e))?;
    }
    Ok(roots)
}

fn system_roots() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(io::Error::other("the system trusts no authority; name one for TLS"));
    }
    Ok(roots)
}

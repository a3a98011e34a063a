//! How a connection to a broker comes to be. It knows addresses and encryption, not the protocol.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::security::{SecurityConfig, connector};

/// The reading half of a connection.
pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half of a connection.
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Connects to `host:port`; the caller bounds the time.
pub(crate) async fn connect(security: &SecurityConfig, host: &str, port: u16) -> io::Result<(ReadHalf, WriteHalf)> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = &security.tls else {
        let (read, write) = stream.into_split();
        return Ok((Box::new(read), Box::new(write)));
    };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::other(format!("'{host}' is no name that a certificate can have")))?;
    let stream = connector(tls).await?.connect(name, stream).await?;
    let (read, write) = tokio::io::split(stream);
    Ok((Box::new(read), Box::new(write)))
}

//! How a connection to a broker comes to be: the seam for TLS and SASL. It knows addresses, not the protocol.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The reading half of a connection.
pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half of a connection.
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Makes connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connector {
    /// Plain TCP.
    #[default]
    Plain,
}

impl Connector {
    /// Connects to `host:port`; the caller bounds the time.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> std::io::Result<(ReadHalf, WriteHalf)> {
        match self {
            Self::Plain => {
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                let (read, write) = stream.into_split();
                Ok((Box::new(read), Box::new(write)))
            }
        }
    }
}

//! One HTTP request to a running sidecar, over its port or its socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use wherry_sidecar::config::DEFAULT_PORT;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES: u64 = 1024 * 1024;

/// Where the sidecar is.
#[derive(Debug, Args)]
pub(super) struct Where {
    /// Address that it serves
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))]
    address: SocketAddr,
    /// Its Unix socket, instead of the address
    #[arg(long, value_name = "PATH", conflicts_with = "address")]
    socket: Option<PathBuf>,
}

/// The JSON that it answers.
pub(super) async fn ask<T: DeserializeOwned>(at: &Where, method: &str, path: &str, patience: Duration) -> Result<T> {
    let answered = tokio::time::timeout(patience, exchange(at, method, path)).await;
    let (status, body) = answered.with_context(|| format!("the sidecar did not answer within {patience:?}"))??;
    if status != 200 {
        bail!("the sidecar answered {method} {path} with {status}: {}", body.trim());
    }
    serde_json::from_str(&body)
        .with_context(|| format!("the answer to {method} {path} can't be read; is it a sidecar of this version?"))
}

async fn exchange(at: &Where, method: &str, path: &str) -> Result<(u16, String)> {
    if let Some(socket) = &at.socket {
        let stream = UnixStream::connect(socket).await;
        let stream = stream
            .with_context(|| format!("no sidecar serves {}; start one, or correct --socket", socket.display()))?;
        return converse(stream, method, path).await;
    }
    let stream = TcpStream::connect(at.address).await;
    let stream =
        stream.with_context(|| format!("no sidecar serves {}; start one, or correct --address", at.address))?;
    converse(stream, method, path).await
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, method: &str, path: &str) -> Result<(u16, String)> {
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: sidecar\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("can't ask the sidecar")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await.context("can't read the sidecar's answer")?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Result<(u16, String)> {
    let (head, body) =
        answer.split_once("\r\n\r\n").context("the answer has no end of its headers; is it a sidecar?")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("the answer has no status; is it a sidecar?")?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_nonsense_is_told() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\na: b\r\n\r\n{}").unwrap(), (200, "{}".into()));
        for wrong in ["", "SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert!(parse(wrong).unwrap_err().to_string().contains("is it a sidecar?"), "{wrong}");
        }
    }
}

//! Bytes of connections without sockets: frames out of what arrives, chunks towards what leaves, and when to give up.
//! Must not know what a frame means.

mod assembler;
mod output;
pub mod tls;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub use assembler::{Assembler, Budget, FrameError, NextRead, Place};
pub use output::Output;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// Connections that the kernel may hold for us before they are accepted.
pub const BACKLOG: i32 = 1024;
/// Bytes read at once while it is not known where a frame ends.
pub const SCRATCH_BYTES: usize = 16 << 10;

/// Bounds and times of connections.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// Largest frame in bytes, its prefix not counted; a peer that declares more is disconnected.
    pub max_frame_bytes: usize,
    /// Memory in bytes for frames that are not complete, of all connections; at the bound, connections wait their turn.
    pub partial_frames_bytes: usize,
    /// Largest frame between nodes in bytes.
    pub max_link_frame_bytes: usize,
    /// Memory in bytes for frames between nodes that are not complete, of all links.
    pub partial_link_frames_bytes: usize,
    /// Largest frame in bytes of a client that has not said who it is, where it has to.
    pub max_stranger_frame_bytes: usize,
    /// From the first byte of a frame to its last.
    pub frame_timeout: Duration,
    /// From the connection to the end of its TLS handshake, and of its authentication where there is one.
    pub greeting_timeout: Duration,
    /// Without a byte in either direction.
    pub idle_timeout: Duration,
    /// Without the peer taking a byte of what waits for it.
    pub send_timeout: Duration,
    /// How long a node that stops goes on answering requests that it has.
    pub drain_timeout: Duration,
    /// What connections to other nodes are secured with; none: they are not.
    pub dial_tls: Option<Arc<tls::ClientTls>>,
}

/// Where connections come in.
#[derive(Debug)]
pub struct Door {
    /// The socket.
    pub listener: TcpListener,
    /// What they are secured with; none: they are not.
    pub tls: Option<Arc<tls::ServerTls>>,
    /// Whether clients have to say who they are before they may do more: until then they get little memory and time.
    pub guarded: bool,
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Self {
        Self { listener, tls: None, guarded: false }
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            max_frame_bytes: 100 << 20,
            partial_frames_bytes: 256 << 20,
            max_link_frame_bytes: crate::limits::MAX_LINK_FRAME_BYTES,
            partial_link_frames_bytes: 256 << 20,
            max_stranger_frame_bytes: crate::limits::MAX_STRANGER_FRAME_BYTES,
            frame_timeout: Duration::from_secs(60),
            greeting_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            send_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            dial_tls: None,
        }
    }
}

/// How long a start waits for an address that is in use. The kernel takes an io_uring down after its process is gone:
/// until then the sockets of a node that was killed are still open, and its successor may already be here.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(3);
const ADDRESS_RETRY: Duration = Duration::from_millis(5);

/// A listening socket: `SO_REUSEADDR`, a backlog of [`BACKLOG`]. Waits a little for an address that is in use.
///
/// # Errors
/// The system's: the address is in use or not ours.
pub fn listen_on(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let begin = std::time::Instant::now();
    loop {
        match try_listen_on(addr) {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && begin.elapsed() < ADDRESS_PATIENCE => {
                std::thread::sleep(ADDRESS_RETRY);
            }
            settled => return settled,
        }
    }
}

fn try_listen_on(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &addr)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

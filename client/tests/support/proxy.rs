//! A TCP proxy that cuts connections after a random number of bytes: requests and answers are lost half way, at any place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Random;

/// A proxy in front of a broker that advertises the proxy's address.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    target: u16,
    /// Bytes after which a connection is cut, at most; the place is drawn anew for each direction of each connection.
    reach: AtomicU64,
    cutting: AtomicBool,
    cuts: AtomicU64,
    seed: AtomicU64,
}

impl Proxy {
    /// Listens on `port`, forwards to `target`.
    pub async fn start(port: u16, target: u16, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let state = Arc::new(State {
            target,
            reach: AtomicU64::new(1),
            cutting: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            seed: AtomicU64::new(seed),
        });
        tokio::spawn(accept(listener, state.clone()));
        Self { port, state }
    }

    /// From now on every new connection lives for at most this many bytes in each direction.
    pub fn cut_within(&self, bytes: u64) {
        self.state.reach.store(bytes, Ordering::SeqCst);
        self.state.cutting.store(true, Ordering::SeqCst);
    }

    /// Leaves new connections alone.
    pub fn stop_cutting(&self) {
        self.state.cutting.store(false, Ordering::SeqCst);
    }

    pub fn cuts(&self) -> u64 {
        self.state.cuts.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(forward(client, state.clone()));
    }
}

async fn forward(client: TcpStream, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", state.target)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut random = Random::new(state.seed.fetch_add(1, Ordering::SeqCst));
    let mut limit = || {
        let reach = state.reach.load(Ordering::SeqCst);
        if state.cutting.load(Ordering::SeqCst) { random.below(reach) } else { u64::MAX }
    };
    let (up, down) = (limit(), limit());
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let cut = tokio::select! {
        cut = pump(client_read, server_write, up) => cut,
        cut = pump(server_read, client_write, down) => cut,
    };
    if cut {
        state.cuts.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether it ended because of the limit.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, limit: u64) -> bool {
    let mut left = limit;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return false };
        let pass = usize::try_from(left).unwrap_or(usize::MAX).min(count);
        if to.write_all(&buffer[..pass]).await.is_err() {
            return false;
        }
        left -= pass as u64;
    }
    true
}

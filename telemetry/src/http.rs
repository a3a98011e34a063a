//! Answers `/metrics`, `/livez` and `/readyz` over HTTP/1.1: one small request per connection, everything bounded.
//!
//! What is answered comes from closures; they are called on the runtime and must not block.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Connections served at a time; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 32;
/// Largest request, in bytes: a line and the headers of a scraper.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Longest for one connection, from its first byte to the last of the answer.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);

type Text = Box<dyn Fn() -> String + Send + Sync>;
type Probe = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Where answers come from.
pub struct Probes {
    /// Metrics in the text format of OpenMetrics 1.0.
    pub metrics: Text,
    /// Whether the process works; an error is a sentence that says why not.
    pub live: Probe,
    /// Whether it can serve; an error is a sentence that says why not.
    pub ready: Probe,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes").finish_non_exhaustive()
    }
}

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl Server {
    /// The address that was really bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting.
    pub fn stop(self) {
        self.stop.send_replace(true);
    }
}

/// Serves probes; port 0 takes a free port.
///
/// # Errors
/// When the address can't be bound.
pub async fn serve(listen: SocketAddr, probes: Probes) -> io::Result<Server> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(accept(listener, Arc::new(probes), stopped));
    Ok(Server { address, stop })
}

async fn accept(listener: TcpListener, probes: Arc<Probes>, mut stopped: watch::Receiver<bool>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let permit = free.clone().acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            // A closed channel (the server was dropped) stops it as well.
            _ = stopped.changed() => return,
        };
        let Some((permit, accepted)) = accepted else { return };
        match accepted {
            Ok((stream, _)) => {
                let probes = probes.clone();
                tokio::spawn(async move {
                    // Nobody can be told about a scraper that went away or was too slow.
                    let _ = timeout(CONNECTION_TIME_MAX, answer(stream, &probes)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection for probes");
                // Out of descriptors: the next attempt would fail at once as well.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, probes: &Probes) -> io::Result<()> {
    let response = match read_head(&mut stream).await? {
        Some(head) => respond(&head, probes),
        None => Response::text("431 Request Header Fields Too Large", "the request is too large\n".into()),
    };
    stream.write_all(&response.bytes()).await?;
    stream.shutdown().await
}

/// The request up to its empty line; `None` when it is too large. A closed connection is an error.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() >= REQUEST_BYTES_MAX {
            return Ok(None);
        }
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
    Ok(Some(head))
}

struct Response {
    status: &'static str,
    content_type: &'static str,
    body: String,
    /// For HEAD: the headers of GET, without its body.
    head_only: bool,
}

impl Response {
    fn text(status: &'static str, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body, head_only: false }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { status, content_type, body, head_only } = self;
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        if !head_only {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }
}

fn respond(head: &[u8], probes: &Probes) -> Response {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !matches!(method, "GET" | "HEAD") {
        return Response::text("405 Method Not Allowed", "only GET is served here\n".into());
    }
    let path = target.split('?').next().unwrap_or_default();
    let response = match path {
        "/metrics" => Response {
            status: "200 OK",
            content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body: (probes.metrics)(),
            head_only: false,
        },
        "/livez" => probed((probes.live)()),
        "/readyz" => probed((probes.ready)()),
        _ => Response::text("404 Not Found", "there is /metrics, /livez and /readyz\n".into()),
    };
    Response { head_only: method == "HEAD", ..response }
}

fn probed(outcome: Result<(), String>) -> Response {
    match outcome {
        Ok(()) => Response::text("200 OK", "ok\n".into()),
        Err(why) => Response::text("503 Service Unavailable", format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn probes(ready: Arc<AtomicBool>) -> Probes {
        Probes {
            metrics: Box::new(|| "up 1\n# EOF\n".into()),
            live: Box::new(|| Ok(())),
            ready: Box::new(move || {
                if ready.load(Ordering::SeqCst) { Ok(()) } else { Err("the journal is being replayed".into()) }
            }),
        }
    }

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn answers_what_it_is_asked() {
        let ready = Arc::new(AtomicBool::new(false));
        let server = serve(([127, 0, 0, 1], 0).into(), probes(ready.clone())).await.unwrap();
        let at = server.address();
        let metrics = ask(at, b"GET /metrics?x=1 HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n") && metrics.ends_with("\r\n\r\nup 1\n# EOF\n"), "{metrics}");
        assert!(ask(at, b"GET /livez HTTP/1.1\r\n\r\n").await.contains("200 OK"));
        let not_ready = ask(at, b"GET /readyz HTTP/1.1\r\n\r\n").await;
        assert!(not_ready.contains("503") && not_ready.contains("replayed"), "{not_ready}");
        ready.store(true, Ordering::SeqCst);
        assert!(ask(at, b"GET /readyz HTTP/1.1\r\n\r\n").await.contains("200 OK"));
        assert!(ask(at, b"GET /other HTTP/1.1\r\n\r\n").await.contains("404"));
        assert!(ask(at, b"POST /metrics HTTP/1.1\r\n\r\n").await.contains("405"));
        assert!(ask(at, b"HEAD /livez HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\n"));
    }

    #[tokio::test]
    async fn a_large_or_broken_request_gets_no_further() {
        let server = serve(([127, 0, 0, 1], 0).into(), probes(Arc::default())).await.unwrap();
        let large = ask(server.address(), &vec![b'x'; REQUEST_BYTES_MAX + 1]).await;
        assert!(large.is_empty() || large.contains("431"), "{large}");
        assert!(ask(server.address(), b"\xff\xfe\r\n\r\n").await.contains("405"));
    }

    #[tokio::test]
    async fn idle_connections_are_bounded() {
        let server = serve(([127, 0, 0, 1], 0).into(), probes(Arc::default())).await.unwrap();
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            idle.push(TcpStream::connect(server.address()).await.unwrap());
        }
        // One more waits until one of the idle ones goes.
        let waiting = tokio::spawn(ask(server.address(), b"GET /livez HTTP/1.1\r\n\r\n"));
        idle.clear();
        let answer = timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
    }

    #[tokio::test]
    async fn a_stopped_server_is_gone() {
        let server = serve(([127, 0, 0, 1], 0).into(), probes(Arc::default())).await.unwrap();
        let at = server.address();
        server.stop();
        let gone = async {
            while TcpStream::connect(at).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.unwrap();
    }
}

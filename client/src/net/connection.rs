//! One connection: requests go out in order and pipelined, answers come back in the same order.
//!
//! ```text
//! submit ──lock: pending.push, outgoing.send──▶ writer task ──▶ socket ──▶ reader task ──▶ pending.pop ──▶ reply
//! ```
//! Requests in flight are bounded by permits, and the outgoing queue by the same number. When anything goes wrong the
//! connection is over for good: every pending request learns it, and the owner makes another one.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connector::{ReadHalf, WriteHalf, connect};
use super::{NetError, Versions, authenticate, codec};
use crate::config::ClientConfig;

/// Error code 35, UNSUPPORTED_VERSION: the one answer of ApiVersions that is read in version 0 whatever was asked.
const UNSUPPORTED_VERSION: i16 = 35;
/// Frames that one vectored write takes at most.
const WRITE_SLICES: usize = 64;
/// How much the reader asks for when no larger frame is under way.
const READ_BYTES: usize = 64 * 1024;

/// The answer to come: the frame, length prefix stripped.
pub(crate) type Reply = oneshot::Receiver<Result<Bytes, NetError>>;

struct Pending {
    correlation: i32,
    deadline: Instant,
    reply: oneshot::Sender<Result<Bytes, NetError>>,
    /// None for whoever has all places.
    _permit: Option<OwnedSemaphorePermit>,
}

struct Outgoing {
    chunks: Vec<Bytes>,
    /// For requests that have no answer: says that they were written.
    written: Option<Written>,
}

#[derive(Default)]
struct Pipeline {
    pending: VecDeque<Pending>,
    closed: Option<Arc<str>>,
}

struct Shared {
    pipeline: Mutex<Pipeline>,
    /// Tells the reader that the first request is pending, so that it starts its clock.
    armed: tokio::sync::Notify,
    over: CancellationToken,
}

impl Shared {
    fn pipeline(&self) -> std::sync::MutexGuard<'_, Pipeline> {
        self.pipeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, cause: &str) {
        let pending = {
            let mut pipeline = self.pipeline();
            pipeline.closed.get_or_insert_with(|| cause.into());
            std::mem::take(&mut pipeline.pending)
        };
        self.over.cancel();
        for request in pending {
            // The caller may have gone; then nobody needs to know.
            let _ = request.reply.send(Err(NetError::lost(cause)));
        }
    }
}

/// A live (or no longer live) connection to one broker. Dropping it closes it.
pub(crate) struct Connection {
    wire: Arc<Wire>,
    address: Arc<str>,
    versions: Versions,
    number: u64,
}

/// What requests go through.
pub(super) struct Wire {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
    permits: Arc<Semaphore>,
    places: u32,
    next_correlation: AtomicI32,
    client_id: StrBytes,
    request_timeout: Duration,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).field("alive", &self.is_alive()).finish()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.wire.shared.close("connection closed by this client");
    }
}

impl Connection {
    /// Connects and negotiates versions, within the configured connect timeout.
    pub(crate) async fn open(config: &ClientConfig, host: &str, port: u16) -> Result<Self, NetError> {
        let address: Arc<str> = format!("{host}:{port}").into();
        let opened = tokio::time::timeout(config.connect_timeout, Self::establish(config, host, port, address.clone()));
        opened.await.unwrap_or_else(|_| Err(NetError::not_sent(format_args!("{address}: no connection in time"))))
    }

    async fn establish(config: &ClientConfig, host: &str, port: u16, address: Arc<str>) -> Result<Self, NetError> {
        let connected = connect(&config.security, host, port).await;
        let (read, write) = connected.map_err(|e| NetError::not_sent(format_args!("{address}: {e}")))?;
        let shared = Arc::new(Shared {
            pipeline: Mutex::default(),
            armed: tokio::sync::Notify::new(),
            over: CancellationToken::new(),
        });
        let (outgoing, queue) = mpsc::channel(config.max_in_flight_requests.max(1));
        tokio::spawn(write_loop(write, queue, shared.clone()));
        tokio::spawn(read_loop(read, shared.clone(), config.max_response_bytes, address.clone()));
        let places = config.max_in_flight_requests.max(1);
        let wire = Arc::new(Wire {
            shared,
            outgoing,
            permits: Arc::new(Semaphore::new(places)),
            places: u32::try_from(places).unwrap_or(u32::MAX),
            next_correlation: AtomicI32::new(0),
            client_id: StrBytes::from_string(config.client_id.clone()),
            request_timeout: config.request_timeout,
        });
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut connection = Self { wire, address, versions: Versions::default(), number };
        connection.versions = Versions::new(&connection.api_versions().await?);
        if let Some(sasl) = &config.security.sasl {
            authenticate::begin(&connection.wire, sasl, &connection.address).await?;
        }
        Ok(connection)
    }

    /// Asks in version 3; a broker that does not know it answers in version 0, and is asked again in that.
    async fn api_versions(&self) -> Result<ApiVersionsResponse, NetError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("wherry"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer = self.wire.exchange(&request, 3, Duration::ZERO).await?;
        let refused = answer.get(4..6).is_some_and(|code| code == UNSUPPORTED_VERSION.to_be_bytes());
        if !refused {
            return codec::decode::<ApiVersionsRequest>(answer, 3);
        }
        let answer = self.wire.exchange(&ApiVersionsRequest::default(), 0, Duration::ZERO).await?;
        codec::decode::<ApiVersionsRequest>(answer, 0)
    }

    /// Whether requests can still be sent.
    pub(crate) fn is_alive(&self) -> bool {
        !self.wire.shared.over.is_cancelled()
    }

    /// Unique in this process: tells connections apart.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn client_id(&self) -> &StrBytes {
        &self.wire.client_id
    }

    /// The version of `R` to use here.
    pub(crate) fn version<R: Request>(&self, what: &'static str) -> Result<i16, NetError> {
        self.versions.choose::<R>().ok_or_else(|| NetError::Unsupported { what, broker: self.address.clone() })
    }

    /// Sends a request in the best common version and waits for the answer; `patience` is added to the request timeout.
    pub(crate) async fn call<R: Request>(
        &self,
        what: &'static str,
        request: &R,
        patience: Duration,
    ) -> Result<R::Response, NetError> {
        let version = self.version::<R>(what)?;
        codec::decode::<R>(self.wire.exchange(request, version, patience).await?, version)
    }

    /// A correlation id for [`Connection::submit_now`].
    pub(crate) fn next_correlation(&self) -> i32 {
        self.wire.next_correlation()
    }

    /// Queues a whole frame (in chunks, prefix included, with `correlation` in it) behind those before, where there is a place
    /// in flight; fails where there is none. Requests without an answer resolve, empty, when they are written.
    pub(crate) fn submit_now(
        &self,
        correlation: i32,
        chunks: Vec<Bytes>,
        answered: bool,
        patience: Duration,
    ) -> Result<Reply, NetError> {
        let permit = self.wire.permits.clone().try_acquire_owned().map_err(NetError::not_sent)?;
        self.wire.hand_over(correlation, chunks, answered, patience, Some(permit))
    }
}

impl Wire {
    pub(super) fn over(&self) -> &CancellationToken {
        &self.shared.over
    }

    /// All places in flight: when they are had, nothing is.
    pub(super) async fn alone(&self) -> Result<OwnedSemaphorePermit, NetError> {
        self.permits.clone().acquire_many_owned(self.places).await.map_err(NetError::not_sent)
    }

    pub(super) fn close(&self, cause: &str) {
        self.shared.close(cause);
    }

    fn next_correlation(&self) -> i32 {
        self.next_correlation.fetch_add(1, Ordering::Relaxed)
    }

    async fn exchange<R: Request>(&self, request: &R, version: i16, patience: Duration) -> Result<Bytes, NetError> {
        let correlation = self.next_correlation();
        let frame = codec::encode(correlation, &self.client_id, version, request)?;
        let reply = self.submit(correlation, vec![frame], true, patience).await?;
        reply.await.unwrap_or_else(|_| Err(NetError::lost("the connection's task ended")))
    }

    /// As [`Wire::exchange`], for who has all places: see [`Wire::alone`].
    pub(super) async fn exchange_alone<R: Request>(&self, request: &R, version: i16) -> Result<Bytes, NetError> {
        let correlation = self.next_correlation();
        let frame = codec::encode(correlation, &self.client_id, version, request)?;
        let reply = self.hand_over(correlation, vec![frame], true, Duration::ZERO, None)?;
        reply.await.unwrap_or_else(|_| Err(NetError::lost("the connection's task ended")))
    }

    async fn submit(
        &self,
        correlation: i32,
        chunks: Vec<Bytes>,
        answered: bool,
        patience: Duration,
    ) -> Result<Reply, NetError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(NetError::not_sent)?;
        self.hand_over(correlation, chunks, answered, patience, Some(permit))
    }

    fn hand_over(
        &self,
        correlation: i32,
        chunks: Vec<Bytes>,
        answered: bool,
        patience: Duration,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Reply, NetError> {
        let (reply, receiver) = oneshot::channel();
        let mut pipeline = self.shared.pipeline();
        if let Some(cause) = &pipeline.closed {
            return Err(NetError::NotSent(cause.clone()));
        }
        if answered {
            let deadline = Instant::now() + self.request_timeout + patience;
            pipeline.pending.push_back(Pending { correlation, deadline, reply, _permit: permit });
            self.enqueue(Outgoing { chunks, written: None })?;
            if pipeline.pending.len() == 1 {
                self.shared.armed.notify_one();
            }
        } else {
            self.enqueue(Outgoing { chunks, written: Some((reply, permit)) })?;
        }
        Ok(receiver)
    }

    /// Never full: the queue has as many places as there are permits.
    fn enqueue(&self, outgoing: Outgoing) -> Result<(), NetError> {
        self.outgoing.try_send(outgoing).map_err(|_| NetError::not_sent("the connection is closing"))
    }
}

async fn write_loop(mut socket: WriteHalf, mut queue: mpsc::Receiver<Outgoing>, shared: Arc<Shared>) {
    let over = shared.over.clone();
    let work = async {
        let mut chunks = VecDeque::new();
        let mut written = Vec::new();
        while let Some(first) = queue.recv().await {
            take(first, &mut chunks, &mut written);
            while chunks.len() < WRITE_SLICES
                && let Ok(next) = queue.try_recv()
            {
                take(next, &mut chunks, &mut written);
            }
            if let Err(error) = write_all(&mut socket, &mut chunks).await {
                shared.close(&format!("write failed: {error}"));
                return;
            }
            for (reply, permit) in written.drain(..) {
                let _: Result<(), _> = reply.send(Ok(Bytes::new()));
                drop(permit);
            }
        }
    };
    over.run_until_cancelled(work).await;
}

type Written = (oneshot::Sender<Result<Bytes, NetError>>, Option<OwnedSemaphorePermit>);

fn take(outgoing: Outgoing, chunks: &mut VecDeque<Bytes>, written: &mut Vec<Written>) {
    chunks.extend(outgoing.chunks.into_iter().filter(|c| !c.is_empty()));
    written.extend(outgoing.written);
}

async fn write_all(socket: &mut WriteHalf, chunks: &mut VecDeque<Bytes>) -> std::io::Result<()> {
    while !chunks.is_empty() {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
        let used = chunks.len().min(WRITE_SLICES);
        for (slice, chunk) in slices.iter_mut().zip(chunks.iter()) {
            *slice = IoSlice::new(chunk);
        }
        let mut count = socket.write_vectored(slices.get(..used).unwrap_or_default()).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while count > 0
            && let Some(front) = chunks.front_mut()
        {
            let step = count.min(front.len());
            front.advance(step);
            count -= step;
            if front.is_empty() {
                chunks.pop_front();
            }
        }
    }
    socket.flush().await
}

async fn read_loop(mut socket: ReadHalf, shared: Arc<Shared>, max_bytes: usize, address: Arc<str>) {
    let mut buffer = BytesMut::new();
    let cause = loop {
        match next_frame(&mut buffer, max_bytes) {
            Ok(Some(frame)) => match answer(&shared, frame) {
                Ok(()) => continue,
                Err(cause) => break cause,
            },
            Ok(None) => {}
            Err(cause) => break cause,
        }
        let deadline = shared.pipeline().pending.front().map(|p| p.deadline);
        tokio::select! {
            () = shared.over.cancelled() => return,
            () = overdue(deadline) => {
                // The front may have been answered and replaced meanwhile only by this task, so it is still the same one.
                break "no answer in time".into();
            }
            () = shared.armed.notified() => {}
            read = socket.read_buf(&mut buffer) => match read {
                Ok(0) => break "closed by the broker".into(),
                Ok(_) => {}
                Err(error) => break format!("read failed: {error}"),
            },
        }
    };
    tracing::debug!(broker = %address, %cause, "connection over");
    shared.close(&format!("{address}: {cause}"));
}

async fn overdue(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Cuts a whole frame off, or makes room for the one that is under way.
fn next_frame(buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Bytes>, String> {
    let Some(prefix) = buffer.first_chunk::<4>() else {
        buffer.reserve(READ_BYTES);
        return Ok(None);
    };
    let length = usize::try_from(i32::from_be_bytes(*prefix)).map_err(|_| "negative frame length".to_owned())?;
    if length > max_bytes {
        return Err(format!("an answer of {length} bytes, more than max_response_bytes = {max_bytes}"));
    }
    if buffer.len() < 4 + length {
        let missing = 4 + length - buffer.len();
        buffer.reserve(missing.max(READ_BYTES));
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn answer(shared: &Shared, frame: Bytes) -> Result<(), String> {
    let correlation = codec::correlation(&frame).ok_or("an answer without a correlation id")?;
    let request = shared.pipeline().pending.pop_front().ok_or("an answer that nobody asked for")?;
    if request.correlation != correlation {
        let expected = request.correlation;
        let _ = request.reply.send(Err(NetError::lost("answers out of order")));
        return Err(format!("answer {correlation} where {expected} was due"));
    }
    // The caller may have gone; then nobody needs it.
    let _: Result<(), _> = request.reply.send(Ok(frame));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_and_bounded() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 2, 7, 8, 0, 0, 0, 1][..]);
        assert_eq!(next_frame(&mut buffer, 10).unwrap().as_deref(), Some(&[7, 8][..]));
        assert_eq!(next_frame(&mut buffer, 10).unwrap(), None);
        buffer.extend_from_slice(&[9]);
        assert_eq!(next_frame(&mut buffer, 10).unwrap().as_deref(), Some(&[9][..]));
        assert!(next_frame(&mut BytesMut::from(&[0, 0, 0, 11][..]), 10).is_err());
        assert!(next_frame(&mut BytesMut::from(&[0xff, 0, 0, 0][..]), 10).is_err());
    }
}

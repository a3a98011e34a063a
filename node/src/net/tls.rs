//! TLS as a stage without I/O between a socket and the frames: bytes of the socket go in, plaintext comes out, and the
//! other way round. Which certificates are used, and what they say, is others' affair.
//!
//! ```text
//!  socket ── receive ──► rustls ── plaintext ──► assembler        Handshaking ──► Secured ──► Closing
//!  socket ◄── wire ◄─── rustls ◄── fill ─────── output
//! ```
//! What is to be sent waits as plaintext, shared with the log, and is encrypted a little ahead of the socket only: a slow
//! reader costs no second copy of its answers (INV-7). A handshake has a bound in bytes here and one in time in the driver.

use std::collections::VecDeque;
use std::io::{BufRead, ErrorKind, IoSlice, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::{FrameError, Output};
use crate::limits::MAX_HANDSHAKE_BYTES;

/// Ciphertext kept ready for a socket, in bytes.
const WIRE_BYTES: usize = 256 << 10;
/// Plaintext that is encrypted in one go, in bytes.
const PIECE_BYTES: usize = 128 << 10;
/// Chunks that one piece is gathered from.
const PIECE_CHUNKS: usize = 64;

/// Why a stream can't go on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A frame that is out of bounds.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The handshake failed, or a record is wrong.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A handshake without end.
    #[error("TLS: a handshake of more than {MAX_HANDSHAKE_BYTES} bytes")]
    LongHandshake,
}

/// What the other side of a connection has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secured {
    /// Its own certificate in DER, checked against the trusted authorities; none if it was not asked for one, or has none.
    pub certificate: Option<Vec<u8>>,
}

/// What accepted connections are secured with; may be replaced while the node runs.
#[derive(Debug)]
pub struct ServerTls(Mutex<Arc<ServerConfig>>);

/// What dialled connections are secured with; may be replaced while the node runs.
#[derive(Debug)]
pub struct ClientTls(Mutex<Arc<ClientConfig>>);

impl ServerTls {
    /// Connections use this from now on.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(Mutex::new(config))
    }

    /// Replaces what new connections use; those that are open go on.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientTls {
    /// Connections use this from now on.
    #[must_use]
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self(Mutex::new(config))
    }

    /// Replaces what new connections use; those that are open go on.
    pub fn replace(&self, config: Arc<ClientConfig>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    fn current(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A piece of ciphertext that the socket has not taken.
#[derive(Debug)]
struct Piece {
    wire: usize,
    plain: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Handshaking {
        received: usize,
    },
    Secured,
    /// The last of what waits is followed by the end.
    Closing,
    /// The end was said.
    Closed,
}

/// One connection's TLS.
#[derive(Debug)]
pub struct Session {
    tls: Connection,
    phase: Phase,
    wire: Output,
    pieces: VecDeque<Piece>,
    /// Not told yet.
    news: Option<Secured>,
}

impl Session {
    /// For a connection that somebody opened to us.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub fn accept(tls: &ServerTls) -> Result<Self, StreamError> {
        Ok(Self::new(Connection::Server(ServerConnection::new(tls.current())?)))
    }

    /// For a connection that we opened to `host`, whose certificate must have that name.
    ///
    /// # Errors
    /// A host that no certificate could name.
    pub fn dial(tls: &ClientTls, host: &str) -> Result<Self, StreamError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| rustls::Error::General(format!("'{host}' is no name that a certificate can have")))?;
        let mut session = Self::new(Connection::Client(ClientConnection::new(tls.current(), name)?));
        session.collect(0);
        Ok(session)
    }

    fn new(mut tls: Connection) -> Self {
        // What waits is bounded by whoever calls `fill`.
        tls.set_buffer_limit(None);
        let phase = Phase::Handshaking { received: 0 };
        Self { tls, phase, wire: Output::default(), pieces: VecDeque::new(), news: None }
    }

    /// Whether nothing but the handshake may pass yet.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        matches!(self.phase, Phase::Handshaking { .. })
    }

    /// Takes bytes of the socket and hands plaintext on. False: the peer has ended the stream in good order.
    ///
    /// # Errors
    /// The connection must be closed, after what is on the wire was sent: it tells the peer why.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        mut plaintext: impl FnMut(&[u8]) -> Result<(), FrameError>,
    ) -> Result<bool, StreamError> {
        self.count_handshake(bytes.len())?;
        let mut open = true;
        while !bytes.is_empty() && open {
            // Fails only where plaintext was left behind, and none is.
            let taken = self.tls.read_tls(&mut bytes).unwrap_or(0);
            let processed = self.tls.process_new_packets();
            open = self.hand_on(&mut plaintext)? && taken > 0;
            self.collect(0);
            processed?;
        }
        self.note_secured();
        Ok(open)
    }

    fn count_handshake(&mut self, bytes: usize) -> Result<(), StreamError> {
        if let Phase::Handshaking { received } = &mut self.phase {
            *received += bytes;
            if *received > MAX_HANDSHAKE_BYTES {
                return Err(StreamError::LongHandshake);
            }
        }
        Ok(())
    }

    /// False at the end of the stream.
    fn hand_on(&mut self, plaintext: &mut impl FnMut(&[u8]) -> Result<(), FrameError>) -> Result<bool, StreamError> {
        let mut reader = self.tls.reader();
        loop {
            let taken = match reader.fill_buf() {
                Ok([]) => return Ok(false),
                Ok(chunk) => {
                    plaintext(chunk)?;
                    chunk.len()
                }
                Err(error) => return Ok(error.kind() == ErrorKind::WouldBlock),
            };
            reader.consume(taken);
        }
    }

    fn note_secured(&mut self) {
        if self.is_handshaking() && !self.tls.is_handshaking() {
            self.phase = Phase::Secured;
            let own = self.tls.peer_certificates().and_then(<[_]>::first);
            self.news = Some(Secured { certificate: own.map(|certificate| certificate.to_vec()) });
        }
    }

    /// What the peer has shown, once, when the handshake is over.
    pub fn take_secured(&mut self) -> Option<Secured> {
        self.news.take()
    }

    /// Encrypts more of what waits, as far as the wire has room.
    pub fn fill(&mut self, output: &mut Output) {
        while matches!(self.phase, Phase::Secured | Phase::Closing)
            && !output.is_empty()
            && self.wire.bytes() < WIRE_BYTES
        {
            let taken = self.encrypt(output);
            output.advance(taken);
            self.collect(taken);
        }
        if self.phase == Phase::Closing && output.is_empty() {
            self.phase = Phase::Closed;
            self.tls.send_close_notify();
            self.collect(0);
        }
    }

    fn encrypt(&mut self, output: &Output) -> usize {
        let mut room = PIECE_BYTES;
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(PIECE_CHUNKS);
        for chunk in output.front(PIECE_CHUNKS) {
            let part = chunk.len().min(room);
            slices.push(IoSlice::new(&chunk[..part]));
            room -= part;
            if room == 0 {
                break;
            }
        }
        // Writing to memory without a limit does not fail.
        self.tls.writer().write_vectored(&slices).unwrap_or(0)
    }

    /// Moves what rustls wants to send onto the wire; `plain` bytes of it are new.
    fn collect(&mut self, plain: usize) {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            if bytes.is_empty() {
                bytes.reserve(plain + plain / 256 + 512);
            }
            // Writing to memory does not fail.
            if self.tls.write_tls(&mut bytes).unwrap_or(0) == 0 {
                break;
            }
        }
        if !bytes.is_empty() {
            self.pieces.push_back(Piece { wire: bytes.len(), plain });
            self.wire.push(vec![Bytes::from(bytes)]);
        }
    }

    /// The stream ends behind what waits; a handshake that is under way is given up.
    pub fn end(&mut self) {
        self.phase = if self.is_handshaking() { Phase::Closed } else { Phase::Closing };
    }

    /// What the socket is to take.
    #[must_use]
    pub fn wire(&self) -> &Output {
        &self.wire
    }

    /// As [`Session::wire`]; whoever takes from it says so with [`Session::credit`].
    pub fn wire_mut(&mut self) -> &mut Output {
        &mut self.wire
    }

    /// Nothing waits for the socket.
    #[must_use]
    pub fn is_wire_empty(&self) -> bool {
        self.wire.is_empty()
    }

    /// The socket took bytes of the wire: how many bytes of plaintext that completes.
    pub fn credit(&mut self, mut sent: usize) -> usize {
        let mut plain = 0;
        while let Some(piece) = self.pieces.front_mut() {
            if sent < piece.wire {
                piece.wire -= sent;
                break;
            }
            sent -= piece.wire;
            plain += piece.plain;
            self.pieces.pop_front();
        }
        plain
    }
}

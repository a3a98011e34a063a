//! What every driver does with what its shard decided. How a socket is read, written and closed, each knows for itself.

use std::net::TcpStream;

use bytes::Bytes;

use super::dialer::Dialer;
use super::peers::{Beginning, Peers, Phase};
use super::{DriverError, Shard};
use crate::core::store::Now;
use crate::core::{ConnId, Effect};
use crate::error::ConnectError;
use crate::net::tls::StreamError;

/// The parts of a driver that hold no socket.
pub(super) struct Parts<'a, S, T> {
    pub(super) shard: &'a mut S,
    pub(super) peers: &'a mut Peers<T>,
    pub(super) dialer: &'a mut Dialer,
    /// Empty between two rounds; kept for its memory.
    pub(super) effects: &'a mut Vec<Effect>,
    pub(super) now: Now,
}

/// See the module.
pub(super) trait CarryOut {
    type Shard: Shard;
    type Socket;

    fn parts(&mut self) -> Parts<'_, Self::Shard, Self::Socket>;

    /// Reads from a connection again, if it may read.
    fn receive(&mut self, key: usize);

    /// Sends what a connection is owed.
    fn send(&mut self, key: usize);

    /// The core is through with a connection: what it is owed is sent, then it is closed.
    fn finish(&mut self, key: usize);

    /// Takes a socket that is connected, and reads from it; false if the system lets it not be watched.
    fn adopt(&mut self, conn: ConnId, stream: TcpStream, beginning: Beginning) -> bool;

    /// A connection's stream can't go on: the shard is told, the peer hears why if TLS has a word for it.
    fn fail(&mut self, key: usize, error: &StreamError) {
        tracing::debug!(%error, "closing a connection");
        let Parts { shard, peers, .. } = self.parts();
        let Some(peer) = peers.get(key).filter(|peer| peer.phase == Phase::Open) else { return };
        let id = peer.id;
        peers.forget(key);
        shard.disconnected(id);
        self.finish(key);
    }

    /// Frames of a connection arrived; before the first, what its TLS handshake has shown. The handshake's own bytes leave.
    fn hand_in(&mut self, key: usize, id: ConnId, frames: &mut Vec<Bytes>) {
        let Parts { shard, peers, now, .. } = self.parts();
        let Some(peer) = peers.get(key) else { return };
        let secured = peer.take_secured();
        let has_out = peer.is_encrypted() && peer.has_out();
        if let Some(secured) = secured {
            shard.secured(now, id, secured);
        }
        for frame in frames.drain(..) {
            shard.received(now, id, frame);
        }
        if has_out {
            self.send(key);
        }
    }

    /// Tells the shard what came of its dials.
    fn take_dialled(&mut self) {
        for (conn, host, result) in self.parts().dialer.take() {
            let result = result.and_then(|stream| {
                let failed = || ConnectError::Unreachable("the system has no room for its socket".into());
                let beginning = self.parts().peers.dialled(&host)?;
                self.adopt(conn, stream, beginning).then_some(()).ok_or_else(failed)
            });
            let Parts { shard, now, .. } = self.parts();
            shard.connect_done(now, conn, result);
        }
    }

    /// The driver ends: no dial will be answered any more.
    fn abandon_dials(&mut self) {
        let Parts { shard, dialer, now, .. } = self.parts();
        for conn in dialer.abandon() {
            shard.connect_done(now, conn, Err(ConnectError::Unreachable("the node is stopping".into())));
        }
    }

    /// All effects, then the sends: several answers of one turn leave together.
    fn carry_out(&mut self) -> Result<(), DriverError> {
        let mut effects = std::mem::take(self.parts().effects);
        loop {
            self.parts().shard.take_effects(&mut effects);
            if effects.is_empty() {
                let grown = self.parts().peers.take_grown();
                if grown.is_empty() {
                    *self.parts().effects = effects;
                    return Ok(());
                }
                for key in grown {
                    self.send(key);
                }
            }
            for effect in effects.drain(..) {
                self.apply(effect)?;
            }
        }
    }

    fn apply(&mut self, effect: Effect) -> Result<(), DriverError> {
        match effect {
            Effect::Send { conn, chunks } => self.parts().peers.owe(conn, chunks),
            Effect::Close { conn, reason } => {
                tracing::debug!(conn = conn.as_u64(), %reason, "closing a connection");
                let Parts { peers, dialer, .. } = self.parts();
                match peers.key_of(conn) {
                    Some(key) => {
                        peers.forget(key);
                        self.finish(key);
                    }
                    None => drop(dialer.cancel(conn)),
                }
            }
            Effect::Connect { conn, host, port } => self.parts().dialer.dial(conn, host, port),
            Effect::Promote { conn } => {
                // It may have queued for the clients' memory.
                if let Some(key) = self.parts().peers.promote(conn) {
                    self.receive(key);
                }
            }
            Effect::Authenticated { conn } => self.parts().peers.authenticated(conn),
            Effect::PauseReads { conn } => self.set_paused(conn, true),
            Effect::ResumeReads { conn } => self.set_paused(conn, false),
            Effect::Stop { reason } => return Err(DriverError::Stopped(reason)),
        }
        Ok(())
    }

    fn set_paused(&mut self, conn: ConnId, paused: bool) {
        let Parts { peers, now, .. } = self.parts();
        let Some(key) = peers.key_of(conn) else { return };
        let Some(peer) = peers.get(key) else { return };
        peer.paused = paused;
        if !paused {
            peer.note_resumed(now.monotonic_ns);
            self.receive(key);
        }
    }

    /// Connections that waited for memory ask again.
    fn retry_waiting(&mut self) {
        for key in self.parts().peers.take_waiting() {
            self.receive(key);
        }
    }
}

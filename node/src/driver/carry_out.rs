//! What every driver does with what its shard decided. How a socket is read, written and closed, each knows for itself.

use super::peers::Peers;
use super::{DriverError, Shard};
use crate::core::store::Now;
use crate::core::{ConnId, Effect};

/// The parts of a driver that hold no socket.
pub(super) struct Parts<'a, S, T> {
    pub(super) shard: &'a mut S,
    pub(super) peers: &'a mut Peers<T>,
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
                let peers = self.parts().peers;
                if let Some(key) = peers.key_of(conn) {
                    peers.forget(key);
                    self.finish(key);
                }
            }
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

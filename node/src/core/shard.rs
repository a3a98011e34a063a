//! The core as what a driver runs.

use std::net::SocketAddr;

use bytes::Bytes;

use super::store::{LogStore, Now};
use super::{ConnId, Core, Effect, ListenerId};
use crate::driver::Shard;
use crate::error::{ConnectError, Refused};
use crate::net::tls::Secured;

impl<S: LogStore> Shard for Core<S> {
    fn connected(&mut self, now: Now, listener: ListenerId, peer: SocketAddr) -> Result<ConnId, Refused> {
        self.connected_to(now, listener, peer)
    }

    fn secured(&mut self, now: Now, conn: ConnId, secured: Secured) {
        Core::secured(self, now, conn, secured);
    }

    fn connect_done(&mut self, now: Now, conn: ConnId, result: Result<(), ConnectError>) {
        Core::connect_done(self, now, conn, result);
    }

    fn received(&mut self, now: Now, conn: ConnId, frame: Bytes) {
        Core::received(self, now, conn, frame);
    }

    fn disconnected(&mut self, conn: ConnId) {
        Core::disconnected(self, conn);
    }

    fn turn(&mut self, now: Now) {
        Core::turn(self, now);
    }

    fn take_effects(&mut self, out: &mut Vec<Effect>) {
        out.extend(self.effects());
    }

    fn sent(&mut self, conn: ConnId, bytes: usize) {
        Core::sent(self, conn, bytes);
    }

    fn next_deadline(&self) -> Option<u64> {
        Core::next_deadline(self)
    }

    fn leave(&mut self, now: Now) {
        self.now = now;
        Core::leave(self);
    }

    fn has_left(&self) -> bool {
        Core::has_left(self)
    }

    fn stop(&mut self, now: Now) {
        self.now = now;
        Core::stop(self);
    }

    fn is_quiet(&self) -> bool {
        Core::is_quiet(self)
    }
}

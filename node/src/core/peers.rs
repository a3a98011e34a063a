//! Who is at the other end of a connection.

use std::rc::Rc;

use super::store::{LogStore, Now};
use super::{ConnId, Core, ListenerId};
use crate::net::tls::Secured;
use crate::security::config::ListenerConfig;
use crate::security::{Caller, PeerCertificate, Principal};

impl<S: LogStore> Core<S> {
    /// The TLS handshake of a connection is over.
    pub fn secured(&mut self, now: Now, conn: ConnId, secured: Secured) {
        self.now = now;
        let Some(der) = secured.certificate else { return };
        let certificate = match PeerCertificate::read(&der) {
            Ok(certificate) => Rc::new(certificate),
            Err(why) => return self.close_connection(conn, why),
        };
        if let (Some(link), Some(links)) = (self.conns.link(conn), &mut self.links) {
            return links.secured(link, certificate);
        }
        let Some(connection) = self.conns.get_mut(conn) else { return };
        let caller = Caller { principal: Principal::user(&certificate.subject), ..connection.caller.as_ref().clone() };
        connection.caller = Rc::new(caller);
        connection.certificate = Some(certificate);
    }

    /// The settings of a listener.
    pub(crate) fn listener(&self, id: ListenerId) -> Option<&ListenerConfig> {
        self.listeners.get(usize::from(id.0))
    }

    /// The name under which nodes are found by clients of a listener.
    pub(crate) fn listener_name(&self, id: ListenerId) -> &str {
        self.listener(id).map_or("", |listener| &listener.name)
    }
}

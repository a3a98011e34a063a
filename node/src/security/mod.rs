//! Who is at the other end of a connection, how that is proven, and what they may do.
//!
//! ```text
//!  listener ── TLS handshake ──► certificate ─┐
//!           ── SASL exchange ──► user ────────┴─► Caller { listener, principal, host } ── authorizer, quotas
//! ```
//! Pure but for [`certificates`] and [`secrets`], which read files on a thread of their own. It must not know requests.

pub mod authorizer;
pub mod certificates;
pub mod config;
pub mod principal;
pub(crate) mod quotas;
pub mod sasl;
pub mod secrets;
#[cfg(test)]
pub(crate) mod test_certificates;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

pub use principal::{PeerCertificate, Principal};

use crate::core::ListenerId;

/// Who sends the requests of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Where it came in.
    pub listener: ListenerId,
    /// Who it is.
    pub principal: Principal,
    /// From where, an IPv4 address as such.
    pub host: IpAddr,
    /// The same as text, as ACLs have it.
    pub host_text: Rc<str>,
}

impl Caller {
    /// Somebody who has not said who it is.
    #[must_use]
    pub fn anonymous(listener: ListenerId, peer: SocketAddr) -> Rc<Self> {
        let host = peer.ip().to_canonical();
        Rc::new(Self { listener, principal: Principal::anonymous(), host, host_text: host.to_string().into() })
    }
}

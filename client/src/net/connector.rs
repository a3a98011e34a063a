//! How a connection to a broker comes to be: the seam for TLS and SASL. It knows addresses, not the protocol.

/// Makes connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connector {
    /// Plain TCP.
    #[default]
    Plain,
}

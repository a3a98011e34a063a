//! Sockets and frames: one connection, and how it is made.

mod connector;

pub use connector::Connector;

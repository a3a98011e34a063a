//! What applications see, over real sockets: real tonic clients and raw HTTP against a sidecar whose cluster is in memory.

mod hostile;
mod http;
mod lifecycle;
mod publish;
mod pull;
mod subscribe;
mod support;

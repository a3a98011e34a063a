//! A way to one broker that reconnects when it must. Whoever owns it decides how long to go on trying.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Connection, NetError};
use crate::config::ClientConfig;

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

impl Address {
    /// From `host:port`; an IPv6 host stands in brackets.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.trim().rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return None;
        }
        Some(Self { host: host.into(), port: port.parse().ok()? })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[derive(Debug, Default)]
struct State {
    current: Option<(Address, Arc<Connection>)>,
    failed: Option<(Address, Instant, NetError)>,
}

/// At most one live connection, made when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Link {
    state: tokio::sync::Mutex<State>,
}

impl Link {
    /// The live connection to `address`, or a new one. After a failure the next attempts within the first backoff get the same
    /// answer at once, so that many callers don't queue up behind as many timeouts.
    pub(crate) async fn get(&self, config: &ClientConfig, address: &Address) -> Result<Arc<Connection>, NetError> {
        let mut state = self.state.lock().await;
        if let Some((to, connection)) = &state.current
            && to == address
            && connection.is_alive()
        {
            return Ok(connection.clone());
        }
        if let Some((to, at, error)) = &state.failed
            && to == address
            && at.elapsed() < config.retry_backoff
        {
            return Err(error.clone());
        }
        state.current = None;
        match Connection::open(config, &address.host, address.port).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.failed = None;
                state.current = Some((address.clone(), connection.clone()));
                Ok(connection)
            }
            Err(error) => {
                // Nothing of the caller's was sent while the connection was being made.
                let error = match error {
                    NetError::Lost(cause) | NetError::Malformed(cause) => NetError::NotSent(cause),
                    error @ (NetError::NotSent(_) | NetError::Unsupported { .. }) => error,
                };
                state.failed = Some((address.clone(), Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse() {
        let check = |text: &str, host: &str, port| {
            assert_eq!(Address::parse(text), Some(Address { host: host.into(), port }), "{text}");
        };
        check("127.0.0.1:9092", "127.0.0.1", 9092);
        check(" broker.local:1 ", "broker.local", 1);
        check("[::1]:9092", "::1", 9092);
        for wrong in ["", "host", ":9092", "host:port", "host:70000"] {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
    }
}

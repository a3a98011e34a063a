//! One operation with many attempts: exponential backoff with jitter up to an overall deadline.
//!
//! It knows time and errors, not what is attempted.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use crate::config::ClientConfig;
use crate::error::{ClientError, Result};
use crate::net::NetError;

/// Why an attempt failed.
#[derive(Debug, Clone)]
pub(crate) enum Attempt {
    /// Try again; it certainly was not applied.
    Again(Arc<str>),
    /// Try again; it may have been applied.
    Unknown(Arc<str>),
    /// Trying again is useless.
    Fail(ClientError),
}

impl From<ClientError> for Attempt {
    fn from(error: ClientError) -> Self {
        Self::Fail(error)
    }
}

impl Attempt {
    pub(crate) fn again(cause: impl Into<Arc<str>>) -> Self {
        Self::Again(cause.into())
    }

    /// What a network error means for `what`.
    pub(crate) fn net(what: &str, error: NetError) -> Self {
        match error {
            NetError::NotSent(cause) => Self::Again(cause),
            NetError::Lost(cause) => Self::Unknown(cause),
            NetError::Malformed(cause) => Self::Unknown(cause),
            NetError::Unsupported { broker, .. } => Self::Fail(ClientError::Unsupported { what: what.into(), broker }),
        }
    }
}

/// Pauses between attempts.
pub(crate) fn pauses(config: &ClientConfig) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(config.retry_backoff)
        .with_max_delay(config.retry_backoff_max)
        .with_jitter()
        .without_max_times()
        .build()
}

/// The pause after `failures` failures in a row (from 1), with jitter.
pub(crate) fn pause_after(config: &ClientConfig, failures: u32) -> Duration {
    let nth = usize::try_from(failures.clamp(1, 32) - 1).unwrap_or(0);
    pauses(config).nth(nth).unwrap_or(config.retry_backoff_max)
}

/// Attempts until one succeeds, one fails for good, or `limit` is over. An attempt in progress at the deadline is cut off.
pub(crate) async fn retry<T, F, Fut>(config: &ClientConfig, what: &str, limit: Duration, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Attempt>>,
{
    let deadline = Instant::now() + limit;
    let mut pauses = pauses(config);
    let mut maybe_applied = false;
    let mut cause: Arc<str> = "no answer".into();
    loop {
        match tokio::time::timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(Attempt::Fail(error))) => return Err(error),
            Ok(Err(Attempt::Again(why))) => cause = why,
            Ok(Err(Attempt::Unknown(why))) => {
                maybe_applied = true;
                cause = why;
            }
            Err(_) => {
                maybe_applied = true;
                break;
            }
        }
        let pause = pauses.next().unwrap_or(config.retry_backoff_max);
        if Instant::now() + pause >= deadline {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    let what = what.into();
    Err(if maybe_applied {
        ClientError::Unknown { what, cause, waited: limit }
    } else {
        ClientError::Retry { what, cause, waited: limit }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn quick() -> ClientConfig {
        let backoff = Duration::from_millis(1);
        ClientConfig { retry_backoff: backoff, retry_backoff_max: backoff * 4, ..ClientConfig::default() }
    }

    #[tokio::test]
    async fn goes_on_until_it_succeeds() {
        let tries = Cell::new(0);
        let config = quick();
        let result = retry(&config, "x", Duration::from_secs(10), async || {
            tries.set(tries.get() + 1);
            if tries.get() < 4 { Err(Attempt::again("not yet")) } else { Ok(tries.get()) }
        });
        assert_eq!(result.await, Ok(4));
    }

    #[tokio::test]
    async fn a_failure_for_good_ends_it() {
        let error = ClientError::Closed { what: "x" };
        let result: Result<()> =
            retry(&quick(), "x", Duration::from_secs(10), async || Err(Attempt::Fail(error.clone()))).await;
        assert_eq!(result, Err(error));
    }

    #[tokio::test]
    async fn the_deadline_says_whether_it_may_have_happened() {
        let limit = Duration::from_millis(20);
        let safe: Result<()> = retry(&quick(), "x", limit, async || Err(Attempt::again("down"))).await;
        assert!(matches!(safe, Err(ClientError::Retry { .. })), "{safe:?}");
        let unsafe_: Result<()> = retry(&quick(), "x", limit, async || Err(Attempt::Unknown("lost".into()))).await;
        assert!(matches!(unsafe_, Err(ClientError::Unknown { .. })), "{unsafe_:?}");
    }
}

//! Exit codes, and what is said about an error.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed: refused, not found, damaged, or a verdict that is not good |
//! | 2 | wrong usage: arguments or YAML; nothing was done |
//! | 3 | the cluster was not reached or did not answer in time; the same command may succeed later |
//! | 130 | the demo was interrupted |

use std::io::{self, Write};
use std::process::ExitCode;

use wherry_client::ClientError;

/// Failed: refused, not found, damaged, or a verdict that is not good.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage: arguments or YAML; nothing was done.
pub(crate) const USAGE: u8 = 2;
/// The cluster was not reached or did not answer in time.
pub(crate) const UNREACHABLE: u8 = 3;
/// The demo was interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// For `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done
  1    failed: refused, not found, damaged, or a verdict that is not good
  2    wrong usage: arguments or YAML; nothing was done
  3    the cluster was not reached or did not answer in time; try again later
  130  the demo was interrupted";

/// Wrong usage, found after the arguments were parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// An error with exit code [`USAGE`].
pub(crate) fn usage(says: impl Into<String>) -> anyhow::Error {
    Usage(says.into()).into()
}

/// Says what went wrong, and chooses the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if broken_pipe(error) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    // Nothing can be done if standard error is closed.
    let _ = writeln!(io::stderr(), "wherry: {error:#}");
    ExitCode::from(code(error))
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn code(error: &anyhow::Error) -> u8 {
    let client = error.chain().find_map(|cause| cause.downcast_ref::<ClientError>());
    let usage = error.chain().any(<dyn std::error::Error>::is::<Usage>);
    match client {
        _ if usage => USAGE,
        Some(ClientError::Retry { .. } | ClientError::Unknown { .. }) => UNREACHABLE,
        Some(ClientError::Config { .. }) => USAGE,
        Some(
            ClientError::Rejected { .. }
            | ClientError::NoSuchTopic { .. }
            | ClientError::TooLarge { .. }
            | ClientError::Stale { .. }
            | ClientError::AbortOnly { .. }
            | ClientError::Fenced { .. }
            | ClientError::Corrupt { .. }
            | ClientError::OutOfRange { .. }
            | ClientError::Unsupported { .. }
            | ClientError::Closed { .. },
        )
        | None => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::Context;

    use super::*;

    fn failed(error: ClientError) -> anyhow::Error {
        Err::<(), _>(error).context("can't list the topics").expect_err("an error")
    }

    #[test]
    fn codes_say_what_to_do() {
        let waited = Duration::from_secs(1);
        assert_eq!(code(&failed(ClientError::Retry { what: "x".into(), cause: "y".into(), waited })), UNREACHABLE);
        assert_eq!(code(&failed(ClientError::NoSuchTopic { what: "x".into(), topic: "t".into() })), FAILED);
        assert_eq!(code(&failed(ClientError::Config { what: "x".into() })), USAGE);
        assert_eq!(code(&usage("no").context("more")), USAGE);
        assert_eq!(code(&anyhow::anyhow!("other")), FAILED);
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("can't write");
        assert!(broken_pipe(&error));
        assert!(!broken_pipe(&anyhow::anyhow!("other")));
    }
}

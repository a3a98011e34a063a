//! Query parameters: durations and flags, with sentences for what can't be read.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::answer::Refusal;
use crate::error::Failure;

/// Query parameters; a mistake in them is answered like any other.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        match read {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => {
                Err(Failure::invalid("INVALID_QUERY", format!("{}; correct the query", error.body_text())).into())
            }
        }
    }
}

/// `500ms`, `5s`, `2m`, `1h`, or a number of seconds such as `1.5`.
pub(super) fn duration(name: &str, text: Option<&str>) -> Result<Option<Duration>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let seconds = digits.parse::<f64>().unwrap_or(f64::NAN) * unit;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) => Ok(Some(duration)),
        Err(_) => Err(Failure::invalid(
            "INVALID_QUERY",
            format!("`{name}` is {text:?}, which is not a duration; write for example 500ms, 5s or 1.5"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        let read = |text| duration("wait", Some(text)).ok().flatten();
        assert_eq!(read("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(read("5s"), Some(Duration::from_secs(5)));
        assert_eq!(read("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(read("2m"), Some(Duration::from_secs(120)));
        for wrong in ["", "s", "-1", "5d", "1e99", "NaN", "inf", "5 s"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}

//! Calls about many items with an outcome each: retries only those that may still succeed.

use std::future::Future;

use tokio::time::Instant;

use super::Each;
use crate::config::ClientConfig;
use crate::error::{ClientError, Result};
use crate::retry::{self, Attempt};

/// What an attempt says of each item it was given, in the same order.
pub(super) type Outcomes<T> = Result<Vec<Result<T, Attempt>>, Attempt>;

enum State<T> {
    Done(Result<T>),
    Open(Attempt),
}

/// Attempts until every item has succeeded or failed for good, or the call's time is over.
pub(super) async fn each<I, T, F, Fut>(
    config: &ClientConfig,
    what: &str,
    items: Vec<I>,
    mut attempt: F,
) -> Result<Each<I, T>>
where
    I: Clone,
    F: FnMut(Vec<I>) -> Fut,
    Fut: Future<Output = Outcomes<T>>,
{
    let deadline = Instant::now() + config.call_timeout;
    let mut pauses = retry::pauses(config);
    let mut states: Vec<State<T>> = items.iter().map(|_| State::Open(Attempt::again("no answer"))).collect();
    loop {
        let open: Vec<usize> =
            (0..).zip(&states).filter(|(_, s)| matches!(s, State::Open(_))).map(|(i, _)| i).collect();
        let pending: Vec<I> = open.iter().filter_map(|i| items.get(*i).cloned()).collect();
        if pending.is_empty() {
            break;
        }
        let outcomes = tokio::time::timeout_at(deadline, attempt(pending)).await;
        match outcomes {
            Ok(Ok(outcomes)) => record(&mut states, &open, outcomes),
            Ok(Err(Attempt::Fail(error))) => return Err(error),
            Ok(Err(again)) => fail(&mut states, &open, &again),
            Err(_) => fail(&mut states, &open, &Attempt::Unknown("no answer in time".into())),
        }
        let pause = pauses.next().unwrap_or(config.retry_backoff_max);
        let finished = states.iter().all(|s| matches!(s, State::Done(_)));
        if finished || Instant::now() + pause >= deadline {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    Ok(items.into_iter().zip(states.into_iter().map(|s| close(s, what, config))).collect())
}

fn record<T>(states: &mut [State<T>], open: &[usize], outcomes: Vec<Result<T, Attempt>>) {
    for (index, outcome) in open.iter().zip(outcomes) {
        let state = match outcome {
            Ok(value) => State::Done(Ok(value)),
            Err(Attempt::Fail(error)) => State::Done(Err(error)),
            Err(again) => State::Open(again),
        };
        if let Some(place) = states.get_mut(*index) {
            *place = state;
        }
    }
}

fn fail<T>(states: &mut [State<T>], open: &[usize], again: &Attempt) {
    for index in open {
        if let Some(place) = states.get_mut(*index) {
            *place = State::Open(again.clone());
        }
    }
}

fn close<T>(state: State<T>, what: &str, config: &ClientConfig) -> Result<T> {
    let waited = config.call_timeout;
    match state {
        State::Done(result) => result,
        State::Open(Attempt::Fail(error)) => Err(error),
        State::Open(Attempt::Again(cause)) => Err(ClientError::Retry { what: what.into(), cause, waited }),
        State::Open(Attempt::Unknown(cause)) => Err(ClientError::Unknown { what: what.into(), cause, waited }),
    }
}

/// What the only attempt at an item comes to.
pub(super) fn once<T>(result: Result<T, Attempt>, what: &str, config: &ClientConfig) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(attempt) => close(State::Open(attempt), what, config),
    }
}

/// An item that an answer does not mention.
pub(super) fn unmentioned<T>() -> Result<T, Attempt> {
    Err(Attempt::Unknown("the broker left it out of its answer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::time::Duration;

    #[tokio::test]
    async fn only_what_is_open_is_tried_again() {
        let backoff = Duration::from_millis(1);
        let config = ClientConfig { retry_backoff: backoff, ..ClientConfig::default() };
        let round = Cell::new(0);
        let refused = ClientError::Closed { what: "x" };
        let result = each(&config, "x", vec![1, 2, 3], |pending| {
            round.set(round.get() + 1);
            let (round, refused) = (round.get(), refused.clone());
            async move {
                let one = |i| match (i, round) {
                    (1, _) => Ok(10),
                    (2, _) => Err(Attempt::Fail(refused.clone())),
                    (_, 1) => Err(Attempt::again("later")),
                    _ => Ok(30),
                };
                if round == 2 {
                    assert_eq!(pending, [3]);
                }
                Ok(pending.into_iter().map(one).collect())
            }
        });
        assert_eq!(result.await.unwrap(), [(1, Ok(10)), (2, Err(refused.clone())), (3, Ok(30))]);
    }
}

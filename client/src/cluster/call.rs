//! One attempt of a call, sent to the broker that it is for. Retries and error codes inside answers are the caller's.

use std::time::Duration;

use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::{Request, StrBytes};

use super::{Cluster, codes};
use crate::net::{Address, NetError};
use crate::retry::Attempt;

/// Which broker a call is for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// Whichever answers.
    Any,
    /// The one that takes controller calls.
    Controller,
    /// This one.
    Broker(i32),
    /// Wherever this is.
    At(Address),
}

/// What is coordinated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoordinatorKind {
    /// A consumer group.
    Group,
    /// A transactional id.
    Transaction,
}

impl CoordinatorKind {
    fn code(self) -> i8 {
        match self {
            Self::Group => 0,
            Self::Transaction => 1,
        }
    }
}

impl Cluster {
    /// One attempt of a call whose request is the same in every version.
    pub(crate) async fn ask<R: Request + Clone>(
        &self,
        target: &Target,
        what: &'static str,
        request: &R,
    ) -> Result<R::Response, Attempt> {
        self.ask_version(target, what, |_| request.clone()).await.map(|(answer, _)| answer)
    }

    /// One attempt of a call whose request depends on the version; the answer comes with the version used.
    pub(crate) async fn ask_version<R: Request>(
        &self,
        target: &Target,
        what: &'static str,
        build: impl Fn(i16) -> R,
    ) -> Result<(R::Response, i16), Attempt> {
        let mut last = Attempt::again(format!("{what}: the broker is not known at the moment"));
        for address in self.addresses(target) {
            match self.ask_at(&address, what, &build).await {
                Ok(answer) => return Ok(answer),
                // Nothing was sent: another broker may be asked in the same attempt.
                Err(error @ NetError::NotSent(_)) => last = Attempt::net(what, error),
                Err(error) => {
                    self.refresh_metadata();
                    return Err(Attempt::net(what, error));
                }
            }
        }
        self.refresh_metadata();
        Err(last)
    }

    async fn ask_at<R: Request>(
        &self,
        address: &Address,
        what: &'static str,
        build: impl Fn(i16) -> R,
    ) -> Result<(R::Response, i16), NetError> {
        let connection = self.connection(address).await?;
        let version = connection.version::<R>(what)?;
        let answer = connection.call(what, &build(version), Duration::ZERO).await?;
        Ok((answer, version))
    }

    /// As [`Cluster::ask`] of any broker, without asking for new metadata when it fails: metadata itself comes this way. A broker
    /// that names none has just started and knows nothing yet: the next one is asked.
    pub(crate) async fn ask_for_metadata(&self, request: &MetadataRequest) -> Result<MetadataResponse, Attempt> {
        const WHAT: &str = "metadata";
        let mut last = Attempt::again("no broker is known");
        for address in self.anywhere() {
            let answer = match self.connection(&address).await {
                Ok(connection) => connection.call(WHAT, request, Duration::ZERO).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if answer.brokers.is_empty() => last = Attempt::again("the broker knows no others yet"),
                Ok(answer) => return Ok(answer),
                Err(error) => last = Attempt::net(WHAT, error),
            }
        }
        Err(last)
    }

    fn addresses(&self, target: &Target) -> Vec<Address> {
        match target {
            Target::Any => self.anywhere(),
            Target::Controller => match self.metadata().controller.and_then(|id| self.address_of(id)) {
                Some(address) => vec![address],
                None => self.anywhere(),
            },
            Target::Broker(id) => self.address_of(*id).into_iter().collect(),
            Target::At(address) => vec![address.clone()],
        }
    }

    /// The broker that coordinates a group, or a transactional id: its id and address.
    pub(crate) async fn find_coordinator(&self, of: CoordinatorKind, key: &str) -> Result<(i32, Address), Attempt> {
        const WHAT: &str = "find coordinator";
        let key = StrBytes::from_string(key.to_owned());
        let build = |version: i16| {
            let request = FindCoordinatorRequest::default().with_key_type(of.code());
            match version {
                ..4 => request.with_key(key.clone()),
                4.. => request.with_coordinator_keys(vec![key.clone()]),
            }
        };
        let (answer, version) = self.ask_version::<FindCoordinatorRequest>(&Target::Any, WHAT, build).await?;
        let found = if version < 4 { single(answer) } else { first(answer)? };
        if let Some(error) = codes::error(found.error) {
            return Err(codes::attempt(WHAT, error, found.message.as_deref()));
        }
        let port = u16::try_from(found.port).map_err(|_| Attempt::again("a coordinator without a port"))?;
        Ok((found.id, Address { host: found.host.as_str().into(), port }))
    }
}

struct Found {
    error: i16,
    message: Option<StrBytes>,
    id: i32,
    host: StrBytes,
    port: i32,
}

fn single(answer: FindCoordinatorResponse) -> Found {
    let FindCoordinatorResponse { error_code, error_message, node_id, host, port, .. } = answer;
    Found { error: error_code, message: error_message, id: node_id.0, host, port }
}

fn first(answer: FindCoordinatorResponse) -> Result<Found, Attempt> {
    let c = answer.coordinators.into_iter().next().ok_or_else(|| Attempt::again("an answer without a coordinator"))?;
    Ok(Found { error: c.error_code, message: c.error_message, id: c.node_id.0, host: c.host, port: c.port })
}

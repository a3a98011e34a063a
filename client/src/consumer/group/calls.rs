//! One attempt of each call of the classic group protocol, and what its error codes ask of a member.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};

use crate::cluster::codes::{self, Advice};
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::net::{Address, Link, NetError};
use crate::retry::Attempt;
use crate::text::{group_id, text};

/// The protocol type of consumers.
const CONSUMER: &str = "consumer";

/// Why a member can't go on as it was.
#[derive(Debug, Clone)]
pub(super) enum Setback {
    /// Join again; what it has is still its own.
    Rejoin,
    /// Join again under this id, at once.
    NewId(Arc<str>),
    /// The coordinator has given it up: what it had is lost.
    Lost,
    /// The coordinator is elsewhere, or can't be reached: look for it and try again.
    Coordinator(Arc<str>),
    /// Try again.
    Later(Arc<str>),
    /// Useless.
    Fatal(ClientError),
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) group: Arc<str>,
    pub(super) member_id: Arc<str>,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) generation: i32,
}

fn setback(what: &str, group: &str, code: i16) -> Result<(), Setback> {
    use ResponseError as E;
    let Some(error) = codes::error(code) else { return Ok(()) };
    Err(match error {
        E::RebalanceInProgress => Setback::Rejoin,
        E::UnknownMemberId | E::IllegalGeneration => Setback::Lost,
        E::FencedInstanceId => {
            let what = format!("member of group {group}").into();
            Setback::Fatal(ClientError::Fenced { what, name: codes::name(error) })
        }
        other => match codes::advice(other) {
            Advice::Elsewhere => Setback::Coordinator(codes::describe(other, None).into()),
            Advice::Again | Advice::Unknown => Setback::Later(codes::describe(other, None).into()),
            Advice::Fail => Setback::Fatal(codes::rejected(&format!("{what} {group}"), other, None)),
        },
    })
}

fn net(what: &str, error: NetError) -> Setback {
    match Attempt::net(what, error) {
        Attempt::Again(cause) | Attempt::Unknown(cause) => Setback::Coordinator(cause),
        Attempt::Fail(error) => Setback::Fatal(error),
    }
}

/// The member's own connection to the coordinator: a join may wait there for long.
pub(super) struct Coordinator<'a> {
    pub(super) config: &'a ClientConfig,
    pub(super) link: &'a Link,
    pub(super) address: Address,
}

impl Coordinator<'_> {
    async fn call<R: Request>(
        &self,
        what: &'static str,
        patience: Duration,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, Setback> {
        let connection = self.link.get(self.config, &self.address).await.map_err(|e| net(what, e))?;
        let version = connection.version::<R>(what).map_err(|e| net(what, e))?;
        connection.call(what, &build(version), patience).await.map_err(|e| net(what, e))
    }

    pub(super) async fn join(
        &self,
        caller: &Caller,
        protocols: Vec<(&'static str, Bytes)>,
        session_timeout: Duration,
        rebalance_timeout: Duration,
    ) -> Result<JoinGroupResponse, Setback> {
        const WHAT: &str = "join group";
        let ms = |d: Duration| i32::try_from(d.as_millis()).unwrap_or(i32::MAX);
        let protocol = |(name, metadata): (&'static str, Bytes)| {
            JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str(name)).with_metadata(metadata)
        };
        let build = |version: i16| {
            JoinGroupRequest::default()
                .with_group_id(group_id(&caller.group))
                .with_session_timeout_ms(ms(session_timeout))
                .with_rebalance_timeout_ms(ms(rebalance_timeout))
                .with_member_id(text(&caller.member_id))
                .with_group_instance_id(caller.instance_id.as_ref().filter(|_| version >= 5).map(|i| text(i)))
                .with_protocol_type(StrBytes::from_static_str(CONSUMER))
                .with_protocols(protocols.into_iter().map(protocol).collect())
        };
        let answer = self.call(WHAT, rebalance_timeout, build).await?;
        if codes::error(answer.error_code) == Some(ResponseError::MemberIdRequired) {
            return Err(Setback::NewId(answer.member_id.as_str().into()));
        }
        setback(WHAT, &caller.group, answer.error_code)?;
        Ok(answer)
    }

    pub(super) async fn sync(
        &self,
        caller: &Caller,
        protocol: &str,
        assignments: Vec<(Arc<str>, Bytes)>,
        rebalance_timeout: Duration,
    ) -> Result<Bytes, Setback> {
        const WHAT: &str = "sync group";
        let assignment = |(member, bytes): (Arc<str>, Bytes)| {
            SyncGroupRequestAssignment::default().with_member_id(text(&member)).with_assignment(bytes)
        };
        let build = |version: i16| {
            SyncGroupRequest::default()
                .with_group_id(group_id(&caller.group))
                .with_generation_id(caller.generation)
                .with_member_id(text(&caller.member_id))
                .with_group_instance_id(caller.instance_id.as_ref().filter(|_| version >= 3).map(|i| text(i)))
                .with_protocol_type((version >= 5).then(|| StrBytes::from_static_str(CONSUMER)))
                .with_protocol_name((version >= 5).then(|| text(protocol)))
                .with_assignments(assignments.into_iter().map(assignment).collect())
        };
        let answer = self.call(WHAT, rebalance_timeout, build).await?;
        setback(WHAT, &caller.group, answer.error_code)?;
        Ok(answer.assignment)
    }

    pub(super) async fn heartbeat(&self, caller: &Caller) -> Result<(), Setback> {
        const WHAT: &str = "heartbeat in group";
        let build = |version: i16| {
            HeartbeatRequest::default()
                .with_group_id(group_id(&caller.group))
                .with_generation_id(caller.generation)
                .with_member_id(text(&caller.member_id))
                .with_group_instance_id(caller.instance_id.as_ref().filter(|_| version >= 3).map(|i| text(i)))
        };
        let answer = self.call(WHAT, Duration::ZERO, build).await?;
        setback(WHAT, &caller.group, answer.error_code)
    }

    pub(super) async fn leave(&self, caller: &Caller) -> Result<(), Setback> {
        const WHAT: &str = "leave group";
        let build = |version: i16| {
            let request = LeaveGroupRequest::default().with_group_id(group_id(&caller.group));
            match version {
                ..3 => request.with_member_id(text(&caller.member_id)),
                3.. => {
                    let member = MemberIdentity::default().with_member_id(text(&caller.member_id));
                    request.with_members(vec![member.with_group_instance_id(None)])
                }
            }
        };
        let answer = self.call(WHAT, Duration::ZERO, build).await?;
        setback(WHAT, &caller.group, answer.error_code)
    }
}

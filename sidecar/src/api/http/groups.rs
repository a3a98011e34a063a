//! Groups over HTTP.

use axum::Json;
use axum::extract::{Path, Request, State};
use serde::{Deserialize, Serialize};
use wherry_proto::v1::seek_request::Target;
use wherry_proto::v1::{
    GetGroupResponse, GroupMember, GroupPosition, PartitionOffset, SeekOffsets, SeekPosition, SeekRequest,
};

use super::answer::Refusal;
use super::body;
use crate::api::groups;
use crate::backend::Backend;
use crate::error::Failure;
use crate::limits;
use crate::shared::Shared;

/// Largest body: as many offsets as may be named, with room for spaces.
const BODY_BYTES: usize = limits::OFFSETS * 128;

#[derive(Debug, Serialize)]
pub(super) struct GroupJson {
    group: String,
    state: String,
    members: Vec<MemberJson>,
    positions: Vec<PositionJson>,
}

#[derive(Debug, Serialize)]
struct MemberJson {
    member_id: String,
    client_id: String,
    host: String,
    assignment: Vec<PartitionsJson>,
    here: bool,
}

#[derive(Debug, Serialize)]
struct PartitionsJson {
    topic: String,
    partitions: Vec<i32>,
}

#[derive(Debug, Serialize)]
struct PositionJson {
    topic: String,
    partition: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    committed_offset: Option<i64>,
    end_offset: i64,
    lag: i64,
}

/// `GET /v1/groups/{group}`
pub(super) async fn get<B: Backend>(
    State(shared): State<Shared<B>>,
    Path(group): Path<String>,
) -> Result<Json<GroupJson>, Refusal> {
    let GetGroupResponse { group, state, members, positions } = groups::describe(&shared, &group).await?;
    let members = members.into_iter().map(member).collect();
    Ok(Json(GroupJson { group, state, members, positions: positions.into_iter().map(position).collect() }))
}

fn member(member: GroupMember) -> MemberJson {
    let GroupMember { member_id, client_id, host, assignment, here } = member;
    let assignment = assignment.into_iter().map(|of| PartitionsJson { topic: of.topic, partitions: of.partitions });
    MemberJson { member_id, client_id, host, assignment: assignment.collect(), here }
}

fn position(position: GroupPosition) -> PositionJson {
    let GroupPosition { topic, partition, committed_offset, end_offset, lag } = position;
    PositionJson { topic, partition, committed_offset, end_offset, lag }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seek {
    topic: String,
    position: Option<PositionName>,
    timestamp: Option<jiff::Timestamp>,
    offsets: Option<Vec<OffsetJson>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PositionName {
    Earliest,
    Latest,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OffsetJson {
    #[serde(default)]
    topic: String,
    partition: i32,
    offset: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct SoughtJson {
    offsets: Vec<OffsetJson>,
}

/// `POST /v1/groups/{group}/seek`
pub(super) async fn seek<B: Backend>(
    State(shared): State<Shared<B>>,
    Path(group): Path<String>,
    request: Request,
) -> Result<Json<SoughtJson>, Refusal> {
    let asked: Seek = body::json(request.into_body(), BODY_BYTES, &shared.limits).await?;
    let topic = asked.topic.clone();
    let request = SeekRequest { group, topic, target: Some(target(asked)?) };
    let offsets = groups::seek(&shared, request).await?.offsets;
    let offset = |of: PartitionOffset| OffsetJson { topic: of.topic, partition: of.partition, offset: of.offset };
    Ok(Json(SoughtJson { offsets: offsets.into_iter().map(offset).collect() }))
}

fn target(asked: Seek) -> Result<Target, Failure> {
    match (asked.position, asked.timestamp, asked.offsets) {
        (Some(PositionName::Earliest), None, None) => Ok(Target::Position(SeekPosition::Earliest.into())),
        (Some(PositionName::Latest), None, None) => Ok(Target::Position(SeekPosition::Latest.into())),
        (None, Some(time), None) => {
            let time = prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() };
            Ok(Target::Timestamp(time))
        }
        (None, None, Some(offsets)) => {
            let place =
                |of: OffsetJson| PartitionOffset { topic: of.topic, partition: of.partition, offset: of.offset };
            Ok(Target::Offsets(SeekOffsets { offsets: offsets.into_iter().map(place).collect() }))
        }
        _ => Err(Failure::invalid("INVALID", "give one of `position`, `timestamp` and `offsets`")),
    }
}

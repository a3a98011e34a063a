//! A member of a consumer group: joins, takes its part, reads it, commits what it read; stalls, leaves and crashes.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use wherry_wire::codec::messages::join_group_request::JoinGroupRequestProtocol;
use wherry_wire::codec::messages::leave_group_request::MemberIdentity;
use wherry_wire::codec::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use wherry_wire::codec::messages::offset_fetch_request::OffsetFetchRequestTopic;
use wherry_wire::codec::messages::sync_group_request::SyncGroupRequestAssignment;
use wherry_wire::codec::messages::{
    FetchRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest,
};

use super::fetched::{Isolation, visible};
use super::reader::{FETCH, fetch, saw};
use super::view::Leader;
use super::{Client, Io, View, Wire, receive, text, topic_name};
use crate::host::node_of;
use crate::oracle::{Oracle, Place};

const GROUP: &str = "readers";
const JOIN: i16 = 9;
const SYNC: i16 = 5;
const HEARTBEAT: i16 = 4;
const LEAVE: i16 = 4;
const COMMIT: i16 = 8;
const OFFSETS: i16 = 7;
const COORDINATOR: i16 = 4;

const OUT_OF_RANGE: i16 = 1;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const REBALANCE: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
const FENCED: i16 = 82;

const HEARTBEAT_MS: u64 = 700;
const SESSION_MS: i32 = 6_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// To join, perhaps again.
    Out,
    /// To fetch the assignment.
    Joined,
    /// To ask how far the group has come.
    Assigned,
    Running,
}

#[derive(Debug)]
enum Asked {
    View,
    Coordinator,
    Join,
    Sync,
    /// With what must be known at least.
    Offsets(Vec<(Place, i64)>),
    Check(Vec<(Place, i64)>),
    Heartbeat,
    Commit(Vec<(Place, i64)>),
    Fetch,
    Leave,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Member {
    places: Vec<Place>,
    instance: Option<String>,
    wire: Wire,
    view: View,
    /// The node that coordinates the group, as far as is known.
    coordinator: Option<usize>,
    open: Option<(usize, i32, Asked)>,
    phase: Phase,
    member_id: String,
    generation: i32,
    /// What a leader was told.
    to_assign: Vec<String>,
    next: BTreeMap<Place, i64>,
    committed: BTreeMap<Place, i64>,
    heartbeat_at_ms: u64,
    stalled_until_ms: u64,
    checked: bool,
    /// The coordinator may be another one, or have been restarted: to ask what it knows before it is told again.
    doubtful: bool,
}

impl Member {
    pub(crate) fn new(places: &[Place], instance: Option<String>) -> Self {
        Self {
            places: places.to_vec(),
            instance,
            wire: Wire::default(),
            view: View::default(),
            coordinator: None,
            open: None,
            phase: Phase::Out,
            member_id: String::new(),
            generation: -1,
            to_assign: Vec::new(),
            next: BTreeMap::new(),
            committed: BTreeMap::new(),
            heartbeat_at_ms: 0,
            stalled_until_ms: 0,
            checked: false,
            doubtful: false,
        }
    }

    fn act(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let Some(coordinator) = self.coordinator else { return self.find_coordinator(io) };
        match self.phase {
            Phase::Out => self.join(io, coordinator),
            Phase::Joined => self.sync(io, coordinator),
            Phase::Assigned => {
                let places: Vec<Place> = self.next.keys().copied().collect();
                let floors = self.ask_offsets(io, coordinator, &places)?;
                self.open = Some((coordinator, floors.0, Asked::Offsets(floors.1)));
                Ok(())
            }
            Phase::Running => self.run(io, coordinator),
        }
    }

    fn find_coordinator(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let request = FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(vec![text(GROUP)]);
        let node = io.any_node();
        self.open = Some((node, self.wire.send(io, node, COORDINATOR, &request)?, Asked::Coordinator));
        Ok(())
    }

    fn found_coordinator(&mut self, io: &Io<'_>, frame: &Bytes, correlation: i32) -> Result<(), String> {
        let response = receive::<FindCoordinatorRequest>(frame, COORDINATOR, correlation)?;
        let Some(found) = response.coordinators.first() else { return Err("no coordinator was answered".into()) };
        match found.error_code {
            0 => {
                let port = u16::try_from(found.port).unwrap_or(0);
                let node = node_of(&found.host, port).filter(|node| *node < io.nodes);
                let Some(node) = node else { return Err(format!("a coordinator at {}:{port}", &*found.host)) };
                self.coordinator = Some(node);
                Ok(())
            }
            code if io.is_retriable(code) => Ok(()),
            code => Err(format!("FindCoordinator failed with {code}")),
        }
    }

    fn run(&mut self, io: &mut Io<'_>, coordinator: usize) -> Result<(), String> {
        if io.now_ms >= self.heartbeat_at_ms {
            return self.heartbeat(io, coordinator);
        }
        if self.doubtful || io.calm && !self.checked && is_committed(io.oracle, &self.places) {
            self.doubtful = false;
            let (correlation, floors) = self.ask_offsets(io, coordinator, &self.places.clone())?;
            self.open = Some((coordinator, correlation, Asked::Check(floors)));
            return Ok(());
        }
        if !io.calm {
            match io.rng.below(1_000) {
                0..3 => return self.leave(io, coordinator),
                3..8 => {
                    self.crash();
                    io.hang_up = true;
                    return Ok(());
                }
                8..10 => {
                    self.stalled_until_ms = io.now_ms + io.rng.between(1_000, 9_000);
                    return Ok(());
                }
                _ => {}
            }
        }
        let uncommitted = self.next.iter().any(|(place, next)| self.committed.get(place) != Some(next));
        if uncommitted && io.rng.chance(40) {
            self.commit(io, coordinator)
        } else if !self.view.is_fresh() && io.rng.chance(50) {
            let (node, correlation) = self.view.ask(io, &mut self.wire)?;
            self.open = Some((node, correlation, Asked::View));
            Ok(())
        } else {
            self.fetch(io)
        }
    }

    /// Reads what one node leads of this member's part.
    fn fetch(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let led = |(place, next): (&Place, &i64)| self.view.leader(*place).map(|leader| (*place, *next, leader));
        let led: Vec<(Place, i64, Leader)> = self.next.iter().filter_map(led).collect();
        let Some((_, _, Leader { node, .. })) = led.get(io.rng.below(led.len())).copied() else { return Ok(()) };
        let there = led.iter().filter(|(_, _, leader)| leader.node == node);
        let request =
            fetch(io, Isolation::Uncommitted, there.map(|(place, next, leader)| (*place, *next, leader.epoch)));
        self.open = Some((node, self.wire.send(io, node, FETCH, &request)?, Asked::Fetch));
        Ok(())
    }

    /// The process is gone; another one knows only its instance id.
    fn crash(&mut self) {
        self.member_id.clear();
        self.expel();
    }

    fn expel(&mut self) {
        self.phase = Phase::Out;
        self.next.clear();
        self.committed.clear();
    }

    fn join(&mut self, io: &mut Io<'_>, to: usize) -> Result<(), String> {
        let topics: Vec<&str> = topics_of(&self.places);
        let protocol =
            JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(subscription(&topics));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_session_timeout_ms(SESSION_MS)
            .with_rebalance_timeout_ms(4_000)
            .with_member_id(text(&self.member_id))
            .with_group_instance_id(self.instance.as_deref().map(text))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        self.open = Some((to, self.wire.send(io, to, JOIN, &request)?, Asked::Join));
        Ok(())
    }

    fn sync(&mut self, io: &mut Io<'_>, to: usize) -> Result<(), String> {
        let mut parts: Vec<(String, Vec<Place>)> = self.to_assign.iter().map(|id| (id.clone(), Vec::new())).collect();
        if !parts.is_empty() {
            let count = parts.len();
            let start = io.rng.below(count);
            for (at, place) in self.places.iter().enumerate() {
                parts[(start + at) % count].1.push(*place);
            }
        }
        let assignments = parts.iter().map(|(id, places)| {
            SyncGroupRequestAssignment::default().with_member_id(text(id)).with_assignment(encode(places))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id))
            .with_group_instance_id(self.instance.as_deref().map(text))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.collect());
        self.open = Some((to, self.wire.send(io, to, SYNC, &request)?, Asked::Sync));
        Ok(())
    }

    fn heartbeat(&mut self, io: &mut Io<'_>, to: usize) -> Result<(), String> {
        self.heartbeat_at_ms = io.now_ms + HEARTBEAT_MS;
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id))
            .with_group_instance_id(self.instance.as_deref().map(text));
        self.open = Some((to, self.wire.send(io, to, HEARTBEAT, &request)?, Asked::Heartbeat));
        Ok(())
    }

    fn leave(&mut self, io: &mut Io<'_>, to: usize) -> Result<(), String> {
        let member = MemberIdentity::default()
            .with_member_id(text(&self.member_id))
            .with_group_instance_id(self.instance.as_deref().map(text));
        let request = LeaveGroupRequest::default().with_group_id(GroupId(text(GROUP))).with_members(vec![member]);
        self.crash();
        self.open = Some((to, self.wire.send(io, to, LEAVE, &request)?, Asked::Leave));
        Ok(())
    }

    fn commit(&mut self, io: &mut Io<'_>, to: usize) -> Result<(), String> {
        let offsets: Vec<(Place, i64)> = self.next.iter().map(|(place, next)| (*place, *next)).collect();
        let mut request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(text(&self.member_id))
            .with_group_instance_id(self.instance.as_deref().map(text));
        for ((topic, partition), offset) in &offsets {
            io.oracle.groups.committing((topic, *partition), *offset);
            let part = OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(text("")));
            let topic = OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![part]);
            request.topics.push(topic);
        }
        self.open = Some((to, self.wire.send(io, to, COMMIT, &request)?, Asked::Commit(offsets)));
        Ok(())
    }

    fn ask_offsets(
        &mut self,
        io: &mut Io<'_>,
        to: usize,
        places: &[Place],
    ) -> Result<(i32, Vec<(Place, i64)>), String> {
        let topics = places.iter().map(|(topic, partition)| {
            OffsetFetchRequestTopic::default().with_name(topic_name(topic)).with_partition_indexes(vec![*partition])
        });
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_topics(Some(topics.collect()))
            .with_require_stable(true);
        let floors = places.iter().map(|place| (*place, io.oracle.groups.floor(*place))).collect();
        Ok((self.wire.send(io, to, OFFSETS, &request)?, floors))
    }

    /// What an error code means to a member; `Ok(true)`: there was none.
    fn heed(&mut self, io: &Io<'_>, code: i16) -> Result<bool, String> {
        match code {
            0 => return Ok(true),
            UNKNOWN_MEMBER | FENCED => self.crash(),
            ILLEGAL_GENERATION | REBALANCE => self.expel(),
            code if io.is_retriable(code) => self.coordinator = None,
            code => return Err(format!("a member in {:?} was refused with {code}", self.phase)),
        }
        Ok(false)
    }

    fn joined(&mut self, io: &Io<'_>, response: &JoinGroupResponse) -> Result<(), String> {
        if response.error_code == MEMBER_ID_REQUIRED {
            self.member_id = response.member_id.to_string();
            return Ok(());
        }
        if self.heed(io, response.error_code)? {
            self.member_id = response.member_id.to_string();
            self.generation = response.generation_id;
            let leads = response.leader == response.member_id && !response.skip_assignment;
            let ids = response.members.iter().map(|m| m.member_id.to_string());
            self.to_assign = if leads { ids.collect() } else { Vec::new() };
            self.phase = Phase::Joined;
        }
        Ok(())
    }

    fn assigned(&mut self, io: &mut Io<'_>, assignment: &[u8]) -> Result<(), String> {
        let places = decode(assignment, &self.places)?;
        let name = self.instance.as_deref().unwrap_or(&self.member_id);
        io.oracle.groups.assigned(self.generation, name, &places)?;
        self.next = places.into_iter().map(|place| (place, -1)).collect();
        self.committed.clear();
        self.heartbeat_at_ms = io.now_ms + HEARTBEAT_MS;
        self.phase = Phase::Assigned;
        Ok(())
    }

    fn told_offsets(
        &mut self,
        io: &mut Io<'_>,
        response: &OffsetFetchResponse,
        floors: &[(Place, i64)],
        start: bool,
    ) -> Result<bool, String> {
        if !self.heed(io, response.error_code)? {
            return Ok(false);
        }
        for (place, floor) in floors {
            let topics = response.topics.iter().filter(|topic| topic.name.as_str() == place.0);
            let Some(part) = topics.flat_map(|t| &t.partitions).find(|p| p.partition_index == place.1) else {
                return Err(format!("{place:?} was not answered"));
            };
            if io.is_retriable(part.error_code) {
                self.coordinator = None;
                return Ok(false);
            }
            if part.error_code != 0 {
                return Err(format!("{place:?}: no offset, but error {}", part.error_code));
            }
            io.oracle.groups.fetched(*place, *floor, part.committed_offset)?;
            if start && let Some(next) = self.next.get_mut(place) {
                *next = part.committed_offset.max(0);
                self.committed.insert(*place, part.committed_offset);
            }
        }
        Ok(true)
    }

    fn fetched(&mut self, io: &mut Io<'_>, frame: &Bytes, correlation: i32) -> Result<(), String> {
        let response = receive::<FetchRequest>(frame, FETCH, correlation)?;
        for topic in &response.responses {
            for data in &topic.partitions {
                let place = self.places.iter().find(|(t, p)| *t == topic.topic.as_str() && *p == data.partition_index);
                let Some(place) = place else { return Err("a partition that nobody asked for".into()) };
                let Some(next) = self.next.get_mut(place) else { continue };
                match data.error_code {
                    0 => {}
                    // Offsets come from the coordinator, so this member may know of more than a deposed leader does.
                    OUT_OF_RANGE if io.nodes > 1 && !io.calm => self.view.doubt(),
                    code if io.is_retriable(code) => self.view.doubt(),
                    code => return Err(format!("{place:?}: a fetch at {next} failed with {code}")),
                }
                for (offset, seen) in visible(data, *next, Isolation::Uncommitted)? {
                    saw(io.oracle, *place, offset, &seen, Isolation::Uncommitted)?;
                    io.oracle.groups.delivered(*place, offset)?;
                    *next = offset + 1;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, io: &mut Io<'_>, frame: &Bytes, correlation: i32, asked: Asked) -> Result<(), String> {
        match asked {
            Asked::View => self.view.learn(io, frame, correlation),
            Asked::Coordinator => self.found_coordinator(io, frame, correlation),
            Asked::Join => self.joined(io, &receive::<JoinGroupRequest>(frame, JOIN, correlation)?),
            Asked::Sync => {
                let response = receive::<SyncGroupRequest>(frame, SYNC, correlation)?;
                if self.heed(io, response.error_code)? {
                    self.assigned(io, &response.assignment)?;
                } else if self.phase == Phase::Joined {
                    // The coordinator is not to be had: what it knows of this generation is uncertain.
                    self.expel();
                }
                Ok(())
            }
            Asked::Offsets(floors) => {
                let response = receive::<OffsetFetchRequest>(frame, OFFSETS, correlation)?;
                if self.told_offsets(io, &response, &floors, true)? {
                    self.phase = Phase::Running;
                }
                Ok(())
            }
            Asked::Check(floors) => {
                let response = receive::<OffsetFetchRequest>(frame, OFFSETS, correlation)?;
                let told = self.told_offsets(io, &response, &floors, false)?;
                self.checked = told && io.calm && is_committed(io.oracle, &self.places);
                Ok(())
            }
            Asked::Heartbeat => {
                let response = receive::<HeartbeatRequest>(frame, HEARTBEAT, correlation)?;
                self.heed(io, response.error_code).map(|_| ())
            }
            Asked::Commit(offsets) => {
                let response = receive::<OffsetCommitRequest>(frame, COMMIT, correlation)?;
                let codes: Vec<i16> =
                    response.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
                for ((place, offset), code) in offsets.into_iter().zip(codes) {
                    if self.heed(io, code)? {
                        io.oracle.groups.committed(place, offset);
                        self.committed.insert(place, offset);
                    }
                }
                Ok(())
            }
            Asked::Fetch => self.fetched(io, frame, correlation),
            Asked::Leave => receive::<LeaveGroupRequest>(frame, LEAVE, correlation).map(|_| ()),
        }
    }
}

fn is_committed(oracle: &Oracle, places: &[Place]) -> bool {
    places.iter().all(|place| oracle.groups.floor(*place) >= oracle.logs.end(*place))
}

fn topics_of(places: &[Place]) -> Vec<&'static str> {
    let mut topics: Vec<&'static str> = places.iter().map(|(topic, _)| *topic).collect();
    topics.dedup();
    topics
}

/// A ConsumerProtocolSubscription of version 1.
fn subscription(topics: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(1);
    out.put_i32(i32::try_from(topics.len()).unwrap_or(0));
    for topic in topics {
        out.put_i16(i16::try_from(topic.len()).unwrap_or(0));
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(-1);
    out.put_i32(0);
    out.freeze()
}

/// An assignment as the members of this group understand it: indexes are of no interest to the coordinator.
fn encode(places: &[Place]) -> Bytes {
    let text: Vec<String> = places.iter().map(|(topic, partition)| format!("{topic}:{partition}")).collect();
    text.join(",").into()
}

fn decode(assignment: &[u8], places: &[Place]) -> Result<Vec<Place>, String> {
    let text = std::str::from_utf8(assignment).map_err(|_| "an assignment that no leader made")?;
    let find = |part: &str| places.iter().find(|(topic, partition)| part == format!("{topic}:{partition}")).copied();
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| find(part).ok_or_else(|| format!("an assignment that no leader made: {text}"))).collect()
}

impl Client for Member {
    fn connected(&mut self, _: &mut Io<'_>) {}

    fn frame(&mut self, io: &mut Io<'_>, _: usize, frame: Bytes) -> Result<(), String> {
        let Some((_, correlation, asked)) = self.open.take() else { return Err("a response to nothing".into()) };
        self.take(io, &frame, correlation, asked)
    }

    fn closed(&mut self, _: &mut Io<'_>, node: usize) {
        if self.coordinator == Some(node) {
            self.coordinator = None;
            self.doubtful = true;
        }
        self.view.doubt();
        if self.open.as_ref().is_none_or(|(at, _, _)| *at != node) {
            return;
        }
        // What was asked may or may not have happened; joining again finds out.
        if matches!(self.open, Some((_, _, Asked::Join | Asked::Sync))) {
            self.phase = Phase::Out;
        }
        self.open = None;
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        if self.open.is_some() || (!io.calm && io.now_ms < self.stalled_until_ms) {
            return;
        }
        let verdict = self.act(io);
        io.oracle.judge(verdict);
    }

    fn is_done(&self, oracle: &Oracle) -> bool {
        self.checked && is_committed(oracle, &self.places)
    }

    fn state(&self) -> String {
        format!(
            "member '{}' ({:?}): {:?}, generation {}, next {:?}, committed {:?}, open {:?}",
            self.member_id, self.instance, self.phase, self.generation, self.next, self.committed, self.open
        )
    }

    fn look_again(&mut self) {
        self.checked = false;
    }
}

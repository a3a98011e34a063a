//! DescribeQuorum, AddRaftVoter and RemoveRaftVoter: the metadata quorum. Only its leader knows how far the others are and
//! may change who votes, so it is asked, and any node may be.

use uuid::Uuid;
use wherry_wire::codec::messages::describe_quorum_request::TopicData as AskedTopic;
use wherry_wire::codec::messages::describe_quorum_response::{Listener, Node, PartitionData, ReplicaState, TopicData};
use wherry_wire::codec::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, BrokerId, DescribeQuorumRequest, DescribeQuorumResponse,
    RemoveRaftVoterRequest, RemoveRaftVoterResponse,
};
use wherry_wire::codec::{ResponseError, StrBytes};

use super::errors::ApiError;
use super::{Ctx, Outcome};
use crate::cluster::asks::{Answer, Question, QuorumView};
use crate::config::host_and_port;
use crate::core::Core;
use crate::core::store::LogStore;

/// What Kafka calls the log of the metadata.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// What the one listener of a node is called.
const LISTENER: &str = "PLAINTEXT";
/// First version that names nodes and their data directories.
const NODES_FROM: i16 = 2;
/// Partitions that a request may name: there is one.
const MAX_ASKED: usize = 16;
const UNKNOWN_TIME: i64 = -1;

/// Asks the leader how far everyone is.
pub(crate) fn describe<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DescribeQuorumRequest) -> Outcome {
    let known = |topic: &AskedTopic| {
        topic.topic_name.as_str() == METADATA_TOPIC && topic.partitions.iter().all(|p| p.partition_index == 0)
    };
    if request.topics.iter().all(known) {
        return core.ask_leader(ctx, Question::Describe);
    }
    let topics = request.topics.iter().take(MAX_ASKED).map(|topic| {
        let partitions = topic.partitions.iter().take(MAX_ASKED).map(|partition| {
            PartitionData::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(ResponseError::UnknownTopicOrPartition.code())
        });
        TopicData::default().with_topic_name(topic.topic_name.clone()).with_partitions(partitions.collect())
    });
    let response = DescribeQuorumResponse::default().with_topics(topics.collect());
    ctx.reply(&response)
}

/// The leader said how far everyone is.
pub(crate) fn described<S: LogStore>(core: &Core<S>, ctx: &Ctx, answer: Result<Answer, ApiError>) -> Outcome {
    let mut response = DescribeQuorumResponse::default();
    match answer {
        Ok(Answer::Quorum(view)) => {
            let mut partition = partition(core, &view);
            if ctx.version < NODES_FROM {
                let states = partition.current_voters.iter_mut().chain(&mut partition.observers);
                states.for_each(|state| state.replica_directory_id = Uuid::nil());
            }
            let topic = TopicData::default().with_topic_name(StrBytes::from_static_str(METADATA_TOPIC).into());
            response.topics = vec![topic.with_partitions(vec![partition])];
            if ctx.version >= NODES_FROM {
                response.nodes = voters(core);
            }
        }
        Ok(Answer::Done | Answer::Refused { .. }) => response.error_code = ResponseError::UnknownServerError.code(),
        Err(error) => {
            response.error_code = error.code();
            if ctx.version >= NODES_FROM {
                response.error_message = error.text();
            }
        }
    }
    ctx.reply(&response)
}

fn partition<S: LogStore>(core: &Core<S>, view: &QuorumView) -> PartitionData {
    let members = &core.consensus.quorum.status().members;
    let state = |node: &i32| {
        let end = view.ends.iter().find(|(id, _)| id == node).and_then(|(_, end)| *end);
        let caught_up = if end == Some(view.log_end) { core.now.wall_ms } else { UNKNOWN_TIME };
        ReplicaState::default()
            .with_replica_id(BrokerId(*node))
            .with_replica_directory_id(members.all.get(node).map_or(Uuid::nil(), |member| member.directory))
            .with_log_end_offset(end.map_or(-1, signed))
            .with_last_fetch_timestamp(caught_up)
            .with_last_caught_up_timestamp(caught_up)
    };
    PartitionData::default()
        .with_leader_id(BrokerId(view.leader))
        .with_leader_epoch(i32::try_from(view.term).unwrap_or(i32::MAX))
        .with_high_watermark(signed(view.committed))
        .with_current_voters(members.voters.iter().map(state).collect())
        .with_observers(members.learners.iter().map(state).collect())
}

fn voters<S: LogStore>(core: &Core<S>) -> Vec<Node> {
    let members = &core.consensus.quorum.status().members;
    let listener = |addr: &str| {
        let (host, port) = host_and_port(addr).unwrap_or_default();
        let name = StrBytes::from_static_str(LISTENER);
        Listener::default().with_name(name).with_host(StrBytes::from_string(host)).with_port(port)
    };
    let voting = members.voters.iter().filter_map(|node| Some((node, members.all.get(node)?)));
    let node = |(node, member): (&i32, &wherry_metadata::quorum::Member)| {
        Node::default().with_node_id(BrokerId(*node)).with_listeners(vec![listener(&member.addr)])
    };
    voting.map(node).collect()
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Refuses a request that means another cluster.
fn check_cluster<S: LogStore>(core: &Core<S>, asked: Option<&StrBytes>) -> Result<(), ApiError> {
    match (asked, core.meta.cluster_id()) {
        (Some(asked), Some(id)) if asked.as_str() != id => {
            let text = format!("this is cluster '{id}', not '{}'", super::errors::shown(asked));
            Err(ApiError::new(ResponseError::InconsistentClusterId, text))
        }
        _ => Ok(()),
    }
}

/// Asks the leader to let a node vote.
pub(crate) fn add_voter<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &AddRaftVoterRequest) -> Outcome {
    if let Err(error) = check_cluster(core, request.cluster_id.as_ref()) {
        return added(ctx, Err(error));
    }
    core.ask_leader(ctx, Question::AddVoter { node_id: request.voter_id, directory: request.voter_directory_id })
}

/// What became of it.
pub(crate) fn added(ctx: &Ctx, answer: Result<Answer, ApiError>) -> Outcome {
    let mut response = AddRaftVoterResponse::default();
    if let Err(error) = answer {
        response.error_code = error.code();
        response.error_message = error.text();
    }
    ctx.reply(&response)
}

/// Asks the leader to take a node's vote.
pub(crate) fn remove_voter<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &RemoveRaftVoterRequest) -> Outcome {
    if let Err(error) = check_cluster(core, request.cluster_id.as_ref()) {
        return removed(ctx, Err(error));
    }
    core.ask_leader(ctx, Question::RemoveVoter { node_id: request.voter_id, directory: request.voter_directory_id })
}

/// What became of it.
pub(crate) fn removed(ctx: &Ctx, answer: Result<Answer, ApiError>) -> Outcome {
    let mut response = RemoveRaftVoterResponse::default();
    if let Err(error) = answer {
        response.error_code = error.code();
        response.error_message = error.text();
    }
    ctx.reply(&response)
}

//! UnregisterBroker: the cluster forgets a node that is gone for good.

use wherry_metadata::{Change, Command, MetadataError};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};

use super::errors::ApiError;
use super::{Ctx, Outcome};
use crate::cluster::asks::{Answer, Question};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};

/// Forgets the node, unless it runs, has replicas or votes.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &UnregisterBrokerRequest) -> Outcome {
    let node_id = request.broker_id.0;
    let members = &core.consensus.quorum.status().members;
    if members.voters.contains(&node_id) {
        let text = format!("node {node_id} votes on the metadata; take its vote first (RemoveRaftVoter)");
        return ctx.reply(&response(&ApiError::new(ResponseError::InvalidRequest, text)));
    }
    let command = Command::UnregisterBroker { node_id };
    if let Err(error) = core.meta.check(&command) {
        // What an earlier request did not get to do: it still gets everything that the quorum decides.
        if matches!(error, MetadataError::UnknownBroker(_)) && members.learners.contains(&node_id) {
            return core.ask_leader(ctx, Question::ForgetMember { node_id });
        }
        return ctx.reply(&response(&ApiError::from(&error)));
    }
    match core.propose(vec![command], AfterCommit::Unregister(Box::new(ctx.clone()))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, _)) => ctx.reply(&response(&ApiError::from(&error))),
    }
}

fn response(error: &ApiError) -> UnregisterBrokerResponse {
    UnregisterBrokerResponse::default().with_error_code(error.code()).with_error_message(error.text())
}

/// Goes on when the command is committed.
pub(crate) fn committed<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, results: Vec<Result<Change, MetadataError>>) {
    let outcome = match results.into_iter().next() {
        Some(Err(error)) => ctx.reply(&response(&ApiError::from(&error))),
        Some(Ok(_)) | None => ctx.reply(&UnregisterBrokerResponse::default()),
    };
    core.finish(ctx.id, outcome);
}

/// What became of the question.
pub(crate) fn answered(ctx: &Ctx, answer: Result<Answer, ApiError>) -> Outcome {
    match answer {
        Ok(_) => ctx.reply(&UnregisterBrokerResponse::default()),
        Err(error) => ctx.reply(&response(&error)),
    }
}

//! For whoever runs the sidecar: its status, and draining it before the application stops.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::query::{self, Params};
use crate::backend::Backend;
use crate::shared::Shared;
use crate::status::{self, Status};

/// `GET /v1/status`
pub(super) async fn status<B: Backend>(State(shared): State<Shared<B>>) -> Json<Status> {
    Json(status::status(&shared).await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HowLong {
    timeout: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Drained {
    /// Everything that was delivered is settled, and the groups are left.
    drained: bool,
    /// Groups that still wait for acknowledgements.
    groups: i64,
    waited_ms: u64,
}

/// `POST /v1/drain`: nothing more is delivered; answers when what was delivered is settled durably and the groups are left, so that
/// other members have what was fetched ahead; or when the time is over. Publishing goes on.
pub(super) async fn drain<B: Backend>(
    State(shared): State<Shared<B>>,
    Params(how_long): Params<HowLong>,
) -> Result<Json<Drained>, Refusal> {
    let timeout = query::duration("timeout", how_long.timeout.as_deref())?.unwrap_or(shared.drain_timeout);
    let since = Instant::now();
    tracing::info!("draining: nothing more is delivered");
    shared.phase.draining.cancel();
    // No task begins while draining, so closing the tracker only lets it be waited for.
    shared.groups.tasks.close();
    let drained = tokio::time::timeout(timeout, shared.groups.tasks.wait()).await.is_ok();
    Ok(Json(Drained {
        drained,
        groups: shared.stats.groups.get(),
        waited_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
}

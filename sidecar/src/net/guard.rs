//! Bounds the calls in progress, and meters their bodies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;

use super::metered::{Framing, Meter, Shape};
use crate::api::http::{MANY, is_grpc, refused};
use crate::error::Failure;
use crate::limits::Limits;
use crate::stats::{Entered, Stats};

/// What guards all calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    calls: Arc<Semaphore>,
    meter: Meter,
    stats: Arc<Stats>,
    most: usize,
}

impl Guard {
    pub(crate) fn new(limits: &Limits, stats: Arc<Stats>) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(limits.streams)),
            meter: Meter::new(limits.partial_bytes, limits.partial_time, stats.partial_bytes.clone()),
            stats,
            most: limits.streams,
        }
    }

    fn refusal(&self) -> Failure {
        self.stats.refused.add(1);
        Failure::passing(
            Code::ResourceExhausted,
            "TOO_MANY_CALLS",
            format!("limits.streams = {} calls are in progress; end some, or raise the limit", self.most),
        )
    }
}

/// Lets a call through if there is room for it.
pub(crate) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let grpc = is_grpc(&request);
    let Ok(permit) = guard.calls.clone().try_acquire_owned() else {
        return refused(guard.refusal(), grpc);
    };
    let call = (permit, guard.stats.calls.enter());
    let shape = match request.uri().path() {
        _ if grpc => Shape::Frames(Framing::default()),
        MANY => Shape::Lines,
        _ => Shape::Whole,
    };
    let request = request.map(|body| guard.meter.meter(body, shape));
    next.run(request).await.map(|inner| Body::new(Counted { inner, _call: call }))
}

/// A response's body, which counts as a call until it is gone.
struct Counted {
    inner: Body,
    _call: (OwnedSemaphorePermit, Entered),
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

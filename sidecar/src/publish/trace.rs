//! Spans of single messages: one while a message is published, whose own context travels with it; one when it is handed out, as that
//! one's child. Only where spans are exported; else the context that the application gave travels as it is.

use bytes::Bytes;
use tracing::Span;
use wherry_client::{ConsumedRecord, ProduceRecord};
use wherry_telemetry::trace;

use super::record::{TRACEPARENT, TRACESTATE};

/// The span of publishing this record, which from now on names that span. It ends with the last clone of it.
pub(crate) fn publish(record: &mut ProduceRecord) -> Option<Span> {
    if !trace::exports_spans() {
        return None;
    }
    let span = tracing::debug_span!("publish", topic = %record.topic, "otel.kind" = "producer");
    let given = |name: &str| record.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    trace::set_parent(&span, &given(TRACEPARENT).unwrap_or_default(), &given(TRACESTATE).unwrap_or_default());
    let (parent, state) = trace::headers(&span)?;
    record.headers.retain(|(name, _)| name != TRACEPARENT && name != TRACESTATE);
    record.headers.push((TRACEPARENT.to_owned(), Bytes::from(parent)));
    record.headers.extend(state.map(|state| (TRACESTATE.to_owned(), Bytes::from(state))));
    Some(span)
}

/// A record is handed to the application, for the `attempt`th time.
pub(crate) fn deliver(record: &ConsumedRecord, attempt: u32) {
    if !trace::exports_spans() {
        return;
    }
    let span = tracing::debug_span!(
        "deliver",
        topic = %record.topic,
        partition = record.partition,
        offset = record.offset,
        attempt,
        "otel.kind" = "consumer"
    );
    let given =
        |name: &str| record.headers.iter().find(|(known, _)| &**known == name).and_then(|(_, value)| value.clone());
    trace::set_parent(&span, &given(TRACEPARENT).unwrap_or_default(), &given(TRACESTATE).unwrap_or_default());
    // Entered once, so that it begins and ends.
    drop(span.entered());
}

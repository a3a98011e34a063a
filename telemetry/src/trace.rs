//! Spans across processes: from and to the headers `traceparent` and `tracestate` (W3C Trace Context, level 1).
//!
//! Whoever makes spans for single messages asks [`exports_spans`] first: without a collector they would cost and serve nobody.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

static EXPORTS: AtomicBool = AtomicBool::new(false);

/// Whether spans of this process are exported.
pub fn exports_spans() -> bool {
    EXPORTS.load(Ordering::Relaxed)
}

pub(crate) fn exporting() {
    EXPORTS.store(true, Ordering::Relaxed);
}

/// Makes a span the child of what the headers name. What is not a trace context is ignored, as the W3C says.
pub fn set_parent(span: &Span, traceparent: &[u8], tracestate: &[u8]) {
    if let Some(parent) = parse(traceparent, tracestate) {
        // Refused only where the span is not exported.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

/// The headers that name this span: `traceparent` and, if there is one, `tracestate`. `None` where it is not exported.
pub fn headers(span: &Span) -> Option<(String, Option<String>)> {
    let context = span.context();
    let span = context.span();
    let known = span.span_context();
    if !known.is_valid() {
        return None;
    }
    let sampled = known.trace_flags() & TraceFlags::SAMPLED;
    let parent = format!("00-{}-{}-{:02x}", known.trace_id(), known.span_id(), sampled.to_u8());
    let state = known.trace_state().header();
    Some((parent, Some(state).filter(|state| !state.is_empty())))
}

fn parse(traceparent: &[u8], tracestate: &[u8]) -> Option<SpanContext> {
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // A later version may have more behind what this one knows; this one has not.
    let fits = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2];
    if !fits || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let state = std::str::from_utf8(tracestate).ok().and_then(|state| TraceState::from_str(state).ok());
    let context = SpanContext::new(trace, span, flags, true, state.unwrap_or_default());
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_read_and_nonsense_is_not() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = parse(good.as_bytes(), b"a=1,b=2").expect("a context");
        assert!(read.is_remote() && read.is_sampled());
        assert_eq!(read.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(read.trace_state().header(), "a=1,b=2");
        assert!(parse(good.as_bytes(), b"\xff").is_some(), "a bad state costs the state only");
        let later = format!("01{}-more", &good[2..]);
        assert!(parse(later.as_bytes(), b"").is_some(), "a later version");
        for bad in [
            String::new(),
            format!("{good}-more"),
            good.replace("00-0", "ff-0"),
            good.replace("b7ad6b7169203331", "0000000000000000"),
            good.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            good.replace("-01", "-0"),
            good.replace('7', "x"),
        ] {
            assert_eq!(parse(bad.as_bytes(), b""), None, "{bad}");
        }
    }

    #[test]
    fn a_span_that_is_not_exported_has_no_headers() {
        assert_eq!(headers(&Span::none()), None);
        set_parent(&Span::none(), b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"");
    }
}

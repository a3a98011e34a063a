//! Seen from outside: metrics and probes of both roles, and spans at a collector.

mod support;

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use support::{Up, http};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

fn get(address: &str, path: &str) -> String {
    http(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
}

fn publish(up: &Up) -> String {
    let head =
        "POST /v1/topics/seen/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    http(&up.sidecar, head)
}

#[test]
fn both_roles_answer_metrics_and_probes() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(directory.path(), false);
    let published = publish(&up);
    assert!(published.starts_with("HTTP/1.1 200"), "{published}");
    for address in [&up.sidecar, &up.probes] {
        assert!(get(address, "/livez").starts_with("HTTP/1.1 200"), "{address}");
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"), "{address}");
        let metrics = get(address, "/metrics");
        assert!(metrics.contains("application/openmetrics-text") && metrics.contains("# EOF"), "{metrics}");
    }
    assert!(get(&up.sidecar, "/metrics").contains("wherry_sidecar_published_messages_total 1"));
    let node = get(&up.probes, "/metrics");
    assert!(node.contains("wherry_node_ready 1") && node.contains("api=\"Produce\""), "{node}");
    up.stop();
}

/// A span as it was exported: name, trace, span and parent.
#[derive(Debug, Clone)]
struct Seen {
    name: String,
    trace: Vec<u8>,
    span: Vec<u8>,
    parent: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        let seen = scopes.flat_map(|scope| scope.spans).map(|span| Seen {
            name: span.name,
            trace: span.trace_id,
            span: span.span_id,
            parent: span.parent_span_id,
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(seen);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn spans_reach_a_collector() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let collector = Collector::default();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(collector.clone());
    runtime.spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let directory = tempfile::tempdir().unwrap();
    let up = Up::with_environment(directory.path(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = format!(
        "POST /v1/topics/seen/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntraceparent: {given}\r\ncontent-length: 5\r\n\r\nhello"
    );
    let published = http(&up.sidecar, &request);
    assert!(published.starts_with("HTTP/1.1 200"), "{published}");
    let pulled = get(&up.sidecar, "/v1/topics/seen/messages?group=g&wait=20s");
    // Whatever waits is exported before the process ends.
    up.stop();
    let seen = collector.0.lock().unwrap().clone();
    assert!(seen.iter().any(|span| span.name == "request"), "of the node: {seen:?}");
    // The publisher's span, that of publishing, that of the delivery: one trace, each the child of the one before.
    let of_message = |name: &str| {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let found = seen.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {seen:?}"));
        (hex(&found.trace), hex(&found.span), hex(&found.parent))
    };
    let (trace, publish, parent) = of_message("publish");
    assert_eq!((trace.as_str(), parent.as_str()), (&given[3..35], &given[36..52]));
    let (trace, _, parent) = of_message("deliver");
    assert_eq!((trace.as_str(), &parent), (&given[3..35], &publish));
    assert!(pulled.contains(&format!("00-{trace}-{publish}-01")), "the application gets it: {pulled}");
}

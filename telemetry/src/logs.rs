//! Logs to standard error, and spans to OpenTelemetry where the environment names a collector.
//!
//! Standard output is left to what a command answers.

use std::env;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The variable that names a collector, as the OpenTelemetry specification has it. Absent or empty: no spans are exported.
pub const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// How a line of log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// What a process says about itself.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// How a line looks.
    pub format: Format,
    /// What is logged, as `info,wherry_node=debug`.
    pub filter: String,
    /// Name under which spans are exported, for example `wherry-node`.
    pub service: &'static str,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: Format::Human, filter: "info".into(), service: "wherry" }
    }
}

/// Why logs can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter makes no sense: correct it.
    #[error("the log filter {filter:?} can't be read ({cause}); write for example info or warn,wherry_node=debug")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong.
        cause: String,
    },
    /// The collector's address makes no sense: correct it.
    #[error(
        "can't export spans to {ENDPOINT_VARIABLE} ({cause}); write for example http://localhost:4317, or unset it"
    )]
    Exporter {
        /// What is wrong.
        cause: String,
    },
    /// Called twice in one process.
    #[error("logs are set up already")]
    Twice,
}

/// Keeps the exporter alive; spans that wait are sent by [`Logs::finish`].
#[derive(Debug)]
#[must_use = "spans are exported while this lives"]
pub struct Logs {
    provider: Option<SdkTracerProvider>,
}

impl Logs {
    /// Whether spans are exported.
    #[must_use]
    pub fn exports_spans(&self) -> bool {
        self.provider.is_some()
    }

    /// Sends the spans that wait, for a few seconds at most. Blocks: call it where the runtime may wait.
    pub fn finish(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "some spans were not exported");
        }
    }
}

/// Sets up logs, and the export of spans where [`ENDPOINT_VARIABLE`] is set. Must be called in a tokio runtime if it is.
///
/// # Errors
/// [`InitError`]: a sentence for the person who starts the process.
pub fn init(config: &LogConfig) -> Result<Logs, InitError> {
    let endpoint = env::var(ENDPOINT_VARIABLE).ok().filter(|endpoint| !endpoint.is_empty());
    let provider = endpoint.map(|_| exporter(config.service)).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer(config.service)).with_filter(own_spans())
    });
    tracing_subscriber::registry()
        .with(lines(config.format, filter(&config.filter)?))
        .with(spans)
        .try_init()
        .map_err(|_| InitError::Twice)?;
    if provider.is_some() {
        crate::trace::exporting();
    }
    Ok(Logs { provider })
}

/// A library that repeats, in its own words and at every heartbeat, what the node says once: heard only by who asks for it.
const TALKATIVE: &str = "openraft";

fn filter(text: &str) -> Result<EnvFilter, InitError> {
    let quieter = if text.contains(TALKATIVE) { text.to_owned() } else { format!("{text},{TALKATIVE}=off") };
    EnvFilter::try_new(quieter).map_err(|cause| InitError::Filter { filter: text.to_owned(), cause: cause.to_string() })
}

/// Spans of our own crates only (targets are matched by prefix): the exporter uses tonic, whose spans would feed on themselves.
fn own_spans() -> Targets {
    Targets::new().with_target("wherry", LevelFilter::DEBUG)
}

fn lines<S>(format: Format, filter: EnvFilter) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours());
    match format {
        Format::Human => lines.with_filter(filter).boxed(),
        Format::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

/// As <https://no-color.org> asks, and never into a file.
fn colours() -> bool {
    use std::io::IsTerminal;
    env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()) && std::io::stderr().is_terminal()
}

fn exporter(service: &'static str) -> Result<SdkTracerProvider, InitError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .build()
        .map_err(|cause| InitError::Exporter { cause: cause.to_string() })?;
    // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are read by the builder; the name given here is the default.
    let named = env::var_os("OTEL_SERVICE_NAME").is_some();
    let resource = Resource::builder();
    let resource = if named { resource } else { resource.with_service_name(service) };
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_gets_a_sentence() {
        for bad in ["wherry=loud", "a=b=c", "info,x=[["] {
            let said = filter(bad).map(|_| ()).expect_err(bad).to_string();
            assert!(said.contains("write for example"), "{said}");
        }
        for good in ["info", "warn,wherry_node=debug", "off", ""] {
            assert!(filter(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_consensus_library_is_heard_by_who_asks_for_it() {
        assert!(filter("info").unwrap().to_string().contains("openraft=off"));
        assert!(!filter("info,openraft=debug").unwrap().to_string().contains("off"));
    }
}

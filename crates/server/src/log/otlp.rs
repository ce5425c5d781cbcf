//! Traces for an OpenTelemetry collector: each span of the log, with the events in it, over OTLP (opentelemetry.io/docs/specs/otlp).
//!
//! Where they go is set by the variables of OpenTelemetry's specification, as in every program that sends traces:
//! `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and so on. A collector that is away or slow delays
//! nothing: a thread of its own sends the spans in batches, and the oldest 2,048 of them wait.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::node_name::NodeName;

/// The variables that say where traces go. Without them none are made.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// The variable that names the program in the collector.
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// How long a process that ends waits for the collector.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// What makes the spans and sends them.
#[derive(Debug, Clone)]
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts the thread that sends spans, if the environment names a collector.
    ///
    /// # Errors
    /// A variable has a value that cannot be used, such as an address that is no URL.
    pub(super) fn start(node: &NodeName) -> anyhow::Result<Option<Self>> {
        let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if !ENDPOINTS.iter().any(is_set) {
            return Ok(None);
        }
        let exporter = SpanExporter::builder().with_http().build().context("traces")?;
        let mut resource = Resource::builder().with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", node.as_str().to_owned()),
        ]);
        if !is_set(&SERVICE_NAME) {
            resource = resource.with_service_name("switchboard");
        }
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        Ok(Some(Self(provider.build())))
    }

    /// The part of the log that gives spans to the thread.
    pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(
        &self,
    ) -> OpenTelemetryLayer<S, opentelemetry_sdk::trace::SdkTracer> {
        tracing_opentelemetry::layer().with_tracer(self.0.tracer("switchboard"))
    }

    /// Sends the spans that wait. Later ones are dropped.
    pub(super) fn shut_down(&self) {
        // A collector that does not answer is logged by the library, and the process ends without it.
        let _ = self.0.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// Makes a span a part of the trace that a request's headers name (W3C Trace Context, sections 3.2 and 3.3).
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    let propagator = TraceContextPropagator::new();
    let of_caller: HashMap<String, String> = propagator
        .fields()
        .filter_map(|name| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.to_owned())))
        .collect();
    if !of_caller.is_empty() {
        // Without a collector the span has no place for it.
        let _ = span.set_parent(propagator.extract(&of_caller));
    }
}

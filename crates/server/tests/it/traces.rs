//! Traces over OTLP: a real collector of the protocol, and a real server that sends to it.

use std::future;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::in_time;
use crate::support::log::log_of_server;

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER_SPAN_ID: &str = "00f067aa0ba902b7";

/// How many batches a test may leave unread.
const MAX_BATCHES: usize = 64;

type Batches = mpsc::Sender<ExportTraceServiceRequest>;

/// A collector: its address, and what it gets.
struct Collector {
    url: String,
    batches: mpsc::Receiver<ExportTraceServiceRequest>,
    _serving: JoinSet<()>,
}

async fn take(State(batches): State<Batches>, body: Bytes) {
    let batch = ExportTraceServiceRequest::decode(body).expect("the format of the protocol");
    batches.try_send(batch).expect("room, and a test that runs");
}

impl Collector {
    async fn start() -> Self {
        let (sender, batches) = mpsc::channel(MAX_BATCHES);
        Self::serve(Router::new().route("/v1/traces", post(take)).with_state(sender), batches).await
    }

    /// Starts a collector that never answers.
    async fn start_hanging() -> Self {
        let (_, batches) = mpsc::channel(MAX_BATCHES);
        Self::serve(Router::new().fallback(future::pending::<()>), batches).await
    }

    async fn serve(routes: Router, batches: mpsc::Receiver<ExportTraceServiceRequest>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let service = TowerToHyperService::new(routes.clone());
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // The server may end it at any time.
                connections.spawn(async move { drop(connection.await) });
            }
        });
        Self { url, batches, _serving: serving }
    }

    fn settings(&self) -> [(&str, &str); 2] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url), ("SWITCHBOARD_NAME", "node-a")]
    }

    /// All spans so far, with the attributes of the program that sent them.
    fn spans(&mut self) -> Vec<(Vec<KeyValue>, Span)> {
        let mut spans = Vec::new();
        while let Ok(batch) = self.batches.try_recv() {
            for from in batch.resource_spans {
                let resource = from.resource.expect("a program").attributes;
                let made = from.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(made.map(|span| (resource.clone(), span)));
            }
        }
        spans
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        AnyValue::StringValue(text) => Some(text),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_request_is_a_span_of_the_trace_of_its_caller_with_what_the_log_says_of_it() {
    let mut collector = Collector::start().await;
    let settings = collector.settings().map(|(name, value)| (name, value.to_owned()));
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut token = String::new();
    log_of_server("json", &settings, async |server| {
        token = server.token("alice");
        let trace = format!("00-{TRACE_ID}-{CALLER_SPAN_ID}-01");
        let refused = server.posts(&token, "send", json!({"to": 7}), &[("traceparent", &trace)]).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert_eq!(server.posts(&token, "ping", json!({}), &[]).await.status, 200);
        server.connects("alice").await
    })
    .await;
    let spans = collector.spans();
    assert!(!format!("{spans:?}").contains(&token), "no span has the token");
    let of_caller: Vec<_> = spans.iter().filter(|(_, span)| hex(&span.trace_id) == TRACE_ID).collect();
    let [(program, span)] = of_caller[..] else { panic!("{of_caller:?}") };
    assert_eq!(text(program, "service.name"), Some("switchboard"));
    assert_eq!(text(program, "service.instance.id"), Some("node-a"));
    assert_eq!(text(program, "service.version"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!((span.name.as_str(), hex(&span.parent_span_id).as_str()), ("request", CALLER_SPAN_ID));
    assert_eq!(text(&span.attributes, "user"), Some("alice"));
    assert_eq!(text(&span.attributes, "command"), Some("send"));
    assert!(span.events.iter().any(|event| event.name == "refused a command"), "{span:?}");
    let ends = |span: &Span| span.events.iter().any(|event| event.name == "connection closed");
    let closed = spans.iter().find(|(_, span)| ends(span)).expect("the end of the connection");
    assert_eq!(text(&closed.1.attributes, "user"), Some("alice"));
}

#[tokio::test]
async fn a_collector_that_hangs_or_is_away_delays_no_answer_and_no_stop() {
    let hanging = Collector::start_hanging().await;
    for url in [hanging.url.as_str(), "http://127.0.0.1:1"] {
        let lines = in_time(
            "a stop",
            log_of_server("json", &[("OTEL_EXPORTER_OTLP_ENDPOINT", url)], async |server| {
                let token = server.token("alice");
                for _ in 0..20 {
                    assert_eq!(server.posts(&token, "ping", json!({}), &[]).await.status, 200);
                }
            }),
        )
        .await;
        assert!(!lines.is_empty());
    }
}

//! The JSON form of a line: one flat object, so that a field has the same path in a line within a span and in one outside.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::FormatTime as _;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields, time};
use tracing_subscriber::registry::{LookupSpan, Scope};

/// A line, with its fields in the order in which they are written.
#[derive(Debug, Serialize)]
struct Line<'a> {
    timestamp: &'a str,
    level: &'a str,
    message: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl Line<'_> {
    fn write(&self, mut out: Writer<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        writeln!(out, "{json}")
    }
}

/// The line of an error that ends the process.
pub(super) fn fatal(message: &str) -> String {
    let mut line = String::new();
    let (level, message) = ("ERROR", Value::from(message));
    // Writing to a String cannot fail.
    let _ = Line { timestamp: &now(), level, message, target: None, fields: Map::new() }
        .write(Writer::new(&mut line));
    line
}

fn now() -> String {
    let mut now = String::new();
    let _ = time().format_time(&mut Writer::new(&mut now));
    now
}

/// Formats events as lines. If a name occurs more than once, the field of the event wins over that of its span, and the field of an
/// inner span wins over that of an outer one.
pub(super) struct JsonLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Map::new();
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            let extensions = span.extensions();
            let of_span = extensions.get::<FormattedFields<JsonFields>>();
            let of_span = of_span.and_then(|json| serde_json::from_str::<Map<String, Value>>(json).ok());
            fields.extend(of_span.into_iter().flatten());
        }
        event.record(&mut Fields(&mut fields));
        let message = fields.remove("message").unwrap_or_default();
        let (level, target) = (event.metadata().level().as_str(), Some(event.metadata().target()));
        Line { timestamp: &now(), level, message, target, fields }.write(out)
    }
}

/// Collects the fields of an event.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}

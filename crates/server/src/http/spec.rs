//! OpenAPI 3.1 for HTTP and AsyncAPI 3.0 for the WebSocket, generated from the protocol's types. A test compares
//! `docs/openapi.json` and `docs/asyncapi.json` with them.

mod outgoing;

use std::sync::LazyLock;

use axum::http::HeaderMap;
use axum::response::Response;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use switchboard_protocol::reply::{Ok as OkReply, Reply};
use switchboard_protocol::{CloseCode, Command, Event, Signal, WriteNumber};

use self::outgoing::outgoing;
use super::document::Document;
use super::feed::{Entry, Feed, Page};
use super::import::Line;
use super::problem::ProblemFields;
use super::revoke::Revoke;
use super::{ban, delete_room, people, profiles, rename, reports, send_many, webhooks};
use switchboard_store::grant::Scope;

/// The JSON pointer to the shared schemas in a document of OpenAPI or AsyncAPI.
const SCHEMAS: &str = "/components/schemas";

static OPENAPI: LazyLock<Document> = LazyLock::new(|| Document::new(&openapi()));

static ASYNCAPI: LazyLock<Document> = LazyLock::new(|| Document::new(&asyncapi()));

pub(super) async fn serve_openapi(headers: HeaderMap) -> Response {
    OPENAPI.respond(&headers)
}

pub(super) async fn serve_asyncapi(headers: HeaderMap) -> Response {
    ASYNCAPI.respond(&headers)
}

fn generator() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = SCHEMAS.into();
        settings.meta_schema = None;
    });
    settings.into_generator()
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// Moves the shared schemas into the document. Unknown fields are refused in the combined schema, not in each part, because a
/// command's fields are combined with those of its transport (`type` and `id`, or `as`).
fn with_schemas(mut document: Value, mut generator: SchemaGenerator) -> Value {
    let mut schemas = generator.take_definitions(true);
    for schema in schemas.values_mut().filter_map(Value::as_object_mut) {
        schema.remove("additionalProperties");
    }
    document["components"]["schemas"] = Value::Object(schemas);
    document
}

/// The HTTP API, as OpenAPI 3.1.
pub fn openapi() -> Value {
    let mut generator = generator();
    let ok = schema::<OkReply>(&mut generator);
    let problem = schema::<ProblemFields>(&mut generator);
    let mut paths = Map::new();
    for (name, fields) in Command::schemas(&mut generator) {
        if !Command::SOCKET_ONLY.contains(&name) {
            paths.insert(
                format!("/v1/{name}"),
                json!({ "post": operation(name, &fields.to_value(), &ok, &problem) }),
            );
        }
    }
    paths.extend(probes());
    let revoke = schema::<Revoke>(&mut generator);
    paths.insert(
        "/v1/revoke".to_owned(),
        json!({ "post": {
            "operationId": "revoke",
            "summary": "Logs a user out everywhere. Only with an API key.",
            "requestBody": { "required": true, "content": { "application/json": { "schema": revoke } } },
            "responses": responses(&ok, &problem),
        } }),
    );
    let line = schema::<Line>(&mut generator);
    paths.insert(
        "/v1/import".to_owned(),
        json!({ "post": {
            "operationId": "import",
            "summary": "Stores the history of another system, all lines or none. Only with an API key that has the scope `admin`.",
            "requestBody": { "required": true, "content": { "application/x-ndjson": { "schema": line } } },
            "responses": responses(&ok, &problem),
        } }),
    );
    let (feed, page) = (schema::<Feed>(&mut generator), schema::<Page>(&mut generator));
    paths.insert("/v1/feed".to_owned(), feed_operations(&feed, &page, &problem));
    let operations = people::operations(&mut generator).into_iter();
    let operations = operations.chain(profiles::operations(&mut generator));
    let operations = operations.chain(send_many::operations(&mut generator));
    let operations = operations.chain(rename::operations(&mut generator));
    let operations = operations.chain(delete_room::operations(&mut generator));
    let operations = operations.chain(ban::operations(&mut generator));
    let operations = operations.chain(reports::operations(&mut generator));
    for operation in operations.chain(webhooks::operations(&mut generator)) {
        let (path, summary) = (format!("/v1/{}", operation.name), operation.summary);
        let answer = operation.answer.unwrap_or_else(|| ok.clone());
        paths.insert(path, json!({ "post": {
            "operationId": operation.name,
            "summary": format!("{summary} {}", callers(operation.scope)),
            "requestBody": { "required": true, "content": { "application/json": { "schema": operation.request } } },
            "responses": responses(&answer, &problem),
        } }));
    }
    let entry = schema::<Entry>(&mut generator);
    let document = json!({
        "openapi": "3.1.0",
        "info": api_info("Switchboard over HTTP", "The same commands as over the WebSocket, one per request."),
        "security": [{ "bearer": [] }],
        "paths": paths,
        "webhooks": outgoing(&entry),
        "components": { "securitySchemes": { "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A user's token (JWT), or an API key; with an API key, `as` names the user to act as.",
        } } },
    });
    with_schemas(document, generator)
}

/// Who may make a call that needs a scope.
fn callers(scope: Scope) -> String {
    let or_token = match scope {
        Scope::Moderate => ", or with the token of a moderator",
        _ => "",
    };
    format!("Only with an API key that has the scope `{}`{or_token}.", scope.as_str())
}

/// What supervisors, balancers and Prometheus ask for.
fn probes() -> impl Iterator<Item = (String, Value)> {
    let probes = [
        ("/livez", "The process answers."),
        (
            "/readyz",
            "The server is not stopping and can read and write; `?exclude=writes` skips the check of writes.",
        ),
        (
            "/healthz",
            "Messages are delivered: a write, a read and a notice over the bus have just succeeded.",
        ),
        ("/metrics", "Metrics for Prometheus."),
    ];
    probes.into_iter().map(|(path, summary)| {
        let answers = json!({ "200": { "description": "Yes." }, "503": { "description": "No, and why." } });
        (path.to_owned(), json!({ "get": { "summary": summary, "responses": answers } }))
    })
}

fn responses(ok: &Value, problem: &Value) -> Value {
    json!({
        "200": { "description": "The `ok` frame.", "content": { "application/json": { "schema": ok } } },
        "default": {
            "description": "The problem and its remedy.",
            "content": { "application/problem+json": { "schema": problem } },
        },
    })
}

/// The feed: a page, and a stream.
fn feed_operations(feed: &Value, page: &Value, problem: &Value) -> Value {
    let problem = json!({
        "description": "The problem and its remedy.",
        "content": { "application/problem+json": { "schema": problem } },
    });
    let parameter = |name: &str, place: &str, description: &str| json!({ "name": name, "in": place, "description": description, "schema": { "type": "string" } });
    json!({
        "post": {
            "operationId": "feed",
            "summary": "A page of the feed. Only with an API key that has the scope `feed`.",
            "requestBody": { "required": true, "content": { "application/json": { "schema": feed } } },
            "responses": {
                "200": { "description": "The page.", "content": { "application/json": { "schema": page } } },
                "default": problem,
            },
        },
        "get": {
            "operationId": "feed_stream",
            "summary": "The feed as server-sent events. Only with an API key that has the scope `feed`.",
            "parameters": [
                parameter("after", "query", "Where the stream begins; the end without it."),
                parameter("types", "query", "The types of entries, separated by commas."),
                parameter("last-event-id", "header", "The id of the last entry; it goes before `after`."),
            ],
            "responses": {
                "200": { "description": "Entries, as the data of events.", "content": { "text/event-stream": {} } },
                "default": problem,
            },
        },
    })
}

/// One command over HTTP.
fn operation(name: &str, fields: &Value, ok: &Value, problem: &Value) -> Value {
    let acting = json!({ "type": "object", "properties": { "as": {
        "$ref": "#/components/schemas/UserId",
        "description": "The user whom an API key acts as.",
    } } });
    let mut operation = json!({
        "operationId": name,
        "requestBody": { "required": true, "content": { "application/json": {
            "schema": { "allOf": [fields, acting], "unevaluatedProperties": false },
        } } },
        "responses": responses(ok, problem),
    });
    if name == "send" {
        operation["parameters"] = json!([{
            "name": "Idempotency-Key",
            "in": "header",
            "description": "The same as `key`.",
            "schema": { "type": "string", "maxLength": 128 },
        }]);
    }
    operation
}

/// The WebSocket API, as AsyncAPI 3.0.
pub fn asyncapi() -> Value {
    let mut generator = generator();
    let mut messages = Map::new();
    for (name, fields) in Command::schemas(&mut generator) {
        let mut envelope = json!({ "type": "object", "required": ["type"], "properties": {
            "type": { "const": name },
            "id": schema::<switchboard_protocol::CommandId>(&mut generator),
        } });
        if Command::ORDERED.contains(&name) {
            envelope["dependentRequired"] = json!({ "n": ["after"], "after": ["n"] });
            envelope["properties"]["n"] = json!({
                "type": "integer", "minimum": 1, "maximum": WriteNumber::MAX,
                "description": "The write's number on this connection.",
            });
            envelope["properties"]["after"] = json!({
                "type": "integer", "minimum": 0, "maximum": WriteNumber::MAX,
                "description": "The number of the write that this one follows; 0 for none.",
            });
        }
        let payload = json!({ "allOf": [fields.to_value(), envelope], "unevaluatedProperties": false });
        messages.insert(name.to_owned(), json!({ "name": name, "payload": payload }));
    }
    let commands: Vec<_> = messages.keys().map(|name| schema_reference(name)).collect();
    let server_frames = [
        (
            "reply",
            "Replies to commands, and frames about the connection itself.",
            schema::<Reply>(&mut generator),
        ),
        ("event", "An event of a conversation's log, which is stored.", schema::<Event>(&mut generator)),
        ("signal", "A signal, which is not stored.", schema::<Signal>(&mut generator)),
    ];
    let mut frames = Vec::new();
    for (name, summary, payload) in server_frames {
        frames.push(schema_reference(name));
        messages.insert(name.to_owned(), json!({ "name": name, "summary": summary, "payload": payload }));
    }
    let closes: Vec<_> =
        CloseCode::ALL.iter().map(|code| format!("{}: {}", code.number(), code.reason())).collect();
    let document = json!({
        "asyncapi": "3.0.0",
        "info": api_info("Switchboard over WebSocket", "One JSON object per text frame, with `type` first; the first frame is `hello`."),
        "channels": { "socket": {
            "address": "/v1/ws",
            "description": format!("Close codes: {}", closes.join("; ")),
            "messages": messages,
        } },
        "operations": {
            "commands": { "action": "receive", "channel": { "$ref": "#/channels/socket" }, "messages": commands },
            "frames": { "action": "send", "channel": { "$ref": "#/channels/socket" }, "messages": frames },
        },
    });
    with_schemas(document, generator)
}

fn schema_reference(message: &str) -> Value {
    json!({ "$ref": format!("#/channels/socket/messages/{message}") })
}

fn api_info(title: &str, description: &str) -> Value {
    json!({
        "title": title,
        "version": env!("CARGO_PKG_VERSION"),
        "description": description,
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    })
}

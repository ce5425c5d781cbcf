//! What the server sends to back ends, as OpenAPI's `webhooks`: entries of the feed, and the questions of the hook.

use serde_json::{Value, json};

use crate::config::Ask;

/// The requests to back ends. `entry` is the schema of an entry.
pub(super) fn outgoing(entry: &Value) -> Value {
    json!({
        "entry": { "post": {
            "summary": "An entry of the feed, sent to each webhook that wants it. It comes again with the same `webhook-id` until it is taken.",
            "parameters": signature("The entry's id, the same for every try."),
            "requestBody": body(&json!({
                "type": { "type": "string", "description": "The entry's type." },
                "timestamp": { "type": "string", "format": "date-time", "description": "When it happened." },
                "data": entry,
            })),
            "responses": {
                "2XX": { "description": "The entry is taken." },
                "410": { "description": "The endpoint is gone: the webhook is paused." },
                "4XX": { "description": "The endpoint does not take this entry: after ten tries in three hours it is parked. 408, 425 and 429 count as `default`." },
                "default": { "description": "The endpoint is at fault: one entry is tried again until it is taken. `retry-after` is obeyed." },
            },
        } },
        "ask": { "post": {
            "summary": "A question of the hook: may this be stored, or may this user connect?",
            "parameters": signature("The question's id."),
            "requestBody": body(&json!({
                "type": { "enum": Ask::ALL.map(|ask| format!("ask.{}", ask.as_str())) },
                "timestamp": { "type": "string", "format": "date-time", "description": "When it was asked." },
                "data": question(),
            })),
            "responses": {
                "200": { "description": "What becomes of it.", "content": { "application/json": { "schema": answer() } } },
                "204": { "description": "It is accepted." },
                "default": { "description": "No answer: `on_failure` decides." },
            },
        } },
    })
}

/// The headers that sign a request.
fn signature(id: &str) -> Value {
    let header = |name: &str, description: &str| {
        json!({
            "name": name, "in": "header", "required": true, "description": description,
            "schema": { "type": "string" },
        })
    };
    json!([
        header("webhook-id", id),
        header("webhook-timestamp", "Seconds since the Unix epoch, when it was sent."),
        header(
            "webhook-signature",
            "Signatures as Standard Webhooks describe them (`v1,…`), separated by spaces: one of them is enough."
        ),
    ])
}

fn body(properties: &Value) -> Value {
    let schema =
        json!({ "type": "object", "required": ["type", "timestamp", "data"], "properties": properties });
    json!({ "required": true, "content": { "application/json": { "schema": schema } } })
}

fn question() -> Value {
    let mut properties = json!({
        "user": { "type": "string", "description": "The user who wants it." },
        "via": { "type": "string", "description": "The API key that acts for the user." },
        "conversation": { "type": "string" },
        "context": { "type": "array", "items": { "type": "object" }, "description": "The messages before it, oldest first." },
        "claims": { "type": "object", "description": "The claims of the user's token." },
        "address": { "type": "string", "description": "The user's address." },
    });
    for ask in Ask::ALL.into_iter().filter(|ask| *ask != Ask::Open) {
        let description = format!("The fields of the command, in `ask.{}`.", ask.as_str());
        properties[ask.as_str()] = json!({ "type": "object", "description": description });
    }
    json!({ "type": "object", "required": ["user"], "properties": properties })
}

fn answer() -> Value {
    json!({
        "type": "object",
        "required": ["action"],
        "properties": {
            "action": { "enum": ["accept", "replace", "refuse"] },
            "text": { "description": "With `replace`: the new text." },
            "data": { "description": "With `replace`: the new data; `null` removes it." },
            "title": { "description": "With `replace`: the new title of a room." },
            "message": { "type": "string", "description": "With `refuse`: the reason, which the user gets." },
            "join": {
                "type": "array", "items": { "type": "string" },
                "description": "With `accept` of `ask.open`: the rooms that the user joins first.",
            },
        },
    })
}

//! The wire vectors of `testdata/protocol/fold.json`: events, and the messages that result from applying them.

use std::path::Path;

use serde_json::{Value, json};

use super::{OpenStore, TestStore};

fn read_cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/protocol/fold.json");
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors")).expect("JSON");
    document["cases"].as_array().expect("cases").clone()
}

/// The name and the fields of the command that stores this event in the room.
fn command_for_event(event: &Value) -> (&str, Value) {
    let kind = event["type"].as_str().expect("a type");
    let mut fields = event.clone();
    let fields_of = fields.as_object_mut().expect("an object");
    for assigned in ["type", "seq", "from", "at", "conversation"] {
        fields_of.remove(assigned);
    }
    match kind {
        "create" => fields["room"] = json!("r"),
        "message" => fields["to"] = json!("#r"),
        _ => fields["conversation"] = json!("#r"),
    }
    (if kind == "message" { "send" } else { kind }, fields)
}

/// Removes the times from a message, because the store assigns them.
fn without_times(message: &Value) -> Value {
    let mut message = message.clone();
    message.as_object_mut().expect("an object").remove("at");
    if let Some(edited) = message["edited"].as_object_mut() {
        edited.remove("at");
    } else {
        message.as_object_mut().expect("an object").remove("edited");
    }
    message
}

pub(super) async fn events_fold_to_the_messages_of_the_vectors(open: OpenStore) {
    let cases: Vec<_> = read_cases().into_iter().filter(|case| case["client_only"] != true).collect();
    assert!(cases.len() > 5, "{}", cases.len());
    for case in cases {
        let mut db = TestStore::new(open).await;
        for event in case["events"].as_array().expect("events") {
            let (name, fields) = command_for_event(event);
            let stored = db.stores(event["from"].as_str().expect("who"), name, fields).await;
            assert_eq!(json!(stored.seq), event["seq"], "{}", case["name"]);
        }
        let history = serde_json::to_value(db.history("alice", "#r").await).expect("JSON");
        let found: Vec<_> = history.as_array().expect("messages").iter().map(without_times).collect();
        let expected: Vec<_> =
            case["messages"].as_array().expect("messages").iter().map(without_times).collect();
        assert_eq!(found, expected, "{}", case["name"]);
    }
}

use super::*;

#[test]
fn every_frame_of_the_contract_is_decoded() {
    for (text, wanted) in [
        (
            r##"{"type":"ok","id":1,"conversation":"@alice:bob","seq":7,"at":"2026-11-23T12:00:00.000Z"}"##,
            "Stored",
        ),
        (r##"{"type":"ok","conversation":"#a","events":[],"head":7,"more":false}"##, "Log"),
        (r##"{"type":"ok","conversation":"#a","messages":[],"head":7,"more":false}"##, "History"),
        (r##"{"type":"ok","conversation":"#a","members":[],"more":false}"##, "Members"),
        (r##"{"type":"ok","conversations":[],"more":false}"##, "Conversations"),
        (r##"{"type":"ok","blocks":[],"more":false}"##, "Blocks"),
        (r##"{"type":"block","user":"mallory","on":true}"##, "Signal(Block"),
        (
            r##"{"type":"withheld","conversation":"#a","seq":7,"from":"mallory","at":"2026-11-23T12:00:00.000Z","of":"message","withheld":"blocked"}"##,
            "Withheld",
        ),
        (r##"{"type":"ok","conversation":"#a","upto":4}"##, "Cursor"),
        (r##"{"type":"ok","user":"bob","version":4}"##, "Profile"),
        (r##"{"type":"ok","expires":"2026-11-23T12:00:00.000Z"}"##, "Token"),
        (r##"{"type":"ok","users":[{"user":"bob","version":0}],"more":false}"##, "Users"),
        (r##"{"type":"profile","user":"bob","name":"Bob","version":5}"##, "Signal(Profile"),
        (r##"{"type":"ok","id":"x"}"##, "Done"),
        (r##"{"type":"gap","conversation":"#general","after":41,"head":9000}"##, "Gap"),
        (r##"{"type":"bye","retry_after":700}"##, "Bye"),
        (r##"{"type":"pong"}"##, "Pong"),
        (r##"{"type":"error","id":1,"code":"not_found","message":"m","retryable":false}"##, "Error"),
        (r##"{"type":"presence","user":"bob","online":true}"##, "Presence"),
        (r##"{"type":"read","conversation":"#a","user":"bob","upto":3}"##, "Signal"),
        (
            r##"{"type":"message","conversation":"@alice:bob","seq":7,"from":"alice","at":"2026-11-23T12:00:00.000Z","key":"a1","text":"hi"}"##,
            "Event",
        ),
        (
            r##"{"type":"leave","conversation":"#a","seq":7,"from":"alice","at":"2026-11-23T12:00:00.000Z"}"##,
            "Leave",
        ),
    ] {
        let frame: ServerFrame = serde_json::from_str(text).expect(text);
        assert!(format!("{frame:?}").contains(wanted), "{text} became {frame:?}");
    }
}

/// Collects the constants of all `type` properties in a schema.
fn collect_types(schema: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    let tag = schema.pointer("/properties/type/const").and_then(|tag| tag.as_str());
    found.extend(tag.map(str::to_owned));
    match schema {
        serde_json::Value::Object(inner) => inner.values().for_each(|inner| collect_types(inner, found)),
        serde_json::Value::Array(inner) => inner.iter().for_each(|inner| collect_types(inner, found)),
        _ => {}
    }
}

#[test]
fn an_answer_is_known_by_a_field_that_no_other_has() {
    let schema = schemars::schema_for!(OkBody);
    let variants = schema.as_value()["anyOf"].as_array().expect("variants");
    assert_eq!(variants.len(), OkBody::<Event>::ALL.len());
    for (at, (name, own, _)) in OkBody::<Event>::ALL.iter().enumerate() {
        let has = |variant: &serde_json::Value| variant["properties"].get(own).is_some();
        let is_required = |variant: &serde_json::Value| {
            variant["required"].as_array().is_some_and(|required| required.iter().any(|field| field == own))
        };
        assert!(own.is_empty() || is_required(&variants[at]), "{name} has {own}");
        assert_eq!(variants.iter().filter(|variant| has(variant)).count(), usize::from(!own.is_empty()));
    }
}

#[test]
fn the_list_of_types_has_every_type_in_the_schema() {
    let mut found = std::collections::BTreeSet::new();
    collect_types(schemars::schema_for!(ServerFrame).as_value(), &mut found);
    assert_eq!(found, ServerFrame::FRAME_TYPES.map(str::to_owned).into());
}

#[test]
fn an_event_of_a_newer_server_keeps_its_seq_and_its_fields() {
    let text = r##"{"type":"poll","question":"?","conversation":"#a","seq":7,"from":"alice","at":"2026-11-23T12:00:00.000Z"}"##;
    let page = format!(r##"{{"type":"ok","conversation":"#a","events":[{text}],"head":7,"more":false}}"##);
    let page = serde_json::from_str::<Reply>(&page).expect("a page");
    let Reply::Ok(Ok { body: OkBody::Log { events, .. }, .. }) = page else { panic!("{page:?}") };
    for event in [serde_json::from_str(text).expect("an event"), ServerFrame::Event(events[0].clone())] {
        let ServerFrame::Event(event) = event else { panic!("{event:?}") };
        assert_eq!((event.seq, event.from.as_str()), (Seq(7), "alice"));
        assert!(matches!(&event.body, crate::EventBody::Unknown(fields) if fields["question"] == "?"));
        let again: serde_json::Value = serde_json::to_value(&event).expect("json");
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(text).expect("json"));
    }
}

#[test]
fn replies_are_encoded_as_the_contract_shows() {
    let ok: Reply = Reply::Ok(Ok {
        id: Some(CommandId::Number(1)),
        body: OkBody::Stored {
            conversation: ConversationId::parse("@alice:bob").expect("id"),
            seq: Seq(7),
            at: Timestamp::from_millis(1_795_435_200_000),
            duplicate: false,
            event: None,
        },
    });
    insta::assert_snapshot!(
        serde_json::to_string(&ok).expect("json"),
        @r#"{"type":"ok","id":1,"conversation":"@alice:bob","seq":7,"at":"2026-11-23T12:00:00.000Z"}"#
    );
}

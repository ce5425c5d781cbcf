//! Formats an event as one line for a person.

use switchboard_protocol::{Data, Event, EventBody, Seq, Text};

use super::output::printable;

/// Formats an event, with control characters in its text escaped.
pub(super) fn describe(event: &Event) -> String {
    let from = &event.from;
    let what = match &event.body {
        EventBody::Message { deleted: true, .. } => format!("{from}: (deleted)"),
        EventBody::Message { text, data, reply_to, .. } => {
            let reply = reply_to.map_or_else(String::new, |Seq(n)| format!(" (to {n})"));
            format!("{from}{reply}: {}", describe_content(text.as_ref(), data.as_ref()))
        }
        EventBody::Edit { target, deleted: true, .. } => format!("{from} edited {target}, since deleted"),
        EventBody::Edit { target, text, data, .. } => {
            format!("{from} edited {target}: {}", describe_content(text.as_ref(), data.as_ref()))
        }
        EventBody::Delete { target } => format!("{from} deleted {target}"),
        EventBody::React { target, emoji, on } => {
            let (verb, preposition) = if *on { ("put", "on") } else { ("took", "off") };
            format!("{from} {verb} {} {preposition} {target}", printable(emoji.as_str()))
        }
        EventBody::Create { title, public, members } => {
            let kind = if *public { "public" } else { "private" };
            let title = title.as_ref().map_or_else(String::new, |t| format!(" {:?}", printable(t.as_str())));
            format!("{from} made the {kind} room{title} with {} others", members.len())
        }
        EventBody::Join { role: None, .. } => format!("{from} joined"),
        EventBody::Join { role: Some(role), .. } => format!("{from} joined, as {role:?}"),
        EventBody::Leave {} => format!("{from} left"),
        EventBody::Invite { user, role, .. } => format!("{from} brought {user} in, as {role:?}"),
        EventBody::Remove { user, ban: true, until: Some(until), .. } => {
            format!("{from} banned {user} until {until}")
        }
        EventBody::Remove { user, ban: true, until: None, .. } => format!("{from} banned {user}"),
        EventBody::Remove { user, .. } => format!("{from} took {user} out"),
        EventBody::Role { user, role, until: Some(until) } => {
            format!("{from} made {user} {role:?} until {until}")
        }
        EventBody::Role { user, role, until: None } => format!("{from} made {user} {role:?}"),
        EventBody::End {} => format!("{from} deleted the room"),
        EventBody::Settings { slow, rejoin } => {
            let slow = slow.map(|slow| format!("slow {slow} ms"));
            let rejoin = rejoin.map(|rejoin| format!("rejoin {rejoin}"));
            let changed: Vec<_> = slow.into_iter().chain(rejoin).collect();
            format!("{from} set {}", changed.join(", "))
        }
        EventBody::Rename { title } => format!("{from} renamed the room {:?}", printable(title.as_str())),
        EventBody::Unreadable {} => "(an event that the server cannot read)".to_owned(),
        EventBody::Withheld { of, withheld } => {
            format!("{from}: (withheld {}: {})", printable(of), printable(withheld))
        }
        EventBody::Erase {} => format!("(all that {from} wrote up to here was erased)"),
        other => {
            let fields = serde_json::to_value(other).unwrap_or_default();
            let kind = fields.get("type").and_then(|kind| kind.as_str()).unwrap_or_default();
            match other {
                EventBody::Unknown(_) => {
                    format!(
                        "{from}: (an event of a kind that this version does not know: {})",
                        printable(kind)
                    )
                }
                // This function has no sentence for this kind of event, so it shows the fields.
                _ => format!("{from}: {}", printable(&fields.to_string())),
            }
        }
    };
    format!("{} {} {} {what}", event.at, event.conversation, event.seq)
}

fn describe_content(text: Option<&Text>, data: Option<&Data>) -> String {
    let text = text.map(|text| printable(text.as_str()));
    // JSON escapes only the control characters below U+0020.
    let data = data.and_then(|data| serde_json::to_string(data).ok()).map(|json| printable(&json));
    [text, data].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_formatted_as_one_line() {
        for (fields, wanted) in [
            (r#""type":"message","text":"a\nb","data":{"x":1}"#, r#"alice: a\nb {"x":1}"#),
            (r#""type":"message","text":"yes","reply_to":3"#, "alice (to 3): yes"),
            (r#""type":"message","deleted":true"#, "alice: (deleted)"),
            (r#""type":"edit","target":3,"text":"b""#, "alice edited 3: b"),
            (r#""type":"react","target":3,"emoji":"👍","on":true"#, "alice put 👍 on 3"),
            (r#""type":"invite","user":"bob","role":"reader""#, "alice brought bob in, as Reader"),
            (
                r#""type":"poll","question":"?""#,
                "alice: (an event of a kind that this version does not know: poll)",
            ),
            (r#""type":"join""#, "alice joined"),
            (r#""type":"join","role":"reader""#, "alice joined, as Reader"),
        ] {
            let json = format!(
                r##"{{{fields},"conversation":"#a","seq":7,"from":"alice","at":"2026-11-23T12:00:00.000Z"}}"##
            );
            let event: Event = serde_json::from_str(&json).expect(&json);
            assert_eq!(describe(&event), format!("2026-11-23T12:00:00.000Z #a 7 {wanted}"));
        }
    }
}

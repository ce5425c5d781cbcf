//! Computes the current state of messages from the raw log, by the rules that the protocol gives to clients.

use std::collections::BTreeMap;

use switchboard_protocol::reply::{Edited, Message};
use switchboard_protocol::{Event, EventBody, Seq};

/// The current state of all messages of a log.
pub(crate) fn fold(events: &[Event]) -> Vec<Message> {
    let mut messages: BTreeMap<Seq, Message> = BTreeMap::new();
    for event in events {
        match &event.body {
            EventBody::Message { text, data, reply_to, deleted } => {
                let message = Message {
                    kind: Default::default(),
                    conversation: event.conversation.clone(),
                    seq: event.seq,
                    from: event.from.clone(),
                    at: event.at,
                    key: event.key.clone(),
                    text: text.clone(),
                    data: data.clone(),
                    reply_to: *reply_to,
                    edited: None,
                    deleted: *deleted,
                    reactions: BTreeMap::new(),
                };
                messages.insert(event.seq, message);
            }
            EventBody::Edit { target, text, data, .. } => {
                if let Some(message) = undeleted(&mut messages, *target) {
                    message.text.clone_from(text);
                    message.data.clone_from(data);
                    message.edited = Some(Edited { seq: event.seq, at: event.at });
                }
            }
            EventBody::Delete { target } => {
                if let Some(message) = messages.get_mut(target) {
                    message.deleted = true;
                    (message.text, message.data, message.reply_to, message.edited) = (None, None, None, None);
                    message.reactions.clear();
                }
            }
            EventBody::React { target, emoji, on } => {
                if let Some(message) = undeleted(&mut messages, *target) {
                    let users = message.reactions.entry(emoji.as_str().to_owned()).or_default();
                    users.retain(|user| *user != event.from);
                    if *on {
                        users.push(event.from.clone());
                    }
                    message.reactions.retain(|_, users| !users.is_empty());
                }
            }
            _ => {}
        }
    }
    messages.into_values().collect()
}

/// The message with this seq, unless it is missing or deleted.
fn undeleted(messages: &mut BTreeMap<Seq, Message>, seq: Seq) -> Option<&mut Message> {
    messages.get_mut(&seq).filter(|message| !message.deleted)
}

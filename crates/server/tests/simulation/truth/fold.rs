//! Computes messages, members, unread counts and the title of a conversation from the events of its log up to a given event.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Log;

impl Log {
    /// The seqs of the messages up to the event `upto`.
    pub(super) fn messages(&self, upto: u64) -> impl Iterator<Item = u64> {
        (1..=upto).filter(|seq| self.get(*seq).is_some_and(|event| event.kind == "message"))
    }

    /// A message with its edits, reactions and deletion up to the event `upto`, in its wire form. With `gone` it is shown as
    /// deleted, because a later deletion may already have erased its content.
    pub(super) fn message_as_of(&self, name: &str, seq: u64, upto: u64, gone: bool) -> Value {
        let Some(message) = self.get(seq) else { return Value::Null };
        let mut folded = json!({"type": "message", "conversation": name, "seq": seq, "from": message.from,
            "at": message.at, "key": message.key});
        if gone {
            folded["deleted"] = true.into();
            return folded;
        }
        let mut content = &message.body;
        let about = |at: u64| self.get(at).filter(|event| event.target() == Some(seq));
        let later = || (seq + 1..=upto).filter_map(|at| about(at).map(|event| (at, event)));
        for (at, edit) in later().filter(|(_, event)| event.kind == "edit") {
            content = &edit.body;
            folded["edited"] = json!({"seq": at, "at": edit.at});
        }
        for field in ["text", "data"] {
            if let Some(value) = content.get(field) {
                folded[field] = value.clone();
            }
        }
        if let Some(reply_to) = message.body.get("reply_to") {
            folded["reply_to"] = reply_to.clone();
        }
        let reactions = reactions(later().filter(|(_, event)| event.kind == "react").map(|(_, event)| {
            (
                event.from.as_str(),
                event.text("emoji").unwrap_or_default(),
                event.body.get("on") == Some(&Value::Bool(true)),
            )
        }));
        if !reactions.is_empty() {
            folded["reactions"] = Value::Object(reactions);
        }
        folded
    }

    /// The number of members after the event `seq`.
    pub(super) fn member_count_as_of(&self, seq: u64) -> u64 {
        let there = |stays: &Vec<super::MembershipPeriod>| {
            stays.iter().any(|stay| stay.since <= seq && stay.until.is_none_or(|until| until > seq))
        };
        self.members.values().filter(|stays| there(stays)).count() as u64
    }

    /// The number of messages of other users after the seq `read`, up to the seq `head`.
    pub(super) fn unread_count(&self, user: &str, read: u64, head: u64) -> u64 {
        let of_others = |seq: &u64| *seq > read && self.get(*seq).is_some_and(|event| event.from != user);
        self.messages(head).filter(of_others).count() as u64
    }

    /// The title of the conversation after the event `head`.
    pub(super) fn title(&self, head: u64) -> Option<&str> {
        let events = (1..=head).rev().filter_map(|seq| self.get(seq));
        events.filter(|event| matches!(event.kind, "create" | "rename")).find_map(|event| event.text("title"))
    }
}

/// The reactions that remain after a history of changes: for each, the user, the emoji, and whether it was added or removed.
fn reactions<'a>(history: impl Iterator<Item = (&'a str, &'a str, bool)>) -> Map<String, Value> {
    let mut standing = BTreeMap::<&str, Vec<&str>>::new();
    for (user, emoji, on) in history {
        let users = standing.entry(emoji).or_default();
        users.retain(|other| *other != user);
        if on {
            users.push(user);
        }
    }
    let some = standing.into_iter().filter(|(_, users)| !users.is_empty());
    some.map(|(emoji, users)| (emoji.to_owned(), users.into())).collect()
}

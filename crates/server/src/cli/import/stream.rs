//! The channels that Stream exports: JSON, in the form of its API. <https://getstream.io/chat/docs/node/exporting_channels/>

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use switchboard_protocol::Timestamp;

use super::export::{MAX_FIRST_MEMBERS, Message, UserIds, clean_id, emoji_of, reaction, record, time};
use super::{Record, Records};

/// How ids of channels begin that are made of their members. Those of two members are direct conversations.
const OF_MEMBERS: &str = "!members-";

/// The names of reactions that are no names of emojis.
const REACTIONS: [(&str, &str); 6] =
    [("like", "👍"), ("love", "❤"), ("haha", "😂"), ("wow", "😮"), ("sad", "😢"), ("angry", "😠")];

#[derive(Debug, Deserialize)]
struct State {
    channel: ExportedChannel,
    #[serde(default)]
    messages: Vec<ExportedMessage>,
    #[serde(default)]
    members: Vec<Member>,
    #[serde(default)]
    read: Vec<Read>,
}

#[derive(Debug, Deserialize)]
struct ExportedChannel {
    id: String,
    name: Option<String>,
    created_at: Timestamp,
    created_by: Option<User>,
}

#[derive(Debug, Deserialize)]
struct User {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Member {
    user_id: Option<String>,
    user: Option<User>,
}

#[derive(Debug, Deserialize)]
struct Read {
    user: User,
    last_read: Timestamp,
}

#[derive(Debug, Deserialize)]
struct ExportedMessage {
    id: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default, rename = "type")]
    kind: String,
    user: Option<User>,
    created_at: Timestamp,
    deleted_at: Option<Timestamp>,
    parent_id: Option<String>,
    quoted_message_id: Option<String>,
    #[serde(default)]
    latest_reactions: Option<Vec<Reaction>>,
    #[serde(default)]
    attachments: Option<Vec<Attachment>>,
}

#[derive(Debug, Deserialize)]
struct Reaction {
    #[serde(rename = "type")]
    kind: String,
    user_id: Option<String>,
    user: Option<User>,
    created_at: Timestamp,
}

#[derive(Debug, Deserialize)]
struct Attachment {
    title: Option<String>,
    asset_url: Option<String>,
    image_url: Option<String>,
}

/// The lines of an export.
///
/// # Errors
/// The file is not as Stream exports it.
pub(super) fn records(path: &Path, users: UserIds) -> anyhow::Result<Records> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let export: Value = serde_json::from_slice(&text).with_context(|| {
        format!("{} is not one JSON document; the form v2 of exports is not read", path.display())
    })?;
    drop(text);
    let states = match export {
        Value::Array(states) => states,
        Value::Object(mut fields) => match fields.remove("channels") {
            Some(Value::Array(states)) => states,
            _ => vec![Value::Object(fields)],
        },
        _ => bail!("{} has no channels", path.display()),
    };
    let lines = states.into_iter().flat_map(move |state| match serde_json::from_value::<State>(state) {
        Ok(state) => state.records(&users).into_iter().map(Ok).collect(),
        Err(error) => vec![Err(anyhow::Error::from(error).context("a channel is not as Stream exports it"))],
    });
    Ok(Box::new(lines))
}

impl State {
    fn records(&self, users: &UserIds) -> Vec<Record> {
        let members: Vec<_> = (self.members.iter())
            .filter_map(|member| {
                member.user_id.as_deref().or(member.user.as_ref().map(|user| user.id.as_str()))
            })
            .map(|user| users.of(user))
            .collect();
        let is_direct = self.channel.id.starts_with(OF_MEMBERS) && members.len() == 2;
        let room = format!("#{}", clean_id(&self.channel.id));
        let to = |from: &str| match members.iter().find(|user| *user != from) {
            Some(other) if is_direct => format!("@{other}"),
            _ => room.clone(),
        };
        let authors: HashMap<_, _> = (self.messages.iter())
            .filter(|message| message.is_written())
            .filter_map(|message| Some((message.id.as_str(), users.of(&message.user.as_ref()?.id))))
            .collect();
        let mut lines = Vec::new();
        let mut messages = Vec::new();
        for message in self.messages.iter().filter(|message| message.is_written()) {
            let Some(from) = authors.get(message.id.as_str()) else { continue };
            let (at, target) = (message.created_at.as_millis(), (from.as_str(), message.id.as_str()));
            let line = message.line(to(from), from, &authors);
            if line.is_empty() {
                continue;
            }
            messages.push((at, target));
            lines.push((at, line.records(&message.id)));
            for Reaction { kind, user_id, user, created_at } in message.latest_reactions.iter().flatten() {
                let Some(user) = user_id.as_ref().or(user.as_ref().map(|user| &user.id)) else { continue };
                let (user, at) = (users.of(user), created_at.as_millis().max(at));
                let known =
                    REACTIONS.iter().find(|(name, _)| name == kind).map(|(_, emoji)| (*emoji).to_owned());
                let emoji = known.unwrap_or_else(|| emoji_of(kind));
                lines.push((at, vec![reaction(&message.id, &to(&user), (&emoji, &user, at), target)]));
            }
        }
        // The sort is stable: a reaction follows its message.
        lines.sort_by_key(|(at, _)| *at);
        messages.sort_by_key(|(at, _)| *at);
        let mut records = Vec::new();
        if !is_direct
            && let Some(creator) = self
                .channel
                .created_by
                .as_ref()
                .map(|user| users.of(&user.id))
                .or_else(|| members.first().cloned())
        {
            let created = self.channel.created_at.as_millis();
            let at = lines.first().map_or(created, |(first, _)| created.min(*first));
            let title = self.channel.name.as_ref().unwrap_or(&self.channel.id);
            let named: Vec<_> = members.iter().take(MAX_FIRST_MEMBERS).collect();
            let line =
                json!({ "create": room, "at": time(at), "from": creator, "title": title, "members": named });
            records.push(record(&self.channel.id, &line));
        }
        records.extend(lines.into_iter().flat_map(|(_, lines)| lines));
        for Read { user, last_read } in &self.read {
            let user = users.of(&user.id);
            let last = messages.iter().rev().find(|(at, _)| *at <= last_read.as_millis());
            let Some((_, (from, key))) = last.filter(|_| members.contains(&user)) else { continue };
            let line = json!({ "read": to(&user), "from": user, "upto": { "from": from, "key": key } });
            records.push(record(&self.channel.id, &line));
        }
        records
    }
}

impl ExportedMessage {
    /// Whether a user wrote the message, and has not deleted it.
    fn is_written(&self) -> bool {
        matches!(self.kind.as_str(), "" | "regular" | "reply") && self.deleted_at.is_none()
    }

    fn line(&self, to: String, from: &str, authors: &HashMap<&str, String>) -> Message {
        let files: Vec<_> = (self.attachments.iter().flatten())
            .map(|file| json!({ "title": file.title, "url": file.asset_url.as_ref().or(file.image_url.as_ref()) }))
            .collect();
        let answered = self.quoted_message_id.as_ref().or(self.parent_id.as_ref());
        Message {
            to,
            from: from.to_owned(),
            at: self.created_at.as_millis(),
            key: self.id.clone(),
            text: self.text.clone().unwrap_or_default(),
            data: (!files.is_empty()).then(|| json!({ "stream": { "attachments": files } })),
            reply_to: answered.and_then(|id| Some((authors.get(id.as_str())?.clone(), id.clone()))),
        }
    }
}

//! What the converters of exports share: ids, and the lines of a message.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use switchboard_protocol::{Limits, Timestamp, UserId, truncated};

use super::Record;

/// The most members that the line of a new room names; the others become members with their first message.
pub(super) const MAX_FIRST_MEMBERS: usize = 1_000;

/// The ids of users in another system, with those here.
#[derive(Debug, Clone, Default)]
pub(super) struct UserIds(HashMap<String, String>);

impl UserIds {
    /// Reads a CSV file with two columns and no header.
    ///
    /// # Errors
    /// The file cannot be read, or names no ids.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let reader = csv::ReaderBuilder::new().has_headers(false).from_path(path);
        let mut reader = reader.with_context(|| format!("cannot read {}", path.display()))?;
        let mut ids = HashMap::new();
        for row in reader.records() {
            let row = row.with_context(|| path.display().to_string())?;
            let (theirs, ours) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
            let line = row.position().map_or(0, csv::Position::line);
            ensure!(UserId::parse(ours).is_ok(), "{}, line {line}: {ours:?} is no user id", path.display());
            ids.insert(theirs.to_owned(), ours.to_owned());
        }
        Ok(Self(ids))
    }

    /// The id of a user here.
    pub(super) fn of(&self, theirs: &str) -> String {
        self.0.get(theirs).cloned().unwrap_or_else(|| clean_id(theirs))
    }
}

/// Makes an id of a name: other characters become `-`.
pub(super) fn clean_id(name: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._~+=|@-".contains(c);
    let clean: String = name.chars().map(|c| if legal(c) { c } else { '-' }).collect();
    let clean = clean.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let clean = if clean.is_empty() { "x" } else { clean };
    clean.chars().take(UserId::MAX_BYTES).collect()
}

/// A message of another system.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) to: String,
    pub(super) from: String,
    /// In milliseconds since the Unix epoch.
    pub(super) at: i64,
    pub(super) key: String,
    pub(super) text: String,
    pub(super) data: Option<Value>,
    /// The author and the key of the message that it answers.
    pub(super) reply_to: Option<(String, String)>,
}

impl Message {
    /// The lines of a message: several, if the text is longer than a message may be.
    pub(super) fn records(&self, place: &str) -> Vec<Record> {
        let Self { to, from, at, key, text, data, reply_to } = self;
        let mut rest = text.as_str();
        let mut records = Vec::new();
        while !rest.is_empty() || records.is_empty() {
            let part = truncated(rest, Limits::default().text as usize);
            rest = rest.get(part.len()..).unwrap_or_default();
            let key = if records.is_empty() { key.clone() } else { format!("{key}~{}", records.len() + 1) };
            let mut line = json!({ "to": to, "from": from, "at": time(*at), "key": key });
            if !part.is_empty() {
                line["text"] = part.into();
            }
            if records.is_empty() {
                data.iter().for_each(|data| line["data"] = data.clone());
                if let Some((from, key)) = reply_to {
                    line["reply_to"] = json!({ "from": from, "key": key });
                }
            }
            records.push(record(place, &line));
        }
        records
    }

    /// Whether there is nothing to import.
    pub(super) fn is_empty(&self) -> bool {
        self.text.trim().is_empty() && self.data.is_none()
    }
}

/// The line of a reaction to the message of this author with this key.
pub(super) fn reaction(
    place: &str,
    to: &str,
    (emoji, from, at): (&str, &str, i64),
    target: (&str, &str),
) -> Record {
    let target = json!({ "from": target.0, "key": target.1 });
    record(place, &json!({ "react": emoji, "to": to, "from": from, "at": time(at), "target": target }))
}

/// A line.
pub(super) fn record(place: &str, line: &Value) -> Record {
    Record { place: place.to_owned(), line: line.to_string().into_bytes() }
}

/// A time on the wire.
pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// The emoji of a name such as `thumbsup` or `wave::skin-tone-3`; the name itself between colons, if it is none of Unicode.
pub(super) fn emoji_of(name: &str) -> String {
    let (name, tone) =
        name.split_once("::skin-tone-").map_or((name, None), |(name, tone)| (name, Some(tone)));
    let Some(emoji) = emojis::get_by_shortcode(name) else {
        return truncated(&format!(":{name}:"), 64).to_owned();
    };
    let tone = tone.and_then(|tone| {
        Some(match tone {
            "2" => emojis::SkinTone::Light,
            "3" => emojis::SkinTone::MediumLight,
            "4" => emojis::SkinTone::Medium,
            "5" => emojis::SkinTone::MediumDark,
            "6" => emojis::SkinTone::Dark,
            _ => return None,
        })
    });
    tone.and_then(|tone| emoji.with_skin_tone(tone)).unwrap_or(emoji).as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_only_legal_characters() {
        for (name, id) in
            [("U012AB", "U012AB"), ("!members-a b", "members-a-b"), ("é", "x"), ("", "x"), ("a/b", "a-b")]
        {
            assert_eq!(clean_id(name), id);
            assert!(UserId::parse(&clean_id(name)).is_ok());
        }
    }

    #[test]
    fn names_of_emojis_become_emojis() {
        assert_eq!(emoji_of("thumbsup"), "👍");
        assert_eq!(emoji_of("+1::skin-tone-4"), "👍🏽");
        assert_eq!(emoji_of("our-parrot"), ":our-parrot:");
    }

    #[test]
    fn a_long_text_becomes_several_messages() {
        let text = "é".repeat(Limits::default().text as usize);
        let message = Message { text, key: "k".to_owned(), ..Message::default() };
        let records = message.records("here");
        let keys: Vec<_> = records
            .iter()
            .map(|record| serde_json::from_slice::<Value>(&record.line).expect("JSON")["key"].clone())
            .collect();
        assert_eq!(keys, ["k", "k~2"]);
    }
}

//! The laws of a run: each compares what a client received with the reference model.

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{LawBroken, LawResult, Log, ReferenceModel};

/// The field that the server sends in place of the content of a deleted message and of its edits.
const DELETED_FIELD: (&str, Value) = ("deleted", Value::Bool(true));

impl ReferenceModel {
    /// Checks an event that a user received live or, if `head` is given, in a page of the log with this head.
    pub(crate) fn on_received(
        &mut self,
        who: &str,
        user: &str,
        event: &Value,
        head: Option<u64>,
    ) -> LawResult {
        match self.check_received(user, event, head) {
            Ok(()) => Ok(()),
            Err(what) => Err(self.report_violation(who, &format!("{what}: {event}"))),
        }
    }

    /// Checks an event that a back end read in the feed at the end of the run, when all deletions are known.
    pub(crate) fn check_fed(&mut self, event: &Value) -> LawResult {
        match self.check_content(event, Some(u64::MAX)) {
            Ok(()) => Ok(()),
            Err(what) => Err(self.report_violation("feed", &format!("{what}: {event}"))),
        }
    }

    fn check_received(&self, user: &str, event: &Value, head: Option<u64>) -> Result<(), String> {
        let name = event["conversation"].as_str().ok_or("an event without a conversation")?;
        let seq = event["seq"].as_u64().ok_or("an event without a seq")?;
        let visible = self.visible_head(user, name).ok_or("received by a user who never was a member")?;
        if seq > visible {
            return Err(format!("received by a user who may see up to {visible}"));
        }
        self.check_content(event, head)
    }

    /// Compares an event with what was stored, or with what a deletion has left of it.
    fn check_content(&self, event: &Value, head: Option<u64>) -> Result<(), String> {
        let name = event["conversation"].as_str().ok_or("an event without a conversation")?;
        let seq = event["seq"].as_u64().ok_or("an event without a seq")?;
        let stored = self.logs.get(name).and_then(|log| log.get(seq)).ok_or("nothing like it is stored")?;
        let same = event["type"] == stored.kind
            && event["from"] == *stored.from
            && event["at"] == *stored.at
            && event.get("key").and_then(Value::as_str) == stored.key.as_deref();
        if !same {
            return Err("not as it was stored".to_owned());
        }
        let fields = event.as_object().ok_or("no object")?;
        let body = fields.iter().filter(|(name, _)| {
            !matches!(name.as_str(), "type" | "conversation" | "seq" | "from" | "at" | "key")
        });
        let whole = body.clone().count() == stored.body.len()
            && body.clone().all(|(name, value)| stored.body.get(name) == Some(value));
        let (erased, yes) = DELETED_FIELD;
        let empty = body.clone().all(|(name, value)| {
            (name == erased && *value == yes) || (name == "target" && stored.body.get(name) == Some(value))
        }) && event.get(erased) == Some(&yes);
        match stored.deleted_by {
            None if whole => Ok(()),
            // The server may have sent the content before the deletion, but not in a page whose head includes the deletion.
            Some(by) if whole && head.is_none_or(|head| head < by) => Ok(()),
            Some(_) if empty => Ok(()),
            Some(by) => Err(format!("content that was deleted by {by}")),
            None => Err("not what was stored".to_owned()),
        }
    }

    /// Checks the `ok` for a write. `key` is the idempotency key if the write is a message.
    pub(crate) fn on_acknowledged(
        &mut self,
        who: &str,
        user: &str,
        key: Option<&str>,
        ok: &Value,
    ) -> LawResult {
        self.counts.acknowledged += 1;
        self.counts.duplicates += u64::from(ok["duplicate"] == true);
        match self.check_acknowledged(user, key, ok) {
            Ok(()) => Ok(()),
            Err(what) => Err(self.report_violation(who, &format!("{what}: {ok}"))),
        }
    }

    fn check_acknowledged(&mut self, user: &str, key: Option<&str>, ok: &Value) -> Result<(), String> {
        let name = ok["conversation"].as_str().ok_or("no conversation")?;
        let seq = ok["seq"].as_u64().ok_or("no seq")?;
        let stored = self.logs.get(name).and_then(|log| log.get(seq));
        let stored = stored.ok_or("acknowledged, but not stored")?;
        if ok["at"] != *stored.at {
            return Err(format!("stored at {}", stored.at));
        }
        let new = ok["duplicate"] != true;
        if new && stored.from != user {
            return Err(format!("the event is of {}", stored.from));
        }
        let Some(key) = key else { return Ok(()) };
        let key = (user.to_owned(), key.to_owned());
        if self.keys.get(&key) != Some(&(name.to_owned(), seq)) {
            return Err(format!("the key's message is {:?}", self.keys.get(&key)));
        }
        if new && let Some(first) = self.acknowledged.insert(key, seq) {
            return Err(format!("acknowledged as new twice, first as {first}"));
        }
        Ok(())
    }

    /// Checks the final refusal of a message that was sent at `asked`: no message with its key may be stored.
    pub(crate) fn on_refused(&mut self, who: &str, user: &str, key: &str, asked: Instant) -> LawResult {
        let first = self.keys.get(&(user.to_owned(), key.to_owned()));
        let stored = first.and_then(|(name, seq)| self.logs.get(name).and_then(|log| log.get(*seq)));
        if stored.is_some_and(|stored| stored.committed_at < asked) {
            let what = format!("{key} is refused, but is stored as {first:?}");
            return Err(self.report_violation(who, &what));
        }
        Ok(())
    }

    /// Checks a page of the log that begins after the event `after`.
    pub(crate) fn on_log_page(&mut self, who: &str, user: &str, after: u64, page: &Value) -> LawResult {
        self.counts.pages += 1;
        let (name, head) = self.check_head(who, user, page)?;
        let events = page["events"].as_array().map_or(&[][..], Vec::as_slice);
        for (seq, event) in (after + 1..).zip(events) {
            if event["conversation"] != *name || event["seq"] != seq {
                return Err(self.report_violation(who, &format!("a page has {event} in place of {seq}")));
            }
            self.on_received(who, user, event, Some(head))?;
        }
        let last = after + events.len() as u64;
        if (last < head) != (page["more"] == true) || (events.is_empty() && after < head) {
            return Err(
                self.report_violation(who, &format!("the page ends at {last}, the log at {head}: {page}"))
            );
        }
        Ok(())
    }

    /// Checks a page of history with the messages before the event `before`, or with the latest ones.
    pub(crate) fn on_history_page(
        &mut self,
        who: &str,
        user: &str,
        before: Option<u64>,
        page: &Value,
    ) -> LawResult {
        self.counts.pages += 1;
        let (name, head) = self.check_head(who, user, page)?;
        let messages = page["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let log = self.logs.get(&name).expect("it has a head");
        let all: Vec<u64> =
            log.messages(head).filter(|seq| before.is_none_or(|before| *seq < before)).collect();
        let expected = &all[all.len().saturating_sub(messages.len())..];
        let wrong = expected
            .iter()
            .zip(messages)
            .find(|(seq, message)| !log.is_shown_correctly(&name, **seq, head, message));
        if let Some((seq, message)) = wrong {
            let what = format!("{message} is not {}", log.message_as_of(&name, *seq, head, false));
            return Err(self.report_violation(who, &what));
        }
        let more = all.len() > messages.len();
        if messages.len() > all.len() || more != (page["more"] == true) || (messages.is_empty() && more) {
            return Err(
                self.report_violation(who, &format!("{} messages of {all:?}: {page}", messages.len()))
            );
        }
        Ok(())
    }

    /// Returns a page's conversation and head, after checking that the user may see the head.
    fn check_head(&mut self, who: &str, user: &str, page: &Value) -> Result<(String, u64), LawBroken> {
        let name = page["conversation"].as_str().unwrap_or_default();
        let head = page["head"].as_u64().unwrap_or(u64::MAX);
        let visible = self.visible_head(user, name);
        if visible.is_none_or(|visible| head > visible) {
            return Err(self.report_violation(who, &format!("{user} may see up to {visible:?}: {page}")));
        }
        Ok((name.to_owned(), head))
    }

    /// Checks the summaries in `welcome` or in a page. If `since` is given, they must include every conversation of which the user
    /// has been a member since then.
    pub(crate) fn on_summaries(
        &mut self,
        who: &str,
        user: &str,
        all: &[Value],
        since: Option<Instant>,
    ) -> LawResult {
        for summary in all {
            if let Err(what) = self.check_summary(user, summary) {
                return Err(self.report_violation(who, &format!("{what}: {summary}")));
            }
        }
        let Some(since) = since else { return Ok(()) };
        let missing = self.logs.iter().find(|(name, log)| {
            let last = log.members.get(user).and_then(|stays| stays.last());
            last.is_some_and(|stay| stay.until.is_none() && stay.when < since)
                && !all.iter().any(|summary| summary["conversation"] == ***name)
        });
        match missing.map(|(name, _)| name.clone()) {
            Some(name) => Err(self.report_violation(who, &format!("{name} is missing in `conversations`"))),
            None => Ok(()),
        }
    }

    fn check_summary(&self, user: &str, summary: &Value) -> Result<(), String> {
        let name = summary["conversation"].as_str().unwrap_or_default();
        let log = self.logs.get(name).ok_or("no such conversation")?;
        let number = |field: &str| summary[field].as_u64().ok_or_else(|| format!("no {field}"));
        let (head, read, received) = (number("head")?, number("read")?, number("received")?);
        if self.visible_head(user, name).is_none_or(|visible| head > visible)
            || received < read
            || read > head
        {
            return Err("cursors and head do not fit".to_owned());
        }
        let unread = log.unread_count(user, read, head);
        let members = log.member_count_as_of(head);
        let last = log.messages(head).last();
        let shown = &summary["last"];
        let last_fits = match last {
            Some(last) => log.is_shown_correctly(name, last, head, shown),
            None => shown.is_null(),
        };
        let at = log.get(head).map(|event| event.at.as_str());
        let fits = number("unread")? == unread
            && number("members")? == members
            && summary["at"].as_str() == at
            && summary.get("title").and_then(Value::as_str) == log.title(head)
            && last_fits;
        if fits {
            Ok(())
        } else {
            Err(format!("{unread} unread, {members} members, last {last:?}, title {:?}", log.title(head)))
        }
    }

    /// Whether `cursor` is the last event that the user may see in the conversation.
    pub(crate) fn is_complete(&self, user: &str, name: &str, cursor: u64) -> bool {
        self.visible_head(user, name).is_none_or(|visible| cursor == visible)
    }

    /// The conversations of which a user is a member.
    pub(crate) fn conversations(&self, user: &str) -> Vec<String> {
        self.logs.keys().filter(|name| self.is_member(user, name)).cloned().collect()
    }
}

impl Log {
    /// Whether `shown` is the state of the message after the event `head`, or its deleted state if it was deleted later.
    fn is_shown_correctly(&self, name: &str, seq: u64, head: u64, shown: &Value) -> bool {
        let deleted = self.get(seq).and_then(|event| event.deleted_by);
        let as_it_was = || is_same(&self.message_as_of(name, seq, head, false), shown);
        let gone = || is_same(&self.message_as_of(name, seq, head, true), shown);
        match deleted {
            None => as_it_was(),
            Some(by) if by <= head => gone(),
            Some(_) => as_it_was() || gone(),
        }
    }
}

/// Whether two objects are equal. A null field counts as absent.
fn is_same(one: &Value, other: &Value) -> bool {
    let some = |value: &Value| -> Map<String, Value> {
        let fields = value.as_object().cloned().unwrap_or_default();
        fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
    };
    some(one) == some(other)
}

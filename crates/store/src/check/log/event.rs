//! Checks an event's body, the events and users that it refers to, and the rows that result from it.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, Result, params};
use rustc_hash::FxHashMap;
use switchboard_protocol::{Event, EventBody, EventKind, EventScope, Key, Role, Seq, Timestamp, UserId};

use super::{Log, StoredEvent};
use crate::block::View;
use crate::body;
use crate::check::Report;
use crate::read::row::is_readable;
use crate::record::{Kind, LogEvent, NewerKind};

/// The result of converting a stored body to its wire form.
enum WireBody {
    Body(Box<str>),
    Unreadable,
    /// The body names a user by a key that no user has. That was reported already.
    UnknownUser,
}

/// The message that an event refers to.
struct TargetMessage {
    kind: EventKind,
    sender: i64,
    deleted: bool,
}

impl Log<'_> {
    /// Checks that the body has the fields of its kind, and that the rows that result from it are stored.
    pub(super) fn check_body(&mut self, event: &StoredEvent<'_>, report: &mut Report) -> Result<()> {
        let seq = event.seq;
        let kind = Kind::from(event.kind);
        let wire = self.wire_body(event, &kind, report)?;
        let is_told = matches!(wire, WireBody::UnknownUser);
        let Some(body) = self.decode(event, kind, wire) else {
            // A message or a reaction changes no membership, so the members stay known.
            self.is_uncertain |= !matches!(event.kind.scope(), EventScope::Message | EventScope::Target);
            if !is_told {
                let what = format!("it cannot be read as the event {:?}", event.kind.as_str());
                self.add_problem(report, Some(seq), what);
            }
            return Ok(());
        };
        self.check_key(event, report);
        self.check_position(event, report);
        match body {
            EventBody::Message { reply_to, deleted, .. } => {
                if let Some(target) = reply_to {
                    self.find_target(seq, target, report)?;
                }
                if deleted && !self.is_amended_by(seq, EventKind::Delete)? {
                    self.add_problem(report, Some(seq), "it is erased, and no event deleted it");
                }
            }
            EventBody::Edit { target, deleted, .. } => self.check_edit(event, target, deleted, report)?,
            EventBody::Delete { target } => {
                self.check_amendment_row(seq, target, report)?;
                if self.find_target(seq, target, report)?.is_some_and(|target| !target.deleted) {
                    let what = format!("event {seq} deleted it, and its content is there");
                    self.add_problem(report, Some(target.0), what);
                }
            }
            EventBody::React { target, on, emoji } => {
                let target_row = self.find_target(seq, target, report)?;
                let gone = target_row.is_none_or(|target| target.deleted);
                if !gone && !self.has_reaction_row(event, target, emoji.as_str(), on)? {
                    self.add_problem(report, Some(seq), "the reaction that it changes does not stand so");
                }
            }
            body => self.check_room_event(event, body, report)?,
        }
        Ok(())
    }

    /// Applies an event that changes a room or its members.
    fn check_room_event(
        &mut self,
        event: &StoredEvent<'_>,
        body: EventBody,
        report: &mut Report,
    ) -> Result<()> {
        let seq = event.seq;
        match body {
            EventBody::Create { title, public, members } => {
                self.title = title.map(|title| title.as_str().to_owned());
                self.public = public;
                self.members.add_by_own_event(event.sender, (Role::Admin, None), seq, event.via);
                for member in &members {
                    self.with_user(member, seq, report, |log, user| {
                        log.members.add_member(user, Role::Member, seq, None);
                    })?;
                }
            }
            EventBody::Join { role, until } => {
                // Events of older versions have no role, so the usual one is assumed: the first member is the admin.
                let usual = if self.members.count_present().0 == 0 { Role::Admin } else { Role::Member };
                let role = role.unwrap_or(usual);
                self.members.add_by_own_event(event.sender, (role, until), seq, event.via);
            }
            EventBody::Leave {} => self.members.end_membership(event.sender, seq),
            EventBody::Invite { user, role, until } => {
                self.with_user(&user, seq, report, |log, user| {
                    log.members.add_member(user, role, seq, until);
                })?;
            }
            EventBody::Remove { user, ban, until, absent } => {
                self.with_user(&user, seq, report, |log, user| {
                    if !absent {
                        log.members.end_membership(user, seq);
                    }
                    if ban {
                        log.members.ban(user, until);
                    }
                })?;
            }
            EventBody::Role { user, role, until } => {
                self.with_user(&user, seq, report, |log, user| log.members.set_role(user, role, until))?;
            }
            EventBody::Settings { slow, rejoin } => {
                self.slow = slow.map_or(self.slow, u64::from);
                self.rejoin = rejoin.unwrap_or(self.rejoin);
            }
            EventBody::Rename { title } => self.title = Some(title.as_str().to_owned()),
            _ => {}
        }
        Ok(())
    }

    fn check_key(&mut self, event: &StoredEvent<'_>, report: &mut Report) {
        let seq = Some(event.seq);
        match (event.kind == EventKind::Message, event.key) {
            (true, None) => self.add_problem(report, seq, "it is a message without a key"),
            (true, Some(key)) if Key::parse(key).is_err() => self.add_problem(report, seq, "its key is none"),
            (false, Some(_)) => self.add_problem(report, seq, "it has a key, and is no message"),
            _ => {}
        }
    }

    /// Checks an event of a newer version's kind: its body must be an object, and the users that it names must exist.
    pub(super) fn check_newer_kind(
        &self,
        event: &StoredEvent<'_>,
        kind: &NewerKind,
        report: &mut Report,
    ) -> Result<()> {
        let kind = Kind::Newer(Arc::new(kind.clone()));
        let is_body = match self.wire_body(event, &kind, report)? {
            WireBody::Body(body) => is_readable(&kind, &body),
            WireBody::Unreadable => false,
            WireBody::UnknownUser => true,
        };
        if !is_body {
            self.add_problem(
                report,
                Some(event.seq),
                format!("it cannot be read as the event {:?}", kind.as_str()),
            );
        }
        Ok(())
    }

    /// The body in its wire form, with ids in place of the users' keys.
    fn wire_body(&self, event: &StoredEvent<'_>, kind: &Kind, report: &mut Report) -> Result<WireBody> {
        let Some(body) = event.body.filter(|body| body.starts_with('{')) else {
            return Ok(WireBody::Unreadable);
        };
        if !kind.names_users() {
            return Ok(WireBody::Body(body.into()));
        }
        let (mut users, mut ids) = (Vec::new(), FxHashMap::default());
        body::collect_user_keys(kind, body, &mut users);
        for &user in &users {
            match self.name_of(user.0)?.and_then(|name| UserId::parse(&name).ok()) {
                Some(id) => drop(ids.insert(user, id)),
                None => {
                    let what = format!("it names user number {}, who is not there", user.0);
                    self.add_problem(report, Some(event.seq), what);
                }
            }
        }
        if users.iter().any(|user| !ids.contains_key(user)) {
            return Ok(WireBody::UnknownUser);
        }
        let wire = body::to_wire(kind, body, |user| ids.get(&user).cloned());
        let mut old = Vec::new();
        body::collect_user_ids(kind, body, &mut old);
        if self.schema.is_rewritten && !old.is_empty() {
            self.add_problem(
                report,
                Some(event.seq),
                "it names users by their ids, and all events were rewritten",
            );
        }
        Ok(wire.map_or(WireBody::Unreadable, WireBody::Body))
    }

    /// Decodes a body according to the kind of its event.
    fn decode(&self, event: &StoredEvent<'_>, kind: Kind, wire: WireBody) -> Option<EventBody> {
        let WireBody::Body(body) = wire else { return None };
        let frame = LogEvent {
            conversation: self.id.clone()?,
            seq: Seq(event.seq),
            kind,
            // A missing sender was reported already.
            from: event
                .from
                .and_then(|from| UserId::parse(from).ok())
                .or_else(|| UserId::parse("nobody").ok())?,
            at: Timestamp::from_millis(event.at),
            key: None,
            body,
        };
        let decoded: Event = serde_json::from_str(&frame.to_json_for(View::Whole)).ok()?;
        (decoded.body.kind() == event.kind).then_some(decoded.body)
    }

    fn check_position(&mut self, event: &StoredEvent<'_>, report: &mut Report) {
        let Some(is_room) = self.id.as_ref().map(switchboard_protocol::ConversationId::is_room) else {
            return;
        };
        if event.kind == EventKind::End {
            self.add_problem(
                report,
                Some(event.seq),
                "it says that the room was deleted, and the room was not",
            );
        } else if event.kind.scope() == EventScope::Room && !is_room {
            self.add_problem(report, Some(event.seq), "a direct conversation has no such events");
        } else if is_room && (event.seq == 1) != (event.kind == EventKind::Create) {
            self.is_uncertain = true;
            self.add_problem(report, Some(event.seq), "a room is made by its first event, and by that alone");
        }
    }

    fn check_edit(
        &mut self,
        event: &StoredEvent<'_>,
        target: Seq,
        erased: bool,
        report: &mut Report,
    ) -> Result<()> {
        self.check_amendment_row(event.seq, target, report)?;
        let Some(message) = self.find_target(event.seq, target, report)? else { return Ok(()) };
        if message.sender != event.sender {
            self.add_problem(report, Some(event.seq), "it edits a message of another user");
        }
        if message.deleted != erased {
            let what = if erased {
                "it is erased, and the message is not"
            } else {
                "the message is deleted, and the content of this edit is there"
            };
            self.add_problem(report, Some(event.seq), what);
        }
        Ok(())
    }

    /// The message that an event refers to, which must come before the event.
    fn find_target(&self, seq: u64, target: Seq, report: &mut Report) -> Result<Option<TargetMessage>> {
        let mut select = self
            .db
            .prepare_cached("SELECT kind, sender, body FROM events WHERE conversation = ?1 AND seq = ?2")?;
        let found = select.query_row(params![self.number, target.0], |row| {
            let kind = EventKind::from_number(row.get(0)?);
            let deleted = row.get_ref(2)?.as_str().is_ok_and(crate::change::is_deleted);
            Ok(TargetMessage { kind, sender: row.get(1)?, deleted })
        });
        let found = found.optional()?.filter(|found| found.kind == EventKind::Message && target.0 < seq);
        if found.is_none() {
            self.add_problem(
                report,
                Some(seq),
                format!("it refers to {target}, which is no message before it"),
            );
        }
        Ok(found)
    }

    /// Checks that an edit or a deletion is stored among the amendments of its target.
    fn check_amendment_row(&self, seq: u64, target: Seq, report: &mut Report) -> Result<()> {
        let mut select = self.db.prepare_cached(
            "SELECT 1 FROM amendments WHERE conversation = ?1 AND target = ?2 AND seq = ?3",
        )?;
        if !select.exists(params![self.number, target.0, seq])? {
            self.add_problem(
                report,
                Some(seq),
                format!("it is not noted as an edit or deletion of {target}"),
            );
        }
        Ok(())
    }

    fn is_amended_by(&self, target: u64, kind: EventKind) -> Result<bool> {
        let mut select = self.db.prepare_cached(
            "SELECT 1 FROM amendments a JOIN events e ON e.conversation = a.conversation AND e.seq = a.seq
             WHERE a.conversation = ?1 AND a.target = ?2 AND e.kind = ?3",
        )?;
        select.exists(params![self.number, target, kind.number()])
    }

    /// Whether the reaction is stored with this event as the one that set it, or as the one that removed it.
    fn has_reaction_row(&self, event: &StoredEvent<'_>, target: Seq, emoji: &str, on: bool) -> Result<bool> {
        let mut select = self.db.prepare_cached(if on {
            "SELECT 1 FROM reactions WHERE conversation = ?1 AND target = ?2 AND emoji = ?3 AND user = ?4 AND since = ?5"
        } else {
            "SELECT 1 FROM reactions WHERE conversation = ?1 AND target = ?2 AND emoji = ?3 AND user = ?4 AND until = ?5"
        })?;
        select.exists(params![self.number, target.0, emoji, event.sender, event.seq])
    }

    /// Calls `act` with a user whom an event names; reports the user if they do not exist.
    fn with_user(
        &mut self,
        name: &UserId,
        seq: u64,
        report: &mut Report,
        act: impl FnOnce(&mut Self, i64),
    ) -> Result<()> {
        match self.user(name.as_str())? {
            Some(user) => act(self, user),
            None => {
                self.is_uncertain = true;
                self.add_problem(report, Some(seq), format!("it names {name}, who is no user"));
            }
        }
        Ok(())
    }
}

//! Applies changes to the rows of one transaction. Each change is checked before it is made.
//!
//! A `check_*` function may refuse and has no effect; a `do_*` function has the effect and refuses nothing. So a refusal
//! leaves no trace in a transaction that it shares with other writes.

mod allowance;
mod ban;
mod blocks;
mod contact;
mod cursors;
pub(super) mod dispatch;
mod hold;
mod import;
mod message;
mod profile;
mod report;
mod room;
pub(super) mod rows;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use self::allowance::Allowances;
pub(crate) use self::blocks::BlockRows;
pub(crate) use self::contact::MAX_COMPARED_ROOMS;
pub(super) use self::cursors::{own_messages_upto, shorter_count_range};
pub(super) use self::dispatch::apply;
pub(super) use self::message::is_deleted;
use self::rows::Rows;

use switchboard_protocol::{
    ConversationId, EventBody, EventKind, Limits, Permissions, Role, Seq, Timestamp, UserId,
};

use super::{Committed, CommittedEvent, PresenceChange};
use crate::body;
use crate::feed::Entry;
use crate::record::{Conversation, Membership};
use crate::record::{Effect, LogEvent, UserKey, Via};
use crate::refusal::Refusal;

/// Why a change or a query did not succeed: it was refused, or the store failed.
#[derive(Debug)]
pub(super) enum OperationError<E = rusqlite::Error> {
    Refused(Refusal),
    Store(E),
    /// A `read` for which readers have to count messages first. Nothing was changed.
    Uncounted,
    /// A [`Change::Check`](crate::Change::Check) of a change that would store something. Nothing was changed.
    Checked,
}

impl<E> From<Refusal> for OperationError<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<E: StoreError> From<E> for OperationError<E> {
    fn from(error: E) -> Self {
        Self::Store(error)
    }
}

/// An error of the store.
pub(super) trait StoreError: Display {
    /// Whether only one change failed and left no trace in the transaction, so that the others may be committed.
    fn concerns_one_change(&self) -> bool {
        false
    }

    /// Whether the error reports a damaged row.
    fn is_damaged_row(&self) -> bool;

    /// The error for a value that cannot be encoded, named by `what`.
    fn unwritable(what: String) -> Self;
}

impl StoreError for rusqlite::Error {
    fn is_damaged_row(&self) -> bool {
        matches!(
            self,
            Self::IntegralValueOutOfRange(..)
                | Self::FromSqlConversionFailure(..)
                | Self::InvalidColumnType(..)
                | Self::Utf8Error(..)
        )
    }

    fn unwritable(what: String) -> Self {
        Self::ToSqlConversionFailure(what.into())
    }
}

type ChangeResult<R> = Result<Committed, OperationError<<R as BlockRows>::Error>>;

/// The settings and allowances that the rules use besides the rows.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) limits: Limits,
    /// Whether users may write to user ids that the server has not seen before.
    pub(super) allow_unknown_users: bool,
    /// Whether the feed has an entry for each `read` that moves a cursor.
    pub(super) tells_reads: bool,
    /// The most events that the writer reads to count the messages up to a cursor; usually
    /// [`MAX_EVENTS_COUNTED_BY_WRITER`].
    pub(super) max_events_counted_by_writer: u64,
    allowances: Allowances,
}

impl Rules {
    pub(super) fn new(limits: Limits, allow_unknown_users: bool, tells_reads: bool) -> Self {
        Self {
            allowances: Allowances::new(&limits),
            limits,
            allow_unknown_users,
            tells_reads,
            max_events_counted_by_writer: MAX_EVENTS_COUNTED_BY_WRITER,
        }
    }
}

/// The user who makes a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Actor<'a> {
    pub(super) name: &'a UserId,
    /// Whether the effects of the change count against the user's allowances.
    pub(super) has_allowances: bool,
    /// What makes the change in the user's name, and the client's address.
    pub(super) via: Via,
    pub(super) address: Option<IpAddr>,
    /// The moderator in whose name a back end makes the change.
    pub(super) by: Option<&'a UserId>,
    /// What the user may do; `None` if nothing limits it.
    pub(super) permissions: Option<&'a Permissions>,
}

impl<'a> Actor<'a> {
    /// An actor whose effects count against no allowance.
    pub(super) fn without_allowances(name: &'a UserId) -> Self {
        Self { name, has_allowances: false, via: Via::USER, address: None, by: None, permissions: None }
    }
}

/// The most events that the writer reads to count the messages up to a cursor. Reading them takes some 10 µs, and all other
/// writes wait for that. Readers count over longer ranges.
pub(super) const MAX_EVENTS_COUNTED_BY_WRITER: u64 = 64;

/// Why a change is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChangePurpose {
    Apply,
    /// To find out whether it would be refused. It has no effect.
    Check,
    /// To get the answer of the change that it repeats. It has no effect.
    Repeat,
}

/// One change that is being applied.
struct ChangeContext<'a, R> {
    rows: &'a mut R,
    rules: &'a Rules,
    actor: &'a UserId,
    has_allowances: bool,
    via: Via,
    address: Option<IpAddr>,
    by: Option<&'a UserId>,
    permissions: Option<&'a Permissions>,
    /// The time of the event.
    now: Timestamp,
    /// The time of the transaction. It is later than that of an imported event.
    committed_at: Timestamp,
    purpose: ChangePurpose,
    /// Whether the application has replaced what the client requested.
    is_replaced: bool,
}

/// A conversation that exists, and the actor's membership in it.
struct ActorMembership {
    conversation: Conversation,
    user: UserKey,
    membership: Option<Membership>,
}

impl<'a, R> ChangeContext<'a, R> {
    fn new(
        rows: &'a mut R,
        rules: &'a Rules,
        actor: Actor<'a>,
        now: Timestamp,
        (purpose, is_replaced): (ChangePurpose, bool),
    ) -> Self {
        let Actor { name: actor, has_allowances, via, address, by, permissions } = actor;
        Self {
            rows,
            rules,
            actor,
            has_allowances,
            via,
            address,
            by,
            permissions,
            now,
            committed_at: now,
            purpose,
            is_replaced,
        }
    }
}

impl<R: Rows> ChangeContext<'_, R> {
    /// Called when every check has passed, before the first effect.
    fn begin_effects(&self) -> Result<(), OperationError<R::Error>> {
        match self.purpose {
            ChangePurpose::Apply => Ok(()),
            ChangePurpose::Check => Err(OperationError::Checked),
            ChangePurpose::Repeat => Err(Refusal::unavailable_for(Duration::ZERO).into()),
        }
    }

    /// The conversation and the actor's membership in it, present, past or none.
    fn find_actor_membership(
        &mut self,
        name: &ConversationId,
    ) -> Result<ActorMembership, OperationError<R::Error>> {
        let conversation = self.find_conversation(name)?.ok_or_else(Refusal::not_found)?;
        let user = self.rows.user(self.actor)?.ok_or_else(Refusal::not_found)?;
        let membership = self.rows.member(conversation.key, user)?;
        Ok(ActorMembership { conversation, user, membership })
    }

    /// A conversation, unless it was deleted.
    fn find_conversation(&mut self, name: &ConversationId) -> Result<Option<Conversation>, R::Error> {
        Ok(self.rows.conversation(name)?.filter(|conversation| !conversation.ended))
    }

    /// The key of a user, who is stored from now on.
    fn user_or_new(&mut self, name: &UserId) -> Result<UserKey, OperationError<R::Error>> {
        if let Some(user) = self.rows.user(name)? {
            return Ok(user);
        }
        let user = self.rows.user_or_new(name)?;
        self.do_tell_feed("user.new", Some(user), "{}".to_owned())?;
        Ok(user)
    }

    /// Adds an entry to the feed, about a user if there is one.
    fn do_tell_feed(
        &mut self,
        kind: &'static str,
        user: Option<UserKey>,
        body: String,
    ) -> Result<(), OperationError<R::Error>> {
        let body = self.with_moderator(kind, body)?;
        let address = self.address.map(|address| address.to_string());
        let at = self.committed_at;
        Ok(self.rows.insert_entry(Entry { kind: kind.into(), at, user, via: self.via, address, body })?)
    }

    fn set_presence(&mut self, change: PresenceChange) -> ChangeResult<R> {
        let user = self.user_or_new(self.actor)?;
        match change {
            PresenceChange::Online => self.do_tell_feed("user.online", Some(user), "{}".to_owned())?,
            PresenceChange::LastSeen(at) => self.rows.set_last_seen(user, at)?,
            PresenceChange::Offline(at) => {
                self.rows.set_last_seen(user, at)?;
                self.do_tell_feed("user.offline", Some(user), "{}".to_owned())?;
            }
            PresenceChange::ConnectedAtStop(at) => {
                self.rows.set_last_seen(user, at)?;
                self.rows.set_connected_at_stop(user)?;
            }
        }
        Ok(Committed::NotAnnounced)
    }

    /// The allowances against which the actor's effects count, if any.
    fn allowances(&self) -> Option<&Allowances> {
        self.has_allowances.then_some(&self.rules.allowances)
    }

    /// Refuses a user who may not be written to or invited, because the server has never seen them.
    fn check_known(&mut self, user: &UserId) -> Result<(), OperationError<R::Error>> {
        if self.rules.allow_unknown_users || user == self.actor || self.rows.user(user)?.is_some() {
            self.check_not_retired(user)
        } else {
            Err(Refusal::not_found().into())
        }
    }

    /// Refuses a user who has another id by now.
    fn check_not_retired(&mut self, user: &UserId) -> Result<(), OperationError<R::Error>> {
        if self.rows.user(user)?.is_none() && self.rows.is_retired(user)? {
            return Err(Refusal::not_found().into());
        }
        Ok(())
    }

    /// Appends an event to the log. Returns `None`, and changes nothing, if the sender has used its key before. `stored` is
    /// the stored form of its body. The caller writes the conversation's row.
    fn do_append(
        &mut self,
        conversation: &mut Conversation,
        sender: UserKey,
        kind: EventKind,
        key: Option<Box<str>>,
        (body, stored): (&str, &str),
    ) -> Result<Option<LogEvent>, OperationError<R::Error>> {
        conversation.head = conversation.head.next();
        // The clock may have gone back; the log may not.
        conversation.at = conversation.at.max(self.now.as_millis());
        if kind == EventKind::Message {
            conversation.messages += 1;
            conversation.last_message = conversation.head;
        }
        let event = LogEvent {
            conversation: conversation.name.clone(),
            seq: conversation.head,
            kind: kind.into(),
            from: self.actor.clone(),
            at: Timestamp::from_millis(conversation.at),
            key,
            body: body.into(),
        };
        Ok(self.rows.insert_event(&event, stored, conversation, (sender, self.via))?.then_some(event))
    }

    /// Appends an event that is not a message, and writes the conversation's row.
    fn do_append_event(
        &mut self,
        mut conversation: Conversation,
        user: UserKey,
        body: &EventBody,
        effects: Vec<Effect>,
    ) -> ChangeResult<R> {
        let (kind, body) = (body.kind(), event_fields::<R::Error>(body)?);
        let stored = self.encode_stored_body(kind, &body)?;
        let stored = stored.ok_or_else(|| {
            let what = format!("an event of the kind {} names a user who is not stored", kind.as_str());
            OperationError::Store(R::Error::unwritable(what))
        })?;
        let event = self.do_append(&mut conversation, user, kind, None, (&body, &stored))?;
        // An event without an idempotency key is never a duplicate, so it has always been appended.
        let event = event.ok_or_else(Refusal::unavailable)?;
        Ok(self.commit_event(conversation, event, effects))
    }

    /// The stored form of a body; `None` if the body names a user who is not stored.
    fn encode_stored_body<'b>(
        &mut self,
        kind: EventKind,
        body: &'b str,
    ) -> Result<Option<Cow<'b, str>>, OperationError<R::Error>> {
        if !kind.names_users() || !self.rows.stores_user_keys() {
            return Ok(Some(Cow::Borrowed(body)));
        }
        let stored = body::to_stored(&kind.into(), body, |user| self.rows.user(user))?;
        Ok(stored.map(Cow::Owned))
    }

    fn commit_event(
        &mut self,
        conversation: Conversation,
        event: LogEvent,
        effects: Vec<Effect>,
    ) -> Committed {
        Committed::Event(self.commit_boxed_event(conversation, event, effects))
    }

    fn commit_boxed_event(
        &mut self,
        conversation: Conversation,
        event: LogEvent,
        effects: Vec<Effect>,
    ) -> Box<CommittedEvent> {
        let committed = CommittedEvent {
            conversation: conversation.key,
            name: conversation.name.clone(),
            seq: event.seq,
            at: event.at,
            replaced: self.is_replaced.then(|| Box::new(event.clone())),
            event: Some(event),
            effects,
            is_imported: self.via.is_imported(),
        };
        self.rows.put_conversation(conversation);
        Box::new(committed)
    }

    /// The outcome of a change that repeats what an earlier event did.
    fn outcome_of_repeated_change(&mut self, conversation: &Conversation, earlier: Seq) -> ChangeResult<R> {
        let at = self.rows.event(conversation.key, earlier)?.map_or(conversation.at, |e| e.at.as_millis());
        Ok(Committed::Event(Box::new(CommittedEvent {
            conversation: conversation.key,
            name: conversation.name.clone(),
            seq: earlier,
            at: Timestamp::from_millis(at),
            replaced: None,
            event: None,
            effects: Vec::new(),
            is_imported: false,
        })))
    }
}

/// A membership that begins with the event `since`; everything before it counts as read.
fn new_membership(role: Role, since: Seq, messages: u64, earlier: Option<Membership>) -> Membership {
    let sent = earlier.map_or(0, |m| m.sent);
    Membership {
        role,
        since,
        until: None,
        read: since,
        received: earlier.map_or(since, |m| m.received.max(since)),
        sent,
        read_messages: messages,
        read_sent: sent,
        // An import that is repeated must not move the cursor of a member who has come back.
        read_imported: earlier.is_some_and(|m| m.read_imported),
        silenced: earlier.map_or(0, |m| m.silenced),
        sent_at: earlier.map_or(0, |m| m.sent_at),
    }
}

/// The fields of an event as the store keeps them: without the `type`, which has its own column.
///
/// # Errors
/// The body cannot be encoded. Then the transaction must not be committed, because the client would get an `ok` for an
/// event without its fields.
fn event_fields<E: StoreError>(body: &EventBody) -> Result<String, E> {
    let kind = body.kind().as_str();
    let json = serde_json::to_string(body).unwrap_or_default();
    let fields = json.strip_prefix(&format!(r#"{{"type":"{kind}""#));
    match fields.map(|fields| fields.strip_prefix(',').unwrap_or(fields)) {
        Some(fields) if fields.ends_with('}') => Ok(format!("{{{fields}")),
        _ => Err(E::unwritable(format!("an event of the kind {kind} has no JSON"))),
    }
}

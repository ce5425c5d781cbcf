//! Held messages: kept beside the log until a moderator releases or rejects them.

use serde::Deserialize;
use serde_json::{Value, json};
use switchboard_protocol::{ConversationId, EventKind, Key, Limits, Seq, UserId};

use super::message::{Destination, NewMessage, Pace, key_conflict, request_digest};
use super::report::report_fields;
use super::rows::Rows;
use super::{Actor, ChangeContext, ChangeResult, OperationError};
use crate::ban::INSTALLATION;
use crate::held::{
    COUNT_WAITING, HeldFor, HeldMessage, HeldState, INSERT_HELD, SELECT_OF_REPORT, SET_STATE, hex,
};
use crate::record::{UserKey, Via};
use crate::refusal::Refusal;
use crate::report::ReportTarget;
use crate::{Committed, Hold, body};

/// A held message that may be stored in the log.
pub(super) struct Release {
    message: NewMessage,
    destination: Destination,
    via: Via,
}

impl<R: Rows> ChangeContext<'_, R> {
    /// Keeps a message until a moderator decides. It is checked like a message that is sent.
    pub(super) fn hold(&mut self, hold: Hold) -> ChangeResult<R> {
        let Hold { send, requested } = hold;
        let message = self.new_message(send, requested)?;
        if let Some(held) = self.find_held(&message)? {
            return self.answer_for_held(&message, &held);
        }
        if let Some(sent) = self.answer_for_sent(&message)? {
            return Ok(sent);
        }
        let destination = self.check_new_message(&message, Pace::Checked)?;
        if let Some(author) = self.rows.user(self.actor)? {
            self.check_waiting(author)?;
        }
        self.begin_effects()?;
        self.do_hold(&message, &destination)?;
        Ok(Committed::Held { conversation: message.name, duplicate: false })
    }

    /// Refuses more held messages of a user than moderators can look through.
    fn check_waiting(&mut self, author: UserKey) -> Result<(), OperationError<R::Error>> {
        let waiting = self.rows.report_rows(COUNT_WAITING, &[author.0.into()])?;
        let waiting = waiting.first().map_or(0, |row| row.number(0));
        if waiting >= i64::from(Limits::HELD_PER_USER) {
            return Err(Refusal::rate_limited(Limits::HELD_RETRY_MS).into());
        }
        Ok(())
    }

    fn do_hold(
        &mut self,
        message: &NewMessage,
        destination: &Destination,
    ) -> Result<(), OperationError<R::Error>> {
        let author = self.user_or_new(self.actor)?;
        let peer = match message.name.peers() {
            Some((a, b)) if a == *self.actor => self.user_or_new(&b)?.0,
            Some((a, _)) => self.user_or_new(&a)?.0,
            None => 0,
        };
        let conversation = match destination {
            Destination::Existing(place, _) => place.conversation.key,
            Destination::New(..) => INSTALLATION,
        };
        let target = ReportTarget { conversation, seq: 0, user: author };
        let id = self.do_insert_report(target, &message.body)?;
        let (key, request) = (message.key.as_str(), message.request.as_ref().map(hex));
        let values = [
            id.into(),
            author.0.into(),
            Some(key).into(),
            peer.into(),
            i64::from(self.via.0).into(),
            request.as_deref().into(),
        ];
        self.rows.report_rows(INSERT_HELD, &values)?;
        self.rows.forget_held(author, key);
        let mut fields = report_fields(id, target);
        fields.insert("key".to_owned(), json!(key));
        self.do_tell_feed("message.held", Some(author), Value::from(fields).to_string())
    }

    /// The held message that has the key of a message.
    pub(super) fn find_held(
        &mut self,
        message: &NewMessage,
    ) -> Result<Option<HeldMessage>, OperationError<R::Error>> {
        if !message.has_given_key {
            return Ok(None);
        }
        let Some(author) = self.rows.user(self.actor)? else { return Ok(None) };
        let held = self.rows.held_message(author, message.key.as_str())?;
        // What was released is in the log.
        Ok(held.filter(|held| held.state != HeldState::Released))
    }

    /// The answer to a message whose first copy is or was held.
    pub(super) fn answer_for_held(&mut self, message: &NewMessage, held: &HeldMessage) -> ChangeResult<R> {
        if held.state == HeldState::Rejected {
            return Err(Refusal::rejected().into());
        }
        let is_same = match held.request {
            Some(digest) => digest == request_digest(message.name.as_str(), message.requested()),
            None => body::is_same_body(&EventKind::Message.into(), &held.body, message.requested()),
        };
        if !is_same || !self.goes_to(held, &message.name)? {
            return Err(key_conflict().into());
        }
        Ok(Committed::Held { conversation: message.name.clone(), duplicate: true })
    }

    /// Whether a held message goes to the conversation with this id.
    pub(super) fn goes_to(
        &mut self,
        held: &HeldMessage,
        name: &ConversationId,
    ) -> Result<bool, OperationError<R::Error>> {
        match (held.to, name.peers()) {
            (HeldFor::Room(room), None) => {
                Ok(self.rows.conversation(name)?.is_some_and(|found| found.key == room))
            }
            (HeldFor::Direct(peer), Some((a, b))) => {
                let users = (self.rows.user(&a)?, self.rows.user(&b)?);
                let wanted = (Some(held.author), Some(peer));
                Ok(users == wanted || users == (wanted.1, wanted.0))
            }
            _ => Ok(false),
        }
    }

    /// The held message of a report; `None` if it is another report.
    pub(super) fn held_of_report(
        &mut self,
        report: i64,
    ) -> Result<Option<HeldMessage>, OperationError<R::Error>> {
        let rows = self.rows.report_rows(SELECT_OF_REPORT, &[report.into()])?;
        Ok(rows.first().map(HeldMessage::from_row))
    }
    /// Notes what has become of a held message.
    pub(super) fn do_end_hold(
        &mut self,
        report: i64,
        held: &HeldMessage,
        state: HeldState,
    ) -> Result<(), OperationError<R::Error>> {
        self.rows.report_rows(SET_STATE, &[state.number().into(), report.into()])?;
        self.rows.forget_held(held.author, &held.key);
        Ok(())
    }

    /// Finds out whether the author of a held message may send it now, except that slow mode does not count. `None` if the message is
    /// in the log already.
    pub(super) fn check_release(
        &mut self,
        (author, name): (&UserId, ConversationId),
        held: &HeldMessage,
    ) -> Result<Option<Release>, OperationError<R::Error>> {
        let key = Key::parse(&held.key).map_err(|_| Refusal::unavailable())?;
        let EventContent { reply_to } = serde_json::from_str(&held.body).unwrap_or_default();
        let (body, request) = (held.body.clone(), held.request);
        let message = NewMessage { name, key, has_given_key: true, reply_to, body, requested: None, request };
        let mut author = self.in_the_name_of(author, held.via);
        if author.message_sent_before(message.key.as_str())?.is_some() {
            return Ok(None);
        }
        match author.check_may_still_send(&message) {
            Ok(destination) => Ok(Some(Release { message, destination, via: held.via })),
            Err(OperationError::Refused(refusal)) if !refusal.code.retryable() => {
                Err(Refusal::not_releasable(&refusal).into())
            }
            Err(error) => Err(error),
        }
    }

    fn check_may_still_send(
        &mut self,
        message: &NewMessage,
    ) -> Result<Destination, OperationError<R::Error>> {
        self.check_actor_not_banned()?;
        self.check_new_message(message, Pace::Free)
    }

    /// Stores a held message at the end of the log.
    pub(super) fn do_release(&mut self, author: &UserId, release: Release) -> ChangeResult<R> {
        let Release { message, destination, via } = release;
        let sent = self.in_the_name_of(author, via).do_send(&message, destination)?;
        // `check_release` has found that the key is not in the log.
        Ok(sent.map_or(Committed::NotAnnounced, Committed::Event))
    }

    /// The same transaction, in which another user makes a change.
    fn in_the_name_of<'b>(&'b mut self, actor: &'b UserId, via: Via) -> ChangeContext<'b, R> {
        let (purpose, is_replaced) = (self.purpose, false);
        let actor = Actor { via, ..Actor::without_allowances(actor) };
        ChangeContext::new(self.rows, self.rules, actor, self.committed_at, (purpose, is_replaced))
    }
}

/// What is read of the body of a held message.
#[derive(Default, Deserialize)]
#[serde(default)]
struct EventContent {
    reply_to: Option<Seq>,
}

//! Changes about messages: send, edit, delete, react.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use switchboard_protocol::{
    ConversationId, Delete, Edit, Emoji, ErrorCode, EventBody, EventKind, Key, React, Role, Send, Seq, UserId,
};

use super::rows::{KeyedMessage, ReferredEvent, Rows};
use super::{
    ActorMembership, ChangeContext, ChangePurpose, ChangeResult, OperationError, StoreError, event_fields,
};
use crate::record::{
    Conversation, ConversationKey, Effect, JoinOrLeave, LogEvent, Membership, RequestDigest, UserKey,
};
use crate::refusal::Refusal;
use crate::{Committed, CommittedEvent, access, body};

// `history` and the writer read messages and edits without looking up user names, so these kinds must not name users.
const _: () = assert!(!EventKind::Message.names_users() && !EventKind::Edit.names_users());

/// The body of a deleted message.
const DELETED_BODY: &str = r#"{"deleted":true}"#;

/// Whether a message with this body was deleted.
pub(crate) fn is_deleted(body: &str) -> bool {
    body == DELETED_BODY
}

/// The event that last set or removed a reaction, and whether the reaction is set; `None` if it never was.
type ReactionState = Option<(Seq, bool)>;

/// A message that is not stored yet.
pub(super) struct NewMessage {
    pub(super) name: ConversationId,
    pub(super) key: Key,
    /// Whether the client gave the key, and may send it again.
    pub(super) has_given_key: bool,
    pub(super) reply_to: Option<Seq>,
    pub(super) body: String,
    /// The body that the client requested, if the application has replaced it.
    pub(super) requested: Option<String>,
    /// The digest of the request, if the application has replaced it.
    pub(super) request: Option<RequestDigest>,
}

impl NewMessage {
    /// The body that the client requested, with which a retry is compared.
    pub(super) fn requested(&self) -> &str {
        self.requested.as_ref().unwrap_or(&self.body)
    }
}

/// Whether the room's slow mode counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Checked,
    /// A moderator says when the message is stored.
    Free,
}

/// Where a message is sent: an existing conversation, or a direct conversation that the message begins.
pub(super) enum Destination {
    Existing(Box<ActorMembership>, Membership),
    New(UserId, UserId),
}

impl<R: Rows> ChangeContext<'_, R> {
    /// Sends a message. `requested` is what the client requested, if the application has replaced it.
    pub(super) fn send(&mut self, send: Send, requested: Option<Send>) -> ChangeResult<R> {
        let message = self.new_message(send, requested)?;
        if let Some(held) = self.find_held(&message)? {
            return self.answer_for_held(&message, &held);
        }
        // Nearly every message is new, and then nothing is looked for: the index of keys refuses the others.
        let refusal = match self.send_new_message(&message) {
            Ok(Some(committed)) => return Ok(Committed::Event(committed)),
            Ok(None) => Refusal::unavailable(),
            Err(OperationError::Refused(refusal)) => refusal,
            Err(failed) => return Err(failed),
        };
        self.answer_for_sent(&message)?.ok_or_else(|| refusal.into())
    }

    /// What a client has sent, or a moderator releases.
    pub(super) fn new_message(
        &self,
        send: Send,
        requested: Option<Send>,
    ) -> Result<NewMessage, OperationError<R::Error>> {
        let name = send.to.resolve(self.actor);
        let has_given_key = send.key.is_some();
        let key = send.key.clone().unwrap_or_else(generate_key);
        let reply_to = send.reply_to;
        let body = message_body::<R::Error>(send)?;
        let requested = requested.map(message_body::<R::Error>).transpose()?;
        let request = requested.as_ref().map(|requested| request_digest(name.as_str(), requested));
        Ok(NewMessage { name, key, has_given_key, reply_to, body, requested, request })
    }

    /// The answer to a message that is in the log; `None` if it is not. A key that the server just made cannot have been used before.
    pub(super) fn answer_for_sent(
        &mut self,
        message: &NewMessage,
    ) -> Result<Option<Committed>, OperationError<R::Error>> {
        let (NewMessage { name, key, .. }, requested) = (message, message.requested());
        if !message.has_given_key || self.rows.conversation(name)?.is_some_and(|found| found.ended) {
            return Ok(None);
        }
        let Some(first) = self.message_sent_before(key.as_str())? else { return Ok(None) };
        match first.request.filter(|_| !is_deleted(&first.body)) {
            Some(digest) if digest == request_digest(name.as_str(), requested) => {
                Ok(Some(self.repeated_message(first, Some(key.clone()))))
            }
            Some(_) => Err(key_conflict().into()),
            None => {
                check_same_message(&first, name.as_str(), requested)?;
                Ok(Some(self.repeated_message(first, None)))
            }
        }
    }

    /// The answer to a message that was sent before. `replaced` is its key, if the application replaced its content.
    fn repeated_message(&self, first: KeyedMessage, replaced: Option<Key>) -> Committed {
        let replaced = replaced.map(|key| {
            Box::new(LogEvent {
                conversation: first.conversation.clone(),
                seq: first.seq,
                kind: EventKind::Message.into(),
                from: self.actor.clone(),
                at: first.at,
                key: Some(key.as_str().into()),
                body: first.body.as_str().into(),
            })
        });
        Committed::Event(Box::new(CommittedEvent {
            conversation: first.key,
            name: first.conversation,
            seq: first.seq,
            at: first.at,
            replaced,
            event: None,
            effects: Vec::new(),
            is_imported: false,
        }))
    }

    /// The message that the actor has sent before with this key.
    pub(super) fn message_sent_before(
        &mut self,
        key: &str,
    ) -> Result<Option<KeyedMessage>, OperationError<R::Error>> {
        let Some(user) = self.rows.user(self.actor)? else { return Ok(None) };
        Ok(self.rows.message_by_key(user, key)?)
    }

    /// Sends a message. Returns `None` if its key was used before, which is possible only if the client gave the key.
    fn send_new_message(
        &mut self,
        message: &NewMessage,
    ) -> Result<Option<Box<CommittedEvent>>, OperationError<R::Error>> {
        let destination = self.check_new_message(message, Pace::Checked)?;
        if self.purpose != ChangePurpose::Apply {
            if message.has_given_key && self.message_sent_before(message.key.as_str())?.is_some() {
                return Ok(None);
            }
            self.begin_effects()?;
        }
        self.do_send(message, destination)
    }

    /// Finds out whether the actor may send a message, and where it goes.
    pub(super) fn check_new_message(
        &mut self,
        message: &NewMessage,
        pace: Pace,
    ) -> Result<Destination, OperationError<R::Error>> {
        let destination = self.check_destination(&message.name, pace)?;
        if let Some(target) = message.reply_to {
            self.check_reply(&destination, target)?;
        }
        Ok(destination)
    }

    /// Stores a message in the log. Returns `None` if its key was used before.
    pub(super) fn do_send(
        &mut self,
        message: &NewMessage,
        destination: Destination,
    ) -> Result<Option<Box<CommittedEvent>>, OperationError<R::Error>> {
        let NewMessage { name, key, has_given_key, body, request, .. } = message;
        let (place, mut member, effects) = match destination {
            Destination::Existing(place, member) => (*place, member, Vec::new()),
            Destination::New(..) if *has_given_key && self.message_sent_before(key.as_str())?.is_some() => {
                return Ok(None);
            }
            Destination::New(a, b) => self.do_open_direct(name, &a, &b)?,
        };
        let ActorMembership { mut conversation, user, .. } = place;
        let stored_key = Some(key.as_str().into());
        let appended =
            self.do_append(&mut conversation, user, EventKind::Message, stored_key, (body, body))?;
        let Some(event) = appended else { return Ok(None) };
        member.sent += 1;
        if conversation.slow > 0 {
            member.sent_at = self.committed_at.as_millis();
        }
        self.rows.put_member(conversation.key, user, member);
        if let Some(request) = request.filter(|_| *has_given_key) {
            self.rows.insert_replaced_request(conversation.key, event.seq, request)?;
        }
        Ok(Some(self.commit_boxed_event(conversation, event, effects)))
    }

    fn check_destination(
        &mut self,
        name: &ConversationId,
        pace: Pace,
    ) -> Result<Destination, OperationError<R::Error>> {
        if !name.is_room() {
            let (a, b) = access::check_peer(name, self.actor)?;
            if self.rows.conversation(name)?.is_none() {
                self.check_contact(&a)?;
                self.check_contact(&b)?;
                // The attempt is counted before the other user is looked up. So guessing user names costs as much as
                // writing to them, and a user cannot find out which names exist by trying many.
                self.allowances()
                    .map_or(Ok(()), |allowances| allowances.charge_direct_conversation(self.actor))?;
                self.check_known(&a)?;
                self.check_known(&b)?;
                if !self.rows.hold_ids(&[&a, &b])? {
                    return Err(Refusal::unavailable_for(Duration::ZERO).into());
                }
                return Ok(Destination::New(a, b));
            }
        }
        let place = self.find_actor_membership(name)?;
        let member = *access::check_writer(place.membership.as_ref(), self.committed_at)?;
        if pace == Pace::Checked {
            access::check_pace(&place.conversation, &member, self.via.is_key(), self.committed_at)?;
        }
        Ok(Destination::Existing(Box::new(place), member))
    }

    fn check_reply(
        &mut self,
        destination: &Destination,
        target: Seq,
    ) -> Result<(), OperationError<R::Error>> {
        let referred = match destination {
            Destination::Existing(place, _) => self.rows.event(place.conversation.key, target)?,
            Destination::New(..) => None,
        };
        match referred {
            Some(event) if event.kind == EventKind::Message => Ok(()),
            _ => Err(Refusal::bad_field("reply_to", "reply_to: there is no message with this seq").into()),
        }
    }

    /// Creates a direct conversation. It starts empty, so the first message is its first event.
    pub(super) fn do_open_direct(
        &mut self,
        name: &ConversationId,
        a: &UserId,
        b: &UserId,
    ) -> Result<(ActorMembership, Membership, Vec<Effect>), OperationError<R::Error>> {
        let mut conversation = self.rows.new_conversation(name, None, false)?;
        let member = super::new_membership(Role::Member, Seq(0), 0, None);
        let mut effects = Vec::with_capacity(2);
        for user in if a == b { vec![a] } else { vec![a, b] } {
            let key = self.user_or_new(user)?;
            self.rows.put_member(conversation.key, key, member);
            effects.push(Effect { user: user.clone(), join_or_leave: JoinOrLeave::Join { seen: Seq(0) } });
            conversation.members += 1;
        }
        let user = self.user_or_new(self.actor)?;
        Ok((ActorMembership { conversation, user, membership: Some(member) }, member, effects))
    }

    /// Finds the message that an edit, a deletion or a reaction is about. Refuses if there is no such message.
    pub(super) fn check_target(
        &mut self,
        conversation: &Conversation,
        target: Seq,
    ) -> Result<ReferredEvent, OperationError<R::Error>> {
        match self.rows.event(conversation.key, target)? {
            Some(event) if event.kind == EventKind::Message => Ok(event),
            _ => Err(Refusal::not_found().into()),
        }
    }

    /// Finds the target like [`Self::check_target`], and refuses one that is deleted.
    fn check_undeleted_target(
        &mut self,
        conversation: &Conversation,
        target: Seq,
    ) -> Result<ReferredEvent, OperationError<R::Error>> {
        let event = self.check_target(conversation, target)?;
        if event.body == DELETED_BODY { Err(Refusal::not_found().into()) } else { Ok(event) }
    }

    pub(super) fn edit(&mut self, edit: Edit) -> ChangeResult<R> {
        let ActorMembership { conversation, user, membership } =
            self.find_actor_membership(&edit.conversation.resolve(self.actor))?;
        access::check_writer(membership.as_ref(), self.committed_at)?;
        let message = self.check_undeleted_target(&conversation, edit.target)?;
        access::check_author(message.sender == user)?;
        if self.rows.count_amendments(conversation.key, edit.target)? >= self.rules.limits.edits.into() {
            let message = format!("a message has at most {} edits; send another", self.rules.limits.edits);
            return Err(Refusal::too_large("target", message).into());
        }
        let body = EventBody::Edit { target: edit.target, text: edit.text, data: edit.data, deleted: false };
        self.begin_effects()?;
        self.rows.insert_amendment(conversation.key, edit.target, conversation.head.next())?;
        self.do_append_event(conversation, user, &body, Vec::new())
    }

    pub(super) fn delete(&mut self, delete: &Delete) -> ChangeResult<R> {
        let ActorMembership { conversation, user, membership } =
            self.find_actor_membership(&delete.conversation.resolve(self.actor))?;
        let member = *access::check_writer(membership.as_ref(), self.committed_at)?;
        let target = delete.target;
        let message = self.check_target(&conversation, target)?;
        access::check_eraser(message.sender == user, &member)?;
        let amendments = self.rows.amendments(conversation.key, target)?;
        if message.body == DELETED_BODY {
            return self
                .outcome_of_repeated_change(&conversation, amendments.last().copied().unwrap_or(target));
        }
        let (edits, reactions) = (amendments.len(), self.rows.count_reactions(conversation.key, target)?);
        self.allowances()
            .map_or(Ok(()), |allowances| allowances.charge_erasures(self.actor, edits, reactions))?;
        self.do_delete(conversation, user, target)
    }

    /// Deletes a message that is not deleted.
    pub(super) fn do_delete(
        &mut self,
        conversation: Conversation,
        user: UserKey,
        target: Seq,
    ) -> ChangeResult<R> {
        let edit = EventBody::Edit { target, text: None, data: None, deleted: true };
        let edit = event_fields::<R::Error>(&edit)?;
        let amendments = self.rows.amendments(conversation.key, target)?;
        for seq in amendments {
            self.rows.erase_event(conversation.key, seq, &edit)?;
        }
        self.rows.erase_event(conversation.key, target, DELETED_BODY)?;
        self.rows.delete_replaced_request(conversation.key, target)?;
        self.rows.delete_reactions(conversation.key, target)?;
        self.rows.insert_amendment(conversation.key, target, conversation.head.next())?;
        self.do_append_event(conversation, user, &EventBody::Delete { target }, Vec::new())
    }

    pub(super) fn react(&mut self, react: React) -> ChangeResult<R> {
        let ActorMembership { conversation, user, membership } =
            self.find_actor_membership(&react.conversation.resolve(self.actor))?;
        access::check_writer(membership.as_ref(), self.committed_at)?;
        let (target, on) = (react.target, react.on);
        self.check_undeleted_target(&conversation, target)?;
        let (emoji, before) = self.find_reaction(conversation.key, target, react.emoji, user)?;
        match before {
            Some((seq, is_on)) if is_on == on => return self.outcome_of_repeated_change(&conversation, seq),
            None if !on => return Err(Refusal::not_found().into()),
            _ => {}
        }
        if on && self.rows.count_reactions(conversation.key, target)? >= self.rules.limits.reactions.into() {
            let message = format!("a message has at most {} reactions", self.rules.limits.reactions);
            return Err(Refusal::too_large("emoji", message).into());
        }
        self.begin_effects()?;
        let by = conversation.head.next();
        match before {
            Some((since, true)) => {
                self.rows.remove_reaction(conversation.key, target, emoji.as_str(), user, since, by)?;
            }
            _ => self.rows.set_reaction(conversation.key, target, emoji.as_str(), user, by)?,
        }
        self.do_append_event(conversation, user, &EventBody::React { target, emoji, on }, Vec::new())
    }

    /// The stored form of an emoji, and the state of the user's reaction with it. Reactions are stored without U+FE0F (the
    /// emoji variation selector). A reaction that an earlier version stored with U+FE0F is still found while it is set.
    pub(super) fn find_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        said: Emoji,
        user: UserKey,
    ) -> Result<(Emoji, ReactionState), OperationError<R::Error>> {
        let folded = said.folded();
        if folded != said
            && let Some((seq, true)) = self.rows.latest_reaction(conversation, target, said.as_str(), user)?
        {
            return Ok((said, Some((seq, true))));
        }
        let before = self.rows.latest_reaction(conversation, target, folded.as_str(), user)?;
        Ok((folded, before))
    }
}

/// A key for a message to which the client gave none.
fn generate_key() -> Key {
    let key = uuid::Uuid::now_v7().simple().to_string();
    Key::parse(key).unwrap_or_else(|_| unreachable!("32 hexadecimal digits are a key"))
}

/// Refuses a retry whose content differs from the first write. A deleted message has no content to compare with; its retry
/// is accepted as a duplicate and does not restore it.
pub(super) fn check_same_message(
    first: &KeyedMessage,
    conversation: &str,
    body: &str,
) -> Result<(), Refusal> {
    let is_same = |first: &str| body::is_same_body(&EventKind::Message.into(), first, body);
    if first.conversation.as_str() == conversation && (is_deleted(&first.body) || is_same(&first.body)) {
        Ok(())
    } else {
        Err(key_conflict())
    }
}

pub(super) fn key_conflict() -> Refusal {
    let message = "this `key` was used for another message; a new message needs a new key";
    Refusal::new(ErrorCode::KeyConflict, message)
}

/// The body of a new message.
fn message_body<E: StoreError>(send: Send) -> Result<String, E> {
    let Send { text, data, reply_to, .. } = send;
    event_fields(&EventBody::Message { text, data, reply_to, deleted: false })
}

/// The digest of a request to send a message, to compare a retry with it where the stored message has other content.
pub(super) fn request_digest(conversation: &str, body: &str) -> RequestDigest {
    // An id has no line break.
    Sha256::digest(format!("{conversation}\n{body}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_a_deleted_message_is_that_of_the_protocol() {
        let body = EventBody::Message { text: None, data: None, reply_to: None, deleted: true };
        assert_eq!(event_fields::<rusqlite::Error>(&body).expect("JSON"), DELETED_BODY);
    }
}

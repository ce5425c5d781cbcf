//! Changes about messages: send, edit, delete, react.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use switchboard_protocol::{
    Delete, Edit, Emoji, ErrorCode, EventBody, EventKind, Key, React, Role, Send, Seq, UserId,
};

use super::rows::{KeyedMessage, ReferredEvent, RequestDigest, Rows};
use super::{
    ActorMembership, ChangeContext, ChangePurpose, ChangeResult, OperationError, StoreError, event_fields,
};
use crate::record::{Conversation, LogEvent, Membership};
use crate::record::{ConversationKey, Effect, JoinOrLeave, UserKey};
use crate::refusal::Refusal;
use crate::{Change, Committed, CommittedEvent, access, body};

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

/// Where a message is sent: an existing conversation, or a direct conversation that the message begins.
enum Destination {
    Existing(Box<ActorMembership>, Membership),
    New(UserId, UserId),
}

impl<R: Rows> ChangeContext<'_, R> {
    /// Sends a message. `requested` is what the client requested, if the application has replaced it.
    pub(super) fn send(&mut self, send: Send, requested: Option<Change>) -> ChangeResult<R> {
        let name = send.to.resolve(self.actor);
        let given = send.key.is_some();
        let key = send.key.clone().unwrap_or_else(generate_key);
        let reply_to = send.reply_to;
        let body = message_body::<R::Error>(send)?;
        let requested = match requested {
            Some(Change::Send(requested)) => Some(message_body::<R::Error>(requested)?),
            _ => None,
        };
        // Nearly every message is new, and then nothing is looked for: the index of keys refuses the others.
        let refusal = match self.send_new_message(&name, key.as_str(), given, &body, reply_to) {
            Ok(Some(committed)) => {
                if let Some(requested) = requested.filter(|_| given) {
                    let digest = request_digest(name.as_str(), &requested);
                    self.rows.insert_replaced_request(committed.conversation, committed.seq, digest)?;
                }
                return Ok(Committed::Event(committed));
            }
            Ok(None) => Refusal::unavailable(),
            Err(OperationError::Refused(refusal)) => refusal,
            Err(failed) => return Err(failed),
        };
        if self.rows.conversation(&name)?.is_some_and(|conversation| conversation.ended) {
            return Err(refusal.into());
        }
        // A key that the server just made cannot have been used before.
        let first = if given { self.message_sent_before(key.as_str())? } else { None }.ok_or(refusal)?;
        let request = requested.as_deref().unwrap_or(&body);
        match first.request.filter(|_| !is_deleted(&first.body)) {
            Some(digest) if digest == request_digest(name.as_str(), request) => {
                Ok(self.repeated_message(first, Some(key)))
            }
            Some(_) => Err(key_conflict().into()),
            None => {
                check_same_message(&first, name.as_str(), request)?;
                Ok(self.repeated_message(first, None))
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
    fn message_sent_before(&mut self, key: &str) -> Result<Option<KeyedMessage>, OperationError<R::Error>> {
        let Some(user) = self.rows.user(self.actor)? else { return Ok(None) };
        Ok(self.rows.message_by_key(user, key)?)
    }

    /// Sends a message. Returns `None` if its key was used before, which is possible only if the client gave the key.
    fn send_new_message(
        &mut self,
        name: &switchboard_protocol::ConversationId,
        key: &str,
        given: bool,
        body: &str,
        reply_to: Option<Seq>,
    ) -> Result<Option<Box<CommittedEvent>>, OperationError<R::Error>> {
        let destination = self.check_destination(name)?;
        if let Some(target) = reply_to {
            self.check_reply(&destination, target)?;
        }
        if self.purpose != ChangePurpose::Apply {
            if given && self.message_sent_before(key)?.is_some() {
                return Ok(None);
            }
            self.begin_effects()?;
        }
        let (place, mut member, effects) = match destination {
            Destination::Existing(place, member) => (*place, member, Vec::new()),
            Destination::New(..) if given && self.message_sent_before(key)?.is_some() => return Ok(None),
            Destination::New(a, b) => self.do_open_direct(name, &a, &b)?,
        };
        let ActorMembership { mut conversation, user, .. } = place;
        let key = Some(key.into());
        let appended = self.do_append(&mut conversation, user, EventKind::Message, key, (body, body))?;
        let Some(event) = appended else { return Ok(None) };
        member.sent += 1;
        if conversation.slow > 0 {
            member.sent_at = self.committed_at.as_millis();
        }
        self.rows.put_member(conversation.key, user, member);
        Ok(Some(self.commit_boxed_event(conversation, event, effects)))
    }

    fn check_destination(
        &mut self,
        name: &switchboard_protocol::ConversationId,
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
        access::check_pace(&place.conversation, &member, self.via.is_key(), self.committed_at)?;
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
        name: &switchboard_protocol::ConversationId,
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

fn key_conflict() -> Refusal {
    let message = "this `key` was used for another message; a new message needs a new key";
    Refusal::new(ErrorCode::KeyConflict, message)
}

/// The body of a new message.
fn message_body<E: StoreError>(send: Send) -> Result<String, E> {
    let Send { text, data, reply_to, .. } = send;
    event_fields(&EventBody::Message { text, data, reply_to, deleted: false })
}

/// The digest of a request to send a message, to compare a retry with it where the stored message has other content.
fn request_digest(conversation: &str, body: &str) -> RequestDigest {
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

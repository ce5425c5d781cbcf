//! Imports the history of another system: events with the times and the authors that they had there.
//!
//! Each line is one of an import's transaction, which has no other writes. A line that is refused therefore makes the whole
//! transaction store nothing.

use std::collections::{BTreeMap, BTreeSet};

use switchboard_protocol::{ConversationId, EventBody, EventKind, Role, Seq, Timestamp};

use super::message::{check_same_message, key_conflict};
use super::rows::{KeyedMessage, Rows};
use super::{ChangeContext, ChangeResult, OperationError, event_fields};
use crate::record::{Conversation, ConversationKey, Effect, Membership, UserKey};
use crate::refusal::Refusal;
use crate::request::{
    ImportLine, ImportRecord, ImportedMessage, ImportedReaction, ImportedRead, ImportedRoom, MessageReference,
};
use crate::{Committed, CommittedImport, ImportedConversation, access};

/// The conversations that an import writes to.
type Touched = BTreeMap<ConversationKey, TouchedConversation>;

struct TouchedConversation {
    name: ConversationId,
    /// The last event before the import.
    before: Seq,
    effects: Vec<(Seq, Effect)>,
}

/// Records that the import writes to a conversation.
fn touch<'t>(touched: &'t mut Touched, conversation: &Conversation) -> &'t mut TouchedConversation {
    touched.entry(conversation.key).or_insert_with(|| TouchedConversation {
        name: conversation.name.clone(),
        before: conversation.head,
        effects: Vec::new(),
    })
}

impl<R: Rows> ChangeContext<'_, R> {
    pub(super) fn import(&mut self, lines: &[ImportLine]) -> ChangeResult<R> {
        self.begin_effects()?;
        let via = self.via;
        self.via = self.via.importing();
        let mut done = CommittedImport::default();
        let mut touched = Touched::new();
        for ImportLine { number, record } in lines {
            match self.import_record(record, &mut touched) {
                Ok(true) => done.stored += 1,
                Ok(false) => done.duplicates += 1,
                Err(failed) => {
                    self.rows.abandon();
                    return Err(match failed {
                        OperationError::Refused(refusal) => refusal.at_line(*number).into(),
                        other => other,
                    });
                }
            }
        }
        self.via = via;
        if done.stored > 0 {
            let counts = serde_json::json!({ "stored": done.stored, "duplicates": done.duplicates });
            self.do_tell_feed("audit.import", None, counts.to_string())?;
        }
        for (key, TouchedConversation { name, before, effects }) in touched {
            let Some(conversation) = self.rows.conversation(&name)? else { continue };
            let head = conversation.head;
            if head > before {
                self.rows.catch_up_readers(&conversation, before);
                done.conversations.push(ImportedConversation { conversation: key, before, head, effects });
            }
        }
        Ok(Committed::Import(Box::new(done)))
    }

    /// Stores a line. Returns `false` if it was stored before.
    fn import_record(
        &mut self,
        record: &ImportRecord,
        touched: &mut Touched,
    ) -> Result<bool, OperationError<R::Error>> {
        let at = match record {
            ImportRecord::Create(line) => line.at,
            ImportRecord::Message(line) => line.at,
            ImportRecord::Reaction(line) => line.at,
            ImportRecord::Read(_) => self.committed_at,
        };
        let mut line = ChangeContext {
            rows: &mut *self.rows,
            rules: self.rules,
            actor: record.from(),
            has_allowances: false,
            via: self.via,
            address: self.address,
            by: self.by,
            permissions: None,
            now: at,
            committed_at: self.committed_at,
            purpose: self.purpose,
            is_replaced: false,
        };
        line.check_importable(record)?;
        match record {
            ImportRecord::Create(room) => line.import_room(room, touched),
            ImportRecord::Message(message) => line.import_message(message, touched),
            ImportRecord::Reaction(reaction) => line.import_reaction(reaction, touched),
            ImportRecord::Read(read) => line.import_read(read),
        }
    }

    /// Refuses a line with a user who has another id by now, or with a room that was deleted.
    fn check_importable(&mut self, record: &ImportRecord) -> Result<(), OperationError<R::Error>> {
        if self.rows.conversation(&record.conversation())?.is_some_and(|conversation| conversation.ended) {
            return Err(match record {
                ImportRecord::Create(_) => Refusal::id_used_before("create"),
                ImportRecord::Read(_) => not_found("read"),
                ImportRecord::Message(_) | ImportRecord::Reaction(_) => not_found("to"),
            }
            .into());
        }
        self.check_not_retired(self.actor).map_err(|failed| with_field(failed, "from"))?;
        if let ImportRecord::Create(line) = record {
            for member in &line.members {
                self.check_not_retired(member).map_err(|failed| with_field(failed, "members"))?;
            }
        }
        if let Some((a, b)) = record.conversation().peers() {
            for peer in [a, b] {
                self.check_not_retired(&peer).map_err(|failed| with_field(failed, "to"))?;
            }
        }
        Ok(())
    }

    fn import_room(
        &mut self,
        line: &ImportedRoom,
        touched: &mut Touched,
    ) -> Result<bool, OperationError<R::Error>> {
        let mut members: BTreeSet<_> = line.members.iter().cloned().collect();
        members.remove(self.actor);
        let body = EventBody::Create {
            title: line.title.clone(),
            public: line.public,
            members: members.iter().cloned().collect(),
        };
        if let Some(existing) = self.rows.conversation(&line.room)? {
            self.check_created_before(&existing, &body).map_err(|failed| with_field(failed, "create"))?;
            return Ok(false);
        }
        self.check_time(None)?;
        let (room, effects) = self.do_create(&line.room, line.title.clone(), line.public, members)?;
        let changes = effects.into_iter().map(|effect| (Seq(1), effect));
        touch(touched, &room).effects.extend(changes);
        let creator = self.user_or_new(self.actor)?;
        self.do_append_event(room, creator, &body, Vec::new())?;
        Ok(true)
    }

    fn import_message(
        &mut self,
        line: &ImportedMessage,
        touched: &mut Touched,
    ) -> Result<bool, OperationError<R::Error>> {
        let name = line.to.resolve(self.actor);
        let user = self.user_or_new(self.actor)?;
        let reply_to = match &line.reply_to {
            Some(target) => Some(self.find_imported(&name, target, "reply_to")?.seq),
            None => None,
        };
        let (text, data) = (line.text.clone(), line.data.clone());
        let body = event_fields(&EventBody::Message { text, data, reply_to, deleted: false })
            .map_err(OperationError::Store)?;
        if let Some(first) = self.rows.message_by_key(user, line.key.as_str())? {
            // Of a message that the application has replaced, only a digest of the request is stored.
            if first.request.is_none() {
                check_same_message(&first, name.as_str(), &body)
                    .map_err(|refusal| Refusal { field: Some("key".into()), ..refusal })?;
            }
            return Ok(false);
        }
        if self.rows.held_message(user, line.key.as_str())?.is_some() {
            return Err(Refusal { field: Some("key".into()), ..key_conflict() }.into());
        }
        let (mut conversation, mut member) = self.importing_member(&name, user, touched)?;
        let key = Some(line.key.as_str().into());
        self.do_append(&mut conversation, user, EventKind::Message, key, (&body, &body))?
            .ok_or_else(Refusal::unavailable)?;
        member.sent += 1;
        self.rows.put_member(conversation.key, user, member);
        self.rows.put_conversation(conversation);
        Ok(true)
    }

    fn import_reaction(
        &mut self,
        line: &ImportedReaction,
        touched: &mut Touched,
    ) -> Result<bool, OperationError<R::Error>> {
        let name = line.to.resolve(self.actor);
        let user = self.user_or_new(self.actor)?;
        let conversation = self.rows.conversation(&name)?.ok_or_else(|| not_found("to"))?;
        let message = self.find_imported(&name, &line.target, "target")?;
        let (emoji, before) = self.find_reaction(conversation.key, message.seq, line.react.clone(), user)?;
        // A reaction that the user has removed since, or whose message was deleted since, was stored before.
        if before.is_some() || super::is_deleted(&message.body) {
            return Ok(false);
        }
        let most = self.rules.limits.reactions;
        if self.rows.count_reactions(conversation.key, message.seq)? >= most.into() {
            return Err(Refusal::too_large("react", format!("a message has at most {most} reactions")).into());
        }
        let (conversation, _) = self.importing_member(&name, user, touched)?;
        let by = conversation.head.next();
        self.rows.set_reaction(conversation.key, message.seq, emoji.as_str(), user, by)?;
        let body = EventBody::React { target: message.seq, emoji, on: true };
        self.do_append_event(conversation, user, &body, Vec::new())?;
        Ok(true)
    }

    /// Sets a read cursor. The first such line for a member may move the cursor back, because an import moves it to the end of the
    /// log; later ones only move it on, so that a repeated import does not undo what the member has read since.
    fn import_read(&mut self, line: &ImportedRead) -> Result<bool, OperationError<R::Error>> {
        let name = line.read.resolve(self.actor);
        let conversation = self.rows.conversation(&name)?.ok_or_else(|| not_found("read"))?;
        let user = self.rows.user(self.actor)?.ok_or_else(|| not_found("from"))?;
        let member = self.rows.member(conversation.key, user)?.filter(|member| member.until.is_none());
        let mut member = member.ok_or_else(|| not_found("from"))?;
        let upto = self.find_imported(&name, &line.upto, "upto")?.seq.max(member.since);
        if member.read_imported && upto <= member.read {
            return Ok(false);
        }
        let counts = self.rows.counts_from_end(&conversation, user, &member, upto)?.ok_or_else(|| {
            let message = "upto: too far before the end of the log; put the line before later messages";
            Refusal::bad_field("upto", message)
        })?;
        member.read = upto;
        member.received = member.received.max(upto);
        (member.read_messages, member.read_sent) = (counts.messages, counts.sent);
        member.read_imported = true;
        self.rows.put_member(conversation.key, user, member);
        Ok(true)
    }

    /// The message that a line refers to.
    fn find_imported(
        &mut self,
        conversation: &ConversationId,
        reference: &MessageReference,
        field: &'static str,
    ) -> Result<KeyedMessage, OperationError<R::Error>> {
        let message = match self.rows.user(&reference.from)? {
            Some(user) => self.rows.message_by_key(user, reference.key.as_str())?,
            None => None,
        };
        message.filter(|message| message.conversation == *conversation).ok_or_else(|| {
            let message = format!("{field}: the conversation has no message of this user with this key");
            Refusal::bad_field(field, message).into()
        })
    }

    /// The conversation that a line adds an event to, and the author's membership. The author joins a room where they are no
    /// member, and a direct conversation begins.
    fn importing_member(
        &mut self,
        name: &ConversationId,
        user: UserKey,
        touched: &mut Touched,
    ) -> Result<(Conversation, Membership), OperationError<R::Error>> {
        let Some(mut conversation) = self.rows.conversation(name)? else {
            if name.is_room() {
                return Err(not_found("to").into());
            }
            return self.begin_direct(name, touched);
        };
        self.check_time(Some(&conversation))?;
        let of = touch(touched, &conversation);
        let earlier = self.rows.member(conversation.key, user)?;
        if let Some(member) = earlier.filter(|member| member.until.is_none()) {
            return Ok((conversation, member));
        }
        if !name.is_room() {
            return Err(not_found("from").into());
        }
        let ban = self.rows.ban(conversation.key, user)?;
        access::check_may_join(ban.as_ref(), self.committed_at)
            .map_err(|refusal| Refusal { field: Some("from".into()), ..refusal })?;
        let role = access::role_of_joiner(&conversation, earlier.as_ref());
        let until = earlier.and_then(|member| member.silenced_until(self.committed_at));
        let joined_by = conversation.head.next();
        let join_or_leave = self.do_add_member(&mut conversation, user, role, earlier)?;
        of.effects.push((joined_by, Effect { user: self.actor.clone(), join_or_leave }));
        let key = conversation.key;
        let body = EventBody::Join { role: Some(role).filter(|role| *role != Role::Member), until };
        self.do_append_event(conversation, user, &body, Vec::new())?;
        let conversation = self.rows.conversation(name)?.ok_or_else(Refusal::unavailable)?;
        let member = self.rows.member(key, user)?.ok_or_else(Refusal::unavailable)?;
        Ok((conversation, member))
    }

    fn begin_direct(
        &mut self,
        name: &ConversationId,
        touched: &mut Touched,
    ) -> Result<(Conversation, Membership), OperationError<R::Error>> {
        let (a, b) = access::check_peer(name, self.actor)
            .map_err(|refusal| Refusal { field: Some("from".into()), ..refusal })?;
        self.check_time(None)?;
        let (place, member, effects) = self.do_open_direct(name, &a, &b)?;
        let changes = effects.into_iter().map(|effect| (Seq(1), effect));
        touch(touched, &place.conversation).effects.extend(changes);
        Ok((place.conversation, member))
    }

    /// Refuses a time in the future, and one before the conversation's last event, because times never go back in a log.
    fn check_time(&self, conversation: Option<&Conversation>) -> Result<(), Refusal> {
        if self.now > self.committed_at {
            return Err(Refusal::bad_field("at", "at: it is in the future"));
        }
        let last = Timestamp::from_millis(conversation.map_or(0, |conversation| conversation.at));
        if self.now < last {
            let message =
                format!("at: it is before the conversation's last event, which is of {last}; sort by time");
            return Err(Refusal::bad_field("at", message));
        }
        Ok(())
    }
}

fn not_found(field: &'static str) -> Refusal {
    let message = match field {
        "from" => "from: this user is not a member",
        _ => "there is no such conversation; a line with `create` makes a room, and must come first",
    };
    Refusal { field: Some(field.into()), message: message.into(), ..Refusal::not_found() }
}

fn with_field<E>(failed: OperationError<E>, field: &'static str) -> OperationError<E> {
    match failed {
        OperationError::Refused(refusal) => Refusal { field: Some(field.into()), ..refusal }.into(),
        other => other,
    }
}

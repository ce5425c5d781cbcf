//! The two lists of all kinds of change: what each change does, and which rows it will need. A new kind of change is a line
//! in each.

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, Create, Emoji, Send, Seq, Timestamp, UserId};

use super::rows::Rows;
use super::{Actor, ChangeContext, ChangePurpose, ChangeResult, OperationError, Rules};
use crate::refusal::Refusal;
use crate::report::ReportChange;
use crate::request::ImportRecord;
use crate::{Change, Committed, Filtered, Hold, Submission};

/// Applies one change that `actor` makes at the time `now`.
pub(crate) fn apply<R: Rows>(
    rows: &mut R,
    rules: &Rules,
    actor: Actor<'_>,
    change: Change,
    now: Timestamp,
) -> ChangeResult<R> {
    let Change::Filtered(filtered) = change else { return apply_unfiltered(rows, rules, actor, change, now) };
    let Filtered { change, refusal } = *filtered;
    match apply_unfiltered(rows, rules, actor, Change::Check(Box::new(change)), now) {
        Ok(Committed::NotAnnounced) => Err(refusal.into()),
        result => result,
    }
}

fn apply_unfiltered<R: Rows>(
    rows: &mut R,
    rules: &Rules,
    actor: Actor<'_>,
    change: Change,
    now: Timestamp,
) -> ChangeResult<R> {
    let (purpose, change, requested) = match change {
        Change::Check(change) => (ChangePurpose::Check, *change, None),
        Change::Repeated(change) => (ChangePurpose::Repeat, *change, None),
        Change::Approved(approved) => (ChangePurpose::Apply, approved.change, Some(approved.requested)),
        change => (ChangePurpose::Apply, change, None),
    };
    // The check of a change before its approval has counted against the allowances.
    let is_allowed = requested.is_some() || matches!(change, Change::Hold(_));
    let has_allowances = actor.has_allowances && !is_allowed && purpose != ChangePurpose::Repeat;
    let requested = requested.flatten();
    let actor = Actor { has_allowances, ..actor };
    let mut act = ChangeContext::new(rows, rules, actor, now, (purpose, requested.is_some()));
    let actor = act.actor;
    if change.is_by_a_user() {
        act.check_not_retired(actor)?;
    }
    let is_shadowed = change.is_refused_to_banned_users() && act.check_actor_not_banned()?;
    if is_shadowed && change.is_refused_under_shadow_ban() {
        return Err(Refusal::refused_by_application().into());
    }
    match act.make(change, requested, is_shadowed) {
        Err(OperationError::Checked) => Ok(Committed::NotAnnounced),
        result => result,
    }
}

impl<R: Rows> ChangeContext<'_, R> {
    /// Makes a change that the actor may make, unless its own checks refuse it. Of an actor under a shadow ban, messages are held.
    fn make(&mut self, change: Change, requested: Option<Change>, is_shadowed: bool) -> ChangeResult<R> {
        match change {
            Change::Send(send) => {
                let requested = match requested {
                    Some(Change::Send(requested)) => Some(requested),
                    _ => None,
                };
                if is_shadowed { self.hold(Hold { send, requested }) } else { self.send(send, requested) }
            }
            Change::Hold(hold) => self.hold(*hold),
            Change::Edit(c) => self.edit(c),
            Change::Delete(c) => self.delete(&c),
            Change::React(c) => self.react(c),
            Change::Read(c) => self.move_read_cursor(&c, None),
            Change::CountedRead(c) => self.move_read_cursor(&c.read, Some(c.counts?)),
            Change::Received(c) => self.move_received_cursor(&c),
            Change::Create(c) => self.create(c),
            Change::Join(c) => self.join(&c),
            Change::Leave(c) => self.leave(&c),
            Change::Invite(c) => self.invite(c),
            Change::InviteWithKey(c) => self.invite_with_key(c),
            Change::Remove(c) => self.remove(c),
            Change::SetRole(c) => self.set_role(c),
            Change::Rename(c) => self.rename(c),
            Change::ChangeSettings(c) => self.change_settings(&c),
            Change::DeleteRoom(room) => self.delete_room(&room),
            Change::SetProfile(c) => self.set_own_profile(&c),
            Change::SetBlock(c) => self.set_block(&c),
            Change::SetProfiles(c) => self.set_profiles(&c),
            Change::Import(lines) => self.import(&lines),
            Change::ReadToken(c) => self.apply_token_profile(&c),
            Change::RegisterUser => {
                self.user_or_new(self.actor)?;
                Ok(Committed::NotAnnounced)
            }
            Change::SetPresence(change) => self.set_presence(change),
            Change::Probe => {
                self.rows.probe()?;
                Ok(Committed::NotAnnounced)
            }
            Change::UseKey(key, at) => {
                self.rows.set_key_used(key, at)?;
                Ok(Committed::NotAnnounced)
            }
            Change::TrimFeed(before) => {
                self.rows.trim_feed(before)?;
                Ok(Committed::NotAnnounced)
            }
            // The stores do it in each of their transactions, or beside them.
            Change::NumberPending => Ok(Committed::NotAnnounced),
            Change::Refused(refusal) => Err(OperationError::Refused(refusal)),
            Change::Revoke { until, replace } => self.revoke(until, replace),
            Change::Reports(c) => self.change_reports(&c),
            Change::Ban(ban) => self.set_ban(ban.map(|ban| *ban)),
            Change::Check(_) | Change::Approved(_) | Change::Repeated(_) | Change::Filtered(_) => {
                Err(Refusal::unavailable().into())
            }
        }
    }
}

/// The rows that the changes of a batch will need, by name. A store across a network reads them in one round trip before it
/// applies the changes. The list need not be exact, because a missing row is read when it is needed.
#[derive(Debug, Default)]
pub(crate) struct Prefetch {
    pub(crate) users: FxHashSet<UserId>,
    /// Users whose rows will change, or whose created and joined rooms are counted.
    pub(crate) users_to_lock: FxHashSet<UserId>,
    /// Users whose created and joined rooms are counted against the limit.
    pub(crate) users_with_room_limit: FxHashSet<UserId>,
    /// Users whose profiles will change.
    pub(crate) profiles: FxHashSet<UserId>,
    pub(crate) conversations: FxHashSet<ConversationId>,
    pub(crate) members: FxHashSet<(ConversationId, UserId)>,
    pub(crate) message_keys: FxHashSet<(UserId, Box<str>)>,
    pub(crate) events: FxHashSet<(ConversationId, Seq)>,
    /// The highest `read` cursor of each member, to count messages up to it. A lower one changes nothing once the highest
    /// is applied.
    pub(crate) read_cursors: FxHashMap<(ConversationId, UserId), Seq>,
    /// Members whose signals some other members may not get.
    pub(crate) apart: FxHashSet<(ConversationId, UserId)>,
    /// Pairs of users of whom the first may block the second.
    pub(crate) blocks: FxHashSet<(UserId, UserId)>,
    pub(crate) amendments: FxHashSet<(ConversationId, Seq)>,
    pub(crate) reactions: FxHashSet<(ConversationId, Seq, Box<str>, UserId)>,
}

impl Prefetch {
    pub(crate) fn for_batch(batch: &[Submission]) -> Self {
        let mut prefetch = Self::default();
        for one in batch {
            prefetch.add_rows_of(&one.actor, &one.change);
        }
        prefetch
    }

    fn add_rows_of(&mut self, actor: &UserId, change: &Change) {
        self.users.insert(actor.clone());
        match change {
            Change::Send(c) => self.add_send(actor, c),
            Change::Edit(c) => self.add_amendable(actor, c.conversation.resolve(actor), c.target),
            Change::Delete(c) => {
                let name = c.conversation.resolve(actor);
                // No reaction has an empty emoji. An entry with one requests the number of the message's reactions.
                self.reactions.insert((name.clone(), c.target, "".into(), actor.clone()));
                self.add_amendable(actor, name, c.target);
            }
            Change::React(c) => {
                let name = c.conversation.resolve(actor);
                self.events.insert((name.clone(), c.target));
                self.add_reaction(&name, c.target, &c.emoji, actor);
                self.add_reaction(&name, c.target, &c.emoji.folded(), actor);
                self.add_membership(actor, name);
            }
            Change::Read(c) => {
                let name = c.conversation.resolve(actor);
                let upto = self.read_cursors.entry((name.clone(), actor.clone())).or_default();
                *upto = c.upto.max(*upto);
                self.add_cursor(actor, name);
            }
            Change::CountedRead(c) => self.add_cursor(actor, c.read.conversation.resolve(actor)),
            Change::Received(c) => self.add_cursor(actor, c.conversation.resolve(actor)),
            Change::Create(c) => self.add_creation(actor, c),
            Change::Join(c) => {
                self.add_room_limit(actor);
                self.add_membership(actor, c.conversation.resolve(actor));
            }
            Change::Leave(c) => self.add_membership(actor, c.conversation.resolve(actor)),
            Change::Invite(c) | Change::InviteWithKey(c) => {
                self.add_contacts(actor, std::slice::from_ref(&c.user));
                self.add_subject(actor, c.conversation.resolve(actor), &c.user);
            }
            Change::Remove(c) => self.add_subject(actor, c.conversation.resolve(actor), &c.user),
            Change::SetRole(c) => self.add_subject(actor, c.conversation.resolve(actor), &c.user),
            Change::Rename(c) => self.add_membership(actor, c.conversation.resolve(actor)),
            Change::ChangeSettings(c) => self.add_membership(actor, c.conversation.resolve(actor)),
            Change::DeleteRoom(room) => self.conversations.extend([room.clone()]),
            Change::SetBlock(c) => self.add_block(actor, &c.user),
            Change::SetProfile(_) | Change::ReadToken(_) => self.add_profile(actor),
            Change::SetProfiles(changes) => changes.iter().for_each(|change| self.add_profile(&change.user)),
            Change::Import(lines) => lines.iter().for_each(|line| self.add_import(&line.record)),
            Change::Check(c) | Change::Repeated(c) => self.add_rows_of(actor, c),
            Change::Approved(c) => self.add_rows_of(actor, &c.change),
            Change::Filtered(c) => self.add_rows_of(actor, &c.change),
            Change::Hold(c) => {
                // With the lock, no other node stores a message of this key in a conversation that does not exist yet.
                self.users_to_lock.insert(actor.clone());
                self.add_send(actor, &c.send);
            }
            Change::RegisterUser
            | Change::Probe
            | Change::UseKey(..)
            | Change::NumberPending
            | Change::TrimFeed(_)
            | Change::Refused(_) => {}
            Change::Reports(c) => self.add_report_change(actor, c),
            Change::SetPresence(_) | Change::Revoke { .. } | Change::Ban(_) => {
                self.users_to_lock.insert(actor.clone());
            }
        }
    }

    fn add_send(&mut self, actor: &UserId, send: &Send) {
        let name = send.to.resolve(actor);
        if let Some((a, b)) = name.peers() {
            self.users.extend([a, b]);
        }
        if let Some(key) = &send.key {
            self.message_keys.insert((actor.clone(), key.as_str().into()));
        }
        if let Some(target) = send.reply_to {
            self.events.insert((name.clone(), target));
        }
        self.add_membership(actor, name);
    }

    fn add_report_change(&mut self, actor: &UserId, change: &ReportChange) {
        match change {
            // The row of the reporter orders their reports, which are counted.
            ReportChange::Report(report) => {
                self.users_to_lock.insert(actor.clone());
                self.users_to_lock.extend(report.user.clone());
                if let (Some(conversation), Some(target)) = (&report.conversation, report.target) {
                    self.add_amendable(actor, conversation.resolve(actor), target);
                }
            }
            // The locks order the decisions about a report, and the reports of its target.
            ReportChange::Resolve(decision) => {
                self.users_to_lock.insert(decision.user.clone());
                if let Some(name) = &decision.conversation {
                    self.add_membership(&decision.user, name.clone());
                }
            }
            ReportChange::NoteRead(read) => self.conversations.extend([read.conversation.clone()]),
            ReportChange::Purge(_) => {}
        }
    }

    fn add_import(&mut self, record: &ImportRecord) {
        let (from, name) = (record.from(), record.conversation());
        self.users.insert(from.clone());
        match record {
            ImportRecord::Create(line) => self.users.extend(line.members.iter().cloned()),
            ImportRecord::Message(line) => {
                self.message_keys.insert((from.clone(), line.key.as_str().into()));
            }
            ImportRecord::Reaction(_) | ImportRecord::Read(_) => {}
        }
        if let Some(target) = record.target() {
            self.users.insert(target.from.clone());
            self.message_keys.insert((target.from.clone(), target.key.as_str().into()));
        }
        if let Some((a, b)) = name.peers() {
            self.users.extend([a, b]);
        }
        self.add_membership(from, name);
    }

    /// The row of a user orders the changes of their profile, also before there is a profile.
    fn add_profile(&mut self, user: &UserId) {
        self.users_to_lock.insert(user.clone());
        self.profiles.insert(user.clone());
    }

    fn add_creation(&mut self, actor: &UserId, create: &Create) {
        self.conversations.extend(create.room.iter().map(ConversationId::room));
        self.add_contacts(actor, &create.members);
        self.add_room_limit(actor);
    }

    fn add_block(&mut self, actor: &UserId, other: &UserId) {
        self.users.insert(other.clone());
        self.users_to_lock.insert(actor.clone());
    }

    /// Users whom the actor reaches, unless they block the actor.
    fn add_contacts(&mut self, actor: &UserId, others: &[UserId]) {
        self.users.extend(others.iter().cloned());
        self.blocks.extend(others.iter().map(|other| (other.clone(), actor.clone())));
    }

    fn add_membership(&mut self, actor: &UserId, name: ConversationId) {
        self.conversations.insert(name.clone());
        self.members.insert((name, actor.clone()));
    }

    /// In a direct conversation, the other user's row says whether they have written.
    fn add_cursor(&mut self, actor: &UserId, name: ConversationId) {
        self.apart.insert((name.clone(), actor.clone()));
        if let Some((a, b)) = name.peers() {
            self.users.extend([a.clone(), b.clone()]);
            self.members.extend([(name.clone(), a), (name.clone(), b)]);
        }
        self.add_membership(actor, name);
    }

    fn add_subject(&mut self, actor: &UserId, name: ConversationId, subject: &UserId) {
        self.users.insert(subject.clone());
        self.members.insert((name.clone(), subject.clone()));
        self.add_membership(actor, name);
    }

    fn add_amendable(&mut self, actor: &UserId, name: ConversationId, target: Seq) {
        self.events.insert((name.clone(), target));
        self.amendments.insert((name.clone(), target));
        self.add_membership(actor, name);
    }

    fn add_room_limit(&mut self, actor: &UserId) {
        self.users_to_lock.insert(actor.clone());
        self.users_with_room_limit.insert(actor.clone());
    }

    fn add_reaction(&mut self, name: &ConversationId, target: Seq, emoji: &Emoji, actor: &UserId) {
        self.reactions.insert((name.clone(), target, emoji.as_str().into(), actor.clone()));
    }
}

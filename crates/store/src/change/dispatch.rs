//! The two lists of all kinds of change: what each change does, and which rows it will need. A new kind of change is a line
//! in each.

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, Emoji, Seq, Timestamp, UserId};

use super::rows::Rows;
use super::{Act, Actor, Done, Failed, Rules};
use crate::{Change, Committed, Submission};

/// Applies one change that `actor` makes at the time `now`.
pub(crate) fn apply<R: Rows>(
    rows: &mut R,
    rules: &Rules,
    actor: Actor<'_>,
    change: Change,
    now: Timestamp,
) -> Done<R> {
    let Actor { name: actor, has_allowances } = actor;
    let mut act = Act { rows, rules, actor, has_allowances, now };
    match change {
        Change::Send(c) => act.send(c),
        Change::Edit(c) => act.edit(c),
        Change::Delete(c) => act.delete(&c),
        Change::React(c) => act.react(c),
        Change::Read(c) => act.read(&c, None),
        Change::CountedRead(c) => act.read(&c.read, Some(c.counts?)),
        Change::Received(c) => act.received(&c),
        Change::Create(c) => act.create(c),
        Change::Join(c) => act.join(&c),
        Change::Leave(c) => act.leave(&c),
        Change::Invite(c) => act.invite(c),
        Change::InviteWithKey(c) => act.invite_with_key(c),
        Change::Remove(c) => act.remove(c),
        Change::SetRole(c) => act.set_role(c),
        Change::Rename(c) => act.rename(c),
        Change::Appear => {
            act.rows.user_or_new(actor)?;
            Ok(Committed::Quiet)
        }
        Change::Seen(at) => {
            let user = act.rows.user_or_new(actor)?;
            act.rows.set_last_seen(user, at)?;
            Ok(Committed::Quiet)
        }
        Change::Probe => {
            act.rows.probe()?;
            Ok(Committed::Quiet)
        }
        Change::Refused(refusal) => Err(Failed::Refused(refusal)),
        Change::Revoke { until, replace } => {
            let user = act.rows.user_or_new(actor)?;
            act.rows.set_not_before(user, until, replace)?;
            Ok(Committed::Quiet)
        }
    }
}

/// The rows that the changes of a batch will need, by name. A store across a network reads them in one round trip before it
/// applies the changes. The list need not be exact, because a missing row is read when it is needed.
#[derive(Debug, Default)]
pub(crate) struct Prefetch {
    pub(crate) users: FxHashSet<UserId>,
    /// Users whose rows will change, or whose created and joined rooms are counted.
    pub(crate) locked: FxHashSet<UserId>,
    /// Users whose created and joined rooms are counted against the limit.
    pub(crate) choosing: FxHashSet<UserId>,
    pub(crate) conversations: FxHashSet<ConversationId>,
    pub(crate) members: FxHashSet<(ConversationId, UserId)>,
    pub(crate) keyed: FxHashSet<(UserId, Box<str>)>,
    pub(crate) events: FxHashSet<(ConversationId, Seq)>,
    /// The highest `read` cursor of each member, to count messages up to it. A lower one changes nothing once the highest
    /// is applied.
    pub(crate) cursors: FxHashMap<(ConversationId, UserId), Seq>,
    pub(crate) amendments: FxHashSet<(ConversationId, Seq)>,
    pub(crate) reactions: FxHashSet<(ConversationId, Seq, Box<str>, UserId)>,
}

impl Prefetch {
    pub(crate) fn of(batch: &[Submission]) -> Self {
        let mut prefetch = Self::default();
        for one in batch {
            prefetch.add(&one.actor, &one.change);
        }
        prefetch
    }

    fn add(&mut self, actor: &UserId, change: &Change) {
        self.users.insert(actor.clone());
        match change {
            Change::Send(c) => {
                let name = c.to.resolve(actor);
                if let Some((a, b)) = name.peers() {
                    self.users.extend([a, b]);
                }
                if let Some(key) = &c.key {
                    self.keyed.insert((actor.clone(), key.as_str().into()));
                }
                if let Some(target) = c.reply_to {
                    self.events.insert((name.clone(), target));
                }
                self.membership(actor, name);
            }
            Change::Edit(c) => self.amendable(actor, c.conversation.resolve(actor), c.target),
            Change::Delete(c) => {
                let name = c.conversation.resolve(actor);
                // No reaction has an empty emoji. An entry with one requests the number of the message's reactions.
                self.reactions.insert((name.clone(), c.target, "".into(), actor.clone()));
                self.amendable(actor, name, c.target);
            }
            Change::React(c) => {
                let name = c.conversation.resolve(actor);
                self.events.insert((name.clone(), c.target));
                self.reaction(&name, c.target, &c.emoji, actor);
                self.reaction(&name, c.target, &c.emoji.folded(), actor);
                self.membership(actor, name);
            }
            Change::Read(c) => {
                let name = c.conversation.resolve(actor);
                let upto = self.cursors.entry((name.clone(), actor.clone())).or_default();
                *upto = c.upto.max(*upto);
                self.membership(actor, name);
            }
            Change::CountedRead(c) => self.membership(actor, c.read.conversation.resolve(actor)),
            Change::Received(c) => self.membership(actor, c.conversation.resolve(actor)),
            Change::Create(c) => {
                self.conversations.extend(c.room.iter().map(ConversationId::room));
                self.users.extend(c.members.iter().cloned());
                self.choosing(actor);
            }
            Change::Join(c) => {
                self.choosing(actor);
                self.membership(actor, c.conversation.resolve(actor));
            }
            Change::Leave(c) => self.membership(actor, c.conversation.resolve(actor)),
            Change::Invite(c) | Change::InviteWithKey(c) => {
                self.subject(actor, c.conversation.resolve(actor), &c.user);
            }
            Change::Remove(c) => self.subject(actor, c.conversation.resolve(actor), &c.user),
            Change::SetRole(c) => self.subject(actor, c.conversation.resolve(actor), &c.user),
            Change::Rename(c) => self.membership(actor, c.conversation.resolve(actor)),
            Change::Appear | Change::Probe | Change::Refused(_) => {}
            Change::Seen(_) | Change::Revoke { .. } => {
                self.locked.insert(actor.clone());
            }
        }
    }

    fn membership(&mut self, actor: &UserId, name: ConversationId) {
        self.conversations.insert(name.clone());
        self.members.insert((name, actor.clone()));
    }

    fn subject(&mut self, actor: &UserId, name: ConversationId, subject: &UserId) {
        self.users.insert(subject.clone());
        self.members.insert((name.clone(), subject.clone()));
        self.membership(actor, name);
    }

    fn amendable(&mut self, actor: &UserId, name: ConversationId, target: Seq) {
        self.events.insert((name.clone(), target));
        self.amendments.insert((name.clone(), target));
        self.membership(actor, name);
    }

    fn choosing(&mut self, actor: &UserId) {
        self.locked.insert(actor.clone());
        self.choosing.insert(actor.clone());
    }

    fn reaction(&mut self, name: &ConversationId, target: Seq, emoji: &Emoji, actor: &UserId) {
        self.reactions.insert((name.clone(), target, emoji.as_str().into(), actor.clone()));
    }
}

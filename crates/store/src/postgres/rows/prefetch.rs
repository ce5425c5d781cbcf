//! The rows that the changes of a batch will need, by name: read in one round trip before the changes.

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, Emoji, Seq, UserId};

use crate::{Change, Submission};

/// The rows to read. It need not be exact: a missing row is read when it is needed.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    pub(super) users: FxHashSet<UserId>,
    /// Users whose rows will change or whose rooms are counted.
    pub(super) locked: FxHashSet<UserId>,
    /// Users whose rooms are counted.
    pub(super) choosing: FxHashSet<UserId>,
    pub(super) conversations: FxHashSet<ConversationId>,
    pub(super) members: FxHashSet<(ConversationId, UserId)>,
    pub(super) keyed: FxHashSet<(UserId, Box<str>)>,
    pub(super) events: FxHashSet<(ConversationId, Seq)>,
    /// Read cursors to count messages up to: the highest of each member, because a lower one then changes nothing.
    pub(super) cursors: FxHashMap<(ConversationId, UserId), Seq>,
    pub(super) amendments: FxHashSet<(ConversationId, Seq)>,
    pub(super) reactions: FxHashSet<(ConversationId, Seq, Box<str>, UserId)>,
}

impl Prefetch {
    pub(super) fn of(batch: &[Submission]) -> Self {
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
                // No reaction has an empty emoji: the answer is how many reactions the message has.
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
            Change::Appear | Change::Probe => {}
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

//! What the changes of a batch will ask for, by name: read all at once, ahead of them.

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, Emoji, Seq, UserId};

use crate::store::{Change, Submission};

/// What is read from the database. It may be more than is asked for, or less: that is read when it is asked for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) users: FxHashSet<UserId>,
    /// Users whose rows will change, or of whom something is counted.
    pub(super) locked: FxHashSet<UserId>,
    /// Users whose rooms are counted.
    pub(super) choosing: FxHashSet<UserId>,
    pub(super) conversations: FxHashSet<ConversationId>,
    pub(super) members: FxHashSet<(ConversationId, UserId)>,
    pub(super) keyed: FxHashSet<(UserId, Box<str>)>,
    pub(super) events: FxHashSet<(ConversationId, Seq)>,
    /// Cursors of reading that move: what is counted up to the highest of each. A lower one has nothing to move then.
    pub(super) cursors: FxHashMap<(ConversationId, UserId), Seq>,
    pub(super) amendments: FxHashSet<(ConversationId, Seq)>,
    pub(super) reactions: FxHashSet<(ConversationId, Seq, Box<str>, UserId)>,
}

impl Wanted {
    pub(super) fn of(batch: &[Submission]) -> Self {
        let mut wanted = Self::default();
        for one in batch {
            wanted.add(&one.actor, &one.change);
        }
        wanted
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
                self.place(actor, name);
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
                self.place(actor, name);
            }
            Change::Read(c) => {
                let name = c.conversation.resolve(actor);
                let upto = self.cursors.entry((name.clone(), actor.clone())).or_default();
                *upto = c.upto.max(*upto);
                self.place(actor, name);
            }
            Change::CountedRead(c) => self.place(actor, c.read.conversation.resolve(actor)),
            Change::Received(c) => self.place(actor, c.conversation.resolve(actor)),
            Change::Create(c) => {
                self.conversations.extend(c.room.iter().map(ConversationId::room));
                self.users.extend(c.members.iter().cloned());
                self.choosing(actor);
            }
            Change::Join(c) => {
                self.choosing(actor);
                self.place(actor, c.conversation.resolve(actor));
            }
            Change::Leave(c) => self.place(actor, c.conversation.resolve(actor)),
            Change::Invite(c) | Change::InviteWithKey(c) => {
                self.subject(actor, c.conversation.resolve(actor), &c.user);
            }
            Change::Remove(c) => self.subject(actor, c.conversation.resolve(actor), &c.user),
            Change::SetRole(c) => self.subject(actor, c.conversation.resolve(actor), &c.user),
            Change::Rename(c) => self.place(actor, c.conversation.resolve(actor)),
            Change::Appear | Change::Probe => {}
            Change::Seen(_) | Change::Revoke { .. } => {
                self.locked.insert(actor.clone());
            }
        }
    }

    fn place(&mut self, actor: &UserId, name: ConversationId) {
        self.conversations.insert(name.clone());
        self.members.insert((name, actor.clone()));
    }

    fn subject(&mut self, actor: &UserId, name: ConversationId, subject: &UserId) {
        self.users.insert(subject.clone());
        self.members.insert((name.clone(), subject.clone()));
        self.place(actor, name);
    }

    fn amendable(&mut self, actor: &UserId, name: ConversationId, target: Seq) {
        self.events.insert((name.clone(), target));
        self.amendments.insert((name.clone(), target));
        self.place(actor, name);
    }

    fn choosing(&mut self, actor: &UserId) {
        self.locked.insert(actor.clone());
        self.choosing.insert(actor.clone());
    }

    fn reaction(&mut self, name: &ConversationId, target: Seq, emoji: &Emoji, actor: &UserId) {
        self.reactions.insert((name.clone(), target, emoji.as_str().into(), actor.clone()));
    }
}

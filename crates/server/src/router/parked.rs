//! Attaching sessions that wait until this node has applied everything that their snapshot contains.
//!
//! Each session is indexed by the first obstacle that it waits for, and is checked again only when that obstacle has changed. So
//! the work after an input is in proportion to what the input changed, not to the number of waiting sessions.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;
use tokio::sync::oneshot;

use super::registry::{SessionSlot, UserSlot};
use super::{LocalNode, Subscription};
use switchboard_store::Memberships;
use switchboard_store::record::ConversationKey;

/// Conversations that a user left, each with the event of the leave.
pub(crate) type LeftConversations = Vec<(ConversationKey, Seq)>;

/// A page of memberships, and the next step of its session. It waits until every event that the page can contain has been
/// published.
pub(super) struct ParkedPage {
    pub(super) session: SessionSlot,
    /// The number of a batch. The page contains nothing of later batches.
    pub(super) mark: u64,
    pub(super) page: Memberships,
    pub(super) next_step: NextStep,
}

/// The next step of a session once its page has been applied.
pub(super) enum NextStep {
    /// The session receives which conversations its user has left.
    ReplyWithLeaves(oneshot::Sender<LeftConversations>),
    /// The session becomes live.
    MakeLive(Box<Subscription>),
}

/// What an attaching session waits for, before its page of memberships can be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Obstacle {
    /// The batch of this node with this number must be published.
    Batch(u64),
    /// In a cluster: this node must apply the event with this number, or any further event of the conversation if the number is
    /// 0.
    Event(ConversationKey, Seq),
    /// In a cluster: the store must answer a query about the user, or the user must join or leave a conversation.
    User(UserSlot),
}

/// The waiting sessions, indexed by the obstacle that each waits for.
#[derive(Default)]
pub(super) struct ParkedSessions {
    sessions: FxHashMap<SessionSlot, (ParkedPage, Obstacle)>,
    by_obstacle: BTreeSet<(Obstacle, SessionSlot)>,
    /// The sessions whose obstacle has changed.
    due: BTreeSet<SessionSlot>,
}

impl ParkedSessions {
    pub(super) fn insert(&mut self, parked: ParkedPage, obstacle: Obstacle) {
        let session = parked.session;
        self.by_obstacle.insert((obstacle, session));
        self.sessions.insert(session, (parked, obstacle));
    }

    pub(super) fn remove(&mut self, session: SessionSlot) -> Option<ParkedPage> {
        let (parked, obstacle) = self.sessions.remove(&session)?;
        self.by_obstacle.remove(&(obstacle, session));
        self.due.remove(&session);
        Some(parked)
    }

    /// Marks the sessions that wait for one of these obstacles to be checked again.
    fn wake(&mut self, obstacles: RangeInclusive<Obstacle>) {
        if self.sessions.is_empty() {
            return;
        }
        let (first, last) = obstacles.into_inner();
        let woken = (first, SessionSlot::MIN)..=(last, SessionSlot::MAX);
        self.due.extend(self.by_obstacle.range(woken).map(|(_, session)| *session));
    }

    /// Wakes the sessions that wait for a batch up to this one.
    pub(super) fn wake_for_batch(&mut self, number: u64) {
        self.wake(Obstacle::Batch(0)..=Obstacle::Batch(number));
    }

    /// Wakes the sessions that wait for an event of a conversation up to this one.
    pub(super) fn wake_for_event(&mut self, conversation: ConversationKey, seq: Seq) {
        self.wake(Obstacle::Event(conversation, Seq(0))..=Obstacle::Event(conversation, seq));
    }

    /// Wakes the sessions that wait for a change of a user.
    pub(super) fn wake_for_user(&mut self, user: UserSlot) {
        self.wake(Obstacle::User(user)..=Obstacle::User(user));
    }

    /// Wakes a session because its own store query is answered.
    pub(super) fn wake_session(&mut self, session: SessionSlot) {
        if self.sessions.contains_key(&session) {
            self.due.insert(session);
        }
    }

    pub(super) fn take_due(&mut self) -> Vec<ParkedPage> {
        let due = std::mem::take(&mut self.due);
        due.into_iter().filter_map(|session| self.remove(session)).collect()
    }
}

impl ParkedPage {
    /// If a batch that the page may contain is not published yet, that batch as the obstacle. It comes before all other
    /// obstacles, on a single node and in a cluster.
    pub(super) fn unpublished_batch(&self, published: u64) -> Option<Obstacle> {
        (self.mark > published).then_some(Obstacle::Batch(self.mark))
    }
}

impl LocalNode {
    /// Applies a page on a single node, or parks it until every batch that it can contain has been published.
    pub(super) fn apply_or_park(&mut self, parked: ParkedPage) {
        if let Some(obstacle) = parked.unpublished_batch(self.published) {
            self.parked.insert(parked, obstacle);
        } else {
            self.add_page_members(&parked);
            self.finish_page(parked, LeftConversations::new());
        }
    }

    /// Admits the sessions that have no obstacle any more, on a single node.
    pub(super) fn retry_parked(&mut self) {
        self.parked.take_due().into_iter().for_each(|parked| self.apply_or_park(parked));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use switchboard_protocol::{Limits, UserId};

    use super::*;
    use crate::metrics::Metrics;
    use crate::outbox::Outbox;
    use crate::router::registry::Registry;

    const ROOM: ConversationKey = ConversationKey(1);
    const OTHER_ROOM: ConversationKey = ConversationKey(2);

    fn due_sessions(parked: &mut ParkedSessions) -> Vec<SessionSlot> {
        parked.take_due().into_iter().map(|parked| parked.session).collect()
    }

    fn parked_page(session: SessionSlot) -> ParkedPage {
        let (after, joined, latest) = (ConversationKey::MIN, Arc::default(), vec![]);
        let page = Memberships { mark: 1, after, next: None, joined, latest };
        let (reply, _) = oneshot::channel();
        ParkedPage { session, mark: 1, page, next_step: NextStep::ReplyWithLeaves(reply) }
    }

    #[test]
    fn only_sessions_whose_obstacle_has_changed_are_checked() {
        let mut registry = Registry::default();
        let user = registry.user_or_new(&UserId::parse("alice").expect("an id"));
        let mut sessions = ParkedSessions::default();
        let obstacles = [
            Obstacle::Batch(3),
            Obstacle::Batch(4),
            Obstacle::Event(ROOM, Seq(0)),
            Obstacle::Event(ROOM, Seq(5)),
            Obstacle::Event(ROOM, Seq(6)),
            Obstacle::Event(OTHER_ROOM, Seq(1)),
            Obstacle::User(user),
        ];
        let slots = obstacles.map(|obstacle| {
            let outbox = Arc::new(Outbox::new(&Limits::default(), Arc::new(Metrics::new())));
            let session = registry.add_session(user, outbox);
            sessions.insert(parked_page(session), obstacle);
            session
        });
        assert_eq!(due_sessions(&mut sessions), []);
        sessions.wake_for_batch(3);
        assert_eq!(due_sessions(&mut sessions), [slots[0]]);
        sessions.wake_for_event(ROOM, Seq(5));
        assert_eq!(due_sessions(&mut sessions), [slots[2], slots[3]]);
        sessions.wake_for_user(user);
        sessions.wake_session(slots[4]);
        assert_eq!(due_sessions(&mut sessions), [slots[4], slots[6]]);
        assert!(sessions.remove(slots[1]).is_some());
        sessions.wake_for_batch(9);
        assert_eq!(due_sessions(&mut sessions), [], "it has left");
        sessions.wake_for_event(OTHER_ROOM, Seq(1));
        assert_eq!(due_sessions(&mut sessions), [slots[5]]);
        assert!(sessions.sessions.is_empty() && sessions.by_obstacle.is_empty());
    }
}

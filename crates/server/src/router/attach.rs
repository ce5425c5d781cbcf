//! How sessions come and go.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::{Seq, UserId};
use tokio::sync::oneshot;

use super::parked::Parked;
use super::registry::{MembershipChange, UserSlot};
use super::{Router, Subscribe, bid_farewell};
use crate::metrics::Drop;
use crate::outbox::Outbox;
use crate::record::{ConversationKey, Passage};
use crate::refusal::Refusal;
use crate::router::registry::SessionSlot;
use crate::store::Joined;

/// What was published, in conversations without members here, while sessions were on their way in.
///
/// Two generations, so that it stays small though some session is always on its way: the older one is
/// dropped once every session that may need it is in.
#[derive(Debug, Default)]
pub(super) struct Recent {
    generation: u64,
    current: FxHashMap<ConversationKey, Seq>,
    previous: FxHashMap<ConversationKey, Seq>,
    entering_current: u32,
    entering_previous: u32,
    sessions: FxHashMap<SessionSlot, u64>,
}

impl Recent {
    fn begin(&mut self, session: SessionSlot) {
        self.entering_current += 1;
        self.sessions.insert(session, self.generation);
    }

    fn end(&mut self, session: SessionSlot) {
        match self.sessions.remove(&session) {
            None => return,
            Some(generation) if generation == self.generation => self.entering_current -= 1,
            Some(_) => self.entering_previous -= 1,
        }
        if self.entering_previous == 0 {
            self.previous = std::mem::take(&mut self.current);
            self.entering_previous = std::mem::take(&mut self.entering_current);
            self.generation += 1;
        }
        if self.sessions.is_empty() {
            self.previous.clear();
        }
    }

    /// Gives back what a crowd needed that came in at once.
    pub(super) fn shrink(&mut self) {
        self.current.shrink_to_fit();
        self.previous.shrink_to_fit();
        self.sessions.shrink_to_fit();
    }

    /// Notes that `seq` was published.
    pub(super) fn note(&mut self, conversation: ConversationKey, seq: Seq) {
        if !self.sessions.is_empty() {
            self.current.insert(conversation, seq);
        }
    }

    /// The oldest generation of which a session may still be on its way in.
    pub(super) fn oldest(&self) -> u64 {
        if self.sessions.is_empty() { self.generation + 1 } else { self.generation.saturating_sub(1) }
    }

    fn head(&self, conversation: ConversationKey) -> Option<Seq> {
        self.current.get(&conversation).or_else(|| self.previous.get(&conversation)).copied()
    }
}

impl Router {
    pub(super) fn enter(
        &mut self,
        name: &UserId,
        outbox: Arc<Outbox>,
        reply: oneshot::Sender<Result<SessionSlot, Refusal>>,
    ) {
        if self.bereft {
            // The session may have gone; then nobody waits.
            let _ = reply.send(Err(Refusal::unavailable()));
            return;
        }
        let most = self.limits.connections_per_user as usize;
        let user = self.registry.user_or_new(name);
        let Some(local) = self.registry.user_mut(user) else { return };
        if most > 0 && local.sessions.len() >= most {
            self.metrics.dropped(Drop::ConnectionLimit);
            // The session may have gone; then nobody waits.
            let _ = reply.send(Err(Refusal::rate_limited(TOO_MANY_RETRY_MS)));
            return;
        }
        local.entering += 1;
        self.presence.returned(user);
        if self.stopping {
            bid_farewell(&outbox, self.spread);
        }
        let session = self.registry.add_session(user, outbox);
        self.recent.begin(session);
        self.metrics.connections.inc();
        if reply.send(Ok(session)).is_err() {
            self.leave(session);
        }
    }

    pub(super) fn leave(&mut self, session: SessionSlot) {
        let Some(gone) = self.registry.remove_session(session) else { return };
        self.metrics.connections.dec();
        self.presence.unwatch(session, &gone.watching);
        if !gone.live {
            self.entered(session, gone.user);
        }
        self.parked.remove(session);
        let Some(local) = self.registry.user(gone.user) else { return };
        if local.sessions.is_empty() {
            self.presence.leaving(gone.user, self.clock.now());
        }
    }

    /// A session is no longer on its way in.
    fn entered(&mut self, session: SessionSlot, user: UserSlot) {
        self.recent.end(session);
        self.registry.set_generation(self.recent.generation);
        if let Some(local) = self.registry.user_mut(user) {
            local.entering -= 1;
            if local.entering == 0 {
                local.changes = Vec::new();
            }
        }
    }

    pub(super) fn subscribe(&mut self, subscribe: Subscribe) {
        self.catch_up_with(&subscribe);
        let questions = self.peers.as_ref().map_or(0, |peers| peers.comparisons.questions);
        self.admit(Parked { subscribe, questions, goings: FxHashMap::default() });
    }

    /// From here on the session gets live events. Whatever was published after its cursors is left to
    /// it as lags.
    pub(super) fn make_live(&mut self, Parked { subscribe, goings, .. }: Parked) {
        // What waits was published before: it is behind the cursors, not live.
        self.release();
        self.note_gone(&subscribe);
        let Subscribe { session, snapshot, cursors, former, gone } = subscribe;
        let Some(local) = self.registry.session_mut(session) else { return };
        local.live = true;
        local.not_before = snapshot.not_before;
        let (user, outbox) = (local.user, local.outbox.clone());
        let Some(local) = self.registry.user_mut(user) else { return };
        let changes = local.changes.clone();
        let suspect = std::mem::take(&mut local.suspect);
        if !std::mem::replace(&mut local.loaded, true) {
            self.load(user, &snapshot.joined, &changes);
        }
        if suspect {
            self.verify(user);
        }
        let heads: FxHashMap<_, _> = snapshot.joined.iter().map(|j| (j.conversation, j.head)).collect();
        let past = former.iter().map(|(conversation, start, _)| (*conversation, *start));
        let cursors: FxHashMap<_, _> = cursors.into_iter().chain(past).collect();
        let conversations = self.registry.user(user).map_or(Vec::new(), |local| local.conversations.clone());
        let start = |conversation: ConversationKey| {
            let known = cursors.get(&conversation).or_else(|| heads.get(&conversation)).copied();
            let entered = || changes.iter().filter(|c| c.conversation == conversation).find_map(|c| c.seen());
            let told = gone.iter().find(|gone| gone.0 == conversation).map_or(Seq::MAX, |gone| gone.1);
            known.or_else(|| entered().map(|seen| seen.min(told)))
        };
        for conversation in &conversations {
            if let (Some(start), Some(head)) = (start(*conversation), self.registry.head(*conversation)) {
                outbox.resume_from(*conversation, start, head);
            }
        }
        let mut went = Vec::new();
        // Gone since the snapshot: up to the event of leaving.
        for change in changes.iter().filter(|c| c.passage == Passage::Out) {
            if heads.get(&change.conversation).is_none_or(|head| *head < change.seq)
                && let Some(start) = start(change.conversation)
            {
                outbox.resume_from(change.conversation, start, change.seq);
                went.push((change.conversation, change.seq));
            }
        }
        for (conversation, going) in goings {
            if let (Some(start), Some(going)) = (start(conversation), going) {
                outbox.resume_from(conversation, start, going);
                went.push((conversation, going));
            }
        }
        for (conversation, start, until) in former {
            outbox.resume_from(conversation, start, until);
        }
        self.note_told(session, gone.into_iter().chain(went));
        self.entered(session, user);
        self.presence.arrived(&self.registry, user);
    }

    /// Puts a user into their conversations: those of the snapshot, as changed by what was published
    /// while it was taken.
    fn load(&mut self, user: UserSlot, joined: &[Joined], changes: &[MembershipChange]) {
        for Joined { conversation, head } in joined {
            let head = self.recent.head(*conversation).map_or(*head, |recent| recent.max(*head));
            self.registry.join(user, *conversation, head);
        }
        for change in changes {
            if let Passage::In { .. } = change.passage {
                let head = self.recent.head(change.conversation).unwrap_or(change.seq);
                self.registry.join(user, change.conversation, head.max(change.seq));
            } else {
                self.registry.part(user, change.conversation, change.seq);
            }
        }
    }
}

/// When somebody with too many connections may try again, in milliseconds. Old ones are found dead after some forty
/// seconds at most, or after five minutes where something waits to be written to them; most go sooner.
const TOO_MANY_RETRY_MS: u64 = 5_000;

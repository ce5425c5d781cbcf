//! How sessions come and go.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::{Seq, UserId};
use tokio::sync::oneshot;

use super::entry::Entry;
use super::parked::{Parked, Then};
use super::registry::{MembershipChange, UserSlot};
use super::{Router, Subscribe, bid_farewell};
use crate::metrics::Drop;
use crate::outbox::Outbox;
use crate::router::registry::SessionSlot;
use switchboard_store::record::{ConversationKey, Passage};
use switchboard_store::refusal::Refusal;
use switchboard_store::{Joined, Memberships};

/// A page of memberships of a session that is not live yet.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) session: SessionSlot,
    pub(super) page: Memberships,
    pub(super) reply: oneshot::Sender<Goings>,
}

/// Conversations that a user has gone from, by which event.
pub(crate) type Goings = Vec<(ConversationKey, Seq)>;

/// Where conversations ended, by the pages that they were read in.
#[derive(Debug, Default)]
pub(crate) struct Heads(Vec<Arc<[Joined]>>);

impl Heads {
    /// Adds the next page.
    pub(crate) fn add(&mut self, page: Arc<[Joined]>) {
        if !page.is_empty() {
            self.0.push(page);
        }
    }

    pub(super) fn get(&self, conversation: ConversationKey) -> Option<Seq> {
        let ends_before =
            |page: &Arc<[Joined]>| page.last().is_none_or(|last| last.conversation < conversation);
        let page = self.0.get(self.0.partition_point(ends_before))?;
        let at = page.binary_search_by_key(&conversation, |joined| joined.conversation).ok()?;
        page.get(at).map(|joined| joined.head)
    }
}

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

    /// In how many conversations something was published, or more.
    fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }

    /// The conversations in which something was published; one may come twice.
    fn conversations(&self) -> impl Iterator<Item = ConversationKey> {
        self.current.keys().chain(self.previous.keys()).copied()
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
                local.answered_entries = FxHashMap::default();
            }
        }
    }

    pub(super) fn load(&mut self, load: Load) {
        let Load { session, page, reply } = load;
        let mark = page.mark;
        self.take_page(Parked { session, mark, entry: Entry::new(page), then: Then::Answer(reply) });
    }

    pub(super) fn subscribe(&mut self, subscribe: Subscribe) {
        self.note_gone(&subscribe);
        let (session, mark, entry) = (subscribe.session, subscribe.mark, Entry::last(&subscribe));
        self.take_page(Parked { session, mark, entry, then: Then::Live(Box::new(subscribe)) });
    }

    fn take_page(&mut self, mut parked: Parked) {
        self.catch_up_with(&mut parked);
        self.admit(parked);
    }

    /// Puts the user of a session into the conversations of a page, as changed by what was published since it was read.
    pub(super) fn join_page(&mut self, parked: &Parked) {
        // What waits was published before: the heads of the page are ahead of it.
        self.release();
        let Some(user) = self.registry.session(parked.session).map(|session| session.user) else { return };
        let Some(local) = self.registry.user(user).filter(|local| !local.loaded) else { return };
        let changed = changed(&local.changes);
        for Joined { conversation, head } in parked.entry.page.joined.iter() {
            // What was published of them is known here.
            if changed.get(conversation).is_some_and(|seq| seq > head) {
                continue;
            }
            let head = self.recent.head(*conversation).map_or(*head, |recent| recent.max(*head));
            self.registry.join(user, *conversation, head);
        }
    }

    /// A page has been taken in.
    pub(super) fn let_in(&mut self, parked: Parked) {
        let Parked { session, entry, then, .. } = parked;
        let goings =
            entry.goings.into_iter().filter_map(|(conversation, going)| Some((conversation, going?)));
        match then {
            Then::Answer(reply) => {
                // What its next page says is newer than all that is hosted by now.
                let hostings = self.registry.hostings();
                if let Some(session) = self.registry.session_mut(session) {
                    session.hostings = hostings;
                }
                // The session may have gone; then nobody waits.
                let _ = reply.send(goings.collect());
            }
            Then::Live(mut subscribe) => {
                subscribe.goings.extend(goings);
                self.make_live(&subscribe);
            }
        }
    }

    /// From here on the session gets live events. Whatever was published after its cursors is left to
    /// it as lags.
    fn make_live(&mut self, subscribe: &Subscribe) {
        // What waits was published before: it is behind the cursors, not live.
        self.release();
        self.note_gone(subscribe);
        let session = subscribe.session;
        let Some(local) = self.registry.session_mut(session) else { return };
        local.live = true;
        local.not_before = subscribe.not_before;
        let (user, outbox) = (local.user, local.outbox.clone());
        let Some(local) = self.registry.user_mut(user) else { return };
        let changes = local.changes.clone();
        let suspect = std::mem::take(&mut local.suspect);
        local.loaded = true;
        if suspect {
            self.verify(user);
        }
        let starts = Starts::new(subscribe, &changes);
        for conversation in self.published_since(user, &starts) {
            if let (Some(start), Some(head)) = (starts.of(conversation), self.registry.head(conversation)) {
                outbox.resume_from(conversation, start, head);
            }
        }
        let mut went = Vec::new();
        // Gone since the page was read: up to the event of leaving.
        for change in changes.iter().filter(|c| c.passage == Passage::Out) {
            if subscribe.heads.get(change.conversation).is_none_or(|head| head < change.seq)
                && let Some(start) = starts.of(change.conversation)
            {
                outbox.resume_from(change.conversation, start, change.seq);
                went.push((change.conversation, change.seq));
            }
        }
        for (conversation, going) in &subscribe.goings {
            if let Some(start) = starts.of(*conversation) {
                outbox.resume_from(*conversation, start, *going);
                went.push((*conversation, *going));
            }
        }
        for (conversation, start, until) in &subscribe.former {
            outbox.resume_from(*conversation, *start, *until);
        }
        self.note_told(session, subscribe.gone.iter().copied().chain(went));
        self.entered(session, user);
        self.presence.arrived(&self.registry, user);
    }

    /// The conversations of a user in which anything can have been published behind where a session starts. Where a page
    /// gives the start, that is one in which something was published since the session entered.
    fn published_since(&self, user: UserSlot, starts: &Starts<'_>) -> Vec<ConversationKey> {
        let conversations = self.registry.user(user).map_or(&[][..], |local| &local.conversations);
        if conversations.len() <= self.recent.len() {
            return conversations.to_vec();
        }
        let mut since: Vec<_> = self.recent.conversations().chain(starts.named()).collect();
        since.sort_unstable();
        since.dedup();
        since.retain(|conversation| conversations.binary_search(conversation).is_ok());
        since
    }
}

/// The last coming or going of a user in each conversation that they came into or went from.
pub(super) fn changed(changes: &[MembershipChange]) -> FxHashMap<ConversationKey, Seq> {
    changes.iter().map(|change| (change.conversation, change.seq)).collect()
}

/// Behind which events a session starts.
struct Starts<'a> {
    heads: &'a Heads,
    gone: &'a [(ConversationKey, Seq)],
    /// Where the client says so, or has a summary.
    named: FxHashMap<ConversationKey, Seq>,
    /// The last event that a user who came in since had seen.
    seen: FxHashMap<ConversationKey, Seq>,
}

impl<'a> Starts<'a> {
    fn new(subscribe: &'a Subscribe, changes: &[MembershipChange]) -> Self {
        let mut named: FxHashMap<_, _> = subscribe.listed.iter().copied().collect();
        for (conversation, told) in &subscribe.gone {
            named.entry(*conversation).and_modify(|start| *start = (*start).min(*told));
        }
        named.extend(subscribe.cursors.iter().copied());
        named.extend(subscribe.former.iter().map(|(conversation, start, _)| (*conversation, *start)));
        let mut seen = FxHashMap::default();
        for change in changes {
            if let Some(before) = change.seen() {
                seen.entry(change.conversation).or_insert(before);
            }
        }
        Self { heads: &subscribe.heads, gone: &subscribe.gone, named, seen }
    }

    fn of(&self, conversation: ConversationKey) -> Option<Seq> {
        if let Some(start) = self.named.get(&conversation) {
            return Some(*start);
        }
        // They may have come back between the check of the cursors and the page.
        let told = self.gone.iter().find(|gone| gone.0 == conversation).map_or(Seq::MAX, |gone| gone.1);
        let known = self.heads.get(conversation).or_else(|| self.seen.get(&conversation).copied());
        known.map(|start| start.min(told))
    }

    /// The conversations whose start no page gives.
    fn named(&self) -> impl Iterator<Item = ConversationKey> {
        let gone = self.gone.iter().map(|(conversation, _)| conversation);
        self.named.keys().chain(self.seen.keys()).chain(gone).copied()
    }
}

/// When somebody with too many connections may try again, in milliseconds. Old ones are found dead after some forty
/// seconds at most, or after five minutes where something waits to be written to them; most go sooner.
const TOO_MANY_RETRY_MS: u64 = 5_000;

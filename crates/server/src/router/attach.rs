//! How sessions attach and end.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use switchboard_protocol::{Seq, UserId};
use tokio::sync::oneshot;

use super::parked::{LeftConversations, NextStep, ParkedPage};
use super::registry::{MembershipChange, UserSlot};
use super::{LocalNode, Router, Subscription, send_bye};
use crate::metrics::DropReason;
use crate::outbox::Outbox;
use crate::router::registry::SessionSlot;
use switchboard_store::record::{ConversationKey, JoinOrLeave};
use switchboard_store::refusal::Refusal;
use switchboard_store::{JoinedConversation, Memberships};

/// A page of memberships of a session that is not live yet.
#[derive(Debug)]
pub(super) struct LoadRequest {
    pub(super) session: SessionSlot,
    pub(super) page: Memberships,
    pub(super) reply: oneshot::Sender<LeftConversations>,
}

/// The last event (head) of each conversation, page by page as they were read, sorted by conversation.
#[derive(Debug, Default)]
pub(crate) struct PageHeads(Vec<Arc<[JoinedConversation]>>);

impl PageHeads {
    /// Adds the heads on the next page of memberships.
    pub(crate) fn add(&mut self, page: Arc<[JoinedConversation]>) {
        if !page.is_empty() {
            self.0.push(page);
        }
    }

    pub(super) fn get(&self, conversation: ConversationKey) -> Option<Seq> {
        let ends_before = |page: &Arc<[JoinedConversation]>| {
            page.last().is_none_or(|last| last.conversation < conversation)
        };
        let page = self.0.get(self.0.partition_point(ends_before))?;
        let at = page.binary_search_by_key(&conversation, |joined| joined.conversation).ok()?;
        page.get(at).map(|joined| joined.head)
    }
}

/// The last event of each conversation that was published while sessions were attaching.
///
/// The entries are in two generations, so that the map stays small even if some session is always attaching: the older generation
/// is dropped once every session that may need it is live.
#[derive(Debug, Default)]
pub(super) struct RecentHeads {
    generation: u64,
    current: FxHashMap<ConversationKey, Seq>,
    previous: FxHashMap<ConversationKey, Seq>,
    attaching_current: u32,
    attaching_previous: u32,
    sessions: FxHashMap<SessionSlot, u64>,
}

impl RecentHeads {
    fn begin_attach(&mut self, session: SessionSlot) {
        self.attaching_current += 1;
        self.sessions.insert(session, self.generation);
    }

    fn end_attach(&mut self, session: SessionSlot) {
        match self.sessions.remove(&session) {
            None => return,
            Some(generation) if generation == self.generation => self.attaching_current -= 1,
            Some(_) => self.attaching_previous -= 1,
        }
        if self.attaching_previous == 0 {
            self.previous = std::mem::take(&mut self.current);
            self.attaching_previous = std::mem::take(&mut self.attaching_current);
            self.generation += 1;
        }
        if self.sessions.is_empty() {
            self.previous.clear();
        }
    }

    /// Frees the memory that many attaching sessions needed.
    pub(super) fn shrink(&mut self) {
        self.current.shrink_to_fit();
        self.previous.shrink_to_fit();
        self.sessions.shrink_to_fit();
    }

    /// Records that the event `seq` was published, if a session is attaching.
    pub(super) fn record(&mut self, conversation: ConversationKey, seq: Seq) {
        if !self.sessions.is_empty() {
            self.current.insert(conversation, seq);
        }
    }

    /// The oldest generation that an attaching session may still need.
    pub(super) fn oldest_generation(&self) -> u64 {
        if self.sessions.is_empty() { self.generation + 1 } else { self.generation.saturating_sub(1) }
    }

    /// An upper bound of the number of conversations in which an event was published.
    fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }

    /// The conversations in which an event was published. A conversation may occur twice.
    fn conversations(&self) -> impl Iterator<Item = ConversationKey> {
        self.current.keys().chain(self.previous.keys()).copied()
    }

    fn head(&self, conversation: ConversationKey) -> Option<Seq> {
        self.current.get(&conversation).or_else(|| self.previous.get(&conversation)).copied()
    }
}

impl Router {
    pub(super) fn enter_session(
        &mut self,
        name: &UserId,
        outbox: Arc<Outbox>,
        reply: oneshot::Sender<Result<SessionSlot, Refusal>>,
    ) {
        if self.is_writer_gone {
            // If the session has ended, the answer is dropped.
            let _ = reply.send(Err(Refusal::unavailable()));
            return;
        }
        let node = &mut self.node;
        let most = node.limits.connections_per_user as usize;
        let user = node.registry.user_or_new(name);
        let Some(local) = node.registry.user_mut(user) else { return };
        if most > 0 && local.sessions.len() >= most {
            node.metrics.count_dropped(DropReason::ConnectionLimit);
            // If the session has ended, the answer is dropped.
            let _ = reply.send(Err(Refusal::rate_limited(TOO_MANY_RETRY_MS)));
            return;
        }
        local.attaching_sessions += 1;
        node.presence.cancel_grace_period(user);
        if self.stopping {
            send_bye(&outbox, self.spread);
        }
        let session = node.registry.add_session(user, outbox);
        node.recent.begin_attach(session);
        node.metrics.connections.inc();
        if reply.send(Ok(session)).is_err() {
            self.leave_session(session);
        }
    }

    pub(super) fn leave_session(&mut self, session: SessionSlot) {
        self.node.leave_session(session);
        if let Some(cluster) = &mut self.cluster {
            cluster.remove_session(session);
        }
    }

    pub(super) fn load_page(&mut self, load: LoadRequest) {
        let LoadRequest { session, page, reply } = load;
        let mark = page.mark;
        self.accept_page(ParkedPage { session, mark, page, next_step: NextStep::ReplyWithLeaves(reply) });
    }

    pub(super) fn subscribe_session(&mut self, subscribe: Subscription) {
        let (session, mark, page) = (subscribe.session, subscribe.mark, subscribe.page.clone());
        self.accept_page(ParkedPage {
            session,
            mark,
            page,
            next_step: NextStep::MakeLive(Box::new(subscribe)),
        });
    }

    fn accept_page(&mut self, parked: ParkedPage) {
        match &mut self.cluster {
            None => self.node.apply_or_park(parked),
            Some(cluster) => cluster.accept_page(&mut self.node, parked),
        }
    }
}

impl LocalNode {
    fn leave_session(&mut self, session: SessionSlot) {
        let Some(gone) = self.registry.remove_session(session) else { return };
        self.metrics.connections.dec();
        self.presence.unwatch(session, &gone.watching);
        self.profiles.unfollow(session, &gone.following);
        if !gone.is_live {
            self.end_attach(session, gone.user);
        }
        self.parked.remove(session);
        let Some(local) = self.registry.user(gone.user) else { return };
        if local.sessions.is_empty() {
            self.presence.start_grace_period(gone.user, self.clock.now());
        }
    }

    /// Records that a session is no longer attaching.
    fn end_attach(&mut self, session: SessionSlot, user: UserSlot) {
        self.recent.end_attach(session);
        self.registry.set_generation(self.recent.generation);
        if let Some(local) = self.registry.user_mut(user) {
            local.attaching_sessions -= 1;
            if local.attaching_sessions == 0 {
                local.changes_while_attaching = Vec::new();
                local.last_answers = FxHashMap::default();
            }
        }
    }

    /// Adds the user of a session to the members of the conversations on a page, except where a later membership change was
    /// applied.
    pub(super) fn add_page_members(&mut self, parked: &ParkedPage) {
        // Coalesced events that still wait were published before the page was applied, so the heads on the page include them.
        self.flush_coalesced();
        let Some(user) = self.registry.session(parked.session).map(|session| session.user) else { return };
        let Some(local) = self.registry.user(user).filter(|local| !local.is_loaded) else { return };
        let changed = local.last_changes();
        for JoinedConversation { conversation, head } in parked.page.joined.iter() {
            // This node has applied a membership change that is later than the page.
            if changed.get(conversation).is_some_and(|seq| seq > head) {
                continue;
            }
            let head = self.recent.head(*conversation).map_or(*head, |recent| recent.max(*head));
            self.registry.add_member(user, *conversation, head);
        }
    }

    /// Answers a session whose page has been applied, or makes the session live after its last page. For a session that is now
    /// live, returns the conversations that its user has left, each with the last event that the session receives.
    pub(super) fn finish_page(&mut self, parked: ParkedPage, leaves: LeftConversations) -> LeftConversations {
        match parked.next_step {
            NextStep::ReplyWithLeaves(reply) => {
                // If the session has ended, the answer is dropped.
                let _ = reply.send(leaves);
                LeftConversations::new()
            }
            NextStep::MakeLive(mut subscribe) => {
                if let Some(user) = self.registry.session(subscribe.session).map(|session| session.user) {
                    self.apply_block_list(user, std::mem::take(&mut subscribe.blocks));
                }
                subscribe.left_since_read.extend(leaves);
                self.start_live_delivery(&subscribe)
            }
        }
    }

    /// Makes a session live. The session reads the events between its cursors and the present from the store, as lags.
    fn start_live_delivery(&mut self, subscribe: &Subscription) -> LeftConversations {
        // Coalesced events that still wait were published before this session is live, so it reads them from the store.
        self.flush_coalesced();
        let session = subscribe.session;
        let Some(local) = self.registry.session_mut(session) else { return LeftConversations::new() };
        local.is_live = true;
        local.not_before = subscribe.not_before;
        let (user, outbox) = (local.user, local.outbox.clone());
        let Some(local) = self.registry.user_mut(user) else { return LeftConversations::new() };
        let changes = local.changes_while_attaching.clone();
        local.is_loaded = true;
        let starts = StartPositions::new(subscribe, &changes);
        for conversation in self.conversations_published_since(user, &starts) {
            if let (Some(start), Some(head)) =
                (starts.start_position_of(conversation), self.registry.head(conversation))
            {
                outbox.resume_from(conversation, start, head);
            }
        }
        let mut left = subscribe.left_conversations.clone();
        // If the user left a conversation after the page was read, the session receives the conversation up to the event of the
        // leave.
        for change in changes.iter().filter(|c| c.join_or_leave == JoinOrLeave::Leave) {
            if subscribe.heads.get(change.conversation).is_none_or(|head| head < change.seq)
                && let Some(start) = starts.start_position_of(change.conversation)
            {
                outbox.resume_from(change.conversation, start, change.seq);
                left.push((change.conversation, change.seq));
            }
        }
        for (conversation, leave) in &subscribe.left_since_read {
            if let Some(start) = starts.start_position_of(*conversation) {
                outbox.resume_from(*conversation, start, *leave);
                left.push((*conversation, *leave));
            }
        }
        for (conversation, start, until) in &subscribe.former {
            outbox.resume_from(*conversation, *start, *until);
        }
        self.end_attach(session, user);
        if let Some(name) = self.presence.session_became_live(&self.registry, user) {
            self.attendees.arrive(name);
        }
        left
    }

    /// The conversations of a user in which events can have been published after the event at which a session starts. If that event
    /// is the head on a page, only conversations with an event since the session began to attach are among them.
    fn conversations_published_since(
        &self,
        user: UserSlot,
        starts: &StartPositions<'_>,
    ) -> Vec<ConversationKey> {
        let conversations = self.registry.user(user).map_or(&[][..], |local| &local.conversations);
        if conversations.len() <= self.recent.len() {
            return conversations.to_vec();
        }
        let mut since: Vec<_> =
            self.recent.conversations().chain(starts.conversations_without_page()).collect();
        since.sort_unstable();
        since.dedup();
        since.retain(|conversation| conversations.binary_search(conversation).is_ok());
        since
    }
}

/// For each conversation, the event after which a session starts to receive.
struct StartPositions<'a> {
    heads: &'a PageHeads,
    gone: &'a [(ConversationKey, Seq)],
    /// The starts that come from the client's cursors and from the summaries sent to it.
    named: FxHashMap<ConversationKey, Seq>,
    /// For conversations that the user joined while the session was attaching: the last event that the user had seen before.
    seen_before_join: FxHashMap<ConversationKey, Seq>,
}

impl<'a> StartPositions<'a> {
    fn new(subscribe: &'a Subscription, changes: &[MembershipChange]) -> Self {
        let mut named: FxHashMap<_, _> = subscribe.listed.iter().copied().collect();
        for (conversation, told) in &subscribe.left_conversations {
            named.entry(*conversation).and_modify(|start| *start = (*start).min(*told));
        }
        named.extend(subscribe.cursors.iter().copied());
        named.extend(subscribe.former.iter().map(|(conversation, start, _)| (*conversation, *start)));
        let mut seen_before_join = FxHashMap::default();
        for change in changes {
            // This node may have read the log again from an earlier event, so a join before a leave that the session knows is
            // outdated.
            if let Some(before) = change.last_seen_event()
                && known_leave(&subscribe.left_conversations, change.conversation)
                    .is_none_or(|leave| leave < change.seq)
            {
                seen_before_join.entry(change.conversation).or_insert(before);
            }
        }
        Self { heads: &subscribe.heads, gone: &subscribe.left_conversations, named, seen_before_join }
    }

    fn start_position_of(&self, conversation: ConversationKey) -> Option<Seq> {
        if let Some(start) = self.named.get(&conversation) {
            return Some(*start);
        }
        // The user may have joined again between the check of the cursors and the page.
        let told = known_leave(self.gone, conversation).unwrap_or(Seq::MAX);
        let known =
            self.heads.get(conversation).or_else(|| self.seen_before_join.get(&conversation).copied());
        known.map(|start| start.min(told))
    }

    /// The conversations whose start does not come from a page.
    fn conversations_without_page(&self) -> impl Iterator<Item = ConversationKey> {
        let gone = self.gone.iter().map(|(conversation, _)| conversation);
        self.named.keys().chain(self.seen_before_join.keys()).chain(gone).copied()
    }
}

/// The event by which the user left a conversation, if the conversation is in `gone`.
fn known_leave(gone: &[(ConversationKey, Seq)], conversation: ConversationKey) -> Option<Seq> {
    gone.iter().find(|gone| gone.0 == conversation).map(|gone| gone.1)
}

/// The `retry_after` for a user with too many connections, in milliseconds. A dead connection is closed after about forty seconds
/// at most, or after five minutes if frames wait to be written to it; most are closed sooner.
const TOO_MANY_RETRY_MS: u64 = 5_000;

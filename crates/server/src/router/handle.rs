//! The handle to the router, by which sessions and requests send it their inputs.

use std::sync::Arc;

use switchboard_protocol::{ConversationId, Signal, UserId};
use tokio::sync::{mpsc, oneshot};

use super::attach::LoadRequest;
use super::parked::LeftConversations;
use super::registry::SessionSlot;
use super::{Input, OnlineMembers, Subscription};
use crate::outbox::Outbox;
use switchboard_store::ban::Ban;
use switchboard_store::record::ConversationKey;
use switchboard_store::refusal::Refusal;
use switchboard_store::rename::RenamedConversations;
use switchboard_store::{Memberships, PresencePeer, WriteAccess};

/// A handle to the router. The router ends when all clones are dropped.
#[derive(Debug, Clone)]
pub(crate) struct RouterHandle {
    inputs: mpsc::Sender<Input>,
}

impl RouterHandle {
    pub(super) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs }
    }

    async fn send(&self, input: Input) -> Result<(), Refusal> {
        self.inputs.send(input).await.map_err(|_| Refusal::unavailable())
    }

    /// Registers a session of `user`, which must call [`Self::leave`] in the end.
    pub(crate) async fn enter(&self, user: UserId, outbox: Arc<Outbox>) -> Result<SessionSlot, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Enter { user, outbox, reply }).await?;
        answer.await.unwrap_or_else(|_| Err(Refusal::unavailable()))
    }

    /// Adds the user of an attaching session to the members of the conversations on a page, once every batch that the page can
    /// contain has been published. Returns the conversations that the user has left since the page was read.
    pub(crate) async fn load(
        &self,
        session: SessionSlot,
        page: Memberships,
    ) -> Result<LeftConversations, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Load(Box::new(LoadRequest { session, page, reply }))).await?;
        answer.await.map_err(|_| Refusal::unavailable())
    }

    /// Makes a session live: from then on it receives events as they are published.
    pub(crate) async fn subscribe(&self, subscribe: Subscription) -> Result<(), Refusal> {
        self.send(Input::Subscribe(Box::new(subscribe))).await
    }

    /// Removes a session from the registry.
    pub(crate) async fn leave(&self, session: SessionSlot) {
        // If the router has ended, its registry is gone too.
        let _ = self.send(Input::Leave(session)).await;
    }

    /// Signals to the other members that `user` is typing. Dropped when the queue of the router is full.
    pub(crate) fn typing(
        &self,
        user: UserId,
        conversation: ConversationId,
        standing: WriteAccess,
        from: Option<Arc<Outbox>>,
    ) {
        let _ = self.inputs.try_send(Input::Typing { user, conversation, standing, from });
    }

    /// Replaces the list of users that a session watches.
    pub(crate) fn watch(&self, session: SessionSlot, users: Vec<PresencePeer>) -> Result<(), Refusal> {
        self.inputs.try_send(Input::Watch { session, users }).map_err(|_| Refusal::unavailable())
    }

    /// Adds users, each with the version of the profile that the session has, to those whom a session follows.
    pub(crate) fn follow(&self, session: SessionSlot, users: Vec<(UserId, u64)>) -> Result<(), Refusal> {
        self.inputs.try_send(Input::Follow { session, users }).map_err(|_| Refusal::unavailable())
    }

    /// Closes every connection of `user` because tokens were revoked, including connections that are attaching.
    pub(crate) async fn revoke(&self, user: UserId) {
        // A router that ends closes all connections.
        let _ = self.send(Input::Revoke(user)).await;
    }

    /// Sends a ban to every connection of `user`, including connections that are attaching, and closes them.
    pub(crate) async fn ban(&self, user: UserId, ban: Ban) {
        // A router that ends closes all connections.
        let _ = self.send(Input::Ban(user, ban)).await;
    }

    /// Sends a signal to the connections of `user` alone, on all nodes. A user who is away does not get it.
    pub(crate) async fn notify(&self, user: UserId, notice: Signal) {
        // A router that ends closes all connections.
        let _ = self.send(Input::Notify(user, Box::new(notice))).await;
    }

    /// Closes every connection of a user who has another id, and tells the other members of the user's direct conversations that
    /// these have other ids.
    pub(crate) async fn renamed(&self, user: UserId, to: UserId, conversations: RenamedConversations) {
        // A router that ends closes all connections.
        let _ = self.send(Input::Renamed { user, to, conversations }).await;
    }

    /// How many members of each conversation are connected to this node. If the router has ended, the answer is empty.
    pub(crate) async fn online_members(&self, conversations: Vec<ConversationKey>) -> OnlineMembers {
        let (reply, answer) = oneshot::channel();
        let _ = self.send(Input::Online { conversations, reply }).await;
        answer.await.unwrap_or_default()
    }

    /// The users who are online on this node: those who are connected, or were a moment ago.
    pub(crate) async fn online_users(&self) -> Vec<UserId> {
        let (reply, answer) = oneshot::channel();
        let _ = self.send(Input::OnlineUsers(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// Returns when the router has handled what was queued before, or has ended.
    pub(crate) async fn ping(&self) {
        let (reply, answer) = oneshot::channel();
        let _ = self.send(Input::Ping(reply)).await;
        let _ = answer.await;
    }

    /// Sends `bye` to every connection, and closes each once its answers are written.
    pub(crate) async fn stop(&self) {
        let _ = self.send(Input::Stop).await;
    }
}

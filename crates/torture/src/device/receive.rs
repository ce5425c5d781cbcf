//! How a device checks and applies what the server sends.

use std::time::Duration;
use switchboard_protocol::reply::{Failure, OkBody, Reply, ServerFrame, Summary};
use switchboard_protocol::{
    CommandId, ConversationId, ErrorCode, Event, Seq, Signal, Sync, Timestamp, UserId,
};
use tokio::time::Instant;

use super::progress::{self, MembershipChange, Progress};
use super::{Connection, Device, Disconnect, MAX_JOIN_TIME, PAGE_SIZE, PendingRequest, StoredMessage};
use crate::record::{AckedCommand, Law};

impl Device {
    /// Checks and applies a frame. Returns `true` when the run is over and the device has caught up.
    pub(super) async fn on_frame(
        &mut self,
        connection: &mut Connection,
        frame: ServerFrame,
    ) -> Result<bool, Disconnect> {
        match frame {
            ServerFrame::Event(event) => self.on_event(connection, &event).await?,
            ServerFrame::Signal(Signal::Read { conversation, user, upto }) => {
                self.on_read_signal(&conversation, &user, upto);
            }
            ServerFrame::Signal(_) => {}
            ServerFrame::Reply(Reply::Ok(ok)) => {
                let Some(CommandId::Number(id)) = ok.id else { return Ok(false) };
                let Some((request, _)) = connection.pending.remove(&id) else { return Ok(false) };
                return self.on_ok(connection, request, ok.body).await;
            }
            ServerFrame::Reply(Reply::Pong { id: Some(CommandId::Number(id)) }) => {
                connection.pending.remove(&id);
            }
            ServerFrame::Reply(Reply::Error(failure)) => self.on_error(connection, failure).await?,
            ServerFrame::Reply(Reply::Gap { conversation, after, head }) => {
                self.world.record.lock().counts.gaps += 1;
                if let Some(progress) = self.progress.get_mut(&conversation) {
                    // After a `gap`, the server pushes only events above its head; the device must request the others as pages.
                    let pushed = connection.last_pushed.entry(conversation.clone()).or_insert(after);
                    *pushed = (*pushed).max(head);
                    if progress.cursor < head {
                        self.request_page(connection, conversation).await?;
                    }
                }
            }
            ServerFrame::Reply(_) => {}
        }
        Ok(false)
    }

    /// Checks and applies an event that the server pushed.
    async fn on_event(&mut self, connection: &mut Connection, event: &Event) -> Result<(), Disconnect> {
        let (id, seq) = (&event.conversation, event.seq);
        let before = connection.last_pushed.get(id).or_else(|| connection.started_after.get(id)).copied();
        if before.is_some_and(|before| seq <= before) || connection.own_events.contains(&(id.clone(), seq)) {
            let what =
                format!("{} got {id} {} twice on one connection, or after {before:?}", self.name, seq.0);
            self.breach(Law::Doubled, what, Some((id, seq)));
        }
        connection.last_pushed.insert(id.clone(), seq);
        if !self.progress.contains_key(id) {
            if id.is_room() && !progress::adds_user(event, &self.user) {
                // A user who joins again receives the events since they left, even on a device that was offline while they were a
                // member. Only the whole log shows whether the user had left with the event before this one.
                self.first_received_after.push((id.clone(), Seq(seq.0 - 1)));
            }
            self.progress.insert(id.clone(), Progress::from_first_event(id, seq));
        }
        let in_flight =
            connection.pending.values().filter(|(request, _)| self.may_append_to(request, id)).count() as u64;
        let missing = self.progress.get(id).map_or(0, |progress| progress.count_missing_before(seq));
        let paging = self.progress.get(id).is_some_and(|progress| progress.is_paging);
        if missing > in_flight && !paging {
            let what = format!(
                "{} got {id} {}, but {missing} events before it are missing, and only {in_flight} of its own are in flight",
                self.name, seq.0
            );
            self.breach(Law::SilentGap, what, Some((id, seq)));
            self.request_page(connection, id.clone()).await?;
        }
        if let Some(left) = self.progress.get(id).and_then(|progress| progress.left_with)
            && seq > left
            && !self.world.attempted_join_within(&self.user, id, MAX_JOIN_TIME)
        {
            let what = format!("{} got {id} {} after it left with {}", self.name, seq.0, left.0);
            self.breach(Law::Forbidden, what, Some((id, seq)));
        }
        self.world.record.record_delivery_delay(event, self.node, connection.reading_since);
        self.apply(event);
        Ok(())
    }

    /// Whether this command may have appended an event to the conversation.
    fn may_append_to(&self, request: &PendingRequest, id: &ConversationId) -> bool {
        match request {
            PendingRequest::Write(conversation, _) => conversation == id,
            PendingRequest::Send(key) => self.outbox.iter().any(|o| o.key == *key && o.conversation == *id),
            _ => false,
        }
    }

    /// Applies an event, pushed by the server or read from a page.
    fn apply(&mut self, event: &Event) {
        let adds_user = progress::adds_user(event, &self.user);
        let Some(progress) = self.progress.get_mut(&event.conversation) else { return };
        if progress.apply(event.seq, MembershipChange::of(event, &self.user)) {
            self.world.record.record_received(self.id, event);
        }
        if adds_user {
            self.world.record_join_attempt(&self.user, &event.conversation);
        }
    }

    /// Applies the event of the device's own command, which the device knows only from the `ok`.
    fn apply_own(&mut self, id: &ConversationId, seq: Seq, change: MembershipChange) {
        let start = || Progress::from_first_event(id, seq);
        self.progress.entry(id.clone()).or_insert_with(start).apply(seq, change);
    }

    fn on_read_signal(&self, id: &ConversationId, user: &UserId, upto: Seq) {
        if *user == self.user {
            self.world.record.record_read_cursor(user, id, upto);
        }
    }

    async fn request_page(
        &mut self,
        connection: &mut Connection,
        id: ConversationId,
    ) -> Result<(), Disconnect> {
        let Some(progress) = self.progress.get_mut(&id) else { return Ok(()) };
        if progress.is_paging {
            return Ok(());
        }
        progress.is_paging = true;
        let command =
            Sync { conversation: id.clone().into(), after: progress.cursor, limit: Some(PAGE_SIZE) };
        self.submit(connection, command, PendingRequest::Page(id)).await
    }

    async fn on_ok(
        &mut self,
        connection: &mut Connection,
        request: PendingRequest,
        body: OkBody,
    ) -> Result<bool, Disconnect> {
        match (request, body) {
            (
                PendingRequest::Send(key) | PendingRequest::Retry(key),
                OkBody::Stored { conversation, seq, at, duplicate, .. },
            ) => {
                self.on_ack(connection, &key, (&conversation, seq, at), duplicate);
            }
            (PendingRequest::Conflict(key), OkBody::Stored { seq, .. }) => {
                self.breach(
                    Law::WrongAnswer,
                    format!("another text under the key {key} was stored as {}", seq.0),
                    None,
                );
            }
            (PendingRequest::Write(id, kind), OkBody::Stored { seq, duplicate: false, .. }) => {
                let from = self.user.clone();
                self.world.record.record_command_ack(AckedCommand {
                    conversation: id.clone(),
                    seq,
                    kind,
                    from,
                });
                connection.own_events.insert((id.clone(), seq));
                self.apply_own(&id, seq, MembershipChange::of_kind(kind));
            }
            (PendingRequest::Read(id), OkBody::Cursor { upto, .. }) => {
                self.world.record.record_read_cursor(&self.user, &id, upto);
            }
            (PendingRequest::Page(id), OkBody::Log { events, head, more, .. }) => {
                for event in &events {
                    self.apply(event);
                }
                if let Some(progress) = self.progress.get_mut(&id) {
                    progress.is_paging = false;
                    if more && progress.cursor < head {
                        self.request_page(connection, id).await?;
                    }
                }
            }
            (PendingRequest::Probe(id), body) => {
                self.breach(Law::Forbidden, format!("{} was answered about {id}: {body:?}", self.name), None);
            }
            (PendingRequest::Summaries, OkBody::Conversations { conversations, .. }) => {
                return Ok(self.has_caught_up(&conversations));
            }
            _ => {}
        }
        Ok(false)
    }

    fn on_ack(
        &mut self,
        connection: &mut Connection,
        key: &str,
        position: (&ConversationId, Seq, Timestamp),
        duplicate: bool,
    ) {
        let (conversation, seq, _) = position;
        self.world.record.record_ack(self.id, key, position, duplicate);
        if !self.world.is_open(conversation) {
            // Delays in open rooms are not measured, because a user who was no member for a while may receive events late.
            self.world.record.record_ack_for_delay(self.node, (conversation, seq));
        }
        let Some(index) = self.outbox.iter().position(|outgoing| outgoing.key == key) else { return };
        self.outbox.remove(index);
        if !duplicate {
            connection.own_events.insert((conversation.clone(), seq));
        }
        self.apply_own(conversation, seq, MembershipChange::None);
        if self.stored.len() >= 100 {
            let oldest = self.rng.usize(..self.stored.len());
            self.stored.swap_remove(oldest);
        }
        self.stored.push(StoredMessage { key: key.to_owned(), conversation: conversation.clone(), seq });
    }

    /// Whether the device has every event of the listed conversations. If it does not know one of them yet, the answer is no.
    fn has_caught_up(&self, summaries: &[Summary]) -> bool {
        let is_at_head = |summary: &Summary| {
            self.progress.get(&summary.conversation).is_some_and(|progress| progress.cursor >= summary.head)
        };
        summaries.iter().all(is_at_head)
    }

    async fn on_error(&mut self, connection: &mut Connection, failure: Failure) -> Result<(), Disconnect> {
        if let Some(id) = &failure.conversation {
            let (law, cursor) = (self.progress.get(id))
                .map_or((Law::WrongAnswer, Seq(0)), |progress| (Law::Lost, progress.cursor));
            let what =
                format!("{} sent the cursor {} of {id}: {}", self.name, cursor.0, failure.code.as_str());
            self.breach(law, what, Some((id, cursor)));
            self.progress.remove(id);
            return Ok(());
        }
        let Some(CommandId::Number(id)) = failure.id else { return Ok(()) };
        let Some((request, _)) = connection.pending.remove(&id) else { return Ok(()) };
        let code = failure.code.as_str();
        match request {
            PendingRequest::Send(key) => self.on_send_error(&key, &failure),
            PendingRequest::Retry(key) if !failure.retryable => {
                self.breach(
                    Law::WrongAnswer,
                    format!("a retry of {key} was refused: {code}, {}", failure.message),
                    None,
                );
            }
            PendingRequest::Conflict(_) if !failure.retryable && failure.code != ErrorCode::KeyConflict => {
                self.breach(Law::WrongAnswer, format!("a conflict of keys was answered with {code}"), None);
            }
            PendingRequest::Probe(_) if !failure.retryable && failure.code != ErrorCode::NotFound => {
                self.breach(
                    Law::WrongAnswer,
                    format!("a probe was answered with {code} instead of not_found"),
                    None,
                );
            }
            PendingRequest::Page(id) => {
                if let Some(progress) = self.progress.get_mut(&id) {
                    progress.is_paging = false;
                }
                if failure.retryable {
                    self.request_page(connection, id).await?;
                } else {
                    self.breach(
                        Law::WrongAnswer,
                        format!("a page of {id} was refused: {code}, {}", failure.message),
                        None,
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_send_error(&mut self, key: &str, failure: &Failure) {
        let code = failure.code.as_str();
        if failure.retryable {
            self.world.record.record_refusal(self.id, key, code);
            let wait = Duration::from_millis(failure.retry_after.unwrap_or(500));
            self.hold_until = self.hold_until.max(Instant::now() + wait);
            if let Some(outgoing) = self.outbox.iter_mut().find(|outgoing| outgoing.key == key) {
                outgoing.in_flight = false;
            }
            return;
        }
        let index = self.outbox.iter().position(|outgoing| outgoing.key == key);
        let gone = index.and_then(|index| self.outbox.remove(index));
        let open = gone.is_some_and(|gone| self.world.is_open(&gone.conversation));
        if !(open && failure.code == ErrorCode::NotFound) {
            self.breach(Law::WrongAnswer, format!("{key} was refused: {code}, {}", failure.message), None);
        }
    }
}

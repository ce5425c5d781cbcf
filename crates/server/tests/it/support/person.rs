//! A user on one device, who sends commands and receives frames.

use serde_json::{Value, json};
use switchboard_client::{Client, ClientError};
use switchboard_protocol::reply::{Failure, Member, Message, OkBody, Reply, ServerFrame, Summary, Welcome};
use switchboard_protocol::{
    Command, CommandId, ErrorCode, Event, EventBody, Ping, Seq, Signal, UserId, decode_named,
};

use super::in_time;

/// A user's connection, after `welcome`.
pub(crate) struct Person {
    pub(crate) client: Client,
    pub(crate) welcome: Welcome,
}

/// The server's answer to a command that stored an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredEvent {
    pub(crate) conversation: String,
    pub(crate) seq: u64,
    pub(crate) duplicate: bool,
}

impl Person {
    pub(crate) fn new(client: Client, welcome: Welcome) -> Self {
        Self { client, welcome }
    }

    pub(crate) fn name(&self) -> &UserId {
        &self.welcome.user
    }

    /// Sends a command and returns the server's answer.
    pub(crate) async fn tries(&mut self, name: &str, fields: Value) -> Result<OkBody, Failure> {
        match in_time(name, self.client.call(command(name, &fields))).await {
            Ok(body) => Ok(body),
            Err(ClientError::Refused(failure)) => Err(*failure),
            Err(other) => panic!("{} sends {name} {fields}: {other}", self.name()),
        }
    }

    /// Sends a command, which must succeed.
    pub(crate) async fn does(&mut self, name: &str, fields: Value) -> OkBody {
        let sent = fields.to_string();
        match self.tries(name, fields).await {
            Ok(body) => body,
            Err(failure) => panic!("{} may not {name} {sent}: {failure:?}", self.name()),
        }
    }

    /// Sends a command, which must store an event.
    pub(crate) async fn stores(&mut self, name: &str, fields: Value) -> StoredEvent {
        stored(self.does(name, fields).await)
    }

    /// Sends a command, which must be refused, and returns the error code.
    pub(crate) async fn is_refused(&mut self, name: &str, fields: Value) -> ErrorCode {
        let sent = fields.to_string();
        match self.tries(name, fields).await {
            Err(failure) => failure.code,
            Ok(body) => panic!("{} may {name} {sent}: {body:?}", self.name()),
        }
    }

    /// Sends a message, waits until it is stored and returns its seq.
    pub(crate) async fn says(&mut self, to: &str, text: &str) -> u64 {
        self.stores("send", json!({"to": to, "text": text})).await.seq
    }

    /// Sends a message with an idempotency key.
    pub(crate) async fn says_with_key(&mut self, to: &str, key: &str, text: &str) -> StoredEvent {
        self.stores("send", json!({"to": to, "key": key, "text": text})).await
    }

    /// Creates a private room.
    pub(crate) async fn makes_room(&mut self, room: &str, members: &[&str]) {
        self.does("create", json!({"room": room, "members": members})).await;
    }

    /// Creates a public room.
    pub(crate) async fn makes_public_room(&mut self, room: &str, members: &[&str]) {
        self.does("create", json!({"room": room, "members": members, "public": true})).await;
    }

    /// Sends a command and returns its id without waiting; the answer is among the next frames.
    pub(crate) async fn submits(&mut self, name: &str, fields: Value) -> i64 {
        self.client.submit(command(name, &fields)).await.expect("sent")
    }

    /// Receives the next frame, of any kind.
    pub(crate) async fn next(&mut self) -> ServerFrame {
        let what = format!("a frame for {}", self.name());
        match in_time(&what, self.client.next()).await {
            Some(Ok(frame)) => frame,
            other => {
                panic!("{} receives no frame but {other:?}, {:?}", self.name(), self.client.close_code())
            }
        }
    }

    /// Receives the next frame, which must be an event.
    pub(crate) async fn receives_event(&mut self) -> Event {
        match self.next().await {
            ServerFrame::Event(event) => event,
            other => panic!("{} receives no event but {other:?}", self.name()),
        }
    }

    /// Receives the next frame, which must be a message with this text.
    pub(crate) async fn receives_message(&mut self, text: &str) -> Event {
        let event = self.receives_event().await;
        assert_eq!(text_of(&event), Some(text), "{} receives {event:?}", self.name());
        event
    }

    /// Receives the next frame, which must be a signal.
    pub(crate) async fn receives_signal(&mut self) -> Signal {
        match self.next().await {
            ServerFrame::Signal(signal) => signal,
            other => panic!("{} receives no signal but {other:?}", self.name()),
        }
    }

    /// Receives the next frame, which must be a reply.
    pub(crate) async fn receives_reply(&mut self) -> Reply {
        match self.next().await {
            ServerFrame::Reply(reply) => reply,
            other => panic!("{} receives no reply but {other:?}", self.name()),
        }
    }

    /// Asserts that no frame has arrived: sends a ping, whose answer must be the next frame.
    pub(crate) async fn receives_nothing(&mut self) {
        let id = self.client.submit(Ping {}).await.expect("sent");
        let pong = self.receives_reply().await;
        assert_eq!(pong, Reply::Pong { id: Some(CommandId::Number(id)) }, "{}", self.name());
    }

    /// Reads until the server closes the connection and returns the close code.
    pub(crate) async fn is_closed(&mut self) -> Option<u16> {
        in_time("the end of the connection", async { while self.client.next().await.is_some() {} }).await;
        self.client.close_code()
    }

    /// The log of a conversation after the event `after`, read page by page.
    pub(crate) async fn log_after(&mut self, conversation: &str, after: u64) -> Vec<Event> {
        let (mut log, mut cursor) = (Vec::new(), Seq(after));
        loop {
            let page = self.does("sync", json!({"conversation": conversation, "after": cursor})).await;
            let OkBody::Log { events, more, .. } = page else { panic!("no log but {page:?}") };
            cursor = events.last().map_or(cursor, |event| event.seq);
            log.extend(events);
            if !more {
                return log;
            }
        }
    }

    /// The whole log of a conversation.
    pub(crate) async fn log(&mut self, conversation: &str) -> Vec<Event> {
        self.log_after(conversation, 0).await
    }

    /// The latest messages of a conversation in their current state.
    pub(crate) async fn history(&mut self, conversation: &str) -> Vec<Message> {
        let page = self.does("history", json!({"conversation": conversation, "limit": 200})).await;
        let OkBody::History { messages, .. } = page else { panic!("no history but {page:?}") };
        messages
    }

    /// The message with this seq, in its current state.
    pub(crate) async fn message_in_history(&mut self, conversation: &str, seq: u64) -> Message {
        let messages = self.history(conversation).await;
        messages.into_iter().find(|message| message.seq == Seq(seq)).expect("the message")
    }

    /// The members of a conversation.
    pub(crate) async fn members(&mut self, conversation: &str) -> Vec<Member> {
        let page = self.does("members", json!({"conversation": conversation})).await;
        let OkBody::Members { members, .. } = page else { panic!("no members but {page:?}") };
        members
    }

    /// The conversations of the user, latest activity first.
    pub(crate) async fn conversations(&mut self) -> Vec<Summary> {
        let page = self.does("conversations", json!({"limit": 200})).await;
        let OkBody::Conversations { conversations, .. } = page else { panic!("none but {page:?}") };
        conversations
    }

    /// The summary that the user gets of a conversation.
    pub(crate) async fn summary(&mut self, conversation: &str) -> Summary {
        let all = self.conversations().await;
        all.into_iter().find(|summary| summary.conversation.as_str() == conversation).expect("the summary")
    }
}

/// Builds a command from its name and its fields.
pub(crate) fn command(name: &str, fields: &Value) -> Command {
    let decoded = decode_named(name, &fields.to_string());
    decoded.unwrap_or_else(|error| panic!("{name} {fields}: {error:?}")).command
}

/// Converts the server's answer to a command that stored an event.
pub(crate) fn stored(body: OkBody) -> StoredEvent {
    match body {
        OkBody::Stored { conversation, seq, duplicate, .. } => {
            StoredEvent { conversation: conversation.to_string(), seq: seq.0, duplicate }
        }
        other => panic!("nothing was stored: {other:?}"),
    }
}

/// The text of an event that is a message; `None` for other events.
pub(crate) fn text_of(event: &Event) -> Option<&str> {
    match &event.body {
        EventBody::Message { text, .. } => text.as_ref().map(switchboard_protocol::Text::as_str),
        _ => None,
    }
}

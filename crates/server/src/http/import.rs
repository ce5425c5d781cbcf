//! `POST /v1/import`: a back end stores the history of another system, a JSON object a line.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;
use switchboard_protocol::{
    ConversationId, Data, Emoji, ErrorCode, Key, Limits, Target, Text, Timestamp, Title, UserId, read_object,
};
use tokio::time::Instant;

use super::api::{Answer, Authenticated, authenticate};
use super::body::{self, BodyType};
use super::call::store_for_back_end;
use super::problem::Problem;
use super::respond::respond;
use crate::in_flight::Permit;
use crate::services::Services;
use switchboard_store::Change;
use switchboard_store::grant::Scope;
use switchboard_store::record::Via;
use switchboard_store::refusal::Refusal;
use switchboard_store::request::{
    ImportLine, ImportRecord, ImportedMessage, ImportedReaction, ImportedRead, ImportedRoom, MessageReference,
};

/// The longest pause after a call, in which the writer is left to others.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// A line of `import`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what is read in two steps")]
pub(super) enum Line {
    Create(CreateLine),
    Message(MessageLine),
    React(ReactLine),
    Read(ReadLine),
}

/// A room was created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateLine {
    /// The room.
    create: ConversationId,
    /// When it was created: not in the future.
    at: Timestamp,
    /// The creator, who becomes its admin.
    from: UserId,
    /// Its title.
    title: Option<Title>,
    /// Whether any user may join.
    #[serde(default)]
    public: bool,
    /// Its first members besides the creator.
    #[serde(default)]
    members: Vec<UserId>,
}

/// A message was sent. Its author becomes a member of the room where they are none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageLine {
    /// The conversation.
    to: Target,
    /// The author.
    from: UserId,
    /// When it was sent: not before the conversation's last event, and not in the future.
    at: Timestamp,
    /// The key: a message is stored once for each author and key.
    key: Key,
    /// The text for people.
    text: Option<Text>,
    /// The data for the application.
    data: Option<Data>,
    /// The message that it answers.
    reply_to: Option<Reference>,
}

/// A user reacted to a message.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReactLine {
    /// The reaction.
    react: Emoji,
    /// The conversation.
    to: Target,
    /// The user who reacted.
    from: UserId,
    /// When: not before the conversation's last event, and not in the future.
    at: Timestamp,
    /// The message.
    target: Reference,
}

/// A user has read up to a message, and not further. Without such a line, members have read what is imported.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadLine {
    /// The conversation.
    read: Target,
    /// The user.
    from: UserId,
    /// The last message that the user has read.
    upto: Reference,
}

/// A message, by its author and its key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Reference {
    /// The author.
    from: UserId,
    /// The key.
    key: Key,
}

impl From<Reference> for MessageReference {
    fn from(Reference { from, key }: Reference) -> Self {
        Self { from, key }
    }
}

/// The fields by which a line's kind is known.
#[derive(Deserialize)]
struct KindFields {
    create: Option<IgnoredAny>,
    react: Option<IgnoredAny>,
    read: Option<IgnoredAny>,
}

/// Answers once all lines are on stable storage.
pub(super) async fn import(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = answer(&services, &parts, &mut body).await;
    respond(&services, &parts, body, answered)
}

async fn answer(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<(Answer, Option<Permit>), Problem> {
    let max_bytes = services.limits.bulk as usize;
    let request = authenticate(services, head).await?;
    request.check_back_end(Scope::Admin)?;
    request.check_unlimited()?;
    body::check_head_of(&head.headers, BodyType::JsonLines, max_bytes)?;
    let Authenticated { credentials, grant, address, permit, .. } = request;
    let _bulk = services.bulk_calls.begin(credentials.payer(), Limits::MAX_CONCURRENT_BULK_CALLS)?;
    let bytes = body::read_bytes(body, max_bytes, services.tasks.stop()).await?;
    let lines = read_lines(&bytes, &services.limits)?;
    drop(bytes);
    let Ok(actor) = UserId::parse("key") else { return Err(Refusal::unavailable().into()) };
    let via = grant.map_or(Via::USER, |grant| grant.number);
    let turn = services.import_turn.acquire().await.map_err(|_| Refusal::unavailable())?;
    let began = Instant::now();
    let change = Change::Import(Arc::new(lines));
    let answer = store_for_back_end(services, actor, change, (via, address)).await?;
    // The writer is left to others for as long as the import took, which is longer while others write much.
    tokio::time::sleep(began.elapsed().min(MAX_PAUSE)).await;
    drop(turn);
    Ok((answer, permit))
}

/// Reads the lines of a body. Empty lines are passed over.
///
/// # Errors
/// There are too many lines, or one is not valid: the refusal names it.
pub(crate) fn read_lines(bytes: &[u8], limits: &Limits) -> Result<Vec<ImportLine>, Refusal> {
    let mut lines = Vec::new();
    for (number, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        if lines.len() == Limits::IMPORT_LINES {
            let message = format!("at most {} lines at a time; send the rest next", Limits::IMPORT_LINES);
            return Err(Refusal::new(ErrorCode::TooLarge, message).at_line(number));
        }
        let record = read_line(bytes, limits).map_err(|refusal| refusal.at_line(number))?;
        lines.push(ImportLine { number, record });
    }
    Ok(lines)
}

fn read_line(bytes: &[u8], limits: &Limits) -> Result<ImportRecord, Refusal> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Refusal::new(ErrorCode::BadFrame, "the line is not in UTF-8"))?;
    let KindFields { create, react, read } = read_object(text)?;
    let record = if create.is_some() {
        let CreateLine { create: room, at, from, title, public, members } = read_object(text)?;
        ImportRecord::Create(ImportedRoom { room, at, from, title, public, members })
    } else if react.is_some() {
        let ReactLine { react, to, from, at, target } = read_object(text)?;
        ImportRecord::Reaction(ImportedReaction { to, from, at, react, target: target.into() })
    } else if read.is_some() {
        let ReadLine { read, from, upto } = read_object(text)?;
        ImportRecord::Read(ImportedRead { read, from, upto: upto.into() })
    } else {
        let MessageLine { to, from, at, key, text, data, reply_to } = read_object(text)?;
        let reply_to = reply_to.map(Into::into);
        ImportRecord::Message(ImportedMessage { to, from, at, key, text, data, reply_to })
    };
    record.check(limits)?;
    Ok(record)
}

//! `/v1/feed`: what is committed, in one order, for back ends. A `POST` answers with a page, and waits for one if there is
//! none; a `GET` with `accept: text/event-stream` sends page after page.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_protocol::{ErrorCode, Event, Limits, Timestamp, UserId, read_object};
use tokio::sync::watch;
use tokio::time::Instant;

use super::api::{Authenticated, authenticate, authenticate_again, read_authenticated};
use super::problem::Problem;
use super::respond::{refuse, respond_with_json};
use crate::denial::{Denial, Denied};
use crate::in_flight::Permit;
use crate::services::Services;
use crate::timers::millis;
use switchboard_store::Change;
use switchboard_store::feed::{FeedCursor, FeedPage, FeedQuery};
use switchboard_store::grant::{KeyGrant, Scope};
use switchboard_store::refusal::Refusal;

/// How often a waiting call has entries of other processes numbered, such as those of `switchboard key`.
const NUMBERING_INTERVAL: Duration = Duration::from_secs(1);

/// How often a stream without entries sends its position, so that it does not start from an old one again.
const POSITION_INTERVAL: Duration = Duration::from_secs(15);

/// `feed`: a page of the feed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Feed {
    /// The `next` of the page before, or an entry's `id`; `"0"` for the beginning, `"now"` for the end.
    after: String,
    /// The most entries.
    #[serde(default = "most_entries")]
    limit: u32,
    /// How many milliseconds to wait for an entry if there is none.
    #[serde(default)]
    wait: u64,
    /// The types of entries; all, if there is no such field.
    #[serde(default)]
    types: Vec<String>,
}

fn most_entries() -> u32 {
    Limits::FEED_PAGE
}

/// The query of a stream.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Streamed {
    after: Option<String>,
    /// Types, separated by commas.
    types: Option<String>,
}

/// A page of the feed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Page {
    /// Always `ok`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The entries, oldest first. There may be none although there are more, where `types` left all of them out.
    #[schemars(with = "Vec<Entry>")]
    entries: Vec<Box<RawValue>>,
    /// The `after` of the next page.
    next: String,
    /// Whether there is more already.
    more: bool,
}

/// An entry of the feed. Types with a dot have further fields.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it describes what the store encodes")]
pub(super) struct Entry {
    /// The entry's id, which is a cursor: letters, digits and `-`. It is the same whenever the entry is read.
    id: String,
    /// The type of its event; with a dot, what is no event.
    #[serde(rename = "type")]
    kind: String,
    /// When it happened.
    at: Timestamp,
    /// The API key that made it, or `cli`.
    via: Option<String>,
    /// The address of the back end that made it. Only with the scope `admin`.
    address: Option<String>,
    /// True if an import made it. Webhooks leave it out unless they were added with `imported`.
    imported: Option<bool>,
    /// The user whom it is about.
    user: Option<UserId>,
    /// The event as it is in the log now: without content if it was deleted since.
    event: Option<Event>,
}

/// Answers with a page of the feed.
pub(super) async fn page(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = answer(&services, &parts, &mut body).await;
    respond_with_json(&services, &parts, body, answered)
}

async fn answer(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<(Page, Option<Permit>), Problem> {
    let request = read_authenticated(services, head, body).await?;
    request.check_back_end(Scope::Feed)?;
    let Feed { after, limit, wait, types } = read_object(&request.text).map_err(Refusal::from)?;
    if !(1..=Limits::FEED_PAGE).contains(&limit) {
        let message = format!("limit: 1 to {}", Limits::FEED_PAGE);
        return Err(Refusal::bad_field("limit", message).into());
    }
    if wait > Limits::FEED_WAIT {
        let message =
            format!("wait: at most {} milliseconds, because proxies cut at 30 s", Limits::FEED_WAIT);
        return Err(Refusal::bad_field("wait", message).into());
    }
    let query = query(request.grant.as_ref(), &after, limit, types)?;
    let _waiting = begin_waiting(services, &request, wait > 0)?;
    let mut reading = Reading::new(services, query);
    let began = Instant::now();
    let until = began + Duration::from_millis(wait);
    let page = loop {
        let page = reading.read(services).await?;
        if !page.entries.is_empty() || page.more || !reading.wait(services, until).await {
            break page;
        }
    };
    // The key may have been revoked, or may have expired, while the call waited.
    if wait > 0 {
        authenticate_again(services, head).await?;
    }
    let next = FeedPage::cursor(&page.epoch, page.next);
    Ok((Page { kind: "ok", entries: page.entries, next, more: page.more }, request.permit))
}

/// Streams the feed as server-sent events (html.spec.whatwg.org/multipage/server-sent-events.html).
pub(super) async fn stream(
    State(services): State<Arc<Services>>,
    streamed: Result<Query<Streamed>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let opened = open(&services, streamed.ok().map(|Query(streamed)| streamed), &parts).await;
    match opened {
        Ok((query, waiting)) => {
            let reading = Reading::new(&services, query);
            let stream =
                Stream { services, head: parts, reading, _waiting: waiting, checked: Instant::now() };
            let frames = stream::unfold(stream, |mut stream| async {
                stream.next().await.map(|frame| (Ok::<_, std::convert::Infallible>(frame), stream))
            });
            let kind = HeaderValue::from_static("text/event-stream");
            ([(header::CONTENT_TYPE, kind)], Body::from_stream(frames)).into_response()
        }
        Err(problem) => refuse(&services, &parts, problem),
    }
}

async fn open(
    services: &Services,
    streamed: Option<Streamed>,
    head: &Parts,
) -> Result<(FeedQuery, Option<Permit>), Problem> {
    let request = authenticate(services, head).await?;
    request.check_back_end(Scope::Feed)?;
    let accepts = head.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if !accepts.is_some_and(|accept| accept.contains("text/event-stream")) {
        let message = "send `accept: text/event-stream` for a stream, or POST for a page";
        return Err(Refusal::bad_field("accept", message).into());
    }
    let Some(Streamed { after, types }) = streamed else {
        return Err(Refusal::bad_field("after", "the query of a stream has `after` and `types`").into());
    };
    let last = head.headers.get("last-event-id").and_then(|last| last.to_str().ok());
    let after = last.map(str::to_owned).or(after).unwrap_or_else(|| "now".to_owned());
    let types = types.iter().flat_map(|types| types.split(',')).map(str::to_owned).collect();
    let query = query(request.grant.as_ref(), &after, Limits::FEED_PAGE, types)?;
    // A cursor that the feed does not have is an answer and not a stream.
    let probe = FeedQuery { limit: 1, ..query.clone() };
    services.store.feed(probe).await?;
    let waiting = begin_waiting(services, &request, true)?;
    Ok((query, waiting))
}

/// Checks what a call asks for.
fn query(grant: Option<&KeyGrant>, after: &str, limit: u32, types: Vec<String>) -> Result<FeedQuery, Denied> {
    let Some(after) = FeedCursor::parse(after) else {
        let message = "after: the `next` of a page, an entry's `id`, \"0\" or \"now\"";
        return Err(Refusal::new(ErrorCode::BadCursor, message).into());
    };
    if types.len() > Limits::FEED_TYPES {
        let message = format!("types: at most {} at a time", Limits::FEED_TYPES);
        return Err(Refusal::too_large("types", message).into());
    }
    let is_admin = grant.is_none_or(|grant| grant.scopes.allow(Scope::Admin));
    if !is_admin && types.iter().any(|kind| kind.starts_with("audit.")) {
        return Err(Denied::new(Denial::NotPermitted, Refusal::out_of_scope(Scope::Admin)));
    }
    Ok(FeedQuery {
        after,
        limit,
        types,
        acts_as: grant.and_then(|grant| grant.acts_as.clone()),
        no_text: grant.is_some_and(|grant| grant.no_text),
        is_admin,
        part: None,
        skips_imported: false,
    })
}

/// Counts a call that waits, of which a key may have a few.
fn begin_waiting(
    services: &Services,
    request: &Authenticated,
    waits: bool,
) -> Result<Option<Permit>, Refusal> {
    let payer = request.credentials.payer();
    waits.then(|| services.feed_waits.begin(payer, Limits::FEED_WAITING)).transpose()
}

/// A place in the feed from which a call reads on.
struct Reading {
    query: FeedQuery,
    news: watch::Receiver<u64>,
}

impl Reading {
    fn new(services: &Services, query: FeedQuery) -> Self {
        Self { query, news: services.store.feed_news() }
    }

    /// The next page. What it passes over is not read again.
    async fn read(&mut self, services: &Services) -> Result<FeedPage, Refusal> {
        self.news.mark_unchanged();
        let page = services.store.feed(self.query.clone()).await?;
        self.query.after = FeedCursor::After { epoch: page.epoch.clone(), number: page.next };
        Ok(page)
    }

    /// Waits for new entries. Returns `false` at `until`, and when the server stops.
    async fn wait(&mut self, services: &Services, until: Instant) -> bool {
        loop {
            let now = Instant::now();
            if now >= until {
                return false;
            }
            tokio::select! {
                biased;
                () = services.tasks.stop().cancelled() => return false,
                changed = self.news.changed() => return changed.is_ok(),
                () = tokio::time::sleep_until(until.min(now + NUMBERING_INTERVAL)) => number_pending(services),
            }
        }
    }
}

/// Has the entries removed that are older than the configuration keeps them. Called every minute.
pub(crate) fn trim(services: &Services) {
    let keep = millis(services.feed_keep);
    if keep > 0 {
        let before = Timestamp::from_millis(services.clock.now().as_millis().saturating_sub(keep));
        services.store.submit_unanswered(Change::TrimFeed(before));
    }
}

/// Has entries numbered that other processes have written. If the store is busy, it does so by itself.
fn number_pending(services: &Services) {
    services.store.submit_unanswered(Change::NumberPending);
}

/// A stream of the feed.
struct Stream {
    services: Arc<Services>,
    head: Parts,
    reading: Reading,
    _waiting: Option<Permit>,
    /// When the key was checked last.
    checked: Instant,
}

impl Stream {
    /// The next bytes; `None` at the end: the server stops, the key is no longer good, or the store does not answer. The client
    /// then connects again, with the id of the last entry that it has.
    async fn next(&mut self) -> Option<Bytes> {
        if self.services.tasks.stop().is_cancelled() {
            return None;
        }
        if self.checked.elapsed() >= NUMBERING_INTERVAL {
            authenticate_again(&self.services, &self.head).await.ok()?;
            self.checked = Instant::now();
        }
        let until = Instant::now() + POSITION_INTERVAL;
        let page = loop {
            let page = self.reading.read(&self.services).await.ok()?;
            if !page.entries.is_empty() || page.more || !self.reading.wait(&self.services, until).await {
                break page;
            }
            authenticate_again(&self.services, &self.head).await.ok()?;
        };
        let mut frames = String::new();
        for entry in &page.entries {
            frames.push_str(&frame(entry));
        }
        // An id without data is no event, and moves the position.
        frames.push_str(&format!("id: {}\n\n", FeedPage::cursor(&page.epoch, page.next)));
        Some(frames.into())
    }
}

/// An entry as a server-sent event of the default type, because a client of the browser hears no type that it does not know.
fn frame(entry: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let id = serde_json::from_str::<Id>(entry.get()).map(|entry| entry.id).unwrap_or_default();
    format!("id: {id}\ndata: {}\n\n", entry.get())
}

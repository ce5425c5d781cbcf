//! Fuzz target: sends HTTP requests through the server's real routes.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::Value;
use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{Command, ConversationId, ErrorCode, Limits, Seq, Timestamp, UserId, UserUnread};
use tower::ServiceExt as _;

use crate::auth::Authenticator;
use crate::config::{Config, Mode};
use crate::connections::Connections;
use crate::denial::Denials;
use crate::health::Health;
use crate::limiter::Limiter;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::router;
use crate::services::{ClientLogThrottles, Services};
use crate::tasks::Tasks;
use crate::throttle::NameBudget;
use switchboard_store::absences::{MissedPage, MissedQuery};
use switchboard_store::ban::Standing;
use switchboard_store::clock::Clock;
use switchboard_store::feed::{FeedPage, FeedQuery};
use switchboard_store::listing::{
    BanListing, ListBans, ListRooms, ListUsers, ReportListing, RoomListing, UserListing,
};
use switchboard_store::profile::{Directory, LastToken, People, PeopleQuery};
use switchboard_store::record::{Answer, ConversationKey, ReadEvent, UserKey};
use switchboard_store::refusal::Refusal;
use switchboard_store::report::{ListReports, UndecidedReports};
use switchboard_store::write_fault::WriteFault;
use switchboard_store::{
    Memberships, PresencePeer, Query, SharedStore, Snapshot, Store, Submission, Summaries, WriteAccess,
};

/// A store that answers every query with an error, so that a request exercises only the code before the store.
#[derive(Debug)]
struct UnavailableStore;

fn unavailable<T: Send + 'static>() -> Answer<T> {
    Box::pin(std::future::ready(Err(Refusal::unavailable())))
}

impl Store for UnavailableStore {
    fn submit(&self, submission: Submission) -> Result<(), Box<Submission>> {
        Err(Box::new(submission))
    }
    fn query(&self, _: &UserId, _: Query) -> Answer<OkBody<Box<RawValue>>> {
        unavailable()
    }
    fn attach(&self, _: &UserId, _: Vec<ConversationId>) -> Answer<Option<Snapshot>> {
        unavailable()
    }
    fn memberships(&self, _: &UserId, _: UserKey, _: ConversationKey) -> Answer<Memberships> {
        unavailable()
    }
    fn summaries(&self, _: &UserId, _: UserKey, _: Vec<ConversationKey>) -> Answer<Summaries> {
        unavailable()
    }
    fn replay(&self, _: UserKey, _: ConversationKey, _: Seq, _: Seq) -> Answer<Vec<ReadEvent>> {
        unavailable()
    }
    fn check_write_access(&self, _: &UserId, _: ConversationId) -> Answer<WriteAccess> {
        unavailable()
    }
    fn presence_peers(&self, _: &UserId, _: Vec<UserId>) -> Answer<Vec<PresencePeer>> {
        unavailable()
    }
    fn people(&self, _: &UserId, _: PeopleQuery, _: Directory) -> Answer<People> {
        unavailable()
    }
    fn last_token(&self, _: &UserId) -> Answer<Option<LastToken>> {
        unavailable()
    }
    fn list_reports(&self, _: ListReports) -> Answer<ReportListing> {
        unavailable()
    }
    fn undecided_reports(&self) -> Answer<UndecidedReports> {
        unavailable()
    }
    fn moderator_history(&self, _: ConversationId, _: Seq) -> Answer<OkBody<Box<RawValue>>> {
        unavailable()
    }
    fn list_bans(&self, _: ListBans) -> Answer<BanListing> {
        unavailable()
    }
    fn standing(&self, _: &UserId) -> Answer<Standing> {
        unavailable()
    }
    fn api_key(&self, _: [u8; 32]) -> Answer<Option<switchboard_store::grant::KeyGrant>> {
        unavailable()
    }
    fn list_users(&self, _: ListUsers) -> Answer<UserListing> {
        unavailable()
    }
    fn list_rooms(&self, _: ListRooms) -> Answer<RoomListing> {
        unavailable()
    }
    fn unread(&self, _: Vec<UserId>) -> Answer<Vec<UserUnread>> {
        unavailable()
    }
    fn feed(&self, _: FeedQuery) -> Answer<FeedPage> {
        unavailable()
    }
    fn feed_news(&self) -> tokio::sync::watch::Receiver<u64> {
        tokio::sync::watch::Sender::new(0).subscribe()
    }
    fn missed(&self, _: MissedQuery) -> Answer<MissedPage> {
        unavailable()
    }
    fn probe(&self) -> Answer<()> {
        unavailable()
    }
    fn write_fault(&self) -> Option<WriteFault> {
        Some(WriteFault::WriterEnded)
    }
}

/// The routes of a server without a store or router behind them.
struct HttpServer {
    runtime: tokio::runtime::Runtime,
    routes: axum::Router,
}

impl HttpServer {
    fn new() -> Self {
        let config = Config::for_dev("nowhere".into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (store, metrics): (SharedStore, _) = (Arc::new(UnavailableStore), Arc::new(Metrics::new()));
        let limits = Arc::new(Limits { frame: 4_096, ..Limits::default().without_rates() });
        let clock = Clock::from_fn(|| Timestamp::from_millis(1_000));
        // The router never runs, because no request reaches it.
        let (handle, _router) = router::new(router::RouterParts {
            store: store.clone(),
            batches: tokio::sync::mpsc::channel(1).1,
            metrics: metrics.clone(),
            clock: clock.clone(),
            limits: limits.clone(),
            grace: config.presence_grace,
            reconnect_spread_ms: 0,
            coalesce_from: usize::MAX,
            cluster: None,
            attendees: Arc::default(),
        });
        let services = Arc::new(Services {
            mode: Mode::Dev,
            hooks: None,
            filter: None,
            limiter: Limiter::new(&limits),
            allowed_origins: Vec::new(),
            proxies: Arc::default(),
            authenticator: Authenticator::with_clock(&config.auth, clock.clone())
                .expect("no key is a good one"),
            clock,
            limits,
            lowered_connections: None,
            metrics,
            router: handle,
            store,
            bus: None,
            connections: Connections::new(config.name()),
            nodes: Arc::default(),
            inspection: None,
            operator_token: None,
            has_operator_listener: false,
            health: Health::default(),
            in_flight: Arc::default(),
            feed_keep: config.feed.keep,
            key_store: crate::key_store(&config),
            webhooks: None,
            webhooks_changed: Arc::default(),
            feed_waits: Arc::default(),
            profiles: config.profiles,
            permissions: Arc::default(),
            bulk_calls: Arc::default(),
            import_turn: Arc::new(tokio::sync::Semaphore::new(1)),
            readiness: Readiness::default(),
            denials: Denials::new(Arc::new(Metrics::new()), &NameBudget::default()),
            log_throttles: ClientLogThrottles::new(NameBudget::default()),
            tasks: Tasks::new(),
        });
        let routes = crate::http::routes(&services);
        Self { runtime, routes }
    }

    /// Posts a body in pieces. Returns the status and the answer.
    fn post(&self, path: &str, key: Option<&[u8]>, pieces: Vec<Bytes>) -> (u16, Value) {
        let pieces = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, Infallible>));
        let mut request = Request::post(path).header(header::HOST, "localhost");
        request = request.header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let Ok(request) = request.body(Body::from_stream(pieces)) else { return (0, Value::Null) };
        self.runtime.block_on(async {
            let response = match self.routes.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let status = response.status().as_u16();
            let json = response.into_body().collect().await.expect("all of it is here").to_bytes();
            (status, serde_json::from_slice(&json).expect("every answer is JSON"))
        })
    }
}

thread_local! {
    static HTTP_SERVER: HttpServer = HttpServer::new();
}

/// Sends a request to the API that is made from the input: byte 0 selects the command, byte 1 is the length of the idempotency key,
/// which follows; the rest is the body. The answer must be `ok` or a problem with a code of the protocol, and the same if the body
/// arrives in one piece or in many.
pub fn body(bytes: &[u8]) {
    let [which, key, rest @ ..] = bytes else { return };
    let name = Command::NAMES.get(usize::from(*which)).copied();
    let path = format!("/v1/{}", name.unwrap_or(if which % 2 == 0 { "revoke" } else { "nonsense" }));
    let (key, body) = rest.split_at(usize::from(*key % 64).min(rest.len()));
    let key = Some(key).filter(|key| !key.is_empty());
    HTTP_SERVER.with(|server| {
        let whole = server.post(&path, key, vec![Bytes::copy_from_slice(body)]);
        let pieces = body.chunks(7).map(Bytes::copy_from_slice).collect();
        assert_eq!(server.post(&path, key, pieces), whole, "in pieces");
        check_answer(name, &whole);
    });
}

fn check_answer(name: Option<&str>, (status, json): &(u16, Value)) {
    let sent_code = &json["code"];
    let code = ErrorCode::ALL.into_iter().find(|code| sent_code == code.as_str());
    match (*status, code) {
        (0, _) => {}
        (200, None) => assert!(name == Some("ping") && json["type"] == "ok", "{json}"),
        // A body of an unsupported content type has the status 415 instead of the status of the code.
        (415, Some(ErrorCode::BadFrame)) => {}
        (status, Some(code)) => {
            assert_eq!(
                (status, u64::from(status)),
                (code.http_status(), json["status"].as_u64().unwrap_or(0))
            );
            assert!(json["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{json}");
        }
        (status, None) => panic!("{status} without a code: {json}"),
    }
}

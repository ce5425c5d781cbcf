//! What operators ask and do over their listener: connections, rooms, sizes, the version.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use headers::HeaderMapExt as _;
use headers::authorization::{Authorization, Bearer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use switchboard_protocol::{ConversationId, Device, ErrorCode, UserId};
use uuid::Uuid;

use super::body;
use super::guard::{host_name, is_loopback};
use super::problem::Problem;
use crate::bus::{Address, Notice};
use crate::connections::{ConnectionReport, MAX_LISTED_CONNECTIONS, OperatorQuestion, Selection};
use crate::nodes::Answers;
use crate::services::Services;
use switchboard_store::clock::Clock;
use switchboard_store::inspect::{Inspector, Room, RoomOrder};
use switchboard_store::refusal::Refusal;

/// How long a question to the other nodes waits for their answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How many connections `/connections` lists without a user, and how many rooms `/rooms` lists, unless `limit` says otherwise.
const DEFAULT_LISTED_CONNECTIONS: usize = 20;

/// The most bytes of a request's body.
const MAX_BODY_BYTES: usize = 4_096;

/// The most bytes of the reason for closing connections.
const MAX_REASON_BYTES: usize = 200;

/// The TCP peer of a request to the operators' listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct OperatorPeer(pub(super) IpAddr);

/// Admits requests with the configured token. Without one, admits programs on this machine, but neither pages in a browser nor
/// requests that a proxy forwards.
pub(super) async fn check_access(
    State(services): State<Arc<Services>>,
    request: Request,
    next: Next,
) -> Response {
    match may_enter(&services, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => Problem::from(refusal).into_response(),
    }
}

fn may_enter(services: &Services, request: &Request) -> Result<(), Refusal> {
    let headers = request.headers();
    if let Some(token) = &services.operator_token {
        let given = headers.typed_get::<Authorization<Bearer>>();
        let message = "send the operators' token: `authorization: Bearer …`";
        return match given.is_some_and(|given| token.matches(given.token())) {
            true => Ok(()),
            false => Err(Refusal::new(ErrorCode::Unauthorized, message)),
        };
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let local =
        request.extensions().get::<OperatorPeer>().is_some_and(|peer| peer.0.to_canonical().is_loopback());
    let forwarded = ["forwarded", "x-forwarded-for", "origin"].iter().any(|name| headers.contains_key(*name));
    if local && is_loopback(host_name(host)) && !forwarded {
        return Ok(());
    }
    let message = "without `operator.token_file` in its configuration the server answers this to programs on its own machine only";
    Err(Refusal::new(ErrorCode::Forbidden, message))
}

/// `/version`: the version of the program.
pub(super) async fn version() -> Json<serde_json::Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// The query parameters of `/connections`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionsQuery {
    user: Option<UserId>,
    limit: Option<usize>,
}

fn parse_query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query
        .map(|Query(query)| query)
        .map_err(|error| Refusal::new(ErrorCode::BadField, error.body_text()).into())
}

fn clamp_limit(limit: Option<usize>) -> usize {
    limit.unwrap_or(DEFAULT_LISTED_CONNECTIONS).clamp(1, MAX_LISTED_CONNECTIONS)
}

/// `GET /connections`: the connections of a user on all nodes, or the totals and the slowest connections of this node.
pub(super) async fn connections(
    State(services): State<Arc<Services>>,
    asked: Result<Query<ConnectionsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let ConnectionsQuery { user, limit: most } = parse_query(asked)?;
    if let Some(user) = user {
        let (connections, unanswered) = ask_all(&services, &OperatorQuestion::List { user }).await;
        return Ok(
            Json(json!({"connections": connections, "nodes_without_answer": unanswered})).into_response()
        );
    }
    let connections = services.connections.clone();
    let slowest =
        tokio::task::spawn_blocking(move || connections.slowest_connections(clamp_limit(most))).await;
    let (totals, slowest) = slowest.map_err(|_| Refusal::unavailable())?;
    let node = services.connections.node();
    Ok(Json(json!({"node": node, "totals": totals, "connections": slowest})).into_response())
}

/// The body of `POST /connections/close`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseRequest {
    user: UserId,
    connection: Option<Uuid>,
    device: Option<Device>,
    reason: Option<String>,
}

/// `POST /connections/close`: closes connections of a user on all nodes, with 4410.
pub(super) async fn close(
    State(services): State<Arc<Services>>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, mut body) = request.into_parts();
    body::check_head(&head.headers, MAX_BODY_BYTES)?;
    let text = body::read(&mut body, MAX_BODY_BYTES, services.tasks.stop()).await?;
    let read = serde_json::from_str(&text);
    let CloseRequest { user, connection, device, reason } =
        read.map_err(|error| Refusal::new(ErrorCode::BadField, error.to_string()))?;
    if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON_BYTES) {
        let message = format!("reason: at most {MAX_REASON_BYTES} bytes");
        return Err(Refusal::new(ErrorCode::BadField, message).into());
    }
    let before = Clock::system().now();
    let question = OperatorQuestion::Close(Selection { user, connection, device, reason, before });
    let (closed, unanswered) = ask_all(&services, &question).await;
    Ok(Json(json!({"closed": closed, "nodes_without_answer": unanswered})).into_response())
}

/// Asks this node and every other one. Returns the answers, and the names of nodes that have not answered in time.
async fn ask_all(services: &Services, question: &OperatorQuestion) -> (Vec<ConnectionReport>, Vec<String>) {
    let mut reports = services.connections.answer(question, &services.metrics);
    let unanswered = ask_other_nodes(services, question, &mut reports).await;
    (reports, unanswered)
}

/// Asks every other node, and adds what they answer. Returns the names of nodes that have not answered in time.
pub(super) async fn ask_other_nodes<T: DeserializeOwned>(
    services: &Services,
    question: &impl Serialize,
    found: &mut Vec<T>,
) -> Vec<String> {
    let (Some(bus), Ok(asked)) = (&services.bus, serde_json::value::to_raw_value(question)) else {
        return Vec::new();
    };
    let mut answers = services.nodes.begin_question();
    bus.publish(&Address::Status, &Notice::Question { number: answers.number(), question: asked });
    // After the time-out the nodes that are still missing are reported by name.
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, collect_answers(&mut answers, found)).await;
    answers.unanswered_nodes()
}

async fn collect_answers<T: DeserializeOwned>(answers: &mut Answers, found: &mut Vec<T>) {
    while let Some(answer) = answers.next().await {
        // An answer that cannot be read comes from a later version, and counts as an empty one.
        found.extend(serde_json::from_str::<Vec<T>>(answer.get()).unwrap_or_default());
    }
}

/// The query parameters of `/rooms`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoomsQuery {
    by: Option<RoomOrderQuery>,
    after: Option<ConversationId>,
    limit: Option<usize>,
}

/// The order of rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RoomOrderQuery {
    Members,
    Events,
    Recent,
    Name,
}

impl From<RoomOrderQuery> for RoomOrder {
    fn from(by: RoomOrderQuery) -> Self {
        match by {
            RoomOrderQuery::Members => Self::Members,
            RoomOrderQuery::Events => Self::Events,
            RoomOrderQuery::Recent => Self::Recent,
            RoomOrderQuery::Name => Self::Name,
        }
    }
}

/// A room in the answer of `/rooms`.
#[derive(Debug, Serialize)]
struct ListedRoom {
    #[serde(flatten)]
    room: Room,
    /// How many members are connected to this node.
    online_here: usize,
}

/// `GET /rooms`: the rooms with the most members or events, or with the latest event, or all by name, page by page.
pub(super) async fn rooms(
    State(services): State<Arc<Services>>,
    asked: Result<Query<RoomsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let RoomsQuery { by, after, limit: most } = parse_query(asked)?;
    let order = by.unwrap_or(RoomOrderQuery::Members).into();
    if after.is_some() && order != RoomOrder::Name {
        return Err(Refusal::new(ErrorCode::BadField, "after: only with `by=name`").into());
    }
    let most = clamp_limit(most);
    let asked = u32::try_from(most + 1).unwrap_or(u32::MAX);
    let mut rooms = run_inspection(&services, move |store| store.rooms(order, after.as_ref(), asked)).await?;
    let more = rooms.len() > most;
    rooms.truncate(most);
    let keys = rooms.iter().map(|room| room.key).collect();
    let online: BTreeMap<_, _> = services.router.online_members(keys).await.into_iter().collect();
    let rooms = rooms.into_iter().map(|room| {
        let online_here = online.get(&room.key).copied().unwrap_or_default();
        ListedRoom { room, online_here }
    });
    let rooms: Vec<_> = rooms.collect();
    Ok(Json(json!({"rooms": rooms, "more": more, "node": services.connections.node()})).into_response())
}

/// `GET /sizes`: the sizes of the database and of the process.
pub(super) async fn sizes(State(services): State<Arc<Services>>) -> Result<Response, Problem> {
    let sizes = run_inspection(&services, Inspector::sizes).await?;
    let memory = crate::metrics::resident_bytes();
    let node = services.connections.node();
    Ok(Json(json!({"node": node, "memory_bytes": memory, "database": sizes})).into_response())
}

/// Runs a query of the database, one at a time, on a connection of its own.
async fn run_inspection<T: Send + 'static>(
    services: &Services,
    work: impl FnOnce(&Inspector) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    let Some(inspection) = services.inspection.clone() else { return Err(Refusal::unavailable().into()) };
    let Ok(inspector) = inspection.try_lock_owned() else {
        return Err(Problem::from(Refusal {
            message: "another query of an operator is running".into(),
            ..Refusal::unavailable()
        }));
    };
    let done = tokio::task::spawn_blocking(move || work(&inspector)).await;
    let failed =
        |message: String| Problem::from(Refusal { message: message.into(), ..Refusal::unavailable() });
    done.map_err(|_| Refusal::unavailable())?.map_err(|error| failed(format!("{error:#}")))
}

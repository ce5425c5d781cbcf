//! The calls about webhooks, for back ends with the scope `admin`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_protocol::{ErrorCode, read_object};

use super::api::read_authenticated;
use super::call::{Done, Operation, respond, schema};
use super::problem::Problem;
use crate::services::Services;
use crate::webhooks::admin::{
    AddWebhook, Admin, NamedWebhook, ReplayWebhook, RotateWebhook, Test, WebhookInfo, WebhookSecret, Wrong,
};
use switchboard_store::feed::{FeedCursor, FeedPage, FeedQuery};
use switchboard_store::grant::Scope;
use switchboard_store::refusal::Refusal;

/// `list_webhooks`: all webhooks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListWebhooks {}

/// The webhooks of the installation.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WebhookList {
    webhooks: Vec<WebhookInfo>,
}

/// The answer of the endpoint to a test.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WebhookTested {
    #[schemars(with = "serde_json::Value")]
    answer: Box<RawValue>,
}

/// The calls about webhooks.
pub(super) fn operations(generator: &mut SchemaGenerator) -> [Operation; 8] {
    let named = schema::<NamedWebhook>(generator);
    let secret = schema::<WebhookSecret>(generator);
    let operation =
        |name, summary, request, answer| Operation { name, summary, scope: Scope::Admin, request, answer };
    [
        operation(
            "add_webhook",
            "Sends entries of the feed to a URL.",
            schema::<AddWebhook>(generator),
            Some(secret.clone()),
        ),
        operation(
            "list_webhooks",
            "Lists the webhooks, and where each stands.",
            schema::<ListWebhooks>(generator),
            Some(schema::<WebhookList>(generator)),
        ),
        operation("pause_webhook", "Sends nothing more until it is resumed.", named.clone(), None),
        operation("resume_webhook", "Goes on, and tries an endpoint at fault at once.", named.clone(), None),
        operation(
            "rotate_webhook",
            "Gives a webhook another secret.",
            schema::<RotateWebhook>(generator),
            Some(secret),
        ),
        operation("replay_webhook", "Sends entries again.", schema::<ReplayWebhook>(generator), None),
        operation(
            "test_webhook",
            "Sends an entry of the type `webhook.test`, and answers with what the endpoint answered.",
            named.clone(),
            Some(schema::<WebhookTested>(generator)),
        ),
        operation("remove_webhook", "Removes a webhook.", named, None),
    ]
}

/// Who calls: the number of the API key, if there is one.
struct Caller(Option<i32>);

pub(super) async fn add(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let (mut add, Caller(key)) = read::<AddWebhook>(&services, &parts, &mut body).await?;
        if add.from == "now" {
            // The end of the feed is that of this moment, not of the moment when a node begins to send.
            let query = FeedQuery { after: FeedCursor::End, limit: 1, ..FeedQuery::default() };
            let page = services.store.feed(query).await?;
            add.from = FeedPage::cursor(&page.epoch, page.next);
        }
        let secret = run(&services, move |admin| admin.add(add, key)).await?;
        services.webhooks_changed.notify_one();
        Ok(secret)
    };
    let answered = answered.await;
    respond(&services, &parts, body, answered.map(|done| (done, None)))
}

pub(super) async fn list(State(services): State<Arc<Services>>, request: Request) -> Response {
    call(&services, request, |admin, ListWebhooks {}, _| Ok(WebhookList { webhooks: admin.list()? })).await
}

pub(super) async fn pause(State(services): State<Arc<Services>>, request: Request) -> Response {
    call(&services, request, |admin, NamedWebhook { name }, _| admin.pause(&name).map(|()| Done {})).await
}

pub(super) async fn resume(State(services): State<Arc<Services>>, request: Request) -> Response {
    call(&services, request, |admin, NamedWebhook { name }, Caller(key)| {
        admin.resume(&name, key).map(|()| Done {})
    })
    .await
}

pub(super) async fn rotate(State(services): State<Arc<Services>>, request: Request) -> Response {
    call(&services, request, |admin, rotate: RotateWebhook, _| admin.rotate(&rotate)).await
}

pub(super) async fn replay(State(services): State<Arc<Services>>, request: Request) -> Response {
    call(&services, request, |admin, replay: ReplayWebhook, _| admin.replay(&replay).map(|()| Done {})).await
}

pub(super) async fn remove(State(services): State<Arc<Services>>, request: Request) -> Response {
    call(&services, request, |admin, NamedWebhook { name }, _| admin.remove(&name).map(|()| Done {})).await
}

pub(super) async fn test(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let (named, _) = read::<NamedWebhook>(&services, &parts, &mut body).await?;
        let test: Test = run(&services, move |admin| admin.prepare_test(&named.name)).await?;
        let answer = test.send().await.map_err(refusal)?;
        Ok(WebhookTested { answer })
    };
    let answered = answered.await;
    respond(&services, &parts, body, answered.map(|done| (done, None)))
}

/// Answers one call.
async fn call<T: DeserializeOwned + Send + 'static, R: Serialize + Send + 'static>(
    services: &Services,
    request: Request,
    work: impl FnOnce(&mut Admin, T, Caller) -> anyhow::Result<R> + Send + 'static,
) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let (asked, caller) = read::<T>(services, &parts, &mut body).await?;
        let done = run(services, move |admin| work(admin, asked, caller)).await?;
        services.webhooks_changed.notify_one();
        Ok(done)
    };
    let answered = answered.await;
    respond(services, &parts, body, answered.map(|done| (done, None)))
}

/// Checks the key and reads the request.
async fn read<T: DeserializeOwned>(
    services: &Services,
    head: &Parts,
    body: &mut Body,
) -> Result<(T, Caller), Problem> {
    let request = read_authenticated(services, head, body).await?;
    request.check_back_end(Scope::Admin)?;
    request.check_unlimited()?;
    let key = request.grant.as_ref().map(|grant| grant.number.0);
    Ok((read_object(&request.text).map_err(Refusal::from)?, Caller(key)))
}

/// Works on the database on a thread that may block.
async fn run<R: Send + 'static>(
    services: &Services,
    work: impl FnOnce(&mut Admin) -> anyhow::Result<R> + Send + 'static,
) -> Result<R, Problem> {
    let (database, config) = (services.key_store.clone(), services.webhooks.clone());
    let done = tokio::task::spawn_blocking(move || work(&mut Admin::open(&database, config)?));
    let done = done.await.unwrap_or_else(|error| Err(error.into()));
    done.map_err(refusal)
}

fn refusal(error: anyhow::Error) -> Problem {
    match error.downcast::<Wrong>() {
        Ok(Wrong::Field { field, message }) => Refusal::bad_field(field, message).into(),
        Ok(Wrong::Unknown(message)) => Refusal::new(ErrorCode::NotFound, message).into(),
        Err(error) => {
            tracing::error!("webhooks: {error:#}");
            Refusal::unavailable().into()
        }
    }
}

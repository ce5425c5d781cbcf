//! What operators do with webhooks, from the command line and over HTTP.

use std::collections::BTreeMap;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use switchboard_protocol::Timestamp;

use super::endpoint::State;
use super::queue::Fault;
use super::request::{self, Answer};
use super::secret;
use super::settings::Endpoint;
use crate::config::WebhooksConfig;
use switchboard_store::clock::Clock;
use switchboard_store::feed::FeedCursor;
use switchboard_store::keys::KeyStore;
use switchboard_store::webhooks::{AT_END, NewWebhook, Webhook, Webhooks};

/// A request that cannot be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Wrong {
    /// A field is wrong.
    #[error("{field}: {message}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// There is no such webhook.
    #[error("{0}")]
    Unknown(String),
}

impl Wrong {
    fn field(field: &'static str, message: impl Into<String>) -> anyhow::Error {
        Self::Field { field, message: message.into() }.into()
    }

    fn unknown(name: &str) -> anyhow::Error {
        Self::Unknown(format!("there is no webhook called {name:?}")).into()
    }
}

/// The longest name.
const MAX_NAME_BYTES: usize = 64;

/// How many of the entries that are held are listed.
const MAX_LISTED: usize = 1_000;

/// What an operator asks for. The names are those of the calls over HTTP.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddWebhook {
    /// The name: 1 to 64 letters, digits, `-`, `_` and `.`.
    pub(crate) name: String,
    /// The URL that gets the entries, by POST.
    pub(crate) url: String,
    /// The types of entries; all but those of the audit log without it.
    #[serde(default)]
    pub(crate) types: Vec<String>,
    /// The conversations, as patterns such as `#support-*`; all without it.
    #[serde(default)]
    pub(crate) only: Vec<String>,
    /// Where it begins: `"now"`, `"0"`, or a cursor of the feed.
    #[serde(default = "now")]
    pub(crate) from: String,
    /// Headers of each request.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// Whether what was imported is sent, too.
    #[serde(default)]
    pub(crate) imported: bool,
}

fn now() -> String {
    "now".to_owned()
}

/// The name of a webhook.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedWebhook {
    /// The name.
    pub(crate) name: String,
}

/// Gives a webhook another secret.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateWebhook {
    /// The name.
    pub(crate) name: String,
    /// How many milliseconds the secret of before signs as well.
    #[serde(default)]
    pub(crate) overlap: u64,
}

/// Sends entries again.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayWebhook {
    /// The name.
    pub(crate) name: String,
    /// From where on: a cursor of the feed, `"0"`, or a time.
    #[serde(default)]
    pub(crate) from: Option<String>,
    /// Only the entries that are parked.
    #[serde(default)]
    pub(crate) parked: bool,
}

/// A secret, which is shown once.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct WebhookSecret {
    /// The webhook's name.
    pub(crate) name: String,
    /// The secret, as Standard Webhooks write it.
    pub(crate) secret: String,
}

/// A webhook, as operators see it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct WebhookInfo {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) created: Timestamp,
    /// The API key that added it; not there if the command line did.
    pub(crate) parent: Option<String>,
    pub(crate) types: Vec<String>,
    pub(crate) only: Vec<String>,
    /// The names of its headers. Their values may be secret.
    pub(crate) headers: Vec<String>,
    /// Whether what was imported is sent, too.
    pub(crate) imported: bool,
    /// Why nothing is sent.
    pub(crate) paused: Option<String>,
    /// The cursor up to which everything was taken, held or parked; not there until it has begun.
    pub(crate) position: Option<String>,
    /// How many entries of the feed were after it when the position was stored.
    pub(crate) lag: u64,
    /// When the position moved last.
    pub(crate) moved: Timestamp,
    /// The node that sends.
    pub(crate) node: Option<String>,
    /// Since when the endpoint is at fault.
    pub(crate) failing_since: Option<Timestamp>,
    /// When the endpoint is tried again.
    pub(crate) next_try: Option<Timestamp>,
    /// The ids of entries that are tried again later, and of the first ones behind them; 1,000 of them at most.
    pub(crate) held: Vec<String>,
    /// The ids of entries that the endpoint does not take.
    pub(crate) parked: Vec<String>,
    /// Until when the secret of before signs as well.
    pub(crate) old_until: Option<Timestamp>,
    /// The latest answers, oldest first.
    #[schemars(with = "Vec<serde_json::Value>")]
    pub(crate) answers: Vec<Answer>,
}

/// The webhooks of an installation, for an operator. All calls block but [`Admin::test`].
pub(crate) struct Admin {
    database: Webhooks,
    config: Option<WebhooksConfig>,
}

impl Admin {
    /// Connects to the database.
    pub(crate) fn open(store: &KeyStore, config: Option<WebhooksConfig>) -> anyhow::Result<Self> {
        Ok(Self { database: super::open(store)?, config })
    }

    fn config(&self) -> anyhow::Result<&WebhooksConfig> {
        self.config.as_ref().ok_or_else(|| {
            let advice = "`openssl rand -base64 32` generates a secret";
            Wrong::field(
                "name",
                format!("`webhooks.secret_file` is not set, and webhooks are signed; {advice}"),
            )
        })
    }

    /// Adds a webhook.
    pub(crate) fn add(&mut self, add: AddWebhook, parent: Option<i32>) -> anyhow::Result<WebhookSecret> {
        let AddWebhook { name, url, types, only, from, headers, imported } = add;
        check_name(&name)?;
        let endpoint = Endpoint { url, types, only, headers, imported };
        let config = self.config()?;
        endpoint.check(config.private).map_err(|(field, message)| Wrong::field(field, message))?;
        let secret = secret::text(&config.secret, &name, 1);
        let (epoch, position) = match FeedCursor::parse(&from) {
            Some(FeedCursor::Beginning) => (String::new(), 0),
            Some(FeedCursor::End) => (String::new(), AT_END),
            Some(FeedCursor::After { epoch, number }) => (epoch, i64::try_from(number)?),
            None => return Err(Wrong::field("from", "\"now\", \"0\", or a cursor of the feed")),
        };
        let settings = serde_json::to_string(&endpoint)?;
        let new = NewWebhook { name: name.clone(), settings, epoch, position, parent };
        if !self.database.add(&new)? {
            let message = format!("there is a webhook called {name}; choose another name");
            return Err(Wrong::field("name", message));
        }
        Ok(WebhookSecret { name, secret })
    }

    /// All webhooks.
    pub(crate) fn list(&mut self) -> anyhow::Result<Vec<WebhookInfo>> {
        Ok(self.database.list()?.iter().map(describe).collect())
    }

    fn find(&mut self, name: &str) -> anyhow::Result<Webhook> {
        let found = self.database.list()?.into_iter().find(|webhook| webhook.name == name);
        found.ok_or_else(|| Wrong::unknown(name))
    }

    /// Sends nothing more until it is resumed.
    pub(crate) fn pause(&mut self, name: &str) -> anyhow::Result<()> {
        self.find(name)?;
        self.database.pause(name, "by an operator").map(drop)
    }

    /// Goes on where it was paused, and tries an endpoint at fault at once. `by` is the number of the key that asks for it.
    pub(crate) fn resume(&mut self, name: &str, by: Option<i32>) -> anyhow::Result<()> {
        let webhook = self.find(name)?;
        let mut state = State::parse(&webhook.state);
        if state.stored.fault.take().is_some() {
            self.database.move_to(name, &webhook.epoch, webhook.position, &state.to_json())?;
        }
        self.database.resume(name, by).map(drop)
    }

    /// Gives a webhook another secret.
    pub(crate) fn rotate(&mut self, rotate: &RotateWebhook) -> anyhow::Result<WebhookSecret> {
        let master = self.config()?.secret.clone();
        let overlap = i64::try_from(rotate.overlap).map_err(|_| Wrong::field("overlap", "it is too long"))?;
        let version = self.database.rotate(&rotate.name, overlap)?;
        let version = version.ok_or_else(|| Wrong::unknown(&rotate.name))?;
        Ok(WebhookSecret { name: rotate.name.clone(), secret: secret::text(&master, &rotate.name, version) })
    }

    /// Sends entries again.
    pub(crate) fn replay(&mut self, replay: &ReplayWebhook) -> anyhow::Result<()> {
        let webhook = self.find(&replay.name)?;
        let mut state = State::parse(&webhook.state);
        let (epoch, position) = match (&replay.from, replay.parked) {
            (None, true) => {
                state.stored.unpark();
                (webhook.epoch, webhook.position)
            }
            (Some(from), false) => {
                let (epoch, position) = self.position(from)?;
                state.stored.rewind(position.unsigned_abs());
                (epoch, position)
            }
            _ => return Err(Wrong::field("from", "either this, or `parked`")),
        };
        self.database.move_to(&replay.name, &epoch, position, &state.to_json()).map(drop)
    }

    fn position(&mut self, from: &str) -> anyhow::Result<(String, i64)> {
        match FeedCursor::parse(from) {
            Some(FeedCursor::After { epoch, number }) => Ok((epoch, i64::try_from(number)?)),
            Some(FeedCursor::Beginning) => Ok((String::new(), 0)),
            _ => {
                let at: Timestamp = serde_json::from_value(from.into()).map_err(|_| {
                    let message = "a cursor of the feed, \"0\", or a time such as 2026-11-23T12:00:00.000Z";
                    Wrong::field("from", message)
                })?;
                self.database.position_at(at)
            }
        }
    }

    /// Removes a webhook.
    pub(crate) fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        if self.database.remove(name)? { Ok(()) } else { Err(Wrong::unknown(name)) }
    }

    /// What a test request needs.
    pub(crate) fn prepare_test(&mut self, name: &str) -> anyhow::Result<Test> {
        let webhook = self.find(name)?;
        let endpoint: Endpoint = serde_json::from_str(&webhook.settings).context("its settings")?;
        let config = self.config()?;
        let sender = super::sender(config, &webhook, &endpoint, |allowed, config| {
            request::client(config.ca.as_deref(), allowed)
        });
        Ok(Test(sender?))
    }
}

/// A request that tests an endpoint.
pub(crate) struct Test(request::Sender);

impl Test {
    /// Sends an entry of the type `webhook.test`, and returns the answer.
    pub(crate) async fn send(self) -> anyhow::Result<Box<RawValue>> {
        let now = Clock::system().now();
        let id = format!("test-{}", now.as_millis());
        let entry = serde_json::json!({ "id": id, "type": "webhook.test", "at": now });
        let sent = self.0.send(&to_raw_value(&entry)?, now).await;
        Ok(to_raw_value(&sent.answer)?)
    }
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let is_visible = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_visible) {
        return Ok(());
    }
    Err(Wrong::field("name", format!("1 to {MAX_NAME_BYTES} letters, digits, `-`, `_` and `.`")))
}

fn describe(webhook: &Webhook) -> WebhookInfo {
    let endpoint: Option<Endpoint> = serde_json::from_str(&webhook.settings).ok();
    let State { stored, answers, last } = State::parse(&webhook.state);
    let position = webhook.position.max(0).unsigned_abs();
    let id = |number: u64| format!("{}-{number}", webhook.epoch);
    let has_begun = !webhook.epoch.is_empty();
    let time = |fault: fn(&Fault) -> i64| stored.fault.as_ref().map(|it| Timestamp::from_millis(fault(it)));
    WebhookInfo {
        name: webhook.name.clone(),
        url: endpoint.as_ref().map(|endpoint| endpoint.url.clone()).unwrap_or_default(),
        created: webhook.created,
        parent: webhook.parent.clone(),
        types: endpoint.as_ref().map(|endpoint| endpoint.types.clone()).unwrap_or_default(),
        only: endpoint.as_ref().map(|endpoint| endpoint.only.clone()).unwrap_or_default(),
        imported: endpoint.as_ref().is_some_and(|endpoint| endpoint.imported),
        headers: endpoint.map(|endpoint| endpoint.headers.into_keys().collect()).unwrap_or_default(),
        paused: webhook.paused.clone(),
        position: has_begun.then(|| id(position)),
        lag: last.saturating_sub(position),
        moved: webhook.moved,
        node: webhook.node.as_deref().map(|node| node.split('/').next().unwrap_or(node).to_owned()),
        failing_since: time(|fault| fault.since),
        next_try: time(|fault| fault.next),
        held: stored.held.keys().take(MAX_LISTED).copied().map(id).collect(),
        parked: stored.parked.keys().copied().map(id).collect(),
        old_until: webhook.old_until,
        answers: answers.into(),
    }
}

//! An OpenID Connect provider: a real HTTP server that publishes its keys as the test says, and signs tokens with them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};
use switchboard::config::IssuerConfig;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::eventually;

const RSA: &str = include_str!("../../../testdata/rsa.private.pem");

/// A key that signs tokens.
#[derive(Clone)]
pub(crate) struct ProviderKey {
    id: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl ProviderKey {
    /// An RSA key.
    pub(crate) fn rsa(id: &str) -> Self {
        let key = EncodingKey::from_rsa_pem(RSA.as_bytes()).expect("a key");
        Self { id: id.to_owned(), algorithm: Algorithm::RS256, key }
    }

    /// A new key on the curve P-256.
    pub(crate) fn ec(id: &str) -> Self {
        let pem = KeyPair::generate().expect("a key").serialize_pem();
        let key = EncodingKey::from_ec_pem(pem.as_bytes()).expect("a key");
        Self { id: id.to_owned(), algorithm: Algorithm::ES256, key }
    }

    /// Signs claims.
    pub(crate) fn signs(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).expect("a token")
    }

    fn published(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }
}

/// The provider.
pub(crate) struct Provider {
    pub(crate) issuer: String,
    state: Arc<Published>,
    /// The tasks that accept and read connections.
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Published {
    issuer: String,
    keys: Mutex<Vec<Value>>,
    is_away: AtomicBool,
    fetches: AtomicU64,
}

impl Provider {
    /// Starts the provider at a free port, with these keys.
    pub(crate) async fn start(keys: &[&ProviderKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let issuer = format!("http://{}/realms/shop", listener.local_addr().expect("an address"));
        let state = Arc::new(Published { issuer: issuer.clone(), ..Published::default() });
        let routes = Router::new()
            .route("/realms/shop/.well-known/openid-configuration", get(document))
            .route("/realms/shop/certs", get(certs))
            .with_state(state.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(routes.clone());
                connections.spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let provider = Self { issuer, state, _serving: serving };
        provider.publishes(keys);
        provider
    }

    /// The configuration of a server that takes tokens of this provider.
    pub(crate) fn config(&self) -> IssuerConfig {
        IssuerConfig::new(self.issuer.clone(), "chat")
    }

    /// Publishes these keys and no others.
    pub(crate) fn publishes(&self, keys: &[&ProviderKey]) {
        self.publishes_set(keys.iter().map(|key| key.published()).collect());
    }

    /// Publishes these keys as they are.
    pub(crate) fn publishes_set(&self, keys: Vec<Value>) {
        *self.state.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Begins or ends a time in which the provider answers every request with an error.
    pub(crate) fn is_away(&self, is_away: bool) {
        self.state.is_away.store(is_away, Ordering::SeqCst);
    }

    /// How often the keys were fetched, or could not be.
    pub(crate) fn fetches(&self) -> u64 {
        self.state.fetches.load(Ordering::SeqCst)
    }

    /// Waits until the server has fetched the keys that are published now. It has stored them when it asks again.
    pub(crate) async fn is_asked_twice(&self) {
        let before = self.fetches();
        eventually("two fetches of the keys", || async move { (self.fetches() >= before + 2).then_some(()) })
            .await;
    }

    /// The claims of a token for a user.
    pub(crate) fn claims(&self, user: &str, issued: i64, expires: i64) -> Value {
        json!({"iss": self.issuer, "aud": "chat", "sub": user, "iat": issued, "exp": expires})
    }
}

async fn document(State(state): State<Arc<Published>>) -> Response {
    if state.is_away.load(Ordering::SeqCst) {
        state.fetches.fetch_add(1, Ordering::SeqCst);
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let issuer = &state.issuer;
    Json(json!({"issuer": issuer, "jwks_uri": format!("{issuer}/certs"), "grant_types_supported": []}))
        .into_response()
}

async fn certs(State(state): State<Arc<Published>>) -> Response {
    state.fetches.fetch_add(1, Ordering::SeqCst);
    if state.is_away.load(Ordering::SeqCst) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let keys = state.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Json(json!({ "keys": keys })).into_response()
}

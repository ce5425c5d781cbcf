//! Issuers that publish their keys: a small provider of OpenID Connect with real RSA and EC keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::{AuthKey, Config, FetchPace, Secret};
use switchboard_client::ClientError;
use switchboard_protocol::reply::{Failure, OkBody};
use switchboard_protocol::{CloseCode, ErrorCode, Hello, Timestamp};
use switchboard_store::clock::Clock;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Person, Provider, ProviderKey, SECRET, Server, eventually};

/// The pace of a server, a hundred times as fast.
const FAST: FetchPace = FetchPace {
    refresh: Duration::from_millis(500),
    spacing: Duration::from_millis(300),
    keep: Duration::from_secs(7 * 24 * 3_600),
};

/// A pace in which keys are fetched only at the start and for unknown keys.
const ON_DEMAND: FetchPace = FetchPace { refresh: Duration::from_secs(3_600), ..FAST };

fn now() -> i64 {
    Clock::system().now().as_millis() / 1_000
}

async fn server_with(providers: &[&Provider], pace: FetchPace, more: impl FnOnce(&mut Config)) -> Server {
    let issuers: Vec<_> = providers.iter().map(|provider| provider.config()).collect();
    Server::start_with_auth_and(|config| {
        config.auth.issuers = issuers;
        config.auth.pace = pace;
        more(config);
    })
    .await
}

async fn connects(server: &Server, token: &str) -> Result<Person, Box<Failure>> {
    let hello =
        Hello { token: Some(token.to_owned()), user: None, device: None, cursors: Default::default() };
    match server.tries_to_connect(hello).await {
        Ok(person) => Ok(person),
        Err(ClientError::Refused(failure)) => Err(failure),
        Err(other) => panic!("{other}"),
    }
}

/// Waits until the server has the provider's keys.
async fn connects_in_time(server: &Server, token: &str) -> Person {
    eventually("the keys of the provider", || async move {
        match connects(server, token).await {
            Ok(person) => Some(person),
            Err(failure) => {
                assert_eq!(failure.code, ErrorCode::NotReady, "{failure:?}");
                None
            }
        }
    })
    .await
}

async fn is_refused(server: &Server, token: &str) -> String {
    match connects(server, token).await {
        Err(failure) if failure.code == ErrorCode::Unauthorized => failure.message,
        Err(failure) => panic!("{failure:?}"),
        Ok(person) => panic!("it is the token of {}", person.name()),
    }
}

#[tokio::test]
async fn no_valid_token_is_refused_while_keys_rotate_and_the_provider_is_away() {
    let mut key = ProviderKey::rsa("k0");
    let provider = Provider::start(&[&key]).await;
    let server = server_with(&[&provider], FAST, |_| {}).await;
    let token = |key: &ProviderKey| key.signs(&provider.claims("usr_17", now(), now() + 300));
    connects_in_time(&server, &token(&key)).await;
    for rotation in 1..=6 {
        let id = format!("k{rotation}");
        let next = if rotation % 2 == 0 { ProviderKey::rsa(&id) } else { ProviderKey::ec(&id) };
        provider.publishes(&[&key, &next]);
        provider.is_asked_twice().await;
        provider.is_away(true);
        for good in [&key, &next] {
            connects(&server, &token(good)).await.expect("a key that was published before it signs");
        }
        provider.is_asked_twice().await;
        for good in [&key, &next] {
            connects(&server, &token(good)).await.expect("the provider is away");
        }
        provider.is_away(false);
        key = next;
    }
}

#[tokio::test]
async fn a_key_that_signs_at_once_works_after_the_next_fetch() {
    let (old, new) = (ProviderKey::rsa("old"), ProviderKey::ec("new"));
    let provider = Provider::start(&[&old]).await;
    let server = server_with(&[&provider], ON_DEMAND, |_| {}).await;
    let mut live =
        connects_in_time(&server, &old.signs(&provider.claims("usr_17", now(), now() + 300))).await;
    provider.publishes(&[&old, &new]);
    let token = new.signs(&provider.claims("usr_17", now(), now() + 600));
    let failure = connects(&server, &token).await.err().expect("its key is not known yet");
    assert_eq!((failure.code, failure.retryable), (ErrorCode::NotReady, true));
    assert!(failure.retry_after.is_some_and(|wait| wait >= 1_000), "{failure:?}");
    let mut socket = server.open_socket().await;
    let unknown = ProviderKey::ec("unknown").signs(&provider.claims("usr_17", now(), now() + 600));
    socket.writes(Message::text(json!({"type": "hello", "token": unknown}).to_string())).await;
    let (error, code) = socket.error_and_close_code().await;
    assert_eq!(error.expect("an error")["code"], "not_ready");
    assert_eq!(code, CloseCode::TryLater.number());
    connects_in_time(&server, &token).await;
    assert!(provider.fetches() <= 3, "{} fetches", provider.fetches());
    let renewed = live.does("token", json!({ "token": token })).await;
    assert!(matches!(renewed, OkBody::Token { .. }), "{renewed:?}");
}

#[tokio::test]
async fn a_token_of_a_removed_key_is_refused() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let provider = Provider::start(&[&old, &new]).await;
    let server = server_with(&[&provider], FAST, |_| {}).await;
    let claims = provider.claims("usr_17", now() - 120, now() + 300);
    connects_in_time(&server, &old.signs(&claims)).await;
    provider.publishes(&[&new]);
    provider.is_asked_twice().await;
    let message = is_refused(&server, &old.signs(&claims)).await;
    assert!(message.contains("no key of its issuer"), "{message}");
    let answer = server.posts_as(&old.signs(&claims), "ping", json!({})).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"));
    connects(&server, &new.signs(&claims)).await.expect("the other key stays");
    // Without the test's pace it takes one refresh, or after a failed fetch one attempt more.
    let FetchPace { refresh, spacing, .. } = FetchPace::default();
    assert!(refresh + spacing <= Duration::from_secs(600), "within ten minutes");
}

#[tokio::test]
async fn made_up_key_ids_cause_no_more_fetches() {
    let key = ProviderKey::ec("k");
    let (one, other) = (Provider::start(&[&key]).await, Provider::start(&[&key]).await);
    let prefix = |config: &mut Config| config.auth.issuers[1].prefix = "b-".to_owned();
    let server = Arc::new(server_with(&[&one, &other], FetchPace::default(), prefix).await);
    for provider in [&one, &other] {
        connects_in_time(&server, &key.signs(&provider.claims("usr_17", now(), now() + 300))).await;
    }
    let begun = tokio::time::Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..20 {
        let (server, provider) = (server.clone(), if client % 2 == 0 { &one } else { &other });
        let claims = provider.claims("usr_17", now(), now() + 300);
        clients.spawn(async move {
            for made_up in 0..25 {
                let token = ProviderKey::ec(&format!("{client}-{made_up}")).signs(&claims);
                let answer = server.posts_as(&token, "ping", json!({})).await;
                assert_eq!((answer.status, answer.code().as_str()), (409, "not_ready"));
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("refused");
    }
    let most = 1 + begun.elapsed().as_secs() / 30;
    for provider in [&one, &other] {
        assert!(provider.fetches() <= most, "{} fetches", provider.fetches());
    }
}

#[tokio::test]
async fn old_keys_are_used_for_seven_days_while_the_provider_is_away() {
    let moved = Arc::new(AtomicI64::new(0));
    let by = moved.clone();
    let clock = Clock::from_fn(move || {
        Timestamp::from_millis(Clock::system().now().as_millis() + by.load(Ordering::SeqCst))
    });
    let key = ProviderKey::ec("k");
    let provider = Provider::start(&[&key]).await;
    let issuers = vec![provider.config()];
    let server = Server::start_with_auth_and_clock(clock, |config| {
        config.auth.issuers = issuers;
        config.auth.pace = FAST;
    })
    .await;
    let days = |days: i64| days * 24 * 3_600;
    let token = key.signs(&provider.claims("usr_17", now(), now() + days(30)));
    connects_in_time(&server, &token).await;
    provider.is_away(true);
    provider.is_asked_twice().await;
    moved.store((days(7) - 60) * 1_000, Ordering::SeqCst);
    connects(&server, &token).await.expect("old keys are used");
    moved.store((days(7) + 60) * 1_000, Ordering::SeqCst);
    let failure = connects(&server, &token).await.err().expect("nobody knows whether the key is good");
    assert_eq!(failure.code, ErrorCode::NotReady);
    provider.is_away(false);
    connects_in_time(&server, &token).await;
}

#[tokio::test]
async fn an_issuer_verifies_its_own_tokens_and_no_others() {
    let (rsa, ec) = (ProviderKey::rsa("k"), ProviderKey::ec("k"));
    let (one, other) = (Provider::start(&[&rsa]).await, Provider::start(&[&ec]).await);
    let server = server_with(&[&one, &other], FAST, |config| {
        let [first, second] = config.auth.issuers.as_mut_slice() else { panic!("two issuers") };
        first.user_claim = "chat_id".to_owned();
        second.prefix = "staff-".to_owned();
    })
    .await;
    let mut customer = one.claims("auth0|17", now(), now() + 300);
    customer["chat_id"] = json!("usr_17");
    assert_eq!(connects_in_time(&server, &rsa.signs(&customer)).await.name().as_str(), "usr_17");
    let staff = other.claims("17", now(), now() + 300);
    assert_eq!(connects_in_time(&server, &ec.signs(&staff)).await.name().as_str(), "staff-17");

    let changed = |name: &str, value: Value| {
        let mut claims = customer.clone();
        claims[name] = value;
        claims
    };
    for (what, token) in [
        ("the key of another issuer with the same `kid`", ec.signs(&customer)),
        ("an audience of another service", rsa.signs(&changed("aud", json!("mail")))),
        ("another issuer", rsa.signs(&changed("iss", json!("https://other.example")))),
        ("a user of the other issuer", rsa.signs(&changed("chat_id", json!("staff-17")))),
        ("no user id", rsa.signs(&changed("chat_id", json!("a:b")))),
        ("a number", rsa.signs(&changed("chat_id", json!(17)))),
        ("no user", rsa.signs(&changed("chat_id", Value::Null))),
    ] {
        let message = is_refused(&server, &token).await;
        assert!(!message.contains(&token), "{what}");
    }
    let own = server.token("usr_18", Duration::from_secs(60));
    assert_eq!(connects(&server, &own).await.expect("the secret's").name().as_str(), "usr_18");
}

#[tokio::test]
async fn only_published_keys_for_signatures_verify_tokens() {
    let key = ProviderKey::ec("good");
    let provider = Provider::start(&[&key]).await;
    let server = server_with(&[&provider], FAST, |_| {}).await;
    let claims = provider.claims("usr_17", now() - 120, now() + 300);
    connects_in_time(&server, &key.signs(&claims)).await;
    let secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
    provider.publishes_set(vec![
        json!({"kty": "oct", "kid": "secret", "alg": "HS256", "k": secret}),
        json!({"kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "future", "kid": "new"}),
    ]);
    provider.is_asked_twice().await;
    connects(&server, &key.signs(&claims)).await.expect("a set without a usable key replaces none");
    let header = jsonwebtoken::Header { kid: Some("secret".into()), ..jsonwebtoken::Header::default() };
    let forged =
        jsonwebtoken::EncodingKey::from_base64_secret("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    let forged = jsonwebtoken::encode(&header, &claims, &forged.expect("a secret")).expect("a token");
    is_refused(&server, &forged).await;
    let stale = server.gets("/metrics").await.text;
    assert!(stale.contains("switchboard_token_keys_fetched_timestamp_seconds{"), "{stale}");
}

#[tokio::test]
async fn a_token_of_six_kilobytes_connects() {
    let key = ProviderKey::rsa("k");
    let provider = Provider::start(&[&key]).await;
    let server = server_with(&[&provider], FAST, |_| {}).await;
    let mut claims = provider.claims("usr_17", now(), now() + 300);
    claims["groups"] = json!(vec!["a group with a long name"; 160]);
    let token = key.signs(&claims);
    assert!(token.len() > 6_000, "{} bytes", token.len());
    let mut person = connects_in_time(&server, &token).await;
    person.says("@bob", "hi").await;
    server.posts_as(&token, "send", json!({"to": "@bob", "text": "over HTTP"})).await.ok();
}

#[tokio::test]
async fn secrets_rotate_without_a_refused_token() {
    let secret = |text: &str| AuthKey::Secret(Secret::new(text).expect("long enough"));
    let (first, second) = ("the first secret of this installation", "the second secret of this installation");
    let mut server = Server::start_with_auth_and(|config| config.auth.keys = vec![secret(first)]).await;
    let old = server.token("alice", Duration::from_secs(300));
    server.restart_with(|config| config.auth.keys = vec![secret(second), secret(first)]).await;
    let new = server.token("alice", Duration::from_secs(300));
    for token in [&old, &new] {
        connects(&server, token).await.expect("both secrets verify");
    }
    server.restart_with(|config| config.auth.keys = vec![secret(second)]).await;
    connects(&server, &new).await.expect("the first secret mints");
    is_refused(&server, &old).await;
}

#[tokio::test]
async fn a_token_that_is_too_old_or_of_another_type_is_refused() {
    let server = Server::start_with_auth_and(|config| {
        config.auth.typ = Some("chat+jwt".to_owned());
        config.auth.max_token_age = Duration::from_secs(3_600);
    })
    .await;
    connects(&server, &server.token("alice", Duration::from_secs(86_400))).await.expect("it is new");
    let ago = |seconds: i64| {
        Clock::from_fn(move || Timestamp::from_millis(Clock::system().now().as_millis() - seconds * 1_000))
    };
    let old = server.token_at(ago(3_700), "alice", Duration::from_secs(86_400));
    assert!(is_refused(&server, &old).await.contains("older than this server allows"));
    let secret = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let of_type = |typ: &str, claims: Value| {
        let header = jsonwebtoken::Header { typ: Some(typ.into()), ..jsonwebtoken::Header::default() };
        jsonwebtoken::encode(&header, &claims, &secret).expect("a token")
    };
    let reset = of_type("JWT", json!({"sub": "alice", "exp": now() + 60, "iat": now()}));
    assert!(is_refused(&server, &reset).await.contains("`auth.typ`"));
    let endless = of_type("chat+jwt", json!({"sub": "alice", "exp": now() + 86_400}));
    assert!(is_refused(&server, &endless).await.contains("no `iat`"));
    connects(&server, &of_type("chat+jwt", json!({"sub": "alice", "exp": now() + 60}))).await.expect("short");
}

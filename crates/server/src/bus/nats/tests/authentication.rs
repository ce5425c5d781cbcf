//! Tests of authentication: of nodes at NATS, of NATS at nodes, and of notices between nodes.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use serde_json::{Value, json};

use super::*;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Writes a CA certificate to `ca.pem`, and a server's certificate and key to `server.pem` and `server.key`.
fn write_certificates(directory: &Path) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("a certificate");
    let issuer = Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server =
        CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("a certificate");
    for (name, pem) in
        [("ca.pem", ca.pem()), ("server.pem", server.pem()), ("server.key", key.serialize_pem())]
    {
        std::fs::write(directory.join(name), pem).expect("a file");
    }
}

#[tokio::test]
async fn a_node_connects_with_a_private_ca_and_a_password() {
    let scratch = tempfile::tempdir().expect("a directory");
    write_certificates(scratch.path());
    let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(|name| scratch.path().join(name));
    let arguments =
        ["--tls", "--tlscert", text(&cert), "--tlskey", text(&key), "--user", "us", "--pass", "p@ss/w"];
    let nats = Nats::start(scratch.path(), &arguments).await.expect("a nats-server");
    let address = nats.address();

    // With a CA certificate, both schemes use TLS.
    for scheme in ["tls", "nats"] {
        let url = format!("{scheme}://us:p%40ss%2Fw@{address},{scheme}://localhost:{}", address.port());
        let settings = NatsSettings { ca: Some(ca.clone()), ..settings(&url, "sw") };
        assert!(!format!("{settings:?}").contains("ss"), "{settings:?}");
        let mut node = Node::connect(&settings, 1).await;
        node.subscribe(conversation(1)).await;
        assert!(node.probe_succeeds(TEST_TIMEOUT).await);
    }
    for (url, ca) in [
        (format!("tls://us:wrong@{address}"), Some(ca.clone())),
        (format!("tls://{address}"), Some(ca)),
        (format!("tls://us:p%40ss%2Fw@{address}"), None),
    ] {
        let node = Node::new(&NatsSettings { ca, ..settings(&url, "sw") }, 2).await;
        wait_until(|| node.bus.shared.connection.has_warned()).await;
        assert!(!node.bus.is_connected(), "{url}");
    }
}

#[tokio::test]
async fn a_node_connects_with_a_token() {
    let scratch = tempfile::tempdir().expect("a directory");
    let nats = Nats::start(scratch.path(), &["--auth", "secret"]).await.expect("a nats-server");
    let url = format!("nats://secret@{}", nats.address());
    Node::connect(&settings(&url, "sw"), 1).await.subscribe(Address::Nodes).await;
}

/// A NATS JWT signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, claims: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let head = encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let body = encode(&json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(), "name": name,
        "nats": claims,
    }));
    let signature = issuer.sign(format!("{head}.{body}").as_bytes()).expect("a signature");
    format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Writes a server configuration and credentials: an operator, an account, and a user who may use only subjects below `sw`.
fn write_credentials(directory: &Path) {
    let [operator, account, user] = [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user()];
    let any = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1});
    let of_operator = jwt(&operator, &operator, "operator", &json!({"type": "operator", "version": 2}));
    let of_account =
        jwt(&operator, &account, "account", &json!({"type": "account", "version": 2, "limits": any}));
    let own = json!({"allow": ["sw.>"]});
    let rights =
        json!({"type": "user", "version": 2, "pub": own, "sub": own, "subs": -1, "data": -1, "payload": -1});
    let of_user = jwt(&account, &user, "user", &rights);
    let server = format!(
        "operator: \"{of_operator}\"\nresolver: MEMORY\nresolver_preload: {{ {}: \"{of_account}\" }}\n",
        account.public_key()
    );
    let seed = user.seed().expect("a seed");
    let node = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    for (name, text) in [("server.conf", server), ("node.creds", node)] {
        std::fs::write(directory.join(name), text).expect("a file");
    }
}

#[tokio::test]
async fn credentials_need_no_subjects_outside_the_prefix() {
    let scratch = tempfile::tempdir().expect("a directory");
    write_credentials(scratch.path());
    let [config, creds] = ["server.conf", "node.creds"].map(|name| scratch.path().join(name));
    let nats = Nats::start(scratch.path(), &["-c", text(&config)]).await.expect("a nats-server");
    let settings = NatsSettings { credentials: Some(creds), ..settings(&nats.url(), "sw") };
    let (alice, mut bob) = (Node::connect(&settings, 1).await, Node::connect(&settings, 2).await);
    bob.subscribe(conversation(1)).await;
    alice.publish(1, 1);
    assert_eq!(bob.next_seq().await, 1);
    assert!(bob.probe_succeeds(TEST_TIMEOUT).await);
    assert!(!bob.bus.shared.connection.has_warned());

    let forbidden = NatsSettings { prefix: "other".to_owned(), ..settings };
    let node = Node::new(&forbidden, 3).await;
    wait_until(|| node.bus.shared.connection.has_warned()).await;
    assert!(!node.probe_succeeds(Duration::from_millis(100)).await, "NATS denies the prefix");
}

#[tokio::test]
async fn invalid_settings_are_rejected_with_the_reason() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (missing, empty) = (scratch.path().join("missing"), scratch.path().join("empty"));
    std::fs::write(&empty, "").expect("a file");
    let fine = settings("nats://127.0.0.1:4222", "sw");
    let key = NoticeKey::new([7; 32]);
    let with = |url: &str| NatsSettings { url: EngineUrl::new(url), ..fine.clone() };
    for (settings, why) in [
        (with("http://127.0.0.1"), "nats://HOST:PORT"),
        (with("nats://a:b@one?tls=off,nats://a:c@two"), "different users"),
        (with("nats://127.0.0.1,nats://elsewhere"), "plain text"),
        (with("nats://a b:4222?tls=off"), "nats://HOST:PORT"),
        (NatsSettings { prefix: "a..b".to_owned(), ..fine.clone() }, "prefix"),
        (NatsSettings { prefix: "a.*".to_owned(), ..fine.clone() }, "prefix"),
        (NatsSettings { ca: Some(missing.clone()), ..fine.clone() }, "certificates"),
        (NatsSettings { ca: Some(empty.clone()), ..fine.clone() }, "no certificate"),
        (NatsSettings { credentials: Some(missing), ..fine.clone() }, "credentials"),
        (NatsSettings { credentials: Some(empty.clone()), ..fine.clone() }, "credentials"),
        (NatsSettings { credentials: Some(empty), ..with("nats://a:b@localhost") }, "both"),
    ] {
        let refused = connect(&settings, &key, NodeId(1), Arc::new(Metrics::new()), &Tasks::new()).await;
        let error = format!("{:#}", refused.expect_err(why));
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_notice_from_a_client_without_the_key_is_dropped() {
    let prefix = unique_prefix();
    let nats = shared_nats().await.expect("a nats-server");
    let (mut bob, alice) =
        (Node::connect_to_shared(&prefix, 1).await, Node::connect_to_shared(&prefix, 2).await);
    let mallory = Node::with_key(&settings(&nats.url(), &prefix), 8, 2).await;
    wait_until(|| mallory.bus.has_both_connections()).await;
    bob.subscribe(conversation(1)).await;
    let dropped = bob.metrics.bus.dropped.get();
    mallory.publish(1, 1);
    wait_until(|| bob.metrics.bus.dropped.get() > dropped).await;
    alice.publish(1, 2);
    assert_eq!(bob.next_seq().await, 2, "the first notice that arrives is the real node's");
}

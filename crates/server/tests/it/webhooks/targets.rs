//! Where webhooks may send: names and addresses that are refused, also when they change.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard_store::grant::Scope;
use switchboard_store::webhooks::{NewWebhook, Webhooks};
use tempfile::TempDir;

use super::{SECRET, listed_when, with_webhooks};
use crate::keys::key_with;
use crate::support::{Process, Receiver, Reply, Server, eventually, in_time};

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_refused_at_the_connection() {
    let mut receiver = Receiver::start().await;
    let server = Server::start_with_auth_and(|config| {
        with_webhooks(config);
        config.webhooks.as_mut().expect("webhooks").private = false;
    })
    .await;
    let key = key_with(&server, "admin", |key| key.with_scopes([Scope::Admin]));
    let port = receiver.url().rsplit(':').next().expect("a port").to_owned();
    let body = json!({"name": "shop", "url": format!("https://localhost:{port}"), "from": "0", "types": ["message"]});
    server.posts_as(&key, "add_webhook", body).await.ok();
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    let webhook =
        listed_when(&server, &key, "the fault", |webhook| webhook["failing_since"].is_string()).await;
    let error = webhook["answers"][0]["error"].as_str().expect("an error").to_owned();
    assert!(error.contains("private"), "{error}");
    assert!(receiver.rest().is_empty());
}

/// A server as a process, for which a test decides what names resolve to.
struct Resolving {
    place: TempDir,
    process: Process,
}

impl Resolving {
    async fn start(private: bool, names: &str) -> Self {
        let place = TempDir::new().expect("a directory");
        let file = |name: &str| place.path().join(name).to_str().expect("a path").to_owned();
        std::fs::write(file("secret"), SECRET).expect("written");
        std::fs::write(file("names"), names).expect("written");
        let (secret, names) = (file("secret"), file("names"));
        let private = private.to_string();
        let settings = [
            ("SWITCHBOARD_WEBHOOKS_SECRET_FILE", secret.as_str()),
            ("SWITCHBOARD_WEBHOOKS_PRIVATE", private.as_str()),
            ("FAULTS_NAMES", names.as_str()),
        ];
        let process = Process::start_production(&place.path().join("data"), &settings, Stdio::null()).await;
        Self { place, process }
    }

    fn resolves(&self, names: &str) {
        std::fs::write(self.place.path().join("names"), names).expect("written");
    }

    fn webhooks(&self) -> Webhooks {
        Webhooks::open_directory(&self.place.path().join("data")).expect("a database")
    }

    fn adds(&self, url: &str) {
        let settings = json!({"url": url, "types": ["message"]}).to_string();
        let (name, epoch) = ("shop".to_owned(), String::new());
        let new = NewWebhook { name, settings, epoch, position: 0, parent: None };
        assert!(self.webhooks().add(&new).expect("stored"));
    }

    /// The error of the latest answer without a status.
    fn find_error(&self) -> Option<String> {
        let list = self.webhooks().list().expect("webhooks");
        let state: Value = serde_json::from_str(&list[0].state).ok()?;
        let last = state["answers"].as_array()?.last()?.clone();
        last["error"].as_str().map(str::to_owned)
    }
}

#[tokio::test]
async fn a_name_that_resolves_elsewhere_later_is_refused_at_the_next_connection() {
    for names in ["8.8.8.8", "127.0.0.1 8.8.8.8", "8.8.8.8 127.0.0.1"] {
        // By http only private addresses are allowed, so that nothing leaves this machine while the name is allowed.
        let server = Resolving::start(true, "shop.test 127.0.0.1").await;
        let mut receiver = Receiver::start().await;
        server.adds(&receiver.url().replace("127.0.0.1", "shop.test"));
        let mut alice = server.process.connects("alice").await;
        alice.says("@bob", "one").await;
        assert_eq!(receiver.next().await.text(), "one");
        server.resolves(&format!("shop.test {names}"));
        // The connection that was allowed ends. Until the receiver has closed it, entries may come on it.
        receiver.set_down(true);
        let error = in_time("a fault", async {
            loop {
                alice.says("@bob", "two").await;
                // waits for: the request, whose end nothing announces
                tokio::time::sleep(Duration::from_millis(100)).await;
                if let Some(error) = server.find_error() {
                    break error;
                }
            }
        });
        assert!(error.await.contains("private"), "{names}");
        assert_eq!(receiver.refused(), 0, "{names}: there was no connection");
    }
}

#[tokio::test]
async fn a_name_with_one_private_address_is_refused_whichever_it_is() {
    let mut receiver = Receiver::start().await;
    let port = receiver.url().rsplit(':').next().expect("a port").to_owned();
    let addresses = [
        "127.0.0.1",
        "8.8.8.8 127.0.0.1",
        "127.0.0.1 8.8.8.8",
        "8.8.8.8 169.254.169.254",
        "8.8.8.8 168.63.129.16",
        "8.8.8.8 fd00:ec2::254",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ];
    for addresses in addresses {
        let server = Resolving::start(false, &format!("shop.test {addresses}")).await;
        server.adds(&format!("https://shop.test:{port}"));
        server.process.connects("alice").await.says("@bob", "hi").await;
        let error = eventually("a fault", async || server.find_error()).await;
        assert!(error.contains("private"), "{addresses}: {error}");
    }
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let ((server, key), mut receiver) = (super::server().await, Receiver::start().await);
    let mut other = Receiver::start().await;
    let to = other.url().strip_prefix("http://").and_then(|url| url.strip_suffix("/hook"));
    let to = to.and_then(|address| address.parse().ok()).expect("an address");
    receiver.answers(move |_| Reply::Redirect(to));
    super::adds(&server, &key, &receiver).await;
    server.connects("alice").await.says("@bob", "hi").await;
    receiver.next().await;
    listed_when(&server, &key, "the fault", |webhook| webhook["failing_since"].is_string()).await;
    assert!(other.rest().is_empty());
}

//! Certificates from a real ACME server: Pebble.

use std::net::SocketAddr;
use std::path::Path;

use engines::{Pebble, PebbleSettings};
use switchboard::config::{AcmeSection, TlsConfig};
use switchboard_client::{Client, Trust};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::certificates::{Authority, TlsRaw, connector_trusting};
use crate::support::{Person, Server, eventually, in_time};
use crate::tls::{metric_reaches, read_metric};

/// The domain of the certificate.
const DOMAIN: &str = "localhost";

/// How long an issued certificate is valid. The server renews it after two thirds of that.
const CERTIFICATE_VALIDITY_SECONDS: u32 = 12;

/// Starts a server that obtains its certificate from an ACME server. `authority` issued the ACME server's own certificate.
async fn start_server_with_acme(authority: &Authority, pebble: &Pebble) -> Server {
    Server::start_with(|config| {
        config.tls = Some(TlsConfig::Acme(AcmeSection {
            domains: vec![DOMAIN.to_owned()],
            contact: vec!["operator@example.com".to_owned()],
            directory: pebble.url(),
            ca: Some(authority.ca()),
            ..AcmeSection::default()
        }));
        config.operator_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await
}

async fn start_acme_server(pebble: &mut Pebble, authority: &Authority, server: &Server) {
    let settings = PebbleSettings {
        certificate: &authority.certificate(),
        key: &authority.key(),
        tls_port: server.address().port(),
        validity_seconds: CERTIFICATE_VALIDITY_SECONDS,
    };
    pebble.start(settings).await.expect("an ACME server");
}

/// The certificate with which the server answers for its domain; `None` if the handshake fails.
async fn served_certificate(server: &Server, authority: &Path) -> Option<Vec<u8>> {
    let stream = TcpStream::connect(server.address()).await.expect("a connection");
    let connected = TlsRaw::handshake(&connector_trusting(authority, &["http/1.1"]), stream, DOMAIN).await;
    connected.ok().map(|connected| connected.certificate())
}

#[tokio::test]
async fn a_certificate_is_obtained_and_renewed_and_no_connection_is_lost() {
    let (authority, scratch) = (Authority::new(), TempDir::new().expect("a directory"));
    let mut pebble = Pebble::reserve(scratch.path()).expect("ports");
    let mut server = start_server_with_acme(&authority, &pebble).await;
    let failures = async || {
        let count = read_metric(&server, "switchboard_tls_certificate_failures_total").await;
        count.filter(|count| *count >= 1.0)
    };
    eventually("a failure is counted while the ACME server is away", failures).await;
    let none = TlsRaw::connect(&authority.connector(&[]), server.address()).await;
    assert!(none.is_err(), "there is no certificate yet");
    metric_reaches(&server, r#"switchboard_tls_handshake_failures_total{reason="no_certificate"}"#, 1.0)
        .await;

    start_acme_server(&mut pebble, &authority, &server).await;
    metric_reaches(&server, "switchboard_tls_certificate_loads_total", 1.0).await;
    let root = scratch.path().join("root.pem");
    std::fs::write(&root, issued_root(&pebble, &authority).await).expect("a file");
    let first = served_certificate(&server, &root).await.expect("a trusted certificate of the domain");
    let mut alice = connects_trusting(&server, &root).await;
    metric_reaches(&server, "switchboard_tls_certificate_loads_total", 2.0).await;
    let second = served_certificate(&server, &root).await.expect("the renewed certificate");
    assert_ne!(first, second);
    alice.says("@bob", "on the connection from before").await;

    // A restart uses the certificate on disk, and needs no ACME server.
    pebble.kill().await.expect("it ran");
    server.restart().await;
    let kept = eventually("the certificate on disk", || served_certificate(&server, &root)).await;
    assert_eq!(kept, second);
    for entry in std::fs::read_dir(server.data().join("acme")).expect("the cache") {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = entry.expect("an entry").metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "only the server's user may read it");
    }
}

/// Connects a user over TLS to the server's domain.
async fn connects_trusting(server: &Server, root: &Path) -> Person {
    let url = format!("wss://{DOMAIN}:{}/v1/ws", server.address().port());
    let (hello, trust) = (server.hello("alice", &[]), Trust::from_file(root).expect("a root"));
    let connecting = Client::connect_trusting(&url, hello, &trust);
    let (client, welcome) = in_time("welcome", connecting).await.expect("welcome");
    Person::new(client, welcome)
}

/// The root certificate of what the ACME server issues, in PEM.
async fn issued_root(pebble: &Pebble, authority: &Authority) -> String {
    let management = TlsRaw::connect(&authority.connector(&[]), pebble.management_address()).await;
    let answer = management.expect("the management's address").gets("/roots/0", "").await;
    answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

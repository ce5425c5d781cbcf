//! TLS in the server, with a certificate from files.

use std::net::Ipv4Addr;
use std::process::{Output, Stdio};
use std::time::Duration;

use switchboard::config::Config;
use switchboard_client::Client;
use switchboard_protocol::Timestamp;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;

use crate::proxy::{PROXY, proxy_header};
use crate::support::certificates::{Authority, TlsRaw, der, time_from_now};
use crate::support::{Person, Process, RawSocket, Server, eventually, in_time};

/// A ClientHello of TLS 1.1 with one cipher suite and no extension.
const OLD_CLIENT_HELLO: &[u8] = &[
    0x16, 0x03, 0x01, 0x00, 0x2D, 0x01, 0x00, 0x00, 0x29, 0x03, 0x02, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 0x00, 0x00, 0x02, 0xC0,
    0x13, 0x01, 0x00,
];

/// Starts a `dev` server with TLS and settings that `settings` changes.
pub(crate) async fn start_with(authority: &Authority, settings: impl FnOnce(&mut Config)) -> Server {
    Server::start_with(|config| {
        authority.configure(config);
        settings(config);
    })
    .await
}

/// Connects a user over TLS.
pub(crate) async fn connects(server: &Server, authority: &Authority, name: &str) -> Person {
    let (url, hello) = (format!("wss://{}/v1/ws", server.address()), server.hello(name, &[]));
    let trust = authority.trust();
    let connecting = Client::connect_trusting(&url, hello, &trust);
    let (client, welcome) = in_time("welcome", connecting).await.expect("welcome");
    Person::new(client, welcome)
}

/// The value of a metric; `None` if the server does not export it.
pub(crate) async fn read_metric(server: &Server, name: &str) -> Option<f64> {
    let page = server.gets_as_operator("/metrics").await;
    let line = page.text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned));
    line.map(|value| value.parse().expect("a number"))
}

/// Waits until a metric has a value.
pub(crate) async fn metric_reaches(server: &Server, name: &str, value: f64) {
    let reached = async || (read_metric(server, name).await == Some(value)).then_some(());
    eventually(&format!("{name} is {value}"), reached).await;
}

/// Waits until a number of handshakes have failed for a reason.
pub(crate) async fn counts_handshake_failures(server: &Server, reason: &str, times: f64) {
    metric_reaches(
        server,
        &format!("switchboard_tls_handshake_failures_total{{reason=\"{reason}\"}}"),
        times,
    )
    .await;
}

#[tokio::test]
async fn clients_exchange_messages_and_request_pages_over_tls() {
    let authority = Authority::new();
    let server = start_with(&authority, |_| {}).await;
    let mut alice = connects(&server, &authority, "alice").await;
    let mut bob = connects(&server, &authority, "bob").await;
    let long = "x".repeat(4_000);
    for n in 0..100 {
        alice.says("@bob", &format!("{n} {long}")).await;
    }
    for n in 0..100 {
        bob.receives_message(&format!("{n} {long}")).await;
    }
    let mut page = TlsRaw::connect(&authority.connector(&["http/1.1"]), server.address()).await.expect("TLS");
    let answer = page.gets("/livez", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    metric_reaches(&server, "switchboard_tls_handshakes_total", 3.0).await;
    assert!(read_metric(&server, "switchboard_tls_certificate_expiry_timestamp_seconds").await > Some(0.0));
}

#[tokio::test]
async fn a_client_that_reads_late_receives_everything_over_tls() {
    let authority = Authority::new();
    let server = start_with(&authority, |_| {}).await;
    let mut alice = connects(&server, &authority, "alice").await;
    let mut bob = connects(&server, &authority, "bob").await;
    // All messages together do not fit into the buffers of the kernel and of TLS. So writes stop in the middle of frames and of TLS
    // records.
    let long = "y".repeat(8_000);
    for n in 0..1_500 {
        alice.says("@bob", &format!("{n} {long}")).await;
    }
    for n in 0..1_500 {
        bob.receives_message(&format!("{n} {long}")).await;
    }
}

#[tokio::test]
async fn a_new_certificate_is_used_and_no_connection_is_lost() {
    let authority = Authority::new();
    let server = start_with(&authority, |_| {}).await;
    let mut alice = connects(&server, &authority, "alice").await;
    let end = time_from_now(Duration::from_secs(90 * 24 * 3_600));
    let renewed = authority.issue_until(end);
    authority.install(&renewed);
    metric_reaches(&server, "switchboard_tls_certificate_loads_total", 2.0).await;
    let expiry = read_metric(&server, "switchboard_tls_certificate_expiry_timestamp_seconds").await;
    assert_eq!(expiry, Some((end.as_millis() / 1_000) as f64));
    let new = TlsRaw::connect(&authority.connector(&[]), server.address()).await.expect("TLS");
    assert_eq!(new.certificate(), der(&renewed.certificate));
    let mut bob = connects(&server, &authority, "bob").await;
    alice.says("@bob", "on the connection from before").await;
    bob.receives_message("on the connection from before").await;
    bob.says("@alice", "to it").await;
    alice.receives_message("to it").await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_reported_once_and_the_old_certificate_stays() {
    let authority = Authority::new();
    let data = TempDir::new().expect("a directory");
    let log = data.path().join("log");
    let file = Stdio::from(std::fs::File::create(&log).expect("a file"));
    let settings = authority.settings();
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.push(("SWITCHBOARD_OPERATOR_LISTEN", "127.0.0.1:0"));
    let mut server = Process::start_production(data.path(), &settings, file).await;
    let connector = authority.connector(&[]);
    let first = TlsRaw::connect(&connector, server.address()).await.expect("TLS").certificate();
    let says = async |words: &str| {
        let has_line = async || std::fs::read_to_string(&log).expect("the log").contains(words).then_some(());
        eventually(words, has_line).await;
    };

    std::fs::write(authority.key(), authority.issue().key).expect("a file");
    says("the private key does not fit the certificate").await;
    let second = TlsRaw::connect(&connector, server.address()).await.expect("TLS").certificate();
    assert_eq!(second, first);
    std::fs::remove_file(authority.certificate()).expect("a file");
    says("cannot read").await;
    authority.install(&authority.issue_until(Timestamp::from_millis(1_700_000_000_000)));
    says("the certificate ended at 2023-11-14").await;
    let renewed = authority.issue();
    authority.install(&renewed);
    let is_new = async || {
        let connected = TlsRaw::connect(&connector, server.address()).await.expect("TLS");
        (connected.certificate() == der(&renewed.certificate)).then_some(())
    };
    eventually("the new certificate", is_new).await;

    let log = server.log_after_stop(&log).await;
    let reports: Vec<_> = log.lines().filter(|line| line.contains("the old one stays in use")).collect();
    assert_eq!(reports.len(), 3, "{log}");
    assert!(reports.iter().all(|line| line.contains("ERROR")), "{log}");
}

#[tokio::test]
async fn the_log_warns_before_and_after_the_end_of_a_certificate() {
    let authority = Authority::new();
    let now = time_from_now(Duration::ZERO).as_millis();
    let at = |ms: i64| {
        std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).expect("a time"))
    };
    authority.install(&authority.issue_with(&["localhost"], |params| {
        params.not_before = at(now - 1_000_000).into();
        params.not_after = at(now + 3_000).into();
    }));
    let data = TempDir::new().expect("a directory");
    let log = data.path().join("log");
    let file = Stdio::from(std::fs::File::create(&log).expect("a file"));
    let settings = authority.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut server = Process::start_production(data.path(), &settings, file).await;
    for words in ["the certificate ends soon", "the certificate has ended: new clients cannot connect"] {
        let has_line = async || std::fs::read_to_string(&log).expect("the log").contains(words).then_some(());
        eventually(words, has_line).await;
    }
    let log = server.log_after_stop(&log).await;
    let lines = |level: &str| {
        log.lines()
            .filter(|line| line.contains(level) && line.contains("the certificate"))
            .collect::<Vec<_>>()
    };
    assert_eq!((lines("WARN").len(), lines("ERROR").len()), (1, 1), "{log}");
    assert!(lines("ERROR")[0].contains("names=\"localhost\""), "{log}");
}

#[tokio::test]
async fn failed_handshakes_are_counted_by_reason() {
    let authority = Authority::new();
    let server = start_with(&authority, |_| {}).await;
    let mut plain = RawSocket::connect(server.address()).await;
    plain.writes("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
    plain.wait_for_end().await;
    counts_handshake_failures(&server, "malformed", 1.0).await;

    let mut old = RawSocket::connect(server.address()).await;
    old.writes(OLD_CLIENT_HELLO).await;
    old.wait_for_end().await;
    counts_handshake_failures(&server, "incompatible", 1.0).await;
    let h2 = TlsRaw::connect(&authority.connector(&["h2"]), server.address()).await;
    assert!(h2.is_err());
    counts_handshake_failures(&server, "incompatible", 2.0).await;

    let stranger = TlsRaw::connect(&Authority::new().connector(&[]), server.address()).await;
    assert!(stranger.is_err(), "it does not trust the authority");
    counts_handshake_failures(&server, "refused_by_client", 1.0).await;

    drop(TcpStream::connect(server.address()).await.expect("a connection"));
    counts_handshake_failures(&server, "disconnected", 1.0).await;

    // The records of a ClientHello that says that it has 60,000 bytes.
    let mut long = RawSocket::connect(server.address()).await;
    let mut record = vec![0x16, 0x03, 0x01, 0x10, 0x00, 0x01, 0x00, 0xEA, 0x60];
    record.resize(5 + 4_096, 0);
    let _ = long.tries_to_write(&record).await;
    let next = [&[0x16, 0x03, 0x03, 0x10, 0x00][..], &[0; 4_096]].concat();
    for _ in 0..4 {
        let _ = long.tries_to_write(&next).await;
    }
    long.wait_for_end().await;
    counts_handshake_failures(&server, "too_long", 1.0).await;
    connects(&server, &authority, "alice").await.says("@bob", "hi").await;
}

#[tokio::test]
async fn the_proxy_header_comes_before_the_handshake() {
    let authority = Authority::new();
    let server = start_with(&authority, |config| {
        config.proxies.trusted = vec![PROXY.to_string().parse().expect("a network")];
        config.proxies.protocol = true;
        config.limits.connections_per_address = 1;
    })
    .await;
    let (one, other) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
    let connector = authority.connector(&[]);
    let mut open = Vec::new();
    for (client, status) in [(one, "200"), (one, "429"), (other, "200")] {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((PROXY, 0).into()).expect("a loopback address");
        let mut stream = socket.connect(server.address()).await.expect("a connection");
        stream.write_all(&proxy_header(2, client)).await.expect("written");
        let mut tls = TlsRaw::handshake(&connector, stream, "127.0.0.1").await.expect("TLS");
        tls.writes("GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let head = tls.read_head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        open.push(tls);
    }
    // A trusted proxy without the PROXY header is closed before TLS.
    let mut missing = RawSocket::connect_from(PROXY, server.address()).await;
    missing.writes(OLD_CLIENT_HELLO).await;
    missing.wait_for_end().await;
    metric_reaches(&server, "switchboard_denied_total{reason=\"missing_proxy_header\"}", 1.0).await;
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_refused_over_tls() {
    let authority = Authority::new();
    let server = start_with(&authority, |config| config.limits.connections_per_address = 1).await;
    let _alice = connects(&server, &authority, "alice").await;
    let mut second = TlsRaw::connect(&authority.connector(&[]), server.address()).await.expect("TLS");
    let answer = second.gets("/v1/openapi.json", "").await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
}

/// Runs the program with the settings of a production server.
async fn switchboard_command(words: &[&str], settings: &[(&str, String)], data: &TempDir) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command
        .args(words)
        .env_clear()
        .env("SWITCHBOARD_AUTH_SECRET", "a secret of the tests that is long enough");
    command.env("SWITCHBOARD_DATA", data.path());
    command.envs(settings.iter().map(|(name, value)| (*name, value.as_str())));
    in_time("the program ends", command.output()).await.expect("the program starts")
}

#[tokio::test]
async fn config_check_and_serve_refuse_a_certificate_that_cannot_be_used() {
    let authority = Authority::new();
    let data = TempDir::new().expect("a directory");
    let both = authority.settings();
    let good = switchboard_command(&["config", "check", "--offline"], &both, &data).await;
    assert!(good.status.success(), "{good:?}");
    let is_refused = async |settings: &[(&str, String)], words: &str| {
        for command in [&["config", "check", "--offline"][..], &["serve", "--listen", "127.0.0.1:0"]] {
            let output = switchboard_command(command, settings, &data).await;
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains(words), "{stderr}");
        }
    };
    is_refused(&both[..1], "`tls.certificate` needs `tls.key`").await;
    is_refused(&both[1..], "`tls.key` needs `tls.certificate`").await;
    let domains = ("SWITCHBOARD_ACME_DOMAINS", "chat.example.com".to_owned());
    is_refused(&[&both[..], &[domains]].concat(), "the certificate has one source").await;
    std::fs::write(authority.key(), authority.issue().key).expect("a file");
    is_refused(&both, "the private key does not fit the certificate").await;
    authority.install(&authority.issue_until(Timestamp::from_millis(1_700_000_000_000)));
    is_refused(&both, "the certificate ended at 2023-11-14").await;
    authority.install(&authority.issue_with(&[], |_| {}));
    is_refused(&both, "names no host").await;
    std::fs::write(authority.certificate(), "nothing").expect("a file");
    is_refused(&both, "contains none").await;
    std::fs::remove_file(authority.key()).expect("a file");
    is_refused(&both, "tls.key").await;
}

#[tokio::test]
async fn the_command_line_sends_over_tls_and_probes_a_server_with_tls() {
    let authority = Authority::new();
    let data = TempDir::new().expect("a directory");
    let settings = authority.settings();
    let values: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Process::start_production(data.path(), &values, Stdio::null()).await;
    let (url, ca) = (format!("wss://{}/v1/ws", server.address()), authority.ca());
    let token = server.token("alice");
    let send = ["send", "@bob", "hi", "--url", &url, "--token", &token];
    let trusting = [&send[..], &["--ca", ca.to_str().expect("UTF-8")]].concat();
    let sent = switchboard_command(&trusting, &[], &data).await;
    assert!(String::from_utf8_lossy(&sent.stdout).starts_with("stored in @alice:bob as 1 "), "{sent:?}");
    let refused = switchboard_command(&send, &[], &data).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("certificate"), "{refused:?}");
    let probe = ["health", "--listen", &server.address().to_string()];
    let health = switchboard_command(&probe, &settings, &data).await;
    assert!(health.status.success(), "{health:?}");
    let unavailable = switchboard_command(&["health", "--listen", "127.0.0.1:1"], &settings, &data).await;
    assert_eq!(unavailable.status.code(), Some(1), "{unavailable:?}");
}

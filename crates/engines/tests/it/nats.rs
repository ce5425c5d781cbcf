use std::time::Duration;

use engines::Nats;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Connects to the server, publishes a message, and returns what it receives.
async fn publish_and_receive(nats: &Nats) -> std::io::Result<String> {
    let mut socket = BufReader::new(TcpStream::connect(nats.address()).await?);
    socket.write_all(b"CONNECT {\"verbose\":false}\r\nSUB rooms 1\r\nPUB rooms 5\r\nhello\r\n").await?;
    let mut line = String::new();
    while !line.starts_with("MSG ") {
        line.clear();
        if socket.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    line.clear();
    socket.read_line(&mut line).await?;
    Ok(line.trim().to_owned())
}

#[tokio::test]
async fn a_killed_server_restarts_on_its_ports() {
    let scratch = TempDir::new().unwrap();
    let mut nats = Nats::start(scratch.path(), &["--name", "the-bus"]).await.unwrap();
    let (address, monitor) = (nats.address(), nats.monitor_address());
    assert_eq!(nats.url(), format!("nats://{address}"));
    assert_eq!(publish_and_receive(&nats).await.unwrap(), "hello");

    let mut http = TcpStream::connect(monitor).await.unwrap();
    http.write_all(b"GET /varz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\"server_name\": \"the-bus\""), "{answer}");

    nats.kill().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    nats.start_again().await.unwrap();
    assert_eq!((nats.address(), nats.monitor_address()), (address, monitor));
    assert_eq!(publish_and_receive(&nats).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_suspended_server_does_not_answer() {
    let nats = Nats::start(TempDir::new().unwrap().path(), &[]).await.unwrap();
    nats.pause().unwrap();
    assert!(timeout(Duration::from_millis(300), publish_and_receive(&nats)).await.is_err());
    nats.resume().unwrap();
    assert_eq!(publish_and_receive(&nats).await.unwrap(), "hello");
}

#[tokio::test]
async fn the_error_of_a_failed_start_has_the_log() {
    let scratch = TempDir::new().unwrap();
    let error = Nats::start(scratch.path(), &["--config", "nowhere.conf"]).await.unwrap_err().to_string();
    assert!(error.contains("nowhere.conf: no such file"), "{error}");
}

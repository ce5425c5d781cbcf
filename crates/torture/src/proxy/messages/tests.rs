use std::collections::HashMap;

use engines::Nats;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::proxy::{Partition, Proxy};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn frames_are_the_same_for_every_split_of_the_stream() {
    let stream: &[(&str, bool)] = &[
        ("INFO {\"max_payload\":1048576}\r\n", false),
        ("MSG room 1 11\r\nMSG x 1 3\r\n\r\n", true),
        ("PING\r\n", false),
        ("MSG room 1 reply 0\r\n\r\n", true),
        ("HMSG room 9 12 15\r\nNATS/1.0\r\n\r\nabc\r\n", true),
        ("-ERR 'Slow Consumer'\r\n", false),
    ];
    let all: String = stream.iter().map(|(text, _)| *text).collect();
    for size in 1..=all.len() {
        let mut frames = FrameSplitter::default();
        let mut got = Vec::new();
        for bytes in all.as_bytes().chunks(size) {
            frames.extend(bytes);
            got.extend(std::iter::from_fn(|| frames.next()));
        }
        let expected: Vec<NatsFrame> = stream
            .iter()
            .map(|(text, message)| NatsFrame { is_message: *message, bytes: text.as_bytes().to_vec() })
            .collect();
        assert_eq!(got, expected, "in pieces of {size}");
    }
}

/// A raw connection to a nats-server, without a client library.
struct Connection {
    lines: Lines<BufReader<OwnedReadHalf>>,
    to: OwnedWriteHalf,
}

impl Connection {
    async fn to(address: std::net::SocketAddr) -> Self {
        let (from, to) = TcpStream::connect(address).await.unwrap().into_split();
        let mut connection = Self { lines: BufReader::new(from).lines(), to };
        connection.send("CONNECT {\"verbose\":false}\r\nSUB numbers 1\r\n").await;
        connection.wait_until_processed().await;
        connection
    }

    async fn send(&mut self, text: &str) {
        self.to.write_all(text.as_bytes()).await.unwrap();
    }

    async fn publish_numbers(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let text = number.to_string();
            self.send(&format!("PUB numbers {}\r\n{text}\r\n", text.len())).await;
        }
    }

    async fn next_line(&mut self) -> String {
        timeout(TEST_TIMEOUT, self.lines.next_line())
            .await
            .expect("a line before the time-out")
            .unwrap()
            .expect("a line")
    }

    /// Waits until the server has processed everything that was sent before.
    async fn wait_until_processed(&mut self) {
        self.send("PING\r\n").await;
        while self.next_line().await != "PONG" {}
    }

    /// Returns the messages that arrive before the answer to a PING. It follows every message that was published before.
    async fn numbers_until_pong(&mut self) -> Vec<u32> {
        self.send("PING\r\n").await;
        let mut numbers = Vec::new();
        loop {
            let line = self.next_line().await;
            if line == "PONG" {
                return numbers;
            }
            numbers.extend(self.number_in_message(&line).await);
        }
    }

    /// Returns the next `count` messages.
    async fn next_numbers(&mut self, count: usize) -> Vec<u32> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let line = self.next_line().await;
            numbers.extend(self.number_in_message(&line).await);
        }
        numbers
    }

    async fn number_in_message(&mut self, line: &str) -> Option<u32> {
        match line.starts_with("MSG numbers 1 ") {
            true => Some(self.next_line().await.parse().unwrap()),
            false => None,
        }
    }
}

/// Starts a nats-server and a proxy, and connects a subscriber through the proxy and a publisher directly.
async fn start_nats_behind_proxy() -> (tempfile::TempDir, Nats, Proxy, Connection, Connection) {
    let scratch = tempfile::tempdir().unwrap();
    let nats = Nats::start(scratch.path(), &[]).await.unwrap();
    let proxy = Proxy::start_before_nats(nats.address(), &mut fastrand::Rng::with_seed(7)).await.unwrap();
    let subscriber = Connection::to(proxy.address).await;
    let mut publisher = Connection::to(nats.address()).await;
    publisher.send("UNSUB 1\r\n").await;
    (scratch, nats, proxy, subscriber, publisher)
}

#[tokio::test]
async fn messages_arrive_in_order_without_tampering() {
    let (_scratch, _nats, _proxy, mut subscriber, mut publisher) = start_nats_behind_proxy().await;
    publisher.publish_numbers(0..2_000).await;
    assert_eq!(subscriber.next_numbers(2_000).await, (0..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_proxy_counts_messages_that_it_loses_duplicates_and_delays() {
    let (_scratch, _nats, proxy, mut subscriber, mut publisher) = start_nats_behind_proxy().await;
    proxy.tamper(TamperingRates { lost: 20, doubled: 20, late: 20 });
    publisher.publish_numbers(0..1_000).await;
    publisher.wait_until_processed().await;
    let mut got = subscriber.numbers_until_pong().await;
    let tampered = proxy.tampered();
    let count = usize::try_from(1_000 - tampered.lost + tampered.doubled).unwrap();
    got.extend(subscriber.next_numbers(count - got.len()).await);
    let mut times = HashMap::new();
    got.iter().for_each(|number| *times.entry(*number).or_insert(0_u64) += 1);
    assert!((100..300).contains(&tampered.lost), "{tampered:?}");
    assert_eq!(times.len() as u64, 1_000 - tampered.lost);
    assert_eq!(times.values().filter(|times| **times == 2).count() as u64, tampered.doubled);
    let before = got.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(before > 20, "only {before} arrived before a message that was sent earlier");

    proxy.heal();
    publisher.publish_numbers(5_000..5_100).await;
    assert_eq!(subscriber.next_numbers(100).await, (5_000..5_100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_response_arrives_only_after_the_partition() {
    let (_scratch, _nats, proxy, mut partitioned, mut other) = start_nats_behind_proxy().await;
    other.send("SUB numbers 1\r\n").await;
    other.wait_until_processed().await;
    proxy.set_partition(Partition::NoResponses);
    partitioned.publish_numbers(7..8).await;
    assert_eq!(other.next_numbers(1).await, [7], "requests pass");
    let answer = partitioned.lines.next_line();
    // waits for: an answer, which must not arrive
    assert!(timeout(Duration::from_millis(200), answer).await.is_err());
    proxy.heal();
    assert_eq!(partitioned.next_numbers(1).await, [7]);
}

#[tokio::test]
async fn a_refused_connection_is_reset_and_cannot_reconnect_before_the_partition_ends() {
    let (_scratch, _nats, proxy, mut partitioned, _other) = start_nats_behind_proxy().await;
    proxy.set_partition(Partition::Refused);
    let cut = timeout(TEST_TIMEOUT, partitioned.lines.next_line())
        .await
        .expect("the connection ends before the time-out");
    assert!(!matches!(cut, Ok(Some(_))), "{cut:?}");
    let refused = TcpStream::connect(proxy.address).await.unwrap();
    let greeting = timeout(TEST_TIMEOUT, BufReader::new(refused).lines().next_line())
        .await
        .expect("the connection ends before the time-out");
    assert!(!matches!(greeting, Ok(Some(_))), "{greeting:?}");
    proxy.heal();
    Connection::to(proxy.address).await;
}

use std::collections::HashMap;

use engines::Nats;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::proxy::{Partition, Proxy};

/// What everything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn frames_are_the_same_however_the_bytes_come() {
    let said: &[(&str, bool)] = &[
        ("INFO {\"max_payload\":1048576}\r\n", false),
        ("MSG room 1 11\r\nMSG x 1 3\r\n\r\n", true),
        ("PING\r\n", false),
        ("MSG room 1 reply 0\r\n\r\n", true),
        ("HMSG room 9 12 15\r\nNATS/1.0\r\n\r\nabc\r\n", true),
        ("-ERR 'Slow Consumer'\r\n", false),
    ];
    let all: String = said.iter().map(|(text, _)| *text).collect();
    for size in 1..=all.len() {
        let mut frames = Frames::default();
        let mut got = Vec::new();
        for bytes in all.as_bytes().chunks(size) {
            frames.take_in(bytes);
            got.extend(std::iter::from_fn(|| frames.next()));
        }
        let expected: Vec<Frame> = said
            .iter()
            .map(|(text, message)| Frame { message: *message, bytes: text.as_bytes().to_vec() })
            .collect();
        assert_eq!(got, expected, "in pieces of {size}");
    }
}

/// A connection to a nats-server, spoken by hand.
struct Connection {
    lines: Lines<BufReader<OwnedReadHalf>>,
    to: OwnedWriteHalf,
}

impl Connection {
    async fn to(address: std::net::SocketAddr) -> Self {
        let (from, to) = TcpStream::connect(address).await.unwrap().into_split();
        let mut connection = Self { lines: BufReader::new(from).lines(), to };
        connection.say("CONNECT {\"verbose\":false}\r\nSUB numbers 1\r\n").await;
        connection.is_answered().await;
        connection
    }

    async fn say(&mut self, text: &str) {
        self.to.write_all(text.as_bytes()).await.unwrap();
    }

    async fn publishes(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let text = number.to_string();
            self.say(&format!("PUB numbers {}\r\n{text}\r\n", text.len())).await;
        }
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.expect("in time").unwrap().expect("a line")
    }

    /// Waits until everything that was said before has been taken in.
    async fn is_answered(&mut self) {
        self.say("PING\r\n").await;
        while self.line().await != "PONG" {}
    }

    /// The messages that come before the answer to a question that follows all that was published.
    async fn gets_what_was_published(&mut self) -> Vec<u32> {
        self.say("PING\r\n").await;
        let mut numbers = Vec::new();
        loop {
            let line = self.line().await;
            if line == "PONG" {
                return numbers;
            }
            numbers.extend(self.number_behind(&line).await);
        }
    }

    /// The next messages.
    async fn gets(&mut self, count: usize) -> Vec<u32> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let line = self.line().await;
            numbers.extend(self.number_behind(&line).await);
        }
        numbers
    }

    async fn number_behind(&mut self, line: &str) -> Option<u32> {
        match line.starts_with("MSG numbers 1 ") {
            true => Some(self.line().await.parse().unwrap()),
            false => None,
        }
    }
}

/// A nats-server, the proxy before it, a subscriber behind the proxy, and a publisher who is not.
async fn talk() -> (tempfile::TempDir, Nats, Proxy, Connection, Connection) {
    let scratch = tempfile::tempdir().unwrap();
    let nats = Nats::start(scratch.path(), &[]).await.unwrap();
    let proxy = Proxy::start_before_nats(nats.address(), &mut fastrand::Rng::with_seed(7)).await.unwrap();
    let subscriber = Connection::to(proxy.address).await;
    let mut publisher = Connection::to(nats.address()).await;
    publisher.say("UNSUB 1\r\n").await;
    (scratch, nats, proxy, subscriber, publisher)
}

#[tokio::test]
async fn untouched_messages_come_in_order() {
    let (_scratch, _nats, _proxy, mut subscriber, mut publisher) = talk().await;
    publisher.publishes(0..2_000).await;
    assert_eq!(subscriber.gets(2_000).await, (0..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn messages_are_lost_doubled_and_late_as_told() {
    let (_scratch, _nats, proxy, mut subscriber, mut publisher) = talk().await;
    proxy.tamper(Tampering { lost: 20, doubled: 20, late: 20 });
    publisher.publishes(0..1_000).await;
    publisher.is_answered().await;
    let mut got = subscriber.gets_what_was_published().await;
    let tampered = proxy.tampered();
    let count = usize::try_from(1_000 - tampered.lost + tampered.doubled).unwrap();
    got.extend(subscriber.gets(count - got.len()).await);
    let mut times = HashMap::new();
    got.iter().for_each(|number| *times.entry(*number).or_insert(0_u64) += 1);
    assert!((100..300).contains(&tampered.lost), "{tampered:?}");
    assert_eq!(times.len() as u64, 1_000 - tampered.lost);
    assert_eq!(times.values().filter(|times| **times == 2).count() as u64, tampered.doubled);
    let before = got.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(before > 20, "only {before} came before what was sent earlier");

    proxy.heal();
    publisher.publishes(5_000..5_100).await;
    assert_eq!(subscriber.gets(100).await, (5_000..5_100).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_answer_does_not_come_back_before_the_partition_is_over() {
    let (_scratch, _nats, proxy, mut parted, mut other) = talk().await;
    other.say("SUB numbers 1\r\n").await;
    other.is_answered().await;
    proxy.part(Partition::NoAnswer);
    parted.publishes(7..8).await;
    assert_eq!(other.gets(1).await, [7], "what is said gets there");
    let answer = parted.lines.next_line();
    // waits for: nothing, which takes its time
    assert!(timeout(Duration::from_millis(200), answer).await.is_err());
    proxy.heal();
    assert_eq!(parted.gets(1).await, [7]);
}

#[tokio::test]
async fn who_is_refused_is_cut_and_cannot_come_back_before_it_is_over() {
    let (_scratch, _nats, proxy, mut parted, _other) = talk().await;
    proxy.part(Partition::Refused);
    let cut = timeout(PATIENCE, parted.lines.next_line()).await.expect("in time");
    assert!(!matches!(cut, Ok(Some(_))), "{cut:?}");
    let refused = TcpStream::connect(proxy.address).await.unwrap();
    let greeting = timeout(PATIENCE, BufReader::new(refused).lines().next_line()).await.expect("in time");
    assert!(!matches!(greeting, Ok(Some(_))), "{greeting:?}");
    proxy.heal();
    Connection::to(proxy.address).await;
}

//! Probes and metrics on the operators' listener while strangers have every connection and a thousand probes wait.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::probes::status;
use crate::support::{Raw, Server, crowd, room_for_a_crowd};

/// `limits.connections`.
const CONNECTIONS: usize = 2_000;

/// Probes that are asked at the same time, again and again.
const PROBES: usize = 1_000;

/// How long the flood goes on.
const FLOOD: Duration = Duration::from_secs(20);

/// How long a probe may take meanwhile: what supervisors wait at the least.
const BOUND: Duration = Duration::from_secs(1);

/// A stranger who holds a connection with a body that never comes.
async fn stranger(address: SocketAddr, _: usize) -> Raw {
    let mut raw = Raw::connect(address).await;
    let head =
        "POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    // It may have been refused by now.
    let _ = raw.tries_to_write(head).await;
    raw
}

/// A thousand probes that come at once and wait for each other.
async fn many_probes(operators: SocketAddr) -> usize {
    let mut probes = JoinSet::new();
    for _ in 0..PROBES {
        probes.spawn(async move { status(&mut Raw::connect(operators).await, "/readyz").await });
    }
    probes.join_all().await.into_iter().filter(|status| *status == 200).count()
}

/// The slowest of some answers to a probe that comes beside everything else.
async fn slowest(operators: SocketAddr, until: Instant) -> (Duration, usize) {
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    while Instant::now() < until {
        for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
            let asked = Instant::now();
            assert_eq!(status(&mut Raw::connect(operators).await, path).await, 200, "{path}");
            slowest = slowest.max(asked.elapsed());
            count += 1;
        }
    }
    (slowest, count)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn probes_answer_while_the_limit_of_connections_is_reached_and_a_thousand_probes_wait() {
    let _room = room_for_a_crowd().await;
    let server = Server::serves_with(|config| {
        config.operator_listen = Some(([127, 0, 0, 1], 0).into());
        config.limits.connections = u32::try_from(CONNECTIONS).expect("few");
        config.limits.connections_per_address = 0;
    })
    .await;
    let (address, operators) = (server.address(), server.operators());
    let quiet = slowest(operators, Instant::now() + Duration::from_secs(2)).await;
    let end = Instant::now() + FLOOD;
    let strangers = async {
        let mut rounds = 0;
        while Instant::now() < end {
            let strangers = crowd(0..CONNECTIONS + 200, address, stranger).await;
            rounds += 1;
            // waits for: half of the time that a stranger's request may take
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(strangers);
        }
        rounds
    };
    let waiting = async {
        let mut asked = 0;
        while Instant::now() < end {
            assert_eq!(many_probes(operators).await, PROBES, "every one of them is answered");
            asked += PROBES;
        }
        asked
    };
    let (rounds, asked, flooded) = tokio::join!(strangers, waiting, slowest(operators, end));
    println!(
        "{rounds} rounds of {CONNECTIONS} strangers, {asked} probes by {PROBES}: beside them {} probes, the slowest {:?}; \
         without, {} and {:?}",
        flooded.1, flooded.0, quiet.1, quiet.0
    );
    assert!(flooded.0 <= BOUND, "{:?}", flooded.0);
}

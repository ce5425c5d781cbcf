//! Probes and metrics on the operators' listener, while unauthenticated connections reach the limit and a thousand probes run.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::probes::request_status;
use crate::support::{RawSocket, Server, connect_crowd, reserve_descriptors_for_a_crowd};

/// The setting `limits.connections` of the server: the most public connections.
const MAX_CONNECTIONS: usize = 2_000;

/// The number of probes that are sent at the same time; the test repeats them all the time.
const CONCURRENT_PROBES: usize = 1_000;

/// The duration of the flood.
const FLOOD_TIME: Duration = Duration::from_secs(20);

/// The longest time that a probe may take during the flood: the shortest time-out that supervisors use.
const MAX_PROBE_TIME: Duration = Duration::from_secs(1);

/// Opens an unauthenticated connection and sends a request whose body never arrives.
async fn connect_unauthenticated(address: SocketAddr, _: usize) -> RawSocket {
    let mut raw = RawSocket::connect(address).await;
    let head =
        "POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    // The server may have refused the connection.
    let _ = raw.tries_to_write(head).await;
    raw
}

/// Sends a thousand concurrent probes and returns how many were answered.
async fn send_probes(operators: SocketAddr) -> usize {
    let mut probes = JoinSet::new();
    for _ in 0..CONCURRENT_PROBES {
        probes
            .spawn(async move { request_status(&mut RawSocket::connect(operators).await, "/readyz").await });
    }
    probes.join_all().await.into_iter().filter(|status| *status == 200).count()
}

/// Sends probes one after another until `until`. Returns the longest time and the number of probes.
async fn slowest_probe(operators: SocketAddr, until: Instant) -> (Duration, usize) {
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    while Instant::now() < until {
        for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
            let asked = Instant::now();
            assert_eq!(request_status(&mut RawSocket::connect(operators).await, path).await, 200, "{path}");
            slowest = slowest.max(asked.elapsed());
            count += 1;
        }
    }
    (slowest, count)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn probes_are_answered_at_the_connection_limit_beside_a_thousand_other_probes() {
    let _room = reserve_descriptors_for_a_crowd().await;
    let server = Server::start_with_auth_and(|config| {
        config.operator_listen = Some(([127, 0, 0, 1], 0).into());
        config.limits.connections = u32::try_from(MAX_CONNECTIONS).expect("few");
        config.limits.connections_per_address = 0;
    })
    .await;
    let (address, operators) = (server.address(), server.operators());
    let quiet = slowest_probe(operators, Instant::now() + Duration::from_secs(2)).await;
    let end = Instant::now() + FLOOD_TIME;
    let unauthenticated_connections = async {
        let mut rounds = 0;
        while Instant::now() < end {
            let unauthenticated_connections =
                connect_crowd(0..MAX_CONNECTIONS + 200, address, connect_unauthenticated).await;
            rounds += 1;
            // waits for: half of the server's time-out for a request
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(unauthenticated_connections);
        }
        rounds
    };
    let waiting = async {
        let mut asked = 0;
        while Instant::now() < end {
            assert_eq!(send_probes(operators).await, CONCURRENT_PROBES, "every probe is answered");
            asked += CONCURRENT_PROBES;
        }
        asked
    };
    let (rounds, asked, flooded) =
        tokio::join!(unauthenticated_connections, waiting, slowest_probe(operators, end));
    println!(
        "{rounds} rounds of {MAX_CONNECTIONS} unauthenticated_connections, {asked} probes by {CONCURRENT_PROBES}: beside them {} probes, the slowest {:?}; \
         without, {} and {:?}",
        flooded.1, flooded.0, quiet.1, quiet.0
    );
    assert!(flooded.0 <= MAX_PROBE_TIME, "{:?}", flooded.0);
}

//! The simulated network: bytes are delayed, stop for a while, or never arrive.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chance::Chance;
use crate::wait_simulated;
use crate::watched::Watched;

/// The state of a simulated connection between a client and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Open,
    /// The link delivers no bytes; it keeps them until it is up again.
    Stalled,
    /// Both ends see that the link is closed.
    Cut,
    /// The client sees that the link is closed; the server receives nothing more.
    HalfOpen,
}

/// The most bytes that are in flight in one direction.
const MAX_BYTES_IN_FLIGHT: usize = 4_096;

/// The state that the two directions of a link share.
#[derive(Clone)]
struct Link {
    state: Watched<LinkState>,
    /// Cancelled when one direction has ended.
    ended: CancellationToken,
}

/// Makes a link and returns the client's and the server's end. A perfect link has no delays and no faults.
pub(crate) fn link(chance: &Chance, tasks: &TaskTracker, perfect: bool) -> (DuplexStream, DuplexStream) {
    let room = |chance: &Chance| chance.random_choice(&[64, 256, 1_024, 8_192, 65_536]);
    let (client, near) = duplex(room(chance));
    let (far, server) = duplex(room(chance));
    let link = Link { state: Watched::new(LinkState::Open), ended: CancellationToken::new() };
    let long = if perfect { 0 } else { chance.random_choice(&[0, 5, 50, 500]) };
    let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
    tasks.spawn(forward(near_read, far_write, link.clone(), chance.independent_generator(), long, true));
    tasks.spawn(forward(far_read, near_write, link.clone(), chance.independent_generator(), long, false));
    if !perfect {
        tasks.spawn(change_link_state_randomly(link, chance.independent_generator()));
    }
    (client, server)
}

/// Changes the state of a link at random: stops its bytes for a while, makes it half-open, or cuts it.
async fn change_link_state_randomly(link: Link, chance: Chance) {
    loop {
        if timeout(chance.random_millis(50, 6_000), link.ended.cancelled()).await.is_ok() {
            return;
        }
        match chance.random_below(5) {
            0 => return link.state.set(LinkState::Cut),
            1 => {
                link.state.set(LinkState::HalfOpen);
                wait_simulated(chance.random_millis(500, 20_000)).await;
                return link.state.set(LinkState::Cut);
            }
            _ => {
                link.state.set(LinkState::Stalled);
                wait_simulated(chance.random_millis(10, 3_000)).await;
                link.state.set(LinkState::Open);
            }
        }
    }
}

/// Copies the bytes of one direction until the link or the stream ends.
async fn forward(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    link: Link,
    chance: Chance,
    long: u64,
    to_server: bool,
) {
    let flow = async {
        let mut buffer = vec![0; MAX_BYTES_IN_FLIGHT];
        loop {
            let most = if long > 0 && chance.once_in(4) { 16 } else { MAX_BYTES_IN_FLIGHT };
            let read = from.read(&mut buffer[..most]).await.unwrap_or(0);
            if read == 0 {
                break;
            }
            let delay = if long > 0 { chance.random_delay(long) } else { Duration::ZERO };
            if !delay.is_zero() {
                wait_simulated(delay).await;
            }
            link.state.until(|state| state == LinkState::Open).await;
            if to.write_all(&buffer[..read]).await.is_err() {
                // The server's writes must fail when the client is gone, even if bytes still wait in the other direction.
                if !to_server {
                    link.state.set(LinkState::Cut);
                }
                break;
            }
        }
    };
    let end = tokio::select! {
        biased;
        end = link.state.until(|state| state == LinkState::Cut || state == LinkState::HalfOpen) => Some(end),
        () = flow => None,
    };
    if end == Some(LinkState::HalfOpen) && to_server {
        // The server's end stays open for a while and delivers nothing.
        link.state.until(|state| state == LinkState::Cut).await;
    }
    link.ended.cancel();
    let _ = to.shutdown().await;
}

//! The network: bytes that take their time, stop for a while, or never arrive.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::chance::Chance;
use crate::wait;

/// What becomes of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// Nothing gets through, yet.
    Held,
    /// Both ends find it closed.
    Cut,
    /// The client finds it closed, the server hears nothing any more.
    HalfOpen,
}

/// Most bytes on their way at once in one direction.
const CHUNK: usize = 4_096;

/// Makes a link: the client's end and the server's. A perfect one has no delays and lasts.
pub(crate) fn link(chance: &Chance, tasks: &TaskTracker, perfect: bool) -> (DuplexStream, DuplexStream) {
    let room = |chance: &Chance| chance.one_of(&[64, 256, 1_024, 8_192, 65_536]);
    let (client, near) = duplex(room(chance));
    let (far, server) = duplex(room(chance));
    let (state, seen) = watch::channel(State::Up);
    let long = if perfect { 0 } else { chance.one_of(&[0, 5, 50, 500]) };
    let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
    tasks.spawn(carry(near_read, far_write, seen.clone(), chance.fork(), long, false));
    tasks.spawn(carry(far_read, near_write, seen, chance.fork(), long, true));
    if perfect {
        // The link's state stays what it is when nobody can change it any more.
        drop(state);
    } else {
        tasks.spawn(trouble(state, chance.fork()));
    }
    (client, server)
}

/// What happens to a link in its life.
async fn trouble(state: watch::Sender<State>, chance: Chance) {
    loop {
        let calm = chance.millis(50, 6_000);
        if timeout(calm, state.closed()).await.is_ok() {
            return;
        }
        match chance.below(5) {
            0 => {
                state.send_replace(State::Cut);
                return;
            }
            1 => {
                state.send_replace(State::HalfOpen);
                wait(chance.millis(500, 20_000)).await;
                state.send_replace(State::Cut);
                return;
            }
            _ => {
                state.send_replace(State::Held);
                wait(chance.millis(10, 3_000)).await;
                state.send_replace(State::Up);
            }
        }
    }
}

/// Carries one direction's bytes to its end.
async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut state: watch::Receiver<State>,
    chance: Chance,
    long: u64,
    to_client: bool,
) {
    let flow = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let most = if long > 0 && chance.once_in(4) { 16 } else { CHUNK };
            let read = from.read(&mut buffer[..most]).await.unwrap_or(0);
            if read == 0 {
                break;
            }
            let delay = if long > 0 { chance.hiccup(long) } else { Duration::ZERO };
            if !delay.is_zero() {
                wait(delay).await;
            }
            // Nobody changes a perfect link, and its state is `Up`.
            let _ = state.clone().wait_for(|state| *state == State::Up).await;
            if to.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    let ended = async {
        let over = |state: &State| *state == State::Cut || *state == State::HalfOpen;
        match state.clone().wait_for(over).await.map(|state| *state) {
            Ok(state) => state,
            Err(_) => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        biased;
        end = ended => Some(end),
        () = flow => None,
    };
    if end == Some(State::HalfOpen) && !to_client {
        // The server's end stays open for a while, and nothing comes out of it.
        let _ = state.wait_for(|state| *state == State::Cut).await;
    }
    let _ = to.shutdown().await;
}

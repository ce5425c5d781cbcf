//! Thousands of connections. A process has only so many files, so a crowd comes when the one before it is gone.

use std::net::SocketAddr;

use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;

use super::Raw;

/// How many a crowd is at most.
pub(crate) const CROWD: usize = 10_000;

/// Files of the test itself, and of those that run beside it.
const OTHER_FILES: u64 = 1_000;

/// Connections that are made at once.
const AT_ONCE: usize = 50;

static ROOM: Mutex<()> = Mutex::const_new(());

/// Room for a crowd, for as long as this is kept.
pub(crate) async fn room_for_a_crowd() -> MutexGuard<'static, ()> {
    let room = ROOM.lock().await;
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("a limit of files");
    assert!(
        files >= CROWD as u64 + OTHER_FILES,
        "{files} open files are too few for this test; raise the hard limit (ulimit -Hn)"
    );
    room
}

/// Makes connections, some at a time, in the order of their numbers.
pub(crate) async fn crowd<F>(
    numbers: std::ops::Range<usize>,
    address: SocketAddr,
    connects: impl Fn(SocketAddr, usize) -> F,
) -> Vec<Raw>
where
    F: Future<Output = Raw> + Send + 'static,
{
    let mut all = Vec::with_capacity(numbers.len());
    for first in numbers.clone().step_by(AT_ONCE) {
        let mut connecting = JoinSet::new();
        for number in first..numbers.end.min(first + AT_ONCE) {
            let connection = connects(address, number);
            connecting.spawn(async move { (number, connection.await) });
        }
        let mut some = connecting.join_all().await;
        some.sort_unstable_by_key(|(number, _)| *number);
        all.extend(some.into_iter().map(|(_, raw)| raw));
    }
    all
}

//! Thousands of connections. The tests of a process share its limit of open files, so one test with a crowd runs at a time.

use std::net::SocketAddr;

use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;

use super::RawSocket;

/// The most connections that a test may open.
pub(crate) const CROWD_SIZE: usize = 10_000;

/// Files that this test opens besides the crowd, and files of tests that run at the same time.
const MAX_OTHER_FILES: u64 = 1_000;

/// How many connections are opened at the same time.
const CONNECT_BATCH: usize = 50;

static CROWD_LOCK: Mutex<()> = Mutex::const_new(());

/// Waits until no other test has a crowd, and raises the limit of open files. Drop the returned guard when the crowd is closed.
pub(crate) async fn reserve_descriptors_for_a_crowd() -> MutexGuard<'static, ()> {
    let lock = CROWD_LOCK.lock().await;
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("a limit of files");
    assert!(
        files >= CROWD_SIZE as u64 + MAX_OTHER_FILES,
        "{files} open files are too few for this test; raise the hard limit (ulimit -Hn)"
    );
    lock
}

/// Opens a connection for each number, several at a time. Returns the connections in the order of their numbers.
pub(crate) async fn connect_crowd<F>(
    numbers: std::ops::Range<usize>,
    address: SocketAddr,
    connects: impl Fn(SocketAddr, usize) -> F,
) -> Vec<RawSocket>
where
    F: Future<Output = RawSocket> + Send + 'static,
{
    let mut all = Vec::with_capacity(numbers.len());
    for first in numbers.clone().step_by(CONNECT_BATCH) {
        let mut connecting = JoinSet::new();
        for number in first..numbers.end.min(first + CONNECT_BATCH) {
            let connection = connects(address, number);
            connecting.spawn(async move { (number, connection.await) });
        }
        let mut some = connecting.join_all().await;
        some.sort_unstable_by_key(|(number, _)| *number);
        all.extend(some.into_iter().map(|(_, raw)| raw));
    }
    all
}

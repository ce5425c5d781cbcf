//! Databases for the tests of the PostgreSQL store.

use switchboard_protocol::Limits;
use switchboard_store::CommitMetrics;
use switchboard_store::clock::Clock;
use switchboard_store::postgres::{Capabilities, Settings};

/// Creates an empty database in the PostgreSQL that all tests share, and returns its URL.
pub(super) fn new_database() -> anyhow::Result<String> {
    let made = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { engines::shared_postgres().await?.new_database().await })
    });
    made.join().expect("it does not panic")
}

pub(super) fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        ca: None,
        name: None,
        readers: 2,
        limits: Limits::default(),
        strangers: true,
        tells_reads: false,
        clock: Clock::system(),
        metrics: CommitMetrics::default(),
        capabilities: Capabilities::default(),
    }
}

//! One of each for all tests of a process. What is static is never dropped: the watchdog ends it when the process ends,
//! and deletes its files.

use std::env::temp_dir;

use tokio::sync::OnceCell;

use crate::{Nats, Postgres};

/// The PostgreSQL of this process, which the first who asks starts. Let each test have a database of its own:
/// [`Postgres::new_database`].
pub async fn shared_postgres() -> anyhow::Result<&'static Postgres> {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    SHARED.get_or_try_init(async || Postgres::start_in(&temp_dir(), &[], true).await).await
}

/// The nats-server of this process, which the first who asks starts.
pub async fn shared_nats() -> anyhow::Result<&'static Nats> {
    static SHARED: OnceCell<Nats> = OnceCell::const_new();
    SHARED.get_or_try_init(async || Nats::start_in(&temp_dir(), &[], true).await).await
}

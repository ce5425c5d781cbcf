//! One PostgreSQL and one nats-server for all tests of a process. Rust never drops a static, so the watchdog ends the servers when
//! the process ends, and deletes their files.

use std::env::temp_dir;

use tokio::sync::OnceCell;

use crate::{Nats, Postgres};

/// The PostgreSQL of this process; the first call starts it. Each test should use its own database:
/// [`Postgres::new_database`].
pub async fn shared_postgres() -> anyhow::Result<&'static Postgres> {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    SHARED.get_or_try_init(async || Postgres::start_in(&temp_dir(), &[], true).await).await
}

/// The nats-server of this process; the first call starts it.
pub async fn shared_nats() -> anyhow::Result<&'static Nats> {
    static SHARED: OnceCell<Nats> = OnceCell::const_new();
    SHARED.get_or_try_init(async || Nats::start_in(&temp_dir(), &[], true).await).await
}

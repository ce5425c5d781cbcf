//! A real PostgreSQL and a real nats-server, as processes of whoever tests or measures with them.
//!
//! Each listens on a port of its own on 127.0.0.1 and keeps its files below a directory of the caller. Nothing of them
//! outlives the caller: dropping one ends its processes, and a watchdog ends them when the caller is gone without
//! having dropped anything, also by SIGKILL (`server.rs`, `watchdog.sh`).
//!
//! Linux only: the processes of a server are found in `/proc`.

mod account;
mod nats;
mod port;
mod postgres;
mod programs;
mod server;
mod shared;

pub use nats::Nats;
pub use postgres::Postgres;
pub use shared::{shared_nats, shared_postgres};

//! Starts a real PostgreSQL, a real nats-server and a real ACME server as child processes, for tests and measurements.
//!
//! Each listens on its own port of 127.0.0.1 and keeps its files below a directory of the caller. No process outlives the
//! caller: dropping a server ends its processes, and a watchdog ends them when the caller died without dropping it, even
//! by SIGKILL (`server.rs`, `watchdog.sh`).
//!
//! Linux only: the processes of a server are found in `/proc`.

mod account;
mod nats;
mod pebble;
mod port;
mod postgres;
mod programs;
mod server;
mod shared;

pub use nats::Nats;
pub use pebble::{Pebble, PebbleSettings};
pub use postgres::Postgres;
pub use shared::{shared_nats, shared_postgres};

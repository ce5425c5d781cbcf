//! Starts, kills, suspends and restarts PostgreSQL and nats-server, and checks that they leave nothing behind.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod nats;
mod orphans;
mod postgres;
mod processes;

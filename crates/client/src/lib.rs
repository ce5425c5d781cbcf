//! The Rust client of Switchboard, over the WebSocket alone: it can do nothing that another program
//! could not. The CLI, the tests and the load generator use it.
//!
//! It keeps no state of conversations and does not connect again by itself. A program that needs that keeps a
//! cursor per conversation, waits as [`Client::reconnect`] says, sends the cursors in the next `hello`, and pages after a
//! `gap` with `sync`.

mod client;
mod error;
mod reconnect;
mod wire;

pub use client::{Client, MAX_KEPT};
pub use error::ClientError;
pub use reconnect::Reconnect;

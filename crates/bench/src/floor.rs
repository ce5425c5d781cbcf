//! Baselines, here called *floors*: the rates and latencies that this machine reaches without a chat server.

pub(crate) mod append;
pub(crate) mod log_first;
pub(crate) mod postgres;
pub(crate) mod sockets;
pub(crate) mod sqlite;

//! The floors: what the machine itself can do, with nothing of a chat in it.

pub(crate) mod append;
pub(crate) mod log_first;
pub(crate) mod postgres;
pub(crate) mod sockets;
pub(crate) mod sqlite;

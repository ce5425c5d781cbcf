//! Switchboard, the server.

//! Real-socket load on a Switchboard server.

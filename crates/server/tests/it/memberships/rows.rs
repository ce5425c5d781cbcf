//! What tests of memberships do to a database.

/// Lets nobody read memberships for a minute.
pub(super) const HOLD_MEMBERS: &str =
    "BEGIN; LOCK TABLE members IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)";

/// How many wait for that.
pub(super) const WAITING_FOR_MEMBERS: &str =
    "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
     WHERE d.datname = current_database() AND relation = 'members'::regclass AND NOT granted";

/// Ends it.
pub(super) const END_HOLDING: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()";

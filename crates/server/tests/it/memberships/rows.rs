//! SQL for tests with very many memberships.

use std::path::Path;

/// Locks the table of memberships for a minute, so that no query can read it.
pub(super) const LOCK_MEMBERS: &str =
    "BEGIN; LOCK TABLE members IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)";

/// Counts the queries that wait for the lock of [`LOCK_MEMBERS`].
pub(super) const COUNT_WAITING_FOR_MEMBERS: &str =
    "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
     WHERE d.datname = current_database() AND relation = 'members'::regclass AND NOT granted";

/// Ends the transaction of [`LOCK_MEMBERS`] and so releases its lock.
pub(super) const TERMINATE_LOCK_HOLDER: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()";

/// Counts the users who have a `last_seen`, which the server writes when a user goes offline.
pub(crate) const COUNT_USERS_WITH_LAST_SEEN: &str = "SELECT count(*) FROM users WHERE last_seen IS NOT NULL";

/// Begins another segment of PostgreSQL's write-ahead log, which needs space on the disk.
pub(crate) const SWITCH_WAL_SEGMENT: &str = "SELECT pg_switch_wal()";

/// The user id of a customer.
pub(crate) fn customer_id(number: usize) -> String {
    format!("c{number:06}")
}

/// SQL that adds a direct conversation with one message for each customer in a table of numbers and names. The conversation
/// with the highest number is the latest. PostgreSQL runs `NOT EXISTS` as a join; for `NOT IN` it would compare all pairs of rows.
fn insert_conversations_sql(owner: &str) -> String {
    format!(
        r#"INSERT INTO users (name) SELECT name FROM customers n
           WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.name = n.name);
           INSERT INTO users (name) VALUES ('{owner}');
           INSERT INTO conversations (name, public, head, messages, last_message, members, admins, at)
           SELECT '@' || name || ':{owner}', false, 1, 1, 1, 2, 0, 1600000000000 + number
           FROM customers ORDER BY number;
           INSERT INTO members (conversation, "user", role, since, read, received, sent, read_messages, read_sent)
           SELECT c.id, u.id, 1, 0, 0, 0, CASE WHEN u.name = n.name THEN 1 ELSE 0 END, 0, 0
           FROM customers n JOIN conversations c ON c.name = '@' || n.name || ':{owner}'
           JOIN users u ON u.name IN (n.name, '{owner}');
           INSERT INTO events (conversation, seq, kind, sender, at, messages, body)
           SELECT c.id, 1, 1, u.id, c.at, 1, '{{"text":"hi"}}'
           FROM customers n JOIN conversations c ON c.name = '@' || n.name || ':{owner}' JOIN users u ON u.name = n.name;
           DROP TABLE customers;
           ANALYZE;"#
    )
}

/// The statements that add `count` customers to a PostgreSQL database, as [`fill`] describes.
pub(crate) fn fill_postgres(owner: &str, count: usize) -> String {
    format!(
        "CREATE TEMPORARY TABLE customers AS SELECT number, 'c' || lpad(number::text, 6, '0') AS name
         FROM generate_series(1, {count}) number; {}",
        insert_conversations_sql(owner)
    )
}

/// Adds `count` customers to the SQLite database of a stopped server, as [`fill`] describes.
pub(crate) fn fill_sqlite(data: &Path, owner: &str, count: usize) {
    let db = rusqlite::Connection::open(data.join("switchboard.db")).expect("the database");
    let numbers = format!(
        "BEGIN; CREATE TEMPORARY TABLE customers AS
         WITH RECURSIVE n (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n WHERE number < {count})
         SELECT number, printf('c%06d', number) AS name FROM n; {} COMMIT;",
        insert_conversations_sql(owner).replace("ANALYZE;", "")
    );
    db.execute_batch(&numbers).expect("filled");
}

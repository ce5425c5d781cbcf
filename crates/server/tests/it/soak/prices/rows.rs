//! Inserts rows directly, because commands would take hours to store them.

use crate::support::Server;

/// Makes every user a member of a room, as 100,000 invitations would.
pub(super) fn add_every_user_to(server: &Server, room: &str) {
    let db = rusqlite::Connection::open(server.data().join("switchboard.db")).expect("the database");
    let sql = "INSERT OR IGNORE INTO members (conversation, user, role, since, read, received, sent, read_messages, read_sent)
        SELECT c.id, u.id, 1, 1, 1, 1, 0, 0, 0 FROM conversations c, users u WHERE c.name = ?1";
    assert!(db.execute(sql, [room]).expect("rows") >= 100_000);
}

/// Inserts messages in mallory's note to self with 500 edits of 16 KB each.
pub(super) fn insert_many_edits(server: &Server, messages: u32) {
    let db = rusqlite::Connection::open(server.data().join("switchboard.db")).expect("the database");
    let sql = format!(
        "BEGIN;
        CREATE TEMP TABLE it AS SELECT c.id AS c, u.id AS u, c.at AS at FROM conversations c, users u
            WHERE c.name = '@mallory:mallory' AND u.name = 'mallory';
        WITH RECURSIVE m (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM m WHERE n < {messages} - 1),
            e (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM e WHERE n < 500)
        INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body) SELECT it.c, 2 + m.n * 501 + e.n, CASE WHEN e.n = 0 THEN 1 ELSE 2 END, it.u, it.at, 2 + m.n,
            CASE WHEN e.n = 0 THEN 'key' || m.n END,
            CASE WHEN e.n = 0 THEN '{{\"text\":\"x\"}}'
                ELSE '{{\"target\":' || (2 + m.n * 501) || ',\"text\":\"' || hex(zeroblob(8000)) || '\"}}' END
            FROM it, m, e;
        INSERT INTO amendments SELECT e.conversation, json_extract(e.body, '$.target'), e.seq FROM events e, it
            WHERE e.conversation = it.c AND e.kind = 2;
        UPDATE conversations SET head = 1 + {messages} * 501, messages = 1 + {messages}, last_message = 2 + ({messages} - 1) * 501
            WHERE id = (SELECT c FROM it);
        UPDATE members SET sent = 1 + {messages} WHERE conversation = (SELECT c FROM it);
        COMMIT; PRAGMA wal_checkpoint(TRUNCATE);"
    );
    db.execute_batch(&sql).expect("rows");
}

//! Changes rows of the feed that no command can change.

use crate::support::Server;

/// Deletes the second page of the feed of a server that has stopped.
pub(super) fn delete_second_page(server: &Server) {
    let db = rusqlite::Connection::open(server.data().join("switchboard.db")).expect("the database");
    let delete =
        "DELETE FROM feed_pages WHERE first = (SELECT first FROM feed_pages ORDER BY first LIMIT 1 OFFSET 1)";
    assert_eq!(db.execute(delete, []).expect("deleted"), 1);
}

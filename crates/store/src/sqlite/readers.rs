//! The reader threads of an SQLite database, each with a connection that only reads.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use switchboard_protocol::Limits;

use super::IDLE_TIMEOUT;
use super::query::reader;
use crate::batch::WriterState;
use crate::change::OperationError;
use crate::read::{LookupResult, Reader};
pub(super) use crate::readers::ReadersClosedSignal;
use crate::readers::{self, ReaderConnection, failure_to_refusal};
use crate::refusal::Refusal;

/// The reader threads.
pub(super) type Readers = readers::Readers<SqliteReader>;

/// A connection that only reads.
pub(super) struct SqliteReader {
    pub(super) db: Connection,
    pub(super) limits: Arc<Limits>,
    pub(super) state: Arc<WriterState>,
}

impl ReaderConnection for SqliteReader {
    type Rows = Connection;

    const IDLE_TIMEOUT: Duration = IDLE_TIMEOUT;

    fn read<T>(
        &mut self,
        read: impl Fn(&Reader<'_, Connection>) -> LookupResult<T, Connection>,
    ) -> Result<T, Refusal> {
        let answer = ReadTransaction::begin(&self.db)
            .map_err(OperationError::from)
            .and_then(|_transaction| read(&reader(&self.db, &self.limits, &self.state)));
        failure_to_refusal(answer)
    }

    fn free_memory(&mut self) {
        super::free_page_cache(&self.db);
    }
}

/// A read transaction that ends when this is dropped. `rusqlite::Transaction` does the same, but parses its statements each
/// time, which takes as long as a short read.
struct ReadTransaction<'a>(&'a Connection);

impl<'a> ReadTransaction<'a> {
    fn begin(db: &'a Connection) -> rusqlite::Result<Self> {
        db.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self(db))
    }
}

impl Drop for ReadTransaction<'_> {
    fn drop(&mut self) {
        // The rollback can be ignored: if it fails, SQLite has already rolled back, and a read has written nothing.
        let _ = self.0.prepare_cached("ROLLBACK").and_then(|mut end| end.execute([]));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;
    use crate::ban::Standing;
    use crate::fair_queue::LaneOwner;
    use crate::sqlite::{Access, READER_THREADS, open_database, open_reader};
    use switchboard_protocol::UserId;

    fn user(name: &str) -> LaneOwner {
        LaneOwner::User(UserId::parse(name).expect("a user id"))
    }

    #[tokio::test]
    async fn a_user_with_many_long_reads_delays_no_other_user() {
        let data = tempfile::TempDir::new().expect("a directory");
        drop(open_database(data.path()).expect("a database"));
        let (limits, state) = (Arc::new(Limits::default()), Arc::new(WriterState::default()));
        let open = |_| {
            open_reader(data.path(), Access::Shared).map(|db| SqliteReader {
                db,
                limits: limits.clone(),
                state: state.clone(),
            })
        };
        let (readers, _closed) = Readers::start("reader", (0..READER_THREADS).map(open)).expect("readers");
        let (releases, long): (Vec<_>, Vec<_>) = (0..READER_THREADS)
            .map(|_| {
                let (release, until) = sync_channel::<()>(1);
                (release, readers.read(user("alice"), move |_| Ok(until.recv().is_ok())))
            })
            .unzip();
        let more: Vec<_> = (0..100).map(|n| readers.read(user("alice"), move |_| Ok(n))).collect();
        let other = tokio::time::timeout(Duration::from_secs(10), readers.read(user("bob"), |_| Ok("bob's")));
        assert_eq!(other.await.expect("in time"), Ok("bob's"));
        // A write over HTTP checks its token before it is queued, and that check must not wait for the user's reads.
        let alice = UserId::parse("alice").expect("a user id");
        let token = tokio::time::timeout(Duration::from_secs(10), readers.standing(&alice));
        assert_eq!(
            token.await.expect("in time"),
            Ok(Standing::default()),
            "a token is checked beside its user's reads"
        );
        for (release, read) in releases.into_iter().zip(long) {
            release.send(()).expect("it waits");
            assert_eq!(read.await, Ok(true));
        }
        for (n, read) in more.into_iter().enumerate() {
            assert_eq!(read.await, Ok(n));
        }
    }
}

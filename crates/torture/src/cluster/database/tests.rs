use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks whether TLS is spoken, which is the shortest question that a PostgreSQL answers.
async fn answers(proxy: &Proxy) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(proxy.address).await?;
        socket.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await?;
        socket.read_u8().await
    };
    matches!(timeout(PATIENCE, ask).await.expect("in time"), Ok(b'N'))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_survives_one_primary_after_the_other() {
    let scratch = tempfile::tempdir().unwrap();
    let mut database = Database::start(scratch.path()).await.unwrap();
    let proxy = Proxy::start(database.primary.address()).await.unwrap();
    database.primary.psql("CREATE TABLE kept (number int)").await.unwrap();
    let ends =
        [End::Killed, End::Silent(Duration::from_millis(100)), End::StandbyAway(Duration::from_millis(100))];
    for (number, end) in (1..).zip(ends) {
        database.primary.psql(&format!("INSERT INTO kept VALUES ({number})")).await.unwrap();
        assert!(answers(&proxy).await);
        let before = database.primary.address();
        database.fail_over(end, &[&proxy]).await.unwrap();
        assert_ne!(database.primary.address(), before);
        assert!(answers(&proxy).await, "after {end:?}");
        let kept = database.primary.psql("SELECT count(*) FROM kept").await.unwrap();
        assert_eq!(kept, number.to_string(), "after {end:?}");
    }
    let confirms = "SELECT sync_state FROM pg_stat_replication";
    assert_eq!(database.primary.psql(confirms).await.unwrap(), "sync");
}

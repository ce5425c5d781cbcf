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
    let ends =
        [End::Killed, End::Silent(Duration::from_millis(100)), End::StandbyAway(Duration::from_millis(100))];
    let mut kept = Vec::new();
    for end in ends {
        // Whatever is committed will do; a database is.
        let url = database.primary.new_database().await.unwrap();
        kept.extend(url.rsplit('/').next().map(str::to_owned));
        assert!(answers(&proxy).await);
        let before = database.primary.address();
        database.fail_over(end, &[&proxy]).await.unwrap();
        assert_ne!(database.primary.address(), before);
        assert!(answers(&proxy).await, "after {end:?}");
        let there = database.primary.psql("\\list").await.unwrap();
        assert!(
            kept.iter().all(|name| there.contains(name)),
            "after {end:?}: {kept:?}, and there are\n{there}"
        );
    }
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 2, "the primary and its standby");
}

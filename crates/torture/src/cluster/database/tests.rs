use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

const SSL_REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether PostgreSQL answers through the proxy to an SSLRequest, the shortest message that it answers.
async fn answers_ssl_request(proxy: &Proxy) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(proxy.address).await?;
        socket.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await?;
        socket.read_u8().await
    };
    matches!(timeout(SSL_REQUEST_TIMEOUT, ask).await.expect("an answer before the time-out"), Ok(b'N'))
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_data_survives_three_lost_primaries() {
    let scratch = tempfile::tempdir().unwrap();
    let mut database = Database::start(scratch.path()).await.unwrap();
    let proxy = Proxy::start(database.primary.address()).await.unwrap();
    let ends = [
        PrimaryLoss::Killed,
        PrimaryLoss::Unreachable(Duration::from_millis(100)),
        PrimaryLoss::StandbyUnreachable(Duration::from_millis(100)),
    ];
    let mut kept = Vec::new();
    for end in ends {
        // Commits something that must survive the failover: a new database.
        let url = database.primary.new_database().await.unwrap();
        kept.extend(url.rsplit('/').next().map(str::to_owned));
        assert!(answers_ssl_request(&proxy).await);
        let before = database.primary.address();
        database.fail_over(end, &[&proxy]).await.unwrap();
        assert_ne!(database.primary.address(), before);
        assert!(answers_ssl_request(&proxy).await, "after {end:?}");
        let there = database.primary.psql("\\list").await.unwrap();
        assert!(
            kept.iter().all(|name| there.contains(name)),
            "after {end:?}: {kept:?} are expected, and these exist\n{there}"
        );
    }
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 2, "directories of the primary and its standby");
}

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use engines::Postgres;
use tempfile::{Builder, TempDir};
use tokio::net::TcpStream;
use tokio::time::timeout;

const WRITE: &str = "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('committed')";
const READ: &str = "SELECT word FROM kept";

#[tokio::test]
async fn committed_data_survive_a_kill() {
    let scratch = TempDir::new().unwrap();
    let mut postgres = Postgres::start(scratch.path(), &["work_mem=5MB"]).await.unwrap();
    let address = postgres.address();
    assert_eq!(postgres.url(), format!("postgres://switchboard@{address}/switchboard"));
    assert_eq!(postgres.psql("SHOW work_mem; SHOW fsync").await.unwrap(), "5MB\non");
    postgres.psql(WRITE).await.unwrap();

    postgres.kill().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    let error = postgres.psql(READ).await.unwrap_err().to_string();
    assert!(error.contains("Connection refused"), "{error}");
    postgres.kill().await.unwrap();

    for _ in 0..3 {
        postgres.start_again().await.unwrap();
        assert_eq!(postgres.address(), address);
        assert_eq!(postgres.psql(READ).await.unwrap(), "committed");
        postgres.kill().await.unwrap();
    }
}

#[tokio::test]
async fn each_new_database_is_separate() {
    let postgres = engines::shared_postgres().await.unwrap();
    let (one, other) = tokio::try_join!(postgres.new_database(), postgres.new_database()).unwrap();
    assert_ne!(one, other);
    let name = one.rsplit('/').next().unwrap();
    let query = format!("SELECT encoding, datcollate FROM pg_database WHERE datname = '{name}'");
    assert_eq!(postgres.psql(&query).await.unwrap(), "6|C");
}

#[tokio::test]
async fn the_error_of_a_query_has_the_message_of_postgres() {
    let postgres = engines::shared_postgres().await.unwrap();
    let error = postgres.psql("SELECT nonsense").await.unwrap_err().to_string();
    assert!(error.contains("column \"nonsense\" does not exist"), "{error}");
}

#[tokio::test]
async fn the_error_of_a_wrong_setting_has_the_log() {
    let scratch = TempDir::new().unwrap();
    let error = Postgres::start(scratch.path(), &["max_nonsense=1"]).await.unwrap_err().to_string();
    assert!(error.contains("unrecognized configuration parameter \"max_nonsense\""), "{error}");
}

#[tokio::test]
async fn a_suspended_server_does_not_answer() {
    let scratch = TempDir::new().unwrap();
    let postgres = Postgres::start(scratch.path(), &[]).await.unwrap();
    postgres.pause().unwrap();
    // The kernel accepts the connection, but the suspended PostgreSQL does not answer.
    TcpStream::connect(postgres.address()).await.unwrap();
    assert!(timeout(Duration::from_millis(300), postgres.psql("SELECT 1")).await.is_err());
    postgres.resume().unwrap();
    assert_eq!(postgres.psql("SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn suspending_stops_a_running_query() {
    let scratch = TempDir::new().unwrap();
    let postgres = Postgres::start(scratch.path(), &[]).await.unwrap();
    // If a query ends before the test has found or suspended its process, the test tries the next one. A query that is not
    // suspended would end within the time for which the test watches the suspended one.
    for _ in 0..20 {
        let query = postgres.psql("SELECT count(*) FROM generate_series(1, 500000)");
        tokio::pin!(query);
        let is_running = async {
            let query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%generate_series(1,%' AND state = 'active'";
            while postgres.psql(query).await.unwrap() == "1" {}
        };
        tokio::select! {
            _ = &mut query => continue,
            () = is_running => {}
        }
        postgres.pause().unwrap();
        let stopped = timeout(Duration::from_secs(2), &mut query).await.is_err();
        postgres.resume().unwrap();
        if stopped {
            assert_eq!(query.await.unwrap(), "500000");
            return;
        }
    }
    panic!("no query was stopped by a pause");
}

#[tokio::test]
async fn a_promoted_standby_has_all_committed_data() {
    let scratch = TempDir::new().unwrap();
    let mut primary = Postgres::start(scratch.path(), &[]).await.unwrap();
    let standby = primary.start_standby(scratch.path(), true).await.unwrap();
    let second = standby_of(&primary, &scratch).await;
    primary.psql(WRITE).await.unwrap();
    let error = standby.psql(WRITE).await.unwrap_err().to_string();
    assert!(error.contains("read-only transaction"), "{error}");

    primary.kill().await.unwrap();
    drop(second);
    standby.promote().await.unwrap();
    assert_eq!(standby.psql(READ).await.unwrap(), "committed");
    // The commit waits for no standby, because the new primary does not have the old primary's list of standbys.
    standby.psql("INSERT INTO kept VALUES ('later')").await.unwrap();
    standby.new_database().await.unwrap();
}

/// Creates an asynchronous standby of the primary.
async fn standby_of(primary: &Postgres, scratch: &TempDir) -> Postgres {
    let standby = primary.start_standby(scratch.path(), false).await.unwrap();
    let states = "SELECT sync_state FROM pg_stat_replication ORDER BY sync_state";
    assert_eq!(primary.psql(states).await.unwrap(), "async\nsync");
    standby
}

#[tokio::test]
async fn a_commit_waits_for_a_synchronous_standby() {
    let scratch = TempDir::new().unwrap();
    let primary = Postgres::start(scratch.path(), &[]).await.unwrap();
    let standby = primary.start_standby(scratch.path(), true).await.unwrap();
    standby.pause().unwrap();
    let write = primary.psql(WRITE);
    tokio::pin!(write);
    assert!(timeout(Duration::from_millis(500), &mut write).await.is_err());
    standby.resume().unwrap();
    write.await.unwrap();
}

#[tokio::test]
async fn a_temporary_directory_is_made_passable_for_the_account() {
    let only_ours = Permissions::from_mode(0o700);
    let scratch = Builder::new().permissions(only_ours).tempdir().unwrap();
    let postgres = Postgres::start(&scratch.path().join("one/two"), &[]).await.unwrap();
    let directory = postgres.psql("SHOW data_directory").await.unwrap();
    assert!(Path::new(&directory).starts_with(scratch.path()), "{directory}");
}

#[tokio::test]
async fn a_directory_of_the_user_keeps_its_permissions() {
    let only_ours = Permissions::from_mode(0o700);
    let closed = Builder::new().prefix("closed-").permissions(only_ours).tempdir_in("/var/tmp").unwrap();
    let mode = || closed.path().metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o700);
    let postgres = Postgres::start(&closed.path().join("scratch"), &[]).await.unwrap();
    let directory = postgres.psql("SHOW data_directory").await.unwrap();
    assert_eq!(mode(), 0o700);
    drop(postgres);
    // The crate must delete only a directory that it created outside of the caller's directory.
    assert_eq!(Path::new(&directory).exists(), directory.starts_with("/var/tmp/closed-"));
}

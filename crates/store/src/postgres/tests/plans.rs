//! The plans of queries use indexes, even if the tables have no statistics.

use serde_json::json;

use super::{Node, assert_sound, new_database, query_texts};
use crate::Committed;
use crate::postgres::commit::SESSION_SETUP;
use crate::postgres::connect::BlockingConnection;
use crate::postgres::target::Target;
use crate::postgres::{query, readers, rows};

#[tokio::test]
async fn every_statement_uses_the_whole_key_even_in_empty_tables() {
    let url = new_database().await;
    Node::new(&url).await.stop().await;
    let explain = move || {
        let link = BlockingConnection::open(&Target::new(&url, None).expect("a target")).expect("connected");
        link.run(link.client().batch_execute(SESSION_SETUP)).expect("set up");
        for (n, sql) in rows::statements().enumerate() {
            // A statement without parameters is skipped, because it looks up no rows.
            if !sql.contains("$1") {
                continue;
            }
            let parameters = (1..20).take_while(|n| sql.contains(&format!("${n}"))).map(|_| "NULL");
            let parameters = parameters.collect::<Vec<_>>().join(", ");
            let explain = format!("PREPARE p{n} AS {sql}; EXPLAIN EXECUTE p{n}({parameters})");
            let plan = link.run(link.client().simple_query(&explain)).expect("a plan");
            let plan: Vec<_> = plan
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                })
                .collect();
            let plan = plan.join("\n");
            assert!(!plan.contains("Seq Scan"), "{sql}\n{plan}");
            // This is the only join condition that needs no index.
            let filters = plan.replace("Join Filter: (w.upto > m.read)", "");
            assert!(!filters.contains("Join Filter"), "{sql}\n{plan}");
        }
    };
    tokio::task::spawn_blocking(explain).await.expect("all of them");
}

#[tokio::test]
async fn a_reader_plans_a_statement_once() {
    let url = new_database().await;
    Node::new(&url).await.stop().await;
    let executes = move || {
        let link = BlockingConnection::open(&Target::new(&url, None).expect("a target")).expect("connected");
        link.run(link.client().batch_execute(readers::READER_SETTINGS)).expect("set up");
        for user in 0..10_i64 {
            // PostgreSQL estimates the number of rows by the length of the list, so other lengths may lead to other plans.
            let conversations: Vec<i64> = (0..=user).collect();
            link.run(link.rows(query::SELECT_LISTED_CONVERSATIONS, &[&user, &conversations]))
                .expect("no rows");
        }
        let plans = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE generic_plans + custom_plans = 10";
        let plans = link.run(link.client().query_one(plans, &[])).expect("the statement");
        assert_eq!((plans.get::<_, i64>(0), plans.get::<_, i64>(1)), (10, 0));
    };
    tokio::task::spawn_blocking(executes).await.expect("all of them");
}

/// The writer counts the unread messages only over a few events; for a longer distance the readers count them.
#[tokio::test]
async fn the_readers_count_for_a_cursor_in_the_middle_of_a_long_log() {
    let url = new_database().await;
    let mut node = Node::new(&url).await;
    node.says("mallory", "@mallory", "first").await;
    query_texts(
        &url,
        "INSERT INTO events SELECT c.id, i, 1, u.id, c.at, i, 'k' || i, '{\"text\":\"x\"}'
            FROM conversations c, users u, generate_series(2, 20000) i;
         UPDATE conversations SET head = 20000, messages = 20000, last_message = 20000;
         UPDATE members SET sent = 20000;
         ANALYZE",
    )
    .await;
    let explained = url.clone();
    let explain = move || {
        let link =
            BlockingConnection::open(&Target::new(&explained, None).expect("a target")).expect("connected");
        link.run(link.client().batch_execute(SESSION_SETUP)).expect("set up");
        let cursors = rows::statements().find(|sql| sql.contains("s.from_head")).expect("the statement");
        let explain = |upto: u64| {
            let explain = format!(
                "DEALLOCATE ALL; PREPARE p AS {cursors}; EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF)
                 EXECUTE p('{{@mallory:mallory}}', '{{mallory}}', '{{{upto}}}', 1, 64)"
            );
            let plan = link.run(link.client().simple_query(&explain)).expect("a plan");
            let lines = plan.iter().filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
            lines.collect::<Vec<_>>()
        };
        let events_read = |plan: &[String]| {
            let scans = plan.iter().filter(|line| line.contains(" on events "));
            assert!(scans.clone().count() >= 2, "{plan:#?}");
            let rows = scans.map(|line| match line.split_once("rows=") {
                Some((_, rows)) => {
                    rows.split(' ').next().expect("a number").parse::<f64>().expect("a number")
                }
                None => 0.0,
            });
            rows.sum::<f64>()
        };
        for (upto, most) in
            [(10_000, 0.0), (100, 0.0), (19_900, 0.0), (60, 61.0), (19_950, 51.0), (20_000, 1.0)]
        {
            let plan = explain(upto);
            assert!(events_read(&plan) <= most, "{upto}: {plan:#?}");
        }
    };
    tokio::task::spawn_blocking(explain).await.expect("explained");
    // A new node counts for these cursors, and `assert_sound` checks its counts.
    node.stop().await;
    let mut node = Node::new(&url).await;
    for upto in [10_000, 10_001, 10_100, 19_990] {
        let read = node.tries("mallory", "read", json!({"conversation": "@mallory", "upto": upto})).await;
        assert!(matches!(read, Ok(Committed::Cursor(cursor)) if cursor.has_moved && cursor.upto.0 == upto));
    }
    assert_sound(&url).await;
}

#[tokio::test]
async fn trimming_the_feed_reads_only_what_it_removes() {
    let url = new_database().await;
    Node::new(&url).await.stop().await;
    query_texts(
        &url,
        "DELETE FROM feed_pages;
         INSERT INTO feed_pages SELECT i, i, i, '' FROM generate_series(1, 10000) i;
         ANALYZE feed_pages",
    )
    .await;
    let explain = move || {
        let link = BlockingConnection::open(&Target::new(&url, None).expect("a target")).expect("connected");
        link.run(link.client().batch_execute(SESSION_SETUP)).expect("set up");
        let trim =
            rows::statements().find(|sql| sql.starts_with("DELETE FROM feed_pages")).expect("the statement");
        link.run(link.client().batch_execute(&format!("PREPARE p AS {trim}"))).expect("prepared");
        for (before, removed, oldest) in [(1, 0, 1), (11, 10, 11), (i64::MAX, 4_000, 4_011)] {
            let explain = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE p('{{{before}}}', 4000)");
            let plan = link.run(link.client().simple_query(&explain)).expect("a plan");
            let lines = plan.iter().filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
            let lines: Vec<_> = lines.collect();
            let rows =
                lines.iter().filter_map(|line| line.split("actual rows=").nth(1)?.split(['.', ' ']).next());
            let most = rows.filter_map(|rows| rows.parse::<u64>().ok()).max().expect("rows");
            assert!(most <= removed + 1, "{before}: {lines:#?}");
            let first =
                link.run(link.client().query_one("SELECT min(first) FROM feed_pages", &[])).expect("pages");
            assert_eq!(first.get::<_, i64>(0), oldest);
        }
    };
    tokio::task::spawn_blocking(explain).await.expect("explained");
}

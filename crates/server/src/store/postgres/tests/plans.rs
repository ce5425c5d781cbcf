//! How the database finds what it is asked for. In tables that it knows nothing about it would rather guess.

use super::{Node, new_database};
use crate::store::postgres::commit::SETUP;
use crate::store::postgres::connect::Link;
use crate::store::postgres::rows;
use crate::store::postgres::target::Target;

#[tokio::test]
async fn every_row_is_found_by_its_whole_key_in_tables_that_are_empty() {
    let url = new_database().await;
    Node::new(&url).await.ends().await;
    let explain = move || {
        let link = Link::open(&Target::new(&url, None).expect("a target")).expect("connected");
        link.run(link.client().batch_execute(SETUP)).expect("set up");
        for (n, sql) in rows::statements().enumerate() {
            // Nothing is looked up by what has no parameters.
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
            // The one that is no key.
            let filters = plan.replace("Join Filter: (w.upto > m.read)", "");
            assert!(!filters.contains("Join Filter"), "{sql}\n{plan}");
        }
    };
    tokio::task::spawn_blocking(explain).await.expect("all of them");
}

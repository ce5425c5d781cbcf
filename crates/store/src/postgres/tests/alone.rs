//! A batch in which the database refuses one write, or is too slow with it, while the other writes succeed.

use serde_json::json;
use switchboard_protocol::ErrorCode;

use super::{Node, assert_sound, new_database, query_texts};

const CANCELLING_TRIGGER: &str = "CREATE FUNCTION refuses() RETURNS trigger AS $$ BEGIN
    IF NEW.body LIKE '%poison%' THEN RAISE EXCEPTION 'cancelled' USING ERRCODE = '57014'; END IF;
    RETURN NEW; END $$ LANGUAGE plpgsql;
    CREATE TRIGGER refuses BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuses()";

const INVALID_VALUE_TRIGGER: &str = "CREATE FUNCTION refuses() RETURNS trigger AS $$ BEGIN
    IF NEW.body LIKE '%poison%' THEN RAISE EXCEPTION 'invalid' USING ERRCODE = '22021'; END IF;
    RETURN NEW; END $$ LANGUAGE plpgsql;
    CREATE TRIGGER refuses BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuses()";

/// A trigger that cancels even the writer's own statement, as if the database were slow with every statement.
const CANCELLING_TRIGGER_FOR_ALL: &str = "CREATE FUNCTION refuses() RETURNS trigger AS $$ BEGIN
    RAISE EXCEPTION 'cancelled' USING ERRCODE = '57014'; END $$ LANGUAGE plpgsql;
    CREATE TRIGGER refuses BEFORE UPDATE ON writers FOR EACH ROW EXECUTE FUNCTION refuses()";

/// Sends a batch in which one write is mallory's. Returns the name of the user and the result of each write.
async fn write_mixed_batch_and_return_codes(node: &mut Node) -> Vec<(&'static str, Result<(), ErrorCode>)> {
    let people = ["alice", "bob", "mallory", "carol", "dan", "alice"];
    for person in people {
        let text = if person == "mallory" { "poison" } else { "hi" };
        node.submits(person, "send", &json!({"to": "@zoe", "text": text}));
    }
    let mut codes = Vec::new();
    for person in people {
        codes.push((person, node.outcome().await.map(drop).map_err(|refusal| refusal.code)));
    }
    codes
}

async fn only_mallory_is_refused(trigger: &'static str) {
    let url = new_database().await;
    let mut node = Node::new(&url).await;
    for person in ["alice", "mallory"] {
        node.says(person, "@zoe", "before").await;
    }
    query_texts(&url, trigger).await;
    for _ in 0..3 {
        for (person, code) in write_mixed_batch_and_return_codes(&mut node).await {
            // Mallory's write must not be refused as `unavailable`, because a client would retry it without end.
            let expected = if person == "mallory" { Err(ErrorCode::TooLarge) } else { Ok(()) };
            assert_eq!(code, expected, "{person}");
        }
    }
    assert_sound(&url).await;
}

#[tokio::test]
async fn only_the_write_whose_statement_is_cancelled_is_refused() {
    only_mallory_is_refused(CANCELLING_TRIGGER).await;
}

#[tokio::test]
async fn only_the_write_that_the_database_cannot_store_is_refused() {
    only_mallory_is_refused(INVALID_VALUE_TRIGGER).await;
}

#[tokio::test]
async fn writes_are_refused_as_retryable_while_every_statement_is_slow() {
    let url = new_database().await;
    let mut node = Node::new(&url).await;
    node.says("alice", "@zoe", "before").await;
    query_texts(&url, CANCELLING_TRIGGER_FOR_ALL).await;
    for (person, code) in write_mixed_batch_and_return_codes(&mut node).await {
        assert_eq!(code, Err(ErrorCode::Unavailable), "{person}");
    }
    query_texts(&url, "DROP TRIGGER refuses ON writers").await;
    assert_eq!(node.says("alice", "@zoe", "after").await.seq.0, 2);
    assert_sound(&url).await;
}

/// If one write of a user is slow, the store does not try that user's other writes of the batch.
#[tokio::test]
async fn the_slow_writes_of_one_user_delay_others_only_once() {
    let url = new_database().await;
    let mut node = Node::new(&url).await;
    node.says("mallory", "@zoe", "before").await;
    // The database's sequences show how many transactions ran, because a rollback does not undo `nextval`.
    query_texts(
        &url,
        "CREATE SEQUENCE tries; CREATE FUNCTION refuses() RETURNS trigger AS $$ BEGIN
            IF NEW.body LIKE '%poison%' THEN
                PERFORM nextval('tries'); RAISE EXCEPTION 'cancelled' USING ERRCODE = '57014'; END IF;
            RETURN NEW; END $$ LANGUAGE plpgsql;
            CREATE TRIGGER refuses BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuses()",
    )
    .await;
    let (poisonous, batches) = (400, 20);
    for _ in 0..poisonous {
        node.submits("mallory", "send", &json!({"to": "@zoe", "text": "poison"}));
    }
    node.submits("bob", "send", &json!({"to": "@zoe", "text": "hi"}));
    for _ in 0..poisonous {
        let code = node.outcome().await.map(drop).map_err(|refusal| refusal.code);
        assert!(matches!(code, Err(ErrorCode::TooLarge | ErrorCode::Unavailable)), "{code:?}");
    }
    assert!(node.outcome().await.is_ok(), "bob's is stored");
    let tries = query_texts(&url, "SELECT last_value FROM tries").await;
    let tries: u64 = tries[0][0].as_deref().expect("a number").parse().expect("a number");
    assert!(tries <= 2 * batches, "{tries} tries of {poisonous} writes");
    assert_sound(&url).await;
}

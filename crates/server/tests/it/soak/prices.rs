//! What one user's commands cost others, at full size.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::hostile::prices::{rates_of_a_user, room_of};
use crate::support::{Person, Server};

/// How long the slowest of `sends` sends takes, one after another.
async fn slowest_of(sends: usize, person: &mut Person) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..sends {
        let begun = Instant::now();
        person.says("@bystander", "hi").await;
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn a_hundred_rooms_of_a_thousand_are_refused_after_the_burst() {
    let server = Server::serves_with(|config| config.limits = rates_of_a_user()).await;
    let mut bystander = server.connects("bystander").await;
    let quiet = slowest_of(20, &mut bystander).await;
    let token = server.token("mallory", Duration::from_secs(3_600));
    let begun = Instant::now();
    let attack = async {
        let mut statuses = std::collections::BTreeMap::<(u16, String), usize>::new();
        for room in 0..100 {
            let mut body = room_of(1_000);
            body["room"] = json!(format!("room{room}"));
            let answer = server.posts_as(&token, "create", body).await;
            let code = if answer.status == 200 { "ok".to_owned() } else { answer.code() };
            *statuses.entry((answer.status, code)).or_default() += 1;
        }
        (statuses, begun.elapsed())
    };
    let (slowest, (statuses, took)) = tokio::join!(slowest_of(100, &mut bystander), attack);
    println!("100 creates of 1,000 members in {took:?}: {statuses:?}");
    println!("a bystander's slowest send: {quiet:?} before, {slowest:?} meanwhile");
    let stored = statuses.get(&(200, "ok".to_owned())).copied().unwrap_or(0);
    assert!(stored <= 1 + usize::try_from(took.as_secs() / 20).expect("a few"), "{statuses:?}");
    assert_eq!(statuses.get(&(429, "rate_limited".to_owned())).copied().unwrap_or(0), 100 - stored);
    assert!(slowest <= quiet + Duration::from_millis(40), "{slowest:?}");
}

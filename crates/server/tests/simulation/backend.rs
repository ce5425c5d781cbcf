//! A back end: it sends commands for users without a connection, as over HTTP.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard_protocol::{UserId, decode};
use switchboard_store::origin::Origin;
use switchboard_store::{Change, Request, Submission};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::chance::Chance;
use crate::world::{Phase, SimulatedWorld};

/// Converts the JSON of a command to the change that the store applies.
fn change(command: &Value) -> Change {
    let frame = decode(&command.to_string()).expect("a command");
    match Request::from(frame.command) {
        Request::Change(change) => change,
        other => panic!("{other:?} is no change"),
    }
}

/// Writes a user's command to the store, as an HTTP request would. Returns `None` if the write failed or the server crashed.
async fn send_command(world: &SimulatedWorld, chance: &Chance, user: &str, command: &Value) -> Option<Value> {
    let store = world.random_store(chance)?;
    let (reply, answer) = oneshot::channel();
    world.lock_model().record("backend", format_args!("for {user}: {command}"));
    let actor = UserId::parse(user).expect("a name");
    let submission = Submission { actor, change: change(command), origin: Origin::Call(reply) };
    store.submit(submission).ok()?;
    drop(store);
    let answer = answer.await.ok()?.ok()?;
    Some(serde_json::to_value(answer).expect("JSON"))
}

/// Creates the rooms of the run. Returns false if a writable store refused to create a room a hundred times.
pub(crate) async fn create_rooms(world: &Arc<SimulatedWorld>, chance: &Chance) -> bool {
    for (n, room) in world.rooms.iter().enumerate() {
        let some = world.users.iter().skip(1).filter(|_| !chance.once_in(3));
        let command = json!({"type": "create", "room": room.trim_start_matches('#'), "public": n != 1,
            "members": some.collect::<Vec<_>>(), "title": "A room"});
        // The simulated disk may refuse the write, so it is retried.
        let mut tries = 100;
        while send_command(world, chance, world.users[0], &command).await.is_none() {
            tries -= 1;
            let writable = world.random_store(chance).is_some_and(|store| store.is_writable());
            if tries == 0 || !writable {
                return !writable;
            }
        }
    }
    true
}

/// Sends commands for users from time to time, and retries those without an answer.
pub(crate) async fn run(world: Arc<SimulatedWorld>, chance: Chance) {
    let often = chance.random_choice(&[200, 2_000, 60_000]);
    let mut number = 0;
    loop {
        if timeout(chance.random_millis(1, often), world.phase.until(|phase| phase != Phase::Faults))
            .await
            .is_ok()
        {
            return;
        }
        number += 1;
        let (user, other) = (chance.random_choice(&world.users), chance.random_choice(&world.users));
        let key = format!("backend-{number}");
        let to = if chance.once_in(3) {
            format!("@{other}")
        } else {
            chance.random_choice(&world.rooms).to_owned()
        };
        let command = json!({"type": "send", "to": to, "key": key, "text": "from behind"});
        for _ in 0..2 {
            let answer = timeout(Duration::from_secs(2), send_command(&world, &chance, user, &command)).await;
            if let Ok(Some(ok)) = answer {
                if world.lock_model().on_acknowledged("backend", user, Some(&key), &ok).is_err() {
                    world.enter_phase(Phase::Ended);
                }
                break;
            }
        }
    }
}

//! Users of the TypeScript SDK: a Node program runs the SDK and reports what an app would show.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustc_hash::FxHashMap;
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use switchboard_protocol::{ConversationId, Seq, Timestamp, UserId};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::record::{AttemptedSend, Law, hash_of};
use crate::world::{World, token};

/// How long the SDK may take to catch up after the faults have ended.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(90);

/// One line of the Node program's output.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum SdkLine {
    /// The program called `send`.
    Tried { user: UserId, conversation: ConversationId, key: String, text: String, number: u64 },
    /// The server acknowledged a message: the promise that `send` returned was fulfilled.
    Acked { user: UserId, conversation: ConversationId, key: String, seq: Seq, at: Timestamp },
    /// The SDK showed a message.
    Shown { user: UserId, conversation: ConversationId, seq: Seq, key: String },
    /// The SDK rebuilt a list. The new list contains the missed messages, and no `Shown` follows for them.
    Resync { user: UserId, conversation: ConversationId },
    /// The program found that the SDK broke a law.
    Broken { what: String },
    /// Every message is acknowledged, and the program sends no more.
    Settled,
    /// The final list of messages of a conversation.
    Screen { user: UserId, conversation: ConversationId, messages: Vec<(Seq, String)> },
    /// The program prints nothing more.
    Done,
}

/// The final lists of all users of one program, by user and conversation.
pub(crate) type ShownMessages = FxHashMap<(UserId, ConversationId), Vec<(Seq, String)>>;

/// A running Node program with several users of the SDK.
pub(crate) struct Sdk {
    child: Child,
    stdin: ChildStdin,
    settled: oneshot::Receiver<()>,
    screens: tokio::task::JoinHandle<Option<ShownMessages>>,
}

impl Sdk {
    /// Starts a program for these users. Returns `None` if the run leaves the SDK out.
    pub(crate) fn start(world: &Arc<World>, users: &[UserId], seed: u64) -> anyhow::Result<Option<Self>> {
        let Some(program) = &world.sdk else { return Ok(None) };
        let rooms =
            |user: &UserId| -> Vec<String> { world.rooms_of(user).map(|room| room.id.to_string()).collect() };
        let users: Vec<_> = users
            .iter()
            .map(|user| serde_json::json!({ "user": user, "token": token(user), "rooms": rooms(user) }))
            .collect();
        let task = serde_json::json!({ "url": world.sdk_url, "users": users, "seed": seed, "pause": 400 });
        let mut child = Command::new("node")
            .arg(program)
            .arg(task.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start node")?;
        let stdin = child.stdin.take().context("no stdin")?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?);
        let (settle, settled) = oneshot::channel();
        let screens = crate::spawn(read_lines(world.clone(), lines, settle));
        Ok(Some(Self { child, stdin, settled, screens }))
    }

    /// Sends a signal to the program, to pause or resume it.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // Sending fails if the program has just exited, which does not matter.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Makes the program stop sending, and waits until every message is acknowledged. Returns whether that happened in time.
    pub(crate) async fn stop_sending_and_drain(&mut self) -> anyhow::Result<bool> {
        self.stdin.write_all(b"\"settle\"\n").await?;
        Ok(timeout(CATCH_UP_TIMEOUT, &mut self.settled).await.is_ok_and(|settled| settled.is_ok()))
    }

    /// Waits until each list ends with the last message of its log. Returns the lists, or `None` if that takes too long.
    pub(crate) async fn finish(
        mut self,
        last: &FxHashMap<ConversationId, Seq>,
    ) -> anyhow::Result<Option<ShownMessages>> {
        let line = serde_json::json!({ "last": last });
        self.stdin.write_all(format!("{line}\n").as_bytes()).await?;
        match timeout(CATCH_UP_TIMEOUT, self.screens).await {
            Ok(screens) => Ok(screens?),
            Err(_) => Ok(None),
        }
    }
}

async fn read_lines(
    world: Arc<World>,
    lines: BufReader<tokio::process::ChildStdout>,
    settle: oneshot::Sender<()>,
) -> Option<ShownMessages> {
    let mut lines = lines.lines();
    let mut devices: FxHashMap<UserId, u32> = FxHashMap::default();
    let mut shown: FxHashMap<(UserId, ConversationId), Seq> = FxHashMap::default();
    let mut screens = ShownMessages::default();
    let mut settle = Some(settle);
    while let Ok(Some(line)) = lines.next_line().await {
        let line = match serde_json::from_str(&line) {
            Ok(line) => line,
            Err(error) => {
                world.record.breach(
                    Law::WrongAnswer,
                    format!("cannot parse the SDK's line {line}: {error}"),
                    &[],
                    None,
                );
                continue;
            }
        };
        let mut device = |user: &UserId| {
            *devices
                .entry(user.clone())
                .or_insert_with(|| world.record.register_device(format!("{user}.sdk")))
        };
        match line {
            SdkLine::Tried { user, conversation, key, text, number } => {
                let device = device(&user);
                let text = hash_of(text.as_str());
                let sent = AttemptedSend { conversation, from: user, device, number, text, acked: None };
                world.record.record_send(&key, sent);
            }
            SdkLine::Acked { user, conversation, key, seq, at } => {
                world.record.record_ack(device(&user), &key, (&conversation, seq, at), false);
            }
            SdkLine::Shown { user, conversation, seq, key } => {
                world.record.lock().counts.shown += 1;
                let place = (user, conversation);
                let last = shown.entry(place.clone()).or_default();
                if seq <= *last {
                    let what =
                        format!("the SDK of {} showed {} {} after {}", place.0, place.1, seq.0, last.0);
                    world.record.breach(Law::Doubled, what, &[&key], Some((&place.1, seq)));
                }
                *last = seq.max(*last);
            }
            SdkLine::Resync { user, conversation } => {
                // The messages of the new list are compared with the log at the end, like those of all lists.
                world.record.record_fault(format!("the SDK of {user} made the list of {conversation} anew"));
            }
            SdkLine::Broken { what } => world.record.breach(Law::WrongAnswer, what, &[], None),
            SdkLine::Settled => {
                if let Some(settle) = settle.take() {
                    // If the receiver has already timed out, this fails, which does not matter.
                    let _ = settle.send(());
                }
            }
            SdkLine::Screen { user, conversation, messages } => {
                screens.insert((user, conversation), messages);
            }
            SdkLine::Done => return Some(screens),
        }
    }
    None
}

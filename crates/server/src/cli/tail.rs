//! `switchboard tail`. It keeps a cursor for every conversation that it shows, and whatever lies
//! between a cursor and the next event is paged in with `sync`: after `--after`, after a lost
//! connection and after a `gap` alike. So every event is printed once and in order.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use switchboard_client::{Client, ClientError};
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame, Summary, Welcome};
use switchboard_protocol::{ConversationId, Conversations, Event, Seq, Sync, Target};
use tokio::time::Instant;

use super::connect::{ConnectArgs, failed, parse_seq, parse_target, said};
use super::{output, show};

/// How long to wait after the first lost connection; it doubles with each that follows.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// How long at most; and a connection that lasted longer makes the next delay the first one again. Without
/// that, a server that welcomes and fails would be asked twice a second for good.
const LAST_DELAY: Duration = Duration::from_secs(15);

/// The flags of `tail`.
#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// Which: @bob, '#general' or a conversation id; without any, all of one's own
    #[arg(value_parser = parse_target)]
    conversations: Vec<Target>,
    /// Begin with what follows this event, in place of what comes from now on
    #[arg(long, value_name = "SEQ", requires = "conversations", value_parser = parse_seq)]
    after: Option<Seq>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints events until it is interrupted, or its token is no good any more.
pub(super) async fn run(args: TailArgs) -> anyhow::Result<ExitCode> {
    let hello = args.connect.hello()?;
    let mut tail = Tail { args, only: None, cursors: None };
    let mut delay = FIRST_DELAY;
    loop {
        let mut wait = None;
        match Client::connect(&tail.args.connect.url, hello.clone()).await {
            Ok((mut client, welcome)) => {
                let began = Instant::now();
                let followed = tail.follow(&mut client, welcome).await;
                if began.elapsed() > LAST_DELAY {
                    delay = FIRST_DELAY;
                }
                match followed {
                    Ok(bye) => wait = bye,
                    Err(Stop::Output(error)) => return Err(error),
                    Err(Stop::Client(error)) if is_final(&error) => {
                        return failed(error, tail.args.connect.json);
                    }
                    Err(Stop::Client(error)) => output::note(&format!("lost the connection: {error}")),
                }
            }
            // A first connection that fails is more likely a wrong address than a passing fault.
            Err(error) if tail.cursors.is_none() || is_final(&error) => {
                return failed(error, tail.args.connect.json);
            }
            Err(error) => output::note(&format!("cannot connect: {error}")),
        }
        let wait = wait.unwrap_or_else(|| jittered(delay));
        delay = (delay * 2).min(LAST_DELAY);
        output::note(&format!("connecting again in {} ms", wait.as_millis()));
        tokio::time::sleep(wait).await;
    }
}

/// Whether connecting again cannot help.
fn is_final(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(failure) if !failure.retryable)
}

/// Between half of a delay and the whole, so that many clients do not come back at once.
fn jittered(delay: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    delay / 2 + (delay / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Why following a connection ended early.
enum Stop {
    /// Nobody reads the output, or it cannot be written.
    Output(anyhow::Error),
    /// The connection failed, or the server refused.
    Client(ClientError),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

struct Tail {
    args: TailArgs,
    /// The conversations named, once it is known who names them.
    only: Option<Vec<ConversationId>>,
    /// The last event printed, or known to be older than what is wanted; `None` until first connected.
    cursors: Option<BTreeMap<ConversationId, Seq>>,
}

impl Tail {
    /// Prints what was missed and then what comes, until the connection ends: with the time to wait, if
    /// the server told one.
    async fn follow(&mut self, client: &mut Client, welcome: Welcome) -> Result<Option<Duration>, Stop> {
        if self.only.is_none() && !self.args.conversations.is_empty() {
            let named = self.args.conversations.iter().map(|target| target.resolve(&welcome.user));
            self.only = Some(named.collect());
        }
        self.catch_up(client, welcome).await?;
        let mut wait = None;
        while let Some(frame) = client.next().await {
            let frame = match frame {
                // The connection goes on, and what is missing shows by its number.
                Err(error @ ClientError::NotUnderstood { .. }) => {
                    output::note(&format!("error: {}", output::printable(&error.to_string())));
                    continue;
                }
                frame => frame?,
            };
            match frame {
                ServerFrame::Event(event) => self.event(client, event).await?,
                ServerFrame::Reply(Reply::Gap { conversation, .. }) => {
                    self.sync(client, conversation).await?;
                }
                ServerFrame::Reply(Reply::Bye { retry_after }) => {
                    wait = Some(Duration::from_millis(retry_after));
                }
                ServerFrame::Reply(Reply::Error(failure)) => {
                    output::note(&format!("error: {}", said(&failure)));
                }
                ServerFrame::Reply(_) | ServerFrame::Signal(_) => {}
            }
        }
        Ok(wait)
    }

    /// On the first connection, sets the cursors where to begin; on a later one, prints what was missed.
    async fn catch_up(&mut self, client: &mut Client, welcome: Welcome) -> Result<(), Stop> {
        let first = self.cursors.is_none();
        let after = self.args.after.filter(|_| first);
        let summaries = all_conversations(client, welcome).await?;
        let heads: BTreeMap<_, _> = summaries.into_iter().map(|s| (s.conversation, s.head)).collect();
        let cursors = self.cursors.get_or_insert_default();
        // Somebody who was removed in the meantime sees up to the removal, though the conversation is not listed.
        let mut behind: Vec<_> = cursors.keys().filter(|name| !heads.contains_key(*name)).cloned().collect();
        for (conversation, head) in &heads {
            if self.only.as_ref().is_some_and(|only| !only.contains(conversation)) {
                continue;
            }
            // A conversation that began while there was no connection is new as a whole.
            let start = after.unwrap_or(if first { *head } else { Seq(0) });
            let cursor = cursors.entry(conversation.clone()).or_insert(start);
            if *cursor > *head {
                output::note(&format!(
                    "{conversation} ends at {head}, before {cursor}; showing what comes after {head}"
                ));
                *cursor = *head;
            } else if *cursor < *head {
                behind.push(conversation.clone());
            }
        }
        for conversation in self.only.iter().flatten().filter(|c| first && !heads.contains_key(c)) {
            output::note(&format!(
                "{conversation} is not among your conversations; its events are shown once it is"
            ));
        }
        for conversation in behind {
            self.sync(client, conversation).await?;
        }
        Ok(())
    }

    /// Prints an event if its turn has come; what should have come before is fetched first.
    async fn event(&mut self, client: &mut Client, event: Event) -> Result<(), Stop> {
        if self.only.as_ref().is_some_and(|only| !only.contains(&event.conversation)) {
            return Ok(());
        }
        // One that began or was entered just now is shown from here on.
        let known = self.cursors.as_ref().and_then(|cursors| cursors.get(&event.conversation));
        if known.is_some_and(|cursor| event.seq > cursor.next()) {
            // The page includes this event, too.
            self.sync(client, event.conversation).await
        } else {
            self.print(&event)
        }
    }

    /// Prints everything after the cursor.
    async fn sync(&mut self, client: &mut Client, conversation: ConversationId) -> Result<(), Stop> {
        if self.only.as_ref().is_some_and(|only| !only.contains(&conversation)) {
            return Ok(());
        }
        loop {
            let after = self.cursor(&conversation);
            let page = Sync { conversation: conversation.clone().into(), after, limit: None };
            let (events, more) = match client.call(page).await {
                Ok(OkBody::Log { events, more, .. }) => (events, more),
                Ok(_) => return Ok(()),
                // Left in the meantime, say: the other conversations go on.
                Err(ClientError::Refused(failure)) if !failure.retryable => {
                    output::note(&format!("error: {conversation}: {}", said(&failure)));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            let empty = events.is_empty();
            for event in &events {
                self.print(event)?;
            }
            if !more || empty {
                return Ok(());
            }
        }
    }

    fn cursor(&self, conversation: &ConversationId) -> Seq {
        let cursors = self.cursors.as_ref();
        cursors.and_then(|cursors| cursors.get(conversation).copied()).unwrap_or_default()
    }

    fn print(&mut self, event: &Event) -> Result<(), Stop> {
        if event.seq <= self.cursor(&event.conversation) {
            return Ok(());
        }
        let text = if self.args.connect.json {
            serde_json::to_string(event).map_err(|e| Stop::Output(e.into()))?
        } else {
            show::describe(event)
        };
        output::line(&text).map_err(Stop::Output)?;
        self.cursors.get_or_insert_default().insert(event.conversation.clone(), event.seq);
        Ok(())
    }
}

/// Every conversation of one's own: the page in `welcome` and those that follow.
async fn all_conversations(client: &mut Client, welcome: Welcome) -> Result<Vec<Summary>, ClientError> {
    let (mut all, mut more) = (welcome.conversations, welcome.more);
    while more {
        let before = all.last().map(|summary| summary.conversation.clone());
        match client.call(Conversations { before, limit: None }).await? {
            OkBody::Conversations { conversations, more: again } if !conversations.is_empty() => {
                all.extend(conversations);
                more = again;
            }
            _ => more = false,
        }
    }
    Ok(all)
}

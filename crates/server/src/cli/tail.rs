//! `switchboard tail`. It keeps a cursor for every conversation that it shows, and reads the events between a cursor and the
//! next event with `print_events_after_cursor`: after `--after`, after a lost connection and after a `gap`. So every event is printed once and in
//! order.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use clap::Args;
use switchboard_client::{Client, ClientError, Reconnect};
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame, Summary, Welcome};
use switchboard_protocol::{ConversationId, Conversations, Event, Seq, Sync, Target};
use tokio::time::Instant;

use super::connect::{ConnectArgs, describe_failure, parse_seq, parse_target, report_error};
use super::{output, show};

/// Delay before the first reconnect; it doubles with each attempt.
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// The longest delay between reconnects. A connection that lasted longer than this resets the delay. A shorter one does not,
/// because a server that sends `welcome` and then fails would receive two connects a second without end.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(15);

/// The flags of `tail`.
#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// Conversations: @bob, '#general' or a conversation id [default: all of the user's]
    #[arg(value_parser = parse_target)]
    conversations: Vec<Target>,
    /// Start after this event, in place of the newest
    #[arg(long, value_name = "SEQ", requires = "conversations", value_parser = parse_seq)]
    after: Option<Seq>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints events until the process is interrupted or the server refuses the token.
pub(super) async fn run(args: TailArgs) -> anyhow::Result<ExitCode> {
    let hello = args.connect.hello()?;
    let mut tail = Tail { args, wanted: None, cursors: None };
    let mut delays = reconnect_delays();
    loop {
        let again = match tail.args.connect.connect(hello.clone()).await? {
            Ok((mut client, welcome)) => {
                let connected_at = Instant::now();
                let outcome = tail.follow(&mut client, welcome).await;
                if connected_at.elapsed() > MAX_RECONNECT_DELAY {
                    delays = reconnect_delays();
                }
                match outcome {
                    Ok(()) if client.reconnect() == Reconnect::Never => {
                        return report_error(client.closed_error(), tail.args.connect.json);
                    }
                    Ok(()) => {}
                    Err(TailEnd::Output(error)) => return Err(error),
                    Err(TailEnd::Client(error)) if error.reconnect() == Reconnect::Never => {
                        return report_error(error, tail.args.connect.json);
                    }
                    Err(TailEnd::Client(error)) => {
                        output::eprint_line(&format!("lost the connection: {error}"));
                    }
                }
                client.reconnect()
            }
            // A failure of the first connection is more likely a wrong address than a temporary fault.
            Err(error) if tail.cursors.is_none() || error.reconnect() == Reconnect::Never => {
                return report_error(error, tail.args.connect.json);
            }
            Err(error) => {
                output::eprint_line(&format!("cannot connect: {error}"));
                error.reconnect()
            }
        };
        let wait = match again {
            Reconnect::After(wait) => wait,
            Reconnect::Never | Reconnect::Backoff => delays.next().unwrap_or(MAX_RECONNECT_DELAY),
        };
        output::eprint_line(&format!("reconnecting in {} ms", wait.as_millis()));
        tokio::time::sleep(wait).await;
    }
}

/// The delays before reconnects. Half of each is fixed, and up to the same time is random, so that many clients do not reconnect at
/// once.
fn reconnect_delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(MIN_RECONNECT_DELAY / 2)
        .with_max_delay(MAX_RECONNECT_DELAY / 2)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Why following a connection ended early.
enum TailEnd {
    /// Stdout is closed or cannot be written.
    Output(anyhow::Error),
    /// The connection failed, or the server refused.
    Client(ClientError),
}

impl From<ClientError> for TailEnd {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

struct Tail {
    args: TailArgs,
    /// The conversations named on the command line, resolved once `welcome` says which user this is. `None` shows all.
    wanted: Option<Vec<ConversationId>>,
    /// The last event printed or skipped in each conversation; `None` before the first connection.
    cursors: Option<BTreeMap<ConversationId, Seq>>,
}

impl Tail {
    /// Prints missed events, then live ones, until the connection ends.
    async fn follow(&mut self, client: &mut Client, welcome: Welcome) -> Result<(), TailEnd> {
        if self.wanted.is_none() && !self.args.conversations.is_empty() {
            let named = self.args.conversations.iter().map(|target| target.resolve(&welcome.user));
            self.wanted = Some(named.collect());
        }
        self.print_missed(client, welcome).await?;
        while let Some(frame) = client.next().await {
            let frame = match frame {
                // The connection continues; the next event's number reveals a missing one.
                Err(error @ ClientError::NotUnderstood { .. }) => {
                    output::eprint_line(&format!("error: {}", output::printable(&error.to_string())));
                    continue;
                }
                frame => frame?,
            };
            match frame {
                ServerFrame::Event(event) => self.handle_event(client, event).await?,
                ServerFrame::Reply(Reply::Gap { conversation, .. }) => {
                    self.print_events_after_cursor(client, conversation).await?;
                }
                ServerFrame::Reply(Reply::Error(failure)) => {
                    output::eprint_line(&format!("error: {}", describe_failure(&failure)));
                }
                ServerFrame::Reply(_) | ServerFrame::Signal(_) => {}
            }
        }
        Ok(())
    }

    /// On the first connection, initialises the cursors. On a later one, prints the events missed.
    async fn print_missed(&mut self, client: &mut Client, welcome: Welcome) -> Result<(), TailEnd> {
        let first = self.cursors.is_none();
        let after = self.args.after.filter(|_| first);
        let summaries = all_conversations(client, welcome).await?;
        let heads: BTreeMap<_, _> = summaries.into_iter().map(|s| (s.conversation, s.head)).collect();
        let cursors = self.cursors.get_or_insert_default();
        // A user who was removed in the meantime may read up to the removal, although the conversation is not listed.
        let mut behind: Vec<_> = cursors.keys().filter(|name| !heads.contains_key(*name)).cloned().collect();
        for (conversation, head) in &heads {
            if self.wanted.as_ref().is_some_and(|only| !only.contains(conversation)) {
                continue;
            }
            // A conversation that appeared while disconnected is printed from its beginning.
            let start = after.unwrap_or(if first { *head } else { Seq(0) });
            let cursor = cursors.entry(conversation.clone()).or_insert(start);
            if *cursor > *head {
                output::eprint_line(&format!(
                    "{conversation} ends at {head}, before {cursor}; showing events after {head}"
                ));
                *cursor = *head;
            } else if *cursor < *head {
                behind.push(conversation.clone());
            }
        }
        for conversation in self.wanted.iter().flatten().filter(|c| first && !heads.contains_key(c)) {
            output::eprint_line(&format!(
                "{conversation} is not among your conversations; its events are shown once it is"
            ));
        }
        for conversation in behind {
            self.print_events_after_cursor(client, conversation).await?;
        }
        Ok(())
    }

    /// Prints an event, after reading the missing events before it.
    async fn handle_event(&mut self, client: &mut Client, event: Event) -> Result<(), TailEnd> {
        if self.wanted.as_ref().is_some_and(|only| !only.contains(&event.conversation)) {
            return Ok(());
        }
        // A conversation without a cursor is new to the user and is shown from this event on.
        let known = self.cursors.as_ref().and_then(|cursors| cursors.get(&event.conversation));
        if known.is_some_and(|cursor| event.seq > cursor.next()) {
            // The page includes this event, too.
            self.print_events_after_cursor(client, event.conversation).await
        } else {
            self.print(&event)
        }
    }

    /// Prints everything after the cursor.
    async fn print_events_after_cursor(
        &mut self,
        client: &mut Client,
        conversation: ConversationId,
    ) -> Result<(), TailEnd> {
        if self.wanted.as_ref().is_some_and(|only| !only.contains(&conversation)) {
            return Ok(());
        }
        loop {
            let after = self.cursor(&conversation);
            let page = Sync { conversation: conversation.clone().into(), after, limit: None };
            let (events, more) = match client.call(page).await {
                Ok(OkBody::Log { events, more, .. }) => (events, more),
                Ok(_) => return Ok(()),
                // For example, the user has left the conversation. The other conversations continue.
                Err(ClientError::Refused(failure)) if !failure.retryable => {
                    output::eprint_line(&format!("error: {conversation}: {}", describe_failure(&failure)));
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

    fn print(&mut self, event: &Event) -> Result<(), TailEnd> {
        if event.seq <= self.cursor(&event.conversation) {
            return Ok(());
        }
        let text = if self.args.connect.json {
            serde_json::to_string(event).map_err(|e| TailEnd::Output(e.into()))?
        } else {
            show::describe(event)
        };
        output::print_line(&text).map_err(TailEnd::Output)?;
        self.cursors.get_or_insert_default().insert(event.conversation.clone(), event.seq);
        Ok(())
    }
}

/// Every conversation of the user: the page in `welcome` and the pages after it.
async fn all_conversations(client: &mut Client, welcome: Welcome) -> Result<Vec<Summary>, ClientError> {
    let (mut all, mut more) = (welcome.conversations, welcome.more);
    while more {
        let before = all.last().map(|summary| summary.conversation.clone());
        match client.call(Conversations { before, limit: None }).await? {
            OkBody::Conversations { conversations, more: has_more } if !conversations.is_empty() => {
                all.extend(conversations);
                more = has_more;
            }
            _ => more = false,
        }
    }
    Ok(all)
}

//! `switchboard send`.

use std::process::ExitCode;

use clap::Args;
use switchboard_client::ClientError;
use switchboard_protocol::reply::{Ok as OkFrame, OkBody, Reply};
use switchboard_protocol::{Data, ErrorCode, Key, Send, Seq, Target, Text, read_object};

use super::connect::{ConnectArgs, parse_seq, parse_target, report_error, to_json};
use super::output;

/// The flags of `send`.
#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The destination: @bob, '#general' or a conversation id
    #[arg(value_parser = parse_target)]
    to: Target,
    /// The text for people
    #[arg(required_unless_present = "data_json")]
    text: Option<Text>,
    /// Data for applications: a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_data)]
    data_json: Option<Data>,
    /// The idempotency key: repeating a send with the same key stores it once
    #[arg(long)]
    key: Option<Key>,
    /// The number of the message to reply to
    #[arg(long, value_name = "SEQ", value_parser = parse_seq)]
    reply_to: Option<Seq>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Sends a message and prints the `ok`. An `error` frame is exit code 1.
pub(super) async fn run(args: SendArgs) -> anyhow::Result<ExitCode> {
    let json = args.connect.json;
    let hello = args.connect.hello()?;
    let key = match args.key {
        Some(key) => key,
        // The key is generated here and not by the server, so that the user can retry with it when the connection is lost.
        None => Key::parse(uuid::Uuid::now_v7().to_string()).map_err(anyhow::Error::msg)?,
    };
    let send = Send {
        to: args.to,
        text: args.text,
        data: args.data_json,
        key: Some(key.clone()),
        reply_to: args.reply_to,
    };
    let mut client = match args.connect.connect(hello).await? {
        Ok((client, _)) => client,
        Err(error) => return report_error(error, json),
    };
    let answer = client.call(send).await;
    client.close().await;
    match answer {
        Ok(body) => {
            output::print_line(&if json {
                to_json(&Reply::Ok(OkFrame { id: None, body }))?
            } else {
                describe(&body)
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            if outcome_is_unknown(&error) {
                output::eprint_line(&format!(
                    "it is unknown whether the message was stored; retry with --key {key}"
                ));
            }
            report_error(error, json)
        }
    }
}

/// Whether the message may have been stored despite the error.
fn outcome_is_unknown(error: &ClientError) -> bool {
    !matches!(error, ClientError::Refused(failure) if failure.code != ErrorCode::Unavailable)
}

fn describe(body: &OkBody) -> String {
    match body {
        OkBody::Stored { conversation, seq, at, duplicate, .. } => {
            let before = if *duplicate { " (duplicate: stored before)" } else { "" };
            format!("stored in {conversation} as {seq} at {at}{before}")
        }
        OkBody::Held { conversation, .. } => format!("held in {conversation}; it waits for a decision"),
        _ => "done".to_owned(),
    }
}

fn parse_data(text: &str) -> Result<Data, String> {
    if text.trim().is_empty() {
        return Err("it is empty; write a JSON object such as {\"order\":17}".to_owned());
    }
    read_object(text).map_err(|rejected| rejected.message)
}

//! `switchboard send`.

use std::process::ExitCode;

use clap::Args;
use switchboard_client::{Client, ClientError};
use switchboard_protocol::reply::{Ok as OkFrame, OkBody, Reply};
use switchboard_protocol::{Data, ErrorCode, Key, Send, Seq, Target, Text, read_object};

use super::connect::{ConnectArgs, failed, frame, parse_seq, parse_target};
use super::output;

/// The flags of `send`.
#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// Where to: @bob, '#general' or a conversation id
    #[arg(value_parser = parse_target)]
    to: Target,
    /// What a person reads
    #[arg(required_unless_present = "data_json")]
    text: Option<Text>,
    /// What an application reads: a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_data)]
    data_json: Option<Data>,
    /// The idempotency key: the same one again stores nothing twice
    #[arg(long)]
    key: Option<Key>,
    /// The number of the message that this one answers
    #[arg(long, value_name = "SEQ", value_parser = parse_seq)]
    reply_to: Option<Seq>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Sends and prints the `ok`; an `error` frame is exit code 1.
pub(super) async fn run(args: SendArgs) -> anyhow::Result<ExitCode> {
    let json = args.connect.json;
    let hello = args.connect.hello()?;
    let key = match args.key {
        Some(key) => key,
        // Made here, so that whoever loses the connection before the answer can try again with it.
        None => Key::parse(uuid::Uuid::now_v7().to_string()).map_err(anyhow::Error::msg)?,
    };
    let send = Send {
        to: args.to,
        text: args.text,
        data: args.data_json,
        key: Some(key.clone()),
        reply_to: args.reply_to,
    };
    let mut client = match Client::connect(&args.connect.url, hello).await {
        Ok((client, _)) => client,
        Err(error) => return failed(error, json),
    };
    let answer = client.call(send).await;
    client.close().await;
    match answer {
        Ok(body) => {
            output::line(&if json {
                frame(&Reply::Ok(OkFrame { id: None, body }))?
            } else {
                describe(&body)
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            if is_unknown(&error) {
                output::note(&format!(
                    "whether it was stored is unknown; to be sure, send it again with --key {key}"
                ));
            }
            failed(error, json)
        }
    }
}

/// Whether the message may have been stored all the same.
fn is_unknown(error: &ClientError) -> bool {
    !matches!(error, ClientError::Refused(failure) if failure.code != ErrorCode::Unavailable)
}

fn describe(body: &OkBody) -> String {
    match body {
        OkBody::Stored { conversation, seq, at, duplicate } => {
            let before = if *duplicate { " (it was stored before)" } else { "" };
            format!("stored in {conversation} as {seq} at {at}{before}")
        }
        _ => "done".to_owned(),
    }
}

fn parse_data(text: &str) -> Result<Data, String> {
    if text.trim().is_empty() {
        return Err("it is empty; write a JSON object, as {\"order\":17}".to_owned());
    }
    read_object(text).map_err(|rejected| rejected.message)
}

//! Centrifugo (centrifugal.dev): JSON commands and replies, several in a frame, each on its own line. A client subscribes to
//! its room's channel and publishes into it, with a token that is signed with the same key as Switchboard's.

use std::path::Path;
use std::process::Command;

use memchr::memmem;

use super::channel_name;
use crate::process::Process;
use crate::server::{FrameMeaning, MeaningHandler, Server, Target};
use crate::stamp::{self, number_after};
use crate::switchboard::{self, SECRET};
use crate::wire;

/// The ids of a client's first two commands. Messages have higher ids.
const CONNECT: u64 = 1;
const SUBSCRIBE: u64 = 2;

pub(super) struct Centrifugo {
    process: Process,
}

impl Centrifugo {
    pub(super) fn start(directory: &Path, cores: &[usize]) -> anyhow::Result<Self> {
        let mut command = Command::new(directory.join("bin/centrifugo"));
        command.arg("--config").arg(directory.join("centrifugo.json"));
        command.env("CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET);
        let process = Process::start_on_port(cores, |port| {
            command.env("CENTRIFUGO_HTTP_SERVER_PORT", port.to_string());
            command
        })?;
        Ok(Self { process })
    }
}

impl Server for Centrifugo {
    fn name(&self) -> &'static str {
        "centrifugo"
    }

    fn server_process(&self) -> &Process {
        &self.process
    }

    fn handshake_request(&self) -> Vec<u8> {
        wire::handshake_request("/connection/websocket", "")
    }

    fn join_frame(&self, user: usize, room: usize) -> String {
        let token = switchboard::token(&format!("u{user}")).unwrap_or_default();
        let channel = channel_name(Target::Room(room));
        format!(
            "{{\"id\":{CONNECT},\"connect\":{{\"token\":\"{token}\"}}}}\n\
             {{\"id\":{SUBSCRIBE},\"subscribe\":{{\"channel\":\"{channel}\"}}}}"
        )
    }

    fn decode_meanings(&self, _: usize, frame: &[u8], emit: &mut MeaningHandler<'_>) -> anyhow::Result<()> {
        frame.split(|byte| *byte == b'\n').try_for_each(|line| emit(decode_line(line)?))
    }

    fn message_frame(&self, to: Target, id: u64, text: &str) -> String {
        let (id, channel) = (id + SUBSCRIBE, channel_name(to));
        format!(r#"{{"id":{id},"publish":{{"channel":"{channel}","data":{{"text":"{text}"}}}}}}"#)
    }
}

fn decode_line(line: &[u8]) -> anyhow::Result<FrameMeaning> {
    Ok(if line.starts_with(br#"{"push":{"#) {
        stamp::find_stamp(line).map_or(FrameMeaning::Other, |number| FrameMeaning::Delivered(Some(number)))
    } else if line == b"{}" {
        FrameMeaning::MustAnswer("{}".to_owned())
    } else if memmem::find(line, br#""error":{"#).is_some() {
        anyhow::bail!("the server refused: {}", String::from_utf8_lossy(line));
    } else {
        match number_after(line, r#""id":"#) {
            Some(CONNECT) => FrameMeaning::Other,
            Some(SUBSCRIBE) => FrameMeaning::Ready,
            _ => FrameMeaning::Acked(None),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_centrifugo_are_decoded() {
        let decode = |line: &str| decode_line(line.as_bytes()).expect("not a refusal");
        // These replies were recorded from Centrifugo 6.9.
        assert_eq!(
            decode(r#"{"id":1,"connect":{"client":"402599f2","version":"0.0.0 OSS","ping":25}}"#),
            FrameMeaning::Other
        );
        assert_eq!(
            decode(r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"QCabxNOv"}}"#),
            FrameMeaning::Ready
        );
        assert_eq!(decode(r#"{"id":3,"publish":{}}"#), FrameMeaning::Acked(None));
        assert_eq!(decode("{}"), FrameMeaning::MustAnswer("{}".to_owned()));
        let text = stamp::stamped_text(5, 200);
        let push =
            format!(r#"{{"push":{{"channel":"room0","pub":{{"data":{{"text":"{text}"}},"offset":1}}}}}}"#);
        assert_eq!(decode(&push), FrameMeaning::Delivered(Some(5)));
        assert!(decode_line(br#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#).is_err());
    }
}

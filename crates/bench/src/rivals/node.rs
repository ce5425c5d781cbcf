//! Two servers on Node.js: Socket.IO, and one with `ws` as tutorials write it, which keeps a room's connections in a set.

use std::path::Path;
use std::process::Command;

use super::channel_name;
use crate::process::Process;
use crate::server::{FrameMeaning, MeaningHandler, Server, Target};
use crate::{stamp, wire};

fn start_node_script(directory: &Path, script: &str, cores: &[usize]) -> anyhow::Result<Process> {
    let mut command = Command::new("node");
    command.arg(directory.join("node").join(script)).env("NODE_ENV", "production");
    Process::start(&mut command, cores)
}

/// Socket.IO: its protocol (socket.io/docs/v4/socket-io-protocol) is inside that of Engine.IO.
pub(super) struct SocketIo(Process);

impl SocketIo {
    pub(super) fn start(directory: &Path, cores: &[usize]) -> anyhow::Result<Self> {
        start_node_script(directory, "socketio.js", cores).map(Self)
    }
}

impl Server for SocketIo {
    fn name(&self) -> &'static str {
        "socket.io"
    }

    fn server_process(&self) -> &Process {
        &self.0
    }

    fn handshake_request(&self) -> Vec<u8> {
        wire::handshake_request("/socket.io/?EIO=4&transport=websocket", "")
    }

    fn join_frame(&self, user: usize, room: usize) -> String {
        let room = channel_name(Target::Room(room));
        format!(r#"40{{"user":"u{user}","room":"{room}"}}"#)
    }

    fn decode_meanings(&self, _: usize, frame: &[u8], emit: &mut MeaningHandler<'_>) -> anyhow::Result<()> {
        emit(decode_socket_io(frame)?)
    }

    fn message_frame(&self, to: Target, id: u64, text: &str) -> String {
        let to = channel_name(to);
        format!(r#"42{id}["message",{{"to":"{to}","text":"{text}"}}]"#)
    }
}

/// The first digit of a frame is Engine.IO's: 4 is a message. The second is Socket.IO's: 0 CONNECT, 2 EVENT, 3 ACK, 4
/// CONNECT_ERROR.
fn decode_socket_io(frame: &[u8]) -> anyhow::Result<FrameMeaning> {
    Ok(match frame {
        [b'4', b'2', ..] => FrameMeaning::Delivered(Some(stamp::find_stamp(frame).unwrap_or(u64::MAX))),
        [b'4', b'3', ..] => FrameMeaning::Acked(None),
        [b'4', b'0', ..] => FrameMeaning::Ready,
        [b'2'] => FrameMeaning::MustAnswer("3".to_owned()),
        [b'4', b'4', ..] => anyhow::bail!("the server refused: {}", String::from_utf8_lossy(frame)),
        _ => FrameMeaning::Other,
    })
}

/// A server with the library `ws`, written as in tutorials.
pub(super) struct Ws(Process);

impl Ws {
    pub(super) fn start(directory: &Path, cores: &[usize]) -> anyhow::Result<Self> {
        start_node_script(directory, "ws.js", cores).map(Self)
    }
}

impl Server for Ws {
    fn name(&self) -> &'static str {
        "ws"
    }

    fn server_process(&self) -> &Process {
        &self.0
    }

    fn handshake_request(&self) -> Vec<u8> {
        wire::handshake_request("/", "")
    }

    fn join_frame(&self, user: usize, room: usize) -> String {
        let room = channel_name(Target::Room(room));
        format!(r#"{{"type":"hello","user":"u{user}","room":"{room}"}}"#)
    }

    fn decode_meanings(&self, _: usize, frame: &[u8], emit: &mut MeaningHandler<'_>) -> anyhow::Result<()> {
        emit(decode_ws(frame))
    }

    fn message_frame(&self, to: Target, id: u64, text: &str) -> String {
        let to = channel_name(to);
        format!(r#"{{"type":"send","id":{id},"to":"{to}","text":"{text}"}}"#)
    }
}

fn decode_ws(frame: &[u8]) -> FrameMeaning {
    if frame.starts_with(br#"{"type":"message""#) {
        FrameMeaning::Delivered(Some(stamp::find_stamp(frame).unwrap_or(u64::MAX)))
    } else if frame.starts_with(br#"{"type":"ok""#) {
        FrameMeaning::Acked(None)
    } else {
        FrameMeaning::Ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_socket_io_are_decoded() {
        let decode = |frame: &str| decode_socket_io(frame.as_bytes()).expect("not a refusal");
        // These frames were recorded from Socket.IO 4.8.
        assert_eq!(
            decode(r#"0{"sid":"L4iQIo6Gy3yrct0fAAAA","upgrades":[],"pingInterval":25000}"#),
            FrameMeaning::Other
        );
        assert_eq!(decode(r#"40{"sid":"3Ufyznjp1Qy1eWWNAAAA"}"#), FrameMeaning::Ready);
        let message =
            format!(r#"42["message",{{"to":"room0","from":"u1","text":"{}"}}]"#, stamp::stamped_text(5, 200));
        assert_eq!(decode(&message), FrameMeaning::Delivered(Some(5)));
        assert_eq!(decode("431[]"), FrameMeaning::Acked(None));
        assert_eq!(decode("2"), FrameMeaning::MustAnswer("3".to_owned()));
        assert!(decode_socket_io(br#"44{"message":"not authorized"}"#).is_err());
    }

    #[test]
    fn frames_of_ws_are_decoded() {
        assert_eq!(decode_ws(br#"{"type":"welcome"}"#), FrameMeaning::Ready);
        assert_eq!(decode_ws(br#"{"type":"ok","id":1}"#), FrameMeaning::Acked(None));
        let message = format!(
            r#"{{"type":"message","to":"room0","from":"u1","text":"{}"}}"#,
            stamp::stamped_text(5, 200)
        );
        assert_eq!(decode_ws(message.as_bytes()), FrameMeaning::Delivered(Some(5)));
    }
}

//! Two servers on Node.js: Socket.IO, and the tutorials' one, which keeps the connections of a room in a set.

use std::path::Path;
use std::process::Command;

use super::channel;
use crate::process::Process;
use crate::server::{Said, Server, Tell, To};
use crate::{stamp, wire};

fn launch(directory: &Path, script: &str, cores: &[usize]) -> anyhow::Result<Process> {
    let mut command = Command::new("node");
    command.arg(directory.join("node").join(script)).env("NODE_ENV", "production");
    Process::start(&mut command, cores)
}

/// Socket.IO: its own protocol (socket.io/docs/v4/socket-io-protocol) within that of Engine.IO.
pub(super) struct SocketIo(Process);

impl SocketIo {
    pub(super) fn start(directory: &Path, cores: &[usize]) -> anyhow::Result<Self> {
        launch(directory, "socketio.js", cores).map(Self)
    }
}

impl Server for SocketIo {
    fn name(&self) -> &'static str {
        "socket.io"
    }

    fn process(&self) -> &Process {
        &self.0
    }

    fn request(&self) -> Vec<u8> {
        wire::request("/socket.io/?EIO=4&transport=websocket", "")
    }

    fn greeting(&self, user: usize, room: usize) -> String {
        let room = channel(To::Room(room));
        format!(r#"40{{"user":"u{user}","room":"{room}"}}"#)
    }

    fn understand(&self, _: usize, frame: &[u8], tell: &mut Tell<'_>) -> anyhow::Result<()> {
        tell(socket_io_says(frame)?)
    }

    fn message(&self, to: To, id: u64, text: &str) -> String {
        let to = channel(to);
        format!(r#"42{id}["message",{{"to":"{to}","text":"{text}"}}]"#)
    }
}

/// The packets: 4 is a message of Engine.IO, within which 0 is CONNECT, 2 EVENT, 3 ACK and 4 CONNECT_ERROR.
fn socket_io_says(frame: &[u8]) -> anyhow::Result<Said> {
    Ok(match frame {
        [b'4', b'2', ..] => Said::Delivered(Some(stamp::find(frame).unwrap_or(u64::MAX))),
        [b'4', b'3', ..] => Said::Acked(None),
        [b'4', b'0', ..] => Said::Ready,
        [b'2'] => Said::Wants("3".to_owned()),
        [b'4', b'4', ..] => anyhow::bail!("it refused: {}", String::from_utf8_lossy(frame)),
        _ => Said::Other,
    })
}

/// `ws`, as the tutorials use it.
pub(super) struct Ws(Process);

impl Ws {
    pub(super) fn start(directory: &Path, cores: &[usize]) -> anyhow::Result<Self> {
        launch(directory, "ws.js", cores).map(Self)
    }
}

impl Server for Ws {
    fn name(&self) -> &'static str {
        "ws"
    }

    fn process(&self) -> &Process {
        &self.0
    }

    fn request(&self) -> Vec<u8> {
        wire::request("/", "")
    }

    fn greeting(&self, user: usize, room: usize) -> String {
        let room = channel(To::Room(room));
        format!(r#"{{"type":"hello","user":"u{user}","room":"{room}"}}"#)
    }

    fn understand(&self, _: usize, frame: &[u8], tell: &mut Tell<'_>) -> anyhow::Result<()> {
        tell(ws_says(frame))
    }

    fn message(&self, to: To, id: u64, text: &str) -> String {
        let to = channel(to);
        format!(r#"{{"type":"send","id":{id},"to":"{to}","text":"{text}"}}"#)
    }
}

fn ws_says(frame: &[u8]) -> Said {
    if frame.starts_with(br#"{"type":"message""#) {
        Said::Delivered(Some(stamp::find(frame).unwrap_or(u64::MAX)))
    } else if frame.starts_with(br#"{"type":"ok""#) {
        Said::Acked(None)
    } else {
        Said::Ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_io_is_understood() {
        let says = |frame: &str| socket_io_says(frame.as_bytes()).expect("not a refusal");
        // What Socket.IO 4.8 sends.
        assert_eq!(
            says(r#"0{"sid":"L4iQIo6Gy3yrct0fAAAA","upgrades":[],"pingInterval":25000}"#),
            Said::Other
        );
        assert_eq!(says(r#"40{"sid":"3Ufyznjp1Qy1eWWNAAAA"}"#), Said::Ready);
        let message =
            format!(r#"42["message",{{"to":"room0","from":"u1","text":"{}"}}]"#, stamp::text(5, 200));
        assert_eq!(says(&message), Said::Delivered(Some(5)));
        assert_eq!(says("431[]"), Said::Acked(None));
        assert_eq!(says("2"), Said::Wants("3".to_owned()));
        assert!(socket_io_says(br#"44{"message":"not authorized"}"#).is_err());
    }

    #[test]
    fn ws_is_understood() {
        assert_eq!(ws_says(br#"{"type":"welcome"}"#), Said::Ready);
        assert_eq!(ws_says(br#"{"type":"ok","id":1}"#), Said::Acked(None));
        let message =
            format!(r#"{{"type":"message","to":"room0","from":"u1","text":"{}"}}"#, stamp::text(5, 200));
        assert_eq!(ws_says(message.as_bytes()), Said::Delivered(Some(5)));
    }
}

//! ejabberd: XMPP over WebSocket (RFC 7395), a multi-user chat (XEP-0045) for each room. It is configured to accept every user
//! with any password, so that no accounts have to be created first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{DirEntry, read_dir};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;
use tempfile::TempDir;

use super::channel_name;
use crate::process::{self, Process};
use crate::server::{FrameMeaning, MeaningHandler, Server, Target};
use crate::{stamp, wire};

const OPEN_ELEMENT: &str =
    r#"<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="localhost" version="1.0"/>"#;

/// Debian has a directory for each architecture here, and in it the directory of ejabberd's Erlang libraries.
const LIBRARIES_DIRECTORY: &str = "/usr/lib";

pub(super) struct Ejabberd {
    process: Process,
    /// The room that each user has joined.
    rooms: RefCell<BTreeMap<usize, usize>>,
    _data: TempDir,
}

impl Ejabberd {
    pub(super) fn start(directory: &Path, scratch: &Path, cores: &[usize]) -> anyhow::Result<Self> {
        let data = process::create_scratch_directory(scratch)?;
        let spool = std::path::absolute(data.path())?;
        let template = std::fs::read_to_string(directory.join("ejabberd.yml"))?;
        let config = spool.join("ejabberd.yml");
        // Starts ejabberd as `ejabberdctl foreground` does, but without a node name, and as the current user.
        let mut command = Command::new("erl");
        command.args(["+K", "true", "+P", "250000", "-noinput", "-mnesia", "dir"]);
        command.arg(format!("\"{}\"", spool.join("mnesia").display()));
        command.args(["-s", "ejabberd"]).current_dir(&spool);
        command.env("ERL_LIBS", find_ejabberd_libraries()?).env("EJABBERD_CONFIG_PATH", &config);
        command.env("EJABBERD_LOG_PATH", spool.join("ejabberd.log"));
        // ejabberd's log has the errors; on stderr it prints only that it is stopping.
        command.env("HOME", &spool).stderr(Stdio::null());
        let written = |port: u16| std::fs::write(&config, template.replace("$PORT", &port.to_string()));
        let process = Process::start_on_port(cores, |port| {
            // If the file cannot be written, ejabberd reports that its configuration is missing.
            let _ = written(port);
            command
        })?;
        Ok(Self { process, rooms: RefCell::default(), _data: data })
    }
}

/// Finds Debian's directory of libraries that contains ejabberd.
fn find_ejabberd_libraries() -> anyhow::Result<PathBuf> {
    let is_ejabberd = |entry: DirEntry| entry.file_name().to_string_lossy().starts_with("ejabberd-");
    let has =
        |path: &PathBuf| read_dir(path).is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(is_ejabberd)));
    let found = read_dir(LIBRARIES_DIRECTORY)?.flatten().map(|entry| entry.path()).find(has);
    found.with_context(|| format!("ejabberd is not installed: nothing below {LIBRARIES_DIRECTORY} has it"))
}

impl Server for Ejabberd {
    fn name(&self) -> &'static str {
        "ejabberd"
    }

    fn server_process(&self) -> &Process {
        &self.process
    }

    fn handshake_request(&self) -> Vec<u8> {
        wire::handshake_request("/ws", "sec-websocket-protocol: xmpp\r\norigin: http://localhost\r\n")
    }

    fn join_frame(&self, user: usize, room: usize) -> String {
        self.rooms.borrow_mut().insert(user, room);
        OPEN_ELEMENT.to_owned()
    }

    fn decode_meanings(
        &self,
        user: usize,
        frame: &[u8],
        emit: &mut MeaningHandler<'_>,
    ) -> anyhow::Result<()> {
        emit(decode_frame(frame, user, self.rooms.borrow().get(&user).copied().unwrap_or_default())?)
    }

    fn message_frame(&self, to: Target, id: u64, text: &str) -> String {
        let to = channel_name(to);
        format!(
            r#"<message to="{to}@conference.localhost" type="groupchat" id="{id}"><body>{text}</body></message>"#
        )
    }
}

/// Each answer of the server requires the next step of joining: features, success, features again, a resource, the room.
fn decode_frame(frame: &[u8], user: usize, room: usize) -> anyhow::Result<FrameMeaning> {
    let has = |what: &str| memmem::find(frame, what.as_bytes()).is_some();
    Ok(if frame.starts_with(b"<message") {
        // The room's subject and its notices contain no number, so they are not deliveries.
        stamp::find_stamp(frame).map_or(FrameMeaning::Other, |number| FrameMeaning::Delivered(Some(number)))
    } else if frame.starts_with(b"<presence") {
        // Status 110 marks the presence of the client's own user: the room was joined (XEP-0045 section 7.2.2).
        if has("code='110'") { FrameMeaning::Ready } else { FrameMeaning::Other }
    } else if has("urn:ietf:params:xml:ns:xmpp-bind") && has("<stream:features") {
        FrameMeaning::MustAnswer(
            r#"<iq type="set" id="bind"><bind xmlns="urn:ietf:params:xml:ns:xmpp-bind"/></iq>"#.to_owned(),
        )
    } else if has("<stream:features") {
        // NUL, the user's name, NUL, and the password `x`, in Base64 (RFC 4616).
        let secret = BASE64_STANDARD.encode(format!("\0u{user}\0x"));
        FrameMeaning::MustAnswer(format!(
            r#"<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">{secret}</auth>"#
        ))
    } else if frame.starts_with(b"<success") {
        FrameMeaning::MustAnswer(OPEN_ELEMENT.to_owned())
    } else if has(r#"id='bind'"#) {
        let room = channel_name(Target::Room(room));
        FrameMeaning::MustAnswer(format!(
            r#"<presence to="{room}@conference.localhost/u{user}"><x xmlns="http://jabber.org/protocol/muc"><history maxstanzas="0"/></x></presence>"#
        ))
    } else if has("<failure") || has("stream:error") || has("type='error'") {
        anyhow::bail!("the server refused: {}", String::from_utf8_lossy(frame))
    } else {
        FrameMeaning::Other
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_frame_successfully(frame: &str) -> FrameMeaning {
        decode_frame(frame.as_bytes(), 7, 3).expect("not a refusal")
    }

    #[test]
    fn each_answer_to_a_join_step_leads_to_the_next_request() {
        let wants = |frame: &str| match decode_frame_successfully(frame) {
            FrameMeaning::MustAnswer(next) => next,
            other => panic!("{other:?}"),
        };
        // These frames were recorded from ejabberd 23.01, in this order, and shortened.
        let first = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'><mechanisms \
                     xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>";
        assert!(wants(first).contains(&BASE64_STANDARD.encode("\0u7\0x")));
        assert_eq!(wants("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"), OPEN_ELEMENT);
        let second = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'><bind \
                      xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>";
        assert!(wants(second).starts_with("<iq"));
        let bound = "<iq xmlns='jabber:client' type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                     <jid>u7@localhost/1</jid></bind></iq>";
        assert!(wants(bound).contains("room3@conference.localhost/u7"));
    }

    #[test]
    fn only_the_users_own_presence_means_ready_and_only_a_body_with_a_number_is_a_message() {
        assert_eq!(
            decode_frame_successfully("<presence from='room3@conference.localhost/u8'/>"),
            FrameMeaning::Other
        );
        let oneself = "<presence from='room3@conference.localhost/u7'><x \
                       xmlns='http://jabber.org/protocol/muc#user'><status code='110'/></x></presence>";
        assert_eq!(decode_frame_successfully(oneself), FrameMeaning::Ready);
        assert_eq!(
            decode_frame_successfully("<message type='groupchat'><subject/></message>"),
            FrameMeaning::Other
        );
        let message =
            format!("<message type='groupchat'><body>{}</body></message>", stamp::stamped_text(12, 200));
        assert_eq!(decode_frame_successfully(&message), FrameMeaning::Delivered(Some(12)));
        assert!(decode_frame(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", 7, 3).is_err());
    }
}

//! The least cost of delivery: one thread with one epoll loop, which encodes frames in advance and calls `writev` once for each
//! connection and wake-up. It stores nothing, routes nothing and checks nothing.

use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Context as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::process::{Process, SERVER_CORE};
use crate::server::{FrameMeaning, MeaningHandler, Server, Target};
use crate::{stamp, switchboard, wire};

/// The most frames in one `writev`, as in Switchboard's server.
const MAX_SLICES: usize = 64;

const LISTENER: Token = Token(usize::MAX);

/// The baseline of delivery, which runs as a server in its own process.
pub(crate) struct SocketFloor(Process);

impl SocketFloor {
    /// Starts the server. `len` is the length of a message's text in bytes; each room has `size` users.
    pub(crate) fn start(len: usize, size: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor", "--len", &len.to_string(), "--size", &size.to_string()]);
        Ok(Self(Process::start(&mut command, SERVER_CORE)?))
    }
}

impl Server for SocketFloor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn server_process(&self) -> &Process {
        &self.0
    }

    fn handshake_request(&self) -> Vec<u8> {
        wire::handshake_request("/", "")
    }

    /// The first frame of a client contains only the number of its room.
    fn join_frame(&self, _: usize, room: usize) -> String {
        room.to_string()
    }

    /// The frame `welcome` answers the greeting; all other frames are deliveries, and all of these are the same.
    fn decode_meanings(&self, _: usize, frame: &[u8], tell: &mut MeaningHandler<'_>) -> anyhow::Result<()> {
        tell(if frame == b"welcome" { FrameMeaning::Ready } else { FrameMeaning::Delivered(None) })
    }

    /// The frame is the same as a client of Switchboard sends.
    fn message_frame(&self, to: Target, id: u64, text: &str) -> String {
        switchboard::message_command(&switchboard::target_id(to), id, text)
    }
}

struct Connection {
    stream: TcpStream,
    /// The number of the connection's room; `None` until the client's greeting has named it.
    room: Option<usize>,
    /// How many bytes of frames are still to be written to the connection.
    pending: usize,
}

/// Runs the server until its process is killed. `len` is the length of a message's text, and `size` the number of users in a room.
#[expect(clippy::print_stdout, reason = "the parent process reads the address from stdout")]
pub(crate) fn serve(len: usize, size: usize) -> anyhow::Result<()> {
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = ForwardingServer {
        frame: delivery_frame(len),
        size,
        connections: Vec::new(),
        rooms: Vec::new(),
        waiting: Vec::new(),
    };
    let mut events = Events::with_capacity(1_024);
    let mut scratch = vec![0; 256 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                LISTENER => floor.accept(&listener, &poll)?,
                Token(n) if event.is_readable() => floor.read(n, &mut scratch)?,
                Token(_) => {}
            }
        }
        floor.write();
    }
}

/// The frame of a delivery, in Switchboard's format.
fn delivery_frame(len: usize) -> Vec<u8> {
    let text = stamp::stamped_text(0, len);
    let event = format!(
        r##"{{"type":"message","conversation":"#bench0","seq":1000,"from":"u0","at":"2026-11-23T12:00:00.000Z","key":"1000","text":"{text}"}}"##
    );
    let mut frame = vec![0x81, 126];
    frame.extend((event.len() as u16).to_be_bytes());
    frame.extend(event.as_bytes());
    frame
}

struct ForwardingServer {
    frame: Vec<u8>,
    size: usize,
    /// The connections in each room, by the number of the room.
    rooms: Vec<Vec<usize>>,
    /// Connections to which bytes are still to be written.
    waiting: Vec<usize>,
    connections: Vec<Option<Connection>>,
}

impl ForwardingServer {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> anyhow::Result<()> {
        loop {
            let (mut stream, _) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot accept"),
            };
            stream.set_nodelay(true)?;
            let token = Token(self.connections.len());
            poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            self.connections.push(Some(Connection { stream, room: None, pending: 0 }));
        }
    }

    fn read(&mut self, n: usize, scratch: &mut [u8]) -> anyhow::Result<()> {
        let mut filled = 0;
        let Some(Some(connection)) = self.connections.get_mut(n) else { return Ok(()) };
        let ended = loop {
            match connection.stream.read(&mut scratch[filled..]) {
                Ok(0) => break true,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(_) => break true,
            }
        };
        let input = scratch.get(..filled).unwrap_or_default();
        if ended {
            self.connections[n] = None;
        } else if let Some(room) = connection.room {
            self.enqueue_delivery(room, n, count_frames(input));
        } else if let Some(room) = connection.answer_handshake(input)? {
            let rooms = self.rooms.len().max(room + 1);
            self.rooms.resize_with(rooms, || Vec::with_capacity(self.size));
            self.rooms[room].push(n);
        }
        Ok(())
    }

    /// Queues `count` frames for every connection of the room except the sender's (`from`).
    fn enqueue_delivery(&mut self, room: usize, from: usize, count: usize) {
        for &n in self.rooms[room].iter().filter(|n| **n != from) {
            let Some(connection) = &mut self.connections[n] else { continue };
            if connection.pending == 0 {
                self.waiting.push(n);
            }
            connection.pending += count * self.frame.len();
        }
    }

    fn write(&mut self) {
        let (connections, frame) = (&mut self.connections, &self.frame);
        self.waiting.retain(|n| {
            let Some(connection) = &mut connections[*n] else { return false };
            if connection.write_pending(frame).is_err() {
                connections[*n] = None;
                return false;
            }
            connection.pending > 0
        });
    }
}

impl Connection {
    /// Answers the handshake, and after it the greeting. Returns the number of the room if `input` was the greeting.
    fn answer_handshake(&mut self, input: &[u8]) -> anyhow::Result<Option<usize>> {
        if input.starts_with(b"GET ") {
            self.stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            )?;
            return Ok(None);
        }
        let mut digits = input.get(6..).unwrap_or_default().to_vec();
        wire::apply_mask(&mut digits);
        self.room = Some(std::str::from_utf8(&digits)?.parse()?);
        self.stream.write_all(b"\x81\x07welcome")?;
        Ok(self.room)
    }

    fn write_pending(&mut self, frame: &[u8]) -> std::io::Result<()> {
        while self.pending > 0 {
            // How many bytes of the first pending frame were already written.
            let offset = (frame.len() - self.pending % frame.len()) % frame.len();
            let mut slices = [IoSlice::new(frame); MAX_SLICES];
            slices[0] = IoSlice::new(&frame[offset..]);
            let filled = self.pending.div_ceil(frame.len()).min(MAX_SLICES);
            match self.stream.write_vectored(&slices[..filled]) {
                Ok(count) => self.pending -= count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Counts the frames in `input`. None is incomplete, because the load writes them in one call and they fit the buffer.
fn count_frames(mut input: &[u8]) -> usize {
    let mut count = 0;
    // The four bytes of the mask follow the length.
    while let Ok(Some((_, used))) = wire::decode_frame(input) {
        count += 1;
        input = input.get(used + 4..).unwrap_or_default();
    }
    count
}

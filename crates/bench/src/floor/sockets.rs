//! The floor of delivery: one thread, one epoll loop, frames that are encoded beforehand, and one `writev` for each
//! connection and wake-up. It stores nothing, routes nothing and checks nothing.

use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Context as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::process::{Process, SERVER_CORE};
use crate::server::{Said, Server, Tell, To};
use crate::{stamp, switchboard, wire};

/// Frames of one `writev`: what the server of Switchboard hands over at once.
const SLICES: usize = 64;

const LISTENER: Token = Token(usize::MAX);

/// The floor as a server under load, in a process of its own.
pub(crate) struct Sockets(Process);

impl Sockets {
    /// `len` is the length of a text, as the messages carry it; rooms are of `size`.
    pub(crate) fn start(len: usize, size: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "floor", "--len", &len.to_string(), "--size", &size.to_string()]);
        Ok(Self(Process::start(&mut command, SERVER_CORE)?))
    }
}

impl Server for Sockets {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn process(&self) -> &Process {
        &self.0
    }

    fn request(&self) -> Vec<u8> {
        wire::request("/", "")
    }

    /// The number of the room.
    fn greeting(&self, _: usize, room: usize) -> String {
        room.to_string()
    }

    /// Its frames are all the same.
    fn understand(&self, _: usize, frame: &[u8], tell: &mut Tell<'_>) -> anyhow::Result<()> {
        tell(if frame == b"welcome" { Said::Ready } else { Said::Delivered(None) })
    }

    /// The same as Switchboard's.
    fn message(&self, to: To, id: u64, text: &str) -> String {
        switchboard::message(&switchboard::name(to), id, text)
    }
}

struct Connection {
    stream: TcpStream,
    /// Once it has said so.
    room: Option<usize>,
    /// Bytes of frames that it has still to get.
    owed: usize,
}

/// Serves until it is killed. `len` is the length of a text, as the messages carry it, and `size` that of a room.
#[expect(clippy::print_stdout, reason = "whoever started it reads the address there")]
pub(crate) fn serve(len: usize, size: usize) -> anyhow::Result<()> {
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor =
        Floor { frame: delivery(len), size, connections: Vec::new(), rooms: Vec::new(), owing: Vec::new() };
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

/// A frame as Switchboard delivers it.
fn delivery(len: usize) -> Vec<u8> {
    let text = stamp::text(0, len);
    let event = format!(
        r##"{{"type":"message","conversation":"#bench0","seq":1000,"from":"u0","at":"2026-11-23T12:00:00.000Z","key":"1000","text":"{text}"}}"##
    );
    let mut frame = vec![0x81, 126];
    frame.extend((event.len() as u16).to_be_bytes());
    frame.extend(event.as_bytes());
    frame
}

struct Floor {
    frame: Vec<u8>,
    size: usize,
    /// The connections of each room.
    rooms: Vec<Vec<usize>>,
    /// Who is owed something.
    owing: Vec<usize>,
    connections: Vec<Option<Connection>>,
}

impl Floor {
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
            self.connections.push(Some(Connection { stream, room: None, owed: 0 }));
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
            self.owe(room, n, frames(input));
        } else if let Some(room) = connection.greet(input)? {
            let rooms = self.rooms.len().max(room + 1);
            self.rooms.resize_with(rooms, || Vec::with_capacity(self.size));
            self.rooms[room].push(n);
        }
        Ok(())
    }

    /// Everybody in the room but the sender gets so many frames.
    fn owe(&mut self, room: usize, from: usize, count: usize) {
        for &n in self.rooms[room].iter().filter(|n| **n != from) {
            let Some(connection) = &mut self.connections[n] else { continue };
            if connection.owed == 0 {
                self.owing.push(n);
            }
            connection.owed += count * self.frame.len();
        }
    }

    fn write(&mut self) {
        let (connections, frame) = (&mut self.connections, &self.frame);
        self.owing.retain(|n| {
            let Some(connection) = &mut connections[*n] else { return false };
            if connection.pay(frame).is_err() {
                connections[*n] = None;
                return false;
            }
            connection.owed > 0
        });
    }
}

impl Connection {
    /// Answers the handshake, and the greeting behind it, which says the room.
    fn greet(&mut self, input: &[u8]) -> anyhow::Result<Option<usize>> {
        if input.starts_with(b"GET ") {
            self.stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            )?;
            return Ok(None);
        }
        let mut digits = input.get(6..).unwrap_or_default().to_vec();
        wire::mask(&mut digits);
        self.room = Some(std::str::from_utf8(&digits)?.parse()?);
        self.stream.write_all(b"\x81\x07welcome")?;
        Ok(self.room)
    }

    fn pay(&mut self, frame: &[u8]) -> std::io::Result<()> {
        while self.owed > 0 {
            // What has left of the first frame.
            let offset = (frame.len() - self.owed % frame.len()) % frame.len();
            let mut slices = [IoSlice::new(frame); SLICES];
            slices[0] = IoSlice::new(&frame[offset..]);
            let filled = self.owed.div_ceil(frame.len()).min(SLICES);
            match self.stream.write_vectored(&slices[..filled]) {
                Ok(count) => self.owed -= count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How many whole frames there are. The load writes them in one go, and they are far shorter than the buffer.
fn frames(mut input: &[u8]) -> usize {
    let mut count = 0;
    // The four bytes of the mask follow the length.
    while let Ok(Some((_, used))) = wire::decode(input) {
        count += 1;
        input = input.get(used + 4..).unwrap_or_default();
    }
    count
}

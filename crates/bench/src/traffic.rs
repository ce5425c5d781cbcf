//! Messages in rooms: who sends, how fast, and the check that everybody gets everything, in order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::clock::{self, latencies};
use crate::load::{Heard, Load, Replies};
use crate::server::{Said, Server, To};
use crate::stamp;

/// Bytes of a message's text.
pub(crate) const TEXT: usize = 200;

/// Before a measurement begins.
const WARM_UP: Duration = Duration::from_millis(500);

/// The messages of a room are numbered from its own number times this.
const MESSAGES: u64 = 10_000_000;

/// A side is taken for the bottleneck above this share of its core.
const BUSY: f64 = 0.9;

/// Who sends to whom. Connection and user have the same number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Rooms, all alike.
    pub(crate) rooms: usize,
    /// Connected users of each: user `n` is in room `n / size`.
    pub(crate) size: usize,
    /// How many of them send, the first ones, in turn. Everybody else receives, and so does each of them from the others.
    pub(crate) senders: usize,
    /// Whether a room of two is a direct conversation, for a server that has them.
    pub(crate) direct: bool,
}

/// How messages come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// In each room so many rounds on their way, in which every sender sends once; the next one when the first of them is
    /// with everybody.
    InFlight(u64),
    /// One every so often, in one room after the other, whatever became of those before: latency counts from when it was
    /// due, not from when there was time to send it ("coordinated omission").
    Every(Duration),
}

/// What a run found.
pub(crate) struct Found {
    /// Microseconds of the server's processor for each delivery.
    pub(crate) cpu: f64,
    /// Deliveries a second.
    pub(crate) rate: f64,
    /// From when a message was due to its delivery, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Whether the load had no time left while the server had.
    pub(crate) load_bound: bool,
}

impl Shape {
    /// Users of all rooms.
    pub(crate) fn users(self) -> usize {
        self.rooms * self.size
    }

    /// Deliveries of a message.
    fn receivers(self) -> u64 {
        self.size as u64 - 1
    }

    /// Which of the senders of its room a user is.
    fn sender(self, user: usize) -> Option<u64> {
        Some(user % self.size).filter(|place| *place < self.senders).map(|place| place as u64)
    }

    /// What a user gets of a round.
    fn others(self, user: usize) -> u64 {
        self.senders as u64 - u64::from(self.sender(user).is_some())
    }

    /// Which message of its room a user's next one is, if rounds come in order: the `count`th that is not its own.
    fn expected(self, user: usize, count: u64) -> u64 {
        let others = self.others(user);
        let place = count % others;
        let own = self.sender(user).is_some_and(|own| place >= own);
        count / others * self.senders as u64 + place + u64::from(own)
    }

    /// Where the sender of a room's message sends it.
    fn to(self, room: usize, message: u64) -> (usize, To) {
        let place = message as usize % self.senders;
        let user = room * self.size + place;
        (
            user,
            if self.direct { To::Pair { room, user: room * self.size + 1 - place } } else { To::Room(room) },
        )
    }
}

/// The messages of all runs over the same connections.
pub(crate) struct Traffic<'a> {
    server: &'a dyn Server,
    shape: Shape,
    /// Messages that each room has had.
    sent: Vec<u64>,
}

impl<'a> Traffic<'a> {
    /// Between users who are there already.
    pub(crate) fn new(server: &'a dyn Server, shape: Shape) -> Self {
        Self { server, shape, sent: vec![0; shape.rooms] }
    }

    /// Sends for `time` and waits for the last delivery.
    ///
    /// # Errors
    /// Something was lost, came twice or out of order, or a connection was closed.
    pub(crate) fn run(&mut self, load: &mut Load, pace: Pace, time: Duration) -> anyhow::Result<Found> {
        let server = self.server;
        let begun = clock::now();
        let run = RefCell::new(Run::new(server, self.shape, &self.sent, begun)?);
        let mut hear = |user: usize, heard: Heard<'_>, replies: &mut Replies| {
            run.borrow_mut().hear(user, &heard, replies)
        };
        let mut mark = None;
        while begun.elapsed() < WARM_UP + time {
            if mark.is_none() && begun.elapsed() >= WARM_UP {
                mark = Some(Mark::now(server, &run.borrow())?);
                run.borrow_mut().measuring = true;
            }
            let due = run.borrow_mut().due(pace);
            self.send(load, &due)?;
            let wait = match pace {
                Pace::InFlight(_) => Duration::from_millis(100),
                Pace::Every(every) => (every * run.borrow().sent as u32).saturating_sub(begun.elapsed()),
            };
            load.turn(Some(wait), &mut hear)?;
        }
        let end = Mark::now(server, &run.borrow())?;
        let mark = mark.unwrap_or_else(|| end.clone());
        load.run_until(&mut hear, || run.borrow().is_complete())?;
        // The next run begins with the first sender again.
        self.sent.iter_mut().for_each(|sent| *sent = sent.next_multiple_of(self.shape.senders as u64));
        let count = (end.delivered - mark.delivered) as f64;
        let took = (end.at - mark.at).as_secs_f64();
        let (cpu, load_cpu) = (end.server - mark.server, end.load - mark.load);
        Ok(Found {
            cpu: cpu * 1e6 / count,
            rate: count / took,
            latency: run.into_inner().latency,
            load_bound: load_cpu > BUSY * took && cpu < BUSY * took,
        })
    }

    /// Sends what is due in each room, which is given as pairs of room and count.
    fn send(&mut self, load: &mut Load, due: &[(usize, u64)]) -> anyhow::Result<()> {
        for &(room, count) in due {
            let numbers = self.sent[room]..self.sent[room] + count;
            self.sent[room] = numbers.end;
            // The messages of one sender are written at once.
            for place in numbers.clone().take(self.shape.senders) {
                let texts: Vec<String> = numbers
                    .clone()
                    .skip((place - numbers.start) as usize)
                    .step_by(self.shape.senders)
                    .map(|message| {
                        let text = stamp::text(room as u64 * MESSAGES + message, TEXT);
                        self.server.message(self.shape.to(room, message).1, message + 1, &text)
                    })
                    .collect();
                load.say_all(self.shape.to(room, place).0, texts.iter().map(String::as_str))?;
            }
        }
        Ok(())
    }
}

/// A moment of a run.
#[derive(Debug, Clone)]
struct Mark {
    at: Instant,
    delivered: u64,
    /// Processor time so far, in seconds.
    server: f64,
    load: f64,
}

impl Mark {
    fn now(server: &dyn Server, run: &Run<'_>) -> anyhow::Result<Self> {
        let own = clock_gettime(ClockId::ThreadCPUTime);
        Ok(Self {
            at: clock::now(),
            delivered: run.delivered,
            server: server.process().cpu()?,
            load: own.tv_sec as f64 + own.tv_nsec as f64 / 1e9,
        })
    }
}

/// What was sent in a room, and who has it.
struct Room {
    /// The number of the run's first message.
    first: u64,
    /// When each message was due.
    due: Vec<Duration>,
    /// How many have got each of the rounds that not all have; the first is round number `complete`.
    had: VecDeque<u64>,
    complete: u64,
}

struct Run<'a> {
    server: &'a dyn Server,
    shape: Shape,
    begun: Instant,
    rooms: Vec<Room>,
    /// How many each user has got.
    got: Vec<u64>,
    /// Of each user and each sender of its room, how many.
    from: Vec<u64>,
    sent: u64,
    delivered: u64,
    measuring: bool,
    latency: Histogram<u64>,
}

impl<'a> Run<'a> {
    fn new(server: &'a dyn Server, shape: Shape, sent: &[u64], begun: Instant) -> anyhow::Result<Self> {
        let room = |first: &u64| Room { first: *first, due: Vec::new(), had: VecDeque::new(), complete: 0 };
        Ok(Self {
            server,
            shape,
            begun,
            rooms: sent.iter().map(room).collect(),
            got: vec![0; shape.users()],
            from: vec![0; shape.users() * shape.senders],
            sent: 0,
            delivered: 0,
            measuring: false,
            latency: latencies()?,
        })
    }

    fn is_complete(&self) -> bool {
        self.delivered == self.sent * self.shape.receivers()
    }

    fn hear(&mut self, user: usize, heard: &Heard<'_>, replies: &mut Replies) -> anyhow::Result<()> {
        let server = self.server;
        let Heard::Text(frame) = heard else { bail!("{} closed connection {user}", server.name()) };
        server.understand(user, frame, &mut |said| match said {
            Said::Delivered(told) => self.deliver(user, told),
            Said::Wants(answer) => {
                replies.say(user, answer);
                Ok(())
            }
            Said::Ready | Said::Acked(_) | Said::Other => Ok(()),
        })
    }

    /// A server that tells no numbers is believed to keep the order.
    fn deliver(&mut self, user: usize, told: Option<u64>) -> anyhow::Result<()> {
        let (shape, number) = (self.shape, user / self.shape.size);
        let room = &mut self.rooms[number];
        // Some servers send one's own messages, too.
        if shape.others(user) == 0 {
            return Ok(());
        }
        let message = match told {
            Some(told) => {
                let message = told.checked_sub(number as u64 * MESSAGES);
                let sender = message.map(|message| message % shape.senders as u64);
                if sender.is_some() && sender == shape.sender(user) {
                    return Ok(());
                }
                let message = message.and_then(|message| message.checked_sub(room.first));
                let Some(message) = message.filter(|message| *message < room.due.len() as u64) else {
                    bail!("{user} got message {told}, which nobody sent")
                };
                let (sender, round) = (message % shape.senders as u64, message / shape.senders as u64);
                let next = &mut self.from[user * shape.senders + sender as usize];
                ensure!(round == *next, "{user} got message {round} of sender {sender} in place of {next}");
                *next += 1;
                message
            }
            None => shape.expected(user, self.got[user]),
        };
        if let Some(due) = room.due.get(message as usize).filter(|_| self.measuring) {
            self.latency.saturating_record(self.begun.elapsed().saturating_sub(*due).as_nanos() as u64);
        }
        self.delivered += 1;
        self.got[user] += 1;
        if self.got[user].is_multiple_of(shape.others(user)) {
            let round = self.got[user] / shape.others(user) - 1;
            let had = round.checked_sub(room.complete).and_then(|place| room.had.get_mut(place as usize));
            let Some(had) = had else { bail!("{user} got more messages than were sent") };
            *had += 1;
        }
        let everybody = shape.size as u64 - u64::from(shape.senders == 1);
        while room.had.front() == Some(&everybody) {
            room.had.pop_front();
            room.complete += 1;
        }
        Ok(())
    }

    /// In which rooms how many messages are due; notes when each was.
    fn due(&mut self, pace: Pace) -> Vec<(usize, u64)> {
        let (now, senders) = (self.begun.elapsed(), self.shape.senders as u64);
        let before: Vec<usize> = self.rooms.iter().map(|room| room.due.len()).collect();
        match pace {
            Pace::InFlight(most) => {
                for room in &mut self.rooms {
                    room.due.resize(((room.complete + most) * senders) as usize, now);
                }
            }
            Pace::Every(every) => {
                let count = self.rooms.len();
                let times = (self.sent..).map(|n| (n, every * n as u32)).take_while(|(_, due)| *due <= now);
                for (n, due) in times {
                    self.rooms[n as usize % count].due.push(due);
                }
            }
        }
        let mut due = Vec::new();
        for (number, (room, before)) in self.rooms.iter_mut().zip(before).enumerate() {
            let count = (room.due.len() - before) as u64;
            room.had.resize((room.due.len() as u64).div_ceil(senders) as usize - room.complete as usize, 0);
            self.sent += count;
            due.extend((count > 0).then_some((number, count)));
        }
        due
    }
}

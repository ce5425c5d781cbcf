//! The traffic of messages in rooms: who sends, and how fast. Checks that every receiver gets all messages, in order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::clock::{self, new_latency_histogram};
use crate::load::{ConnectionEvent, Load, QueuedFrames};
use crate::server::{FrameMeaning, Server, Target};
use crate::stamp;

/// The length of a message's text in bytes.
pub(crate) const TEXT_BYTES: usize = 200;

/// How long messages are sent before a measurement starts.
const WARM_UP: Duration = Duration::from_millis(500);

/// The distance between the first message numbers of two rooms: room `n` numbers its messages from `n` times this.
const NUMBERS_PER_ROOM: u64 = 10_000_000;

/// The server or the load counts as the bottleneck if it uses more than this share of its core.
const SATURATED_CPU_SHARE: f64 = 0.9;

/// Who sends to whom. A connection has the number of its user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrafficShape {
    /// The number of rooms, which are all alike.
    pub(crate) rooms: usize,
    /// The number of connected users in each room: user `n` is in room `n / room_size`.
    pub(crate) room_size: usize,
    /// How many users of each room send: the first ones, one after the other. All users receive the messages of the others.
    pub(crate) senders: usize,
    /// Whether a room of two users is a direct conversation, on servers that have these.
    pub(crate) is_direct: bool,
}

/// What determines when messages are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SendSchedule {
    /// This many rounds are in flight in each room; every sender sends once in a round. The next round starts when all receivers
    /// have the oldest round in flight.
    InFlight(u64),
    /// A message is sent at this interval, in one room after the other, even if earlier deliveries are late. Latency counts from
    /// the time at which the message was to be sent (otherwise a slow server would delay its own measurement: "coordinated
    /// omission").
    Every(Duration),
}

/// The results of a run.
pub(crate) struct RunResult {
    /// The server's processor time for each delivery, in microseconds.
    pub(crate) cpu_us_per_delivery: f64,
    /// Deliveries a second.
    pub(crate) deliveries_per_second: f64,
    /// The time from when a message was to be sent to its delivery, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Whether the load generator was the bottleneck: its core was saturated while the server's was not.
    pub(crate) is_limited_by_load: bool,
}

impl TrafficShape {
    /// The number of users in all rooms.
    pub(crate) fn users(self) -> usize {
        self.rooms * self.room_size
    }

    /// How many users receive a message.
    fn receivers(self) -> u64 {
        self.room_size as u64 - 1
    }

    /// The user's position among the senders of its room; `None` if the user does not send.
    fn sender(self, user: usize) -> Option<u64> {
        Some(user % self.room_size).filter(|place| *place < self.senders).map(|place| place as u64)
    }

    /// How many messages of each round the user receives.
    fn received_per_round(self, user: usize) -> u64 {
        self.senders as u64 - u64::from(self.sender(user).is_some())
    }

    /// The number in the room of the next message that the user must receive after `count` messages, if rounds arrive in order. The
    /// user's own messages are skipped.
    fn next_expected_number(self, user: usize, count: u64) -> u64 {
        let others = self.received_per_round(user);
        let place = count % others;
        let own = self.sender(user).is_some_and(|own| place >= own);
        count / others * self.senders as u64 + place + u64::from(own)
    }

    /// The user who sends the message with this number in the room, and the target of the message.
    fn sender_and_target(self, room: usize, message: u64) -> (usize, Target) {
        let place = message as usize % self.senders;
        let user = room * self.room_size + place;
        (
            user,
            if self.is_direct {
                Target::Pair { room, user: room * self.room_size + 1 - place }
            } else {
                Target::Room(room)
            },
        )
    }
}

/// The traffic of several runs over the same connections.
pub(crate) struct Traffic<'a> {
    server: &'a dyn Server,
    shape: TrafficShape,
    /// How many messages were sent in each room so far.
    sent: Vec<u64>,
}

impl<'a> Traffic<'a> {
    /// Prepares traffic between users who are already connected.
    pub(crate) fn new(server: &'a dyn Server, shape: TrafficShape) -> Self {
        Self { server, shape, sent: vec![0; shape.rooms] }
    }

    /// Sends for `time`, and then waits for the last delivery.
    ///
    /// # Errors
    /// A message was lost, duplicated or delivered out of order, or a connection was closed.
    pub(crate) fn run(
        &mut self,
        load: &mut Load,
        pace: SendSchedule,
        time: Duration,
    ) -> anyhow::Result<RunResult> {
        let server = self.server;
        let started = clock::now();
        let run = RefCell::new(TrafficRun::new(server, self.shape, &self.sent, started)?);
        let mut on_event = |user: usize, event: ConnectionEvent<'_>, replies: &mut QueuedFrames| {
            run.borrow_mut().on_event(user, &event, replies)
        };
        let mut start = None;
        while started.elapsed() < WARM_UP + time {
            if start.is_none() && started.elapsed() >= WARM_UP {
                start = Some(CounterSample::now(server, &run.borrow())?);
                run.borrow_mut().is_measuring = true;
            }
            let due = run.borrow_mut().messages_due_now(pace);
            self.send(load, &due)?;
            let wait = match pace {
                SendSchedule::InFlight(_) => Duration::from_millis(100),
                SendSchedule::Every(every) => {
                    (every * run.borrow().sent as u32).saturating_sub(started.elapsed())
                }
            };
            load.poll_once(Some(wait), &mut on_event)?;
        }
        let end = CounterSample::now(server, &run.borrow())?;
        let start = start.unwrap_or_else(|| end.clone());
        load.run_until(&mut on_event, || run.borrow().is_complete())?;
        // Rounds up to whole rounds, because the next run must start with the first sender.
        self.sent.iter_mut().for_each(|sent| *sent = sent.next_multiple_of(self.shape.senders as u64));
        let count = (end.delivered - start.delivered) as f64;
        let took = (end.at - start.at).as_secs_f64();
        let (cpu, load_cpu) = (end.server - start.server, end.load - start.load);
        Ok(RunResult {
            cpu_us_per_delivery: cpu * 1e6 / count,
            deliveries_per_second: count / took,
            latency: run.into_inner().latency,
            is_limited_by_load: load_cpu > SATURATED_CPU_SHARE * took && cpu < SATURATED_CPU_SHARE * took,
        })
    }

    /// Sends the messages that are due. `due` has the number of messages for each room.
    fn send(&mut self, load: &mut Load, due: &[(usize, u64)]) -> anyhow::Result<()> {
        for &(room, count) in due {
            let numbers = self.sent[room]..self.sent[room] + count;
            self.sent[room] = numbers.end;
            // All messages of a sender are written in one call.
            for place in numbers.clone().take(self.shape.senders) {
                let texts: Vec<String> = numbers
                    .clone()
                    .skip((place - numbers.start) as usize)
                    .step_by(self.shape.senders)
                    .map(|message| {
                        let text = stamp::stamped_text(room as u64 * NUMBERS_PER_ROOM + message, TEXT_BYTES);
                        self.server.message_frame(
                            self.shape.sender_and_target(room, message).1,
                            message + 1,
                            &text,
                        )
                    })
                    .collect();
                load.send_all(self.shape.sender_and_target(room, place).0, texts.iter().map(String::as_str))?;
            }
        }
        Ok(())
    }
}

/// Counters at one moment of a run; a measurement is the difference of two samples.
#[derive(Debug, Clone)]
struct CounterSample {
    at: Instant,
    delivered: u64,
    /// The processor times that the server and the load have used so far, in seconds.
    server: f64,
    load: f64,
}

impl CounterSample {
    fn now(server: &dyn Server, run: &TrafficRun<'_>) -> anyhow::Result<Self> {
        let own = clock_gettime(ClockId::ThreadCPUTime);
        Ok(Self {
            at: clock::now(),
            delivered: run.delivered,
            server: server.server_process().cpu_seconds()?,
            load: own.tv_sec as f64 + own.tv_nsec as f64 / 1e9,
        })
    }
}

/// The messages that were sent in a room, and their deliveries.
struct Room {
    /// The number of the first message in this run.
    first: u64,
    /// When each message of the run was to be sent.
    due: Vec<Duration>,
    /// How many users have received each incomplete round. The first of these rounds has the number `complete`.
    receipts_by_message: VecDeque<u64>,
    complete: u64,
}

struct TrafficRun<'a> {
    server: &'a dyn Server,
    shape: TrafficShape,
    started: Instant,
    rooms: Vec<Room>,
    /// How many messages each user has received.
    received: Vec<u64>,
    /// How many messages each user has received from each sender of its room.
    received_from: Vec<u64>,
    sent: u64,
    delivered: u64,
    is_measuring: bool,
    latency: Histogram<u64>,
}

impl<'a> TrafficRun<'a> {
    fn new(
        server: &'a dyn Server,
        shape: TrafficShape,
        sent: &[u64],
        started: Instant,
    ) -> anyhow::Result<Self> {
        let room = |first: &u64| Room {
            first: *first,
            due: Vec::new(),
            receipts_by_message: VecDeque::new(),
            complete: 0,
        };
        Ok(Self {
            server,
            shape,
            started,
            rooms: sent.iter().map(room).collect(),
            received: vec![0; shape.users()],
            received_from: vec![0; shape.users() * shape.senders],
            sent: 0,
            delivered: 0,
            is_measuring: false,
            latency: new_latency_histogram()?,
        })
    }

    fn is_complete(&self) -> bool {
        self.delivered == self.sent * self.shape.receivers()
    }

    fn on_event(
        &mut self,
        user: usize,
        event: &ConnectionEvent<'_>,
        replies: &mut QueuedFrames,
    ) -> anyhow::Result<()> {
        let server = self.server;
        let ConnectionEvent::Text(frame) = event else { bail!("{} closed connection {user}", server.name()) };
        server.decode_meanings(user, frame, &mut |meaning| match meaning {
            FrameMeaning::Delivered(stamped) => self.check_and_count_delivery(user, stamped),
            FrameMeaning::MustAnswer(answer) => {
                replies.send(user, answer);
                Ok(())
            }
            FrameMeaning::Ready | FrameMeaning::Acked(_) | FrameMeaning::Other => Ok(()),
        })
    }

    /// Checks and counts a delivery. If a server's messages have no numbers, the order is taken to be right.
    fn check_and_count_delivery(&mut self, user: usize, stamped: Option<u64>) -> anyhow::Result<()> {
        let (shape, number) = (self.shape, user / self.shape.room_size);
        let room = &mut self.rooms[number];
        // Some servers also send a user its own messages, which do not count.
        if shape.received_per_round(user) == 0 {
            return Ok(());
        }
        let message = match stamped {
            Some(stamped) => {
                let message = stamped.checked_sub(number as u64 * NUMBERS_PER_ROOM);
                let sender = message.map(|message| message % shape.senders as u64);
                if sender.is_some() && sender == shape.sender(user) {
                    return Ok(());
                }
                let message = message.and_then(|message| message.checked_sub(room.first));
                let Some(message) = message.filter(|message| *message < room.due.len() as u64) else {
                    bail!("{user} got message {stamped}, which was never sent")
                };
                let (sender, round) = (message % shape.senders as u64, message / shape.senders as u64);
                let next = &mut self.received_from[user * shape.senders + sender as usize];
                ensure!(round == *next, "{user} got message {round} of sender {sender} in place of {next}");
                *next += 1;
                message
            }
            None => shape.next_expected_number(user, self.received[user]),
        };
        if let Some(due) = room.due.get(message as usize).filter(|_| self.is_measuring) {
            self.latency.saturating_record(self.started.elapsed().saturating_sub(*due).as_nanos() as u64);
        }
        self.delivered += 1;
        self.received[user] += 1;
        if self.received[user].is_multiple_of(shape.received_per_round(user)) {
            let round = self.received[user] / shape.received_per_round(user) - 1;
            let receipts = round
                .checked_sub(room.complete)
                .and_then(|place| room.receipts_by_message.get_mut(place as usize));
            let Some(receipts) = receipts else { bail!("{user} got more messages than were sent") };
            *receipts += 1;
        }
        let receivers = shape.room_size as u64 - u64::from(shape.senders == 1);
        while room.receipts_by_message.front() == Some(&receivers) {
            room.receipts_by_message.pop_front();
            room.complete += 1;
        }
        Ok(())
    }

    /// Determines how many messages are to be sent now in each room, and records the time for each.
    fn messages_due_now(&mut self, pace: SendSchedule) -> Vec<(usize, u64)> {
        let (now, senders) = (self.started.elapsed(), self.shape.senders as u64);
        let before: Vec<usize> = self.rooms.iter().map(|room| room.due.len()).collect();
        match pace {
            SendSchedule::InFlight(most) => {
                for room in &mut self.rooms {
                    room.due.resize(((room.complete + most) * senders) as usize, now);
                }
            }
            SendSchedule::Every(every) => {
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
            room.receipts_by_message
                .resize((room.due.len() as u64).div_ceil(senders) as usize - room.complete as usize, 0);
            self.sent += count;
            due.extend((count > 0).then_some((number, count)));
        }
        due
    }
}

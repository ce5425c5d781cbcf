use super::*;

fn entry() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("JSON")
}

fn queue(lanes: &[&str]) -> Queue {
    let mut queue = Queue::new(0, Stored::default());
    for (number, lane) in (1..).zip(lanes) {
        queue.push(number, lane, entry());
    }
    queue
}

fn begun(queue: &mut Queue, now: i64) -> Vec<Item> {
    std::iter::from_fn(|| queue.begin(now)).collect()
}

fn numbers(items: &[Item]) -> Vec<u64> {
    items.iter().map(|item| item.number).collect()
}

#[test]
fn a_lane_has_one_request_in_flight_and_eight_lanes_at_a_time() {
    let mut queue = queue(&["a", "a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    let first = begun(&mut queue, 0);
    assert_eq!(numbers(&first), [1, 3, 4, 5, 6, 7, 8, 9]);
    for item in first.into_iter().rev() {
        queue.end(item, End::Taken, 0);
    }
    assert_eq!(queue.position(), 1);
    let second = begun(&mut queue, 0);
    assert_eq!(numbers(&second), [10, 2], "a lane has its next turn after the others");
    second.into_iter().for_each(|item| queue.end(item, End::Taken, 0));
    assert_eq!(queue.position(), 10);
}

#[test]
fn an_endpoint_at_fault_gets_one_entry_at_a_time_until_it_takes_it() {
    let lanes: Vec<_> = (0..100).map(|n| format!("lane {n}")).collect();
    let mut queue = queue(&lanes.iter().map(String::as_str).collect::<Vec<_>>());
    for item in begun(&mut queue, 0) {
        queue.end(item, End::EndpointFault(None), 0);
    }
    let mut now = 0;
    for delay in [0, 5, 30, 120, 600, 1_800, 1_800] {
        let due = queue.next_due().expect("it is tried again");
        assert_eq!(due - now, delay * 1_000);
        assert!(delay == 0 || begun(&mut queue, due - 1).is_empty());
        now = due;
        let probe = begun(&mut queue, now);
        assert_eq!(numbers(&probe), [1], "one request in flight");
        probe.into_iter().for_each(|item| queue.end(item, End::EndpointFault(None), now));
    }
    now = queue.next_due().expect("it is tried again");
    let probe = queue.begin(now).expect("the probe");
    assert!(queue.begin(now).is_none());
    queue.end(probe, End::Taken, now);
    assert_eq!(numbers(&begun(&mut queue, now)), (2..10).collect::<Vec<_>>());
    assert_eq!(queue.position(), 1);
}

#[test]
fn an_endpoint_says_when_to_come_back() {
    let mut queue = queue(&["a"]);
    let item = queue.begin(0).expect("an entry");
    queue.end(item, End::EndpointFault(Some(Duration::from_secs(90))), 0);
    assert_eq!(queue.next_due(), Some(90_000));
}

#[test]
fn an_entry_at_fault_is_tried_ten_times_in_three_hours_and_parked() {
    let mut queue = queue(&["a", "b", "a", "b"]);
    let (mut now, mut tries) = (0, 0);
    while queue.stored().parked.is_empty() {
        for item in begun(&mut queue, now) {
            let end = if item.number == 1 { End::EntryFault } else { End::Taken };
            tries += usize::from(item.number == 1);
            assert_ne!(item.number, 3, "it is behind an entry that is held");
            queue.end(item, end, now);
        }
        now = queue.next_due().unwrap_or(now);
    }
    assert_eq!(tries, 10);
    assert!((10_000_000..=10_800_000).contains(&now), "{now}");
    assert_eq!(queue.position(), 4, "what is held is stored beside the position");
    let third = queue.begin(now).expect("its conversation goes on");
    assert_eq!((third.number, third.entry.is_none()), (3, true));
    queue.end(third, End::Taken, now);
    assert_eq!(queue.stored().parked.keys().collect::<Vec<_>>(), [&1]);
    assert!(queue.stored().held.is_empty());
}

#[test]
fn a_queue_that_was_stored_goes_on_in_the_order_of_its_lanes() {
    let mut queue = queue(&["a", "a", "b"]);
    let first = queue.begin(0).expect("an entry");
    queue.end(first, End::EntryFault, 0);
    let stored = serde_json::to_string(queue.stored()).expect("JSON");
    assert_eq!(queue.position(), 2, "entry 3 is not done");
    let mut queue = Queue::new(2, serde_json::from_str(&stored).expect("what was stored"));
    queue.push(3, "b", entry());
    queue.push(4, "a", entry());
    assert_eq!(numbers(&begun(&mut queue, 0)), [3]);
    for number in [1, 2, 4] {
        let next = queue.begin(5_000).expect("an entry");
        assert_eq!(next.number, number);
        queue.end(next, End::Taken, 5_000);
    }
    assert_eq!(queue.position(), 2, "3 is still in flight");
}

#[test]
fn what_is_parked_can_be_sent_again_and_what_is_read_again_is_forgotten() {
    let mut stored = Stored::default();
    stored.parked.extend([(3, "a".to_owned()), (7, "b".to_owned())]);
    let mut rewound = stored.clone();
    rewound.rewind(5);
    assert_eq!(rewound.parked.keys().collect::<Vec<_>>(), [&3]);
    stored.unpark();
    let mut queue = Queue::new(9, stored);
    assert_eq!(numbers(&begun(&mut queue, 0)), [3, 7]);
}

#[test]
fn nothing_is_read_while_a_thousand_entries_are_parked() {
    let mut stored = Stored::default();
    stored.parked.extend((1..=999).map(|number| (number, "a".to_owned())));
    assert!(Queue::new(0, stored.clone()).has_room());
    stored.parked.insert(1_000, "a".to_owned());
    let full = Queue::new(0, stored);
    assert!(!full.has_room() && full.is_full_of_parked());
}

#[test]
fn a_conversation_that_is_held_or_busy_fills_no_queue() {
    for end in [End::EntryFault, End::NotTried] {
        let mut queue = Queue::new(0, Stored::default());
        queue.push(1, "a", entry());
        let first = queue.begin(0).expect("an entry");
        let mut waits = Some(first);
        if end == End::EntryFault {
            waits.take().into_iter().for_each(|first| queue.end(first, end, 0));
        }
        for number in 2..=100_000 {
            assert!(queue.has_room(), "{number}: one conversation stops no other");
            queue.push(number, "a", entry());
        }
        queue.push(100_001, "b", entry());
        assert_eq!(numbers(&begun(&mut queue, 0)), [100_001], "{end:?}");
        assert_eq!(queue.position(), 100_000, "{end:?}");
        assert!(queue.lanes["a"].waiting.len() <= MAX_OF_LANE);
        let text = serde_json::to_string(queue.stored()).expect("JSON");
        assert!(text.len() < 1_000, "{} bytes are stored", text.len());
        let again = Queue::new(100_000, serde_json::from_str(&text).expect("what was stored"));
        assert_eq!(again.stored(), queue.stored());
        assert!(again.next_unread().is_some() != again.stored().held.contains_key(&1));
    }
}

#[test]
fn busy_conversations_have_turns_with_all_others() {
    let mut queue = Queue::new(0, Stored::default());
    let mut number = 0;
    for _ in 0..100 {
        for busy in 0..100 {
            number += 1;
            queue.push(number, &format!("busy {busy}"), entry());
        }
    }
    assert!(queue.has_room(), "they are all behind");
    queue.push(number + 1, "quiet", entry());
    for sent in 0.. {
        let item = queue.begin(0).expect("an entry");
        if item.lane == "quiet" {
            assert_eq!(sent, 100, "one of each before it");
            break;
        }
        queue.end(item, End::Taken, 0);
    }
}

/// A feed, and an endpoint that takes, refuses and fails at random.
struct Model {
    /// The lanes of the entries with the numbers 1, 2, 3, …
    feed: Vec<u8>,
    queue: Queue,
    now: i64,
    taken: Vec<u64>,
}

impl Model {
    fn reads(&mut self, most: usize) {
        let from = self.queue.read_position();
        for (number, lane) in (1..).zip(&self.feed).skip(usize::try_from(from).expect("small")).take(most) {
            if self.queue.has_room() {
                self.queue.push(number, &lane.to_string(), entry());
            }
        }
        self.queue.remove_reached();
    }

    fn reads_lane(&mut self, most: usize) {
        let Some((name, after)) = self.queue.next_unread() else { return };
        let of = (1..).zip(&self.feed).filter(|(number, lane)| *number > after && lane.to_string() == name);
        let mut found: Vec<_> = of.map(|(number, _)| (number, entry())).collect();
        let next = if found.len() > most { found[most - 1].0 } else { self.feed.len() as u64 };
        found.truncate(most);
        self.queue.add_read(&name, next, found);
    }

    fn is_killed(&mut self) {
        let text = serde_json::to_string(self.queue.stored()).expect("JSON");
        self.queue = Queue::new(self.queue.position(), serde_json::from_str(&text).expect("what was stored"));
    }

    fn sends(&mut self, ends: &[u8]) {
        for (item, end) in begun(&mut self.queue, self.now).into_iter().zip(ends.iter().cycle()) {
            let end = match end % 8 {
                0 => End::EntryFault,
                1 => End::EndpointFault(None),
                2 => End::NotTried,
                _ => End::Taken,
            };
            if end == End::Taken {
                self.taken.push(item.number);
            }
            self.queue.end(item, end, self.now);
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    #[test]
    fn every_entry_is_taken_or_parked_in_the_order_of_its_lane(
        feed in proptest::collection::vec(0_u8..5, 1..400),
        steps in proptest::collection::vec(proptest::prelude::any::<(u8, u8)>(), 0..300),
    ) {
        let mut model = Model { feed, queue: Queue::new(0, Stored::default()), now: 0, taken: Vec::new() };
        for (step, ends) in steps {
            match step % 8 {
                0 | 1 => model.reads(usize::from(ends)),
                2 => model.reads_lane(usize::from(ends % 40) + 1),
                3 if ends < 64 => model.is_killed(),
                4 => model.now += i64::from(ends) * 100_000,
                _ => model.sends(&[ends, step, ends / 8, step / 8]),
            }
        }
        for _ in 0..5_000 {
            model.reads(100);
            model.reads_lane(32);
            model.now += 3_600_000;
            model.sends(&[3]);
        }
        let all = model.feed.len() as u64;
        assert_eq!(model.queue.position(), all);
        assert!(model.queue.stored().held.is_empty() && model.queue.stored().behind.is_empty());
        for lane in 0..5 {
            let of_lane = |number: &u64| model.feed[usize::try_from(*number).expect("small") - 1] == lane;
            // An entry may come again after a kill, with those after it, and none is left out.
            let mut last = 0;
            let firsts: Vec<_> = model.taken.iter().copied().filter(of_lane).filter(|number| {
                let is_new = *number > last;
                last = last.max(*number);
                is_new
            }).collect();
            let parked = &model.queue.stored().parked;
            let expected: Vec<_> = (1..=all).filter(of_lane).filter(|number| !parked.contains_key(number)).collect();
            assert_eq!(firsts, expected, "lane {lane}");
        }
    }
}

use super::*;

fn entry() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("JSON")
}

fn queue(lanes: &[&str]) -> Queue {
    let mut queue = Queue::new(0, Stored::default());
    for (number, lane) in (1..).zip(lanes) {
        queue.push(number, (*lane).to_owned(), entry());
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
    assert_eq!(numbers(&second), [2, 10]);
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
    queue.push(3, "b".to_owned(), entry());
    queue.push(4, "a".to_owned(), entry());
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
fn nothing_is_read_while_a_thousand_entries_are_parked_or_ten_thousand_are_held() {
    let mut stored = Stored::default();
    stored.parked.extend((1..=999).map(|number| (number, "a".to_owned())));
    assert!(Queue::new(0, stored.clone()).has_room());
    stored.parked.insert(1_000, "a".to_owned());
    let full = Queue::new(0, stored.clone());
    assert!(!full.has_room() && full.is_full_of_parked());
    stored.parked.clear();
    let mut queue = Queue::new(0, stored);
    queue.push(1, "a".to_owned(), entry());
    let first = queue.begin(0).expect("an entry");
    queue.end(first, End::EntryFault, 0);
    for number in 2..=10_000 {
        assert!(queue.has_room(), "{number}: one entry at fault stops no other conversation");
        queue.push(number, "a".to_owned(), entry());
    }
    assert!(!queue.has_room() && !queue.is_full_of_parked());
    let text = serde_json::to_string(queue.stored()).expect("JSON");
    assert!(text.len() < 60_000, "{} bytes are stored", text.len());
    let again = Queue::new(10_000, serde_json::from_str(&text).expect("what was stored"));
    assert_eq!(again.stored(), queue.stored());
}

//! Orders the cursor commands of a batch so that only the highest of each user, conversation and kind moves a row.

use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq, UserId};

use crate::{CursorKind, Submission};

/// What the cursor commands of a group share: user, conversation, kind of cursor, and how many other writes of the user
/// follow them in the batch. That number separates two cursor commands that have another write of their user between them.
type CursorGroup<'a> = (&'a UserId, ConversationId, CursorKind, usize);

/// The order in which the changes of a batch are applied. It is the order of arrival, except that the cursor commands of a
/// group are applied together, the highest first, at the position of the group's last one. So only the highest moves a row
/// and is announced, and the others change nothing. A cursor past the end of the log is refused; then the next highest
/// moves the row.
pub(super) fn apply_order(batch: &[Submission]) -> Vec<usize> {
    if batch.iter().filter(|one| one.change.cursor().is_some()).take(2).count() < 2 {
        return (0..batch.len()).collect();
    }
    // Walks the batch from its end, so that the first command found of a group gives the group's position.
    let mut places: Vec<Vec<(Seq, usize)>> = Vec::with_capacity(batch.len());
    let mut groups: FxHashMap<CursorGroup<'_>, usize> = FxHashMap::default();
    let mut others: FxHashMap<&UserId, usize> = FxHashMap::default();
    for (index, one) in batch.iter().enumerate().rev() {
        let Some((of, target, upto)) = one.change.cursor() else {
            *others.entry(&one.actor).or_default() += 1;
            places.push(vec![(Seq(0), index)]);
            continue;
        };
        let between = others.get(&one.actor).copied().unwrap_or_default();
        let place =
            *groups.entry((&one.actor, target.resolve(&one.actor), of, between)).or_insert(places.len());
        match places.get_mut(place) {
            Some(group) => group.push((upto, index)),
            None => places.push(vec![(upto, index)]),
        }
    }
    let mut order = Vec::with_capacity(batch.len());
    for mut group in places.into_iter().rev() {
        group.sort_unstable_by(|a, b| b.cmp(a));
        order.extend(group.into_iter().map(|(_, index)| index));
    }
    order
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use switchboard_protocol::decode_named;

    use super::*;
    use crate::Request;
    use crate::origin::Origin;

    /// The order in which a batch of (actor, command, fields) is applied.
    fn order_of(batch: &[(&str, &str, serde_json::Value)]) -> Vec<usize> {
        let batch: Vec<_> = batch
            .iter()
            .map(|(actor, command, fields)| {
                let command = decode_named(command, &fields.to_string()).expect("a command").command;
                let Request::Change(change) = Request::from(command) else { panic!("it writes") };
                let actor = UserId::parse(actor).expect("a user id");
                Submission { actor, change, origin: Origin::Internal }
            })
            .collect();
        apply_order(&batch)
    }

    fn upto(seq: u64) -> serde_json::Value {
        json!({"conversation": "#r", "upto": seq})
    }

    #[test]
    fn the_highest_cursor_of_a_group_comes_first_in_the_place_of_the_last() {
        let say = json!({"to": "#r", "text": "hi"});
        let batch = [
            ("alice", "read", upto(3)),
            ("bob", "send", say.clone()),
            ("alice", "read", upto(5)),
            ("alice", "received", upto(9)),
            ("bob", "read", upto(1)),
            ("alice", "read", upto(4)),
            ("carol", "send", say),
        ];
        assert_eq!(order_of(&batch), [1, 3, 4, 2, 5, 0, 6]);
    }

    #[test]
    fn no_cursor_passes_another_write_of_its_user() {
        let leave = json!({"conversation": "#r"});
        let batch = [
            ("alice", "read", upto(3)),
            ("alice", "leave", leave),
            ("alice", "read", upto(5)),
            ("alice", "read", upto(6)),
        ];
        assert_eq!(order_of(&batch), [0, 1, 3, 2]);
    }

    #[test]
    fn cursors_of_different_conversations_are_in_different_groups() {
        let other = json!({"conversation": "#s", "upto": 7});
        assert_eq!(order_of(&[("alice", "read", upto(3)), ("alice", "read", other)]), [0, 1]);
    }
}

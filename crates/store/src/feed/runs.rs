//! How a page of the feed stores its items: runs of events that follow each other in one conversation, each as three
//! numbers of variable length. A run of entries that are no events has the conversation 0.

use integer_encoding::VarInt as _;

use super::Item;
use crate::key::ConversationKey;
use switchboard_protocol::Seq;

/// Encodes items.
pub(crate) fn encode(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut run: Option<(u64, u64, u64)> = None;
    for item in items {
        let (conversation, seq) = item.map_or((0, 0), |(key, seq)| (key.0.cast_unsigned(), seq.0));
        match &mut run {
            Some((of, first, count))
                if *of == conversation && (conversation == 0 || *first + *count == seq) =>
            {
                *count += 1;
            }
            _ => {
                run.into_iter().for_each(|run| put(&mut bytes, run));
                run = Some((conversation, seq, 1));
            }
        }
    }
    run.into_iter().for_each(|run| put(&mut bytes, run));
    bytes
}

fn put(bytes: &mut Vec<u8>, (conversation, first, count): (u64, u64, u64)) {
    for number in [conversation, first, count] {
        bytes.extend(number.encode_var_vec());
    }
}

/// Decodes items; `None` if the bytes are damaged, or have more than `most` items.
pub(crate) fn decode(mut bytes: &[u8], most: u64) -> Option<Vec<Item>> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let (conversation, first, count) = (take(&mut bytes)?, take(&mut bytes)?, take(&mut bytes)?);
        if count > most - items.len() as u64 {
            return None;
        }
        first.checked_add(count)?;
        let key = ConversationKey(i64::try_from(conversation).ok()?);
        items.extend((first..first + count).map(|seq| (conversation != 0).then_some((key, Seq(seq)))));
    }
    Some(items)
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (number, length) = u64::decode_var(bytes)?;
    *bytes = bytes.get(length..)?;
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item() -> impl Strategy<Value = Item> {
        proptest::option::of((1_i64..4, 1_u64..4).prop_map(|(key, seq)| (ConversationKey(key), Seq(seq))))
    }

    proptest! {
        #[test]
        fn items_come_back_as_they_were(items in proptest::collection::vec(item(), 0..50)) {
            let bytes = encode(items.iter().copied());
            prop_assert_eq!(decode(&bytes, items.len() as u64), Some(items.clone()));
            if !items.is_empty() {
                prop_assert_eq!(decode(&bytes, items.len() as u64 - 1), None);
            }
        }

        #[test]
        fn damaged_bytes_are_no_items_and_take_no_memory(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            prop_assert!(decode(&bytes, 1_000).is_none_or(|items| items.len() <= 1_000));
        }
    }

    #[test]
    fn a_busy_conversation_takes_three_numbers() {
        let items = (1..=1_000).map(|seq| Some((ConversationKey(7), Seq(seq))));
        assert_eq!(encode(items).len(), 4);
    }
}

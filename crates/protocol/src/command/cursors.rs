//! Reads the cursors of `hello`.

use std::collections::BTreeMap;

use crate::{ConversationId, Seq};

/// Reads `cursors`. It refuses an object that names a conversation twice, because the two cursors contradict each other
/// (RFC 7493 section 2.3). It accepts an empty list, because PHP encodes an empty array as `[]`.
pub(super) fn unique_cursors<'de, D: serde::Deserializer<'de>>(
    d: D,
) -> Result<BTreeMap<ConversationId, Seq>, D::Error> {
    struct Cursors;
    impl<'de> serde::de::Visitor<'de> for Cursors {
        type Value = BTreeMap<ConversationId, Seq>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object `{…}` of cursors by conversation")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut cursors = BTreeMap::new();
            while let Some((conversation, cursor)) = map.next_entry::<ConversationId, Seq>()? {
                if let Some(_twice) = cursors.insert(conversation.clone(), cursor) {
                    return Err(serde::de::Error::custom(format_args!("{conversation} is there twice")));
                }
            }
            Ok(cursors)
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            match list.next_element::<serde::de::IgnoredAny>()? {
                None => Ok(BTreeMap::new()),
                Some(_) => Err(serde::de::Error::invalid_type(serde::de::Unexpected::Seq, &self)),
            }
        }
    }
    // `deserialize_any`, because `deserialize_map` would refuse a list before the visitor sees it.
    d.deserialize_any(Cursors)
}

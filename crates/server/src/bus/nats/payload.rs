//! Encodes notices: a MAC, the sending node, then the notice as JSON.
//!
//! The MAC is HMAC-SHA-256 (RFC 2104), truncated to 16 bytes, over the address, the node and the JSON. Its key is in the database,
//! so a client of NATS that cannot read the database can neither forge a notice nor redirect one to another address. It can replay
//! a recorded notice, which does no harm: receivers sort events by `seq` and ask the database about memberships and revocations.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::subject::SubjectKey;
use crate::bus::{NodeId, Notice};
use switchboard_store::record::NoticeKey;

/// The initial capacity of the buffer for an encoded notice. Most events need less.
const INITIAL_CAPACITY_BYTES: usize = 512;

/// The length of the MAC. RFC 2104 section 5 recommends at least half of the hash's output, which is 32 bytes for SHA-256.
const MAC_BYTES: usize = 16;

const NODE_ID_BYTES: usize = size_of::<u64>();

/// Encodes, authenticates and decodes the notices of one installation.
pub(crate) struct Codec {
    /// The HMAC state after the key, so that the key is not hashed again for each notice.
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Codec")
    }
}

impl Codec {
    pub(crate) fn new(key: &NoticeKey) -> anyhow::Result<Self> {
        let keyed = Hmac::new_from_slice(key.expose()).context("the notice key of the bus")?;
        Ok(Self { keyed })
    }

    /// Encodes a notice from `node` to a subject.
    pub(crate) fn encode(&self, subject: SubjectKey, node: NodeId, notice: &Notice) -> anyhow::Result<Bytes> {
        let mut bytes = Vec::with_capacity(INITIAL_CAPACITY_BYTES);
        bytes.extend_from_slice(&[0; MAC_BYTES]);
        bytes.extend_from_slice(&node.0.to_be_bytes());
        serde_json::to_writer(&mut bytes, notice)?;
        let mac = self.mac(subject, &bytes[MAC_BYTES..]).finalize().into_bytes();
        bytes[..MAC_BYTES].copy_from_slice(&mac[..MAC_BYTES]);
        Ok(bytes.into())
    }

    /// Decodes a message that arrived at a subject.
    ///
    /// # Errors
    /// No node of this installation sent it to this subject, or a node of a later version sent a kind that is unknown here.
    pub(crate) fn decode(&self, subject: SubjectKey, bytes: &[u8]) -> anyhow::Result<Notice> {
        let (mac, signed) = bytes.split_at_checked(MAC_BYTES).context("too short")?;
        let matches = self.mac(subject, signed).verify_truncated_left(mac).is_ok();
        ensure!(matches, "its MAC is wrong: it does not come from a node on this database");
        let json = signed.get(NODE_ID_BYTES..).context("too short")?;
        Ok(serde_json::from_slice(json)?)
    }

    fn mac(&self, subject: SubjectKey, signed: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(&[u8::try_from(subject.kind.letter()).unwrap_or_default()]);
        mac.update(&subject.key.to_be_bytes());
        mac.update(signed);
        mac
    }
}

/// The sender that the message claims. Not yet verified.
pub(super) fn sender(bytes: &[u8]) -> Option<NodeId> {
    bytes.get(MAC_BYTES..)?.first_chunk().copied().map(u64::from_be_bytes).map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Address;
    use switchboard_store::record::ConversationKey;

    fn codec(key: u8) -> Codec {
        Codec::new(&NoticeKey::new([key; 32])).expect("a key")
    }

    fn subject(conversation: i64) -> SubjectKey {
        SubjectKey::for_address(&Address::Conversation(ConversationKey(conversation)))
    }

    #[test]
    fn a_notice_is_accepted_only_with_the_key_and_at_its_own_subject() {
        let notice = Notice::Revoke { user: "alice".parse().expect("an id") };
        let bytes = codec(1).encode(subject(7), NodeId(3), &notice).expect("encodes");
        assert_eq!(sender(&bytes), Some(NodeId(3)));
        assert!(
            matches!(codec(1).decode(subject(7), &bytes), Ok(Notice::Revoke { user }) if user.as_str() == "alice")
        );
        codec(2).decode(subject(7), &bytes).expect_err("another key");
        codec(1).decode(subject(8), &bytes).expect_err("another conversation");
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            codec(1).decode(subject(7), &changed).expect_err("a changed byte");
        }
        for length in 0..bytes.len() {
            codec(1).decode(subject(7), &bytes[..length]).expect_err("a truncated message");
        }
    }
}

//! What is told, in bytes: who tells, eight of them, then the notice as JSON.

use anyhow::Context as _;
use bytes::Bytes;

use crate::bus::{NodeId, Notice};

/// Bytes of a notice that are made room for at first; events of chats are about that long.
const USUAL: usize = 512;

pub(super) fn encode(node: NodeId, notice: &Notice) -> anyhow::Result<Bytes> {
    let mut bytes = Vec::with_capacity(USUAL);
    bytes.extend_from_slice(&node.0.to_be_bytes());
    serde_json::to_writer(&mut bytes, notice)?;
    Ok(bytes.into())
}

/// Who tells.
pub(super) fn sender(bytes: &[u8]) -> Option<NodeId> {
    bytes.first_chunk().copied().map(u64::from_be_bytes).map(NodeId)
}

pub(super) fn notice(bytes: &[u8]) -> anyhow::Result<Notice> {
    let json = bytes.get(size_of::<u64>()..).context("too short")?;
    Ok(serde_json::from_slice(json)?)
}

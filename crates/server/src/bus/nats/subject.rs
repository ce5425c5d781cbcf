//! Subject names. No subject contains a user's text or name.

use sha2::{Digest as _, Sha256};

use crate::bus::{Address, NodeId};
use switchboard_store::record::ConversationKey;

/// Version of the subjects, the hash slots and the payload. Nodes of different versions do not receive each other's notices.
const PROTOCOL_VERSION: u32 = 2;

/// The kinds of subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SubjectKind {
    /// A conversation, by its key.
    Conversation,
    /// A user, by a hash of their id.
    User,
    /// The watchers of a user's presence, by a hash of the user's id.
    Watched,
    /// Every node.
    Nodes,
    /// Every node, for notices about the nodes themselves.
    Status,
    /// Every node, for changed profiles.
    Profiles,
    /// A node's health probes: messages to itself, whose arrival proves that its connection receives.
    Probe,
    /// A node's barriers: messages to itself, whose arrival proves that NATS has processed what the node sent before.
    Barrier,
}

impl SubjectKind {
    pub(super) fn letter(self) -> char {
        match self {
            Self::Conversation => 'c',
            Self::User => 'u',
            Self::Watched => 'w',
            Self::Nodes => 'n',
            Self::Status => 's',
            Self::Profiles => 'f',
            Self::Probe => 'p',
            Self::Barrier => 'm',
        }
    }

    fn from_letter(letter: &str) -> Option<Self> {
        [
            Self::Conversation,
            Self::User,
            Self::Watched,
            Self::Nodes,
            Self::Status,
            Self::Profiles,
            Self::Probe,
            Self::Barrier,
        ]
        .into_iter()
        .find(|kind| letter.chars().eq([kind.letter()]))
    }

    /// The number of hash slots into which subjects of this kind are divided. All nodes must use the same number.
    fn slot_count(self) -> u64 {
        match self {
            Self::Conversation => 1_024,
            Self::User | Self::Watched => 256,
            Self::Nodes | Self::Status | Self::Profiles | Self::Probe | Self::Barrier => 1,
        }
    }
}

/// Identifies one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SubjectKey {
    pub(super) kind: SubjectKind,
    pub(super) key: u64,
}

impl SubjectKey {
    pub(crate) fn for_address(address: &Address) -> Self {
        match address {
            Address::Conversation(ConversationKey(key)) => {
                Self { kind: SubjectKind::Conversation, key: key.cast_unsigned() }
            }
            Address::User(user) => Self { kind: SubjectKind::User, key: hash(user.as_str()) },
            Address::Watched(user) => Self { kind: SubjectKind::Watched, key: hash(user.as_str()) },
            Address::Nodes => Self { kind: SubjectKind::Nodes, key: 0 },
            Address::Status => Self { kind: SubjectKind::Status, key: 0 },
            Address::Profiles => Self { kind: SubjectKind::Profiles, key: 0 },
        }
    }

    pub(super) fn slot(self) -> Slot {
        let number = self.key % self.kind.slot_count();
        Slot { kind: self.kind, number: u16::try_from(number).unwrap_or_default() }
    }
}

/// The first 64 bits of SHA-256. If the hashes of two users collide, the nodes of each also receive notices about the other, and
/// ignore them because a notice names its user.
fn hash(text: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    digest.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default()
}

/// A hash slot: the subjects that one wildcard subscription covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) kind: SubjectKind,
    pub(super) number: u16,
}

/// Makes the names of the subjects of one installation.
#[derive(Debug)]
pub(super) struct Subjects {
    /// The beginning of every subject: the prefix and the version.
    root: String,
}

impl Subjects {
    /// Subjects that begin with `prefix`.
    ///
    /// # Errors
    /// `prefix` is not a valid subject.
    pub(super) fn new(prefix: &str) -> anyhow::Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_token = |token: &str| !token.is_empty() && token.chars().all(is_plain);
        anyhow::ensure!(
            prefix.split('.').all(is_token),
            "the bus prefix must consist of letters, digits, - and _, separated by single dots: {prefix:?}"
        );
        Ok(Self { root: format!("{prefix}.{PROTOCOL_VERSION}.") })
    }

    pub(super) fn name_of(&self, subject: SubjectKey) -> String {
        let (root, letter, slot) = (&self.root, subject.kind.letter(), subject.slot().number);
        match subject.kind {
            SubjectKind::Conversation | SubjectKind::User | SubjectKind::Watched => {
                format!("{root}{letter}.{slot}.{:016x}", subject.key)
            }
            SubjectKind::Nodes | SubjectKind::Status | SubjectKind::Profiles => format!("{root}{letter}"),
            SubjectKind::Probe | SubjectKind::Barrier => format!("{root}{letter}.{:016x}", subject.key),
        }
    }

    /// The wildcard that matches every subject of a slot.
    pub(super) fn wildcard_of_slot(&self, slot: Slot) -> String {
        format!("{}{}.{}.*", self.root, slot.kind.letter(), slot.number)
    }

    pub(super) fn parse(&self, subject: &str) -> Option<SubjectKey> {
        let mut tokens = subject.strip_prefix(&self.root)?.split('.');
        let kind = SubjectKind::from_letter(tokens.next()?)?;
        let key = match kind {
            SubjectKind::Conversation | SubjectKind::User | SubjectKind::Watched => {
                tokens.nth(1).and_then(parse_key)?
            }
            SubjectKind::Nodes | SubjectKind::Status | SubjectKind::Profiles => 0,
            SubjectKind::Probe | SubjectKind::Barrier => tokens.next().and_then(parse_key)?,
        };
        Some(SubjectKey { kind, key })
    }
}

fn parse_key(token: &str) -> Option<u64> {
    u64::from_str_radix(token, 16).ok()
}

/// The subject of a node's probes.
pub(super) fn probe_subject(node: NodeId) -> SubjectKey {
    SubjectKey { kind: SubjectKind::Probe, key: node.0 }
}

/// The subject of a node's barriers.
pub(super) fn barrier_subject(node: NodeId) -> SubjectKey {
    SubjectKey { kind: SubjectKind::Barrier, key: node.0 }
}

//! Under which subjects nodes tell and listen. None of them holds what a user wrote or what they are called.

use sha2::{Digest as _, Sha256};

use crate::bus::{Address, NodeId};
use crate::record::ConversationKey;

/// Of the subjects and of what is told under them. Nodes of another version neither hear nor understand these.
const VERSION: u32 = 2;

/// What a subject is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A conversation, by its key.
    Conversation,
    /// A user, by a hash of their id.
    User,
    /// Whoever is told a user's presence, by the same hash.
    Watched,
    /// Every node.
    Nodes,
    /// A node, which proves by it that it hears.
    Probe,
    /// A node, which learns by it that the bus has got this far.
    Mark,
}

impl Kind {
    pub(super) fn letter(self) -> char {
        match self {
            Self::Conversation => 'c',
            Self::User => 'u',
            Self::Watched => 'w',
            Self::Nodes => 'n',
            Self::Probe => 'p',
            Self::Mark => 'm',
        }
    }

    fn from_letter(letter: &str) -> Option<Self> {
        [Self::Conversation, Self::User, Self::Watched, Self::Nodes, Self::Probe, Self::Mark]
            .into_iter()
            .find(|kind| letter.chars().eq([kind.letter()]))
    }

    /// Slots that the places of a kind are spread over; every node must count the same.
    fn slots(self) -> u64 {
        match self {
            Self::Conversation => 1_024,
            Self::User | Self::Watched => 256,
            Self::Nodes | Self::Probe | Self::Mark => 1,
        }
    }
}

/// What one subject stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) key: u64,
}

impl Place {
    pub(super) fn of(address: &Address) -> Self {
        match address {
            Address::Conversation(ConversationKey(key)) => {
                Self { kind: Kind::Conversation, key: key.cast_unsigned() }
            }
            Address::User(user) => Self { kind: Kind::User, key: hash(user.as_str()) },
            Address::Watched(user) => Self { kind: Kind::Watched, key: hash(user.as_str()) },
            Address::Nodes => Self { kind: Kind::Nodes, key: 0 },
        }
    }

    pub(super) fn slot(self) -> Slot {
        let number = self.key % self.kind.slots();
        Slot { kind: self.kind, number: u16::try_from(number).unwrap_or_default() }
    }
}

/// Two users who share it hear of each other's news, which name their user.
fn hash(text: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    digest.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default()
}

/// Places that can be listened at all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) kind: Kind,
    pub(super) number: u16,
}

/// The subjects of one installation.
#[derive(Debug)]
pub(super) struct Subjects {
    /// What all of them begin with.
    root: String,
}

impl Subjects {
    /// Subjects that begin with `prefix`, if it can be the beginning of one.
    pub(super) fn new(prefix: &str) -> anyhow::Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_token = |token: &str| !token.is_empty() && token.chars().all(is_plain);
        anyhow::ensure!(
            prefix.split('.').all(is_token),
            "the prefix of the bus may have letters, digits, - and _, and single dots between them: {prefix:?}"
        );
        Ok(Self { root: format!("{prefix}.{VERSION}.") })
    }

    pub(super) fn of(&self, place: Place) -> String {
        let (root, letter, slot) = (&self.root, place.kind.letter(), place.slot().number);
        match place.kind {
            Kind::Conversation | Kind::User | Kind::Watched => {
                format!("{root}{letter}.{slot}.{:016x}", place.key)
            }
            Kind::Nodes => format!("{root}{letter}"),
            Kind::Probe | Kind::Mark => format!("{root}{letter}.{:016x}", place.key),
        }
    }

    /// Every place of a slot.
    pub(super) fn all_of(&self, slot: Slot) -> String {
        format!("{}{}.{}.*", self.root, slot.kind.letter(), slot.number)
    }

    pub(super) fn parse(&self, subject: &str) -> Option<Place> {
        let mut tokens = subject.strip_prefix(&self.root)?.split('.');
        let kind = Kind::from_letter(tokens.next()?)?;
        let key = match kind {
            Kind::Conversation | Kind::User | Kind::Watched => tokens.nth(1).and_then(parse_key)?,
            Kind::Nodes => 0,
            Kind::Probe | Kind::Mark => tokens.next().and_then(parse_key)?,
        };
        Some(Place { kind, key })
    }
}

fn parse_key(token: &str) -> Option<u64> {
    u64::from_str_radix(token, 16).ok()
}

/// Where a node's probes arrive.
pub(super) fn probe(node: NodeId) -> Place {
    Place { kind: Kind::Probe, key: node.0 }
}

/// Where a node's marks arrive.
pub(super) fn mark(node: NodeId) -> Place {
    Place { kind: Kind::Mark, key: node.0 }
}

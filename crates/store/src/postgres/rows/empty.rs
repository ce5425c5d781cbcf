//! The rows of a transaction before it begins.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};

use super::PostgresRows;
use super::bans::Bans;
use super::blocks::BlockChanges;
use super::profiles::Profiles;
use super::reactions::Reactions;
use crate::change::Rules;
use crate::postgres::connect::BlockingConnection;
use crate::postgres::ids::Ids;

impl<'a> PostgresRows<'a> {
    /// The rows of a transaction that has not begun.
    pub(in crate::postgres) fn new(link: &'a BlockingConnection, ids: &'a mut Ids, rules: &Rules) -> Self {
        Self {
            link,
            ids,
            max_rooms: rules.limits.rooms,
            near: rules.max_events_counted_by_writer,
            writer_id: String::new(),
            installation_version: 0,
            users: FxHashMap::default(),
            user_names: FxHashMap::default(),
            retired: FxHashMap::default(),
            conversations: FxHashMap::default(),
            names: FxHashMap::default(),
            members: FxHashMap::default(),
            keyed: FxHashMap::default(),
            held: FxHashMap::default(),
            events: FxHashMap::default(),
            amendments: FxHashMap::default(),
            reactions: Reactions::default(),
            room_counts: FxHashMap::default(),
            counts: FxHashMap::default(),
            locked: FxHashSet::default(),
            locked_elsewhere: FxHashSet::default(),
            new_users: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            not_before: BTreeMap::new(),
            keys_used: BTreeMap::new(),
            profiles: Profiles::default(),
            bans: Bans::default(),
            blocks: BlockChanges::new(rules.limits.signal_room),
            new_conversations: BTreeSet::new(),
            dirty_conversations: FxHashSet::default(),
            dirty_members: BTreeMap::new(),
            new_events: Vec::new(),
            new_event_index: FxHashMap::default(),
            new_event_keys: FxHashMap::default(),
            erased_bodies: BTreeMap::new(),
            deleted_requests: Vec::new(),
            new_amendments: Vec::new(),
            ended_rooms: Vec::new(),
            room_choices: BTreeMap::new(),
            entries: Vec::new(),
            feed_trimmed: Vec::new(),
            probe: Vec::new(),
            caught_up: Vec::new(),
            is_abandoned: false,
        }
    }
}

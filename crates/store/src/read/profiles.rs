//! Queries about profiles: those of named users, those found by name, and the names on pages.

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::reply::{Member, Person};
use switchboard_protocol::{ConversationId, Limits, UserId};

use super::fold::json_bytes;
use super::people::Direct;
use super::row::{ListedConversation, PresencePeerRow};
use super::{LookupResult, Lookups, PageBudget, Reader};
use crate::profile::{Directory, LastToken, People, PeopleQuery};
use crate::record::UserKey;
use crate::search;

/// How many candidates of a search are examined at a time. Most searches find enough among the first.
const CANDIDATES_PER_STEP: usize = 100;

impl<L: Lookups> Reader<'_, L> {
    /// Answers `users` and `find_users`.
    pub(crate) fn people(
        &self,
        user: &UserId,
        query: &PeopleQuery,
        directory: Directory,
    ) -> LookupResult<People, L> {
        match query {
            PeopleQuery::Users(users) => {
                let rows = self.rows.presence_peer_rows(users)?;
                let rows = self.filter_visible(user, rows, directory)?;
                self.page_of_people(rows, false)
            }
            PeopleQuery::Find { query, limit } => self.find_people(user, query, *limit, directory),
        }
    }

    /// The users among `rows` whose profiles a user may see, in the same order.
    fn filter_visible(
        &self,
        user: &UserId,
        rows: Vec<PresencePeerRow>,
        directory: Directory,
    ) -> LookupResult<Vec<PresencePeerRow>, L> {
        if directory == Directory::Off {
            return Ok(rows.into_iter().filter(|row| row.name == *user).collect());
        }
        let own = self.rows.find_user(user)?.map(|own| own.key);
        let rows = match own {
            Some(own) => self.without_apart(own, rows)?,
            None => rows,
        };
        Ok(match (directory, own) {
            (Directory::Off, _) | (Directory::Shared, None) => Vec::new(),
            (Directory::All, _) => rows,
            (Directory::Shared, Some(own)) => {
                let shared = self.sharing_users(own, user, &rows, Direct::Any)?;
                rows.into_iter().filter(|row| shared.contains(&row.key)).collect()
            }
        })
    }

    fn find_people(
        &self,
        user: &UserId,
        query: &str,
        limit: Option<u32>,
        directory: Directory,
    ) -> LookupResult<People, L> {
        let limit = self.limits.page_size(limit) as usize;
        let (from, to) = search::word_range(query);
        let mut candidates = if from.is_empty() || directory == Directory::Off {
            Vec::new()
        } else {
            let by_id = (query.to_owned(), format!("{query}\u{7f}"));
            self.rows.find_people((&from, &to), (&by_id.0, &by_id.1), Limits::MAX_FIND_CANDIDATES)?
        };
        let mut known = FxHashSet::default();
        candidates.retain(|row| known.insert(row.key));
        let mut found = Vec::new();
        for step in candidates.chunks(CANDIDATES_PER_STEP) {
            found.extend(self.filter_visible(user, step.to_vec(), directory)?);
            if found.len() > limit {
                break;
            }
        }
        let more = found.len() > limit;
        found.truncate(limit);
        self.page_of_people(found, more)
    }

    fn page_of_people(&self, rows: Vec<PresencePeerRow>, mut more: bool) -> LookupResult<People, L> {
        let keys: Vec<_> = rows.iter().map(|row| row.key).collect();
        let profiles = self.rows.profiles(&keys)?;
        let mut room = PageBudget(self.limits.page_bytes as usize);
        let mut users = Vec::with_capacity(rows.len());
        for row in rows {
            let profile = profiles.get(&row.key).cloned().unwrap_or_default().visible_profile(row.name);
            if !room.spend(json_bytes(&profile)) {
                more = true;
                break;
            }
            users.push(profile);
        }
        Ok(People { users, more })
    }

    /// The token that a user's profile was last read from.
    pub(crate) fn last_token(&self, user: &UserId) -> LookupResult<Option<LastToken>, L> {
        let Some(known) = self.rows.find_user(user)? else { return Ok(None) };
        Ok(self.rows.profiles(&[known.key])?.remove(&known.key).and_then(|profile| profile.last_token()))
    }

    /// Adds names and pictures to a page of members. Returns how many of them fit.
    pub(super) fn name_members(&self, keys: &[UserKey], members: &mut [Member]) -> LookupResult<usize, L> {
        let profiles = self.rows.profiles(keys)?;
        let mut room = PageBudget(self.limits.page_bytes as usize);
        let mut fits = 0;
        for (key, member) in keys.iter().zip(members) {
            if let Some(profile) = profiles.get(key) {
                let person = profile.person(member.user.clone());
                (member.name, member.avatar) = (person.name, person.avatar);
            }
            if !room.spend(json_bytes(member)) {
                break;
            }
            fits += 1;
        }
        Ok(fits)
    }

    /// For each direct conversation of a user in a list: the other user, if they have a name or a picture.
    pub(super) fn direct_peers_of(
        &self,
        user: UserKey,
        listed: &[ListedConversation],
    ) -> LookupResult<FxHashMap<ConversationId, Person>, L> {
        let pairs: Vec<_> = listed
            .iter()
            .filter_map(|listed| {
                let name = &listed.conversation.name;
                Some((name, name.peers()?))
            })
            .collect();
        let names: FxHashSet<&UserId> = pairs.iter().flat_map(|(_, (a, b))| [a, b]).collect();
        if names.is_empty() {
            return Ok(FxHashMap::default());
        }
        let names: Vec<_> = names.into_iter().cloned().collect();
        let people: FxHashMap<_, _> = self.rows.named_people(&names)?.into_iter().collect();
        let person = |name: &UserId| {
            let (key, profile) = people.get(name)?;
            (*key != user).then(|| profile.person(name.clone()))
        };
        Ok(pairs
            .iter()
            .filter_map(|(conversation, (a, b))| {
                let other = person(a).or_else(|| person(b))?;
                (other.name.is_some() || other.avatar.is_some()).then(|| ((*conversation).clone(), other))
            })
            .collect())
    }
}

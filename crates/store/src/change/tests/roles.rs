//! Compares the store with a model of the table of roles in docs/protocol.md: which role may use a command, and what it does.

use std::collections::BTreeSet;

use super::*;

/// A command of a user in a room.
#[derive(Debug, Clone)]
enum Action {
    Send,
    /// Edits the message with this index, if it exists. The index of the other commands means the same.
    Edit(usize),
    Delete(usize),
    React(usize),
    Read,
    Join,
    Leave,
    Invite(&'static str, Role),
    Remove(&'static str),
    SetRole(&'static str, Role),
    Rename,
}

fn person() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&PEOPLE[..])
}

fn role() -> impl Strategy<Value = Role> {
    proptest::sample::select(vec![Role::Admin, Role::Member, Role::Reader])
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => Just(Action::Send),
        1 => (0_usize..4).prop_map(Action::Edit),
        1 => (0_usize..4).prop_map(Action::Delete),
        1 => (0_usize..4).prop_map(Action::React),
        1 => Just(Action::Read),
        3 => Just(Action::Join),
        2 => Just(Action::Leave),
        3 => (person(), role()).prop_map(|(who, role)| Action::Invite(who, role)),
        2 => person().prop_map(Action::Remove),
        3 => (person(), role()).prop_map(|(who, role)| Action::SetRole(who, role)),
        1 => Just(Action::Rename),
    ]
}

/// The model of the room: its members and its messages.
#[derive(Debug)]
struct Room {
    is_public: bool,
    /// The role of each user who is a member; `None` for a user who has left.
    members: BTreeMap<&'static str, Option<Role>>,
    /// The users whose role was reader when they left or were removed: they are readers again if they rejoin.
    muted: BTreeSet<&'static str>,
    /// The messages: the sender, the seq, and whether the message still exists.
    messages: Vec<(&'static str, u64, bool)>,
    head: u64,
}

/// The result of a command: a new event, an earlier event again (for a retry), a cursor, or a refusal.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Event(u64),
    Duplicate,
    Cursor,
    Refused(ErrorCode),
}
use Outcome::{Duplicate, Refused};

const NOT_FOUND: Outcome = Refused(ErrorCode::NotFound);
const FORBIDDEN: Outcome = Refused(ErrorCode::Forbidden);

impl Room {
    fn role(&self, who: &str) -> Option<Role> {
        self.members.get(who).copied().flatten()
    }

    fn has_been_member(&self, who: &str) -> bool {
        self.members.get(who).is_some_and(Option::is_none)
    }

    fn is_only_admin(&self, who: &str) -> bool {
        let admins = self.members.values().filter(|role| **role == Some(Role::Admin)).count();
        self.role(who) == Some(Role::Admin) && admins == 1
    }

    fn is_empty(&self) -> bool {
        self.members.values().all(Option::is_none)
    }

    fn event(&mut self) -> Outcome {
        self.head += 1;
        Outcome::Event(self.head)
    }

    /// The result that the table of roles demands. A user outside the room gets `not_found`; a member whose role does not allow the
    /// command gets `forbidden`.
    fn expected(&mut self, who: &'static str, what: &Action) -> Outcome {
        match *what {
            Action::Join => return self.expected_for_join(who),
            // A second `leave` counts as a retry of the first and succeeds.
            Action::Leave if self.has_been_member(who) => return Duplicate,
            _ => {}
        }
        let Some(role) = self.role(who) else { return NOT_FOUND };
        let (admin, writes) = (role == Role::Admin, role != Role::Reader);
        match *what {
            Action::Read => Outcome::Cursor,
            Action::Leave => self.expected_for_leave(who),
            Action::Invite(_, role) if self.is_public && role == Role::Member && writes => {
                self.expected_for_change(who, what)
            }
            Action::Invite(..) | Action::Remove(_) | Action::SetRole(..) | Action::Rename if admin => {
                self.expected_for_change(who, what)
            }
            Action::Send | Action::Edit(_) | Action::Delete(_) | Action::React(_) if writes => {
                self.expected_for_write(who, admin, what)
            }
            _ => FORBIDDEN,
        }
    }

    /// The result that the model expects for a command about messages, by a member who may write.
    fn expected_for_write(&mut self, who: &'static str, admin: bool, what: &Action) -> Outcome {
        let (Action::Edit(n) | Action::Delete(n) | Action::React(n)) = *what else {
            self.messages.push((who, self.head + 1, true));
            return self.event();
        };
        let Some((author, _, there)) = self.messages.get_mut(n) else { return NOT_FOUND };
        let own = *author == who;
        match what {
            Action::Delete(_) if !own && !admin => FORBIDDEN,
            Action::Delete(_) if !std::mem::take(there) => Duplicate,
            Action::Delete(_) => self.event(),
            _ if !*there => NOT_FOUND,
            Action::Edit(_) if !own => FORBIDDEN,
            // Each reaction has another emoji, so none counts as a repetition.
            _ => self.event(),
        }
    }

    /// The result that the model expects for a change of the room, by a member who may make it.
    fn expected_for_change(&mut self, who: &'static str, what: &Action) -> Outcome {
        match *what {
            Action::Invite(whom, _) if self.role(whom).is_some() => return Duplicate,
            Action::Invite(whom, role) => {
                let muted = self.role(who) != Some(Role::Admin) && self.muted.contains(whom);
                self.members.insert(whom, Some(if muted { Role::Reader } else { role }));
            }
            Action::Remove(whom) if whom == who => return Refused(ErrorCode::BadField),
            Action::Remove(whom) => match self.members.get_mut(whom).map(Option::take) {
                None => return NOT_FOUND,
                Some(None) => return Duplicate,
                Some(Some(role)) => self.end_membership(whom, role),
            },
            Action::SetRole(whom, _) if self.role(whom).is_none() => return NOT_FOUND,
            Action::SetRole(whom, to) if to != Role::Admin && self.is_only_admin(whom) => return FORBIDDEN,
            Action::SetRole(whom, to) => drop(self.members.insert(whom, Some(to))),
            _ => {}
        }
        self.event()
    }

    fn expected_for_join(&mut self, who: &'static str) -> Outcome {
        if self.role(who).is_some() {
            return Duplicate;
        }
        if !self.is_public {
            return NOT_FOUND;
        }
        let role = match (self.is_empty(), self.muted.contains(who)) {
            (true, _) => Role::Admin,
            (false, true) => Role::Reader,
            (false, false) => Role::Member,
        };
        self.members.insert(who, Some(role));
        self.event()
    }

    fn expected_for_leave(&mut self, who: &'static str) -> Outcome {
        let others = self.members.values().filter(|role| role.is_some()).count() > 1;
        if others && self.is_only_admin(who) {
            return FORBIDDEN;
        }
        if let Some(role) = self.members.insert(who, None).flatten() {
            self.end_membership(who, role);
        }
        self.event()
    }

    fn end_membership(&mut self, who: &'static str, role: Role) {
        if role == Role::Reader {
            self.muted.insert(who);
        } else {
            self.muted.remove(who);
        }
    }
}

/// Applies the command to the store and returns the store's result.
fn store_outcome(store: &mut InMemory, who: &str, what: &Action, at: u64, targets: &[u64]) -> Outcome {
    let target = |n: usize| targets.get(n).copied().unwrap_or(0);
    let room = |fields: Value| {
        let mut fields = fields;
        fields["conversation"] = json!("#r");
        fields
    };
    let (name, fields) = match *what {
        Action::Send => ("send", json!({"to": "#r", "text": "hi"})),
        Action::Edit(n) => ("edit", room(json!({"target": target(n), "text": "new"}))),
        Action::Delete(n) => ("delete", room(json!({"target": target(n)}))),
        Action::React(n) => ("react", room(json!({"target": target(n), "emoji": format!("e{at}")}))),
        Action::Read => ("read", room(json!({"upto": 1}))),
        Action::Join => ("join", room(json!({}))),
        Action::Leave => ("leave", room(json!({}))),
        Action::Invite(whom, role) => ("invite", room(json!({"user": whom, "role": role}))),
        Action::Remove(whom) => ("remove", room(json!({"user": whom}))),
        Action::SetRole(whom, role) => ("role", room(json!({"user": whom, "role": role}))),
        Action::Rename => ("rename", room(json!({"title": "T"}))),
    };
    match says(store, who, name, &fields) {
        Ok(Committed::Event(event)) if event.event.is_some() => Outcome::Event(event.seq.0),
        Ok(Committed::Event(_)) => Duplicate,
        Ok(Committed::Cursor(_)) => Outcome::Cursor,
        Ok(
            Committed::Profiles(_)
            | Committed::Block(_)
            | Committed::Report(_)
            | Committed::Held { .. }
            | Committed::Import(_)
            | Committed::NotAnnounced,
        ) => {
            panic!("{what:?} sends nothing to any session")
        }
        Err(refusal) => Refused(refusal.code),
    }
}

fn check_against_model(public: bool, steps: &[(&'static str, Action)]) -> TestCaseResult {
    let mut store = InMemory::new(Limits::default());
    let create = json!({"room": "r", "public": public, "members": ["bob"]});
    says(&mut store, "alice", "create", &create).expect("a room");
    let members = BTreeMap::from([("alice", Some(Role::Admin)), ("bob", Some(Role::Member))]);
    let mut room = Room { is_public: public, members, muted: BTreeSet::new(), messages: Vec::new(), head: 1 };
    for (at, (who, what)) in (0..).zip(steps) {
        let targets: Vec<u64> = room.messages.iter().map(|(_, seq, _)| *seq).collect();
        let outcome = store_outcome(&mut store, who, what, at, &targets);
        prop_assert_eq!(outcome, room.expected(who, what), "{} says {:?} in {:?}", who, what, room);
    }
    for who in PEOPLE {
        let listed = summary(&store, who).map(|summary| (summary.role, summary.head, summary.members));
        let members = room.members.values().filter(|role| role.is_some()).count() as u64;
        prop_assert_eq!(listed, room.role(who).map(|role| (role, Seq(room.head), members)), "{}", who);
    }
    prop_assert_eq!(store.check(), []);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn permissions_are_those_of_the_table_of_roles(
        public in any::<bool>(),
        steps in proptest::collection::vec((person(), any_action()), 1..40),
    ) {
        check_against_model(public, &steps)?;
    }
}

//! Compares the store with a model of the table of roles in docs/protocol.md: which role may use a command, and what it does.

use std::collections::BTreeSet;

use super::*;

/// A command of a user in a room.
#[derive(Debug, Clone)]
enum Says {
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

fn says_something() -> impl Strategy<Value = Says> {
    prop_oneof![
        3 => Just(Says::Send),
        1 => (0_usize..4).prop_map(Says::Edit),
        1 => (0_usize..4).prop_map(Says::Delete),
        1 => (0_usize..4).prop_map(Says::React),
        1 => Just(Says::Read),
        3 => Just(Says::Join),
        2 => Just(Says::Leave),
        3 => (person(), role()).prop_map(|(who, role)| Says::Invite(who, role)),
        2 => person().prop_map(Says::Remove),
        3 => (person(), role()).prop_map(|(who, role)| Says::SetRole(who, role)),
        1 => Just(Says::Rename),
    ]
}

/// The model of the room: its members and its messages.
#[derive(Debug)]
struct Room {
    public: bool,
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
    Again,
    Cursor,
    Refused(ErrorCode),
}
use Outcome::{Again, Refused};

const NOT_FOUND: Outcome = Refused(ErrorCode::NotFound);
const FORBIDDEN: Outcome = Refused(ErrorCode::Forbidden);

impl Room {
    fn role(&self, who: &str) -> Option<Role> {
        self.members.get(who).copied().flatten()
    }

    fn has_been_here(&self, who: &str) -> bool {
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
    fn expected(&mut self, who: &'static str, what: &Says) -> Outcome {
        match *what {
            Says::Join => return self.joins(who),
            // A second `leave` counts as a retry of the first and succeeds.
            Says::Leave if self.has_been_here(who) => return Again,
            _ => {}
        }
        let Some(role) = self.role(who) else { return NOT_FOUND };
        let (admin, writes) = (role == Role::Admin, role != Role::Reader);
        match *what {
            Says::Read => Outcome::Cursor,
            Says::Leave => self.leaves(who),
            Says::Invite(_, role) if self.public && role == Role::Member && writes => self.changes(who, what),
            Says::Invite(..) | Says::Remove(_) | Says::SetRole(..) | Says::Rename if admin => {
                self.changes(who, what)
            }
            Says::Send | Says::Edit(_) | Says::Delete(_) | Says::React(_) if writes => {
                self.writes(who, admin, what)
            }
            _ => FORBIDDEN,
        }
    }

    /// The result that the model expects for a command about messages, by a member who may write.
    fn writes(&mut self, who: &'static str, admin: bool, what: &Says) -> Outcome {
        let (Says::Edit(n) | Says::Delete(n) | Says::React(n)) = *what else {
            self.messages.push((who, self.head + 1, true));
            return self.event();
        };
        let Some((author, _, there)) = self.messages.get_mut(n) else { return NOT_FOUND };
        let own = *author == who;
        match what {
            Says::Delete(_) if !own && !admin => FORBIDDEN,
            Says::Delete(_) if !std::mem::take(there) => Again,
            Says::Delete(_) => self.event(),
            _ if !*there => NOT_FOUND,
            Says::Edit(_) if !own => FORBIDDEN,
            // Each reaction has another emoji, so none counts as a repetition.
            _ => self.event(),
        }
    }

    /// The result that the model expects for a change of the room, by a member who may make it.
    fn changes(&mut self, who: &'static str, what: &Says) -> Outcome {
        match *what {
            Says::Invite(whom, _) if self.role(whom).is_some() => return Again,
            Says::Invite(whom, role) => {
                let muted = self.role(who) != Some(Role::Admin) && self.muted.contains(whom);
                self.members.insert(whom, Some(if muted { Role::Reader } else { role }));
            }
            Says::Remove(whom) if whom == who => return Refused(ErrorCode::BadField),
            Says::Remove(whom) => match self.members.get_mut(whom).map(Option::take) {
                None => return NOT_FOUND,
                Some(None) => return Again,
                Some(Some(role)) => self.goes(whom, role),
            },
            Says::SetRole(whom, _) if self.role(whom).is_none() => return NOT_FOUND,
            Says::SetRole(whom, to) if to != Role::Admin && self.is_only_admin(whom) => return FORBIDDEN,
            Says::SetRole(whom, to) => drop(self.members.insert(whom, Some(to))),
            _ => {}
        }
        self.event()
    }

    fn joins(&mut self, who: &'static str) -> Outcome {
        if self.role(who).is_some() {
            return Again;
        }
        if !self.public {
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

    fn leaves(&mut self, who: &'static str) -> Outcome {
        let others = self.members.values().filter(|role| role.is_some()).count() > 1;
        if others && self.is_only_admin(who) {
            return FORBIDDEN;
        }
        if let Some(role) = self.members.insert(who, None).flatten() {
            self.goes(who, role);
        }
        self.event()
    }

    fn goes(&mut self, who: &'static str, role: Role) {
        if role == Role::Reader {
            self.muted.insert(who);
        } else {
            self.muted.remove(who);
        }
    }
}

/// Applies the command to the store and returns the store's result.
fn told(store: &mut InMemory, who: &str, what: &Says, at: u64, targets: &[u64]) -> Outcome {
    let target = |n: usize| targets.get(n).copied().unwrap_or(0);
    let room = |fields: Value| {
        let mut fields = fields;
        fields["conversation"] = json!("#r");
        fields
    };
    let (name, fields) = match *what {
        Says::Send => ("send", json!({"to": "#r", "text": "hi"})),
        Says::Edit(n) => ("edit", room(json!({"target": target(n), "text": "new"}))),
        Says::Delete(n) => ("delete", room(json!({"target": target(n)}))),
        Says::React(n) => ("react", room(json!({"target": target(n), "emoji": format!("e{at}")}))),
        Says::Read => ("read", room(json!({"upto": 1}))),
        Says::Join => ("join", room(json!({}))),
        Says::Leave => ("leave", room(json!({}))),
        Says::Invite(whom, role) => ("invite", room(json!({"user": whom, "role": role}))),
        Says::Remove(whom) => ("remove", room(json!({"user": whom}))),
        Says::SetRole(whom, role) => ("role", room(json!({"user": whom, "role": role}))),
        Says::Rename => ("rename", room(json!({"title": "T"}))),
    };
    match says(store, who, name, &fields) {
        Ok(Committed::Event(event)) if event.event.is_some() => Outcome::Event(event.seq.0),
        Ok(Committed::Event(_)) => Again,
        Ok(Committed::Cursor(_)) => Outcome::Cursor,
        Ok(Committed::Quiet) => panic!("{what:?} sends nothing to any session"),
        Err(refusal) => Refused(refusal.code),
    }
}

fn agrees(public: bool, steps: &[(&'static str, Says)]) -> TestCaseResult {
    let mut store = InMemory::new(Limits::default());
    let create = json!({"room": "r", "public": public, "members": ["bob"]});
    says(&mut store, "alice", "create", &create).expect("a room");
    let members = BTreeMap::from([("alice", Some(Role::Admin)), ("bob", Some(Role::Member))]);
    let mut room = Room { public, members, muted: BTreeSet::new(), messages: Vec::new(), head: 1 };
    for (at, (who, what)) in (0..).zip(steps) {
        let targets: Vec<u64> = room.messages.iter().map(|(_, seq, _)| *seq).collect();
        let outcome = told(&mut store, who, what, at, &targets);
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
    fn who_may_do_what_is_what_the_table_says(
        public in any::<bool>(),
        steps in proptest::collection::vec((person(), says_something()), 1..40),
    ) {
        agrees(public, &steps)?;
    }
}

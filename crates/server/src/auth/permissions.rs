//! The claim about what a user may do.

use serde::Deserialize;
use switchboard_protocol::{Directory, Inviters, Others, Permissions};
use switchboard_store::grant::UserPattern;

use crate::config::is_contact;

/// What a token says its user may do. What it does not name stays as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PermissionClaim {
    create_rooms: Option<bool>,
    public_rooms: Option<bool>,
    invite: Option<Inviters>,
    contact: Option<Vec<String>>,
    /// Nothing but the setting is known yet, so the value is only checked.
    others: Option<Others>,
    directory: Option<Directory>,
    /// Whether the user is a moderator.
    moderate: Option<bool>,
}

impl PermissionClaim {
    /// Whether its patterns can be used.
    pub(super) fn is_valid(&self) -> bool {
        self.contact.iter().flatten().all(|entry| is_contact(entry))
    }

    /// Whether its user is a moderator, where the issuer grants.
    pub(super) fn may_moderate(&self) -> bool {
        self.moderate == Some(true)
    }

    /// What its user may do, in an installation with these settings. A claim that does not grant can only narrow.
    pub(crate) fn apply(&self, settings: &Permissions, grants: bool) -> Permissions {
        let flag = |claim: Option<bool>, setting: bool| claim.unwrap_or(setting) && (grants || setting);
        let invite = match (self.invite, settings.invite) {
            (Some(Inviters::Members), Inviters::Admins) if !grants => Inviters::Admins,
            (claim, setting) => claim.unwrap_or(setting),
        };
        let directory = self.directory.unwrap_or(settings.directory);
        let wider = width(directory) > width(settings.directory);
        Permissions {
            create_rooms: flag(self.create_rooms, settings.create_rooms),
            public_rooms: flag(self.public_rooms, settings.public_rooms),
            invite,
            contact: match &self.contact {
                Some(claim) if grants => claim.clone(),
                Some(claim) => intersection(claim, &settings.contact),
                None => settings.contact.clone(),
            },
            others: settings.others,
            directory: if wider && !grants { settings.directory } else { directory },
        }
    }
}

fn width(directory: Directory) -> u8 {
    match directory {
        Directory::Off => 0,
        Directory::Shared => 1,
        Directory::All => 2,
    }
}

/// The entries of two lists that the other list covers: users whom both allow. It is empty where each list has patterns that only
/// overlap.
fn intersection(a: &[String], b: &[String]) -> Vec<String> {
    let mut both: Vec<String> = Vec::new();
    for (entries, others) in [(a, b), (b, a)] {
        for entry in entries {
            if others.iter().any(|other| covers(other, entry)) && !both.contains(entry) {
                both.push(entry.clone());
            }
        }
    }
    both
}

/// Whether every user whom the second entry allows is one whom the first allows.
fn covers(wide: &str, narrow: &str) -> bool {
    let is_word = |entry: &str| [Permissions::ALL, Permissions::SHARED].contains(&entry);
    if wide == Permissions::ALL || wide == narrow {
        return true;
    }
    if is_word(wide) || is_word(narrow) {
        return false;
    }
    wide.parse::<UserPattern>().is_ok_and(|wide| wide.covers(narrow))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(json: &str) -> PermissionClaim {
        serde_json::from_str(json).expect("a claim")
    }

    fn contact(settings: &[&str], claim: &[&str]) -> Vec<String> {
        let list = |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
        let settings = Permissions { contact: list(settings), ..Permissions::default() };
        let claim = PermissionClaim { contact: Some(list(claim)), ..PermissionClaim::default() };
        claim.apply(&settings, false).contact
    }

    #[test]
    fn a_claim_that_does_not_grant_only_narrows() {
        let narrow = Permissions {
            create_rooms: false,
            public_rooms: false,
            invite: Inviters::Admins,
            contact: vec!["agent_*".to_owned()],
            others: Others::Refuse,
            directory: Directory::Off,
        };
        let wide = r#"{"create_rooms":true,"public_rooms":true,"invite":"members","contact":["all"],"directory":"all"}"#;
        assert_eq!(claim(wide).apply(&narrow, false), narrow);
        let granted = claim(wide).apply(&narrow, true);
        assert_eq!(granted, Permissions { directory: Directory::All, ..Permissions::default() });
        let narrowing = r#"{"create_rooms":false,"public_rooms":false,"invite":"admins","contact":["agent_*"],"directory":"off","moderate":true}"#;
        for grants in [false, true] {
            assert_eq!(claim(narrowing).apply(&Permissions::default(), grants), narrow);
            assert_eq!(claim("{}").apply(&narrow, grants), narrow, "what it does not name stays");
        }
    }

    #[test]
    fn the_intersection_of_two_lists_allows_nobody_whom_one_refuses() {
        assert_eq!(contact(&["all"], &["agent_*"]), ["agent_*"]);
        assert_eq!(contact(&["agent_*"], &["all"]), ["agent_*"]);
        assert_eq!(contact(&["agent_*", "shared"], &["agent_1", "bob", "shared"]), ["agent_1", "shared"]);
        assert_eq!(contact(&["agent_*"], &["agent_de_*", "*"]), ["agent_de_*", "agent_*"]);
        assert_eq!(contact(&["a*"], &["*z"]), [""; 0], "they only overlap");
        assert_eq!(contact(&["shared"], &["bob"]), [""; 0]);
        assert_eq!(contact(&["all"], &[]), [""; 0]);
    }
}

//! The settings of profiles, and of what users may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switchboard_protocol::{Avatar, Directory, ErrorCode, Inviters, Others, Permissions, SetProfile};
use switchboard_store::grant::UserPattern;
use switchboard_store::refusal::Refusal;
use url::{Host, Url};

use super::{ConfigError, Mode};

/// Profiles: names and pictures of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProfilesSection {
    /// Whether users may change their own profile. A `dev` server always allows it.
    #[serde(rename = "self")]
    pub own: bool,
    /// Whether the claims `name` and `picture` of a user's token (OpenID Connect Core, section 5.1) become the user's profile.
    pub from_token: bool,
    /// The hosts of pictures that keys and tokens may name, such as "images.example.com". The page loads pictures from these hosts
    /// only. Without one, no picture from elsewhere is accepted.
    pub avatar_hosts: Vec<String>,
}

impl Default for ProfilesSection {
    fn default() -> Self {
        Self { own: false, from_token: true, avatar_hosts: Vec::new() }
    }
}

/// What users may do. A token's claim can narrow it, and that of an own token can widen it. API keys have scopes in place of this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PermissionsSection {
    /// Whether users may create rooms.
    pub create_rooms: bool,
    /// Whether users may create public rooms, and join them.
    pub public_rooms: bool,
    /// Who may invite: "members" for admins, and in public rooms all members who may write; "admins" for admins only.
    #[schemars(with = "String")]
    pub invite: Inviters,
    /// Whom a user may reach first, by `send`, `invite` and the members of `create`: ids, patterns of ids such as "agent_*", "shared"
    /// for users with whom they share a conversation, "all". A user who was written to may answer.
    pub contact: Vec<String>,
    /// What becomes of attempts to reach other users first: "refuse".
    #[schemars(with = "String")]
    pub others: Others,
    /// Of whom a user may see the profile, and whom a search finds: "shared" for users with whom they share a conversation, "all", or
    /// "off" for nobody but themselves.
    #[schemars(with = "String")]
    pub directory: Directory,
}

impl Default for PermissionsSection {
    fn default() -> Self {
        let Permissions { create_rooms, public_rooms, invite, contact, others, directory } =
            Permissions::default();
        Self { create_rooms, public_rooms, invite, contact, others, directory }
    }
}

impl From<PermissionsSection> for Permissions {
    fn from(section: PermissionsSection) -> Self {
        let PermissionsSection { create_rooms, public_rooms, invite, contact, others, directory } = section;
        Self { create_rooms, public_rooms, invite, contact, others, directory }
    }
}

impl PermissionsSection {
    /// Checks the patterns.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.others == Others::Request {
            return Err(ConfigError::new("`permissions.others`: this version only knows \"refuse\""));
        }
        match self.contact.iter().find(|entry| !is_contact(entry)) {
            Some(entry) => Err(ConfigError::new(format!(
                "`permissions.contact`: {entry:?} is no user id, no pattern such as \"agent_*\", and neither \"shared\" nor \"all\""
            ))),
            None => Ok(()),
        }
    }
}

/// Whether an entry of `contact` is a word, an id or a pattern.
pub(crate) fn is_contact(entry: &str) -> bool {
    entry.parse::<UserPattern>().is_ok()
}

impl ProfilesSection {
    /// Checks the hosts.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        // `*` and `;` would have a meaning in the page's policy.
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        let is_host = |host: &String| {
            host.bytes().all(is_plain) && matches!(Host::parse(host), Ok(Host::Domain(name)) if name == *host)
        };
        match self.avatar_hosts.iter().find(|host| !is_host(host)) {
            Some(host) => Err(ConfigError::new(format!(
                "`profiles.avatar_hosts`: {host:?} is no host; write its name alone in lower case, such as \"images.example.com\""
            ))),
            None => Ok(()),
        }
    }

    /// Whether users may change their own profile.
    pub(super) fn allows_own(&self, mode: Mode) -> bool {
        self.own || mode == Mode::Dev
    }

    /// Whether the page may load this picture.
    pub(crate) fn is_allowed(&self, avatar: &Avatar) -> bool {
        let url = Url::parse(avatar.as_str()).ok().filter(|url| url.port().is_none());
        let is_plain = |url: &Url| url.username().is_empty() && url.password().is_none();
        let url = url.filter(is_plain);
        let host = url.as_ref().and_then(Url::host_str);
        host.is_some_and(|host| self.avatar_hosts.iter().any(|allowed| allowed == host))
    }

    /// Checks a change of a user's own profile.
    ///
    /// # Errors
    /// Users may not change their profiles, or not name such a picture.
    pub(crate) fn check_own(&self, fields: &SetProfile) -> Result<(), Refusal> {
        if !self.own {
            return Err(Refusal::forbidden("the application sets the names here; change yours there"));
        }
        match &fields.avatar {
            Some(Some(_)) => Err(Refusal::bad_field(
                "avatar",
                "avatar: only a back end or a token names a picture from elsewhere, and this server keeps no files",
            )),
            Some(None) | None => Ok(()),
        }
    }

    /// Checks a change of a profile by a back end.
    ///
    /// # Errors
    /// The picture is from a host that is not configured.
    pub(crate) fn check_by_key(&self, fields: &SetProfile) -> Result<(), Refusal> {
        match &fields.avatar {
            Some(Some(avatar)) if !self.is_allowed(avatar) => {
                let message = "avatar: its host is not one of `profiles.avatar_hosts`";
                Err(Refusal { field: Some("avatar".into()), ..Refusal::new(ErrorCode::BadField, message) })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_must_be_from_a_configured_host() {
        let settings = ProfilesSection {
            avatar_hosts: vec!["images.example.com".to_owned()],
            ..ProfilesSection::default()
        };
        assert!(settings.check().is_ok());
        let allows = |url: &str| settings.is_allowed(&Avatar::parse(url).expect("an avatar"));
        assert!(allows("https://images.example.com/ana.png?s=64"));
        for url in [
            "https://example.com/a.png",
            "https://images.example.com.evil.example/a.png",
            "https://images.example.com:8443/a.png",
            "https://images.example.com@evil.example/a.png",
            "https://ana@images.example.com/a.png",
            "https://evil.example/https://images.example.com/",
            "https://evil.example#images.example.com",
            "f_17",
        ] {
            assert!(!allows(url), "{url}");
        }
        for host in
            ["", "https://a.example", "a.example/x", "*.a.example", "A.example", "a.example:1", "a b", "a;b"]
        {
            let settings =
                ProfilesSection { avatar_hosts: vec![host.to_owned()], ..ProfilesSection::default() };
            assert!(settings.check().is_err(), "{host}");
        }
    }

    #[test]
    fn an_entry_of_contact_is_a_word_an_id_or_a_pattern() {
        for good in ["all", "shared", "bob", "agent_*", "*"] {
            assert!(is_contact(good), "{good}");
        }
        for bad in ["", "a b", "a:b", "#room"] {
            assert!(!is_contact(bad), "{bad}");
        }
    }
}

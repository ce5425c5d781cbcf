//! The secrets that sign what webhooks send. They are derived from one secret, so none is in the database.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::Secret;
use crate::signature::{hmac, sign};
use switchboard_protocol::Timestamp;

/// What derived secrets are for, so that another use of the same secret gives others.
const PURPOSE: &[u8] = b"switchboard webhook\n";

/// The secret of a webhook in one version.
fn derive(master: &Secret, name: &str, version: i32) -> [u8; 32] {
    hmac(master.expose(), [PURPOSE, version.to_string().as_bytes(), b"\n", name.as_bytes()])
}

/// The secret as a back end writes it.
pub(crate) fn text(master: &Secret, name: &str, version: i32) -> String {
    format!("whsec_{}", STANDARD.encode(derive(master, name, version)))
}

/// The secrets that sign now: that of the version, and the one before until a time.
#[derive(Debug, Clone)]
pub(super) struct Signer {
    pub(super) master: Secret,
    pub(super) name: String,
    pub(super) version: i32,
    pub(super) old_until: Option<Timestamp>,
}

impl Signer {
    /// The value of `webhook-signature`.
    pub(super) fn sign(&self, id: &str, now: Timestamp, body: &str) -> (String, String) {
        let seconds = now.as_millis().div_euclid(1_000).to_string();
        let is_old_good = self.version > 1 && self.old_until.is_some_and(|until| now < until);
        let versions = [Some(self.version), is_old_good.then(|| self.version - 1)];
        let signatures = versions
            .into_iter()
            .flatten()
            .map(|version| sign(&derive(&self.master, &self.name, version), id, &seconds, body));
        let signatures: Vec<_> = signatures.collect();
        (seconds, signatures.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_and_version_has_its_own_secret_and_the_one_before_signs_until_its_time() {
        let master = Secret::new("0123456789abcdef0123456789abcdef").expect("a secret");
        let secrets = [text(&master, "a", 1), text(&master, "a", 2), text(&master, "b", 1)];
        assert!(secrets.iter().all(|secret| secret.starts_with("whsec_")));
        assert!(secrets[0] != secrets[1] && secrets[0] != secrets[2] && secrets[1] != secrets[2]);
        let at = Timestamp::from_millis;
        let signer =
            |version, old_until| Signer { master: master.clone(), name: "a".into(), version, old_until };
        let (seconds, old) = signer(1, None).sign("x-1", at(5_999), "{}");
        assert_eq!(seconds, "5");
        let (_, both) = signer(2, Some(at(6_000))).sign("x-1", at(5_999), "{}");
        let (_, new) = signer(2, Some(at(6_000))).sign("x-1", at(6_000), "{}");
        assert_eq!(both.split(' ').next_back(), Some(old.as_str()));
        assert!(both.starts_with("v1,") && !new.contains(' '));
    }
}

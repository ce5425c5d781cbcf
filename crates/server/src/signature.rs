//! Signatures of requests to back ends, as Standard Webhooks (standardwebhooks.com) describe them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The HMAC-SHA256 of some parts, one after the other.
pub(crate) fn hmac<'a>(key: &[u8], parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes a key of any length"),
    };
    parts.into_iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// A signature in `webhook-signature`. The header may have several, separated by spaces.
pub(crate) fn sign(key: &[u8], id: &str, seconds: &str, body: &str) -> String {
    let parts = [id, ".", seconds, ".", body].map(str::as_bytes);
    format!("v1,{}", STANDARD.encode(hmac(key, parts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks libraries' tests.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let (id, seconds) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        let body = r#"{"test": 2432232314}"#;
        assert_eq!(sign(&key, id, seconds, body), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}

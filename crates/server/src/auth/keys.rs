//! Keys that verify tokens. Each has one algorithm, so a token's header does not choose.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use serde::Deserialize;

use super::claims::{Claims, describe_jwt_error};
use super::{AuthError, UserRule};
use crate::config::{AuthKey, ConfigError};

/// The minimum length of an RSA key in bytes: RS256 requires a modulus of 2048 bits or more (RFC 7518 section 3.3).
const MIN_RSA_BYTES: usize = 2048 / 8;

/// The most keys of an issuer that are read. Providers publish two or three.
const MAX_KEYS: usize = 100;

/// A key with the only algorithm with which it may be used.
pub(super) struct VerifyingKey {
    /// The key's `kid`, if it has one.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    key: DecodingKey,
    validation: Validation,
}

impl VerifyingKey {
    fn new(key: DecodingKey, algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Self {
        Self { id: None, algorithm, key, validation: validation(algorithm, issuer, audience) }
    }

    /// Verifies the signature, `iss` and `aud`. The other claims are not checked yet.
    pub(super) fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        let malformed = AuthError::Malformed(self.algorithm);
        decoded.map(|decoded| decoded.claims).map_err(|error| describe_jwt_error(error.kind(), malformed))
    }

    /// The user in a token that has a claim that is wrong and a valid signature.
    pub(super) fn user_of(
        &self,
        token: &str,
        error: AuthError,
        rule: &UserRule,
    ) -> Option<switchboard_protocol::UserId> {
        if !matches!(error, AuthError::Claim(_)) {
            return None;
        }
        let signature_only = validation(self.algorithm, None, None);
        let signature_only = Validation { validate_aud: false, ..signature_only };
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &signature_only);
        decoded.ok().and_then(|decoded| decoded.claims.user(rule))
    }
}

/// The keys of the configuration: the first one mints, and all verify.
pub(super) struct LocalKeys {
    pub(super) verify: Vec<VerifyingKey>,
    /// The key for signing tokens; `None` if the first key is a public key.
    pub(super) mint: Option<EncodingKey>,
}

impl LocalKeys {
    pub(super) fn new(
        keys: &[AuthKey],
        issuer: Option<&str>,
        audience: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let verify = keys.iter().map(|key| {
            let (key, algorithm) = match key {
                AuthKey::Secret(secret) => (DecodingKey::from_secret(secret.expose()), Algorithm::HS256),
                AuthKey::PublicKey(pem) => parse_public_key(pem)?,
            };
            Ok(VerifyingKey::new(key, algorithm, issuer, audience))
        });
        let mint = match keys.first() {
            Some(AuthKey::Secret(secret)) => Some(EncodingKey::from_secret(secret.expose())),
            _ => None,
        };
        Ok(Self { verify: verify.collect::<Result<_, ConfigError>>()?, mint })
    }
}

/// The keys in an issuer's set that can verify tokens. Others are left out: a set may have keys for encryption, and keys of types
/// that are not known here.
///
/// # Errors
/// The text is no set of keys, or none can be used.
pub(super) fn parse_key_set(
    json: &[u8],
    issuer: &str,
    audience: &str,
) -> Result<Vec<VerifyingKey>, &'static str> {
    #[derive(Deserialize)]
    struct KeySet {
        keys: Vec<serde_json::Value>,
    }
    let set: KeySet = serde_json::from_slice(json).map_err(|_| "the answer is no set of keys (JWKS)")?;
    let keys = set.keys.into_iter().take(MAX_KEYS).filter_map(|key| {
        let jwk = serde_json::from_value::<Jwk>(key).ok()?;
        let algorithm = algorithm_of(&jwk)?;
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let id = jwk.common.key_id;
        Some(VerifyingKey { id, ..VerifyingKey::new(key, algorithm, Some(issuer), Some(audience)) })
    });
    let keys: Vec<_> = keys.collect();
    if keys.is_empty() { Err("the set has no key that can verify tokens") } else { Ok(keys) }
}

/// The algorithm of a published key: its `alg`, or the usual one of its type. `None` if it must not verify tokens.
fn algorithm_of(jwk: &Jwk) -> Option<Algorithm> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let named = match jwk.common.key_algorithm {
        Some(algorithm) => Some(algorithm.to_string().parse::<Algorithm>().ok()?),
        None => None,
    };
    let (usual, possible): (_, &[Algorithm]) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
            if modulus.iter().skip_while(|byte| **byte == 0).count() < MIN_RSA_BYTES {
                return None;
            }
            let all = &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ];
            (Algorithm::RS256, all)
        }
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => (Algorithm::ES256, &[Algorithm::ES256]),
            EllipticCurve::P384 => (Algorithm::ES384, &[Algorithm::ES384]),
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, &[Algorithm::EdDSA])
        }
        // A published secret is none.
        _ => return None,
    };
    let algorithm = named.unwrap_or(usual);
    possible.contains(&algorithm).then_some(algorithm)
}

/// The checks of the JWT library: signature, `iss` and `aud`. [`Authenticator::verify`](super::Authenticator::verify) checks the
/// times itself, with the server's clock.
fn validation(algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.required_spec_claims.clear();
    if let Some(issuer) = issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    if let Some(audience) = audience {
        validation.set_audience(&[audience]);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    validation
}

/// Parses the key in a PEM file. Returns it with the only algorithm with which it may be used.
fn parse_public_key(pem: &str) -> Result<(DecodingKey, Algorithm), ConfigError> {
    if pem.contains("PRIVATE KEY") {
        return Err(ConfigError::new(
            "`auth.public_key` is a private key; this server needs the public half only: \
             `openssl pkey -in KEY -pubout`",
        ));
    }
    if pem.contains("BEGIN CERTIFICATE") {
        return Err(ConfigError::new(
            "`auth.public_key` is a certificate; take the key out of it: \
             `openssl x509 -in CERT -pubkey -noout`",
        ));
    }
    let bytes = pem.as_bytes();
    let size = |key: &DecodingKey| key.try_get_as_bytes().map_or(0, <[u8]>::len);
    if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        if size(&key) < MIN_RSA_BYTES {
            return Err(ConfigError::new(
                "`auth.public_key` is an RSA key of less than 2048 bits; make a longer one",
            ));
        }
        return Ok((key, Algorithm::RS256));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        // ES256 is the curve P-256, whose points take 65 bytes, or 33 compressed (SEC 1 section 2.3.3).
        if ![65, 33].contains(&size(&key)) {
            return Err(ConfigError::new(
                "`auth.public_key` is on another curve than P-256, the one of ES256",
            ));
        }
        return Ok((key, Algorithm::ES256));
    }
    if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
        return Ok((key, Algorithm::EdDSA));
    }
    Err(ConfigError::new(
        "`auth.public_key` is not a public key in PEM (-----BEGIN PUBLIC KEY-----) of type RSA, P-256 or \
         Ed25519",
    ))
}

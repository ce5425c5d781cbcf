use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use super::*;
use crate::config::{AuthKey, Secret};

const NOW: i64 = 1_795_435_200;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

const RSA: &str = include_str!("../../testdata/rsa.public.pem");
const RSA_PRIVATE: &str = include_str!("../../testdata/rsa.private.pem");
const EC: &str = include_str!("../../testdata/ec.public.pem");
const EC_PRIVATE: &str = include_str!("../../testdata/ec.private.pem");
const ED: &str = include_str!("../../testdata/ed.public.pem");
const ED_PRIVATE: &str = include_str!("../../testdata/ed.private.pem");

fn config_with_secret(secret: &str) -> AuthConfig {
    let key = AuthKey::Secret(Secret::new(secret).expect("long enough"));
    AuthConfig { keys: vec![key], ..AuthConfig::default() }
}

fn config_with_public_key(pem: &str) -> AuthConfig {
    AuthConfig { keys: vec![AuthKey::PublicKey(pem.to_owned())], ..AuthConfig::default() }
}

fn authenticator_at_now(config: &AuthConfig) -> Authenticator {
    let clock = Clock::from_fn(|| Timestamp::from_millis(NOW * 1_000));
    Authenticator::with_clock(config, clock).expect("a good key")
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).expect("signed")
}

fn hs256(claims: &Value) -> String {
    sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

fn alice() -> Value {
    json!({"sub": "alice", "exp": NOW + 60})
}

fn verify(claims: &Value) -> Result<Identity, AuthError> {
    authenticator_at_now(&config_with_secret(SECRET)).verify(&hs256(claims))
}

/// Encodes the three parts of a token.
fn assemble(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_valid_token_yields_the_user_and_the_expiry_time() {
    let identity = verify(&alice()).expect("good");
    assert_eq!(identity.user.as_str(), "alice");
    assert_eq!(identity.expires, Timestamp::from_millis((NOW + 60) * 1_000));
    let identity =
        verify(&json!({"sub": "alice", "exp": NOW as f64 + 0.5, "more": [1]})).expect("a fraction");
    assert_eq!(identity.expires, Timestamp::from_millis(NOW * 1_000 + 500));
    let far = verify(&json!({"sub": "alice", "exp": 253_402_300_799_i64})).expect("the last second");
    assert_eq!(far.expires, Timestamp::from_millis(253_402_300_799_000));
    let pasted = format!(" {}\n", hs256(&alice()));
    assert_eq!(
        authenticator_at_now(&config_with_secret(SECRET))
            .verify(&pasted)
            .expect("white space around it")
            .user
            .as_str(),
        "alice"
    );
}

#[test]
fn a_minted_token_verifies() {
    let user = UserId::parse("bob@example.com").expect("id");
    let config =
        AuthConfig { issuer: Some("us".into()), audience: Some("chat".into()), ..config_with_secret(SECRET) };
    let authenticator = authenticator_at_now(&config);
    let token = authenticator.mint(&user, Duration::from_millis(3_599_001)).expect("minted");
    let identity = authenticator.verify(&token).expect("good");
    assert_eq!(
        identity,
        Identity {
            user,
            issued: Some(Timestamp::from_millis(NOW * 1_000)),
            expires: Timestamp::from_millis((NOW + 3_600) * 1_000),
            claims: ProfileClaims::default(),
            permissions: None,
            grants: true,
        }
    );
}

#[test]
fn minting_needs_a_secret_and_a_valid_lifetime() {
    let user = UserId::parse("bob").expect("id");
    let minute = Duration::from_secs(60);
    assert_eq!(
        authenticator_at_now(&config_with_public_key(ED)).mint(&user, minute),
        Err(AuthError::CannotMint)
    );
    assert_eq!(
        authenticator_at_now(&AuthConfig::default()).mint(&user, minute),
        Err(AuthError::NotConfigured)
    );
    for ttl in [Duration::ZERO, Duration::MAX, Duration::from_secs(1 << 62), Duration::from_secs(1 << 40)] {
        assert_eq!(
            authenticator_at_now(&config_with_secret(SECRET)).mint(&user, ttl),
            Err(AuthError::Lifetime),
            "{ttl:?}"
        );
    }
}

#[test]
fn without_a_key_every_token_is_refused() {
    let error = authenticator_at_now(&AuthConfig::default()).verify(&hs256(&alice())).expect_err("no key");
    assert_eq!(error, AuthError::NotConfigured);
    assert!(error.to_string().contains("the server has no secret"));
}

#[test]
fn exp_and_nbf_are_enforced() {
    for exp in [NOW, NOW - 1, 0, -5] {
        assert_eq!(verify(&json!({"sub": "alice", "exp": exp})), Err(AuthError::Expired), "{exp}");
    }
    verify(&json!({"sub": "alice", "exp": NOW + 1})).expect("a second is left");
    let from = |nbf: i64| verify(&json!({"sub": "alice", "exp": NOW + 900, "nbf": nbf}));
    from(NOW - 5).expect("past");
    from(NOW + 60).expect("within the leeway");
    assert_eq!(from(NOW + 61), Err(AuthError::NotYet));
}

#[test]
fn an_iat_in_the_future_beyond_the_leeway_is_ignored() {
    let issued = |iat: Value| {
        let token = hs256(&json!({"sub": "alice", "exp": NOW + 900, "iat": iat}));
        let authenticator = authenticator_at_now(&config_with_secret(SECRET));
        let issued =
            authenticator.verify(&token).expect("good").issued.map(|at| at.as_millis() / 1_000 - NOW);
        (issued, authenticator.latest_issued().as_millis() / 1_000 - NOW)
    };
    for (ahead, wanted) in [(-5, Some(-5)), (0, Some(0)), (45, Some(45)), (60, Some(60)), (61, None)] {
        assert_eq!(
            issued(json!(NOW + ahead)),
            (wanted, if wanted.is_some() { ahead.max(0) } else { 0 }),
            "{ahead}"
        );
    }
    let revoked = Some(Timestamp::from_millis(NOW * 1_000));
    let identity = verify(&json!({"sub": "alice", "exp": NOW + 900, "iat": NOW + 900})).expect("good");
    assert!(identity.is_revoked(revoked) && !identity.is_revoked(None));
}

#[test]
fn times_in_milliseconds_are_refused_with_the_reason() {
    for (claim, claims) in [
        ("exp", json!({"sub": "alice", "exp": (NOW + 60) * 1_000})),
        ("exp", json!({"sub": "alice", "exp": 1e300})),
        ("nbf", json!({"sub": "alice", "exp": NOW + 60, "nbf": NOW * 1_000})),
        ("iat", json!({"sub": "alice", "exp": NOW + 60, "iat": NOW * 1_000})),
        ("iat", json!({"sub": "alice", "exp": NOW + 60, "iat": NOW as f64 * 1_000.0 + 0.5})),
    ] {
        let message = verify(&claims).expect_err("refused").to_string();
        assert!(
            message.contains(&format!("`{claim}`")) && message.contains("milliseconds"),
            "{claims}: {message}"
        );
    }
}

#[test]
fn missing_and_malformed_claims_are_refused() {
    for claims in [
        json!({"sub": "alice"}),
        json!({"exp": NOW + 60}),
        json!({"sub": "alice", "exp": null}),
        json!({"sub": "alice", "exp": "tomorrow"}),
        json!({"sub": "alice", "exp": NOW + 60, "nbf": "now"}),
        json!({"sub": 7, "exp": NOW + 60}),
        json!({"sub": "", "exp": NOW + 60}),
        json!({"sub": "alice:bob", "exp": NOW + 60}),
        json!({"sub": "@alice", "exp": NOW + 60}),
        json!(["alice"]),
        json!("alice"),
    ] {
        assert!(matches!(verify(&claims), Err(AuthError::Claim(_))), "{claims}: {:?}", verify(&claims));
    }
}

#[test]
fn issuer_and_audience_must_match_the_configuration() {
    let config =
        AuthConfig { issuer: Some("us".into()), audience: Some("chat".into()), ..config_with_secret(SECRET) };
    let verify = |iss: Value, aud: Value| {
        let claims = json!({"sub": "alice", "exp": NOW + 60, "iss": iss, "aud": aud});
        authenticator_at_now(&config).verify(&hs256(&claims))
    };
    verify(json!("us"), json!("chat")).expect("as configured");
    verify(json!("us"), json!(["mail", "chat"])).expect("one of several");
    for (iss, aud) in [
        (json!("them"), json!("chat")),
        (json!("us"), json!("mail")),
        (json!("us"), json!(["mail"])),
        (json!("us"), json!([])),
        (json!("us"), json!(7)),
        (json!(7), json!("chat")),
        (Value::Null, json!("chat")),
        (json!("us"), Value::Null),
    ] {
        let got = verify(iss.clone(), aud.clone());
        assert!(matches!(got, Err(AuthError::Claim(_))), "{iss} {aud}: {got:?}");
    }
    let for_others = json!({"sub": "alice", "exp": NOW + 60, "aud": "mail"});
    assert!(matches!(
        authenticator_at_now(&config_with_secret(SECRET)).verify(&hs256(&for_others)),
        Err(AuthError::Claim(_))
    ));
    let anyone = json!({"sub": "alice", "exp": NOW + 60, "iss": "any"});
    authenticator_at_now(&config_with_secret(SECRET))
        .verify(&hs256(&anyone))
        .expect("any issuer is accepted");
}

#[test]
fn the_public_key_determines_the_algorithm() {
    let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).expect("rsa");
    let ec = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).expect("ec");
    let ed = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).expect("ed");
    let signers =
        [(Algorithm::RS256, rsa.clone(), RSA), (Algorithm::ES256, ec, EC), (Algorithm::EdDSA, ed, ED)];
    for (algorithm, _, pem) in &signers {
        let authenticator = authenticator_at_now(&config_with_public_key(pem));
        for (other, key, _) in &signers {
            let got = authenticator.verify(&sign(*other, key, &alice()));
            assert_eq!(got.is_ok(), algorithm == other, "{algorithm:?} by {other:?}: {got:?}");
        }
        let got = authenticator.verify(&hs256(&alice()));
        assert_eq!(got, Err(AuthError::Malformed(*algorithm)));
    }
    for weaker in [Algorithm::RS384, Algorithm::PS256] {
        let got = authenticator_at_now(&config_with_public_key(RSA)).verify(&sign(weaker, &rsa, &alice()));
        assert_eq!(got, Err(AuthError::Malformed(Algorithm::RS256)), "the header does not choose");
    }
}

#[test]
fn a_token_signed_with_the_public_key_as_a_secret_is_refused() {
    for (pem, algorithm) in [(RSA, Algorithm::RS256), (EC, Algorithm::ES256), (ED, Algorithm::EdDSA)] {
        for bytes in [pem.as_bytes(), pem.trim_end().as_bytes()] {
            let forged = sign(Algorithm::HS256, &EncodingKey::from_secret(bytes), &alice());
            assert_eq!(
                authenticator_at_now(&config_with_public_key(pem)).verify(&forged),
                Err(AuthError::Malformed(algorithm))
            );
        }
    }
}

#[test]
fn unsigned_and_altered_tokens_are_refused() {
    let malformed = AuthError::Malformed(Algorithm::HS256);
    for alg in ["none", "None", "NONE", "", "HS384", "RS256"] {
        for signature in [&b""[..], b"x"] {
            let token = assemble(&json!({"alg": alg, "typ": "JWT"}), &alice(), signature);
            assert_eq!(
                authenticator_at_now(&config_with_secret(SECRET)).verify(&token),
                Err(malformed),
                "{alg}"
            );
            assert!(authenticator_at_now(&config_with_public_key(RSA)).verify(&token).is_err(), "{alg}");
        }
    }
    let authenticator = authenticator_at_now(&config_with_secret(SECRET));
    let good = hs256(&alice());
    let (rest, signature) = good.rsplit_once('.').expect("three parts");
    let (header, _) = rest.split_once('.').expect("three parts");
    let eve = URL_SAFE_NO_PAD.encode(json!({"sub": "eve", "exp": NOW + 60}).to_string());
    for altered in
        [format!("{header}.{eve}.{signature}"), format!("{rest}."), format!("{rest}.{}", &signature[4..])]
    {
        assert_eq!(authenticator.verify(&altered), Err(AuthError::Signature), "{altered}");
    }
    let other = sign(Algorithm::HS256, &EncodingKey::from_secret(&[7; 32]), &alice());
    assert_eq!(authenticator.verify(&other), Err(AuthError::Signature));
    for garbage in ["", ".", "..", "...", "a.b.c", rest, "é.é.é", "eyJ9.e30.e30", &good.repeat(2)] {
        assert!(authenticator.verify(garbage).is_err(), "{garbage}");
    }
}

#[test]
fn a_token_with_a_critical_extension_is_refused() {
    let header = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&header, &alice(), &key).expect("signed");
    assert_eq!(
        authenticator_at_now(&config_with_secret(SECRET)).verify(&token),
        Err(AuthError::Malformed(Algorithm::HS256))
    );
}

#[test]
fn errors_do_not_contain_the_token() {
    let authenticator = authenticator_at_now(&config_with_secret(SECRET));
    for claims in
        [json!({"sub": "very:private", "exp": NOW + 60}), json!({"sub": "alice", "exp": "very:private"})]
    {
        let token = hs256(&claims);
        let error = authenticator.verify(&token).expect_err("refused");
        let shown = format!("{error} {error:?} {authenticator:?}");
        assert!(!shown.contains("private") && !shown.contains(&token) && !shown.contains(SECRET), "{shown}");
    }
}

#[test]
fn an_unusable_key_is_refused_at_the_start() {
    for (pem, words) in [
        ("", "is not a public key in PEM"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is not a public key in PEM"),
        (RSA_PRIVATE, "openssl pkey"),
        (ED_PRIVATE, "openssl pkey"),
        ("-----BEGIN CERTIFICATE-----\n", "openssl x509"),
        (include_str!("../../testdata/ec384.public.pem"), "P-256"),
        (include_str!("../../testdata/rsa1024.public.pem"), "2048 bits"),
    ] {
        let error = Authenticator::new(&config_with_public_key(pem)).expect_err(words).to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    }
}

#[test]
fn an_api_key_is_random_and_hidden() {
    let (a, b) = (ApiKey::generate().expect("random"), ApiKey::generate().expect("random"));
    assert!(a.expose().starts_with("sbk_") && a.expose().len() == 4 + 43 && a.expose() != b.expose());
    assert_ne!(ApiKey::hash(a.expose()), ApiKey::hash(b.expose()));
    assert!(!format!("{a:?}").contains(a.expose()));
    // FIPS 180-2, appendix B.1 has the SHA-256 hash of "abc".
    assert_eq!(ApiKey::hash("abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
}

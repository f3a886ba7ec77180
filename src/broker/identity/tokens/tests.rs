use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

#[path = "../../../../tests/broker/mint.rs"]
mod mint;

use mint::Mint;

struct Harness {
    folder: TempDir,
    config: JwtConfig,
}

impl Harness {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), config: JwtConfig::default() }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Option<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        Some(path)
    }

    /// Takes tokens of this mint by its key alone.
    fn with(mint: &Mint) -> Self {
        let mut harness = Self::new();
        let file = harness.file("key", mint.key_file());
        match mint {
            Mint::Secret(_) => harness.config.secret_file = file,
            Mint::Rsa(_) | Mint::Ec(_) => harness.config.key_file = file,
        }
        harness
    }

    fn with_set(keys: Value) -> Self {
        let mut harness = Self::new();
        harness.config.jwks_file = harness.file("jwks", json!({ "keys": keys }).to_string());
        harness
    }

    fn keys(&self) -> Keys {
        Keys::load(&self.config).unwrap()
    }

    fn refused(&self) -> String {
        Keys::load(&self.config).unwrap_err().to_string()
    }
}

fn mints() -> [Mint; 3] {
    [Mint::secret(), Mint::rsa(), Mint::ec()]
}

fn now() -> u64 {
    now_ms() / 1_000
}

/// Claims that hold for an hour, with these changed; null takes one away.
fn claims(change: Value) -> Value {
    let mut claims = json!({ "sub": "alice", "exp": now() + 3_600 });
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn why(keys: &Keys, token: &str) -> String {
    keys.check(token, None).unwrap_err().to_string()
}

#[test]
fn a_token_of_each_algorithm_is_taken() {
    for mint in mints() {
        let keys = Harness::with(&mint).keys();
        for user in [None, Some("alice")] {
            let token = keys.check(&mint.token(&claims(json!({}))), user).unwrap();
            assert_eq!(token.identity, Identity { user: "alice".into(), role: Role::User });
        }
        let other = mint.token(&claims(json!({ "role": "bal" })));
        assert_eq!(keys.check(&other, None).unwrap().identity.role, Role::Bal);
    }
}

#[test]
fn a_token_that_was_touched_is_refused() {
    for mint in mints() {
        let keys = Harness::with(&mint).keys();
        let token = mint.token(&claims(json!({})));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        let other = mint.token(&claims(json!({ "sub": "bob" })));
        let body = other.split('.').nth(1).unwrap();
        assert_eq!(why(&keys, &format!("{header}.{body}.{signature}")), "its signature is wrong");
        for cut in [format!("{message}."), message.to_owned(), String::new(), format!("{token}.x")] {
            assert!(keys.check(&cut, None).is_err(), "{cut}");
        }
    }
}

#[test]
fn a_public_key_is_no_secret() {
    for mint in [Mint::rsa(), Mint::ec()] {
        let keys = Harness::with(&mint).keys();
        let confused = Mint::Secret(mint.key_file());
        assert_eq!(why(&keys, &confused.token(&claims(json!({})))), "no key is for its algorithm and key id");
        let lying = confused.signed(&json!({ "alg": mint.algorithm() }), &claims(json!({})));
        assert_eq!(why(&keys, &lying), "its signature is wrong");
        let unsigned = confused.signed(&json!({ "alg": "none" }), &claims(json!({})));
        assert_eq!(why(&keys, &unsigned), "it is malformed");
    }
}

#[test]
fn the_key_id_selects_among_several() {
    let (first, second, third) = (Mint::ec(), Mint::ec(), Mint::rsa());
    let set = json!([first.jwk("one"), { "kty": "XYZ", "kid": "new" }, second.jwk("two"), third.jwk("three")]);
    let keys = Harness::with_set(set).keys();
    let named = |mint: &Mint, id: &str| mint.signed(&json!({ "alg": mint.algorithm(), "kid": id }), &claims(json!({})));
    for (mint, id) in [(&first, "one"), (&second, "two"), (&third, "three")] {
        assert!(keys.check(&named(mint, id), None).is_ok(), "{id}");
        assert!(keys.check(&mint.token(&claims(json!({}))), None).is_ok(), "{id} without its name");
    }
    assert_eq!(why(&keys, &named(&first, "two")), "its signature is wrong");
    assert_eq!(why(&keys, &named(&third, "one")), "no key is for its algorithm and key id");
    assert_eq!(why(&keys, &named(&first, "four")), "no key is for its algorithm and key id");
}

#[test]
fn times_are_kept() {
    let mint = Mint::secret();
    let keys = Harness::with(&mint).keys();
    let check = |change: Value| keys.check(&mint.token(&claims(change)), None);
    let exp = now() + 100;
    assert_eq!(check(json!({ "exp": exp })).unwrap().expires_ms, (exp + LEEWAY) * 1_000);
    assert_eq!(check(json!({ "exp": exp as f64 + 0.5 })).unwrap().expires_ms, (exp + LEEWAY) * 1_000 + 500);
    assert!(check(json!({ "exp": now() - 1 })).is_ok());
    let reason = |change: Value| check(change).unwrap_err().to_string();
    assert_eq!(reason(json!({ "exp": now() - LEEWAY - 2 })), "it has expired");
    assert_eq!(reason(json!({ "nbf": now() + LEEWAY + 60 })), "it does not hold yet");
    assert!(check(json!({ "nbf": now() })).is_ok());
    assert_eq!(reason(json!({ "exp": null })), "it has no `exp`, which says when it ends");
    assert_eq!(reason(json!({ "sub": null })), "it has no `sub`, which names the user");
    let ms = now_ms() + 3_600_000;
    assert_eq!(reason(json!({ "exp": ms })), "its `exp` is in milliseconds: times of tokens count seconds (RFC 7519)");
    assert!(reason(json!({ "iat": ms })).starts_with("its `iat` is in milliseconds"));
    assert!(check(json!({ "exp": 253_402_300_799_u64 })).is_ok(), "the last day of 9999, which means for ever");
    for wrong in [
        json!({ "exp": null }),
        json!({ "exp": "soon" }),
        json!({ "exp": -5 }),
        json!({ "exp": 1e300 }),
        json!({ "sub": null }),
    ] {
        assert!(check(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn subject_role_audience_and_issuer_are_checked() {
    let mint = Mint::secret();
    let mut harness = Harness::with(&mint);
    let keys = harness.keys();
    let reason = |keys: &Keys, change: Value| why(keys, &mint.token(&claims(change)));
    let token = mint.token(&claims(json!({})));
    assert_eq!(keys.check(&token, Some("bob")).unwrap_err().to_string(), "its subject is not the MQTT user name");
    assert!(reason(&keys, json!({ "sub": "g-1" })).starts_with("its subject cannot be a user name"));
    assert_eq!(reason(&keys, json!({ "role": "root" })), "its role is none of `bal`, `user` and `admin`");
    let critical = mint.signed(&json!({ "alg": "HS256", "crit": ["b64"], "b64": false }), &claims(json!({})));
    assert_eq!(why(&keys, &critical), "it has critical extensions, of which none is understood");

    harness.config.audience = Some("chat".to_owned());
    harness.config.issuer = Some("https://id.example.com".to_owned());
    let keys = harness.keys();
    let good = json!({ "aud": ["other", "chat"], "iss": "https://id.example.com" });
    assert!(keys.check(&mint.token(&claims(good)), None).is_ok());
    assert_eq!(reason(&keys, json!({ "aud": "x", "iss": "https://id.example.com" })), "it is for another audience");
    assert_eq!(reason(&keys, json!({ "aud": "chat", "iss": "x" })), "it is of another issuer");
    assert_eq!(reason(&keys, json!({ "aud": "chat" })), "it has no `iss`, which the configuration asks for");
    let without = reason(&keys, json!({ "iss": "https://id.example.com" }));
    assert_eq!(without, "it has no `aud`, which the configuration asks for");
}

#[test]
fn keys_that_cannot_work_are_refused_at_once() {
    let mut harness = Harness::new();
    harness.config.secret_file = harness.file("short", "0123456789012345678901234567890\n");
    assert!(harness.refused().contains("at least 32 bytes"));
    harness.config.secret_file = harness.file("pem", Mint::ec().key_file());
    assert!(harness.refused().contains("is a PEM file"));
    harness.config.secret_file = harness.file("long", "01234567890123456789012345678901\r\n");
    assert!(Keys::load(&harness.config).is_ok());

    harness.config = JwtConfig { key_file: harness.file("nonsense", "secret"), ..JwtConfig::default() };
    assert!(harness.refused().ends_with("holds no public key of RSA or P-256 in PEM form"));
    harness.config.key_file = harness.file("private", rcgen::KeyPair::generate().unwrap().serialize_pem());
    assert!(harness.refused().contains("holds a private key"));
    harness.config.key_file = harness.file("rsa1024", RSA_1024);
    assert!(harness.refused().ends_with("is an RSA key of less than 2048 bits"));
    harness.config.key_file = Some("/nonexistent/key".into());
    assert!(harness.refused().starts_with("cannot read the token key /nonexistent/key"));

    assert!(Harness::with_set(json!([])).refused().contains("has no key"));
    assert!(Harness::with_set(json!([Mint::secret().jwk("one")])).refused().contains("has no key"));
    let mut encrypting = Mint::rsa().jwk("one");
    encrypting["use"] = json!("enc");
    assert!(Harness::with_set(json!([encrypting])).refused().contains("has no key"));
    assert!(Harness::with_set(json!("x")).refused().ends_with("is not a JSON Web Key Set"));
}

#[test]
fn only_what_has_the_form_of_a_token_is_taken_for_one() {
    assert!(looks_like_token(b"a.b-_9.c").is_some());
    for other in ["", "a.b", "a.b.", ".b.c", "a.b.c.d", "a.b.c d", "pass.wörd.x", "a=.b.c"] {
        assert!(looks_like_token(other.as_bytes()).is_none(), "{other}");
    }
    assert!(looks_like_token(b"a.b.\xff").is_none());
}

proptest! {
    #[test]
    fn no_text_is_taken_and_none_panics(parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 0..5)) {
        let keys = Harness::with(&Mint::secret()).keys();
        prop_assert!(keys.check(&parts.join("."), None).is_err());
    }
}

const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDJz4eg2BMJmb8mE1OCpqihdCTJ
PVDJpDCPX/hTdrS+lccLjq+pVghQP5Jcvc+FhZ4Vnw47xFdYDjwXtTmGinebsTwV
2ZT+rsMbUvILlUkXtQ6BQa9VS5gKFXiMxJTyVnoYXoaaz/y2MEFctysubVYfFRdb
PLhpB/2TrMdDc5f7QwIDAQAB
-----END PUBLIC KEY-----
";

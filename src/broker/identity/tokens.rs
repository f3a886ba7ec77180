//! JSON Web Tokens (RFC 7519) as passwords.
//!
//! Each key is for one algorithm, fixed when it is loaded. A token is checked only with keys for the algorithm that it
//! names, so that nobody can have a public key taken for an HMAC secret (RFC 8725, 3.1).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::crypto;
use super::name::{self, NameError};
use super::users::role_of_word;
use crate::broker::JwtConfig;
use crate::chat::principal::{Identity, Role};
use crate::ops::clock::now_ms;

/// How long a token proves that its user is here now, in milliseconds from when it was issued (`iat`).
const FRESH_MS: u64 = 600_000;
/// Clocks may differ by this, in seconds: a token holds that long after `exp` and before `nbf`.
const LEEWAY: u64 = 5;
/// HS256 wants a key of at least the size of its output (RFC 7518, 3.2).
const SECRET_MIN: usize = 32;
/// A modulus of 2048 bits, in bytes (RFC 7518, 3.3).
const MODULUS_MIN: usize = 256;
/// From here on a time in seconds is one in milliseconds: as such it is in 2001, as seconds 30,000 years ahead.
const MILLISECONDS: f64 = 1e12;
/// An uncompressed point of P-256.
const POINT: usize = 65;
/// Keys in a set. A token without `kid` is tried with each.
const KEYS_MAX: usize = 64;

/// Why the keys of tokens cannot be used.
#[derive(Debug, Error)]
pub enum KeysError {
    /// A file cannot be read.
    #[error("cannot read the token key {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds something else. Nothing of its content is told.
    #[error("{}: {why}", .path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// Why a token is refused.
#[derive(Debug, Error)]
pub(super) enum TokenError {
    #[error("{}", words(.0.kind()))]
    Wrong(Error),
    #[error("no key is for its algorithm and key id")]
    NoKey,
    #[error("it has critical extensions, of which none is understood")]
    Critical,
    #[error("its subject cannot be a user name: it {0}")]
    Name(#[from] NameError),
    #[error("its subject is not the MQTT user name")]
    Subject,
    #[error("its role is none of `bal`, `user` and `admin`")]
    Role,
    #[error("its `{0}` is in milliseconds: times of tokens count seconds (RFC 7519)")]
    Milliseconds(&'static str),
}

/// What a token that holds says.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) identity: Identity,
    /// When it stops to hold, in Unix milliseconds.
    pub(super) expires_ms: u64,
    /// It says that it was issued within the last [`FRESH_MS`].
    pub(super) is_fresh: bool,
    /// By which its signature was checked.
    pub(super) key: KeyPrint,
}

/// By what a key is known again when the files are read anew: the SHA-256 of its algorithm and its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::broker) struct KeyPrint(Arc<[u8; 32]>);

impl KeyPrint {
    pub(super) fn bytes(&self) -> [u8; 32] {
        *self.0
    }
}

impl From<[u8; 32]> for KeyPrint {
    fn from(print: [u8; 32]) -> Self {
        Self(Arc::new(print))
    }
}

/// The keys, and what else a token must say.
#[derive(Debug)]
pub(super) struct Keys {
    keys: Vec<Key>,
    audience: Option<String>,
    issuer: Option<String>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    print: KeyPrint,
}

/// What the library has checked to be there, it has not when it reads the claims into this.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    /// Seconds, perhaps with a fraction (RFC 7519, 2).
    exp: Option<Value>,
    iat: Option<f64>,
    role: Option<String>,
}

impl Keys {
    /// Reads all files that are configured.
    pub(super) fn load(config: &JwtConfig) -> Result<Self, KeysError> {
        crypto::install();
        let mut keys = Vec::new();
        if let Some(path) = &config.secret_file {
            keys.push(Key::new(None, Algorithm::HS256, secret(path)?));
        }
        if let Some(path) = &config.key_file {
            keys.push(public_key(path)?);
        }
        if let Some(path) = &config.jwks_file {
            keys.extend(key_set(path)?);
        }
        Ok(Self { keys, audience: config.audience.clone(), issuer: config.issuer.clone() })
    }

    /// Checks a token. `user` is the MQTT user name, if there is one.
    pub(super) fn check(&self, token: &str, user: Option<&str>) -> Result<Token, TokenError> {
        let header = decode_header(token).map_err(TokenError::Wrong)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let fits = |key: &&Key| {
            let same_id = match (&header.kid, &key.id) {
                (Some(wanted), Some(id)) => wanted == id,
                _ => true,
            };
            key.algorithm == header.alg && same_id
        };
        let mut last = TokenError::NoKey;
        for key in self.keys.iter().filter(fits) {
            match decode::<Claims>(token, &key.key, &self.validation(key.algorithm)) {
                Ok(data) => return accept(data.claims, user, &key.print),
                Err(error) => {
                    let other_key_may_fit = matches!(error.kind(), ErrorKind::InvalidSignature);
                    last = TokenError::Wrong(error);
                    if !other_key_may_fit {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// Whether there still is the key by which the signature of a token was checked.
    pub(super) fn has(&self, print: &KeyPrint) -> bool {
        self.keys.iter().any(|key| key.print == *print)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        let mut required: HashSet<String> = ["exp", "sub"].map(str::to_owned).into();
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        // Without an audience of ours, a token for others holds here too: that is how the operator has configured it.
        validation.validate_aud = self.audience.is_some();
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.insert("aud".to_owned());
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.insert("iss".to_owned());
        }
        validation.required_spec_claims = required;
        validation
    }
}

impl Key {
    fn new(id: Option<String>, algorithm: Algorithm, key: DecodingKey) -> Self {
        let mut digest = Sha256::new();
        digest.update(format!("{algorithm:?}"));
        match key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => digest.update(bytes),
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                digest.update(n.len().to_be_bytes());
                digest.update(n);
                digest.update(e);
            }
        }
        Self { id, algorithm, key, print: KeyPrint(Arc::new(digest.finalize().into())) }
    }
}

/// The password as a token, if it looks like one: three parts of base64url.
pub(super) fn looks_like_token(password: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(password).ok()?;
    let mut parts = text.split('.');
    let mut part = || parts.next().is_some_and(|part| !part.is_empty() && part.bytes().all(is_base64url));
    let three = part() && part() && part();
    (three && parts.next().is_none()).then_some(text)
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn accept(claims: Claims, user: Option<&str>, key: &KeyPrint) -> Result<Token, TokenError> {
    let missing = |claim: &str| TokenError::Wrong(ErrorKind::MissingRequiredClaim(claim.to_owned()).into());
    let sub = claims.sub.ok_or_else(|| missing("sub"))?;
    name::check(&sub)?;
    if user.is_some_and(|user| user != sub) {
        return Err(TokenError::Subject);
    }
    let exp = claims.exp.as_ref().and_then(Value::as_f64).ok_or_else(|| missing("exp"))?;
    let times = [("exp", Some(exp)), ("iat", claims.iat)];
    if let Some((name, _)) = times.into_iter().find(|(_, time)| time.is_some_and(|time| time >= MILLISECONDS)) {
        return Err(TokenError::Milliseconds(name));
    }
    let role = match claims.role {
        None => Role::User,
        Some(word) => role_of_word(&word).ok_or(TokenError::Role)?,
    };
    let expires_ms = ((exp + LEEWAY as f64) * 1_000.0) as u64;
    // The library rounds `exp` down; a client that was disconnected at `exp` must not log in again.
    if expires_ms <= now_ms() {
        return Err(TokenError::Wrong(ErrorKind::ExpiredSignature.into()));
    }
    let issued_ms = claims.iat.map(|iat| (iat * 1_000.0) as u64);
    let is_fresh = issued_ms.is_some_and(|issued| issued.saturating_add(FRESH_MS) > now_ms());
    let identity = Identity { user: Arc::from(sub), role };
    Ok(Token { identity, expires_ms, is_fresh, key: key.clone() })
}

/// The library's own texts may quote what was presented, which can be a password.
fn words(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it does not hold yet",
        ErrorKind::InvalidAudience => "it is for another audience",
        ErrorKind::InvalidIssuer => "it is of another issuer",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "it has no `exp`, which says when it ends",
            "sub" => "it has no `sub`, which names the user",
            "aud" => "it has no `aud`, which the configuration asks for",
            "iss" => "it has no `iss`, which the configuration asks for",
            _ => "a claim is missing",
        },
        ErrorKind::InvalidClaimFormat(claim) => match claim.as_str() {
            "exp" => "its `exp` is no number of seconds",
            "nbf" => "its `nbf` is no number of seconds",
            _ => "a claim has a wrong form",
        },
        _ => "it is malformed",
    }
}

fn bad(path: &Path, why: &'static str) -> KeysError {
    KeysError::Bad { path: path.to_owned(), why }
}

fn text(path: &Path) -> Result<String, KeysError> {
    fs::read_to_string(path).map_err(|source| KeysError::Read { path: path.to_owned(), source })
}

fn secret(path: &Path) -> Result<DecodingKey, KeysError> {
    let secret = fs::read(path).map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
    // Editors and `echo` leave a line end behind it.
    let end = secret.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
    let secret = &secret[..end];
    if secret.starts_with(b"-----BEGIN") {
        return Err(bad(path, "is a PEM file, not the secret of HS256; public keys go to `broker.jwt_key_file`"));
    }
    if secret.len() < SECRET_MIN {
        return Err(bad(path, "a secret of HS256 has at least 32 bytes (`openssl rand -base64 32` makes one)"));
    }
    Ok(DecodingKey::from_secret(secret))
}

fn public_key(path: &Path) -> Result<Key, KeysError> {
    let pem = text(path)?;
    if pem.contains("PRIVATE KEY") {
        return Err(bad(path, "holds a private key; the public one belongs here (`openssl pkey -pubout`)"));
    }
    let id = None;
    if let Ok(key) = DecodingKey::from_ec_pem(pem.as_bytes()) {
        return match key.try_get_as_bytes() {
            Ok(point) if point.len() == POINT => Ok(Key::new(id, Algorithm::ES256, key)),
            _ => Err(bad(path, "is a key of another curve than P-256")),
        };
    }
    match DecodingKey::from_rsa_pem(pem.as_bytes()) {
        // The modulus and a few bytes around it.
        Ok(key) if key.try_get_as_bytes().is_ok_and(|der| der.len() > MODULUS_MIN) => {
            Ok(Key::new(id, Algorithm::RS256, key))
        }
        Ok(_) => Err(bad(path, "is an RSA key of less than 2048 bits")),
        Err(_) => Err(bad(path, "holds no public key of RSA or P-256 in PEM form")),
    }
}

fn key_set(path: &Path) -> Result<Vec<Key>, KeysError> {
    let set: JwkSet = serde_json::from_str(&text(path)?).map_err(|_| bad(path, "is not a JSON Web Key Set"))?;
    if set.keys.len() > KEYS_MAX {
        return Err(bad(path, "has more than 64 keys"));
    }
    // What is not understood is passed over (RFC 7517, 5).
    let keys: Vec<Key> = set.keys.iter().filter_map(usable).collect();
    if keys.is_empty() {
        return Err(bad(path, "has no key for RS256 (2048 bits or more) or ES256"));
    }
    Ok(keys)
}

fn usable(jwk: &Jwk) -> Option<Key> {
    let (algorithm, stated) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        // Symmetric keys have no place in a file of public ones.
        _ => return None,
    };
    let common = &jwk.common;
    let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
    if !for_signatures || common.key_algorithm.is_some_and(|named| named != stated) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let long_enough = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len() >= MODULUS_MIN,
        DecodingKeyKind::SecretOrDer(point) => point.len() == POINT,
    };
    long_enough.then(|| Key::new(common.key_id.clone(), algorithm, key))
}

#[cfg(test)]
mod tests;

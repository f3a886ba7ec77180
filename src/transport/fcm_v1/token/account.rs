//! A service account: who we are at Google, and the signed request for an access token (RFC 7523).

use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use url::form_urlencoded;

/// All that is asked for: sending messages.
pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// Where Google gives out access tokens, also to files that do not say so.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long a request may be used, in seconds: the longest that Google takes.
const ASSERTION_S: u64 = 3600;

/// Why a file gives no service account. Never quotes it.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// It is missing, or not ours to read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// As it is configured.
        path: PathBuf,
        /// From the operating system.
        source: std::io::Error,
    },
    /// It is not what Google's console gives out.
    #[error("{path} is not the JSON of a service account (line {line}, column {column})")]
    Form {
        /// As it is configured.
        path: PathBuf,
        /// Of the first error, from 1.
        line: usize,
        /// Of the first error, from 1.
        column: usize,
    },
    /// It was saved in another encoding, as editors on Windows do.
    #[error(
        "{path} is not plain UTF-8, it begins with the mark of {encoding}: save it again as UTF-8 without such a mark"
    )]
    Encoding {
        /// As it is configured.
        path: PathBuf,
        /// As its byte order mark says.
        encoding: &'static str,
    },
    /// It is something else that Google gives out.
    #[error(
        "{path} holds {kind}; needed is the key of a service account (Firebase console: Project settings, Service accounts)"
    )]
    Kind {
        /// As it is configured.
        path: PathBuf,
        /// For operators: what the file holds instead.
        kind: &'static str,
    },
    /// Its private key is no RSA key in PEM.
    #[error("the private key in {path} cannot be used (it is to be RSA, in PEM: PKCS#8 or PKCS#1)")]
    Key {
        /// As it is configured.
        path: PathBuf,
    },
}

pub(in crate::transport::fcm_v1) struct Account {
    /// The Firebase project it belongs to.
    pub(in crate::transport::fcm_v1) project_id: Option<String>,
    token_uri: String,
    email: String,
    key_id: Option<String>,
    key: RsaKeyPair,
}

/// What tells the files apart that Google gives out.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    word: Option<String>,
    /// Only in what apps are built with.
    project_info: Option<IgnoredAny>,
}

impl Kind {
    /// What it is, if it is no service account.
    fn mistaken(&self) -> Option<&'static str> {
        match (self.word.as_deref(), &self.project_info) {
            (Some("service_account"), _) => None,
            (Some("authorized_user"), _) => Some("the login of a person (gcloud)"),
            (Some("external_account"), _) => Some("the settings of a workload identity (external_account)"),
            (None, Some(_)) => Some("what an Android app is built with (google-services.json)"),
            _ => Some("credentials of another kind"),
        }
    }
}

#[derive(Deserialize)]
struct File {
    project_id: Option<String>,
    private_key_id: Option<String>,
    private_key: Secret,
    client_email: String,
    token_uri: Option<String>,
}

/// The key could not sign: it is too short for its signature, or the system has no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the private key cannot sign")]
pub(super) struct Unsigned;

/// The encoding that the first bytes of a file say it has (byte order mark).
fn marked(text: &[u8]) -> Option<&'static str> {
    let marks: [(&[u8], _); 3] =
        [(b"\xef\xbb\xbf", "UTF-8 with a BOM"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")];
    marks.into_iter().find(|(mark, _)| text.starts_with(mark)).map(|(_, encoding)| encoding)
}

impl Account {
    /// Reads the file that Google's console gives out.
    pub(in crate::transport::fcm_v1) fn read(path: &Path) -> Result<Self, AccountError> {
        let path = || path.to_owned();
        let text = std::fs::read(path()).map_err(|source| AccountError::Unreadable { path: path(), source })?;
        if let Some(encoding) = marked(&text) {
            return Err(AccountError::Encoding { path: path(), encoding });
        }
        // The error's own text may quote a value.
        let form = |fault: serde_json::Error| {
            let (line, column) = (fault.line(), fault.column());
            AccountError::Form { path: path(), line, column }
        };
        let kind: Kind = serde_json::from_slice(&text).map_err(form)?;
        if let Some(kind) = kind.mistaken() {
            return Err(AccountError::Kind { path: path(), kind });
        }
        let file: File = serde_json::from_slice(&text).map_err(form)?;
        let key = key(&file.private_key).ok_or_else(|| AccountError::Key { path: path() })?;
        let File { project_id, private_key_id: key_id, client_email: email, token_uri, .. } = file;
        Ok(Self { project_id, token_uri: token_uri.unwrap_or_else(|| TOKEN_URI.to_owned()), email, key_id, key })
    }

    /// Where it gets its access tokens.
    pub(in crate::transport::fcm_v1) fn token_uri(&self) -> &str {
        &self.token_uri
    }

    /// The form to post for an access token at `now_s` (Unix seconds).
    pub(super) fn request(&self, now_s: u64) -> Result<String, Unsigned> {
        let assertion = self.assertion(now_s)?;
        Ok(form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", GRANT)
            .append_pair("assertion", &assertion)
            .finish())
    }

    fn assertion(&self, now_s: u64) -> Result<String, Unsigned> {
        let mut header = json!({ "alg": "RS256", "typ": "JWT" });
        if let Some(id) = &self.key_id {
            header["kid"] = id.as_str().into();
        }
        let claims = json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": now_s,
            "exp": now_s.saturating_add(ASSERTION_S),
        });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| Unsigned)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Google's console writes PKCS#8; what openssl has turned over may be PKCS#1 (`BEGIN RSA PRIVATE KEY`).
fn key(pem: &Secret) -> Option<RsaKeyPair> {
    match PrivateKeyDer::from_pem_slice(pem.reveal().as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).ok(),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok(),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use rsa::pkcs1::EncodeRsaPrivateKey;
    use rsa::pkcs8::{DecodePrivateKey, LineEnding};
    use serde_json::Value;
    use std::io::Write;
    use std::process::Command;
    use std::sync::LazyLock;

    /// A key made by `openssl`, once for all tests: ring makes no RSA keys.
    static KEY: LazyLock<String> = LazyLock::new(|| {
        let made = Command::new("openssl").args(["genpkey", "-algorithm", "RSA"]).output();
        String::from_utf8(made.expect("openssl is installed; tests/run sees to it").stdout).unwrap()
    });

    pub(in crate::transport::fcm_v1) fn file(change: impl FnOnce(&mut Value)) -> tempfile::NamedTempFile {
        let mut document = json!({
            "type": "service_account",
            "project_id": "demo-1",
            "private_key_id": "k1",
            "private_key": *KEY,
            "client_email": "bridge@demo-1.iam.gserviceaccount.com",
            "token_uri": "http://127.0.0.1:9/token",
            "universe_domain": "googleapis.com",
        });
        change(&mut document);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(document.to_string().as_bytes()).unwrap();
        file
    }

    pub(in crate::transport::fcm_v1) fn account() -> Account {
        Account::read(file(|_| ()).path()).unwrap()
    }

    #[test]
    fn the_request_is_signed_and_says_who_and_what_for() {
        let account = account();
        assert_eq!(account.project_id.as_deref(), Some("demo-1"));
        let form = account.request(1_000).unwrap();
        let fields: Vec<(String, String)> = form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        assert_eq!(fields[0], ("grant_type".to_owned(), GRANT.to_owned()));
        let [header, claims, signature] = fields[1].1.split('.').collect::<Vec<_>>()[..] else { panic!() };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let json = |part: &str| serde_json::from_slice::<Value>(&decode(part)).unwrap();
        assert_eq!(json(header), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        assert_eq!(
            json(claims),
            json!({"iss": "bridge@demo-1.iam.gserviceaccount.com", "scope": SCOPE, "aud": "http://127.0.0.1:9/token",
                "iat": 1_000, "exp": 4_600})
        );
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, account.key.public_key().as_ref());
        public.verify(format!("{header}.{claims}").as_bytes(), &decode(signature)).unwrap();
    }

    #[test]
    fn a_file_needs_no_more_than_a_key_and_a_name() {
        let form_of = |change: fn(&mut Value)| Account::read(file(change).path()).unwrap().request(1_000).unwrap();
        let without_id = form_of(|document| {
            document.as_object_mut().unwrap().remove("private_key_id");
        });
        let fields: Vec<(String, String)> = form_urlencoded::parse(without_id.as_bytes()).into_owned().collect();
        let header = URL_SAFE_NO_PAD.decode(fields[1].1.split('.').next().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&header).unwrap(), json!({"alg": "RS256", "typ": "JWT"}));
        let pkcs1 = form_of(|document| {
            let key = rsa::PrivateKey::from_pkcs8_pem(&KEY).unwrap();
            document["private_key"] = key.to_pkcs1_pem(LineEnding::LF).unwrap().as_str().into();
            assert!(document["private_key"].as_str().unwrap().starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
        });
        assert_eq!(pkcs1, account().request(1_000).unwrap(), "the same key in other clothes");
        let bare = |document: &mut Value| {
            *document =
                json!({"type": "service_account", "private_key": *KEY, "client_email": "bridge@demo-1.example"});
        };
        assert_eq!(Account::read(file(bare).path()).unwrap().token_uri(), "https://oauth2.googleapis.com/token");
    }

    #[test]
    fn a_file_that_is_no_service_account_is_refused_without_quoting_it() {
        let fault = |change: fn(&mut Value)| Account::read(file(change).path()).err().unwrap();
        let of_user = fault(|document| document["type"] = "authorized_user".into());
        assert!(of_user.to_string().contains("the login of a person"), "{of_user}");
        let of_app = fault(|document| *document = json!({"project_info": {"project_number": "1"}, "client": []}));
        assert!(of_app.to_string().contains("google-services.json"), "{of_app}");
        let federated = fault(|document| document["type"] = "external_account".into());
        assert!(federated.to_string().contains("the settings of a workload identity (external_account); needed is"));
        let cut = fault(|document| document["private_key"] = KEY[..KEY.len() / 2].into());
        assert!(matches!(cut, AccountError::Key { .. }));
        let odd = fault(|document| document["private_key"] = json!(["hush-hush"]));
        assert!(matches!(odd, AccountError::Form { .. }) && !odd.to_string().contains("hush"), "{odd}");
        let document = std::fs::read(file(|_| ()).path()).unwrap();
        for mark in [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"] {
            let saved = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(saved.path(), [mark, &document].concat()).unwrap();
            let marked = Account::read(saved.path()).err().unwrap();
            assert!(
                matches!(marked, AccountError::Encoding { .. }) && marked.to_string().contains("as UTF-8"),
                "{marked}"
            );
        }
        let missing = Account::read(Path::new("/nowhere/key.json")).err().unwrap();
        assert!(missing.to_string().contains("/nowhere/key.json"), "{missing}");
    }
}

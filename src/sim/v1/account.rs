//! The service account: its key, made at the first start, and the file that a client reads.

use crate::sim::cert::{Access, CertificateError, write_file};
use ring::error::KeyRejected;
use ring::rsa::{KeyPair, PublicKeyComponents};
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use rsa::PrivateKey;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};

/// Bits of the key, as Google makes them.
const KEY_BITS: usize = 2_048;

/// The name of the file.
pub(super) const FILE_NAME: &str = "service-account.json";

/// The service account cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No key can be made.
    #[error("the key of the service account: {0}")]
    Key(#[from] rsa::Error),
    /// The key cannot be written as text.
    #[error("the key of the service account: {0}")]
    Encoding(#[from] rsa::pkcs8::Error),
    /// The text is no key.
    #[error("the key of the service account: {0}")]
    Text(#[from] pem::Error),
    /// It is no key that signs with RS256.
    #[error("the key of the service account: {0}")]
    Rejected(KeyRejected),
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] CertificateError),
    /// The task that makes the key was ended.
    #[error("the key of the service account was not made in time")]
    Stopped,
}

/// The service account.
pub(super) struct Account {
    pub(super) email: String,
    pub(super) key_id: String,
    key: KeyPair,
    /// What a client reads; holds the private key.
    pub(super) credentials: String,
    /// Where that was written.
    pub(super) file: Option<PathBuf>,
}

impl Account {
    /// Loads the key from the file in `directory` or makes one, and writes the file for the present `token_uri`.
    pub(super) fn prepare(directory: Option<&Path>, project: &str, token_uri: &str) -> Result<Self, AccountError> {
        let file = directory.map(|directory| directory.join(FILE_NAME));
        let (text, key) = match file.as_deref().and_then(key_in) {
            Some(known) => known,
            None => {
                let text = PrivateKey::new(&mut rand::rng(), KEY_BITS)?.to_pkcs8_pem(LineEnding::LF)?;
                let key = key(&text)?;
                (text.to_string(), key)
            }
        };
        let modulus = PublicKeyComponents::<Vec<u8>>::from(key.public_key()).n;
        let key_id: String = modulus.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        let email = format!("simulator@{project}.iam.gserviceaccount.com");
        let credentials = json!({
            "type": "service_account",
            "project_id": project,
            "private_key_id": key_id,
            "private_key": text,
            "client_email": email,
            "client_id": "100000000000000000000",
            "token_uri": token_uri,
        });
        let credentials = format!("{credentials:#}\n");
        if let Some(file) = &file {
            write_file(file, &credentials, Access::Owner)?;
        }
        Ok(Self { email, key_id, key, credentials, file })
    }

    /// Whether `signature` (RS256) is the account's on `text`.
    pub(super) fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.key.public_key()).verify(text, signature).is_ok()
    }
}

/// The key of an earlier start, as text too. A file that cannot be used is replaced.
fn key_in(file: &Path) -> Option<(String, KeyPair)> {
    let document: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    let text = document.get("private_key")?.as_str()?;
    Some((text.to_owned(), key(text).ok()?))
}

/// The key in PEM text.
pub(super) fn key(text: &str) -> Result<KeyPair, AccountError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())?;
    KeyPair::from_pkcs8(key.secret_pkcs8_der()).map_err(AccountError::Rejected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    #[test]
    fn the_key_is_kept_and_private_and_the_file_names_the_present_address() {
        let folder = tempfile::tempdir().unwrap();
        let first = Account::prepare(Some(folder.path()), "p", "http://127.0.0.1:1/token").unwrap();
        let second = Account::prepare(Some(folder.path()), "p", "http://127.0.0.1:2/token").unwrap();
        assert_eq!(first.key_id, second.key_id);
        let file = second.file.unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, second.credentials);
        assert!(text.contains("127.0.0.1:2/token") && text.contains("BEGIN PRIVATE KEY"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let document: Value = serde_json::from_str(&text).unwrap();
        let key = PrivateKeyDer::from_pem_slice(document["private_key"].as_str().unwrap().as_bytes()).unwrap();
        assert!(ring::sign::any_supported_type(&key).is_ok(), "clients sign with ring");
        fs::write(&file, "rubbish").unwrap();
        let third = Account::prepare(Some(folder.path()), "p", "http://127.0.0.1:3/token").unwrap();
        assert_ne!(third.key_id, first.key_id, "a new one");
    }
}

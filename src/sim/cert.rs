//! The simulator's own certificate authority. The authority may live on disk, so that clients keep trusting it; the
//! server's certificate is made anew at each start and therefore always has the names asked for.

use super::config::CertificateConfig;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, date_time_ymd};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// Names that are always in the server's certificate.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The certificate cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file of the authority cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name cannot be in a certificate, or the key on disk is none.
    #[error("certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS refuses it.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What a server needs, and what its clients need to trust it.
pub(super) struct Identity {
    pub(super) tls: Arc<ServerConfig>,
    pub(super) ca_pem: String,
}

impl Identity {
    /// Loads or makes the authority and makes the server's certificate.
    pub(super) fn prepare(config: &CertificateConfig) -> Result<Self, CertificateError> {
        let (ca_pem, key) = match &config.directory {
            Some(directory) => authority_in(directory)?,
            None => new_authority()?,
        };
        if let Some(path) = &config.ca_file {
            write_file(path, &ca_pem, Access::Everybody)?;
        }
        let names: Vec<String> =
            LOCAL_NAMES.into_iter().map(str::to_owned).chain(config.names.iter().cloned()).collect();
        let issuer = Issuer::new(authority(), key);
        let server_key = KeyPair::generate()?;
        let certificate = server(names)?.signed_by(&server_key, &issuer)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        Ok(Self { tls: Arc::new(tls), ca_pem })
    }
}

/// Always the same, so that certificates signed later are of the authority whose certificate is on disk.
fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "fcm-mqtt-bridge simulator CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit_validity(&mut params);
    params
}

fn server(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "fcm-mqtt-bridge simulator");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    limit_validity(&mut params);
    Ok(params)
}

/// Fixed dates: a simulator needs no renewal, and a wrong clock must not matter to it.
fn limit_validity(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
}

fn new_authority() -> Result<(String, KeyPair), CertificateError> {
    let key = KeyPair::generate()?;
    let certificate = authority().self_signed(&key)?;
    Ok((certificate.pem(), key))
}

fn authority_in(directory: &Path) -> Result<(String, KeyPair), CertificateError> {
    let (ca_path, key_path) = (directory.join("ca.pem"), directory.join("ca.key"));
    if ca_path.exists() {
        let key = KeyPair::from_pem(&read_file(&key_path)?)?;
        return Ok((read_file(&ca_path)?, key));
    }
    let (ca_pem, key) = new_authority()?;
    fs::create_dir_all(directory).map_err(|source| CertificateError::File { path: directory.into(), source })?;
    // The certificate comes last: if it is there, so is its key.
    write_file(&key_path, &key.serialize_pem(), Access::Owner)?;
    write_file(&ca_path, &ca_pem, Access::Everybody)?;
    Ok((ca_pem, key))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Owner,
    Everybody,
}

fn read_file(path: &Path) -> Result<String, CertificateError> {
    fs::read_to_string(path).map_err(|source| CertificateError::File { path: path.into(), source })
}

/// Writes beside and renames, so that nobody ever reads half a file.
pub(super) fn write_file(path: &Path, text: &str, access: Access) -> Result<(), CertificateError> {
    let beside = path.with_extension("part");
    let write = || {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        if access == Access::Owner {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        let mut file = options.open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| CertificateError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_on_disk_is_used_again_and_its_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("copy.pem");
        let config = CertificateConfig {
            directory: Some(directory.path().join("deep/er")),
            ca_file: Some(ca_file.clone()),
            names: vec!["sim".into()],
        };
        let first = Identity::prepare(&config).unwrap();
        let second = Identity::prepare(&config).unwrap();
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_eq!(fs::read_to_string(ca_file).unwrap(), first.ca_pem);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let key = directory.path().join("deep/er/ca.key");
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_name_that_cannot_be_in_a_certificate_is_refused() {
        let config = CertificateConfig { names: vec!["no\u{e9}".into()], ..CertificateConfig::default() };
        assert!(matches!(Identity::prepare(&config), Err(CertificateError::Make(_))));
    }
}

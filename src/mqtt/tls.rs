//! Whom the client trusts, and what it says when it does not.
//!
//! The provider is named here and nowhere else: a process-wide default would be one more thing that two crates can
//! quarrel about.

use super::config::ClientError;
use super::link::Failure;
use crate::ops::tls;
use rumqttc_v5::TlsError;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// TLS for a client that trusts the authorities in `ca_file`; without one the platform's, or Mozilla's where the
/// platform has none.
pub(super) fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ClientError> {
    let roots = ca_file.map_or_else(|| Ok(platform()), from_file)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn from_file(path: &Path) -> Result<RootCertStore, ClientError> {
    let unusable = |source| ClientError::CaFile { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unusable)? {
        roots
            .add(certificate.map_err(unusable)?)
            .map_err(|source| ClientError::CaCertificate { path: path.to_owned(), source })?;
    }
    if roots.is_empty() {
        return Err(ClientError::CaEmpty { path: path.to_owned() });
    }
    Ok(roots)
}

fn platform() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Tells a broker that is not trusted from one that is not there. Both libraries share the type.
pub(super) fn failure(error: &TlsError) -> Failure {
    match error {
        // A handshake that fails is an I/O error with rustls' reason inside.
        TlsError::Io(io) if !io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => Failure::Network(
            format!("{io}, in the TLS handshake: perhaps that port is one without TLS (mqtt:// or ws://)"),
        ),
        error => Failure::Tls(tls::handshake(error, "mqtt.ca_file")),
    }
}

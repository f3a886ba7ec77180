//! From a host name to an encrypted connection.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::ReadIter;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// For the name, the connection and the TLS handshake together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The host is neither a name nor an address.
    #[error("{0:?} is no host name and no address")]
    Host(String),
    /// The file with certificates cannot be read.
    #[error("cannot read certificates from {path}: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The TLS library refuses the settings.
    #[error("TLS: {0}")]
    Library(#[from] tokio_rustls::rustls::Error),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The name or the connection.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The handshake: no TLS on the other side, or its certificate is not good for the host.
    #[error("TLS handshake: {0}")]
    Tls(std::io::Error),
    /// It took too long.
    #[error("no connection within {} s", DIAL_TIMEOUT.as_secs())]
    TimedOut,
}

/// Opens connections to one host.
pub(super) struct Dialer {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Dialer {
    /// A dialer that trusts the certificates in `ca_file`, or without one those of the machine.
    pub(super) fn new(host: &str, port: u16, ca_file: Option<&Path>) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        let roots = match ca_file {
            Some(path) => roots_from(path)?,
            None => platform_roots(),
        };
        // The provider is named, because a process may hold another default. The default versions are 1.2 and 1.3.
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { host: host.to_owned(), port, name, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Opens a connection. The name is looked up each time: an address that was kept outlives its machine.
    pub(super) async fn dial(&self) -> Result<TlsStream<TcpStream>, DialError> {
        tokio::time::timeout(DIAL_TIMEOUT, self.connect()).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, DialError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(DialError::Connect)?;
        // Acknowledgements are small and must not wait for one another.
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        self.tls.connect(self.name.clone(), stream).await.map_err(DialError::Tls)
    }
}

fn roots_from(path: &Path) -> Result<RootCertStore, TlsError> {
    let fail = |reason: String| TlsError::CaFile { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in ReadIter::<_, CertificateDer<'static>>::new(BufReader::new(file)) {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(fail("no certificate in it".to_owned()));
    }
    Ok(roots)
}

fn platform_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (_, ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::info!(
            errors = found.errors.len(),
            ignored,
            "no certificate roots on this machine, using those built in"
        );
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_reason() {
        assert!(matches!(Dialer::new("not a host", 1, None), Err(TlsError::Host(_))));
        let missing = Path::new("/nonexistent/ca.pem");
        assert!(matches!(Dialer::new("localhost", 1, Some(missing)), Err(TlsError::CaFile { .. })));
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = Dialer::new("localhost", 1, Some(file.path())).err().unwrap();
        assert!(empty.to_string().ends_with("no certificate in it"), "{empty}");
    }

    #[test]
    fn names_and_addresses_are_hosts() {
        for host in ["localhost", "fcm-xmpp.googleapis.com", "127.0.0.1", "::1"] {
            assert!(Dialer::new(host, 5235, None).is_ok(), "{host}");
        }
    }
}

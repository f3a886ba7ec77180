//! From a host name to a connection, encrypted unless it is within this machine.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
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
    /// The other side speaks TLS, but not the protocol inside that was asked for.
    #[error("the server does not offer the protocol {0}")]
    Protocol(&'static str),
    /// It took too long.
    #[error("no connection within {} s", DIAL_TIMEOUT.as_secs())]
    TimedOut,
}

/// What is on the other end of a connection, in order and unchanged, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl Stream for TcpStream {}
impl Stream for TlsStream<TcpStream> {}

/// What a connection is protected with.
pub(super) enum Security<'a> {
    /// TLS, trusting the certificates in a file, or without one those of the machine.
    Tls {
        /// The file, PEM.
        ca_file: Option<&'a Path>,
        /// The protocol inside that the server has to agree to (ALPN), if it has to.
        protocol: Option<&'static str>,
    },
    /// Nothing. Only for this machine.
    Plain,
}

/// Opens connections to one host.
pub(super) struct Dialer {
    host: String,
    port: u16,
    lock: Lock,
}

enum Lock {
    Tls {
        connector: TlsConnector,
        name: ServerName<'static>,
        protocol: Option<&'static str>,
    },
    Plain,
    /// Hands the other end of each connection to a test.
    #[cfg(test)]
    Memory(tokio::sync::mpsc::Sender<tokio::io::DuplexStream>),
}

impl Dialer {
    /// A dialer for a host.
    pub(super) fn new(host: &str, port: u16, security: &Security<'_>) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        let lock = match security {
            Security::Plain => Lock::Plain,
            Security::Tls { ca_file, protocol } => {
                Lock::Tls { connector: connector(*ca_file, *protocol)?, name, protocol: *protocol }
            }
        };
        Ok(Self { host: host.to_owned(), port, lock })
    }

    /// Opens a connection. The name is looked up each time: an address that was kept outlives its machine.
    pub(super) async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        tokio::time::timeout(DIAL_TIMEOUT, self.connect()).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, DialError> {
        match &self.lock {
            Lock::Plain => Ok(Box::new(self.tcp().await?)),
            Lock::Tls { connector, name, protocol } => {
                let stream = connector.connect(name.clone(), self.tcp().await?).await.map_err(DialError::Tls)?;
                match protocol {
                    Some(wanted) if stream.get_ref().1.alpn_protocol() != Some(wanted.as_bytes()) => {
                        Err(DialError::Protocol(wanted))
                    }
                    _ => Ok(Box::new(stream)),
                }
            }
            #[cfg(test)]
            Lock::Memory(peers) => memory::connect(peers).await,
        }
    }

    async fn tcp(&self) -> Result<TcpStream, DialError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(DialError::Connect)?;
        // Acknowledgements are small and must not wait for one another.
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        Ok(stream)
    }
}

fn connector(ca_file: Option<&Path>, protocol: Option<&'static str>) -> Result<TlsConnector, TlsError> {
    let roots = match ca_file {
        Some(path) => roots_from(path)?,
        None => platform_roots(),
    };
    // The provider is named, because a process may hold another default. The default versions are 1.2 and 1.3.
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocol.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
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

/// Connections without sockets, so that a test can own the clock.
#[cfg(test)]
pub(super) mod memory {
    use super::{DialError, Dialer, Lock, Stream};
    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;

    /// Bytes that may be on the way, in each direction.
    const BYTES: usize = 64 * 1024;

    impl Stream for DuplexStream {}

    impl Dialer {
        /// A dialer whose connections end at `peers`; it fails when nobody takes them.
        pub(in crate::transport) fn memory(peers: mpsc::Sender<DuplexStream>) -> Self {
            Self { host: "memory".to_owned(), port: 0, lock: Lock::Memory(peers) }
        }
    }

    pub(super) async fn connect(peers: &mpsc::Sender<DuplexStream>) -> Result<Box<dyn Stream>, DialError> {
        let (ours, theirs) = tokio::io::duplex(BYTES);
        let refused = |_| DialError::Connect(std::io::ErrorKind::ConnectionRefused.into());
        peers.try_send(theirs).map_err(refused)?;
        Ok(Box::new(ours))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_reason() {
        assert!(matches!(Dialer::new("not a host", 1, &Security::Plain), Err(TlsError::Host(_))));
        let trusting = |path| Dialer::new("localhost", 1, &Security::Tls { ca_file: Some(path), protocol: None });
        assert!(matches!(trusting(Path::new("/nonexistent/ca.pem")), Err(TlsError::CaFile { .. })));
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = trusting(file.path()).err().unwrap();
        assert!(empty.to_string().ends_with("no certificate in it"), "{empty}");
    }

    #[test]
    fn names_and_addresses_are_hosts() {
        for host in ["localhost", "fcm-xmpp.googleapis.com", "127.0.0.1", "::1"] {
            let security = Security::Tls { ca_file: None, protocol: None };
            assert!(Dialer::new(host, 5235, &security).is_ok(), "{host}");
        }
    }
}

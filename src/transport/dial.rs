//! From a host name to a connection, encrypted unless it is within this machine.

use crate::ops::tls;
use std::fs::File;
use std::io::{self, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::ReadIter;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// For the name, the connection and the TLS handshake together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Least share of that for one of the host's addresses; below it a distant one could not answer.
const ADDRESS_TIMEOUT_MIN: Duration = Duration::from_secs(2);

/// Why the TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Holds it as it is configured.
    #[error("the host is neither a name nor an address")]
    Host(String),
    /// Also a file without any certificate.
    #[error("cannot read certificates from {path}: {reason}")]
    CaFile {
        /// As it is configured.
        path: PathBuf,
        /// For operators.
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
    Connect(io::Error),
    /// The handshake: no TLS on the other side, or its certificate is not good for the host.
    #[error("TLS handshake: {0}")]
    Tls(String),
    /// The other side speaks TLS, but not the protocol inside that was asked for.
    #[error("the server does not offer the protocol {0}")]
    Protocol(&'static str),
    #[error("no connection within {} s", DIAL_TIMEOUT.as_secs())]
    TimedOut,
}

/// What is on the other end of a connection, in order and unchanged, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// The protocol inside that was agreed on (ALPN), if one was.
    fn protocol(&self) -> Option<&[u8]> {
        None
    }
}

impl Stream for TcpStream {}

impl Stream for TlsStream<TcpStream> {
    fn protocol(&self) -> Option<&[u8]> {
        self.get_ref().1.alpn_protocol()
    }
}

/// What a connection is protected with.
pub(super) enum Security<'a> {
    /// TLS, trusting the certificates in a file, or without one those of the machine.
    Tls {
        /// The file, PEM.
        ca_file: Option<&'a Path>,
        /// The protocols that are offered for the inside (ALPN, RFC 7301). Of several the server chooses, and one that knows
        /// nothing of ALPN is welcome; one that does not agree to the only one is of no use.
        alpn: &'static [&'static str],
    },
    /// Nothing. Only for this machine.
    Plain,
}

pub(super) struct Dialer {
    host: String,
    port: u16,
    protection: Protection,
    /// See [`Dialer::server`].
    server: String,
    /// Which key says whom to trust.
    ca_key: String,
}

enum Protection {
    Tls {
        connector: TlsConnector,
        name: ServerName<'static>,
        alpn: &'static [&'static str],
    },
    Plain,
    /// Hands the other end of each connection to a test.
    #[cfg(test)]
    Memory(tokio::sync::mpsc::Sender<tokio::io::DuplexStream>),
}

impl Dialer {
    /// A dialer for a host that the key `named_by` of the configuration says.
    pub(super) fn new(host: &str, port: u16, security: &Security<'_>, named_by: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        let protection = match security {
            Security::Plain => Protection::Plain,
            Security::Tls { ca_file, alpn } => Protection::Tls { connector: connector(*ca_file, alpn)?, name, alpn },
        };
        let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        // The key may stand behind words of its own, and is in the same section.
        let section = named_by.rsplit(' ').next().and_then(|key| key.rsplit_once('.'));
        let ca_key = section.map_or_else(|| "ca_file".to_owned(), |(section, _)| format!("{section}.ca_file"));
        Ok(Self { host: host.to_owned(), port, protection, server: format!("{shown}:{port} ({named_by})"), ca_key })
    }

    /// Host and port, and which key of the configuration names them: for whoever has to mend a connection that fails.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Opens a connection. The name is looked up each time: an address that was kept outlives its machine.
    pub(super) async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        let end = Instant::now() + DIAL_TIMEOUT;
        timeout_at(end, self.connect(end)).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn connect(&self, end: Instant) -> Result<Box<dyn Stream>, DialError> {
        match &self.protection {
            Protection::Plain => Ok(Box::new(self.tcp(end).await?)),
            Protection::Tls { connector, name, alpn } => {
                let stream = connector.connect(name.clone(), self.tcp(end).await?).await;
                let stream = stream.map_err(|error| DialError::Tls(tls::handshake(&error, &self.ca_key)))?;
                // The TLS library itself refuses what was not offered.
                match alpn {
                    [wanted] if stream.protocol() != Some(wanted.as_bytes()) => Err(DialError::Protocol(wanted)),
                    _ => Ok(Box::new(stream)),
                }
            }
            #[cfg(test)]
            Protection::Memory(peers) => memory::connect(peers).await,
        }
    }

    async fn tcp(&self, end: Instant) -> Result<TcpStream, DialError> {
        let found = lookup_host((self.host.as_str(), self.port)).await.map_err(DialError::Connect)?;
        let addresses: Vec<SocketAddr> = found.collect();
        let stream = first_of(&addresses, end, TcpStream::connect).await.map_err(DialError::Connect)?;
        // Acknowledgements are small and must not wait for one another.
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        Ok(stream)
    }
}

/// Connects to the first of `addresses` that takes the connection, one after the other. The time until `end` is shared among
/// those that are left, so one that never answers leaves time for those behind it. Fails as the last one did.
async fn first_of<T, C>(addresses: &[SocketAddr], end: Instant, connect: impl Fn(SocketAddr) -> C) -> io::Result<T>
where
    C: Future<Output = io::Result<T>>,
{
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let rest = end.saturating_duration_since(Instant::now());
        let share = rest / u32::try_from(left).unwrap_or(u32::MAX);
        match timeout(share.max(ADDRESS_TIMEOUT_MIN), connect(*address)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, "no answer"),
        }
    }
    Err(failure)
}

fn connector(ca_file: Option<&Path>, alpn: &[&str]) -> Result<TlsConnector, TlsError> {
    let roots = match ca_file {
        Some(path) => roots_from(path)?,
        None => platform_roots(),
    };
    // The provider is named, because a process may hold another default. The default versions are 1.2 and 1.3.
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
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
    use super::{DialError, Dialer, Protection, Stream};
    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;

    /// Bytes that may be on the way, in each direction.
    const BYTES: usize = 64 * 1024;

    impl Stream for DuplexStream {}

    impl Dialer {
        /// A dialer whose connections end at `peers`; it fails when nobody takes them.
        pub(in crate::transport) fn memory(peers: mpsc::Sender<DuplexStream>) -> Self {
            Self {
                host: "memory".to_owned(),
                port: 0,
                protection: Protection::Memory(peers),
                server: "memory:0".to_owned(),
                ca_key: "ca_file".to_owned(),
            }
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
        assert!(matches!(Dialer::new("not a host", 1, &Security::Plain, "key"), Err(TlsError::Host(_))));
        let trusting = |path| Dialer::new("localhost", 1, &Security::Tls { ca_file: Some(path), alpn: &[] }, "key");
        assert!(matches!(trusting(Path::new("/nonexistent/ca.pem")), Err(TlsError::CaFile { .. })));
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = trusting(file.path()).err().unwrap();
        assert!(empty.to_string().ends_with("no certificate in it"), "{empty}");
    }

    #[test]
    fn a_dialer_says_where_it_goes_and_who_said_so() {
        let server = |host| Dialer::new(host, 5235, &Security::Plain, "ccs.host").unwrap().server().to_owned();
        assert_eq!(server("fcm-xmpp.googleapis.com"), "fcm-xmpp.googleapis.com:5235 (ccs.host)");
        assert_eq!(server("::1"), "[::1]:5235 (ccs.host)");
    }

    #[test]
    fn whom_to_trust_is_said_in_the_section_that_names_the_host() {
        for (named_by, key) in [
            ("ccs.host", "ccs.ca_file"),
            ("token_uri in sa.json, fcm.projects.shop.credentials_file", "fcm.projects.shop.ca_file"),
            ("key", "ca_file"),
        ] {
            assert_eq!(Dialer::new("localhost", 1, &Security::Plain, named_by).unwrap().ca_key, key);
        }
    }

    #[test]
    fn names_and_addresses_are_hosts() {
        for host in ["localhost", "fcm-xmpp.googleapis.com", "127.0.0.1", "::1"] {
            let security = Security::Tls { ca_file: None, alpn: &[] };
            assert!(Dialer::new(host, 5235, &security, "key").is_ok(), "{host}");
        }
    }
    /// What the addresses do, by their ports: they say nothing, refuse, or connect after so many seconds.
    async fn dial_all(ports: &[u16]) -> (io::Result<u16>, Vec<(u16, u64)>) {
        let began = Instant::now();
        let tried = std::sync::Mutex::new(Vec::new());
        let addresses: Vec<SocketAddr> = ports.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
        let found = first_of(&addresses, began + DIAL_TIMEOUT, async |address: SocketAddr| {
            tried.lock().unwrap().push((address.port(), began.elapsed().as_secs()));
            match address.port() {
                SILENT => std::future::pending().await,
                REFUSING => Err(io::ErrorKind::ConnectionRefused.into()),
                seconds => {
                    tokio::time::sleep(Duration::from_secs(seconds.into())).await;
                    Ok(seconds)
                }
            }
        });
        (found.await, tried.into_inner().unwrap())
    }

    const SILENT: u16 = 1_000;
    const REFUSING: u16 = 2_000;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_says_nothing_leaves_time_for_the_others() {
        let (found, tried) = dial_all(&[SILENT, 9]).await;
        assert_eq!((found.unwrap(), tried), (9, vec![(SILENT, 0), (9, 10)]));
        // What one leaves over is shared by the others.
        let (found, tried) = dial_all(&[REFUSING, SILENT, SILENT, 1]).await;
        assert_eq!((found.unwrap(), tried), (1, vec![(REFUSING, 0), (SILENT, 0), (SILENT, 6), (1, 13)]));
        let (found, tried) = dial_all(&[19]).await;
        assert_eq!((found.unwrap(), tried), (19, vec![(19, 0)]));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_addresses_each_has_time_to_answer() {
        let (found, tried) = dial_all(&[&[SILENT; 8][..], &[1; 12]].concat()).await;
        assert_eq!((found.unwrap(), tried.len()), (1, 9));
        assert_eq!(tried[8], (1, 8 * ADDRESS_TIMEOUT_MIN.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_connection_the_last_failure_is_told() {
        let failure = async |ports: &[u16]| dial_all(ports).await.0.unwrap_err().kind();
        assert_eq!(failure(&[SILENT, REFUSING]).await, io::ErrorKind::ConnectionRefused);
        assert_eq!(failure(&[REFUSING, SILENT]).await, io::ErrorKind::TimedOut);
        assert_eq!(failure(&[]).await, io::ErrorKind::NotFound);
    }
}

//! The ways into the broker, from the client's side: TCP, TLS, WebSocket and both, with certificates made for the test.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use fcm_mqtt_bridge::broker::TlsFiles;
use futures_util::{Sink, Stream};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, client_async};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketKind {
    Tcp,
    Tls,
    Ws,
    Wss,
}

pub(crate) const SOCKETS: [SocketKind; 4] = [SocketKind::Tcp, SocketKind::Tls, SocketKind::Ws, SocketKind::Wss];

/// Bytes to and from the broker, whatever is below them.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Wire for S {}

/// An authority, and the files that a broker needs of it.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let authority = Self { folder, issuer: Issuer::new(params, key), certificate: certificate.der().clone() };
        authority.write_server_pair();
        authority
    }

    /// A new certificate and key for the broker, in the same files.
    pub(crate) fn write_server_pair(&self) {
        let (certificate, key) = self.sign();
        fs::write(self.files().cert, certificate.pem()).unwrap();
        fs::write(self.files().key, key.serialize_pem()).unwrap();
    }

    pub(crate) fn files(&self) -> TlsFiles {
        let file = |name| self.folder.path().join(name);
        TlsFiles { cert: file("cert.pem"), key: file("key.pem"), client_ca: None }
    }

    pub(crate) fn files_that_ask_for_a_certificate(&self) -> TlsFiles {
        TlsFiles { client_ca: Some(self.folder.path().join("ca.pem")), ..self.files() }
    }

    /// The certificate that the broker is to show.
    pub(crate) fn server_certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.files().cert).unwrap()
    }

    /// A client that trusts this authority.
    pub(crate) fn client(&self) -> ClientConfig {
        self.trusting().with_no_client_auth()
    }

    /// One that has a certificate of `other` to show.
    pub(crate) fn client_known_to(&self, other: &Self) -> ClientConfig {
        let (certificate, key) = other.sign();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        self.trusting().with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
    }

    fn trusting(
        &self,
    ) -> tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
    }

    fn sign(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// Connects up to where MQTT begins.
pub(crate) async fn dial(
    kind: SocketKind,
    to: SocketAddr,
    from: IpAddr,
    tls: &ClientConfig,
) -> io::Result<Box<dyn Wire>> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    through(kind, socket.connect(to).await?, tls).await
}

/// The same on a connection that is there already.
pub(crate) async fn through(kind: SocketKind, stream: TcpStream, tls: &ClientConfig) -> io::Result<Box<dyn Wire>> {
    stream.set_nodelay(true)?;
    Ok(match kind {
        SocketKind::Tcp => Box::new(stream),
        SocketKind::Tls => Box::new(secure(stream, tls).await?),
        SocketKind::Ws => Box::new(upgrade(stream).await?),
        SocketKind::Wss => Box::new(upgrade(secure(stream, tls).await?).await?),
    })
}

pub(crate) async fn secure(
    stream: TcpStream,
    tls: &ClientConfig,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    TlsConnector::from(Arc::new(tls.clone())).connect("localhost".try_into().unwrap(), stream).await
}

async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> io::Result<Web<S>> {
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
    let (socket, _) = client_async(request, stream).await.map_err(io::Error::other)?;
    Ok(Web { socket, in_hand: Bytes::new() })
}

/// A WebSocket as bytes; each write is a message of its own.
struct Web<S> {
    socket: WebSocketStream<S>,
    in_hand: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Web<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.in_hand.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.in_hand = bytes,
                Some(Ok(_)) => {}
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let size = self.in_hand.len().min(buf.remaining());
        buf.put_slice(&self.in_hand.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Web<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io::Error::other)?;
        let message = Message::Binary(Bytes::copy_from_slice(buf));
        Pin::new(&mut self.socket).start_send(message).map_err(io::Error::other)?;
        // Tests write whole packets and do not flush.
        let _ = Pin::new(&mut self.socket).poll_flush(cx).map_err(io::Error::other)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io::Error::other)
    }
}

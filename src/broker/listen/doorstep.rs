//! From an accepted connection to one that the engine can serve.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, error::Elapsed, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::super::engine::Engine;
use super::super::seats::{Seat, Seats, origin};
use super::proxy::{self, ProxyError};
use super::tls::Acceptors;
use super::ws;
use crate::ops::metrics::Metric;

/// When TCP begins to ask whether a silent peer is still there. Clients without an MQTT keep alive are found so.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How long it waits between its questions.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// After how many of them without an answer the peer is gone.
const KEEPALIVE_PROBES: u32 = 4;

/// What a connection has to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Tcp,
    Tls,
    Ws,
    Wss,
}

/// Why a connection went no further.
#[derive(Debug, Error)]
enum Refusal {
    #[error("its address has too many connections")]
    Crowded,
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("WebSocket: {0}")]
    WebSocket(#[from] Box<tungstenite::Error>),
    #[error("it took too long")]
    Late(#[from] Elapsed),
}

/// What all doors share.
pub(super) struct Doorstep {
    engine: Arc<Engine>,
    acceptors: Option<watch::Receiver<Acceptors>>,
    origins: Vec<String>,
    proxy_protocol: bool,
    addresses: Arc<Seats<IpAddr>>,
}

/// A connection that has been through everything that comes before MQTT.
struct Guest {
    stream: Box<dyn Wire>,
    peer: SocketAddr,
    _seat: Seat<IpAddr>,
}

/// Bytes of MQTT, whatever they are wrapped in. Boxed, so that the engine is built for one kind of stream only.
trait Wire: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Wire for S {}

impl Doorstep {
    pub(super) fn new(
        engine: Arc<Engine>,
        acceptors: Option<watch::Receiver<Acceptors>>,
        origins: Vec<String>,
        proxy_protocol: bool,
    ) -> Self {
        let addresses = Seats::new(engine.limits.connections_per_address);
        Self { engine, acceptors, origins, proxy_protocol, addresses }
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Takes one connection through everything, until it ends.
    pub(super) async fn receive(
        self: Arc<Self>,
        way: Way,
        stream: TcpStream,
        peer: SocketAddr,
        stop: CancellationToken,
    ) {
        if let Err(error) = prepare(&stream) {
            debug!(%peer, %error, "could not set the options of a connection");
        }
        let deadline = Instant::now() + self.engine.limits.connect_timeout;
        // On the heap, because handshakes need much memory for a short time.
        let arrived = timeout_at(deadline, Box::pin(self.welcome(way, stream, peer)));
        let Some(arrived) = stop.run_until_cancelled(arrived).await else {
            return;
        };
        match arrived.unwrap_or_else(|late| Err(late.into())) {
            Ok(Guest { stream, peer, _seat }) => self.engine.serve(stream, peer, deadline).await,
            Err(refusal) => self.refuse(&refusal, way, peer),
        }
    }

    async fn welcome(&self, way: Way, mut stream: TcpStream, peer: SocketAddr) -> Result<Guest, Refusal> {
        let peer = if self.proxy_protocol { proxy::read_header(&mut stream).await?.unwrap_or(peer) } else { peer };
        let seat = self.addresses.take(origin(peer.ip())).ok_or(Refusal::Crowded)?;
        let stream: Box<dyn Wire> = match way {
            Way::Tcp => Box::new(stream),
            Way::Tls => Box::new(self.secure(stream, |acceptors| &acceptors.mqtt).await?),
            Way::Ws => Box::new(self.upgrade(stream).await?),
            Way::Wss => Box::new(self.upgrade(self.secure(stream, |acceptors| &acceptors.web).await?).await?),
        };
        Ok(Guest { stream, peer, _seat: seat })
    }

    async fn secure(
        &self,
        stream: TcpStream,
        pick: fn(&Acceptors) -> &TlsAcceptor,
    ) -> Result<TlsStream<TcpStream>, Refusal> {
        let acceptor = self.acceptors.as_ref().map(|current| pick(&current.borrow()).clone());
        let acceptor = acceptor.ok_or_else(|| Refusal::Tls(io::ErrorKind::Unsupported.into()))?;
        acceptor.accept(stream).await.map_err(Refusal::Tls)
    }

    async fn upgrade<S>(&self, stream: S) -> Result<ws::WebSocket<S>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(ws::upgrade(stream, &self.origins, self.engine.limits.packet_bytes).await?)
    }

    fn refuse(&self, refusal: &Refusal, way: Way, peer: SocketAddr) {
        self.engine.metrics.count(match refusal {
            Refusal::Crowded => Metric::BrokerAddressRefused,
            Refusal::Late(_) => Metric::BrokerConnectTimeouts,
            Refusal::Proxy(_) | Refusal::Tls(_) | Refusal::WebSocket(_) => Metric::BrokerHandshakesFailed,
        });
        debug!(%peer, ?way, %refusal, "connection refused");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

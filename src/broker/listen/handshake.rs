//! From an accepted connection to one that can be served.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::super::connection::{self, Stream};
use super::super::connection_limits::{ConnectionLimits, ConnectionPermit, network_of};
use super::super::hub::Hub;
use super::super::refusals::{Refusal, Who};
use super::proxy::{self, ProxyError};
use super::spoken::mismatch;
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
pub(super) enum ListenerKind {
    Tcp,
    Tls,
    Ws,
    Wss,
}

/// Why a connection went no further.
#[derive(Debug)]
enum Stopped {
    /// It is refused; with what the log says besides.
    Refused(Refusal, String),
    /// It is over before it said anything.
    HungUp,
}

impl From<ProxyError> for Stopped {
    fn from(error: ProxyError) -> Self {
        Self::Refused(Refusal::ProxyHeader, error.to_string())
    }
}

impl From<Box<tungstenite::Error>> for Stopped {
    fn from(error: Box<tungstenite::Error>) -> Self {
        Self::Refused(Refusal::WebSocket, error.to_string())
    }
}

/// What all doors share.
pub(super) struct Handshake {
    hub: Arc<Hub>,
    acceptors: Option<watch::Receiver<Acceptors>>,
    origins: Vec<String>,
    proxy_protocol: bool,
    addresses: Arc<ConnectionLimits<IpAddr>>,
}

/// A connection that has been through everything that comes before MQTT.
struct Guest {
    stream: Box<dyn Stream>,
    peer: SocketAddr,
    _permit: ConnectionPermit<IpAddr>,
}

impl Handshake {
    pub(super) fn new(
        hub: Arc<Hub>,
        acceptors: Option<watch::Receiver<Acceptors>>,
        origins: Vec<String>,
        proxy_protocol: bool,
    ) -> Self {
        let addresses = ConnectionLimits::new(hub.limits.connections_per_address);
        Self { hub, acceptors, origins, proxy_protocol, addresses }
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Takes one connection through everything, until it ends.
    pub(super) async fn receive(
        self: Arc<Self>,
        kind: ListenerKind,
        stream: TcpStream,
        peer: SocketAddr,
        stop: CancellationToken,
    ) {
        if let Err(error) = prepare(&stream) {
            debug!(%peer, %error, "could not set the options of a connection");
        }
        let deadline = Instant::now() + self.hub.limits.connect_timeout;
        // On the heap, because handshakes need much memory for a short time.
        let arrived = timeout_at(deadline, Box::pin(self.welcome(kind, stream, peer)));
        let Some(arrived) = stop.run_until_cancelled(arrived).await else {
            return;
        };
        match arrived {
            Ok(Ok(Guest { stream, peer, _permit })) => {
                connection::serve(Arc::clone(&self.hub), stream, peer, deadline).await
            }
            Ok(Err((Stopped::Refused(refusal, detail), peer))) => {
                self.hub.refusals.tell(refusal, &Who::at(peer), detail);
            }
            Ok(Err((Stopped::HungUp, peer))) => {
                self.hub.refusals.metrics().count(Metric::BrokerHandshakesFailed);
                debug!(%peer, way = ?kind, "connection closed by its client before it said anything");
            }
            Err(_late) => self.hub.refusals.tell(Refusal::ConnectTimeout, &Who::at(peer), ""),
        }
    }

    /// Errors name the address that the connection comes from, which a proxy may have told.
    async fn welcome(
        &self,
        kind: ListenerKind,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<Guest, (Stopped, SocketAddr)> {
        let peer = match self.proxy_protocol {
            true => proxy::read_header(&mut stream).await.map_err(|error| (error.into(), peer))?.unwrap_or(peer),
            false => peer,
        };
        self.shake_hands(kind, stream, peer).await.map_err(|stopped| (stopped, peer))
    }

    async fn shake_hands(&self, kind: ListenerKind, stream: TcpStream, peer: SocketAddr) -> Result<Guest, Stopped> {
        let crowded = || Stopped::Refused(Refusal::AddressConnections, String::new());
        let permit = self.addresses.take(network_of(peer.ip())).ok_or_else(crowded)?;
        let mut first = [0];
        if stream.peek(&mut first).await.unwrap_or(0) == 0 {
            return Err(Stopped::HungUp);
        }
        if let Some((refusal, spoken)) = mismatch(kind, first[0]) {
            return Err(Stopped::Refused(refusal, spoken.to_owned()));
        }
        let stream: Box<dyn Stream> = match kind {
            ListenerKind::Tcp => Box::new(stream),
            ListenerKind::Tls => Box::new(self.secure(stream, |acceptors| &acceptors.mqtt).await?),
            ListenerKind::Ws => Box::new(self.upgrade(stream).await?),
            ListenerKind::Wss => Box::new(self.upgrade(self.secure(stream, |acceptors| &acceptors.web).await?).await?),
        };
        Ok(Guest { stream, peer, _permit: permit })
    }

    async fn secure(
        &self,
        stream: TcpStream,
        pick: fn(&Acceptors) -> &TlsAcceptor,
    ) -> Result<TlsStream<TcpStream>, Stopped> {
        let acceptor = self.acceptors.as_ref().map(|current| pick(&current.borrow()).clone());
        let failed = |error: io::Error| Stopped::Refused(Refusal::TlsHandshake, error.to_string());
        let acceptor = acceptor.ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))?;
        acceptor.accept(stream).await.map_err(failed)
    }

    async fn upgrade<S>(&self, stream: S) -> Result<ws::WebSocket<S>, Stopped>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(ws::upgrade(stream, &self.origins, self.hub.limits.packet_bytes).await?)
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

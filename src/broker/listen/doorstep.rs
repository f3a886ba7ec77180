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

/// A connection whose peer is known.
struct Guest {
    stream: TcpStream,
    peer: SocketAddr,
    deadline: Instant,
    _seat: Seat<IpAddr>,
}

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
        let arrived = async {
            let guest = self.identify(stream, peer, deadline).await?;
            self.let_in(way, guest, &stop).await
        };
        if let Err(refusal) = arrived.await {
            self.engine.metrics.count(match refusal {
                Refusal::Crowded => Metric::BrokerAddressRefused,
                Refusal::Late(_) => Metric::BrokerConnectTimeouts,
                _ => Metric::BrokerHandshakesFailed,
            });
            debug!(%peer, ?way, %refusal, "connection refused");
        }
    }

    async fn identify(&self, mut stream: TcpStream, peer: SocketAddr, deadline: Instant) -> Result<Guest, Refusal> {
        let peer = if self.proxy_protocol {
            timeout_at(deadline, proxy::read_header(&mut stream)).await??.unwrap_or(peer)
        } else {
            peer
        };
        let seat = self.addresses.take(origin(peer.ip())).ok_or(Refusal::Crowded)?;
        Ok(Guest { stream, peer, deadline, _seat: seat })
    }

    async fn let_in(&self, way: Way, guest: Guest, stop: &CancellationToken) -> Result<(), Refusal> {
        let Guest { stream, peer, deadline, _seat } = guest;
        let acceptor = |pick: fn(&Acceptors) -> &TlsAcceptor| Some(pick(&self.acceptors.as_ref()?.borrow()).clone());
        match way {
            Way::Tcp => self.engine.serve(stream, peer, deadline).await,
            Way::Tls => {
                let hands = timeout_at(deadline, secure(acceptor(|all| &all.mqtt), stream));
                if let Some(stream) = stop.run_until_cancelled(hands).await {
                    self.engine.serve(stream??, peer, deadline).await;
                }
            }
            Way::Ws => {
                let hands = timeout_at(deadline, self.upgrade(stream));
                if let Some(stream) = stop.run_until_cancelled(hands).await {
                    self.engine.serve(stream??, peer, deadline).await;
                }
            }
            Way::Wss => {
                let hands =
                    timeout_at(deadline, async { self.upgrade(secure(acceptor(|all| &all.web), stream).await?).await });
                if let Some(stream) = stop.run_until_cancelled(hands).await {
                    self.engine.serve(stream??, peer, deadline).await;
                }
            }
        }
        Ok(())
    }

    async fn upgrade<S>(&self, stream: S) -> Result<ws::WebSocket<S>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(ws::upgrade(stream, &self.origins, self.engine.limits.packet_bytes).await?)
    }
}

async fn secure(acceptor: Option<TlsAcceptor>, stream: TcpStream) -> Result<TlsStream<TcpStream>, Refusal> {
    let acceptor = acceptor.ok_or_else(|| Refusal::Tls(io::ErrorKind::Unsupported.into()))?;
    acceptor.accept(stream).await.map_err(Refusal::Tls)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

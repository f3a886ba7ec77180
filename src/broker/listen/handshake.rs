//! From an accepted connection to one that can be served.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::mismatch::mismatch;
use super::proxy;
use super::tls::Acceptors;
use super::ws::{self, Origins};
use crate::broker::Listen;
use crate::broker::connection::{self, Connection, HandshakeError, Stream};
use crate::broker::connection_limits::{ConnectionLimits, ConnectionPermit};
use crate::broker::hub::Hub;
use crate::broker::refusals::{Refusal, Who};
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

/// What all listeners share.
pub(super) struct Handshake {
    pub(super) hub: Arc<Hub>,
    acceptors: Option<watch::Receiver<Acceptors>>,
    listen: Listen,
    origins: Origins,
    addresses: Arc<ConnectionLimits>,
}

impl Handshake {
    pub(super) fn new(hub: Arc<Hub>, acceptors: Option<watch::Receiver<Acceptors>>, listen: Listen) -> Self {
        let addresses = ConnectionLimits::new(hub.limits.connections_per_address);
        let origins = Origins { listed: listen.origins.clone(), of_this_machine: hub.takes_anonymous() };
        Self { hub, acceptors, listen, origins, addresses }
    }

    /// Takes one connection through everything, until it ends.
    pub(super) fn receive(
        self: Arc<Self>,
        kind: ListenerKind,
        stream: TcpStream,
        peer: SocketAddr,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        // On the heap, because what comes before the CONNACK needs much memory for a short time.
        let opened = Box::pin(async move { stop.run_until_cancelled(self.open(kind, stream, peer)).await.flatten() });
        async move {
            if let Some((connection, _permit)) = opened.await {
                connection.run().await;
            }
        }
    }

    /// Takes a connection through its handshakes up to its CONNACK.
    async fn open(
        &self,
        kind: ListenerKind,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<(Box<Connection>, ConnectionPermit)> {
        if let Err(error) = prepare(&stream) {
            debug!(%peer, %error, "could not set the options of a connection");
        }
        let deadline = Instant::now() + self.hub.limits.connect_timeout;
        // A proxy may tell another one.
        let mut client = peer;
        match timeout_at(deadline, self.shake_hands(kind, stream, &mut client)).await {
            Ok(Ok((stream, permit))) => {
                return Some((connection::open(&self.hub, stream, client, deadline).await?, permit));
            }
            Ok(Err(HandshakeError::Refused(refused))) => {
                self.hub.refusals.report(refused.refusal, &Who::at(client), refused.detail);
            }
            Ok(Err(HandshakeError::HungUp(_))) => {
                self.hub.refusals.metrics().count(Metric::BrokerHandshakesFailed);
                debug!(peer = %client, listener = ?kind, "connection closed by its client before it said anything");
            }
            Err(_late) => self.hub.refusals.report(Refusal::ConnectTimeout, &Who::at(client), ""),
        }
        None
    }

    /// Everything that comes before MQTT.
    async fn shake_hands(
        &self,
        kind: ListenerKind,
        mut stream: TcpStream,
        client: &mut SocketAddr,
    ) -> Result<(Box<dyn Stream>, ConnectionPermit), HandshakeError> {
        if self.listen.proxy_protocol {
            let told = proxy::read_header(&mut stream).await.map_err(refused(Refusal::ProxyHeader))?;
            *client = told.unwrap_or(*client);
        }
        let permit = self.addresses.take(client.ip());
        let permit = permit.ok_or_else(|| refused(Refusal::AddressConnections)(""))?;
        let mut first = [0];
        if stream.peek(&mut first).await.unwrap_or(0) == 0 {
            return Err(HandshakeError::HungUp(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some((refusal, spoken)) = mismatch(kind, first[0]) {
            return Err(refused(refusal)(spoken));
        }
        let stream: Box<dyn Stream> = match kind {
            ListenerKind::Tcp => Box::new(stream),
            ListenerKind::Tls => Box::new(self.secure(stream, |acceptors| &acceptors.mqtt).await?),
            ListenerKind::Ws => Box::new(self.upgrade(stream).await?),
            ListenerKind::Wss => Box::new(self.upgrade(self.secure(stream, |acceptors| &acceptors.web).await?).await?),
        };
        Ok((stream, permit))
    }

    async fn secure(
        &self,
        stream: TcpStream,
        pick: fn(&Acceptors) -> &Arc<ServerConfig>,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let config = self.acceptors.as_ref().map(|current| Arc::clone(pick(&current.borrow())));
        let config = config.ok_or(io::ErrorKind::Unsupported).map_err(refused(Refusal::TlsHandshake))?;
        TlsAcceptor::from(config).accept(stream).await.map_err(refused(Refusal::TlsHandshake))
    }

    async fn upgrade<S>(&self, stream: S) -> Result<ws::WebSocket<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let upgraded = ws::upgrade(stream, &self.origins, self.hub.limits.packet_bytes).await;
        upgraded.map_err(|error| refused(Refusal::WebSocket)(ws::why(&error)))
    }
}

fn refused<E: Display>(refusal: Refusal) -> impl Fn(E) -> HandshakeError {
    move |why| HandshakeError::Refused(refusal.with(why.to_string()))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

//! The listeners: one loop that accepts connections, and a task for each of them that takes it through its handshakes.
//!
//! ```text
//!   tcp ───────────────────────────────────────┐
//!   tls ─── PROXY header? ─── TLS ─────────────┤
//!   ws  ─── PROXY header? ─────── WebSocket ───┼── CONNECT ──▶ connection
//!   wss ─── PROXY header? ─── TLS ─ WebSocket ─┘
//!           └────────── one deadline ─────────────────┘
//! ```
//!
//! Nothing is read in the loop, so nobody who is slow or silent stands in the way of others. It is one loop for all
//! listeners, because they share one number of places: while all are taken, none accepts.

mod handshake;
mod mismatch;
mod proxy;
mod tls;
mod ws;

pub use tls::TlsError;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::hub::Hub;
use super::refusals::{Refusal, Who};
use super::{Bound, BrokerError, Listen};
use crate::ops::metrics::Metric;
use handshake::{Handshake, ListenerKind};
use tls::ServerCertificate;

/// Pause after the system refused a connection, which it does when it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may take to end once they were told.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Connections that wait in the system's queue of one listener: everybody comes at once after a restart.
const BACKLOG: u32 = 4_096;

/// The open sockets, and what is needed to receive clients there.
#[derive(Debug)]
pub(super) struct Listeners {
    sockets: Sockets,
    /// Where they are.
    pub(super) bound: Bound,
    certificate: Option<ServerCertificate>,
    listen: Listen,
}

impl Listeners {
    /// Reads what the listeners need, and opens no sockets.
    pub(super) fn check(listen: &Listen) -> Result<(), BrokerError> {
        certificate(listen).map(drop)
    }

    pub(super) fn bind(listen: &Listen) -> Result<Self, BrokerError> {
        let certificate = certificate(listen)?;
        let mut sockets = Sockets { open: Vec::new(), next: 0 };
        let bound = Bound {
            tcp: sockets.open(ListenerKind::Tcp, listen.tcp)?,
            tls: sockets.open(ListenerKind::Tls, listen.tls)?,
            ws: sockets.open(ListenerKind::Ws, listen.ws)?,
            wss: sockets.open(ListenerKind::Wss, listen.wss)?,
        };
        if sockets.open.is_empty() {
            return Err(BrokerError::Nowhere);
        }
        Ok(Self { sockets, bound, certificate, listen: listen.clone() })
    }

    /// Accepts connections until `stop`, then ends them all.
    pub(super) async fn run(self, hub: Arc<Hub>, reload: watch::Receiver<u64>, stop: CancellationToken) {
        let Self { sockets, certificate, listen, .. } = self;
        let acceptors = certificate.as_ref().map(ServerCertificate::acceptors);
        let handshake = Handshake::new(hub, acceptors, listen);
        let keep = async {
            if let Some(certificate) = certificate {
                certificate.keep(reload, stop.clone()).await;
            }
        };
        tokio::join!(receive(sockets, Arc::new(handshake), &stop), keep);
    }
}

/// The certificate, where a listener needs one.
fn certificate(listen: &Listen) -> Result<Option<ServerCertificate>, BrokerError> {
    match listen.identity() {
        _ if !listen.needs_certificate() => Ok(None),
        Some(files) => Ok(Some(ServerCertificate::load(&files)?)),
        None => Err(BrokerError::NoCertificate),
    }
}

async fn receive(mut sockets: Sockets, handshake: Arc<Handshake>, stop: &CancellationToken) {
    let hub = Arc::clone(&handshake.hub);
    let (most, metrics) = (hub.limits.connections, hub.refusals.metrics());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            // The listeners' queues hold those for which there is no place.
            (kind, accepted) = sockets.accept(), if connections.len() < most => match accepted {
                Ok((stream, peer)) => {
                    metrics.count(Metric::BrokerAccepted);
                    connections.spawn(Arc::clone(&handshake).receive(kind, stream, peer, stop.clone()));
                    if connections.len() == most {
                        hub.refusals.report(Refusal::Connections, &Who::at(peer), "this is the last one that was let in");
                    }
                }
                Err(error) => {
                    warn!(%error, "could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
        metrics.set(Metric::BrokerConnections, connections.len() as u64);
    }
    drop(sockets);
    end(&hub, connections).await;
}

async fn end(hub: &Hub, mut connections: JoinSet<()>) {
    hub.end_connections();
    let drained = timeout(STOP_GRACE, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        warn!(connections = connections.len(), "connections did not end in time and were cut");
        connections.shutdown().await;
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "the broker panicked in one connection");
    }
}

#[derive(Debug)]
struct Sockets {
    open: Vec<(ListenerKind, TcpListener)>,
    /// The one that is asked first: each in turn, so that a crowd at one of them does not close the others.
    next: usize,
}

impl Sockets {
    fn open(&mut self, kind: ListenerKind, wanted: Option<SocketAddr>) -> Result<Option<SocketAddr>, BrokerError> {
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BrokerError::Taken(wanted),
            _ => BrokerError::Listen { address: wanted, source },
        };
        let listener = listen(wanted).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        self.open.push((kind, listener));
        Ok(Some(bound))
    }

    /// The next connection at any of them. Cancel safe: nothing is taken that is not returned.
    async fn accept(&mut self) -> (ListenerKind, io::Result<(TcpStream, SocketAddr)>) {
        poll_fn(|cx| {
            for step in 0..self.open.len() {
                let at = (self.next + step) % self.open.len();
                let (kind, listener) = &self.open[at];
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    self.next = at + 1;
                    return Poll::Ready((*kind, accepted));
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart need not wait for the connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

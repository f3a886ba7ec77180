//! The doors: a loop for each listener that accepts connections and takes them through their handshakes, each in its
//! own task and with one deadline, so that nobody who is slow or silent stands in the way of others.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::engine::Engine;
use super::{Bound, BrokerError, Listen};

/// Pause after the system refused a connection, which it does when it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may take to end once they were told.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The open sockets.
#[derive(Debug)]
pub(super) struct Listeners {
    tcp: TcpListener,
    bound: Bound,
}

impl Listeners {
    /// Opens all sockets.
    pub(super) async fn bind(listen: &Listen) -> Result<Self, BrokerError> {
        let wanted = listen.tcp.ok_or(BrokerError::Nowhere)?;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BrokerError::Taken(wanted),
            _ => BrokerError::Listen { address: wanted, source },
        };
        let tcp = TcpListener::bind(wanted).await.map_err(failed)?;
        let bound = Bound { tcp: Some(tcp.local_addr().map_err(failed)?), ..Bound::default() };
        Ok(Self { tcp, bound })
    }

    pub(super) fn addresses(&self) -> Bound {
        self.bound
    }

    /// Accepts connections until `stop`, then ends them all.
    pub(super) async fn run(self, engine: Arc<Engine>, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => report(ended),
                // The listener's queue holds those for which there is no room.
                accepted = self.tcp.accept(), if connections.len() < engine.limits.connections => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(serve(Arc::clone(&engine), stream, peer));
                    }
                    Err(error) => {
                        warn!(%error, "could not accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.tcp);
        end(&engine, connections).await;
    }
}

async fn serve(engine: Arc<Engine>, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "could not switch off Nagle's algorithm");
    }
    engine.serve(stream, peer).await;
}

async fn end(engine: &Engine, mut connections: JoinSet<()>) {
    engine.end();
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
        error!(%error, "the broker engine panicked in one connection");
    }
}

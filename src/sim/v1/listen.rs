//! The door of the HTTP/2 side: TLS with ALPN `h2`, or HTTP/2 in the clear.

use super::config::ConnectionLimits;
use super::handle::Lines;
use super::line::{self, Setting};
use super::socket::{self, Greeting};
use crate::sim::handle::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

/// The only protocol that is spoken here.
const ALPN: &[u8] = b"h2";

/// For the listener to recover, for example from having no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where clients come in.
pub(in crate::sim) struct Door {
    listener: TcpListener,
    tls: TlsAcceptor,
    limits: ConnectionLimits,
    max: usize,
}

impl Door {
    /// At most `max` connections.
    pub(super) fn new(listener: TcpListener, tls: &ServerConfig, limits: ConnectionLimits, max: usize) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Self { listener, tls: TlsAcceptor::from(Arc::new(tls)), limits, max }
    }
}

/// What is behind the door.
#[derive(Clone)]
pub(super) struct House {
    pub(super) lines: Arc<Lines>,
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
}

/// Serves clients until the stop, and until they are gone.
pub(super) async fn serve(door: Door, house: House) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = house.stop.cancelled() => break,
            Some(_) = tasks.join_next() => {}
            accepted = door.listener.accept() => match accepted {
                Ok((socket, _)) => {
                    tasks.spawn(client(socket, door.tls.clone(), (door.limits, door.max), house.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(door);
    while tasks.join_next().await.is_some() {}
}

async fn client(socket: TcpStream, tls: TlsAcceptor, (limits, max): (ConnectionLimits, usize), house: House) {
    let House { lines, shared, stop } = house;
    // Answers are small, and each waits for a client's next message.
    let _ = socket.set_nodelay(true);
    let socket = match socket::greet(socket, &tls).await {
        Ok(socket) if socket.alpn().is_none_or(|alpn| alpn == Some(ALPN)) => socket,
        Err(Greeting::Alpn) | Ok(_) => {
            shared.with(|service, _| service.v1.stats.violations.alpn += 1);
            return tracing::info!("the client does not offer h2 by ALPN");
        }
        Err(error) => return tracing::info!(%error, "client not understood"),
    };
    let Some((guest, orders)) = lines.enter(&shared, max) else {
        return tracing::info!(max, "connection refused: the limit is reached");
    };
    tracing::info!(connection = guest.number, "client connected");
    line::run(Setting { shared, limits, number: guest.number, orders, stop }, socket).await;
}

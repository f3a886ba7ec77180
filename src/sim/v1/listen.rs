//! The endpoint of the HTTP/2 side: TLS with ALPN `h2`, or HTTP/2 in the clear.

use super::config::ConnectionLimits;
use super::connection::{self, Setting};
use super::handle::OpenConnections;
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
pub(in crate::sim) struct Endpoint {
    listener: TcpListener,
    tls: TlsAcceptor,
    limits: ConnectionLimits,
    max: usize,
}

impl Endpoint {
    /// At most `max` connections.
    pub(super) fn new(listener: TcpListener, tls: &ServerConfig, limits: ConnectionLimits, max: usize) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Self { listener, tls: TlsAcceptor::from(Arc::new(tls)), limits, max }
    }
}

/// What every connection of it needs.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) connections: Arc<OpenConnections>,
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
}

/// Serves clients until the stop, and until they are gone.
pub(super) async fn serve(endpoint: Endpoint, context: Context) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = context.stop.cancelled() => break,
            Some(_) = tasks.join_next() => {}
            accepted = endpoint.listener.accept() => match accepted {
                Ok((socket, _)) => {
                    tasks.spawn(client(socket, endpoint.tls.clone(), (endpoint.limits, endpoint.max), context.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(endpoint);
    while tasks.join_next().await.is_some() {}
}

async fn client(socket: TcpStream, tls: TlsAcceptor, (limits, max): (ConnectionLimits, usize), context: Context) {
    let Context { connections, shared, stop } = context;
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
    let Some((guest, orders)) = connections.enter(&shared, max) else {
        return tracing::info!(max, "connection refused: the limit is reached");
    };
    tracing::info!(connection = guest.number, "client connected");
    connection::run(Setting { shared, limits, number: guest.number, orders, stop }, socket).await;
}

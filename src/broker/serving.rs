//! Which engine serves the connections that the listeners accept.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::hub::Hub;
use super::refusals::Refusals;
use super::{BrokerLimits, connection, engine};

/// The engine.
#[derive(Clone)]
pub(super) enum Engine {
    Former(Arc<engine::Engine>),
    Core(Arc<Hub>),
}

impl Engine {
    pub(super) fn limits(&self) -> &BrokerLimits {
        match self {
            Self::Former(engine) => &engine.limits,
            Self::Core(hub) => &hub.limits,
        }
    }

    pub(super) fn refusals(&self) -> &Arc<Refusals> {
        match self {
            Self::Former(engine) => &engine.refusals,
            Self::Core(hub) => &hub.refusals,
        }
    }

    /// Serves one client until its connection ends.
    pub(super) async fn serve<S>(&self, stream: S, peer: SocketAddr, deadline: Instant)
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        match self {
            Self::Former(engine) => engine.serve(stream, peer, deadline).await,
            Self::Core(hub) => connection::serve(Arc::clone(hub), Box::new(stream), peer, deadline).await,
        }
    }

    /// Tells all connections to end.
    pub(super) fn end(&self) {
        match self {
            Self::Former(engine) => engine.end(),
            Self::Core(hub) => hub.end_connections(),
        }
    }
}

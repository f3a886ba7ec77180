//! The v1 side of a running simulator, for the demo, the tests and the control port.

use super::config::Quotas;
use super::connection::Order;
use super::fault::{V1FaultError, V1Faults};
pub use super::state::AppAck;
use super::stats::V1Stats;
pub use super::tokens::{Grant, TokenView};
use crate::sim::handle::Shared;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Orders that wait for a connection at most.
const MAX_ORDERS: usize = 16;

/// The v1 side of a running simulator. Cheap to clone.
#[derive(Clone)]
pub struct V1Handle {
    pub(in crate::sim) shared: Arc<Shared>,
    pub(in crate::sim) ports: Arc<Ports>,
}

/// What does not change while the simulator runs.
pub(in crate::sim) struct Ports {
    pub(super) base_url: String,
    pub(super) address: SocketAddr,
    pub(super) token_url: String,
    pub(super) project: String,
    pub(super) credentials: String,
    pub(super) credentials_file: Option<PathBuf>,
    pub(super) connections: Arc<OpenConnections>,
}

impl std::fmt::Debug for V1Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the credentials.
        f.debug_struct("V1Handle").field("base_url", &self.ports.base_url).finish_non_exhaustive()
    }
}

impl V1Handle {
    /// Where messages go: `https://HOST:PORT`.
    pub fn base_url(&self) -> &str {
        &self.ports.base_url
    }

    /// The same port as an address. It also speaks HTTP/2 in the clear.
    pub fn address(&self) -> SocketAddr {
        self.ports.address
    }

    /// Where access tokens are to be had, as in the service account: `http://HOST:PORT/token` on a loopback address,
    /// otherwise `https`. The port speaks both.
    pub fn token_url(&self) -> &str {
        &self.ports.token_url
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.ports.project
    }

    /// The JSON of the service account, with its private key.
    pub fn credentials(&self) -> &str {
        &self.ports.credentials
    }

    /// The file with the same, if the simulator has a folder.
    pub fn credentials_file(&self) -> Option<&Path> {
        self.ports.credentials_file.as_deref()
    }

    /// The counters.
    pub fn stats(&self) -> V1Stats {
        self.shared.with(|service, _| {
            let (delivered, duplicates) = (service.stats.delivered, service.stats.duplicates);
            V1Stats { delivered, duplicates, ..service.v1.stats.clone() }
        })
    }

    /// The plan of faults as it stands; rules that count shrink as they are used.
    pub fn faults(&self) -> V1Faults {
        self.shared.with(|service, _| service.v1.faults.clone())
    }

    /// Replaces the plan of faults.
    ///
    /// # Errors
    /// When it cannot be carried out.
    pub fn set_faults(&self, faults: V1Faults) -> Result<(), V1FaultError> {
        faults.check()?;
        self.shared.with(|service, _| service.v1.faults = faults);
        Ok(())
    }

    /// How many messages are taken.
    pub fn quotas(&self) -> Quotas {
        self.shared.with(|service, _| service.v1.quota.quotas)
    }

    /// Changes how many messages are taken. What was used stays used.
    pub fn set_quotas(&self, quotas: Quotas) {
        self.shared.with(|service, _| service.v1.quota.quotas = quotas);
    }

    /// Up to `limit` confirmations of apps behind number `after` (0 for all).
    pub fn app_acks(&self, after: u64, limit: usize) -> Vec<AppAck> {
        self.shared.with(|service, now| service.v1.confirmations(after, limit, now))
    }

    /// The access tokens that were sold, without the tokens.
    pub fn tokens(&self) -> Vec<TokenView> {
        self.shared.with(|service, _| service.v1.tokens.list())
    }

    /// Takes all access tokens back: the next request is refused with 401. Gives how many were good.
    pub fn revoke_tokens(&self) -> usize {
        self.shared.with(|service, now| service.v1.tokens.revoke(now))
    }

    /// Tells a connection to go, or all. Gives back how many were told.
    pub fn goaway(&self, connection: Option<u64>) -> usize {
        self.ports.connections.order(connection, Order::Goaway)
    }

    /// Resets a connection, or all. Gives back how many were told.
    pub fn reset(&self, connection: Option<u64>) -> usize {
        self.ports.connections.order(connection, Order::Reset)
    }
}

/// The connections, by number.
#[derive(Default)]
pub(in crate::sim) struct OpenConnections {
    /// A mutex and not a task: it is held for a look-up only.
    open: Mutex<BTreeMap<u64, mpsc::Sender<Order>>>,
}

impl OpenConnections {
    /// A new connection, if there are fewer than `max`.
    pub(super) fn enter(self: &Arc<Self>, shared: &Arc<Shared>, max: usize) -> Option<(Guest, mpsc::Receiver<Order>)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= max {
            return None;
        }
        let number = shared.with(|service, _| {
            service.v1.stats.connections += 1;
            service.v1.stats.open_connections += 1;
            service.v1.stats.connections
        });
        let (sender, orders) = mpsc::channel(MAX_ORDERS);
        open.insert(number, sender);
        Some((Guest { connections: self.clone(), shared: shared.clone(), number }, orders))
    }

    fn order(&self, connection: Option<u64>, order: Order) -> usize {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = open.iter().filter(|(number, _)| connection.is_none_or(|wanted| wanted == **number));
        wanted.filter(|(_, sender)| sender.try_send(order).is_ok()).count()
    }
}

/// A place among the connections, given back whatever becomes of the task.
pub(super) struct Guest {
    connections: Arc<OpenConnections>,
    shared: Arc<Shared>,
    pub(super) number: u64,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        self.shared.with(|service, _| service.v1.stats.open_connections -= 1);
    }
}

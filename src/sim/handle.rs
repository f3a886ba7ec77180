//! A running simulator, for the demo, the tests and the control port.

use super::config::SimConfig;
use super::device::DevicePatch;
use super::event::{ConnectionId, SimEvent};
use super::fault::{DrainPlan, FaultError, Faults};
use super::server::{Connection, Profile};
pub use super::service::Speech;
use super::service::{Order, Service};
use super::stats::Stats;
use super::v1::{Ports, V1Handle};
use super::virtual_devices::{DeviceError, DeviceSummary, DeviceView, RecordView};
use crate::ops::clock;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

/// Messages that devices are made to send by one request at most.
pub const MAX_SPEECHES: usize = 500_000;

/// Messages that are made while the lock is held; then connections have their turn.
const SPEECHES_PER_TURN: usize = 1_000;

/// A running simulator. Cheap to clone; the simulator itself ends with the token given to [`super::run`].
#[derive(Clone)]
pub struct SimHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) address: SocketAddr,
    pub(super) control: Option<SocketAddr>,
    pub(super) ca_pem: Arc<str>,
    pub(super) v1: Option<Arc<Ports>>,
}

impl std::fmt::Debug for SimHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not all devices: it is long, and full of tokens.
        f.debug_struct("SimHandle").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SimHandle {
    /// Where the TLS port is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the control port is, if there is one.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control
    }

    /// The certificate of the authority that clients have to trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The side of FCM HTTP v1, if there is one.
    pub fn v1(&self) -> Option<V1Handle> {
        self.v1.as_ref().map(|ports| V1Handle { shared: self.shared.clone(), ports: ports.clone() })
    }

    /// Changes a device, or makes it.
    ///
    /// # Errors
    /// When a token or topic is not one, or a limit is reached.
    pub fn put_device(&self, token: &str, patch: DevicePatch) -> Result<(), DeviceError> {
        self.shared.with(|service, now| service.put(token, patch, now))
    }

    /// A device, and up to `limit` of its deliveries behind number `after` (0 for all).
    pub fn device(&self, token: &str, after: u64, limit: usize) -> Option<DeviceView> {
        self.shared.with(|service, _| service.devices.device(token, after, limit))
    }

    /// What a device got, in order, as far as it is remembered.
    pub fn received(&self, token: &str) -> Vec<RecordView> {
        self.device(token, 0, usize::MAX).map_or_else(Vec::new, |device| device.messages)
    }

    /// Up to `limit` devices, without the first `skip`.
    pub fn devices(&self, skip: usize, limit: usize) -> Vec<DeviceSummary> {
        self.shared.with(|service, _| service.devices.list(skip, limit).collect())
    }

    /// Lets a device send messages.
    ///
    /// # Errors
    /// When there is no such device, or it is away.
    pub fn upstream(&self, token: &str, speech: &Speech) -> Result<(), DeviceError> {
        let mut left = speech.count.min(MAX_SPEECHES);
        while left > 0 {
            let turn = Speech { count: left.min(SPEECHES_PER_TURN), ..speech.clone() };
            self.shared.with(|service, _| service.speak(token, &turn))?;
            left -= turn.count;
        }
        Ok(())
    }

    /// The plan of faults as it stands; counted faults shrink as they are used.
    pub fn faults(&self) -> Faults {
        self.shared.with(|service, _| service.faults.clone())
    }

    /// Replaces the plan of faults.
    ///
    /// # Errors
    /// When it cannot be carried out.
    pub fn set_faults(&self, faults: Faults) -> Result<(), FaultError> {
        faults.check()?;
        self.shared.with(|service, _| service.set_faults(faults));
        Ok(())
    }

    /// Begins to drain a connection, or all. Gives back how many were told.
    pub fn drain(&self, connection: Option<ConnectionId>, plan: DrainPlan) -> usize {
        self.shared.with(|service, _| service.order(connection, Order::Drain(plan)))
    }

    /// Closes the stream of a connection, or of all. Gives back how many were told.
    pub fn close(&self, connection: Option<ConnectionId>) -> usize {
        self.shared.with(|service, _| service.order(connection, Order::Close))
    }

    /// Resets a connection, or all. Gives back how many were told.
    pub fn reset(&self, connection: Option<ConnectionId>) -> usize {
        self.shared.with(|service, _| service.order(connection, Order::Reset))
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        self.shared.with(|service, _| service.stats())
    }

    /// What happens from now on. A subscriber that is too slow loses the oldest events and is told so.
    pub fn events(&self) -> broadcast::Receiver<SimEvent> {
        self.shared.events.subscribe()
    }
}

/// What all connections share, with its lock and its clock.
pub(super) struct Shared {
    /// A mutex and not a task with a channel: a connection does a whole batch of messages per visit, needs the answers
    /// at once, and never waits for anything while it is inside.
    hub: Mutex<Hub>,
    pub(super) profile: Profile,
    events: broadcast::Sender<SimEvent>,
    /// Told when the devices' next deadline has changed.
    pub(super) deadline_changed: Notify,
    base: Instant,
    base_ms: u64,
}

struct Hub {
    service: Service,
    wakers: HashMap<ConnectionId, Arc<Notify>>,
    deadline: Option<u64>,
}

impl Shared {
    pub(super) fn new(config: &SimConfig) -> Self {
        Self {
            hub: Mutex::new(Hub { service: Service::new(config), wakers: HashMap::new(), deadline: None }),
            profile: Profile { wire: config.wire.clone(), credentials: config.credentials.clone() },
            events: broadcast::channel(config.limits.event_queue.max(1)).0,
            deadline_changed: Notify::new(),
            base: Instant::now(),
            base_ms: clock::now_ms(),
        }
    }

    /// Uses the service, then tells everybody who has something to do because of it.
    pub(super) fn with<R>(&self, visit: impl FnOnce(&mut Service, u64) -> R) -> R {
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        let Hub { service, wakers, deadline } = &mut *hub;
        service.collect_events(self.events.receiver_count() > 0);
        let result = visit(service, self.now());
        for connection in service.take_wakes() {
            if let Some(waker) = wakers.get(&connection) {
                waker.notify_one();
            }
        }
        for event in service.take_events() {
            // Fails only if the last subscriber has just gone.
            let _ = self.events.send(event);
        }
        let due = service.next_due();
        if due != *deadline {
            *deadline = due;
            self.deadline_changed.notify_one();
        }
        result
    }

    /// A client connected. The number of connections must be within the limit.
    pub(super) fn connect(&self, max: usize) -> Option<(ConnectionId, Arc<Notify>, Connection)> {
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        if hub.wakers.len() >= max {
            return None;
        }
        let (id, dice) = hub.service.connect();
        let waker = Arc::new(Notify::new());
        hub.wakers.insert(id, waker.clone());
        Some((id, waker, Connection::new(id, dice, &self.profile, self.now())))
    }

    /// A connection ended.
    pub(super) fn leave(&self, id: ConnectionId) {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner).wakers.remove(&id);
        self.with(|service, _| service.leave(id));
    }

    /// Unix milliseconds that run with tokio's clock, so that a paused clock stands still here too.
    pub(super) fn now(&self) -> u64 {
        self.base_ms + u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When tokio's clock shows this time.
    pub(super) fn instant(&self, ms: u64) -> Instant {
        /// Further off than any simulator runs; beyond a few centuries a clock would overflow.
        const NEVER_MS: u64 = 1_000 * 60 * 60 * 24 * 365;
        self.base + Duration::from_millis(ms.saturating_sub(self.base_ms).min(NEVER_MS))
    }
}

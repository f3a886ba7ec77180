//! What all connections share: sessions and their queues, subscriptions, retained messages, wills, and the bridge.
//!
//! ```text
//!   connection ── publish ──▶ routes ──┬──▶ queues in memory ───────────────┐
//!                               │      └──▶ store: rows, in one transaction │
//!                               ▼                       │ what it brought   ▼
//!                             bridge ──▶ outbox ────────┴────────────▶ queue ── pull ──▶ connection
//! ```
//!
//! A queue belongs to a session or to a group. Whoever publishes puts messages into queues; the connections of the session
//! or the group send them. What outlives a connection is on disk: the acknowledgement of a message leaves when the store
//! has committed the rows of all lasting queues that get it, its place among the retained ones, and what the bridge makes
//! of it. The order in which the store commits is the order in which lasting queues get messages.

mod admit;
mod autosubscribe;
mod denied;
mod documents;
mod evict;
mod group;
mod group_topics;
mod import;
mod kept_sessions;
mod leave;
mod on_disk;
mod port;
mod publish;
mod queue;
mod registry;
mod restore;
mod retained;
mod routes;
mod session;
mod subscribe;
mod sweep;
mod unread;
mod visible;
mod wills;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::BrokerLimits;
use super::connection::{ConnectionHandle, UserRates};
use super::identity::Authenticator;
use super::refusals::{Refusal, Refusals, Who};
use super::routing::retained::RetainedTopics;
use super::session::{MemoryLimits, Queue};
use crate::chat::group::GroupDelivery;
use crate::chat::principal::Role;
use crate::mqtt::{Confirmation, Eviction, InboundSender, Notice, Outbound, Proven, RoleSource, Sighting, Visibility};
use crate::ops::metrics::{Metric, Metrics};
use crate::store::{Recorded, Store};
pub(crate) use admit::Admitted;
use admit::DISK;
pub(crate) use denied::DeniedPublish;
pub(crate) use documents::Settling;
pub(crate) use leave::Leaving;
pub(crate) use publish::{NewPublish, NotStored, Promise, Publisher, Publishing};
pub(crate) use queue::SharedQueue;
use registry::Registry;
use routes::{MatchedQueue, Routes};
pub(crate) use session::{PacketIds, SendQueue, Session};
pub(crate) use subscribe::{AfterSubscribe, RequestedSubscription};
use visible::Visibilities;
use wills::DelayedWills;

/// The address of a session that has no connection.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
/// Tasks that go on with what is not waited for any more; beyond them it is waited for.
const GOING_ON: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) limits: BrokerLimits,
    /// Whether devices of chat users are subscribed without asking.
    autosubscribe: bool,
    /// Where members read what is written in a group.
    group_delivery: GroupDelivery,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) store: Store,
    metrics: Arc<Metrics>,
    told: fn(&Metrics, &Recorded),
    authenticator: Arc<Authenticator>,
    /// How fast each chat user publishes.
    pub(crate) user_rates: UserRates,
    registry: Arc<Registry>,
    routes: Routes,
    visibilities: Visibilities,
    /// A lock because publishers and subscribers meet here; held for an operation on the index.
    retained: Mutex<RetainedTopics>,
    delayed_wills: DelayedWills,
    inbound: InboundSender,
    sightings: mpsc::Sender<Sighting>,
    confirmations: mpsc::Sender<Confirmation>,
    notices: mpsc::Sender<Notice>,
    pub(crate) stop: CancellationToken,
    /// Held while a group gets or loses a member: its queue on disk comes and goes with them. The store is asked under it, in
    /// that order, but its answers are not waited for.
    groups: tokio::sync::Mutex<()>,
    /// The number of the last row of which a queue was notified.
    last_notified: AtomicU64,
    /// How many commits were told to the queues, as [`Store::commits_told`] counts them.
    distributed: watch::Sender<u64>,
    /// The number of the last queue.
    last: AtomicU64,
    /// The tasks of [`Self::go_on`].
    going_on: TaskTracker,
}

/// Whom the hub knows, as long as it is there: the bridge may ask when the broker has ended, and keeps nothing of it open.
pub(super) struct KnownUsers(pub(super) Weak<Hub>);

impl RoleSource for KnownUsers {
    fn role_of(&self, name: &str) -> Option<Role> {
        self.0.upgrade()?.role_of(name)
    }

    fn writes_as(&self, name: &str, then: Role, by_token: Option<bool>) -> Option<Role> {
        // The bridge stops.
        let Some(hub) = self.0.upgrade() else { return Some(then) };
        // Whoever had a password and has come with a token since is not gone.
        hub.authenticator.writes_as(name, then, by_token).or_else(|| hub.role_by_token(name))
    }

    fn prove(&self, name: &str, secret: &str) -> BoxFuture<'static, Proven> {
        let (hub, name, secret) = (self.0.upgrade(), name.to_owned(), secret.to_owned());
        async move {
            match hub {
                Some(hub) => hub.authenticator.prove(&name, &secret).await,
                None => Proven::Unknown,
            }
        }
        .boxed()
    }
}

pub(super) struct HubDependencies {
    pub(super) limits: BrokerLimits,
    pub(super) autosubscribe: bool,
    pub(super) group_delivery: GroupDelivery,
    pub(super) refusals: Arc<Refusals>,
    pub(super) store: Store,
    pub(super) told: fn(&Metrics, &Recorded),
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) inbound: InboundSender,
    pub(super) sightings: mpsc::Sender<Sighting>,
    pub(super) confirmations: mpsc::Sender<Confirmation>,
    pub(super) notices: mpsc::Sender<Notice>,
    pub(super) stop: CancellationToken,
}

impl Hub {
    pub(super) fn new(dependencies: HubDependencies) -> Arc<Self> {
        let HubDependencies { limits, autosubscribe, group_delivery, refusals, store, told, .. } = dependencies;
        let HubDependencies { authenticator, inbound, sightings, confirmations, notices, stop, .. } = dependencies;
        Arc::new(Self {
            limits,
            autosubscribe,
            group_delivery,
            metrics: Arc::clone(refusals.metrics()),
            refusals,
            store,
            told,
            authenticator,
            user_rates: UserRates::default(),
            registry: Arc::default(),
            routes: Routes::default(),
            visibilities: Visibilities::default(),
            retained: Mutex::default(),
            delayed_wills: DelayedWills::default(),
            inbound,
            sightings,
            confirmations,
            notices,
            stop,
            groups: tokio::sync::Mutex::default(),
            last_notified: AtomicU64::new(documents::UNKNOWN),
            distributed: watch::Sender::new(0),
            last: AtomicU64::new(0),
            going_on: TaskTracker::new(),
        })
    }

    /// Does what no connection does, until all connections have ended.
    pub(super) async fn work(
        self: &Arc<Self>,
        (publish, visibility): (mpsc::Receiver<Outbound>, mpsc::Receiver<Visibility>),
        evictions: mpsc::Receiver<Eviction>,
        clients: watch::Sender<Option<usize>>,
        closed: &CancellationToken,
    ) {
        let endless = async {
            tokio::join!(
                self.distribute_events(),
                self.publish_delayed_wills(),
                self.watch_connections(clients),
                self.sweep(),
                self.put_out(evictions),
            )
        };
        tokio::join!(self.publish_for_bridge(publish, visibility), closed.run_until_cancelled(endless));
        // Nobody is connected any more whose queue had to be told.
        self.distributed.send_replace(u64::MAX);
        self.going_on.close();
        let _ = timeout(DISK, self.going_on.wait()).await;
    }

    /// Asks the store or the bridge for something that must come to them, and waits a while until it has. It goes on if that
    /// takes longer, or if this is cut.
    async fn go_on(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(task) = self.start(work).await {
            let _ = timeout(DISK, task).await;
        }
    }

    /// Begins with it, and yields the task that goes on with it, if there is more to do.
    async fn start(&self, work: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
        let mut work = Box::pin(work);
        // So it has its place among others who wait for room.
        if (&mut work).now_or_never().is_some() {
            return None;
        }
        if self.going_on.len() < GOING_ON {
            return Some(self.going_on.spawn(work));
        }
        work.await;
        None
    }

    /// Whether clients may come that do not say who they are.
    pub(in crate::broker) fn takes_anonymous(&self) -> bool {
        self.authenticator.takes_anonymous()
    }

    /// Tells all connections to end.
    pub(in crate::broker) fn end_connections(&self) {
        self.connected().for_each(|handle| handle.stop());
    }

    /// The connections of clients that were let in.
    pub(crate) fn connected(&self) -> impl Iterator<Item = Arc<ConnectionHandle>> {
        let mut page = Vec::new().into_iter();
        let mut last = 0;
        std::iter::from_fn(move || {
            if page.len() == 0 {
                page = self.registry.handles(last).into_iter();
            }
            page.next().inspect(|handle: &Arc<ConnectionHandle>| last = handle.number())
        })
    }

    /// What somebody is who is known: by the files or the configuration, or because of a session.
    fn role_of(&self, name: &str) -> Option<Role> {
        self.authenticator.role_of(name).or_else(|| {
            let (_, of_user) = self.registry.count(Some(name));
            if of_user == 0 {
                return None;
            }
            self.role_by_token(name).or_else(|| self.authenticator.rights_of(Some(name), None).role())
        })
    }

    /// What the token said with which somebody came last who has a session, as long as there are keys.
    fn role_by_token(&self, name: &str) -> Option<Role> {
        self.registry.sessions_of(name).iter().find_map(|session| {
            let caller = session.lock().caller.clone();
            let caller = caller.filter(|caller| caller.by_token().is_some())?;
            self.authenticator.rights_of(Some(name), Some(&caller)).role()
        })
    }

    /// Where a message goes; counts where it might have gone.
    fn routes_of(&self, topic: &str, publisher: Option<u64>) -> Vec<MatchedQueue> {
        let (routes, denied) = self.routes.find(topic, publisher);
        self.metrics.add(Metric::DeliveriesFiltered, denied);
        routes
    }

    /// A lasting session has so much to read that a message is not kept for it.
    fn report_queue_full(&self, queue: &SharedQueue) {
        self.refusals.report(Refusal::QueueFull, &Who::named(NOWHERE, None, queue.name()), "");
        if let Some(refused) = queue.refused() {
            self.notify(Notice::QueueFull { session: Arc::clone(queue.name()), refused });
        }
    }

    /// Tells the bridge. If it is behind with notices, the log and the counter have to do.
    fn notify(&self, notice: Notice) {
        let _ = self.notices.try_send(notice);
    }

    /// Tells that something was refused to a session.
    fn report_of(&self, session: &Session, refusal: Refusal, detail: &str) {
        let nowhere = || Who::named(NOWHERE, session.user.as_deref(), &session.client);
        let who = session.handle().map_or_else(nowhere, |handle| handle.who());
        self.refusals.report(refusal, &who, detail);
    }

    fn new_queue(&self, name: &Arc<str>) -> Arc<SharedQueue> {
        SharedQueue::new(self.next_number(), name, Queue::new(self.memory_limits()), self.registry.on_disk())
    }

    fn next_number(&self) -> u64 {
        self.last.fetch_add(1, Relaxed) + 1
    }

    fn memory_limits(&self) -> MemoryLimits {
        MemoryLimits { messages: self.limits.queued_messages, bytes: self.limits.queued_bytes }
    }

    fn lock_retained(&self) -> MutexGuard<'_, RetainedTopics> {
        self.retained.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

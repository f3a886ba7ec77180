//! The composition root: builds the parts, wires the bounded channels, owns the order of start and stop. The only file
//! that knows everything.
//!
//! Start: the configuration is checked whole, then the store is opened, then the ports, then the transport connects.
//! Stop: the intake first, then the transport (it drains), then the publications, then the store. A second signal ends
//! the process at once. Nothing is lost either way: what was acknowledged is on disk.

mod error;
mod folder;
mod plan;
mod transports;
mod warnings;

use crate::bridge::{self, Parts, Stops};
use crate::chat::group::GroupDelivery;
#[cfg(any(feature = "broker", feature = "rumqttd"))]
use crate::config::Engine;
use crate::config::{Loaded, Settings};
use crate::mqtt::{self, ClientConfig};
use crate::ops::clock::now_ms;
use crate::ops::control::{ControlCall, ControlServer, socket_of};
use crate::ops::health::{OpsServer, Readiness};
use crate::ops::metrics::Metrics;
use crate::secret::Secret;
use crate::store::{Recovery, Store, StoreError, sqlite};
pub use error::AppError;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use transports::TransportPlan;
pub use warnings::warnings;

#[cfg(feature = "broker")]
use crate::broker::{Bound, Broker, BrokerDependencies};
#[cfg(feature = "rumqttd")]
use crate::rumqttd;

/// Messages on their way from the broker to the intake. Small: the disk is the queue.
const INBOUND: usize = 256;
/// Commands of operators that wait to be taken.
const COMMANDS: usize = 16;
/// Documents on their way to the broker.
const PUBLISH: usize = 256;

/// Where a running bridge can be reached; ports that were 0 in the configuration are the real ones here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The embedded broker's MQTT over TCP, if there is one.
    pub broker: Option<SocketAddr>,
    /// The embedded broker's MQTT over WebSocket, if there is one.
    pub websocket: Option<SocketAddr>,
    /// `/healthz`, `/readyz`, `/metrics`.
    pub ops: SocketAddr,
}

/// Checks what [`Settings::load`] cannot: that the parts agree with their share of the configuration, and can use the
/// files that it names, the store among them. They are read as [`run`] reads them, which checks the same first. Nothing
/// is made, and nothing is listened on; whether the ports are free is seen by [`run`] alone.
///
/// # Errors
/// The first thing found wrong.
pub fn check(loaded: &Loaded) -> Result<(), AppError> {
    let settings = &loaded.settings;
    settings.check_files()?;
    plan::bridge(settings, 0)?;
    for broker_link in plan::transport_tasks(settings, loaded.api_key.clone()) {
        broker_link.check()?;
    }
    let path = &settings.store.path;
    folder::check(path)?;
    sqlite::check(path).map_err(|fault| AppError::Open { path: path.clone(), fault })?;
    match settings.engine() {
        #[cfg(feature = "broker")]
        Some(Engine::Embedded) => {
            Broker::check(&plan::broker(settings)).map_err(|fault| AppError::broker(settings, fault))?
        }
        Some(_) => {}
        None => plan::client(settings, loaded.mqtt_password.clone(), 0).check()?,
    }
    Ok(())
}

/// What the operator asks of a running bridge.
#[derive(Debug, Clone)]
pub struct Signals {
    /// To end.
    pub stop: CancellationToken,
    /// To read users, keys, service accounts and certificates again; each change of the number is one request.
    pub reload: watch::Receiver<u64>,
}

impl Signals {
    /// Only `stop` will ever be asked.
    pub fn stop_only(stop: CancellationToken) -> Self {
        Self { stop, reload: watch::channel(0).1 }
    }
}

/// Runs a bridge until [`Signals::stop`] is cancelled and everything is drained. `ready` is told the addresses as soon as clients
/// can connect.
///
/// # Errors
/// When something needed could not be opened, or a part failed.
pub async fn run(loaded: Loaded, signals: Signals, ready: Option<oneshot::Sender<Addresses>>) -> Result<(), AppError> {
    check(&loaded)?;
    let Loaded { settings, api_key, mqtt_password } = loaded;
    let started_ms = now_ms();
    let plans = plan::transport_tasks(&settings, api_key);
    let bridge_settings = plan::bridge(&settings, started_ms)?;

    let (store, writer, recovery) = open_store(&settings, &plans).await?;
    let figures = store.figures();
    tracing::info!(
        path = %settings.store.path.display(), recovery.crashed, recovery.rerouted, recovery.redelivered,
        recovery.last_sid = recovery.last_sid.map(display), figures.queue_rows, figures.spool_rows, "store open"
    );
    if recovery.rerouted > 0 {
        tracing::warn!(recovery.rerouted, "messages whose way is no longer configured go by another");
    }
    if settings.groups.delivery == GroupDelivery::Inbox {
        store.group_documents_into_inboxes().await?;
    }
    let ops = OpsServer::bind(settings.ops.listen).await?;
    let (mqtt_side, addresses) = MqttSide::open(&settings, mqtt_password, started_ms, ops.local_addr()?).await?;

    let metrics = Arc::new(mqtt_side.metrics());
    let (readiness_tx, readiness) = watch::channel(Readiness::starting());
    let (mut mqtt_port, mqtt_outlet) = mqtt::port(INBOUND, PUBLISH);
    mqtt_port.capabilities = mqtt_side.capabilities();
    let ends = Ends::default();
    let (transports, transport_tasks) =
        transports::start(plans, bridge_settings.claims, &mqtt_port.broker_link, &signals.reload, &ends.transport);
    let broker_store = store.clone();
    let (calls, control) = mpsc::channel(COMMANDS);
    let parts = Parts {
        store,
        recovery,
        mqtt: mqtt_port,
        transports,
        control,
        metrics: Arc::clone(&metrics),
        readiness: readiness_tx,
    };
    let mut tasks = Tasks {
        control: spawn(serve_control(settings.store.path.clone(), calls, ends.ops.clone())),
        ops: spawn(ops.run(Arc::clone(&metrics), readiness, ends.ops.clone())),
        bridge: spawn(bridge::run(bridge_settings, parts, ends.bridge.clone())),
        broker: spawn(mqtt_side.run(mqtt_outlet, metrics, broker_store, signals.reload, ends.broker.clone())),
        transport_tasks,
    };
    tracing::info!(broker = addresses.broker.map(display), ops = %addresses.ops, "bridge started");
    if let Some(ready) = ready {
        let _ = ready.send(addresses);
    }

    let early = tasks.until(&signals.stop).await;
    let grace = settings.limits.stop;
    if tokio::time::timeout(grace, tasks.wind_up(&ends)).await.is_err() {
        tracing::warn!(seconds = grace.as_secs(), "the stop took too long; what is left is done after the next start");
        tasks.abort();
    }
    let closed = writer.close().await;
    early?;
    closed?;
    tracing::info!("bridge stopped");
    Ok(())
}

/// The stops of all parts, in the order in which they are given.
#[derive(Default)]
struct Ends {
    bridge: Stops,
    transport: CancellationToken,
    broker: CancellationToken,
    ops: CancellationToken,
}

struct Tasks {
    control: JoinHandle<()>,
    ops: JoinHandle<std::io::Result<()>>,
    bridge: JoinHandle<Result<(), StoreError>>,
    broker: JoinHandle<Result<(), AppError>>,
    transport_tasks: transports::Tasks,
}

impl Tasks {
    /// Waits for the stop; a part that ends before it is an error of that part.
    async fn until(&mut self, stop: &CancellationToken) -> Result<(), AppError> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = &mut self.bridge => { ended??; Err(AppError::Ended("bridge")) }
            ended = &mut self.broker => { ended??; Err(AppError::Ended("MQTT side")) }
            ended = transports::first(&mut self.transport_tasks) => { ended?; Err(AppError::Ended("transport")) }
            ended = &mut self.ops => { ended??; Err(AppError::Ended("health port")) }
        }
    }

    async fn wind_up(&mut self, ends: &Ends) {
        ends.bridge.intake.cancel();
        ends.transport.cancel();
        while let Some(ended) = self.transport_tasks.join_next().await {
            tell_failure("transport", ended);
        }
        ends.bridge.publish.cancel();
        tokio::select! {
            () = ends.bridge.quiet.cancelled() => {}
            () = finish("bridge", &mut self.bridge) => {}
        }
        ends.broker.cancel();
        // The end of the broker answers what the bridge still asks of it.
        finish("MQTT side", &mut self.broker).await;
        finish("bridge", &mut self.bridge).await;
        ends.ops.cancel();
        finish("health port", &mut self.ops).await;
        if let Err(error) = (&mut self.control).await {
            tracing::error!(%error, "the control socket failed");
        }
    }

    fn abort(&mut self) {
        self.bridge.abort();
        self.broker.abort();
        self.transport_tasks.abort_all();
        self.ops.abort();
        self.control.abort();
    }
}

/// Waits for the end of a part during the stop. One that has ended already is not asked again: its end began the stop.
async fn finish<E: std::error::Error + Send + Sync + 'static>(part: &str, task: &mut JoinHandle<Result<(), E>>) {
    if !task.is_finished() {
        tell_failure(part, task.await);
    }
}

/// Nobody else hears how a part ends once the stop has begun.
fn tell_failure<E: std::error::Error + Send + Sync + 'static>(part: &str, ended: Result<Result<(), E>, JoinError>) {
    if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|ended| ended.map_err(anyhow::Error::from)) {
        tracing::error!(part, error = format!("{error:#}"), "a part failed during the stop");
    }
}

/// Serves the control socket beside the store. Without it the bridge works, and takes commands over MQTT alone.
async fn serve_control(store: PathBuf, calls: mpsc::Sender<ControlCall>, stop: CancellationToken) {
    let path = socket_of(&store);
    match ControlServer::bind(path.clone()) {
        Ok(server) => server.run(calls, stop).await,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "there is no control socket: commands of this machine do not reach the bridge");
            stop.cancelled().await;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the handles are owned and joined by `Tasks`")]
fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}

/// Whichever broker is used.
enum MqttSide {
    #[cfg(feature = "broker")]
    Embedded(Box<Broker>),
    #[cfg(feature = "rumqttd")]
    Rumqttd(Box<rumqttd::Engine>, Box<ClientConfig>),
    External(Box<ClientConfig>),
}

impl MqttSide {
    async fn open(
        settings: &Settings,
        password: Option<Secret>,
        started_ms: u64,
        ops: SocketAddr,
    ) -> Result<(Self, Addresses), AppError> {
        match settings.engine() {
            #[cfg(feature = "broker")]
            Some(Engine::Embedded) => {
                let bound = Broker::bind(plan::broker(settings)).await;
                let broker = bound.map_err(|fault| AppError::broker(settings, fault))?;
                let Bound { tcp, ws, .. } = broker.addresses();
                let addresses = Addresses { broker: tcp, websocket: ws, ops };
                Ok((Self::Embedded(Box::new(broker)), addresses))
            }
            #[cfg(feature = "rumqttd")]
            Some(Engine::Rumqttd) => {
                let listen = settings.broker.listen.tcp.expect("the check of the configuration refuses \"off\"");
                let engine = rumqttd::Engine::start(listen, &settings.limits.broker).await?;
                let config = plan::rumqttd_client(settings, engine.address(), started_ms);
                let addresses = Addresses { broker: Some(engine.address()), websocket: None, ops };
                Ok((Self::Rumqttd(Box::new(engine), Box::new(config)), addresses))
            }
            #[cfg(not(all(feature = "broker", feature = "rumqttd")))]
            Some(_) => unreachable!("refused by the check of the configuration"),
            None => {
                let config = plan::client(settings, password, started_ms);
                config.check()?;
                Ok((Self::External(Box::new(config)), Addresses { broker: None, websocket: None, ops }))
            }
        }
    }

    /// What the bridge can count on. rumqttd is in this process, but what its clients are promised is what an external broker
    /// promises.
    fn capabilities(&self) -> mqtt::Capabilities {
        match self {
            #[cfg(feature = "broker")]
            Self::Embedded(_) => mqtt::Capabilities::EMBEDDED,
            #[cfg(feature = "rumqttd")]
            Self::Rumqttd(_, config) => mqtt::Capabilities::external(config.version),
            Self::External(config) => mqtt::Capabilities::external(config.version),
        }
    }

    /// What can be counted with it.
    fn metrics(&self) -> Metrics {
        match self {
            #[cfg(feature = "broker")]
            Self::Embedded(_) => Metrics::new(),
            #[cfg(feature = "rumqttd")]
            Self::Rumqttd(..) => Metrics::without_broker(),
            Self::External(_) => Metrics::without_broker(),
        }
    }

    async fn run(
        self,
        outlet: mqtt::Outlet,
        metrics: Arc<Metrics>,
        store: Store,
        reload: watch::Receiver<u64>,
        stop: CancellationToken,
    ) -> Result<(), AppError> {
        match self {
            #[cfg(feature = "broker")]
            Self::Embedded(broker) => {
                let dependencies = BrokerDependencies { metrics, reload, store, told: bridge::count_told };
                Ok(broker.run(outlet, dependencies, stop).await?)
            }
            #[cfg(feature = "rumqttd")]
            Self::Rumqttd(engine, config) => {
                drop((metrics, store, reload));
                Ok(engine.run(*config, outlet, stop).await?)
            }
            Self::External(config) => {
                drop((metrics, store, reload));
                Ok(mqtt::run(*config, outlet, stop).await?)
            }
        }
    }
}

async fn open_store(
    settings: &Settings,
    plans: &[TransportPlan],
) -> Result<(Store, sqlite::WriterThread, Recovery), AppError> {
    let path = settings.store.path.clone();
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|source| AppError::Folder { path: folder.to_owned(), source })?;
    }
    let wanted = plan::store(settings, plans.iter().map(TransportPlan::transport).collect());
    // It reads the memory of settled messages, which may take a second or two, and may have a file to change before.
    let opened = tokio::task::spawn_blocking(move || sqlite::open(&wanted, now_ms())).await?;
    opened.map_err(|fault| AppError::Open { path, fault })
}

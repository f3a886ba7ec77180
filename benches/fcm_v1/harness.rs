//! A bridge with the embedded broker and one transport, put together as `app` does it, but with a transport of
//! the benchmark's own settings: the whole of a short run would fall into the minute in which the project's share grows.

use crate::support::BAL;
use fcm_mqtt_bridge::bridge::{self, Parts, Stops};
use fcm_mqtt_bridge::broker::{Broker, BrokerConfig, BrokerDependencies, Listen};
use fcm_mqtt_bridge::chat::id::Owner;
use fcm_mqtt_bridge::chat::message::BrokerKind;
use fcm_mqtt_bridge::chat::recipient_queue::Pipelining;
use fcm_mqtt_bridge::chat::route::Routes;
use fcm_mqtt_bridge::chat::transport::{Transport, Transports};
use fcm_mqtt_bridge::mqtt;
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::ops::health::Readiness;
use fcm_mqtt_bridge::ops::metrics::Metrics;
use fcm_mqtt_bridge::store;
use fcm_mqtt_bridge::store::sqlite::{self, WriterThread};
use fcm_mqtt_bridge::transport::fcm_v1::{self, FcmConfig};
use fcm_mqtt_bridge::transport::{self, Capabilities, Link, Port};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

// As `app` has them.
const CLAIMS: usize = 4_096;
const REPORTS: usize = 1_024;
const PUBLICATIONS: usize = 256;

/// A running bridge.
pub(crate) struct Harness {
    /// Where its broker is.
    pub(crate) broker: SocketAddr,
    parts: JoinSet<()>,
    writer: WriterThread,
}

impl Harness {
    /// Opens one with an empty store, and waits until messages go.
    pub(crate) async fn open(folder: &Path, transport: FcmConfig) -> Self {
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let _ = std::fs::remove_file(folder.join(format!("bridge.db{suffix}")));
        }
        let name = Transport::FcmV1(None);
        let delivery = transport.app_receipts;
        let wanted =
            sqlite::Settings { transports: vec![name.clone()], ..sqlite::Settings::new(folder.join("bridge.db")) };
        let (store, writer, recovery) = sqlite::open(&wanted, now_ms()).expect("the store opens");
        let listen = Listen::tcp(([127, 0, 0, 1], 0).into());
        let config =
            BrokerConfig { listen, anonymous: true, data: Some(folder.join("broker")), ..BrokerConfig::default() };
        let broker = Broker::bind(config).await.expect("the broker can listen");
        let address = broker.addresses().tcp.expect("it listens on TCP");

        let metrics = Arc::new(Metrics::new());
        let (mqtt_port, mqtt_outlet) = mqtt::port(PUBLICATIONS, PUBLICATIONS);
        let (port, outlet) = transport::port(CLAIMS, REPORTS, REPORTS);
        let port = Port { capabilities: Capabilities { pipelining: Pipelining::OneAtATime, delivery }, ..port };
        let (readiness, _) = watch::channel(Readiness::starting());
        let mut link = port.link.clone();
        let dependencies = BrokerDependencies {
            metrics: Arc::clone(&metrics),
            reload: watch::channel(0).1,
            store: store.clone(),
            told: bridge::count_told,
        };
        let settings = settings(name.clone());
        let transports = vec![(name, port)];
        let control = mpsc::channel(1).1;
        let bridge = Parts { store, recovery, mqtt: mqtt_port, transports, control, metrics, readiness };
        let mut parts = JoinSet::new();
        parts.spawn(async { bridge::run(settings, bridge, Stops::default()).await.expect("the bridge runs") });
        parts.spawn(async {
            broker.run(mqtt_outlet, dependencies, CancellationToken::new()).await.expect("the broker runs");
        });
        parts.spawn(async {
            fcm_v1::run(transport, outlet, CancellationToken::new()).await.expect("the transport runs")
        });
        link.wait_for(|link| *link == Link::Up).await.expect("the transport runs");
        Self { broker: address, parts, writer }
    }

    /// Ends it at once; the store is closed in order.
    pub(crate) async fn close(mut self) {
        self.parts.shutdown().await;
        self.writer.close().await.expect("the store closes");
    }
}

fn settings(name: Transport) -> bridge::Settings {
    let routes = Routes::new(HashMap::new(), Owner::new(BAL).ok());
    bridge::Settings {
        transports: Transports::new(name, HashMap::new(), &routes),
        routes,
        explicit: HashSet::new(),
        listeners: Vec::new(),
        broker: BrokerKind::Embedded,
        chat: bridge::settings::ChatSettings::default(),
        groups: bridge::settings::GroupsSection::default(),
        limits: bridge::settings::Limits::default(),
        room: store::Limits::default(),
        claims: CLAIMS,
        presence_grace: Duration::from_secs(2),
        births: Duration::ZERO,
        started_ms: now_ms(),
    }
}

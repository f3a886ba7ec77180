//! The whole program in this process, as its configuration makes it.

use crate::support::BAL;
use fcm_mqtt_bridge::app::{self, Signals};
use fcm_mqtt_bridge::config::{BrokerConfig, CcsConfig, Listen, Loaded, Ops, Routes, Settings};
use fcm_mqtt_bridge::secret::Secret;
use fcm_mqtt_bridge::sim::handle::SimHandle;
use fcm_mqtt_bridge::store;
use std::net::SocketAddr;
use std::path::Path;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The sender id of the CCS session.
pub(crate) const SENDER: &str = "1234567890";

/// Settings that send over CCS, to the simulator with its certificates in `folder`.
pub(crate) fn over_ccs(sim: &SimHandle, folder: &Path) -> Settings {
    let ccs = CcsConfig {
        host: sim.address().ip().to_string(),
        port: sim.address().port(),
        sender_id: SENDER.to_owned(),
        ca_file: Some(folder.join("tls/ca.pem")),
        ..CcsConfig::default()
    };
    Settings { ccs, ..Settings::default() }
}

/// Runs the bridge with the embedded broker, an empty store in `folder` and these settings while `work` works, which gets
/// the address of the broker.
pub(crate) async fn run<T>(settings: Settings, folder: &Path, work: impl AsyncFnOnce(SocketAddr) -> T) -> T {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let _ = std::fs::remove_file(folder.join(format!("bridge.db{suffix}")));
    }
    let _ = std::fs::remove_dir_all(folder.join("broker"));
    let any = ([127, 0, 0, 1], 0).into();
    let settings = Settings {
        broker: BrokerConfig { listen: Listen::tcp(any), anonymous: true, ..BrokerConfig::default() },
        store: store::Settings::new(folder.join("bridge.db")),
        routes: Routes { default_bal: Some(BAL.to_owned()), ..Routes::default() },
        ops: Ops { listen: any },
        ..settings
    };
    let api_key = (!settings.ccs.sender_id.is_empty()).then(|| Secret::new("key"));
    let loaded = Loaded { settings, api_key, mqtt_password: None };
    let stop = CancellationToken::new();
    let (ready, addresses) = oneshot::channel();
    let running = app::run(loaded, Signals::stop_only(stop.clone()), Some(ready));
    let work = async {
        // If it does not start, its own error says why.
        let addresses = addresses.await.ok()?;
        let worked = work(addresses.broker.expect("the broker is embedded")).await;
        stop.cancel();
        Some(worked)
    };
    let (ended, worked) = tokio::join!(running, work);
    ended.expect("the bridge ends well");
    worked.expect("the bridge starts")
}

//! The transport and the simulator, with the test where the bridge would be.

use crate::clock::Clock;
use fcm_mqtt_bridge::chat::id::{Recipient, Sid, SidSource, Token};
use fcm_mqtt_bridge::chat::push::{Priority, Push, Target};
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::sim::config::CertificateConfig;
use fcm_mqtt_bridge::sim::v1::config::{ConnectionLimits, Quotas as Sold, V1Config};
use fcm_mqtt_bridge::sim::v1::{V1Faults, V1Handle};
use fcm_mqtt_bridge::sim::{self, SimConfig, SimHandle};
use fcm_mqtt_bridge::transport::fcm_v1::{self, FcmConfig, OnAmbiguous, Quotas};
use fcm_mqtt_bridge::transport::{Link, Port, Report, Send, port};
use serde_json::Map;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Far more than any of these takes, on the clock of the test; a test that hangs is a failure.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
const HOUR_MS: u64 = 3_600_000;
/// The project of the simulator.
const PROJECT: &str = "demo-project";

/// How both are set up.
pub(crate) struct Plan {
    /// How fast the clock runs.
    pub(crate) speed: u32,
    pub(crate) faults: V1Faults,
    pub(crate) limits: ConnectionLimits,
    pub(crate) token_life_s: u64,
    pub(crate) tokens_from: TokensFrom,
    pub(crate) on_ambiguous: OnAmbiguous,
    pub(crate) connections: usize,
    pub(crate) timing: fcm_v1::Timing,
    pub(crate) route: Route,
}

/// How the transport gets to the simulator.
pub(crate) enum Route {
    /// As to FCM.
    Tls,
    /// HTTP/2 in the clear.
    Clear,
    /// To another port of this machine, with TLS.
    Astray(u16),
    /// To the port for access tokens, which speaks HTTP/1.1.
    Authority,
    /// As to FCM, but trusting another authority.
    Mistrusted,
}

/// Where the access tokens come from.
pub(crate) enum TokensFrom {
    ServiceAccount,
    Metadata,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            speed: 20,
            faults: V1Faults::default(),
            limits: ConnectionLimits::default(),
            token_life_s: 3_599,
            tokens_from: TokensFrom::Metadata,
            on_ambiguous: OnAmbiguous::Retry,
            connections: 4,
            timing: fcm_v1::Timing::default(),
            route: Route::Tls,
        }
    }
}

pub(crate) struct Harness {
    pub(crate) sim: SimHandle,
    pub(crate) v1: V1Handle,
    pub(crate) port: Port,
    pub(crate) stop_transport: CancellationToken,
    stop_sim: CancellationToken,
    transport: JoinSet<()>,
    simulator: JoinSet<()>,
    _clock: Clock,
    _folder: TempDir,
}

impl Harness {
    pub(crate) async fn open(plan: Plan) -> Self {
        let clock = Clock::start(plan.speed);
        let folder = tempfile::tempdir().unwrap();
        let (sim, stop_sim, simulator) = simulate(&plan, folder.path()).await;
        let v1 = sim.v1().unwrap();
        let credentials_file = match plan.tokens_from {
            TokensFrom::ServiceAccount => v1.credentials_file().map(Path::to_owned),
            TokensFrom::Metadata => None,
        };
        let mut ca_file = folder.path().join("ca.pem");
        let base_url = match plan.route {
            Route::Tls => v1.base_url().to_owned(),
            Route::Clear => format!("http://{}", v1.address()),
            Route::Astray(port) => format!("https://127.0.0.1:{port}"),
            Route::Authority => v1.token_url().replace("http://", "https://").replace("/token", ""),
            Route::Mistrusted => {
                let other = folder.path().join("other");
                std::fs::create_dir(&other).unwrap();
                let (_, stop, mut tasks) = simulate(&plan, &other).await;
                stop.cancel();
                tasks.join_next().await.unwrap().unwrap();
                ca_file = other.join("ca.pem");
                v1.base_url().to_owned()
            }
        };
        let config = FcmConfig {
            project_id: Some(PROJECT.to_owned()),
            base_url,
            ca_file: Some(ca_file),
            connections: plan.connections,
            on_ambiguous: plan.on_ambiguous,
            // What FCM takes is tried elsewhere; here it is to be kept busy.
            quotas: Quotas { project_per_minute: 60_000_000, device_per_minute: 1_000_000, device_per_hour: 1_000_000 },
            timing: plan.timing,
            credentials_file,
            metadata_host: v1.token_url()["http://".len()..].replace("/token", ""),
            app_receipts: false,
            ..FcmConfig::default()
        };
        let (port, outlet) = port(256, 1, 256);
        let stop_transport = CancellationToken::new();
        let (mut transport, stopped) = (JoinSet::new(), stop_transport.clone());
        transport.spawn(async move { fcm_v1::run(config, outlet, stopped).await.unwrap() });
        Self { sim, v1, port, stop_transport, stop_sim, transport, simulator, _clock: clock, _folder: folder }
    }

    pub(crate) async fn send(&self, message: Send) {
        soon(self.port.sends.send(message)).await.unwrap();
    }

    /// The next report that is about a message.
    pub(crate) async fn report(&mut self) -> Report {
        loop {
            let report = soon(self.port.reports.recv()).await.expect("the transport runs");
            if !matches!(report, Report::Connection { .. }) {
                return report;
            }
        }
    }

    pub(crate) async fn link(&mut self, wanted: Link) {
        soon(self.port.link.wait_for(|link| *link == wanted)).await.unwrap();
    }

    /// Ends both; what the transport says at the end.
    pub(crate) async fn close(mut self) -> Vec<Report> {
        self.stop_transport.cancel();
        let mut last = Vec::new();
        while let Some(report) = soon(self.port.reports.recv()).await {
            if !matches!(report, Report::Connection { .. }) {
                last.push(report);
            }
        }
        soon(self.transport.join_next()).await.unwrap().unwrap();
        self.stop_sim.cancel();
        soon(self.simulator.join_next()).await.unwrap().unwrap();
        last
    }
}

async fn simulate(plan: &Plan, folder: &Path) -> (SimHandle, CancellationToken, JoinSet<()>) {
    // One service account for all tests: to make a key takes a moment.
    static ACCOUNT: OnceLock<String> = OnceLock::new();
    let account = folder.join("service-account.json");
    if let Some(text) = ACCOUNT.get() {
        std::fs::write(&account, text).unwrap();
    }
    let v1 = V1Config {
        project: PROJECT.to_owned(),
        token_life_s: plan.token_life_s,
        connection: plan.limits,
        quotas: Sold { device_per_minute: 1_000_000, device_per_hour: 1_000_000, ..Sold::default() },
        faults: plan.faults.clone(),
        ..V1Config::default()
    };
    let config = SimConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        control: None,
        certificate: CertificateConfig { directory: Some(folder.to_owned()), ..CertificateConfig::default() },
        v1: Some(v1),
        ..SimConfig::default()
    };
    let (ready, handle) = oneshot::channel();
    let stop = CancellationToken::new();
    let (mut tasks, stopped) = (JoinSet::new(), stop.clone());
    tasks.spawn(async move { sim::run(config, ready, stopped).await.unwrap() });
    let sim = handle.await.unwrap();
    let text = sim.v1().unwrap().credentials().to_owned();
    let _ = ACCOUNT.set(text);
    (sim, stop, tasks)
}

pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it must happen in time")
}

pub(crate) async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// The token of an ordinary device.
pub(crate) fn device(recipient: i64) -> String {
    format!("device-{recipient}:x")
}

/// A message to a token.
pub(crate) fn message(sid: Sid, token: &str, recipient: i64) -> Send {
    let accepted_ms = now_ms();
    Send {
        sid,
        push: Push {
            target: Target::Token(Token::new(token).unwrap()),
            data: Map::new(),
            notification: None,
            priority: Priority::High,
            collapse: None,
            receipt: false,
            fcm: Map::new(),
        },
        recipient: Recipient(recipient),
        accepted_ms,
        deadline_ms: accepted_ms + HOUR_MS,
    }
}

/// Ids, oldest first.
pub(crate) fn sids(count: usize) -> Vec<Sid> {
    let mut source = SidSource::default();
    (0..count).map(|_| source.next(now_ms(), 0)).collect()
}

//! The bridge as a process of its own.

use crate::process;
use crate::push_service::PushService;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(120);
/// How often a bridge that starts is asked whether it does.
const LOOK: Duration = Duration::from_millis(20);
/// What a process has as long as it was told nothing else: what it takes from the system while it starts counts as used.
const SETTLED: Duration = Duration::from_secs(3);

/// What users may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    /// As much as they can, for the time in which they become contacts of each other.
    Raised,
    /// What the configuration allows by default.
    Default,
    /// The same, and of what users write so many bytes are kept.
    Keep(u64),
}

/// Where everything of it lies.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) executable: &'a Path,
    pub(crate) folder: &'a Path,
    pub(crate) push_service: &'a PushService,
}

pub(crate) struct Bridge {
    child: Child,
    pub(crate) address: SocketAddr,
    ops: SocketAddr,
    log: PathBuf,
}

impl Bridge {
    /// Starts it with the store in the folder, and returns when it takes clients and has come to rest.
    pub(crate) async fn start(place: &Place<'_>, limits: Limits) -> Result<Self> {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
        let (address, ops) = (free()?, free()?);
        let (config, log) = (place.folder.join("config"), place.folder.join("log"));
        fs::write(&config, configuration(place, [address, ops], limits)?)?;
        let mut command = Command::new(place.executable);
        command.args(["run", "--config"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::options().create(true).append(true).open(&log)?);
        let child = command.spawn().with_context(|| format!("{} cannot be run", place.executable.display()))?;
        let mut bridge = Self { child, address, ops, log };
        let start = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if bridge.child.try_wait()?.is_some() {
                bail!("it does not start: {}", bridge.log()?);
            }
            ensure!(start.elapsed() < PATIENCE, "it takes no clients");
            sleep(LOOK).await;
        }
        sleep(SETTLED).await;
        Ok(bridge)
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        process::cpu(&self.process())
    }

    pub(crate) fn process(&self) -> String {
        self.child.id().to_string()
    }

    /// What it tells of itself, in the form of Prometheus.
    pub(crate) fn metrics(&self) -> Result<String> {
        let mut stream = std::net::TcpStream::connect(self.ops)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Resident memory, in kB.
    pub(crate) fn memory(&self) -> Result<f64> {
        process::memory(&self.process(), "VmRSS")
    }

    /// The most that it ever was, in kB.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        process::memory(&self.process(), "VmHWM")
    }

    /// What it warned of, of all runs.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

/// SIGKILL: what was acknowledged is on disk.
impl Drop for Bridge {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn configuration(place: &Place<'_>, [address, ops]: [SocketAddr; 2], limits: Limits) -> Result<String> {
    let (folder, ccs) = (place.folder, place.push_service.ccs);
    let secret = folder.join("jwt.secret");
    crate::login::write_secret(&secret)?;
    Ok(format!(
        r#"
[ccs]
host = "{}"
port = {}
sender_id = "1234567890"
api_key = "key"
ca_file = {:?}
[broker]
listen = "{address}"
jwt_secret_file = {secret:?}
[store]
path = {:?}
[ops]
listen = "{ops}"
[log]
level = "warn"
[limits]
broker_connections_per_address = 20000
{}
"#,
        ccs.ip(),
        ccs.port(),
        place.push_service.ca,
        folder.join("bridge.db"),
        match limits {
            Limits::Raised => RAISED.to_owned(),
            Limits::Default => String::new(),
            Limits::Keep(bytes) => format!("[chat]\nkeep_bytes = {bytes}"),
        }
    ))
}

const RAISED: &str = "
user_messages_per_second = 1000000
user_messages_burst = 1000000
user_publishes_per_second = 1000000
user_strangers_per_hour = 1000
user_group_pushes_per_second = 1000000
broker_publish_rate = 1000000
broker_packet_rate = 1000000
";

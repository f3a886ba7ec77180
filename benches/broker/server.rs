//! The brokers, each a process of its own.

use crate::client::Client;
use crate::login;
use crate::process;
use crate::push_service::PushService;
use crate::wire::{Session, Version};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How many messages a broker may have unacknowledged, in either direction.
pub(crate) const WINDOW: usize = 1_000;
/// Others may take a free port before the broker does.
const ATTEMPTS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a broker that starts is asked whether it does.
const LOOK: Duration = Duration::from_millis(20);

/// Which broker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side<'a> {
    Mosquitto,
    /// The executable of the bridge.
    Bridge(&'a Path),
}

/// What a row needs of the bridge beside a broker.
pub(crate) enum Needs<'a> {
    Nothing,
    Devices(&'a PushService),
    ChatUsers,
}

impl Display for Side<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Side::Mosquitto { "mosquitto" } else { "bridge" })
    }
}

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts it with what it has in `folder`, and returns when it takes clients.
    pub(crate) async fn start(side: Side<'_>, needs: &Needs<'_>, folder: &Path) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            let mut server = Self { child: spawn(side, needs, folder, address)?, address };
            if server.takes_clients().await? {
                return Ok(server);
            }
        }
        bail!("it does not start: {}", fs::read_to_string(folder.join("log"))?)
    }

    /// Whether it does, or ends.
    async fn takes_clients(&mut self) -> Result<bool> {
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if let Ok(client) = Client::connect(self.address, Version::V3, Session::Clean, "start").await {
                client.disconnect().await?;
                return Ok(true);
            }
            ensure!(start.elapsed() < PATIENCE, "it takes no clients");
            sleep(LOOK).await;
        }
        Ok(false)
    }

    /// The processor time that it has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        process::cpu(&self.process())
    }

    /// Resident memory, in kB.
    pub(crate) fn memory(&self) -> Result<f64> {
        process::memory(&self.process(), "VmRSS")
    }

    /// The most that it ever was, in kB.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        process::memory(&self.process(), "VmHWM")
    }

    fn process(&self) -> String {
        self.child.id().to_string()
    }
}

/// SIGKILL.
impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn spawn(side: Side<'_>, needs: &Needs<'_>, folder: &Path, address: SocketAddr) -> Result<Child> {
    let config = folder.join("config");
    let mut command = match side {
        Side::Mosquitto => {
            fs::write(&config, mosquitto(folder, address))?;
            let mut command = Command::new("mosquitto");
            command.arg("-c");
            command
        }
        Side::Bridge(executable) => {
            fs::write(&config, bridge(needs, folder, address)?)?;
            let mut command = Command::new(executable);
            command.args(["run", "--config"]);
            command
        }
    };
    let log = File::create(folder.join("log"))?;
    command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("{} cannot be run", PathBuf::from(command.get_program()).display()))
}

/// Its persistence as it is by default: written every half hour.
fn mosquitto(folder: &Path, address: SocketAddr) -> String {
    format!(
        "listener {} {}\nallow_anonymous true\n\
         # Root would become another user, who may not write here.\nuser root\n\
         log_dest stderr\nlog_type error\nlog_type warning\n\
         max_inflight_messages {WINDOW}\nmax_queued_messages 0\n\
         persistence true\npersistence_location {}/\n",
        address.port(),
        address.ip(),
        folder.display()
    )
}

/// Nobody listens on the discard port: where no row needs devices the push service is away, and what the bridge takes for
/// them waits in its store.
fn bridge(needs: &Needs<'_>, folder: &Path, address: SocketAddr) -> Result<String> {
    let (ccs, ca) = match needs {
        Needs::Devices(push_service) => (push_service.ccs, format!("ca_file = {:?}", push_service.ca)),
        Needs::Nothing | Needs::ChatUsers => ((Ipv4Addr::LOCALHOST, 9).into(), String::new()),
    };
    let (tokens, limits) = match needs {
        Needs::ChatUsers => {
            let secret = folder.join("jwt.secret");
            login::write_secret(&secret)?;
            (format!("jwt_secret_file = {secret:?}"), UNLIMITED_USERS)
        }
        Needs::Nothing | Needs::Devices(_) => (String::new(), ""),
    };
    Ok(format!(
        r#"
[ccs]
host = "{}"
port = {}
sender_id = "1234567890"
api_key = "key"
{ca}
[broker]
listen = "{address}"
anonymous = true
{tokens}
[store]
path = {:?}
[ops]
listen = "127.0.0.1:0"
[log]
level = "error"
[limits]
broker_inflight = {WINDOW}
broker_connections_per_address = 20000
{limits}
"#,
        ccs.ip(),
        ccs.port(),
        folder.join("bridge.db")
    ))
}

/// What holds a chat user back, and neither a BAL nor a client of mosquitto.
const UNLIMITED_USERS: &str = "
user_messages_per_second = 1000000
user_messages_burst = 1000000
user_publishes_per_second = 1000000
user_stored_bytes_per_hour = 1000000000000
broker_publish_rate = 1000000
broker_packet_rate = 1000000
broker_byte_rate = 4000000000
";

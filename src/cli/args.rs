//! The command line: what can be asked of the program. `--help` is written to be learned from.

mod control;
#[cfg(feature = "broker")]
mod init;
#[cfg(feature = "broker")]
mod user;

use crate::ops::setting::address;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

pub use control::{DeviceAction, SendingArgs};
#[cfg(all(feature = "broker", feature = "sim"))]
pub use init::SimPorts;
#[cfg(feature = "broker")]
pub use init::{InitArgs, InitCommon};
#[cfg(feature = "broker")]
pub use user::{FirstUser, RoleArg, UserAction, UsersArgs};

/// Keeps the push-service session (CCS) and lets everybody else be a plain MQTT client.
///
/// A backend application ("BAL") publishes pushes on `{bal}/self/messages`, reads what became of them on
/// `{bal}/others/receipts`, and reads what devices send on `{bal}/others/messages`. What was acknowledged is on disk
/// and is never lost.
#[derive(Debug, Parser)]
#[command(name = "fcm-mqtt-bridge", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Try it (no account needed):
  fcm-mqtt-bridge demo

Run it (the first writes bridge.toml; see also `init fcm-v1` and `init ccs`):
  fcm-mqtt-bridge init sim
  fcm-mqtt-bridge check-config --config bridge.toml
  fcm-mqtt-bridge run --config bridge.toml

Exit codes: 0 stopped in order (everything drained), 1 failed, 64 wrong usage or configuration.
The topics and payloads are in topics.md, every setting is in config/bridge.toml.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the main job on embedded parts: broker, simulator with virtual devices, bridge.
    ///
    /// `--transport fcm-v1` shows it over FCM HTTP v1 instead of CCS.
    ///
    /// Prints mosquitto_sub and mosquitto_pub lines to copy, with users and passwords made for this run, then one line
    /// for each step of each message. Everything lives in a temporary folder and is gone afterwards. Stop with Ctrl-C.
    #[cfg(all(feature = "broker", feature = "sim"))]
    Demo(DemoArgs),
    /// Writes a configuration that works, with a first backend application and its password, and says what to type next.
    #[cfg(feature = "broker")]
    Init {
        /// How messages are to go to the devices.
        #[command(subcommand)]
        what: InitArgs,
    },
    /// Runs the bridge until SIGTERM or Ctrl-C; a second signal ends it at once.
    Run {
        /// The configuration file; `config/bridge.toml` explains every key. Environment variables such as
        /// BRIDGE__CCS__HOST override it.
        #[arg(long, value_name = "FILE", env = "BRIDGE_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Runs the simulator alone: CCS, and FCM HTTP v1 on request, with virtual devices and faults, for tests and for
    /// trying things.
    #[cfg(feature = "sim")]
    Sim(Box<SimArgs>),
    /// Reads the configuration and all that it names (keys, certificates, users, the store), as `run` would, and says
    /// what is wrong or how it applies, secrets hidden. Makes nothing, and listens nowhere.
    CheckConfig {
        /// The configuration file.
        #[arg(long, value_name = "FILE", env = "BRIDGE_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Tells the whole life of a message from the store, in words. Works while the bridge runs, and where the configuration
    /// is known asks it why a message waits.
    Trace {
        /// The sender's id of the message, or the bridge's own 16-character id.
        id: String,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Counts the deliveries to devices in the store by state, and what else it holds. Works while the bridge runs.
    Outbox {
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
        /// Also lists messages, the newest first.
        #[arg(long)]
        list: bool,
        /// At most this many lines with --list.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the sessions of MQTT clients that the embedded broker keeps without a connection, those for which most waits
    /// first. Works while the bridge runs.
    ///
    /// `waiting` counts messages of clients, with their bytes; `documents` those of the bridge that another session has had.
    Sessions {
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
        /// Only those of this user.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Which part of the list.
        #[command(flatten)]
        page: PageArgs,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the retained messages of the embedded broker by topic, without their payloads. Works while the bridge runs.
    Retained {
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
        /// Only topics that match this filter.
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// Which part of the list.
        #[command(flatten)]
        page: PageArgs,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows what FCM HTTP v1 makes of a message: the request on standard output, what it loses on standard error.
    ///
    /// The message is one of CCS (`{"to": .., "message_id": .., "data": ..}`) or one of a BAL as in topics.md. Nothing is
    /// sent. `explain push USER SID` tells why the devices of a chat user were pushed for a message, or were not. (A file of
    /// that name is `./push`.)
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Explain {
        /// What else can be explained.
        #[command(subcommand)]
        what: Option<ExplainWhat>,
        /// The JSON document; `-` is standard input.
        #[arg(value_name = "FILE", required = true)]
        file: Option<PathBuf>,
        /// Where the app confirms messages that ask for a receipt.
        #[arg(long, value_name = "ADDRESS")]
        ack: Option<String>,
    },
    /// Adds, changes and removes users of the embedded broker. A running bridge takes it up within seconds, and ends the
    /// connections of those who are gone, or have another role or password.
    #[cfg(feature = "broker")]
    User {
        /// What to do.
        #[command(subcommand)]
        action: UserAction,
    },
    /// Shows the devices of a chat user, or takes the registration of one back. For a running bridge.
    Device {
        /// What to do.
        #[command(subcommand)]
        action: DeviceAction,
    },
    /// Sends a message to a chat user through a running bridge, and says what becomes of it until a device has confirmed it,
    /// for at most 30 seconds.
    ///
    /// It is a message as a backend application writes it: stored, in the user's inbox, and pushed as
    /// the rules of topics.md say.
    Send {
        /// The chat user.
        #[arg(long, value_name = "USER")]
        to: String,
        /// The backend application in whose name it goes. Without it `routes.default_bal`.
        #[arg(long, value_name = "BAL")]
        from: Option<String>,
        /// What it says; several words are joined by spaces.
        #[arg(required = true, value_name = "TEXT")]
        text: Vec<String>,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Lets a running bridge send nothing more to the push services, until `resume` or its next start. Messages are taken
    /// and wait on disk; what is on its way goes on.
    Pause(SendingArgs),
    /// The same as `pause`, and waits until nothing is on its way any more: up to half a minute.
    Drain(SendingArgs),
    /// Ends `pause` and `drain`.
    Resume(SendingArgs),
    /// Lets what a push service refused, and what waits for a time to be tried again, be tried now.
    Flush(SendingArgs),
    /// Prints who may write and read which topic, as a file of rules for another broker.
    ///
    /// Such a broker knows no roles, so everybody who logs in gets what backend applications and chat users need; what that
    /// cannot express stands in topics.md. The rules for VerneMQ and EMQX are written after their documentation.
    Acl {
        /// Which broker's language to speak.
        #[arg(long = "for", value_enum, value_name = "BROKER")]
        broker: AclBroker,
        /// The user as which the bridge logs in (`mqtt.username`).
        #[arg(long, default_value = "bridge", value_name = "NAME")]
        bridge: String,
        /// A user that may read everything and command the bridge.
        #[arg(long, value_name = "NAME")]
        admin: Option<String>,
        /// Users may write into the inboxes of each other (`chat.direct`), and into those of BALs.
        #[arg(long)]
        direct: bool,
    },
    /// Asks a running bridge (or simulator) whether it is well: exit code 0 if so. For health checks of containers.
    Health {
        /// Its `[ops] listen` address.
        #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS", value_parser = address)]
        ops: SocketAddr,
        /// What to ask: `/readyz` (does it do its work) or `/healthz` (does it live).
        #[arg(long, default_value = "/readyz", value_name = "PATH")]
        path: String,
    },
}

/// What `explain` tells beside what becomes of a message.
#[derive(Debug, Subcommand)]
pub enum ExplainWhat {
    /// Tells why the devices of a chat user were pushed for a message to it, or were not: what was known when it was decided,
    /// the rule of topics.md ("When a phone is pushed") for each device, and what became of each push. Works while the bridge
    /// runs.
    Push {
        /// The user that the message was for.
        user: String,
        /// The bridge's id of the message: `sid` in each of its copies.
        sid: String,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct PageArgs {
    /// At most this many lines.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: usize,
    /// Leaves out so many lines before them.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub skip: usize,
}

/// A broker whose rules `acl` can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AclBroker {
    /// `acl_file` of mosquitto 2.
    Mosquitto,
    /// `vmq_acl.acl_file` of VerneMQ.
    Vernemq,
    /// `acl.conf` of EMQX 5.
    Emqx,
}

/// Options of `demo`.
#[cfg(all(feature = "broker", feature = "sim"))]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// By which way pushes go to the virtual phones.
    #[arg(long, value_enum, default_value_t = TransportArg::Ccs)]
    pub transport: TransportArg,
    /// Where the embedded broker listens: MQTT over TCP. Port 0, here and below, chooses a free one, which is printed.
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "ADDRESS", value_parser = address)]
    pub listen: SocketAddr,
    /// Where it listens for web pages: MQTT over WebSocket, path /mqtt.
    #[arg(long, default_value = "127.0.0.1:8083", value_name = "ADDRESS", value_parser = address)]
    pub ws_listen: SocketAddr,
    /// Make no users: everybody on this machine may connect without a password.
    #[arg(long)]
    pub anonymous: bool,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS", value_parser = address)]
    pub ops_listen: SocketAddr,
    /// Where the simulator's control port listens.
    #[arg(long, default_value = "127.0.0.1:9091", value_name = "ADDRESS", value_parser = address)]
    pub control_listen: SocketAddr,
    /// Also show the log at this level (for example info or debug).
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log: String,
}

/// A way to the devices.
#[cfg(all(feature = "broker", feature = "sim"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// CCS: XMPP over TLS.
    Ccs,
    /// FCM HTTP v1.
    FcmV1,
}

#[cfg(all(feature = "broker", feature = "sim"))]
impl TransportArg {
    /// As it stands in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ccs => "ccs",
            Self::FcmV1 => "fcm-v1",
        }
    }
}

/// Options of `sim`.
#[cfg(feature = "sim")]
#[derive(Debug, Args)]
pub struct SimArgs {
    /// Where CCS listens (TLS). Port 0 chooses a free one, which is printed.
    #[arg(long, default_value = "127.0.0.1:5235", value_name = "ADDRESS", value_parser = address)]
    pub listen: SocketAddr,
    /// Where the HTTP control port listens.
    #[arg(long, default_value = "127.0.0.1:9091", value_name = "ADDRESS", value_parser = address)]
    pub control_listen: SocketAddr,
    /// Also run FCM HTTP v1 here (HTTP/2 over TLS). Port 0 chooses a free one, which is printed.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub fcm_listen: Option<SocketAddr>,
    /// Where access tokens for it are sold (HTTP with TLS or without). Without it: a free port beside it.
    #[arg(long, value_name = "ADDRESS", value_parser = address, requires = "fcm_listen")]
    pub fcm_token_listen: Option<SocketAddr>,
    /// How long an access token lasts, in seconds.
    #[arg(long, default_value_t = 3_599, value_name = "SECONDS")]
    pub fcm_token_life: u64,
    /// Lets HTTP/2 connections age faster: idle after 4 minutes, old after an hour, both divided by this.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub fcm_time_divisor: u32,
    /// The Firebase project of its path and of the generated service account (`service-account.json` in the folder below).
    #[arg(long, default_value = "demo-project", value_name = "ID")]
    pub project: String,
    /// Over FCM HTTP v1 apps confirm what they get: let the virtual ones do so, over MQTT with this broker
    /// (mqtt://HOST:PORT, mqtts://, ws://, wss://).
    #[arg(long, value_name = "URL", requires = "fcm_listen", requires = "app_user")]
    pub app_mqtt: Option<String>,
    /// The chat user whose phones the virtual ones are.
    #[arg(long, value_name = "NAME", requires = "app_mqtt")]
    pub app_user: Option<String>,
    /// The user's password: the first line of this file.
    #[arg(long, value_name = "FILE", requires = "app_mqtt")]
    pub app_password_file: Option<PathBuf>,
    /// Certificate authorities to trust there instead of the platform's, PEM.
    #[arg(long, value_name = "FILE", requires = "app_mqtt")]
    pub app_ca_file: Option<PathBuf>,
    /// Folder for the generated certificate authority (`ca.pem`) and server certificate; made when missing.
    #[arg(long, default_value = "data/sim", value_name = "FOLDER")]
    pub tls_dir: PathBuf,
    /// More names or addresses for the certificate, such as a container's name.
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Take only this sender id; without it any is taken.
    #[arg(long, value_name = "ID")]
    pub sender_id: Option<String>,
    /// Take only the key in this file; without it any is taken.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Most unanswered messages on one connection; one more is punished by closing it.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub window: usize,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Log filter.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: String,
}

/// Where the store is.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The configuration file that names the store.
    #[arg(long, value_name = "FILE", env = "BRIDGE_CONFIG")]
    pub config: Option<PathBuf>,
    /// The SQLite file itself, instead of a configuration.
    #[arg(long, value_name = "FILE")]
    pub store: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

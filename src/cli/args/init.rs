//! What `init` can be asked for.

use crate::ops::setting::address;
use clap::{Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// How messages are to go to the devices.
#[derive(Debug, Subcommand)]
pub enum InitArgs {
    /// By FCM HTTP v1: Google's living push service.
    FcmV1 {
        /// The service account: the JSON file of the Firebase console (Project settings, Service accounts).
        #[arg(long, value_name = "FILE")]
        credentials: PathBuf,
        /// Where the API is, if not at Google: a proxy, or the simulator.
        #[arg(long, value_name = "URL")]
        base_url: Option<String>,
        /// Certificate authorities to trust there instead of the platform's, PEM.
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// What all have.
        #[command(flatten)]
        common: InitCommon,
    },
    /// By CCS: XMPP over TLS, with a server that still speaks it.
    Ccs {
        /// The sender id (project number).
        #[arg(long, value_name = "N")]
        sender_id: String,
        /// A file with the server key in it.
        #[arg(long, value_name = "FILE")]
        api_key_file: PathBuf,
        /// The server's name or address. Google's own (fcm-xmpp.googleapis.com) was closed in 2024.
        #[arg(long, value_name = "HOST")]
        host: String,
        /// Its port.
        #[arg(long, value_name = "PORT")]
        port: Option<u16>,
        /// Certificate authorities to trust there instead of the platform's, PEM.
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// What all have.
        #[command(flatten)]
        common: InitCommon,
    },
    /// By both, with the simulator: no account is needed.
    #[cfg(feature = "sim")]
    Sim {
        /// Where the simulator is to listen.
        #[command(flatten)]
        ports: SimPorts,
        /// What all have.
        #[command(flatten)]
        common: InitCommon,
    },
}

impl InitArgs {
    /// What all have.
    pub(crate) fn common(&self) -> &InitCommon {
        match self {
            Self::FcmV1 { common, .. } | Self::Ccs { common, .. } => common,
            #[cfg(feature = "sim")]
            Self::Sim { common, .. } => common,
        }
    }

    /// The addresses that clients are to be told, and their flags.
    pub(crate) fn told(&self) -> Vec<(&'static str, SocketAddr)> {
        let InitCommon { listen, listen_ws, .. } = self.common();
        let mut told = vec![("--listen", *listen)];
        told.extend(listen_ws.map(|address| ("--listen-ws", address)));
        #[cfg(feature = "sim")]
        if let Self::Sim { ports, .. } = self {
            told.extend([
                ("--sim-listen", ports.sim_listen),
                ("--sim-fcm-listen", ports.sim_fcm_listen),
                ("--sim-fcm-token-listen", ports.sim_fcm_token_listen),
            ]);
        }
        told
    }
}

/// Where the simulator of `init sim` is to listen.
#[cfg(feature = "sim")]
#[derive(Debug, Args)]
pub struct SimPorts {
    /// Where the simulator is to speak CCS.
    #[arg(long, default_value = "127.0.0.1:5235", value_name = "ADDRESS", value_parser = address)]
    pub sim_listen: SocketAddr,
    /// Where it is to speak FCM HTTP v1.
    #[arg(long, default_value = "127.0.0.1:5236", value_name = "ADDRESS", value_parser = address)]
    pub sim_fcm_listen: SocketAddr,
    /// Where it is to give out access tokens.
    #[arg(long, default_value = "127.0.0.1:5237", value_name = "ADDRESS", value_parser = address)]
    pub sim_fcm_token_listen: SocketAddr,
    /// Where its control port is to be.
    #[arg(long, default_value = "127.0.0.1:9091", value_name = "ADDRESS", value_parser = address)]
    pub sim_control_listen: SocketAddr,
}

/// Options of every `init`.
#[derive(Debug, Args)]
pub struct InitCommon {
    /// The configuration file to write. Users and queue are kept in the folder `data` beside it. Nothing is overwritten.
    #[arg(long, value_name = "FILE", default_value = "bridge.toml")]
    pub config: PathBuf,
    /// The name of the first backend application ("BAL"): its user name, and the first level of its topics.
    #[arg(long, value_name = "NAME", default_value = "client1")]
    pub bal: String,
    /// Where the embedded broker is to listen: MQTT over TCP.
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "ADDRESS", value_parser = address)]
    pub listen: SocketAddr,
    /// Where it is to listen for web pages: MQTT over WebSocket, path /mqtt; for example 127.0.0.1:8083.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub listen_ws: Option<SocketAddr>,
    /// Where /healthz, /readyz and /metrics are to be served.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS", value_parser = address)]
    pub ops_listen: SocketAddr,
}

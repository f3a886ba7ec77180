//! The transport to CCS: sockets and TLS around the session core of [`crate::ccs`].
//!
//! ```text
//!             ┌──────────────── Hub ────────────────┐        ┌─ Connection ─┐
//!   Send ───► │ Ledger: who is where, in which order │ orders │   Session    │  TLS
//!   AckRef  ───► │                                      ├───────►│              ├──────► CCS
//!   Report ◄──┤ Pool: which connections, and when  │◄───────┤  one task    │
//!             └──────────────────────────────────────┘  notes └──────────────┘ × connections (+ draining ones)
//! ```
//!
//! Invariants: each message taken is answered by exactly one report; a recipient's messages keep their order; no
//! connection has more than its window unanswered; an acknowledgement goes out on the connection of its message or not
//! at all.

mod access;
mod connection;
mod encode;
mod hub;
mod ledger;
mod monitor;
mod pool;
mod redial;

pub use crate::ccs::settings::{Limits, Timing};
pub use monitor::{ConnectionPhase, ConnectionState, Metric, Monitor};

pub use super::dial::TlsError;

use super::Outlet;
use super::dial::{Dialer, Inside, Security};
use crate::ccs::settings::SessionConfig;
use crate::secret::Secret;
use hub::Hub;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Connections that one sender may have at most (CCS refused more).
pub const CONNECTIONS_MAX: usize = 1000;
/// Messages in flight that a connection may have at most: what the first CCS allowed.
pub const WINDOW_MAX: usize = 1000;

/// Where CCS is, who we are, and the limits.
#[derive(Debug, Clone)]
pub struct CcsConfig {
    /// The host to connect to; its certificate has to be good for this name.
    pub host: String,
    /// The port; TLS from the first byte.
    pub port: u16,
    /// The XMPP domain, which is not the name of the host.
    pub xmpp_domain: String,
    /// The sender id (project number); with an `@` in it, the whole XMPP user.
    pub sender_id: String,
    /// The server key.
    pub api_key: Secret,
    /// Where the server key is read again.
    pub api_key_file: Option<PathBuf>,
    /// Certificates to trust, in PEM; without, those of the machine.
    pub ca_file: Option<PathBuf>,
    /// Messages in flight on one connection.
    pub window: usize,
    /// Connections to keep.
    pub connections: usize,
    /// The beginning of the XMPP resource of every connection.
    pub resource: String,
    /// What is accepted from CCS.
    pub limits: Limits,
    /// How long to wait for what.
    pub timing: Timing,
    /// Where to count.
    pub monitor: Arc<Monitor>,
    /// Asks for the files to be read again, with each change of the number.
    pub reload: watch::Receiver<u64>,
}

/// Why the transport cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A setting has no value, or one out of range.
    #[error("{setting} {problem}")]
    Setting {
        /// The name of the setting.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The TLS settings cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server key cannot be read again.
    #[error("ccs.api_key_file names {}: {source}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl CcsConfig {
    /// The settings of Google's own service for a sender.
    #[must_use]
    pub fn new(sender_id: impl Into<String>, api_key: Secret) -> Self {
        Self {
            host: "fcm-xmpp.googleapis.com".to_owned(),
            port: 5235,
            xmpp_domain: "gcm.googleapis.com".to_owned(),
            sender_id: sender_id.into(),
            api_key,
            api_key_file: None,
            ca_file: None,
            window: 100,
            connections: 1,
            resource: "bridge".to_owned(),
            limits: Limits::default(),
            timing: Timing::default(),
            monitor: Arc::default(),
            reload: watch::channel(0).1,
        }
    }

    /// Checks the settings, and reads the certificates, without connecting.
    ///
    /// # Errors
    /// When a setting has no value or one out of range, or the TLS settings cannot be used.
    pub fn check(&self) -> Result<(), Fatal> {
        self.dialer().map(drop)
    }

    fn dialer(&self) -> Result<Dialer, Fatal> {
        let texts = [
            ("host", self.host.as_str()),
            ("domain", &self.xmpp_domain),
            ("sender_id", &self.sender_id),
            ("api_key", self.api_key.reveal()),
            ("resource", &self.resource),
        ];
        if let Some((setting, _)) = texts.into_iter().find(|(_, text)| text.trim().is_empty()) {
            return Err(Fatal::Setting { setting, problem: "is empty".to_owned() });
        }
        for (setting, value, max) in
            [("window", self.window, WINDOW_MAX), ("connections", self.connections, CONNECTIONS_MAX)]
        {
            if !(1..=max).contains(&value) {
                return Err(Fatal::Setting { setting, problem: format!("is not from 1 to {max}") });
            }
        }
        let security = Security::Tls { ca_file: self.ca_file.as_deref(), inside: Inside::Unsaid };
        Ok(Dialer::new(&self.host, self.port, &security)?.named_by("ccs.host"))
    }

    fn session(&self, mark: &str) -> SessionConfig {
        let user = if self.sender_id.contains('@') {
            self.sender_id.clone()
        } else {
            format!("{}@{}", self.sender_id, self.xmpp_domain)
        };
        SessionConfig {
            xmpp_domain: self.xmpp_domain.clone(),
            user,
            key: self.api_key.clone(),
            resource: format!("{}-{mark}", self.resource),
            window: self.window,
            limits: self.limits,
            timing: self.timing,
        }
    }
}

/// Keeps the connections to CCS and moves messages until `stop`, and reads its files again when they change; then takes no more, waits for the answers to what is
/// in flight within the grace period, and closes the connections. What is left is reported as lost.
///
/// # Errors
/// When the settings cannot work. Nothing that happens on the network ends it.
pub async fn run(config: CcsConfig, outlet: Outlet, stop: CancellationToken) -> Result<(), Fatal> {
    let files = config.files();
    let (access_tx, access) = watch::channel(config.first_access()?);
    tokio::select! {
        () = Hub::new(config.clone(), access).run(outlet, stop) => {}
        never = access::keep(config, files, access_tx) => match never {},
    }
    Ok(())
}

#[cfg(test)]
mod tests;

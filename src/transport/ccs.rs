//! The transport to CCS: settings, log-ins, and what the `core` has to know of the service. The protocol
//! itself is in [`crate::ccs`].

mod connection;
mod encode;

pub use super::dial::TlsError;
pub use crate::ccs::settings::{Limits, Timing};

use super::Outlet;
use super::core::{Admission, Message, Now, OnConnectionEnd, Pool, Service, ServiceSettings, Verdict};
use super::dial::{Dialer, Security};
use super::driver::{Driver, Wake};
use crate::ccs::event::{Answer, GroupResult};
use crate::ccs::refusal;
use crate::ccs::settings::SessionConfig;
use crate::chat::delivery::Fate;
use crate::chat::id::{Token, short_hash};
use crate::chat::push::Target;
use crate::ops::files::{FileWatch, read_secret, reread};
use crate::ops::setting::{Seconds, SettingError, Settings as _, path, settings};
use crate::secret::Secret;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Longest wait between attempts to connect.
const REDIAL_MAX: Duration = Duration::from_secs(60);
/// Devices of a group at most.
const GROUP_MAX: usize = 20;
/// News of other credentials that the driver has not looked at.
const WAKES: usize = 1;

settings! {
    /// `[ccs]`: where CCS is, who we are, and the limits.
    pub struct CcsConfig {
        /// The host to connect to; its certificate has to be good for this name.
        pub host: String = "fcm-xmpp.googleapis.com".to_owned();
        /// The port; TLS from the first byte.
        pub port: u16 = 5235, in 1..=65_535;
        /// The XMPP domain, which is not the name of the host.
        "domain" pub xmpp_domain: String = "gcm.googleapis.com".to_owned();
        /// The sender id (project number).
        pub sender_id: String = String::new();
        /// The server key.
        pub api_key: Option<Secret> = None;
        /// The file from which the server key is read again.
        pub api_key_file: Option<PathBuf> = None;
        /// Certificates to trust, in PEM; without, those of the machine.
        pub ca_file: Option<PathBuf> = None;
        /// Messages in flight on one connection. By default what the first CCS allowed.
        pub window: usize = 100, in 1..=1_000;
        /// Connections to keep. The first CCS refused more than it allowed to one sender.
        pub connections: usize = 1, in 1..=1_000;
        /// How long an answer may take before its connection is suspected of losing answers.
        #[serde(with = "Seconds")] "answer_seconds" pub answer: Duration = Duration::from_secs(60), in 1..=3_600;
        /// How long a connection that takes nothing new is kept for the answers that it owes. Generous: closing it
        /// ourselves loses them.
        #[serde(skip)] pub drain: Duration = Duration::from_secs(10 * 60);
        /// The beginning of the XMPP resource of every connection.
        #[serde(skip)] pub resource: String = "bridge".to_owned();
        /// What is accepted from CCS.
        #[serde(skip)] pub limits: Limits = Limits::default();
        /// How long to wait for what.
        #[serde(skip)] pub timing: Timing = Timing::default();
        /// Asks for the files to be read again, with each change of the number.
        #[serde(skip)] pub reload: watch::Receiver<u64> = watch::channel(0).1;
    }
}

/// Why the transport cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// Of the section `[ccs]`.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// `ccs.host` or `ccs.ca_file` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server key cannot be read again.
    #[error("ccs.api_key_file names {}: {source}", path.display())]
    KeyFile {
        /// As it is configured.
        path: PathBuf,
        /// From the operating system, or about the content.
        source: std::io::Error,
    },
}

impl CcsConfig {
    /// The settings of Google's own service for a sender.
    pub fn new(sender_id: impl Into<String>, api_key: Secret) -> Self {
        Self { sender_id: sender_id.into(), api_key: Some(api_key), ..Self::default() }
    }

    /// Checks the settings, and reads the certificates, without connecting.
    ///
    /// # Errors
    /// When a setting has no value or one out of range, or the TLS settings cannot be used.
    pub fn check(&self) -> Result<(), Fatal> {
        self.dialer().map(drop)
    }

    /// Checks what is needed of the settings, but for the key.
    ///
    /// # Errors
    /// When one has no value or one out of range. `section` is the section's name, or empty for the keys alone.
    pub fn check_settings(&self, section: &str) -> Result<(), SettingError> {
        let key = |name: &str| path(section, name);
        if self.sender_id.trim().is_empty() {
            return Err(SettingError::missing(key("sender_id"), "it is the user name at the CCS server"));
        }
        if self.sender_id.contains(['@', '/', '\0']) || self.sender_id.chars().any(char::is_whitespace) {
            return Err(SettingError::bad(key("sender_id"), "is the number alone, without `@` and what follows it"));
        }
        let texts = [("host", &self.host), ("domain", &self.xmpp_domain), ("resource", &self.resource)];
        if let Some((name, _)) = texts.into_iter().find(|(_, text)| text.trim().is_empty()) {
            return Err(SettingError::bad(key(name), "is empty"));
        }
        self.check_ranges(section)
    }

    fn dialer(&self) -> Result<Dialer, Fatal> {
        self.check_settings("")?;
        if self.key().reveal().trim().is_empty() {
            return Err(SettingError::bad("api_key", "is empty").into());
        }
        let security = Security::Tls { ca_file: self.ca_file.as_deref(), alpn: &[] };
        Ok(Dialer::new(&self.host, self.port, &security, "ccs.host")?)
    }

    /// Reads the files again, for the next log-ins. A connection that stands is left alone: CCS asks for the key only once.
    fn read_again(mut self) -> Result<(Self, Arc<Dialer>), Fatal> {
        if let Some(path) = &self.api_key_file {
            let failed = |source| Fatal::KeyFile { path: path.clone(), source };
            self.api_key = Some(Secret::new(read_secret(path).map_err(failed)?));
        }
        let dialer = Arc::new(self.dialer()?);
        Ok((self, dialer))
    }

    fn settings(&self, server: &str) -> ServiceSettings {
        ServiceSettings {
            server: server.to_owned(),
            pool: Pool::Fixed(self.connections),
            window: self.window,
            on_connection_end: OnConnectionEnd::Rewrite,
            answer_timeout: Some(self.answer),
            drain_limit: self.drain,
            redial_max: REDIAL_MAX,
            // The session has the same grace, and then closes its stream.
            stop_timeout: self.timing.grace + self.timing.close,
        }
    }

    fn key(&self) -> Secret {
        self.api_key.clone().unwrap_or_default()
    }

    fn session(&self, resource: String) -> SessionConfig {
        SessionConfig {
            xmpp_domain: self.xmpp_domain.clone(),
            user: format!("{}@{}", self.sender_id, self.xmpp_domain),
            key: self.key(),
            resource,
            window: self.window,
            limits: self.limits,
            timing: self.timing,
        }
    }
}

/// What CCS means by its answers.
#[derive(Debug)]
struct Ccs;

impl Service for Ccs {
    type Memo = ();
    /// The JSON of the message.
    type Request = String;
    type Answer = Answer;

    fn admit(&mut self, message: &mut Message<()>, now: Now) -> Admission<String> {
        Admission::Go(encode::downstream(&message.send, now.unix_ms).into_json())
    }

    fn decide(&mut self, message: &mut Message<()>, answer: Answer, _now: Now) -> Verdict {
        match answer {
            Answer::Taken { canonical, group } => {
                let canonical = canonical.and_then(|token| other_token(&message.send.push.target, token));
                let detail = group.map(|group| not_reached(&group));
                Verdict::Back(Fate::Accepted { canonical, provider_id: None, detail, can_confirm: true })
            }
            Answer::Refused(refusal) => {
                let token =
                    if let Target::Token(token) = &message.send.push.target { Some(token.reveal()) } else { None };
                Verdict::Back(Fate::Refused(refusal::without_token(refusal, token)))
            }
        }
    }
}

/// The token to use from now on, if a token was used, and that is another one.
fn other_token(target: &Target, canonical: String) -> Option<Token> {
    let Target::Token(used) = target else { return None };
    Token::new(canonical).ok().filter(|token| token.reveal() != used.reveal())
}

/// Which devices of a group a message did not go to, for its sender.
fn not_reached(group: &GroupResult) -> String {
    let GroupResult { success, failure, failed } = group;
    let hashes: Vec<String> = failed.iter().take(GROUP_MAX).map(|token| short_hash(token)).collect();
    let named =
        if hashes.is_empty() { String::new() } else { format!(" (hashes of their tokens: {})", hashes.join(", ")) };
    format!("went to {success} devices of the group and not to {failure}{named}")
}

/// Keeps the connections to CCS and moves messages until `stop`, and reads its files again when they change. After `stop`
/// it takes no more, waits for the answers to what is in flight within the grace period, and closes the connections. What
/// is left is reported as lost.
///
/// # Errors
/// When the settings cannot work. Nothing that happens on the network ends it.
pub async fn run(config: CcsConfig, outlet: Outlet, stop: CancellationToken) -> Result<(), Fatal> {
    let files = FileWatch::new(config.api_key_file.iter().chain(&config.ca_file).cloned().collect());
    let dialer = Arc::new(config.dialer()?);
    let settings = config.settings(dialer.server());
    let (access_tx, access) = watch::channel((config.clone(), dialer));
    let (wake, wakes) = mpsc::channel(WAKES);
    // Part of every resource: a server ends a session when another one binds the same resource.
    let process_mark: u32 = rand::random();
    let connect = move |task: connection::Task| {
        let (config, dialer) = access.borrow().clone();
        let session = config.session(format!("{}-{process_mark:08x}-{}", config.resource, task.id));
        connection::run(task, session, dialer)
    };
    let work = async {
        tokio::select! {
            () = Driver::new(settings, Ccs, wakes, connect).run(outlet, stop) => {}
            never = renew(config, files, (access_tx, wake)) => match never {},
        }
    };
    tracing::Instrument::instrument(work, tracing::info_span!("transport", transport = "ccs")).await;
    Ok(())
}

/// Reads `files` again when they change and when somebody asks. What cannot be used is told, and changes nothing.
async fn renew(
    config: CcsConfig,
    mut files: FileWatch,
    (access, wake): (watch::Sender<(CcsConfig, Arc<Dialer>)>, mpsc::Sender<Wake>),
) -> Infallible {
    let mut reload = config.reload.clone();
    loop {
        files.changed(&mut reload).await;
        let config = config.clone();
        if let Some(next) = reread(move || config.read_again()).await {
            access.send_replace(next);
            tracing::info!("server key and certificate authorities were read again");
            // A full queue holds the same news.
            let _ = wake.try_send(Wake::Renewed);
        }
    }
}

#[cfg(test)]
mod tests;

//! The transport over FCM HTTP v1. Translation, judgement and health are pure and live in [`crate::fcm`]; connections are
//! those of `http2`; here both meet access tokens and the `core`.
//!
//! ```text
//!             ┌──────────────── Driver, Core ────────────────┐ requests ┌─ http2 ──────┐
//!   Send ───► │ Service: may it go? Health, Budget, tokens    ├─────────►│ connection,  │ TLS
//!             │ Service: what does an answer mean?            │          │ one task     ├──────► FCM
//!   Report ◄──┤ TokenSource ◄── TokenRefresher                │◄─────────┤              │
//!             └───────────────────────────────────────────────┘ replies  └──────────────┘ × 1 to `connections`
//! ```
//!
//! What has to wait longer than a moment waits on the bridge's disk, not here.

mod address;
pub mod encode;
mod losses;
mod renewal;
mod service;
mod token;

pub use crate::fcm::budget::Quotas;
pub use crate::fcm::health::QUOTA;
pub use crate::fcm::verdict::OnAmbiguous;
pub use address::AddressError;
pub use token::AccountError;

use super::core::{OnConnectionEnd, Pool, ServiceSettings};
use super::driver::{Driver, Wake};
use super::{Outlet, http2};
use crate::fcm::judge::unanswered;
use crate::fcm::limits::ANSWER_MAX;
use crate::ops::files::FileWatch;
use crate::ops::setting::{SettingError, Settings as _, settings};
use crate::transport::dial::TlsError;
use address::{API, Address, TOKENS};
use renewal::{Api, Renewal};
use service::FcmService;
use std::path::PathBuf;
use std::time::Duration;
use token::{Account, Source, TokenSource};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// FCM's own address; another one is for proxies and tests.
pub const BASE_URL: &str = "https://fcm.googleapis.com";
/// The key of the configuration that says where the metadata server is.
const METADATA_HOST_KEY: &str = "fcm.metadata_host";
/// Requests at a time on one connection: what FCM takes.
pub const STREAMS_MAX: usize = 100;

const REDIAL_MAX: Duration = Duration::from_secs(30);

const TOKEN_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// The word for operators when there is no access token.
pub const NO_TOKEN: &str = "no_access_token";

settings! {
    /// A Firebase project: where FCM is, who we are, and the limits.
    pub struct FcmConfig {
        /// The service account, as a file of Google's console. Without it the metadata server of the machine is asked.
        pub credentials_file: Option<PathBuf> = None;
        /// The Firebase project; without it, that of the service account.
        pub project_id: Option<String> = None;
        /// Scheme, host and port of the API.
        pub base_url: String = BASE_URL.to_owned();
        /// Certificates to trust, in PEM; without, those of the machine.
        pub ca_file: Option<PathBuf> = None;
        /// Most connections. The usual ones carry the default quota of 10 000/s at up to 160 ms for each answer. They
        /// are opened as they are needed, so those beyond the need cost nothing.
        pub connections: usize = 16, in 1..=100;
        /// How much FCM takes.
        "quota_per_minute" pub quotas: Quotas = Quotas::default(), in 1..=u64::MAX;
        /// What becomes of a message of which nobody knows whether FCM took it.
        pub on_ambiguous: OnAmbiguous = OnAmbiguous::Retry;
        /// Whether the apps confirm what they get.
        pub app_receipts: bool = true;
        /// Where the metadata server is.
        #[serde(skip)] pub metadata_host: String = "metadata.google.internal".to_owned();
        /// The name of this transport, for logs.
        #[serde(skip)] pub name: String = "fcm-v1".to_owned();
        /// Most requests at a time on one connection.
        #[serde(skip)] pub streams: usize = STREAMS_MAX;
        /// How long to wait for what.
        #[serde(skip)] pub timing: Timing = Timing::default();
        /// The key of the configuration that says where the API is, for log lines and errors.
        #[serde(skip)] pub base_url_key: String = "fcm.base_url".to_owned();
        /// The same for the service account, which names the server of access tokens.
        #[serde(skip)] pub credentials_key: String = "fcm.credentials_file".to_owned();
        /// Asks for the files to be read again, with each change of the number.
        #[serde(skip)] pub reload: watch::Receiver<u64> = watch::channel(0).1;
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For an answer. Google asks for ten seconds at least.
    pub request: Duration,
    /// Between pings on a connection with open requests. FCM ends a connection after three without a request.
    pub ping: Duration,
    /// For the answer to a ping.
    pub pong: Duration,
    /// How old a connection may get; FCM ends it after an hour.
    pub age: Duration,
    /// How long a connection may idle; FCM ends it after four minutes.
    pub idle: Duration,
    /// How long a connection beyond the first one may idle.
    pub spare: Duration,
    /// For the answers to what is open when the transport stops.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(20),
            ping: Duration::from_secs(10),
            pong: Duration::from_secs(10),
            age: Duration::from_secs(58 * 60),
            idle: Duration::from_secs(210),
            spare: Duration::from_secs(60),
            grace: Duration::from_secs(5),
        }
    }
}

/// Why the transport cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// Of the transport's section.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Its file is unreadable, or no service account.
    #[error("credentials_file (or GOOGLE_APPLICATION_CREDENTIALS): {0}")]
    Account(#[from] AccountError),
    /// Where messages are posted.
    #[error("base_url {0}")]
    BaseUrl(#[source] AddressError),
    /// Where access tokens are asked for.
    #[error("token_uri of the service account, or metadata_host, {0}")]
    TokenUrl(#[source] AddressError),
    /// `ca_file` is unreadable, or has no certificate.
    #[error("ca_file: {0}")]
    Authorities(#[source] TlsError),
}

impl Fatal {
    /// `key` names the setting of the address; a fault of the certificate authorities has a setting of its own.
    fn of_address(error: AddressError, key: fn(AddressError) -> Self) -> Self {
        match error {
            AddressError::Tls(error @ TlsError::CaFile { .. }) => Self::Authorities(error),
            error => key(error),
        }
    }
}

/// Everything that is needed to begin.
struct Plan {
    api: Address,
    source: Source,
    tokens: Address,
}

impl FcmConfig {
    /// Checks the settings, and reads the files that they name, without connecting.
    ///
    /// # Errors
    /// When a setting has no value or one out of range, or a file cannot be used.
    pub fn check(&self) -> Result<(), Fatal> {
        self.plan().map(drop)
    }

    fn settings(&self, server: String) -> ServiceSettings {
        let timing = self.timing;
        ServiceSettings {
            server,
            pool: Pool::Elastic {
                most: self.connections,
                age_max: timing.age,
                idle_max: timing.idle,
                spare_idle_max: timing.spare,
            },
            window: self.streams,
            on_connection_end: OnConnectionEnd::Ambiguous(unanswered(self.on_ambiguous)),
            // Each request has a time limit of its own.
            answer_timeout: None,
            drain_limit: timing.request * 2,
            redial_max: REDIAL_MAX,
            stop_timeout: timing.grace,
        }
    }

    /// A project and the key that names it, for operators.
    fn project_named(&self, project: &str) -> String {
        let section = self.credentials_key.trim_end_matches("credentials_file");
        match (&self.project_id, &self.credentials_file) {
            (None, Some(_)) => format!("the project is `{project}`, that of `{}`", self.credentials_key),
            _ => format!("the project is `{project}`, by `{section}project_id`"),
        }
    }

    fn files(&self) -> FileWatch {
        FileWatch::new(self.credentials_file.iter().chain(&self.ca_file).cloned().collect())
    }

    fn plan(&self) -> Result<Plan, Fatal> {
        self.check_ranges("")?;
        let ca_file = self.ca_file.as_deref();
        let (source, tokens, of_account) = match &self.credentials_file {
            Some(path) => {
                let account = Account::read(path)?;
                let key = format!("token_uri in {}, {}", path.display(), self.credentials_key);
                let tokens = Address::new(account.token_uri(), "", ca_file, TOKENS, &key);
                let project = account.project_id.clone();
                (Source::Account(Box::new(account)), tokens, project)
            }
            None => (Source::Metadata, Address::metadata(&self.metadata_host, TOKEN_PATH, METADATA_HOST_KEY), None),
        };
        let missing = || SettingError::missing("project_id", "no service account names a project");
        let found = self.project_id.clone().or(of_account);
        let project = found.ok_or_else(missing)?;
        let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b':');
        if project.is_empty() || !project.bytes().all(legal) {
            return Err(SettingError::bad("project_id", "is neither a project's id nor its number").into());
        }
        let path = format!("/v1/projects/{project}/messages:send");
        let api = Address::new(&self.base_url, &path, ca_file, API, &self.base_url_key)
            .map_err(|error| Fatal::of_address(error, Fatal::BaseUrl))?;
        let tokens = tokens.map_err(|error| Fatal::of_address(error, Fatal::TokenUrl))?;
        Ok(Plan { api, source, tokens })
    }
}

/// Keeps the connections to FCM and moves messages until `stop`, and reads its files again when they change; then takes
/// no more, waits for the answers to what is in flight within the grace period, and closes the connections. What is left
/// is reported as lost.
///
/// # Errors
/// When the settings cannot work. Nothing that happens on the network ends it.
pub async fn run(config: FcmConfig, outlet: Outlet, stop: CancellationToken) -> Result<(), Fatal> {
    let span = tracing::info_span!("transport", transport = config.name);
    let files = config.files();
    let Plan { api, source, tokens } = config.plan()?;
    let read = {
        let config = config.clone();
        move || config.plan()
    };
    let (renewal, api) = Renewal::new(files, config.reload.clone(), read, api);
    let work = async {
        let (refresher, tokens) = token::refresher(source, tokens, renewal);
        tokio::select! {
            () = drive(config, api, tokens, outlet, stop) => {}
            never = refresher.run() => match never {},
        }
    };
    tracing::Instrument::instrument(work, span).await;
    Ok(())
}

/// Runs the core; wakes it when the access token changes.
async fn drive(config: FcmConfig, api: Api, tokens: TokenSource, outlet: Outlet, stop: CancellationToken) {
    let (wakes_tx, wakes) = mpsc::channel(1);
    let mut news = tokens.clone();
    let address = api.dialer.borrow().server().to_owned();
    let settings = config.settings(address.clone());
    // `/v1/projects/PROJECT/messages:send`
    let project = api.uri.path().split('/').nth(3).unwrap_or_default();
    let service = FcmService::new(&config, (address, project), tokens);
    let Timing { request, ping, pong, .. } = config.timing;
    let (Api { dialer, uri }, streams, answer_max) = (api, config.streams, ANSWER_MAX);
    let server = http2::Server { dialer, uri, streams, answer_max, request, ping, pong };
    let driver = Driver::new(settings, service, wakes, move |task| http2::run(task, server.clone()));
    let wake = async {
        let mut credentials = news.credentials();
        while news.changed().await.is_ok() {
            let before = std::mem::replace(&mut credentials, news.credentials());
            let wake = if credentials == before { Wake::Look } else { Wake::Renewed };
            if wakes_tx.send(wake).await.is_err() {
                break;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = driver.run(outlet, stop) => {}
        () = wake => {}
    }
}

#[cfg(test)]
pub(super) mod tests;

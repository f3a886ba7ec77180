//! `[transport]` and `[fcm]`: by which transport messages go to the devices.

use super::check::{ConfigError, bad};
use super::{Ccs, Settings};
use crate::chat::transport::{Project, Transport};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The variable by which Google's own libraries find the service account of a process ("Application Default Credentials").
pub const GOOGLE_CREDENTIALS: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// `[transport]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportSection {
    /// The transport of messages that nothing else decides about.
    pub default: String,
    /// App package name to transport.
    pub categories: BTreeMap<String, String>,
}

impl Default for TransportSection {
    fn default() -> Self {
        Self { default: Transport::default().to_string(), categories: BTreeMap::new() }
    }
}

/// What becomes of a message of which nobody knows whether FCM took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAmbiguous {
    /// It is sent again, marked.
    Retry,
    /// It fails.
    Report,
}

/// `[fcm]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fcm {
    /// The service account, as a file of Google's console. Without it that of [`GOOGLE_CREDENTIALS`] is taken, and without
    /// that the machine's metadata server is asked.
    pub credentials_file: Option<PathBuf>,
    /// The Firebase project; without it, that of the service account.
    pub project_id: Option<String>,
    /// Where the API is.
    pub base_url: String,
    /// Certificate authorities to trust instead of the platform's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Most connections.
    pub connections: usize,
    /// Messages of the project in a minute: its quota at Google.
    pub quota_per_minute: u32,
    /// What becomes of a message of which nobody knows whether FCM took it.
    pub on_ambiguous: OnAmbiguous,
    /// Whether the apps confirm what they get.
    pub app_receipts: bool,
    /// Where the metadata server is.
    pub metadata_host: String,
    /// Further projects by name; each is the transport `fcm-v1:NAME`.
    pub projects: BTreeMap<String, FcmProject>,
}

impl Default for Fcm {
    fn default() -> Self {
        Self {
            credentials_file: None,
            project_id: None,
            base_url: "https://fcm.googleapis.com".into(),
            ca_file: None,
            connections: 16,
            quota_per_minute: 600_000,
            on_ambiguous: OnAmbiguous::Retry,
            app_receipts: true,
            metadata_host: "metadata.google.internal".into(),
            projects: BTreeMap::new(),
        }
    }
}

/// `[fcm.projects.NAME]`: what is not set is as in `[fcm]`, but for the two that say who we are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FcmProject {
    /// The service account.
    pub credentials_file: Option<PathBuf>,
    /// The Firebase project.
    pub project_id: Option<String>,
    /// Where the API is.
    pub base_url: Option<String>,
    /// Certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// Most connections.
    pub connections: Option<usize>,
    /// Messages of the project in a minute.
    pub quota_per_minute: Option<u32>,
    /// What becomes of a message of which nobody knows whether FCM took it.
    pub on_ambiguous: Option<OnAmbiguous>,
    /// Whether the apps confirm what they get.
    pub app_receipts: Option<bool>,
}

impl Fcm {
    /// Every project that is configured, with the settings that apply to it.
    pub fn configured(&self) -> Vec<(Transport, Self)> {
        let first = (Transport::FcmV1(None), self.clone());
        let others = self
            .projects
            .iter()
            .filter_map(|(name, project)| Some((Transport::FcmV1(Some(Project::new(name).ok()?)), self.with(project))));
        let named = |fcm: &Self| fcm.credentials_file.is_some() || fcm.project_id.is_some();
        std::iter::once(first).filter(|(_, fcm)| named(fcm)).chain(others).collect()
    }

    fn with(&self, project: &FcmProject) -> Self {
        Self {
            credentials_file: project.credentials_file.clone(),
            project_id: project.project_id.clone(),
            base_url: project.base_url.clone().unwrap_or_else(|| self.base_url.clone()),
            ca_file: project.ca_file.clone().or_else(|| self.ca_file.clone()),
            connections: project.connections.unwrap_or(self.connections),
            quota_per_minute: project.quota_per_minute.unwrap_or(self.quota_per_minute),
            on_ambiguous: project.on_ambiguous.unwrap_or(self.on_ambiguous),
            app_receipts: project.app_receipts.unwrap_or(self.app_receipts),
            metadata_host: self.metadata_host.clone(),
            projects: BTreeMap::new(),
        }
    }
}

/// Which transports are wanted: the default, and those of the categories.
pub(super) fn transports(section: &TransportSection) -> Result<(Transport, HashMap<String, Transport>), ConfigError> {
    let parse = |key: &str, text: &str| Transport::parse(text).map_err(|fault| bad(key, format!("this {fault}")));
    let categories = section
        .categories
        .iter()
        .map(|(category, text)| Ok((category.clone(), parse(&format!("transport.categories.\"{category}\""), text)?)))
        .collect::<Result<_, ConfigError>>()?;
    Ok((parse("transport.default", &section.default)?, categories))
}

/// Whether CCS runs: something goes by it, or a sender is named, whose devices may send.
pub(super) fn runs_ccs(ccs: &Ccs, section: &TransportSection) -> Result<bool, ConfigError> {
    let (default, categories) = transports(section)?;
    Ok(!ccs.sender_id.is_empty()
        || default == Transport::Ccs
        || categories.values().any(|transport| *transport == Transport::Ccs))
}

/// Gives the service account in `file`, which the environment names, to the projects in use that name none. That one is
/// there makes no project: many a machine has it for something else.
pub(super) fn adopt(settings: &mut Settings, file: &Path) -> Result<(), ConfigError> {
    let (default, categories) = transports(&settings.transport)?;
    let first = Transport::FcmV1(None);
    let sent = default == first || categories.values().any(|transport| *transport == first);
    let fcm = &mut settings.fcm;
    let of_first = Some(&mut fcm.credentials_file).filter(|_| sent || fcm.project_id.is_some());
    let of_others = fcm.projects.values_mut().filter(|project| project.project_id.is_some());
    for credentials in of_first.into_iter().chain(of_others.map(|project| &mut project.credentials_file)) {
        credentials.get_or_insert_with(|| file.to_owned());
    }
    Ok(())
}

pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    for name in settings.fcm.projects.keys() {
        Project::new(name).map_err(|fault| bad(&format!("fcm.projects.{name}"), fault.to_string()))?;
    }
    let configured = settings.fcm.configured();
    for (transport, fcm) in &configured {
        let key = |name: &str| format!("{}.{name}", section(transport));
        if fcm.quota_per_minute == 0 {
            return Err(bad(&key("quota_per_minute"), "is 0: nothing would ever be sent".into()));
        }
        if fcm.credentials_file.is_none() && fcm.project_id.is_none() {
            return Err(bad(&key("project_id"), "is not set, and no `credentials_file` names a project".into()));
        }
    }
    let (default, categories) = transports(&settings.transport)?;
    let missing = std::iter::once(&default)
        .chain(categories.values())
        .find(|transport| **transport != Transport::Ccs && !configured.iter().any(|(known, _)| known == *transport));
    match missing {
        None => Ok(()),
        Some(transport @ Transport::FcmV1(Some(_))) => {
            Err(bad("transport", format!("names `{transport}`, but there is no section `[{}]`", section(transport))))
        }
        Some(_) => Err(ConfigError::Missing {
            key: "fcm.credentials_file",
            why: "`[transport]` sends messages by fcm-v1 (or set GOOGLE_APPLICATION_CREDENTIALS in the environment, or \
                  `fcm.project_id` on a machine of Google's)",
        }),
    }
}

/// The section of a transport's settings.
pub(crate) fn section(transport: &Transport) -> String {
    match transport {
        Transport::FcmV1(Some(project)) => format!("fcm.projects.{}", project.as_str()),
        Transport::FcmV1(None) => "fcm".to_owned(),
        Transport::Ccs => "ccs".to_owned(),
    }
}

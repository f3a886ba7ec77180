//! `[fcm]` with its projects, and whether every transport that messages are to go by is configured.

use super::check::ConfigError;
use super::{FcmConfig, Settings};
use crate::chat::transport::{Project, Transport};
use crate::ops::setting::{SettingError, Settings as _, settings};
use std::collections::BTreeMap;
use std::path::Path;

/// The variable by which Google's own libraries find the service account of a process ("Application Default Credentials").
pub const GOOGLE_CREDENTIALS: &str = "GOOGLE_APPLICATION_CREDENTIALS";

settings! {
    /// `[fcm]`: the project of the transport `fcm-v1`, and others.
    pub struct Fcm {
        /// Its own project.
        #[serde(flatten, skip_deserializing)] pub own: FcmConfig = FcmConfig::default();
        /// Where the metadata server is.
        pub metadata_host: String = FcmConfig::default().metadata_host;
        /// Further projects by name; each is the transport `fcm-v1:NAME`.
        pub projects: BTreeMap<String, FcmConfig> = BTreeMap::new();
    }
}

impl Fcm {
    /// Every project that is configured.
    pub fn configured(&self) -> Vec<(Transport, FcmConfig)> {
        let named = self.own.credentials_file.is_some() || self.own.project_id.is_some();
        let first = named.then_some((Transport::FcmV1(None), &self.own));
        let others = self
            .projects
            .iter()
            .filter_map(|(name, project)| Some((Transport::FcmV1(Some(Project::new(name).ok()?)), project)));
        let all = first.into_iter().chain(others);
        all.map(|(transport, project)| (transport.clone(), self.of(&transport, project))).collect()
    }

    /// The project with what it does not set itself: its name, and the keys that it is known by.
    fn of(&self, transport: &Transport, project: &FcmConfig) -> FcmConfig {
        let section = section(transport);
        let takes_url = project.base_url == self.own.base_url;
        FcmConfig {
            name: transport.to_string(),
            metadata_host: self.metadata_host.clone(),
            base_url_key: format!("{}.base_url", if takes_url { "fcm" } else { &section }),
            credentials_key: format!("{section}.credentials_file"),
            ..project.clone()
        }
    }
}

/// Whether CCS runs: something goes by it, or a sender is named, whose devices may send.
pub(super) fn runs_ccs(settings: &Settings) -> Result<bool, ConfigError> {
    let (default, categories) = settings.transport.transports()?;
    Ok(!settings.ccs.sender_id.is_empty()
        || default == Transport::Ccs
        || categories.values().any(|transport| *transport == Transport::Ccs))
}

/// Gives the service account in `file`, which the environment names, to the projects in use that name none. That one is
/// there makes no project: many a machine has it for something else.
pub(super) fn adopt(settings: &mut Settings, file: &Path) -> Result<(), ConfigError> {
    let (default, categories) = settings.transport.transports()?;
    let first = Transport::FcmV1(None);
    let sent = default == first || categories.values().any(|transport| *transport == first);
    let Fcm { own, projects, .. } = &mut settings.fcm;
    let of_first = Some(own).filter(|own| sent || own.project_id.is_some());
    let of_others = projects.values_mut().filter(|project| project.project_id.is_some());
    for project in of_first.into_iter().chain(of_others) {
        project.credentials_file.get_or_insert_with(|| file.to_owned());
    }
    Ok(())
}

pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    for name in settings.fcm.projects.keys() {
        Project::new(name).map_err(|fault| SettingError::bad(format!("fcm.projects.{name}"), fault.to_string()))?;
    }
    let configured = settings.fcm.configured();
    for (transport, fcm) in &configured {
        let section = section(transport);
        fcm.check_ranges(&section)?;
        if fcm.credentials_file.is_none() && fcm.project_id.is_none() {
            let why = "is not set, and no `credentials_file` names a project";
            return Err(SettingError::bad(format!("{section}.project_id"), why).into());
        }
    }
    let (default, categories) = settings.transport.transports()?;
    let missing = std::iter::once(&default)
        .chain(categories.values())
        .find(|transport| **transport != Transport::Ccs && !configured.iter().any(|(known, _)| known == *transport));
    match missing {
        None => Ok(()),
        Some(transport @ Transport::FcmV1(Some(_))) => {
            let why = format!("names `{transport}`, but there is no section `[{}]`", section(transport));
            Err(SettingError::bad("transport", why).into())
        }
        Some(_) => {
            let why = "`[transport]` sends messages by fcm-v1 (or set GOOGLE_APPLICATION_CREDENTIALS in the environment, or \
                       `fcm.project_id` on a machine of Google's)";
            Err(SettingError::missing("fcm.credentials_file", why).into())
        }
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

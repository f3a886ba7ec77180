//! Why the bridge could not start, or ended.

#[cfg(feature = "broker")]
use crate::broker::{BrokerError, TlsError};
use crate::chat::transport::Transport;
#[cfg(feature = "broker")]
use crate::config::Settings;
use crate::config::{ConfigError, section};
use crate::mqtt::ClientError;
use crate::ops::health::ListenError;
#[cfg(feature = "rumqttd")]
use crate::rumqttd::RumqttdError;
use crate::store::{CloseError, OpenError, StoreError};
use std::path::{Path, PathBuf};

/// Why the bridge could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store could not be opened.
    #[error("[store] path: {}{fault}", unnamed(.path, .fault))]
    Open {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        fault: OpenError,
    },
    /// The folder of the store could not be made.
    #[error("cannot make the folder {} for the store ([store] path)", .path.display())]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The operator's port could not be opened.
    #[error(transparent)]
    Ops(#[from] ListenError),
    /// The embedded broker could not start, or failed.
    #[cfg(feature = "broker")]
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A file of the embedded broker's cannot be used.
    #[cfg(feature = "broker")]
    #[error("`{key}`: {fault}")]
    BrokerFile {
        /// The key that names it.
        key: String,
        /// Why.
        fault: BrokerError,
    },
    /// A port of the embedded broker's cannot be opened.
    #[cfg(feature = "broker")]
    #[error("`{key}`: {fault}")]
    BrokerListen {
        /// The key that names it.
        key: &'static str,
        /// Why.
        #[source]
        fault: BrokerError,
    },
    /// rumqttd could not start, or ended.
    #[cfg(feature = "rumqttd")]
    #[error(transparent)]
    Rumqttd(#[from] RumqttdError),
    /// The folder of the store is there, or the one that it would be made in, and nothing can be written there.
    #[error("nothing can be written in the folder {}, where the store is to be ([store] path)", .path.display())]
    FolderClosed {
        /// Which folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The client of the external broker cannot work as configured.
    #[error("`{key}`: {0}", key = key_of(.0))]
    Mqtt(#[from] ClientError),
    /// A transport cannot work as configured.
    #[error("[{section}] {fault}")]
    Transport {
        /// The section of its settings.
        section: String,
        /// Why; it begins with the setting.
        fault: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store's writer ended under the windows.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store did not end well.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// A part ended although nobody asked it to.
    #[error("the {0} ended early")]
    Ended(&'static str),
    /// The system refused something that every program needs.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// A part of the program panicked; its message is in the log.
    #[error("a part of the bridge failed: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// The path of a store with a colon behind it, where the fault does not name it.
fn unnamed(path: &Path, fault: &OpenError) -> String {
    let path = path.display().to_string();
    if fault.to_string().contains(&path) { String::new() } else { format!("{path}: ") }
}

/// The key that a fault of the client of an external broker is about.
fn key_of(fault: &ClientError) -> &'static str {
    match fault {
        ClientError::Url(_)
        | ClientError::Scheme(_)
        | ClientError::NoHost
        | ClientError::CredentialsInUrl
        | ClientError::PathInUrl
        | ClientError::WebSocketUrl
        | ClientError::Tls(_) => "mqtt.url",
        ClientError::PasswordAlone => "mqtt.username",
        ClientError::NoClientId => "mqtt.client_id",
        ClientError::CaWithoutTls
        | ClientError::CaFile { .. }
        | ClientError::CaCertificate { .. }
        | ClientError::CaEmpty { .. } => "mqtt.ca_file",
        ClientError::PasswordFile { .. } => "mqtt.password_file",
    }
}

impl AppError {
    /// Whether the configuration is at fault, rather than the world.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Config(_) | Self::Mqtt(_) | Self::Transport { .. } => true,
            #[cfg(feature = "broker")]
            Self::BrokerFile { .. } => true,
            #[cfg(feature = "broker")]
            Self::Broker(BrokerError::Identity(_) | BrokerError::Tls(_) | BrokerError::NoCertificate) => true,
            _ => false,
        }
    }

    /// Names the key of the file or address that `fault` is about. Its texts name the file or address alone.
    #[cfg(feature = "broker")]
    pub(super) fn broker(settings: &Settings, fault: BrokerError) -> Self {
        if let BrokerError::Taken(at) | BrokerError::Listen { address: at, .. } = fault {
            return match settings.broker.listen.addresses().find(|(_, address)| *address == at) {
                Some((key, _)) => Self::BrokerListen { key, fault },
                None => fault.into(),
            };
        }
        if !matches!(fault, BrokerError::Identity(_) | BrokerError::Tls(_)) {
            return fault.into();
        }
        let told = fault.to_string();
        let files = settings.broker.files_in_use().into_iter().map(|(key, file)| (key, file.display().to_string()));
        // One path may be the beginning of another.
        match files.filter(|(_, file)| told.contains(file)).max_by_key(|(_, file)| file.len()) {
            Some((key, _)) => Self::BrokerFile { key, fault },
            // Neither file alone is wrong.
            None if matches!(fault, BrokerError::Tls(TlsError::Unusable(_))) => {
                Self::BrokerFile { key: "broker.cert_file` and `broker.key_file".to_owned(), fault }
            }
            None => fault.into(),
        }
    }

    pub(super) fn transport(transport: &Transport, fault: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Transport { section: section(transport), fault: Box::new(fault) }
    }
}

#[cfg(all(test, feature = "broker"))]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_with_its_key() {
        let mut settings = Settings::default();
        let (tcp, ws) = ("127.0.0.1:7".parse().unwrap(), "127.0.0.1:8".parse().unwrap());
        (settings.broker.listen.tcp, settings.broker.listen.ws) = (Some(tcp), Some(ws));
        let told = AppError::broker(&settings, BrokerError::Taken(ws));
        assert_eq!(told.to_string(), "`broker.listen_ws`: 127.0.0.1:8 is taken by another process");
        assert!(!told.is_configuration());
    }

    #[test]
    fn what_is_wrong_with_the_url_or_the_user_of_an_external_broker_is_told_with_its_key() {
        for (fault, key) in [
            (ClientError::NoHost, "`mqtt.url`: "),
            (ClientError::PasswordAlone, "`mqtt.username`: "),
            (ClientError::CaWithoutTls, "`mqtt.ca_file`: "),
        ] {
            let told = AppError::from(fault);
            assert!(told.to_string().starts_with(key) && told.is_configuration(), "{told}");
        }
    }

    #[test]
    fn a_store_that_does_not_open_is_named_once() {
        let path = PathBuf::from("/data/bridge.db");
        let told = |fault| AppError::Open { path: path.clone(), fault }.to_string();
        let refused = OpenError::Refused { reason: "disk I/O error".to_owned() };
        assert!(told(refused).starts_with("[store] path: /data/bridge.db: the store could not be opened: "));
        assert_eq!(told(OpenError::Foreign(path.clone())).matches("/data/bridge.db").count(), 1);
    }
}

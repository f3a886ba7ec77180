//! What the client of an external broker is told, and the check of it before anything is opened.

use super::tls;
use crate::chat::principal::Senders;
use crate::chat::topic::CLIENT_FILTERS;
use crate::ops::files::read_secret;
use crate::ops::setting::settings;
use crate::secret::Secret;
use bytes::Bytes;
use rumqttc_v5::Broker;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls;
use url::{Host, Url};

settings! {
    /// How to reach an external broker, and what to ask of it.
    pub struct ClientConfig {
        /// `mqtt://`, `mqtts://`, `ws://` or `wss://`, with a host. Without a port: 1883, 8883, 80, 443.
        pub url: String = "mqtt://127.0.0.1:1883".to_owned();
        /// Which MQTT version to speak.
        pub version: Version = Version::V5;
        /// Who the bridge is, for the broker's access rules.
        pub username: Option<String> = None;
        /// The password that goes with it.
        pub password: Option<Secret> = None;
        /// Where the password is read again before each log-in.
        pub password_file: Option<PathBuf> = None;
        /// The broker keeps the bridge's session under this name: fixed, and used by nobody else.
        pub client_id: String = "fcm-mqtt-bridge".to_owned();
        /// Largest packet that is read with MQTT 3.1.1, in bytes. A larger one ends the connection, and comes again with the next
        /// one. (MQTT 5 brokers are told [`ClientLimits::max_packet_bytes`], and send nothing larger.)
        pub max_packet_bytes: u32 = 64 * 1024 * 1024, in 1_048_576..=268_435_455;
        /// Certificate authorities to trust instead of the platform's, PEM.
        pub ca_file: Option<PathBuf> = None;
        /// Which key of the configuration names the URL, for log lines.
        #[serde(skip)] pub url_key: &'static str = "mqtt.url";
        /// Topic filters to subscribe, each with QoS 1.
        #[serde(skip)] pub filters: Vec<String> = CLIENT_FILTERS.map(str::to_owned).to_vec();
        /// Filters that an earlier release subscribed to under this client id: taken back, because a broker may deliver
        /// a message once for each filter that matches. They stand in where the broker refuses [`CLIENT_FILTERS`].
        #[serde(skip)] pub former_filters: Vec<String> = Vec::new();
        /// Filters that other settings may have subscribed to under this client id: taken back as well.
        #[serde(skip)] pub unused_filters: Vec<String> = Vec::new();
        /// What the broker publishes when the connection ends without a DISCONNECT.
        #[serde(skip)] pub will: Option<Will> = None;
        /// Who publishes what comes from the broker.
        #[serde(skip)] pub senders: Senders = Senders::Anonymous;
        /// Limits with names.
        #[serde(skip)] pub limits: ClientLimits = ClientLimits::default();
    }
}

/// An MQTT version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// MQTT 5.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

/// A last will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// The topic, whole.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// Quality of service, 0 or 1.
    pub qos: u8,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

/// Every limit of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLimits {
    /// Largest MQTT packet that is taken whole. MQTT 5 brokers are told, and drop what is larger; with MQTT 3.1.1 it is read up to
    /// [`ClientConfig::max_packet_bytes`], and cut.
    pub max_packet_bytes: u32,
    /// Most publications without a PUBACK. The broker may allow fewer (MQTT 5 receive maximum).
    pub inflight: u16,
    /// A PINGREQ goes out after this much silence; a dead connection is noticed within twice this time.
    pub keep_alive: Duration,
    /// For TCP, TLS, WebSocket and CONNACK together.
    pub connect: Duration,
    /// For the answer to a SUBSCRIBE or PUBLISH; after that the connection counts as dead.
    pub answer: Duration,
    /// Pause before the first new attempt to connect. It doubles from attempt to attempt.
    pub retry_min: Duration,
    /// The longest pause, and the one after a refusal that only an operator can mend.
    pub retry_max: Duration,
    /// How long the broker keeps the session of an absent bridge (MQTT 5).
    pub session_expiry: Duration,
    /// While a topic has no reader, how often the bridge is told to try again: MQTT does not say when one comes.
    pub reader_probe: Duration,
    /// How long a publication that the broker refuses is held before it is told as lost (and tried again).
    pub refusal_pause: Duration,
    /// How long after a message was left unacknowledged the client reconnects: only then brokers send it again.
    pub redelivery: Duration,
    /// For outstanding publications, and then for the DISCONNECT, at the end.
    pub grace: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            max_packet_bytes: 1024 * 1024,
            inflight: 100,
            keep_alive: Duration::from_secs(30),
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(30),
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            reader_probe: Duration::from_secs(5),
            refusal_pause: Duration::from_secs(5),
            redelivery: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

/// What is wrong with a [`ClientConfig`]. It is the operator's to mend; nothing was opened.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not a URL.
    #[error("the broker's URL cannot be read: {0}")]
    Url(#[from] url::ParseError),
    /// A scheme that is not MQTT's.
    #[error("the broker's URL begins with none of mqtt://, mqtts://, ws:// and wss://")]
    Scheme(String),
    /// Nowhere to connect to.
    #[error("the broker's URL names no host")]
    NoHost,
    /// Secrets in a URL end in logs.
    #[error("the broker's URL carries a user name or password; they have settings of their own")]
    CredentialsInUrl,
    /// MQTT over TCP knows no paths.
    #[error("the broker's URL has a path, which only ws:// and wss:// know")]
    PathInUrl,
    /// A WebSocket URL that HTTP cannot ask for.
    #[error("the broker's URL cannot be used for a WebSocket")]
    WebSocketUrl,
    /// MQTT 3.1.1, 3.1.2.9: no password without a user name.
    #[error("there is a password but no user name")]
    PasswordAlone,
    /// A persistent session needs a name.
    #[error("the client id is empty; the broker keeps the session under it")]
    NoClientId,
    /// Authorities for a connection without TLS: most likely the URL is not the intended one.
    #[error("there is a CA file, but the URL asks for no TLS (mqtts:// or wss://)")]
    CaWithoutTls,
    /// The CA file cannot be opened or holds something broken.
    #[error("the CA file {} cannot be used: {source}", path.display())]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate that TLS cannot use as an authority.
    #[error("the CA file {} has a certificate that is no authority: {source}", path.display())]
    CaCertificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// Nothing to trust.
    #[error("the CA file {} has no certificate in it", path.display())]
    CaEmpty {
        /// Which file.
        path: PathBuf,
    },
    /// TLS itself cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
    /// The password cannot be read again.
    #[error("`mqtt.password_file` names {}: {source}", path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl ClientConfig {
    /// Checks the whole configuration. Reads the CA file, opens nothing else.
    ///
    /// # Errors
    ///
    /// The first thing found wrong.
    pub fn check(&self) -> Result<(), ClientError> {
        Plan::new(self.clone()).map(drop)
    }

    fn check_names(&self) -> Result<(), ClientError> {
        if self.client_id.is_empty() {
            return Err(ClientError::NoClientId);
        }
        if self.password.is_some() && self.username.is_none() {
            return Err(ClientError::PasswordAlone);
        }
        Ok(())
    }
}

impl ClientLimits {
    /// The session expiry as it goes over the wire: whole seconds in 32 bits.
    pub(super) fn session_expiry_secs(&self) -> u32 {
        u32::try_from(self.session_expiry.as_secs()).unwrap_or(u32::MAX)
    }

    /// The keep-alive as it goes over the wire: whole seconds in 16 bits.
    pub(super) fn keep_alive_secs(&self) -> u16 {
        u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX)
    }
}

/// A configuration that was checked: whatever follows of it can only fail on the wire.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: ClientConfig,
    pub(super) endpoint: Endpoint,
    /// Scheme, host and port, and the key that names them, for the log: a path or query may carry a secret.
    pub(super) address: String,
}

/// Where to connect to, and how.
#[derive(Clone)]
pub(super) enum Endpoint {
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16, tls: Arc<rustls::ClientConfig> },
    Ws { url: String },
    Wss { url: String, tls: Arc<rustls::ClientConfig> },
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp { .. } => "Tcp",
            Self::Tls { .. } => "Tls",
            Self::Ws { .. } => "Ws",
            Self::Wss { .. } => "Wss",
        })
    }
}

impl Plan {
    pub(super) fn new(config: ClientConfig) -> Result<Self, ClientError> {
        config.check_names()?;
        let url = Url::parse(&config.url)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ClientError::CredentialsInUrl);
        }
        // Without the brackets that a URL puts around an IPv6 address: the crate adds `:port` itself, and the name in
        // a certificate has none.
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return Err(ClientError::NoHost),
        };
        let ca_file = config.ca_file.as_deref();
        if ca_file.is_some() && matches!(url.scheme(), "mqtt" | "ws") {
            return Err(ClientError::CaWithoutTls);
        }
        if matches!(url.scheme(), "mqtt" | "mqtts") && !matches!(url.path(), "" | "/") {
            return Err(ClientError::PathInUrl);
        }
        let (endpoint, port) = match url.scheme() {
            "mqtt" => (Endpoint::Tcp { host, port: url.port().unwrap_or(1883) }, 1883),
            "mqtts" => (Endpoint::Tls { host, port: url.port().unwrap_or(8883), tls: tls::client(ca_file)? }, 8883),
            "ws" => (Endpoint::Ws { url: websocket(&url)? }, 80),
            "wss" => (Endpoint::Wss { url: websocket(&url)?, tls: tls::client(ca_file)? }, 443),
            other => return Err(ClientError::Scheme(other.to_owned())),
        };
        let address = format!(
            "{}://{}:{} ({})",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            url.port().unwrap_or(port),
            config.url_key
        );
        Ok(Self { config, endpoint, address })
    }

    /// The same with the files as they are now: the password, and the certificate authorities.
    pub(super) fn again(mut config: ClientConfig) -> Result<Self, ClientError> {
        if let Some(path) = &config.password_file {
            let failed = |source| ClientError::PasswordFile { path: path.clone(), source };
            config.password = Some(Secret::new(read_secret(path).map_err(failed)?));
        }
        Self::new(config)
    }

    /// How many requests the library queues: one more than can be in flight, so that handing over a publication never
    /// waits.
    pub(super) fn requests(&self) -> usize {
        usize::from(self.config.limits.inflight) + 1
    }
}

/// The library reads the URL once more, by stricter rules.
fn websocket(url: &Url) -> Result<String, ClientError> {
    let mut plain = url.clone();
    plain.set_scheme("ws").map_err(|()| ClientError::WebSocketUrl)?;
    Broker::websocket(plain).map_err(|_| ClientError::WebSocketUrl)?;
    Ok(url.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> ClientConfig {
        ClientConfig { url: url.into(), ..ClientConfig::default() }
    }

    fn refused(change: impl FnOnce(&mut ClientConfig)) -> ClientError {
        let mut config = config("mqtt://broker.example");
        change(&mut config);
        config.check().unwrap_err()
    }

    #[test]
    fn every_scheme_has_its_port() {
        for (url, address) in [
            ("mqtt://broker.example", "mqtt://broker.example:1883"),
            ("mqtts://broker.example", "mqtts://broker.example:8883"),
            ("ws://broker.example/mqtt?key=hidden", "ws://broker.example:80"),
            ("wss://broker.example:8084/mqtt", "wss://broker.example:8084"),
            ("mqtt://[::1]:1884/", "mqtt://[::1]:1884"),
        ] {
            assert_eq!(Plan::new(config(url)).unwrap().address, format!("{address} (mqtt.url)"));
        }
    }

    #[test]
    fn an_ipv6_address_loses_its_brackets() {
        let plan = Plan::new(config("mqtt://[::1]")).unwrap();
        assert!(matches!(plan.endpoint, Endpoint::Tcp { host, port: 1883 } if host == "::1"));
    }

    #[test]
    fn urls_that_lead_nowhere_are_refused() {
        assert!(matches!(config("broker.example").check(), Err(ClientError::Url(_))));
        assert!(matches!(config("http://broker.example").check(), Err(ClientError::Scheme(s)) if s == "http"));
        assert!(matches!(config("mqtt:broker").check(), Err(ClientError::NoHost)));
        assert!(matches!(config("mqtt://broker.example/x").check(), Err(ClientError::PathInUrl)));
    }

    #[test]
    fn credentials_in_the_url_are_refused_and_not_repeated() {
        let error = config("mqtt://bridge:hunter2@broker.example").check().unwrap_err();
        assert!(matches!(error, ClientError::CredentialsInUrl));
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn names_are_checked() {
        assert!(matches!(refused(|c| c.client_id.clear()), ClientError::NoClientId));
        assert!(matches!(refused(|c| c.password = Some(Secret::new("x"))), ClientError::PasswordAlone));
    }

    #[test]
    fn the_ca_file_is_read_before_anything_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let check = |url: &str| ClientConfig { ca_file: Some(path.clone()), ..config(url) }.check();
        assert!(matches!(check("mqtts://broker.example"), Err(ClientError::CaFile { .. })));
        std::fs::write(&path, "no certificate here\n").unwrap();
        assert!(matches!(check("mqtts://broker.example"), Err(ClientError::CaEmpty { .. })));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(check("wss://broker.example"), Err(ClientError::CaCertificate { .. })));
        assert!(matches!(check("mqtt://broker.example"), Err(ClientError::CaWithoutTls)));
    }

    #[test]
    fn the_password_is_not_shown() {
        let config = ClientConfig { password: Some(Secret::new("hunter2")), ..config("mqtt://broker.example") };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

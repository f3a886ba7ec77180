//! What the client of an external broker is told, and the check of it before anything is opened.

use super::tls;
use crate::chat::principal::Senders;
use crate::ops::files::read_secret;
use crate::secret::Secret;
use bytes::Bytes;
use rumqttc_v5::{Broker, valid_filter, valid_topic};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls;
use url::{Host, Url};

/// How to reach an external broker, and what to ask of it.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `mqtt://`, `mqtts://`, `ws://` or `wss://`, with a host. Without a port: 1883, 8883, 80, 443.
    pub url: String,
    /// Which key of the configuration says so, for log lines.
    pub url_key: &'static str,
    /// Who the bridge is, for the broker's access rules.
    pub username: Option<String>,
    /// The password that goes with it.
    pub password: Option<Secret>,
    /// Where the password is read again before each log-in.
    pub password_file: Option<PathBuf>,
    /// The broker keeps the bridge's session under this name: fixed, and used by nobody else.
    pub client_id: String,
    /// Which MQTT version to speak.
    pub version: Version,
    /// Certificate authorities to trust instead of the platform's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Topic filters to subscribe, each with QoS 1.
    pub filters: Vec<String>,
    /// Filters that an earlier release subscribed to under this client id: taken back, because a broker may deliver a
    /// message once for each filter that matches. They stand in where the broker refuses [`Self::filters`].
    pub former_filters: Vec<String>,
    /// What the broker publishes when the connection ends without a DISCONNECT.
    pub will: Option<Will>,
    /// Who publishes what comes from the broker.
    pub senders: Senders,
    /// Limits with names.
    pub limits: ClientLimits,
}

/// An MQTT version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
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
    /// Largest MQTT packet that is taken. A larger one ends the connection (MQTT 5 brokers do not send it).
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
    /// A bridge that reads nothing.
    #[error("there is no topic filter to subscribe")]
    NoFilter,
    /// Not an MQTT topic filter.
    #[error("`{0}` is not an MQTT topic filter")]
    Filter(String),
    /// Not an MQTT topic name.
    #[error("the will's topic `{0}` is not an MQTT topic")]
    WillTopic(String),
    /// A limit outside of what it can be.
    #[error("the limit `{name}` must be {must}")]
    Limit {
        /// Which limit.
        name: &'static str,
        /// What it may be.
        must: &'static str,
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
        if self.filters.is_empty() {
            return Err(ClientError::NoFilter);
        }
        if let Some(bad) = self.filters.iter().find(|filter| !valid_filter(filter)) {
            return Err(ClientError::Filter(bad.clone()));
        }
        match &self.will {
            Some(will) if will.topic.is_empty() || !valid_topic(&will.topic) => {
                Err(ClientError::WillTopic(will.topic.clone()))
            }
            _ => Ok(()),
        }
    }
}

impl ClientLimits {
    /// The keep-alive as it goes over the wire: whole seconds in 16 bits.
    pub(super) fn keep_alive_secs(&self) -> u16 {
        u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX)
    }

    fn check(&self) -> Result<(), ClientError> {
        let bad = |name, must| Err(ClientError::Limit { name, must });
        if self.max_packet_bytes < 1024 {
            return bad("max_packet_bytes", "1024 at least");
        }
        if self.inflight == 0 {
            return bad("inflight", "1 at least");
        }
        // 0 would switch the pings off, and a dead connection would never be noticed.
        if !(1..=u64::from(u16::MAX)).contains(&self.keep_alive.as_secs()) {
            return bad("keep_alive", "1 to 65535 seconds");
        }
        if self.retry_min.is_zero() || self.retry_min > self.retry_max {
            return bad("retry_min", "above 0 and not above retry_max");
        }
        for (name, limit) in [
            ("connect", self.connect),
            ("answer", self.answer),
            ("reader_probe", self.reader_probe),
            ("refusal_pause", self.refusal_pause),
            ("redelivery", self.redelivery),
        ] {
            if limit.is_zero() {
                return bad(name, "above 0");
            }
        }
        Ok(())
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
        config.limits.check()?;
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
        ClientConfig {
            url: url.into(),
            url_key: "mqtt.url",
            username: None,
            password: None,
            password_file: None,
            client_id: "bridge".into(),
            version: Version::V5,
            ca_file: None,
            filters: vec!["+/self/#".into()],
            former_filters: Vec::new(),
            will: None,
            senders: Senders::Anonymous,
            limits: ClientLimits::default(),
        }
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
        assert!(matches!(refused(|c| c.filters.clear()), ClientError::NoFilter));
        assert!(matches!(refused(|c| c.filters.push("a/#/b".into())), ClientError::Filter(f) if f == "a/#/b"));
        let will = Will { topic: "a/+".into(), payload: Bytes::new(), qos: 1, retain: true };
        assert!(matches!(refused(|c| c.will = Some(will)), ClientError::WillTopic(_)));
    }

    #[test]
    fn limits_are_checked() {
        for (name, change) in [
            ("inflight", (|l| l.inflight = 0) as fn(&mut ClientLimits)),
            ("keep_alive", |l| l.keep_alive = Duration::ZERO),
            ("keep_alive", |l| l.keep_alive = Duration::from_secs(65_536)),
            ("retry_min", |l| l.retry_min = Duration::from_secs(60)),
            ("max_packet_bytes", |l| l.max_packet_bytes = 0),
            ("answer", |l| l.answer = Duration::ZERO),
        ] {
            let error = refused(|c| change(&mut c.limits));
            assert!(matches!(error, ClientError::Limit { name: n, .. } if n == name), "{name}: {error}");
        }
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

//! What can be set, and whether it can work.

use crate::chat::group::GroupDelivery;
use crate::ops::setting::{Hours, Seconds, SettingError, Settings, listen_or_off, settings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

settings! {
    /// `[broker]`: the embedded broker.
    pub struct BrokerConfig {
        /// Which engine.
        pub engine: Engine = Engine::Embedded;
        /// Where to listen.
        #[serde(flatten, skip_deserializing)] pub listen: Listen = Listen::default();
        /// Whether clients may connect without saying who they are. Only if all listeners are on loopback addresses,
        /// and only from there: whoever a proxy says comes from outside is refused.
        pub anonymous: bool = false;
        /// Users, roles and password hashes; `fcm-mqtt-bridge user` writes it.
        pub users_file: Option<PathBuf> = None;
        /// How JSON Web Tokens are checked.
        #[serde(flatten, skip_deserializing)] pub jwt: JwtConfig = JwtConfig::default();
        /// The folder in which earlier releases kept sessions and retained messages, read once.
        pub data: Option<PathBuf> = None;
        /// How long a device whose connection broke still counts as online.
        #[serde(with = "Seconds")]
        "presence_grace_seconds" pub presence_grace: Duration = Duration::from_secs(2), in 0..=3_600;
        /// Whether each device of a chat user is subscribed to the inbox of its user without asking. One that was keeps that
        /// until it unsubscribes or its session ends.
        pub autosubscribe: bool = true;
        /// Where members read what is written in a group.
        #[serde(skip)] pub group_delivery: GroupDelivery = GroupDelivery::Inbox;
        /// Names of BALs beside those of the users file: a token of the role `user` for one of them is refused.
        #[serde(skip)] pub bals: BTreeSet<String> = BTreeSet::new();
        /// The limits.
        #[serde(skip)] pub limits: BrokerLimits = BrokerLimits::default();
    }
}

/// The files of a TLS listener, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Whose client certificates are taken.
    pub client_ca: Option<PathBuf>,
}

/// The engine of the embedded broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The bridge's own, which can be left open. Configurations of earlier releases say `mqtt5`.
    #[serde(alias = "mqtt5")]
    Embedded,
    /// rumqttd, on loopback.
    Rumqttd,
}

settings! {
    /// Where the broker listens. Port 0 takes any free one.
    pub struct Listen {
        /// MQTT over TCP.
        #[serde(with = "listen_or_off")] "listen" pub tcp: Option<SocketAddr> = Some(([127, 0, 0, 1], 1883).into());
        /// MQTT over TLS.
        #[serde(with = "listen_or_off")] "listen_tls" pub tls: Option<SocketAddr> = None;
        /// MQTT over WebSocket, path `/mqtt`.
        #[serde(with = "listen_or_off")] "listen_ws" pub ws: Option<SocketAddr> = None;
        /// MQTT over WebSocket over TLS, path `/mqtt`.
        #[serde(with = "listen_or_off")] "listen_wss" pub wss: Option<SocketAddr> = None;
        /// The certificate chain of `tls` and `wss`, PEM. The files of TLS are read again when they change.
        pub cert_file: Option<PathBuf> = None;
        /// Its private key, PEM.
        pub key_file: Option<PathBuf> = None;
        /// Whose client certificates are taken, PEM. If set, a client must have one.
        pub client_ca_file: Option<PathBuf> = None;
        /// Web pages from these origins may connect (`https://chat.example.com`; `null`: those opened as files, and frames of
        /// any page). Empty: from any. With `anonymous`: those of loopback, and these. Clients that are no browsers send no
        /// origin and are not asked.
        "ws_origins" pub origins: Vec<String> = Vec::new();
        /// Whether a proxy in front says whom it speaks for (PROXY protocol, version 1 or 2), on all listeners.
        pub proxy_protocol: bool = false;
    }
}

settings! {
    /// Which JSON Web Tokens are taken as passwords (RFC 7519): none, if there is no file to check them with. `sub` is the
    /// user, `exp` ends the connection, and `role` is `user` (also without it), `bal` or `admin`.
    pub struct JwtConfig {
        /// HS256: a file with the secret.
        "jwt_secret_file" pub secret_file: Option<PathBuf> = None;
        /// RS256 or ES256: a file with the public key, PEM.
        "jwt_key_file" pub key_file: Option<PathBuf> = None;
        /// RS256 or ES256: a file with a JSON Web Key Set (RFC 7517).
        "jwt_jwks_file" pub jwks_file: Option<PathBuf> = None;
        /// What `aud` must hold, if set.
        "jwt_audience" pub audience: Option<String> = None;
        /// What `iss` must be, if set.
        "jwt_issuer" pub issuer: Option<String> = None;
    }
}

settings! {
    /// Limits of the embedded broker. Whatever clients do, memory stays within them.
    pub struct BrokerLimits {
        /// Connections at a time, over all listeners; more wait in the listener's queue.
        "broker_connections" pub connections: usize = 20_000, in 1..=1_000_000;
        /// Connections at a time from one address.
        "broker_connections_per_address" pub connections_per_address: usize = 10_000, in 1..=1_000_000;
        /// Connections at a time of one user.
        "broker_connections_per_user" pub connections_per_user: usize = 1_000, in 1..=1_000_000;
        /// How long a connection may take from its first byte to CONNECT: PROXY header, TLS, WebSocket and CONNECT
        /// together.
        #[serde(with = "Seconds")]
        "broker_connect_seconds" pub connect_timeout: Duration = Duration::from_secs(10), in 1..=300;
        /// Failed log-ins from one address within a minute; what comes beyond is refused unchecked.
        "broker_login_failures_per_minute" pub login_failures_per_minute: u32 = 60, in 1..=1_000_000;
        /// The biggest packet of a client, and the biggest retained message, in bytes. A payload over its limit is
        /// answered with `TOO_BIG`, not with a closed connection: packets may be twice as large at least.
        "broker_packet_bytes" pub packet_bytes: usize = 262_144, in 1..=BrokerLimits::PACKET_MAX;
        /// The longest topic or filter, in bytes.
        "broker_topic_bytes" pub topic_bytes: usize = 1_024, in 64..=65_535;
        /// Levels of a topic or filter; never more than 128, whatever is set.
        "broker_topic_levels" pub topic_levels: usize = 16, in 4..=1_024;
        /// Messages of one chat user per second, over all of its connections; who sends more is read more slowly. BALs are held
        /// up by the disk alone.
        "broker_publish_rate" pub publish_rate: u32 = 200, in 1..=1_000_000;
        /// Packets of each connection of a chat user per second, likewise.
        "broker_packet_rate" pub packet_rate: u32 = 1_000, in 1..=1_000_000;
        /// Their bytes, and those of the user's messages over all connections.
        "broker_byte_rate" pub byte_rate: u32 = 4_000_000, in 1_024..=4_294_967_295;
        /// The longest keep alive of an MQTT 5 client, in seconds: one that asks for more, or for none, is told this
        /// one. 0: as long as each likes.
        "broker_keep_alive_seconds" pub keep_alive: u16 = 0, in 0..=65_535;
        /// User properties of one packet of a client, and of a will.
        "broker_user_properties" pub user_properties: usize = 100, in 0..=65_535;
        /// Subscriptions of one client.
        "broker_subscriptions" pub subscriptions: usize = 1_000, in 1..=1_000_000;
        /// Messages sent to one client that it has not acknowledged.
        "broker_inflight" pub inflight: u16 = 64, in 1..=65_535;
        /// Messages of clients that wait for one session, in memory or on disk: further ones are refused to it.
        /// Documents of the bridge do not count.
        "broker_queued_messages" pub queued_messages: usize = 10_000, in 1..=10_000_000;
        /// The same, in bytes.
        "broker_queued_bytes" pub queued_bytes: usize = 4_194_304, in 1..=u64::MAX;
        /// Sessions, connected or not.
        "broker_sessions" pub sessions: usize = 50_000, in 1..=10_000_000;
        /// Those of one user.
        "broker_sessions_per_user" pub sessions_per_user: usize = 1_000, in 1..=10_000_000;
        /// Those of a chat user that outlive their connections: for a further one the one that has been away longest ends.
        "broker_user_kept_sessions" pub user_kept_sessions: usize = 10, in 1..=10_000_000;
        /// The longest time for which a session is kept without a connection.
        #[serde(with = "Hours")]
        "broker_session_hours" pub session_expiry: Duration = Duration::from_secs(7 * 24 * 3_600), in 1..=8_760;
        /// Retained messages.
        "broker_retained_messages" pub retained_messages: usize = 100_000, in 1..=10_000_000;
        /// Those of one user.
        "broker_retained_messages_per_user" pub retained_messages_per_user: u64 = 10_000, in 1..=10_000_000;
        /// Their bytes: payloads and properties.
        "broker_retained_bytes_per_user" pub retained_bytes_per_user: u64 = 16_000_000, in 1_024..=u64::MAX;
        /// Acknowledgements held back per connection. A client that sends more is not read until some are released;
        /// MQTT 5 clients are told the number.
        #[serde(skip)] pub held_acks: u16 = 256;
    }
}

impl BrokerLimits {
    /// The biggest packet that MQTT knows.
    pub const PACKET_MAX: u64 = 268_435_455;
}

impl BrokerConfig {
    /// Checks whether somebody can connect, and whether only those can who may.
    ///
    /// # Errors
    /// Names the key that does not fit to the others.
    pub fn check(&self) -> Result<(), SettingError> {
        let listen = &self.listen;
        if listen.addresses().next().is_none() {
            return Err(SettingError::bad("broker.listen", "all listeners are off; nobody could connect"));
        }
        if let Some((key, address)) = self.exposed() {
            let why = format!(
                "{address} can be reached from outside, and `broker.anonymous` is accepted only on loopback (127.0.0.1 or \
                 [::1]); for others set `broker.users_file`"
            );
            return Err(SettingError::bad(key, why));
        }
        if !self.anonymous && self.users_file.is_none() && !self.jwt.is_used() {
            let why = "nobody could log in; make the file with `fcm-mqtt-bridge user add`, or set one of \
                       `broker.jwt_secret_file`, `broker.jwt_key_file` and `broker.jwt_jwks_file`, or, on loopback only, \
                       `broker.anonymous = true`";
            return Err(SettingError::missing("broker.users_file", why));
        }
        for (key, file) in [("broker.cert_file", &listen.cert_file), ("broker.key_file", &listen.key_file)] {
            if listen.needs_certificate() && file.is_none() {
                return Err(SettingError::missing(key, "`broker.listen_tls` and `broker.listen_wss` need it"));
            }
        }
        Ok(())
    }

    /// A listener that everybody who reaches it could use without a password.
    pub fn exposed(&self) -> Option<(&'static str, SocketAddr)> {
        self.listen.addresses().find(|(_, address)| self.anonymous && !address.ip().is_loopback())
    }

    /// The files that the broker reads, by their keys.
    pub fn files_in_use(&self) -> Vec<(String, PathBuf)> {
        let tls: Vec<_> = self.listen.files("broker").into_iter().map(|(key, _)| key).collect();
        let mut files = self.files("broker");
        files.retain(|(key, _)| self.listen.needs_certificate() || !tls.contains(key));
        files
    }

    /// What the engine rumqttd cannot do is refused, not ignored.
    ///
    /// # Errors
    /// Names the first such key.
    pub fn check_rumqttd(&self) -> Result<(), SettingError> {
        if cfg!(not(feature = "rumqttd")) {
            let why = "this build has no rumqttd engine; build with `--features rumqttd`";
            return Err(SettingError::bad("broker.engine", why));
        }
        let [set, usual] = [self, &Self::default()].map(|config| serde_json::to_value(config).unwrap_or_default());
        let own = ["engine", "listen", "anonymous", "ws_origins", "presence_grace_seconds"];
        let mut beyond = set.as_object().into_iter().flatten().filter(|(key, _)| !own.contains(&key.as_str()));
        if let Some((key, _)) = beyond.find(|(key, value)| **value != usual[key.as_str()]) {
            let why = "the engine rumqttd has no such thing: it takes everybody, on `broker.listen` alone, and keeps \
                       everything in memory; leave it out, or use `broker.engine = \"embedded\"`";
            return Err(SettingError::bad(format!("broker.{key}"), why));
        }
        let (key, why) = match self.listen.tcp {
            None => ("broker.listen", "is off, and the engine rumqttd has no other listener".to_owned()),
            Some(address) if !address.ip().is_loopback() => {
                let why = "the engine rumqttd has no access rules, so it listens on loopback (127.0.0.1 or [::1]) only";
                ("broker.listen", format!("{address} can be reached from outside; {why}"))
            }
            Some(_) if !self.anonymous => {
                let why = "must be true with the engine rumqttd, which has no access rules: everybody on this machine may \
                           connect, read and write everything";
                ("broker.anonymous", why.to_owned())
            }
            Some(_) => return Ok(()),
        };
        Err(SettingError::bad(key, why))
    }
}

impl Listen {
    /// MQTT over TCP only.
    pub fn tcp(address: SocketAddr) -> Self {
        Self { tcp: Some(address), ..Self::default() }
    }

    /// The open listeners, by their keys.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> + use<> {
        let Self { tcp, tls, ws, wss, .. } = *self;
        let all =
            [("broker.listen", tcp), ("broker.listen_tls", tls), ("broker.listen_ws", ws), ("broker.listen_wss", wss)];
        all.into_iter().filter_map(|(key, address)| Some((key, address?)))
    }

    /// The files for TLS, if there are a certificate and a key.
    pub fn identity(&self) -> Option<TlsFiles> {
        let (cert, key) = self.cert_file.clone().zip(self.key_file.clone())?;
        Some(TlsFiles { cert, key, client_ca: self.client_ca_file.clone() })
    }

    /// Whether a listener speaks TLS.
    pub fn needs_certificate(&self) -> bool {
        self.tls.or(self.wss).is_some()
    }
}

impl JwtConfig {
    /// Whether tokens are taken.
    pub fn is_used(&self) -> bool {
        self.secret_file.is_some() || self.key_file.is_some() || self.jwks_file.is_some()
    }
}

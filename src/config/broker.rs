//! `[broker]`.

use super::address::address;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[broker]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Broker {
    /// Which engine.
    pub engine: Engine,
    /// MQTT over TCP.
    pub listen: Listen,
    /// MQTT over TLS.
    pub listen_tls: Listen,
    /// MQTT over WebSocket.
    pub listen_ws: Listen,
    /// MQTT over WebSocket over TLS.
    pub listen_wss: Listen,
    /// Certificate chain of the TLS listeners, PEM.
    pub cert_file: Option<PathBuf>,
    /// Their private key, PEM.
    pub key_file: Option<PathBuf>,
    /// Whose client certificates the TLS listeners take, PEM; without it they ask for none.
    pub client_ca_file: Option<PathBuf>,
    /// Origins of web pages that may connect; none means all.
    pub ws_origins: Vec<String>,
    /// A proxy in front says whom it speaks for.
    pub proxy_protocol: bool,
    /// Anybody may connect. Accepted only on loopback.
    pub anonymous: bool,
    /// Users, roles and password hashes; `fcm-mqtt-bridge user` writes it.
    pub users_file: Option<PathBuf>,
    /// The secret of HS256 tokens.
    pub jwt_secret_file: Option<PathBuf>,
    /// The public key of RS256 or ES256 tokens, PEM.
    pub jwt_key_file: Option<PathBuf>,
    /// The public keys of RS256 or ES256 tokens, as a JSON Web Key Set.
    pub jwt_jwks_file: Option<PathBuf>,
    /// What `aud` of a token must hold.
    pub jwt_audience: Option<String>,
    /// What `iss` of a token must be.
    pub jwt_issuer: Option<String>,
    /// Folder in which earlier releases kept sessions and retained messages, read once; without it, `broker` beside the
    /// store's file.
    pub data: Option<PathBuf>,
    /// How long a device whose connection broke still counts as online, seconds.
    pub presence_grace_seconds: u64,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            engine: Engine::Embedded,
            listen: Listen::At(([127, 0, 0, 1], 1883).into()),
            listen_tls: Listen::Off,
            listen_ws: Listen::Off,
            listen_wss: Listen::Off,
            cert_file: None,
            key_file: None,
            client_ca_file: None,
            ws_origins: Vec::new(),
            proxy_protocol: false,
            anonymous: false,
            users_file: None,
            jwt_secret_file: None,
            jwt_key_file: None,
            jwt_jwks_file: None,
            jwt_audience: None,
            jwt_issuer: None,
            data: None,
            presence_grace_seconds: 2,
        }
    }
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

/// Where something listens, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// Nowhere.
    Off,
    /// On this address and port.
    At(SocketAddr),
}

impl Listen {
    /// The address, if there is one.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "off" => Ok(Self::Off),
            text => address(text).map(Self::At).map_err(|wanted| format!("is not \"off\", and else it {wanted}")),
        }
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        match listen {
            Listen::Off => "off".to_owned(),
            Listen::At(address) => address.to_string(),
        }
    }
}

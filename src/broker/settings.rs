//! What can be set, and whether it can work.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::BrokerError;

/// Settings of the embedded broker.
#[derive(Debug, Clone, Default)]
pub struct BrokerConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Whether clients may connect without saying who they are. Only if all listeners are on loopback addresses, and only
    /// from there: whoever a proxy says comes from outside is refused.
    pub anonymous: bool,
    /// The users file. See [`identity`](super::identity).
    pub users_file: Option<PathBuf>,
    /// How JSON Web Tokens are checked; `None` takes none.
    pub jwt: Option<JwtConfig>,
    /// Names of BALs beside those of the users file: a token of the role `user` for one of them is refused.
    pub bals: BTreeSet<String>,
    /// The folder in which earlier releases kept sessions and retained messages: they are imported into the store once.
    pub data: Option<PathBuf>,
    /// The limits.
    pub limits: BrokerLimits,
}

/// Where the broker listens. Port 0 takes any free one.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// MQTT over TCP.
    pub tcp: Option<SocketAddr>,
    /// MQTT over TLS.
    pub tls: Option<SocketAddr>,
    /// MQTT over WebSocket, path `/mqtt`.
    pub ws: Option<SocketAddr>,
    /// MQTT over WebSocket over TLS, path `/mqtt`.
    pub wss: Option<SocketAddr>,
    /// Certificate and key, for `tls` and `wss`.
    pub identity: Option<TlsFiles>,
    /// Web pages from these origins may connect (`https://chat.example.com`); empty: from any. Clients that are no
    /// browsers send no origin and are not asked.
    pub origins: Vec<String>,
    /// Whether a proxy in front says whom it speaks for (PROXY protocol, version 1 or 2), on all listeners.
    pub proxy_protocol: bool,
}

impl Listen {
    /// MQTT over TCP only.
    pub fn tcp(address: SocketAddr) -> Self {
        Self { tcp: Some(address), ..Self::default() }
    }
}

/// The files of a TLS listener, PEM. Read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Whose client certificates are taken. If set, a client must have one.
    pub client_ca: Option<PathBuf>,
}

/// Which JSON Web Tokens are taken as passwords (RFC 7519). `sub` is the user, `exp` ends the connection, and `role`
/// is `user` (also without it), `bal` or `admin`.
#[derive(Debug, Clone, Default)]
pub struct JwtConfig {
    /// HS256: a file with the secret.
    pub secret_file: Option<PathBuf>,
    /// RS256 or ES256: a file with the public key, PEM.
    pub key_file: Option<PathBuf>,
    /// RS256 or ES256: a file with a JSON Web Key Set (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// What `aud` must hold, if set.
    pub audience: Option<String>,
    /// What `iss` must be, if set.
    pub issuer: Option<String>,
}

/// Limits of the embedded broker. Whatever clients do, memory stays within them.
#[derive(Debug, Clone)]
pub struct BrokerLimits {
    /// Connections at a time, over all listeners; more wait in the listener's queue.
    pub connections: usize,
    /// Connections at a time from one address.
    pub connections_per_address: usize,
    /// Connections at a time of one user.
    pub connections_per_user: usize,
    /// How long a connection may take from its first byte to CONNECT: PROXY header, TLS, WebSocket and CONNECT together.
    pub connect_timeout: Duration,
    /// Failed log-ins from one address within a minute; what comes beyond is refused unchecked.
    pub login_failures_per_minute: u32,
    /// The biggest packet of a client, and the biggest retained message, in bytes.
    pub packet_bytes: usize,
    /// The longest topic or filter, in bytes.
    pub topic_bytes: usize,
    /// Levels of a topic or filter, the `$share/{group}/` of a shared one not counted.
    pub topic_levels: usize,
    /// Messages of one chat user's connection per second; who sends more is read more slowly. BALs are held up by the
    /// disk alone.
    pub publish_rate: u32,
    /// Acknowledgements held back per connection. A client that sends more is not read until some are released; MQTT 5
    /// clients are told the number.
    pub held_acks: u16,
    /// Sessions, connected or not.
    pub sessions: usize,
    /// Those of one user.
    pub sessions_per_user: usize,
    /// The longest time for which a session is kept without a connection.
    pub session_expiry: Duration,
    /// Subscriptions of one client.
    pub subscriptions: usize,
    /// Messages sent to one client that it has not acknowledged.
    pub inflight: u16,
    /// Messages of clients that wait for one session, in memory or on disk: further ones are refused to it. Documents of
    /// the bridge do not count.
    pub queued_messages: usize,
    /// The same, in bytes.
    pub queued_bytes: usize,
    /// Retained messages.
    pub retained_messages: usize,
    /// Those of one user.
    pub retained_messages_per_user: u64,
    /// Their bytes: payloads and properties.
    pub retained_bytes_per_user: u64,
    /// The longest keep alive of an MQTT 5 client, in seconds: one that asks for more, or for none, is told this one. 0: as
    /// long as each likes.
    pub keep_alive: u16,
    /// User properties of one packet of a client, and of a will.
    pub user_properties: usize,
    /// Packets of one chat user's connection per second, as [`Self::publish_rate`]; 0: as many as it likes.
    pub packet_rate: u32,
    /// Their bytes.
    pub byte_rate: u32,
}

impl Default for BrokerLimits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: 10_000,
            connections_per_user: 1_000,
            connect_timeout: Duration::from_secs(10),
            login_failures_per_minute: 60,
            packet_bytes: 256 * 1024,
            topic_bytes: 1_024,
            topic_levels: 16,
            publish_rate: 200,
            held_acks: 256,
            sessions: 50_000,
            sessions_per_user: 1_000,
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            subscriptions: 1_000,
            inflight: 64,
            queued_messages: 10_000,
            queued_bytes: 4 * 1024 * 1024,
            retained_messages: 100_000,
            retained_messages_per_user: 10_000,
            retained_bytes_per_user: 16_000_000,
            keep_alive: 0,
            user_properties: 100,
            packet_rate: 1_000,
            byte_rate: 4_000_000,
        }
    }
}

impl BrokerConfig {
    pub(super) fn check(&self) -> Result<(), BrokerError> {
        let Listen { tcp, tls, ws, wss, .. } = &self.listen;
        let exposed = [tcp, tls, ws, wss].into_iter().flatten().find(|address| !address.ip().is_loopback());
        if let (true, Some(address)) = (self.anonymous, exposed) {
            return Err(BrokerError::Exposed(*address));
        }
        let limits = &self.limits;
        let counts = [
            ("connections", limits.connections),
            ("connections_per_address", limits.connections_per_address),
            ("connections_per_user", limits.connections_per_user),
            ("packet_bytes", limits.packet_bytes),
            ("topic_bytes", limits.topic_bytes),
            ("topic_levels", limits.topic_levels),
            ("held_acks", limits.held_acks.into()),
            ("sessions", limits.sessions),
            ("sessions_per_user", limits.sessions_per_user),
            ("inflight", limits.inflight.into()),
            ("subscriptions", limits.subscriptions),
            ("retained_messages", limits.retained_messages),
            ("queued_messages", limits.queued_messages),
            ("queued_bytes", limits.queued_bytes),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(BrokerError::NoRoom(name)),
            None => Ok(()),
        }
    }
}

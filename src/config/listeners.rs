//! Whether `[broker]` and its limits can work.

use super::check::{ConfigError, bad, within};
use super::{Broker, BrokerKind, Engine, Limits, Listen, Settings};
use std::net::SocketAddr;

/// Longest time for which a broken connection may count as there, in seconds.
const PRESENCE_GRACE_MAX: usize = 3_600;

pub(super) fn check(broker: &Broker) -> Result<(), ConfigError> {
    let open: Vec<_> = listeners(broker).iter().filter_map(|(key, listen)| Some((*key, listen.address()?))).collect();
    if open.is_empty() {
        return Err(bad("broker.listen", "all listeners are off; nobody could connect".into()));
    }
    if broker.anonymous
        && let Some((key, address)) = open.iter().find(|(_, address)| !address.ip().is_loopback())
    {
        let why = format!(
            "{address} can be reached from outside, and `broker.anonymous` is accepted only on loopback (127.0.0.1 or \
             [::1]); for others set `broker.users_file`"
        );
        return Err(bad(key, why));
    }
    if !broker.anonymous && !knows_somebody(broker) {
        return Err(ConfigError::Missing {
            key: "broker.users_file",
            why: "nobody could log in; make the file with `fcm-mqtt-bridge user add`, or set one of \
                  `broker.jwt_secret_file`, `broker.jwt_key_file` and `broker.jwt_jwks_file`, or, on loopback only, \
                  `broker.anonymous = true`",
        });
    }
    within("broker.presence_grace_seconds", clamped(broker.presence_grace_seconds), 0, PRESENCE_GRACE_MAX)?;
    let tls = broker.listen_tls.address().or_else(|| broker.listen_wss.address());
    for (key, file) in [("broker.cert_file", &broker.cert_file), ("broker.key_file", &broker.key_file)] {
        if tls.is_some() && file.is_none() {
            return Err(ConfigError::Missing { key, why: "`broker.listen_tls` and `broker.listen_wss` need it" });
        }
    }
    Ok(())
}

/// Refuses two listeners for one port: the later one would find it taken, by ourselves.
pub(super) fn check_apart(settings: &Settings) -> Result<(), ConfigError> {
    let broker = &settings.broker;
    let addresses = match (settings.mqtt.broker, broker.engine) {
        (BrokerKind::External, _) => Vec::new(),
        (BrokerKind::Embedded, Engine::Rumqttd) => vec![("broker.listen", broker.listen)],
        (BrokerKind::Embedded, Engine::Embedded) => listeners(broker).to_vec(),
    };
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    let addresses = addresses.into_iter().filter_map(|(key, listen)| Some((key, listen.address()?)));
    for (key, address) in addresses.chain([("ops.listen", settings.ops.listen)]) {
        if let Some((other, _)) = taken.iter().find(|(_, other)| collide(*other, address)) {
            return Err(bad(
                key,
                format!("{address} is taken already, by `{other}`; every listener needs a port of its own"),
            ));
        }
        taken.push((key, address));
    }
    Ok(())
}

/// Whether no two sockets can listen there at once. Port 0 stands for some free one.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let is_all = |address: SocketAddr| address.ip().is_unspecified();
    let same_ip = one.ip() == other.ip() || (one.is_ipv4() == other.is_ipv4() && (is_all(one) || is_all(other)));
    one.port() != 0 && one.port() == other.port() && same_ip
}

fn listeners(broker: &Broker) -> [(&'static str, Listen); 4] {
    [
        ("broker.listen", broker.listen),
        ("broker.listen_tls", broker.listen_tls),
        ("broker.listen_ws", broker.listen_ws),
        ("broker.listen_wss", broker.listen_wss),
    ]
}

fn knows_somebody(broker: &Broker) -> bool {
    [&broker.users_file, &broker.jwt_secret_file, &broker.jwt_key_file, &broker.jwt_jwks_file]
        .iter()
        .any(|file| file.is_some())
}

pub(super) fn check_limits(limits: &Limits) -> Result<(), ConfigError> {
    within("limits.broker_connections", limits.broker_connections, 1, 1_000_000)?;
    within("limits.broker_connections_per_address", limits.broker_connections_per_address, 1, 1_000_000)?;
    within("limits.broker_connections_per_user", limits.broker_connections_per_user, 1, 1_000_000)?;
    within("limits.broker_connect_seconds", clamped(limits.broker_connect_seconds), 1, 300)?;
    within("limits.broker_login_failures_per_minute", limits.broker_login_failures_per_minute as usize, 1, 1_000_000)?;
    // A payload over its limit is answered with `TOO_BIG`, not with a closed connection: packets may be larger.
    within("limits.broker_packet_bytes", limits.broker_packet_bytes, limits.payload_bytes * 2, 268_435_455)?;
    within("limits.broker_topic_bytes", limits.broker_topic_bytes, 64, 65_535)?;
    within("limits.broker_topic_levels", limits.broker_topic_levels, 4, 1_024)?;
    within("limits.broker_publish_rate", limits.broker_publish_rate as usize, 1, 1_000_000)?;
    within("limits.broker_packet_rate", limits.broker_packet_rate as usize, 1, 1_000_000)?;
    within("limits.broker_byte_rate", limits.broker_byte_rate as usize, 1_024, u32::MAX as usize)?;
    within("limits.broker_user_properties", limits.broker_user_properties, 0, 65_535)?;
    within("limits.broker_subscriptions", limits.broker_subscriptions, 1, 1_000_000)?;
    within("limits.broker_inflight", limits.broker_inflight.into(), 1, 65_535)?;
    within("limits.broker_queued_messages", limits.broker_queued_messages, 1, 10_000_000)?;
    within("limits.broker_queued_bytes", limits.broker_queued_bytes, limits.broker_packet_bytes, usize::MAX)?;
    within("limits.broker_sessions", limits.broker_sessions, 1, 10_000_000)?;
    within("limits.broker_sessions_per_user", limits.broker_sessions_per_user, 1, 10_000_000)?;
    within("limits.broker_session_hours", clamped(limits.broker_session_hours), 1, 24 * 365)?;
    within("limits.broker_retained_messages", limits.broker_retained_messages, 1, 10_000_000)?;
    let (messages, bytes) = (limits.broker_retained_messages_per_user, limits.broker_retained_bytes_per_user);
    within("limits.broker_retained_messages_per_user", messages, 1, 10_000_000)?;
    within("limits.broker_retained_bytes_per_user", bytes, 1_024, usize::MAX)
}

fn clamped(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

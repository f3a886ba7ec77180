//! Whether `[broker]` can work with `engine = "rumqttd"`: what that engine cannot do is refused, not ignored.

use super::check::{ConfigError, bad};
use super::{Broker, Settings};

/// With one of these in its client id, a client that tries to connect twice ends rumqttd's log-in for all.
const NOT_IN_CLIENT_IDS: [char; 4] = ['+', '$', '#', '/'];

pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    if cfg!(not(feature = "rumqttd")) {
        return Err(bad("broker.engine", "this build has no rumqttd engine; build with `--features rumqttd`".into()));
    }
    let broker = &settings.broker;
    if let Some((key, _)) = beyond(broker).into_iter().find(|(_, is_set)| *is_set) {
        let why = "the engine rumqttd has no such thing: it takes everybody, on `broker.listen` alone, and keeps \
                   everything in memory; leave it out, or use `broker.engine = \"embedded\"`";
        return Err(bad(key, why.into()));
    }
    let Some(listen) = broker.listen.address() else {
        return Err(bad("broker.listen", "is off, and the engine rumqttd has no other listener".into()));
    };
    if !listen.ip().is_loopback() {
        let why = format!(
            "{listen} can be reached from outside; the engine rumqttd has no access rules, so it listens on loopback \
             (127.0.0.1 or [::1]) only"
        );
        return Err(bad("broker.listen", why));
    }
    if !broker.anonymous {
        let why = "must be true with the engine rumqttd, which has no access rules: everybody on this machine may \
                   connect, read and write everything";
        return Err(bad("broker.anonymous", why.into()));
    }
    let client_id = &settings.mqtt.client_id;
    if client_id.is_empty() || client_id.contains(NOT_IN_CLIENT_IDS) {
        return Err(bad(
            "mqtt.client_id",
            "the bridge connects to rumqttd under it: neither empty nor with + $ # /".into(),
        ));
    }
    Ok(())
}

/// The keys that this engine could only ignore, and whether they are set.
fn beyond(broker: &Broker) -> [(&'static str, bool); 14] {
    [
        ("broker.listen_tls", broker.listen_tls.address().is_some()),
        ("broker.listen_ws", broker.listen_ws.address().is_some()),
        ("broker.listen_wss", broker.listen_wss.address().is_some()),
        ("broker.cert_file", broker.cert_file.is_some()),
        ("broker.key_file", broker.key_file.is_some()),
        ("broker.client_ca_file", broker.client_ca_file.is_some()),
        ("broker.proxy_protocol", broker.proxy_protocol),
        ("broker.users_file", broker.users_file.is_some()),
        ("broker.jwt_secret_file", broker.jwt_secret_file.is_some()),
        ("broker.jwt_key_file", broker.jwt_key_file.is_some()),
        ("broker.jwt_jwks_file", broker.jwt_jwks_file.is_some()),
        ("broker.jwt_audience", broker.jwt_audience.is_some()),
        ("broker.jwt_issuer", broker.jwt_issuer.is_some()),
        ("broker.data", broker.data.is_some()),
    ]
}

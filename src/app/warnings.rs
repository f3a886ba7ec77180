//! What a configuration most likely does not mean, though it works.

use crate::broker::{BrokerConfig, BrokerLimits};
use crate::chat::filter::MAX_LEVELS;
use crate::config::{CcsConfig, Engine, Settings};
use crate::mqtt::Version;
use crate::ops::setting::Settings as _;
use std::net::SocketAddr;
use std::path::Path;
use url::{Origin, Url};

/// What to tell the operator, by the names of keys and without values. Nothing of it keeps the bridge from running.
pub fn warnings(settings: &Settings) -> Vec<String> {
    [closed_server(settings), of_broker(settings)].concat()
}

/// CCS, and nobody said where it is.
fn closed_server(settings: &Settings) -> Vec<String> {
    let is_usual = settings.ccs.host == CcsConfig::default().host;
    // Without a sender nothing goes by CCS.
    if settings.ccs.sender_id.is_empty() || !is_usual {
        return Vec::new();
    }
    vec!["`ccs.host` is Google's own server, which was closed in 2024; name the server that speaks CCS".to_owned()]
}

fn of_broker(settings: &Settings) -> Vec<String> {
    let broker = &settings.broker;
    match settings.engine() {
        None => return [everybody(settings), unproven(settings)].concat(),
        Some(Engine::Rumqttd) => return Vec::new(),
        Some(Engine::Embedded) => {}
    }
    let limits = &settings.limits.broker;
    [
        nobody(broker),
        bare_passwords(broker),
        files_without_tls(broker),
        vain_origins(broker),
        fewer_levels(limits),
        other_queue_limits(limits),
    ]
    .concat()
}

/// An external broker, and nobody said who is a BAL.
fn everybody(settings: &Settings) -> Vec<String> {
    let told = "no BAL is configured, so everybody who may publish on the external broker may push to every device; name those \
                who may, each by a line [bals.NAME]";
    if settings.bals().is_empty() { vec![told.to_owned()] } else { Vec::new() }
}

/// Messages that pass by the bridge.
fn unproven(settings: &Settings) -> Vec<String> {
    let told = "`chat.direct`: users write into the inboxes of each other, and nothing proves who wrote; what that means is in \
                topics.md";
    let unread = "`chat.direct`: the broker counts the bridge itself among the readers of `+/others/messages`, so what devices send is \
                  not held for a BAL that subscribes late: let each BAL say `offline` when it is away, or keep its session";
    let unread = (settings.mqtt.client.version == Version::V5).then_some(unread);
    let all = [Some(told), unread].into_iter().flatten().map(str::to_owned);
    if settings.chat.direct { all.collect() } else { Vec::new() }
}

/// More levels than any topic may have.
fn fewer_levels(limits: &BrokerLimits) -> Vec<String> {
    let is_cut = limits.topic_levels > MAX_LEVELS;
    is_cut
        .then(|| format!("`limits.broker_topic_levels` counts as {MAX_LEVELS}: topics have no more levels"))
        .into_iter()
        .collect()
}

/// Limits that meant something else in releases up to 0.2. Who has not set them has nothing to think over.
fn other_queue_limits(limits: &BrokerLimits) -> Vec<String> {
    let usual = BrokerLimits::default();
    [
        ("limits.broker_queued_messages", limits.queued_messages != usual.queued_messages),
        ("limits.broker_queued_bytes", limits.queued_bytes != usual.queued_bytes),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .take(1)
    .map(|(key, _)| {
        format!(
            "`{key}`: when so much waits for a session, further messages of clients are refused to it; releases up to 0.2 \
             dropped the oldest"
        )
    })
    .collect()
}

/// A users file without users, and no other way in. One that cannot be read is refused elsewhere.
fn nobody(broker: &BrokerConfig) -> Vec<String> {
    if broker.anonymous || broker.jwt.is_used() || !broker.users_file.as_deref().is_some_and(is_empty) {
        return Vec::new();
    }
    vec![
        "`broker.users_file` names a file without users: nobody can log in; add one with `fcm-mqtt-bridge user add`"
            .to_owned(),
    ]
}

#[cfg(feature = "broker")]
fn is_empty(users: &Path) -> bool {
    users.exists()
        && crate::broker::identity::users::UsersFile::open(users).is_ok_and(|file| file.users().next().is_none())
}

#[cfg(not(feature = "broker"))]
fn is_empty(_: &Path) -> bool {
    false
}

/// Passwords that everybody on their way can read. A proxy in front is taken to speak TLS.
fn bare_passwords(broker: &BrokerConfig) -> Vec<String> {
    let is_seen = |address: SocketAddr| !address.ip().is_loopback() && !broker.listen.proxy_protocol;
    let better = [("broker.listen", "broker.listen_tls"), ("broker.listen_ws", "broker.listen_wss")];
    let listen = broker.listen.addresses().filter(|(_, address)| is_seen(*address));
    listen
        .filter_map(|(key, _)| better.iter().find(|(bare, _)| *bare == key))
        .map(|(key, better)| {
            format!("`{key}` can be reached from outside, and passwords go there unencrypted; `{better}` encrypts them")
        })
        .collect()
}

fn files_without_tls(broker: &BrokerConfig) -> Vec<String> {
    let files = broker.listen.files("broker").into_iter().filter(|_| !broker.listen.needs_certificate());
    files.map(|(key, _)| format!("`{key}` is not used: `broker.listen_tls` and `broker.listen_wss` are off")).collect()
}

fn vain_origins(broker: &BrokerConfig) -> Vec<String> {
    let vain = broker.listen.origins.iter().filter(|origin| !can_match(origin)).count();
    let words = "of `broker.ws_origins` match no page; an origin is https://NAME or https://NAME:PORT, without a path and \
                 without the usual port";
    if vain == 0 { Vec::new() } else { vec![format!("{vain} {words}")] }
}

/// Whether a browser can send this as the origin of a page. The slash behind it is forgiven by the broker.
fn can_match(text: &str) -> bool {
    let bare = text.trim_end_matches('/');
    if bare.is_empty() || bare.contains(char::is_whitespace) {
        return false;
    }
    match Url::parse(bare).map(|url| url.origin()) {
        Ok(origin @ Origin::Tuple(..)) => origin.ascii_serialization().eq_ignore_ascii_case(bare),
        // Apps have schemes of their own, such as capacitor://localhost.
        Ok(Origin::Opaque(_)) => true,
        Err(_) => bare == "null",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_broker_where_everybody_may_push_is_warned_of() {
        let mut settings = Settings::default();
        settings.mqtt.broker = crate::chat::message::BrokerKind::External;
        assert!(matches!(&warnings(&settings)[..], [told] if told.starts_with("no BAL is configured")));
        settings.bals.insert("bal1".to_owned(), Default::default());
        assert_eq!(warnings(&settings), [""; 0]);
        settings.chat.direct = true;
        assert!(
            matches!(&warnings(&settings)[..], [told, unread] if told.contains("who wrote") && unread.contains("not held for a BAL"))
        );
        settings.mqtt.client.version = Version::V311;
        assert!(matches!(&warnings(&settings)[..], [told] if told.contains("who wrote")), "there it is so in any case");
    }

    #[test]
    fn google_s_own_server_of_ccs_is_warned_of() {
        let mut settings = Settings::default();
        settings.broker.users_file = Some("nowhere".into());
        assert_eq!(warnings(&settings), [""; 0], "nothing goes by CCS");
        settings.ccs.sender_id = "1".to_owned();
        assert!(matches!(&warnings(&settings)[..], [told] if told.starts_with("`ccs.host` is Google's own server")));
        settings.ccs.host = "ccs.example".to_owned();
        assert_eq!(warnings(&settings), [""; 0]);
    }

    fn about(change: impl FnOnce(&mut BrokerConfig)) -> Vec<String> {
        let mut settings = Settings::default();
        settings.broker.users_file = Some("nowhere".into());
        change(&mut settings.broker);
        let all = warnings(&settings);
        all.iter().map(|told| told.split('`').nth(1).unwrap().to_owned()).collect()
    }

    #[test]
    fn limits_that_mean_something_else_than_they_did_are_told_once() {
        let about = |change: fn(&mut BrokerLimits)| {
            let mut settings = Settings::default();
            change(&mut settings.limits.broker);
            warnings(&settings)
        };
        assert_eq!(about(|_| {}), [""; 0], "the defaults");
        let told = about(|limits| (limits.queued_messages, limits.queued_bytes) = (5, 1_000_000));
        assert!(
            matches!(&told[..], [one] if one.contains("broker_queued_messages`") && one.contains("refused")),
            "{told:?}"
        );
        let told = about(|limits| limits.queued_bytes = 1_000_000);
        assert!(matches!(&told[..], [one] if one.contains("broker_queued_bytes`")), "{told:?}");
        let told = about(|limits| limits.topic_levels = 129);
        assert!(matches!(&told[..], [one] if one.contains("counts as 128")), "{told:?}");
    }

    fn at(address: &str) -> Option<SocketAddr> {
        Some(address.parse().unwrap())
    }

    #[test]
    fn passwords_that_go_bare_over_the_network_are_warned_of() {
        assert_eq!(about(|_| {}), [""; 0], "the defaults");
        let open = |broker: &mut BrokerConfig| {
            let listen = &mut broker.listen;
            (listen.tcp, listen.ws, listen.wss) = (at("0.0.0.0:1883"), at("[::]:1"), at("0.0.0.0:2"));
        };
        assert_eq!(about(open), ["broker.listen", "broker.listen_ws"]);
        let behind = |broker: &mut BrokerConfig| {
            open(broker);
            broker.listen.proxy_protocol = true;
        };
        assert_eq!(about(behind), [""; 0]);
    }

    #[test]
    fn files_of_tls_without_a_listener_for_it_are_warned_of() {
        let files = |broker: &mut BrokerConfig| {
            broker.listen.cert_file = Some("c".into());
            broker.listen.key_file = Some("k".into());
            broker.listen.client_ca_file = Some("a".into());
        };
        assert_eq!(about(files), ["broker.cert_file", "broker.key_file", "broker.client_ca_file"]);
        let used = |broker: &mut BrokerConfig| {
            files(broker);
            broker.listen.wss = at("0.0.0.0:1");
        };
        assert_eq!(about(used), [""; 0]);
    }

    #[test]
    fn origins_that_no_page_has_are_warned_of() {
        for origin in
            ["https://a.example/path", "https://a.example ", "a.example", "https://a.example:443", "", "https://a b"]
        {
            assert_eq!(about(|broker| broker.listen.origins = vec![origin.into()]), ["broker.ws_origins"], "{origin}");
        }
        for origin in
            ["https://a.example", "HTTPS://A.example/", "http://localhost:8080", "capacitor://localhost", "null"]
        {
            assert_eq!(about(|broker| broker.listen.origins = vec![origin.into()]), [""; 0], "{origin}");
        }
    }

    #[cfg(feature = "broker")]
    #[test]
    fn a_users_file_without_users_is_warned_of_where_nothing_else_lets_anybody_in() {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users");
        std::fs::write(&users, "# nobody yet\n").unwrap();
        assert_eq!(about(|broker| broker.users_file = Some(users.clone())), ["broker.users_file"]);
        let tokens = |broker: &mut BrokerConfig| {
            broker.users_file = Some(users.clone());
            broker.jwt.key_file = Some("k".into());
        };
        assert_eq!(about(tokens), [""; 0]);
    }
}

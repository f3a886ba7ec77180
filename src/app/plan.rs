//! From the settings to what each part is told.

use super::transports::TransportPlan;
use crate::bridge;
#[cfg(feature = "broker")]
use crate::chat::filter::MAX_LEVELS;
use crate::chat::id::Owner;
use crate::chat::message::{BrokerKind as BrokerWord, Limits as MessageLimits};
use crate::chat::principal::Senders;
use crate::chat::route::Routes;
use crate::chat::topic::{BridgeTopic, CLIENT_FILTERS, FORMER_FILTERS};
use crate::chat::transport::{Transport, Transports};
use crate::config::{AckMode, BrokerKind, ConfigError, Engine, Fcm, MqttVersion, OnAmbiguous, Settings, section};
use crate::fcm::budget::Quotas;
use crate::mqtt::{ClientConfig, ClientLimits, Version, Will};
use crate::secret::Secret;
use crate::store::{self, sqlite};
use crate::transport::ccs;
use crate::transport::fcm_v1::{self, Credentials, FcmConfig};

#[cfg(feature = "broker")]
use crate::broker::{BrokerConfig, BrokerLimits, JwtConfig, Listen, TlsFiles};
#[cfg(feature = "rumqttd")]
use crate::rumqttd;
#[cfg(feature = "rumqttd")]
use std::net::SocketAddr;
use std::time::Duration;

/// Most messages claimed from the store and not answered yet, whatever windows are configured.
const CLAIMS_MAX: usize = 4_096;
/// Claims for each place on a connection: those beside it may be ending with all their answers owed, and leave room.
const CLAIMS_FACTOR: usize = 9;
/// The same, at least: fewer would make every commit a small one.
const CLAIMS_MIN: usize = 256;
#[cfg(feature = "broker")]
const SECONDS_PER_HOUR: u64 = 3_600;

pub(super) fn store(settings: &Settings, transports: Vec<Transport>) -> sqlite::Settings {
    let limits = &settings.limits;
    let overshoot = limits.inflight_publishes as u64;
    sqlite::Settings {
        limits: store::Limits {
            // The intake stops at the limits; what is on its way to the disk by then must still be taken.
            queue_rows: limits.queue_rows.saturating_add(overshoot),
            queue_bytes: limits.queue_bytes.saturating_add(overshoot.saturating_mul(limits.payload_bytes as u64)),
            spool_rows: limits.spool_rows.saturating_add(overshoot),
            spool_bytes: limits.spool_bytes.saturating_add(overshoot.saturating_mul(limits.payload_bytes as u64)),
            history_hours: limits.history_hours,
            history_rows: limits.history_rows,
        },
        transports,
        ..sqlite::Settings::new(settings.store.path.clone())
    }
}

pub(super) fn bridge(settings: &Settings, started_ms: u64) -> Result<bridge::Settings, ConfigError> {
    let (categories, default_bal) = settings.owners()?;
    let limits = &settings.limits;
    let routes = Routes::new(categories.into_iter().collect(), default_bal);
    let (default_way, by_category) = settings.transports()?;
    let projects = settings.fcm.configured();
    let streams = projects.iter().map(|(_, fcm)| fcm.connections * fcm_v1::STREAMS_MAX).max().unwrap_or(0);
    let explicit = settings.bals.iter().filter(|(_, bal)| bal.ack == AckMode::Explicit);
    Ok(bridge::Settings {
        transports: Transports::new(default_way, by_category, &routes),
        routes,
        explicit: explicit.filter_map(|(name, _)| Owner::new(name).ok()).collect(),
        broker: match (settings.mqtt.broker, settings.broker.engine) {
            (BrokerKind::Embedded, Engine::Embedded) => BrokerWord::Embedded,
            // rumqttd is in this process, but what its clients are promised is what an external broker promises.
            (BrokerKind::Embedded, Engine::Rumqttd) | (BrokerKind::External, _) => BrokerWord::External,
        },
        message: MessageLimits { payload_bytes: limits.payload_bytes, ..MessageLimits::default() },
        inflight_publishes: limits.inflight_publishes,
        topic_window: limits.topic_window,
        claims: ((settings.ccs.window * settings.ccs.connections).max(streams) * CLAIMS_FACTOR)
            .clamp(CLAIMS_MIN, CLAIMS_MAX),
        queue: bridge::Room { rows: limits.queue_rows, bytes: limits.queue_bytes },
        spool: bridge::Room { rows: limits.spool_rows, bytes: limits.spool_bytes },
        retry_max_seconds: limits.retry_max_seconds,
        presence_grace: Duration::from_secs(settings.broker.presence_grace_seconds),
        started_ms,
    })
}

/// Every transport that is configured; the default one first, which gets what has lost its own.
pub(super) fn transport_tasks(settings: &Settings, api_key: Option<Secret>) -> Vec<TransportPlan> {
    let ccs = api_key.map(|key| TransportPlan::Ccs(Box::new(ccs(settings, key))));
    let projects = settings.fcm.configured().into_iter().map(|(transport, set)| {
        let config = fcm(settings, &transport, set);
        TransportPlan::Fcm(transport, Box::new(config))
    });
    let mut plans: Vec<TransportPlan> = ccs.into_iter().chain(projects).collect();
    plans.sort_by_key(|plan| plan.transport().to_string() != settings.transport.default);
    plans
}

/// Where an app confirms: below its own user's name, which it knows and the bridge does not.
const CONFIRM_TO: &str = "self/receipts";

/// The transport to a project, whose settings are `set`: its own, and those of `[fcm]` that it takes over.
fn fcm(settings: &Settings, transport: &Transport, set: Fcm) -> FcmConfig {
    let section = section(transport);
    let takes_url = match transport {
        Transport::FcmV1(Some(name)) => {
            settings.fcm.projects.get(name.as_str()).is_some_and(|own| own.base_url.is_none())
        }
        Transport::FcmV1(None) | Transport::Ccs => false,
    };
    let credentials = match set.credentials_file {
        Some(path) => Credentials::File(path),
        None => Credentials::Metadata(set.metadata_host),
    };
    FcmConfig {
        name: transport.to_string(),
        project_id: set.project_id,
        base_url: set.base_url,
        ca_file: set.ca_file,
        connections: set.connections,
        on_ambiguous: match set.on_ambiguous {
            OnAmbiguous::Retry => fcm_v1::OnAmbiguous::Retry,
            OnAmbiguous::Report => fcm_v1::OnAmbiguous::Report,
        },
        quotas: Quotas { project_per_minute: set.quota_per_minute, ..Quotas::default() },
        base_url_key: format!("{}.base_url", if takes_url { "fcm" } else { &section }),
        credentials_key: format!("{section}.credentials_file"),
        confirm_to: set.app_receipts.then(|| CONFIRM_TO.to_owned()),
        ..FcmConfig::new(credentials)
    }
}

fn ccs(settings: &Settings, api_key: Secret) -> ccs::CcsConfig {
    let set = &settings.ccs;
    ccs::CcsConfig {
        host: set.host.clone(),
        port: set.port,
        xmpp_domain: set.domain.clone(),
        api_key_file: set.api_key_file.clone(),
        ca_file: set.ca_file.clone(),
        window: set.window,
        connections: set.connections,
        answer: Duration::from_secs(set.answer_seconds),
        ..ccs::CcsConfig::new(set.sender_id.clone(), api_key)
    }
}

#[cfg(feature = "broker")]
pub(super) fn broker(settings: &Settings) -> BrokerConfig {
    let (set, limits) = (&settings.broker, &settings.limits);
    let identity = set.cert_file.clone().zip(set.key_file.clone()).map(|(cert, key)| TlsFiles {
        cert,
        key,
        client_ca: set.client_ca_file.clone(),
    });
    let takes_tokens = set.jwt_secret_file.is_some() || set.jwt_key_file.is_some() || set.jwt_jwks_file.is_some();
    let jwt = takes_tokens.then(|| JwtConfig {
        secret_file: set.jwt_secret_file.clone(),
        key_file: set.jwt_key_file.clone(),
        jwks_file: set.jwt_jwks_file.clone(),
        audience: set.jwt_audience.clone(),
        issuer: set.jwt_issuer.clone(),
    });
    BrokerConfig {
        listen: Listen {
            tcp: set.listen.address(),
            tls: set.listen_tls.address(),
            ws: set.listen_ws.address(),
            wss: set.listen_wss.address(),
            identity,
            origins: set.ws_origins.clone(),
            proxy_protocol: set.proxy_protocol,
        },
        anonymous: set.anonymous,
        users_file: set.users_file.clone(),
        jwt,
        bals: settings.bals(),
        data: Some(set.data.clone().unwrap_or_else(|| settings.store.path.with_file_name("broker"))),
        limits: BrokerLimits {
            connections: limits.broker_connections,
            connections_per_address: limits.broker_connections_per_address,
            connections_per_user: limits.broker_connections_per_user,
            connect_timeout: Duration::from_secs(limits.broker_connect_seconds),
            login_failures_per_minute: limits.broker_login_failures_per_minute,
            packet_bytes: limits.broker_packet_bytes,
            topic_bytes: limits.broker_topic_bytes,
            topic_levels: limits.broker_topic_levels.min(MAX_LEVELS),
            publish_rate: limits.broker_publish_rate,
            packet_rate: limits.broker_packet_rate,
            byte_rate: limits.broker_byte_rate,
            keep_alive: limits.broker_keep_alive_seconds,
            user_properties: limits.broker_user_properties,
            sessions: limits.broker_sessions,
            sessions_per_user: limits.broker_sessions_per_user,
            session_expiry: Duration::from_secs(limits.broker_session_hours * SECONDS_PER_HOUR),
            subscriptions: limits.broker_subscriptions,
            inflight: limits.broker_inflight,
            queued_messages: limits.broker_queued_messages,
            queued_bytes: limits.broker_queued_bytes,
            retained_messages: limits.broker_retained_messages,
            retained_messages_per_user: limits.broker_retained_messages_per_user as u64,
            retained_bytes_per_user: limits.broker_retained_bytes_per_user as u64,
            ..BrokerLimits::default()
        },
    }
}

pub(super) fn client(settings: &Settings, password: Option<Secret>, started_ms: u64) -> ClientConfig {
    let set = &settings.mqtt;
    ClientConfig {
        username: set.username.clone(),
        password,
        password_file: set.password_file.clone(),
        client_id: set.client_id.clone(),
        version: match set.version {
            MqttVersion::V5 => Version::V5,
            MqttVersion::V311 => Version::V311,
        },
        ca_file: set.ca_file.clone(),
        filters: CLIENT_FILTERS.map(str::to_owned).to_vec(),
        former_filters: FORMER_FILTERS.map(str::to_owned).to_vec(),
        will: Some(Will {
            topic: BridgeTopic::Status.to_string(),
            payload: bridge::offline(started_ms, BrokerWord::External, transports(settings).iter()).to_payload().into(),
            qos: 1,
            retain: true,
        }),
        url: set.url.clone(),
        url_key: "mqtt.url",
        senders: Senders::TopicRules { bals: settings.bals() },
        limits: client_limits(settings),
    }
}

/// A payload over its limit is answered with `TOO_BIG`, not with a closed connection: packets may be larger.
fn client_limits(settings: &Settings) -> ClientLimits {
    let limits = ClientLimits::default();
    let packet = u32::try_from(settings.limits.payload_bytes.saturating_mul(2)).unwrap_or(u32::MAX);
    ClientLimits { max_packet_bytes: limits.max_packet_bytes.max(packet), ..limits }
}

/// The transports that there will be, for the will. Without CCS's key they are told apart by its sender.
fn transports(settings: &Settings) -> Vec<Transport> {
    let ccs = (!settings.ccs.sender_id.is_empty()).then_some(Transport::Ccs);
    ccs.into_iter().chain(settings.fcm.configured().into_iter().map(|(transport, _)| transport)).collect()
}

#[cfg(feature = "rumqttd")]
pub(super) fn rumqttd_limits(settings: &Settings) -> rumqttd::Limits {
    let limits = &settings.limits;
    rumqttd::Limits {
        connections: limits.broker_connections,
        connect_timeout: Duration::from_secs(limits.broker_connect_seconds),
        packet_bytes: limits.broker_packet_bytes,
        queued_bytes: limits.broker_queued_bytes,
    }
}

/// The bridge's own client of the rumqttd at `address`.
#[cfg(feature = "rumqttd")]
pub(super) fn rumqttd_client(settings: &Settings, address: SocketAddr, started_ms: u64) -> ClientConfig {
    /// What a packet gains on its way through rumqttd, at most: a topic that an alias stood for.
    const ALIAS: usize = 65_536;
    let largest = u32::try_from(settings.limits.broker_packet_bytes + ALIAS).unwrap_or(u32::MAX);
    let limits = client_limits(settings);
    ClientConfig {
        url: format!("mqtt://{address}"),
        url_key: "broker.listen",
        // It begins anew with each process.
        former_filters: Vec::new(),
        password_file: None,
        version: Version::V5,
        username: None,
        ca_file: None,
        senders: Senders::Anonymous,
        limits: ClientLimits { max_packet_bytes: limits.max_packet_bytes.max(largest), ..limits },
        ..client(settings, None, started_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::principal::Role;
    use crate::config::{Bal, FcmProject, Mqtt};

    #[test]
    fn a_server_is_known_by_the_key_that_names_it_also_where_a_project_takes_it_over() {
        let mut settings = Settings::default();
        let own = FcmProject { base_url: Some("https://proxy.example".into()), ..FcmProject::default() };
        settings.fcm.projects.insert("own".into(), own);
        settings.fcm.projects.insert("shop".into(), FcmProject::default());
        for (transport, url_key, credentials_key) in [
            ("fcm-v1", "fcm.base_url", "fcm.credentials_file"),
            ("fcm-v1:own", "fcm.projects.own.base_url", "fcm.projects.own.credentials_file"),
            ("fcm-v1:shop", "fcm.base_url", "fcm.projects.shop.credentials_file"),
        ] {
            let config = fcm(&settings, &Transport::parse(transport).unwrap(), settings.fcm.clone());
            assert_eq!((&*config.base_url_key, &*config.credentials_key), (url_key, credentials_key), "{transport}");
        }
    }

    fn external() -> Settings {
        Settings { mqtt: Mqtt { broker: BrokerKind::External, ..Mqtt::default() }, ..Settings::default() }
    }

    fn role(settings: &Settings, name: &str) -> Role {
        client(settings, None, 1).senders.principal(&format!("{name}/self/messages")).role
    }

    #[test]
    fn on_an_external_broker_whoever_the_configuration_names_anywhere_is_a_bal() {
        let mut settings = external();
        settings.bals.insert("shop".into(), Bal::default());
        settings.routes.categories.insert("com.example.chat".into(), "chat".into());
        settings.routes.default_bal = Some("rest".into());
        assert_eq!(["shop", "chat", "rest"].map(|name| role(&settings, name)), [Role::Bal; 3]);
        assert_eq!(role(&settings, "alice"), Role::User);
        assert_eq!(role(&external(), "alice"), Role::Bal, "without a name everybody is one");
    }

    #[cfg(feature = "broker")]
    #[test]
    fn the_embedded_broker_is_told_the_same_names() {
        let mut settings = Settings::default();
        settings.bals.insert("shop".into(), Bal::default());
        settings.routes.default_bal = Some("rest".into());
        assert_eq!(broker(&settings).bals.into_iter().collect::<Vec<_>>(), ["rest", "shop"]);
    }

    #[cfg(feature = "rumqttd")]
    #[test]
    fn every_client_of_rumqttd_is_a_bal() {
        let mut settings = Settings::default();
        settings.routes.default_bal = Some("rest".into());
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(rumqttd_client(&settings, address, 1).senders, Senders::Anonymous);
    }

    /// Each part has defaults for those who use it alone, and `[limits]` and its neighbours have the documented ones.
    #[test]
    fn the_defaults_of_the_configuration_are_those_of_the_parts() {
        let settings = Settings::default();
        let stored = store(
            &Settings {
                limits: crate::config::Limits { inflight_publishes: 0, ..settings.limits.clone() },
                ..settings.clone()
            },
            Vec::new(),
        );
        assert_eq!(stored.limits, store::Limits::default());
        #[cfg(feature = "broker")]
        assert_eq!(format!("{:?}", broker(&settings).limits), format!("{:?}", BrokerLimits::default()));
        assert_eq!(settings.limits.payload_bytes, MessageLimits::default().payload_bytes);
        let key = Secret::new("k");
        let planned = |config: &ccs::CcsConfig| {
            (config.host.clone(), config.port, config.xmpp_domain.clone(), config.window, config.connections)
        };
        assert_eq!(planned(&ccs(&settings, key.clone())), planned(&ccs::CcsConfig::new("", key)));
        let planned = |config: &FcmConfig| {
            (config.base_url.clone(), config.connections, config.on_ambiguous, config.quotas.project_per_minute)
        };
        let metadata = Credentials::Metadata(settings.fcm.metadata_host.clone());
        assert_eq!(
            planned(&fcm(&settings, &Transport::FcmV1(None), settings.fcm.clone())),
            planned(&FcmConfig::new(metadata))
        );
    }

    /// The ranges of what goes to the push services are known to their transports alone.
    #[test]
    fn a_limit_out_of_its_range_is_refused_by_its_name() {
        for (window, connections) in [(0, 1), (ccs::WINDOW_MAX + 1, 1), (1, 0), (1, ccs::CONNECTIONS_MAX + 1)] {
            let mut settings = Settings::default();
            (settings.ccs.window, settings.ccs.connections) = (window, connections);
            settings.ccs.sender_id = "1".into();
            let [broker_link] = &transport_tasks(&settings, Some(Secret::new("k")))[..] else { panic!() };
            let refused = broker_link.check().unwrap_err();
            let name = if connections == 1 { "window" } else { "connections" };
            assert!(refused.to_string().starts_with(&format!("[ccs] {name} is not from 1 to ")), "{refused}");
            assert!(refused.is_configuration());
        }
        let project = |connections| Fcm { project_id: Some("p".into()), connections, ..Fcm::default() };
        for connections in [0, fcm_v1::CONNECTIONS_MAX + 1] {
            let settings = Settings { fcm: project(connections), ..Settings::default() };
            let refused = transport_tasks(&settings, None)[0].check().unwrap_err();
            assert!(refused.to_string().contains("connections is not from 1 to 100"), "{refused}");
        }
    }

    #[test]
    fn a_payload_over_its_limit_comes_through_an_external_broker_to_be_refused() {
        let mut settings = Settings::default();
        settings.limits.payload_bytes = 1_048_576;
        assert_eq!(client(&settings, None, 0).limits.max_packet_bytes, 2 * 1_048_576);
    }
}

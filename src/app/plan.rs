//! From the settings to what each part is told: what a part cannot know of the others.

use super::transports::TransportPlan;
use crate::bridge;
use crate::bridge::settings::AckMode;
use crate::chat::id::Owner;
use crate::chat::message::BrokerKind;
use crate::chat::principal::Senders;
use crate::chat::route::Routes;
use crate::chat::topic::{BridgeTopic, CLIENT_FILTERS, DIRECT_FILTERS, FORMER_FILTERS};
use crate::chat::transport::{Transport, Transports};
#[cfg(feature = "broker")]
use crate::config::BrokerConfig;
use crate::config::{ConfigError, Engine, Settings};
use crate::mqtt::{ClientConfig, ClientLimits, Will};
use crate::secret::Secret;
use crate::store;
use crate::transport::ccs::CcsConfig;
use crate::transport::fcm_v1;

#[cfg(feature = "rumqttd")]
use std::net::SocketAddr;

/// Most messages claimed from the store and not answered yet, whatever windows are configured.
const CLAIMS_MAX: usize = 4_096;
/// Claims for each place on a connection: those beside it may be ending with all their answers owed, and leave room.
const CLAIMS_FACTOR: usize = 9;
/// The same, at least: fewer would make every commit a small one.
const CLAIMS_MIN: usize = 256;

pub(super) fn store(settings: &Settings, transports: Vec<Transport>) -> store::Settings {
    let limits = &settings.limits;
    // The intake stops at the limits; what is on its way to the disk by then must still be taken.
    let limits = limits.store.with_room_for(limits.bridge.inflight_publishes, limits.bridge.payload_bytes);
    store::Settings { limits, transports, ..settings.store.clone() }
}

pub(super) fn bridge(settings: &Settings, started_ms: u64) -> Result<bridge::Settings, ConfigError> {
    let (categories, default_bal) = settings.routes.owners()?;
    let routes = Routes::new(categories, default_bal);
    let (default_way, by_category) = settings.transport.transports()?;
    let projects = settings.fcm.configured();
    let streams = projects.iter().map(|(_, fcm)| fcm.connections * fcm_v1::STREAMS_MAX).max().unwrap_or(0);
    let explicit = settings.bals.iter().filter(|(_, bal)| bal.ack == AckMode::Explicit);
    Ok(bridge::Settings {
        transports: Transports::new(default_way, by_category, &routes),
        routes,
        listeners: listeners(settings),
        explicit: explicit.filter_map(|(name, _)| Owner::new(name).ok()).collect(),
        broker: match settings.engine() {
            Some(Engine::Embedded) => BrokerKind::Embedded,
            // rumqttd is in this process, but what its clients are promised is what an external broker promises.
            Some(Engine::Rumqttd) | None => BrokerKind::External,
        },
        chat: settings.chat.clone(),
        groups: settings.groups.clone(),
        limits: settings.limits.bridge.clone(),
        room: settings.limits.store.clone(),
        claims: ((settings.ccs.window * settings.ccs.connections).max(streams) * CLAIMS_FACTOR)
            .clamp(CLAIMS_MIN, CLAIMS_MAX),
        presence_grace: settings.broker.presence_grace,
        births: bridge::BAL_BIRTHS,
        started_ms,
    })
}

/// The BALs that are told of events.
fn listeners(settings: &Settings) -> Vec<Owner> {
    let listeners = settings.bals.iter().filter(|(_, bal)| bal.events);
    listeners.filter_map(|(name, _)| Owner::new(name).ok()).collect()
}

/// Every transport that is configured; the default one first, which gets what has lost its own.
pub(super) fn transport_tasks(settings: &Settings, api_key: Option<Secret>) -> Vec<TransportPlan> {
    let with_key = |key| CcsConfig { api_key: Some(key), ..settings.ccs.clone() };
    let ccs = api_key.map(|key| TransportPlan::Ccs(Box::new(with_key(key))));
    let projects = settings.fcm.configured();
    let projects = projects.into_iter().map(|(transport, config)| TransportPlan::Fcm(transport, Box::new(config)));
    let mut plans: Vec<TransportPlan> = ccs.into_iter().chain(projects).collect();
    plans.sort_by_key(|plan| plan.transport().to_string() != settings.transport.default);
    plans
}

#[cfg(feature = "broker")]
pub(super) fn broker(settings: &Settings) -> BrokerConfig {
    let data = settings.broker.data.clone();
    BrokerConfig {
        bals: settings.bals(),
        data: data.or_else(|| Some(settings.store.path.with_file_name("broker"))),
        limits: settings.limits.broker.clone(),
        group_delivery: settings.groups.delivery,
        ..settings.broker.clone()
    }
}

pub(super) fn client(settings: &Settings, password: Option<Secret>, started_ms: u64) -> ClientConfig {
    let offline = bridge::offline(started_ms, BrokerKind::External, transports(settings).iter());
    let (filters, unused_filters) = filters(settings);
    ClientConfig {
        password,
        filters,
        unused_filters,
        former_filters: FORMER_FILTERS.map(str::to_owned).to_vec(),
        will: Some(Will {
            topic: BridgeTopic::Status.to_string(),
            payload: offline.to_payload().into(),
            qos: 1,
            retain: true,
        }),
        senders: Senders::TopicRules { bals: settings.bals() },
        limits: client_limits(settings),
        ..settings.mqtt.client.clone()
    }
}

/// What the bridge subscribes to, and what it may have subscribed to before.
fn filters(settings: &Settings) -> (Vec<String>, Vec<String>) {
    let (own, direct) = (CLIENT_FILTERS.map(str::to_owned).to_vec(), DIRECT_FILTERS.map(str::to_owned).to_vec());
    if settings.chat.direct { ([own, direct].concat(), Vec::new()) } else { (own, direct) }
}

/// A payload over its limit is answered with `TOO_BIG`, not with a closed connection: packets may be larger.
fn client_limits(settings: &Settings) -> ClientLimits {
    let limits = ClientLimits::default();
    let packet = u32::try_from(settings.limits.bridge.payload_bytes.saturating_mul(2)).unwrap_or(u32::MAX);
    ClientLimits { max_packet_bytes: limits.max_packet_bytes.max(packet), ..limits }
}

/// The transports that there will be, for the will. Without CCS's key they are told apart by its sender.
fn transports(settings: &Settings) -> Vec<Transport> {
    let ccs = (!settings.ccs.sender_id.is_empty()).then_some(Transport::Ccs);
    ccs.into_iter().chain(settings.fcm.configured().into_iter().map(|(transport, _)| transport)).collect()
}

/// The bridge's own client of the rumqttd at `address`.
#[cfg(feature = "rumqttd")]
pub(super) fn rumqttd_client(settings: &Settings, address: SocketAddr, started_ms: u64) -> ClientConfig {
    /// What a packet gains on its way through rumqttd, at most: a topic that an alias stood for.
    const ALIAS: usize = 65_536;
    let largest = u32::try_from(settings.limits.broker.packet_bytes + ALIAS).unwrap_or(u32::MAX);
    let ClientConfig { client_id, will, limits, .. } = client(settings, None, started_ms);
    let limits = ClientLimits { max_packet_bytes: limits.max_packet_bytes.max(largest), ..limits };
    let url = format!("mqtt://{address}");
    ClientConfig { url, url_key: "broker.listen", client_id, will, limits, ..ClientConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::principal::Role;
    use crate::config::{Bal, FcmConfig, Mqtt};

    #[test]
    fn a_server_is_known_by_the_key_that_names_it_also_where_a_project_takes_it_over() {
        let mut settings = Settings::default();
        settings.fcm.own.credentials_file = Some("account.json".into());
        let own = FcmConfig { base_url: "https://proxy.example".into(), ..FcmConfig::default() };
        settings.fcm.projects.insert("own".into(), own);
        settings.fcm.projects.insert("shop".into(), FcmConfig::default());
        let known =
            |(transport, fcm): (Transport, FcmConfig)| (transport.to_string(), fcm.base_url_key, fcm.credentials_key);
        let told: Vec<_> = settings.fcm.configured().into_iter().map(known).collect();
        assert_eq!(
            told,
            [
                ("fcm-v1", "fcm.base_url", "fcm.credentials_file"),
                ("fcm-v1:own", "fcm.projects.own.base_url", "fcm.projects.own.credentials_file"),
                ("fcm-v1:shop", "fcm.base_url", "fcm.projects.shop.credentials_file"),
            ]
            .map(|(transport, url, file)| (transport.to_owned(), url.to_owned(), file.to_owned()))
        );
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

    #[test]
    fn the_inboxes_are_watched_where_clients_write_into_them_and_taken_back_where_they_do_not() {
        let mut settings = external();
        let client_of = |settings: &Settings| client(settings, None, 1);
        assert_eq!(client_of(&settings).filters, ["+/self/#"]);
        assert_eq!(client_of(&settings).unused_filters, DIRECT_FILTERS);
        settings.chat.direct = true;
        assert_eq!(client_of(&settings).filters[1..], DIRECT_FILTERS);
        assert!(client_of(&settings).unused_filters.is_empty());
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

    /// The ranges of what goes to the push services are known to their transports alone.
    #[test]
    fn a_limit_out_of_its_range_is_refused_by_its_name() {
        for (window, connections) in [(0, 1), (1_001, 1), (1, 0), (1, 1_001)] {
            let mut settings = Settings::default();
            (settings.ccs.window, settings.ccs.connections) = (window, connections);
            settings.ccs.sender_id = "1".into();
            let [broker_link] = &transport_tasks(&settings, Some(Secret::new("k")))[..] else { panic!() };
            let refused = broker_link.check().unwrap_err();
            let name = if connections == 1 { "window" } else { "connections" };
            assert!(refused.to_string().starts_with(&format!("[ccs] `{name}`: must be from 1 to 1000")), "{refused}");
            assert!(refused.is_configuration());
        }
        for connections in [0, 101] {
            let mut settings = Settings::default();
            settings.fcm.own = FcmConfig { project_id: Some("p".into()), connections, ..FcmConfig::default() };
            let refused = transport_tasks(&settings, None)[0].check().unwrap_err();
            assert!(refused.to_string().starts_with("[fcm] `connections`: must be from 1 to 100"), "{refused}");
        }
    }

    #[test]
    fn a_payload_over_its_limit_comes_through_an_external_broker_to_be_refused() {
        let mut settings = Settings::default();
        settings.limits.bridge.payload_bytes = 1_048_576;
        assert_eq!(client(&settings, None, 0).limits.max_packet_bytes, 2 * 1_048_576);
    }
}

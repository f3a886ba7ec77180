//! MQTT 5, in the words of [`super::link`].

use super::config::{Endpoint, Plan};
use super::link::{
    Acknowledged, Answer, Arrived, BATCH, Event, Failure, Gone, Leave, Protocol, QOS_0, Retain, Terms, qos,
};
use super::{AckWord, Outbound, tls};
use crate::ops::clock::now_ms;
use rumqttc_v5::{
    AckMode, AsyncClient, Broker, ConnAck, ConnectReturnCode, ConnectionError, DisconnectReasonCode, EventLoop,
    IncomingPacketSizeLimit, LastWill, LastWillProperties, ManualAck, MqttOptions, Outgoing, Packet, PersistedAckMode,
    PersistedSession, PubAck, PubAckReason, PubRec, PubRecReason, Publish, PublishOptions, PublishProperties,
    PublishResult, QoS, SessionStore, SessionStoreError, SessionStoreKey, StateError, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, Transport, mqttbytes,
};
use std::future::ready;
use std::pin::Pin;

/// What the bridge publishes: topics.md has one JSON object per payload.
const CONTENT_TYPE: &str = "application/json";

/// How long the broker waits with the will, in seconds: a bridge that is back by then takes it back. Without this a broker that
/// notices late that a connection has ended would publish it over what the next connection has said.
const WILL_DELAY: u32 = 5;

/// MQTT 5.
pub(super) struct V5;

impl Protocol for V5 {
    type Client = AsyncClient;
    type Events = EventLoop;
    type Ack = ManualAck;

    fn open(plan: &Plan, window: u16) -> (AsyncClient, EventLoop) {
        AsyncClient::builder(options(plan, window)).capacity(plan.requests()).build()
    }

    async fn next(events: &mut EventLoop) -> Result<Event<ManualAck>, Failure> {
        Ok(match events.poll().await.map_err(failure)? {
            rumqttc_v5::Event::Incoming(Packet::ConnAck(connack)) => {
                // Done with; else everything in flight would be copied for it after each packet.
                events.options.clear_session_store();
                Event::Connected(terms(&connack))
            }
            rumqttc_v5::Event::Incoming(Packet::Publish(publish)) => Event::Arrived(arrived(publish)),
            rumqttc_v5::Event::Outgoing(Outgoing::PubAck(id) | Outgoing::PubRec(id)) => Event::Acknowledged(id),
            _ => Event::Other,
        })
    }

    async fn subscribe(client: &AsyncClient, filters: &[String]) -> Result<Vec<Option<String>>, Gone> {
        let asked = filters.iter().map(|filter| {
            let mut asked = SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce);
            // MQTT 5, 3.8.3.1: with a shared subscription it is a protocol error.
            asked.nolocal = !filter.starts_with("$share/");
            asked
        });
        let notice = client.subscribe_many_tracked(asked).await.map_err(|_| Gone)?;
        let suback = notice.wait_async().await.map_err(|_| Gone)?;
        let refusal = |code| match code {
            SubscribeReasonCode::Success(QoS::AtLeastOnce | QoS::ExactlyOnce) => None,
            SubscribeReasonCode::Success(QoS::AtMostOnce) => Some(QOS_0.into()),
            code => Some(format!("{code:?}")),
        };
        Ok(suback.return_codes.into_iter().map(refusal).collect())
    }

    async fn unsubscribe(client: &AsyncClient, filters: &[String]) -> Result<(), Gone> {
        for filter in filters {
            client.unsubscribe(filter).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    fn publish(client: &AsyncClient, outbound: &Outbound) -> impl Future<Output = Answer> + Send + 'static {
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some(CONTENT_TYPE.into()),
            correlation_data: outbound.correlation.clone(),
            message_expiry_interval: outbound.expires_at.map(seconds_until),
            ..PublishProperties::default()
        };
        let options = PublishOptions::new(qos(outbound.qos)).retain(outbound.retain).properties(properties);
        let handed = client.try_publish_tracked(outbound.topic.as_str(), outbound.payload.clone(), options);
        async move {
            match handed {
                Ok(notice) => notice.wait_async().await.map_or(Answer::Lost, answer),
                Err(rumqttc_v5::ClientError::InvalidRequest(_)) => Answer::Refused("not an MQTT topic".into()),
                Err(_) => Answer::Lost,
            }
        }
    }

    async fn acknowledge(client: &AsyncClient, mut ack: ManualAck, word: AckWord) -> Acknowledged {
        if word == AckWord::Quota {
            match &mut ack {
                ManualAck::PubAck(puback) => puback.reason = PubAckReason::QuotaExceeded,
                ManualAck::PubRec(pubrec) => pubrec.reason = PubRecReason::QuotaExceeded,
            }
        }
        // It fails only when the link has ended; the broker sends the message again on the next one.
        _ = client.manual_ack(ack).await;
        Acknowledged::Sent
    }

    async fn disconnect(client: &AsyncClient, leave: Leave) {
        // It fails only when the link has ended, which is what is asked for.
        _ = match leave {
            Leave::InOrder => client.disconnect().await,
            Leave::AtOnce => client.disconnect_now().await,
        };
    }
}

/// Whole seconds, rather too few: a broker may count the one that has begun as well. At least one: 0 is no time for all brokers.
fn seconds_until(at_ms: u64) -> u32 {
    u32::try_from(at_ms.saturating_sub(now_ms()) / 1_000).unwrap_or(u32::MAX).max(1)
}

fn options(plan: &Plan, window: u16) -> MqttOptions {
    let (config, limits) = (&plan.config, &plan.config.limits);
    let mut options = addressed(plan);
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(limits.session_expiry_secs()))
        .set_receive_maximum(Some(window))
        .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(limits.max_packet_bytes))
        .set_outgoing_inflight_upper_limit(limits.inflight)
        .set_ack_mode(AckMode::Manual)
        .set_keep_alive(limits.keep_alive_secs())
        .set_connect_timeout(limits.connect)
        .set_max_request_batch(BATCH)
        .set_session_store(Forgotten(PersistedSession {
            format_version: 1,
            client_id: config.client_id.clone(),
            clean_start: false,
            session_expiry_interval: None,
            outgoing_inflight_upper_limit: Some(limits.inflight),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        }));
    // A publish does not wait until the broker has acknowledged the bytes before it.
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    if let Some(will) = &config.will {
        let delayed = LastWillProperties {
            delay_interval: Some(WILL_DELAY),
            payload_format_indicator: Some(1),
            message_expiry_interval: None,
            content_type: Some(CONTENT_TYPE.into()),
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let (payload, qos) = (will.payload.clone(), qos(will.qos));
        options.set_last_will(LastWill::new(&will.topic, payload, qos, will.retain, Some(delayed)));
    }
    match (&config.username, &config.password) {
        (Some(user), Some(password)) => options.set_credentials(user, password.reveal().to_owned()),
        (Some(user), None) => options.set_username(user),
        (None, _) => &mut options,
    };
    options
}

fn addressed(plan: &Plan) -> MqttOptions {
    let id = &plan.config.client_id;
    match &plan.endpoint {
        Endpoint::Tcp { host, port } => MqttOptions::new(id, (host, *port)),
        Endpoint::Tls { host, port, tls } => {
            let mut options = MqttOptions::new(id, (host, *port));
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
            options
        }
        Endpoint::Ws { url } => MqttOptions::new(id, Broker::websocket(url).expect("the plan has read the URL")),
        Endpoint::Wss { url, tls } => {
            MqttOptions::websocket_with_tls_config(id, url, TlsConfiguration::Rustls(tls.clone()))
                .expect("the plan has read the URL")
        }
    }
}

/// The client's half of the session, which is empty each time: what was in flight was told as lost, and the store
/// publishes it anew. MQTT 5, 4.4 would have it sent again under the old packet id; but with QoS 1 the broker keeps
/// nothing under that id, so it sees no difference. Without a half of its own the library may subscribe and publish
/// nothing in a session that the broker has kept.
#[derive(Debug)]
struct Forgotten(PersistedSession);

impl SessionStore for Forgotten {
    fn load<'a>(
        &'a self,
        _: &'a SessionStoreKey,
    ) -> Pin<Box<dyn Future<Output = Result<Option<PersistedSession>, SessionStoreError>> + Send + 'a>> {
        Box::pin(ready(Ok(Some(self.0.clone()))))
    }

    fn save<'a>(
        &'a self,
        _: &'a SessionStoreKey,
        _: &'a PersistedSession,
    ) -> Pin<Box<dyn Future<Output = Result<(), SessionStoreError>> + Send + 'a>> {
        Box::pin(ready(Ok(())))
    }

    fn clear<'a>(
        &'a self,
        _: &'a SessionStoreKey,
    ) -> Pin<Box<dyn Future<Output = Result<(), SessionStoreError>> + Send + 'a>> {
        Box::pin(ready(Ok(())))
    }
}

fn terms(connack: &ConnAck) -> Terms {
    let properties = connack.properties.as_ref();
    Terms {
        session_present: connack.session_present,
        session_expiry: properties.and_then(|p| p.session_expiry_interval),
        receive_maximum: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        max_packet_bytes: properties.and_then(|p| p.max_packet_size).unwrap_or(u32::MAX),
        retain: match properties.and_then(|p| p.retain_available) {
            Some(0) => Retain::Unsupported,
            _ => Retain::Kept,
        },
    }
}

fn arrived(publish: Publish) -> Arrived<ManualAck> {
    let properties = publish.properties.unwrap_or_default();
    Arrived {
        packet_id: publish.pkid,
        topic: publish.topic,
        payload: publish.payload,
        retain: publish.retain,
        dup: publish.dup,
        expiry: properties.message_expiry_interval,
        response_topic: properties.response_topic,
        correlation: properties.correlation_data,
        ack: match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(ManualAck::PubAck(PubAck::new(publish.pkid, None))),
            QoS::ExactlyOnce => Some(ManualAck::PubRec(PubRec::new(publish.pkid, None))),
        },
    }
}

fn answer(result: PublishResult) -> Answer {
    match result {
        PublishResult::Qos1(PubAck { reason: PubAckReason::NoMatchingSubscribers, .. }) => Answer::NoReader,
        PublishResult::Qos1(PubAck { reason, .. }) if reason != PubAckReason::Success => {
            Answer::Refused(format!("{reason:?}"))
        }
        _ => Answer::Confirmed,
    }
}

/// Every error gets its own words: some of the library's show whole packets.
fn failure(error: ConnectionError) -> Failure {
    match error {
        ConnectionError::MqttState(error) => broken(error),
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::ServiceUnavailable
            | ConnectReturnCode::UnspecifiedError
            | ConnectReturnCode::ServerUnavailable
            | ConnectReturnCode::ServerBusy
            | ConnectReturnCode::QuotaExceeded
            | ConnectReturnCode::ConnectionRateExceeded => Failure::Closed(format!("{code:?}")),
            code => Failure::not_admitted(&code),
        },
        ConnectionError::Tls(error) => tls::failure(&error),
        ConnectionError::Timeout(_) => Failure::Network("connecting took too long".into()),
        ConnectionError::Io(error) => Failure::Network(error.to_string()),
        ConnectionError::Websocket(error) => Failure::Network(error.to_string()),
        ConnectionError::ResponseValidation(error) => Failure::Protocol(error.to_string()),
        ConnectionError::NotConnAck(_) => Failure::Protocol("the first packet is no CONNACK".into()),
        ConnectionError::SessionStateMismatch { .. } => Failure::Protocol("the session is not as asked".into()),
        ConnectionError::RequestsDone => Failure::Closed("at our wish".into()),
        _ => Failure::Network("the connection cannot be made".into()),
    }
}

fn broken(error: StateError) -> Failure {
    match error {
        StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)) => {
            Failure::Network(error.to_string())
        }
        StateError::ConnectionAborted => Failure::Network("closed without a word".into()),
        StateError::AwaitPingResp => Failure::Network("no answer to a ping".into()),
        StateError::Deserialization(mqttbytes::Error::PayloadSizeLimitExceeded { pkt_size, .. })
        | StateError::IncomingPacketTooLarge { pkt_size, .. } => Failure::TooLarge { bytes: pkt_size },
        StateError::ServerDisconnect { reason_code: DisconnectReasonCode::SessionTakenOver, .. } => Failure::TakenOver,
        StateError::ServerDisconnect {
            reason_code: code @ (DisconnectReasonCode::NotAuthorized | DisconnectReasonCode::AdministrativeAction),
            ..
        } => Failure::Refused(format!("{code:?}")),
        StateError::ServerDisconnect { reason_code, .. } => Failure::Closed(format!("{reason_code:?}")),
        error => Failure::Protocol(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{ClientConfig, Will};

    #[test]
    fn the_will_leaves_the_bridge_time_to_come_back() {
        let will = Will { topic: "_bridge/status".into(), payload: "offline".into(), qos: 1, retain: true };
        let plan = Plan::new(ClientConfig { will: Some(will), ..ClientConfig::default() }).unwrap();
        let will = options(&plan, 1).last_will().unwrap();
        assert_eq!(will.properties.unwrap().delay_interval, Some(5));
    }
}

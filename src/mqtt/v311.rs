//! MQTT 3.1.1, in the words of [`super::link`].

use super::config::{Endpoint, Plan};
use super::link::{
    Acknowledged, Answer, Arrived, BATCH, Event, Failure, Gone, Leave, Protocol, QOS_0, Retain, Terms, qos,
};
use super::{AckWord, Outbound, tls};
use rumqttc_v4::mqttbytes::v4::{PubAck, PubRec};
use rumqttc_v4::{
    AckMode, AsyncClient, Broker, ConnectReturnCode, ConnectionError, EventLoop, LastWill, ManualAck, MqttOptions,
    Outgoing, Packet, Publish, PublishOptions, QoS, StateError, SubscribeFilter, SubscribeReasonCode, TlsConfiguration,
    Transport, mqttbytes,
};

/// MQTT 3.1.1, 2.2.3: what a packet's length field can say. What the broker takes is not told.
const LARGEST_PACKET: usize = 268_435_455;

/// MQTT 3.1.1.
pub(super) struct V311;

impl Protocol for V311 {
    type Client = AsyncClient;
    type Events = EventLoop;
    type Ack = ManualAck;

    // This version has no receive maximum: the broker's own limit is the window.
    fn open(plan: &Plan, _window: u16) -> (AsyncClient, EventLoop) {
        let (client, mut events) = AsyncClient::builder(options(plan)).capacity(plan.requests()).build();
        events.network_options.set_connection_timeout(plan.config.limits.connect.as_secs().max(1));
        // A publish does not wait until the broker has acknowledged the bytes before it.
        events.network_options.set_tcp_nodelay(true);
        (client, events)
    }

    async fn next(events: &mut EventLoop) -> Result<Event<ManualAck>, Failure> {
        Ok(match events.poll().await.map_err(failure)? {
            rumqttc_v4::Event::Incoming(Packet::ConnAck(connack)) => Event::Connected(Terms {
                session_present: connack.session_present,
                session_expiry: None,
                receive_maximum: u16::MAX,
                max_packet_bytes: u32::MAX,
                retain: Retain::Kept,
            }),
            rumqttc_v4::Event::Incoming(Packet::Publish(publish)) => Event::Arrived(arrived(publish)),
            rumqttc_v4::Event::Outgoing(Outgoing::PubAck(id) | Outgoing::PubRec(id)) => Event::Acknowledged(id),
            _ => Event::Other,
        })
    }

    async fn subscribe(client: &AsyncClient, filters: &[String]) -> Result<Vec<Option<String>>, Gone> {
        let asked = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
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
        let options = PublishOptions::new(qos(outbound.qos)).retain(outbound.retain);
        let handed = client.try_publish_tracked(outbound.topic.as_str(), outbound.payload.clone(), options);
        async move {
            match handed {
                // A PUBACK is all that a broker can say here, even when it drops the message.
                Ok(notice) => notice.wait_async().await.map_or(Answer::Lost, |_| Answer::Confirmed),
                Err(rumqttc_v4::ClientError::InvalidRequest(_)) => Answer::Refused("not an MQTT topic".into()),
                Err(_) => Answer::Lost,
            }
        }
    }

    async fn acknowledge(client: &AsyncClient, ack: ManualAck, word: AckWord) -> Acknowledged {
        match word {
            AckWord::Quota => Acknowledged::Withheld,
            AckWord::Done | AckWord::NoSuchTopic => {
                // It fails only when the link has ended; the broker sends the message again on the next one.
                _ = client.manual_ack(ack).await;
                Acknowledged::Sent
            }
        }
    }

    async fn disconnect(client: &AsyncClient, leave: Leave) {
        // It fails only when the link has ended, which is what is asked for.
        _ = match leave {
            Leave::InOrder => client.disconnect().await,
            Leave::AtOnce => client.disconnect_now().await,
        };
    }
}

fn options(plan: &Plan) -> MqttOptions {
    let (config, limits) = (&plan.config, &plan.config.limits);
    let mut options = addressed(plan);
    options
        .set_clean_session(false)
        // This version cannot tell the broker how much the bridge takes. What is larger than that ends each connection anew, as
        // it stays first in the broker's queue; so much more is read, one at a time, and cut before it is kept.
        .set_max_packet_size(usize::try_from(config.max_packet_bytes).unwrap_or(LARGEST_PACKET), LARGEST_PACKET)
        .set_inflight(limits.inflight)
        .set_ack_mode(AckMode::Manual)
        .set_keep_alive(limits.keep_alive_secs())
        .set_max_request_batch(BATCH);
    if let Some(will) = &config.will {
        options.set_last_will(LastWill::new(&will.topic, will.payload.clone(), qos(will.qos), will.retain));
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

fn arrived(publish: Publish) -> Arrived<ManualAck> {
    Arrived {
        packet_id: publish.pkid,
        topic: publish.topic,
        payload: publish.payload,
        retain: publish.retain,
        dup: publish.dup,
        expiry: None,
        response_topic: None,
        correlation: None,
        ack: match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(ManualAck::PubAck(PubAck::new(publish.pkid))),
            QoS::ExactlyOnce => Some(ManualAck::PubRec(PubRec::new(publish.pkid))),
        },
    }
}

/// Every error gets its own words: some of the library's show whole packets.
fn failure(error: ConnectionError) -> Failure {
    match error {
        ConnectionError::MqttState(error) => broken(error),
        ConnectionError::ConnectionRefused(code @ ConnectReturnCode::ServiceUnavailable) => {
            Failure::Closed(format!("{code:?}"))
        }
        ConnectionError::ConnectionRefused(code) => Failure::not_admitted(&code),
        ConnectionError::Tls(error) => tls::failure(&error),
        ConnectionError::NetworkTimeout => Failure::Network("connecting took too long".into()),
        ConnectionError::FlushTimeout => Failure::Network("the broker stopped reading".into()),
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
        StateError::Deserialization(mqttbytes::Error::PayloadSizeLimitExceeded(bytes)) => Failure::TooLarge { bytes },
        error => Failure::Protocol(error.to_string()),
    }
}

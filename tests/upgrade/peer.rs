//! An MQTT client that comes back.

use crate::harness::soon;
use rumqttc_v5::mqttbytes::v5::{Packet, PubAckReason, Publish};
use rumqttc_v5::{
    AsyncClient, Event, MqttOptions, PersistedAckMode, PersistedSession, PublishOptions, PublishResult, QoS,
    SessionStore, SessionStoreError, SessionStoreKey,
};
use serde_json::Value;
use std::future::ready;
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// What a client got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) topic: String,
    /// As JSON.
    pub(crate) body: Value,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
}

impl Got {
    fn of(publish: &Publish) -> Self {
        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
        let body = serde_json::from_slice(&publish.payload).unwrap_or(Value::Null);
        Self { topic, body, dup: publish.dup, retain: publish.retain }
    }
}

/// A client of release 0.1.0, under the id that it had, with the session that it had.
pub(crate) struct Peer {
    client: AsyncClient,
    messages: mpsc::Receiver<Got>,
    /// Whether its session was still there.
    pub(crate) session_present: bool,
    _events: JoinSet<()>,
}

impl Peer {
    /// Connects with clean start off. The user is what stands before the colon.
    pub(crate) async fn connect(broker: SocketAddr, id: &str) -> Self {
        let user = id.split(':').next().unwrap();
        let mut options = MqttOptions::new(id, (broker.ip().to_string(), broker.port()));
        options.set_clean_start(false).set_session_expiry_interval(Some(3_600));
        options.set_session_store(Forgotten(id.to_owned()));
        options.set_credentials(user, format!("password of {user}"));
        let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
        let (tx, messages) = mpsc::channel(1_000);
        let (connected, present) = oneshot::channel();
        let (mut task, mut connected) = (JoinSet::new(), Some(connected));
        task.spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                        let _ = connected.take().map(|connected| connected.send(connack.session_present));
                    }
                    // The test may be over.
                    Ok(Event::Incoming(Packet::Publish(publish))) => _ = tx.send(Got::of(&publish)).await,
                    Ok(_) => {}
                    // It ends with the bridge; before that, the test fails and shows why.
                    Err(error) => return eprintln!("{error}"),
                }
            }
        });
        let session_present = soon("the CONNACK", present).await.expect("the client is let in");
        Self { client, messages, session_present, _events: task }
    }

    pub(crate) async fn subscribe(&self, filter: &str) {
        let notice = self.client.subscribe_tracked(filter, QoS::AtLeastOnce).await.unwrap();
        soon("the SUBACK", notice.wait_completion_async()).await.unwrap();
    }

    /// Publishes with QoS 1 and waits for the PUBACK.
    pub(crate) async fn publish(&self, topic: &str, payload: &Value) {
        let options = PublishOptions::at_least_once();
        let notice = self.client.publish_tracked(topic, payload.to_string(), options).await.unwrap();
        match soon("the PUBACK", notice.wait_async()).await.unwrap() {
            PublishResult::Qos1(ack) => {
                assert!(matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers));
            }
            result => panic!("{result:?}"),
        }
    }

    pub(crate) async fn next(&mut self) -> Got {
        soon("a message", self.messages.recv()).await.expect("the client is connected")
    }

    /// The next messages, up to the first for which `last` is true, which is among them.
    pub(crate) async fn until(&mut self, last: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        let mut got = Vec::new();
        while !last(&got) {
            got.push(self.next().await);
        }
        got
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// The client's half of the session, which is empty: it acknowledges what it gets, and has published nothing before.
/// Without a half of its own the library may subscribe and publish nothing in a session that the broker has kept.
#[derive(Debug)]
struct Forgotten(String);

impl SessionStore for Forgotten {
    fn load<'a>(&'a self, _: &'a SessionStoreKey) -> Answer<'a, Option<PersistedSession>> {
        Box::pin(ready(Ok(Some(PersistedSession {
            format_version: 1,
            client_id: self.0.clone(),
            clean_start: false,
            session_expiry_interval: None,
            outgoing_inflight_upper_limit: None,
            ack_mode: PersistedAckMode::Automatic,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        }))))
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> Answer<'a, ()> {
        Box::pin(ready(Ok(())))
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> Answer<'a, ()> {
        Box::pin(ready(Ok(())))
    }
}

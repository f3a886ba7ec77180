//! What the driver needs of an MQTT client library, in words that both MQTT versions share.

use super::config::Plan;
use super::{AckWord, Outbound};
use bytes::Bytes;
use rumqttc_v5::QoS;
use std::fmt::Debug;
use std::time::Duration;

/// One MQTT version. [`super::v5`] and [`super::v311`] translate; they decide nothing.
///
/// A link lives for one connection. The library could reconnect by itself and send again what was in flight, but then
/// it and the store would both do so; and an acknowledgement could leave on another connection than its message came.
pub(super) trait Protocol {
    /// The sending half.
    type Client: Sync;
    /// The receiving half; it also moves everything that the sending half was given.
    type Events: Send;
    /// An acknowledgement, ready to be sent on this link.
    type Ack: Send;

    /// Prepares a link. Nothing is opened until [`Protocol::next`] is called.
    fn open(plan: &Plan, window: u16) -> (Self::Client, Self::Events);

    /// The next thing that happens. Not cancel safe: what it was doing would be lost.
    async fn next(events: &mut Self::Events) -> Result<Event<Self::Ack>, Failure>;

    /// Subscribes all filters with QoS 1; answers, filter by filter, why it is refused.
    async fn subscribe(client: &Self::Client, filters: &[String]) -> Result<Vec<Option<String>>, Gone>;

    /// Takes subscriptions back that an earlier connection of the session may have left, each in a packet of its own. Nobody
    /// waits for the answers: rumqttd gives none where there is nothing to take back.
    async fn unsubscribe(client: &Self::Client, filters: &[String]) -> Result<(), Gone>;

    /// Hands `outbound` over at once, in the order of the calls; the future waits for the broker's answer.
    fn publish(client: &Self::Client, outbound: &Outbound) -> impl Future<Output = Answer> + Send + 'static;

    /// Tells the broker what became of a message.
    async fn acknowledge(client: &Self::Client, ack: Self::Ack, word: AckWord) -> Acknowledged;

    /// Asks for a DISCONNECT.
    async fn disconnect(client: &Self::Client, leave: Leave);
}

/// What happens on a link.
#[derive(Debug)]
pub(super) enum Event<A> {
    /// The CONNACK came; first of all events.
    Connected(Terms),
    /// A message came.
    Arrived(Arrived<A>),
    /// The acknowledgement of the message with this packet id is on its way: the broker may use the id for another one.
    Acknowledged(u16),
    /// Something that needs no attention.
    Other,
}

/// What the broker says of itself in its CONNACK. MQTT 3.1.1 says only the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Whether it still had the session.
    pub(super) session_present: bool,
    /// For how many seconds it keeps the session, where that is not what was asked for.
    pub(super) session_expiry: Option<u32>,
    /// Most publications without an answer that it takes.
    pub(super) receive_maximum: u16,
    /// Largest packet that it takes.
    pub(super) max_packet_bytes: u32,
    /// Whether it keeps retained messages.
    pub(super) retain: Retain,
}

/// Whether a broker keeps retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retain {
    Kept,
    Unsupported,
}

/// A message as it came.
#[derive(Debug)]
pub(super) struct Arrived<A> {
    /// 0 with QoS 0.
    pub(super) packet_id: u16,
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) expiry: Option<u32>,
    pub(super) response_topic: Option<String>,
    pub(super) correlation: Option<Bytes>,
    /// None with QoS 0.
    pub(super) ack: Option<A>,
}

/// The link ended before an answer came; [`Protocol::next`] says why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// The broker's answer to a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has the message (QoS 0: the socket has it).
    Confirmed,
    /// It has no matching subscriber (MQTT 5, reason 0x10).
    NoReader,
    /// It does not want the message.
    Refused(String),
    /// The link ended before an answer came.
    Lost,
    /// No answer within the time limit.
    Silent,
}

/// When a DISCONNECT goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Behind the acknowledgements that were handed over.
    InOrder,
    /// Now, though publications are unanswered: the library would wait for the answers, without end.
    AtOnce,
}

/// Whether the broker was told what became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledged {
    Sent,
    /// The version has no word for it; the broker goes on waiting.
    Withheld,
}

impl Failure {
    /// The broker does not let the client in, for the reason of its CONNACK.
    pub(super) fn not_admitted(reason: &impl Debug) -> Self {
        let reason = format!("{reason:?}");
        let is_login = ["NotAuthorized", "BadUserNamePassword"].contains(&reason.as_str());
        let keys = if is_login { " (`mqtt.username`, `mqtt.password_file` or `mqtt.password`)" } else { "" };
        Self::Refused(format!("{reason}{keys}"))
    }
}

/// Why a connection ended, or could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The network, or a broker that is down.
    #[error("{0}")]
    Network(String),
    /// The broker closed the connection and said why.
    #[error("closed by the broker: {0}")]
    Closed(String),
    /// The broker does not want this client.
    #[error("refused by the broker: {0}")]
    Refused(String),
    /// Somebody else uses the client id.
    #[error("another client has connected with the same client id")]
    TakenOver,
    /// The certificate, or the TLS version.
    #[error("TLS: {0}")]
    Tls(String),
    /// A packet above `max_packet_bytes`, which an MQTT 5 broker was told of.
    #[error(
        "the broker sends a packet of {bytes} bytes, which is more than is read (with MQTT 3.1.1 `mqtt.max_packet_bytes`), and sends \
         it again with each connection; let it refuse such messages"
    )]
    TooLarge {
        /// What it would have been.
        bytes: usize,
    },
    /// Something that MQTT does not allow.
    #[error("the broker breaks the protocol: {0}")]
    Protocol(String),
    /// No answer.
    #[error("the broker has not answered for {0:?}")]
    Silent(Duration),
    /// Not a failure: messages that nobody took are asked for again.
    #[error("messages were left unacknowledged")]
    Redelivery,
}

/// Why a subscription at QoS 0 counts as refused.
pub(super) const QOS_0: &str = "it is granted at QoS 0 only, at which messages get lost";

/// Most requests that the library writes before it flushes the socket.
pub(super) const BATCH: usize = 32;

/// QoS 2 is not used: what it adds, the application ids do.
pub(super) fn qos(level: u8) -> QoS {
    if level == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

/// The most that `outbound` takes on the wire, whichever the version.
///
/// The library ends the connection when it is given a packet above the broker's limit, so it must not come so far.
pub(super) fn wire_bytes(outbound: &Outbound) -> usize {
    /// Fixed header 5, topic length 2, packet id 2, property length 4, format 2, content type 19, correlation 3.
    const AROUND: usize = 37;
    AROUND + outbound.topic.len() + outbound.payload.len() + outbound.correlation.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc_v5::{ConnectReturnCode, Packet, Publish, PublishProperties};

    #[test]
    fn a_log_in_that_is_refused_is_told_with_the_keys_of_the_log_in() {
        let told = |code: ConnectReturnCode| Failure::not_admitted(&code).to_string();
        let keys = "(`mqtt.username`, `mqtt.password_file` or `mqtt.password`)";
        assert_eq!(told(ConnectReturnCode::NotAuthorized), format!("refused by the broker: NotAuthorized {keys}"));
        assert_eq!(told(ConnectReturnCode::Banned), "refused by the broker: Banned");
    }

    #[test]
    fn a_publication_is_never_larger_than_estimated() {
        for payload in [0, 1, 127, 128, 16_384, 3_000_000] {
            let (outbound, _) = Outbound::new("bal/others/messages", vec![0; payload]);
            let outbound = Outbound { correlation: Some(Bytes::from_static(b"c1")), ..outbound };
            let properties = PublishProperties {
                payload_format_indicator: Some(1),
                content_type: Some("application/json".into()),
                correlation_data: outbound.correlation.clone(),
                ..PublishProperties::default()
            };
            let packet = Publish::new(&outbound.topic, QoS::AtLeastOnce, outbound.payload.clone(), Some(properties));
            let (real, estimate) = (Packet::Publish(packet).size(), wire_bytes(&outbound));
            assert!((real..real + 10).contains(&estimate), "{payload}: {real}, estimated {estimate}");
        }
    }
}

//! A session and its disk against a plain list; and the small parts one by one.

mod group;
mod model;
mod parts;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::chat::qos::QoS;
use crate::store::{DocumentRef, Message, Origin, QueueId, QueueRow, Target};

const LIMITS: MemoryLimits = MemoryLimits { messages: 20, bytes: 100_000 };
static PAYLOAD: [u8; 100_000] = [0; 100_000];

fn message(topic: &str, size: usize, qos: QoS, expires_at: Option<u64>) -> Arc<Message> {
    let (topic, payload, properties) = (topic.into(), Bytes::from_static(&PAYLOAD[..size]), Bytes::new());
    Arc::new(Message { topic, payload, properties, qos, retain: false, expires_at })
}

/// `number` stands in for a subscription identifier, to know the message again.
fn target(qos: QoS, number: u64) -> Target {
    Target { queue: QueueId(1), qos, retain: false, ids: vec![number as u32] }
}

fn row(seq: u64, topic: &str, size: usize, qos: QoS) -> OutgoingMessage {
    OutgoingMessage::row(seq, message(topic, size, qos, None), target(qos, seq))
}

fn queue_row(seq: u64, topic: &str, qos: QoS) -> QueueRow {
    let message = message(topic, 10, qos, None);
    QueueRow { seq, message, target: target(qos, seq), packet_id: None, released: false, maybe_sent: false }
}

fn reference(topic: &Arc<str>, seq: u64) -> DocumentRef {
    DocumentRef { topic: Arc::clone(topic), seq, origin: Origin::Note }
}

fn document(topic: &Arc<str>, seq: u64, size: usize, redelivered: bool) -> OutgoingMessage {
    let message = document_message(topic, Bytes::from_static(&PAYLOAD[..size]), None, (redelivered, None));
    OutgoingMessage::document(message, reference(topic, seq), QoS::AtLeastOnce, vec![seq as u32], redelivered)
}

fn pulled(queue: &mut Queue) -> Option<OutgoingMessage> {
    match queue.pull(true, 0)? {
        Pulled::Send(item) => Some(item),
        Pulled::Expired(item) => panic!("{item:?} is expired"),
    }
}

/// The names of all that comes.
fn drain(queue: &mut Queue) -> Vec<u64> {
    std::iter::from_fn(|| pulled(queue)).map(|item| item.ids[0].into()).collect()
}

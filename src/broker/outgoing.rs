//! The bridge's publications on their way into the engine.

use std::sync::Arc;

use mqtt5::QoS;
use mqtt5::packet::publish::PublishPacket;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use crate::mqtt::{Outbound, Outcome};

/// Takes publications until `stop`, as long as there is room for unconfirmed ones. What it has not taken by then is
/// answered `Unsent`.
pub(super) async fn run(
    mut publish: mpsc::Receiver<Outbound>,
    desk: &Desk,
    unconfirmed: Arc<Semaphore>,
    stop: &CancellationToken,
) {
    let mut next = async || {
        let room = Arc::clone(&unconfirmed).acquire_owned().await.ok()?;
        Some((publish.recv().await?, room))
    };
    while let Some(Some((message, room))) = stop.run_until_cancelled(next()).await {
        if message.retain || message.qos == 0 {
            // A deadline of now: whoever has no room gets it from his queue instead of holding up everybody.
            desk.router.route_message_with_deadline(&packet(&message, wanted(&message)), None, Instant::now()).await;
            let _ = message.outcome.send(Outcome::Confirmed);
        } else {
            desk.ledger.publish(message, room);
        }
    }
    publish.close();
    while let Ok(message) = publish.try_recv() {
        let _ = message.outcome.send(Outcome::Unsent);
    }
}

/// A publication in the engine's words.
pub(super) fn packet(message: &Outbound, qos: QoS) -> PublishPacket {
    let mut packet =
        PublishPacket::new(message.topic.as_str(), message.payload.clone(), qos).with_retain(message.retain);
    if let Some(correlation) = &message.correlation {
        packet.properties.set_correlation_data(correlation.clone());
    }
    packet
}

fn wanted(message: &Outbound) -> QoS {
    if message.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

/// The size of a PUBLISH for an MQTT 5 client, header included.
pub(super) fn size_of_packet(publish: &PublishPacket) -> usize {
    let body = publish.body_encoded_size();
    let header = match body {
        0..=0x7f => 2,
        0x80..=0x3fff => 3,
        0x4000..=0x1f_ffff => 4,
        _ => 5,
    };
    header + body
}

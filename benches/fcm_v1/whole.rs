//! The whole bridge: a BAL over TCP, the broker, the store on disk, the transport; and the statuses back.

use crate::harness::Harness;
use crate::support::{TEXT, bal, connection, document, token};
use crate::{DEVICES, Meter, Row, side, transport};
use fcm_mqtt_bridge::chat::id::Sid;
use fcm_mqtt_bridge::sim::handle::SimHandle;
use fcm_mqtt_bridge::transport::fcm_v1::FcmConfig;
use rumqttc_v5::{AsyncClient, PublishOptions, QoS};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// The steady pace: so many messages at a time, so often, for so long.
const PACE: usize = 10;
const PACE_EVERY: Duration = Duration::from_millis(10);
const PACE_FOR: Duration = Duration::from_secs(3);
/// How often the apps look for new messages, and how many confirmations the simulator gives at a time.
const CONFIRM_EVERY: Duration = Duration::from_millis(2);
const CONFIRMATIONS: usize = 500;

/// What the BAL asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many messages, as fast as they are acknowledged.
    Full(usize),
    /// The same, and each is confirmed by its app: a publish of its own.
    Confirmed(usize),
    /// Messages at the steady pace.
    Paced,
}

impl Load {
    fn messages(self) -> usize {
        match self {
            Self::Full(messages) | Self::Confirmed(messages) => messages,
            Self::Paced => PACE * (PACE_FOR.as_millis() / PACE_EVERY.as_millis()) as usize,
        }
    }

    /// The last word on each message.
    fn last_word(self) -> &'static str {
        if let Self::Confirmed(_) = self { "delivered" } else { "sent" }
    }
}

pub(crate) async fn run(sim: &SimHandle, folder: &Path, load: Load) -> Row {
    let confirms = matches!(load, Load::Confirmed(_));
    let harness = Harness::open(folder, FcmConfig { app_receipts: confirms, ..transport(sim, folder) }).await;
    let (client, mut events) = bal(harness.broker, "client1/others/receipts").await;
    let messages = load.messages();
    let meter = Meter::start();
    let statuses = async {
        let mut done = 0;
        while done < messages {
            let status = document(&mut events).await;
            done += usize::from(status.is_some_and(|status| status["status"] == load.last_word()));
        }
    };
    let bal = async { tokio::join!(publish(&client, load), statuses) };
    tokio::select! {
        _ = bal => {}
        () = confirm(sim, harness.broker), if confirms => {}
    }
    let row = meter.stop(sim, messages);
    harness.close().await;
    Row { waits_ms: waits(sim), ..row }
}

async fn publish(client: &AsyncClient, load: Load) {
    let mut ticks = tokio::time::interval(PACE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for n in 0..load.messages() {
        if load == Load::Paced && n % PACE == 0 {
            ticks.tick().await;
        }
        let push = json!({
            "id": format!("m{n}"),
            "token": token(n % DEVICES),
            "data": { "text": TEXT },
            "receipt": matches!(load, Load::Confirmed(_)),
        });
        let options = PublishOptions::new(QoS::AtLeastOnce);
        client.publish("client1/self/messages", push.to_string(), options).await.expect("the event loop is there");
    }
}

/// The apps, all of them by one connection: each confirms its message as soon as it has it.
async fn confirm(sim: &SimHandle, broker: SocketAddr) {
    let (client, mut events) = connection("phone", broker);
    let confirmations = async {
        let mut ticks = tokio::time::interval(CONFIRM_EVERY);
        let mut last = 0;
        loop {
            ticks.tick().await;
            for ack in side(sim).app_acks(last, CONFIRMATIONS) {
                last = ack.seq;
                let receipt = json!({ "id": ack.id, "status": "received" }).to_string();
                let options = PublishOptions::new(QoS::AtLeastOnce);
                client.publish("phone/self/receipts", receipt, options).await.expect("the event loop is there");
            }
        }
    };
    let polls = async {
        loop {
            events.poll().await.expect("the broker stays");
        }
    };
    tokio::join!(confirmations, polls);
}

/// The median and the 99th percentile of the times from a message's id to its arrival at the simulator.
fn waits(sim: &SimHandle) -> Option<(u64, u64)> {
    let records = (0..DEVICES).flat_map(|n| sim.received(&token(n)));
    let wait = |id: &str, at: u64| Some(at.saturating_sub(Sid::parse(id)?.millis()));
    let mut waits: Vec<u64> = records.filter_map(|record| wait(&record.message_id, record.at)).collect();
    waits.sort_unstable();
    let part = |percent: usize| waits.get(waits.len() * percent / 100).copied();
    part(50).zip(part(99))
}

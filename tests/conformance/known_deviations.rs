//! Where the engine does not do what the specification wants, and wrapping it does not help. Each row says what happens
//! today, so that it fails, and moves into the table, when an update of the engine mends it.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::stage::{self, ONLY_V5, ONLY_V311, Row, Stage, row};
use crate::wire::{Connect, PUBREC, Packet, Publish, Value, Will, prop};

struct Deviation {
    /// What the specification wants, and what happens.
    today: Row,
    /// Why it is so, and what it means for those who use the bridge.
    why: &'static str,
}

fn known_deviations() -> Vec<Deviation> {
    vec![
        Deviation {
            today: row(
                "[MQTT-3.3.2-5,6] a message that waits for a slow client is late, and its expiry is not counted down",
                ONLY_V5,
                late,
            ),
            why: "Between router and client the engine keeps up to a lane of messages with their expiry as it was. What waits for \
                  a session that is away is right. The bridge's own messages carry `ts` and `ttl` in the body.",
        },
        Deviation {
            today: row(
                "[MQTT-3.1.3-9] a clean start forgets a delayed will instead of publishing it",
                ONLY_V5,
                forgotten,
            ),
            why: "The engine takes any new connection for a return. mosquitto 2.0.11 does so too. A client that is back needs \
                  nobody to be told that it is gone.",
        },
        Deviation {
            today: row("[MQTT-3.1.4-3] so does a clean take-over", ONLY_V5, forgotten_in_a_take_over),
            why: "As above.",
        },
        Deviation {
            today: row(
                "3.1.1 has no receive maximum, but ours ends a connection with more than 257 open QoS 2 exchanges",
                ONLY_V311,
                too_many_exchanges,
            ),
            why: "The engine keeps each such message until its PUBREL, which waits in the socket behind the next PUBLISH: only a \
                  limit keeps memory within bounds.",
        },
        Deviation {
            today: row(
                "[MQTT-3.3.1-9] of more than 1,024 retained messages one SUBSCRIBE at QoS 0 finds the first 1,024",
                ONLY_V5,
                retained_at_qos_0,
            ),
            why: "The engine hands them out in one go, and its lane for QoS 0 drops what does not fit. At QoS 1 all come.",
        },
        Deviation {
            today: row(
                "4.8.2 what a member without a session had not acknowledged is lost with it",
                ONLY_V5,
                member_without_session,
            ),
            why: "The engine does not look for another member (a SHOULD). What the bridge publishes, it publishes again, because it \
                  hears that the copy is lost.",
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_deviations_are_still_there() {
    let known = known_deviations();
    let changed = stage::run_embedded(known.iter().map(|deviation| deviation.today.clone()).collect()).await;
    let why =
        |failure: &String| known.iter().find(|known| failure.starts_with(&known.today.name)).map(|known| known.why);
    let told: Vec<String> =
        changed.iter().map(|failure| format!("{failure}\n    it was so: {:?}", why(failure))).collect();
    assert!(told.is_empty(), "{} are not as they were:\n{}", told.len(), told.join("\n"));
}

async fn late(stage: Stage) {
    let topic = stage.name("t");
    let (mut reader, ..) = stage.connect(&stage.clean("r").with(prop::RECEIVE_MAXIMUM, Value::Two(1))).await;
    reader.subscribe(&topic, 1).await;
    let mut publisher = stage.client("p").await;
    publisher.post(&topic, "first").await;
    let open = reader.delivery().await;
    publisher.publish(&Publish::new(&topic, "short", 1, 1).with(prop::MESSAGE_EXPIRY, Value::Four(1))).await;
    sleep(Duration::from_millis(2_100)).await;
    reader.take(&open).await;
    let late = reader.gets("short").await;
    assert_eq!(late.props.get(prop::MESSAGE_EXPIRY), Some(&Value::Four(1)));
}

/// A client whose will is delayed, and one who reads it.
async fn delayed(stage: &Stage) -> (Client, Client) {
    let mut reader = stage.client("r").await;
    reader.subscribe(&stage.name("w"), 1).await;
    let will = Will::new(&stage.name("w"), "gone").delayed(1);
    let connect: Connect = stage.lasting("c").will(will);
    (stage.connect(&connect).await.0, reader)
}

async fn forgotten(stage: Stage) {
    let (client, mut reader) = delayed(&stage).await;
    client.cut_off();
    sleep(Duration::from_millis(200)).await;
    let _client = stage.client("c").await;
    sleep(Duration::from_millis(1_500)).await;
    stage.client("p").await.post(&stage.name("w"), "marker").await;
    reader.gets("marker").await;
}

async fn forgotten_in_a_take_over(stage: Stage) {
    let (mut client, mut reader) = delayed(&stage).await;
    let _new = stage.client("c").await;
    client.ended(&[0x8e]).await;
    sleep(Duration::from_millis(1_500)).await;
    stage.client("p").await.post(&stage.name("w"), "marker").await;
    reader.gets("marker").await;
}

async fn too_many_exchanges(stage: Stage) {
    let (mut client, topic) = (stage.client("c").await, stage.name("t"));
    for id in 1..=257 {
        client.say(&Publish::new(&topic, "x", 2, id)).await;
        client.acked(PUBREC, id).await;
    }
    client.quiet().await;
    client.say(&Publish::new(&topic, "x", 2, 258)).await;
    client.ended(&[]).await;
}

async fn retained_at_qos_0(stage: Stage) {
    let mut publisher = stage.client("p").await;
    for n in 0..1_100 {
        publisher.say(&Publish::new(&stage.name(&format!("/{n}")), "x", 0, 0).retained()).await;
    }
    publisher.quiet().await;
    let mut reader = stage.client("r").await;
    reader.subscribe(&stage.name("/#"), 0).await;
    let mut found = 0;
    while let Ok(Packet::Publish(_)) = timeout(Duration::from_secs(1), reader.next()).await {
        found += 1;
    }
    assert_eq!(found, 1_024);
}

async fn member_without_session(stage: Stage) {
    let mut doomed = stage.client("doomed").await;
    doomed.subscribe(&stage.share("g", "t"), 1).await;
    let mut publisher = stage.client("p").await;
    publisher.post(&stage.name("t"), "held").await;
    doomed.delivery().await;
    let mut survivor = stage.client("survivor").await;
    survivor.subscribe(&stage.share("g", "t"), 1).await;
    doomed.cut_off();
    sleep(Duration::from_millis(200)).await;
    publisher.post(&stage.name("t"), "next").await;
    survivor.gets("next").await;
}

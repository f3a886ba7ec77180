//! What went wrong in other engines: one test for each failure that was measured there, named after it. Ours must not.

use std::collections::BTreeSet;
use std::time::Duration;

use fcm_mqtt_bridge::broker::{BrokerConfig, BrokerLimits};
use fcm_mqtt_bridge::mqtt::{AckWord, Outcome};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::Client;
use crate::harness::{Harness, config, outcome, soon};
use crate::rows;
use crate::target::{BOTH, ONLY_V5, Target};
use crate::wire::{
    Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Props, Publish, V5, V311, Will, ack, frame, subscribe,
};

/// Plays a script of the table in each of the versions.
async fn play<F: Future<Output = ()>>(versions: &[u8], script: impl Fn(Target) -> F) {
    for version in versions {
        let harness = Harness::open().await;
        script(target(&harness, *version)).await;
        harness.close().await;
    }
}

fn target(harness: &Harness, version: u8) -> Target {
    Target::new(harness.address, version, format!("v{version}"))
}

// rumqttd 0.20

#[tokio::test]
async fn a_client_id_with_special_characters_twice_kills_the_listener() {
    play(BOTH, |target| async move {
        for id in ["a/b", "a+b", "a#b", "$a", "/", "+", "#", "$share/a/b"] {
            for _ in 0..3 {
                let mut client = target.dial().await;
                client.send(&Connect::clean(id).bytes(target.version)).await;
                assert!(matches!(client.next().await, Packet::ConnAck { .. }), "{id}");
            }
            target.client("ordinary").await.quiet().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_retry_past_the_connection_limit_kills_the_listener() {
    let harness = Harness::with(BrokerLimits { connections: 3, ..BrokerLimits::default() }).await;
    let target = target(&harness, V5);
    for _ in 0..3 {
        let inside = [target.client("1").await, target.client("2").await, target.client("3").await];
        for n in 0..10 {
            let mut outside = target.dial().await;
            outside.send(&target.clean(&format!("outside{n}")).bytes(V5)).await;
        }
        for client in inside {
            client.leave().await;
        }
    }
    target.client("4").await.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_share_member_that_drops_with_an_unacknowledged_message_ends_the_broker() {
    play(BOTH, |target| async move {
        let mut publisher = target.client("p").await;
        for round in 0..10 {
            let (mut member, _) = target.lasting_client("m").await;
            member.subscribe(&target.share("g", "t"), 1).await;
            publisher.post(&target.name("t"), &round.to_string()).await;
            member.delivery().await;
            member.cut_off();
        }
        let (mut member, resumed) = target.lasting_client("m").await;
        assert!(resumed);
        for round in 0..10 {
            member.gets(&round.to_string()).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_disconnect_under_load_ends_the_broker() {
    play(BOTH, |target| async move {
        let topic = target.name("t");
        for round in 0..10 {
            let mut publisher = target.client("p").await;
            let mut readers = Vec::new();
            for n in 0..5 {
                let (mut reader, _) = target.lasting_client(&format!("r{n}")).await;
                reader.subscribe(&topic, 1).await;
                readers.push(reader);
            }
            for id in 1..=200 {
                publisher.say(&Publish::new(&topic, "load", u8::from(id % 3 > 0), id)).await;
            }
            for (n, mut reader) in (0..).zip(readers) {
                if (round + n) % 2 == 0 {
                    reader.send(&frame(0xe0, &[])).await;
                }
                reader.cut_off();
            }
            publisher.cut_off();
        }
        target.client("after").await.quiet().await;
    })
    .await;
}

#[tokio::test]
async fn idle_connections_block_log_ins() {
    play(BOTH, |target| async move {
        let mut idle = Vec::new();
        for n in 0..50 {
            let mut client = target.dial().await;
            client.send(&target.clean("idle").bytes(target.version)[..n % 12]).await;
            idle.push(client);
        }
        let login = timeout(Duration::from_secs(5), target.client("c"));
        login.await.expect("others are idle, and we are not").quiet().await;
    })
    .await;
}

#[tokio::test]
async fn a_race_for_one_client_id_disconnects_innocents() {
    let harness = Harness::open().await;
    let target = target(&harness, V5);
    let topic = target.name("t");
    let mut innocents = Vec::new();
    for n in 0..46 {
        let mut innocent = target.client(&format!("innocent{n}")).await;
        innocent.subscribe(&topic, 1).await;
        innocents.push(innocent);
    }
    let mut racers = JoinSet::new();
    for _ in 0..6 {
        let target = target.clone();
        racers.spawn(async move {
            for n in 0..250 {
                let mut racer = target.dial().await;
                racer.send(&target.clean("the same").bytes(V5)).await;
                // Some wait for the answer, some do not.
                if n % 3 > 0 {
                    racer.next().await;
                }
            }
        });
    }
    while let Some(ended) = racers.join_next().await {
        ended.unwrap();
    }
    target.client("p").await.post(&topic, "still there?").await;
    for innocent in &mut innocents {
        innocent.gets("still there?").await;
        innocent.quiet().await;
    }
    target.client("the same").await.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_take_over_publishes_the_new_sessions_will_and_forgets_it() {
    play(BOTH, rows::wills::own_will_after_take_over).await;
}

#[tokio::test]
async fn a_subscribe_finds_at_most_100_retained_messages_at_qos_1_or_200_at_qos_0() {
    play(BOTH, |target| rows::retained::many(target, 0)).await;
    play(BOTH, |target| rows::retained::many(target, 1)).await;
}

#[tokio::test]
async fn a_message_is_delivered_at_the_qos_of_the_subscription_and_not_the_minimum() {
    play(BOTH, rows::publish::lower_qos).await;
}

#[tokio::test]
async fn a_publish_with_properties_disconnects_subscribers_of_3_1_1() {
    play(ONLY_V5, rows::properties::to_v311).await;
}

#[tokio::test]
async fn an_empty_message_that_is_not_retained_clears_the_retained_one() {
    play(BOTH, rows::retained::not_retained).await;
}

#[tokio::test]
async fn two_filters_in_one_share_group_lose_half() {
    play(BOTH, rows::shared::two_filters).await;
    play(BOTH, |target| async move {
        let mut members = [target.client("m1").await, target.client("m2").await];
        for member in &mut members {
            member.subscribe(&target.share("g", "a"), 1).await;
            member.subscribe(&target.share("g", "b"), 1).await;
        }
        let mut publisher = target.client("p").await;
        for n in 0..40 {
            publisher.post(&target.name(["a", "b"][n % 2]), &n.to_string()).await;
        }
        let mut taken = BTreeSet::new();
        for member in &mut members {
            while let Ok(packet) = timeout(Duration::from_millis(300), member.next()).await {
                let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                assert!(taken.insert(publish.text().to_owned()), "twice");
                member.take(&publish).await;
            }
        }
        assert_eq!(taken.len(), 40);
    })
    .await;
}

#[tokio::test]
async fn no_pingresp_while_100_messages_are_unacknowledged() {
    play(BOTH, rows::publish::ping_in_flight).await;
}

#[tokio::test]
async fn no_puback_while_100_messages_are_unacknowledged() {
    play(BOTH, |target| async move {
        let (mut client, topic) = (target.client("c").await, target.name("t"));
        client.subscribe(&topic, 1).await;
        for id in 1..=150 {
            client.say(&Publish::new(&topic, id.to_string(), 1, id)).await;
            client.acked(PUBACK, id).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_in_process_link_is_qos_0_only_and_never_released() {
    let mut harness = Harness::open().await;
    let target = target(&harness, V5);
    let mut reader = target.client("bal1").await;
    reader.subscribe("bal1/others/messages", 1).await;
    let numbers: Vec<u16> = (0..1_000).collect();
    // A lone confirmation waits up to 100 ms for a transaction of others, so some are asked for together.
    for some in numbers.chunks(20) {
        let mut answers = Vec::new();
        for n in some {
            let text = n.to_string();
            answers.push(harness.publish("bal1/others/messages", &text).await);
            assert_eq!(reader.gets(&text).await.qos, 1);
            reader.say(&Publish::new("bal1/self/messages", text, 1, n + 1)).await;
            harness.inbound().await.ack.release(AckWord::Done);
            assert_eq!(reader.acked(PUBACK, n + 1).await, 0);
        }
        for answer in answers {
            assert_eq!(outcome(answer).await, Outcome::Confirmed);
        }
    }
    harness.close().await;
}

#[tokio::test]
async fn the_versions_need_ports_of_their_own() {
    play(BOTH, rows::subscriptions::across_versions).await;
}

#[tokio::test]
async fn nothing_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let durable = || BrokerConfig { data: Some(folder.path().to_owned()), ..config() };
    let harness = Harness::bind(durable()).await;
    for version in [V311, V5] {
        let target = target(&harness, version);
        let topic = target.name("t");
        let (mut reader, _) = target.lasting_client("r").await;
        reader.subscribe(&topic, 1).await;
        let mut publisher = target.client("p").await;
        publisher.post(&topic, "unacknowledged").await;
        reader.delivery().await;
        reader.cut_off();
        for n in 0..50 {
            publisher.post(&topic, &n.to_string()).await;
        }
        publisher.publish(&Publish::new(&target.name("kept"), "kept", 1, 1).retained()).await;
    }
    harness.close().await;

    let harness = Harness::bind(durable()).await;
    for version in [V311, V5] {
        let target = target(&harness, version);
        let (mut reader, resumed) = target.lasting_client("r").await;
        assert!(resumed);
        assert!(reader.gets("unacknowledged").await.dup);
        for n in 0..50 {
            reader.gets(&n.to_string()).await;
        }
        reader.quiet().await;
        reader.subscribe(&target.name("kept"), 1).await;
        assert!(reader.gets("kept").await.retain);
        target.client("p").await.post(&target.name("t"), "the subscription as well").await;
        reader.gets("the subscription as well").await;
    }
    harness.close().await;
}

#[tokio::test]
async fn the_oldest_messages_of_an_offline_session_are_dropped_silently() {
    play(&[V5], |target| async move {
        let (mut reader, _) = target.lasting_client("r").await;
        reader.subscribe(&target.name("t"), 1).await;
        reader.leave().await;
        let mut publisher = target.client("p").await;
        for round in 0..30 {
            for n in 1..=100 {
                publisher.say(&Publish::new(&target.name("t"), (round * 100 + n).to_string(), 1, n)).await;
            }
            for n in 1..=100 {
                publisher.acked(PUBACK, n).await;
            }
        }
        let (mut reader, resumed) = target.lasting_client("r").await;
        assert!(resumed);
        for n in 1..=3_000 {
            reader.gets(&n.to_string()).await;
        }
    })
    .await;
}

// rmqtt 0.24

/// Messages of the chaos below; its publisher waits when its reader is this far behind, because a queue has an end.
const CHAOS: usize = 20_000;
const LEAD: usize = 2_000;
/// Messages at QoS 2 in the chaos.
const EXACTLY: usize = 2_000;
/// Sent ahead of the acknowledgements.
const BATCH: u16 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_missing_after_reconnect_chaos() {
    let harness = Harness::open().await;
    let target = target(&harness, V5);
    let topic = target.name("t");
    let (mut reader, _) = target.lasting_client("r").await;
    reader.subscribe(&topic, 1).await;
    let (progress, mut seen) = watch::channel(0);
    let mut publisher = JoinSet::new();
    let publishing = target.clone();
    publisher.spawn(async move {
        let mut client = publishing.client("p").await;
        for start in (0..CHAOS).step_by(BATCH.into()) {
            seen.wait_for(|seen| start < seen + LEAD).await.unwrap();
            for n in 0..BATCH {
                let text = (start + usize::from(n)).to_string();
                client.say(&Publish::new(&publishing.name("t"), text, 1, n + 1)).await;
            }
            for n in 0..BATCH {
                client.acked(PUBACK, n + 1).await;
            }
        }
    });
    let mut next = 0;
    let mut round = 0;
    while next < CHAOS {
        round += 1;
        // A life between no message and some hundred, and now and then a take-over instead of a cut.
        for _ in 0..(round * 37) % 400 {
            if next == CHAOS {
                break;
            }
            let message = reader.message().await;
            let n: usize = message.text().parse().unwrap();
            assert!(n <= next, "{} messages are missing before {n}", n - next);
            next = next.max(n + 1);
            progress.send_replace(next);
        }
        let (new, resumed) = target.lasting_client("r").await;
        assert!(resumed);
        reader = new;
        if round % 3 > 0 {
            reader.cut_off();
            reader = target.lasting_client("r").await.0;
        }
    }
    soon("the publisher", publisher.join_next()).await.unwrap().unwrap();
    harness.close().await;
}

/// A receiver at QoS 2 as the specification wants it (4.3.3): it survives its connections.
#[derive(Default)]
struct Receiver {
    /// Received, and not released yet.
    held: BTreeSet<u16>,
    taken: Vec<String>,
}

impl Receiver {
    /// Deals with the next packet.
    async fn step(&mut self, client: &mut Client) {
        match client.next().await {
            Packet::Publish(publish) => {
                if self.held.insert(publish.id) {
                    self.taken.push(publish.text().to_owned());
                }
                client.send(&ack(PUBREC, publish.id)).await;
            }
            Packet::Ack { kind: PUBREL, id, .. } => {
                self.held.remove(&id);
                client.send(&ack(PUBCOMP, id)).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_at_qos_2_come_twice_or_never_in_reconnect_chaos() {
    for version in [V311, V5] {
        let harness = Harness::open().await;
        let target = target(&harness, version);
        let (mut reader, _) = target.lasting_client("r").await;
        reader.subscribe(&target.name("t"), 2).await;
        let mut publisher = JoinSet::new();
        let publishing = target.clone();
        publisher.spawn(async move {
            let mut client = publishing.client("p").await;
            for n in 0..EXACTLY {
                client.publish(&Publish::new(&publishing.name("t"), n.to_string(), 2, 1)).await;
            }
        });
        let mut receiver = Receiver::default();
        for round in 0.. {
            for _ in 0..(round * 37) % 100 {
                if receiver.taken.len() >= EXACTLY {
                    break;
                }
                receiver.step(&mut reader).await;
            }
            if receiver.taken.len() >= EXACTLY {
                break;
            }
            if round % 3 > 0 {
                reader.cut_off();
            }
            reader = target.lasting_client("r").await.0;
        }
        soon("the publisher", publisher.join_next()).await.unwrap().unwrap();
        target.client("p").await.publish(&Publish::new(&target.name("t"), "end", 2, 1)).await;
        while receiver.taken.last().is_none_or(|text| text != "end") {
            receiver.step(&mut reader).await;
        }
        let all: Vec<String> = (0..EXACTLY).map(|n| n.to_string()).chain(["end".to_owned()]).collect();
        let wrong = receiver.taken.iter().zip(&all).find(|(taken, wanted)| taken != wanted);
        assert!(receiver.taken == all, "{wrong:?}, {} of {}", receiver.taken.len(), all.len());
        harness.close().await;
    }
}

#[tokio::test]
async fn a_subscribe_of_65_kb_ends_the_broker() {
    for version in [V311, V5] {
        let harness = Harness::open().await;
        let target = target(&harness, version);
        for filter in ["/".repeat(65_535), "+/".repeat(32_767) + "+", "+/".repeat(32_767) + "#", "a/".repeat(32_767)] {
            let mut client = target.client("deep").await;
            client.send(&subscribe(version, &[(&filter, 1)], &Props::default())).await;
            // It may be refused, in any way, if others are not.
            if matches!(client.next().await, Packet::SubAck { .. }) {
                client.say(&Publish::new(&filter.replace(['+', '#'], "x"), "deep", 0, 0)).await;
                client.send(&crate::wire::unsubscribe(version, &[&filter])).await;
                client.next().await;
            }
            client.cut_off();
            target.client("other").await.quiet().await;
        }
        // And one with thousands of filters.
        let mut client = target.client("wide").await;
        let names: Vec<String> = (0..8_000).map(|n| format!("{n:04x}")).collect();
        let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        client.send(&subscribe(version, &filters, &Props::default())).await;
        client.next().await;
        target.client("other").await.quiet().await;
        harness.close().await;
    }
}

// mosquitto 2.0.11

#[tokio::test]
async fn no_more_than_20_messages_are_in_flight() {
    play(BOTH, |target| async move {
        let (mut reader, topic) = (target.client("r").await, target.name("t"));
        reader.subscribe(&topic, 1).await;
        let mut publisher = target.client("p").await;
        for n in 0..60 {
            publisher.post(&topic, &n.to_string()).await;
        }
        for n in 0..60 {
            assert_eq!(reader.delivery().await.text(), n.to_string());
        }
    })
    .await;
}

#[tokio::test]
async fn a_publish_into_an_inbox_is_delivered_in_spite_of_its_answer() {
    let harness = Harness::open().await;
    for version in [V311, V5] {
        let target = target(&harness, version);
        let mut alice = target.client("alice").await;
        alice.subscribe("alice/others/+", 1).await;
        for (id, qos) in [(0, 0), (1, 1), (2, 2)] {
            let mut eve = target.client("eve").await;
            eve.say(&Publish::new("alice/others/messages", "forged", qos, id)).await;
            match (version, qos) {
                // 3.1.1 has no word for it but the end ([MQTT-3.3.5-2]).
                (V311, _) => eve.ended(&[]).await,
                (_, 0) => eve.quiet().await,
                (_, 1) => assert_eq!(eve.acked(PUBACK, id).await, 0x87),
                _ => assert_eq!(eve.acked(PUBREC, id).await, 0x87),
            }
        }
        let will = Will::new("alice/others/messages", "forged");
        target.connect(&target.clean("mallory").will(will)).await.0.cut_off();
        alice.subscribe("alice/x", 1).await;
        target.client("p").await.post("alice/x", "end").await;
        alice.gets("end").await;
    }
    harness.close().await;
}

// What every broker does

#[tokio::test]
async fn what_a_dead_share_member_held_is_lost() {
    play(BOTH, |target| rows::shared::dead_member(target, 1)).await;
}

#[tokio::test]
async fn a_puback_says_that_the_broker_has_it_and_no_more() {
    let mut harness = Harness::open().await;
    let mut bal: Client = target(&harness, V5).client("bal1").await;
    bal.say(&Publish::new("bal1/self/messages", "x", 1, 1)).await;
    let inbound = harness.inbound().await;
    // The bridge has not said that it is safe.
    bal.quiet().await;
    inbound.ack.release(AckWord::Done);
    assert_eq!(bal.acked(PUBACK, 1).await, 0);
    harness.close().await;
}

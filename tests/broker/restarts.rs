//! What the broker still knows after a restart.

use std::path::Path;

use fcm_mqtt_bridge::broker::BrokerConfig;
use fcm_mqtt_bridge::mqtt::{AckWord, Outcome};
use tempfile::TempDir;

use super::fixture::copy;
use super::harness::{Harness, config, outcome};
use super::peer::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Peer, Seen, V5, V311};

const INBOX: &str = "bal1/others/messages";

async fn start(folder: &Path) -> Harness {
    Harness::bind(BrokerConfig { data: Some(folder.to_owned()), ..config() }).await
}

async fn restart(harness: Harness, folder: &TempDir) -> Harness {
    harness.close().await;
    start(folder.path()).await
}

/// What a kill at this moment leaves.
fn killed(folder: &TempDir) -> TempDir {
    let left = tempfile::tempdir().unwrap();
    copy(folder.path(), left.path());
    left
}

async fn lasting(harness: &Harness, client: &str, version: u8) -> (Peer, bool) {
    let connect = Connect { client, version, clean: false, expiry: 3_600, ..Connect::default() };
    Peer::connect(harness, connect).await
}

#[tokio::test]
async fn sessions_and_their_subscriptions_come_back_and_clean_ones_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let harness = start(folder.path()).await;
    for version in [V311, V5] {
        let (mut stays, _) = lasting(&harness, &format!("stays {version}"), version).await;
        for filter in ["a/+", "b/#", "$share/g/c"] {
            stays.subscribe(filter, 1).await;
        }
        stays.unsubscribe("b/#").await;
        let clean = format!("clean {version}");
        let (mut clean, _) = Peer::connect(&harness, Connect { client: &clean, version, ..Connect::default() }).await;
        clean.subscribe("a/+", 1).await;
    }
    let harness = restart(harness, &folder).await;
    let mut publisher = Peer::new(&harness, "publisher").await;
    for (id, topic) in (1..).zip(["a/1", "b/1", "a/2"]) {
        publisher.publish(topic, id, topic).await;
        assert_eq!(publisher.next().await, Seen::Ack(PUBACK, id, 0));
    }
    for version in [V311, V5] {
        let (mut stays, resumed) = lasting(&harness, &format!("stays {version}"), version).await;
        assert!(resumed);
        for topic in ["a/1", "a/2"] {
            let (payload, id, dup) = stays.message().await;
            assert_eq!((payload.as_str(), dup), (topic, false));
            stays.ack(PUBACK, id).await;
        }
        stays.quiet().await;
        publisher.publish("c", 9, "to one of the group").await;
        assert_eq!(publisher.next().await, Seen::Ack(PUBACK, 9, 0));
        let (payload, id, _) = stays.message().await;
        assert_eq!(payload, "to one of the group");
        stays.ack(PUBACK, id).await;
        stays.quiet().await;
        stays.disconnect().await;
        assert!(!lasting(&harness, &format!("clean {version}"), version).await.1);
    }
    harness.close().await;
}

#[tokio::test]
async fn deliveries_go_on_where_they_stood() {
    for version in [V311, V5] {
        let folder = tempfile::tempdir().unwrap();
        let harness = start(folder.path()).await;
        let (mut reader, _) = lasting(&harness, "reader", version).await;
        reader.subscribe("t", 2).await;
        let mut publisher = Peer::new(&harness, "publisher").await;
        for (id, qos, payload) in [(1, 2, "sent"), (2, 2, "released"), (3, 1, "at QoS 1"), (4, 2, "done")] {
            publisher.publish_with(qos << 1, "t", id, &[], payload).await;
            let kind = if qos == 2 { PUBREC } else { PUBACK };
            assert_eq!(publisher.next().await, Seen::Ack(kind, id, 0));
        }
        let mut ids = Vec::new();
        for payload in ["sent", "released", "at QoS 1", "done"] {
            let (seen, id, dup) = reader.message().await;
            assert_eq!((seen.as_str(), dup), (payload, false));
            ids.push(id);
        }
        for id in [ids[1], ids[3]] {
            reader.ack(PUBREC, id).await;
            assert_eq!(reader.next().await, Seen::Ack(PUBREL, id, 0));
        }
        reader.ack(PUBCOMP, ids[3]).await;
        reader.quiet().await;
        drop(reader);
        harness.is_away("reader").await;

        let harness = restart(harness, &folder).await;
        let (mut reader, resumed) = lasting(&harness, "reader", version).await;
        assert!(resumed);
        let mut seen = Vec::new();
        for _ in 0..3 {
            match reader.next().await {
                Seen::Publish { payload, id: Some(id), dup, .. } => {
                    assert!(dup, "{payload}");
                    if payload == "sent" {
                        assert_eq!(id, ids[0], "[MQTT-4.4.0-1]");
                        reader.ack(PUBREC, id).await;
                    } else {
                        reader.ack(PUBACK, id).await;
                    }
                    seen.push(payload);
                }
                Seen::Ack(PUBREL, id, 0) => {
                    assert_eq!(id, ids[1]);
                    reader.ack(PUBCOMP, id).await;
                    seen.push("released".to_owned());
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(reader.next().await, Seen::Ack(PUBREL, ids[0], 0));
        reader.ack(PUBCOMP, ids[0]).await;
        reader.quiet().await;
        seen.sort();
        assert_eq!(seen, ["at QoS 1", "released", "sent"]);

        let harness = restart(harness, &folder).await;
        let (mut reader, resumed) = lasting(&harness, "reader", version).await;
        assert!(resumed);
        reader.quiet().await;
        harness.close().await;
    }
}

#[tokio::test]
async fn what_a_client_published_at_qos_2_is_taken_once() {
    for version in [V311, V5] {
        let folder = tempfile::tempdir().unwrap();
        let mut harness = start(folder.path()).await;
        let (mut client, _) = lasting(&harness, "client", version).await;
        for (id, topic) in [(7, "bal1/self/messages"), (8, "t"), (9, "t")] {
            client.publish_with(0b0100, topic, id, &[], "once").await;
            if id == 7 {
                harness.take().await;
            }
            assert_eq!(client.next().await, Seen::Ack(PUBREC, id, 0));
        }
        client.ack(PUBREL, 9).await;
        assert_eq!(client.next().await, Seen::Ack(PUBCOMP, 9, 0));
        drop(client);

        let mut harness = restart(harness, &folder).await;
        let (mut reader, _) = lasting(&harness, "reader", version).await;
        reader.subscribe("t", 1).await;
        let mut clean = Peer::new(&harness, "clean").await;
        clean.subscribe("t", 1).await;
        let (mut client, resumed) = lasting(&harness, "client", version).await;
        assert!(resumed);
        // Nobody knows whether the bridge had made it safe.
        client.publish_with(0b1100, "bal1/self/messages", 7, &[], "once").await;
        let again = harness.inbound().await;
        assert!(again.dup);
        again.ack.release(AckWord::Done);
        client.publish_with(0b1100, "t", 8, &[], "once").await;
        client.publish_with(0b0100, "t", 9, &[], "another").await;
        for id in [7, 8, 9] {
            assert_eq!(client.next().await, Seen::Ack(PUBREC, id, 0));
        }
        for id in [7, 8, 9] {
            client.ack(PUBREL, id).await;
            assert_eq!(client.next().await, Seen::Ack(PUBCOMP, id, 0));
        }
        assert_eq!(reader.message().await.0, "another");
        assert_eq!(clean.message().await.0, "another");
        harness.barrier().await;
        assert!(harness.port.inbound.try_recv().is_err());
        harness.close().await;
    }
}

#[tokio::test]
async fn what_the_bridge_had_not_made_safe_is_not_acknowledged_later() {
    for version in [V311, V5] {
        let folder = tempfile::tempdir().unwrap();
        let mut harness = start(folder.path()).await;
        let (mut client, _) = lasting(&harness, "client", version).await;
        client.publish_with(0b0100, "bal1/self/messages", 7, &[], "x").await;
        let held = harness.inbound().await;
        let mut harness = restart(harness, &folder).await;
        drop(held);
        let (mut client, resumed) = lasting(&harness, "client", version).await;
        assert!(resumed);
        client.publish_with(0b1100, "bal1/self/messages", 7, &[], "x").await;
        let again = harness.inbound().await;
        client.quiet().await;
        again.ack.release(AckWord::Done);
        assert_eq!(client.next().await, Seen::Ack(PUBREC, 7, 0));
        client.ack(PUBREL, 7).await;
        assert_eq!(client.next().await, Seen::Ack(PUBCOMP, 7, 0));
        harness.close().await;
    }
}

#[tokio::test]
async fn retained_messages_stay() {
    let folder = tempfile::tempdir().unwrap();
    let harness = start(folder.path()).await;
    let mut publisher = Peer::new(&harness, "publisher").await;
    for (id, topic, payload) in
        [(1, "r/0", "kept"), (2, "r/1", "old"), (3, "r/1", "new"), (4, "r/2", "x"), (5, "r/2", "")]
    {
        publisher.publish_with(0b0011, topic, id, &[], payload).await;
        assert_eq!(publisher.next().await, Seen::Ack(PUBACK, id, 0));
    }
    let harness = restart(harness, &folder).await;
    let mut reader = Peer::new(&harness, "reader").await;
    reader.subscribe("r/#", 0).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let Seen::Publish { topic, payload, retain: true, .. } = reader.next().await else { panic!("not retained") };
        seen.push((topic, payload));
    }
    reader.quiet().await;
    seen.sort();
    assert_eq!(seen, [("r/0".to_owned(), "kept".to_owned()), ("r/1".to_owned(), "new".to_owned())]);
    harness.close().await;
}

#[tokio::test]
async fn documents_wait_for_their_readers() {
    let folder = tempfile::tempdir().unwrap();
    let harness = start(folder.path()).await;
    let (mut away, _) = lasting(&harness, "away", V5).await;
    away.subscribe(INBOX, 1).await;
    away.disconnect().await;
    let (mut bal, _) = lasting(&harness, "bal1", V5).await;
    bal.subscribe(INBOX, 1).await;
    let answer = harness.publish(INBOX, r#"{"n":1}"#).await;
    let (_, id, _) = bal.message().await;
    bal.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    harness.publish(INBOX, r#"{"n":2}"#).await;
    bal.message().await;
    drop(bal);
    harness.is_away("bal1").await;
    harness.publish(INBOX, r#"{"n":3}"#).await;

    let harness = restart(harness, &folder).await;
    assert_eq!(harness.waits(INBOX), 2);
    let (mut bal, resumed) = lasting(&harness, "bal1", V5).await;
    assert!(resumed);
    let marked = r#"{"n":2,"redelivered":true}"#;
    for (expected, copy) in [(marked, true), (r#"{"n":3}"#, false)] {
        let (payload, id, dup) = bal.message().await;
        assert_eq!((payload.as_str(), dup), (expected, copy));
        bal.ack(PUBACK, id).await;
    }
    bal.quiet().await;
    let (mut away, resumed) = lasting(&harness, "away", V5).await;
    assert!(resumed);
    for n in 1..=3 {
        let (payload, id, _) = away.message().await;
        assert!(payload.contains(&format!("\"n\":{n}")), "{payload}");
        away.ack(PUBACK, id).await;
    }
    away.quiet().await;
    assert_eq!(harness.waits(INBOX), 0);
    let harness = restart(harness, &folder).await;
    for client in ["bal1", "away"] {
        lasting(&harness, client, V5).await.0.quiet().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn a_delayed_will_is_published_when_it_is_due_unless_its_client_returns() {
    let folder = tempfile::tempdir().unwrap();
    let harness = start(folder.path()).await;
    let connect = |client, will| Connect { client, clean: false, expiry: 3_600, will, ..Connect::default() };
    for (client, topic) in [("stays away", "bal1/self/presence"), ("returns", "bal2/self/presence")] {
        drop(Peer::connect(&harness, connect(client, Some((topic, "offline", 10)))).await);
        harness.is_away(client).await;
    }
    let mut harness = restart(harness, &folder).await;
    let (mut back, resumed) = Peer::connect(&harness, connect("returns", None)).await;
    assert!(resumed);
    back.quiet().await;
    tokio::time::pause();
    assert_eq!(harness.take().await, ("bal1/self/presence".to_owned(), "offline".to_owned()));
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    tokio::time::resume();
    let mut bal = Peer::new(&harness, "bal3").await;
    bal.publish("bal3/self/messages", 1, "next").await;
    assert_eq!(harness.take().await.1, "next");
    let mut harness = restart(harness, &folder).await;
    harness.barrier().await;
    assert!(harness.port.inbound.try_recv().is_err(), "once");
    harness.close().await;
}

#[tokio::test]
async fn a_delayed_will_says_after_a_restart_where_its_answer_goes() {
    let folder = tempfile::tempdir().unwrap();
    let harness = start(folder.path()).await;
    let will_properties = b"\x08\0\x0bbal1/answer\x09\0\x02c1\x26\0\x01k\0\x01v";
    let will = Some(("bal1/self/messages", "last words", 1));
    let connect = Connect { client: "bal1", clean: false, expiry: 3_600, will, will_properties, ..Connect::default() };
    drop(Peer::connect(&harness, connect).await);
    harness.is_away("bal1").await;
    let mut harness = restart(harness, &folder).await;
    let inbound = harness.inbound().await;
    assert_eq!(inbound.payload, "last words");
    assert_eq!(inbound.response_topic.as_deref(), Some("bal1/answer"));
    assert_eq!(inbound.correlation.as_deref(), Some(&b"c1"[..]));
    harness.close().await;
}

#[tokio::test]
async fn who_was_connected_at_a_kill_has_left_and_leaves_its_will() {
    for version in [V311, V5] {
        let folder = tempfile::tempdir().unwrap();
        let mut harness = start(folder.path()).await;
        let will = |topic, delay| Some((topic, "offline", delay));
        let connect =
            |client, will| Connect { client, version, clean: false, expiry: 3_600, will, ..Connect::default() };
        let (_stays, _) = Peer::connect(&harness, connect("bal1", will("bal1/self/presence", 0))).await;
        let (goes, _) = Peer::connect(&harness, connect("bal2", will("bal2/self/presence", 0))).await;
        goes.disconnect().await;
        let (back, _) = Peer::connect(&harness, connect("bal3", will("bal3/self/presence", 0))).await;
        drop(back);
        assert_eq!(harness.take().await.0, "bal3/self/presence");
        let (_back, _) = Peer::connect(&harness, connect("bal3", None)).await;
        let (_later, _) = Peer::connect(&harness, connect("bal4", will("bal4/self/presence", 1))).await;
        harness.barrier().await;

        let folder = killed(&folder);
        let mut harness = start(folder.path()).await;
        assert_eq!(harness.take().await, ("bal1/self/presence".to_owned(), "offline".to_owned()));
        assert_eq!(harness.take().await.0, "bal4/self/presence", "with MQTT 5 after its delay");
        harness.barrier().await;
        let mut harness = restart(harness, &folder).await;
        harness.barrier().await;
        assert!(harness.port.inbound.try_recv().is_err(), "each once, and none of who had said goodbye");
        harness.close().await;
    }
}

#[tokio::test]
async fn a_group_that_no_session_is_a_member_of_ends_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let harness = start(folder.path()).await;
    for client in ["one", "two"] {
        let (mut member, _) = lasting(&harness, client, V5).await;
        member.subscribe(&format!("$share/g/{client}"), 1).await;
        member.disconnect().await;
        let mut publisher = Peer::new(&harness, "publisher").await;
        publisher.publish(client, 1, "x").await;
        assert_eq!(publisher.next().await, Seen::Ack(PUBACK, 1, 0));
    }
    harness.close().await;
    let file = rusqlite::Connection::open(folder.path().join("bridge.db")).unwrap();
    file.execute("DELETE FROM subscriptions WHERE filter = '$share/g/one'", []).unwrap();
    start(folder.path()).await.close().await;
    let left = |sql| file.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(left("SELECT group_concat(key) FROM queues WHERE kind = 1"), "g/two");
    assert_eq!(left("SELECT CAST(count(*) AS TEXT) FROM queue"), "1", "its rows ended with it");
}

#[tokio::test]
async fn what_waits_for_a_group_waits_on() {
    let folder = tempfile::tempdir().unwrap();
    let harness = start(folder.path()).await;
    for client in ["one", "two"] {
        let (mut member, _) = lasting(&harness, client, V5).await;
        member.subscribe("$share/g/t", 1).await;
        member.disconnect().await;
    }
    let mut publisher = Peer::new(&harness, "publisher").await;
    for id in 1..=10 {
        publisher.publish("t", id, &id.to_string()).await;
        assert_eq!(publisher.next().await, Seen::Ack(PUBACK, id, 0));
    }
    let harness = restart(harness, &folder).await;
    let (mut one, _) = lasting(&harness, "one", V5).await;
    for n in 1..=10 {
        let (payload, id, dup) = one.message().await;
        assert_eq!((payload, dup), (n.to_string(), false), "it was sent to nobody");
        if n <= 5 {
            one.ack(PUBACK, id).await;
        }
    }
    one.quiet().await;
    drop(one);
    harness.is_away("one").await;
    let (mut two, _) = lasting(&harness, "two", V5).await;
    for n in 6..=10 {
        let (payload, id, dup) = two.message().await;
        assert_eq!((payload, dup), (n.to_string(), true));
        two.ack(PUBACK, id).await;
    }
    two.quiet().await;
    harness.close().await;
}

//! A PUBACK means that the bridge has the message on disk.

use fcm_mqtt_bridge::broker::BrokerLimits;
use fcm_mqtt_bridge::mqtt::AckWord;

use super::harness::Harness;
use super::peer::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Peer, Seen, V5, V311};

const OUTBOX: &str = "bal1/self/messages";

#[tokio::test]
async fn a_puback_waits_for_its_word_and_keeps_its_place() {
    for version in [V311, V5] {
        let mut harness = Harness::open().await;
        let (mut bal, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        let mut acks = Vec::new();
        for id in 1..=100 {
            bal.publish(OUTBOX, id, &id.to_string()).await;
        }
        for id in 1..=100 {
            let inbound = harness.inbound().await;
            assert_eq!((inbound.topic.as_str(), &inbound.payload[..]), (OUTBOX, id.to_string().as_bytes()));
            assert!(!inbound.retain);
            acks.push(inbound.ack);
        }
        // The engine has answered all of them before it answers this.
        bal.quiet().await;
        for ack in acks.into_iter().rev() {
            ack.release(AckWord::Done);
        }
        for id in 1..=100 {
            assert_eq!(bal.next().await, Seen::Ack(PUBACK, id, 0));
        }
        harness.close().await;
    }
}

#[tokio::test]
async fn a_topic_that_the_bridge_does_not_have_is_told_in_the_acknowledgement_where_there_is_a_word_for_it() {
    const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    for (version, reason) in [(V5, NO_MATCHING_SUBSCRIBERS), (V311, 0)] {
        let mut harness = Harness::open().await;
        let (mut bal, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        bal.publish("bal1/self/message", 1, "x").await;
        harness.inbound().await.ack.release(AckWord::NoSuchTopic);
        assert_eq!(bal.next().await, Seen::Ack(PUBACK, 1, reason));
        bal.publish_with(0b0100, "bal1/self/message", 2, &[], "x").await;
        harness.inbound().await.ack.release(AckWord::NoSuchTopic);
        assert_eq!(bal.next().await, Seen::Ack(PUBREC, 2, reason));
        bal.ack(PUBREL, 2).await;
        assert_eq!(bal.next().await, Seen::Ack(PUBCOMP, 2, 0), "a success: the exchange goes on");
        harness.close().await;
    }
}

#[tokio::test]
async fn the_bridge_sees_which_messages_come_again() {
    for version in [V311, V5] {
        let mut harness = Harness::open().await;
        let (mut bal, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        for (id, flags) in [(1, 0b0010), (2, 0b1010), (3, 0b0010)] {
            bal.publish_with(flags, OUTBOX, id, &[], "x").await;
            let inbound = harness.inbound().await;
            assert_eq!(inbound.dup, flags & 0b1000 != 0);
            inbound.ack.release(AckWord::Done);
            assert_eq!(bal.next().await, Seen::Ack(PUBACK, id, 0));
        }
        harness.close().await;
    }
}

#[tokio::test]
async fn acknowledgements_that_need_no_word_queue_behind_those_that_do() {
    let mut harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.publish(OUTBOX, 1, "held").await;
    bal.publish("elsewhere", 2, "not for the bridge").await;
    let held = harness.inbound().await;
    bal.quiet().await;
    held.ack.release(AckWord::Done);
    assert_eq!(bal.next().await, Seen::Ack(PUBACK, 1, 0));
    assert_eq!(bal.next().await, Seen::Ack(PUBACK, 2, 0));
    harness.close().await;
}

#[tokio::test]
async fn a_used_up_quota_is_told_in_mqtt_5_and_passed_over_in_3_1_1() {
    let mut harness = Harness::open().await;
    let (mut old, _) = Peer::connect(&harness, Connect { client: "old", version: V311, ..Connect::default() }).await;
    let mut new = Peer::new(&harness, "new").await;
    for bal in [&mut old, &mut new] {
        bal.publish(OUTBOX, 1, "too much").await;
        harness.inbound().await.ack.release(AckWord::Quota);
        bal.publish(OUTBOX, 2, "fine").await;
        harness.inbound().await.ack.release(AckWord::Done);
    }
    assert_eq!(new.next().await, Seen::Ack(PUBACK, 1, 0x97));
    assert_eq!(new.next().await, Seen::Ack(PUBACK, 2, 0));
    assert_eq!(old.next().await, Seen::Ack(PUBACK, 2, 0));
    old.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_message_let_go_without_a_word_ends_the_connection() {
    let mut harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    for id in 1..=3 {
        bal.publish(OUTBOX, id, "x").await;
    }
    let (first, second, third) = (harness.inbound().await, harness.inbound().await, harness.inbound().await);
    third.ack.release(AckWord::Done);
    drop(second);
    bal.quiet().await;
    first.ack.release(AckWord::Done);
    assert_eq!(bal.next().await, Seen::Ack(PUBACK, 1, 0));
    assert_eq!(bal.next().await, Seen::Closed);
    harness.close().await;
}

#[tokio::test]
async fn a_qos_2_message_let_go_without_a_word_comes_again() {
    for version in [V311, V5] {
        let mut harness = Harness::open().await;
        let connect = || Connect { version, clean: false, expiry: 3_600, ..Connect::default() };
        let (mut bal, _) = Peer::connect(&harness, connect()).await;
        bal.publish_with(0b0100, OUTBOX, 7, &[], "x").await;
        drop(harness.inbound().await);
        assert_eq!(bal.next().await, Seen::Closed);
        let (mut bal, resumed) = Peer::connect(&harness, connect()).await;
        assert!(resumed);
        bal.publish_with(0b1100, OUTBOX, 7, &[], "x").await;
        assert_eq!(harness.take().await.1, "x");
        assert_eq!(bal.next().await, Seen::Ack(PUBREC, 7, 0));
        bal.ack(PUBREL, 7).await;
        assert_eq!(bal.next().await, Seen::Ack(PUBCOMP, 7, 0));
        harness.close().await;
    }
}

#[tokio::test]
async fn at_qos_2_the_pubrec_waits() {
    let mut harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.publish_with(0b0100, OUTBOX, 7, &[], "twice").await;
    let inbound = harness.inbound().await;
    bal.quiet().await;
    inbound.ack.release(AckWord::Done);
    assert_eq!(bal.next().await, Seen::Ack(PUBREC, 7, 0));
    bal.ack(PUBREL, 7).await;
    assert_eq!(bal.next().await, Seen::Ack(PUBCOMP, 7, 0));
    harness.close().await;
}

#[tokio::test]
async fn a_repeated_qos_2_message_comes_in_once() {
    let mut harness = Harness::open().await;
    for version in [V311, V5] {
        let (mut bal, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        bal.publish_with(0b0100, OUTBOX, 7, &[], "once").await;
        let inbound = harness.inbound().await;
        // Before its PUBREC it is not answered twice, after it each time.
        bal.publish_with(0b1100, OUTBOX, 7, &[], "once").await;
        bal.quiet().await;
        inbound.ack.release(AckWord::Done);
        assert_eq!(bal.next().await, Seen::Ack(PUBREC, 7, 0));
        for _ in 0..3 {
            bal.publish_with(0b1100, OUTBOX, 7, &[], "once").await;
            assert_eq!(bal.next().await, Seen::Ack(PUBREC, 7, 0));
        }
        bal.ack(PUBREL, 7).await;
        assert_eq!(bal.next().await, Seen::Ack(PUBCOMP, 7, 0));
        bal.publish_with(0b0100, OUTBOX, 7, &[], "another").await;
        assert_eq!(harness.take().await.1, "another");
        assert_eq!(bal.next().await, Seen::Ack(PUBREC, 7, 0));
        bal.disconnect().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn a_refused_qos_2_message_leaves_its_identifier_free() {
    let mut harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    for _ in 0..600 {
        bal.publish_with(0b0100, OUTBOX, 7, &[], "too much").await;
        harness.inbound().await.ack.release(AckWord::Quota);
        assert_eq!(bal.next().await, Seen::Ack(PUBREC, 7, 0x97));
    }
    bal.publish_with(0b0100, OUTBOX, 7, &[], "fine").await;
    harness.inbound().await.ack.release(AckWord::Done);
    assert_eq!(bal.next().await, Seen::Ack(PUBREC, 7, 0));
    bal.ack(PUBREL, 7).await;
    assert_eq!(bal.next().await, Seen::Ack(PUBCOMP, 7, 0));
    bal.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_publisher_that_runs_ahead_is_not_read_until_there_is_room() {
    let mut harness = Harness::with(BrokerLimits { held_acks: 4, ..BrokerLimits::default() }).await;
    let mut bal = Peer::new(&harness, "bal1").await;
    for id in 1..=6 {
        bal.publish(OUTBOX, id, &id.to_string()).await;
    }
    let mut acks = Vec::new();
    for _ in 0..4 {
        acks.push(harness.inbound().await.ack);
    }
    // Another client's message overtakes the fifth, which therefore still waits.
    let mut other = Peer::new(&harness, "bal2").await;
    other.publish("bal2/self/messages", 1, "other").await;
    assert_eq!(harness.take().await.1, "other");
    acks.remove(0).release(AckWord::Done);
    assert_eq!(harness.take().await.1, "5");
    for ack in acks {
        ack.release(AckWord::Done);
    }
    assert_eq!(harness.take().await.1, "6");
    for id in 1..=6 {
        assert_eq!(bal.next().await, Seen::Ack(PUBACK, id, 0));
    }
    harness.close().await;
}

#[tokio::test]
async fn a_retained_outbox_message_is_taken_but_never_kept() {
    let mut harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.publish_with(0b0011, OUTBOX, 1, &[], "retained").await;
    let inbound = harness.inbound().await;
    assert!(!inbound.retain);
    inbound.ack.release(AckWord::Done);
    assert_eq!(bal.next().await, Seen::Ack(PUBACK, 1, 0));

    // Presence is kept, so the subscription below would show the other one too.
    bal.publish_with(0b0011, "bal1/self/presence", 2, &[], "online").await;
    assert_eq!(harness.take().await, ("bal1/self/presence".to_owned(), "online".to_owned()));
    assert_eq!(bal.next().await, Seen::Ack(PUBACK, 2, 0));
    bal.subscribe("bal1/self/#", 0).await;
    let kept = bal.next().await;
    assert!(matches!(&kept, Seen::Publish { payload, retain: true, .. } if payload == "online"), "{kept:?}");
    bal.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn own_devices_get_a_copy_of_what_is_sent() {
    let mut harness = Harness::open().await;
    let mut laptop = Peer::new(&harness, "alice:laptop").await;
    laptop.subscribe("alice/self/messages", 1).await;
    let mut phone = Peer::new(&harness, "alice:phone").await;
    phone.publish("alice/self/messages", 1, "hello").await;
    assert_eq!(harness.take().await.1, "hello");
    let (payload, id, dup) = laptop.message().await;
    assert_eq!((payload.as_str(), dup), ("hello", false));
    laptop.ack(PUBACK, id).await;
    harness.close().await;
}

#[tokio::test]
async fn mqtt_5_properties_reach_the_bridge() {
    let mut harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    let mut properties = vec![0x02, 0, 0, 1, 44, 0x08, 0, 7];
    properties.extend(b"bal1/my");
    properties.extend([0x09, 0, 2, 0xca, 0xfe, 0x26, 0, 1, b'k', 0, 1, b'v']);
    bal.publish_with(0b0010, OUTBOX, 1, &properties, "first").await;
    bal.publish_with(0b0010, OUTBOX, 2, &[], "second").await;

    let first = harness.inbound().await;
    assert_eq!(first.expiry, Some(300));
    assert_eq!(first.response_topic.as_deref(), Some("bal1/my"));
    assert_eq!(first.correlation.as_deref(), Some(&[0xca, 0xfe][..]));
    let second = harness.inbound().await;
    assert_eq!((second.expiry, second.response_topic, second.correlation), (None, None, None));
    harness.close().await;
}

#[tokio::test]
async fn qos_0_needs_no_word() {
    let mut harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.publish_with(0, OUTBOX, 0, &[], "whatever").await;
    drop(harness.inbound().await);
    bal.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_will_comes_in_when_the_connection_breaks() {
    let mut harness = Harness::open().await;
    for version in [V311, V5] {
        let will = Some(("bal1/self/presence", "offline", 0));
        let (bal, _) = Peer::connect(&harness, Connect { version, will, ..Connect::default() }).await;
        drop(bal);
        assert_eq!(harness.take().await, ("bal1/self/presence".to_owned(), "offline".to_owned()));

        // An orderly end, and a will somewhere else: nothing.
        let (bal, _) = Peer::connect(&harness, Connect { version, will, ..Connect::default() }).await;
        bal.disconnect().await;
        let will = Some(("elsewhere", "x", 0));
        drop(Peer::connect(&harness, Connect { client: "c", version, will, ..Connect::default() }).await);
    }
    let mut bal = Peer::new(&harness, "bal2").await;
    bal.publish(OUTBOX, 1, "next").await;
    assert_eq!(harness.take().await.1, "next");
    harness.close().await;
}

#[tokio::test]
async fn a_delayed_will_comes_in_after_its_delay_unless_the_client_returns() {
    let mut harness = Harness::open().await;
    let will = Some(("bal1/self/presence", "offline", 1));
    let connect = || Connect { client: "bal1", clean: false, expiry: 3600, will, ..Connect::default() };
    drop(Peer::connect(&harness, connect()).await);
    let (bal, resumed) = Peer::connect(&harness, connect()).await;
    assert!(resumed);
    drop(bal);
    harness.is_away("bal1").await;
    tokio::time::pause();
    assert_eq!(harness.take().await, ("bal1/self/presence".to_owned(), "offline".to_owned()));
    tokio::time::resume();
    // The first will was cancelled: the next message is another one.
    let mut bal = Peer::new(&harness, "bal2").await;
    bal.publish(OUTBOX, 1, "next").await;
    assert_eq!(harness.take().await.1, "next");
    harness.close().await;
}

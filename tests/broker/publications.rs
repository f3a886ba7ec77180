//! What becomes of the bridge's documents, and of what it publishes beside them.

use fcm_mqtt_bridge::broker::BrokerLimits;
use fcm_mqtt_bridge::mqtt::Outcome;
use fcm_mqtt_bridge::store::{Note, Store};

use super::harness::{Harness, outbound, outcome, soon};
use super::peer::{Connect, PUBACK, Peer, Seen, V5, V311};

const INBOX: &str = "bal1/others/messages";

#[tokio::test]
async fn without_a_reader_a_document_waits() {
    let harness = Harness::open().await;
    harness.publish(INBOX, "x").await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.subscribe("bal2/others/messages", 1).await;
    harness.publish(INBOX, "x").await;
    harness.barrier().await;
    bal.quiet().await;
    assert_eq!(harness.waits(INBOX), 2);
    harness.close().await;
}

#[tokio::test]
async fn a_subscribers_puback_confirms() {
    for version in [V311, V5] {
        let harness = Harness::open().await;
        let (mut bal, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        for filter in [INBOX, "bal1/others/+", "bal1/#"] {
            bal.subscribe(filter, 2).await;
        }
        let mut first = harness.publish(INBOX, "first").await;
        let mut second = harness.publish(INBOX, "second").await;
        let (payload, one, _) = bal.message().await;
        assert_eq!(payload, "first");
        let (payload, two, _) = bal.message().await;
        assert_eq!(payload, "second", "three subscriptions, one copy");
        bal.ack(PUBACK, two).await;
        assert_eq!(soon("the second", &mut second).await, Ok(Outcome::Confirmed));
        assert!(first.try_recv().is_err());
        assert_eq!(harness.waits(INBOX), 1);
        bal.ack(PUBACK, one).await;
        assert_eq!(outcome(first).await, Outcome::Confirmed);
        bal.quiet().await;
        harness.close().await;
    }
}

#[tokio::test]
async fn equal_messages_are_confirmed_one_by_one() {
    let harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    let first = harness.publish(INBOX, "same").await;
    let mut second = harness.publish(INBOX, "same").await;
    let (_, one, _) = bal.message().await;
    let (_, two, _) = bal.message().await;
    bal.ack(PUBACK, one).await;
    assert_eq!(outcome(first).await, Outcome::Confirmed);
    assert!(second.try_recv().is_err());
    assert_eq!(harness.waits(INBOX), 1);
    bal.ack(PUBACK, two).await;
    assert_eq!(outcome(second).await, Outcome::Confirmed);
    harness.close().await;
}

#[tokio::test]
async fn a_document_whose_reader_goes_waits_for_the_next_one_and_is_marked() {
    let harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    let first = harness.publish(INBOX, "{}").await;
    assert_eq!(bal.message().await.0, "{}");
    drop(bal);
    harness.publish(INBOX, "{}").await;
    let mut next = Peer::new(&harness, "next").await;
    assert_eq!(harness.waits(INBOX), 2);
    next.subscribe(INBOX, 1).await;
    let (payload, id, _) = next.message().await;
    assert_eq!(payload, r#"{"redelivered":true}"#, "somebody may have had it");
    assert_eq!(next.message().await.0, "{}", "nobody had this one");
    next.ack(PUBACK, id).await;
    assert_eq!(outcome(first).await, Outcome::Confirmed);
    assert_eq!(harness.waits(INBOX), 1);
    harness.close().await;
}

#[tokio::test]
async fn another_connected_reader_keeps_it_alive() {
    let harness = Harness::open().await;
    let mut one = Peer::new(&harness, "one").await;
    let mut two = Peer::new(&harness, "two").await;
    one.subscribe(INBOX, 1).await;
    two.subscribe("+/others/#", 1).await;
    let mut answer = harness.publish(INBOX, "x").await;
    one.message().await;
    let (_, id, _) = two.message().await;
    one.disconnect().await;
    two.quiet().await;
    assert!(answer.try_recv().is_err());
    assert_eq!(harness.waits(INBOX), 1);
    two.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    harness.close().await;
}

#[tokio::test]
async fn a_reader_that_comes_gets_what_waits() {
    let harness = Harness::open().await;
    let early = harness.publish(INBOX, "early").await;
    harness.publish("bal2/others/messages", "of another").await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    let late = harness.publish(INBOX, "late").await;
    for (payload, answer) in [("early", early), ("late", late)] {
        let (seen, id, dup) = bal.message().await;
        assert_eq!((seen.as_str(), dup), (payload, false));
        bal.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    bal.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_reader_at_qos_0_confirms_by_the_socket() {
    let harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.subscribe(INBOX, 0).await;
    let answer = harness.publish(INBOX, "x").await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    assert!(matches!(bal.next().await, Seen::Publish { id: None, .. }));

    // Beside a reader at QoS 1 it does not count.
    let mut sure = Peer::new(&harness, "sure").await;
    sure.subscribe(INBOX, 1).await;
    let mut answer = harness.publish(INBOX, "y").await;
    assert!(matches!(bal.next().await, Seen::Publish { id: None, .. }));
    bal.quiet().await;
    let (_, id, _) = sure.message().await;
    assert!(answer.try_recv().is_err());
    assert_eq!(harness.waits(INBOX), 1);
    sure.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);

    let answer = harness.publish(INBOX, "z").await;
    assert!(matches!(bal.next().await, Seen::Publish { id: None, .. }));
    sure.message().await;
    drop(sure);
    bal.quiet().await;
    assert_eq!(harness.waits(INBOX), 1, "its reader went, and what it did not acknowledge is for the next one");
    let mut next = Peer::new(&harness, "next").await;
    next.subscribe(INBOX, 1).await;
    let (payload, id, _) = next.message().await;
    assert_eq!(payload, "z");
    next.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    harness.close().await;
}

#[tokio::test]
async fn retained_and_qos_0_publications_are_confirmed_at_once() {
    let harness = Harness::open().await;
    let (mut message, answer) = outbound("_bridge/status", "online");
    message.retain = true;
    harness.send(message).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    let (mut message, answer) = outbound("_bridge/stats", "{}");
    message.qos = 0;
    harness.send(message).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);

    let mut bal = Peer::new(&harness, "bal1").await;
    bal.subscribe("_bridge/#", 1).await;
    let seen = bal.next().await;
    assert!(matches!(&seen, Seen::Publish { payload, retain: true, .. } if payload == "online"), "{seen:?}");
    bal.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one_and_all_to_the_survivor() {
    let harness = Harness::open().await;
    let filter = "$share/bal1-msg/bal1/others/messages";
    let (mut one, _) = Peer::lasting(&harness, "bal1:1").await;
    let (mut two, _) = Peer::lasting(&harness, "bal1:2").await;
    one.subscribe(filter, 1).await;
    two.subscribe(filter, 1).await;
    for n in 0..10 {
        harness.publish(INBOX, &n.to_string()).await;
    }
    let (mut of_one, mut of_two) = (Vec::new(), Vec::new());
    while of_one.len() + of_two.len() < 10 {
        tokio::select! {
            (payload, ..) = one.message() => of_one.push(payload),
            (payload, id, _) = two.message() => {
                two.ack(PUBACK, id).await;
                of_two.push(payload);
            }
        }
    }
    assert!(of_one.len() >= 3 && of_two.len() >= 3, "each has its share: {of_one:?} {of_two:?}");
    assert!(of_one.is_sorted() && of_two.is_sorted());
    // What one has not acknowledged goes to the other.
    drop(one);
    let mut given_back = Vec::new();
    for _ in 0..of_one.len() {
        let (payload, id, _) = two.message().await;
        given_back.push(payload);
        two.ack(PUBACK, id).await;
    }
    assert_eq!(given_back, of_one);
    let last = harness.publish(INBOX, "last").await;
    let (payload, id, dup) = two.message().await;
    assert_eq!((payload.as_str(), dup), ("last", false));
    two.ack(PUBACK, id).await;
    assert_eq!(outcome(last).await, Outcome::Confirmed);
    assert_eq!(harness.waits(INBOX), 0);

    // What was given to others does not come to the first member when it returns.
    let (mut one, resumed) = Peer::lasting(&harness, "bal1:1").await;
    assert!(resumed);
    one.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn only_the_bridge_writes_inboxes() {
    let harness = Harness::open().await;
    let mut alice = Peer::new(&harness, "alice").await;
    alice.subscribe("#", 1).await;
    let will = Some(("alice/others/messages", "forged", 0));
    let (eve, _) = Peer::connect(&harness, Connect { client: "eve", will, ..Connect::default() }).await;
    drop(eve);
    let mut bob = Peer::new(&harness, "bob").await;
    for (id, topic) in [(1, "alice/others/messages"), (2, "_bridge/status"), (3, "$SYS/x")] {
        bob.publish_with(0b0011, topic, id, &[], "forged").await;
        assert_eq!(bob.next().await, Seen::Ack(PUBACK, id, 0x87));
    }
    bob.publish("elsewhere", 4, "fine").await;
    assert_eq!(bob.next().await, Seen::Ack(PUBACK, 4, 0));
    assert_eq!(alice.message().await.0, "fine");
    harness.close().await;
}

/// Puts many documents into the store, in their order.
async fn publish_all(store: &Store, topic: &str, numbers: std::ops::Range<u32>) {
    let mut commits = Vec::new();
    for n in numbers {
        let (topic, payload) = (topic.to_owned(), n.to_string().into());
        commits.push(store.queue_note(Note { topic, payload, correlation: None, at: 0 }).await.unwrap());
    }
    for commit in commits {
        soon("a commit", commit).await.unwrap();
    }
}

#[tokio::test]
async fn a_subscriber_that_never_acknowledges_blocks_neither_others_nor_memory() {
    let limits = BrokerLimits { queued_messages: 33, ..BrokerLimits::default() };
    let harness = Harness::with(limits).await;
    let mut slow = Peer::new(&harness, "slow").await;
    slow.subscribe("slow/others/messages", 1).await;
    publish_all(&harness.store, "slow/others/messages", 0..500).await;
    let mut quick = Peer::new(&harness, "quick").await;
    quick.subscribe("quick/others/messages", 1).await;
    for batch in 0..100 {
        let numbers = batch * 100..(batch + 1) * 100;
        publish_all(&harness.store, "quick/others/messages", numbers.clone()).await;
        for n in numbers {
            let (payload, id, _) = quick.message().await;
            assert_eq!(payload, n.to_string());
            quick.ack(PUBACK, id).await;
        }
    }
    assert_eq!(harness.waits("slow/others/messages"), 500);
    let last = harness.publish("quick/others/messages", "last").await;
    let (_, id, _) = quick.message().await;
    quick.ack(PUBACK, id).await;
    assert_eq!(outcome(last).await, Outcome::Confirmed);
    assert_eq!(harness.waits("quick/others/messages"), 0);
    drop(slow);
    quick.quiet().await;
    assert_eq!(harness.waits("slow/others/messages"), 500);
    harness.close().await;
}

#[tokio::test]
async fn ten_thousand_publications_to_one_slow_subscriber_arrive_in_order() {
    let limits = BrokerLimits { queued_messages: 100, ..BrokerLimits::default() };
    let harness = Harness::with(limits).await;
    let mut slow = Peer::new(&harness, "slow").await;
    slow.subscribe(INBOX, 1).await;
    publish_all(&harness.store, INBOX, 0..500).await;
    // With nothing acknowledged, no more than the limit is sent.
    let mut waiting = Vec::new();
    for n in 0..64 {
        let (payload, id, _) = slow.message().await;
        assert_eq!(payload, n.to_string());
        waiting.push(id);
    }
    slow.quiet().await;
    assert_eq!(harness.waits(INBOX), 500);
    for id in waiting {
        slow.ack(PUBACK, id).await;
    }
    for n in 64..10_000 {
        let published = n + 436;
        if published % 500 == 0 && published < 10_000 {
            publish_all(&harness.store, INBOX, published..published + 500).await;
        }
        let (payload, id, dup) = slow.message().await;
        assert_eq!((payload, dup), (n.to_string(), false));
        slow.ack(PUBACK, id).await;
    }
    let last = harness.publish(INBOX, "last").await;
    let (_, id, _) = slow.message().await;
    slow.ack(PUBACK, id).await;
    assert_eq!(outcome(last).await, Outcome::Confirmed);
    assert_eq!(harness.waits(INBOX), 0);
    harness.close().await;
}

#[tokio::test]
async fn what_is_bigger_than_a_reader_takes_waits_for_one_who_takes_more() {
    let harness = Harness::open().await;
    let small =
        |max| Connect { client: "small", max_packet: Some(max), clean: false, expiry: 60, ..Connect::default() };
    let (mut reader, _) = Peer::connect(&harness, small(200)).await;
    reader.subscribe(INBOX, 1).await;
    // Fixed header 3, topic 2 + 20, identifier 2, no properties 1.
    let fits = "x".repeat(200 - 28);
    let big = format!("{fits}x");
    let too_big = [harness.publish(INBOX, &big).await, harness.publish(INBOX, &big).await];
    let answer = harness.publish(INBOX, &fits).await;
    let (payload, id, _) = reader.message().await;
    assert_eq!(payload, fits);
    reader.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    reader.quiet().await;
    assert_eq!(harness.waits(INBOX), 2);

    let [first, second] = too_big;
    let mut other = Peer::new(&harness, "other").await;
    other.subscribe(INBOX, 1).await;
    let (payload, id, dup) = other.message().await;
    assert_eq!((&payload, dup), (&big, false), "nobody had it");
    other.ack(PUBACK, id).await;
    assert_eq!(outcome(first).await, Outcome::Confirmed);
    other.message().await;
    drop(other);
    // The first reader comes back, and takes more.
    drop(reader);
    let (mut reader, resumed) = Peer::connect(&harness, small(201)).await;
    assert!(resumed);
    for what in ["settled by the other, and kept for this session", "given back by the other"] {
        let (payload, id, _) = reader.message().await;
        assert_eq!(payload, big, "{what}");
        reader.ack(PUBACK, id).await;
    }
    assert_eq!(outcome(second).await, Outcome::Confirmed);
    reader.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn what_is_open_at_the_end_waits() {
    let mut harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    harness.publish(INBOX, "x").await;
    bal.message().await;
    harness.stop().await;
    assert_eq!(harness.waits(INBOX), 1);
    assert_eq!(bal.next().await, Seen::Disconnect(0x8b));
    assert_eq!(bal.next().await, Seen::Closed);
}

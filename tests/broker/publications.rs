//! What becomes of the bridge's publications.

use fcm_mqtt_bridge::broker::BrokerLimits;
use fcm_mqtt_bridge::mqtt::Outcome;

use super::peer::{Connect, PUBACK, Peer, Seen, V5, V311};
use super::world::{World, outbound, outcome};

const INBOX: &str = "bal1/others/messages";

#[tokio::test]
async fn without_a_reader_nothing_is_sent() {
    let world = World::open().await;
    assert_eq!(outcome(world.publish(INBOX, "x").await).await, Outcome::NoReader);
    let mut bal = Peer::new(&world, "bal1").await;
    bal.subscribe("bal2/others/messages", 1).await;
    assert_eq!(outcome(world.publish(INBOX, "x").await).await, Outcome::NoReader);
    bal.quiet().await;
    world.close().await;
}

#[tokio::test]
async fn a_subscribers_puback_confirms() {
    for version in [V311, V5] {
        let world = World::open().await;
        let (mut bal, _) = Peer::connect(&world, Connect { version, ..Connect::default() }).await;
        for filter in [INBOX, "bal1/others/+", "bal1/#"] {
            bal.subscribe(filter, 2).await;
        }
        let mut first = world.publish(INBOX, "first").await;
        let mut second = world.publish(INBOX, "second").await;
        let (payload, one, _) = bal.message().await;
        assert_eq!(payload, "first");
        let (payload, two, _) = bal.message().await;
        assert_eq!(payload, "second", "three subscriptions, one copy");
        bal.ack(PUBACK, two).await;
        assert_eq!(super::world::soon("the second", &mut second).await, Ok(Outcome::Confirmed));
        assert!(first.try_recv().is_err());
        bal.ack(PUBACK, one).await;
        assert_eq!(outcome(first).await, Outcome::Confirmed);
        bal.quiet().await;
        world.close().await;
    }
}

#[tokio::test]
async fn equal_messages_are_confirmed_one_by_one() {
    let world = World::open().await;
    let mut bal = Peer::new(&world, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    let first = world.publish(INBOX, "same").await;
    let mut second = world.publish(INBOX, "same").await;
    let (_, one, _) = bal.message().await;
    let (_, two, _) = bal.message().await;
    bal.ack(PUBACK, one).await;
    assert_eq!(outcome(first).await, Outcome::Confirmed);
    assert!(second.try_recv().is_err());
    bal.ack(PUBACK, two).await;
    assert_eq!(outcome(second).await, Outcome::Confirmed);
    world.close().await;
}

#[tokio::test]
async fn a_connection_that_ends_first_loses_it() {
    let world = World::open().await;
    let mut bal = Peer::new(&world, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    let lost = world.publish(INBOX, "x").await;
    bal.message().await;
    drop(bal);
    assert_eq!(outcome(lost).await, Outcome::Lost);
    assert_eq!(outcome(world.publish(INBOX, "x").await).await, Outcome::NoReader);
    world.close().await;
}

#[tokio::test]
async fn another_connected_reader_keeps_it_alive() {
    let world = World::open().await;
    let mut one = Peer::new(&world, "one").await;
    let mut two = Peer::new(&world, "two").await;
    one.subscribe(INBOX, 1).await;
    two.subscribe("+/others/#", 1).await;
    let mut answer = world.publish(INBOX, "x").await;
    one.message().await;
    let (_, id, _) = two.message().await;
    one.disconnect().await;
    two.quiet().await;
    assert!(answer.try_recv().is_err());
    two.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    world.close().await;
}

#[tokio::test]
async fn a_reader_that_comes_wakes_the_bridge() {
    let mut world = World::open().await;
    world.port.readers.borrow_and_update();
    let mut bal = Peer::new(&world, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    let answer = world.publish_to_reader(INBOX, "x").await;
    let (_, id, _) = bal.message().await;
    bal.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    world.close().await;
}

#[tokio::test]
async fn a_reader_at_qos_0_confirms_by_the_socket() {
    let mut world = World::open().await;
    let mut bal = Peer::new(&world, "bal1").await;
    bal.subscribe(INBOX, 0).await;
    let answer = world.publish_to_reader(INBOX, "x").await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    assert!(matches!(bal.next().await, Seen::Publish { id: None, .. }));

    // Beside a reader at QoS 1 it does not count.
    let mut sure = Peer::new(&world, "sure").await;
    sure.subscribe(INBOX, 1).await;
    let mut answer = world.publish_to_reader(INBOX, "y").await;
    assert!(matches!(bal.next().await, Seen::Publish { id: None, .. }));
    bal.quiet().await;
    let (_, id, _) = sure.message().await;
    assert!(answer.try_recv().is_err());
    sure.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);

    let answer = world.publish_to_reader(INBOX, "z").await;
    assert!(matches!(bal.next().await, Seen::Publish { id: None, .. }));
    sure.message().await;
    drop(sure);
    assert_eq!(outcome(answer).await, Outcome::Lost);
    world.close().await;
}

#[tokio::test]
async fn retained_and_qos_0_publications_are_confirmed_at_once() {
    let world = World::open().await;
    let (mut message, answer) = outbound("_bridge/status", "online");
    message.retain = true;
    world.send(message).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    let (mut message, answer) = outbound("_bridge/stats", "{}");
    message.qos = 0;
    world.send(message).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);

    let mut bal = Peer::new(&world, "bal1").await;
    bal.subscribe("_bridge/#", 1).await;
    let seen = bal.next().await;
    assert!(matches!(&seen, Seen::Publish { payload, retain: true, .. } if payload == "online"), "{seen:?}");
    bal.quiet().await;
    world.close().await;
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one_and_all_to_the_survivor() {
    let mut world = World::open().await;
    let filter = "$share/bal1-msg/bal1/others/messages";
    let (mut one, _) = Peer::lasting(&world, "bal1:1").await;
    let (mut two, _) = Peer::lasting(&world, "bal1:2").await;
    one.subscribe(filter, 1).await;
    two.subscribe(filter, 1).await;
    let mut answers = Vec::new();
    for n in 0..10 {
        answers.push(world.publish_to_reader(INBOX, &n.to_string()).await);
    }
    for n in [0, 2, 4, 6, 8] {
        assert_eq!(one.message().await.0, n.to_string());
    }
    for n in [1, 3, 5, 7, 9] {
        let (payload, id, _) = two.message().await;
        assert_eq!(payload, n.to_string());
        two.ack(PUBACK, id).await;
    }
    drop(one);
    for (n, answer) in answers.into_iter().enumerate() {
        let expected = if n % 2 == 0 { Outcome::Lost } else { Outcome::Confirmed };
        assert_eq!(outcome(answer).await, expected);
    }
    let again = world.publish_to_reader(INBOX, "0 again").await;
    let (payload, id, _) = two.message().await;
    assert_eq!(payload, "0 again");
    two.ack(PUBACK, id).await;
    assert_eq!(outcome(again).await, Outcome::Confirmed);

    // What was given to others does not come to the first member when it returns.
    let (mut one, resumed) = Peer::lasting(&world, "bal1:1").await;
    assert!(resumed);
    one.quiet().await;
    world.close().await;
}

#[tokio::test]
async fn only_the_bridge_writes_inboxes() {
    let world = World::open().await;
    let mut alice = Peer::new(&world, "alice").await;
    alice.subscribe("#", 1).await;
    let will = Some(("alice/others/messages", "forged", 0));
    let (eve, _) = Peer::connect(&world, Connect { client: "eve", will, ..Connect::default() }).await;
    drop(eve);
    let mut bob = Peer::new(&world, "bob").await;
    for (id, topic) in [(1, "alice/others/messages"), (2, "_bridge/status"), (3, "$SYS/x")] {
        bob.publish_with(0b0011, topic, id, &[], "forged").await;
        assert_eq!(bob.next().await, Seen::Ack(PUBACK, id, 0x87));
    }
    bob.publish("elsewhere", 4, "fine").await;
    assert_eq!(bob.next().await, Seen::Ack(PUBACK, 4, 0));
    assert_eq!(alice.message().await.0, "fine");
    world.close().await;
}

#[tokio::test]
async fn a_subscriber_that_never_acknowledges_blocks_neither_others_nor_memory() {
    // Room for those of the slow one, one for the quick one, and one for the question whether it is on its way.
    let limits = BrokerLimits { unconfirmed: 33, queued_messages: 33, ..BrokerLimits::default() };
    let mut world = World::with(limits).await;
    let mut slow = Peer::new(&world, "slow").await;
    slow.subscribe("slow/others/messages", 1).await;
    let mut open = Vec::new();
    for n in 0..31 {
        open.push(world.publish_to_reader("slow/others/messages", &n.to_string()).await);
    }
    let mut quick = Peer::new(&world, "quick").await;
    quick.subscribe("quick/others/messages", 1).await;
    for n in 0..10_000 {
        let answer = world.publish_to_reader("quick/others/messages", &n.to_string()).await;
        let (payload, id, _) = quick.message().await;
        assert_eq!(payload, n.to_string());
        quick.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    assert!(open.iter_mut().all(|answer| answer.try_recv().is_err()));
    drop(slow);
    for answer in open {
        assert_eq!(outcome(answer).await, Outcome::Lost);
    }
    world.close().await;
}

#[tokio::test]
async fn ten_thousand_publications_to_one_slow_subscriber_arrive_in_order() {
    let limits = BrokerLimits { unconfirmed: 100, queued_messages: 100, ..BrokerLimits::default() };
    let mut world = World::with(limits).await;
    let mut slow = Peer::new(&world, "slow").await;
    slow.subscribe(INBOX, 1).await;
    let publish = world.port.publish.clone();
    let mut bridge = tokio::task::JoinSet::new();
    bridge.spawn(async move {
        let mut answers = Vec::new();
        for n in 0..10_000 {
            let (message, answer) = outbound(INBOX, &n.to_string());
            publish.send(message).await.unwrap();
            answers.push(answer);
        }
        answers
    });
    // With nothing acknowledged, no more than the limit and the channel are taken.
    let mut waiting = Vec::new();
    for n in 0..64 {
        let (payload, id, _) = slow.message().await;
        assert_eq!(payload, n.to_string());
        waiting.push(id);
    }
    slow.quiet().await;
    assert_eq!(world.port.publish.capacity(), 0);
    for id in waiting {
        slow.ack(PUBACK, id).await;
    }
    for n in 64..10_000 {
        let (payload, id, dup) = slow.message().await;
        assert_eq!((payload, dup), (n.to_string(), false));
        slow.ack(PUBACK, id).await;
    }
    for answer in bridge.join_next().await.unwrap().unwrap() {
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    world.stop().await;
}

#[tokio::test]
async fn what_is_bigger_than_a_reader_takes_passes_him_by() {
    let mut world = World::open().await;
    let max_packet = Some(200);
    let (mut small, _) = Peer::connect(&world, Connect { client: "small", max_packet, ..Connect::default() }).await;
    small.subscribe(INBOX, 1).await;
    // Fixed header 3, topic 2 + 20, identifier 2, no properties 1.
    let fits = "x".repeat(200 - 28);
    let answer = world.publish_to_reader(INBOX, &format!("{fits}x")).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    let answer = world.publish_to_reader(INBOX, &fits).await;
    let (payload, id, _) = small.message().await;
    assert_eq!(payload, fits);
    small.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    world.close().await;
}

#[tokio::test]
async fn what_is_open_at_the_end_is_lost() {
    let mut world = World::open().await;
    let mut bal = Peer::new(&world, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    let answer = world.publish_to_reader(INBOX, "x").await;
    bal.message().await;
    world.stop().await;
    assert_eq!(outcome(answer).await, Outcome::Lost);
    assert_eq!(bal.next().await, Seen::Disconnect(0x8b));
    assert_eq!(bal.next().await, Seen::Closed);
}

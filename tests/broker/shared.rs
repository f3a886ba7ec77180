//! Shared subscriptions: what becomes of a message whose member goes (MQTT 5, 4.8.2).

use fcm_mqtt_bridge::broker::BrokerConfig;

use super::harness::{Harness, config};
use super::peer::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Peer, Seen, V5, V311};

const SHARED: &str = "$share/g/t";

async fn member(harness: &Harness, client: &str, version: u8, lasting: bool) -> Peer {
    let connect =
        Connect { client, version, clean: !lasting, expiry: if lasting { 3_600 } else { 0 }, ..Connect::default() };
    Peer::connect(harness, connect).await.0
}

async fn publish(publisher: &mut Peer, id: u16, payload: &str) {
    publisher.publish_with(0b0100, "t", id, &[], payload).await;
    assert_eq!(publisher.next().await, Seen::Ack(PUBREC, id, 0));
    publisher.ack(PUBREL, id).await;
    assert_eq!(publisher.next().await, Seen::Ack(PUBCOMP, id, 0));
}

async fn complete(member: &mut Peer, id: u16) {
    member.ack(PUBREC, id).await;
    assert_eq!(member.next().await, Seen::Ack(PUBREL, id, 0));
    member.ack(PUBCOMP, id).await;
}

#[tokio::test]
async fn at_qos_2_the_member_that_was_sent_a_message_completes_it_and_nobody_else() {
    for version in [V311, V5] {
        let folder = tempfile::tempdir().unwrap();
        let start = || Harness::bind(BrokerConfig { data: Some(folder.path().to_owned()), ..config() });
        let mut harness = start().await;
        let mut publisher = Peer::new(&harness, "publisher").await;
        let mut goes = member(&harness, "goes", version, true).await;
        goes.subscribe(SHARED, 2).await;
        publish(&mut publisher, 1, "released").await;
        publish(&mut publisher, 2, "sent").await;
        let ((one, first, _), (two, second, _)) = (goes.message().await, goes.message().await);
        assert_eq!((&*one, &*two), ("released", "sent"));
        goes.ack(PUBREC, first).await;
        assert_eq!(goes.next().await, Seen::Ack(PUBREL, first, 0));
        drop(goes);
        let mut stays = member(&harness, "stays", version, true).await;
        stays.subscribe(SHARED, 2).await;
        harness.is_away("goes").await;
        for restarts in [false, true] {
            if restarts {
                drop((stays, publisher));
                harness.close().await;
                harness = start().await;
                publisher = Peer::new(&harness, "publisher").await;
                stays = member(&harness, "stays", version, true).await;
            }
            publish(&mut publisher, 3, "another").await;
            let (payload, id, dup) = stays.message().await;
            assert_eq!((&*payload, dup), ("another", false));
            complete(&mut stays, id).await;
            stays.quiet().await;
        }
        drop(stays);
        harness.is_away("stays").await;
        let mut goes = member(&harness, "goes", version, true).await;
        for _ in 0..2 {
            match goes.next().await {
                Seen::Ack(PUBREL, id, 0) => assert_eq!(id, first),
                Seen::Publish { payload, id, dup, .. } => {
                    assert_eq!((&*payload, id, dup), ("sent", Some(second), true))
                }
                other => panic!("{other:?}"),
            }
        }
        goes.ack(PUBCOMP, first).await;
        complete(&mut goes, second).await;
        goes.disconnect().await;
        harness.is_away("goes").await;
        harness.keeps_nothing("goes").await;
        harness.close().await;
    }
}

#[tokio::test]
async fn at_qos_2_what_was_sent_ends_with_the_session_of_its_member() {
    for (version, lasting) in [(V311, true), (V311, false), (V5, true), (V5, false)] {
        let harness = Harness::open().await;
        let mut publisher = Peer::new(&harness, "publisher").await;
        // So that the group is on disk, whatever the other one is.
        let mut stays = member(&harness, "stays", version, true).await;
        stays.subscribe(SHARED, 2).await;
        drop(stays);
        harness.is_away("stays").await;
        let mut goes = member(&harness, "goes", version, lasting).await;
        goes.subscribe(SHARED, 2).await;
        publish(&mut publisher, 1, "sent").await;
        assert_eq!(goes.message().await.0, "sent");
        drop(goes);
        // A new session: the old one is over.
        member(&harness, "goes", version, false).await.disconnect().await;
        let mut stays = member(&harness, "stays", version, true).await;
        publish(&mut publisher, 2, "another").await;
        let (payload, id, dup) = stays.message().await;
        assert_eq!((&*payload, dup), ("another", false));
        complete(&mut stays, id).await;
        stays.quiet().await;
        harness.close().await;
    }
}

#[tokio::test]
async fn a_member_gets_messages_of_all_qualities_in_their_order_and_others_take_what_it_has_no_room_for() {
    for lasting in [true, false] {
        let harness = Harness::open().await;
        // 3.1.1 has no receive maximum.
        let mut publisher = member(&harness, "publisher", V311, false).await;
        let mut alone = member(&harness, "alone", V5, lasting).await;
        alone.subscribe(SHARED, 2).await;
        let mut away = member(&harness, "away", V5, true).await;
        away.subscribe(SHARED, 2).await;
        away.disconnect().await;
        for n in 1..=300_u16 {
            publisher.publish_with(if n % 3 == 0 { 0b0010 } else { 0b0100 }, "t", n, &[], &n.to_string()).await;
        }
        for n in 1..=300_u16 {
            let kind = if n % 3 == 0 { PUBACK } else { PUBREC };
            assert_eq!(publisher.next().await, Seen::Ack(kind, n, 0));
        }
        let mut next = 1;
        while next <= 300 {
            match alone.next().await {
                Seen::Publish { payload, id: Some(id), dup, .. } => {
                    assert_eq!((payload.parse(), dup), (Ok(next), false));
                    alone.ack(if next % 3 == 0 { PUBACK } else { PUBREC }, id).await;
                    next += 1;
                }
                Seen::Ack(PUBREL, id, 0) => alone.ack(PUBCOMP, id).await,
                other => panic!("{other:?}"),
            }
        }
        harness.close().await;
    }
}

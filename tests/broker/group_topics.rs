//! Topics of groups: a member reads there what the store has for that member, and nobody else reads anything.

use std::path::Path;

use fcm_mqtt_bridge::broker::BrokerConfig;
use fcm_mqtt_bridge::chat::group::GroupDelivery;
use fcm_mqtt_bridge::chat::id::Sid;
use fcm_mqtt_bridge::chat::principal::Role;

use super::harness::{Harness, Users, password, soon};
use super::peer::{Connect, PUBACK, Peer, Seen, V5, V311};

const TOPIC: &str = "g-1/others/messages";
/// Of what the group has for one member.
const OF_BOB: &str = "bob/others/+/g-1/others/messages";
const OF_ALICE: &str = "alice/others/+/g-1/others/messages";
const DENIED: u8 = 0x87;

fn users() -> Users {
    let users = ["alice", "bob", "eve"].map(|name| (name, Role::User));
    Users::new(&[&users[..], &[("bal1", Role::Bal), ("root", Role::Admin)]].concat())
}

fn on(users: &Users, autosubscribe: bool) -> BrokerConfig {
    BrokerConfig { autosubscribe, group_delivery: GroupDelivery::Topic, ..users.config() }
}

async fn come(harness: &Harness, connect: Connect<'_>) -> Peer {
    let user = connect.client.split(':').next().unwrap();
    let secret = password(user);
    Peer::connect(harness, Connect { user: Some(user), password: Some(&secret), ..connect }).await.0
}

async fn clean(harness: &Harness, client: &str) -> Peer {
    come(harness, Connect { client, ..Connect::default() }).await
}

async fn kept(harness: &Harness, client: &str) -> Peer {
    come(harness, Connect { client, clean: false, expiry: 3_600, ..Connect::default() }).await
}

/// The next message, acknowledged: its topic and payload.
async fn read(peer: &mut Peer) -> (String, String) {
    match peer.next().await {
        Seen::Publish { topic, payload, id: Some(id), dup: false, .. } => {
            peer.ack(PUBACK, id).await;
            (topic, payload)
        }
        other => panic!("{other:?}"),
    }
}

fn said(payload: &str) -> (String, String) {
    (TOPIC.to_owned(), payload.to_owned())
}

#[tokio::test]
async fn whatever_filter_finds_it_a_member_reads_its_own_documents_once_and_others_read_nothing() {
    let harness = Harness::bind(on(&users(), false)).await;
    let filters = [TOPIC, "g-1/others/+", "g-1/#", "+/others/#", "+/+/messages", "#"];
    let mut of_bob = Vec::new();
    let mut others = Vec::new();
    for (number, filter) in filters.into_iter().enumerate() {
        let version = if number % 2 == 0 { V5 } else { V311 };
        let mut peer =
            come(&harness, Connect { client: &format!("bob:{number}"), version, ..Connect::default() }).await;
        peer.subscribe(filter, 1).await;
        of_bob.push(peer);
        let mut eve = clean(&harness, &format!("eve:{number}")).await;
        eve.subscribe(filter, 1).await;
        others.push(eve);
    }
    let mut several = clean(&harness, "bob:several").await;
    for filter in filters {
        several.subscribe(filter, 1).await;
    }
    of_bob.push(several);
    for client in ["alice", "bal1", "root"] {
        let mut peer = clean(&harness, client).await;
        peer.subscribe("#", 1).await;
        others.push(peer);
    }
    harness.tell(OF_BOB, "for bob").await;
    for peer in &mut of_bob {
        assert_eq!(read(peer).await, said("for bob"));
    }
    harness.barrier().await;
    for peer in &mut of_bob {
        peer.quiet().await;
    }
    for peer in &mut others {
        // The admin is sent what the barrier says.
        let topics = what_came(peer).await;
        assert!(topics.iter().all(|topic| topic == "nobody/others/messages"), "{topics:?}");
    }
    harness.settles(OF_BOB).await;
    harness.close().await;
}

/// The topics of all that is on its way to a client.
async fn what_came(peer: &mut Peer) -> Vec<String> {
    let mut topics = Vec::new();
    peer.ping().await;
    loop {
        match peer.next().await {
            Seen::Pong => return topics,
            Seen::Publish { topic, id, .. } => {
                topics.push(topic);
                if let Some(id) = id {
                    peer.ack(PUBACK, id).await;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn chat_users_alone_may_subscribe_and_only_where_groups_have_topics_and_never_share() {
    let users = users();
    let harness = Harness::bind(on(&users, true)).await;
    let mut eve = clean(&harness, "eve").await;
    for filter in [TOPIC, "g-1/others/members", "g-1/#"] {
        eve.subscribe(filter, 1).await;
    }
    for filter in ["$share/x/g-1/others/messages", "$share/x/#", "$member/#", "$member/bob/#", "g-1/self/messages"] {
        assert_eq!(eve.try_subscribe(filter, 1).await, Seen::SubRefused(1, DENIED), "{filter}");
    }
    // The name that the store has for it is a filter with a wildcard, of the own inbox or a foreign one.
    assert_eq!(eve.try_subscribe(OF_BOB, 1).await, Seen::SubRefused(1, DENIED));
    let mut bal = clean(&harness, "bal1").await;
    assert_eq!(bal.try_subscribe(TOPIC, 1).await, Seen::SubRefused(1, DENIED));
    harness.tell(OF_BOB, "for bob").await;
    harness.barrier().await;
    eve.quiet().await;
    harness.close().await;

    let harness = Harness::bind(BrokerConfig { group_delivery: GroupDelivery::Inbox, ..on(&users, true) }).await;
    let mut bob = clean(&harness, "bob").await;
    assert_eq!(bob.try_subscribe(TOPIC, 1).await, Seen::SubRefused(1, DENIED));
    harness.close().await;
}

#[tokio::test]
async fn a_device_that_reads_its_inbox_without_asking_reads_its_groups_likewise() {
    let harness = Harness::bind(on(&users(), true)).await;
    let mut phone = clean(&harness, "bob:phone").await;
    let mut laptop = kept(&harness, "bob:laptop").await;
    let mut alice = clean(&harness, "alice").await;
    laptop.subscribe("+/others/messages", 1).await;
    harness.tell(OF_BOB, "1").await;
    harness.tell(OF_ALICE, "hers").await;
    assert_eq!([read(&mut phone).await, read(&mut laptop).await], [said("1"), said("1")]);
    assert_eq!(read(&mut alice).await, said("hers"));
    // One subscription goes, the other stays.
    laptop.unsubscribe("+/others/messages").await;
    phone.unsubscribe("bob/others/+").await;
    harness.tell(OF_BOB, "2").await;
    assert_eq!(read(&mut laptop).await, said("2"));
    harness.barrier().await;
    for peer in [&mut phone, &mut laptop, &mut alice] {
        peer.quiet().await;
    }
    harness.settles(OF_BOB).await;
    harness.close().await;
}

async fn start(users: &Users, folder: &Path) -> Harness {
    Harness::bind(BrokerConfig { data: Some(folder.to_owned()), ..on(users, true) }).await
}

#[tokio::test]
async fn a_kept_session_gets_what_it_missed_once_also_after_a_restart_and_who_has_none_is_told_nothing() {
    let (users, folder) = (users(), tempfile::tempdir().unwrap());
    let harness = start(&users, folder.path()).await;
    let laptop = kept(&harness, "bob:laptop").await;
    let tablet = kept(&harness, "bob:tablet").await;
    laptop.disconnect().await;
    tablet.disconnect().await;
    harness.is_away("bob:laptop").await;
    harness.is_away("bob:tablet").await;
    harness.tell(OF_BOB, "1").await;
    harness.tell(OF_ALICE, "nobody is there").await;
    harness.barrier().await;
    harness.settles(OF_ALICE).await;
    harness.close().await;
    let harness = start(&users, folder.path()).await;
    harness.tell(OF_BOB, "2").await;
    harness.barrier().await;
    for client in ["bob:laptop", "bob:tablet"] {
        let mut peer = kept(&harness, client).await;
        assert_eq!([read(&mut peer).await, read(&mut peer).await], [said("1"), said("2")], "{client}");
        peer.quiet().await;
        harness.keeps_nothing(client).await;
    }
    harness.settles(OF_BOB).await;
    harness.close().await;
}

#[tokio::test]
async fn a_copy_that_was_not_acknowledged_comes_again_marked_and_an_acknowledgement_is_the_devices_confirmation() {
    let mut harness = Harness::bind(on(&users(), true)).await;
    let mut phone = kept(&harness, "bob:phone").await;
    let sid = Sid::parse("06eqbd3gy0001ab4").unwrap();
    harness.tell_copy(OF_BOB, r#"{"body":"hi"}"#, Some(sid)).await;
    assert!(matches!(phone.next().await, Seen::Publish { dup: false, .. }));
    drop(phone);
    harness.is_away("bob:phone").await;
    let mut phone = kept(&harness, "bob:phone").await;
    let Seen::Publish { topic, payload, id: Some(id), dup: true, .. } = phone.next().await else { panic!("no copy") };
    assert_eq!((topic.as_str(), payload.contains("redelivered")), (TOPIC, true), "{payload}");
    phone.ack(PUBACK, id).await;
    let confirmed = soon("a confirmation", harness.port.confirmations.recv()).await.unwrap();
    assert_eq!((&*confirmed.user, &*confirmed.device, confirmed.sid), ("bob", "phone", sid));
    harness.settles(OF_BOB).await;
    phone.quiet().await;
    harness.close().await;
}

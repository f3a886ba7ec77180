//! What chat users have of the broker, and what it tells the bridge of them.

use fcm_mqtt_bridge::broker::BrokerConfig;
use fcm_mqtt_bridge::chat::id::SidSource;
use fcm_mqtt_bridge::chat::principal::{Principal, Role};
use fcm_mqtt_bridge::mqtt::{AckWord, ClientChange, Confirmation, Inbound};
use fcm_mqtt_bridge::ops::clock::now_ms;
use serde_json::json;

use super::harness::{Harness, Users, config, password, soon, until};
use super::identity::{Tokens, in_seconds};
use super::mint::Mint;
use super::peer::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Peer, Seen, V5, V311};

const INBOX: &str = "alice/others/messages";
const NOT_AUTHORIZED: u8 = 0x87;
const RETAIN: u8 = 1;

fn users() -> Users {
    Users::new(&[("alice", Role::User), ("bob", Role::User), ("bal1", Role::Bal), ("root", Role::Admin)])
}

/// A client of the user that its id names.
async fn come(harness: &Harness, connect: Connect<'_>) -> (Peer, bool) {
    let user = connect.client.split(':').next().unwrap();
    Peer::connect(harness, Connect { user: Some(user), password: Some(&password(user)), ..connect }).await
}

async fn device(harness: &Harness, client: &str) -> Peer {
    come(harness, Connect { client, ..Connect::default() }).await.0
}

/// The next message for the bridge, which then has it.
async fn taken(harness: &mut Harness) -> (Principal, String, Option<String>, bool) {
    let Inbound { principal, topic, routed_to, retained, ack, .. } = harness.inbound().await;
    ack.release(AckWord::Done);
    (principal, topic, routed_to.map(|peer| peer.to_string()), retained)
}

#[tokio::test]
async fn a_device_that_acknowledges_a_copy_of_a_message_confirms_it_to_the_bridge() {
    let mut harness = Harness::bind(users().config()).await;
    let mut sids = SidSource::default();
    let [first, second] = [0, 1].map(|random| sids.next(now_ms(), random));
    let mut phone = device(&harness, "alice:phone").await;
    let mut laptop = device(&harness, "alice:laptop").await;
    let mut admin = device(&harness, "root").await;
    phone.subscribe(INBOX, 1).await;
    laptop.subscribe(INBOX, 0).await;
    admin.subscribe("#", 1).await;
    harness.tell(INBOX, "no copy of a message").await;
    for (sid, text) in [(first, "1"), (second, "2")] {
        harness.tell_copy(INBOX, text, Some(sid)).await;
    }
    for expected in ["no copy of a message", "1", "2"] {
        let (payload, id, _) = admin.message().await;
        assert_eq!(payload, expected);
        admin.ack(PUBACK, id).await;
        assert!(matches!(laptop.next().await, Seen::Publish { id: None, .. }));
    }
    harness.settles(INBOX).await;
    for _ in 0..3 {
        let (_, id, _) = phone.message().await;
        assert!(harness.port.confirmations.try_recv().is_err(), "nobody confirms but at QoS 1, and for the owner");
        phone.ack(PUBACK, id).await;
        // The first one is no copy.
        if id > 1 {
            let confirmation = soon("a confirmation", harness.port.confirmations.recv()).await.unwrap();
            let sid = if id == 2 { first } else { second };
            assert_eq!(confirmation, Confirmation { user: "alice".into(), device: "phone".into(), sid });
        }
    }
    harness.close().await;
}

#[tokio::test]
async fn a_connection_in_the_background_publishes_for_its_device_and_does_nothing_else() {
    let mut harness = Harness::bind(users().config()).await;
    let mut phone =
        come(&harness, Connect { client: "alice:phone", clean: false, expiry: 60, ..Connect::default() }).await.0;
    assert_eq!(soon("a sighting", harness.port.sightings.recv()).await.unwrap().change, ClientChange::Came);
    for version in [V311, V5] {
        let mut background = Vec::new();
        for _ in 0..2 {
            let will = Some(("alice/self/presence/phone", "gone", 0));
            let client = "alice:phone:bg";
            let connect = Connect { client, version, clean: false, expiry: 60, will, ..Connect::default() };
            let (mut peer, resumed) = come(&harness, connect).await;
            assert!(!resumed);
            let refused = peer.try_subscribe(INBOX, 1).await;
            assert_eq!(refused, Seen::SubRefused(1, if version == V5 { NOT_AUTHORIZED } else { 0x80 }));
            background.push(peer);
        }
        for peer in &mut background {
            peer.publish("alice/self/receipts", 1, "{}").await;
            let (principal, topic, ..) = taken(&mut harness).await;
            assert_eq!((principal.device.as_deref(), principal.background), (Some("phone"), true));
            assert_eq!(topic, "alice/self/receipts");
            assert_eq!(peer.next().await, Seen::Ack(PUBACK, 1, 0));
        }
        drop(background);
    }
    phone.quiet().await;
    phone.publish("alice/self/receipts", 1, "{}").await;
    let (principal, topic, ..) = taken(&mut harness).await;
    assert!(!principal.background && topic == "alice/self/receipts", "no will came before it");
    assert_eq!(phone.next().await, Seen::Ack(PUBACK, 1, 0));
    harness.tell(INBOX, "for no connection in the background").await;
    harness.settles(INBOX).await;
    assert!(harness.port.sightings.try_recv().is_err(), "only the phone is seen");
    harness.close().await;
}

#[tokio::test]
async fn a_bal_has_no_connections_in_the_background() {
    let mut harness = Harness::bind(users().config()).await;
    let mut worker = device(&harness, "bal1:w:bg").await;
    worker.subscribe("bal1/others/+", 1).await;
    assert_eq!(soon("a sighting", harness.port.sightings.recv()).await.unwrap().user.as_ref(), "bal1");
    worker.publish("bal1/self/messages", 1, "{}").await;
    assert!(!taken(&mut harness).await.0.background);
    harness.close().await;
}

#[tokio::test]
async fn what_is_published_into_an_inbox_comes_to_the_bridge_from_the_outbox_of_its_writer_and_to_nobody_else() {
    let mut harness = Harness::bind(users().config()).await;
    let mut bob = device(&harness, "bob").await;
    bob.subscribe("bob/others/#", 1).await;
    let mut root = device(&harness, "root").await;
    root.subscribe("bob/#", 0).await;
    for version in [V311, V5] {
        let mut alice = come(&harness, Connect { client: "alice:phone", version, ..Connect::default() }).await.0;
        for suffix in ["messages", "chatstate", "invitations", "calls"] {
            for qos in 0..3 {
                let topic = format!("bob/others/{suffix}");
                alice.publish_with(qos << 1 | RETAIN, &topic, 7, &[], "{}").await;
                let (principal, topic, routed_to, retained) = taken(&mut harness).await;
                assert_eq!((&*principal.name, principal.role), ("alice", Role::User));
                assert_eq!((topic, routed_to.as_deref()), (format!("alice/self/{suffix}"), Some("bob")));
                assert!(retained, "the bridge may refuse it for that");
                match qos {
                    0 => alice.quiet().await,
                    1 => assert_eq!(alice.next().await, Seen::Ack(PUBACK, 7, 0)),
                    _ => {
                        assert_eq!(alice.next().await, Seen::Ack(PUBREC, 7, 0));
                        alice.ack(PUBREL, 7).await;
                        assert_eq!(alice.next().await, Seen::Ack(PUBCOMP, 7, 0));
                    }
                }
            }
        }
        alice.disconnect().await;
    }
    harness.barrier().await;
    bob.quiet().await;
    root.quiet().await;
    bob.subscribe("bob/others/messages", 1).await;
    bob.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_will_into_an_inbox_is_routed_as_well() {
    let mut harness = Harness::bind(users().config()).await;
    let will = Some(("bob/others/messages", "bye", 0));
    drop(come(&harness, Connect { client: "alice:phone", will, ..Connect::default() }).await);
    let (principal, topic, routed_to, _) = taken(&mut harness).await;
    assert_eq!((principal.device.as_deref(), &*topic), (Some("phone"), "alice/self/messages"));
    assert_eq!(routed_to.as_deref(), Some("bob"));
    harness.close().await;
}

#[tokio::test]
async fn of_what_a_user_publishes_only_the_presence_of_its_devices_is_retained() {
    let mut harness = Harness::bind(users().config()).await;
    let mut alice = device(&harness, "alice:phone").await;
    let mut root = device(&harness, "root").await;
    root.subscribe("+/self/profile", 0).await;
    root.subscribe("+/self/presence", 0).await;
    for suffix in ["devices/phone", "presence/phone", "presence", "profile", "requests/phone"] {
        alice.publish_with(0b0010 | RETAIN, &format!("alice/self/{suffix}"), 7, &[], suffix).await;
        let (_, topic, routed_to, retained) = taken(&mut harness).await;
        assert_eq!((topic, routed_to, retained), (format!("alice/self/{suffix}"), None, true));
        assert_eq!(alice.next().await, Seen::Ack(PUBACK, 7, 0));
    }
    // What others see of a user, the bridge writes.
    root.quiet().await;
    root.subscribe("alice/#", 0).await;
    match root.next().await {
        Seen::Publish { payload, retain: true, .. } => assert_eq!(payload, "presence/phone"),
        other => panic!("{other:?}"),
    }
    root.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn the_directory_knows_who_is_in_the_file_and_who_logged_in() {
    let (mint, tokens) = (Mint::secret(), Tokens::new());
    let users = users();
    let bals = ["bal2".to_owned()].into();
    let broker = BrokerConfig { jwt: tokens.config(&mint), bals, ..users.config() };
    let harness = Harness::bind(broker).await;
    let directory = harness.port.directory.clone();
    let role = |name: &str| directory.role_of(name);
    assert_eq!(["alice", "bal1", "root", "bal2"].map(role), [Role::User, Role::Bal, Role::Admin, Role::Bal].map(Some));
    assert_eq!(role("carol"), None);
    let token = mint.token(&json!({ "sub": "carol", "exp": in_seconds(60) }));
    let carol = |client, expiry| Connect {
        client,
        clean: expiry == 0,
        expiry,
        user: Some("carol"),
        password: Some(&token),
        ..Connect::default()
    };
    let (mut kept, _) = Peer::connect(&harness, carol("carol:phone", 60)).await;
    assert_eq!(role("carol"), Some(Role::User));
    kept.quiet().await;
    kept.disconnect().await;
    harness.is_away("carol:phone").await;
    assert_eq!(role("carol"), Some(Role::User), "a session is kept");
    drop(Peer::connect(&harness, carol("carol:phone", 0)).await);
    until("the end of her session", || role("carol").is_none()).await;
    harness.close().await;
    assert_eq!(role("alice"), None, "the broker has ended");
}

#[tokio::test]
async fn where_nobody_logs_in_nobody_is_known() {
    let harness = Harness::bind(config()).await;
    let _anybody = Peer::new(&harness, "alice").await;
    assert_eq!(harness.port.directory.role_of("alice"), None);
    harness.close().await;
}

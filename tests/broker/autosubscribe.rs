//! What devices of chat users are subscribed to without asking, and how many of their sessions are kept.

use std::path::Path;

use fcm_mqtt_bridge::broker::{BrokerConfig, BrokerLimits};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::ops::clock::now_ms;
use tempfile::TempDir;

use super::harness::{Harness, Users, password};
use super::peer::{Connect, PUBACK, Peer, Seen, V5, V311};

const INBOX: &str = "alice/others/messages";
const TOO_MANY: u8 = 0x97;
const BUSY: u8 = 0x88;

fn users() -> Users {
    Users::new(&[("alice", Role::User), ("bal1", Role::Bal), ("root", Role::Admin)])
}

fn on(users: &Users) -> BrokerConfig {
    BrokerConfig { autosubscribe: true, ..users.config() }
}

async fn start(users: &Users, folder: &Path) -> Harness {
    Harness::bind(BrokerConfig { data: Some(folder.to_owned()), ..on(users) }).await
}

/// A client of the user that its id names.
async fn come(harness: &Harness, connect: Connect<'_>) -> (Peer, bool) {
    let user = connect.client.split(':').next().unwrap();
    Peer::connect(harness, Connect { user: Some(user), password: Some(&password(user)), ..connect }).await
}

async fn clean(harness: &Harness, client: &str) -> Peer {
    come(harness, Connect { client, ..Connect::default() }).await.0
}

async fn kept(harness: &Harness, client: &str) -> (Peer, bool) {
    come(harness, Connect { client, clean: false, expiry: 3_600, ..Connect::default() }).await
}

/// The code that somebody gets who wants a session that is kept.
async fn ask_to_be_kept(harness: &Harness, client: &str) -> u8 {
    let secret = password("alice");
    let (user, password) = (Some("alice"), Some(&*secret));
    let connect = Connect { client, clean: false, expiry: 3_600, user, password, ..Connect::default() };
    Peer::try_connect(harness, connect).await.1
}

/// The ends of connections are told apart by milliseconds.
fn a_millisecond_passes() {
    let then = now_ms();
    while now_ms() == then {
        std::hint::spin_loop();
    }
}

/// The next message, acknowledged.
async fn read(peer: &mut Peer) -> String {
    let (payload, id, dup) = peer.message().await;
    assert!(!dup);
    peer.ack(PUBACK, id).await;
    payload
}

#[tokio::test]
async fn every_device_reads_its_users_inbox_and_its_own_answers_and_others_do_not() {
    let harness = Harness::bind(on(&users())).await;
    let mut phone = come(&harness, Connect { client: "alice:phone", version: V311, ..Connect::default() }).await.0;
    let mut laptop = kept(&harness, "alice:laptop").await.0;
    let mut others = Vec::new();
    for client in ["bal1", "root", "alice:phone:bg"] {
        others.push(clean(&harness, client).await);
    }
    harness.tell(INBOX, "for both").await;
    harness.tell("alice/others/replies/phone", "for the phone").await;
    harness.tell("alice/others/replies/laptop", "for the laptop").await;
    harness.tell("alice/others/replies/tablet", "for nobody").await;
    harness.publish("bal1/others/messages", "waits").await;
    assert_eq!([read(&mut phone).await, read(&mut phone).await], ["for both", "for the phone"]);
    assert_eq!([read(&mut laptop).await, read(&mut laptop).await], ["for both", "for the laptop"]);
    harness.barrier().await;
    for peer in others.iter_mut().chain([&mut phone, &mut laptop]) {
        peer.quiet().await;
    }
    for topic in [INBOX, "alice/others/replies/phone", "alice/others/replies/laptop", "alice/others/replies/tablet"] {
        harness.settles(topic).await;
    }
    assert_eq!(harness.waits("bal1/others/messages"), 1);
    harness.close().await;
}

#[tokio::test]
async fn a_kept_session_is_subscribed_while_it_is_away_and_after_a_restart() {
    let (users, folder) = (users(), tempfile::tempdir().unwrap());
    let harness = start(&users, folder.path()).await;
    let (laptop, resumed) = kept(&harness, "alice:laptop").await;
    assert!(!resumed);
    laptop.disconnect().await;
    harness.is_away("alice:laptop").await;
    harness.tell(INBOX, "1").await;
    harness.tell("alice/others/replies/laptop", "2").await;
    harness.close().await;
    let harness = start(&users, folder.path()).await;
    harness.tell(INBOX, "3").await;
    harness.barrier().await;
    let (mut laptop, resumed) = kept(&harness, "alice:laptop").await;
    assert!(resumed);
    let mut got = [read(&mut laptop).await, read(&mut laptop).await, read(&mut laptop).await];
    got.sort();
    assert_eq!(got, ["1", "2", "3"]);
    laptop.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_session_from_before_gets_the_subscriptions_when_its_client_comes() {
    let (users, folder) = (users(), tempfile::tempdir().unwrap());
    let data = |folder: &TempDir| Some(folder.path().to_owned());
    let harness = Harness::bind(BrokerConfig { data: data(&folder), ..users.config() }).await;
    kept(&harness, "alice:laptop").await.0.disconnect().await;
    harness.is_away("alice:laptop").await;
    harness.close().await;
    let harness = start(&users, folder.path()).await;
    let (mut laptop, resumed) = kept(&harness, "alice:laptop").await;
    assert!(resumed);
    harness.tell(INBOX, "1").await;
    assert_eq!(read(&mut laptop).await, "1");
    laptop.disconnect().await;
    harness.is_away("alice:laptop").await;
    harness.tell(INBOX, "2").await;
    harness.close().await;
    let harness = start(&users, folder.path()).await;
    assert_eq!(read(&mut kept(&harness, "alice:laptop").await.0).await, "2");
    harness.close().await;
}

#[tokio::test]
async fn a_subscription_of_the_client_replaces_or_overlaps_and_there_is_one_copy() {
    let harness = Harness::bind(on(&users())).await;
    let mut phone = clean(&harness, "alice:phone").await;
    phone.subscribe("alice/#", 0).await;
    phone.subscribe(INBOX, 1).await;
    harness.tell(INBOX, "once").await;
    assert_eq!(read(&mut phone).await, "once");
    phone.unsubscribe(INBOX).await;
    phone.unsubscribe("alice/#").await;
    harness.tell(INBOX, "still").await;
    assert_eq!(read(&mut phone).await, "still");
    phone.subscribe("alice/others/+", 0).await;
    harness.tell(INBOX, "at QoS 0").await;
    assert!(matches!(phone.next().await, Seen::Publish { id: None, .. }));
    phone.unsubscribe("alice/others/+").await;
    harness.tell(INBOX, "not wanted").await;
    harness.settles(INBOX).await;
    phone.quiet().await;
    phone.disconnect().await;
    let mut phone = clean(&harness, "alice:phone").await;
    harness.tell(INBOX, "a new connection").await;
    assert_eq!(read(&mut phone).await, "a new connection");
    harness.close().await;
}

#[tokio::test]
async fn what_is_not_asked_for_counts_for_no_limit() {
    let limits = BrokerLimits { subscriptions: 1, ..BrokerLimits::default() };
    let harness = Harness::bind(BrokerConfig { limits, ..on(&users()) }).await;
    let mut phone = clean(&harness, "alice:phone").await;
    phone.subscribe("+/self/presence", 1).await;
    phone.subscribe("alice/others/+", 1).await;
    assert_eq!(phone.try_subscribe("_bridge/status", 1).await, Seen::SubRefused(1, TOO_MANY));
    harness.close().await;
}

#[tokio::test]
async fn for_an_eleventh_kept_session_the_one_that_was_away_longest_ends_and_no_connected_one() {
    let harness = Harness::bind(on(&users())).await;
    let mut connected = Vec::new();
    for n in 0..10 {
        let (peer, _) = kept(&harness, &format!("alice:{n}")).await;
        connected.push(peer);
    }
    assert_eq!(ask_to_be_kept(&harness, "alice:late").await, BUSY);
    // They leave in an order that is not that of their names, at times of their own.
    for n in [7, 3] {
        connected.remove(n).disconnect().await;
        harness.is_away(&format!("alice:{n}")).await;
        a_millisecond_passes();
    }
    harness.tell(INBOX, "in all queues").await;
    for peer in &mut connected {
        assert_eq!(read(peer).await, "in all queues");
    }
    assert_eq!(ask_to_be_kept(&harness, "alice:late").await, 0);
    assert!(kept(&harness, "alice:3").await.1, "it was away, and not longest");
    harness.is_away("alice:late").await;
    assert_eq!(ask_to_be_kept(&harness, "alice:7").await, 0, "another one is away");
    assert_eq!(ask_to_be_kept(&harness, "alice:8").await, 0, "a session that is kept is resumed");
    let (mut clean, _) = come(&harness, Connect { client: "alice:clean", ..Connect::default() }).await;
    clean.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_bal_keeps_as_many_sessions_as_it_likes() {
    let harness = Harness::bind(on(&users())).await;
    let mut workers = Vec::new();
    for n in 0..12 {
        workers.push(kept(&harness, &format!("bal1:{n}")).await.0);
    }
    harness.close().await;
}

#[tokio::test]
async fn who_comes_a_hundred_times_under_new_names_leaves_at_most_ten_sessions_and_clean_ones_none() {
    let (users, folder) = (users(), tempfile::tempdir().unwrap());
    let harness = start(&users, folder.path()).await;
    for version in [V311, V5] {
        for n in 0..100 {
            let client = format!("alice:clean-{n}");
            come(&harness, Connect { client: &client, version, ..Connect::default() }).await.0.disconnect().await;
        }
        assert_eq!(sessions(folder.path()), 0);
    }
    for n in 0..30 {
        kept(&harness, &format!("alice:{n}")).await.0.disconnect().await;
        harness.is_away(&format!("alice:{n}")).await;
    }
    assert_eq!(sessions(folder.path()), 10);
    harness.close().await;
}

/// How many sessions are on disk.
fn sessions(folder: &Path) -> i64 {
    let store = rusqlite::Connection::open(folder.join("bridge.db")).unwrap();
    store.query_row("SELECT count(*) FROM queues", [], |row| row.get(0)).unwrap()
}

//! Any client id is taken and belongs to its user.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use fcm_mqtt_bridge::broker::{BrokerConfig, BrokerLimits};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt::{AckWord, Outcome};
use serde_json::json;

use super::harness::{Harness, Users, config, outcome, password, soon};
use super::peer::{Connect, PUBACK, Peer, Seen, V5, V311};

const BAD_CLIENT: u8 = 0x85;
/// Ids that nobody could have in the first release: those of libraries, of bridges, of other users, and odd ones.
const IDS: [&str; 17] = [
    "mqttjs_1a2b3c4d",
    "mosq-Xy12",
    "host.example.main",
    "bob",
    "bob:phone",
    "alice2",
    "alice:",
    "alice:a:b",
    "auto-00000000000000000000000000000000",
    "cert:alice",
    "a/b",
    "../../x",
    "a\\b",
    "..",
    "a+#",
    "ü 😀",
    "a\u{1}\n",
];

fn users() -> Users {
    Users::new(&[("alice", Role::User), ("bob", Role::User), ("bal1", Role::Bal)])
}

/// A session of `user` that outlives its connection.
async fn lasting(harness: &Harness, user: &str, client: &str, version: u8) -> (Peer, bool) {
    let password = password(user);
    let connect = Connect { client, version, clean: false, expiry: 3_600, ..Connect::default() };
    Peer::connect(harness, Connect { user: Some(user), password: Some(&password), ..connect }).await
}

#[tokio::test]
async fn any_client_id_is_taken_and_its_session_comes_back() {
    let harness = Harness::bind(users().config()).await;
    let long = "x".repeat(256);
    for client in IDS.into_iter().chain([&*long, "alice", "alice:phone"]) {
        for version in [V311, V5] {
            let (mut first, resumed) = lasting(&harness, "alice", client, version).await;
            assert!(!resumed, "{client:?}");
            first.subscribe("alice/others/+", 1).await;
            first.disconnect().await;
            let (second, resumed) = lasting(&harness, "alice", client, version).await;
            assert!(resumed, "{client:?}");
            second.disconnect().await;
            let user = Some("alice");
            let clean = Connect { client, version, user, password: Some("ecila"), ..Connect::default() };
            Peer::connect(&harness, clean).await.0.disconnect().await;
        }
    }
    harness.close().await;
}

#[tokio::test]
async fn two_users_may_have_one_client_id_at_once_and_each_has_a_session_of_their_own() {
    for version in [V311, V5] {
        for client in ["mqttjs_1a2b3c4d", "alice", "alice:phone", "a/b"] {
            let harness = Harness::bind(BrokerConfig { anonymous: true, ..users().config() }).await;
            let (mut alice, _) = lasting(&harness, "alice", client, version).await;
            alice.subscribe("alice/others/+", 1).await;
            let (mut bob, resumed) = lasting(&harness, "bob", client, version).await;
            assert!(!resumed, "{client}: bob has the session of alice");
            let anybody = Connect { client, version, clean: false, expiry: 3_600, ..Connect::default() };
            let (mut anybody, resumed) = Peer::connect(&harness, anybody).await;
            assert!(!resumed, "{client}: somebody has the session of a user");
            for peer in [&mut alice, &mut bob, &mut anybody] {
                peer.quiet().await;
            }
            let answer = harness.publish("alice/others/messages", "hers").await;
            let (payload, id, _) = alice.message().await;
            assert_eq!(payload, "hers");
            alice.ack(PUBACK, id).await;
            assert_eq!(outcome(answer).await, Outcome::Confirmed);
            bob.quiet().await;

            // A clean start of one leaves the session of the other alone.
            alice.disconnect().await;
            bob.disconnect().await;
            let clean = Connect { client, version, user: Some("bob"), password: Some("bob"), ..Connect::default() };
            Peer::connect(&harness, clean).await.0.disconnect().await;
            assert!(lasting(&harness, "alice", client, version).await.1, "{client}");
            assert!(!lasting(&harness, "bob", client, version).await.1, "{client}");
            harness.close().await;
        }
    }
}

#[tokio::test]
async fn anonymous_clients_share_one_name_space() {
    let harness = Harness::open().await;
    for version in [V311, V5] {
        let connect =
            |user| Connect { client: "sensor", version, clean: false, expiry: 60, user, ..Connect::default() };
        let (first, _) = Peer::connect(&harness, connect(None)).await;
        first.disconnect().await;
        // A user name that nobody asked for makes no difference.
        let (second, resumed) = Peer::connect(&harness, connect(Some("anybody"))).await;
        assert!(resumed);
        second.disconnect().await;
        Peer::connect(&harness, Connect { client: "sensor", version, ..Connect::default() }).await.0.disconnect().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn an_id_that_is_too_long_or_missing_is_refused() {
    let harness = Harness::bind(users().config()).await;
    let long = "x".repeat(257);
    let alice = |client, version, clean| Connect {
        client,
        version,
        clean,
        user: Some("alice"),
        password: Some("ecila"),
        ..Connect::default()
    };
    for (version, code) in [(V311, 2), (V5, BAD_CLIENT)] {
        assert_eq!(Peer::try_connect(&harness, alice(&long, version, true)).await.1, code);
        assert_eq!(Peer::try_connect(&harness, alice("", version, true)).await.1, 0);
    }
    assert_eq!(Peer::try_connect(&harness, alice("", V311, false)).await.1, 2, "[MQTT-3.1.3-8]");
    assert_eq!(Peer::try_connect(&harness, alice("", V5, false)).await.1, 0, "its CONNACK says which id it has");
    assert_eq!(
        (harness.metrics.clients_refused("client_id_length"), harness.metrics.clients_refused("client_id_missing")),
        (2, 1)
    );
    harness.close().await;
}

/// The client id in a CONNACK of MQTT 5.
async fn assigned(peer: &mut Peer) -> Option<String> {
    let (0x20, body) = peer.next_raw().await.unwrap() else { panic!("no CONNACK") };
    assert_eq!(body[1], 0);
    // Whatever stands before it is no text.
    let at = body.windows(3).position(|bytes| bytes[0] == 0x12 && bytes[1] == 0 && bytes[2] == 29)?;
    Some(String::from_utf8(body[at + 3..at + 3 + 29].to_vec()).unwrap())
}

#[tokio::test]
async fn who_comes_without_an_id_is_given_one_that_belongs_to_its_user() {
    let harness = Harness::bind(users().config()).await;
    let connect = |client, user| Connect { client, clean: false, expiry: 60, user, ..Connect::default() };
    let mut alice = Peer::dial(&harness, V5).await;
    alice.say_connect(&Connect { password: Some("ecila"), ..connect("", Some("alice")) }).await;
    let id = assigned(&mut alice).await.expect("an assigned client id");
    alice.disconnect().await;
    let mut other = Peer::dial(&harness, V5).await;
    other.say_connect(&Connect { password: Some("ecila"), ..connect("", Some("alice")) }).await;
    assert_ne!(assigned(&mut other).await.unwrap(), id);
    let thief = Connect { password: Some("bob"), ..connect(&id, Some("bob")) };
    assert!(!Peer::connect(&harness, thief).await.1);
    let again = Connect { password: Some("ecila"), ..connect(&id, Some("alice")) };
    assert!(Peer::connect(&harness, again).await.1);
    let mut named = Peer::dial(&harness, V5).await;
    named.say_connect(&Connect { password: Some("ecila"), ..connect("mine", Some("alice")) }).await;
    assert_eq!(assigned(&mut named).await, None, "[MQTT-3.2.2-16] only who has none is given one");
    harness.close().await;
}

#[tokio::test]
async fn the_bridge_is_told_the_client_id_and_the_device_that_it_names() {
    let mut harness = Harness::bind(users().config()).await;
    // echo -n 'host.example.main' | sha256sum
    for (client, device) in [
        ("alice", "default"),
        ("alice:phone", "phone"),
        ("mqttjs_1a2b3c4d", "mqttjs_1a2b3c4d"),
        ("host.example.main", "4b4b1ede"),
    ] {
        let (peer, _) = lasting(&harness, "alice", client, V5).await;
        let came = soon("a sighting", harness.port.sightings.recv()).await.unwrap();
        assert_eq!((&*came.user, &*came.client, &*came.device), ("alice", client, device));
        peer.disconnect().await;
        soon("a sighting", harness.port.sightings.recv()).await.unwrap();
    }
    let (nameless, _) = Peer::connect(
        &harness,
        Connect { client: "", user: Some("alice"), password: Some("ecila"), ..Connect::default() },
    )
    .await;
    let came = soon("a sighting", harness.port.sightings.recv()).await.unwrap();
    assert!(came.client.starts_with("auto-") && came.client == came.device, "{came:?}");
    drop(nameless);
    harness.close().await;
}

#[tokio::test]
async fn workers_with_ids_of_a_library_share_a_subscription() {
    let harness = Harness::bind(users().config()).await;
    let mut workers = Vec::new();
    for client in ["mqttjs_00000001", "mqttjs_00000002"] {
        let (mut worker, _) = lasting(&harness, "bal1", client, V5).await;
        worker.subscribe("$share/w/bal1/others/messages", 1).await;
        workers.push(worker);
    }
    let [one, two] = &mut workers[..] else { panic!("two workers") };
    for n in 0..4 {
        let answer = harness.publish("bal1/others/messages", &n.to_string()).await;
        let (payload, id, worker) = tokio::select! {
            (payload, id, _) = one.message() => (payload, id, &mut *one),
            (payload, id, _) = two.message() => (payload, id, &mut *two),
        };
        assert_eq!(payload, n.to_string());
        worker.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    one.quiet().await;
    two.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn who_wants_nothing_of_its_own_gets_what_another_user_says_under_the_same_client_id() {
    let mut harness = Harness::bind(users().config()).await;
    let (mut alice, _) = lasting(&harness, "alice", "same", V5).await;
    // Options: QoS 1, no local.
    for (filter, length) in [("+/self/profile", 14), ("alice/self/presence/+", 21)] {
        alice.say(0x82, &[&[0, 1, 0, 0, length][..], filter.as_bytes(), &[0b101]].concat()).await;
        assert_eq!(alice.next().await, Seen::SubAck(1));
    }
    let (mut bal, _) = lasting(&harness, "bal1", "same", V5).await;
    bal.publish("bal1/self/profile", 1, "the shop").await;
    harness.inbound().await.ack.release(AckWord::Done);
    assert_eq!(alice.message().await.0, "the shop");
    alice.publish("alice/self/presence/same", 1, "{}").await;
    harness.inbound().await.ack.release(AckWord::Done);
    assert_eq!(alice.next().await, Seen::Ack(PUBACK, 1, 0));
    alice.quiet().await;
    harness.close().await;
}

/// Leaves in `folder` what the first release left there of a session: its key was the client id.
fn leave(folder: &Path, key: &str, user: Option<&str>) {
    let subscription = json!({"qos": "AtLeastOnce", "no_local": false, "retain_as_published": false});
    let session = json!({"client_id": key, "expiry_interval": 3_600, "will_message": null, "user_id": user,
        "subscriptions": {"bal1/others/+": subscription}});
    let put = json!({"op": "put", "id": key, "session": session}).to_string();
    let mut log = OpenOptions::new().create(true).append(true).open(folder.join("sessions/sessions.log")).unwrap();
    writeln!(log, "{:08x} {put}", crc32(put.as_bytes())).unwrap();
    let message = json!({"topic": "bal1/others/notes", "payload": key.as_bytes(), "qos": "AtLeastOnce",
        "queued_at_secs": 1_700_000_000, "user_properties": [["x-mqtt-client-id", "somebody"]]});
    let queue = folder.join("queues").join(key);
    fs::create_dir_all(&queue).unwrap();
    fs::write(queue.join("04611686018427387904.json"), message.to_string()).unwrap();
}

/// CRC-32 as in ISO 3309.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _bit| step(crc)))
}

#[tokio::test]
async fn kept_sessions_of_the_first_release_are_found_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sessions")).unwrap();
    fs::write(folder.path().join(".storage_version"), "2").unwrap();
    for (key, user) in [("bal1", Some("bal1")), ("bal1:worker", Some("bal1")), ("alice", None)] {
        leave(folder.path(), key, user);
    }

    let data = Some(folder.path().to_owned());
    let harness = Harness::bind(BrokerConfig { anonymous: true, data, ..users().config() }).await;
    for key in ["bal1", "bal1:worker"] {
        let (mut peer, resumed) = lasting(&harness, "bal1", key, V5).await;
        assert!(resumed, "{key}");
        assert_eq!(peer.message().await.0, key);
    }
    // Nobody had logged in for this one; the user of its name has nothing to do with it.
    assert!(!lasting(&harness, "alice", "alice", V5).await.1);
    let connect = Connect { client: "alice", clean: false, expiry: 60, ..Connect::default() };
    let (mut anybody, resumed) = Peer::connect(&harness, connect).await;
    assert!(resumed);
    assert_eq!(anybody.message().await.0, "alice");
    harness.close().await;
}

/// All that is in a folder, by its path there.
fn all_below(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn no_client_id_reaches_out_of_the_folder_of_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a/b/c/sessions");
    let limits = BrokerLimits { user_kept_sessions: IDS.len(), ..BrokerLimits::default() };
    let users = users();
    let config = BrokerConfig { data: Some(data), limits, ..users.config() };
    let harness = Harness::bind(config.clone()).await;
    for client in IDS {
        let (mut peer, _) = lasting(&harness, "alice", client, V5).await;
        peer.subscribe("alice/others/+", 1).await;
        let answer = harness.publish("alice/others/messages", client).await;
        peer.message().await;
        drop(peer);
        drop(answer);
    }
    harness.close().await;
    let outside: Vec<String> =
        all_below(folder.path()).into_iter().filter(|path| !path.starts_with("a/b/c/sessions")).collect();
    assert_eq!(outside, ["a", "a/b", "a/b/c"]);
    let harness = Harness::bind(config).await;
    for client in IDS {
        assert!(lasting(&harness, "alice", client, V5).await.1, "{client:?} is found after a restart");
    }
    harness.close().await;
}

#[tokio::test]
async fn a_user_has_so_many_connections_whatever_their_client_ids() {
    let mut config = config();
    config.limits.connections_per_user = 2;
    let users = users();
    let harness = Harness::bind(BrokerConfig { limits: config.limits, ..users.config() }).await;
    let (mut one, _) = lasting(&harness, "alice", "mqttjs_1", V5).await;
    let (mut two, _) = lasting(&harness, "alice", "mqttjs_2", V5).await;
    let third = Connect { client: "mqttjs_3", user: Some("alice"), password: Some("ecila"), ..Connect::default() };
    assert_eq!(Peer::try_connect(&harness, third).await.1, 0x97);
    for peer in [&mut one, &mut two] {
        peer.quiet().await;
    }
    harness.close().await;
}

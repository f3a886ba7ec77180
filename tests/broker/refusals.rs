//! Whoever is refused or cut off: the operator has a line and a count, and the client a reason where its protocol has one.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use fcm_mqtt_bridge::broker::{BrokerConfig, BrokerLimits, JwtConfig};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt::AckWord;
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::ops::metrics::Metric;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::Level;
use tracing::subscriber::DefaultGuard;

use super::harness::{Harness, Users, config, soon, until};
use super::listeners::everywhere;
use super::log::Log;
use super::mint::Mint;
use super::peer::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Peer, Seen, V5, V311};
use super::sockets::{self, Authority, SocketKind};

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A broker whose log is read.
struct Scene {
    harness: Harness,
    log: Log,
    _listening: DefaultGuard,
}

impl Scene {
    async fn with(limits: BrokerLimits) -> (Self, Users) {
        let users = Users::new(&[("alice", Role::User), ("bal1", Role::Bal)]);
        (Self::bind(BrokerConfig { limits, ..users.config() }).await, users)
    }

    async fn open() -> (Self, Users) {
        Self::with(BrokerLimits::default()).await
    }

    async fn bind(config: BrokerConfig) -> Self {
        let log = Log::default();
        let _listening = log.listen(Level::INFO);
        Self { harness: Harness::bind(config).await, log, _listening }
    }

    /// Waits until so many were refused for this reason, and checks that there is a line for each, with all of `words`.
    async fn told(&self, reason: &'static str, times: u64, words: &[&str]) {
        until(reason, || {
            self.harness.metrics.clients_refused(reason) >= times && self.lines(reason).len() >= times as usize
        })
        .await;
        assert_eq!(self.harness.metrics.clients_refused(reason), times, "{reason}\n{}", self.log.text());
        let lines = self.lines(reason);
        assert_eq!(lines.len(), times as usize, "{}", self.log.text());
        for line in &lines {
            for word in words.iter().chain(&["client refused", "address=127.0.0.", "rule="]) {
                assert!(line.contains(word), "{reason}: no {word} in {line}");
            }
        }
    }

    fn lines(&self, reason: &str) -> Vec<String> {
        let reason = format!("reason=\"{reason}\"");
        self.log.text().lines().filter(|line| line.contains(&reason)).map(str::to_owned).collect()
    }

    async fn close(self) {
        let text = self.log.text();
        self.harness.close().await;
        for secret in ["ecila", "hunter2"] {
            assert!(!text.contains(secret), "a password is in the log: {text}");
        }
    }
}

fn alice(version: u8) -> Connect<'static> {
    login("alice:phone", version)
}

fn login(client: &str, version: u8) -> Connect<'_> {
    Connect { client, version, user: Some("alice"), password: Some("ecila"), ..Connect::default() }
}

const ALICE: [&str; 2] = ["user=\"alice\"", "client=\"alice:phone\""];

/// A packet of MQTT 5 whose properties are a reason string alone, as its type, what comes before, and the string.
fn explained(packet: Option<(u8, Bytes)>, head: usize) -> (u8, Vec<u8>, String) {
    let (first, body) = packet.expect("the connection was closed without a word");
    assert_eq!(body.get(head + 1), Some(&0x1f), "no reason string: {body:x?}");
    (first, body[..head].to_vec(), String::from_utf8(body[head + 4..].to_vec()).unwrap())
}

async fn refused(harness: &Harness, connect: Connect<'_>) -> (u8, u8, String) {
    let mut peer = Peer::dial(harness, V5).await;
    peer.say_connect(&connect).await;
    let (first, head, reason) = explained(peer.next_raw().await, 2);
    assert_eq!(peer.next().await, Seen::Closed);
    (first, head[1], reason)
}

#[tokio::test]
async fn whoever_is_not_let_in_is_told_why_and_so_is_the_operator() {
    let (scene, _users) = Scene::open().await;
    let harness = &scene.harness;
    let long = "x".repeat(257);
    let nobody = |version| Connect { client: "mqttjs_1", version, ..Connect::default() };
    let wrong = |version| Connect { password: Some("hunter2"), ..alice(version) };
    let unknown = |version| Connect { user: Some("bob\nERROR"), ..alice(version) };
    let tedious = |version| login(&long, version);
    for (case, code, old_code, words, reason) in [
        (nobody as fn(u8) -> Connect<'static>, 0x87, 5, &["client=\"mqttjs_1\"", "INFO"][..], "no_user"),
        (wrong, 0x86, 5, &[ALICE[0], ALICE[1], "WARN"], "credentials"),
    ] {
        assert_eq!(Peer::try_connect(harness, case(V311)).await.1, old_code, "{reason}");
        let (first, seen, why) = refused(harness, case(V5)).await;
        assert_eq!((first, seen), (0x20, code), "{reason}");
        assert!(why.len() > 10, "{why}");
        scene.told(reason, 2, words).await;
    }
    assert_eq!(Peer::try_connect(harness, tedious(V311)).await.1, 2);
    assert!(refused(harness, tedious(V5)).await.2.contains("256 bytes"));
    scene.told("client_id_length", 2, &["257 bytes", ALICE[0]]).await;
    assert_eq!(refused(harness, unknown(V5)).await.1, 0x86);
    until("a line", || scene.harness.metrics.clients_refused("credentials") >= 3).await;
    assert!(scene.lines("credentials")[2].contains(r#"user="bob\\nERROR""#), "{}", scene.log.text());
    scene.close().await;
}

#[tokio::test]
async fn a_client_of_mqtt_3_1_is_told_that_it_is_not_spoken() {
    let (scene, _users) = Scene::open().await;
    for (name, level, answer, reason) in [
        (&b"MQIsdp"[..], 3, &[0x20, 2, 0, 1][..], "mqtt_3_1"),
        (b"MQIsdp", 0x83, &[0x20, 2, 0, 1], "mqtt_3_1"),
        (b"MQTT", 3, &[0x20, 2, 0, 1], "protocol_level"),
        (b"MQTT", 6, &[0x20, 3, 0, 0x84, 0], "protocol_level"),
    ] {
        let mut stream = TcpStream::connect(scene.harness.address).await.unwrap();
        let body = [&[0, u8::try_from(name.len()).unwrap()], name, &[level, 2, 0, 60, 0, 1, b'c']].concat();
        stream.write_all(&[&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat()).await.unwrap();
        assert_eq!(rest(stream).await, answer, "{name:?} {level}");
        assert!(scene.harness.metrics.clients_refused(reason) > 0);
    }
    scene.told("mqtt_3_1", 2, &["client=\"c\""]).await;
    scene.told("protocol_level", 2, &[]).await;
    scene.close().await;
}

/// Everything until the end of a connection.
async fn rest(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that was reset has ended as well.
    let _ = soon("the end of a connection", stream.read_to_end(&mut bytes)).await;
    bytes
}

#[tokio::test]
async fn whoever_takes_the_wrong_door_has_a_line_that_says_which() {
    let authority = Authority::new();
    let listen = everywhere(authority.files_that_ask_for_a_certificate());
    let scene = Scene::bind(BrokerConfig { listen, ..config() }).await;
    let bound = scene.harness.bound;
    let hello = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03".as_slice();
    let connect = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c".as_slice();
    let http = b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n".as_slice();
    for (door, bytes) in [
        (bound.tls, connect),
        (bound.wss, connect),
        (bound.tls, http),
        (bound.tcp, hello),
        (bound.ws, hello),
        (bound.ws, connect),
        (bound.tcp, http),
    ] {
        let mut stream = TcpStream::connect(door.unwrap()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert!(rest(stream).await.is_empty());
    }
    scene.told("plain_on_tls", 3, &["without TLS"]).await;
    scene.told("tls_on_plain", 2, &["port without TLS"]).await;
    scene.told("other_protocol", 2, &["the port is for"]).await;

    // A handshake that fails: no certificate where one is wanted, and what is no TLS at all.
    let failed = sockets::dial(SocketKind::Tls, bound.tls.unwrap(), HOME, &authority.client()).await;
    if let Ok(wire) = failed {
        rest(wire).await;
    }
    let mut garbage = TcpStream::connect(bound.tls.unwrap()).await.unwrap();
    garbage.write_all(&[0x16, 3, 1, 0, 4, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    rest(garbage).await;
    scene.told("tls_handshake", 2, &["the TLS handshake failed", "detail="]).await;

    let mut page = TcpStream::connect(bound.ws.unwrap()).await.unwrap();
    page.write_all(http).await.unwrap();
    rest(page).await;
    scene.told("websocket", 1, &[]).await;

    let mut first = Peer::dial(&scene.harness, V5).await;
    first.ping().await;
    assert_eq!(first.next().await, Seen::Closed);
    scene.told("first_packet", 1, &["packet type 12"]).await;
    // Whoever only looks whether the port is open is no news.
    for door in [bound.tcp, bound.tls, bound.ws, bound.wss] {
        drop(TcpStream::connect(door.unwrap()).await.unwrap());
    }
    Peer::new(&scene.harness, "c").await.quiet().await;
    assert_eq!(scene.log.text().matches("client refused").count(), 3 + 2 + 2 + 2 + 1 + 1, "{}", scene.log.text());
    scene.close().await;
}

#[tokio::test]
async fn a_denied_publish_is_told() {
    let (mut scene, _users) = Scene::open().await;
    let (mut old, _) = Peer::connect(&scene.harness, alice(V311)).await;
    old.publish("bal1/others/receipts", 1, "x").await;
    scene.harness.take().await;
    assert_eq!(old.next().await, Seen::Ack(PUBACK, 1, 0));
    scene.told("publish_denied", 1, &[ALICE[0], ALICE[1], "bal1/others/receipts"]).await;
    let (mut new, _) = Peer::connect(&scene.harness, alice(V5)).await;
    for (flags, first) in [(0b0010, 0x40), (0b0100, 0x50)] {
        new.publish_with(flags, "bal1/others/receipts", 1, &[], "x").await;
        let (seen, head, why) = explained(new.next_raw().await, 3);
        assert_eq!((seen, head, &*why), (first, vec![0, 1, 0x87], "the client may not write this topic"));
    }
    new.publish_with(0, "bal1/others/receipts", 0, &[], "x").await;
    new.quiet().await;
    scene.harness.take().await;
    scene.told("publish_denied", 4, &ALICE).await;
    scene.close().await;
}

#[tokio::test]
async fn a_denied_subscription_is_told() {
    let (scene, _users) = Scene::open().await;
    for (version, code) in [(V311, 0x80), (V5, 0x87)] {
        let (mut peer, _) = Peer::connect(&scene.harness, alice(version)).await;
        assert_eq!(peer.try_subscribe("bal1/others/#", 1).await, Seen::SubRefused(1, code));
        peer.disconnect().await;
    }
    let (mut peer, _) = Peer::connect(&scene.harness, alice(V5)).await;
    for (filter, code, rule) in [
        ("bal1/others/#", 0x87, "the client may not read what the filter asks for"),
        ("a/#/b", 0x8f, "the topic filter breaks a rule of MQTT"),
        (&"x/".repeat(20), 0x8f, "a topic or filter is over a limit"),
    ] {
        peer.say_subscribe(filter, 1).await;
        let (first, body) = peer.next_raw().await.unwrap();
        let length = u8::try_from(rule.len()).unwrap();
        let expected = [&[0, 1, length + 3, 0x1f, 0, length], rule.as_bytes(), &[code]].concat();
        assert_eq!((first, &body[..]), (0x90, &expected[..]), "{filter}");
    }
    scene.told("subscribe_denied", 3, &[ALICE[0], ALICE[1], "bal1/others/#"]).await;
    scene.close().await;
}

#[tokio::test]
async fn a_will_that_nobody_will_see_is_told_and_counted_once_when_its_client_comes() {
    let (scene, _users) = Scene::open().await;
    let topics = ["bal1/others/receipts", "$SYS/broker/connection/host.main/state"];
    for topic in topics {
        for version in [V311, V5] {
            drop(Peer::connect(&scene.harness, Connect { will: Some((topic, "0", 0)), ..alice(version) }).await);
        }
    }
    scene.told("will_topic", 4, &ALICE).await;
    until("the wills", || scene.harness.metrics.get(Metric::BrokerConnections) == 0).await;
    for (lines, topic) in scene.lines("will_topic").chunks(2).zip(topics) {
        assert!(lines.iter().all(|line| line.contains(topic)), "{lines:?}");
    }
    assert_eq!(scene.log.text().matches("client refused").count(), 4, "once is enough: {}", scene.log.text());
    for reason in ["publish_denied", "sys_topic"] {
        assert_eq!(scene.harness.metrics.clients_refused(reason), 0, "{reason}");
    }
    assert_eq!(scene.harness.metrics.get(Metric::PublishesDenied), 4);
    scene.close().await;
}

#[tokio::test]
async fn a_message_on_the_topic_of_ones_own_denied_will_is_told_like_any_other() {
    let (mut scene, _users) = Scene::open().await;
    let topic = "bal1/others/receipts";
    let (mut new, _) = Peer::connect(&scene.harness, Connect { will: Some((topic, "0", 0)), ..alice(V5) }).await;
    new.publish(topic, 1, "x").await;
    assert_eq!(new.next().await, Seen::Ack(PUBACK, 1, 0x87));
    scene.told("publish_denied", 1, &[ALICE[0], ALICE[1], topic]).await;
    let (mut old, _) =
        Peer::connect(&scene.harness, Connect { will: Some((topic, "0", 0)), ..login("old", V311) }).await;
    old.publish(topic, 1, "x").await;
    scene.harness.take().await;
    assert_eq!(old.next().await, Seen::Ack(PUBACK, 1, 0));
    scene.told("publish_denied", 2, &[ALICE[0], topic]).await;
    scene.told("will_topic", 2, &[ALICE[0], topic]).await;
    scene.close().await;
}

#[tokio::test]
async fn a_filter_that_is_none_is_told_as_what_it_is() {
    let (scene, _users) = Scene::with(BrokerLimits { topic_levels: 3, ..BrokerLimits::default() }).await;
    let invalid = ["a/#/b", "#/", "", "$share/x", "$share/+/alice/others/x"];
    for (version, code) in [(V311, 0x80), (V5, 0x8f)] {
        let (mut peer, _) = Peer::connect(&scene.harness, alice(version)).await;
        for filter in invalid {
            assert_eq!(peer.try_subscribe(filter, 1).await, Seen::SubRefused(1, code), "{filter}");
        }
        assert_eq!(peer.try_subscribe("alice/others/far/away", 1).await, Seen::SubRefused(1, code));
        peer.disconnect().await;
    }
    scene.told("filter_invalid", 10, &ALICE).await;
    for (line, filter) in scene.lines("filter_invalid").iter().zip(invalid.iter().cycle()) {
        assert!(line.contains(&format!("detail=\"{filter}\"")), "{filter}: {line}");
    }
    scene.told("topic_limit", 2, &[ALICE[0], ALICE[1], "alice/others/far/away"]).await;
    scene.close().await;
}

#[tokio::test]
async fn the_line_of_a_topic_over_a_limit_names_it() {
    let (scene, _users) = Scene::with(BrokerLimits { topic_levels: 3, ..BrokerLimits::default() }).await;
    let (mut new, _) = Peer::connect(&scene.harness, alice(V5)).await;
    new.publish("alice/self/a/b", 1, "x").await;
    assert_eq!(new.next().await, Seen::Ack(PUBACK, 1, 0x90));
    let (mut old, _) = Peer::connect(&scene.harness, login("old", V311)).await;
    old.publish("alice/self/a/b", 1, "x").await;
    assert_eq!(old.next().await, Seen::Closed);
    let will = Some(("alice/self/a/b", "x", 0));
    assert_eq!(Peer::try_connect(&scene.harness, Connect { will, ..login("will", V5) }).await.1, 0x90);
    scene.told("topic_limit", 3, &[ALICE[0], "alice/self/a/b"]).await;
    scene.close().await;
}

#[tokio::test]
async fn a_connack_for_which_the_client_has_no_room_is_a_refusal() {
    let (scene, _users) = Scene::open().await;
    for (n, (client, most, answer)) in
        (1..).zip([("", 25, true), ("alice:phone", 15, true), ("alice:phone", 5, true), ("alice:phone", 4, false)])
    {
        let will = Some(("alice/self/messages", "bye", 0));
        let mut peer = Peer::dial(&scene.harness, V5).await;
        peer.say_connect(&Connect { max_packet: Some(most), will, ..login(client, V5) }).await;
        if answer {
            let (first, body) = peer.next_raw().await.expect("a CONNACK");
            assert_eq!((first, &body[..2]), (0x20, &[0, 0x95][..]));
            assert!(body.len() + 2 <= most as usize, "{} bytes", body.len() + 2);
        }
        assert_eq!(peer.next().await, Seen::Closed, "{client} {most}");
        scene.told("packet_size", n, &[ALICE[0], "CONNACK"]).await;
    }
    let (mut fits, _) = Peer::connect(&scene.harness, Connect { max_packet: Some(60), ..login("", V5) }).await;
    fits.quiet().await;
    let mut scene = scene;
    fits.publish("alice/self/messages", 1, "the first").await;
    assert_eq!(scene.harness.take().await.1, "the first", "who was not let in leaves no will");
    scene.close().await;
}

#[tokio::test]
async fn a_packet_that_is_too_big_or_malformed_is_told() {
    let (scene, _users) = Scene::with(BrokerLimits { packet_bytes: 1_024, ..BrokerLimits::default() }).await;
    for version in [V311, V5] {
        let (mut big, _) = Peer::connect(&scene.harness, alice(version)).await;
        big.publish("alice/self/messages", 1, &"x".repeat(2_000)).await;
        if version == V5 {
            let (first, head, why) = explained(big.next_raw().await, 1);
            assert_eq!((first, head), (0xe0, vec![0x95]));
            assert!(why.contains("size limit"), "{why}");
        }
        assert_eq!(big.next().await, Seen::Closed);
        // A packet identifier of 0.
        let (mut wrong, _) = Peer::connect(&scene.harness, alice(version)).await;
        wrong.publish("alice/self/messages", 0, "x").await;
        if version == V5 {
            let (first, head, why) = explained(wrong.next_raw().await, 1);
            assert_eq!((first, head, &*why), (0xe0, vec![0x81], "a packet identifier is 0"));
        }
        assert_eq!(wrong.next().await, Seen::Closed);
    }
    scene.told("packet_size", 2, &[ALICE[0], ALICE[1], "limit of 1024"]).await;
    scene.told("malformed", 2, &[ALICE[0], ALICE[1], "a packet identifier is 0"]).await;
    let mut times = 2;
    for (first, body, code, words) in [
        (0x32, &b"\0\x01+\0\x01\0x"[..], 0x90, "a wildcard in the topic of a PUBLISH"),
        (0x32, b"\0\0\0\x01\0", 0x82, "a PUBLISH without a topic"),
        (0x36, b"\0\x01a\0\x01\0", 0x81, "QoS 3"),
        (0x82, b"\0\x01\0", 0x82, "a packet without a topic filter"),
        (0xf0, b"", 0x82, "packet type 15 is not expected here"),
        (0x40, b"\0", 0x81, "a packet ends before its last field"),
    ] {
        let (mut wrong, _) = Peer::connect(&scene.harness, alice(V5)).await;
        wrong.say(first, body).await;
        let (seen, head, why) = explained(wrong.next_raw().await, 1);
        assert_eq!((seen, head, &*why), (0xe0, vec![code], words));
        assert_eq!(wrong.next().await, Seen::Closed);
        times += 1;
        until(words, || scene.lines("malformed").len() >= times).await;
        assert!(scene.lines("malformed")[times - 1].contains(words), "{}", scene.log.text());
    }
    scene.close().await;
}

#[tokio::test]
async fn limits_of_connections_and_sessions_are_told() {
    let limits = BrokerLimits { connections_per_user: 1, connections_per_address: 3, ..BrokerLimits::default() };
    let (scene, _users) = Scene::with(limits).await;
    let (_first, _) = Peer::connect(&scene.harness, login("one", V5)).await;
    assert_eq!(refused(&scene.harness, login("two", V5)).await.1, 0x97);
    scene.told("user_connections", 1, &["WARN", ALICE[0], "client=\"two\""]).await;
    let _crowd = [Peer::dial(&scene.harness, V5).await, Peer::dial(&scene.harness, V5).await];
    let one_too_many = TcpStream::connect(scene.harness.address).await.unwrap();
    assert!(rest(one_too_many).await.is_empty());
    scene.told("address_connections", 1, &["WARN"]).await;
    scene.close().await;

    let (scene, _users) = Scene::with(BrokerLimits { sessions: 1, subscriptions: 1, ..BrokerLimits::default() }).await;
    let (mut first, _) = Peer::connect(&scene.harness, login("one", V5)).await;
    assert_eq!(refused(&scene.harness, login("two", V5)).await.1, 0x88);
    scene.told("sessions", 1, &["WARN", "client=\"two\""]).await;
    first.subscribe("alice/others/a", 1).await;
    assert_eq!(first.try_subscribe("alice/others/b", 1).await, Seen::SubRefused(1, 0x97));
    scene.told("subscriptions", 1, &["client=\"one\"", "alice/others/b"]).await;
    scene.close().await;
}

#[tokio::test]
async fn whoever_is_silent_is_told_why_the_connection_ended() {
    let (scene, _users) = Scene::open().await;
    // Keep alive: 1 second.
    let mut silent = Peer::dial(&scene.harness, V311).await;
    let body = b"\0\x04MQTT\x04\xc2\0\x01\0\x0balice:phone\0\x05alice\0\x05ecila";
    silent.say(0x10, body).await;
    assert_eq!(silent.next().await, Seen::ConnAck { resumed: false, code: 0 });
    assert_eq!(silent.next().await, Seen::Closed);
    scene.told("keep_alive", 1, &ALICE).await;
    scene.close().await;

    let (scene, _users) =
        Scene::with(BrokerLimits { connect_timeout: Duration::from_millis(50), ..BrokerLimits::default() }).await;
    let mut mute = Peer::dial(&scene.harness, V5).await;
    assert_eq!(mute.next().await, Seen::Closed);
    scene.told("connect_timeout", 1, &[]).await;
    scene.close().await;
}

#[tokio::test]
async fn the_end_of_a_right_to_be_here_is_told() {
    let (mint, folder) = (Mint::secret(), tempfile::tempdir().unwrap());
    let key = folder.path().join("key");
    std::fs::write(&key, mint.key_file()).unwrap();
    let jwt = JwtConfig { secret_file: Some(key), ..JwtConfig::default() };
    let users = Users::new(&[("alice", Role::User)]);
    let scene = Scene::bind(BrokerConfig { jwt, ..users.config() }).await;
    // Tokens hold five seconds longer than they say.
    let token = mint.token(&json!({ "sub": "carol", "exp": now_ms() / 1_000 - 2 }));
    let connect = |version| Connect {
        client: if version == V311 { "old" } else { "new" },
        version,
        user: Some(""),
        password: Some(&token),
        ..Connect::default()
    };
    let (mut old, _) = Peer::connect(&scene.harness, connect(V311)).await;
    let (mut new, _) = Peer::connect(&scene.harness, connect(V5)).await;
    assert_eq!(old.next().await, Seen::Closed);
    let (_, head, why) = explained(new.next_raw().await, 1);
    assert_eq!((head, &*why), (vec![0xa0], "the token has expired"));
    assert_eq!(new.next().await, Seen::Closed);
    scene.told("token_expired", 2, &["user=\"carol\"", "client="]).await;
    let (mut alice, _) = Peer::connect(&scene.harness, alice(V5)).await;
    users.edit(|file| file.remove("alice").unwrap());
    scene.harness.reload.send_modify(|count| *count += 1);
    let (_, head, why) = explained(alice.next_raw().await, 1);
    assert_eq!(head, [0x98]);
    assert!(why.contains("users file"), "{why}");
    scene.told("revoked", 1, &ALICE).await;
    assert!(!scene.log.text().contains(&token), "the token is in the log");
    scene.close().await;
}

#[tokio::test]
async fn a_take_over_is_told_of_the_connection_that_ends() {
    let (scene, _users) = Scene::open().await;
    for (version, times) in [(V311, 1), (V5, 2)] {
        let (mut old, _) = Peer::connect(&scene.harness, alice(version)).await;
        let (new, _) = Peer::connect(&scene.harness, alice(version)).await;
        if version == V5 {
            let (_, head, why) = explained(old.next_raw().await, 1);
            assert_eq!(head, [0x8e]);
            assert!(why.contains("took the client id over"), "{why}");
        }
        assert_eq!(old.next().await, Seen::Closed);
        scene.told("taken_over", times, &ALICE).await;
        new.disconnect().await;
    }
    scene.close().await;
}

#[tokio::test]
async fn a_message_that_could_not_be_made_safe_is_told() {
    let (mut scene, _users) = Scene::open().await;
    let (mut peer, _) = Peer::connect(&scene.harness, alice(V5)).await;
    peer.publish("alice/self/messages", 1, "x").await;
    scene.harness.inbound().await.ack.release(AckWord::Quota);
    assert_eq!(peer.next().await, Seen::Ack(PUBACK, 1, 0x97));
    scene.told("quota", 1, &ALICE).await;
    peer.publish("alice/self/messages", 2, "x").await;
    drop(scene.harness.inbound().await);
    assert_eq!(peer.next().await, Seen::Closed);
    scene.told("not_stored", 1, &ALICE).await;
    scene.close().await;
}

#[tokio::test]
async fn what_3_1_1_says_on_a_topic_of_the_broker_is_dropped_and_the_connection_stays() {
    let (scene, _users) = Scene::open().await;
    let topic = "$SYS/broker/connection/host.main/state";
    let (mut old, _) = Peer::connect(&scene.harness, alice(V311)).await;
    old.publish_with(0, topic, 0, &[], "1").await;
    old.publish_with(0b0011, topic, 1, &[], "1").await;
    assert_eq!(old.next().await, Seen::Ack(PUBACK, 1, 0));
    old.publish_with(0b0100, topic, 2, &[], "1").await;
    assert_eq!(old.next().await, Seen::Ack(PUBREC, 2, 0));
    old.ack(PUBREL, 2).await;
    assert_eq!(old.next().await, Seen::Ack(PUBCOMP, 2, 0));
    old.quiet().await;
    scene.told("sys_topic", 3, &[ALICE[0], ALICE[1], topic]).await;
    let (mut new, _) = Peer::connect(&scene.harness, login("new", V5)).await;
    new.publish(topic, 1, "1").await;
    assert_eq!(new.next().await, Seen::Ack(PUBACK, 1, 0x87), "MQTT 5 has a word for it");
    old.quiet().await;
    scene.close().await;
}

#[tokio::test]
async fn whoever_wants_no_reasons_in_words_gets_none() {
    let (scene, _users) = Scene::open().await;
    // Properties: request problem information 0.
    let connect = |password: &str| {
        let fields = ["alice:phone", "alice", password];
        let fields = fields.map(|text| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat());
        [&b"\0\x04MQTT\x05\xc2\0\0\x02\x17\0"[..], &fields.concat()].concat()
    };
    let mut wrong = Peer::dial(&scene.harness, V5).await;
    wrong.say(0x10, &connect("hunter2")).await;
    assert_eq!(wrong.next_raw().await, Some((0x20, Bytes::from_static(&[0, 0x86, 0]))));
    let mut right = Peer::dial(&scene.harness, V5).await;
    right.say(0x10, &connect("ecila")).await;
    assert_eq!(right.next().await, Seen::ConnAck { resumed: false, code: 0 });
    right.publish("bal1/others/receipts", 1, "x").await;
    let denied = right.next_raw().await.unwrap();
    assert!(!denied.1.contains(&0x1f), "{denied:x?}");
    // A packet identifier of 0.
    right.publish("alice/self/messages", 0, "x").await;
    let end = right.next_raw().await.unwrap();
    assert!(end.0 == 0xe0 && end.1.len() <= 2, "{end:x?}");
    scene.close().await;
}

#[tokio::test]
async fn a_reason_that_the_client_has_no_room_for_is_left_out() {
    let (scene, _users) = Scene::open().await;
    let wrong = Connect { password: Some("hunter2"), max_packet: Some(20), ..alice(V5) };
    let mut peer = Peer::dial(&scene.harness, V5).await;
    peer.say_connect(&wrong).await;
    assert_eq!(peer.next_raw().await, Some((0x20, Bytes::from_static(&[0, 0x86, 0]))));
    assert_eq!(peer.next().await, Seen::Closed);
    scene.close().await;
}

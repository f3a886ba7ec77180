//! Who may write, subscribe to and read what: topics-contract, section 8, over the wire.

use fcm_mqtt_bridge::broker::{BrokerConfig, BrokerLimits};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt::{AckWord, Inbound, Outcome};
use fcm_mqtt_bridge::ops::metrics::Metric;

use super::harness::{Harness, Users, outbound, outcome, password, until};
use super::peer::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Peer, Seen, V5, V311};

const NOT_AUTHORIZED: u8 = 0x87;

fn users() -> Users {
    Users::new(&[("bal1", Role::Bal), ("alice", Role::User), ("eve", Role::User), ("root", Role::Admin)])
}

/// A client of the user that its id names.
async fn come(harness: &Harness, client: &str, version: u8) -> Peer {
    come_with(harness, Connect { client, version, ..Connect::default() }).await
}

async fn come_with(harness: &Harness, connect: Connect<'_>) -> Peer {
    let user = connect.client.split(':').next().unwrap();
    Peer::connect(harness, Connect { user: Some(user), password: Some(&password(user)), ..connect }).await.0
}

/// Whether it is the broker's own.
fn is_sys(topic: &str) -> bool {
    topic.starts_with("$SYS/")
}

/// Publishes something that is allowed, up to the last word of its exchange.
async fn publish(harness: &mut Harness, peer: &mut Peer, qos: u8, topic: &str, payload: &str) {
    peer.publish_with(qos << 1, topic, 7, &[], payload).await;
    if topic.split('/').nth(1) == Some("self") || topic == "_bridge/commands" {
        harness.inbound().await.ack.release(AckWord::Done);
    }
    match qos {
        0 => peer.quiet().await,
        1 => assert_eq!(peer.next().await, Seen::Ack(PUBACK, 7, 0)),
        _ => {
            assert_eq!(peer.next().await, Seen::Ack(PUBREC, 7, 0));
            peer.ack(PUBREL, 7).await;
            assert_eq!(peer.next().await, Seen::Ack(PUBCOMP, 7, 0));
        }
    }
}

/// Publishes as the bridge what stays.
async fn retain(harness: &Harness, topic: &str) {
    let (mut message, answer) = outbound(topic, topic);
    message.retain = true;
    harness.send(message).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
}

/// Takes and answers what comes until a message on `last`: the topics, in the order of the alphabet.
async fn gather(peer: &mut Peer, qos: u8, last: &str) -> Vec<String> {
    let mut topics: Vec<String> = Vec::new();
    while topics.last().is_none_or(|topic| topic != last) {
        match peer.next().await {
            Seen::Publish { topic, id, .. } => {
                match id {
                    // The bridge publishes at QoS 1.
                    Some(id) if qos == 1 || RETAINED.contains(&topic.as_str()) => peer.ack(PUBACK, id).await,
                    Some(id) => peer.ack(PUBREC, id).await,
                    None => {}
                }
                topics.push(topic);
            }
            Seen::Ack(PUBREL, id, 0) => peer.ack(PUBCOMP, id).await,
            Seen::SubAck(_) => {}
            other => panic!("{other:?}"),
        }
    }
    topics.sort();
    topics
}

async fn counted(harness: &Harness, metric: Metric, count: u64) {
    until("a count", || harness.metrics.get(metric) >= count).await;
    assert_eq!(harness.metrics.get(metric), count);
}

#[tokio::test]
async fn everybody_writes_their_own_part_and_nothing_else() {
    let rules: &[(&str, &[&str], &[&str])] = &[
        (
            "bal1",
            &["bal1/self/messages", "bal1/self/receipts"],
            &[
                "bal1/others/messages",
                "alice/others/messages",
                "alice/self/messages",
                "bal1/my/answers",
                "_bridge/commands",
            ],
        ),
        (
            "alice:phone",
            &["alice/self/messages", "alice/self/presence/phone"],
            &[
                "eve/others/receipts",
                "alice/others/errors",
                "eve/self/profile",
                "eve/self/messages",
                "_bridge/others/messages",
                "_bridge/status",
                "elsewhere",
                "$other/x",
            ],
        ),
        ("root", &["_bridge/commands"], &["_bridge/status", "root/self/messages", "alice/self/messages"]),
    ];
    let mut harness = Harness::bind(users().config()).await;
    let mut denied = 0;
    for (client, may, may_not) in rules {
        for version in [V311, V5] {
            let mut peer = come(&harness, client, version).await;
            for topic in *may {
                for qos in 0..3 {
                    publish(&mut harness, &mut peer, qos, topic, "fine").await;
                }
            }
            for topic in *may_not {
                for qos in 0..3 {
                    peer.publish_with(qos << 1, topic, 9, &[], "denied").await;
                    denied += 1;
                    let has_inbox = client != &"root";
                    let is_told = has_inbox && !is_sys(topic) && (version == V311 || qos == 0);
                    if is_told {
                        let Inbound { denied, principal, topic: written, payload, ack, .. } = harness.inbound().await;
                        assert!(denied && written == *topic && payload == "denied", "{client} {topic}");
                        assert_eq!(&*principal.name, client.split(':').next().unwrap());
                        ack.release(AckWord::Done);
                    }
                    let code = if version == V5 { NOT_AUTHORIZED } else { 0 };
                    match (version, qos) {
                        (V311, _) if !is_told => {
                            assert_eq!(peer.next().await, Seen::Closed, "{client} {topic} {qos}");
                            peer = come(&harness, client, version).await;
                        }
                        (_, 0) => peer.quiet().await,
                        (_, 1) => assert_eq!(peer.next().await, Seen::Ack(PUBACK, 9, code), "{client} {topic}"),
                        _ => {
                            assert_eq!(peer.next().await, Seen::Ack(PUBREC, 9, code), "{client} {topic}");
                            if version == V311 {
                                peer.ack(PUBREL, 9).await;
                                assert_eq!(peer.next().await, Seen::Ack(PUBCOMP, 9, 0), "{client} {topic}");
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(harness.metrics.get(Metric::PublishesDenied), denied);
    harness.barrier().await;
    assert!(harness.port.inbound.try_recv().is_err(), "something that was denied reached the bridge");
    harness.close().await;
}

#[tokio::test]
async fn a_client_of_3_1_1_whose_queue_has_a_denied_message_is_told_and_goes_on() {
    let mut harness = Harness::bind(users().config()).await;
    let connect = || Connect { client: "alice", version: V311, clean: false, ..Connect::default() };
    let mut alice = come_with(&harness, connect()).await;
    alice.publish("alice/self/messages", 1, "one").await;
    alice.publish("eve/others/receipts", 2, "denied").await;
    alice.publish("alice/self/messages", 3, "three").await;
    let (one, denied, three) = (harness.inbound().await, harness.inbound().await, harness.inbound().await);
    assert_eq!([one.denied, denied.denied, three.denied], [false, true, false]);
    three.ack.release(AckWord::Done);
    one.ack.release(AckWord::Done);
    assert_eq!(alice.next().await, Seen::Ack(PUBACK, 1, 0));
    alice.quiet().await;
    // The bridge could not say so: without its word the client sends it again.
    drop(denied);
    assert_eq!(alice.next().await, Seen::Closed);
    let mut alice = come_with(&harness, connect()).await;
    alice.publish_with(0b1010, "eve/others/receipts", 2, &[], "denied").await;
    alice.publish_with(0b1010, "alice/self/messages", 3, &[], "three").await;
    let (denied, three) = (harness.inbound().await, harness.inbound().await);
    assert!(denied.denied && denied.dup);
    denied.ack.release(AckWord::Done);
    three.ack.release(AckWord::Done);
    for id in [2, 3] {
        assert_eq!(alice.next().await, Seen::Ack(PUBACK, id, 0));
    }
    alice.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn before_a_denied_message_ends_a_connection_its_acknowledgements_leave() {
    let mut harness = Harness::bind(users().config()).await;
    for qos in 0..3 {
        let mut root = come(&harness, "root", V311).await;
        root.publish("_bridge/commands", 1, "one").await;
        root.publish_with(0b0100, "_bridge/commands", 2, &[], "two").await;
        root.publish_with(qos << 1, "eve/others/receipts", 3, &[], "denied").await;
        root.publish("_bridge/commands", 4, "too late").await;
        let (one, two) = (harness.inbound().await, harness.inbound().await);
        counted(&harness, Metric::PublishesDenied, u64::from(qos) + 1).await;
        two.ack.release(AckWord::Done);
        one.ack.release(AckWord::Done);
        assert_eq!(root.next().await, Seen::Ack(PUBACK, 1, 0));
        assert_eq!(root.next().await, Seen::Ack(PUBREC, 2, 0));
        assert_eq!(root.next().await, Seen::Closed);
        assert!(harness.port.inbound.try_recv().is_err());
    }
    harness.close().await;
}

#[tokio::test]
async fn a_subscription_that_can_get_nothing_is_denied() {
    let rules: &[(&str, &[&str], &[&str])] = &[
        (
            "bal1",
            &[
                "bal1/others/+",
                "#",
                "+/self/presence",
                "_bridge/status",
                "bal1/my/answers",
                "$share/w/bal1/others/messages",
                "$share/w/+/self/presence",
                "$share/w/_bridge/status",
            ],
            &[
                "alice/others/messages",
                "+/self/messages",
                "bal1/self/messages",
                "$SYS/#",
                "$share/w/#",
                "$share/w/+/others/messages",
            ],
        ),
        (
            "alice",
            &[
                "alice/#",
                "#",
                "+/others/messages",
                "+/self/profile",
                "alice/self/presence/+",
                "$share/w/alice/others/#",
            ],
            &[
                "eve/others/+",
                "eve/self/messages",
                "+/self/messages",
                "alice/self/messages",
                "_bridge/stats",
                "$share/w/#",
                "$share/w/alice/#",
                "$share/w/eve/others/messages",
                "$share/w/+/self/presence",
                "$share/w/_bridge/status",
            ],
        ),
        ("root", &["#", "eve/others/messages", "$share/w/#"], &["$SYS/#"]),
    ];
    let harness = Harness::bind(users().config()).await;
    let mut denied = 0;
    for (client, may, may_not) in rules {
        for (version, code) in [(V311, 0x80), (V5, NOT_AUTHORIZED)] {
            let mut peer = come(&harness, client, version).await;
            for filter in *may {
                assert_eq!(peer.try_subscribe(filter, 1).await, Seen::SubAck(1), "{client} {filter}");
            }
            for filter in *may_not {
                assert_eq!(peer.try_subscribe(filter, 1).await, Seen::SubRefused(1, code), "{client} {filter}");
                denied += 1;
            }
        }
    }
    assert_eq!(harness.metrics.get(Metric::SubscriptionsDenied), denied);
    harness.close().await;
}

const RETAINED: [&str; 4] = ["alice/others/members", "alice/self/presence", "_bridge/status", "_bridge/stats"];

#[tokio::test]
async fn an_eavesdropper_sees_only_what_everybody_may_see() {
    for version in [V311, V5] {
        for qos in 0..3 {
            // A window that two messages fill: what is withheld must not stay in it.
            let limits = BrokerLimits { inflight: 2, ..BrokerLimits::default() };
            let mut harness = Harness::bind(BrokerConfig { limits, ..users().config() }).await;
            for topic in RETAINED {
                retain(&harness, topic).await;
            }
            let mut eve = come(&harness, "eve", version).await;
            harness.see("eve", "alice", true).await;
            harness.barrier().await;
            eve.say_subscribe("#", qos).await;
            let mut alice = come(&harness, "alice", version).await;
            for n in 0..5 {
                publish(&mut harness, &mut alice, qos, "alice/self/messages", &n.to_string()).await;
                publish(&mut harness, &mut alice, qos, "alice/self/state/phone", &n.to_string()).await;
            }
            retain(&harness, "alice/self/profile").await;
            let seen = gather(&mut eve, qos, "alice/self/profile").await;
            assert_eq!(seen, ["_bridge/status", "alice/self/presence", "alice/self/profile"], "{version} {qos}");
            assert_eq!(harness.metrics.get(Metric::DeliveriesFiltered), 7);
            harness.close().await;
        }
    }
}

#[tokio::test]
async fn only_readers_that_may_read_settle_a_document() {
    let harness = Harness::bind(users().config()).await;
    for version in [V311, V5] {
        let mut eve = come(&harness, "eve", version).await;
        eve.subscribe("+/others/+", 1).await;
        harness.publish("alice/others/messages", "secret").await;
        harness.barrier().await;
        eve.quiet().await;
        assert_eq!(harness.waits("alice/others/messages"), 1);
        let mut alice = come(&harness, "alice:phone", version).await;
        alice.subscribe("alice/others/+", 1).await;
        let mut answer = harness.publish("alice/others/messages", "{}").await;
        let (payload, first, _) = alice.message().await;
        assert_eq!(payload, "secret");
        let (payload, id, dup) = alice.message().await;
        assert_eq!((payload.as_str(), dup), ("{}", false), "nobody had it before");
        eve.quiet().await;
        assert!(answer.try_recv().is_err());
        assert_eq!(harness.waits("alice/others/messages"), 2);
        alice.ack(PUBACK, first).await;
        alice.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
        let answer = harness.publish("eve/others/messages", "hers").await;
        let (payload, id, _) = eve.message().await;
        assert_eq!(payload, "hers");
        eve.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
        eve.disconnect().await;
        alice.disconnect().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn what_somebody_may_not_read_is_neither_kept_for_them_nor_theirs_to_confirm() {
    let mut harness = Harness::bind(users().config()).await;
    let lasting = |client| Connect { client, clean: false, expiry: 3_600, ..Connect::default() };
    let mut eves = Vec::new();
    for client in ["eve:here", "eve:away"] {
        let mut eve = come_with(&harness, lasting(client)).await;
        eve.subscribe("+/others/+", 1).await;
        eve.subscribe("#", 1).await;
        eves.push(eve);
    }
    harness.see("eve", "alice", true).await;
    harness.barrier().await;
    eves.remove(1).disconnect().await;
    let mut alice = come_with(&harness, lasting("alice")).await;
    alice.subscribe("alice/others/messages", 0).await;
    let answer = harness.publish("alice/others/messages", "at QoS 0").await;
    assert!(matches!(alice.next().await, Seen::Publish { id: None, .. }));
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    alice.subscribe("alice/others/messages", 1).await;
    let answer = harness.publish("alice/others/messages", "at QoS 1").await;
    let (_, id, _) = alice.message().await;
    alice.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    publish(&mut harness, &mut alice, 1, "alice/self/messages", "hers").await;
    retain(&harness, "alice/self/profile").await;
    assert_eq!((harness.kept("eve:here"), harness.kept("eve:away")), (1, 1));
    let mut eve = eves.remove(0);
    assert_eq!(eve.message().await.0, "alice/self/profile");
    let mut eve = come_with(&harness, lasting("eve:away")).await;
    assert_eq!(eve.message().await.0, "alice/self/profile");
    harness.close().await;
}

#[tokio::test]
async fn a_shared_subscription_serves_the_workers_of_a_bal() {
    let harness = Harness::bind(users().config()).await;
    let mut workers = [come(&harness, "bal1:a", V5).await, come(&harness, "bal1:b", V311).await];
    for worker in &mut workers {
        worker.subscribe("$share/w/bal1/others/messages", 1).await;
    }
    for payload in ["one", "two", "three", "four"] {
        let answer = harness.publish("bal1/others/messages", payload).await;
        let [a, b] = &mut workers;
        let seen = tokio::select! {
            (seen, id, _) = a.message() => { a.ack(PUBACK, id).await; seen }
            (seen, id, _) = b.message() => { b.ack(PUBACK, id).await; seen }
        };
        assert_eq!(seen, payload);
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    for worker in &mut workers {
        worker.quiet().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn an_admin_reads_everything() {
    let mut harness = Harness::bind(users().config()).await;
    let mut root = come(&harness, "root", V5).await;
    root.subscribe("#", 0).await;
    let mut alice = come(&harness, "alice", V5).await;
    publish(&mut harness, &mut alice, 1, "alice/self/messages", "x").await;
    retain(&harness, "eve/others/members").await;
    assert_eq!(gather(&mut root, 0, "eve/others/members").await, ["alice/self/messages", "eve/others/members"]);
    harness.close().await;
}

#[tokio::test]
async fn passwords_and_tokens_of_chat_users_come_to_the_bridge_alone() {
    let mut harness = Harness::bind(users().config()).await;
    let kept = Connect { client: "root:kept", clean: false, expiry: 60, ..Connect::default() };
    let mut admins = [come(&harness, "root", V5).await, come_with(&harness, kept).await];
    for admin in &mut admins {
        admin.subscribe("#", 1).await;
    }
    let mut alice = come(&harness, "alice", V5).await;
    for suffix in ["requests/phone", "devices/phone", "device/phone", "request", "whiteboard", "messages/x", "read"] {
        publish(&mut harness, &mut alice, 1, &format!("alice/self/{suffix}"), "hunter2").await;
    }
    assert_eq!(harness.kept("root:kept"), 1);
    for admin in &mut admins {
        assert_eq!(gather(admin, 1, "alice/self/read").await, ["alice/self/read"]);
    }
    harness.close().await;
}

#[tokio::test]
async fn a_will_on_a_denied_topic_is_never_published() {
    for (version, delays) in [(V311, &[0][..]), (V5, &[0, 1])] {
        for delay in delays {
            let mut harness = Harness::bind(users().config()).await;
            let mut root = come(&harness, "root", V5).await;
            root.subscribe("#", 0).await;
            let will = |topic| Some((topic, "gone", *delay));
            let session = |client, topic| Connect {
                client,
                version,
                clean: false,
                expiry: 60,
                will: will(topic),
                ..Connect::default()
            };
            let denied = ["eve/self/presence", "alice/others/receipts", "_bridge/status"];
            for (client, topic) in ["alice:1", "alice:2", "alice:3"].into_iter().zip(denied) {
                drop(come_with(&harness, session(client, topic)).await);
            }
            counted(&harness, Metric::PublishesDenied, 3).await;
            let topic = "alice/self/presence/laptop";
            drop(come_with(&harness, session("alice:laptop", topic)).await);
            assert_eq!(harness.take().await, (topic.to_owned(), "gone".to_owned()));
            assert_eq!(gather(&mut root, 0, topic).await, [topic]);
            harness.close().await;
        }
    }
}

#[tokio::test]
async fn anonymous_clients_keep_to_what_is_nobodys() {
    let mut harness = Harness::open().await;
    for version in [V311, V5] {
        let (mut anybody, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        publish(&mut harness, &mut anybody, 1, "bal1/self/messages", "x").await;
        anybody.subscribe("#", 0).await;
        retain(&harness, "bal1/others/members").await;
        assert_eq!(gather(&mut anybody, 0, "bal1/others/members").await, ["bal1/others/members"]);
    }
    let mut anybody = Peer::new(&harness, "anybody").await;
    for topic in ["bal1/others/messages", "_bridge/commands", "$SYS/x", "/self/messages"] {
        anybody.publish(topic, 1, "x").await;
        assert_eq!(anybody.next().await, Seen::Ack(PUBACK, 1, NOT_AUTHORIZED), "{topic}");
    }
    harness.close().await;
}

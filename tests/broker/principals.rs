//! As whom the bridge is told of what clients publish, and of what they leave behind.

use fcm_mqtt_bridge::broker::{BrokerConfig, JwtConfig};
use fcm_mqtt_bridge::chat::principal::{Principal, Proof, Role};
use fcm_mqtt_bridge::mqtt::{AckWord, Inbound};
use serde_json::json;

use super::harness::{CHEAP, Harness, Users, config, password, until};
use super::identity::{Tokens, in_seconds};
use super::mint::Mint;
use super::peer::{Connect, PUBACK, Peer, Seen, V5, V311};

fn logged_in(name: &str, role: Role, device: Option<&str>) -> Principal {
    Principal { name: name.into(), role, device: device.map(Into::into), background: false, proof: Proof::Login }
}

async fn come(harness: &Harness, client: &str, secret: &str, connect: Connect<'_>) -> Peer {
    let user = client.split(':').next().unwrap();
    Peer::connect(harness, Connect { client, user: Some(user), password: Some(secret), ..connect }).await.0
}

async fn publishes(harness: &mut Harness, peer: &mut Peer, topic: &str) -> Principal {
    peer.publish(topic, 7, "x").await;
    let Inbound { principal, ack, .. } = harness.inbound().await;
    ack.release(AckWord::Done);
    assert_eq!(peer.next().await, Seen::Ack(PUBACK, 7, 0));
    principal
}

#[tokio::test]
async fn a_message_comes_from_whoever_logged_in_in_the_role_of_the_log_in() {
    let (mint, tokens) = (Mint::secret(), Tokens::new());
    let users = Users::new(&[("alice", Role::User), ("bal1", Role::Bal)]);
    let jwt = tokens.config(&mint);
    let mut harness = Harness::bind(BrokerConfig { jwt, ..users.config() }).await;
    let token = |name: &str, role: &str| mint.token(&json!({ "sub": name, "exp": in_seconds(60), "role": role }));
    let (carol, shop) = (token("carol", "user"), token("shop", "bal"));
    for (client, secret, expected) in [
        ("alice:phone", "ecila", logged_in("alice", Role::User, Some("phone"))),
        ("alice", "ecila", logged_in("alice", Role::User, Some("default"))),
        ("bal1:w1", "1lab", logged_in("bal1", Role::Bal, Some("w1"))),
        ("carol:web", &carol, logged_in("carol", Role::User, Some("web"))),
        ("shop", &shop, logged_in("shop", Role::Bal, Some("default"))),
    ] {
        for version in [V311, V5] {
            let mut peer = come(&harness, client, secret, Connect { version, ..Connect::default() }).await;
            let topic = format!("{}/self/messages", expected.name);
            assert_eq!(publishes(&mut harness, &mut peer, &topic).await, expected);
            peer.disconnect().await;
        }
    }
    harness.close().await;
}

#[tokio::test]
async fn who_did_not_log_in_is_a_bal_under_the_name_in_the_topic() {
    let users = Users::new(&[("alice", Role::User)]);
    let mut harness = Harness::bind(BrokerConfig { anonymous: true, ..users.config() }).await;
    let mut anybody = Peer::new(&harness, "sensor:1").await;
    let principal = publishes(&mut harness, &mut anybody, "bal7/self/messages").await;
    assert_eq!(principal, Principal::anonymous("bal7/self/messages"));
    assert_eq!((&*principal.name, principal.role, principal.proof), ("bal7", Role::Bal, Proof::Anonymous));
    let mut alice = come(&harness, "alice", "ecila", Connect::default()).await;
    let principal = publishes(&mut harness, &mut alice, "alice/self/messages").await;
    assert_eq!(
        principal,
        logged_in("alice", Role::User, Some("default")),
        "beside anonymous ones she stays who she is"
    );
    harness.close().await;
}

#[tokio::test]
async fn a_will_comes_from_the_session_that_left_it_at_once_or_later() {
    let (mint, tokens) = (Mint::secret(), Tokens::new());
    let jwt = tokens.config(&mint);
    let users = Users::new(&[("alice", Role::User), ("bal1", Role::Bal)]);
    let mut harness = Harness::bind(BrokerConfig { jwt, ..users.config() }).await;
    let shop = mint.token(&json!({ "sub": "shop", "exp": in_seconds(60), "role": "bal" }));
    for (client, secret, expected) in [
        ("alice:phone", "ecila", logged_in("alice", Role::User, Some("phone"))),
        ("bal1", "1lab", logged_in("bal1", Role::Bal, Some("default"))),
        // The users file knows nothing of it: only the session remembers the role.
        ("shop", &shop, logged_in("shop", Role::Bal, Some("default"))),
    ] {
        let topic = format!("{}/self/messages", expected.name);
        for delay in [0, 1] {
            let will = Some((topic.as_str(), "bye", delay));
            drop(
                come(&harness, client, secret, Connect { clean: false, expiry: 60, will, ..Connect::default() }).await,
            );
            let Inbound { principal, topic: came, .. } = harness.inbound().await;
            assert_eq!((came.as_str(), principal), (topic.as_str(), expected.clone()), "after {delay} s");
        }
    }
    harness.close().await;
}

#[tokio::test]
async fn a_will_that_waited_comes_in_the_role_that_the_users_file_gives_by_then() {
    let users = Users::new(&[("bal1", Role::Bal), ("witness", Role::User)]);
    let mut harness = Harness::bind(users.config()).await;
    let will = Some(("bal1/self/messages", "bye", 2));
    drop(come(&harness, "bal1", "1lab", Connect { clean: false, expiry: 60, will, ..Connect::default() }).await);
    let mut witness = come(&harness, "witness", &password("witness"), Connect::default()).await;
    users.edit(|file| {
        for name in ["bal1", "witness"] {
            file.remove(name).unwrap();
        }
        file.add_with("bal1", Role::User, "1lab", CHEAP).unwrap();
    });
    harness.reload.send_modify(|count| *count += 1);
    // Her connection ends when the file has been read.
    while witness.next().await != Seen::Closed {}
    let Inbound { principal, .. } = harness.inbound().await;
    assert_eq!(principal, logged_in("bal1", Role::User, Some("default")));
    harness.close().await;
}

#[tokio::test]
async fn a_bal_that_is_removed_or_demoted_does_not_push_with_its_will() {
    let (mint, tokens) = (Mint::secret(), Tokens::new());
    for (jwt, delay) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let users = Users::new(&[("gone", Role::Bal), ("lower", Role::Bal), ("witness", Role::User)]);
        let jwt = if jwt { tokens.config(&mint) } else { JwtConfig::default() };
        let mut harness = Harness::bind(BrokerConfig { jwt, ..users.config() }).await;
        let mut leaving = Vec::new();
        for bal in ["gone", "lower"] {
            let topic = format!("{bal}/self/messages");
            let will = Some((topic.as_str(), "bye", delay));
            let connect = Connect { clean: false, expiry: 60, will, ..Connect::default() };
            leaving.push(come(&harness, bal, &password(bal), connect).await);
        }
        users.edit(|file| {
            for name in ["gone", "lower"] {
                file.remove(name).unwrap();
            }
            file.add_with("lower", Role::User, "rewol", CHEAP).unwrap();
        });
        harness.reload.send_modify(|count| *count += 1);
        for peer in &mut leaving {
            while peer.next().await != Seen::Closed {}
        }
        let Inbound { principal, .. } = harness.inbound().await;
        assert_eq!(principal, logged_in("lower", Role::User, Some("default")), "after {delay} s");
        until("the refusal of the other will", || harness.metrics.clients_refused("will_topic") > 0).await;
        let mut witness = come(&harness, "witness", &password("witness"), Connect::default()).await;
        publishes(&mut harness, &mut witness, "witness/self/messages").await;
        assert_eq!(harness.metrics.clients_refused("will_topic"), 1);
        harness.close().await;
    }
}

#[tokio::test]
async fn without_users_everybody_is_trusted_with_a_password_and_without() {
    let mut harness = Harness::bind(config()).await;
    let mut named = come(&harness, "alice", "any", Connect::default()).await;
    assert_eq!(publishes(&mut harness, &mut named, "alice/self/messages").await.proof, Proof::Anonymous);
    harness.close().await;
}

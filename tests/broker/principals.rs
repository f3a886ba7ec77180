//! As whom the bridge is told of what clients publish, and of what they leave behind.

use fcm_mqtt_bridge::broker::{BrokerConfig, JwtConfig};
use fcm_mqtt_bridge::chat::principal::{Principal, Proof, Role};
use fcm_mqtt_bridge::mqtt::{AckWord, Inbound, Outcome};
use serde_json::json;

use super::harness::{CHEAP, Harness, Users, config, outbound, outcome, password, until};
use super::identity::{Tokens, in_seconds};
use super::mint::Mint;
use super::peer::{Connect, PUBACK, Peer, Seen, V5, V311};

fn logged_in(name: &str, role: Role, device: Option<&str>) -> Principal {
    Principal { name: name.into(), role, device: device.map(Into::into), background: false, proof: Proof::Login }
}

/// The same with a token.
fn by_token(name: &str, role: Role, device: &str) -> Principal {
    Principal { proof: Proof::SignedToken, ..logged_in(name, role, Some(device)) }
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
        ("carol:web", &carol, by_token("carol", Role::User, "web")),
        ("shop", &shop, by_token("shop", Role::Bal, "default")),
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
        ("shop", &shop, by_token("shop", Role::Bal, "default")),
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
async fn after_a_restart_a_will_that_waited_is_of_whoever_may_still_log_in_as_before() {
    let (old, new) = (Mint::ec(), Mint::ec());
    let (tokens, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let users = Users::new(&["stays", "removed", "lower"].map(|name| (name, Role::Bal)));
    let path = tokens.path().join("jwks");
    let write = |keys| std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    write(json!([old.jwk("old"), new.jwk("new")]));
    let bind = || {
        let jwt = JwtConfig { jwks_file: Some(path.clone()), ..JwtConfig::default() };
        Harness::bind(BrokerConfig { data: Some(folder.path().to_owned()), jwt, ..users.config() })
    };
    let token = |mint: &Mint, id: &str, name: &str, role: &str| {
        let claims = json!({ "sub": name, "exp": in_seconds(60), "role": role });
        mint.signed(&json!({ "alg": "ES256", "kid": id }), &claims)
    };
    let harness = bind().await;
    let secrets = [
        ("stays", password("stays")),
        ("removed", password("removed")),
        ("lower", password("lower")),
        ("shop", token(&new, "new", "shop", "bal")),
        ("carol", token(&new, "new", "carol", "user")),
        ("revoked", token(&old, "old", "revoked", "bal")),
        ("taken", token(&new, "new", "taken", "user")),
    ];
    for (name, secret) in &secrets {
        let topic = format!("{name}/self/messages");
        let will = Some((topic.as_str(), *name, 1));
        drop(come(&harness, name, secret, Connect { clean: false, expiry: 60, will, ..Connect::default() }).await);
        harness.is_away(name).await;
    }
    harness.close().await;
    users.edit(|file| {
        for name in ["removed", "lower"] {
            file.remove(name).unwrap();
        }
        for (name, role) in [("lower", Role::User), ("taken", Role::Bal)] {
            file.add_with(name, role, "new", CHEAP).unwrap();
        }
    });
    write(json!([new.jwk("new")]));

    let mut harness = bind().await;
    let mut came = Vec::new();
    while came.len() < 4 {
        let Inbound { principal, ack, .. } = harness.inbound().await;
        ack.release(AckWord::Done);
        came.push((principal.name.to_string(), principal.role, principal.proof));
    }
    came.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("carol", Role::User, Proof::SignedToken),
        ("lower", Role::User, Proof::Login),
        ("shop", Role::Bal, Proof::SignedToken),
        ("stays", Role::Bal, Proof::Login),
    ];
    assert_eq!(came, expected.map(|(name, role, proof)| (name.to_owned(), role, proof)));
    until("the refusal of the others", || harness.metrics.clients_refused("will_topic") == 3).await;
    harness.barrier().await;
    assert!(harness.port.inbound.try_recv().is_err());
    harness.close().await;
}

#[tokio::test]
async fn a_bal_whose_token_alone_says_so_is_one_while_it_is_away_and_after_a_restart() {
    let (mint, tokens, folder) = (Mint::secret(), Tokens::new(), tempfile::tempdir().unwrap());
    let jwt = tokens.config(&mint);
    let users = Users::new(&[("alice", Role::User)]);
    let bind =
        || Harness::bind(BrokerConfig { data: Some(folder.path().to_owned()), jwt: jwt.clone(), ..users.config() });
    let shop = mint.token(&json!({ "sub": "shop", "exp": in_seconds(60), "role": "bal" }));
    let lasting = || Connect { clean: false, expiry: 60, ..Connect::default() };
    let mut harness = bind().await;
    let mut peer = come(&harness, "shop", &shop, lasting()).await;
    // A chat user sees only that of whose contact it is.
    peer.subscribe("+/self/presence", 1).await;
    assert_eq!(harness.port.directory.role_of("shop"), Some(Role::Bal));
    peer.disconnect().await;
    for restarted in [false, true] {
        harness.is_away("shop").await;
        assert_eq!(harness.port.directory.role_of("shop"), Some(Role::Bal), "restarted: {restarted}");
        let (message, answer) = outbound("alice/self/presence", "online");
        harness.send(message).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed, "it is on disk for a session that may read it");
        let mut peer = come(&harness, "shop", &shop, lasting()).await;
        let (payload, id, _) = peer.message().await;
        assert_eq!(payload, "online", "restarted: {restarted}");
        peer.ack(PUBACK, id).await;
        peer.quiet().await;
        peer.disconnect().await;
        harness.is_away("shop").await;
        harness.close().await;
        harness = bind().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn whoever_was_removed_writes_nothing_more_and_a_token_holds_where_there_are_keys() {
    let (mint, tokens) = (Mint::secret(), Tokens::new());
    let jwt = tokens.config(&mint);
    let users = Users::new(&[("bal1", Role::Bal), ("alice", Role::User)]);
    let harness = Harness::bind(BrokerConfig { jwt, ..users.config() }).await;
    let writes = |name, then, by_token| harness.port.directory.writes_as(name, then, by_token);
    for by_token in [None, Some(false), Some(true)] {
        assert_eq!(writes("alice", Role::User, by_token), Some(Role::User));
        assert_eq!(writes("alice", Role::Bal, by_token), Some(Role::User), "she is none any more");
    }
    assert_eq!(writes("gone", Role::User, Some(false)), None);
    assert_eq!(writes("gone", Role::User, Some(true)), Some(Role::User));
    assert_eq!(writes("gone", Role::Bal, None), Some(Role::Bal), "written before it was kept how");
    // With a password then, and with a token since.
    let carol = mint.token(&json!({ "sub": "carol", "exp": in_seconds(60) }));
    let back = come(&harness, "carol", &carol, Connect { clean: false, expiry: 60, ..Connect::default() }).await;
    back.disconnect().await;
    harness.is_away("carol").await;
    assert_eq!(writes("carol", Role::Bal, Some(false)), Some(Role::User));
    harness.close().await;
    let without_keys = Harness::bind(users.config()).await;
    assert_eq!(without_keys.port.directory.writes_as("gone", Role::User, Some(true)), None);
    without_keys.close().await;
}

#[tokio::test]
async fn without_users_everybody_is_trusted_with_a_password_and_without() {
    let mut harness = Harness::bind(config()).await;
    let mut named = come(&harness, "alice", "any", Connect::default()).await;
    assert_eq!(publishes(&mut harness, &mut named, "alice/self/messages").await.proof, Proof::Anonymous);
    harness.close().await;
}

//! Who gets in, under which client id, and for how long.

use std::fs;
use std::path::PathBuf;

use fcm_mqtt_bridge::broker::{Broker, BrokerConfig, BrokerError, BrokerLimits, JwtConfig};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::ops::metrics::Metric;
use serde_json::json;
use tempfile::TempDir;

use super::harness::{CHEAP, Harness, Users, config, password};
use super::mint::Mint;
use super::peer::{Connect, Peer, Seen, V5, V311};

const BAD_CREDENTIALS: u8 = 0x86;
const NOT_AUTHORIZED: u8 = 0x87;
const QUOTA: u8 = 0x97;
const RATE: u8 = 0x9f;
const ADMINISTRATIVE_ACTION: u8 = 0x98;
const MAXIMUM_CONNECT_TIME: u8 = 0xa0;

fn login<'a>(client: &'a str, user: &'a str, password: &'a str) -> Connect<'a> {
    Connect { client, user: Some(user), password: Some(password), ..Connect::default() }
}

fn alice() -> Users {
    Users::new(&[("alice", Role::User)])
}

/// The CONNACK codes in 3.1.1 and 5.
async fn codes(harness: &Harness, connect: impl Fn() -> Connect<'static>) -> (u8, u8) {
    let (old, old_code) = Peer::try_connect(harness, Connect { version: V311, ..connect() }).await;
    let (new, new_code) = Peer::try_connect(harness, Connect { version: V5, ..connect() }).await;
    drop((old, new));
    (old_code, new_code)
}

#[tokio::test]
async fn only_the_right_password_gets_in() {
    let harness = Harness::bind(alice().config()).await;
    assert_eq!(codes(&harness, || login("alice", "alice", "ecila")).await, (0, 0));
    for (user, password) in [("alice", "wrong"), ("alice", ""), ("alice", "ecila "), ("bob", "bob"), ("", "ecila")] {
        assert_eq!(codes(&harness, || login("alice", user, password)).await, (5, BAD_CREDENTIALS), "{user} {password}");
    }
    let nameless = || Connect { client: "alice", ..Connect::default() };
    assert_eq!(codes(&harness, nameless).await, (5, NOT_AUTHORIZED));
    assert_eq!(harness.metrics.get(Metric::LoginsFailed), 10);
    harness.close().await;
}

#[tokio::test]
async fn who_fails_too_often_is_refused_unchecked() {
    let limits = BrokerLimits { login_failures_per_minute: 3, ..BrokerLimits::default() };
    let users = Users::new(&[("alice", Role::User), ("bob", Role::User)]);
    let harness = Harness::bind(BrokerConfig { limits, ..users.config() }).await;
    let (mut here, code) = Peer::try_connect(&harness, login("alice", "alice", "ecila")).await;
    assert_eq!(code, 0);
    for _ in 0..3 {
        assert_eq!(Peer::try_connect(&harness, login("alice", "alice", "guess")).await.1, BAD_CREDENTIALS);
    }
    // Even with the right password: nobody learns that it is right.
    assert_eq!(codes(&harness, || login("bob", "bob", "bob")).await, (3, RATE));
    assert_eq!(harness.metrics.get(Metric::LoginsLimited), 2);
    here.quiet().await;
    // One that was right before costs nothing. It may be guessed a few times.
    for _ in 0..5 {
        assert_eq!(codes(&harness, || login("alice:2", "alice", "ecila")).await, (0, 0));
        assert_eq!(Peer::try_connect(&harness, login("alice", "alice", "guess")).await.1, RATE);
    }
    assert_eq!(codes(&harness, || login("alice:2", "alice", "ecila")).await, (3, RATE));
    harness.close().await;
}

#[tokio::test]
async fn a_session_comes_back_to_its_user() {
    let harness = Harness::bind(alice().config()).await;
    for version in [V311, V5] {
        let session = || Connect { version, clean: false, expiry: 60, ..login("alice:phone", "alice", "ecila") };
        let (mut first, _) = Peer::connect(&harness, session()).await;
        first.subscribe("alice/others/+", 1).await;
        first.disconnect().await;
        let (second, resumed) = Peer::connect(&harness, session()).await;
        assert!(resumed);
        second.disconnect().await;
        Peer::connect(&harness, Connect { clean: true, expiry: 0, ..session() }).await.0.disconnect().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn a_user_has_so_many_connections() {
    let limits = BrokerLimits { connections_per_user: 2, ..BrokerLimits::default() };
    let users = Users::new(&[("alice", Role::User), ("bob", Role::User)]);
    let harness = Harness::bind(BrokerConfig { limits, ..users.config() }).await;
    let (first, _) = Peer::connect(&harness, login("alice:1", "alice", "ecila")).await;
    let (mut second, _) = Peer::connect(&harness, login("alice:2", "alice", "ecila")).await;
    assert_eq!(codes(&harness, || login("alice:3", "alice", "ecila")).await, (3, QUOTA));
    assert_eq!(codes(&harness, || login("bob", "bob", "bob")).await, (0, 0));
    // Coming back takes the place of the connection before.
    let (_third, code) = Peer::try_connect(&harness, login("alice:2", "alice", "ecila")).await;
    assert_eq!(code, 0);
    assert_eq!(second.next().await, Seen::Disconnect(0x8e));
    first.disconnect().await;
    let (mut fourth, mut code) = Peer::try_connect(&harness, login("alice:3", "alice", "ecila")).await;
    while code == QUOTA {
        // The end of the first connection is still on its way through the broker.
        (fourth, code) = Peer::try_connect(&harness, login("alice:3", "alice", "ecila")).await;
    }
    fourth.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn anonymous_clients_come_beside_users() {
    let users = alice();
    let harness = Harness::bind(BrokerConfig { anonymous: true, ..users.config() }).await;
    let anybody = |client| move || Connect { client, ..Connect::default() };
    for client in ["sensor", "", "alice", "alice:phone"] {
        assert_eq!(codes(&harness, anybody(client)).await, (0, 0), "{client}");
    }
    assert_eq!(codes(&harness, || login("alice", "alice", "ecila")).await, (0, 0));
    assert_eq!(codes(&harness, || login("sensor", "sensor", "x")).await, (5, BAD_CREDENTIALS));
    harness.close().await;

    let nobody_known = Harness::open().await;
    assert_eq!(codes(&nobody_known, || login("sensor", "sensor", "x")).await, (0, 0));
    nobody_known.close().await;
}

#[tokio::test]
async fn a_reload_ends_the_connections_of_those_who_lost_their_ground_and_no_others() {
    let names = ["stays", "removed", "changed", "promoted"];
    let users = Users::new(&names.map(|name| (name, Role::User)));
    let harness = Harness::bind(users.config()).await;
    for version in [V311, V5] {
        let mut peers = Vec::new();
        for name in names {
            let password = password(name);
            peers.push(Peer::connect(&harness, Connect { version, ..login(name, name, &password) }).await.0);
        }
        users.edit(|file| {
            file.remove("removed").unwrap();
            for (name, role, password) in [("changed", Role::User, "other"), ("promoted", Role::Admin, "detomorp")] {
                file.remove(name).unwrap();
                file.add_with(name, role, password, CHEAP).unwrap();
            }
        });
        harness.reload.send_modify(|count| *count += 1);
        for gone in &mut peers[1..] {
            if version == V5 {
                assert_eq!(gone.next().await, Seen::Disconnect(ADMINISTRATIVE_ACTION));
            }
            assert_eq!(gone.next().await, Seen::Closed);
        }
        peers[0].quiet().await;
        let code = async |name, password| Peer::try_connect(&harness, login(name, name, password)).await.1;
        assert_eq!(code("removed", "devomer").await, BAD_CREDENTIALS);
        assert_eq!(code("changed", "degnahc").await, BAD_CREDENTIALS);
        assert_eq!(code("promoted", "detomorp").await, 0);
        let (mut again, _) = Peer::connect(&harness, login("changed", "changed", "other")).await;
        users.edit(|file| {
            for name in ["changed", "promoted"] {
                file.remove(name).unwrap();
            }
            for name in &names[1..] {
                file.add_with(name, Role::User, &password(name), CHEAP).unwrap();
            }
        });
        harness.reload.send_modify(|count| *count += 1);
        assert_eq!(again.next().await, Seen::Disconnect(ADMINISTRATIVE_ACTION));
        assert_eq!(code("removed", "devomer").await, 0);
    }
    harness.close().await;
}

#[tokio::test]
async fn a_changed_file_is_noticed_without_being_told() {
    let users = Users::new(&[("alice", Role::User), ("bob", Role::User)]);
    let harness = Harness::bind(users.config()).await;
    let (mut alice, _) = Peer::connect(&harness, login("alice", "alice", "ecila")).await;
    let (mut bob, _) = Peer::connect(&harness, login("bob", "bob", "bob")).await;
    users.edit(|file| file.remove("bob").unwrap());
    assert_eq!(bob.next().await, Seen::Disconnect(ADMINISTRATIVE_ACTION));
    alice.quiet().await;
    harness.close().await;
}

/// A folder for the keys of tokens.
pub(crate) struct Tokens {
    folder: TempDir,
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self, mint: &Mint) -> JwtConfig {
        let path = self.path("key");
        fs::write(&path, mint.key_file()).unwrap();
        match mint {
            Mint::Secret(_) => JwtConfig { secret_file: Some(path), ..JwtConfig::default() },
            Mint::Rsa(_) | Mint::Ec(_) => JwtConfig { key_file: Some(path), ..JwtConfig::default() },
        }
    }
}

pub(crate) fn in_seconds(seconds: i64) -> i64 {
    i64::try_from(now_ms() / 1_000).unwrap() + seconds
}

#[tokio::test]
async fn a_token_of_each_algorithm_is_a_password() {
    for mint in [Mint::secret(), Mint::rsa(), Mint::ec()] {
        let tokens = Tokens::new();
        let jwt = tokens.config(&mint);
        let harness = Harness::bind(BrokerConfig { anonymous: false, jwt, ..config() }).await;
        let token = mint.token(&json!({ "sub": "carol", "exp": in_seconds(60), "role": "bal" }));
        for version in [V311, V5] {
            for user in ["carol", ""] {
                let (mut carol, _) =
                    Peer::connect(&harness, Connect { version, ..login("carol:1", user, &token) }).await;
                assert_eq!(carol.try_subscribe("carol/others/+", 1).await, Seen::SubAck(1));
                // A BAL does not read this.
                assert!(matches!(carol.try_subscribe("dave/self/profile", 1).await, Seen::SubRefused(..)));
            }
        }
        let stranger = Mint::ec().token(&json!({ "sub": "carol", "exp": in_seconds(60) }));
        for (user, password) in [("dave", token.as_str()), ("carol", &stranger), ("carol", "a.b.c"), ("carol", "plain")]
        {
            assert_eq!(Peer::try_connect(&harness, login("carol", user, password)).await.1, BAD_CREDENTIALS);
        }
        harness.close().await;
    }
}

#[tokio::test]
async fn tokens_and_passwords_stand_side_by_side() {
    let (mint, tokens, users) = (Mint::secret(), Tokens::new(), alice());
    let jwt = tokens.config(&mint);
    let harness = Harness::bind(BrokerConfig { jwt, ..users.config() }).await;
    let token = mint.token(&json!({ "sub": "alice", "exp": in_seconds(60) }));
    let (mut by_token, _) = Peer::connect(&harness, login("alice:1", "alice", &token)).await;
    let (mut by_password, _) = Peer::connect(&harness, login("alice:2", "alice", "ecila")).await;
    users.edit(|file| file.remove("alice").unwrap());
    harness.reload.send_modify(|count| *count += 1);
    assert_eq!(by_password.next().await, Seen::Disconnect(ADMINISTRATIVE_ACTION));
    by_token.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_users_token_for_the_name_of_a_bal_or_an_admin_is_refused() {
    let (mint, tokens) = (Mint::secret(), Tokens::new());
    let users = Users::new(&[("bal1", Role::Bal), ("root", Role::Admin), ("alice", Role::User)]);
    let (jwt, bals) = (tokens.config(&mint), ["shop".to_owned()].into());
    let harness = Harness::bind(BrokerConfig { jwt, bals, ..users.config() }).await;
    let token = |name: &str, role: &str| mint.token(&json!({ "sub": name, "exp": in_seconds(60), "role": role }));
    let code = async |name: &str, token: &str| Peer::try_connect(&harness, login(name, name, token)).await.1;
    for name in ["bal1", "root", "shop"] {
        assert_eq!(code(name, &token(name, "user")).await, BAD_CREDENTIALS, "{name}");
        let without_role = mint.token(&json!({ "sub": name, "exp": in_seconds(60) }));
        assert_eq!(code(name, &without_role).await, BAD_CREDENTIALS, "{name}");
        // A token that says so was made on purpose.
        assert_eq!(code(name, &token(name, "bal")).await, 0, "{name}");
        assert_eq!(code(name, &token(name, "admin")).await, 0, "{name}");
    }
    assert_eq!(code("alice", &token("alice", "user")).await, 0);
    assert_eq!(code("carol", &token("carol", "user")).await, 0);
    assert_eq!(code("shop2", &token("shop2", "user")).await, 0);
    harness.close().await;
}

#[tokio::test]
async fn a_users_token_ends_when_its_name_becomes_a_bals() {
    let (mint, tokens) = (Mint::secret(), Tokens::new());
    let (users, jwt) = (alice(), tokens.config(&mint));
    let harness = Harness::bind(BrokerConfig { jwt, ..users.config() }).await;
    let token = mint.token(&json!({ "sub": "carol", "exp": in_seconds(60) }));
    let (mut carol, _) = Peer::connect(&harness, login("carol", "", &token)).await;
    users.edit(|file| file.add_with("carol", Role::Bal, "lorac", CHEAP).unwrap());
    harness.reload.send_modify(|count| *count += 1);
    assert_eq!(carol.next().await, Seen::Disconnect(ADMINISTRATIVE_ACTION));
    assert_eq!(Peer::try_connect(&harness, login("carol", "", &token)).await.1, BAD_CREDENTIALS);
    assert_eq!(Peer::try_connect(&harness, login("carol", "carol", "lorac")).await.1, 0);
    harness.close().await;
}

#[tokio::test]
async fn the_end_of_a_token_ends_the_connection() {
    let (mint, tokens) = (Mint::secret(), Tokens::new());
    let jwt = tokens.config(&mint);
    let harness = Harness::bind(BrokerConfig { anonymous: false, jwt, ..config() }).await;
    // Tokens hold five seconds longer than they say.
    let token = mint.token(&json!({ "sub": "carol", "exp": in_seconds(-3) }));
    let lasting = mint.token(&json!({ "sub": "dave", "exp": in_seconds(60) }));
    let (mut new, _) = Peer::connect(&harness, login("carol:new", "", &token)).await;
    let (mut old, _) = Peer::connect(&harness, Connect { version: V311, ..login("carol:old", "", &token) }).await;
    let (mut dave, _) = Peer::connect(&harness, login("dave", "", &lasting)).await;
    assert_eq!(new.next().await, Seen::Disconnect(MAXIMUM_CONNECT_TIME));
    assert_eq!(new.next().await, Seen::Closed);
    assert_eq!(old.next().await, Seen::Closed);
    assert_eq!(Peer::try_connect(&harness, login("carol", "", &token)).await.1, BAD_CREDENTIALS);
    dave.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn new_keys_are_taken_without_a_restart() {
    let (old, new, tokens) = (Mint::ec(), Mint::ec(), Tokens::new());
    let path = tokens.path("jwks");
    let write = |keys| fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    write(json!([old.jwk("old")]));
    let jwt = JwtConfig { jwks_file: Some(path.clone()), ..JwtConfig::default() };
    let harness = Harness::bind(BrokerConfig { anonymous: false, jwt, ..config() }).await;
    let token = |mint: &Mint, id: &str| {
        mint.signed(&json!({ "alg": "ES256", "kid": id }), &json!({ "sub": "carol", "exp": in_seconds(60) }))
    };
    let code = async |token: &str| Peer::try_connect(&harness, login("carol", "", token)).await.1;
    let (mut by_old, _) = Peer::connect(&harness, login("carol:old", "", &token(&old, "old"))).await;
    assert_eq!(code(&token(&new, "new")).await, BAD_CREDENTIALS);
    write(json!([old.jwk("other name"), new.jwk("new")]));
    harness.reload.send_modify(|count| *count += 1);
    while code(&token(&new, "new")).await != 0 {}
    let (mut by_new, _) = Peer::connect(&harness, login("carol:new", "", &token(&new, "new"))).await;
    by_old.quiet().await;
    write(json!([new.jwk("new")]));
    harness.reload.send_modify(|count| *count += 1);
    assert_eq!(by_old.next().await, Seen::Disconnect(ADMINISTRATIVE_ACTION), "its key is gone");
    assert_eq!(code(&token(&old, "old")).await, BAD_CREDENTIALS);
    assert_eq!(code(&token(&new, "new")).await, 0);
    by_new.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn files_that_are_wrong_are_told_at_the_start() {
    let users = alice();
    fs::write(users.path(), "alice:user:secret\n").unwrap();
    let error = Broker::bind(users.config()).await.unwrap_err();
    assert!(matches!(error, BrokerError::Identity(_)));
    assert!(error.to_string().contains("users, line 1: the hash"), "{error}");
    let jwt = JwtConfig { secret_file: Some("/nonexistent".into()), ..JwtConfig::default() };
    let error = Broker::bind(BrokerConfig { jwt, ..config() }).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot read the token key /nonexistent"), "{error}");
}

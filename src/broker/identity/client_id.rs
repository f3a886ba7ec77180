//! Client ids: whose session one is, and which device. Pure.
//!
//! A client id belongs to the user who comes with it. A session is kept under a key that is made of both, so that two
//! users may have the same id at the same time, and nobody can take over the session of another one. All anonymous
//! clients have one name space of their own.
//!
//! | user | client id | key |
//! | --- | --- | --- |
//! | `u` | `u` | `u` |
//! | `u` | `u:dev` | `u:dev` |
//! | `u` | any other of `A-Z a-z 0-9 . _ -`, up to 60 | `u::id` |
//! | `u` | anything else | `u::=` and the SHA-256 of the id |
//! | `u`, a chat user | `u:dev:bg` | `u:number:bg`, one for each connection |
//! | nobody | as above | `:id`, or `:=` and the SHA-256 of the id |
//!
//! Keys are the column `queues.key` of the store, and were names of files in earlier releases. They begin with a user name, in which there is no `/`, `\`, `:` or control character, or with
//! a colon, and have no such character after it; so none of them leaves its folder. The first two rows are what the first
//! release kept sessions under.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// The longest client id, in bytes. MQTT wants 23 of every server and allows more (MQTT 5, 3.1.3.1).
pub(in crate::broker) const CLIENT_ID_MAX: usize = 256;
/// The longest id that stands in a key as it is.
const PLAIN_MAX: usize = 60;
/// What comes before the SHA-256 of an id in a key, which has so many characters.
const HASHED: char = '=';
const HASH_LEN: usize = 43;
/// The longest name of a device.
const DEVICE_MAX: usize = 32;
/// The device of a client whose id is its user name.
const DEFAULT_DEVICE: &str = "default";
/// So many hexadecimal digits of its SHA-256 are the device of an id that cannot be the name of one.
const DEVICE_DIGITS: usize = 8;
/// What follows the device in the client id of a connection in the background.
const BACKGROUND: &str = ":bg";
/// What the ids begin with that the broker gives to clients without one.
const ASSIGNED: &str = "auto-";
/// So many hexadecimal digits of a random number follow. Together they are the name of a device.
const ASSIGNED_DIGITS: usize = 24;

/// The key of a session.
pub(in crate::broker) fn session_key(user: Option<&str>, client: &str) -> String {
    let part = |client: &str| match is_plain(client) {
        true => client.to_owned(),
        false => format!("{HASHED}{}", URL_SAFE_NO_PAD.encode(Sha256::digest(client))),
    };
    match user {
        None => format!(":{}", part(client)),
        Some(user) if is_own(user, client) => client.to_owned(),
        Some(user) => format!("{user}::{}", part(client)),
    }
}

/// Whether `key` is one that [`session_key`] makes for this user, whatever the client id.
pub(in crate::broker) fn is_key_of(user: Option<&str>, key: &str) -> bool {
    match user {
        // The first release knew nobody's ids that begin with a colon as well. One that could be a key is taken for one.
        None => key.strip_prefix(':').is_some_and(|part| is_plain(part) || is_hash(part)),
        Some(user) => key.strip_prefix(user).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')),
    }
}

/// The device of a user that a client id names: `{user}` is [`DEFAULT_DEVICE`], `{user}:{dev}` and `{user}:{dev}:bg` are
/// `{dev}`, and any other id that can be the name of a device is one itself. An id that cannot has the beginning of its SHA-256
/// for a name.
pub(in crate::broker) fn device_of(user: &str, client: &str) -> String {
    let own = client.strip_prefix(user);
    if own == Some("") {
        return DEFAULT_DEVICE.to_owned();
    }
    if let Some(device) = device_in_background(user, client) {
        return device.to_owned();
    }
    let named = own.and_then(|rest| rest.strip_prefix(':'));
    if let Some(device) = [named, Some(client)].into_iter().flatten().find(|part| is_device(part)) {
        return device.to_owned();
    }
    let digits: String = Sha256::digest(client).iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..DEVICE_DIGITS].to_owned()
}

/// Whether a client id is `{user}:{dev}:bg`: a connection of that device in the background.
pub(in crate::broker) fn is_background(user: &str, client: &str) -> bool {
    device_in_background(user, client).is_some()
}

/// The key of a session in the background: that of one connection, by its number. It is none that [`session_key`] makes.
pub(in crate::broker) fn background_key(user: &str, connection: u64) -> String {
    format!("{user}:{connection}{BACKGROUND}")
}

/// The client id of a client that came without one. `random` is a fresh number.
pub(in crate::broker) fn assigned(random: u128) -> String {
    let digits = format!("{random:032x}");
    format!("{ASSIGNED}{}", &digits[digits.len() - ASSIGNED_DIGITS..])
}

fn device_in_background<'a>(user: &str, client: &'a str) -> Option<&'a str> {
    let device = client.strip_prefix(user)?.strip_prefix(':')?.strip_suffix(BACKGROUND)?;
    is_device(device).then_some(device)
}

/// Whether `client` is `{user}` or `{user}:{dev}`.
fn is_own(user: &str, client: &str) -> bool {
    client.strip_prefix(user).is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_device))
}

fn is_device(text: &str) -> bool {
    (1..=DEVICE_MAX).contains(&text.len()) && is_made_of(text, "_-")
}

/// Whether this stands in a key in the place of an id that is not plain.
fn is_hash(part: &str) -> bool {
    part.strip_prefix(HASHED).is_some_and(|hash| hash.len() == HASH_LEN && is_made_of(hash, "_-"))
}

fn is_plain(text: &str) -> bool {
    (1..=PLAIN_MAX).contains(&text.len()) && is_made_of(text, "._-")
}

/// Letters and digits, and some others.
fn is_made_of(text: &str, others: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::identity::name;

    #[test]
    fn the_keys_of_the_first_release_are_what_they_were() {
        for client in ["alice", "alice:phone", "alice:a_B-9", &format!("alice:{}", "x".repeat(32))] {
            assert_eq!(session_key(Some("alice"), client), client);
        }
    }

    #[test]
    fn any_other_id_stands_beside_its_user() {
        let key = |client: &str| session_key(Some("alice"), client);
        assert_eq!(key("mqttjs_1a2b3c4d"), "alice::mqttjs_1a2b3c4d");
        assert_eq!(key("host.example.main"), "alice::host.example.main");
        assert_eq!(key("bob"), "alice::bob");
        assert_eq!(key("bob:phone"), format!("alice::={}", URL_SAFE_NO_PAD.encode(Sha256::digest("bob:phone"))));
        for odd in ["", "a/b", "../../x", "a\\b", "..", "alice:", "alice:a:b", "alice::x", "=", "+", "#", "a\u{1}", "ü"]
        {
            let key = key(odd);
            assert!(key.starts_with("alice::=") || odd == "..", "{odd:?}: {key}");
        }
        assert_eq!(key(".."), "alice::..", "no name of a folder above");
        assert_eq!(session_key(None, "alice"), ":alice");
        assert_eq!(session_key(None, "mosq-1"), ":mosq-1");
    }

    #[test]
    fn devices() {
        let device = |client: &str| device_of("alice", client);
        assert_eq!(device("alice"), "default");
        assert_eq!(device("alice:phone"), "phone");
        assert_eq!(device("mqttjs_1a2b3c4d"), "mqttjs_1a2b3c4d");
        assert_eq!(device("alice2"), "alice2");
        // echo -n 'host.main' | sha256sum
        assert_eq!(device("host.main"), "80e4e657");
        for odd in ["", "bob:phone", "alice:", "alice:a.b", "a/b", &"x".repeat(33), "ü", "a\nb"] {
            let name = device(odd);
            assert!(name.len() == DEVICE_DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit()), "{odd}: {name}");
        }
    }

    #[test]
    fn a_connection_in_the_background_is_of_the_device_that_it_names() {
        for (client, device) in [("alice:phone:bg", "phone"), ("alice:default:bg", "default"), ("alice:bg:bg", "bg")] {
            assert!(is_background("alice", client), "{client}");
            assert_eq!(device_of("alice", client), device);
        }
        for client in ["alice:bg", "alice::bg", "phone:bg", "bob:phone:bg", "alice:a.b:bg", "alice:phone:bg:bg", "bg"] {
            assert!(!is_background("alice", client), "{client}");
        }
        let key = background_key("alice", 7);
        assert!(is_key_of(Some("alice"), &key) && !is_own("alice", &key) && !key.contains("::"));
        assert_ne!(key, background_key("alice", 8));
    }

    #[test]
    fn an_id_that_the_broker_gives_names_a_device() {
        for random in [0, 1, u128::MAX, 0x1234_5678_9abc_def0_1234_5678_9abc_def0] {
            let id = assigned(random);
            assert_eq!(device_of("alice", &id), id);
            assert_eq!(id.len(), 29);
        }
        assert_ne!(assigned(1), assigned(2));
    }

    fn user() -> impl Strategy<Value = Option<String>> {
        let name = prop_oneof![
            Just("alice".to_owned()),
            Just("a".to_owned()),
            Just("alice.b".to_owned()),
            "[a-z.=@é-]{1,6}",
            "[a-z]{64}",
        ];
        prop::option::of(name.prop_filter("no user name", |name| name::check(name).is_ok()))
    }

    fn client() -> impl Strategy<Value = String> {
        prop_oneof![
            2 => "[a-c:=./]{0,5}",
            2 => "(alice|a|:|=|::|\\.|b){0,4}",
            1 => any::<String>(),
            1 => "[a-z]{59,61}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_two_sessions_have_one_key(one in (user(), client()), other in (user(), client())) {
            let key = |(user, client): &(Option<String>, String)| session_key(user.as_deref(), client);
            prop_assert_eq!(key(&one) == key(&other), one == other);
        }

        #[test]
        fn every_key_is_the_name_of_a_file_in_its_folder(user in user(), client in client()) {
            let key = session_key(user.as_deref(), &client);
            prop_assert!(!key.is_empty(), "{}", key);
            prop_assert!(!key.starts_with("cert:"), "{}", key);
            prop_assert!(key != "." && key != ".." && !key.contains(['/', '\\']), "{}", key);
            prop_assert!(!key.chars().any(char::is_control) && key.len() <= 128, "{}", key);
        }

        #[test]
        fn a_key_belongs_to_its_user_and_to_nobody_else(user in user(), client in client(), other in user()) {
            let key = session_key(user.as_deref(), &client);
            prop_assert!(is_key_of(user.as_deref(), &key));
            prop_assert_eq!(is_key_of(other.as_deref(), &key), user == other);
        }

        #[test]
        fn every_client_id_names_a_device(user in "[a-z]{1,5}", client in client()) {
            prop_assert!(is_device(&device_of(&user, &client)));
        }
    }
}

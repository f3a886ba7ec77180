//! `fixture/` was written by the engine of earlier releases (`mqtt5` 0.49), through its own storage; its files of messages
//! are one line each since. It holds each case once. `tests/upgrade/0.1.0/broker` is what a release left at a kill.

use super::*;
use folder::{copy, fixture};
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;

#[path = "../../../tests/broker/fixture.rs"]
mod folder;

fn first_release() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade/0.1.0/broker")
}

struct Everything {
    sessions: BTreeMap<String, (FormerSession, SessionBacklog)>,
    retained: Vec<(Message, Option<String>)>,
    left_out: LeftOut,
}

fn everything(folder: &Path) -> io::Result<Everything> {
    let mut imported = read(folder)?.unwrap();
    let mut sessions = BTreeMap::new();
    for session in std::mem::take(&mut imported.sessions) {
        let waiting = imported.waiting(&session)?;
        sessions.insert(session.record.key.clone(), (session, waiting));
    }
    let mut retained = Vec::new();
    while let Some(message) = imported.next_retained()? {
        retained.push(message);
    }
    retained.sort_by(|(a, _), (b, _)| a.topic.cmp(&b.topic));
    Ok(Everything { sessions, retained, left_out: imported.left_out })
}

impl Everything {
    /// What waits for a session: payload, and the packet identifier of what was sent.
    fn waiting(&self, key: &str) -> Vec<(&str, Option<u16>)> {
        let told = |taken: &'_ ImportedMessage| taken.sent.map(|sent| sent.packet_id);
        let messages = &self.sessions[key].1.messages;
        messages.iter().map(|taken| (str::from_utf8(&taken.message.payload).unwrap(), told(taken))).collect()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

#[test]
fn a_folder_where_nobody_has_written_has_nothing() {
    let folder = tempfile::tempdir().unwrap();
    assert!(read(folder.path()).unwrap().is_none());
    assert!(read(&folder.path().join("none")).unwrap().is_none());
    fs::write(folder.path().join(".storage_version"), "2").unwrap();
    assert!(read(folder.path()).unwrap().unwrap().sessions.is_empty());
}

#[test]
fn files_of_a_form_that_no_release_wrote_are_not_guessed_at() {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1", "3", ""] {
        fs::write(folder.path().join(".storage_version"), version).unwrap();
        assert_eq!(read(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn sessions_have_todays_keys_and_what_they_subscribed_to() {
    let found = everything(&fixture()).unwrap();
    let known: Vec<_> = found
        .sessions
        .values()
        .map(|(session, _)| {
            let SessionRecord { key, user, client, expiry_s, .. } = &session.record;
            (key.as_str(), user.as_deref(), client.as_str(), *expiry_s, session.left_at)
        })
        .collect();
    let hashed = "alice::=2cRA6AmdkQfuxnq_aqkwnwcNvIYDlykDSIxzn0fDzBU";
    let expected = [
        (":bal1", None, "bal1", 60, None),
        (":mosq-1", None, "mosq-1", u32::MAX, None),
        ("alice", Some("alice"), "alice", 3_600, Some(1_700_000_000_000)),
        (hashed, Some("alice"), &hashed[7..], 60, None),
        ("alice::laptop", Some("alice"), "laptop", 60, None),
        ("bob::auto-0123", Some("bob"), "auto-0123", 60, None),
        ("erin", Some("erin"), "erin", 60, None),
    ];
    assert_eq!(known, expected);
    let subscribed = |filter: &str, options, id| KeptSubscription { filter: filter.to_owned(), options, id };
    let alice = [
        subscribed("$share/phones/alice/others/messages", 1, None),
        subscribed("+/self/presence", 0, None),
        subscribed("alice/self/#", 0b10_1110, Some(7)),
    ];
    assert_eq!(found.sessions["alice"].0.subscriptions, alice);
}

#[test]
fn what_was_sent_comes_first_then_what_waits_and_nothing_that_the_store_has() {
    let found = everything(&fixture()).unwrap();
    let alice =
        [("sent", Some(65_535)), ("wrapped", Some(1)), ("", Some(2)), ("full", None), ("event", None), ("last", None)];
    assert_eq!(found.waiting("alice"), alice);
    let waiting = &found.sessions["alice"].1;
    let released: Vec<_> = waiting.messages.iter().filter_map(|taken| Some(taken.sent?.released)).collect();
    assert_eq!(released, [false, false, true]);
    let incoming = waiting.incoming.iter().map(|(id, message)| (*id, &*message.payload, message.qos));
    assert_eq!(incoming.collect::<Vec<_>>(), [(9, &b"published"[..], QoS::ExactlyOnce)]);
    let last = &waiting.messages[5].message;
    assert!(last.retain && last.qos == QoS::ExactlyOnce && last.properties.is_empty());
    // It was sent to a connection that is gone, and waits again.
    assert_eq!(found.waiting(":mosq-1"), [("again", Some(5))]);
}

#[test]
fn a_message_keeps_its_properties_but_for_those_that_it_was_given_on_its_way() {
    let found = everything(&fixture()).unwrap();
    let taken = &found.sessions["alice"].1.messages[3];
    let properties = b"\x01\x01\x03\0\x0atext/plain\x08\0\x0dalice/answers\x09\0\x03c-1\x26\0\x01a\0\x01b";
    assert_eq!(&*taken.message.properties, properties);
    assert_eq!(taken.message.expires_at, Some(1_700_000_100_000));
    assert_eq!((&*taken.message.topic, taken.message.qos), ("alice/self/notes", QoS::AtLeastOnce));
    assert_eq!((&taken.ids[..], taken.message.retain), (&[7][..], false));
}

#[test]
fn a_session_under_both_forms_of_its_key_is_one() {
    let found = everything(&fixture()).unwrap();
    let (session, _) = &found.sessions[":bal1"];
    let filters: Vec<_> = session.subscriptions.iter().map(|subscription| &*subscription.filter).collect();
    assert_eq!(filters, ["bal1/#", "bal1/status"]);
    assert_eq!(found.waiting(":bal1"), [("sent", Some(7)), ("first", None), ("both", None), ("last", None)]);
}

#[test]
fn retained_messages_have_their_publishers() {
    let found = everything(&fixture()).unwrap();
    let told = |(message, user): &'_ (Message, Option<String>)| {
        assert!(message.retain && message.properties.is_empty());
        (message.topic.to_string(), user.clone(), message.qos as u8, message.expires_at)
    };
    let expected = [
        ("_bridge/status".to_owned(), None, 1, None),
        ("a%b/:/x".to_owned(), None, 0, Some(1_700_000_100_000)),
        ("alice/self/profile".to_owned(), Some("alice".to_owned()), 1, None),
    ];
    assert_eq!(found.retained.iter().map(told).collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_left_out_is_counted() {
    // Damaged is the session whose name is no name of a folder.
    let expected = LeftOut { documents: 3, wills: 1, messages: 2, damaged: 1 };
    assert_eq!(everything(&fixture()).unwrap().left_out, expected);
}

#[test]
fn what_the_first_release_left_at_a_kill_is_all_found() {
    let found = everything(&first_release()).unwrap();
    let keys: Vec<_> = found.sessions.keys().map(String::as_str).collect();
    let users = ["alice", "alice:old", "alice:phone", "bal1", "bal1:sender", "bal1:worker", "bob", "careful", "carol"];
    assert_eq!(keys, users);
    assert!(found.sessions.iter().all(|(key, (session, _))| session.record.client == *key));
    assert_eq!(found.sessions["bal1:worker"].0.subscriptions[0].filter, "$share/workers/bal1/none");
    let notes = |key: &str| {
        let mut waiting = found.waiting(key);
        waiting.retain(|(payload, _)| payload.contains("note"));
        waiting
    };
    assert_eq!(notes("alice"), [(r#"{"note": 1}"#, None), (r#"{"note": 2}"#, None)]);
    assert_eq!(notes("alice:phone"), [(r#"{"note": 1}"#, Some(3)), (r#"{"note": 2}"#, Some(4))]);
    assert_eq!((found.waiting("alice:phone").len(), found.waiting("bal1").len()), (5, 0));
    let retained: Vec<_> = found.retained.iter().map(|(message, user)| (&*message.topic, user.as_deref())).collect();
    let expected = [
        ("_bridge/status", None),
        ("alice/self/presence", None),
        ("alice/self/profile", Some("alice")),
        ("bal1/self/presence", Some("bal1")),
        ("bob/self/presence", None),
        ("carol/self/presence", None),
    ];
    assert_eq!(retained, expected);
    assert_eq!(found.left_out, LeftOut { documents: 4, ..LeftOut::default() });
}

#[test]
fn a_session_log_that_ends_in_the_midst_of_a_record_lacks_that_record() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture(), folder.path());
    let log = folder.path().join("sessions/sessions.log");
    let text = fs::read(&log).unwrap();
    fs::write(&log, &text[..text.len() - 1]).unwrap();
    let found = everything(folder.path()).unwrap();
    assert!(!found.sessions.contains_key("erin") && found.sessions.len() == 6);
    assert_eq!((found.left_out.wills, found.left_out.damaged), (0, 2));
}

#[test]
fn what_no_packet_can_hold_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture(), folder.path());
    let long = "x".repeat(65_536);
    let good = r#"{"topic":"x","payload":[],"qos":"AtLeastOnce","stored_at_secs":18446744073709551615,"message_expiry_interval":1"#;
    for (name, text) in [
        ("good", format!("{good}}}")),
        ("topic", good.replace(r#""x""#, r#""x/+""#) + "}"),
        ("empty", good.replace(r#""x""#, r#""""#) + "}"),
        ("long", good.replace(r#""x""#, &format!("{long:?}")) + "}"),
        ("property", format!(r#"{good},"user_properties":[["a",{long:?}]]}}"#)),
        ("nul", format!(r#"{good},"content_type":"\u0000"}}"#)),
        ("qos", good.replace("AtLeastOnce", "Thrice") + "}"),
    ] {
        fs::write(folder.path().join(format!("retained/{name}.json")), text).unwrap();
    }
    let found = everything(folder.path()).unwrap();
    assert_eq!((found.retained.len(), found.left_out.damaged), (4, 7));
    assert!(found.retained.iter().any(|(message, _)| &*message.topic == "x" && message.expires_at == Some(u64::MAX)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn damage_costs_what_it_hit_and_nothing_else(
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::option::of(any::<u8>())), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        copy(&fixture(), folder.path());
        let whole = everything(folder.path()).unwrap();
        let files: Vec<_> = files(folder.path()).into_iter().filter(|path| !path.ends_with(".storage_version")).collect();
        for (file, place, byte) in &damages {
            let path = file.get(&files);
            let mut text = fs::read(path).unwrap();
            if text.is_empty() {
                continue;
            }
            let at = place.index(text.len());
            match byte {
                Some(byte) => text[at] = *byte,
                None => text.truncate(at),
            }
            fs::write(path, text).unwrap();
        }
        let found = everything(folder.path()).unwrap();
        // A cut of the log costs all behind it, and may bring a session back that was removed.
        let is_hit = |path: &str| damages.iter().any(|(file, ..)| file.get(&files).ends_with(path));
        if !is_hit("sessions/sessions.log") {
            prop_assert!(whole.sessions.keys().eq(found.sessions.keys()));
            let messages = |all: &Everything| all.sessions.values().map(|(_, waiting)| waiting.messages.len()).sum::<usize>();
            prop_assert!(messages(&found) + damages.len() >= messages(&whole));
        }
        prop_assert!(found.retained.len() + damages.len() >= whole.retained.len());
    }
}

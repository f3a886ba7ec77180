//! A file of an earlier release: changed in place, in the midst of which the process may be killed.

use super::super::environment::{Environment, Phase};
use super::super::file::{beside, open, open_in};
use super::super::schema::{SCHEMA_VERSION, STEPS};
use super::old::{ALL_DUE, Content, MIXED, OLD, content, make, mark};
use crate::chat::id::{GroupId, Owner, Sid};
use crate::chat::suffix::requests::HistoryFrom;
use crate::store::sqlite::{Settings, check};
use crate::store::tests::NOW;
use crate::store::{HistoryQuery, Inspector, OpenError};
use bytes::Bytes;
use rusqlite::Connection;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::time::{Instant, advance};

/// Enough for several parts of the copy, and some looks at each phase.
const MESSAGES: u32 = 4000;
const BODY: u32 = 700;

fn old_store() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    make(&path, MESSAGES, ALL_DUE, BODY);
    (dir, path)
}

/// Where the copy of the old file is.
fn copy_of(path: &Path) -> PathBuf {
    beside(path, &format!(".schema-{OLD}"))
}

fn can_shrink(path: &Path) -> bool {
    let conn = Connection::open(path).unwrap();
    conn.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i32>(0)).unwrap() == 2
}

fn with_room(free: fn(&Path) -> std::io::Result<u64>) -> Environment {
    Environment { free, ..Environment::real() }
}

/// The log of this thread, in a file.
fn log_into(path: &Path) -> tracing::subscriber::DefaultGuard {
    let subscriber = tracing_subscriber::fmt().with_writer(File::create(path).unwrap()).with_ansi(false).finish();
    // A line that another thread comes to first, where nobody listens, would be taken for one that is never heard.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    tracing::subscriber::set_default(subscriber)
}

/// An empty store of an earlier schema.
fn store_of(schema: u8) -> (TempDir, PathBuf, Connection) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(&STEPS[..usize::from(schema)].concat()).unwrap();
    mark(&old, schema.into());
    (dir, path, old)
}

/// An item of a conversation, as schemas from 8 on have it.
fn add_item(old: &Connection, row: i64, kind: u8, (writer, peer): (&str, &str), hidden: bool) {
    let insert = "INSERT INTO chat (row, tail, kind, writer, by_bal, peer, at, theirs_writer, theirs_reader, received,
        hidden, waits, deadline, document) VALUES (?1, 1, ?2, ?3, 0, ?4, 5, 0, 1, 0, ?5, 0, 9, x'7b7d')";
    old.execute(insert, (row, kind, writer, peer, hidden)).unwrap();
}

#[test]
fn a_store_without_a_place_for_bals_that_are_away_gets_one() {
    let (_dir, path, old) = store_of(18);
    drop(old);
    let (conn, _lock) = open(&path).unwrap();
    conn.execute("INSERT INTO away (bal) VALUES ('shop')", []).unwrap();
    let away: String = conn.query_row("SELECT bal FROM away", [], |row| row.get(0)).unwrap();
    assert_eq!(away, "shop");
}

#[test]
fn of_sessions_and_messages_of_before_it_is_not_known_how_anybody_had_logged_in() {
    let (_dir, path, old) = store_of(19);
    old.execute_batch(
        "INSERT INTO queues (queue, kind, key, user, client, expiry_s, sent_up_to, crashed_up_to)
            VALUES (7, 0, 'alice', 'alice', 'alice', 60, 0, 0);
        INSERT INTO scheduled (row, tail, writer, by_bal, id, not_before, ttl, document)
            VALUES (8, 1, 'alice', 0, 'm1', 5, 9, x'7b7d')",
    )
    .unwrap();
    drop(old);
    let (conn, _lock) = open(&path).unwrap();
    let login = conn.query_row("SELECT role, token_key FROM queues WHERE key = 'alice'", [], |row| {
        Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<Vec<u8>>>(1)?))
    });
    assert_eq!(login, Ok((None, None)));
    let by_token = conn.query_row("SELECT by_token FROM scheduled WHERE id = 'm1'", [], |row| row.get(0));
    assert_eq!(by_token, Ok(None::<bool>));
}

#[test]
fn the_oldest_schema_is_brought_forward_with_its_rows() {
    let (_dir, path, old) = store_of(1);
    old.execute_batch("UPDATE marks SET seq_ceiling = 42").unwrap();
    drop(old);
    for _ in 0..2 {
        let (conn, _lock) = open(&path).unwrap();
        let marks = conn.query_row("SELECT seq_ceiling, alive_at FROM marks", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        assert_eq!(marks.unwrap(), (42, 0));
        let schema = conn.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0));
        assert_eq!(schema.unwrap(), SCHEMA_VERSION);
    }
    assert!(beside(&path, ".schema-1").exists());
}

#[tokio::test]
async fn a_store_without_chat_is_brought_forward_without_a_copy_and_takes_chat() {
    let (_dir, path, old) = store_of(6);
    old.execute_batch("UPDATE marks SET seq_ceiling = 42").unwrap();
    drop(old);
    drop(open(&path).unwrap());
    assert!(!beside(&path, ".schema-6").exists(), "tables alone are made");
    let settings = Settings::new(&path);
    let (store, thread, recovery) = crate::store::sqlite::open(&settings, NOW).unwrap();
    assert_eq!(recovery.last_sid, None);
    let alice = Owner::new("alice").unwrap();
    store.chat_user_seen(alice.clone()).await.unwrap().await.unwrap();
    assert!(store.chat_sync(alice, None).await.unwrap().await.unwrap().complete);
    assert_eq!(store.figures().chat_rows, 0);
    thread.close().await.unwrap();
}

#[test]
fn a_store_with_chat_keeps_its_messages_and_what_phones_show() {
    let (_dir, path, old) = store_of(7);
    old.execute_batch(
        "INSERT INTO chat (row, tail, kind, writer, by_bal, id, peer, dev, at, n_writer, n_reader, theirs_writer,
            theirs_reader, received, hidden, waits, deadline, document)
            VALUES (7, 1, 0, 'alice', 0, 'm1', 'bob', 'phone', 5, 1, 1, 0, 1, 0, 0, 0, 9, x'7b7d');
        INSERT INTO pushed VALUES ('bob', 'alice', 7, 'phone', 8)",
    )
    .unwrap();
    drop(old);
    let (conn, _lock) = open(&path).unwrap();
    assert_eq!(conn.query_row("SELECT receipt FROM chat WHERE id = 'm1'", [], |row| row.get::<_, bool>(0)), Ok(true));
    let note = "SELECT dev, delivery FROM pushed WHERE user = 'bob' AND peer = 'alice' AND row = 7";
    let shown = conn.query_row(note, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
    assert_eq!(shown, Ok(("phone".to_owned(), 8)));
}

#[test]
fn open_invitations_are_found_by_who_invited() {
    let (_dir, path, old) = store_of(16);
    for (row, kind, writer) in [(3, 2, "alice"), (4, 0, "alice"), (5, 2, "carol")] {
        add_item(&old, row, kind, (writer, "bob"), false);
    }
    drop(old);
    let (conn, _lock) = open(&path).unwrap();
    let found = "SELECT row FROM chat INDEXED BY chat_inviting WHERE writer = 'alice' AND kind = 2 AND answer IS NULL";
    assert_eq!(conn.query_row(found, [], |row| row.get::<_, i64>(0)), Ok(3));
}

#[test]
fn what_blocked_members_wrote_in_groups_is_a_place_without_content() {
    let (_dir, path, old) = store_of(13);
    // Bob came with row 5 and has blocked eve.
    old.execute_batch(
        r#"INSERT INTO contacts VALUES ('bob', 'eve', '{"blocked":true}'), ('carol', 'eve', '{"contact":true}');
        INSERT INTO members (gid, user, owner, came, reads_from, read, read_counted, received)
            VALUES ('g-1', 'bob', 0, 5, 5, 0, 0, 0), ('g-1', 'carol', 0, 1, 1, 0, 0, 0), ('g-1', 'eve', 0, 1, 1, 0, 0, 0)"#,
    )
    .unwrap();
    for (row, kind, writer, peer) in
        [(3, 0, "eve", "g-1"), (6, 0, "eve", "g-1"), (7, 0, "carol", "g-1"), (8, 5, "eve", "g-1"), (9, 0, "eve", "bob")]
    {
        add_item(&old, row, kind, (writer, peer), false);
    }
    drop(old);
    let (conn, _lock) = open(&path).unwrap();
    let mut places = conn.prepare("SELECT user, peer, row, blocked FROM deleted").unwrap();
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let places: Vec<(String, String, i64, bool)> = places.query_map([], read).unwrap().map(Result::unwrap).collect();
    assert_eq!(places, [("bob".to_owned(), "g-1".to_owned(), 6, true)]);
}

#[test]
fn who_has_gone_from_a_group_keeps_what_it_was_and_pushes_go_on_waiting() {
    let (_dir, path, old) = store_of(14);
    old.execute_batch(
        r#"INSERT INTO chat_groups VALUES ('g-1', '{"name":"Team"}', 7, 2, 9, 5, 0, 20), ('g-2', '{}', 1, 0, 1, 0, 0, 3);
        INSERT INTO members (gid, user, owner, came, reads_from, gone, read, read_counted, received)
            VALUES ('g-1', 'alice', 1, 1, 1, NULL, 0, 0, 0), ('g-1', 'bob', 0, 1, 1, NULL, 0, 0, 0),
                ('g-1', 'carol', 0, 1, 1, 12, 0, 0, 0), ('g-1', 'dave', 0, 1, 1, 2, 0, 0, 0);
        INSERT INTO mentions VALUES ('bob', 'g-1', 10), ('carol', 'g-1', 10);
        INSERT INTO unpushed VALUES (10);
        INSERT INTO group_confirmed VALUES ('bob', 10, 'web'), ('bob', 4, 'web')"#,
    )
    .unwrap();
    for (row, kind, n, theirs, amends, decided) in [
        (10, 0, Some(3), 2, None, Some(r#"{"rules":{"muted":["erin"],"no_room":["bob","alice"]}}"#)),
        (11, 0, Some(4), 3, None, None),
        (12, 5, Some(5), 3, None, None),
        (13, 4, None, 2, Some(10), None),
    ] {
        let insert = "INSERT INTO chat (row, tail, kind, writer, by_bal, peer, at, n_writer, n_reader, theirs_writer,
            theirs_reader, received, hidden, waits, deadline, document, amends, decided)
            VALUES (?1, 1, ?2, 'alice', 0, 'g-1', 5, ?3, ?3, ?4, ?4, 0, 0, 0, 9, x'7b7d', ?5, ?6)";
        old.execute(insert, (row, kind, n, theirs, amends, decided)).unwrap();
    }
    drop(old);
    let (conn, _lock) = open(&path).unwrap();
    let texts = |sql: &str| -> Vec<String> {
        let mut found = conn.prepare(sql).unwrap();
        found.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let left = "SELECT user || left_settings || left_version || left_count FROM members WHERE left_settings NOT NULL
        ORDER BY user";
    assert_eq!(
        texts(left),
        [r#"carol{"name":"Team"}75"#, r#"dave{"name":"Team"}79"#],
        "5 was hers, and of his none is kept"
    );
    assert_eq!(texts("SELECT user || peer || row FROM unpushed_members"), ["aliceg-110", "bobg-110"]);
    assert_eq!(texts("SELECT user || peer || row || dev FROM group_confirmed"), ["bobg-110web"]);
    assert_eq!(texts("SELECT user FROM mentions"), ["bob"]);
    assert_eq!(texts("SELECT row || ' ' || theirs_reader FROM chat"), ["10 2", "11 3", "12 3", "13 3"]);
}

#[tokio::test]
async fn members_and_who_has_gone_keep_what_was_written_while_they_were_in_a_group() {
    let (_dir, path, old) = store_of(17);
    old.execute_batch(
        r#"INSERT INTO chat_groups VALUES ('g-1', '{"name":"Team"}', 7, 1, 9, 5, 0, 14);
        INSERT INTO members (gid, user, owner, came, reads_from, gone, read, read_counted, received, left_settings,
                left_version, left_count)
            VALUES ('g-1', 'alice', 1, 1, 1, NULL, 1, 0, 0, NULL, NULL, NULL),
                ('g-1', 'bob', 0, 10, 10, 12, 11, 0, 11, '{"name":"Team"}', 6, 5),
                ('g-1', 'carol', 0, 11, 0, 12, 12, 0, 10, '{"name":"Team"}', 6, 5)"#,
    )
    .unwrap();
    for (row, kind) in [(9, 0), (10, 5), (11, 5), (12, 5), (13, 0)] {
        add_item(&old, row, kind, ("alice", "g-1"), false);
    }
    old.execute("UPDATE chat SET document = CAST('{\"body\":\"hi\"}' AS BLOB)", []).unwrap();
    drop(old);
    let (store, thread, _) = crate::store::sqlite::open(&Settings::new(&path), NOW).unwrap();
    for (user, expected) in [("alice", 9..=13), ("bob", 10..=12), ("carol", 9..=12)] {
        let (user, with) = (Owner::new(user).unwrap(), GroupId::new("g-1").unwrap().into());
        let query = HistoryQuery { with, from: HistoryFrom::Newest, limit: 9 };
        let page = store.chat_history(user.clone(), query).await.unwrap().await.unwrap().unwrap();
        let row = |item: &Bytes| {
            let item: Value = serde_json::from_slice(item).unwrap();
            Sid::parse(item["sid"].as_str().unwrap()).unwrap().row().0
        };
        assert_eq!(page.items.iter().map(row).collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{user}");
    }
    thread.close().await.unwrap();
    let conn = Connection::open(&path).unwrap();
    let spans = |user: &str| {
        conn.query_row("SELECT spans FROM members WHERE user = ?1", [user], |row| row.get::<_, Option<String>>(0))
            .unwrap()
    };
    let expected = [None, Some("[[10,10,12,11,11]]"), Some("[[11,0,12,10,12]]")];
    assert_eq!(["alice", "bob", "carol"].map(spans), expected.map(|spans| spans.map(str::to_owned)));
}

#[test]
fn a_store_with_chat_gets_the_order_of_its_conversations() {
    let (_dir, path, old) = store_of(8);
    let standing = r#"{"first":{"count":2,"unread":0},"second":{"count":1,"unread":1,"theirs":1}}"#;
    for (first, second) in [("alice", "bob"), ("alice", "alice"), ("bob", "carol")] {
        old.execute("INSERT INTO conversations VALUES (?1, ?2, ?3)", [first, second, standing]).unwrap();
    }
    // The second message was swallowed by a block, and of bob and carol nothing is kept.
    for (row, kind, writer, peer, hidden) in [
        (7, 0, "alice", "bob", false),
        (8, 0, "alice", "bob", true),
        (9, 0, "alice", "alice", true),
        (10, 2, "eve", "bob", false),
        (11, 2, "mallory", "bob", true),
    ] {
        add_item(&old, row, kind, (writer, peer), hidden);
    }
    drop(old);
    let (conn, _lock) = open(&path).unwrap();
    let order = "SELECT first, second, newest_first, newest_second, standing FROM conversations ORDER BY first, second";
    let mut order = conn.prepare(order).unwrap();
    let read = |row: &rusqlite::Row<'_>| {
        let (pair, kept) = ([row.get::<_, String>(0)?, row.get(1)?], row.get::<_, String>(4)? == standing);
        Ok((pair, row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(3)?, kept))
    };
    let order: Vec<_> = order.query_map([], read).unwrap().map(Result::unwrap).collect();
    let of =
        |first: &str, second: &str, newest, other, kept| ([first.to_owned(), second.to_owned()], newest, other, kept);
    assert_eq!(
        order,
        [
            of("alice", "alice", Some(9), None, true),
            of("alice", "bob", Some(8), Some(7), true),
            of("bob", "carol", None, None, true),
            of("bob", "eve", Some(10), Some(10), false),
            of("bob", "mallory", None, Some(11), false),
        ]
    );
    let made: String =
        conn.query_row("SELECT standing FROM conversations WHERE second = 'eve'", [], |row| row.get(0)).unwrap();
    serde_json::from_str::<crate::chat::conversation::Conversation>(&made).unwrap();
}

#[test]
fn the_old_store_lies_beside_the_new_one_and_its_owner_is_told_before() {
    let (dir, path) = old_store();
    let old = content(&path);
    check(&path).unwrap();
    assert!(matches!(Inspector::open(&path), Err(OpenError::TooOld { found: OLD, known: SCHEMA_VERSION })));
    assert_eq!(content(&path), old, "a look changes nothing");
    let log = dir.path().join("log");
    let guard = log_into(&log);
    let phases = Arc::new(Mutex::new(Vec::new()));
    let (seen, told) = (phases.clone(), log.clone());
    let watch = Arc::new(move |phase| {
        let mut seen = seen.lock().unwrap();
        if seen.is_empty() {
            let told = fs::read_to_string(&told).unwrap();
            assert!(told.contains("WARN") && told.contains("earlier releases cannot open it afterwards"), "{told}");
            let change = format!("schema=4 becomes={SCHEMA_VERSION}");
            assert!(told.contains("store.db.schema-4") && told.contains(&change), "{told}");
        }
        seen.push(phase);
    });
    drop(open_in(&path, &Environment { watch, ..Environment::real() }).unwrap());
    drop(guard);

    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["log", "store.db", "store.db.lock", "store.db.schema-4"]);
    assert_eq!(content(&path), Content { schema: SCHEMA_VERSION, rows: old.rows });
    assert_eq!(content(&copy_of(&path)), old);
    assert!(can_shrink(&path));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(copy_of(&path).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut phases = phases.lock().unwrap().clone();
    phases.dedup_by_key(|phase| std::mem::discriminant(phase));
    assert!(
        matches!(
            phases[..],
            [
                Phase::Copying { done: 1.., of: 1.. },
                Phase::Changing { step: 1, of: 16 },
                Phase::Committing,
                Phase::Rebuilding,
                Phase::Checkpointing
            ]
        ),
        "{phases:?}"
    );
    let told = fs::read_to_string(&log).unwrap();
    for words in
        ["the store is changed store", "can shrink from now on", "the store is rebuilt store", "seconds=", "bytes="]
    {
        assert!(told.contains(words), "{words} in {told}");
    }
}

#[test]
fn without_room_there_is_no_copy_and_the_next_start_lets_the_file_shrink() {
    let (dir, path) = old_store();
    let old = content(&path);
    let size = path.metadata().unwrap().len();
    let log = dir.path().join("log");
    let guard = log_into(&log);
    drop(open_in(&path, &with_room(|_| Ok(4711))).unwrap());
    drop(guard);
    assert_eq!(content(&path), Content { schema: SCHEMA_VERSION, rows: old.rows });
    assert!(!copy_of(&path).exists() && !beside(&copy_of(&path), ".part").exists());
    assert!(!can_shrink(&path));
    let told = fs::read_to_string(&log).unwrap();
    let needed = |words: &str| {
        let line = told.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words} in {told}"));
        assert!(line.contains("WARN") && line.contains("free_bytes=4711"), "{line}");
        let (_, needed) = line.split_once("needed_bytes=").unwrap();
        needed.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(needed("There is no room for a copy") > size);
    assert!(needed("the store cannot shrink") > 2 * size);

    // Nothing is copied any more: the old one is gone.
    drop(open(&path).unwrap());
    assert!(can_shrink(&path));
    assert!(!copy_of(&path).exists());
    assert_eq!(content(&path), Content { schema: SCHEMA_VERSION, rows: old.rows });
}

#[test]
fn a_disk_that_cannot_say_how_much_room_it_has_leaves_the_store_as_it_is() {
    let (_dir, path) = old_store();
    let old = content(&path);
    let silent = with_room(|_| Err(std::io::ErrorKind::PermissionDenied.into()));
    assert!(matches!(open_in(&path, &silent), Err(OpenError::Refused { .. })));
    assert_eq!(content(&path), old);
}

#[test]
fn a_copy_that_cannot_be_made_leaves_the_store_as_it_is() {
    let (_dir, path) = old_store();
    let old = content(&path);
    // Something with its name that no file can take the place of.
    fs::create_dir_all(copy_of(&path).join("full")).unwrap();
    assert!(open(&path).is_err());
    assert_eq!(content(&path), old);
    fs::remove_dir_all(copy_of(&path)).unwrap();
    drop(open(&path).unwrap());
    assert_eq!(content(&copy_of(&path)), old);
}

#[cfg(unix)]
#[test]
fn the_copy_lies_where_the_store_is_and_not_where_a_link_to_it_is() {
    let (_dir, path) = old_store();
    let links = tempfile::tempdir().unwrap();
    let link = links.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    check(&link).unwrap();
    drop(open(&link).unwrap());
    assert!(copy_of(&path).exists() && !copy_of(&link).exists());
}

/// Says what it is told every two seconds and not more often.
#[tokio::test(start_paused = true)]
async fn a_change_that_takes_long_tells_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let guard = log_into(&log);
    let watch = Environment::real().watch;
    let ms = |ms| std::time::Duration::from_millis(ms);
    let lines = || fs::read_to_string(&log).unwrap().lines().count();
    watch(Phase::Copying { done: 1, of: 9 });
    advance(ms(1999)).await;
    watch(Phase::Copying { done: 2, of: 9 });
    assert_eq!(lines(), 0, "nobody waits long for a small one");
    let phases = [Phase::Copying { done: 3, of: 9 }, Phase::Changing { step: 1, of: 2 }, Phase::Committing];
    for (count, phase) in phases.into_iter().chain([Phase::Rebuilding, Phase::Checkpointing]).enumerate() {
        advance(ms(1)).await;
        watch(phase);
        watch(phase);
        assert_eq!(lines(), count + 1);
        advance(ms(1999)).await;
    }
    drop(guard);
    let told = fs::read_to_string(&log).unwrap();
    assert!(told.contains("copied_bytes=3 of_bytes=9 seconds=2"), "{told}");
    assert!(told.contains("step=1 of=2 seconds=4"), "{told}");
}

/// Where a child process is killed: at the n-th look at a phase.
const KILLS: [(&str, u32); 7] = [
    ("Copying", 1),
    ("Copying", 2),
    ("Changing", 1),
    ("Changing", 2),
    ("Committing", 1),
    ("Rebuilding", 1),
    ("Checkpointing", 1),
];
/// The phase, the look and the file, for the child.
const CHILD: [&str; 3] = ["CHANGE_PHASE", "CHANGE_LOOK", "CHANGE_PATH"];
const THERE: &str = "the child is there";

/// Changes a store until it is at a phase, says so, and does nothing more.
#[test]
#[ignore = "the child of another test"]
fn a_child_stops_in_the_midst_of_its_change() {
    let [phase, look, path] = CHILD.map(|name| std::env::var(name).unwrap());
    let (look, looks) = (look.parse::<u32>().unwrap(), AtomicU32::new(0));
    let watch = Arc::new(move |at: Phase| {
        if format!("{at:?}").starts_with(&phase) && looks.fetch_add(1, Relaxed) + 1 == look {
            println!("\n{THERE}");
            std::io::stdout().flush().unwrap();
            // Until it is killed; or its parent is gone.
            let _ = std::io::stdin().read(&mut [0]);
            std::process::exit(1);
        }
    });
    drop(open_in(Path::new(&path), &Environment { watch, ..Environment::real() }).unwrap());
}

fn kill_at(phase: &str, look: u32, path: &Path) {
    let (_, here) = module_path!().split_once("::").unwrap();
    let values = [phase, &look.to_string(), path.to_str().unwrap()];
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{here}::a_child_stops_in_the_midst_of_its_change"), "--ignored", "--nocapture"])
        .envs(CHILD.into_iter().zip(values))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line == THERE), "the child came to {phase} {look} times");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_change_that_is_killed_leaves_the_old_store_or_the_new_one() {
    let (dir, path) = old_store();
    let old = content(&path);
    let new = Content { schema: SCHEMA_VERSION, rows: old.rows };
    for (phase, look) in KILLS {
        let copied = tempfile::tempdir().unwrap();
        for name in ["store.db", "store.db-wal"] {
            fs::copy(dir.path().join(name), copied.path().join(name)).unwrap();
        }
        let path = copied.path().join("store.db");
        kill_at(phase, look, &path);
        let found = if ["Rebuilding", "Checkpointing"].contains(&phase) { &new } else { &old };
        assert_eq!(content(&path), *found, "{phase} {look}");
        assert_eq!(copy_of(&path).exists(), phase != "Copying", "{phase} {look}");
        if copy_of(&path).exists() {
            assert_eq!(content(&copy_of(&path)), old, "{phase} {look}");
        }
        drop(open(&path).unwrap());
        assert_eq!(content(&path), new, "{phase} {look}");
        assert_eq!(content(&copy_of(&path)), old, "{phase} {look}");
        assert!(can_shrink(&path), "{phase} {look}");
        assert!(!beside(&copy_of(&path), ".part").exists());
    }
}

/// Wall time and processor time since the process began, in seconds.
fn clocks(started: Instant) -> [f64; 2] {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.split_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    [started.elapsed().as_secs_f64(), ticks as f64 / 100.0]
}

/// How long it takes on this machine. Prints, asserts nothing of it:
/// `cargo test --release --lib sqlite::tests::migrate::a_million -- --ignored --nocapture`. The store is made below
/// `TMPDIR`.
#[test]
#[ignore = "a measurement"]
fn a_million_messages_of_the_first_release() {
    for (what, states, body) in [("mixed", MIXED, 700), ("all due", ALL_DUE, 700), ("all due, large", ALL_DUE, 1900)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        make(&path, 1_000_000, states, body);
        File::open(&path).unwrap().sync_all().unwrap();
        println!("{what}: {:.2} GB", path.metadata().unwrap().len() as f64 / 1e9);
        let started = Instant::now();
        // What took how long: each phase ends where another one begins.
        let phases = Arc::new(Mutex::new((None, clocks(started))));
        let seen = phases.clone();
        let watch = Arc::new(move |phase: Phase| {
            let mut seen = seen.lock().unwrap();
            if seen.0 != Some(std::mem::discriminant(&phase)) {
                let now = clocks(started);
                println!(
                    "  {:.2} s ({:.2} s of processor time) until {phase:?}",
                    now[0] - seen.1[0],
                    now[1] - seen.1[1]
                );
                *seen = (Some(std::mem::discriminant(&phase)), now);
            }
        });
        drop(open_in(&path, &Environment { watch, ..Environment::real() }).unwrap());
        let (seen, now) = (phases.lock().unwrap().1, clocks(started));
        println!("  {:.2} s ({:.2} s) until it is open; {:.2} s in all", now[0] - seen[0], now[1] - seen[1], now[0]);
        let (_, _, recovery) = crate::store::sqlite::open(&Settings::new(&path), NOW).unwrap();
        let again = clocks(started);
        println!(
            "  {:.2} s ({:.2} s) the next start, {} crashed",
            again[0] - now[0],
            again[1] - now[1],
            recovery.crashed
        );
    }
}

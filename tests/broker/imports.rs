//! What earlier releases kept in the folder of sessions.

use std::fs;
use std::path::Path;

use fcm_mqtt_bridge::broker::{Broker, BrokerConfig, BrokerDependencies, BrokerError};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt;
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::ops::metrics::Metrics;
use fcm_mqtt_bridge::store::sqlite::{self, Settings};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::fixture::{copy, fixture};
use super::harness::{Harness, Users, config};
use super::log::Log;
use super::peer::{Connect, PUBACK, Peer, Seen, V311};

const TAKEN: &str = "what an earlier release kept is in the store";
const LEFT_OUT: &str = "not all that an earlier release kept could be taken over";
/// What an import brings, without the numbers that it is given.
const CONTENT: [&str; 5] = [
    "SELECT key, user, client, expiry_s, sent_up_to > 0 FROM queues ORDER BY key",
    "SELECT key, filter, options, id FROM subscriptions JOIN queues USING (queue) ORDER BY 1, 2",
    "SELECT key, how, q.bytes, packet_id, q.expires_at, ids, coalesce(q.topic, b.topic), coalesce(q.payload, b.payload)
    FROM queue q JOIN queues USING (queue) LEFT JOIN bodies b USING (seq) ORDER BY key, seq",
    "SELECT key, id, pending FROM incoming JOIN queues USING (queue) ORDER BY 1, 2",
    "SELECT * FROM retained ORDER BY topic",
];

/// A folder with one of each thing that a release may have kept.
fn kept() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture(), folder.path());
    folder
}

/// Starts a broker that lets everybody in and knows alice, an admin, who may read everything.
async fn start(folder: &Path) -> Harness {
    let users = Users::new(&[("alice", Role::Admin)]);
    Harness::bind(BrokerConfig { anonymous: true, data: Some(folder.to_owned()), ..users.config() }).await
}

fn file(folder: &Path) -> Connection {
    Connection::open(folder.join("bridge.db")).unwrap()
}

fn content(folder: &Path) -> Vec<Vec<String>> {
    let file = file(folder);
    let table = |sql| {
        let mut statement = file.prepare(sql).unwrap();
        let columns = statement.column_count();
        let told = |row: &rusqlite::Row<'_>| {
            let value = |column| match row.get_ref(column)? {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(format!("{}|", String::from_utf8_lossy(bytes))),
                other => Ok(format!("{other:?}|")),
            };
            (0..columns).map(value).collect::<Result<String, _>>()
        };
        let rows = statement.query_map([], told).unwrap();
        rows.map(Result::unwrap).collect()
    };
    CONTENT.into_iter().map(table).collect()
}

#[tokio::test]
async fn what_a_kill_interrupts_the_next_start_does_again_and_what_is_there_stays() {
    let folder = kept();
    start(folder.path()).await.close().await;
    let whole = content(folder.path());
    // A group is among the queues, and among the rows what was published and has two readers, who get it now.
    assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 13, 1, 3]);
    for broken in [
        "",
        "DELETE FROM retained WHERE topic <> '_bridge/status'",
        "DELETE FROM queue WHERE queue IN (SELECT queue FROM queues WHERE key <> 'alice');
        DELETE FROM subscriptions WHERE queue IN (SELECT queue FROM queues WHERE key <> 'alice');
        DELETE FROM queues WHERE key <> 'alice';
        DELETE FROM bodies; UPDATE incoming SET pending = 1",
        "DELETE FROM queue WHERE payload IS NULL; DELETE FROM bodies; UPDATE incoming SET pending = 1",
    ] {
        file(folder.path()).execute_batch(&format!("UPDATE marks SET imported = 0; {broken}")).unwrap();
        start(folder.path()).await.close().await;
        assert_eq!(content(folder.path()), whole, "{broken}");
    }
    // When all is there, nobody looks any more.
    file(folder.path()).execute_batch("DELETE FROM retained").unwrap();
    start(folder.path()).await.close().await;
    assert_eq!(content(folder.path())[4], [""; 0]);
}

#[tokio::test]
async fn what_another_had_published_is_kept_for_those_only_who_may_read_it() {
    let readers = |folder: &Path| {
        let sql = "SELECT key FROM queue q JOIN queues USING (queue) LEFT JOIN bodies b USING (seq)
            WHERE coalesce(q.payload, b.payload) = CAST('published' AS BLOB) ORDER BY key";
        let file = file(folder);
        let mut statement = file.prepare(sql).unwrap();
        let keys = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        keys.map(Result::unwrap).collect::<Vec<_>>()
    };
    let folder = kept();
    start(folder.path()).await.close().await;
    assert_eq!(readers(folder.path()), [":mosq-1", "alice::laptop"]);
    // Without a users file nobody is alice.
    let folder = kept();
    Harness::bind(BrokerConfig { data: Some(folder.path().to_owned()), ..config() }).await.close().await;
    assert_eq!(readers(folder.path()), [":mosq-1"]);
}

#[tokio::test]
async fn a_client_goes_on_where_it_stood_and_gets_what_another_had_published() {
    let folder = kept();
    let harness = start(folder.path()).await;
    let connect = Connect { client: "mosq-1", version: V311, clean: false, ..Connect::default() };
    let (mut reader, resumed) = Peer::connect(&harness, connect).await;
    assert!(resumed);
    assert_eq!(reader.message().await, ("again".to_owned(), 5, true));
    let (payload, id, dup) = reader.message().await;
    assert_eq!((payload.as_str(), dup), ("published", false));
    for id in [5, id] {
        reader.ack(PUBACK, id).await;
    }
    reader.quiet().await;
    let mut other = Peer::new(&harness, "other").await;
    other.subscribe("a%b/:/x", 1).await;
    other.publish("x/z", 1, "new").await;
    assert_eq!(other.next().await, Seen::Ack(PUBACK, 1, 0));
    assert_eq!(reader.message().await.0, "new");
    harness.close().await;
}

#[tokio::test]
async fn it_is_told_once_what_was_taken_over_and_what_was_not() {
    let (folder, log) = (kept(), Log::default());
    let _guard = log.listen(Level::INFO);
    for _ in 0..2 {
        start(folder.path()).await.close().await;
    }
    let text = log.text();
    let lines = |what| text.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    let ([taken], [left_out]) = (&lines(TAKEN)[..], &lines(LEFT_OUT)[..]) else { panic!("{text}") };
    assert!(taken.contains("INFO") && taken.contains("sessions=7 messages=12 retained=3"), "{taken}");
    assert!(left_out.contains("WARN") && left_out.contains("wills=1 messages=2 damaged=1"), "{left_out}");
}

#[tokio::test]
async fn files_that_cannot_be_understood_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".storage_version"), "3").unwrap();
    let (store, writer, _) = sqlite::open(&Settings::new(folder.path().join("bridge.db")), now_ms()).unwrap();
    let broker = Broker::bind(BrokerConfig { data: Some(folder.path().to_owned()), ..config() }).await.unwrap();
    let (_port, outlet) = mqtt::port(1, 1);
    let (_reload, reload) = watch::channel(0);
    let metrics = Metrics::new().into();
    let dependencies = BrokerDependencies { metrics, reload, store, told: |_, _| () };
    let ended = broker.run(outlet, dependencies, CancellationToken::new()).await;
    let Err(BrokerError::Data { folder: named, reason }) = ended else { panic!("{ended:?}") };
    assert!(named == folder.path() && reason.contains("no release wrote"), "{reason}");
    writer.close().await.unwrap();
}

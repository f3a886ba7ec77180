//! What a message with one delivery costs on disk: messages with several are none of its business.

use crate::chat::delivery::Event;
use crate::chat::id::SidSource;
use crate::chat::topic::status_topic;
use crate::chat::transport::Transport;
use crate::store::sqlite::{Settings, open};
use crate::store::tests::{MANY, NOW, RECEIPTS, Rig, accepted};
use crate::store::{Deliveries, Destination, DueQuery, Limits, NewDelivery, NewMessage, SeveralDeliveries};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A store, and how many rows were changed before its last batch.
fn counted() -> (Rig, Arc<AtomicU64>) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_commit_delay: Duration::ZERO, ..Settings::new(dir.path().join("store.db")) };
    let changed = Arc::new(AtomicU64::new(0));
    let counter = changed.clone();
    let hook = Box::new(move |conn: &rusqlite::Connection| counter.store(conn.total_changes(), Relaxed));
    let (store, writer_thread, recovery) = open::open_with(&settings, NOW, hook).unwrap();
    (Rig { dir, settings, store, writer_thread, recovery, sids: SidSource::default() }, changed)
}

/// How many rows were changed since `since`, which is now from here on.
async fn since(rig: &Rig, changed: &AtomicU64, since: &mut u64) -> u64 {
    // Changes nothing itself, and comes in a batch behind the last one.
    rig.store.unrouted(0, 1).await.unwrap().await.unwrap();
    let now = changed.load(Relaxed);
    now - std::mem::replace(since, now)
}

#[tokio::test]
async fn a_message_with_one_delivery_changes_so_many_rows_and_no_more() {
    let (mut rig, changed) = counted();
    // What is written once in a while: numbers of documents, the mark of a topic that is read.
    let first = rig.new_message("a0");
    rig.accept(first).await;
    rig.statuses().await;
    let mut before = 0;
    since(&rig, &changed, &mut before).await;
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    assert_eq!(since(&rig, &changed, &mut before).await, 2, "the message, and its status");
    assert_eq!(rig.take_by(NOW, 2, MANY).await.claimed.len(), 2);
    assert_eq!(since(&rig, &changed, &mut before).await, 2, "each once");
    rig.record(sid, accepted(), NOW).await;
    assert_eq!(since(&rig, &changed, &mut before).await, 2);
    rig.record(sid, Event::RECEIPT, NOW).await;
    assert_eq!(since(&rig, &changed, &mut before).await, 2);
    let query = DueQuery { transport: Transport::Ccs, now: NOW, limit: 1, taken_on_accept: 0, pipelining: MANY };
    rig.store.take_due(query).await.unwrap().await.unwrap();
    let new = rig.new_message("a2");
    rig.accept(new).await;
    assert_eq!(rig.store.take_claimed_on_accept(&Transport::Ccs).len(), 1);
    assert_eq!(since(&rig, &changed, &mut before).await, 2, "the claim of what goes at once costs none");
    let documents = rig.next(RECEIPTS, 0).await;
    assert_eq!(since(&rig, &changed, &mut before).await, 1, "how far the topic was read");
    rig.publish(&documents).await;
    assert_eq!(since(&rig, &changed, &mut before).await, 4 + 1, "the documents, and how far the topic was read");
    let day = 24 * 3_600_000;
    rig.sweep_all(NOW + day - 1).await;
    since(&rig, &changed, &mut before).await;
    rig.sweep_all(NOW + day + 1).await;
    assert_eq!(since(&rig, &changed, &mut before).await, 1, "forgotten");
}

#[tokio::test]
async fn a_message_with_one_delivery_leaves_nothing_where_those_with_several_are() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let file = rusqlite::Connection::open(&rig.settings.path).unwrap();
    let count = |sql| file.query_row::<i64, _, _>(sql, [], |row| row.get(0)).unwrap();
    let several = || {
        let index = "SELECT count(*) FROM deliveries INDEXED BY deliveries_message WHERE message IS NOT NULL";
        (count("SELECT count(*) FROM messages"), count(index))
    };
    rig.accept(new).await;
    assert_eq!(several(), (0, 0));
    let text = "SELECT length(reply) FROM deliveries";
    assert_eq!(count(text), 0, "where all statuses of a sender go is not written down with each message");
    let new = rig.new_message("a2");
    let Deliveries::Only(push) = new.deliveries.clone() else { unreachable!("it has one") };
    let destination = Destination::Push { push, address: Bytes::from_static(b"T") };
    let several_deliveries =
        SeveralDeliveries::new(new.sid, vec![NewDelivery { sid: rig.sid(), destination }]).unwrap();
    rig.accept(NewMessage { deliveries: Deliveries::Several(several_deliveries), ..new }).await;
    assert_eq!(several(), (1, 1));
}

/// Bytes of a row, with its part of what SQLite has beside the values, of messages that have ended.
#[tokio::test]
async fn a_message_with_one_delivery_takes_so_many_bytes_and_no_more() {
    const MESSAGES: usize = 500;
    // One of them says that it is no push to a device of a chat user.
    const MOST: i64 = 88;
    let mut rig = Rig::in_memory(Limits::default());
    for n in 0..MESSAGES {
        let new = rig.new_message(&format!("{n:08}"));
        rig.accept(NewMessage { reply: status_topic("bal1"), ..new }).await;
    }
    for delivery in rig.take_by(NOW, MESSAGES, MANY).await.claimed {
        rig.record(delivery.sid, accepted(), NOW).await;
        rig.record(delivery.sid, Event::RECEIPT, NOW).await;
    }
    let file = rusqlite::Connection::open(&rig.settings.path).unwrap();
    let bytes = |table: &str| {
        let sum = "SELECT sum(payload) FROM dbstat WHERE name = ?1";
        file.query_row::<i64, _, _>(sum, [table], |row| row.get(0)).unwrap() / MESSAGES as i64
    };
    let now = bytes("deliveries");
    assert!(now <= MOST, "{now}");
    // As the first release wrote them: with the topic of the statuses, and without the column of those with several.
    let old = "CREATE TABLE old AS SELECT * FROM deliveries; ALTER TABLE old DROP COLUMN message;
        UPDATE old SET reply = bal || '/others/receipts'";
    file.execute_batch(old).unwrap();
    let before = bytes("old");
    assert!(before > MOST, "{before}");
}

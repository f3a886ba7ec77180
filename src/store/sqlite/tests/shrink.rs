//! The file after a backlog.

use crate::chat::delivery::{Event, Fate};
use crate::chat::id::Recipient;
use crate::chat::recipient_queue::Pipelining;
use crate::chat::refusal::RetryClock;
use crate::chat::transport::Transport;
use crate::store::tests::{NOW, Rig};
use crate::store::{AckedBy, Deliveries, Limits, NewPush};
use bytes::Bytes;
use rusqlite::Connection;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const MINUTE: u64 = 60_000;
const TOPIC: &str = "bal1/others/receipts";

/// Settled messages are forgotten at the next sweep.
fn rig() -> Rig {
    Rig::in_memory(Limits { history_rows: 0, ..Limits::default() })
}

/// Takes so many messages of 4 kB.
async fn fill(rig: &mut Rig, messages: usize, name: &str) {
    let mut pending = Vec::new();
    for n in 0..messages {
        let mut new = rig.new_message(&format!("{name}-{n}"));
        let (recipient, transport) = (Recipient(i64::try_from(n).unwrap()), Transport::Ccs);
        new.deliveries = Deliveries::Only(NewPush { recipient, transport, deadline_ms: u64::MAX, receipt: false });
        new.body = Bytes::from(vec![b'x'; 4000]);
        pending.push(rig.store.accept(new).await.unwrap());
    }
    for committed in pending {
        committed.await.unwrap();
    }
}

/// Sends them all, and lets their sender read what is told of them.
async fn drain(rig: &Rig, now: u64) {
    loop {
        let taken = rig.take_by(now, 500, Pipelining::Pipelined(1)).await;
        if taken.claimed.is_empty() {
            break;
        }
        let clock = RetryClock { now_ms: now, deadline_ms: u64::MAX, longest: Duration::MAX, permille: 0 };
        for claimed in taken.claimed {
            let sent = Event::Back { fate: Fate::ACCEPTED, copies: 1, replays: 0, clock };
            drop(rig.store.record(claimed.sid, sent, now).await.unwrap());
        }
    }
    loop {
        let waiting = rig.store.next_to_publish(TOPIC.into(), 0, 500).await.unwrap().await.unwrap();
        if waiting.is_empty() {
            break;
        }
        let references = waiting.into_iter().map(|document| document.reference).collect();
        rig.store.documents_acked(references, AckedBy::Owner, now).await.unwrap().await.unwrap();
    }
}

/// Sweeps until there is nothing more to do; says how often.
async fn sweep(rig: &Rig, now: u64) -> usize {
    let mut sweeps = 1;
    while rig.store.sweep(now).await.unwrap().await.unwrap().more {
        sweeps += 1;
    }
    sweeps
}

fn bytes(rig: &Rig) -> u64 {
    rig.settings.path.metadata().unwrap().len()
}

/// Free bytes and all, with what is in the write-ahead log.
fn pages(rig: &Rig) -> (u64, u64) {
    let conn = Connection::open(&rig.settings.path).unwrap();
    let count = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u32>(0)).unwrap();
    (u64::from(count("freelist_count")) * 4096, u64::from(count("page_count")) * 4096)
}

#[tokio::test]
async fn the_file_is_small_again_when_a_backlog_is_gone() {
    let mut rig = rig();
    fill(&mut rig, 4000, "backlog").await;
    drain(&rig, NOW).await;
    sweep(&rig, NOW).await;
    let (free, all) = pages(&rig);
    assert!(free > 12 * MIB && all - free < 2 * MIB, "{free} of {all}");
    // Something that stays, at the end of the file.
    fill(&mut rig, 10, "new").await;
    assert_eq!(sweep(&rig, NOW + 9 * MINUTE).await, 1, "it may be needed again");
    let mut chunks = 0;
    while {
        let before = pages(&rig);
        sweep(&rig, NOW + 10 * MINUTE).await;
        pages(&rig) != before
    } {
        chunks += 1;
    }
    assert!(chunks > 8, "in small parts: {chunks}");
    let (free, all) = pages(&rig);
    assert!(free < 6 * MIB && all < 8 * MIB, "{free} of {all}");
    assert!(bytes(&rig) < 8 * MIB, "also on the disk, before anything else happens: {}", bytes(&rig));
    assert_eq!(sweep(&rig, NOW + 30 * MINUTE).await, 1, "the rest stays");
    let rig = rig.crash();
    assert_eq!(rig.store.figures().queue_rows, 10);
    let sound: String = Connection::open(&rig.settings.path)
        .unwrap()
        .pragma_query_value(None, "integrity_check", |row| row.get(0))
        .unwrap();
    assert_eq!(sound, "ok");
}

#[tokio::test]
async fn what_the_traffic_needs_again_and_again_stays() {
    let mut rig = rig();
    for minute in 0..15 {
        fill(&mut rig, 3000, &format!("minute-{minute}")).await;
        let (_, before) = pages(&rig);
        let now = NOW + minute * MINUTE;
        sweep(&rig, now).await;
        drain(&rig, now).await;
        sweep(&rig, now).await;
        let (free, after) = pages(&rig);
        assert!(free > 8 * MIB && free > after / 2, "there is much to give back: {free} of {after}");
        assert!(after >= before, "given back: {after} of {before}");
    }
}

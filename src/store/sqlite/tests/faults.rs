//! A disk that is full, and verbs that cannot be done.

use crate::chat::delivery::{Event, State};
use crate::chat::id::SidSource;
use crate::chat::recipient_queue::Pipelining;
use crate::chat::status::Status;
use crate::chat::transport::Transport;
use crate::ops::clock::machine_now;
use crate::store::sqlite::{Settings, open};
use crate::store::tests::sessions::{put, said};
use crate::store::tests::several::{INBOX_OF, ccs, inbox};
use crate::store::tests::{MANY, NOW, Rig};
use crate::store::{
    Accepted, AckedBy, CloseError, CommitEvent, Committed, Deliveries, DueQuery, Enqueue, Inspector, Limits,
    NewMessage, Recorded, StoreError, StoreHealth,
};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::watch;

/// Pages of a small disk: enough for the schema and a few messages.
const SMALL: u32 = 56;

/// A store on a disk whose size, in pages, can be changed.
fn on_small_disk(queue: usize) -> (Rig, Arc<AtomicU32>) {
    with_hook(queue, || {})
}

/// The same; `before` runs before each try of a batch.
fn with_hook(queue: usize, mut before: impl FnMut() + Send + 'static) -> (Rig, Arc<AtomicU32>) {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(dir.path().join("store.db"));
    settings.retry_pause = Duration::from_millis(1);
    settings.queue = queue;
    let pages = Arc::new(AtomicU32::new(SMALL));
    let disk = pages.clone();
    let hook = Box::new(move |conn: &rusqlite::Connection| {
        before();
        conn.pragma_update(None, "max_page_count", disk.load(Relaxed)).unwrap();
    });
    let (store, writer_thread, recovery) = open::open_with(&settings, NOW, hook).unwrap();
    (Rig { dir, settings, store, writer_thread, recovery, sids: SidSource::default() }, pages)
}

/// Holds the writer.
struct Hold {
    /// How often a batch was tried.
    tries: watch::Receiver<u32>,
    /// Whether the next try waits.
    next: Arc<AtomicBool>,
    /// Lets the one that waits begin.
    begin: mpsc::SyncSender<()>,
}

/// The same, with a queue for a thousand verbs and a hold on the writer.
fn with_hold() -> (Rig, Arc<AtomicU32>, Hold) {
    let next = Arc::new(AtomicBool::new(false));
    let ((begin, wait), (tried, tries)) = (mpsc::sync_channel(1), watch::channel(0));
    let held = next.clone();
    let (rig, pages) = with_hook(1000, move || {
        tried.send_modify(|tries| *tries += 1);
        if held.swap(false, Relaxed) {
            let _ = wait.recv();
        }
    });
    (rig, pages, Hold { tries, next, begin })
}

fn big(rig: &mut Rig, n: usize) -> NewMessage {
    let mut new = rig.new_message(&format!("a{n}"));
    new.body = Bytes::from(vec![b'x'; 4000]);
    new
}

async fn blocked(rig: &Rig) {
    rig.store.health().wait_for(|health| matches!(health, StoreHealth::Blocked { .. })).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_stops_everything_and_loses_nothing() {
    let (mut rig, pages) = on_small_disk(1000);
    let mut pending = Vec::new();
    for n in 0..200 {
        let new = big(&mut rig, n);
        pending.push(rig.store.accept(new).await.unwrap());
    }
    blocked(&rig).await;
    // What was answered before is on disk; the rest has no answer.
    let last = pending.pop().unwrap();
    tokio::pin!(last);
    assert!(poll_once(&mut last).is_none());
    pages.store(1_000_000, Relaxed);
    for committed in pending {
        assert_eq!(committed.await.unwrap(), Accepted::Stored);
    }
    assert_eq!(last.await.unwrap(), Accepted::Stored);
    assert_eq!(*rig.store.health().borrow(), StoreHealth::Ok);
    assert_eq!(rig.store.figures().queue_rows, 200, "what ran several times is counted once");
    let rig = rig.crash();
    assert_eq!(rig.store.figures().queue_rows, 200);
    assert_eq!(rig.statuses().await.len(), 200, "one status each");
}

#[tokio::test]
async fn a_full_disk_puts_nothing_into_a_queue_twice_and_tells_of_nothing_that_is_not_there() {
    let (rig, pages) = on_small_disk(1000);
    let (one, two) = (rig.session("one").await, rig.session("two").await);
    rig.store.listen();
    let mut pending = Vec::new();
    for n in 0..100 {
        let message = said("a/b", &format!("{n} {}", "x".repeat(2000)));
        let kept = Enqueue { incoming: Some((one, n)), ..put(&message, &[one, two]) };
        pending.push(rig.store.enqueue(kept).await.unwrap());
    }
    blocked(&rig).await;
    pages.store(1_000_000, Relaxed);
    for committed in pending {
        committed.await.unwrap();
    }
    let rows = rig.rows_of(two).await;
    assert_eq!(rows.len(), 100);
    let told = rig.store.commit_events().await.items.into_iter().filter_map(|fresh| match fresh {
        CommitEvent::Row { seq, target, .. } if target.queue == two => Some(seq),
        _ => None,
    });
    assert!(told.eq(rows.iter().map(|row| row.seq)));
}

#[tokio::test]
async fn a_full_disk_pushes_back() {
    let (mut rig, pages) = on_small_disk(4);
    let mut pending = Vec::new();
    let mut n = 0;
    let refused = loop {
        let new = big(&mut rig, n);
        let mut submit = Box::pin(rig.store.accept(new));
        tokio::select! {
            biased;
            committed = &mut submit => pending.push(committed.unwrap()),
            () = blocked(&rig) => break n,
        }
        n += 1;
    };
    assert!(refused >= 4, "the queue took what it has room for");
    pages.store(1_000_000, Relaxed);
    for committed in pending {
        assert_eq!(committed.await.unwrap(), Accepted::Stored);
    }
    assert_eq!(rig.store.figures().queue_rows, refused as u64);
}

#[tokio::test]
async fn closing_while_the_disk_refuses_answers_nobody_falsely() {
    let (mut rig, _pages) = on_small_disk(1000);
    let mut pending = Vec::new();
    for n in 0..200 {
        let new = big(&mut rig, n);
        pending.push(rig.store.accept(new).await.unwrap());
    }
    blocked(&rig).await;
    let Rig { dir, settings, writer_thread, sids, .. } = rig;
    assert!(matches!(writer_thread.close().await, Err(CloseError::Blocked { .. })));
    let mut stored = 0;
    for committed in pending {
        match committed.await {
            Ok(outcome) => {
                assert_eq!(outcome, Accepted::Stored);
                stored += 1;
            }
            Err(error) => assert!(matches!(error, StoreError::Closed)),
        }
    }
    assert!(stored < 200);
    let rig = Rig::open(dir, settings, sids);
    assert_eq!(rig.store.figures().queue_rows, stored, "exactly what was answered is there");
}

/// What hangs ends in no error: only the time that it takes tells of it.
#[tokio::test]
async fn a_disk_that_does_not_answer_is_blocked_until_it_does() {
    let (mut rig, pages, Hold { mut tries, next, begin }) = with_hold();
    pages.store(1_000_000, Relaxed);
    let health = rig.store.health();
    let later = |seconds| machine_now() + Duration::from_secs(seconds);
    rig.store.check_disk(later(3_600));
    assert_eq!(*health.borrow(), StoreHealth::Ok, "nothing is asked of the disk");
    next.store(true, Relaxed);
    tries.mark_unchanged();
    let new = rig.new_message("a1");
    let pending = rig.store.accept(new).await.unwrap();
    tries.changed().await.unwrap();
    rig.store.check_disk(machine_now());
    assert_eq!(*health.borrow(), StoreHealth::Ok);
    for seconds in [100, 200] {
        rig.store.check_disk(later(seconds));
        let StoreHealth::Blocked { reason } = health.borrow().clone() else { panic!("it is blocked") };
        let told = reason.strip_prefix("the disk has not answered for ").and_then(|rest| rest.strip_suffix(" s"));
        let told: u64 = told.unwrap_or_else(|| panic!("{reason}")).parse().unwrap();
        assert!((seconds..seconds + 60).contains(&told), "{reason}");
    }
    begin.send(()).unwrap();
    assert_eq!(pending.await.unwrap(), Accepted::Stored);
    assert_eq!(*health.borrow(), StoreHealth::Ok);
    rig.store.sweep(NOW).await.unwrap().await.unwrap();
    rig.store.check_disk(later(3_600));
    assert_eq!(*health.borrow(), StoreHealth::Ok, "it has answered");
}

#[tokio::test]
async fn a_verb_that_cannot_be_done_does_not_harm_its_batch() {
    let mut rig = Rig::new(Limits::default());
    let (first, mut clash, last) = (rig.new_message("a1"), rig.new_message("a2"), rig.new_message("a3"));
    clash.sid = first.sid;
    let mut pending = Vec::new();
    for new in [first, clash, last] {
        pending.push(rig.store.accept(new).await.unwrap());
    }
    let mut outcomes = Vec::new();
    for committed in pending {
        outcomes.push(committed.await);
    }
    assert!(matches!(outcomes[..], [Ok(Accepted::Stored), Err(StoreError::Failed { .. }), Ok(Accepted::Stored)]));
    assert_eq!(rig.statuses().await, ["a1 accepted", "a3 accepted"]);
    assert_eq!(rig.store.figures().queue_rows, 2);
}

#[tokio::test]
async fn a_message_with_several_deliveries_that_cannot_be_stored_leaves_nothing_and_harms_no_other() {
    let mut rig = Rig::new(Limits::default());
    let (first, _) = rig.several("a1", vec![ccs("T1"), inbox()]);
    let (clash, _) = rig.several("a2", vec![ccs("T1"), inbox(), ccs("T2")]);
    let Deliveries::Several(several) = &clash.deliveries else { unreachable!("it has several") };
    // Its last delivery has the row that another message has by then.
    let between = NewMessage { sid: several.parts().0[2].sid, ..rig.new_message("a3") };
    let (last, _) = rig.several("a4", vec![inbox()]);
    let mut pending = Vec::new();
    for new in [first, between, clash, last] {
        pending.push(rig.store.accept(new).await.unwrap());
    }
    let mut outcomes = Vec::new();
    for committed in pending {
        outcomes.push(committed.await);
    }
    use Accepted::Stored;
    assert!(
        matches!(outcomes[..], [Ok(Stored), Ok(Stored), Err(StoreError::Failed { .. }), Ok(Stored)]),
        "{outcomes:?}"
    );
    assert_eq!(rig.statuses().await, ["a1 accepted", "a3 accepted", "a4 accepted"]);
    assert_eq!(rig.next(INBOX_OF, 0).await.len(), 2);
    assert_eq!((rig.rows(), rig.queued()), ((2, 6), (2, (2 * "body of a1".len() + "T1".len()) as u64)));
    let rig = rig.crash();
    assert_eq!(rig.queued(), (2, 22), "counted again");
}

/// A try that is rolled back has moved deliveries, told statuses and given a turn; the next one does it all anew.
#[tokio::test]
async fn a_full_disk_moves_several_deliveries_once() {
    let (mut rig, pages, Hold { mut tries, next, begin }) = with_hold();
    let (first, sids) = rig.several("a1", vec![ccs("T1"), inbox()]);
    let (behind, _) = rig.several("a2", vec![inbox(), ccs("T2")]);
    for new in [first, behind] {
        rig.accept(NewMessage { order: Some("k".to_owned()), ..new }).await;
    }
    rig.take_by(NOW, 10, MANY).await;
    let document = rig.next(INBOX_OF, 0).await.remove(0);
    // Keeps the writer busy until everything else is queued, so that it becomes one batch.
    next.store(true, Relaxed);
    tries.mark_unchanged();
    drop(rig.store.sweep(NOW).await.unwrap());
    tries.changed().await.unwrap();
    let published = rig.store.documents_acked(vec![document.reference], AckedBy::Broker, NOW).await.unwrap();
    let receipt = rig.store.record(sids[0], Event::RECEIPT, NOW).await.unwrap();
    let mut pending = Vec::new();
    for n in 0..200 {
        let new = big(&mut rig, n + 10);
        pending.push(rig.store.accept(new).await.unwrap());
    }
    let before = *tries.borrow();
    begin.send(()).unwrap();
    tries.wait_for(|tries| *tries >= before + 5).await.unwrap();
    pages.store(1_000_000, Relaxed);
    let moved = published.await.unwrap();
    assert!(matches!(&moved[..], [(_, Recorded::Moved { told: [Status::Sent], .. })]), "{moved:?}");
    assert!(matches!(receipt.await.unwrap(), Recorded::Moved { told: [Status::Delivered], .. }));
    for committed in pending {
        assert_eq!(committed.await.unwrap(), Accepted::Stored);
    }
    let rig = rig.crash();
    let told = rig.statuses().await;
    assert_eq!(told[..4], ["a1 accepted", "a2 accepted", "a1 sent", "a1 delivered"]);
    let (states, behind) = (rig.standing("a1"), rig.standing("a2"));
    assert_eq!(states, (Status::Delivered, vec![State::Delivered, State::Sent]));
    assert_eq!(behind, (Status::Accepted, vec![State::InFlight, State::Due]), "`delivered` was told");
    assert_eq!(rig.next(INBOX_OF, 0).await.len(), 1);
    assert_eq!(rig.store.figures().queue_rows, 201);
}

#[tokio::test]
async fn a_look_at_a_damaged_store_says_that_it_is_damaged() {
    let mut rig = Rig::new(Limits::default());
    for n in 0..200 {
        let new = big(&mut rig, n);
        rig.accept(new).await;
    }
    let Rig { dir: _dir, settings, writer_thread, .. } = rig;
    writer_thread.close().await.unwrap();
    let mut bytes = std::fs::read(&settings.path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0x5a);
    std::fs::write(&settings.path, bytes).unwrap();
    let inspector = Inspector::open(&settings.path).unwrap();
    for failed in [inspector.counts().map(drop), inspector.list(1000).map(drop)] {
        assert!(matches!(failed, Err(StoreError::Damaged { .. })), "{failed:?}");
    }
}

/// What a try has handed out is forgotten with it, or the next one would find everything in flight.
#[tokio::test]
async fn a_full_disk_parks_nobody() {
    const PLACES: usize = 10;
    let (mut rig, pages, Hold { mut tries, next, begin }) = with_hold();
    for n in 0..PLACES {
        let new = rig.new_message(&format!("m{n}"));
        rig.accept(new).await;
    }
    // Keeps the writer busy until everything else is queued, so that it becomes one batch.
    next.store(true, Relaxed);
    tries.mark_unchanged();
    drop(rig.store.sweep(NOW).await.unwrap());
    tries.changed().await.unwrap();
    let pipelining = Pipelining::Pipelined(PLACES);
    let query = DueQuery { transport: Transport::Ccs, now: NOW, limit: 100, taken_on_accept: 0, pipelining };
    let taken = rig.store.take_due(query).await.unwrap();
    let mut pending = Vec::new();
    for n in 0..200 {
        let new = big(&mut rig, n);
        pending.push(rig.store.accept(new).await.unwrap());
    }
    let before = *tries.borrow();
    begin.send(()).unwrap();
    tries.wait_for(|tries| *tries >= before + 5).await.unwrap();
    pages.store(1_000_000, Relaxed);
    assert_eq!(taken.await.unwrap().claimed.len(), PLACES);
    for committed in pending {
        assert_eq!(committed.await.unwrap(), Accepted::Stored);
    }
}

/// The answer, if it is there already.
fn poll_once<T>(committed: &mut std::pin::Pin<&mut Committed<T>>) -> Option<Result<T, StoreError>> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match committed.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => Some(answer),
        std::task::Poll::Pending => None,
    }
}

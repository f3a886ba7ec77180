//! What a transaction takes from each of the two queues. Counted in rows, never in time.

use crate::chat::id::{Sid, SidSource};
use crate::chat::transport::Transport;
use crate::store::sqlite::batch::{Batch, ROWS};
use crate::store::sqlite::tx::{Memory, MemoryDraft, ReadTx, Tx};
use crate::store::sqlite::verb_queue::VerbQueue;
use crate::store::sqlite::{Settings, open};
use crate::store::tests::several::ccs;
use crate::store::tests::{MANY, NOW, Rig, accepted};
use crate::store::{Accepted, Committed, DELIVERIES_MAX, DueQuery, Limits, StoreError};
use futures_util::FutureExt;
use proptest::prelude::*;
use rusqlite::Connection;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::sync::watch;

/// Rows that the rest of a transaction may change: the verb that goes beyond a share.
const ONE_VERB: u64 = 10;
/// Many more than come into one transaction, and fewer than the queue has room for.
const MANY_VERBS: usize = 2_000;

/// The rows changed before a transaction, and of some messages whether they were there.
type Before = (u64, Vec<bool>);

/// A store, and what was there before each of its transactions: the rows changed so far, and of some messages whether they
/// are there.
struct Watched {
    rig: Rig,
    states: Arc<Mutex<Vec<Before>>>,
    tries: watch::Receiver<u32>,
    /// Whether the next transaction waits.
    next: Arc<AtomicBool>,
    begin: mpsc::SyncSender<()>,
}

impl Watched {
    /// `seen` asks whether something is there.
    fn new(seen: &'static [&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { max_commit_delay: Duration::ZERO, ..Settings::new(dir.path().join("store.db")) };
        let (states, next) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let ((begin, wait), (tried, tries)) = (mpsc::sync_channel(1), watch::channel(0));
        let (noted, held) = (states.clone(), next.clone());
        let hook = Box::new(move |conn: &Connection| {
            let is_there = seen.iter().map(|sql| conn.prepare(sql).unwrap().exists([]).unwrap()).collect();
            noted.lock().unwrap().push((conn.total_changes(), is_there));
            tried.send_modify(|tries| *tries += 1);
            if held.swap(false, Relaxed) {
                let _ = wait.recv();
            }
        });
        let (store, writer_thread, recovery) = open::open_with(&settings, NOW, hook).unwrap();
        let rig = Rig { dir, settings, store, writer_thread, recovery, sids: SidSource::default() };
        Self { rig, states, tries, next, begin }
    }

    /// Messages that are handed out, each with a report to come.
    async fn handed_out(&mut self, count: usize) -> Vec<Sid> {
        let mut pending = Vec::new();
        for n in 0..count {
            let new = self.rig.new_message(&format!("m{n}"));
            pending.push(self.rig.store.accept(new).await.unwrap());
        }
        for committed in pending {
            assert_eq!(committed.await.unwrap(), Accepted::Stored);
        }
        let mut sids = Vec::new();
        while sids.len() < count {
            let query =
                DueQuery { transport: Transport::Ccs, now: NOW, limit: count, taken_on_accept: 0, pipelining: MANY };
            let taken = self.rig.store.take_due(query).await.unwrap().await.unwrap();
            assert!(!taken.claimed.is_empty());
            sids.extend(taken.claimed.into_iter().map(|claimed| claimed.sid));
        }
        sids
    }

    /// Keeps the writer busy until [`Self::begin`].
    async fn hold(&mut self) {
        self.next.store(true, Relaxed);
        self.tries.mark_unchanged();
        drop(self.rig.store.sweep(NOW).await.unwrap());
        self.tries.changed().await.unwrap();
        self.states.lock().unwrap().clear();
    }

    /// How many rows were changed since the hold when the n-th of what is watched for was there first, and how many of them
    /// by the transaction that brought it.
    async fn rows_until(&self, n: usize) -> (u64, u64) {
        // What the last transaction brought is seen before the next one.
        self.rig.store.unrouted(0, 1).await.unwrap().await.unwrap();
        let states = self.states.lock().unwrap();
        let first = states.iter().position(|(_, there)| there[n]).unwrap();
        (states[first].0 - states[0].0, states[first].0 - states[first - 1].0)
    }
}

async fn all_done<T>(pending: Vec<Committed<T>>) {
    for committed in pending {
        committed.await.unwrap();
    }
}

#[tokio::test]
async fn a_message_waits_for_no_more_than_a_share_of_the_reports_that_came_before_it() {
    let mut watched = Watched::new(&["SELECT 1 FROM deliveries WHERE id = 'late'"]);
    let sids = watched.handed_out(MANY_VERBS).await;
    watched.hold().await;
    let mut reports = Vec::new();
    for sid in sids {
        reports.push(watched.rig.store.record(sid, accepted(), NOW).await.unwrap());
    }
    let late = watched.rig.new_message("late");
    let late = watched.rig.store.accept(late).await.unwrap();
    watched.begin.send(()).unwrap();
    assert_eq!(late.await.unwrap(), Accepted::Stored);
    all_done(reports).await;
    let (rows, _) = watched.rows_until(0).await;
    assert!(rows <= ROWS + ONE_VERB, "{rows} rows, and all reports change {}", 2 * MANY_VERBS);
}

#[tokio::test]
async fn a_report_waits_for_no_more_than_a_share_of_the_messages_that_came_before_it() {
    let mut watched = Watched::new(&["SELECT 1 FROM deliveries WHERE id = 'm0' AND state = 3"]);
    let sids = watched.handed_out(1).await;
    watched.hold().await;
    let mut messages = Vec::new();
    for n in 0..MANY_VERBS {
        let new = watched.rig.new_message(&format!("n{n}"));
        messages.push(watched.rig.store.accept(new).await.unwrap());
    }
    let report = watched.rig.store.record(sids[0], accepted(), NOW).await.unwrap();
    watched.begin.send(()).unwrap();
    report.await.unwrap();
    all_done(messages).await;
    let (rows, _) = watched.rows_until(0).await;
    assert!(rows <= ROWS + ONE_VERB, "{rows} rows, and all messages change {}", 2 * MANY_VERBS);
}

#[tokio::test]
async fn a_message_to_many_shares_its_transaction_with_none_that_comes_behind_it() {
    let mut watched = Watched::new(&[
        "SELECT 1 FROM deliveries WHERE id = 'one'",
        "SELECT 1 FROM deliveries WHERE id = 'two'",
        "SELECT 1 FROM deliveries WHERE id = 'late'",
    ]);
    watched.hold().await;
    let mut messages = Vec::new();
    for id in ["one", "two"] {
        let (new, _) = watched.rig.several(id, (0..DELIVERIES_MAX).map(|n| ccs(&format!("T{n}"))).collect());
        messages.push(watched.rig.store.accept(new).await.unwrap());
    }
    let late = watched.rig.new_message("late");
    messages.push(watched.rig.store.accept(late).await.unwrap());
    watched.begin.send(()).unwrap();
    all_done(messages).await;
    let (many, alone) = (DELIVERIES_MAX as u64, watched.rows_until(2).await.1);
    for n in [0, 1] {
        let (_, rows) = watched.rows_until(n).await;
        assert!((many..many + ONE_VERB).contains(&rows), "{rows}");
    }
    assert!(alone < ONE_VERB, "{alone}");
}

/// The thread's end of both queues, over a table in memory.
struct Harness {
    conn: Connection,
    memory: Memory,
    queues: [VerbQueue; 2],
    batch: Batch,
    /// Of each queue, the number and the rows of the verbs that were asked for and are not done.
    waiting: [VecDeque<(usize, u64)>; 2],
    asked: usize,
    /// What the verbs of the transaction note of themselves: their queue and their number.
    ran: Arc<Mutex<Vec<(usize, usize)>>>,
}

#[derive(Debug, Clone)]
enum Step {
    /// A verb by this queue that changes so many rows, or fails.
    Ask {
        queue: usize,
        rows: u64,
        fails: bool,
    },
    Transaction,
}

fn any_step() -> impl Strategy<Value = Step> {
    let rows = prop_oneof![6 => 0u64..4, 2 => 1u64..ROWS, 1 => Just(ROWS), 1 => Just(3 * ROWS)];
    prop_oneof![
        9 => (0usize..2, rows, prop::bool::weighted(0.1)).prop_map(|(queue, rows, fails)| Step::Ask { queue, rows, fails }),
        1 => Just(Step::Transaction),
    ]
}

impl Harness {
    fn new() -> Self {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE changed (n)").unwrap();
        let (first, queued) = VerbQueue::new(10_000);
        let (second, following) = first.another(10_000);
        let (batch, queues) = (Batch::new([queued, following]), [first, second]);
        let (memory, waiting, ran) = (Memory::default(), Default::default(), Arc::default());
        Self { conn, memory, queues, batch, waiting, asked: 0, ran }
    }

    fn ask(&mut self, queue: usize, rows: u64, fails: bool) {
        let (ran, number) = (self.ran.clone(), self.asked);
        let committed = self.queues[queue].submit(move |tx| {
            if fails {
                return Err(rusqlite::Error::InvalidQuery);
            }
            (0..rows).try_for_each(|n| tx.execute("INSERT INTO changed VALUES (?1)", [n as i64]).map(drop))?;
            ran.lock().unwrap().push((queue, number));
            Ok(())
        });
        drop(committed.now_or_never().unwrap().unwrap());
        self.asked += 1;
        if !fails {
            self.waiting[queue].push_back((number, rows));
        }
    }

    /// Tries until nothing fails; what was done, in this order.
    fn transaction(&mut self) -> Vec<(usize, usize)> {
        loop {
            self.ran.lock().unwrap().clear();
            self.conn.execute_batch("BEGIN").unwrap();
            let (memory, limits) = (&self.memory, &Limits::default());
            let mut tx =
                Tx { read: ReadTx { conn: &self.conn, limits }, memory, memory_draft: MemoryDraft::of(memory) };
            match self.batch.run(&mut tx) {
                Ok(()) => break,
                Err((place, _)) => {
                    self.conn.execute_batch("ROLLBACK").unwrap();
                    self.batch.fail(place, StoreError::Closed);
                }
            }
        }
        self.conn.execute_batch("COMMIT").unwrap();
        self.batch.release();
        std::mem::take(&mut self.ran.lock().unwrap())
    }

    /// A transaction of what waits, and whether it was a right one.
    fn check_transaction(&mut self) {
        let all = self.waiting.iter().all(|waiting| {
            let rows: u64 = waiting.iter().map(|(_, rows)| rows).sum();
            rows < ROWS
        });
        let ran = self.transaction();
        for queue in 0..2 {
            let of_queue: Vec<usize> = ran.iter().filter(|(of, _)| *of == queue).map(|(_, number)| *number).collect();
            let done: Vec<(usize, u64)> = self.waiting[queue].drain(..of_queue.len()).collect();
            assert!(done.iter().map(|(number, _)| *number).eq(of_queue), "the order of a queue");
            let rows: u64 = done.iter().map(|(_, rows)| rows).sum();
            let last = done.last().map_or(0, |(_, rows)| *rows);
            assert!(rows - last < ROWS, "{rows} rows, the last verb {last} of these");
            let is_cut = rows >= ROWS;
            assert!(self.waiting[queue].is_empty() || is_cut, "it had less than its share, and had to wait");
        }
        if all {
            assert!(
                ran.is_sorted_by_key(|(_, number)| *number),
                "what fits is done in the order of both queues: {ran:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn each_queue_has_its_share_of_each_transaction_in_its_order(steps in prop::collection::vec(any_step(), 1..300)) {
        let timers = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut harness = Harness::new();
        for step in steps {
            match step {
                Step::Ask { queue, rows, fails } => harness.ask(queue, rows, fails),
                Step::Transaction if harness.waiting.iter().all(VecDeque::is_empty) => {}
                Step::Transaction => {
                    assert!(harness.batch.fill(&timers, Duration::ZERO));
                    harness.check_transaction();
                }
            }
        }
        while harness.waiting.iter().any(|waiting| !waiting.is_empty()) {
            assert!(harness.batch.fill(&timers, Duration::ZERO));
            harness.check_transaction();
        }
    }
}

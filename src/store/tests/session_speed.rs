//! How fast queues of sessions are on this machine. Prints, asserts nothing:
//! `cargo test --release --lib store::tests::session_speed -- --ignored --nocapture`

use super::sessions::{ALL, ask, put, said, took};
use super::speed::writer_seconds;
use super::*;
use tokio::time::Instant;

const MESSAGES: u32 = 300_000;
const BODY: usize = 100;

/// Each message is put in, told, and acknowledged some hundred messages later, as a reader does that keeps up.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn messages_per_second_through_a_queue() {
    for (readers, per_verb) in [(1, 1), (1, 20), (10, 20)] {
        let rig = Rig::new(Limits::default());
        rig.store.listen();
        let mut queues = Vec::new();
        for n in 0..readers {
            queues.push(rig.session(&n.to_string()).await);
        }
        let (started, cpu) = (Instant::now(), writer_seconds());
        let message = said("a/b/c", &"x".repeat(BODY));
        let mut sent = 0;
        while sent < MESSAGES / readers {
            let mut last = None;
            for _ in 0..500 {
                last = Some(rig.store.enqueue(put(&message, &queues)).await.unwrap());
                sent += 1;
            }
            last.unwrap().await.unwrap();
            let mut rows = vec![Vec::new(); queues.len()];
            for fresh in rig.store.commit_events().await.items {
                let CommitEvent::Row { seq, target, .. } = fresh else { panic!("a row") };
                rows[queues.iter().position(|queue| *queue == target.queue).unwrap()].push(seq);
            }
            for (queue, rows) in queues.iter().zip(rows) {
                for rows in rows.chunks(per_verb) {
                    drop(rig.store.acknowledged(took(Some(*queue), rows, Vec::new())).await.unwrap());
                }
            }
        }
        ask!(rig, read_rows, queues[0], 0, ALL, NOW);
        let count = f64::from(sent * readers);
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), writer_seconds() - cpu);
        println!(
            "{readers} readers, {per_verb} rows an acknowledgement: {:.0} deliveries/s, {:.1} us of writer time each",
            count / seconds,
            cpu * 1e6 / count
        );
    }
}

/// With bodies in the rows, and of a size that does not leave much of a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn a_start_with_a_million_rows() {
    for body in [100, 900] {
        let rig = Rig::new(Limits::default());
        let mut queues = Vec::new();
        for n in 0..1000 {
            queues.push(rig.session(&n.to_string()).await);
        }
        let message = said("a/b/c", &"x".repeat(body));
        for _ in 0..1000 {
            for queue in &queues {
                drop(rig.store.enqueue(put(&message, &[*queue])).await.unwrap());
            }
        }
        rig.writer_thread.close().await.unwrap();
        let started = Instant::now();
        let (store, _writer_thread, _) = sqlite::open(&rig.settings, NOW).unwrap();
        let open = started.elapsed();
        let state = store.broker_state().await.unwrap().await.unwrap();
        let rows: u64 = state.sessions.iter().map(|session| session.rows).sum();
        println!("bodies of {body}: open {open:?}, with the state of {rows} rows {:?}", started.elapsed());
    }
}

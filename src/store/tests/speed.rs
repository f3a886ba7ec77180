//! How fast it is on this machine. Prints, asserts nothing:
//! `cargo test --release --lib store::tests::speed -- --ignored --nocapture`

use super::*;
use std::collections::HashMap;
use std::fs;

/// Messages per flow.
const MESSAGES_EACH: u32 = 100_000;
/// Bytes of a body.
const BODY: usize = 400;

/// Processor time of the writer thread, in seconds.
pub(super) fn writer_seconds() -> f64 {
    let mut ticks = 0u64;
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        if let Some((head, tail)) = stat.split_once(") ")
            && head.ends_with("(store")
        {
            let fields: Vec<&str> = tail.split(' ').collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    ticks as f64 / 100.0
}

fn report(what: &str, rig: &Rig, started: tokio::time::Instant, cpu: f64, before: StoreFigures) {
    let seconds = started.elapsed().as_secs_f64();
    let figures = rig.store.figures();
    let commits = figures.commits - before.commits;
    println!(
        "{what}: {:.0} messages/s, {:.1} us of writer time per message, {:.0} commits/s, {:.1} verbs per commit",
        f64::from(MESSAGES_EACH) / seconds,
        (writer_seconds() - cpu) * 1e6 / f64::from(MESSAGES_EACH),
        commits as f64 / seconds,
        (figures.verbs - before.verbs) as f64 / commits as f64,
    );
}

/// Accept, take, record sent, record delivered, publish three statuses, forget.
async fn downstream(rig: &mut Rig, window: usize) {
    let mut from = 0;
    let mut accepted_so_far = 0;
    let mut accepts = Vec::new();
    while accepted_so_far < MESSAGES_EACH {
        for _ in 0..window {
            let mut new =
                rig.new_message(&format!("{:x}", u64::from(accepted_so_far).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            new.body = Bytes::from(vec![b'x'; BODY]);
            new.push().recipient = Recipient(accepted_so_far.into());
            accepts.push(rig.store.accept(new).await.unwrap());
            accepted_so_far += 1;
        }
        let taken = rig.take_by(NOW, window, MANY).await;
        let mut records = Vec::new();
        for event in [accepted(), Event::RECEIPT] {
            for claimed in &taken.claimed {
                records.push(rig.store.record(claimed.sid, event.clone(), NOW).await.unwrap());
            }
        }
        let waiting = rig.store.next_to_publish(RECEIPTS.into(), from, 3 * window).await.unwrap().await.unwrap();
        from = waiting.last().map_or(from, |w| w.reference.seq);
        for chunk in waiting.chunks(100) {
            let references = chunk.iter().map(|w| w.reference.clone()).collect();
            drop(rig.store.documents_acked(references, AckedBy::Owner, NOW).await.unwrap());
        }
        drop(rig.store.sweep(NOW).await.unwrap());
        for committed in accepts.drain(..) {
            assert_eq!(committed.await.unwrap(), Accepted::Stored);
        }
        for committed in records {
            committed.await.unwrap();
        }
    }
    rig.sweep_all(NOW).await;
}

async fn upstream(rig: &mut Rig, window: usize) {
    let mut from = HashMap::from([(MESSAGES, 0)]);
    for round in 0..MESSAGES_EACH / u32::try_from(window).unwrap() {
        let mut pending = Vec::new();
        for n in 0..window {
            let mut message = rig.upstream(&format!("{round}-{n}"), Some(Acks::OnPublish));
            message.payload = Bytes::from(vec![b'x'; BODY]);
            pending.push(rig.store.receive(message).await.unwrap());
        }
        let after = from[MESSAGES];
        let waiting = rig.store.next_to_publish(MESSAGES.into(), after, window).await.unwrap().await.unwrap();
        from.insert(MESSAGES, waiting.last().map_or(after, |w| w.reference.seq));
        for chunk in waiting.chunks(100) {
            let references = chunk.iter().map(|w| w.reference.clone()).collect();
            drop(rig.store.documents_acked(references, AckedBy::Owner, NOW).await.unwrap());
        }
        for committed in pending {
            assert_eq!(committed.await.unwrap(), Received::Stored);
        }
    }
    // The verb waits for those before it.
    rig.store.topics_to_publish().await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn messages_per_second() {
    for (history_rows, window) in [(1_000_000, 1000), (20_000, 1000), (20_000, 50)] {
        let mut rig = Rig::new(Limits { history_rows, ..Limits::default() });
        println!("history of {history_rows} rows, {window} messages on their way at once");
        let (started, cpu, before) = (tokio::time::Instant::now(), writer_seconds(), rig.store.figures());
        downstream(&mut rig, window).await;
        report("downstream", &rig, started, cpu, before);
        let (started, cpu, before) = (tokio::time::Instant::now(), writer_seconds(), rig.store.figures());
        upstream(&mut rig, window).await;
        report("upstream", &rig, started, cpu, before);
        let started = tokio::time::Instant::now();
        rig.writer_thread.close().await.unwrap();
        let (_, _, recovery) = sqlite::open(&rig.settings, NOW).unwrap();
        println!("close and open: {:?}, last {:?}", started.elapsed(), recovery.last_sid);
    }
}

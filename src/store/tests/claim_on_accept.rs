//! Messages that are in flight from the transaction on that accepts them, and confirmations that wait for one of others.

use super::*;
use crate::chat::delivery::State;
use futures_util::FutureExt;

impl Rig {
    /// Opens the transport for messages to be claimed on acceptance.
    async fn open_for(&self, room: usize, taken_on_accept: u64) -> DueBatch {
        let query = DueQuery {
            transport: Transport::Ccs,
            now: NOW,
            limit: room,
            taken_on_accept,
            pipelining: Pipelining::Pipelined(2),
        };
        self.store.take_due(query).await.unwrap().await.unwrap()
    }

    /// Accepts a message for this recipient; returns what was claimed on acceptance.
    async fn went(&mut self, id: &str, recipient: i64, order: Option<&str>) -> Vec<Claimed> {
        let mut new = self.new_message(id);
        new.push().recipient = Recipient(recipient);
        new.order = order.map(str::to_owned);
        assert_eq!(self.accept(new).await, Accepted::Stored);
        self.store.take_claimed_on_accept(&Transport::Ccs)
    }
}

#[tokio::test]
async fn where_there_is_room_and_nothing_is_due_a_message_goes_at_once() {
    let mut rig = Rig::new(Limits::default());
    assert_eq!(rig.went("a0", 1, None).await, [], "nobody asked yet");
    assert_eq!(rig.open_for(4, 0).await.claimed.len(), 1);
    let commits = rig.store.figures().commits;
    let mut gone = rig.store.on_accept_wakes();
    let [claimed] = &rig.went("a1", 1, None).await[..] else { panic!("it is claimed on acceptance") };
    assert_eq!(rig.store.figures().commits, commits + 1, "in the one transaction that accepts it");
    assert!(gone.has_changed().unwrap());
    gone.mark_unchanged();
    assert_eq!((claimed.life.state, claimed.life.attempt), (State::InFlight, 1));
    assert_eq!(claimed.body, "body of a1");
    assert_eq!(rig.statuses().await.len(), 2, "each is told that it was accepted");
    let taken = rig.open_for(4, 1).await;
    assert_eq!((taken.claimed.len(), taken.claimed_on_accept), (0, 1), "it is handed out once");
    let rig = rig.crash();
    assert_eq!(rig.recovery.crashed, 2, "both may have been sent");
}

#[tokio::test]
async fn it_waits_where_there_is_no_room_or_its_turn_has_not_come() {
    let mut rig = Rig::new(Limits::default());
    rig.open_for(2, 0).await;
    assert_eq!(rig.went("a1", 1, Some("k")).await.len(), 1);
    assert_eq!(rig.went("a2", 2, Some("k")).await, [], "its order key is in use");
    assert_eq!(rig.went("a3", 3, None).await.len(), 1);
    assert_eq!(rig.went("a4", 4, None).await, [], "there was room for two");
    assert_eq!(rig.open_for(4, 1).await.claimed.len(), 1, "one claimed on acceptance is not taken yet, and uses room");
    assert_eq!(rig.went("a5", 1, None).await.len(), 1);
    assert_eq!(rig.went("a6", 1, None).await, [], "two of a recipient are in flight");
    assert_eq!(rig.went("a7", 7, None).await, [], "an older one is due");
}

#[tokio::test]
async fn what_was_put_off_goes_first_when_its_time_comes() {
    let mut rig = Rig::new(Limits::default());
    rig.open_for(9, 0).await;
    let claimed = rig.went("a1", 1, None).await.remove(0);
    rig.record(claimed.sid, retry(NOW + 10), NOW).await;
    assert_eq!(rig.went("a2", 2, None).await, [], "until somebody has looked what is due");
    assert_eq!(rig.open_for(9, 1).await.claimed.len(), 1);
    assert_eq!(rig.went("a3", 1, None).await, [], "an older one of its recipient waits");
    rig.open_for(9, 1).await;
    let mut late = rig.new_message("a4");
    late.accepted_at = NOW + 10;
    rig.accept(late).await;
    assert_eq!(rig.store.take_claimed_on_accept(&Transport::Ccs), [], "the first one is due");
}

#[tokio::test]
async fn a_confirmation_goes_with_the_next_transaction_of_others() {
    let (mut rig, documents) = patient(Duration::from_secs(3_600)).await;
    let references = documents.into_iter().map(|document| document.reference).collect();
    let commits = rig.store.figures().commits;
    let mut published = rig.store.documents_acked(references, AckedBy::Broker, NOW).await.unwrap();
    let other = rig.new_message("a2");
    rig.accept(other).await;
    assert!((&mut published).now_or_never().is_some_and(|done| done.is_ok()), "it was in that transaction");
    assert_eq!(rig.store.figures().commits, commits + 1);
    let documents = rig.next(RECEIPTS, 0).await;
    assert_eq!(documents.len(), 1, "the first status is forgotten");
    let references = documents.into_iter().map(|document| document.reference).collect();
    let published = rig.store.documents_acked(references, AckedBy::Broker, NOW).await.unwrap();
    rig.unrouted().await;
    published.await.unwrap();
    let rig = rig.reopen().await;
    assert_eq!(rig.next(RECEIPTS, 0).await, []);
}

#[tokio::test]
async fn a_confirmation_does_not_wait_for_ever_nor_for_the_end() {
    let (rig, documents) = patient(Duration::from_millis(1)).await;
    rig.publish(&documents).await;
    let (rig, documents) = patient(Duration::from_secs(3_600)).await;
    let references = documents.into_iter().map(|document| document.reference).collect();
    let published = rig.store.documents_acked(references, AckedBy::Broker, NOW).await.unwrap();
    let rig = rig.reopen().await;
    published.await.unwrap();
    assert_eq!(rig.next(RECEIPTS, 0).await, []);
}

/// A store whose confirmations wait so long, and a status that was read.
async fn patient(max_commit_delay: Duration) -> (Rig, Vec<OutboxDocument>) {
    let Rig { dir, settings, writer_thread, sids, .. } = Rig::new(Limits::default());
    writer_thread.close().await.unwrap();
    let mut rig = Rig::open(dir, Settings { max_commit_delay, ..settings }, sids);
    let new = rig.new_message("a1");
    rig.accept(new).await;
    let documents = rig.next(RECEIPTS, 0).await;
    assert_eq!(documents.len(), 1);
    (rig, documents)
}

//! Messages with several deliveries: each has a life of its own, and the sender is told what they come to together.

use super::*;
use crate::chat::delivery::State;
use crate::chat::status::Status;
use State::{Delivered, Due, Expired, Failed, InFlight, Sent, Waiting as Behind};

pub(in crate::store) const INBOX_OF: &str = "alice/others/messages";
const HOUR: u64 = 3_600_000;

impl Rig {
    /// A message with these deliveries, and their ids.
    pub(in crate::store) fn several(&mut self, id: &str, to: Vec<Destination>) -> (NewMessage, Vec<Sid>) {
        self.several_kept(id, to, None)
    }

    fn several_kept(&mut self, id: &str, to: Vec<Destination>, kept: Option<u64>) -> (NewMessage, Vec<Sid>) {
        let new = self.new_message(id);
        let deliveries: Vec<_> =
            to.into_iter().map(|destination| NewDelivery { sid: self.sid(), destination }).collect();
        let sids = deliveries.iter().map(|delivery| delivery.sid).collect();
        let several = SeveralDeliveries::new(new.sid, deliveries).unwrap();
        let several = if let Some(until) = kept { several.kept_until(until) } else { several };
        (NewMessage { deliveries: Deliveries::Several(several), ..new }, sids)
    }

    /// To a device by CCS, to another by FCM v1, and into an inbox.
    fn three(&mut self, id: &str) -> (NewMessage, Vec<Sid>) {
        self.several(id, vec![ccs("T1"), v1("T2"), inbox()])
    }

    async fn take_v1(&self, now: u64) -> DueBatch {
        let query =
            DueQuery { transport: Transport::FcmV1(None), now, limit: 100, taken_on_accept: 0, pipelining: MANY };
        self.store.take_due(query).await.unwrap().await.unwrap()
    }

    pub(super) fn message(&self, id: &str) -> TraceMessage {
        let traces = self.inspector().trace(id).unwrap();
        let [Trace::Message(message)] = &traces[..] else { panic!("{traces:?}") };
        (**message).clone()
    }

    pub(in crate::store) fn standing(&self, id: &str) -> (Status, Vec<State>) {
        let message = self.message(id);
        (message.status, message.deliveries.iter().map(|delivery| delivery.state).collect())
    }

    /// Rows of messages with several deliveries and of these.
    pub(in crate::store) fn rows(&self) -> (i64, i64) {
        let file = rusqlite::Connection::open(&self.settings.path).unwrap();
        let count = |sql| file.query_row(sql, [], |row| row.get(0)).unwrap();
        (count("SELECT count(*) FROM messages"), count("SELECT count(*) FROM deliveries"))
    }

    pub(in crate::store) fn queued(&self) -> (u64, u64) {
        let figures = self.store.figures();
        (figures.queue_rows, figures.queue_bytes)
    }

    async fn read_inbox(&self, by: AckedBy) {
        let references = self.next(INBOX_OF, 0).await.into_iter().map(|document| document.reference).collect();
        self.store.documents_acked(references, by, NOW).await.unwrap().await.unwrap();
    }
}

fn push(transport: Transport, address: &str, deadline_ms: u64) -> Destination {
    let recipient = Recipient(address.bytes().map(i64::from).sum());
    let address = Bytes::copy_from_slice(address.as_bytes());
    Destination::Push { push: NewPush { recipient, transport, deadline_ms, receipt: true }, address }
}

pub(in crate::store) fn ccs(address: &str) -> Destination {
    push(Transport::Ccs, address, NOW + HOUR)
}

fn v1(address: &str) -> Destination {
    push(Transport::FcmV1(None), address, NOW + HOUR)
}

pub(in crate::store) fn inbox() -> Destination {
    inbox_at(INBOX_OF)
}

fn inbox_at(topic: &str) -> Destination {
    Destination::Inbox { topic: topic.to_owned(), deadline_ms: None, receipt: true }
}

pub(super) fn without_receipt(mut to: Destination) -> Destination {
    match &mut to {
        Destination::Push { push, .. } => push.receipt = false,
        Destination::Inbox { receipt, .. } => *receipt = false,
    }
    to
}

fn gone() -> Event {
    refused(Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED")
}

/// What happens to a message to [`Rig::three`].
#[derive(Debug, Clone)]
enum Happens {
    /// The push service of CCS, or of v1, is handed what is due.
    Ccs,
    V1,
    /// To the delivery with this number.
    To(usize, Event),
    /// The inbox is taken.
    Inbox(AckedBy),
    Crash,
    Passes(u64),
}

/// Lets it happen; after each step, what was told and where the deliveries stand is compared.
async fn drive(steps: &[(Happens, &[&str], [State; 3])]) -> Rig {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.three("a1");
    let (mut now, mut status) = (NOW, Status::Accepted);
    assert_eq!(rig.accept(new).await, Accepted::Stored);
    assert_eq!(rig.statuses().await, ["a1 accepted"]);
    assert_eq!(rig.standing("a1"), (status, vec![Due, Due, InFlight]));
    for (number, (happens, told, states)) in steps.iter().enumerate() {
        match happens.clone() {
            Happens::Ccs => assert_eq!(rig.take(now).await.claimed.len(), 1, "{number}"),
            Happens::V1 => assert_eq!(rig.take_v1(now).await.claimed.len(), 1, "{number}"),
            Happens::To(which, event) => drop(rig.record(sids[which], event, now).await),
            Happens::Inbox(by) => rig.read_inbox(by).await,
            Happens::Crash => rig = rig.crash(),
            Happens::Passes(ms) => {
                now += ms;
                rig.sweep_all(now).await;
            }
        }
        let expected: Vec<_> = told.iter().map(|status| format!("a1 {status}")).collect();
        assert_eq!(rig.statuses().await, expected, "{number}: {happens:?}");
        if let Some(last) = told.last() {
            status = serde_json::from_value(Value::from(*last)).unwrap();
        }
        assert_eq!(rig.standing("a1"), (status, states.to_vec()), "{number}: {happens:?}");
        let to_push = states[..2].iter().filter(|state| matches!(state, Due | InFlight)).count() as u64;
        let shared = if to_push > 0 { "body of a1".len() as u64 } else { 0 };
        assert_eq!(rig.queued(), (to_push, 2 * to_push + shared), "{number}: {happens:?}");
        let needed = states.iter().any(|state| matches!(state, Due | InFlight));
        assert_eq!(rig.message("a1").body_bytes > 0, needed, "{number}: {happens:?}");
    }
    rig
}

#[tokio::test]
async fn a_fault_of_one_delivery_changes_nothing_for_the_others() {
    let rig = drive(&[
        (Happens::Ccs, &[], [InFlight, Due, InFlight]),
        (Happens::Crash, &[], [Due, Due, InFlight]),
        (Happens::V1, &[], [Due, InFlight, InFlight]),
        (Happens::To(1, gone()), &[], [Due, Failed, InFlight]),
        (Happens::Ccs, &[], [InFlight, Failed, InFlight]),
        (Happens::To(0, retry(NOW)), &[], [Due, Failed, InFlight]),
        (Happens::Ccs, &[], [InFlight, Failed, InFlight]),
        (Happens::To(0, accepted()), &["sent"], [Sent, Failed, InFlight]),
        (Happens::Crash, &[], [Sent, Failed, InFlight]),
        (Happens::Inbox(AckedBy::Owner), &["delivered"], [Sent, Failed, Delivered]),
        (Happens::To(0, Event::RECEIPT), &[], [Delivered, Failed, Delivered]),
        (Happens::To(1, accepted()), &[], [Delivered, Failed, Delivered]),
    ])
    .await;
    let message = rig.message("a1");
    assert!(message.final_at.is_some() && message.dup_possible, "of the one that was in flight at the crash");
    assert_eq!(rig.store.figures().history_rows, 1, "its deliveries are not remembered for themselves");
    let attempts: Vec<_> = message.deliveries.iter().map(|delivery| delivery.attempt).collect();
    assert_eq!(attempts, [3, 1, 1]);
}

#[tokio::test]
async fn what_is_read_first_is_delivered_whatever_becomes_of_the_pushes() {
    drive(&[
        (Happens::Inbox(AckedBy::Owner), &["sent", "delivered"], [Due, Due, Delivered]),
        (Happens::Ccs, &[], [InFlight, Due, Delivered]),
        (Happens::To(0, gone()), &[], [Failed, Due, Delivered]),
        (Happens::Crash, &[], [Failed, Due, Delivered]),
        (Happens::V1, &[], [Failed, InFlight, Delivered]),
        (Happens::To(1, gone()), &[], [Failed, Failed, Delivered]),
    ])
    .await;
}

#[tokio::test]
async fn what_only_a_broker_has_is_sent_and_waits_for_the_word_of_its_reader() {
    drive(&[
        (Happens::V1, &[], [Due, InFlight, InFlight]),
        (Happens::To(1, gone()), &[], [Due, Failed, InFlight]),
        (Happens::Inbox(AckedBy::Broker), &["sent"], [Due, Failed, Sent]),
        (Happens::Ccs, &[], [InFlight, Failed, Sent]),
        (Happens::To(0, gone()), &[], [Failed, Failed, Sent]),
        (Happens::To(2, Event::RECEIPT), &["delivered"], [Failed, Failed, Delivered]),
    ])
    .await;
}

#[tokio::test]
async fn what_nobody_confirms_expires_and_so_does_the_message() {
    drive(&[
        (Happens::Ccs, &[], [InFlight, Due, InFlight]),
        (Happens::To(0, accepted()), &["sent"], [Sent, Due, InFlight]),
        (Happens::Passes(HOUR), &[], [Sent, Expired, InFlight]),
        (Happens::Passes(RECEIPT_GRACE_MS), &[], [Expired, Expired, InFlight]),
        (Happens::To(2, Event::Expired), &["expired"], [Expired, Expired, Expired]),
    ])
    .await;
}

#[tokio::test]
async fn without_the_wish_for_a_receipt_the_first_that_is_sent_is_the_last_word() {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.several("a1", [ccs("T1"), v1("T2"), inbox()].map(without_receipt).into());
    rig.accept(new).await;
    rig.take(NOW).await;
    rig.take_v1(NOW).await;
    rig.read_inbox(AckedBy::Owner).await;
    for (sid, event) in [(sids[0], gone()), (sids[1], accepted())] {
        assert!(rig.message("a1").final_at.is_none());
        rig.record(sid, event, NOW).await;
    }
    assert_eq!(rig.statuses().await, ["a1 accepted", "a1 sent"]);
    assert_eq!(rig.standing("a1"), (Status::Sent, vec![Failed, Sent, Sent]));
    assert!(rig.message("a1").final_at.is_some());
}

#[tokio::test]
async fn where_all_fail_the_sender_hears_how_many_and_of_no_transport_or_token() {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.several("a1", vec![ccs("T1"), v1("T2"), push(Transport::Ccs, "T3", NOW + 1)]);
    rig.accept(new.clone()).await;
    rig.take(NOW).await;
    rig.take_v1(NOW).await;
    rig.record(sids[0], gone(), NOW).await;
    rig.record(sids[2], refused(Decision::FAIL, "INVALID_JSON"), NOW).await;
    let told = rig.record(sids[1], refused(Decision::FAIL, "LAST"), NOW + 5).await;
    let Recorded::Moved { bal, id, life, told } = told else { panic!("{told:?}") };
    assert_eq!((&*bal, &*id, life.state, told), ("bal1", "a1", Failed, &[Status::Failed][..]));
    let expected = serde_json::json!({"id": "a1", "status": "failed", "ts": NOW + 5, "code": "LAST",
        "detail": "of 3 deliveries 3 failed and 0 expired"});
    let first = rig.read(RECEIPTS).await;
    assert_eq!(first.last(), Some(&expected));
    assert_eq!(rig.accept(new).await, Accepted::Repeated(Status::Failed));
    let mut again = expected;
    again["redelivered"] = true.into();
    assert_eq!(rig.read(RECEIPTS).await, [again]);
}

#[tokio::test]
async fn where_one_expires_and_the_others_fail_the_message_expires() {
    let mut rig = Rig::new(Limits::default());
    let unread = Destination::Inbox { topic: INBOX_OF.to_owned(), deadline_ms: Some(NOW + 1000), receipt: true };
    let (new, sids) = rig.several("a1", vec![ccs("T1"), unread]);
    rig.accept(new).await;
    rig.next(INBOX_OF, 0).await;
    rig.sweep_all(NOW + 1000).await;
    assert_eq!(rig.next(INBOX_OF, 0).await, [], "what has had its time leaves the inbox");
    rig.take(NOW).await;
    rig.record(sids[0], gone(), NOW + 2000).await;
    let told = rig.read(RECEIPTS).await.pop().unwrap();
    assert_eq!((&told["status"], &told["code"]), (&"expired".into(), &"EXPIRED".into()));
    assert_eq!(told["detail"], "of 2 deliveries 1 failed and 1 expired");
    let detail = rig.message("a1").deliveries[1].detail.clone();
    assert_eq!(detail.as_deref(), Some("the time to live ended before it was read"));
}

#[tokio::test]
async fn each_recipient_gets_the_body_of_all_and_its_own_address() {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.several("a1", vec![ccs("T1"), inbox(), ccs("T2")]);
    rig.accept(new).await;
    let plain = rig.new_message("b1");
    rig.accept(plain).await;
    let claimed = rig.take(NOW).await.claimed;
    let seen: Vec<_> = claimed.iter().map(|c| (c.body.clone(), c.address.clone())).collect();
    let (body, address) = (Bytes::from("body of a1"), |text: &'static str| Some(Bytes::from(text)));
    assert_eq!(seen[..2], [(body.clone(), address("T1")), (body.clone(), address("T2"))]);
    assert_eq!(seen[2], (Bytes::from("body of b1"), None));
    assert_eq!([claimed[0].sid, claimed[1].sid], [sids[0], sids[2]]);
    for sid in [sids[0], sids[2]] {
        rig.record(sid, accepted(), NOW).await;
    }
    let document = rig.next(INBOX_OF, 0).await.remove(0);
    assert_eq!((document.payload, document.reference.origin), (body, Origin::Delivery(sids[1])));
}

#[tokio::test]
async fn what_lies_in_an_inbox_stays_there_over_a_crash_and_comes_marked() {
    let mut rig = Rig::new(Limits::default());
    let (new, _) = rig.several("a1", vec![inbox()]);
    rig.accept(new).await;
    assert!(rig.store.topics_with_documents().await.contains(INBOX_OF));
    let first = rig.next(INBOX_OF, 0).await;
    let rig = rig.crash();
    assert_eq!((rig.recovery.crashed, rig.recovery.rerouted, rig.recovery.redelivered), (0, 0, 1));
    let again = rig.next(INBOX_OF, 0).await;
    assert_eq!((again.len(), again[0].redelivered, &again[0].payload), (1, true, &first[0].payload));
    rig.publish(&again).await;
    rig.publish(&first).await;
    assert_eq!(rig.statuses().await, ["a1 accepted", "a1 sent", "a1 delivered"]);
    assert_eq!(rig.next(INBOX_OF, 0).await, []);
}

#[tokio::test]
async fn what_lay_in_an_inbox_is_confirmed_by_whose_it_is() {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.several("a1", vec![inbox()]);
    rig.accept(new.clone()).await;
    let confirm = async |name| {
        let owner = Owner::new(name).unwrap();
        rig.store.confirm(&owner, vec![new.sid, sids[0]], NOW).await.unwrap().await.unwrap()
    };
    assert_eq!(confirm("bob").await, []);
    let confirmed = confirm("alice").await;
    let [(first, Recorded::Moved { .. }), (second, Recorded::NoEffect)] = &confirmed[..] else {
        panic!("{confirmed:?}")
    };
    assert_eq!([first, second], [&sids[0]; 2], "by the id of its message as by its own");
    assert_eq!(rig.next(INBOX_OF, 0).await, [], "also before its publication is confirmed");
    assert_eq!(rig.record(new.sid, Event::RECEIPT, NOW).await, Recorded::Unknown, "it is no delivery");
}

#[tokio::test]
async fn a_message_that_is_repeated_tells_what_its_deliveries_came_to() {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.three("a1");
    rig.accept(new).await;
    let (again, other) = rig.three("a1");
    assert_eq!(rig.accept(again.clone()).await, Accepted::Repeated(Status::Accepted));
    assert_eq!(rig.statuses().await, ["a1 accepted"], "its first telling was unread");
    assert_eq!(rig.rows(), (1, 4));
    rig.take(NOW).await;
    rig.record(sids[0], accepted(), NOW + 5).await;
    rig.statuses().await;
    assert_eq!(rig.accept(again).await, Accepted::Repeated(Status::Sent));
    let told = rig.read(RECEIPTS).await;
    assert_eq!((told.len(), &told[0]["ts"], &told[0]["redelivered"]), (1, &(NOW + 5).into(), &true.into()));
    assert_eq!(rig.record(other[0], accepted(), NOW).await, Recorded::Unknown);
    let plain = rig.new_message("a1");
    assert_eq!(rig.accept(plain).await, Accepted::Repeated(Status::Sent), "also where it has one recipient now");
}

#[tokio::test]
async fn all_deliveries_of_a_message_wait_for_the_one_before_it() {
    let mut rig = Rig::new(Limits::default());
    let order = Some("k".to_owned());
    let first = NewMessage { order: order.clone(), ..rig.new_message("a1") };
    let first_sid = first.sid;
    let (second, sids) = rig.three("a2");
    let second = NewMessage { order: order.clone(), ..second };
    let third = NewMessage { order, ..rig.new_message("a3") };
    for new in [first, second, third] {
        rig.accept(new).await;
    }
    assert_eq!(rig.standing("a2"), (Status::Accepted, vec![Behind; 3]));
    assert_eq!(rig.next(INBOX_OF, 0).await, []);
    assert_eq!(ids(&rig.take(NOW).await), ["a1"]);
    assert_eq!(rig.take_v1(NOW).await.claimed, []);
    let mut due = rig.store.due();
    due.mark_unchanged();
    rig.record(first_sid, gone(), NOW).await;
    assert!(due.has_changed().unwrap());
    let mut rig = rig.crash();
    assert_eq!(rig.standing("a2"), (Status::Accepted, vec![Due, Due, InFlight]));
    assert_eq!((ids(&rig.take(NOW).await), rig.take_v1(NOW).await.claimed.len()), (vec!["a2".to_owned()], 1));
    rig.record(sids[0], accepted(), NOW).await;
    assert_eq!(rig.take(NOW).await.claimed, [], "pushes are open");
    rig.record(sids[0], Event::RECEIPT, NOW).await;
    assert_eq!(ids(&rig.take(NOW).await), ["a3"], "`delivered` was told");
    let behind = rig.new_message("a4");
    rig.accept(NewMessage { order: Some("k".to_owned()), ..behind }).await;
    rig.record(sids[1], gone(), NOW).await;
    rig.read_inbox(AckedBy::Owner).await;
    assert!(rig.message("a2").final_at.is_some());
    assert_eq!(rig.take(NOW).await.claimed, [], "its end is no turn once more: a3 is open");
}

#[tokio::test]
async fn a_message_that_is_kept_stays_with_its_body_until_its_time_and_then_goes_whole() {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.several_kept("a1", vec![ccs("T1"), inbox()], Some(NOW + 48 * HOUR));
    rig.accept(new.clone()).await;
    let (plain, _) = rig.several("b1", vec![inbox()]);
    rig.accept(plain).await;
    rig.take(NOW).await;
    rig.record(sids[0], gone(), NOW).await;
    rig.read_inbox(AckedBy::Owner).await;
    rig.statuses().await;
    let rig = rig.reopen().await;
    rig.sweep_all(NOW + 25 * HOUR).await;
    assert_eq!(rig.rows(), (1, 3), "the other one is forgotten");
    let message = rig.message("a1");
    assert_eq!((message.body_bytes, message.kept_until), (10, Some(NOW + 48 * HOUR)));
    assert_eq!(rig.queued(), (0, 0));
    assert_eq!(rig.accept(new.clone()).await, Accepted::Repeated(Status::Delivered));
    rig.sweep_all(NOW + 48 * HOUR - 1).await;
    assert_eq!(rig.rows(), (1, 3));
    rig.sweep_all(NOW + 48 * HOUR).await;
    assert_eq!(rig.rows(), (0, 0));
    assert_eq!(rig.accept(new).await, Accepted::Stored);
}

#[tokio::test]
async fn a_message_that_is_kept_for_less_is_remembered_as_long_as_any() {
    let mut rig = Rig::new(Limits::default());
    let (settled, sids) = rig.several_kept("a1", vec![ccs("T1")], Some(NOW + 1));
    let (open, _) = rig.several_kept("a2", vec![inbox()], Some(NOW + 1));
    let (sent, sent_sids) = rig.several_kept("a3", vec![ccs("T3")], Some(NOW + 1));
    for new in [settled.clone(), open, sent] {
        rig.accept(new).await;
    }
    rig.take(NOW).await;
    rig.record(sids[0], gone(), NOW).await;
    rig.record(sent_sids[0], accepted(), NOW).await;
    rig.sweep_all(NOW + 1).await;
    assert_eq!(rig.accept(settled).await, Accepted::Repeated(Status::Failed));
    assert_eq!((rig.message("a2").kept_until, rig.message("a2").body_bytes), (None, 10));
    assert_eq!((rig.message("a3").kept_until, rig.message("a3").body_bytes), (None, 0), "nobody needs it any more");
    rig.read_inbox(AckedBy::Owner).await;
    rig.record(sent_sids[0], Event::RECEIPT, NOW).await;
    rig.statuses().await;
    rig.sweep_all(NOW + 25 * HOUR).await;
    assert_eq!(rig.rows(), (0, 0));
}

#[tokio::test]
async fn settled_messages_are_forgotten_with_their_deliveries_and_their_unread_statuses() {
    let mut rig = Rig::new(Limits { history_rows: 1, ..Limits::default() });
    for id in ["a1", "a2"] {
        let (new, sids) = rig.several(id, vec![ccs("T1"), ccs("T2")]);
        rig.accept(new).await;
        rig.take(NOW).await;
        for sid in sids {
            rig.record(sid, gone(), NOW).await;
        }
    }
    let rig = rig.crash();
    assert_eq!(rig.store.figures().history_rows, 2);
    rig.sweep_all(NOW).await;
    assert_eq!((rig.rows(), rig.store.figures().history_rows), ((1, 3), 1));
    assert_eq!(rig.statuses().await, ["a2 accepted", "a2 failed"]);
}

#[tokio::test]
async fn the_limits_of_the_queue_hold_for_all_deliveries_at_once() {
    let mut rig = Rig::new(Limits { queue_rows: 3, queue_bytes: 30, ..Limits::default() });
    let (first, _) = rig.several("a1", vec![ccs("T1"), v1("T2"), inbox(), inbox()]);
    assert_eq!(rig.accept(first.clone()).await, Accepted::Stored);
    assert_eq!(rig.queued(), (2, 14));
    let (second, _) = rig.several("a2", vec![ccs("T1"), ccs("T2")]);
    assert_eq!(rig.accept(second).await, Accepted::Full);
    assert_eq!(rig.accept(first).await, Accepted::Repeated(Status::Accepted));
    let (long, _) = rig.several("a3", vec![ccs("an address")]);
    assert_eq!(rig.accept(long).await, Accepted::Full, "of bytes");
    let rig = rig.crash();
    assert_eq!(rig.queued(), (2, 14), "counted again at the start");
    assert_eq!(rig.rows(), (1, 5));
}

#[tokio::test]
async fn each_delivery_has_its_own_wish_for_a_receipt() {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.several("a1", vec![without_receipt(v1("T1")), ccs("T2")]);
    rig.accept(new).await;
    rig.take(NOW).await;
    rig.take_v1(NOW).await;
    rig.record(sids[0], accepted(), NOW).await;
    rig.record(sids[1], accepted(), NOW).await;
    let message = rig.message("a1");
    let wishes: Vec<_> = message.deliveries.iter().map(|delivery| delivery.receipt).collect();
    assert_eq!((message.receipt, wishes, message.final_at), (true, vec![false, true], None));
    rig.sweep_all(NOW + HOUR + RECEIPT_GRACE_MS).await;
    assert_eq!(rig.standing("a1"), (Status::Sent, vec![Sent, Expired]));
    assert!(rig.message("a1").final_at.is_some());
}

#[tokio::test]
async fn what_an_inbox_moves_is_answered_and_nothing_else() {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.several("a1", vec![inbox(), ccs("T1")]);
    rig.accept(new).await;
    let mut references = Vec::new();
    for topic in [RECEIPTS, INBOX_OF] {
        references.extend(rig.next(topic, 0).await.into_iter().map(|document| document.reference));
    }
    let published =
        async || rig.store.documents_acked(references.clone(), AckedBy::Broker, NOW).await.unwrap().await.unwrap();
    let moved = published().await;
    let [(sid, Recorded::Moved { bal, id, life, told })] = &moved[..] else { panic!("{moved:?}") };
    assert_eq!((*sid, &**bal, &**id, life.state, *told), (sids[0], "bal1", "a1", Sent, &[Status::Sent][..]));
    assert_eq!(published().await, [(sids[0], Recorded::NoEffect)]);
}

#[test]
fn the_ids_of_deliveries_rise_from_that_of_their_message_on() {
    let mut sids = SidSource::default();
    let [message, first, second] = [(); 3].map(|()| sids.next(NOW, 0));
    let of = |deliveries: [Sid; 2]| {
        let deliveries = deliveries.map(|sid| NewDelivery { sid, destination: inbox() });
        SeveralDeliveries::new(message, deliveries.into()).map(drop)
    };
    assert_eq!(of([first, second]), Ok(()));
    assert_eq!(of([message, second]), Err(DeliveriesError::Order(message)));
    assert_eq!(of([second, first]), Err(DeliveriesError::Order(first)));
    let (row, tail) = first.parts();
    let same_row = Sid::from_parts(row, tail + 1).unwrap();
    assert_eq!(of([first, same_row]), Err(DeliveriesError::Order(same_row)));
}

#[test]
fn a_message_has_a_delivery_and_not_more_than_so_many() {
    let mut sids = SidSource::default();
    let mut of = |count| {
        let message = sids.next(NOW, 0);
        let deliveries = (0..count).map(|_| NewDelivery { sid: sids.next(NOW, 0), destination: inbox() }).collect();
        SeveralDeliveries::new(message, deliveries).map(drop)
    };
    assert_eq!((of(1), of(DELIVERIES_MAX)), (Ok(()), Ok(())));
    assert!(of(0).is_err());
    assert_eq!(of(DELIVERIES_MAX + 1).unwrap_err().to_string(), "a message cannot have 1001 deliveries");
}

#[tokio::test]
async fn a_push_that_has_lost_its_transport_takes_another_and_an_inbox_stays_what_it_is() {
    let mut rig = Rig::new(Limits::default());
    let (new, _) = rig.several("a1", vec![push(Transport::parse("fcm-v1:gone").unwrap(), "T1", NOW + HOUR), inbox()]);
    rig.accept(new).await;
    let rig = rig.reopen().await;
    assert_eq!((rig.recovery.rerouted, rig.recovery.crashed), (1, 0));
    assert_eq!(ids(&rig.take(NOW).await), ["a1"]);
    rig.read_inbox(AckedBy::Owner).await;
    assert_eq!(rig.standing("a1"), (Status::Delivered, vec![InFlight, Delivered]));
}

#[tokio::test]
async fn a_message_with_several_deliveries_is_shown_as_one_with_its_deliveries_inside() {
    let mut rig = Rig::new(Limits::default());
    let plain = rig.new_message("b1");
    rig.accept(plain).await;
    let (new, sids) = rig.three("a1");
    rig.accept(new.clone()).await;
    let inspector = rig.inspector();
    let by_id = inspector.trace("a1").unwrap();
    for id in [new.sid, sids[0], sids[2]] {
        assert_eq!(inspector.trace(&id.to_string()).unwrap(), by_id, "{id}");
    }
    let message = rig.message("a1");
    assert_eq!((message.statuses_unread, &*message.reply), (1, RECEIPTS));
    let shown: Vec<_> = message.deliveries.iter().map(|d| (&*d.transport, &*d.reply, &*d.bal, &*d.id)).collect();
    let push = |transport| (transport, RECEIPTS, "bal1", "a1");
    assert_eq!(shown, [push("ccs"), push("fcm-v1"), ("inbox", INBOX_OF, "bal1", "a1")]);
    assert!(message.deliveries.iter().all(|delivery| delivery.statuses_unread == 0), "statuses are the message's");
    let deadlines: Vec<_> = message.deliveries.iter().map(|delivery| delivery.deadline).collect();
    assert_eq!(deadlines, [Some(NOW + HOUR), Some(NOW + HOUR), None]);
    let list = inspector.list(10).unwrap();
    assert!(matches!(&list[..], [Trace::Message(a1), Trace::Delivery(b1)] if a1.id == "a1" && b1.id == "b1"));
    let counts = inspector.counts().unwrap();
    assert_eq!((counts.deliveries.get("due"), counts.deliveries.get("in_flight")), (Some(&3), None));
    assert_eq!(counts.outbox[INBOX_OF], 1);
}

#[tokio::test]
async fn a_reader_that_knows_the_id_of_the_message_confirms_what_lay_in_its_own_inbox() {
    let mut rig = Rig::new(Limits::default());
    let (new, sids) = rig.several("a1", vec![v1("T1"), inbox(), inbox_at("bob/others/messages")]);
    rig.accept(new.clone()).await;
    let confirm = async |name, sid| {
        let owner = Owner::new(name).unwrap();
        rig.store.confirm(&owner, vec![sid], NOW).await.unwrap().await.unwrap()
    };
    assert_eq!(confirm("carol", new.sid).await, []);
    let confirmed = confirm("alice", new.sid).await;
    assert!(matches!(&confirmed[..], [(sid, Recorded::Moved { .. })] if *sid == sids[1]), "{confirmed:?}");
    assert_eq!(rig.standing("a1"), (Status::Delivered, vec![Due, Delivered, InFlight]));
    let (row, tail) = new.sid.parts();
    assert_eq!(confirm("bob", Sid::from_parts(row, tail ^ 1).unwrap()).await, [], "no id of anything");
}

#[tokio::test]
async fn what_a_broker_took_for_good_waits_ten_minutes_for_its_receipt_and_ends() {
    let mut rig = Rig::new(Limits::default());
    let (new, _) = rig.several("a1", vec![inbox()]);
    rig.accept(new).await;
    rig.sweep_all(NOW + 48 * HOUR).await;
    assert_eq!(rig.standing("a1"), (Status::Accepted, vec![InFlight]), "an inbox keeps it for ever");
    rig.read_inbox(AckedBy::Broker).await;
    rig.sweep_all(NOW + RECEIPT_GRACE_MS - 1).await;
    assert_eq!(rig.standing("a1"), (Status::Sent, vec![Sent]));
    let rig = rig.crash();
    rig.sweep_all(NOW + RECEIPT_GRACE_MS).await;
    assert_eq!(rig.standing("a1"), (Status::Expired, vec![Expired]));
    let detail = rig.message("a1").deliveries[0].detail.clone();
    assert_eq!(detail.as_deref(), Some("it was taken, but no word of its delivery came in time"));
    rig.statuses().await;
    rig.sweep_all(NOW + 25 * HOUR).await;
    assert_eq!(rig.rows(), (0, 0));
}

/// Messages of the order key `k`, to these.
async fn in_order<const N: usize>(rig: &mut Rig, messages: [(&str, Vec<Destination>); N]) -> [(Sid, Vec<Sid>); N] {
    let made = messages.map(|(id, to)| rig.several(id, to));
    let ids = made.clone().map(|(new, sids)| (new.sid, sids));
    for (new, _) in made {
        let new = NewMessage { order: Some("k".to_owned()), ..new };
        assert_eq!(rig.accept(new).await, Accepted::Stored);
    }
    ids
}

#[tokio::test]
async fn the_next_message_of_a_key_waits_for_no_inbox() {
    let mut rig = Rig::new(Limits::default());
    let messages = [
        ("a1", vec![ccs("T1"), inbox()]),
        ("a2", vec![inbox(), inbox()]),
        ("a3", vec![ccs("T1")]),
        ("a4", vec![inbox(), ccs("T1")]),
    ];
    let [(_, first), _, (_, third), _] = in_order(&mut rig, messages).await;
    assert_eq!(rig.next(INBOX_OF, 0).await.len(), 1, "that of the first");
    assert_eq!(ids(&rig.take(NOW).await), ["a1"]);
    rig.record(first[0], accepted(), NOW).await;
    assert_eq!(rig.standing("a2").1, [Behind, Behind], "the receipt of the push is still to come");
    rig.record(first[0], Event::Expired, NOW).await;
    assert_eq!(rig.standing("a1"), (Status::Sent, vec![Expired, InFlight]), "nobody reads the inbox");
    let mut rig = rig.crash();
    assert_eq!(rig.standing("a2").1, [InFlight, InFlight]);
    assert_eq!(ids(&rig.take(NOW).await), ["a3"]);
    assert_eq!(rig.standing("a4").1, [Behind, Behind]);
    rig.record(third[0], gone(), NOW).await;
    assert_eq!(ids(&rig.take(NOW).await), ["a4"]);
    let late = NewMessage { order: Some("k".to_owned()), ..rig.new_message("a5") };
    rig.accept(late).await;
    assert_eq!(rig.take(NOW).await.claimed, [], "it waits for the push of a4");
    rig.read_inbox(AckedBy::Owner).await;
    rig.sweep_all(NOW).await;
    assert_eq!(rig.standing("a4"), (Status::Delivered, vec![Delivered, InFlight]));
    assert_eq!(ids(&rig.take(NOW).await), ["a5"], "`delivered` was told");
}

#[tokio::test]
async fn a_message_to_inboxes_alone_keeps_nobody_waiting() {
    let mut rig = Rig::new(Limits::default());
    in_order(&mut rig, [("a1", vec![inbox()]), ("a2", vec![ccs("T1")])]).await;
    assert_eq!(ids(&rig.take(NOW).await), ["a2"]);
    assert_eq!(rig.standing("a1"), (Status::Accepted, vec![InFlight]));
}

#[tokio::test]
async fn a_message_that_waits_keeps_its_turn_when_its_pushes_expire_before_it() {
    let mut rig = Rig::new(Limits::default());
    let late = vec![push(Transport::Ccs, "T1", NOW + 1000), inbox()];
    let [(_, first), _, _] = in_order(&mut rig, [("a1", vec![ccs("T1")]), ("a2", late), ("a3", vec![ccs("T2")])]).await;
    rig.take(NOW).await;
    rig.sweep_all(NOW + 1000).await;
    assert_eq!(rig.standing("a2").1, [Expired, Behind]);
    assert_eq!(rig.standing("a3").1, [Behind]);
    rig.record(first[0], gone(), NOW).await;
    assert_eq!(rig.standing("a2").1, [Expired, InFlight]);
    assert_eq!(rig.standing("a3").1, [Due]);
}

impl Rig {
    /// Somebody else changes the file.
    fn meddle(&self, sql: &str) {
        rusqlite::Connection::open(&self.settings.path).unwrap().execute_batch(sql).unwrap();
    }
}

#[tokio::test]
async fn a_document_without_its_delivery_goes_when_it_is_published() {
    let mut rig = Rig::new(Limits::default());
    let (new, _) = rig.several("a1", vec![inbox()]);
    rig.accept(new).await;
    let documents = rig.next(INBOX_OF, 0).await;
    rig.meddle("DELETE FROM deliveries; DELETE FROM messages");
    rig.publish(&documents).await;
    assert!(!rig.store.topics_to_publish().await.unwrap().await.unwrap().contains(&INBOX_OF.to_owned()));
}

#[tokio::test]
async fn a_document_whose_body_is_gone_is_not_handed_out_and_those_behind_it_are() {
    let mut rig = Rig::new(Limits::default());
    let (first, _) = rig.several("a1", vec![inbox()]);
    let (second, _) = rig.several("a2", vec![inbox()]);
    rig.accept(first.clone()).await;
    rig.accept(second).await;
    rig.meddle(&format!("UPDATE deliveries SET body = NULL WHERE row = {}", first.sid.row().0));
    let page = rig.store.next_to_publish(INBOX_OF.into(), 0, 1).await.unwrap().await.unwrap();
    assert_eq!(page.iter().map(|document| &document.payload[..]).collect::<Vec<_>>(), [b"body of a2"]);
    assert_eq!(rig.inspector().counts().unwrap().outbox[INBOX_OF], 1);
    rig.meddle("UPDATE deliveries SET body = NULL");
    assert_eq!(rig.next(INBOX_OF, 0).await, []);
    assert_eq!(rig.inspector().counts().unwrap().outbox.get(INBOX_OF), None);
}

#[tokio::test]
async fn the_sweep_drops_documents_without_their_delivery_and_forgets_nothing_that_is_open() {
    let mut rig = Rig::new(Limits::default());
    let (lost, _) = rig.several("a1", vec![inbox()]);
    let (open, sids) = rig.several("a2", vec![ccs("T1")]);
    let plain = rig.new_message("b1");
    let settled = rig.new_message("b2");
    for new in [lost.clone(), open.clone(), plain.clone(), settled.clone()] {
        rig.accept(new).await;
    }
    rig.take(NOW).await;
    for sid in [sids[0], plain.sid, settled.sid] {
        rig.record(sid, gone(), NOW).await;
    }
    rig.meddle(&format!(
        "DELETE FROM deliveries WHERE message = {0} OR row = {0}; DELETE FROM messages WHERE row = {0};
        UPDATE deliveries SET final_at = NULL WHERE row IN ({1}, {2})",
        lost.sid.row().0,
        open.sid.row().0,
        plain.sid.row().0
    ));
    rig.sweep_all(NOW + 25 * HOUR).await;
    assert_eq!(rig.rows(), (1, 3), "only what is settled was forgotten");
    assert_eq!(rig.inspector().counts().unwrap().outbox.get(INBOX_OF), None);
}

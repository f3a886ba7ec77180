//! What the store keeps of the sessions of a broker: its verbs, one promise after the other.

use super::several::{INBOX_OF, inbox};
use super::*;
use crate::chat::principal::Role;
use crate::chat::qos::QoS;
use crate::chat::status::Status;
use std::sync::Arc;

/// All that there is.
pub(super) const ALL: Page = Page { rows: usize::MAX, bytes: usize::MAX };

pub(in crate::store) fn said(topic: &str, text: &str) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.into(),
        payload: Bytes::from(text.to_owned()),
        properties: Bytes::new(),
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
    })
}

pub(in crate::store) fn to(queue: QueueId) -> Target {
    Target { queue, qos: QoS::AtLeastOnce, retain: false, ids: Vec::new() }
}

pub(in crate::store) fn put(message: &Arc<Message>, queues: &[QueueId]) -> Enqueue {
    let targets = queues.iter().copied().map(to).collect();
    Enqueue { message: message.clone(), targets, incoming: None, retain: None, will: None }
}

pub(super) fn took(queue: Option<QueueId>, rows: &[u64], documents: Vec<AckedDocument>) -> Acknowledged {
    Acknowledged { queue, rows: rows.to_vec(), documents, by: AckedBy::Broker, at: NOW, is_awaited: false }
}

fn note(topic: &str, text: &str) -> Note {
    let (topic, payload) = (topic.to_owned(), Bytes::from(text.to_owned()));
    Note { topic, payload, correlation: Some(Bytes::from_static(b"c")), at: NOW }
}

/// Both steps of a verb.
macro_rules! ask {
    ($rig:expr, $verb:ident $(, $with:expr)*) => {
        $rig.store.$verb($($with),*).await.unwrap().await.unwrap()
    };
}
pub(super) use ask;

impl Rig {
    pub(in crate::store) async fn session(&self, client: &str) -> QueueId {
        let (key, user) = (format!("user/{client}"), Some("user".to_owned()));
        ask!(
            self,
            keep_session,
            SessionRecord { key, user, client: client.to_owned(), expiry_s: 3600, login: None },
            None
        )
    }

    pub(in crate::store) async fn say(&self, text: &str, queues: &[QueueId]) {
        ask!(self, enqueue, put(&said("a/b", text), queues));
    }

    pub(in crate::store) async fn rows_of(&self, queue: QueueId) -> Vec<QueueRow> {
        ask!(self, read_rows, queue, 0, ALL, NOW).rows
    }

    pub(in crate::store) async fn texts_of(&self, queue: QueueId) -> Vec<String> {
        self.rows_of(queue).await.iter().map(|row| text(&row.message.payload)).collect()
    }

    async fn documents_of(&self, topic: &str, queue: Option<QueueId>) -> Vec<QueuedDocument> {
        ask!(self, read_documents, topic.into(), queue, 0, ALL).documents
    }

    async fn acknowledge(&self, queue: QueueId, rows: &[u64]) -> RowCount {
        ask!(self, acknowledged, took(Some(queue), rows, Vec::new())).rows
    }

    pub(super) fn count(&self, table: &str) -> i64 {
        let file = rusqlite::Connection::open(&self.settings.path).unwrap();
        file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

fn taken(document: &QueuedDocument, others: &[QueueId]) -> AckedDocument {
    let others = others.iter().copied().map(to).collect();
    AckedDocument { reference: document.waiting.reference.clone(), others }
}

#[tokio::test]
async fn a_body_is_in_the_row_of_one_queue_and_there_once_for_several_until_the_last_has_it() {
    let rig = Rig::new(Limits::default());
    let (one, two) = (rig.session("one").await, rig.session("two").await);
    rig.say("mine", &[one]).await;
    assert_eq!(rig.count("bodies"), 0);
    rig.say("ours", &[one, two]).await;
    assert_eq!((rig.count("bodies"), rig.count("queue")), (1, 3));
    assert_eq!(rig.texts_of(one).await, ["mine", "ours"]);
    let shared = rig.rows_of(two).await.remove(0);
    assert_eq!(shared.message, said("a/b", "ours"));
    assert_eq!(rig.acknowledge(two, &[shared.seq]).await, RowCount { rows: 1, bytes: 4 });
    assert_eq!(rig.acknowledge(two, &[shared.seq]).await, RowCount::default(), "it is gone");
    assert_eq!(rig.texts_of(one).await, ["mine", "ours"]);
    let mine: Vec<u64> = rig.rows_of(one).await.iter().map(|row| row.seq).collect();
    rig.acknowledge(one, &mine).await;
    assert_eq!((rig.count("bodies"), rig.count("queue")), (0, 0));
}

#[tokio::test]
async fn a_row_of_a_group_that_is_given_to_a_member_is_its_own_and_counts_there() {
    let rig = Rig::new(Limits::default());
    let (group, member, other) =
        (ask!(rig, keep_group, "g/a/b".to_owned()), rig.session("member").await, rig.session("other").await);
    rig.say("ours", &[group, other]).await;
    let [row] = &rig.rows_of(group).await[..] else { panic!("one row") };
    let given = || vec![GivenRow { seq: row.seq, message: Arc::clone(&row.message), target: to(member), copy: false }];
    let (rows, last) = ask!(rig, give, group, given());
    assert_eq!(rows, RowCount { rows: 1, bytes: 4 });
    assert_eq!(ask!(rig, give, group, given()), (RowCount::default(), 0), "it is gone");
    assert_eq!(rig.texts_of(group).await, [""; 0]);
    assert_eq!(rig.rows_of(member).await.iter().map(|row| row.seq).collect::<Vec<_>>(), [last]);
    assert_eq!((rig.texts_of(member).await, rig.texts_of(other).await), (vec!["ours".into()], vec!["ours".into()]));
    ask!(rig, end_queue, member);
    rig.acknowledge(other, &[row.seq]).await;
    assert_eq!((rig.count("bodies"), rig.count("queue")), (0, 0));
}

#[tokio::test]
async fn a_row_of_a_group_that_another_member_may_have_is_marked_where_it_is_given_to() {
    let rig = Rig::new(Limits::default());
    let (group, member) = (ask!(rig, keep_group, "g/a/b".to_owned()), rig.session("member").await);
    rig.say("ours", &[group]).await;
    let [row] = &rig.rows_of(group).await[..] else { panic!("one row") };
    let given = GivenRow { seq: row.seq, message: Arc::clone(&row.message), target: to(member), copy: true };
    ask!(rig, give, group, vec![given]);
    let [row] = &rig.rows_of(member).await[..] else { panic!("one row") };
    assert!(row.maybe_sent);
}

#[tokio::test]
async fn rows_of_a_group_are_marked_if_they_came_while_it_had_a_member() {
    let rig = Rig::new(Limits::default());
    let group = ask!(rig, keep_group, "g/a/b".to_owned());
    rig.say("sent", &[group]).await;
    ask!(rig, session_left, group, NOW, u32::MAX, None);
    rig.say("not sent", &[group]).await;
    let rig = rig.crash();
    ask!(rig, all_left, NOW);
    rig.say("nor this", &[group]).await;
    let rig = rig.crash();
    let marks = rig.rows_of(group).await.into_iter().map(|row| row.maybe_sent);
    assert_eq!(marks.collect::<Vec<_>>(), [true, false, false]);
}

#[tokio::test]
async fn everything_that_was_said_about_a_message_comes_back() {
    let rig = Rig::new(Limits::default());
    let queue = rig.session("one").await;
    let message = Arc::new(Message {
        properties: Bytes::from_static(b"props"),
        qos: QoS::ExactlyOnce,
        retain: true,
        expires_at: Some(NOW + 5),
        ..(*said("a/b", "x")).clone()
    });
    let target = Target { queue, qos: QoS::AtLeastOnce, retain: true, ids: vec![1, 268_435_455] };
    ask!(rig, enqueue, Enqueue { targets: vec![target.clone(), target.clone()], ..put(&message, &[]) });
    let rows = rig.rows_of(queue).await;
    let [row] = &rows[..] else { panic!("one row for a queue that is named twice: {rows:?}") };
    assert_eq!((&row.message, &row.target), (&message, &target));
    assert_eq!((row.packet_id, row.released, row.maybe_sent), (None, false, false));
}

#[tokio::test]
async fn a_queue_is_read_in_pages_and_one_row_always_comes() {
    let rig = Rig::new(Limits::default());
    let queue = rig.session("one").await;
    for text in ["a", "bb", "ccc"] {
        rig.say(text, &[queue]).await;
    }
    let page = |after, rows, bytes| rig.store.read_rows(queue, after, Page { rows, bytes }, NOW);
    let first = page(0, 2, 100).await.unwrap().await.unwrap();
    assert_eq!((first.rows.len(), first.more), (2, true));
    let rest = page(first.rows[1].seq, 2, 100).await.unwrap().await.unwrap();
    assert_eq!((rest.rows.len(), rest.more), (1, false));
    let small = page(0, 100, 0).await.unwrap().await.unwrap();
    assert_eq!((small.rows.len(), small.more), (1, true));
    let full = page(0, 3, 6).await.unwrap().await.unwrap();
    assert_eq!((full.rows.len(), full.more), (3, false), "the end is known");
}

#[tokio::test]
async fn after_a_crash_what_may_have_been_sent_is_marked_and_nothing_else() {
    let rig = Rig::new(Limits::default());
    let (here, away, read) = (rig.session("here").await, rig.session("away").await, rig.session("read").await);
    for queue in [away, read] {
        ask!(rig, session_left, queue, NOW, 60, None);
    }
    for text in ["1", "2"] {
        rig.say(text, &[here, away, read]).await;
    }
    ask!(rig, read_rows, read, 0, Page { rows: 1, bytes: 100 }, NOW);
    assert!(rig.rows_of(here).await.iter().all(|row| !row.maybe_sent), "its reader knows that itself");
    let rig = rig.crash();
    ask!(rig, session_left, here, NOW, 60, None);
    rig.say("3", &[here, away, read]).await;
    let mut marks = Vec::new();
    for queue in [here, away, read] {
        marks.push(rig.rows_of(queue).await.iter().map(|row| row.maybe_sent).collect::<Vec<_>>());
    }
    assert_eq!(marks, [[true, true, false], [false; 3], [true, false, false]]);
    let state = ask!(rig, broker_state);
    assert_eq!(state.sessions.iter().filter(|session| session.left_at.is_some()).count(), 3);
}

#[tokio::test]
async fn what_has_expired_goes_on_the_way_or_by_the_sweep_unless_it_has_to_be_answered() {
    let rig = Rig::new(Limits::default());
    let queue = rig.session("one").await;
    let soon = Arc::new(Message { expires_at: Some(NOW + 10), ..(*said("a/b", "soon")).clone() });
    for message in [&soon, &said("a/b", "never"), &soon, &soon] {
        ask!(rig, enqueue, put(message, &[queue]));
    }
    let answered = rig.rows_of(queue).await[2].seq;
    ask!(rig, assign, queue, vec![(answered, 7)]);
    let read = ask!(rig, read_rows, queue, answered, ALL, NOW + 10);
    assert_eq!((read.rows.len(), read.expired), (0, RowCount { rows: 1, bytes: 4 }));
    let swept = ask!(rig, sweep_queues, NOW + 10);
    assert_eq!(swept.expired.into_iter().collect::<Vec<_>>(), [(queue, RowCount { rows: 1, bytes: 4 })]);
    assert_eq!(ask!(rig, sweep_queues, NOW + 10), SweptQueues::default());
    assert_eq!(rig.texts_of(queue).await, ["never", "soon"]);
}

#[tokio::test]
async fn a_message_of_qos_2_keeps_its_identifier_until_its_reader_has_heard_that_it_is_released() {
    let rig = Rig::new(Limits::default());
    let (one, two) = (rig.session("one").await, rig.session("two").await);
    rig.say("x", &[one, two]).await;
    let seq = rig.rows_of(one).await[0].seq;
    for queue in [one, two] {
        ask!(rig, assign, queue, vec![(seq, 65_535)]);
        ask!(rig, released, queue, vec![seq]);
        ask!(rig, released, queue, vec![seq]);
    }
    assert_eq!(rig.count("bodies"), 0);
    let rig = rig.crash();
    let row = rig.rows_of(one).await.remove(0);
    assert_eq!((row.packet_id, row.released, row.message.bytes()), (Some(65_535), true, 0));
    assert_eq!(&*row.message.topic, "a/b");
    let bytes = ask!(rig, broker_state).sessions[0].bytes;
    assert!(bytes > 0, "it counts as before");
    assert_eq!(rig.acknowledge(one, &[seq]).await, RowCount { rows: 1, bytes });
    assert_eq!(rig.texts_of(one).await, [""; 0]);
}

#[tokio::test]
async fn a_copy_of_a_message_of_qos_2_does_nothing_until_it_is_released() {
    let rig = Rig::new(Limits::default());
    let (from, reader) = (rig.session("from").await, rig.session("reader").await);
    let message = |text| Enqueue { incoming: Some((from, 9)), ..put(&said("a/b", text), &[reader]) };
    ask!(rig, enqueue, message("1"));
    ask!(rig, enqueue, message("1 again"));
    let rig = rig.crash();
    assert_eq!(ask!(rig, broker_state).sessions[0].incoming, [9]);
    ask!(rig, enqueue, message("1 again"));
    ask!(rig, forget_incoming, from, vec![9]);
    ask!(rig, enqueue, message("2"));
    assert_eq!(rig.texts_of(reader).await, ["1", "2"]);
    ask!(rig, end_queue, from);
    ask!(rig, enqueue, message("3"));
    assert_eq!(rig.texts_of(reader).await, ["1", "2", "3"], "what a session said last is not lost with it");
    assert_eq!(rig.count("incoming"), 0);
}

#[tokio::test]
async fn an_imported_session_comes_whole_and_once_and_hands_on_once_what_it_had_only_taken() {
    let rig = Rig::new(Limits::default());
    let reader = rig.session("reader").await;
    let message = |text: &str, qos, sent: Option<(u16, bool)>| ImportedMessage {
        message: Message { qos, payload: Bytes::from(text.to_owned()), ..(*said("a/b", "")).clone() },
        ids: vec![7],
        sent: sent.map(|(packet_id, released)| ImportedSent { packet_id, released }),
    };
    let record =
        SessionRecord { key: "user".to_owned(), user: None, client: "c".to_owned(), expiry_s: 60, login: None };
    let session = ImportedSession {
        record: record.clone(),
        left_at: NOW,
        subscriptions: vec![KeptSubscription { filter: "a/+".to_owned(), options: 1, id: Some(7) }],
        messages: vec![
            message("", QoS::ExactlyOnce, Some((9, true))),
            message("sent", QoS::AtLeastOnce, Some((1, false))),
            message("waits", QoS::ExactlyOnce, None),
        ],
        incoming: vec![3, 4],
    };
    assert_eq!(ask!(rig, import_session, session.clone()), [3, 4]);
    let queue = ask!(rig, broker_state).sessions.iter().find(|kept| kept.record == record).unwrap().queue;
    ask!(rig, hand_on, (queue, 3), put(&said("a/b", "3"), &[reader]));
    let rig = rig.crash();
    assert!(!ask!(rig, is_imported));
    for id in [3, 3, 4, 5] {
        ask!(rig, hand_on, (queue, id), put(&said("a/b", &id.to_string()), &[reader]));
    }
    assert_eq!(rig.texts_of(reader).await, ["3", "4"]);
    assert_eq!(ask!(rig, import_session, session), [0; 0]);
    let state = ask!(rig, broker_state);
    let kept = state.sessions.iter().find(|kept| kept.record == record).unwrap();
    assert_eq!((kept.queue, kept.left_at, kept.rows, kept.bytes), (queue, Some(NOW), 3, 9));
    assert_eq!((kept.subscriptions.len(), &kept.incoming[..]), (1, &[3, 4][..]));
    let rows = rig.rows_of(queue).await;
    let told = |row: &'_ QueueRow| (text(&row.message.payload), row.packet_id, row.released, row.maybe_sent);
    let expected = [("", Some(9), true, true), ("sent", Some(1), false, true), ("waits", None, false, false)];
    let expected = expected.map(|(text, id, released, sent)| (text.to_owned(), id, released, sent));
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(rows.iter().all(|row| row.target.ids == [7] && row.target.qos == row.message.qos));
    ask!(rig, imported);
    assert!(ask!(rig.crash(), is_imported));
}

#[tokio::test]
async fn an_imported_retained_message_leaves_the_one_that_is_there() {
    let rig = Rig::new(Limits::default());
    let retained = |topic, text| (Message { retain: true, ..(*said(topic, text)).clone() }, Some("user".to_owned()));
    for text in ["first", "second"] {
        ask!(rig, import_retained, vec![retained("a", text), retained(text, text)]);
    }
    let topics = ["a", "first", "second"].map(str::to_owned).to_vec();
    let found: Vec<_> = ask!(rig, read_retained, topics).iter().map(|found| text(&found.payload)).collect();
    assert_eq!(found, ["first", "first", "second"]);
}

#[tokio::test]
async fn a_retained_message_takes_the_place_of_the_one_before_and_is_cleared_or_expires() {
    let rig = Rig::new(Limits::default());
    let keep = |text, expires_at| {
        let message = Arc::new(Message { retain: true, expires_at, ..(*said("a/b", text)).clone() });
        Enqueue { retain: Some(Retain::Keep(Some("user".to_owned()))), ..put(&message, &[]) }
    };
    ask!(rig, enqueue, keep("old", None));
    ask!(rig, enqueue, keep("new", Some(NOW + 1)));
    let rig = rig.crash();
    let kept = KeptRetained {
        topic: "a/b".to_owned(),
        bytes: 3,
        user: Some("user".to_owned()),
        qos: 1,
        expires_at: Some(NOW + 1),
    };
    assert_eq!(ask!(rig, broker_state).retained, [kept]);
    let read = ask!(rig, read_retained, vec!["a/b".to_owned(), "c".to_owned()]);
    assert_eq!(read, [(*keep("new", Some(NOW + 1)).message).clone()]);
    assert_eq!(rig.inspector().retained("", 10).unwrap()[0].topic, "a/b");
    assert_eq!(ask!(rig, sweep_queues, NOW + 1).retained, ["a/b"]);
    ask!(rig, enqueue, keep("again", None));
    ask!(rig, enqueue, Enqueue { retain: Some(Retain::Clear), ..put(&said("a/b", ""), &[]) });
    assert_eq!(ask!(rig, broker_state).retained, []);
}

#[tokio::test]
async fn a_session_comes_back_as_it_was() {
    let rig = Rig::new(Limits::default());
    let queue = rig.session("one").await;
    let subscription = |filter: &str, options| KeptSubscription { filter: filter.to_owned(), options, id: Some(3) };
    ask!(rig, subscribe, queue, vec![subscription("a/#", 1), subscription("$share/g/b", 2), subscription("c", 0)]);
    ask!(rig, subscribe, queue, vec![subscription("a/#", 2)]);
    ask!(rig, unsubscribe, queue, vec!["c".to_owned()]);
    ask!(rig, session_left, queue, NOW, 60, None);
    let rig = rig.crash();
    let state = ask!(rig, broker_state);
    let session = &state.sessions[0];
    assert_eq!((session.queue, session.left_at, session.record.expiry_s), (queue, Some(NOW), 60));
    assert_eq!(session.subscriptions, [subscription("$share/g/b", 2), subscription("a/#", 2)]);
    assert_eq!(rig.session("one").await, queue);
    let state = ask!(rig, broker_state);
    assert_eq!((state.sessions[0].left_at, state.sessions[0].record.expiry_s), (None, 3600));
}

#[tokio::test]
async fn how_somebody_logged_in_last_is_kept_with_the_session() {
    let mut rig = Rig::new(Limits::default());
    let (role, token_key) = (Role::Bal, Some([7; 32]));
    for login in [
        Some(KeptLogin { role: Role::User, token_key: None }),
        None,
        Some(KeptLogin { role, token_key }),
        Some(KeptLogin { role: Role::Admin, token_key }),
        Some(KeptLogin { role, token_key: None }),
    ] {
        let (key, user, client) = ("bal1".to_owned(), Some("bal1".to_owned()), "bal1".to_owned());
        ask!(rig, keep_session, SessionRecord { key, user, client, expiry_s: 60, login }, None);
        rig = rig.crash();
        assert_eq!(ask!(rig, broker_state).sessions[0].record.login, login);
        let inspector = Inspector::open(&rig.settings.path).unwrap();
        assert_eq!(inspector.sessions("", 9).unwrap()[0].record.login, login);
    }
}

#[tokio::test]
async fn a_will_is_there_from_the_connection_on_until_it_is_dropped_or_published() {
    let rig = Rig::new(Limits::default());
    let will = Will { message: (*said("w", "gone")).clone(), delay_s: 5 };
    let record = |client: &str| SessionRecord {
        key: client.into(),
        user: None,
        client: client.into(),
        expiry_s: 60,
        login: None,
    };
    let kept = |queue, due_at| KeptWill { queue, due_at, will: will.clone() };
    let queue = ask!(rig, keep_session, record("one"), Some(will.clone()));
    assert_eq!(ask!(rig, broker_state).wills, [kept(queue, None)]);
    ask!(rig, session_left, queue, NOW, 60, Some(NOW + 5));
    assert_eq!(ask!(rig, broker_state).wills, [kept(queue, Some(NOW + 5))]);
    ask!(rig, keep_session, record("one"), None);
    assert_eq!(ask!(rig, broker_state).wills, [], "its session is back without one");
    ask!(rig, keep_session, record("one"), Some(will.clone()));
    ask!(rig, session_left, queue, NOW, 60, None);
    assert_eq!(ask!(rig, broker_state).wills, [], "it said goodbye");
    ask!(rig, keep_session, record("one"), Some(will.clone()));
    let short = ask!(rig, keep_session, SessionRecord { expiry_s: 3, ..record("two") }, Some(will.clone()));
    let rig = rig.crash();
    ask!(rig, all_left, NOW);
    let state = ask!(rig, broker_state);
    assert_eq!(state.wills, [kept(queue, Some(NOW + 5_000)), kept(short, Some(NOW + 3_000))]);
    assert!(state.sessions.iter().all(|session| session.left_at == Some(NOW)));
    let this = |queue, due_at| WillRef { queue, due_at: Some(due_at) };
    ask!(rig, drop_will, this(short, NOW + 5_000));
    assert_eq!(ask!(rig, broker_state).wills.len(), 2, "it is another one that is due then");
    let published = Some(this(queue, NOW + 5_000));
    ask!(rig, enqueue, Enqueue { will: published, ..put(&Arc::new(will.message.clone()), &[]) });
    ask!(rig, drop_will, this(short, NOW + 3_000));
    assert_eq!(ask!(rig, broker_state).wills, []);
}

#[tokio::test]
async fn a_queue_ends_with_all_that_is_its_own_also_if_a_crash_comes_between() {
    let rig = Rig::new(Limits::default());
    let (one, two) = (rig.session("one").await, rig.session("two").await);
    for n in 0..1200 {
        drop(rig.store.enqueue(put(&said("a/b", &n.to_string()), &[one, two])).await.unwrap());
    }
    let subscription = KeptSubscription { filter: "a".to_owned(), options: 0, id: None };
    ask!(rig, subscribe, one, vec![subscription.clone()]);
    drop(rig.store.end_queue(one).await.unwrap());
    ask!(rig, subscribe, one, vec![subscription]);
    rig.say("after its end", &[one]).await;
    let rig = rig.crash();
    assert_eq!(ask!(rig, broker_state).sessions.len(), 1);
    let again = rig.session("one").await;
    assert!(again > two, "a number is never used twice");
    assert_eq!(rig.rows_of(again).await, []);
    let left = rig.count("queue");
    assert!(left > 1200, "{left}");
    while ask!(rig, sweep_queues, NOW).more {}
    assert_eq!((rig.count("queue"), rig.count("bodies"), rig.count("queues")), (1200, 1200, 2));
    assert_eq!(rig.count("subscriptions"), 0);
    for _ in 0..2 {
        ask!(rig, end_queue, two);
        while ask!(rig, sweep_queues, NOW).more {}
    }
    assert_eq!((rig.count("queue"), rig.count("bodies"), rig.count("queues")), (0, 0, 1));
}

#[tokio::test]
async fn a_group_has_a_queue_of_its_own() {
    let rig = Rig::new(Limits::default());
    let group = ask!(rig, keep_group, "g/a/#".to_owned());
    rig.say("x", &[group]).await;
    let rig = rig.crash();
    assert_eq!(ask!(rig, keep_group, "g/a/#".to_owned()), group);
    let kept = KeptGroup { queue: group, name: "g/a/#".to_owned(), rows: 1, bytes: 1 };
    assert_eq!(ask!(rig, broker_state).groups, [kept]);
    assert!(rig.rows_of(group).await[0].maybe_sent, "any of its members may have had it");
    assert_ne!(rig.session("g/a/#").await, group);
}

#[tokio::test]
async fn what_commits_bring_is_told_in_their_order_to_who_listens() {
    let rig = Rig::new(Limits::default());
    let (here, away) = (rig.session("here").await, rig.session("away").await);
    ask!(rig, session_left, away, NOW, 60, None);
    ask!(rig, queue_note, note("t/others/x", "before"));
    rig.store.listen();
    rig.say("1", &[here, away]).await;
    ask!(rig, queue_note, note("t/others/x", "2"));
    rig.say("3", &[here]).await;
    let news = rig.store.commit_events().await;
    assert!(news.topics.is_empty() && news.queues.is_empty());
    let told: Vec<_> = news
        .items
        .iter()
        .map(|fresh| match fresh {
            CommitEvent::Row { message, target, .. } => (text(&message.payload), target.queue == here),
            CommitEvent::Document { payload, correlation, .. } => (text(payload), correlation.is_none()),
            CommitEvent::Gone { .. } => panic!("nothing went"),
        })
        .collect();
    assert_eq!(told, [("1".to_owned(), true), ("2".to_owned(), false), ("3".to_owned(), true)]);
    let CommitEvent::Row { seq, .. } = news.items[0] else { panic!("a row") };
    assert_eq!(rig.rows_of(here).await[0].seq, seq);
    let none = tokio::time::timeout(Duration::ZERO, rig.store.commit_events()).await;
    assert!(none.is_err(), "each is told once");
}

#[tokio::test]
async fn of_more_news_than_there_is_room_for_the_names_remain_and_all_that_comes_later_is_among_them() {
    let rig = Rig::new(Limits::default());
    rig.store.listen();
    let (one, two) = (rig.session("one").await, rig.session("two").await);
    let large = "x".repeat(COMMIT_EVENTS_BYTES / 4);
    for _ in 0..4 {
        rig.say(&large, &[one]).await;
    }
    ask!(rig, queue_note, note("t/others/x", "small"));
    rig.say("small", &[two]).await;
    let news = rig.store.commit_events().await;
    assert_eq!((news.items.len(), news.topics.len()), (3, 1), "topics count as well");
    assert_eq!(news.queues.into_iter().collect::<Vec<_>>(), [one, two]);
    for n in 0..=COMMIT_EVENTS_MAX {
        drop(rig.store.enqueue(put(&said("a", &n.to_string()), &[two])).await.unwrap());
    }
    ask!(rig, broker_state);
    let news = rig.store.commit_events().await;
    assert_eq!((news.items.len(), news.queues.len()), (COMMIT_EVENTS_MAX, 1));
}

#[tokio::test]
async fn a_document_stays_until_its_first_reader_has_it_and_is_then_a_row_of_the_others() {
    let rig = Rig::new(Limits::default());
    let (one, two, three) = (rig.session("one").await, rig.session("two").await, rig.session("three").await);
    let topic = "t/others/x";
    for text in ["1", "2", "3"] {
        ask!(rig, queue_note, note(topic, text));
    }
    let found = rig.documents_of(topic, Some(one)).await;
    assert!(found.iter().all(|document| document.own.is_none() && !document.waiting.redelivered));
    ask!(rig, acknowledged, took(Some(one), &[], vec![taken(&found[1], &[two, three])]));
    assert_eq!(rig.count("bodies"), 1);
    let texts = |documents: &[QueuedDocument]| {
        documents.iter().map(|d| (text(&d.waiting.payload), d.own.is_some())).collect::<Vec<_>>()
    };
    let all = [("1".to_owned(), false), ("2".to_owned(), true), ("3".to_owned(), false)];
    let of_two = rig.documents_of(topic, Some(two)).await;
    assert_eq!(texts(&of_two), all, "in one order");
    assert_eq!(of_two[1].waiting, found[1].waiting);
    assert_eq!(texts(&rig.documents_of(topic, Some(one)).await), [all[0].clone(), all[2].clone()]);
    assert_eq!(rig.rows_of(two).await, [], "it is none of a client");
    assert_eq!(ask!(rig, own_topics, two, String::new(), 10), [topic]);
    assert_eq!(ask!(rig, broker_state).sessions[1].rows, 0);
    assert_eq!(rig.inspector().sessions("", 10).unwrap().iter().map(|s| s.documents).collect::<Vec<_>>(), [0, 1, 1]);
    // The other one had it in its memory all the while.
    ask!(rig, acknowledged, took(Some(two), &[], vec![taken(&found[1], &[one, three])]));
    assert_eq!(rig.documents_of(topic, Some(two)).await.len(), 2);
    assert_eq!(rig.documents_of(topic, Some(three)).await.len(), 3, "not twice");
    let page = ask!(rig, read_documents, topic.into(), Some(three), 0, Page { rows: 2, bytes: 1000 });
    assert_eq!((texts(&page.documents), page.more), (all[..2].to_vec(), true));
    let rig = rig.crash();
    let marked = rig.documents_of(topic, Some(three)).await;
    assert!(marked.iter().all(|document| document.waiting.redelivered));
}

#[tokio::test]
async fn a_topic_that_is_read_is_marked_after_a_crash_also_where_it_was_empty_between() {
    let rig = Rig::new(Limits::default());
    let (read, left) = ("t/others/x", "t/others/y");
    for topic in [read, left] {
        ask!(rig, queue_note, note(topic, "1"));
        let first = rig.documents_of(topic, None).await.remove(0);
        ask!(rig, acknowledged, took(None, &[], vec![taken(&first, &[])]));
    }
    ask!(rig, documents_seen, None, vec![Seen { topic: left.into(), seq: 1 }], false);
    for topic in [read, left] {
        ask!(rig, queue_note, note(topic, "2"));
    }
    let rig = rig.crash();
    assert!(rig.documents_of(read, None).await[0].waiting.redelivered, "it may have been told and sent");
    assert!(!rig.documents_of(left, None).await[0].waiting.redelivered);
    let seq = rig.documents_of(left, None).await[0].waiting.reference.seq;
    ask!(rig, documents_seen, None, vec![Seen { topic: left.into(), seq }], true);
    assert!(rig.documents_of(left, None).await[0].waiting.redelivered);
}

#[tokio::test]
async fn what_was_seen_is_marked_also_where_it_is_a_row_of_a_queue_by_now_or_later() {
    let rig = Rig::new(Limits::default());
    let (one, two, three) = (rig.session("one").await, rig.session("two").await, rig.session("three").await);
    let topic = "t/others/x";
    for text in ["1", "2", "3", "4"] {
        ask!(rig, queue_note, note(topic, text));
    }
    let found = rig.documents_of(topic, Some(one)).await;
    let seen = |n: usize| vec![Seen { topic: topic.into(), seq: found[n].waiting.reference.seq }];
    ask!(rig, documents_seen, Some(one), seen(0), true);
    for document in &found[..3] {
        ask!(rig, acknowledged, took(Some(one), &[], vec![taken(document, &[two, three])]));
    }
    let marks = async |queue| {
        let documents = rig.documents_of(topic, Some(queue)).await;
        documents.iter().map(|document| document.waiting.redelivered).collect::<Vec<_>>()
    };
    assert_eq!(
        (marks(two).await, marks(three).await),
        (vec![true, false, false, false], vec![true, false, false, false])
    );
    ask!(rig, documents_seen, Some(two), seen(1), true);
    assert_eq!(
        (marks(two).await, marks(three).await),
        (vec![true, true, false, false], vec![true, false, false, false])
    );
    ask!(rig, documents_seen, Some(three), seen(2), false);
    assert_eq!((marks(two).await, marks(three).await), (vec![true, true, false, false], vec![true, true, true, false]));
}

#[tokio::test]
async fn what_waits_for_its_explicit_acknowledgement_stays_and_others_get_it_once() {
    let mut rig = Rig::new(Limits::default());
    let (one, two) = (rig.session("one").await, rig.session("two").await);
    let message = rig.upstream("1", Some(Acks::Explicit));
    let sid = message.sid;
    rig.receive(message).await;
    let found = rig.documents_of(MESSAGES, Some(one)).await;
    for _ in 0..2 {
        ask!(rig, acknowledged, took(Some(one), &[], vec![taken(&found[0], &[two])]));
        let again = rig.documents_of(MESSAGES, Some(two)).await;
        assert_eq!(again.len(), 1, "that of the outbox stands for both");
        assert!(again[0].waiting.redelivered);
    }
    ask!(rig, confirm, &Owner::new("bal1").unwrap(), vec![sid], NOW);
    assert_eq!(rig.documents_of(MESSAGES, Some(one)).await, []);
    let own = rig.documents_of(MESSAGES, Some(two)).await;
    assert_eq!(own[0].waiting.reference.origin, Origin::UpstreamToAck(sid));
    ask!(rig, acknowledged, took(Some(two), &[], vec![taken(&own[0], &[one])]));
    assert_eq!(rig.count("queue") + rig.count("bodies") + rig.count("outbox"), 0);
}

#[tokio::test]
async fn a_delivery_into_an_inbox_is_told_with_its_body_and_moves_when_its_owner_has_it() {
    let mut rig = Rig::new(Limits::default());
    let (guest, owner) = (rig.session("guest").await, rig.session("owner").await);
    rig.store.listen();
    let (new, sids) = rig.several("a1", vec![inbox(), inbox()]);
    rig.accept(new).await;
    let bodies = rig.store.commit_events().await.items.into_iter().filter_map(|fresh| match fresh {
        CommitEvent::Document { reference, payload, .. } if &*reference.topic == INBOX_OF => Some(text(&payload)),
        _ => None,
    });
    assert_eq!(bodies.collect::<Vec<_>>(), ["body of a1"; 2]);
    let found = rig.documents_of(INBOX_OF, Some(guest)).await;
    let what = |queue, document, by| Acknowledged { by, ..took(Some(queue), &[], vec![document]) };
    for document in &found {
        let settled = ask!(rig, acknowledged, what(guest, taken(document, &[owner]), AckedBy::Broker));
        assert_eq!(settled.moved.len(), 1);
    }
    assert_eq!(rig.standing("a1").0, Status::Sent);
    let own = rig.documents_of(INBOX_OF, Some(owner)).await;
    assert_eq!(own.iter().map(|d| text(&d.waiting.payload)).collect::<Vec<_>>(), ["body of a1"; 2]);
    let settled = ask!(rig, acknowledged, what(owner, taken(&own[1], &[guest]), AckedBy::Owner));
    assert_eq!(settled.moved.iter().map(|(sid, _)| *sid).collect::<Vec<_>>(), sids[1..]);
    assert_eq!(ask!(rig, acknowledged, what(owner, taken(&own[1], &[guest]), AckedBy::Owner)), AckOutcome::default());
    assert_eq!(rig.documents_of(INBOX_OF, Some(guest)).await, []);
}

#[tokio::test]
async fn what_its_owner_has_is_delivered_even_where_the_end_of_the_session_comes_to_the_store_before() {
    let mut rig = Rig::new(Limits::default());
    let (guest, owner) = (rig.session("guest").await, rig.session("owner").await);
    let (new, _) = rig.several("a1", vec![inbox()]);
    rig.accept(new).await;
    let found = rig.documents_of(INBOX_OF, Some(guest)).await;
    ask!(rig, acknowledged, took(Some(guest), &[], vec![taken(&found[0], &[owner])]));
    let own = rig.documents_of(INBOX_OF, Some(owner)).await;
    ask!(rig, end_queue, owner);
    let settled = ask!(
        rig,
        acknowledged,
        Acknowledged { by: AckedBy::Owner, ..took(Some(owner), &[], vec![taken(&own[0], &[])]) }
    );
    assert_eq!((settled.moved.len(), rig.standing("a1").0), (1, Status::Delivered));
}

#[tokio::test]
async fn messages_that_get_a_route_are_told_where_they_are_now() {
    let mut rig = Rig::new(Limits::default());
    let message = rig.upstream("1", None);
    rig.store.listen();
    rig.receive(message).await;
    rig.give_routes(10, |_| Some(route(MESSAGES, Acks::OnPublish))).await;
    let news = rig.store.commit_events().await;
    let [CommitEvent::Document { reference, payload, .. }] = &news.items[..] else { panic!("{news:?}") };
    let found = rig.documents_of(MESSAGES, None).await;
    assert_eq!((reference, payload), (&found[0].waiting.reference, &found[0].waiting.payload));
}

#[tokio::test]
async fn topics_that_begin_alike_are_found_in_pages() {
    let rig = Rig::new(Limits::default());
    for topic in ["a", "a/x", "a/y", "ab", "b/x"] {
        ask!(rig, queue_note, note(topic, "1"));
        ask!(rig, queue_note, note(topic, "2"));
    }
    let topics = |prefix: &str, after: &str, limit| rig.store.waiting_topics(vec![prefix.into()], after.into(), limit);
    assert_eq!(topics("a/", "", 10).await.unwrap().await.unwrap(), ["a/x", "a/y"]);
    assert_eq!(topics("a/", "a/x", 10).await.unwrap().await.unwrap(), ["a/y"]);
    assert_eq!(topics("", "", 2).await.unwrap().await.unwrap(), ["a", "a/x"]);
    assert_eq!(topics("", "ab", 2).await.unwrap().await.unwrap(), ["b/x"]);
    assert_eq!(topics("c", "", 2).await.unwrap().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn operators_see_sessions_while_the_bridge_runs() {
    let rig = Rig::new(Limits::default());
    let (one, two) = (rig.session("one").await, rig.session("two").await);
    rig.say("xyz", &[one, two]).await;
    ask!(rig, session_left, two, NOW, 60, None);
    let seen = rig.inspector().sessions("", 10).unwrap();
    assert_eq!(
        seen.iter().map(|s| (s.rows, s.bytes, s.left_at)).collect::<Vec<_>>(),
        [(1, 3, None), (1, 3, Some(NOW))]
    );
    assert_eq!(rig.inspector().sessions(&seen[0].record.key, 10).unwrap(), seen[1..]);
    assert_eq!(serde_json::to_value(&seen[1]).unwrap()["client"], "two");
}

//! The hub as its connections use it, without any.

use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::{unconstrained, yield_now};
use tokio::time::sleep;

use super::*;
use crate::broker::BrokerConfig;
use crate::broker::connection::Ending;
use crate::broker::identity::users::{Cost, UsersFile};
use crate::broker::routing::retained::{RetainedEntry, SCAN_MAX};
use crate::broker::session::{InFlight, Pulled, QueueRef, ReadWhat, Source};
use crate::broker::wire::{Connect, Options, Version};
use crate::chat::access::Rights;
use crate::chat::id::Owner;
use crate::chat::principal::Identity;
use crate::chat::push_decision::PushWhen;
use crate::chat::qos::QoS;
use crate::chat::suffix::requests::Writers;
use crate::chat::transport::Transports;
use crate::mqtt::{AckWord, InboundQueues, inbound_queues};
use crate::ops::clock::now_ms;
use crate::store::sqlite::{self as store, WriterThread};
use crate::store::{
    AckedBy, AckedDocument, Acknowledged, ChatCall, ChatPolicy, Erasing, Message, NewErase, Page, QueueId,
    SessionRecord, StoreHealth, Target, UserDocument, Will, WillRef,
};

struct Harness {
    hub: Arc<Hub>,
    notices: mpsc::Receiver<Notice>,
    inbound: InboundQueues,
    _writer: WriterThread,
    folder: TempDir,
}

impl Harness {
    fn new(limits: BrokerLimits) -> Self {
        Self::with(limits, &BrokerConfig { anonymous: true, ..BrokerConfig::default() })
    }

    fn with(limits: BrokerLimits, config: &BrokerConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let settings = store::Settings { max_commit_delay: Duration::ZERO, ..store::Settings::new(path) };
        let (store, writer, _) = store::open(&settings, now_ms()).unwrap();
        let (notices_tx, notices) = mpsc::channel(8);
        let (inbound_tx, inbound) = inbound_queues(1);
        let hub = Hub::new(HubDependencies {
            limits,
            autosubscribe: true,
            group_delivery: GroupDelivery::Inbox,
            refusals: Arc::new(Refusals::new(Arc::new(Metrics::new()))),
            store,
            told: |_, _| (),
            authenticator: Arc::new(Authenticator::new(config).unwrap()),
            inbound: inbound_tx,
            sightings: mpsc::channel(1).0,
            confirmations: mpsc::channel(1).0,
            notices: notices_tx,
            stop: CancellationToken::new(),
        });
        Self { hub, notices, inbound, _writer: writer, folder }
    }

    /// A session that outlives its connection.
    async fn session(&self, client: &str) -> Arc<Session> {
        let key: Arc<str> = format!(":{client}").into();
        let session = Session::new(Arc::clone(&key), None, client.into(), self.hub.new_queue(&key));
        self.hub.registry.add(&session);
        let record =
            SessionRecord { key: key.to_string(), user: None, client: client.to_owned(), expiry_s: 60, login: None };
        let id = self.hub.store.keep_session(record, None).await.unwrap().await.unwrap();
        self.hub.registry.stored_as(id, &session.queue);
        session
    }

    fn subscribe(&self, session: &Arc<Session>, filters: &str) -> impl Future<Output = ()> + use<> {
        let subscribed = self.subscribe_only(session, filters);
        async { drop(subscribed.await) }
    }

    /// Yields what follows the SUBACK.
    fn subscribe_only(&self, session: &Arc<Session>, filters: &str) -> impl Future<Output = (AfterSubscribe,)> + use<> {
        let options = Options::read(QoS::AtLeastOnce as u8, None).unwrap();
        let wanted =
            filters.split(' ').map(|filter| RequestedSubscription { filter: filter.into(), options }).collect();
        let subscribed = Arc::clone(&self.hub).subscribe(Arc::clone(session), handle(), wanted);
        async { (subscribed.await.unwrap(),) }
    }

    fn unsubscribe(&self, session: &Arc<Session>, filter: &str) -> impl Future<Output = ()> + use<> {
        let ended = Arc::clone(&self.hub).unsubscribe(Arc::clone(session), vec![filter.into()]);
        async { drop(ended.await.unwrap()) }
    }

    /// The store commits nothing as long as this is there.
    fn block_disk(&self) -> rusqlite::Connection {
        let other = rusqlite::Connection::open(self.folder.path().join("store")).unwrap();
        other.busy_timeout(Duration::from_secs(10)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        other
    }

    /// The store commits nothing, and has no room for more in either queue, as long as this is there.
    async fn fill_store(&self) -> rusqlite::Connection {
        let (disk, store) = (self.block_disk(), &self.hub.store);
        // What it tries to commit is not taken from the room any more.
        drop(store.is_imported().await.unwrap());
        store.health().wait_for(|health| *health != StoreHealth::Ok).await.unwrap();
        while let Some(asked) = unconstrained(store.is_imported()).now_or_never() {
            drop(asked.unwrap());
        }
        while let Some(asked) = unconstrained(store.drop_unread(Vec::new())).now_or_never() {
            drop(asked.unwrap());
        }
        disk
    }

    /// As [`Self::fill_store`], and the reserve is used up as well.
    async fn fill_reserve(&self) -> rusqlite::Connection {
        let disk = self.fill_store().await;
        while let Some(asked) =
            unconstrained(self.hub.store.drop_will(WillRef { queue: QueueId(0), due_at: None })).now_or_never()
        {
            drop(asked.unwrap());
        }
        disk
    }

    /// Polls once, while the store commits nothing: what is asked of it is what there was time for.
    fn cut(&self, work: impl Future<Output = ()>) {
        let _blocked = self.block_disk();
        assert!(work.now_or_never().is_none(), "it waits");
    }

    /// The filters on disk.
    async fn subscriptions(&self) -> Vec<String> {
        let state = self.hub.store.broker_state().await.unwrap().await.unwrap();
        state.sessions.into_iter().flat_map(|session| session.subscriptions).map(|kept| kept.filter).collect()
    }

    /// How many groups there are: with routes to them, and on disk.
    async fn groups(&self) -> (usize, usize) {
        let state = self.hub.store.broker_state().await.unwrap().await.unwrap();
        (self.hub.routes.of("t", None).len(), state.groups.len())
    }
}

fn connect(client: &str, session_expiry_s: u32) -> Connect<'_> {
    Connect {
        version: Version::V5,
        clean: false,
        keep_alive: 0,
        client,
        user: None,
        password: None,
        will: None,
        session_expiry_s,
        receive_maximum: 10,
        max_packet: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        has_auth_method: false,
    }
}

fn handle() -> Arc<ConnectionHandle> {
    ConnectionHandle::new(SocketAddr::from(([127, 0, 0, 1], 1)))
}

#[tokio::test]
async fn a_search_among_what_is_retained_that_finds_nothing_lets_others_have_their_turn() {
    let harness = Harness::new(BrokerLimits::default());
    for number in 0..SCAN_MAX {
        let entry = RetainedEntry { bytes: 1, user: None, expires_at: None };
        harness.hub.lock_retained().keep(format!("u{number}/self/x").into(), entry);
    }
    let session = harness.session("c").await;
    let filters: Vec<String> = (0..5).map(|number| format!("+/others/x{number}")).collect();
    let (mut after,) = harness.subscribe_only(&session, &filters.join(" ")).await;
    let mut turns = 0;
    while (&mut after).now_or_never().is_none() {
        turns += 1;
    }
    assert_eq!(turns, 5);
}

#[tokio::test]
async fn a_subscribe_to_a_group_that_is_cut_leaves_nothing_when_its_session_ends() {
    let harness = Harness::new(BrokerLimits::default());
    let session = harness.session("one").await;
    harness.cut(harness.subscribe(&session, "$share/g/t"));
    assert_eq!(harness.groups().await.1, 1);
    harness.hub.end_session(&session).await;
    assert_eq!(harness.groups().await, (0, 0));
    assert!(harness.hub.registry.group_queue(session.queue.number() + 1).is_none());
}

#[tokio::test]
async fn an_unsubscribe_that_is_cut_while_it_waits_its_turn_changes_nothing() {
    let harness = Harness::new(BrokerLimits::default());
    let session = harness.session("one").await;
    harness.subscribe(&session, "$share/g/t").await;
    let others = harness.hub.groups.lock().await;
    harness.cut(harness.unsubscribe(&session, "$share/g/t"));
    drop(others);
    assert_eq!(harness.groups().await, (1, 1));
    harness.hub.end_session(&session).await;
    assert_eq!(harness.groups().await, (0, 0));
}

#[tokio::test]
async fn what_was_cut_is_on_disk_as_its_repetition_says() {
    let harness = Harness::new(BrokerLimits::default());
    let session = harness.session("one").await;
    let others = harness.hub.groups.lock().await;
    harness.cut(harness.subscribe(&session, "a $share/g/t"));
    drop(others);
    harness.subscribe(&session, "a").await;
    harness.unsubscribe(&session, "$share/g/t").await;
    assert_eq!(harness.subscriptions().await, ["a"]);
    harness.cut(harness.unsubscribe(&session, "a"));
    harness.unsubscribe(&session, "a").await;
    assert_eq!(harness.subscriptions().await, [""; 0]);
}

#[tokio::test]
async fn a_group_whose_end_is_not_waited_for_ends_all_the_same_or_begins_anew_with_another_member() {
    let harness = Harness::new(BrokerLimits::default());
    for comes_back in [false, true] {
        let session = harness.session("one").await;
        harness.subscribe(&session, "$share/g/t").await;
        harness.cut(harness.unsubscribe(&session, "$share/g/t"));
        if comes_back {
            harness.subscribe(&session, "$share/g/t").await;
        }
        let left = usize::from(comes_back);
        assert_eq!(harness.groups().await, (left, left));
        assert_eq!(harness.hub.registry.empty_groups().len(), 0);
    }
}

#[tokio::test]
async fn a_member_of_a_group_is_counted_on_when_its_subscription_is_on_disk() {
    let harness = Harness::new(BrokerLimits::default());
    let (one, other) = (harness.session("one").await, harness.session("other").await);
    harness.subscribe(&one, "$share/g/t").await;
    let group = Arc::clone(&harness.hub.routes.of("t", None)[0].queue);
    let disk = harness.block_disk();
    let mut subscribing = Box::pin(harness.subscribe(&other, "$share/g/t"));
    assert!((&mut subscribing).now_or_never().is_none(), "it waits");
    assert_eq!(group.consumers().len(), 1);
    drop(disk);
    subscribing.await;
    assert_eq!(group.consumers().len(), 2);
}

#[tokio::test]
async fn a_member_of_a_group_is_not_counted_on_before_the_other_groups_of_its_subscribe_are_on_disk() {
    let harness = Harness::new(BrokerLimits::default());
    let (one, other) = (harness.session("one").await, harness.session("other").await);
    harness.subscribe(&one, "$share/g/t").await;
    let group = Arc::clone(&harness.hub.routes.of("t", None)[0].queue);
    // So the other group is not on disk.
    let id = harness.hub.registry.forget_stored(&other.queue).unwrap();
    harness.subscribe(&other, "$share/g/t $share/other/t").await;
    harness.hub.registry.stored_as(id, &other.queue);
    let disk = harness.block_disk();
    let mut subscribing = Box::pin(harness.subscribe(&other, "$share/g/t $share/other/t"));
    assert!((&mut subscribing).now_or_never().is_none(), "it waits");
    assert_eq!(group.consumers().len(), 2);
    drop(disk);
    subscribing.await;
    assert_eq!(group.consumers().len(), 3);
}

#[tokio::test]
async fn a_publish_that_is_cut_while_it_waits_for_room_counts_for_nothing() {
    let harness = Harness::new(BrokerLimits::default());
    let session = harness.session("one").await;
    harness.subscribe(&session, "t").await;
    let _disk = harness.fill_store().await;
    let by = Publisher { session: None, rights: &Rights::Nobody, device: None, follows: false };
    let Publishing::Waits(waits) = harness.hub.publish(by, new_publish("t")) else { panic!("it is for the disk") };
    assert_eq!(session.queue.on_disk(), (1, 1));
    assert!(waits.now_or_never().is_none(), "it waits");
    assert_eq!(session.queue.on_disk(), (0, 0));
    assert_eq!(harness.hub.registry.on_disk().get(), (0, 0));
}

#[tokio::test]
async fn the_end_of_a_connection_comes_to_the_disk_however_much_waits_for_it() {
    let harness = Harness::new(BrokerLimits::default());
    let (session, handle) = (harness.session("one").await, handle());
    session.lock().expiry_s = 60;
    let disk = harness.fill_store().await;
    harness.hub.leave(&session, &handle, harness.hub.new_packet_ids(), Leaving::Broke).await;
    drop(disk);
    let state = harness.hub.store.broker_state().await.unwrap().await.unwrap();
    assert!(state.sessions[0].left_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_cannot_be_let_in_changes_no_session() {
    let harness = Harness::new(BrokerLimits::default());
    harness.session("one").await.lock().expiry_s = 60;
    let _disk = harness.fill_reserve().await;
    for (client, session_expiry_s) in [("one", 0), ("two", 60)] {
        let admitted = harness.hub.admit(&connect(client, session_expiry_s), &handle()).await;
        assert!(admitted.is_err(), "{client}: the store would not mark copies");
    }
    assert_eq!(harness.hub.registry.session(":one").unwrap().lock().expiry_s, 60, "it is kept as before");
    assert!(harness.hub.registry.session(":two").is_none());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_connection_is_over_in_time_where_even_the_reserve_is_used_up() {
    let harness = Harness::new(BrokerLimits::default());
    let (session, handle) = (harness.session("one").await, handle());
    session.lock().expiry_s = 60;
    harness.subscribe(&session, "$share/g/t").await;
    let group = Arc::clone(&harness.hub.routes.of("t", None)[0].queue);
    group.attach(&handle);
    let disk = harness.fill_reserve().await;
    let leave = harness.hub.leave(&session, &handle, harness.hub.new_packet_ids(), Leaving::Broke);
    timeout(DISK * 3, leave).await.unwrap();
    group.consumers().iter().for_each(|handle| drop(group.detach(handle, Vec::new())));
    harness.hub.attach_member(&group, &handle).await;
    assert_eq!(handle.ending(), Some(Ending::Refused(Refusal::NotStored)), "the store would not mark copies");
    assert!(!group.is_connected());
    let (ended, over) = (harness.hub.end_session(&session), DISK * 3);
    timeout(over, ended).await.unwrap();
    drop(disk);
    harness.hub.going_on.close();
    harness.hub.going_on.wait().await;
    assert_eq!(harness.groups().await, (0, 0));
    let state = harness.hub.store.broker_state().await.unwrap().await.unwrap();
    assert_eq!(state.sessions, []);
}

#[tokio::test]
async fn the_end_of_a_session_that_is_cut_comes_to_the_disk_all_the_same() {
    let harness = Harness::new(BrokerLimits::default());
    let session = harness.session("one").await;
    let disk = harness.fill_reserve().await;
    assert!(harness.hub.end_session(&session).now_or_never().is_none(), "it waits");
    drop(disk);
    harness.hub.going_on.close();
    harness.hub.going_on.wait().await;
    assert_eq!(harness.hub.store.broker_state().await.unwrap().await.unwrap().sessions, []);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_free_though_the_bridge_has_no_room_for_its_will_which_keeps_its_place() {
    let mut harness = Harness::new(BrokerLimits::default());
    for client in ["one", "two", "three"] {
        let (key, handle): (Arc<str>, _) = (format!(":{client}").into(), handle());
        let session = Session::new(Arc::clone(&key), None, client.into(), harness.hub.new_queue(&key));
        let message = Message { payload: client.into(), ..new_publish("bal1/self/presence").message };
        {
            let mut state = session.lock();
            state.expiry_s = 60;
            state.will = Some(Box::new(Will { message, delay_s: 0 }.into()));
        }
        let leave = harness.hub.leave(&session, &handle, harness.hub.new_packet_ids(), Leaving::Broke);
        timeout(DISK * 2, leave).await.unwrap();
        handle.wait_gone().await;
    }
    for client in ["one", "two", "three"] {
        assert_eq!(harness.inbound.recv().await.unwrap().payload, client);
    }
}

#[tokio::test]
async fn a_clear_of_a_retained_message_is_acknowledged_when_it_is_off_the_disk_whoever_cleared_it() {
    let harness = Harness::new(BrokerLimits::default());
    let publish = |payload: &'static str| {
        let by = Publisher { session: None, rights: &Rights::Nobody, device: None, follows: false };
        let mut new = new_publish("t");
        (new.message.payload, new.message.retain) = (payload.into(), true);
        match harness.hub.publish(by, new) {
            Publishing::Waits(waits) => waits,
            _ => panic!("it is for the disk"),
        }
    };
    assert!(publish("x").await.unwrap().stored().await);
    let disk = harness.fill_store().await;
    assert!(publish("").now_or_never().is_none(), "it waits");
    drop(disk);
    assert!(publish("").await.unwrap().stored().await);
    assert_eq!(harness.hub.store.read_retained(vec!["t".to_owned()]).await.unwrap().await.unwrap(), []);
}

#[tokio::test]
async fn a_message_at_qos_2_that_comes_again_and_is_cut_is_counted_when_the_store_takes_it() {
    let harness = Harness::new(BrokerLimits::default());
    let (publisher, reader) = (harness.session("publisher").await, harness.session("reader").await);
    harness.subscribe(&reader, "t").await;
    let by = Publisher { session: Some(&publisher), rights: &Rights::Nobody, device: None, follows: false };
    let publish = NewPublish { again: true, exactly_once: Some(7), ..new_publish("t") };
    let Publishing::Waits(waits) = harness.hub.publish(by, publish) else { panic!("it is for the disk") };
    harness.cut(async { drop(waits.await) });
    harness.hub.going_on.close();
    harness.hub.going_on.wait().await;
    assert_eq!(reader.queue.on_disk(), (1, 1));
}

fn new_publish(topic: &str) -> NewPublish {
    let (topic, payload, properties) = (topic.into(), "x".into(), Bytes::new());
    let message = Message { topic, payload, properties, qos: QoS::AtLeastOnce, retain: false, expires_at: None };
    let (dup, again, exactly_once, will) = (false, false, None, None);
    NewPublish { message, dup, again, exactly_once, response_topic: None, correlation: None, will }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_told_at_once_and_then_once_a_minute_with_the_number_of_messages() {
    let mut harness = Harness::new(BrokerLimits { queued_messages: 1, ..BrokerLimits::default() });
    let (topic, payload, properties) = ("t".into(), "x".into(), Bytes::new());
    let message = Message { topic, payload, properties, qos: QoS::AtLeastOnce, retain: false, expires_at: None };
    let (one, other) = (harness.hub.new_queue(&"one".into()), harness.hub.new_queue(&"other".into()));
    let told = |harness: &mut Harness| {
        std::iter::from_fn(|| harness.notices.try_recv().ok())
            .map(|notice| match notice {
                Notice::QueueFull { session, refused } => (session.to_string(), refused),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    for queue in [&one, &other] {
        assert!(harness.hub.has_room_on_disk(queue, &message));
    }
    for _ in 0..5 {
        assert!(!harness.hub.has_room_on_disk(&one, &message));
    }
    assert!(!harness.hub.has_room_on_disk(&other, &message));
    assert_eq!(told(&mut harness), [("one".to_owned(), 1), ("other".to_owned(), 1)]);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(told(&mut harness), []);
    assert!(!harness.hub.has_room_on_disk(&one, &message));
    assert_eq!(told(&mut harness), [("one".to_owned(), 5)]);
}

#[tokio::test(start_paused = true)]
async fn connections_are_looked_at_while_the_sweep_waits_for_the_disk() {
    let harness = Harness::new(BrokerLimits::default());
    let (clients, counted) = watch::channel(None);
    let (connected, _disk) = (handle(), harness.hub.groups.lock().await);
    let later = async {
        sleep(Duration::from_secs(100)).await;
        connected.set_expires_ms(0);
        harness.hub.registry.connect(&connected);
        sleep(Duration::from_secs(2)).await;
    };
    tokio::select! {
        _ = async { tokio::join!(harness.hub.watch_connections(clients), harness.hub.sweep()) } => unreachable!("they never end"),
        () = later => {}
    }
    assert_eq!((*counted.borrow(), connected.ending().is_some()), (Some(1), true));
}

#[tokio::test]
async fn all_connections_and_sessions_are_looked_at_page_by_page() {
    const MANY: usize = 2_500;
    let harness = Harness::new(BrokerLimits::default());
    for n in 0..MANY {
        let key: Arc<str> = format!(":{n}").into();
        harness.hub.registry.connect(&handle());
        harness.hub.registry.add(&Session::new(Arc::clone(&key), None, "c".into(), harness.hub.new_queue(&key)));
    }
    assert_eq!(harness.hub.connected().count(), MANY);
    harness.hub.end_expired(now_ms()).await;
    assert_eq!(harness.hub.registry.count(None).0, MANY, "none of them was ever left");
    let (mut after, mut seen): (Arc<str>, _) = ("".into(), 0);
    while let Some(last) = harness.hub.registry.sessions(&after).last() {
        seen += harness.hub.registry.sessions(&after).len();
        after = Arc::clone(&last.key);
    }
    assert_eq!(seen, MANY);
}

/// Takes the name of a user away, and the broker puts that one out.
async fn erase(harness: &Harness, user: &str) {
    let new = NewErase { user: Owner::new(user).unwrap(), aliases: vec!["deleted-1".to_owned()], at: 1 };
    harness.hub.store.erase_begin(new).await.unwrap();
    let (evictions, evicted) = mpsc::channel(1);
    let (done, is_done) = oneshot::channel();
    evictions.send(Eviction { user: user.into(), done }).await.unwrap();
    drop(evictions);
    harness.hub.put_out(evicted).await;
    is_done.await.unwrap();
}

#[tokio::test]
async fn whoever_is_erased_while_a_log_in_is_under_way_does_not_come_in() {
    let users = tempfile::tempdir().unwrap();
    let path = users.path().join("users");
    let mut file = UsersFile::open(&path).unwrap();
    file.add_with("eve", Role::User, "x", Cost { memory_kib: 8, rounds: 1 }).unwrap();
    file.save().unwrap();
    let config = BrokerConfig { users_file: Some(path), ..BrokerConfig::default() };
    let harness = Harness::with(BrokerLimits::default(), &config);
    let login = Connect { user: Some("eve"), password: Some(b"x"), ..connect("eve:phone", 60) };
    let (key, handle): (Arc<str>, _) = ("eve:phone".into(), handle());
    let claim = harness.hub.registry.claim(&key).await;
    let admitted = harness.hub.admit(&login, &handle);
    let erased = async {
        // The password was right, and it waits for the session.
        while harness.hub.registry.claims_of(&key) < 2 {
            yield_now().await;
        }
        erase(&harness, "eve").await;
        drop(claim);
    };
    let (admitted, ()) = tokio::join!(admitted, erased);
    assert!(admitted.is_err());
    assert!(harness.hub.registry.session(&key).is_none() && harness.hub.connected().next().is_none());
}

#[tokio::test]
async fn a_name_that_a_log_line_escapes_or_cuts_is_known_as_it_is() {
    let users = tempfile::tempdir().unwrap();
    let path = users.path().join("users");
    let mut file = UsersFile::open(&path).unwrap();
    file.add_with("o'neil", Role::User, "x", Cost { memory_kib: 8, rounds: 1 }).unwrap();
    file.save().unwrap();
    let config = BrokerConfig { users_file: Some(path), ..BrokerConfig::default() };
    for client in ["o'neil:phone", &"long".repeat(20)] {
        let (harness, handle) = (Harness::with(BrokerLimits::default(), &config), handle());
        let login = Connect { user: Some("o'neil"), password: Some(b"x"), ..connect(client, 60) };
        let admitted = harness.hub.admit(&login, &handle).await.unwrap();
        assert_eq!(handle.device_of("o'neil"), admitted.session.device().as_ref());
        assert_eq!(handle.device_of("o\\'neil"), None);
        drop(admitted.claim);
        // Nobody is to wait for its end.
        handle.gone();
        erase(&harness, "o'neil").await;
        assert_eq!(handle.ending(), Some(Ending::Refused(Refusal::Erased)), "{client}");
    }
}

#[tokio::test]
async fn a_session_leaves_the_groups_that_its_client_may_not_be_in_any_more() {
    let harness = Harness::new(BrokerLimits::default());
    let [eve, bal] = [harness.session("eve").await, harness.session("bal").await];
    for session in [&eve, &bal] {
        harness.subscribe(session, "$share/mon/+/self/presence").await;
    }
    harness.subscribe(&eve, "$share/mine/eve/others/messages +/self/presence").await;
    let rights = Rights::Known(Identity { user: "eve".into(), role: Role::User });
    harness.hub.leave_denied_groups(&eve, &rights).await.unwrap();
    let mut filters = eve.filters();
    filters.sort_unstable();
    assert_eq!(filters, ["$share/mine/eve/others/messages".into(), "+/self/presence".into()]);
    assert_eq!((eve.send_queues().len(), bal.send_queues().len()), (2, 2));
    let mut kept = harness.subscriptions().await;
    kept.sort_unstable();
    assert_eq!(kept, ["$share/mine/eve/others/messages", "$share/mon/+/self/presence", "+/self/presence"]);
}

#[tokio::test]
async fn what_others_subscribed_to_below_the_name_of_somebody_who_is_put_out_is_forgotten_in_memory_as_well() {
    let harness = Harness::new(BrokerLimits::default());
    let session = harness.session("a").await;
    harness.subscribe(&session, "eve/self/presence evelyn/self/presence +/self/profile").await;
    erase(&harness, "eve").await;
    let is_read = |topic: &str| !harness.hub.routes.of(topic, None).is_empty();
    assert!(!is_read("eve/self/presence") && is_read("evelyn/self/presence") && is_read("eve/self/profile"));
    assert_eq!(session.filters().len(), 2);
}

#[tokio::test]
async fn what_others_share_below_the_name_of_somebody_who_is_put_out_is_forgotten_as_well() {
    let harness = Harness::new(BrokerLimits::default());
    let sessions = [harness.session("a").await, harness.session("b").await];
    for session in &sessions {
        let filters =
            "$share/g/eve/self/messages $share/g/evelyn/self/messages $share/eve/+/self/messages $share/g/eve";
        harness.subscribe(session, filters).await;
    }
    erase(&harness, "eve").await;
    let read = |topic: &str| harness.hub.routes.of(topic, None).len();
    assert_eq!((read("eve/self/messages"), read("evelyn/self/messages"), read("eve")), (1, 2, 0));
    for session in &sessions {
        let mut left = session.filters();
        left.sort_unstable();
        assert_eq!(left, ["$share/eve/+/self/messages".into(), "$share/g/evelyn/self/messages".into()]);
        assert_eq!(session.send_queues().len(), 3, "its own, and two that are shared");
    }
    let groups = harness.hub.store.broker_state().await.unwrap().await.unwrap().groups;
    let mut names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["eve/+/self/messages", "g/evelyn/self/messages"], "the store keeps those alone");
}

#[tokio::test]
async fn rows_that_go_with_an_erase_leave_room_for_others() {
    let harness = Harness::new(BrokerLimits::default());
    harness.hub.store.listen();
    let session = harness.session("a").await;
    harness.subscribe(&session, "+/self/presence").await;
    for topic in ["eve/self/presence", "bob/self/presence"] {
        let by = Publisher { session: None, rights: &Rights::Nobody, device: None, follows: true };
        let Publishing::Waits(waits) = harness.hub.publish(by, new_publish(topic)) else { panic!("it is stored") };
        assert!(waits.await.unwrap().stored().await);
    }
    let before = session.queue.on_disk();
    erase(&harness, "eve").await;
    let policy = ChatPolicy {
        push_when: PushWhen::default(),
        writers: Writers::Anyone,
        transports: Transports::default(),
        scheduled_max: 1,
        listeners: Vec::new(),
        explicit: std::collections::HashSet::new(),
        group_delivery: GroupDelivery::Inbox,
    };
    let policy = Arc::new(policy);
    loop {
        let call = ChatCall { at: 1, push_sids: Vec::new(), policy: Arc::clone(&policy) };
        match harness.hub.store.erase_step(Owner::new("eve").unwrap(), call).await.unwrap().await.unwrap() {
            Erasing::More { .. } => {}
            done => break assert!(matches!(done, Erasing::Done(_))),
        }
    }
    distribute_once(&harness).await;
    assert_eq!((before.0, session.queue.on_disk().0), (2, 1));
    assert_eq!(session.queue.on_disk().1, before.1 / 2);
}

/// The events of a commit that a hub without a task for them has not taken.
async fn distribute_once(harness: &Harness) {
    let distributed = harness.hub.distribute_events();
    tokio::pin!(distributed);
    // It takes what there is and waits for more.
    assert!(unconstrained(distributed).now_or_never().is_none());
}

async fn tell(harness: &Harness, topic: &str) {
    let document = UserDocument { topic: topic.to_owned(), copy_of: None, payload: Bytes::new(), at: 1 };
    harness.hub.store.queue_user_document(document).await.unwrap().await.unwrap();
}

/// The topics of documents that are dropped where nobody reads them.
async fn to_drop(harness: &Harness) -> Vec<String> {
    let found = harness.hub.store.topics_to_drop(String::new(), 9).await.unwrap().await.unwrap();
    found.into_iter().map(|unread| unread.topic.to_string()).collect()
}

#[tokio::test]
async fn what_nobody_reads_is_dropped_when_it_comes_or_if_the_store_has_no_room_from_time_to_time() {
    let harness = Harness::new(BrokerLimits::default());
    harness.hub.store.listen();
    let session = harness.session("a").await;
    harness.subscribe(&session, "read/others/+").await;
    tell(&harness, "read/others/x").await;
    tell(&harness, "unread/others/x").await;
    distribute_once(&harness).await;
    assert_eq!(to_drop(&harness).await, ["read/others/x"]);
    tell(&harness, "unread/others/x").await;
    let disk = harness.fill_store().await;
    distribute_once(&harness).await;
    drop(disk);
    assert_eq!(to_drop(&harness).await, ["read/others/x", "unread/others/x"]);
    harness.hub.drop_all_unread().await.unwrap();
    assert_eq!(to_drop(&harness).await, ["read/others/x"], "a session reads it that has no connection");
    harness.hub.end_session(&session).await;
    harness.hub.drop_all_unread().await.unwrap();
    assert!(to_drop(&harness).await.is_empty());
}

#[tokio::test]
async fn a_topic_is_found_though_its_document_moves_into_the_queue_while_it_is_looked_for() {
    let harness = Harness::new(BrokerLimits::default());
    let (first, second) = (harness.session("a").await, harness.session("b").await);
    for session in [&first, &second] {
        harness.subscribe(session, "x/others/+").await;
    }
    let (store, topic) = (&harness.hub.store, Arc::<str>::from("x/others/y"));
    tell(&harness, &topic).await;
    let page = Page { rows: 9, bytes: 9_000 };
    let found = store.read_documents(topic.clone(), None, 0, page).await.unwrap().await.unwrap();
    let reference = found.documents[0].waiting.reference.clone();
    second.queue.attach(&handle());
    let looked = harness.hub.watch(&second, &second.queue);
    tokio::pin!(looked);
    {
        let _blocked = harness.block_disk();
        assert!(unconstrained(looked.as_mut()).now_or_never().is_none(), "the first question is on its way");
    }
    let target =
        Target { queue: second.queue.stored().unwrap(), qos: QoS::AtLeastOnce, retain: false, ids: Vec::new() };
    let acknowledged = Acknowledged {
        queue: first.queue.stored(),
        rows: Vec::new(),
        documents: vec![AckedDocument { reference, others: vec![target] }],
        by: AckedBy::Owner,
        at: now_ms(),
        is_awaited: false,
    };
    store.acknowledged(acknowledged).await.unwrap().await.unwrap();
    looked.await.unwrap();
    assert_eq!(second.queue.next_read().map(|read| read.what), Some(ReadWhat::Documents(topic, 0)));
}

#[tokio::test]
async fn a_document_that_one_client_read_from_disk_and_acknowledged_stays_until_the_others_were_told_of_it() {
    let harness = Harness::new(BrokerLimits::default());
    harness.hub.store.listen();
    let topic = Arc::<str>::from("x/others/y");
    let ((first, by_first), (second, by_second)) =
        (clean_session(&harness, &topic).await, clean_session(&harness, &topic).await);
    let distributed = harness.hub.distribute_events();
    tokio::pin!(distributed);
    tell(&harness, &topic).await;
    // Something else has it read the topic once more.
    first.queue.notify(|queue| queue.behind_on(&topic));
    read_all(&harness, &first).await;
    let Some(Pulled::Send(item)) = first.queue.pull(&by_first, true, 0) else { panic!("it is read") };
    let acknowledged = vec![InFlight::unsent(QueueRef::Own, &item)];
    let mut settling = harness.hub.acknowledged(&first, acknowledged, true).unwrap();
    assert!((&mut settling).now_or_never().is_none(), "the other one was not told");
    assert!(unconstrained(distributed.as_mut()).now_or_never().is_none(), "it waits for more");
    assert!((&mut settling).now_or_never().is_none(), "the other one has to read it");
    read_all(&harness, &second).await;
    settling.await.unwrap().await.unwrap();
    let Some(Pulled::Send(same)) = second.queue.pull(&by_second, true, 0) else { panic!("it is lost") };
    assert_eq!(same.source, item.source);
    assert!(to_drop(&harness).await.is_empty(), "nobody is to read it any more");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_queue_reads_nothing_holds_up_the_acknowledgements_of_others_for_a_few_seconds_only() {
    let harness = Harness::new(BrokerLimits::default());
    harness.hub.store.listen();
    let topic = Arc::<str>::from("x/others/y");
    let ((first, by_first), (_second, by_second)) =
        (clean_session(&harness, &topic).await, clean_session(&harness, &topic).await);
    tell(&harness, &topic).await;
    distribute_once(&harness).await;
    // The other one has no task that would.
    read_all(&harness, &first).await;
    let Some(Pulled::Send(item)) = first.queue.pull(&by_first, true, 0) else { panic!("it is read") };
    let acknowledged = vec![InFlight::unsent(QueueRef::Own, &item)];
    let settling = harness.hub.acknowledged(&first, acknowledged, true).unwrap();
    let settled = timeout(Duration::from_secs(4), settling).await.expect("it is not waited for without end");
    assert_eq!(by_second.ending(), Some(Ending::Refused(Refusal::SlowConsumer)));
    settled.unwrap().await.unwrap();
}

#[tokio::test]
async fn what_is_too_big_for_one_member_of_a_group_is_offered_to_the_next_one_that_comes_with_its_session() {
    let harness = Harness::new(BrokerLimits::default());
    let topic = Arc::<str>::from("x/others/y");
    tell(&harness, &topic).await;
    let (session, small) = clean_session(&harness, &topic).await;
    session.queue.notify(|queue| queue.behind_on(&topic));
    read_all(&harness, &session).await;
    let Some(Pulled::Send(item)) = session.queue.pull(&small, true, 0) else { panic!("it is read") };
    let Source::Document(reference) = &item.source else { panic!("it is a document") };
    session.queue.set_aside(reference);
    assert!(session.queue.next_read().is_none(), "nobody is there who takes it");
    session.queue.attach(&handle());
    let read = session.queue.next_read().map(|read| read.what);
    assert!(matches!(read, Some(ReadWhat::Documents(again, _)) if again == topic));
}

/// A session that ends with its connection, and subscribes to a topic of which it has read what there is.
async fn clean_session(harness: &Harness, topic: &str) -> (Arc<Session>, Arc<ConnectionHandle>) {
    let (client, handle) = (harness.hub.next_number().to_string(), handle());
    let key: Arc<str> = format!(":{client}").into();
    let session = Session::new(Arc::clone(&key), None, client.into(), harness.hub.new_queue(&key));
    harness.hub.registry.add(&session);
    session.queue.attach(&handle);
    harness.subscribe(&session, topic).await;
    read_all(harness, &session).await;
    (session, handle)
}

async fn read_all(harness: &Harness, session: &Arc<Session>) {
    while let Some(read) = session.queue.next_read() {
        harness.hub.fill(session, Arc::clone(&session.queue), read).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_that_ends_does_not_take_its_successor_with_it() {
    let harness = Harness::new(BrokerLimits::default());
    let hub = &harness.hub;
    let reader = harness.session("reader").await;
    harness.subscribe(&reader, "w").await;
    let (before, after) = (handle(), handle());
    let Admitted { session, packet_ids, claim, .. } = hub.admit(&connect("one", 60), &before).await.ok().unwrap();
    drop(claim);
    session.lock().will = Some(Box::new(Will { message: new_publish("w").message, delay_s: 0 }.into()));
    let leaving = Leaving::Goodbye { with_will: true, expiry_s: Some(0) };
    let leaves = hub.leave(&session, &before, packet_ids, leaving);
    let wanted = connect("one", 60);
    let comes = hub.admit(&wanted, &after);
    tokio::pin!(leaves, comes);
    {
        let _blocked = harness.block_disk();
        assert!(unconstrained(leaves.as_mut()).now_or_never().is_none(), "it waits for its will");
        assert!(unconstrained(comes.as_mut()).now_or_never().is_none(), "it waits for the one before");
    }
    let ((), admitted) = tokio::join!(leaves, comes);
    let admitted = admitted.ok().unwrap();
    assert!(!admitted.present);
    harness.subscribe(&admitted.session, "x").await;
    assert_eq!(harness.subscriptions().await, ["w", "x"]);
    assert!(hub.registry.stored(admitted.session.queue.stored().unwrap()).is_some());
}

#[tokio::test]
async fn what_is_no_longer_retained_does_not_follow_what_came_instead() {
    let harness = Harness::new(BrokerLimits::default());
    let session = harness.session("a").await;
    retain(&harness, "t", "old").await;
    retain(&harness, "u", "old").await;
    let sends_retained = harness.subscribe_only(&session, "+").await.0;
    tokio::pin!(sends_retained);
    let (replaced, cleared) = {
        let _blocked = harness.block_disk();
        assert!(unconstrained(sends_retained.as_mut()).now_or_never().is_none(), "it reads");
        let (replaced, cleared) = (retain(&harness, "t", "new"), retain(&harness, "u", ""));
        tokio::pin!(replaced, cleared);
        assert!(unconstrained(replaced).now_or_never().is_none());
        assert!(unconstrained(cleared).now_or_never().is_none());
        (retained_on(&harness, "t"), retained_on(&harness, "u"))
    };
    sends_retained.await.unwrap();
    let (replaced, cleared) = (replaced.await, cleared.await);
    assert_eq!((replaced.as_deref(), cleared), (Some("new"), None));
    let queue = session.queue.stored().unwrap();
    let page = Page { rows: 9, bytes: 9_000 };
    let rows = harness.hub.store.read_rows(queue, 0, page, now_ms()).await.unwrap().await.unwrap().rows;
    let last = |topic: &str| {
        let mut of_topic = rows.iter().filter(|row| *row.message.topic == *topic);
        of_topic.next_back().map(|row| String::from_utf8(row.message.payload.to_vec()).unwrap())
    };
    assert_eq!((last("t").as_deref(), last("u").as_deref()), (Some("new"), Some("")), "{rows:?}");
    let bytes = rows.iter().map(|row| row.message.bytes()).sum();
    assert_eq!(session.queue.on_disk(), (rows.len() as u64, bytes));
}

#[tokio::test]
async fn what_is_published_while_retained_messages_are_sent_follows_the_last_of_them() {
    let harness = Harness::new(BrokerLimits::default());
    for topic in ["a/x", "b/x"] {
        retain(&harness, topic, "old").await;
    }
    let (session, by) = clean_session(&harness, "c").await;
    let one = harness.subscribe_only(&session, "a/#").await.0;
    let other = harness.subscribe_only(&session, "b/#").await.0;
    one.await.unwrap();
    let read = |harness: &Harness| {
        let pulled = std::iter::from_fn(|| session.queue.pull(&by, true, harness.hub.last.load(Relaxed)));
        let text = |pulled| match pulled {
            Pulled::Send(item) => String::from_utf8(item.message.payload.to_vec()).unwrap(),
            Pulled::Expired(item) => panic!("{item:?}"),
        };
        pulled.map(text).collect::<Vec<_>>()
    };
    assert_eq!(read(&harness), ["old"]);
    retain(&harness, "b/x", "new").await;
    assert!(read(&harness).is_empty(), "the other one is still to be sent what is retained");
    other.await.unwrap();
    assert_eq!(read(&harness).last().map(String::as_str), Some("new"));
    retain(&harness, "a/x", "last").await;
    assert_eq!(read(&harness), ["last"]);
    // One that is not followed, as its connection breaks.
    drop(harness.subscribe_only(&session, "a/#").await);
    retain(&harness, "a/x", "again").await;
    assert_eq!(read(&harness), ["again"]);
}

/// A session whose connection has the will that is on disk.
async fn with_will(harness: &Harness, client: &str, said: &'static str) -> Arc<Session> {
    let session = harness.session(client).await;
    let will =
        Will { message: Message { payload: said.into(), ..new_publish("bal1/self/messages").message }, delay_s: 0 };
    let key = session.key.to_string();
    let record = SessionRecord { key, user: None, client: client.to_owned(), expiry_s: 60, login: None };
    harness.hub.store.keep_session(record, Some(will.clone())).await.unwrap().await.unwrap();
    let mut state = session.lock();
    (state.expiry_s, state.will) = (60, Some(Box::new(will.into())));
    drop(state);
    session
}

/// The payloads of the wills that are on disk.
async fn wills_on_disk(harness: &Harness) -> Vec<Bytes> {
    let state = harness.hub.store.broker_state().await.unwrap().await.unwrap();
    state.wills.into_iter().map(|kept| kept.will.message.payload).collect()
}

fn leave(harness: &Harness, session: &Arc<Session>) -> JoinHandle<()> {
    let (hub, session) = (Arc::clone(&harness.hub), Arc::clone(session));
    let packet_ids = hub.new_packet_ids();
    TaskTracker::new().spawn(async move { hub.leave(&session, &handle(), packet_ids, Leaving::Broke).await })
}

#[tokio::test]
async fn a_will_for_the_bridge_is_on_disk_until_the_bridge_has_it() {
    let mut harness = Harness::new(BrokerLimits::default());
    let session = with_will(&harness, "one", "gone").await;
    let leaving = leave(&harness, &session);
    let will = harness.inbound.recv().await.unwrap();
    assert!(!will.dup && will.payload == "gone");
    assert_eq!(wills_on_disk(&harness).await, ["gone"], "a kill now would lose it otherwise");
    will.ack.release(AckWord::Done);
    leaving.await.unwrap();
    assert_eq!(wills_on_disk(&harness).await, [""; 0]);
}

#[tokio::test]
async fn a_will_that_the_bridge_does_not_take_before_the_stop_comes_after_the_next_start() {
    for ends in [false, true] {
        let harness = Harness::new(BrokerLimits::default());
        let session = with_will(&harness, "one", "gone").await;
        session.lock().ends_by_take_over = ends;
        harness.hub.stop.cancel();
        leave(&harness, &session).await.unwrap();
        let state = harness.hub.store.broker_state().await.unwrap().await.unwrap();
        assert!(state.wills.len() == 1 && state.wills[0].due_at.is_some(), "{:?}", state.wills);
        assert_eq!(state.sessions[0].record.expiry_s, if ends { 0 } else { 60 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_will_that_the_bridge_has_late_is_not_taken_for_the_next_one() {
    let mut harness = Harness::new(BrokerLimits::default());
    let session = with_will(&harness, "one", "first").await;
    let leaving = leave(&harness, &session);
    let will = harness.inbound.recv().await.unwrap();
    // The client may come back when the bridge has been waited for long enough.
    leaving.await.unwrap();
    drop(with_will(&harness, "one", "second").await);
    will.ack.release(AckWord::Done);
    harness.hub.going_on.close();
    harness.hub.going_on.wait().await;
    assert_eq!(wills_on_disk(&harness).await, ["second"]);
}

#[tokio::test]
async fn a_will_that_may_have_come_before_the_start_is_marked() {
    for (due, again) in [(Some(now_ms() - 1), true), (None, false)] {
        let mut harness = Harness::new(BrokerLimits::default());
        let session = with_will(&harness, "one", "gone").await;
        if let Some(due) = due {
            let queue = session.queue.stored().unwrap();
            harness.hub.store.session_left(queue, now_ms(), 60, Some(due)).await.unwrap().await.unwrap();
        }
        harness.hub.registry.remove(&session);
        harness.hub.restore().await.unwrap();
        let hub = Arc::clone(&harness.hub);
        let publishing = TaskTracker::new().spawn(async move { hub.publish_delayed_wills().await });
        let will = harness.inbound.recv().await.unwrap();
        assert_eq!(will.dup, again);
        publishing.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn wills_that_are_due_together_do_not_wait_for_the_disk_one_by_one() {
    let harness = Harness::new(BrokerLimits::default());
    let reader = harness.session("reader").await;
    harness.subscribe(&reader, "w/+").await;
    for client in ["a", "b", "c"] {
        let session = harness.session(client).await;
        let message = new_publish(&format!("w/{client}")).message;
        session.lock().will = Some(Box::new(Will { message, delay_s: 1 }.into()));
        harness.hub.delayed_wills.add(Duration::from_secs(1), &session);
    }
    let disk = harness.block_disk();
    let publishes = timeout(Duration::from_millis(1_500), harness.hub.publish_delayed_wills());
    assert!(publishes.await.is_err(), "it waits for more");
    assert_eq!(reader.queue.on_disk().0, 3, "the store was asked for all of them");
    drop(disk);
    harness.hub.going_on.close();
    harness.hub.going_on.wait().await;
}

async fn retain(harness: &Harness, topic: &str, payload: &str) {
    let by = Publisher { session: None, rights: &Rights::Nobody, device: None, follows: true };
    let mut publish = new_publish(topic);
    publish.message = Message { payload: payload.to_owned().into(), retain: true, ..publish.message };
    let Publishing::Waits(waits) = harness.hub.publish(by, publish) else { panic!("it is stored") };
    assert!(waits.await.unwrap().stored().await);
}

async fn retained_on(harness: &Harness, topic: &str) -> Option<String> {
    let found = harness.hub.store.read_retained(vec![topic.to_owned()]).await.unwrap().await.unwrap();
    found.first().map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
}

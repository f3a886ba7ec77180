use std::collections::HashSet;
use std::sync::Arc;

use mqtt5::QoS;
use mqtt5::broker::storage::{
    ClientSession, MemoryBackend, QueueLimits, QueuedMessage, StorageBackend, StoredSubscription,
};
use proptest::prelude::*;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

use super::*;

const TOPIC: &str = "bal/others/messages";
const KEEPING: Keeping =
    Keeping { durable: false, parked: ParkedLimits { publications: 1_000, topics: 1_000 }, mark_copy: None };

/// A ledger and the engine's queues, with the clients' connections played by hand.
struct World {
    ledger: Arc<Ledger>,
    storage: MemoryBackend,
    room: Arc<Semaphore>,
}

impl World {
    fn new(queued_messages: usize) -> Self {
        let limits = QueueLimits { max_messages: queued_messages, max_bytes: usize::MAX };
        let storage = MemoryBackend::with_queue_limits(limits);
        Self { ledger: Arc::new(Ledger::new(KEEPING)), storage, room: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    async fn connect(&self, client: &str, start: Start) -> Arc<Link> {
        let link = Link::of_anybody(Arc::clone(&self.ledger));
        let client: Arc<str> = client.into();
        let queue = self.storage.queue_handle(&client);
        if start == Start::Fresh {
            queue.clear(None);
        }
        self.forget(self.ledger.attach(&client, &link, start, queue)).await;
        let mut session = ClientSession::new(&*client, true, None);
        session.add_subscription(TOPIC, StoredSubscription::new(QoS::AtLeastOnce));
        let readers = Reader::all_of(&client, &session);
        self.forget(self.ledger.subscribe(&client, readers, Lasting::Longer)).await;
        link
    }

    fn publish(&self, payload: &str) -> oneshot::Receiver<Outcome> {
        let (message, answer) = Outbound::new(TOPIC, payload.to_owned());
        let room = Arc::clone(&self.room).try_acquire_owned().unwrap();
        self.ledger.publish(message, room);
        answer
    }

    /// The engine takes the next message out of the queue of a client.
    async fn next(&self, client: &str) -> Option<QueuedMessage> {
        self.storage.queue_handle(client).take(1).await.pop()
    }

    /// It sends it. `after` is the last that it sent on this connection.
    fn send(&self, client: &str, after: u64, message: &QueuedMessage) -> Option<u64> {
        let leaving = self.ledger.sent(client, after, || mark(message.topic.as_bytes(), &message.payload));
        leaving.and_then(|leaving| leaving.id)
    }

    async fn forget(&self, forget: Forget) {
        for (client, marks) in forget {
            let queue = self.storage.queue_handle(&client);
            let mut messages = queue.take(usize::MAX).await;
            messages.retain(|message| !marks.contains(&mark(message.topic.as_bytes(), &message.payload)));
            queue.requeue_front(messages);
            queue.finish_drain();
        }
    }

    fn parked(&self) -> usize {
        let mut state = self.ledger.lock();
        let State { parked, open, .. } = &mut *state;
        let all = parked.read_by(std::iter::once("#"));
        assert!(all.iter().all(|id| open[id].progress == Progress::Sent));
        all.len()
    }

    fn unconfirmed(&self) -> usize {
        self.ledger.lock().open.len()
    }
}

#[tokio::test]
async fn a_copy_that_the_engine_dropped_is_noticed_when_a_later_one_leaves() {
    let world = World::new(2);
    let _link = world.connect("slow", Start::Fresh).await;
    let mut answers: Vec<_> = ["dropped", "a", "b"].map(|payload| world.publish(payload)).into();
    let message = world.next("slow").await.unwrap();
    assert_eq!(message.payload, b"a");
    let id = world.send("slow", 0, &message).unwrap();
    assert_eq!(answers.remove(0).await, Ok(Outcome::Unsent));
    world.ledger.confirm("slow", id);
    assert_eq!(answers.remove(0).await, Ok(Outcome::Confirmed));
    assert_eq!(world.unconfirmed(), 1);
}

#[tokio::test]
async fn a_session_that_the_engine_has_discarded_gets_nothing() {
    let world = World::new(10);
    let _link = world.connect("gone", Start::Fresh).await;
    world.storage.queue_handle("gone").clear(None);
    let away = world.connect("away", Start::Fresh).await;
    drop(world.ledger.detach("away", &away, Rest::Away));
    assert_eq!(world.publish("x").await, Ok(Outcome::NoReader));
    assert!(world.next("away").await.is_none());
    assert!(world.next("gone").await.is_none());
}

#[tokio::test]
async fn a_displaced_connection_changes_nothing() {
    let world = World::new(10);
    let old = world.connect("bal", Start::Fresh).await;
    let mut answer = world.publish("x");
    let _new = world.connect("bal", Start::Resumed).await;
    assert!(world.ledger.detach("bal", &old, Rest::Away).is_empty());
    assert!(answer.try_recv().is_err());
}

#[tokio::test]
async fn a_vanished_connection_is_found_and_ended() {
    let world = World::new(10);
    let link = world.connect("bal", Start::Fresh).await;
    assert!(world.ledger.unattended().is_empty());
    let answer = world.publish("x");
    drop(link);
    assert_eq!(world.ledger.unattended(), ["bal".into()]);
    drop(world.ledger.abandon("bal", Rest::Ended));
    assert_eq!(answer.await, Ok(Outcome::Unsent));
    assert_eq!(world.ledger.census("bal"), (false, 0));
}

#[tokio::test]
async fn a_settled_publication_gives_its_room_back() {
    let mut world = World::new(10);
    world.room = Arc::new(Semaphore::new(1));
    assert_eq!(world.publish("nobody").await, Ok(Outcome::NoReader));
    let link = world.connect("bal", Start::Fresh).await;
    let answer = world.publish("somebody");
    assert_eq!(world.room.available_permits(), 0);
    drop(world.ledger.detach("bal", &link, Rest::Ended));
    assert_eq!(answer.await, Ok(Outcome::Unsent));
    assert_eq!(world.room.available_permits(), 1);
}

/// Publishes `payloads`, and has the engine send them to `client`.
async fn sent<const N: usize>(world: &World, client: &str, payloads: [&str; N]) -> [oneshot::Receiver<Outcome>; N] {
    let answers = payloads.map(|payload| world.publish(payload));
    let mut last = 0;
    for _ in payloads {
        let message = world.next(client).await.unwrap();
        last = world.send(client, last, &message).unwrap();
    }
    answers
}

#[tokio::test]
async fn what_was_sent_waits_for_the_session_and_what_was_not_is_given_back() {
    let world = World::new(10);
    let link = world.connect("bal", Start::Fresh).await;
    let [mut waits] = sent(&world, "bal", ["sent"]).await;
    let given_back = world.publish("queued");
    drop(world.ledger.detach("bal", &link, Rest::Away));
    assert_eq!(given_back.await, Ok(Outcome::Unsent));
    assert!(waits.try_recv().is_err());
    let _link = world.connect("bal", Start::Resumed).await;
    world.ledger.confirm("bal", 1);
    assert_eq!(waits.await, Ok(Outcome::Confirmed));
}

#[tokio::test]
async fn what_a_session_that_is_away_may_still_get_counts_as_seen() {
    let world = World::new(2);
    let away = world.connect("away", Start::Fresh).await;
    drop(world.ledger.detach("away", &away, Rest::Away));
    // Its only connected reader goes before the copy has left.
    let here = world.connect("here", Start::Fresh).await;
    let answer = world.publish("x");
    let forget = world.ledger.detach("here", &here, Rest::Away);
    assert_eq!(forget.len(), 2);
    world.forget(forget).await;
    assert_eq!(answer.await, Ok(Outcome::Lost), "the one that is away may come back while its copy is taken out");
    // The engine drops a copy of the one reader, and the other one keeps its own.
    let _here = world.connect("here", Start::Resumed).await;
    let answers = ["dropped", "a", "b"].map(|payload| world.publish(payload));
    let message = world.next("here").await.unwrap();
    world.send("here", 0, &message).unwrap();
    let [dropped, ..] = answers;
    assert_eq!(dropped.await, Ok(Outcome::Lost));
}

#[tokio::test]
async fn another_reader_gets_what_waits_for_one_who_is_away() {
    let world = World::new(10);
    let link = world.connect("away", Start::Fresh).await;
    let [answer] = sent(&world, "away", ["x"]).await;
    drop(world.ledger.detach("away", &link, Rest::Away));
    let _link = world.connect("other", Start::Fresh).await;
    assert_eq!(answer.await, Ok(Outcome::Lost));
}

#[tokio::test]
async fn a_session_that_ends_gives_up_what_waits_for_it() {
    let world = World::new(10);
    let link = world.connect("bal", Start::Fresh).await;
    let [answer] = sent(&world, "bal", ["x"]).await;
    drop(world.ledger.detach("bal", &link, Rest::Away));
    drop(world.ledger.abandon("bal", Rest::Ended));
    assert_eq!(answer.await, Ok(Outcome::Lost));
    assert_eq!(world.parked(), 0);
}

#[tokio::test]
async fn more_than_the_limit_does_not_wait() {
    let mut world = World::new(10);
    world.ledger = Arc::new(Ledger::new(Keeping { parked: ParkedLimits { publications: 1, topics: 1 }, ..KEEPING }));
    let link = world.connect("bal", Start::Fresh).await;
    let [first, second] = sent(&world, "bal", ["1", "2"]).await;
    let forget = world.ledger.detach("bal", &link, Rest::Away);
    assert_eq!((first.await, second.await), (Ok(Outcome::Lost), Ok(Outcome::Lost)), "a topic goes as a whole");
    assert_eq!(forget["bal"].len(), 2);
}

#[tokio::test]
async fn with_several_readers_the_first_confirmation_waits_until_the_others_copies_are_written() {
    let mut world = World::new(10);
    world.ledger = Arc::new(Ledger::new(Keeping { durable: true, ..KEEPING }));
    let (_a, b) = (world.connect("a", Start::Fresh).await, world.connect("b", Start::Fresh).await);
    let [mut answer] = sent(&world, "a", ["x"]).await;
    world.ledger.confirm("a", 1);
    assert!(answer.try_recv().is_err());
    drop(world.ledger.detach("b", &b, Rest::Away));
    assert!(answer.try_recv().is_err(), "safe with one reader, it is not taken back");
    assert_eq!(world.ledger.unwritten().await, [1]);
    world.ledger.written(&[1]);
    assert_eq!(answer.await, Ok(Outcome::Confirmed));
    assert_eq!(world.storage.queue_handle("b").count(), 1);
}

#[tokio::test]
async fn a_stop_keeps_what_was_sent_and_the_next_run_adopts_it() {
    let mut world = World::new(10);
    world.ledger = Arc::new(Ledger::new(Keeping { durable: true, ..KEEPING }));
    let link = world.connect("bal", Start::Fresh).await;
    let [_kept] = sent(&world, "bal", ["sent"]).await;
    drop(world.ledger.detach("bal", &link, Rest::Away));
    let (answers, forget) = world.ledger.close();
    assert_eq!(answers.iter().map(|(_, outcome)| *outcome).collect::<Vec<_>>(), [Outcome::Kept]);
    assert!(forget.is_empty());

    world.ledger = Arc::new(Ledger::new(KEEPING));
    let client: Arc<str> = "bal".into();
    world.ledger.restore(
        &client,
        Rights::Anonymous,
        world.storage.queue_handle("bal"),
        vec![mark(TOPIC.as_bytes(), b"sent")],
    );
    let former = |payload: &'static str| {
        let (outcome, answer) = oneshot::channel();
        let payloads = vec!["another form".into(), payload.into()];
        (Former { topic: TOPIC.to_owned(), payloads, outcome }, answer)
    };
    let (there, adopted) = former("sent");
    let (missing, lost) = former("unknown");
    let room = || Arc::clone(&world.room).try_acquire_owned().ok();
    world.ledger.adopt(there, room());
    world.ledger.adopt(missing, room());
    world.ledger.adopted();
    assert_eq!(lost.await, Ok(Outcome::Lost));
    let _link = world.connect("bal", Start::Resumed).await;
    let again = QueuedMessage::new(
        mqtt5::packet::publish::PublishPacket::new(TOPIC, "sent", QoS::AtLeastOnce),
        "bal".to_owned(),
        QoS::AtLeastOnce,
        Some(1),
    );
    let id = world.send("bal", 0, &again).unwrap();
    world.ledger.confirm("bal", id);
    assert_eq!(adopted.await, Ok(Outcome::Confirmed));
}

/// Something that happens to one of three clients.
#[derive(Debug, Clone, Copy)]
enum Step {
    Publish,
    Connect(usize, Start),
    Leave(usize, Rest),
    Send(usize),
    Ack(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Publish),
        1 => (0..3usize, any::<bool>())
            .prop_map(|(n, fresh)| Step::Connect(n, if fresh { Start::Fresh } else { Start::Resumed })),
        1 => (0..3usize, any::<bool>()).prop_map(|(n, end)| Step::Leave(n, if end { Rest::Ended } else { Rest::Away })),
        3 => (0..3usize).prop_map(Step::Send),
        2 => (0..3usize).prop_map(Step::Ack),
    ]
}

/// One client of the model.
#[derive(Default)]
struct Client {
    link: Option<Arc<Link>>,
    last: u64,
    /// Sent and not acknowledged: what the engine would queue again.
    in_flight: Vec<(Option<u64>, QueuedMessage)>,
    /// The payloads that it has seen.
    seen: Vec<Vec<u8>>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Plays steps. After each, exactly the publications are open that have no answer; those that no connected client holds
/// are parked, and were sent. What was confirmed was acknowledged; what was lost or is unsent does not come from the
/// engine any more, and what is unsent was seen by nobody.
async fn play(steps: Vec<Step>) {
    let world = World::new(usize::MAX);
    let mut clients: [Client; 3] = Default::default();
    let mut answers = Vec::new();
    let mut acknowledged = HashSet::new();
    let mut taken_back = HashSet::new();
    for step in steps {
        match step {
            Step::Publish => {
                let payload = answers.len().to_string();
                answers.push((payload.clone(), world.publish(&payload)));
            }
            Step::Connect(n, start) if clients[n].link.is_none() => {
                clients[n].link = Some(world.connect(NAMES[n], start).await);
                clients[n].last = 0;
            }
            Step::Leave(n, rest) => {
                let Some(link) = clients[n].link.take() else { continue };
                let again = std::mem::take(&mut clients[n].in_flight);
                let queue = world.storage.queue_handle(NAMES[n]);
                match rest {
                    Rest::Away => queue.requeue_front(again.into_iter().map(|(_, message)| message).collect()),
                    Rest::Ended => drop(queue.clear(None)),
                }
                let forget = world.ledger.detach(NAMES[n], &link, rest);
                world.forget(forget).await;
            }
            Step::Send(n) if clients[n].link.is_some() => {
                let Some(message) = world.next(NAMES[n]).await else { continue };
                let id = world.send(NAMES[n], clients[n].last, &message);
                clients[n].last = id.unwrap_or(clients[n].last);
                clients[n].seen.push(message.payload.clone());
                assert!(!taken_back.contains(&message.payload), "a lost one came from the engine");
                clients[n].in_flight.push((id, message));
            }
            Step::Ack(n) if !clients[n].in_flight.is_empty() => {
                let (id, message) = clients[n].in_flight.remove(0);
                acknowledged.insert(message.payload);
                if let Some(id) = id {
                    world.ledger.confirm(NAMES[n], id);
                }
            }
            Step::Connect(..) | Step::Send(_) | Step::Ack(_) => {}
        }
        let mut open = 0;
        for (payload, answer) in &mut answers {
            match answer.try_recv() {
                Ok(Outcome::Lost) => {
                    taken_back.insert(payload.clone().into_bytes());
                }
                Ok(Outcome::Confirmed) => assert!(acknowledged.contains(payload.as_bytes())),
                Ok(Outcome::NoReader | Outcome::Unsent) => {
                    taken_back.insert(payload.clone().into_bytes());
                    assert!(!clients.iter().any(|client| client.seen.contains(&payload.clone().into_bytes())));
                }
                Ok(Outcome::Kept) => panic!("kept, and nothing stops"),
                Err(oneshot::error::TryRecvError::Empty) => open += 1,
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
        assert_eq!(open, world.unconfirmed());
        if clients.iter().all(|client| client.link.is_none()) {
            assert_eq!(open, world.parked(), "nobody is there to confirm it");
        }
    }
}

proptest! {
    #[test]
    fn every_publication_has_one_answer_and_a_lost_one_is_gone(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(steps));
    }
}

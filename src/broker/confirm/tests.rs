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
        Self { ledger: Arc::default(), storage, room: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    fn connect(&self, client: &str, start: Start) -> Arc<Link> {
        let link = Link::new(Arc::clone(&self.ledger));
        let client: Arc<str> = client.into();
        let queue = self.storage.queue_handle(&client);
        if start == Start::Fresh {
            queue.clear(None);
        }
        drop(self.ledger.attach(&client, &link, start, queue));
        let mut session = ClientSession::new(&*client, true, None);
        session.add_subscription(TOPIC, StoredSubscription::new(QoS::AtLeastOnce));
        self.ledger.subscribe(&client, Reader::all_of(&client, &session));
        link
    }

    fn publish(&self, payload: &str) -> oneshot::Receiver<Outcome> {
        let (outcome, answer) = oneshot::channel();
        let (topic, payload) = (TOPIC.to_owned(), payload.to_owned().into());
        let message =
            Outbound { topic, payload, qos: 1, retain: false, expiry: None, correlation: None, resume: true, outcome };
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
        self.ledger.sent(client, after, || mark(message.topic.as_bytes(), &message.payload))
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

    fn unconfirmed(&self) -> usize {
        self.ledger.lock().open.len()
    }
}

#[tokio::test]
async fn a_copy_that_the_engine_dropped_is_noticed_when_a_later_one_leaves() {
    let world = World::new(2);
    let _link = world.connect("slow", Start::Fresh);
    let mut answers: Vec<_> = ["dropped", "a", "b"].map(|payload| world.publish(payload)).into();
    let message = world.next("slow").await.unwrap();
    assert_eq!(message.payload, b"a");
    let id = world.send("slow", 0, &message).unwrap();
    assert_eq!(answers.remove(0).await, Ok(Outcome::Lost));
    world.ledger.confirm(id);
    assert_eq!(answers.remove(0).await, Ok(Outcome::Confirmed));
    assert_eq!(world.unconfirmed(), 1);
}

#[tokio::test]
async fn a_session_that_the_engine_has_discarded_gets_nothing() {
    let world = World::new(10);
    let _link = world.connect("gone", Start::Fresh);
    world.storage.queue_handle("gone").clear(None);
    let away = world.connect("away", Start::Fresh);
    drop(world.ledger.detach("away", &away, Rest::Away));
    assert_eq!(world.publish("x").await, Ok(Outcome::NoReader));
    assert!(world.next("away").await.is_none());
    assert!(world.next("gone").await.is_none());
}

#[tokio::test]
async fn a_displaced_connection_changes_nothing() {
    let world = World::new(10);
    let old = world.connect("bal", Start::Fresh);
    let mut answer = world.publish("x");
    let _new = world.connect("bal", Start::Resumed);
    assert!(world.ledger.detach("bal", &old, Rest::Away).is_empty());
    assert!(answer.try_recv().is_err());
}

#[tokio::test]
async fn a_vanished_connection_is_found_and_ended() {
    let world = World::new(10);
    let link = world.connect("bal", Start::Fresh);
    assert!(world.ledger.unattended().is_empty());
    let answer = world.publish("x");
    drop(link);
    assert_eq!(world.ledger.unattended(), ["bal".into()]);
    drop(world.ledger.abandon("bal", Rest::Ended));
    assert_eq!(answer.await, Ok(Outcome::Lost));
    assert_eq!(world.ledger.census("bal"), (false, 0));
}

#[tokio::test]
async fn a_settled_publication_gives_its_room_back() {
    let mut world = World::new(10);
    world.room = Arc::new(Semaphore::new(1));
    assert_eq!(world.publish("nobody").await, Ok(Outcome::NoReader));
    let link = world.connect("bal", Start::Fresh);
    let answer = world.publish("somebody");
    assert_eq!(world.room.available_permits(), 0);
    drop(world.ledger.detach("bal", &link, Rest::Ended));
    assert_eq!(answer.await, Ok(Outcome::Lost));
    assert_eq!(world.room.available_permits(), 1);
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

/// Plays steps. After each, exactly the publications are open that a connected client holds; at the end each has one
/// answer, what was confirmed was acknowledged, and what was lost does not come from the engine any more.
async fn play(steps: Vec<Step>) {
    let world = World::new(usize::MAX);
    let mut clients: [Client; 3] = Default::default();
    let mut answers = Vec::new();
    let mut acknowledged = HashSet::new();
    let mut lost_unseen = HashSet::new();
    for step in steps {
        match step {
            Step::Publish => {
                let payload = answers.len().to_string();
                answers.push((payload.clone(), world.publish(&payload)));
            }
            Step::Connect(n, start) if clients[n].link.is_none() => {
                clients[n].link = Some(world.connect(NAMES[n], start));
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
                assert!(!lost_unseen.contains(&message.payload), "a lost one came from the engine");
                clients[n].in_flight.push((id, message));
            }
            Step::Ack(n) if !clients[n].in_flight.is_empty() => {
                let (id, message) = clients[n].in_flight.remove(0);
                acknowledged.insert(message.payload);
                if let Some(id) = id {
                    world.ledger.confirm(id);
                }
            }
            Step::Connect(..) | Step::Send(_) | Step::Ack(_) => {}
        }
        let mut open = 0;
        for (payload, answer) in &mut answers {
            match answer.try_recv() {
                Ok(Outcome::Lost) => {
                    lost_unseen.insert(payload.clone().into_bytes());
                }
                Ok(Outcome::Confirmed) => assert!(acknowledged.contains(payload.as_bytes())),
                Ok(Outcome::NoReader | Outcome::Unsent) => {
                    assert!(!clients.iter().any(|client| client.seen.contains(&payload.clone().into_bytes())))
                }
                Err(oneshot::error::TryRecvError::Empty) => open += 1,
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
        assert_eq!(open, world.unconfirmed());
        if clients.iter().all(|client| client.link.is_none()) {
            assert_eq!(open, 0, "nobody is there to confirm it");
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

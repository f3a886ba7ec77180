use mqtt5::QoS;
use mqtt5::broker::router::DeliveryLanes;
use mqtt5::broker::storage::StoredSubscription;
use tokio::sync::{Semaphore, oneshot};

use super::*;
use crate::broker::link::Start;
use crate::broker::{BrokerLimits, engine};
use crate::mqtt::{Outbound, Outcome};

const TOPIC: &str = "bal/others/messages";

/// A client with a lasting session that is connected, and a publication on the way to it.
async fn connected() -> (Desk, Arc<str>, Arc<Link>, oneshot::Receiver<Outcome>) {
    let limits = BrokerLimits::default();
    let (disk, _) = Disk::open(None, engine::queues(&limits)).await.unwrap();
    let desk = engine::desk(disk, &limits, None);
    let client: Arc<str> = "bal".into();
    let mut session = ClientSession::new(&*client, true, None);
    session.add_subscription(TOPIC, StoredSubscription::new(QoS::AtLeastOnce));
    desk.disk.storage.store_session(session).await.unwrap();
    let link = Link::of_anybody(Arc::clone(&desk.ledger));
    desk.attach(&client, &link).await;

    let (message, answer) = Outbound::new(TOPIC, "x");
    desk.ledger.publish(message, Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap());
    (desk, client, link, answer)
}

/// The engine has a connection of this client.
async fn claim(desk: &Desk, client: &str) {
    let (lanes, _receivers) = DeliveryLanes::channel(1);
    let (displaced, _) = oneshot::channel();
    desk.router.register_client(client.to_owned(), lanes, desk.router.queue_handle(client), displaced).await;
}

#[tokio::test]
async fn a_copy_that_is_taken_back_leaves_the_engines_queue_and_others_stay() {
    let (desk, client, link, answer) = connected().await;
    let queue = desk.router.queue_handle(&client);
    let other = mqtt5::packet::publish::PublishPacket::new("other", "y", QoS::AtLeastOnce);
    queue.push(QueuedMessage::new(other, client.to_string(), QoS::AtLeastOnce, None));
    desk.detach(&client, &link).await;
    assert_eq!(answer.await, Ok(Outcome::Unsent));
    let left = queue.peek_all().await;
    assert_eq!(left.iter().map(|message| message.topic.as_str()).collect::<Vec<_>>(), ["other"]);
    assert!(!queue.draining());
}

#[tokio::test]
async fn a_session_that_another_connection_has_claimed_keeps_its_copies() {
    let (desk, client, link, mut answer) = connected().await;
    claim(&desk, &client).await;
    desk.detach(&client, &link).await;
    assert!(answer.try_recv().is_err());
    assert_eq!(desk.router.queue_handle(&client).count(), 1);

    let successor = Link::of_anybody(Arc::clone(&desk.ledger));
    successor.began(Start::Resumed);
    desk.attach(&client, &successor).await;
    assert!(answer.try_recv().is_err());
}

#[tokio::test]
async fn a_connection_that_vanished_under_the_engine_is_ended_by_the_second_sweep() {
    let (desk, client, link, mut answer) = connected().await;
    claim(&desk, &client).await;
    drop(link);
    let mut suspects = HashSet::new();
    desk.sweep(&mut suspects).await;
    assert!(answer.try_recv().is_err());
    desk.sweep(&mut suspects).await;
    assert_eq!(answer.await, Ok(Outcome::Unsent));
    assert!(!desk.router.is_connected(&client).await);
}

#[tokio::test]
async fn an_expired_session_is_forgotten_by_the_sweep() {
    let (desk, client, link, _answer) = connected().await;
    desk.detach(&client, &link).await;
    drop(link);
    assert_eq!(desk.ledger.census(&client), (true, 1));
    desk.disk.storage.remove_session(&client).await.unwrap();
    desk.sweep(&mut HashSet::new()).await;
    assert_eq!(desk.ledger.census(&client), (false, 0));
}

/// Something for a session that the engine has in its files. `publisher` is the client that published it.
fn queued(client: &str, topic: &str, readers: Option<bool>, publisher: Option<&str>) -> QueuedMessage {
    let mut packet = mqtt5::packet::publish::PublishPacket::new(topic, "{}", QoS::AtLeastOnce);
    if let Some(several) = readers {
        packet.properties.set_payload_format_indicator(several);
    }
    packet.properties.inject_client_id(publisher);
    QueuedMessage::new(packet, client.to_owned(), QoS::AtLeastOnce, None)
}

fn mark_copy(_: &[u8]) -> Option<Vec<u8>> {
    None
}

#[tokio::test]
async fn after_a_crash_nothing_of_the_bridge_is_left_that_would_come_without_a_mark() {
    let limits = BrokerLimits::default();
    let (disk, _) = Disk::open(None, engine::queues(&limits)).await.unwrap();
    let desk = engine::desk(disk, &limits, Some(mark_copy));
    let mut session = ClientSession::new("bal", true, None);
    session.add_subscription("#", StoredSubscription::new(QoS::AtLeastOnce));
    desk.disk.storage.store_session(session).await.unwrap();
    desk.restore(Past::Torn, |_| Rights::Anonymous).await;
    let queue = desk.router.queue_handle("bal");
    let (one, several) = (None, Some(true));
    let left = [
        (TOPIC, one, None),
        ("bal/my/answers", one, None),
        ("bal/my/answers/shared", several, None),
        ("bal/others/receipts", several, None),
        ("_bridge/events", one, None),
        ("_bridge/status", one, None),
        ("alice/self/presence", one, None),
        ("bal/my/notes", one, Some("bal:other")),
    ];
    for (topic, readers, publisher) in left {
        queue.push(queued("bal", topic, readers, publisher));
    }
    // The bridge publishes this one again.
    desk.cleanse(&HashSet::from([mark(b"bal/others/receipts", b"{}")])).await;

    let mut comes = Vec::new();
    for message in queue.peek_all().await {
        let leaving = desk.ledger.sent("bal", 0, || mark(message.topic.as_bytes(), &message.payload));
        comes.push((message.topic.clone(), leaving.is_some_and(|leaving| leaving.mark_copy.is_some())));
    }
    let expected = [
        ("bal/my/answers/shared", true),
        ("_bridge/events", true),
        ("_bridge/status", false),
        ("alice/self/presence", false),
        ("bal/my/notes", false),
    ];
    assert_eq!(comes, expected.map(|(topic, marked)| (topic.to_owned(), marked)));
}

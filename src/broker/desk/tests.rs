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

    let (outcome, answer) = oneshot::channel();
    let (topic, payload) = (TOPIC.to_owned(), "x".into());
    let message = Outbound {
        topic,
        payload,
        qos: 1,
        retain: false,
        expiry: None,
        correlation: None,
        mark_copy: None,
        resume: true,
        outcome,
    };
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

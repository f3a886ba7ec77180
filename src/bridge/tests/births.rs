//! A broker of others has come up, or come back: what it keeps of presences comes behind everything else.

use super::chat::by_topic;
use super::user_presence::Stillness;
use super::*;
use crate::store::UserDocument;
use std::collections::HashMap;

const INBOX: &str = "client1/others/messages";
/// More than a round of the publisher.
const ROUND: Duration = Duration::from_millis(400);

fn external() -> Settings {
    Settings { broker: BrokerKind::External, births: BAL_BIRTHS, ..settings() }
}

impl Harness {
    /// A BAL says how it is, now or (`is_kept`) as the broker keeps it.
    async fn bal_is(&self, state: &str, conn: &str, is_kept: bool) {
        self.bal_of(INBOX, state, conn, is_kept).await;
    }

    async fn bal_of(&self, topic: &str, state: &str, conn: &str, is_kept: bool) {
        let topic = format!("{}/self/presence", topic.split('/').next().unwrap());
        let (ack, word) = Ack::new();
        let document = json!({"state": state, "conn": conn}).to_string();
        let inbound = Inbound::new(Principal::anonymous(&topic), topic, document.into(), ack);
        self.mqtt.inbound.send(Inbound { retain: is_kept, ..inbound }).await.unwrap();
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }

    /// Nothing is published of what came so far: something that is published shows it.
    async fn publishes_nothing(&mut self) {
        for n in 0..2 {
            let (topic, payload) = ("bob/others/messages".to_owned(), format!("{{\"n\":{n}}}").into());
            let document = UserDocument { topic, copy_of: None, payload, at: now_ms() };
            self.store.queue_user_document(document).await.unwrap().await.unwrap();
            assert_eq!(self.read().await, ("bob/others/messages".to_owned(), json!({ "n": n })));
        }
    }

    async fn passes(&mut self, time: Duration) {
        self.publishes_nothing().await;
        tokio::time::advance(time).await;
    }

    async fn sends_upstream(&mut self, id: &str) {
        self.upstream(id, "com.example.chat").await;
        self.ack().await;
    }

    fn loses_the_broker(&self) {
        self.mqtt.broker_link.send_replace(BrokerLink::Down);
    }

    fn finds_the_broker(&self) {
        self.mqtt.connections.send_modify(|connections| *connections += 1);
        self.mqtt.broker_link.send_replace(BrokerLink::Up);
        self.mqtt.readers.send_modify(|changes| *changes += 1);
    }

    /// What the client of a broker does with a document that it takes from the queue.
    fn gives_to_the_broker(&self, outbound: Outbound) -> Outcome {
        let is_old = outbound.connection.is_some_and(|connection| connection != *self.mqtt.connections.borrow());
        let outcome = if is_old { Outcome::Unsent } else { Outcome::Confirmed };
        outbound.outcome.send(outcome).unwrap();
        outcome
    }

    /// A BAL says how it is, and nobody waits for the word.
    async fn bal_begins_to_be(&self, state: &str) -> oneshot::Receiver<AckWord> {
        self.publish("client1/self/presence", &json!({"state": state, "conn": "c1"})).await
    }

    /// Everything that came so far was taken: a copy of an old message, which is dropped at once, is acknowledged.
    async fn has_taken_everything(&self) {
        let (ack, word) = Ack::new();
        let topic = "client1/self/messages";
        let old = Inbound::new(Principal::anonymous(topic), topic.to_owned(), "{}".into(), ack);
        self.mqtt.inbound.send(Inbound { retain: true, ..old }).await.unwrap();
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }

    async fn bals_away(&self) -> Vec<Owner> {
        self.store.bals_away().await.unwrap().await.unwrap()
    }

    /// The next document, marked. The publisher looks every now and then whether it is time for that.
    async fn comes_again(&mut self) {
        let again = loop {
            tokio::time::advance(ROUND).await;
            match self.mqtt.publish.try_recv() {
                Ok(outbound) if !outbound.topic.starts_with("_bridge/") => break outbound,
                _ => tokio::task::yield_now().await,
            }
        };
        let document: Value = serde_json::from_slice(&again.payload).unwrap();
        assert_eq!(document["redelivered"], json!(true));
        again.outcome.send(Outcome::Confirmed).unwrap();
    }

    async fn reads_upstream(&mut self, id: &str) -> Value {
        let (topic, document) = self.read().await;
        assert_eq!((&*topic, &document["ccs_id"]), (INBOX, &json!(id)));
        document
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_for_a_bal_stays_held_at_the_start_until_its_kept_presence_has_come() {
    let still = Stillness::hold();
    let mut harness = Harness::open_for(external());
    harness.sends_upstream("1").await;
    harness.passes(BAL_BIRTHS - ROUND).await;
    harness.bal_is("offline", "c1", true).await;
    harness.passes(10 * BAL_BIRTHS).await;
    harness.publishes_nothing().await;
    harness.bal_is("online", "c2", false).await;
    harness.reads_upstream("1").await;
    drop(still);
    harness.close().await;
}

/// A broker with much to deliver may drop some of it.
#[tokio::test(start_paused = true)]
async fn who_was_away_before_the_start_is_away_although_the_broker_does_not_say_it_again() {
    let still = Stillness::hold();
    let mut harness = Harness::open_for(external());
    harness.bal_is("offline", "c1", false).await;
    harness.sends_upstream("1").await;
    harness.publishes_nothing().await;
    let (dir, path) = harness.close().await;
    let mut harness = Harness::open_with(dir, path, external());
    harness.passes(10 * BAL_BIRTHS).await;
    harness.publishes_nothing().await;
    harness.bal_is("online", "c2", false).await;
    harness.reads_upstream("1").await;
    let (dir, path) = harness.close().await;
    let harness = Harness::open_with(dir, path, external());
    assert_eq!(harness.bals_away().await, []);
    drop(still);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_bal_that_says_nothing_is_taken_to_be_there_when_the_kept_presences_had_their_time() {
    let still = Stillness::hold();
    let mut harness = Harness::open_for(external());
    harness.sends_upstream("1").await;
    harness.passes(BAL_BIRTHS - ROUND).await;
    // As long as the broker delivers what it keeps, the presence may still come.
    harness.bal_of("another/others/messages", "offline", "c1", true).await;
    harness.passes(2 * ROUND).await;
    harness.publishes_nothing().await;
    tokio::time::advance(2 * BAL_BIRTHS).await;
    harness.reads_upstream("1").await;
    // At the next connection it waits no more: the broker queues for it.
    harness.loses_the_broker();
    harness.sends_upstream("2").await;
    harness.finds_the_broker();
    harness.reads_upstream("2").await;
    drop(still);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_bal_whose_kept_presence_says_online_waits_for_no_other() {
    let still = Stillness::hold();
    let mut harness = Harness::open_for(external());
    harness.sends_upstream("1").await;
    harness.bal_is("online", "c1", false).await;
    harness.publishes_nothing().await;
    harness.bal_is("online", "c1", true).await;
    harness.reads_upstream("1").await;
    harness.loses_the_broker();
    harness.sends_upstream("2").await;
    harness.finds_the_broker();
    // Its will is in the queue of the session, and what the broker keeps is behind that.
    harness.publishes_nothing().await;
    harness.bal_is("offline", "c1", false).await;
    harness.passes(10 * BAL_BIRTHS).await;
    harness.publishes_nothing().await;
    harness.bal_is("online", "c2", false).await;
    harness.reads_upstream("2").await;
    drop(still);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn where_the_broker_has_forgotten_everything_a_bal_that_spoke_before_has_to_speak_again() {
    let still = Stillness::hold();
    let mut harness = Harness::open_for(external());
    harness.bal_is("online", "c1", true).await;
    harness.sends_upstream("1").await;
    harness.reads_upstream("1").await;
    harness.loses_the_broker();
    harness.sends_upstream("2").await;
    harness.mqtt.sessions.send_modify(|sessions| *sessions += 1);
    harness.finds_the_broker();
    harness.passes(10 * BAL_BIRTHS).await;
    harness.publishes_nothing().await;
    harness.bal_is("online", "c2", false).await;
    harness.reads_upstream("2").await;
    drop(still);
    harness.close().await;
}

#[tokio::test]
async fn what_a_bal_says_is_acknowledged_when_it_is_on_disk_and_not_before() {
    let harness = Harness::open_for(external());
    // It reads the disk at its start.
    harness.has_taken_everything().await;
    let disk = rusqlite::Connection::open(&harness.path).unwrap();
    disk.execute_batch("BEGIN IMMEDIATE").unwrap();
    // It comes once more where the connection to the broker ended meanwhile.
    let mut words = [harness.bal_begins_to_be("offline").await, harness.bal_begins_to_be("offline").await];
    harness.has_taken_everything().await;
    for word in &mut words {
        assert!(word.try_recv().is_err(), "it is not on disk yet");
    }
    disk.execute_batch("ROLLBACK").unwrap();
    for word in words {
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }
    assert_eq!(harness.bals_away().await, [Owner::new("client1").unwrap()]);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_bal_that_has_to_speak_again_because_the_broker_has_forgotten_everything_has_to_after_a_restart_too() {
    let still = Stillness::hold();
    let mut harness = Harness::open_for(external());
    harness.bal_is("online", "c1", true).await;
    harness.sends_upstream("1").await;
    harness.reads_upstream("1").await;
    harness.loses_the_broker();
    harness.mqtt.sessions.send_modify(|sessions| *sessions += 1);
    harness.mqtt.notices.send(mqtt::Notice::SessionLost).await.unwrap();
    harness.finds_the_broker();
    timeout(async {
        while harness.bals_away().await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (dir, path) = harness.close().await;
    let mut harness = Harness::open_with(dir, path, external());
    harness.sends_upstream("2").await;
    harness.passes(10 * BAL_BIRTHS).await;
    harness.publishes_nothing().await;
    harness.bal_is("online", "c2", false).await;
    harness.reads_upstream("2").await;
    assert_eq!(harness.bals_away().await, []);
    drop(still);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_queue_to_the_broker_when_the_connection_ends_waits_like_everything_else_for_a_bal() {
    let still = Stillness::hold();
    let mut harness = Harness::open_for(external());
    harness.bal_is("online", "c1", true).await;
    harness.sends_upstream("1").await;
    let queued = harness.published().await;
    harness.loses_the_broker();
    harness.sends_upstream("2").await;
    harness.finds_the_broker();
    assert_eq!(harness.gives_to_the_broker(queued), Outcome::Unsent);
    // Its will is in the queue of the session, and what the broker keeps is behind that.
    harness.publishes_nothing().await;
    harness.bal_is("offline", "c1", false).await;
    harness.passes(10 * BAL_BIRTHS).await;
    harness.publishes_nothing().await;
    harness.bal_is("online", "c2", false).await;
    for id in ["1", "2"] {
        let document = harness.reads_upstream(id).await;
        assert_eq!(document.get("redelivered"), None, "it was never sent");
    }
    drop(still);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_for_those_who_say_nothing_goes_out_again_at_once() {
    let still = Stillness::hold();
    let mut harness = Harness::open_for(Settings { births: Duration::ZERO, ..external() });
    for id in ["1", "2", "3"] {
        harness.sends_upstream(id).await;
    }
    let queued = harness.published().await;
    harness.loses_the_broker();
    harness.finds_the_broker();
    assert_eq!(harness.gives_to_the_broker(queued), Outcome::Unsent);
    for id in ["1", "2", "3"] {
        let outbound = harness.published().await;
        let document: Value = serde_json::from_slice(&outbound.payload).unwrap();
        assert_eq!((&document["ccs_id"], document.get("redelivered")), (&json!(id), None));
        assert_eq!(harness.gives_to_the_broker(outbound), Outcome::Confirmed);
    }
    drop(still);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_explicitly_comes_again_when_its_owner_has_come_back_and_not_before() {
    let still = Stillness::hold();
    let chat = HashMap::from([("com.example.chat".to_owned(), Owner::new("careful").unwrap())]);
    let settings = Settings { births: Duration::ZERO, routes: Routes::new(chat, None), ..external() };
    let mut harness = Harness::open_for(settings);
    harness.sends_upstream("1").await;
    let (topic, document) = harness.read().await;
    assert_eq!((&*topic, &document["redelivered"]), ("careful/others/messages", &Value::Null));
    for _ in 0..3 {
        // Others come and go, and another topic is tried again and again.
        harness.bal_is("online", "c1", false).await;
        harness.mqtt.readers.send_modify(|changes| *changes += 1);
        harness.passes(Duration::from_secs(6)).await;
        harness.publishes_nothing().await;
        harness.bal_is("offline", "c1", false).await;
    }
    harness.bal_of("careful/", "online", "c1", false).await;
    harness.comes_again().await;
    harness.passes(Duration::from_secs(6)).await;
    harness.publishes_nothing().await;
    harness.loses_the_broker();
    harness.finds_the_broker();
    // It may have lost what the broker had.
    harness.comes_again().await;
    drop(still);
    harness.close().await;
}

/// More than may be on their way to the broker, which confirms nothing.
#[tokio::test]
async fn presences_that_are_refused_hold_up_nobody() {
    let harness = Harness::open_for(external());
    for n in 0..700 {
        let (name, birth) = (format!("user{n}"), json!({"state": "online", "conn": "c1"}));
        let word = harness.publish_as(by_topic(&name), &format!("{name}/self/presence/phone"), &birth).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done), "{n}");
    }
    harness.running.abort();
}

#[tokio::test(start_paused = true)]
async fn old_counters_are_not_published_when_the_broker_comes_back() {
    let still = Stillness::hold();
    let mut harness = Harness::open_for(external());
    harness.publishes_nothing().await;
    harness.loses_the_broker();
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(10)).await;
        // Lets the clocks ring.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    let mut stats = 0;
    while let Ok(outbound) = harness.mqtt.publish.try_recv() {
        stats += u32::from(outbound.topic == "_bridge/stats");
    }
    assert_eq!(stats, 0);
    drop(still);
    harness.running.abort();
}

//! Who is there, with the time standing still unless a test moves it.

use super::*;
use crate::bridge::context::BIRTHS;
use crate::chat::principal::Role;
use crate::mqtt::{ClientChange, Sighting};
use ClientChange::{Broke, Came, Left};
use std::sync::mpsc::{SyncSender, sync_channel};

const GRACE: Duration = Duration::from_secs(2);
/// As in the window.
const PAUSE: Duration = Duration::from_secs(1);
const LATE_WILL: Duration = Duration::from_millis(crate::chat::presence::LATE_WILL_MS);
const OVERWRITTEN: Duration = Duration::from_millis(500);

/// While this lives the paused clock does not move by itself when everybody waits for the disk. After [`PATIENCE`] it
/// does, so that what waits in vain fails.
pub(super) struct Stillness(#[expect(dead_code, reason = "dropping it is what counts")] SyncSender<()>);

impl Stillness {
    pub(super) fn hold() -> Self {
        let (hold, released) = sync_channel(0);
        tokio::task::spawn_blocking(move || released.recv_timeout(PATIENCE));
        Self(hold)
    }
}

struct Scene {
    harness: Harness,
    /// Users made up to see that everything before them is dealt with.
    strangers: u64,
    still: Stillness,
}

impl Scene {
    fn open() -> Self {
        Self::of(Harness::open())
    }

    fn of(harness: Harness) -> Self {
        Self { harness, strangers: 0, still: Stillness::hold() }
    }

    async fn sees(&self, client: &str, connection: u64, change: ClientChange) {
        self.sees_a(Role::User, client, connection, change).await;
    }

    async fn sees_a(&self, role: Role, client: &str, connection: u64, change: ClientChange) {
        let (user, device) = client.split_once(':').unwrap_or((client, "default"));
        let (user, device, client) = (user.into(), device.into(), client.into());
        let sighting = Sighting { user, role, client, device, connection, change, resumed: false };
        self.harness.mqtt.sightings.send(sighting).await.unwrap();
    }

    /// A client says something on a topic, and gets its acknowledgement.
    async fn says(&self, topic: &str, word: Value) {
        assert_eq!(timeout(self.harness.publish(topic, &word).await).await, Ok(AckWord::Done));
    }

    /// The next document of a user.
    async fn published(&mut self) -> (Outbound, String, Option<u64>) {
        let outbound = self.harness.published().await;
        assert_eq!((outbound.qos, outbound.retain, outbound.resume), (1, true, true));
        let document: Value = serde_json::from_slice(&outbound.payload).unwrap();
        assert_eq!(document["v"], 1);
        let user = outbound.topic.strip_suffix("/self/presence").expect("a user's aggregate");
        let said = format!("{user} {}", document["state"].as_str().unwrap());
        (outbound, said, document["last_seen"].as_u64())
    }

    /// The same, confirmed.
    async fn told(&mut self) -> (String, Option<u64>) {
        let (outbound, said, last_seen) = self.published().await;
        outbound.outcome.send(Outcome::Confirmed).unwrap();
        (said, last_seen)
    }

    async fn hears(&mut self, said: &str) {
        assert_eq!(self.told().await.0, said);
    }

    /// What a device said of itself is taken off the broker.
    async fn clears(&mut self, topic: &str) {
        let cleared = self.harness.published().await;
        assert_eq!((&*cleared.topic, cleared.payload.len(), cleared.retain), (topic, 0, true));
        // Nobody has to hear of it.
        let _ = cleared.outcome.send(Outcome::Confirmed);
    }

    /// Nothing more is told of what happened so far.
    async fn quiet(&mut self) {
        self.strangers += 1;
        let name = format!("stranger{}", self.strangers);
        self.sees(&name, u64::MAX - self.strangers, Came).await;
        self.hears(&format!("{name} online")).await;
    }

    /// Lets everything settle, then moves the clock.
    async fn pass(&mut self, time: Duration) {
        self.quiet().await;
        tokio::time::advance(time).await;
    }

    /// Somebody who has been online for a while, as everybody knows.
    async fn online(&mut self, client: &str, connection: u64) {
        self.sees(client, connection, Came).await;
        let user = client.split(':').next().unwrap();
        self.hears(&format!("{user} online")).await;
        self.pass(PAUSE).await;
    }

    async fn close(self) -> (tempfile::TempDir, std::path::PathBuf) {
        drop(self.still);
        self.harness.close().await
    }

    /// As after `kill -9`, with the same disk.
    async fn crash(self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["store.db", "store.db-wal"] {
            std::fs::copy(self.harness.path.with_file_name(name), dir.path().join(name)).unwrap();
        }
        self.harness.running.abort();
        let path = dir.path().join("store.db");
        Self::of(Harness::open_at(dir, path))
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_of_several_devices_decides() {
    let mut scene = Scene::open();
    scene.online("alice:phone", 1).await;
    scene.sees("alice:laptop", 2, Came).await;
    scene.sees("alice:phone", 1, Broke).await;
    scene.pass(GRACE).await;
    scene.quiet().await;
    scene.sees("alice:laptop", 2, Broke).await;
    scene.pass(GRACE - Duration::from_millis(1)).await;
    scene.quiet().await;
    tokio::time::advance(Duration::from_millis(1)).await;
    let (said, last_seen) = scene.told().await;
    assert_eq!(said, "alice offline");
    assert!(last_seen.unwrap() > now_ms() - 60_000);
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_is_told_at_once_and_a_quick_return_never() {
    let mut scene = Scene::open();
    scene.online("alice", 1).await;
    for connection in 1..10 {
        scene.sees("alice", connection, Broke).await;
        scene.pass(GRACE / 2).await;
        scene.sees("alice", connection + 1, Came).await;
    }
    scene.pass(10 * GRACE).await;
    scene.quiet().await;
    scene.sees("alice", 10, Left).await;
    scene.hears("alice offline").await;
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_late_will_of_a_replaced_connection_changes_nothing() {
    let mut scene = Scene::open();
    scene.online("alice:phone", 1).await;
    let topic = "alice/self/presence/phone";
    scene.says(topic, json!({"state": "online", "conn": "c1"})).await;
    scene.sees("alice:phone", 2, Came).await;
    scene.sees("alice:phone", 1, Broke).await;
    scene.says(topic, json!({"state": "online", "conn": "c2"})).await;
    scene.says(topic, json!({"state": "offline", "conn": "c1"})).await;
    scene.pass(10 * GRACE).await;
    scene.quiet().await;
    scene.says(topic, json!({"state": "offline", "conn": "c2"})).await;
    scene.hears("alice offline").await;
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_flapping_user_has_one_document_on_its_way_and_then_the_latest() {
    let mut scene = Scene::open();
    scene.sees("alice", 1, Came).await;
    let (first, said, _) = scene.published().await;
    assert_eq!(said, "alice online");
    for connection in 1..100 {
        scene.sees("alice", connection, Left).await;
        scene.sees("alice", connection + 1, Came).await;
    }
    scene.sees("alice", 100, Left).await;
    scene.quiet().await;
    first.outcome.send(Outcome::Confirmed).unwrap();
    scene.quiet().await;
    tokio::time::advance(PAUSE).await;
    scene.hears("alice offline").await;
    scene.pass(10 * PAUSE).await;
    scene.quiet().await;
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_confirmed_is_published_again() {
    let mut scene = Scene::open();
    scene.sees("alice", 1, Came).await;
    for outcome in [Outcome::Lost, Outcome::Unsent, Outcome::NoReader] {
        let (outbound, said, _) = scene.published().await;
        assert_eq!(said, "alice online");
        outbound.outcome.send(outcome).unwrap();
        scene.pass(PAUSE).await;
    }
    drop(scene.published().await);
    scene.pass(PAUSE).await;
    scene.hears("alice online").await;
    scene.pass(10 * PAUSE).await;
    scene.quiet().await;
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_clients_own_retained_word_is_replaced_by_the_bridges() {
    let mut scene = Scene::open();
    scene.online("alice", 1).await;
    scene.says("alice/self/presence", json!({"state": "online"})).await;
    scene.pass(OVERWRITTEN).await;
    scene.hears("alice online").await;
    scene.pass(PAUSE).await;
    scene.says("alice/self/presence/default", json!({"state": "online"})).await;
    scene.pass(10 * PAUSE).await;
    scene.quiet().await;
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_device_said_is_cleared_when_it_went() {
    let mut scene = Scene::open();
    scene.online("alice:phone", 1).await;
    scene.says("alice/self/presence/phone", json!({"state": "online", "active": false})).await;
    scene.sees("alice:phone", 1, Left).await;
    // In whatever order: the aggregate is on its way to the disk first.
    let mut told = Vec::new();
    for _ in 0..2 {
        let outbound = scene.harness.published().await;
        assert!(outbound.retain);
        let state: Option<Value> = serde_json::from_slice(&outbound.payload).ok();
        told.push((outbound.topic.clone(), state.map(|document| document["state"].clone())));
        outbound.outcome.send(Outcome::Confirmed).unwrap();
    }
    told.sort_by(|(one, _), (other, _)| one.cmp(other));
    let offline = Some(json!("offline"));
    assert_eq!(told, [("alice/self/presence".into(), offline), ("alice/self/presence/phone".into(), None)]);
    scene.quiet().await;
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn only_chat_users_are_told_about() {
    let mut scene = Scene::open();
    scene.sees_a(Role::Bal, "client1", 1, Came).await;
    scene.sees_a(Role::Admin, "root", 2, Came).await;
    scene.sees("g-not-a-name", 3, Came).await;
    scene.says("client1/self/presence", json!({"state": "online"})).await;
    scene.pass(10 * PAUSE).await;
    scene.quiet().await;
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_come_back_after_a_crash_is_offline_since_the_last_sign_of_life() {
    const DAYS: Duration = Duration::from_secs(3 * 24 * 3600);
    let mut scene = Scene::open();
    let before = now_ms();
    scene.online("alice:phone", 1).await;
    scene.online("bob:phone", 2).await;
    scene.pass(DAYS).await;
    scene.quiet().await;
    scene.quiet().await;
    let mut scene = scene.crash().await;
    scene.sees("bob:phone", 3, Came).await;
    scene.hears("bob online").await;
    scene.pass(GRACE - Duration::from_millis(1)).await;
    scene.quiet().await;
    tokio::time::advance(Duration::from_millis(1)).await;
    loop {
        let (said, last_seen) = scene.told().await;
        if said == "alice offline" {
            let days = u64::try_from(DAYS.as_millis()).unwrap();
            assert!((before + days..before + days + 60_000).contains(&last_seen.unwrap()), "{last_seen:?}");
            break;
        }
        assert!(said.starts_with("stranger"), "{said}");
    }
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_put_right_at_the_next_start_and_only_then() {
    let mut scene = Scene::open();
    scene.online("alice", 1).await;
    scene.sees("alice", 1, Left).await;
    let (said, last_seen) = scene.told().await;
    assert_eq!(said, "alice offline");
    let (dir, path) = scene.close().await;
    let mut scene = Scene::of(Harness::open_at(dir, path));
    let again = scene.told().await;
    assert_eq!(again, ("alice offline".to_owned(), last_seen), "the broker may not have had it on disk");
    scene.strangers = 10;
    scene.pass(GRACE).await;
    // He of `online` did not come back.
    scene.hears("stranger1 offline").await;
    scene.sees("alice", 2, Came).await;
    assert_eq!(scene.told().await, ("alice online".to_owned(), last_seen));
    scene.close().await;
}

#[tokio::test]
async fn on_an_external_broker_words_decide_about_holding_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let mut harness = Harness::open_with(dir, path, Settings { broker: BrokerKind::External, ..settings() });
    let away = json!({"state": "offline"});
    assert_eq!(timeout(harness.publish("client1/self/presence", &away).await).await, Ok(AckWord::Done));
    harness.upstream("1", "com.example.chat").await;
    harness.ack().await;
    // Another topic is not held, so it would be second if nothing were.
    harness.message("a1", "T", 60).await;
    assert_eq!(harness.status().await.1, "accepted");
    let back = json!({"state": "online"});
    assert_eq!(timeout(harness.publish("client1/self/presence", &back).await).await, Ok(AckWord::Done));
    assert_eq!(harness.read().await.1["ccs_id"], "1");
    harness.close().await;
}

fn external() -> Harness {
    Harness::open_for(Settings { broker: BrokerKind::External, ..settings() })
}

/// A chat user, by the rules of an external broker.
async fn user_says(harness: &Harness, topic: &str, word: Value) {
    let user = Principal { role: Role::User, ..Principal::anonymous(topic) };
    assert_eq!(timeout(harness.publish_as(user, topic, &word).await).await, Ok(AckWord::Done));
}

/// Lets what was confirmed be dealt with, then moves the clock.
async fn pass(harness: &Harness, time: Duration) {
    user_says(harness, "nobody/self/presence/phone", json!({"state": "offline"})).await;
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn on_an_external_broker_the_births_of_the_devices_make_one_document() {
    let mut scene = Scene::of(external());
    user_says(&scene.harness, "alice/self/presence/phone", json!({"state": "online", "conn": "p1"})).await;
    scene.hears("alice online").await;
    user_says(&scene.harness, "alice/self/presence/laptop", json!({"state": "online", "conn": "l1"})).await;
    user_says(&scene.harness, "alice/self/presence/phone", json!({"state": "offline", "conn": "p1"})).await;
    // A will that the broker has delayed might still follow.
    pass(&scene.harness, LATE_WILL).await;
    scene.clears("alice/self/presence/phone").await;
    user_says(&scene.harness, "alice/self/presence/laptop", json!({"state": "offline", "conn": "l0"})).await;
    user_says(&scene.harness, "alice/self/presence/laptop", json!({"state": "online", "active": false})).await;
    pass(&scene.harness, 10 * GRACE).await;
    user_says(&scene.harness, "bob/self/presence/phone", json!({"state": "online"})).await;
    scene.hears("bob online").await;
    user_says(&scene.harness, "alice/self/presence/laptop", json!({"state": "offline", "conn": "l1"})).await;
    pass(&scene.harness, GRACE).await;
    let (said, last_seen) = scene.told().await;
    assert!(said == "alice offline" && last_seen.is_some(), "{said}");
    pass(&scene.harness, LATE_WILL).await;
    scene.clears("alice/self/presence/laptop").await;
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn on_an_external_broker_the_bridge_knows_its_own_document_and_replaces_those_of_others() {
    let mut scene = Scene::of(external());
    let topic = "alice/self/presence";
    user_says(&scene.harness, topic, json!({"state": "online", "conn": "c1"})).await;
    let (outbound, said, _) = scene.published().await;
    assert_eq!(said, "alice online");
    let own: Value = serde_json::from_slice(&outbound.payload).unwrap();
    user_says(&scene.harness, topic, own.clone()).await;
    outbound.outcome.send(Outcome::Confirmed).unwrap();
    pass(&scene.harness, PAUSE).await;
    scene.hears("alice online").await;
    pass(&scene.harness, 10 * PAUSE).await;
    user_says(&scene.harness, topic, json!({"v": 1, "state": "offline", "ts": 1})).await;
    pass(&scene.harness, OVERWRITTEN).await;
    scene.hears("alice online").await;
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_broker_of_others_has_forgotten_is_told_again_and_who_was_there_has_to_say_so_again() {
    let mut scene = Scene::of(external());
    for user in ["alice", "bob"] {
        let birth = json!({"state": "online", "conn": "c1"});
        user_says(&scene.harness, &format!("{user}/self/presence/phone"), birth).await;
        scene.hears(&format!("{user} online")).await;
    }
    pass(&scene.harness, 10 * PAUSE).await;
    scene.harness.mqtt.broker_link.send_replace(BrokerLink::Down);
    scene.harness.mqtt.sessions.send_modify(|sessions| *sessions += 1);
    scene.harness.mqtt.broker_link.send_replace(BrokerLink::Up);
    user_says(&scene.harness, "alice/self/presence/phone", json!({"state": "online", "conn": "c2"})).await;
    scene.hears("alice online").await;
    pass(&scene.harness, BIRTHS).await;
    let (said, last_seen) = scene.told().await;
    assert!(said == "bob offline" && last_seen.is_some(), "{said}");
    scene.close().await;
}

#[tokio::test(start_paused = true)]
async fn where_presence_is_shown_to_nobody_nothing_is_published() {
    let chat = settings::ChatSettings { presence: settings::PublishedPresence::None, ..Default::default() };
    let mut scene = Scene::of(Harness::open_for(Settings { chat, ..settings() }));
    scene.sees("alice", 1, Came).await;
    scene.says("alice/self/presence/default", json!({"state": "offline"})).await;
    scene.harness.message("a1", "T", 60).await;
    assert_eq!(scene.harness.status().await.1, "accepted", "and nothing before it");
    scene.close().await;
}

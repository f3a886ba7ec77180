//! What connections and documents tell of whether somebody looks at a device.

use super::*;
use crate::chat::message::Limits;
use crate::chat::message::PresenceState::{self, Offline, Online};
use crate::chat::presence::{DEVICES_MAX, LATE_WILL_MS};
use crate::mqtt::Capabilities;
use crate::store::sqlite::{self, WriterThread};
use serde_json::{Value, json};

struct Scene {
    presences: UserPresences,
    _dir: tempfile::TempDir,
    _writer: WriterThread,
}

impl Scene {
    fn of(broker: Capabilities) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer, _) = sqlite::open(&sqlite::Settings::new(dir.path().join("store.db")), 0).unwrap();
        let (context, _) = crate::bridge::tests::context(store, broker);
        let (_, link) = watch::channel(BrokerLink::Up);
        Self { presences: UserPresences::new(Arc::new(context), link), _dir: dir, _writer: writer }
    }

    async fn sees(&mut self, role: Role, connection: u64, change: ClientChange) {
        let (user, client, device) = ("alice".into(), "alice:phone".into(), "phone".into());
        let sighting = Sighting { user, role, client, device, connection, change, resumed: false };
        self.presences.on_sighting(&sighting).await.unwrap();
    }

    /// A device says something; a null takes it back.
    fn says(&mut self, word: &Value) {
        let payload = if word.is_null() { String::new() } else { word.to_string() };
        let presence = Presence::parse(payload.as_bytes(), &Limits::default()).unwrap();
        let (owner, device) = (Owner::new("alice").unwrap(), Device::new("phone").ok());
        self.presences.take(PresencePublish { owner, device, presence, ack: Ack::new().0 });
    }

    fn looked_at(&mut self) -> bool {
        let now = self.presences.clock.now();
        self.presences.context.attentions.attended(&Owner::new("alice").unwrap(), now).any()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_no_sign_and_what_the_device_says_ends_with_it() {
    let mut scene = Scene::of(Capabilities::EMBEDDED);
    scene.says(&json!({"state": "online", "active": true}));
    assert!(!scene.looked_at());
    scene.sees(Role::User, 1, ClientChange::Came).await;
    scene.says(&json!({"state": "online"}));
    assert!(!scene.looked_at(), "nothing was said of that");
    scene.says(&json!({"state": "online", "active": true}));
    assert!(scene.looked_at());
    scene.says(&json!({"state": "online", "active": false}));
    assert!(!scene.looked_at());
    scene.sees(Role::User, 2, ClientChange::Came).await;
    scene.sees(Role::User, 1, ClientChange::Broke).await;
    assert!(scene.looked_at(), "another connection, and the sign counts for ten minutes");
    scene.says(&json!({"state": "offline"}));
    assert!(scene.looked_at(), "the will of the old one");
    tokio::time::advance(Duration::from_millis(LATE_WILL_MS)).await;
    scene.says(&json!({"state": "offline"}));
    assert!(!scene.looked_at());
    scene.says(&json!({"state": "online"}));
    assert!(scene.looked_at());
    scene.sees(Role::User, 2, ClientChange::Left).await;
    assert!(!scene.looked_at());
}

#[tokio::test(start_paused = true)]
async fn nobody_looks_at_a_bal() {
    let mut scene = Scene::of(Capabilities::EMBEDDED);
    scene.sees(Role::Bal, 1, ClientChange::Came).await;
    scene.says(&json!({"state": "online", "active": true}));
    assert!(!scene.looked_at());
}

#[tokio::test(start_paused = true)]
async fn on_a_broker_of_others_births_and_wills_tell_the_same() {
    let mut scene = Scene::of(Capabilities::EXTERNAL);
    scene.says(&json!({"state": "online", "active": true, "conn": "c1"}));
    assert!(scene.looked_at());
    scene.says(&json!({"state": "online", "active": false}));
    assert!(!scene.looked_at());
    scene.says(&json!({"state": "online", "conn": "c2"}));
    scene.says(&json!({"state": "offline", "conn": "c1"}));
    assert!(scene.looked_at(), "the will of another connection");
    scene.says(&json!({"state": "offline", "conn": "c2"}));
    assert!(!scene.looked_at());
    scene.says(&json!({"state": "online", "conn": "c3"}));
    assert!(scene.looked_at());
    scene.says(&Value::Null);
    assert!(!scene.looked_at());
}

const INBOX: &str = "bal1/others/messages";

fn bal_word(state: PresenceState, conn: &str) -> Option<Presence> {
    Some(Presence { conn: (!conn.is_empty()).then(|| conn.to_owned()), ..Presence::bare(state) })
}

fn told_by_bal(words: &[(&str, Option<Presence>)]) -> BalPresences {
    let bal_presences = BalPresences::default();
    for (device, word) in words {
        let (owner, device) = (Owner::new("bal1").unwrap(), Device::new(*device).ok());
        bal_presences.tell((&owner, device.as_ref()), word.as_ref(), false, 0);
    }
    bal_presences
}

#[test]
fn who_never_spoke_is_there_and_one_device_is_enough() {
    assert!(!told_by_bal(&[]).holds(INBOX));
    assert!(told_by_bal(&[("", bal_word(Offline, ""))]).holds(INBOX));
    assert!(!told_by_bal(&[("", bal_word(Offline, "")), ("", None)]).holds(INBOX));
    assert!(!told_by_bal(&[("a", bal_word(Offline, "")), ("b", bal_word(Online, ""))]).holds(INBOX));
    assert!(told_by_bal(&[("", bal_word(Online, "")), ("", bal_word(Offline, ""))]).holds(INBOX), "at once");
}

#[test]
fn a_late_will_of_an_old_connection_is_ignored() {
    assert!(!told_by_bal(&[("", bal_word(Online, "c2")), ("", bal_word(Offline, "c1"))]).holds(INBOX));
    assert!(told_by_bal(&[("", bal_word(Online, "c2")), ("", bal_word(Offline, "c2"))]).holds(INBOX));
    assert!(
        told_by_bal(&[("", bal_word(Online, "c2")), ("", bal_word(Offline, ""))]).holds(INBOX),
        "it names no connection"
    );
    let back = [("", bal_word(Offline, "c1")), ("", bal_word(Online, "c2")), ("", bal_word(Offline, "c1"))];
    assert!(!told_by_bal(&back).holds(INBOX));
}

#[test]
fn of_the_devices_of_a_bal_memory_is_bounded() {
    let bal_presences = BalPresences::default();
    let bal = Owner::new("bal1").unwrap();
    for n in 0..2 * DEVICES_MAX {
        bal_presences.tell((&bal, Device::new(n.to_string()).ok().as_ref()), bal_word(Online, "").as_ref(), false, 0);
        bal_presences.tell((&bal, Device::new(n.to_string()).ok().as_ref()), bal_word(Offline, "").as_ref(), false, 0);
    }
    assert!(bal_presences.holds(INBOX));
    bal_presences.tell((&bal, Device::new("one-more").ok().as_ref()), bal_word(Online, "").as_ref(), false, 0);
    assert!(bal_presences.holds(INBOX), "one too many");
    bal_presences.tell((&bal, Device::new("0").ok().as_ref()), None, false, 0);
    bal_presences.tell((&bal, Device::new("one-more").ok().as_ref()), bal_word(Online, "").as_ref(), false, 0);
    assert!(!bal_presences.holds(INBOX));
}

//! People: their devices, at which somebody looks or not, and what they have set about each other.

use super::harness::START;
use super::steps::Wanted;
use super::{DEVICES, GROUP, Model, NAMES, now};
use crate::chat::attention::CONFIRM_MS;
use crate::chat::id::Sid;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How long a sign of a person counts.
const SIGN_COUNTS_MS: u64 = 600_000;
const HOUR_MS: u64 = 3_600_000;

#[derive(Debug, Clone, Default)]
pub(super) struct Person {
    pub(super) devices: [DeviceState; DEVICES.len()],
    /// Messages that wait for any of the devices that hold them.
    ringing: BTreeSet<Sid>,
    pub(super) contacts: BTreeSet<usize>,
    pub(super) blocked: BTreeSet<usize>,
    muted: BTreeMap<usize, (u64, &'static str)>,
    /// What no device has taken.
    pub(super) inbox: Vec<Document>,
}

/// What waits in an inbox.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) sid: Sid,
    /// The place, which a change of a message has not.
    pub(super) n: Option<u64>,
    /// The message that it is, or changes.
    pub(super) which: usize,
    /// The one whose inbox it is wrote it.
    pub(super) own: bool,
    /// What it says is read from the message of the group when it goes.
    pub(super) is_shared: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct DeviceState {
    connection: Option<u64>,
    inactive: bool,
    sign_at: Option<u64>,
    /// It let something wait for too long.
    mute: bool,
    /// What it was given and has not confirmed, and when.
    held: Vec<(Sid, u64)>,
    /// When it was registered last, and how it wants to be pushed.
    pub(super) registered: Option<(u64, Wanted)>,
    /// The push of its absence, if it wants one and has had it.
    pub(super) told: Option<usize>,
}

impl DeviceState {
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) fn is_attended(&self) -> bool {
        let recent = self.sign_at.is_some_and(|at| now() < at + SIGN_COUNTS_MS);
        self.is_connected() && recent && !self.inactive && !self.mute
    }

    fn handle_sign(&mut self) {
        (self.sign_at, self.mute) = (Some(now()), false);
    }
}

impl Person {
    pub(super) fn attended(&self) -> Vec<usize> {
        (0..DEVICES.len()).filter(|dev| self.devices[*dev].is_attended()).collect()
    }

    pub(super) fn is_attended(&self) -> bool {
        !self.attended().is_empty()
    }

    pub(super) fn connected(&self) -> Vec<usize> {
        (0..DEVICES.len()).filter(|dev| self.devices[*dev].is_connected()).collect()
    }

    /// How much of a conversation is pushed.
    pub(super) fn mute_level(&self, with: usize) -> &'static str {
        self.muted.get(&with).filter(|(until, _)| now() < *until).map_or("all", |(_, level)| level)
    }

    pub(super) fn handle_sign(&mut self, dev: usize) {
        self.devices[dev].handle_sign();
    }

    /// A message is given to whoever looks. What comes back is to be decided again.
    #[must_use]
    pub(super) fn handle_given(&mut self, sid: Sid) -> Option<Sid> {
        let at = now();
        for device in self.devices.iter_mut().filter(|device| device.is_attended()) {
            if device.held.iter().all(|(held, _)| *held != sid) {
                device.held.push((sid, at));
            }
        }
        if !self.is_held(sid) {
            return Some(sid);
        }
        self.ringing.insert(sid);
        None
    }

    fn is_held(&self, sid: Sid) -> bool {
        self.devices.iter().any(|device| device.is_connected() && device.held.iter().any(|(held, _)| *held == sid))
    }

    pub(super) fn handle_taken_back(&mut self, sid: Sid) {
        self.devices.iter_mut().for_each(|device| device.held.retain(|(held, _)| *held != sid));
        self.ringing.remove(&sid);
    }

    /// A device confirms a message: whether somebody looks at it, or did when it was given the message.
    pub(super) fn handle_confirmed(&mut self, dev: Option<usize>, sid: Sid) -> bool {
        let Some(device) = dev.map(|dev| &mut self.devices[dev]).filter(|device| device.is_connected()) else {
            return false;
        };
        device.mute = false;
        let before = device.held.len();
        device.held.retain(|(held, _)| *held != sid);
        let is_attended = device.held.len() < before || device.is_attended();
        if is_attended {
            self.ringing.remove(&sid);
        }
        is_attended
    }

    /// What the device was given up to a message, of any conversation.
    pub(super) fn waited_for(&self, dev: Option<usize>, sid: Sid) -> Vec<Sid> {
        let Some(device) = dev.map(|dev| &self.devices[dev]).filter(|device| device.is_connected()) else {
            return Vec::new();
        };
        device.held.iter().map(|(held, _)| *held).filter(|held| *held <= sid).collect()
    }

    /// A device waits for nothing any more: what no other one holds is to be decided again.
    fn give_up(&mut self, dev: usize) -> BTreeSet<Sid> {
        let left: Vec<_> = self.devices[dev].held.drain(..).map(|(sid, _)| sid).collect();
        left.into_iter().filter(|sid| !self.is_held(*sid) && self.ringing.remove(sid)).collect()
    }

    /// Devices that let something wait for too long.
    pub(super) fn poll(&mut self) -> BTreeSet<Sid> {
        let mut again = BTreeSet::new();
        for dev in 0..DEVICES.len() {
            if self.devices[dev].held.first().is_some_and(|(_, at)| at + CONFIRM_MS <= now()) {
                self.devices[dev].mute = true;
                again.extend(self.give_up(dev));
            }
        }
        again
    }

    /// Nobody is connected, and nothing that was only in memory is known.
    pub(super) fn handle_restart(&mut self) {
        self.ringing.clear();
        for device in &mut self.devices {
            let (registered, told) = (device.registered, device.told);
            *device = DeviceState { registered, told, ..DeviceState::default() };
        }
    }
}

impl Model {
    pub(super) async fn connect(&mut self, user: usize, dev: usize) {
        if self.people[user].devices[dev].is_connected() {
            return;
        }
        let connection = self.chat.comes(NAMES[user], DEVICES[dev]).await;
        let device = &mut self.people[user].devices[dev];
        (device.connection, device.inactive, device.told) = (Some(connection), false, None);
    }

    pub(super) fn disconnect(&mut self, user: usize, dev: usize) {
        let Some(connection) = self.people[user].devices[dev].connection else { return };
        self.chat.goes(NAMES[user], DEVICES[dev], connection);
        self.people[user].devices[dev].connection = None;
        let again = self.people[user].give_up(dev);
        self.again.entry(user).or_default().extend(again);
    }

    /// A sign of a person, unless it says that nobody looks; of a device that is away it counts when that comes.
    pub(super) fn activity(&mut self, user: usize, dev: usize, on: bool) {
        self.chat.is_active(NAMES[user], DEVICES[dev], on);
        let person = &mut self.people[user];
        if on {
            person.handle_sign(dev);
        }
        if !person.devices[dev].is_connected() {
            return;
        }
        person.devices[dev].inactive = !on;
        if !on {
            let again = person.give_up(dev);
            self.again.entry(user).or_default().extend(again);
        }
    }

    pub(super) async fn type_to(&mut self, user: usize, dev: usize, to: usize) {
        let state = json!({ "to": NAMES[to], "state": "composing" });
        assert_eq!(self.chat.says((NAMES[user], Some(DEVICES[dev])), "chatstate", &state).await, None);
        self.people[user].handle_sign(dev);
    }

    pub(super) async fn block(&mut self, user: usize, other: usize, on: bool) {
        if user == other {
            return;
        }
        let op = if on { "block" } else { "unblock" };
        let answer = self.chat.asks(NAMES[user], &json!({ "op": op, "with": NAMES[other] })).await;
        assert_eq!(answer["ok"], true, "{answer}");
        let blocked = &mut self.people[user].blocked;
        if on {
            blocked.insert(other)
        } else {
            blocked.remove(&other)
        };
    }

    pub(super) async fn mute(&mut self, user: usize, with: usize, level: &'static str, seconds: Option<u64>) {
        if user == with {
            return;
        }
        let mut request = json!({ "op": "mute", "with": NAMES[with], "level": level });
        if let Some(seconds) = seconds.filter(|_| level != "all") {
            request["for"] = seconds.into();
        }
        let answer = self.chat.asks(NAMES[user], &request).await;
        assert_eq!(answer["ok"], true, "{answer}");
        let until = seconds.map_or(u64::MAX, |seconds| now() + seconds * 1_000);
        self.people[user].muted.insert(with, (until, level));
    }

    pub(super) async fn register(&mut self, user: usize, dev: usize, wanted: Option<Wanted>) {
        let document = wanted.map_or(Value::Null, |wanted| registration(user, dev, wanted));
        let suffix = format!("devices/{}", DEVICES[dev]);
        let at = (NAMES[user], Some(DEVICES[dev]));
        assert_eq!(self.chat.says(at, &suffix, &document).await, None, "{document}");
        let Some(wanted) = wanted else { return self.unregistered(user, dev) };
        let device = &mut self.people[user].devices[dev];
        (device.registered, device.told) = (Some((now(), wanted)), None);
    }

    pub(super) fn blocks(&self, user: usize, other: usize) -> bool {
        self.people[user].blocked.contains(&other)
    }

    /// Whether a writer hears what became of a message at its reader.
    pub(super) fn may_hear(&self, writer: usize, reader: usize) -> bool {
        let is_contact = self.people[reader].contacts.contains(&writer);
        is_contact && !self.blocks(reader, writer) && !self.blocks(writer, reader)
    }
}

fn registration(user: usize, dev: usize, wanted: Wanted) -> Value {
    let hour = |off: u64| format!("{:02}:00", (START / HOUR_MS + off) % 24);
    let token = format!("{}_{}", NAMES[user], DEVICES[dev]);
    let mut document = json!({ "token": token, "platform": "android", "first": wanted.first, "badge": wanted.badge });
    if wanted.quiet {
        document["quiet"] = json!({ "from": hour(23), "to": hour(20), "tz": "UTC" });
    }
    document
}

/// The other one, or the group, as a user names it in what it writes about a message.
pub(super) fn with(user: usize, from: usize, to: usize) -> usize {
    if to == GROUP || from == user { to } else { from }
}

//! One virtual device: where it is, what waits for it, what it got. Knows no wire protocol, so that every simulated
//! push service can share it.

use super::log::Log;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// The package name that devices have unless told otherwise.
pub const DEFAULT_CATEGORY: &str = "com.example.app";

/// A message on its way to devices; shared by all that get it.
#[derive(Debug, PartialEq)]
pub struct Message {
    /// The sender's id.
    pub id: Arc<str>,
    /// The application's data, a JSON object with string values, as text.
    pub data: Box<str>,
    /// What the device shows by itself, a JSON object as text.
    pub notification: Option<Box<str>>,
    /// What is for Apple's devices only, a JSON object as text.
    pub apns: Option<Box<str>>,
    /// Messages with the same key replace each other while the device is away.
    pub collapse: Option<Box<str>>,
    /// When it is not worth delivering any more, in Unix milliseconds.
    pub expires_at: u64,
    /// When the sender hears that it was accepted, in Unix milliseconds.
    pub answered_at: u64,
    /// Whether the sender asked to hear of the delivery.
    pub receipt: bool,
    /// How the app on the device says that it has the message; `None`: it does not.
    pub confirm: Option<Confirm>,
}

/// What an app publishes when it has got a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirm {
    /// The topic.
    pub topic: Arc<str>,
    /// The id of the message.
    pub id: Arc<str>,
}

impl Message {
    /// What it takes of the memory budget.
    pub(super) fn weight(&self) -> usize {
        /// Counters, pointers, and the places in queues and maps.
        const OVERHEAD: usize = 200;
        let shown = [&self.notification, &self.apns].into_iter().flatten().map(|text| text.len());
        OVERHEAD + self.id.len() + self.data.len() + shown.sum::<usize>()
    }
}

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// Gets everything at once.
    #[default]
    Online,
    /// Gets everything, late.
    Slow,
    /// Gets what is stored when it comes back.
    Offline,
    /// Gone for good; its token is dead.
    Uninstalled,
}

/// What to change about a device. What is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DevicePatch {
    /// Where it is.
    pub state: Option<Presence>,
    /// How late a slow device gets its messages, in milliseconds.
    pub delay_ms: Option<u64>,
    /// Refuse the next messages to it.
    #[serde(alias = "nack")]
    pub refuse: Option<Refuse>,
    /// Answer each message with one of this category; empty: no longer.
    pub echo: Option<String>,
    /// Whether deliveries to it are told to senders who asked.
    pub receipts: Option<bool>,
    /// Its package name.
    pub category: Option<String>,
    /// Its new token; the present one stays as an alias.
    pub canonical: Option<String>,
    /// The topics it is subscribed to, all of them.
    pub topics: Option<BTreeSet<String>>,
}

/// A refusal of the next messages to a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// The push service's word for it.
    pub code: String,
    /// How many messages.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) token: Arc<str>,
    pub(super) presence: Presence,
    pub(super) delay_ms: u64,
    pub(super) refuse: Option<Refuse>,
    pub(super) echo: Option<Arc<str>>,
    pub(super) receipts: bool,
    pub(super) category: Arc<str>,
    pub(super) topics: BTreeSet<String>,
    /// Waits for the device to come back, oldest first.
    pub(super) stored: VecDeque<Arc<Message>>,
    /// On its way to a slow device, with the time of its arrival, soonest first.
    pub(super) on_the_way: VecDeque<(u64, Arc<Message>)>,
    pub(super) log: Log,
    /// Messages that the device was never given: expired, replaced, deleted.
    pub(super) discarded: u64,
    /// Messages that it has sent; numbers their ids.
    pub(super) sent: u64,
}

/// What became of a message that was handed to a device's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// The device has it.
    Now,
    /// It arrives at this time.
    At(u64),
    /// It is stored, or has gone where messages for devices that are away go.
    Kept,
    /// It is stored, and everything else that was is deleted.
    Emptied,
}

/// How much is stored for a device that is away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage {
    pub(super) messages: usize,
    pub(super) collapse_keys: usize,
}

impl Device {
    pub(super) fn new(token: Arc<str>) -> Self {
        Self {
            token,
            presence: Presence::Online,
            delay_ms: 1_000,
            refuse: None,
            echo: None,
            receipts: true,
            category: DEFAULT_CATEGORY.into(),
            topics: BTreeSet::new(),
            stored: VecDeque::new(),
            on_the_way: VecDeque::new(),
            log: Log::default(),
            discarded: 0,
            sent: 0,
        }
    }

    /// The refusal for the next message, if there is one left.
    pub(super) fn take_refusal(&mut self) -> Option<String> {
        let refuse = self.refuse.as_mut()?;
        let code = refuse.code.clone();
        refuse.times = refuse.times.saturating_sub(1);
        if refuse.times == 0 {
            self.refuse = None;
        }
        Some(code)
    }

    /// Takes a message for the device, wherever it is.
    pub(super) fn hand(&mut self, message: &Arc<Message>, now: u64, storage: Storage) -> Handed {
        match self.presence {
            Presence::Online if self.on_the_way.is_empty() => Handed::Now,
            // What is still on its way to a device that was slow before stays in front.
            Presence::Online => self.send_off(message.clone(), now),
            Presence::Slow => self.send_off(message.clone(), now.saturating_add(self.delay_ms)),
            Presence::Offline => self.store(message.clone(), now, storage),
            Presence::Uninstalled => {
                self.discarded += 1;
                Handed::Kept
            }
        }
    }

    fn send_off(&mut self, message: Arc<Message>, due: u64) -> Handed {
        let due = self.on_the_way.back().map_or(due, |(last, _)| due.max(*last));
        self.on_the_way.push_back((due, message));
        Handed::At(due)
    }

    fn store(&mut self, message: Arc<Message>, now: u64, storage: Storage) -> Handed {
        self.expire(now);
        if message.expires_at <= now {
            self.discarded += 1;
            return Handed::Kept;
        }
        let mut handed = Handed::Kept;
        if message.collapse.is_some() {
            self.make_room_for_key(&message, storage.collapse_keys);
        } else if self.stored.iter().filter(|stored| stored.collapse.is_none()).count() >= storage.messages {
            // As documented: the service keeps none, and the app is told that messages were deleted.
            self.discarded += self.stored.len() as u64;
            self.stored.clear();
            handed = Handed::Emptied;
        }
        self.stored.push_back(message);
        handed
    }

    /// Drops what `message` replaces, or else the oldest key if there are too many.
    fn make_room_for_key(&mut self, message: &Message, keys: usize) {
        if let Some(at) = self.stored.iter().position(|stored| stored.collapse == message.collapse) {
            self.stored.remove(at);
            self.discarded += 1;
        } else if self.stored.iter().filter(|stored| stored.collapse.is_some()).count() >= keys
            && let Some(at) = self.stored.iter().position(|stored| stored.collapse.is_some())
        {
            self.stored.remove(at);
            self.discarded += 1;
        }
    }

    /// Drops what is stored and not worth delivering any more.
    pub(super) fn expire(&mut self, now: u64) {
        let before = self.stored.len();
        self.stored.retain(|message| message.expires_at > now);
        self.discarded += (before - self.stored.len()) as u64;
    }

    /// The id of the next message that the device sends.
    pub(super) fn next_id(&mut self) -> String {
        self.sent += 1;
        self.sent.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORAGE: Storage = Storage { messages: 3, collapse_keys: 2 };

    fn message(id: &str, collapse: Option<&str>, expires_at: u64) -> Arc<Message> {
        Arc::new(Message {
            id: id.into(),
            data: "{}".into(),
            notification: None,
            apns: None,
            collapse: collapse.map(Into::into),
            expires_at,
            answered_at: 0,
            receipt: false,
            confirm: None,
        })
    }

    fn offline() -> Device {
        Device { presence: Presence::Offline, ..Device::new("d".into()) }
    }

    fn stored(device: &Device) -> Vec<&str> {
        device.stored.iter().map(|message| &*message.id).collect()
    }

    #[test]
    fn what_expires_while_the_device_is_away_is_dropped() {
        let mut device = offline();
        device.hand(&message("now-or-never", None, 10), 10, STORAGE);
        device.hand(&message("short", None, 20), 10, STORAGE);
        device.hand(&message("long", None, 90), 10, STORAGE);
        assert_eq!(stored(&device), ["short", "long"]);
        device.expire(20);
        assert_eq!(stored(&device), ["long"]);
        assert_eq!(device.discarded, 2);
    }

    #[test]
    fn one_message_too_many_deletes_all_stored_ones() {
        let mut device = offline();
        let handed = ["1", "2", "3", "4"].map(|id| device.hand(&message(id, None, 99), 0, STORAGE));
        assert_eq!(handed, [Handed::Kept, Handed::Kept, Handed::Kept, Handed::Emptied]);
        assert_eq!(stored(&device), ["4"]);
        assert_eq!(device.discarded, 3);
    }

    #[test]
    fn a_collapse_key_keeps_only_its_newest_message() {
        let mut device = offline();
        for (id, key) in [("1", "a"), ("2", "b"), ("3", "a"), ("4", "c")] {
            device.hand(&message(id, Some(key), 99), 0, STORAGE);
        }
        assert_eq!(stored(&device), ["3", "4"], "a's newer message stays, b was the oldest of three keys");
    }

    #[test]
    fn a_slow_device_never_overtakes_itself() {
        let mut device = Device { presence: Presence::Slow, delay_ms: 50, ..Device::new("d".into()) };
        assert_eq!(device.hand(&message("1", None, 99), 0, STORAGE), Handed::At(50));
        device.delay_ms = 5;
        assert_eq!(device.hand(&message("2", None, 99), 1, STORAGE), Handed::At(50));
        device.presence = Presence::Online;
        assert_eq!(device.hand(&message("3", None, 99), 2, STORAGE), Handed::At(50));
    }

    #[test]
    fn a_refusal_is_used_up() {
        let mut device = Device::new("d".into());
        device.refuse = Some(Refuse { code: "NO".into(), times: 2 });
        let taken = [device.take_refusal(), device.take_refusal(), device.take_refusal()];
        assert_eq!(taken, [Some("NO".to_owned()), Some("NO".to_owned()), None]);
    }
}

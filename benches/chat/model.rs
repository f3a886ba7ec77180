//! What was written, what everybody got of it, and what is wrong with that.

use crate::phones::{Arrived, Matter};
use crate::setup;
use crate::users::{self, Device, Users};
use crate::wire;
use fcm_mqtt_bridge::chat::push_budget::SYNC_PAUSE_MS;
use fcm_mqtt_bridge::ops::clock::now_ms;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// Faults of one kind of which it is told which message it was.
const EXAMPLES: usize = 3;

/// What a device can hear of a message.
#[derive(Clone, Copy)]
enum Heard {
    /// The writer's devices: the copy that says that it was taken.
    Stamped,
    Sent,
    Delivered,
    /// The reader's devices.
    Copy,
}

struct Written {
    writer: usize,
    reader: usize,
    at: Instant,
    at_ms: u64,
    sid: Option<Box<str>>,
    /// How often, by what it is and the device. What came again and says so is left out.
    heard: [[u8; Device::ALL.len()]; 4],
    pushes: usize,
}

/// The fields of a document of the bridge that say what it is about.
#[derive(Deserialize)]
struct Document<'a> {
    id: Option<&'a str>,
    sid: Option<&'a str>,
    status: Option<&'a str>,
    #[serde(default)]
    redelivered: bool,
    #[serde(default)]
    up_to: bool,
}

/// How much of what is wrong was found, and which messages for example.
#[derive(Default)]
pub(crate) struct Faults(pub(crate) BTreeMap<&'static str, (usize, Vec<String>)>);

impl Faults {
    pub(crate) fn add(&mut self, kind: &'static str, which: impl FnOnce() -> String) {
        let (count, examples) = self.0.entry(kind).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(which());
        }
    }
}

pub(crate) struct Model {
    written: Vec<Written>,
    by_sid: HashMap<Box<str>, usize>,
    /// What each user was written, oldest first.
    inboxes: Vec<Vec<usize>>,
    pub(crate) faults: Faults,
    /// From the PUBLISH to the reader's sockets, each of them.
    pub(crate) latencies: Vec<Duration>,
    /// What came a second time and was marked as such.
    pub(crate) marked: usize,
    /// Words of what was read: whoever writes to somebody has read what that one wrote.
    pub(crate) read: usize,
    /// Messages for which a `sync` is to come that is not due yet.
    pub(crate) behind_sync: usize,
    /// Documents from before, which nobody read then, and which were not dropped yet.
    pub(crate) late: usize,
    /// Changes of the presence of contacts.
    pub(crate) presences: usize,
}

impl Model {
    pub(crate) fn new(users: Users) -> Self {
        Self {
            written: Vec::new(),
            by_sid: HashMap::new(),
            inboxes: vec![Vec::new(); users.count],
            faults: Faults::default(),
            latencies: Vec::new(),
            marked: 0,
            read: 0,
            behind_sync: 0,
            late: 0,
            presences: 0,
        }
    }

    /// A message is about to be written: its id.
    pub(crate) fn write(&mut self, writer: usize, reader: usize) -> String {
        let n = self.written.len();
        let (at, at_ms) = (Instant::now(), now_ms());
        self.written.push(Written { writer, reader, at, at_ms, sid: None, heard: [[0; 2]; 4], pushes: 0 });
        self.inboxes[reader].push(n);
        format!("m{n}")
    }

    pub(crate) fn len(&self) -> usize {
        self.written.len()
    }

    /// How many of them are for users who are not connected.
    pub(crate) fn to_offline(&self) -> usize {
        self.written.iter().filter(|message| !users::is_connected(message.reader)).count()
    }

    /// A device of a user got this.
    pub(crate) fn hear(&mut self, user: usize, device: Device, message: &wire::Message<'_>) {
        let topic = String::from_utf8_lossy(message.topic);
        let told = || format!("{topic} {}", String::from_utf8_lossy(message.payload));
        let (owner, suffix) = topic.split_once('/').unwrap_or_default();
        if suffix == "self/presence" {
            self.presences += 1;
            return;
        }
        if owner != users::name(user) {
            return self.faults.add("of somebody else's inbox", told);
        }
        let Ok(document) = serde_json::from_slice::<Document<'_>>(message.payload) else {
            return self.faults.add("unreadable", told);
        };
        if suffix == "others/read" || document.status == Some("read") {
            self.read += 1;
            return;
        }
        if suffix == "others/devices" || document.id.is_some_and(setup::is_greeting) {
            self.late += 1;
            return;
        }
        let n =
            document.id.and_then(|id| id.strip_prefix('m')?.parse::<usize>().ok()).filter(|n| *n < self.written.len());
        let heard = n.and_then(|n| Some((n, self.written[n].heard_as(user, suffix, document.status)?)));
        let Some((n, heard)) = heard else {
            return self.faults.add("error or other document", told);
        };
        if document.up_to {
            self.heard_before(n, heard, device);
        }
        self.heard(n, heard, device, &document, message.is_marked);
    }

    fn heard(&mut self, n: usize, heard: Heard, device: Device, document: &Document<'_>, is_marked: bool) {
        let written = &mut self.written[n];
        if let (Heard::Stamped, Some(sid), None) = (heard, document.sid, &written.sid) {
            written.sid = Some(sid.into());
            self.by_sid.insert(sid.into(), n);
        }
        let count = &mut written.heard[heard as usize][device as usize];
        if *count > 0 && (is_marked || document.redelivered) {
            self.marked += 1;
            return;
        }
        *count += 1;
        if let Heard::Copy = heard {
            self.latencies.push(written.at.elapsed());
        }
    }

    /// It is said of all messages of the conversation up to the one with this number: what was not said before is said now.
    fn heard_before(&mut self, n: usize, heard: Heard, device: Device) {
        let Written { writer, reader, .. } = self.written[n];
        for before in self.inboxes[reader].iter().filter(|before| **before < n) {
            let written = &mut self.written[*before];
            let count = &mut written.heard[heard as usize][device as usize];
            if written.writer == writer && *count == 0 {
                *count = 1;
            }
        }
    }

    /// The last so many messages to a user of which the writer knows that they were taken.
    pub(crate) fn taken_for(&self, user: usize, most: usize) -> Vec<Box<str>> {
        let inbox = self.inboxes[user].iter().rev();
        inbox.filter_map(|n| self.written[*n].sid.clone()).take(most).collect()
    }

    /// Whether everything has come by MQTT that has to.
    pub(crate) fn is_complete(&self) -> bool {
        self.written.iter().all(|message| message.wanted().all(|(heard, _)| message.heard[heard as usize] == [1; 2]))
    }

    /// Looks for what is wrong, now that nothing comes any more. `pushes` is what the phones got.
    pub(crate) fn check(&mut self, pushes: &[Arrived]) {
        let mut syncs: HashMap<usize, u64> = HashMap::new();
        let (mut copies, now) = (HashSet::new(), now_ms());
        for push in pushes {
            let told = || format!("{} {}", users::name(push.user), push.data);
            match &push.matter {
                _ if !copies.insert((push.user, &push.id)) => self.faults.add("pushed twice under one id", told),
                _ if users::is_connected(push.user) => self.faults.add("pushed although attended", told),
                Matter::Sync => {
                    let last = syncs.entry(push.user).or_default();
                    *last = push.at_ms.max(*last);
                }
                Matter::Message(sid) => match self.by_sid.get(sid.as_str()).map(|n| &mut self.written[*n]) {
                    Some(message) if message.reader == push.user => message.pushes += 1,
                    _ => self.faults.add("pushed what is not for the user", told),
                },
                Matter::Other => self.faults.add("pushed something else", told),
            }
        }
        for (n, message) in self.written.iter().enumerate() {
            // Another `sync` is due that long after the last one, for all that came since.
            let sync_at = syncs.get(&message.reader).copied();
            let (synced, due) = (sync_at.is_some_and(|at| at >= message.at_ms), sync_at.map(|at| at + SYNC_PAUSE_MS));
            let is_behind = message.pushes == 0 && !synced && due.is_some_and(|due| due > now);
            self.behind_sync += usize::from(is_behind);
            message.check(&mut self.faults, || message.which(n), synced || is_behind);
        }
    }

    /// From the PUBLISH to the phone, in milliseconds of the system's clock.
    pub(crate) fn push_latencies(&self, pushes: &[Arrived]) -> Vec<Duration> {
        let at_ms = |sid: &str| self.by_sid.get(sid).map(|n| self.written[*n].at_ms);
        let latency = |push: &Arrived| match &push.matter {
            Matter::Message(sid) => at_ms(sid).map(|at_ms| Duration::from_millis(push.at_ms.saturating_sub(at_ms))),
            Matter::Sync | Matter::Other => None,
        };
        pushes.iter().filter_map(latency).collect()
    }
}

impl Written {
    /// What a document about it is to a user.
    fn heard_as(&self, user: usize, suffix: &str, status: Option<&str>) -> Option<Heard> {
        match (suffix, status) {
            ("others/messages", None) if self.writer == user => Some(Heard::Stamped),
            ("others/messages", None) if self.reader == user => Some(Heard::Copy),
            ("others/receipts", Some("sent")) if self.writer == user => Some(Heard::Sent),
            ("others/receipts", Some("delivered")) if self.writer == user => Some(Heard::Delivered),
            _ => None,
        }
    }

    /// What has to come once to each device of whom it is for.
    fn wanted(&self) -> impl Iterator<Item = (Heard, &'static str)> + use<> {
        let always = [(Heard::Stamped, "lost: stamped copy"), (Heard::Sent, "lost: sent")];
        let connected = [(Heard::Copy, "lost: reader's copy"), (Heard::Delivered, "lost: delivered")];
        let is_connected = users::is_connected(self.reader);
        always.into_iter().chain(connected.into_iter().filter(move |_| is_connected))
    }

    /// `synced`: the reader's phone was told that there is something, later than this was written, or is to be.
    fn check(&self, faults: &mut Faults, which: impl Fn() -> String, synced: bool) {
        for (heard, lost) in self.wanted() {
            for _ in self.heard[heard as usize].iter().filter(|count| **count == 0) {
                faults.add(lost, &which);
            }
        }
        for _ in self.heard.iter().flatten().filter(|count| **count > 1) {
            faults.add("twice without a mark", &which);
        }
        match self.pushes {
            0 if users::is_connected(self.reader) || synced => {}
            0 => faults.add("lost: push", which),
            1 => {}
            _ => faults.add("pushed twice", which),
        }
    }

    fn which(&self, n: usize) -> String {
        let sid = self.sid.as_deref().unwrap_or("no sid");
        let (writer, reader) = (users::name(self.writer), users::name(self.reader));
        format!("m{n} {sid} of {writer} to {reader}, written at {}, heard {:?}", self.at_ms, self.heard)
    }
}

//! What was written, what everybody got of it, and what is wrong with that.

use crate::groups::Groups;
use crate::history;
use crate::pages::Pages;
use crate::phones::{Arrived, Matter};
use crate::setup;
use crate::users::{self, Device, Users};
use crate::wire;
use crate::written::{Conversation, Heard, Written};
use fcm_mqtt_bridge::chat::push_budget::SYNC_PAUSE_MS;
use fcm_mqtt_bridge::ops::clock::now_ms;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Faults of one kind of which it is told which message it was.
const EXAMPLES: usize = 3;

/// The fields of a document of the bridge that say what it is about.
#[derive(Deserialize)]
struct Document<'a> {
    id: Option<&'a str>,
    sid: Option<&'a str>,
    status: Option<&'a str>,
    by: Option<&'a str>,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
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
    users: Users,
    groups: Arc<Groups>,
    written: Vec<Written>,
    by_sid: HashMap<Box<str>, usize>,
    /// What each user was written, oldest first.
    inboxes: Vec<Vec<usize>>,
    pub(crate) faults: Faults,
    /// What was asked of what is kept.
    pub(crate) pages: Option<Pages>,
    /// Of which message, and from its PUBLISH to a reader's socket, each of them.
    latencies: Vec<(usize, Duration)>,
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
    pub(crate) fn new(users: Users, groups: Arc<Groups>, pages: Option<Pages>) -> Self {
        Self {
            users,
            groups,
            written: Vec::new(),
            by_sid: HashMap::new(),
            inboxes: vec![Vec::new(); users.count],
            faults: Faults::default(),
            pages,
            latencies: Vec::new(),
            marked: 0,
            read: 0,
            behind_sync: 0,
            late: 0,
            presences: 0,
        }
    }

    /// A message is about to be written: its id.
    pub(crate) fn write(&mut self, writer: usize, to: Conversation) -> String {
        let n = self.written.len();
        let written = Written::new(writer, to, self.users, &self.groups);
        written.readers.iter().for_each(|reader| self.inboxes[reader.user].push(n));
        self.written.push(written);
        format!("m{n}")
    }

    pub(crate) fn len(&self) -> usize {
        self.written.len()
    }

    /// How many pushes are due, for those who are not connected.
    pub(crate) fn to_offline(&self) -> usize {
        self.written.iter().map(Written::to_offline).sum()
    }

    /// How many messages were written to groups.
    pub(crate) fn to_groups(&self) -> usize {
        self.written.iter().filter(|written| matches!(written.to, Conversation::Group(_))).count()
    }

    /// How much has come.
    pub(crate) fn progress(&self) -> usize {
        self.latencies.len()
    }

    /// From the PUBLISH to the reader's sockets, of these messages, to groups or between two.
    pub(crate) fn latencies(&self, written: Range<usize>, of_groups: bool) -> Vec<Duration> {
        let is_asked =
            |n: usize| written.contains(&n) && matches!(self.written[n].to, Conversation::Group(_)) == of_groups;
        self.latencies.iter().filter(|(n, _)| is_asked(*n)).map(|(_, latency)| *latency).collect()
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
        if let (Some(pages), "others/replies/web") = (&mut self.pages, suffix) {
            return pages.hear(user, message.payload, &mut self.faults);
        }
        let Ok(document) = serde_json::from_slice::<Document<'_>>(message.payload) else {
            return self.faults.add("unreadable", told);
        };
        if suffix == "others/read" || document.status == Some("read") {
            self.read += 1;
            return;
        }
        let is_old = suffix == "others/devices" || document.kind == Some("notice");
        if is_old || document.id.is_some_and(|id| setup::is_greeting(id) || history::is_of_it(id)) {
            self.late += 1;
            return;
        }
        let n =
            document.id.and_then(|id| id.strip_prefix('m')?.parse::<usize>().ok()).filter(|n| *n < self.written.len());
        let by = document.by.and_then(users::number);
        let heard = n.and_then(|n| Some((n, self.written[n].heard_as(user, suffix, document.status, by)?)));
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
        let count = &mut written.counts(heard)[device as usize];
        if *count > 0 && (is_marked || document.redelivered) {
            self.marked += 1;
            return;
        }
        *count = count.saturating_add(1);
        if let Heard::Copy(_) = heard {
            self.latencies.push((n, written.at.elapsed()));
        }
    }

    /// A reader has everything of the conversation up to the one with this number: what was not said before is said now.
    fn heard_before(&mut self, n: usize, heard: Heard, device: Device) {
        let Heard::Delivered(place) = heard else { return };
        let Written { writer, to, .. } = self.written[n];
        let reader = self.written[n].readers[place].user;
        for before in self.inboxes[reader].iter().filter(|before| **before < n) {
            let written = &mut self.written[*before];
            if (written.writer, written.to) != (writer, to) {
                continue;
            }
            let Some(place) = written.place(reader) else { continue };
            let count = &mut written.counts(Heard::Delivered(place))[device as usize];
            *count = 1.max(*count);
        }
    }

    /// The last so many messages to a user of which the writer knows that they were taken.
    pub(crate) fn taken_for(&self, user: usize, most: usize) -> Vec<Box<str>> {
        let inbox = self.inboxes[user].iter().rev();
        inbox.filter_map(|n| self.written[*n].sid.clone()).take(most).collect()
    }

    /// Whether everything has come by MQTT that has to.
    pub(crate) fn is_complete(&self) -> bool {
        self.written.iter().all(Written::is_complete) && self.pages.as_ref().is_none_or(Pages::is_complete)
    }

    /// Looks for what is wrong, now that nothing comes any more. `pushes` is what the phones got.
    pub(crate) fn check(&mut self, pushes: &[Arrived]) {
        let mut syncs: HashMap<usize, u64> = HashMap::new();
        let mut copies = HashSet::new();
        for push in pushes {
            let told = || format!("{} {}", users::name(push.user), push.data);
            match &push.matter {
                _ if !copies.insert((push.user, &push.id)) => self.faults.add("pushed twice under one id", told),
                _ if users::is_connected(push.user) => self.faults.add("pushed although attended", told),
                Matter::Sync => {
                    let last = syncs.entry(push.user).or_default();
                    *last = push.at_ms.max(*last);
                }
                Matter::Message { sid, with, by } => match self.pushed(push.user, sid, with, by) {
                    Some(count) => *count = count.saturating_add(1),
                    None => self.faults.add("pushed what is not for the user, or as of another one", told),
                },
                Matter::Other => self.faults.add("pushed something else", told),
            }
        }
        self.check_written(&syncs);
        if let Some(pages) = &self.pages {
            pages.check(&mut self.faults);
        }
    }

    /// How often a phone was pushed for a message, if it is the one that the push tells of.
    fn pushed(&mut self, user: usize, sid: &str, with: &str, by: &str) -> Option<&mut u8> {
        let written = &mut self.written[*self.by_sid.get(sid)?];
        let (writer, place) = (users::name(written.writer), written.place(user)?);
        let is_right = match written.to {
            Conversation::With(_) => with == writer && by.is_empty(),
            Conversation::Group(n) => with == self.groups.all[n].id && by == writer,
        };
        is_right.then_some(&mut written.readers[place].pushes)
    }

    fn check_written(&mut self, syncs: &HashMap<usize, u64>) {
        let now = now_ms();
        for (n, message) in self.written.iter().enumerate() {
            // Another `sync` is due that long after the last one, for all that came since.
            let is_synced = |user: &usize| syncs.get(user).is_some_and(|at| *at >= message.at_ms);
            let is_due = |user: &usize| syncs.get(user).is_some_and(|at| at + SYNC_PAUSE_MS > now);
            let behind = message
                .readers
                .iter()
                .filter(|reader| reader.pushes == 0 && !is_synced(&reader.user) && is_due(&reader.user));
            self.behind_sync += behind.count();
            let synced = |reader: &crate::written::Reader| is_synced(&reader.user) || is_due(&reader.user);
            message.check(&mut self.faults, || message.which(n, &self.groups), synced);
        }
    }

    /// From the PUBLISH to the phone, in milliseconds of the system's clock.
    pub(crate) fn push_latencies(&self, pushes: &[Arrived]) -> Vec<Duration> {
        let at_ms = |sid: &str| self.by_sid.get(sid).map(|n| self.written[*n].at_ms);
        let latency = |push: &Arrived| match &push.matter {
            Matter::Message { sid, .. } => {
                at_ms(sid).map(|at_ms| Duration::from_millis(push.at_ms.saturating_sub(at_ms)))
            }
            Matter::Sync | Matter::Other => None,
        };
        pushes.iter().filter_map(latency).collect()
    }
}

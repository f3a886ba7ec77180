//! One message, and what each of those whom it is for got of it.

use crate::groups::Groups;
use crate::model::Faults;
use crate::users::{self, Device, Users};
use fcm_mqtt_bridge::chat::group::RECEIPTS_MAX;
use fcm_mqtt_bridge::ops::clock::now_ms;
use tokio::time::Instant;

/// How often each device of a user heard something. What came again and says so is left out.
pub(crate) type Counts = [u8; Device::ALL.len()];

/// Where it was written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conversation {
    With(usize),
    Group(usize),
}

/// Whom it is for.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) user: usize,
    pub(crate) copies: Counts,
    /// The writer's devices were told that this one has it.
    pub(crate) delivered: Counts,
    /// Whether they have to be.
    tells: bool,
    pub(crate) pushes: u8,
}

pub(crate) struct Written {
    pub(crate) writer: usize,
    pub(crate) to: Conversation,
    pub(crate) at: Instant,
    pub(crate) at_ms: u64,
    pub(crate) sid: Option<Box<str>>,
    /// The writer's devices: the copy that says that it was taken.
    stamped: Counts,
    sent: Counts,
    /// By their numbers.
    pub(crate) readers: Vec<Reader>,
}

/// What a document says of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Stamped,
    Sent,
    /// By this reader.
    Delivered(usize),
    /// To this reader.
    Copy(usize),
}

impl Written {
    pub(crate) fn new(writer: usize, to: Conversation, users: Users, groups: &Groups) -> Self {
        let reader = |user, tells| Reader { user, copies: [0; 2], delivered: [0; 2], tells, pushes: 0 };
        let readers = match to {
            Conversation::With(user) => vec![reader(user, true)],
            Conversation::Group(n) => {
                let members = &groups.all[n].members;
                let is_small = members.len() as u64 <= RECEIPTS_MAX;
                let tells = |user| is_small && (users.are_contacts(user, writer) || groups.greeted(user, writer));
                let others = members.iter().copied().filter(|user| *user != writer);
                others.map(|user| reader(user, tells(user))).collect()
            }
        };
        let (at, at_ms) = (Instant::now(), now_ms());
        Self { writer, to, at, at_ms, sid: None, stamped: [0; 2], sent: [0; 2], readers }
    }

    /// What a document about it is to a user. `by` is who has it, in a group.
    pub(crate) fn heard_as(&self, user: usize, suffix: &str, status: Option<&str>, by: Option<usize>) -> Option<Heard> {
        match (suffix, status) {
            ("others/messages", None) if self.writer == user => Some(Heard::Stamped),
            ("others/messages", None) => self.place(user).map(Heard::Copy),
            ("others/receipts", Some("sent")) if self.writer == user => Some(Heard::Sent),
            ("others/receipts", Some("delivered")) if self.writer == user => match (self.to, by) {
                (Conversation::With(_), None) => Some(Heard::Delivered(0)),
                (Conversation::Group(_), Some(by)) => {
                    self.place(by).filter(|place| self.readers[*place].tells).map(Heard::Delivered)
                }
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn counts(&mut self, heard: Heard) -> &mut Counts {
        match heard {
            Heard::Stamped => &mut self.stamped,
            Heard::Sent => &mut self.sent,
            Heard::Delivered(place) => &mut self.readers[place].delivered,
            Heard::Copy(place) => &mut self.readers[place].copies,
        }
    }

    pub(crate) fn place(&self, user: usize) -> Option<usize> {
        self.readers.binary_search_by_key(&user, |reader| reader.user).ok()
    }

    /// How many of its readers sleep.
    pub(crate) fn to_offline(&self) -> usize {
        self.readers.iter().filter(|reader| !users::is_connected(reader.user)).count()
    }

    /// Whether everything has come by MQTT that has to.
    pub(crate) fn is_complete(&self) -> bool {
        self.wanted().all(|(counts, _)| counts == [1; 2])
    }

    /// What has to come once to each device of whom it is for.
    fn wanted(&self) -> impl Iterator<Item = (Counts, &'static str)> {
        let connected = self.readers.iter().filter(|reader| users::is_connected(reader.user));
        let of_reader = connected.flat_map(|reader| {
            let told = reader.tells.then_some((reader.delivered, "lost: delivered"));
            std::iter::once((reader.copies, "lost: reader's copy")).chain(told)
        });
        [(self.stamped, "lost: stamped copy"), (self.sent, "lost: sent")].into_iter().chain(of_reader)
    }

    /// `synced`: the phone of a reader was told that there is something, later than this was written, or is to be.
    pub(crate) fn check(&self, faults: &mut Faults, which: impl Fn() -> String, synced: impl Fn(&Reader) -> bool) {
        for (counts, lost) in self.wanted() {
            for _ in counts.iter().filter(|count| **count == 0) {
                faults.add(lost, &which);
            }
        }
        let of_readers = self.readers.iter().flat_map(|reader| [reader.copies, reader.delivered]);
        for _ in [self.stamped, self.sent].into_iter().chain(of_readers).flatten().filter(|count| *count > 1) {
            faults.add("twice without a mark", &which);
        }
        for reader in &self.readers {
            match reader.pushes {
                0 if users::is_connected(reader.user) || synced(reader) => {}
                0 => faults.add("lost: push", || format!("{} for {}", which(), users::name(reader.user))),
                1 => {}
                _ => faults.add("pushed twice", || format!("{} for {}", which(), users::name(reader.user))),
            }
        }
    }

    pub(crate) fn which(&self, n: usize, groups: &Groups) -> String {
        let sid = self.sid.as_deref().unwrap_or("no sid");
        let to = self.to.name(groups);
        let copies = self.readers.iter().filter(|reader| reader.copies.iter().any(|count| *count > 0)).count();
        format!(
            "m{n} {sid} of {} to {to}, written at {}, stamped {:?}, sent {:?}, {copies} of {} readers have it",
            users::name(self.writer),
            self.at_ms,
            self.stamped,
            self.sent,
            self.readers.len()
        )
    }
}

impl Conversation {
    /// The user or the group, as documents name it.
    pub(crate) fn name(self, groups: &Groups) -> String {
        match self {
            Self::With(user) => users::name(user),
            Self::Group(n) => groups.all[n].id.clone(),
        }
    }
}

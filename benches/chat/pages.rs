//! What clients ask of what is kept: pages of a history, the list of conversations, and what they missed.

use crate::history::{History, LONG};
use crate::model::Faults;
use crate::users::{self, Users};
use fcm_mqtt_bridge::chat::id::Sid;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

const HISTORY: usize = 50;
/// That of an answer to `sync`.
const SYNC: usize = 100;

/// An answer of so many bytes may be a smaller page: one more item may be too much.
const FULL: usize = 48_000;

/// What is asked, in turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Newest,
    Before,
    Twenty,
    Hundred,
    Sync,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Newest, Self::Before, Self::Twenty, Self::Hundred, Self::Sync];

    fn name(self) -> &'static str {
        match self {
            Self::Newest => "history: the newest 50",
            Self::Before => "history: 50 of the midst",
            Self::Twenty => "conversations: 20",
            Self::Hundred => "conversations: 100",
            Self::Sync => "sync: 100 items",
        }
    }
}

/// What has to be in the reply.
enum Expected {
    /// Exactly these.
    Items(Vec<String>),
    /// So many of this conversation: at its end what is newer than these, and before that the last ones of them.
    Newest(usize, Vec<String>),
    /// So many conversations with contacts.
    Conversations(usize),
}

struct Asked {
    user: usize,
    kind: Kind,
    at: Instant,
    expected: Expected,
}

pub(crate) struct Pages {
    users: Users,
    history: History,
    random: Xoshiro256PlusPlus,
    asked: HashMap<String, Asked>,
    count: usize,
    times: BTreeMap<Kind, Vec<Duration>>,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "ref")]
    id: String,
    ok: bool,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    sid: Option<String>,
    with: Option<String>,
}

impl Pages {
    pub(crate) fn new(users: Users, history: History) -> Self {
        let random = Xoshiro256PlusPlus::seed_from_u64(3);
        Self { users, history, random, asked: HashMap::new(), count: 0, times: BTreeMap::new() }
    }

    /// What the user asks next.
    pub(crate) fn ask(&mut self, user: usize) -> Value {
        let kind = Kind::ALL[self.count % Kind::ALL.len()];
        let id = format!("p{}", self.count);
        self.count += 1;
        let contact = self.users.contact(user, self.random.random_range(0..LONG));
        let with = users::name(contact);
        let of_two = &self.history.of_two[&(user, contact)];
        let texts = |sids: &[Sid]| sids.iter().map(Sid::to_string).collect::<Vec<_>>();
        let (mut request, expected) = match kind {
            Kind::Newest => {
                let count = HISTORY.min(of_two.len());
                (json!({ "op": "history", "with": with, "limit": HISTORY }), Expected::Newest(count, texts(of_two)))
            }
            Kind::Before => {
                let n = self.random.random_range(1..of_two.len());
                let request =
                    json!({ "op": "history", "with": with, "limit": HISTORY, "before": of_two[n].to_string() });
                (request, Expected::Items(texts(&of_two[n.saturating_sub(HISTORY)..n])))
            }
            Kind::Twenty | Kind::Hundred => {
                let limit = if kind == Kind::Twenty { 20 } else { 100 };
                let count = limit.min(self.users.contacts);
                (json!({ "op": "conversations", "limit": limit }), Expected::Conversations(count))
            }
            Kind::Sync => {
                let all = &self.history.of_user[&user];
                let n = self.random.random_range(0..all.len().saturating_sub(SYNC + 1).max(1));
                let items = all.iter().skip(n + 1).take(SYNC).map(Sid::to_string).collect();
                (json!({ "op": "sync", "since": all[n].to_string() }), Expected::Items(items))
            }
        };
        request["id"] = json!(id);
        self.asked.insert(id, Asked { user, kind, at: Instant::now(), expected });
        request
    }

    pub(crate) fn hear(&mut self, user: usize, payload: &[u8], faults: &mut Faults) {
        let told = || format!("{} {}", users::name(user), String::from_utf8_lossy(payload));
        let Ok(reply) = serde_json::from_slice::<Reply>(payload) else {
            return faults.add("a reply that cannot be read", told);
        };
        let Some(asked) = self.asked.remove(&reply.id).filter(|asked| asked.user == user) else {
            return faults.add("a reply that nobody waits for", told);
        };
        self.times.entry(asked.kind).or_default().push(asked.at.elapsed());
        if !(reply.ok && self.is_right(user, &asked.expected, (&reply.items, payload.len()))) {
            faults.add("a page with other items", told);
        }
    }

    fn is_right(&self, user: usize, expected: &Expected, (items, bytes): (&[Item], usize)) -> bool {
        let sids: Vec<&str> = items.iter().filter_map(|item| item.sid.as_deref()).collect();
        match expected {
            Expected::Items(expected) => sids == *expected,
            Expected::Newest(count, filled) => {
                let (last, mut old) = (filled.last(), sids.clone());
                old.retain(|sid| Some(*sid) <= last.map(String::as_str));
                sids.len() == *count && sids.is_sorted() && filled[filled.len() - old.len().min(filled.len())..] == old
            }
            Expected::Conversations(count) => {
                let with: HashSet<usize> =
                    items.iter().filter_map(|item| users::number(item.with.as_deref()?)).collect();
                (with.len() == *count || with.len() < *count && bytes > FULL)
                    && items.len() == with.len()
                    && with.iter().all(|one| self.users.are_contacts(user, *one))
            }
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.asked.is_empty()
    }

    pub(crate) fn check(&self, faults: &mut Faults) {
        for asked in self.asked.values() {
            faults.add("lost: a reply", || format!("{} of {}", asked.kind.name(), users::name(asked.user)));
        }
    }

    /// By what was asked, from the PUBLISH to the reply.
    pub(crate) fn times(&self) -> impl Iterator<Item = (&'static str, Vec<Duration>)> {
        self.times.iter().map(|(kind, times)| (kind.name(), times.clone()))
    }
}

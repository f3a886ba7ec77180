//! Who is away, by his own word: `{bal}/self/presence`.
//!
//! With an external broker this decides whether messages are published or held (topics.md, "A BAL that is away"). The
//! embedded broker knows better who reads what, and does not ask.

use crate::chat::id::Owner;
use crate::chat::message::{Presence, PresenceState};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Most devices of one owner whose words are kept; further ones count as silent.
const DEVICES_MAX: usize = 1_000;
/// Most owners whose words are kept; of further ones the broker queues.
const OWNERS_MAX: usize = 100_000;

/// The last words of all owners, shared by the one who hears and the one who publishes.
#[derive(Debug, Clone)]
pub(crate) struct BalPresences {
    /// Owner to the last word on each of its presence topics. Held for one look-up.
    words: Arc<Mutex<HashMap<String, HashMap<String, Presence>>>>,
    changed: watch::Sender<u64>,
}

impl BalPresences {
    pub(crate) fn new() -> Self {
        Self { words: Arc::default(), changed: watch::channel(0).0 }
    }

    /// The owner (or one of its devices, by topic) said how it is; `None` when the word was taken back.
    pub(crate) fn tell(&self, owner: Owner, topic: String, presence: Option<Presence>) {
        let mut owners = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.len() >= OWNERS_MAX && !owners.contains_key(owner.as_str()) {
            return;
        }
        let words = owners.entry(owner.to_string()).or_default();
        match presence {
            Some(word) if words.get(&topic).is_some_and(|last| is_late_will(&word, last)) => return,
            Some(_) if words.len() >= DEVICES_MAX && !words.contains_key(&topic) => return,
            Some(word) => words.insert(topic, word),
            None => words.remove(&topic),
        };
        if words.is_empty() {
            owners.remove(owner.as_str());
        }
        drop(owners);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Whether the owner of `topic` said that it is away: it spoke, and no device of it is online.
    pub(crate) fn away(&self, topic: &str) -> bool {
        let owner = topic.split('/').next().unwrap_or_default();
        let owners = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(words) = owners.get(owner) else { return false };
        !words.values().any(|word| word.state == PresenceState::Online)
    }

    /// Changes whenever somebody said something.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// A will of a connection that another one has replaced since.
fn is_late_will(word: &Presence, last: &Presence) -> bool {
    let replaced = matches!((&word.conn, &last.conn), (Some(old), Some(new)) if old != new);
    word.state == PresenceState::Offline && last.state == PresenceState::Online && replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use PresenceState::{Offline, Online};

    const TOPIC: &str = "bal1/self/presence";
    const INBOX: &str = "bal1/others/messages";

    fn word(state: PresenceState, conn: &str) -> Option<Presence> {
        Some(Presence { state, ts: None, conn: (!conn.is_empty()).then(|| conn.to_owned()) })
    }

    fn told(words: &[(&str, Option<Presence>)]) -> BalPresences {
        let bal_presences = BalPresences::new();
        for (topic, word) in words {
            bal_presences.tell(Owner::new("bal1").unwrap(), (*topic).to_owned(), word.clone());
        }
        bal_presences
    }

    #[test]
    fn who_never_spoke_is_there_and_one_device_is_enough() {
        assert!(!told(&[]).away(INBOX));
        assert!(told(&[(TOPIC, word(Offline, ""))]).away(INBOX));
        assert!(!told(&[(TOPIC, word(Offline, "")), (TOPIC, None)]).away(INBOX));
        assert!(
            !told(&[("bal1/self/presence/a", word(Offline, "")), ("bal1/self/presence/b", word(Online, ""))])
                .away(INBOX)
        );
    }

    #[test]
    fn a_late_will_of_an_old_connection_is_ignored() {
        assert!(!told(&[(TOPIC, word(Online, "c2")), (TOPIC, word(Offline, "c1"))]).away(INBOX));
        assert!(told(&[(TOPIC, word(Online, "c2")), (TOPIC, word(Offline, "c2"))]).away(INBOX));
        assert!(told(&[(TOPIC, word(Online, "c2")), (TOPIC, word(Offline, ""))]).away(INBOX), "it names no connection");
    }

    #[test]
    fn memory_is_bounded() {
        let bal_presences = BalPresences::new();
        for n in 0..2 * DEVICES_MAX {
            bal_presences.tell(Owner::new("bal1").unwrap(), format!("{TOPIC}/{n}"), word(Offline, ""));
        }
        assert_eq!(bal_presences.words.lock().unwrap()["bal1"].len(), DEVICES_MAX);
    }
}

//! Which BALs say that they are away: `{bal}/self/presence`.
//!
//! With an external broker this decides whether messages are published or held (topics.md, "When a BAL is away"). The
//! embedded broker knows better who reads what: with it nobody counts as away.

use crate::chat::id::Owner;
use crate::chat::message::{Presence, PresenceState};
use std::collections::HashMap;
use tokio::sync::watch;

/// Most devices of one owner whose presence is kept; further ones count as silent.
const DEVICES_MAX: usize = 1_000;
/// Most owners whose presence is kept; of further ones the broker queues.
const OWNERS_MAX: usize = 100_000;

/// Owner to what was last said on each of its presence topics.
type Owners = HashMap<String, HashMap<String, Presence>>;

/// What all owners last said, shared by the task that takes it in and the one that publishes.
#[derive(Debug, Default)]
pub(crate) struct BalPresences(watch::Sender<Owners>);

impl BalPresences {
    /// The owner (or one of its devices, by topic) said how it is; `None` when that was taken back.
    pub(crate) fn tell(&self, owner: &Owner, topic: &str, presence: Option<Presence>) {
        self.0.send_if_modified(|owners| {
            if owners.len() >= OWNERS_MAX && !owners.contains_key(owner.as_str()) {
                return false;
            }
            let topics = owners.entry(owner.to_string()).or_default();
            match presence {
                Some(said) if topics.get(topic).is_some_and(|last| is_late_will(&said, last)) => return false,
                Some(_) if topics.len() >= DEVICES_MAX && !topics.contains_key(topic) => return false,
                Some(said) => topics.insert(topic.to_owned(), said),
                None => topics.remove(topic),
            };
            if topics.is_empty() {
                owners.remove(owner.as_str());
            }
            true
        });
    }

    /// Whether the owner of `topic` said that it is away: it said something, and no device of it is online.
    pub(crate) fn away(&self, topic: &str) -> bool {
        let owner = topic.split('/').next().unwrap_or_default();
        let owners = self.0.borrow();
        owners.get(owner).is_some_and(|topics| !topics.values().any(|said| said.state == PresenceState::Online))
    }

    /// Changes whenever an owner said something new.
    pub(crate) fn changed(&self) -> watch::Receiver<Owners> {
        self.0.subscribe()
    }
}

/// A will of a connection that another one has replaced since.
fn is_late_will(said: &Presence, last: &Presence) -> bool {
    let replaced = matches!((&said.conn, &last.conn), (Some(old), Some(new)) if old != new);
    said.state == PresenceState::Offline && last.state == PresenceState::Online && replaced
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
        let bal_presences = BalPresences::default();
        for (topic, word) in words {
            bal_presences.tell(&Owner::new("bal1").unwrap(), topic, word.clone());
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
        let bal_presences = BalPresences::default();
        for n in 0..2 * DEVICES_MAX {
            bal_presences.tell(&Owner::new("bal1").unwrap(), &format!("{TOPIC}/{n}"), word(Offline, ""));
        }
        assert_eq!(bal_presences.0.borrow()["bal1"].len(), DEVICES_MAX);
    }
}

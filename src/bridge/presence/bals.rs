//! Which BALs say that they are away: `{bal}/self/presence`.
//!
//! With an external broker this decides whether messages are published or held (topics.md, "When a BAL is away"). The
//! embedded broker knows better who reads what: with it nobody counts as away.

use crate::chat::id::Owner;
use crate::chat::message::Presence;
use crate::chat::presence::{Aggregate, Evidence};
use crate::chat::topic::Device;
use std::collections::HashMap;
use tokio::sync::watch;

/// Most BALs whose presence is kept; of further ones the broker queues.
const OWNERS_MAX: usize = 100_000;
/// What a BAL says counts at once and is never forgotten, so that no time matters.
const NO_GRACE_MS: u64 = 0;
const NO_TIME: u64 = 0;

/// What all BALs last said, shared by the task that takes it in and the one that publishes.
#[derive(Debug, Default)]
pub(crate) struct BalPresences(watch::Sender<HashMap<String, Aggregate>>);

impl BalPresences {
    /// The owner (or one of its devices) said how it is; `None` when that was taken back.
    pub(crate) fn tell(&self, owner: &Owner, device: Option<&Device>, presence: Option<&Presence>) {
        self.0.send_if_modified(|owners| {
            if owners.len() >= OWNERS_MAX && !owners.contains_key(owner.as_str()) {
                return false;
            }
            let new = || Aggregate::new(Evidence::Births, NO_GRACE_MS);
            let aggregate = owners.entry(owner.to_string()).or_insert_with(new);
            aggregate.handle_said(device, presence, NO_TIME);
            if aggregate.is_idle() {
                owners.remove(owner.as_str());
            }
            true
        });
    }

    /// Whether the owner of `topic` said that it is away: it said something, and no device of it is online.
    pub(crate) fn away(&self, topic: &str) -> bool {
        let owner = topic.split('/').next().unwrap_or_default();
        self.0.borrow().get(owner).is_some_and(Aggregate::is_away)
    }

    /// Changes whenever an owner said something.
    pub(crate) fn changed(&self) -> watch::Receiver<HashMap<String, Aggregate>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::message::PresenceState::{self, Offline, Online};

    const INBOX: &str = "bal1/others/messages";

    fn word(state: PresenceState, conn: &str) -> Option<Presence> {
        Some(Presence { conn: (!conn.is_empty()).then(|| conn.to_owned()), ..Presence::bare(state) })
    }

    fn told(words: &[(&str, Option<Presence>)]) -> BalPresences {
        let bal_presences = BalPresences::default();
        for (device, word) in words {
            bal_presences.tell(&Owner::new("bal1").unwrap(), Device::new(*device).ok().as_ref(), word.as_ref());
        }
        bal_presences
    }

    #[test]
    fn who_never_spoke_is_there_and_one_device_is_enough() {
        assert!(!told(&[]).away(INBOX));
        assert!(told(&[("", word(Offline, ""))]).away(INBOX));
        assert!(!told(&[("", word(Offline, "")), ("", None)]).away(INBOX));
        assert!(!told(&[("a", word(Offline, "")), ("b", word(Online, ""))]).away(INBOX));
        assert!(told(&[("", word(Online, "")), ("", word(Offline, ""))]).away(INBOX), "at once");
    }

    #[test]
    fn a_late_will_of_an_old_connection_is_ignored() {
        assert!(!told(&[("", word(Online, "c2")), ("", word(Offline, "c1"))]).away(INBOX));
        assert!(told(&[("", word(Online, "c2")), ("", word(Offline, "c2"))]).away(INBOX));
        assert!(told(&[("", word(Online, "c2")), ("", word(Offline, ""))]).away(INBOX), "it names no connection");
        let back = [("", word(Offline, "c1")), ("", word(Online, "c2")), ("", word(Offline, "c1"))];
        assert!(!told(&back).away(INBOX));
    }

    #[test]
    fn memory_is_bounded() {
        let bal_presences = BalPresences::default();
        let bal = Owner::new("bal1").unwrap();
        for n in 0..2 * crate::chat::presence::DEVICES_MAX {
            bal_presences.tell(&bal, Device::new(n.to_string()).ok().as_ref(), word(Online, "").as_ref());
            bal_presences.tell(&bal, Device::new(n.to_string()).ok().as_ref(), word(Offline, "").as_ref());
        }
        assert!(bal_presences.away(INBOX));
        bal_presences.tell(&bal, Device::new("one-more").ok().as_ref(), word(Online, "").as_ref());
        assert!(bal_presences.away(INBOX), "one too many");
        bal_presences.tell(&bal, Device::new("0").ok().as_ref(), None);
        bal_presences.tell(&bal, Device::new("one-more").ok().as_ref(), word(Online, "").as_ref());
        assert!(!bal_presences.away(INBOX));
    }
}

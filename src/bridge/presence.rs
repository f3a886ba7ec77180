//! Who is away, by his own word: `{bal}/self/presence`.
//!
//! With an external broker this decides whether messages are published or held (topics.md, "A BAL that is away"). The
//! embedded broker knows better who reads what, and does not ask.

use crate::chat::id::Owner;
use crate::chat::message::{Presence, PresenceState};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Most owners whose absence is remembered; of further ones the broker queues.
const AWAY_MAX: usize = 100_000;

/// The absent owners, shared by the one who hears and the one who publishes.
#[derive(Debug, Clone)]
pub(crate) struct Presences {
    /// Owner to the presence topics that say offline. Held for one look-up.
    away: Arc<Mutex<HashMap<String, HashMap<String, PresenceState>>>>,
    changed: watch::Sender<u64>,
}

impl Presences {
    pub(crate) fn new() -> Self {
        Self { away: Arc::default(), changed: watch::channel(0).0 }
    }

    /// The owner (or one of its devices, by topic) said how it is; `None` when the word was taken back.
    pub(crate) fn tell(&self, owner: Owner, topic: String, presence: Option<Presence>) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if away.len() >= AWAY_MAX && !away.contains_key(owner.as_str()) {
            return;
        }
        let words = away.entry(owner.to_string()).or_default();
        match presence {
            Some(presence) => words.insert(topic, presence.state),
            None => words.remove(&topic),
        };
        if words.is_empty() {
            away.remove(owner.as_str());
        }
        drop(away);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Whether the owner of `topic` said that it is away: it spoke, and no device of it is online.
    pub(crate) fn away(&self, topic: &str) -> bool {
        let owner = topic.split('/').next().unwrap_or_default();
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(words) = away.get(owner) else { return false };
        !words.values().any(|state| *state == PresenceState::Online)
    }

    /// Changes whenever somebody said something.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

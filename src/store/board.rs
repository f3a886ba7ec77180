//! Figures, health and wake-ups: what the handles see without asking the writer.

use super::error::StoreHealth;
use super::figures::StoreFigures;
use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// What the writer shows to the handles.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// Under a mutex like the topics below; held for a copy only.
    figures: Mutex<StoreFigures>,
    /// A set shared under a mutex, because a topic that gets a thousand documents is to be looked at once: a channel
    /// would have to be unbounded or make the writer wait for the reader. Held for an insert or a take only.
    fresh_topics: Mutex<BTreeSet<String>>,
    pub(super) fresh: Notify,
    pub(super) health: watch::Sender<StoreHealth>,
    pub(super) due: watch::Sender<u64>,
}

impl Board {
    pub(super) fn figures(&self) -> StoreFigures {
        *lock(&self.figures)
    }

    pub(super) fn show(&self, figures: StoreFigures) {
        *lock(&self.figures) = figures;
    }

    pub(super) fn take_fresh_topics(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.fresh_topics))
    }

    /// What a commit brought: documents on these topics, and whether a message became due.
    pub(super) fn announce(&self, topics: HashSet<String>, due: bool) {
        if !topics.is_empty() {
            lock(&self.fresh_topics).extend(topics);
            self.fresh.notify_one();
        }
        if due {
            self.due.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// Shows how the disk is. True if it is news: another reason of the same trouble is none.
    pub(super) fn turned(&self, now: StoreHealth) -> bool {
        self.health.send_if_modified(|health| {
            let news = (*health == StoreHealth::Ok) != (now == StoreHealth::Ok);
            *health = now;
            news
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

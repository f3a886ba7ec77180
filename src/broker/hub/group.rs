//! Groups that share a subscription: each message goes to one member (MQTT 5, 4.8.2).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::queue::SharedQueue;
use super::session::Options;
use crate::chat::qos::QoS;

/// Those who subscribed to one filter under one name.
#[derive(Debug)]
pub(crate) struct Group {
    /// `{name}/{filter}`.
    pub(super) name: Arc<str>,
    /// What waits for any of them.
    pub(crate) queue: Arc<SharedQueue>,
    /// By the numbers of their sessions.
    members: Mutex<HashMap<u64, Options>>,
    /// The store was asked to keep the queue, and may have it.
    kept: AtomicBool,
}

impl Group {
    pub(super) fn new(name: Arc<str>, queue: Arc<SharedQueue>) -> Arc<Self> {
        Arc::new(Self { name, queue, members: Mutex::default(), kept: AtomicBool::default() })
    }

    pub(super) fn filter(&self) -> &str {
        Self::filter_in(&self.name)
    }

    /// The filter in the name of a group.
    pub(super) fn filter_in(name: &str) -> &str {
        name.split_once('/').map_or("", |(_, filter)| filter)
    }

    pub(super) fn join(&self, session: u64, options: Options) {
        self.lock().insert(session, options);
    }

    pub(super) fn part(&self, session: u64) {
        self.lock().remove(&session);
    }

    /// The store may have the queue from now on.
    pub(super) fn set_kept(&self) {
        self.kept.store(true, Relaxed);
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What the group asks of a message; a member lowers it to what it asked for itself.
    pub(super) fn options(&self) -> Options {
        let qos = self.lock().values().map(|options| options.qos).max().unwrap_or(QoS::AtMostOnce);
        Options { qos, no_local: false, retain_as_published: true, id: None }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Options>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Wills: what is published when a connection breaks, at once or some time later (MQTT 5, 3.1.2.5).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::Hub;
use super::admit::DISK;
use super::publish::{NewPublish, Publisher, Publishing};
use super::session::{Session, SessionWill};
use crate::broker::refusals::Refusal;
use crate::broker::wire::MessageProperties;
use crate::ops::clock::now_ms;
use crate::store::Will;

/// The wait while there is no will; adding one ends it.
const NO_WILL: Duration = Duration::from_secs(3_600);

/// Wills that wait.
#[derive(Debug, Default)]
pub(super) struct DelayedWills {
    /// By the time at which they are due, and the session. A lock because connections come and go in their own tasks.
    due: Mutex<BTreeMap<(Instant, u64), Arc<Session>>>,
    changed: Notify,
}

impl DelayedWills {
    pub(super) fn add(&self, wait: Duration, session: &Arc<Session>) {
        let due = Instant::now() + wait;
        session.lock().will_due = Some(due);
        self.lock().insert((due, session.queue.number()), Arc::clone(session));
        self.changed.notify_one();
    }

    /// The session is back, or ended: its will does not wait any more.
    pub(super) fn cancel(&self, session: &Session) {
        let due = session.lock().will_due.take();
        if let Some(due) = due {
            self.lock().remove(&(due, session.queue.number()));
        }
    }

    /// The session whose will is due, or when the next one is.
    fn take_due(&self, now: Instant) -> Result<Arc<Session>, Option<Instant>> {
        let mut due = self.lock();
        match due.first_entry() {
            None => Err(None),
            Some(first) if first.key().0 > now => Err(Some(first.key().0)),
            Some(first) => Ok(first.remove()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), Arc<Session>>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    pub(super) async fn publish_delayed_wills(self: &Arc<Self>) {
        loop {
            let now = Instant::now();
            match self.delayed_wills.take_due(now) {
                Ok(session) => {
                    let hub = Arc::clone(self);
                    // Many may be due at once, and none of them waits for the disk to have the one before.
                    self.start(async move { hub.publish_due_will(&session).await }).await;
                }
                Err(next) => _ = timeout_at(next.unwrap_or(now + NO_WILL), self.delayed_wills.changed.notified()).await,
            }
        }
    }

    async fn publish_due_will(self: &Arc<Self>, session: &Arc<Session>) {
        // The claim keeps its client from connecting meanwhile, with another will.
        let _claim = self.registry.claim(&session.key).await;
        let will = {
            let mut state = session.lock();
            // The client came back before this had the claim: its will is another one.
            if state.handle.is_none() { state.will.take() } else { None }
        };
        if let Some(will) = will {
            self.publish_will(session, will).await;
        }
    }

    pub(super) async fn publish_will_of(self: &Arc<Self>, session: &Arc<Session>) {
        let will = session.lock().will.take();
        if let Some(will) = will {
            self.publish_will(session, will).await;
        }
    }

    /// Publishes a will, with the rights that its client has by now.
    async fn publish_will(self: &Arc<Self>, session: &Arc<Session>, will: Box<SessionWill>) {
        let SessionWill { will, due_at, again } = *will;
        let caller = session.lock().caller.clone();
        let rights = match &caller {
            Some(caller) => self.authenticator.rights_now(caller),
            // It had no log-in, or is of a release that did not keep how it logged in.
            None => self.authenticator.rights_of(session.user.as_deref(), None),
        };
        let Will { mut message, .. } = will;
        if !rights.may_publish(&message.topic) {
            self.report_of(session, Refusal::WillTopic, &message.topic);
            return self.forget_will(session, due_at).await;
        }
        message.expires_at = message.expires_at.map(|interval| now_ms() + interval);
        let properties = message.properties.clone();
        let found = MessageProperties::of_will(&properties);
        let device = session.device();
        let by = Publisher { session: Some(session), rights: &rights, device: device.as_ref(), follows: true };
        let publish = NewPublish {
            message,
            dup: again,
            again: false,
            exactly_once: None,
            response_topic: found.response_topic.map(str::to_owned),
            correlation: found.correlation.map(Bytes::copy_from_slice),
            will: session.stored_will(due_at),
        };
        match self.publish(by, publish) {
            Publishing::Waits(waits) => {
                // Stored before a take-over; if the disk refuses or the bridge is behind, it has at least its place before
                // what follows.
                let published = async {
                    if let Ok(promise) = waits.await {
                        let _ = timeout(DISK, promise.stored()).await;
                    }
                };
                self.go_on(published).await;
            }
            Publishing::Promised(_) => {}
            Publishing::Refused(refusal) => {
                self.report_of(session, refusal, "its will");
                self.forget_will(session, due_at).await;
            }
        }
    }

    /// The store has the will no longer.
    async fn forget_will(&self, session: &Session, due_at: Option<u64>) {
        if let Some(will) = session.stored_will(due_at) {
            // If that does not come to the disk, the will is published once more after the next start.
            let _ = timeout(DISK, self.store.drop_will(will)).await;
        }
    }
}

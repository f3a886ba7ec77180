//! Wills: what is published when a connection breaks, at once or some time later (MQTT 5, 3.1.2.5).

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::Hub;
use super::admit::DISK;
use super::publish::{NewPublish, Publisher, Publishing};
use super::session::Session;
use crate::broker::identity::Caller;
use crate::broker::refusals::{Refusal, Who};
use crate::chat::access::Rights;
use crate::ops::clock::now_ms;
use crate::store::Message;

/// What a client wants published when its connection breaks.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    /// The message. Its expiry begins when it is published.
    pub(crate) message: Message,
    /// Its expiry, in seconds.
    pub(crate) expiry_s: Option<u32>,
    /// How long it waits for the client to come back, in seconds.
    pub(crate) delay_s: u32,
    /// As in a publish.
    pub(crate) response_topic: Option<String>,
    /// As in a publish.
    pub(crate) correlation: Option<Bytes>,
    /// Which of its user's devices left it.
    pub(crate) device: Option<Arc<str>>,
    /// For the line, should it be refused; it was refused before if the client never had the right.
    pub(crate) who: Option<Who>,
}

/// Wills that wait.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    /// By the time at which they are due, and the session. A lock because connections come and go in their own tasks.
    due: Mutex<BTreeMap<(Instant, u64), Arc<Session>>>,
    changed: Notify,
}

impl Delayed {
    pub(super) fn add(&self, wait: Duration, session: &Arc<Session>) {
        self.lock().insert((Instant::now() + wait, session.queue.number()), Arc::clone(session));
        self.changed.notify_one();
    }

    /// The session is back, or ended: none of its wills waits any more.
    pub(super) fn cancel(&self, session: &Session) {
        self.lock().retain(|(_, number), _| *number != session.queue.number());
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
    /// Publishes delayed wills when they are due.
    pub(super) async fn publish_delayed_wills(self: Arc<Self>) {
        loop {
            let next = match self.delayed.take_due(Instant::now()) {
                Ok(session) => {
                    // Who is back has another one.
                    let will = {
                        let mut state = session.lock();
                        if state.link.is_none() { state.will.take() } else { None }
                    };
                    if let Some(will) = will {
                        self.publish_will(&session, will).await;
                    }
                    continue;
                }
                Err(next) => next,
            };
            let due = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.delayed.changed.notified() => {}
            }
        }
    }

    /// Publishes a will, with the rights that its client has by now.
    pub(super) async fn publish_will(self: &Arc<Self>, session: &Arc<Session>, will: Box<Will>) {
        let caller = session.lock().caller.clone();
        let Some(rights) = self.rights_for_will(session, caller.as_ref(), &will) else {
            self.forget_will(session).await;
            return;
        };
        let is_kept = will.delay_s > 0;
        let Will { mut message, expiry_s, response_topic, correlation, device, .. } = *will;
        message.expires_at = expiry_s.map(|seconds| now_ms() + u64::from(seconds) * 1_000);
        let will_of = session.queue.stored().filter(|_| is_kept);
        let by = Publisher { session: Some(session), rights: &rights, device: device.as_ref(), follows: true };
        let (dup, again, exactly_once) = (false, false, None);
        let publish = NewPublish { message, dup, again, exactly_once, response_topic, correlation, will_of };
        match self.publish(by, publish) {
            Publishing::Waits(waits) => {
                // On disk before anybody takes the session over, unless the disk refuses: then it is at least asked for
                // before all that follows. The bridge's word is nobody's concern.
                if let Ok(promise) = waits.await {
                    let _ = timeout(DISK, promise.stored()).await;
                }
            }
            Publishing::Promised(_) => {}
            Publishing::Refused(refusal) => {
                self.tell_of(session, refusal, "its will");
                self.forget_will(session).await;
            }
        }
    }

    /// The store has a delayed will no longer.
    pub(super) async fn forget_will(&self, session: &Session) {
        if let Some(queue) = session.queue.stored() {
            // If that does not come to the disk, the will is published once more after the next start.
            let _ = self.store.drop_will(queue).await;
        }
    }

    fn rights_for_will(&self, session: &Session, caller: Option<&Caller>, will: &Will) -> Option<Rights> {
        let rights = match caller {
            Some(caller) => self.authenticator.rights_now(caller),
            // Left before the last start.
            None => self.authenticator.rights_of(session.user.as_deref()),
        };
        if rights.may_publish(&will.message.topic) {
            return Some(rights);
        }
        if let Some(who) = &will.who
            && caller.is_none_or(|caller| caller.rights().may_publish(&will.message.topic))
        {
            self.refusals.tell(Refusal::WillTopic, who, &will.message.topic);
        }
        None
    }
}

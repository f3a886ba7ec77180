//! Retained messages: which there are, how many one may have, and who is sent them (MQTT 5, 3.3.1.3).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::Hub;
use super::publish::Counted;
use super::session::Session;
use crate::broker::refusals::Refusal;
use crate::broker::routing::retained::{RetainedEntry, RetainedLimits, Usage};
use crate::broker::session::OutgoingMessage;
use crate::broker::wire::Options;
use crate::chat::qos::QoS;
use crate::store::{Enqueue, Message, QueueId, Retain, StoreError, Target};

/// Topics that are read at one time.
const PAGE: usize = 64;

impl Hub {
    /// What becomes of the retained message of a topic. The index knows it at once, the store with the message; one that
    /// comes `again` the index has had.
    ///
    /// # Errors
    ///
    /// If there is no room for it.
    pub(super) fn retain(&self, message: &Message, user: Option<&str>, again: bool) -> Result<Option<Retain>, Refusal> {
        if !message.retain {
            return Ok(None);
        }
        if again {
            let keep = || Retain::Keep(user.map(str::to_owned));
            return Ok(Some(if message.payload.is_empty() { Retain::Clear } else { keep() }));
        }
        let mut retained = self.lock_retained();
        if message.payload.is_empty() {
            // Also where there is none any more: the acknowledgement says that it is off the disk, whoever cleared it.
            let was_there = retained.clear(&message.topic).is_some();
            return Ok((was_there || message.qos > QoS::AtMostOnce).then_some(Retain::Clear));
        }
        let entry =
            RetainedEntry { bytes: message.bytes(), user: user.map(Into::into), expires_at: message.expires_at };
        if !retained.fits(&message.topic, &entry, &self.retained_limits()) {
            return Err(Refusal::Retained);
        }
        retained.keep(Arc::clone(&message.topic), entry);
        Ok(Some(Retain::Keep(user.map(str::to_owned))))
    }

    /// Whether anything may be retained for a filter.
    pub(super) fn has_retained(&self, filter: &str) -> bool {
        let found = self.lock_retained().matching(filter, None, 1);
        !found.topics.is_empty() || found.after.is_some()
    }

    fn retained_limits(&self) -> RetainedLimits {
        let limits = &self.limits;
        let total = Usage { messages: limits.retained_messages as u64, bytes: u64::MAX };
        let per_user = Usage { messages: limits.retained_messages_per_user, bytes: limits.retained_bytes_per_user };
        RetainedLimits { total, per_user }
    }

    /// Sends a new subscriber what is retained for its filter, page by page as it reads.
    pub(super) async fn send_retained(
        &self,
        session: &Session,
        filter: &str,
        options: Options,
    ) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.lock_retained().matching(filter, after.as_deref(), PAGE);
            if !page.topics.is_empty() {
                let topics = page.topics.iter().map(ToString::to_string).collect();
                for message in self.store.read_retained(topics).await?.await? {
                    self.send_one_retained(session, message, options).await?;
                }
            }
            match page.after {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    async fn send_one_retained(&self, session: &Session, message: Message, options: Options) -> Result<(), StoreError> {
        let qos = message.qos.min(options.qos);
        let stored = session.queue.stored().filter(|_| qos > QoS::AtMostOnce);
        let ids = options.id.into_iter().collect();
        let target = Target { queue: stored.unwrap_or(QueueId(0)), qos, retain: true, ids };
        let message = Arc::new(message);
        if stored.is_none() {
            poll_fn(|cx| if session.queue.has_room(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
            session.queue.push_retained(OutgoingMessage::memory(message, target), self.last_notified());
        } else if self.has_room_on_disk(&session.queue, &message) {
            // A lasting session has it until it is acknowledged, however often its connection breaks. The queue is
            // notified of what is committed; this does not wait for it.
            let counted = Counted { queues: vec![Arc::clone(&session.queue)], bytes: message.bytes() };
            let (targets, incoming, retain, will_of) = (vec![target], None, None, None);
            let _committed = self.store.enqueue(Enqueue { message, targets, incoming, retain, will_of }).await?;
            counted.keep();
        }
        Ok(())
    }
}

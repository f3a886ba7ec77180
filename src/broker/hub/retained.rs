//! Retained messages: which there are, how many one may have, and who is sent them (MQTT 5, 3.3.1.3).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::task::yield_now;

use super::Hub;
use super::publish::Counted;
use super::session::Session;
use crate::broker::refusals::Refusal;
use crate::broker::routing::retained::{RetainedEntry, RetainedLimits, SCAN_MAX, Usage};
use crate::broker::session::OutgoingMessage;
use crate::broker::wire::Options;
use crate::chat::qos::QoS;
use crate::ops::metrics::Metric;
use crate::store::{Message, QueueId, Retain, RowCount, StoreError, Target};

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

    fn retained_limits(&self) -> RetainedLimits {
        let limits = &self.limits;
        let total = Usage { messages: limits.retained_messages as u64, bytes: u64::MAX };
        let per_user = Usage { messages: limits.retained_messages_per_user, bytes: limits.retained_bytes_per_user };
        RetainedLimits { total, per_user }
    }

    /// Sends a new subscriber what is retained for its filter and it may read, page by page as it reads. `looked` counts, for
    /// all filters of a SUBSCRIBE, the topics that were looked at since others had their turn.
    pub(super) async fn send_retained(
        &self,
        session: &Session,
        filter: &str,
        options: Options,
        looked: &mut usize,
    ) -> Result<(), StoreError> {
        for filter in session.queue.readable_filters(filter) {
            let mut after = None;
            loop {
                let page = self.lock_retained().matching(&filter, after.as_deref(), PAGE);
                let readable = page.topics.iter().filter(|topic| session.queue.may_read(topic));
                let mut topics: Vec<String> = readable.map(ToString::to_string).collect();
                self.metrics.add(Metric::DeliveriesFiltered, (page.topics.len() - topics.len()) as u64);
                while !topics.is_empty() {
                    topics = self.send_retained_of(session, topics, options).await?;
                }
                *looked += 1 + page.looked;
                if *looked >= SCAN_MAX {
                    *looked = 0;
                    yield_now().await;
                }
                match page.after {
                    Some(last) => after = Some(last),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Yields topics of which another message was retained meanwhile.
    async fn send_retained_of(
        &self,
        session: &Session,
        topics: Vec<String>,
        options: Options,
    ) -> Result<Vec<String>, StoreError> {
        let queue = &session.queue;
        let mut asked = Vec::new();
        for message in self.store.read_retained(topics).await?.await? {
            let qos = message.qos.min(options.qos);
            let stored = queue.stored().filter(|_| qos > QoS::AtMostOnce);
            let ids = options.id.into_iter().collect();
            let target = Target { queue: stored.unwrap_or(QueueId(0)), qos, retain: true, ids };
            let message = Arc::new(message);
            if stored.is_none() {
                poll_fn(|cx| if queue.has_room(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
                queue.push_retained(OutgoingMessage::memory(message, target), self.last_notified());
            } else if self.has_room_on_disk(queue, &message) {
                // A lasting session has it until it is acknowledged, however often its connection breaks.
                let counted = Counted { queues: vec![Arc::clone(queue)], bytes: message.bytes() };
                let committed = self.store.enqueue_retained(Arc::clone(&message), target).await?;
                counted.keep();
                asked.push((message, committed));
            }
        }
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let queue = Arc::clone(queue);
        let replaced = async move {
            let mut topics = Vec::new();
            for (message, committed) in asked {
                if !committed.await? {
                    queue.left_the_disk(RowCount { rows: 1, bytes: message.bytes() });
                    topics.push(message.topic.to_string());
                }
            }
            Ok(topics)
        };
        // In a task, as the store goes on even if the connection ends meanwhile.
        self.going_on.spawn(replaced).await.unwrap_or(Err(StoreError::Closed))
    }
}

//! Retained messages: which there are, how many one may have, and who is sent them (MQTT 5, 3.3.1.3).

use std::sync::Arc;

use super::Hub;
use super::session::{Options, Session};
use crate::broker::refusals::Refusal;
use crate::broker::routing::{RetainedEntry, RetainedLimits, Usage};
use crate::broker::session::Item;
use crate::chat::qos::QoS;
use crate::store::{Message, QueueId, Retain, StoreError, Target};

/// Retained messages of one user.
const PER_USER: Usage = Usage { messages: 10_000, bytes: 16_000_000 };
/// Topics that are read at one time.
const PAGE: usize = 64;

impl Hub {
    /// What becomes of the retained message of a topic. The index knows it at once, the store with the message.
    ///
    /// # Errors
    ///
    /// If there is no room for it.
    pub(super) fn retain(&self, message: &Message, user: Option<&str>) -> Result<Option<Retain>, Refusal> {
        if !message.retain {
            return Ok(None);
        }
        let mut retained = self.lock_retained();
        if message.payload.is_empty() {
            return Ok(retained.clear(&message.topic).map(|_there_was_one| Retain::Clear));
        }
        let entry = RetainedEntry {
            bytes: (message.payload.len() + message.properties.len()) as u64,
            user: user.map(Into::into),
            expires_at: message.expires_at,
        };
        if !retained.fits(&message.topic, &entry, &self.retained_limits()) {
            return Err(Refusal::Retained);
        }
        retained.keep(Arc::clone(&message.topic), entry);
        Ok(Some(Retain::Keep(user.map(str::to_owned))))
    }

    fn retained_limits(&self) -> RetainedLimits {
        let messages = self.limits.retained_messages as u64;
        RetainedLimits { total: Usage { messages, bytes: u64::MAX }, per_user: PER_USER }
    }

    /// Sends a new subscriber what is retained for its filter, page by page as it reads.
    pub(super) async fn send_retained(&self, session: &Session, filter: &str, options: Options) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.lock_retained().matching(filter, after.as_deref(), PAGE);
            self.send_retained_of(session, &page.topics, options).await?;
            match page.after {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// Sends the retained messages of these topics, once there is room for them.
    pub(super) async fn send_retained_of(
        &self,
        session: &Session,
        topics: &[Arc<str>],
        options: Options,
    ) -> Result<(), StoreError> {
        if topics.is_empty() {
            return Ok(());
        }
        for message in self.store.read_retained(topics.iter().map(ToString::to_string).collect()).await?.await? {
            std::future::poll_fn(|cx| match session.queue.has_room(cx.waker()) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            })
            .await;
            let qos = message.qos.min(options.qos);
            let (retain, ids) = (true, options.id.into_iter().collect());
            let target = Target { queue: session.queue.stored().unwrap_or(QueueId(0)), qos, retain, ids };
            session.queue.push(Item::memory(Arc::new(message), target));
        }
        Ok(())
    }

    /// What was retained, sent to this session and not acknowledged when its connection ended: it is sent again.
    pub(super) async fn send_unread_retained(&self, session: &Session) -> Result<(), StoreError> {
        let unread = std::mem::take(&mut session.lock().unread_retained);
        for (topic, qos) in unread {
            let options = Options { qos, no_local: false, retain_as_published: true, id: None };
            self.send_retained_of(session, &[topic], options).await?;
        }
        Ok(())
    }
}

/// Whether a copy in memory has to be sent again to a session that comes back: what is retained has no row of its own.
pub(super) fn is_unread(item: &Item) -> bool {
    item.retain && item.qos > QoS::AtMostOnce
}

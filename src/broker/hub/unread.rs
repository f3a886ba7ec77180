//! Documents of chat users on topics that nobody reads, which are dropped: at once where none of the subscriptions matches
//! when they come, and the rest of them from time to time. The rest are those of which only the topic was told, those from
//! before the start, and those that a session left which was their only reader.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;

use super::Hub;
use crate::store::{DocumentRef, StoreError, Unread};

/// Topics of which the store is asked, or which it is told, at one time.
const TOPICS: usize = 256;

/// By their topics, the last documents of those that came and that nobody reads.
#[derive(Debug, Default)]
pub(super) struct UnreadTopics(BTreeMap<Arc<str>, u64>);

impl UnreadTopics {
    /// Nobody reads the document; that changes nothing unless it is dropped then.
    pub(super) fn add(&mut self, document: &DocumentRef) {
        if document.origin.is_dropped_unread() {
            self.0.insert(Arc::clone(&document.topic), document.seq);
        }
    }
}

impl Hub {
    /// Has the store drop documents that came and that nobody reads. A subscriber that has come since finds them or not.
    pub(super) fn drop_unread(&self, UnreadTopics(topics): UnreadTopics) {
        let unread: Vec<_> = topics.into_iter().map(|(topic, up_to)| Unread { topic, up_to }).collect();
        // A message to a group may have come on a thousand topics at once.
        for some in unread.chunks(TOPICS) {
            // Readers of other topics do not wait until the store has room: what it is not asked for now, it is later.
            let _ = self.store.drop_unread(some.to_vec()).now_or_never();
        }
    }

    /// Drops what is left on topics that nobody reads.
    ///
    /// # Errors
    ///
    /// If the store is closed.
    pub(super) async fn drop_all_unread(&self) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let mut topics = self.store.topics_to_drop(after, TOPICS).await?.await?;
            let Some(last) = topics.last() else { return Ok(()) };
            after = last.topic.to_string();
            topics.retain(|unread| self.routes.of(&unread.topic, None).is_empty());
            while !topics.is_empty() && self.store.drop_unread(topics.clone()).await?.await? {}
        }
    }
}

//! Somebody is put out: no connection, no session, nothing retained.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::Hub;
use super::admit::TAKE_OVER;
use crate::broker::connection::ConnectionHandle;
use crate::broker::refusals::Refusal;
use crate::chat::filter::names;
use crate::mqtt::Eviction;

/// Topics that are read at one time.
const PAGE: usize = 64;

impl Hub {
    /// Puts out whom the bridge names, for ever. Those may not log in any more by then.
    pub(super) async fn put_out(self: &Arc<Self>, mut evictions: mpsc::Receiver<Eviction>) {
        while let Some(Eviction { user, done }) = evictions.recv().await {
            self.evict(&user).await;
            let _ = done.send(());
        }
    }

    async fn evict(self: &Arc<Self>, user: &str) {
        let is_of_user = |handle: &Arc<ConnectionHandle>| handle.device_of(user).is_some();
        let handles: Vec<_> = self.connected().filter(is_of_user).collect();
        for session in self.registry.sessions_of(user) {
            // Nobody is to hear of the end.
            session.lock().will = None;
        }
        handles.iter().for_each(|handle| handle.end(Refusal::Erased));
        for handle in handles {
            let _ = timeout(TAKE_OVER, handle.wait_gone()).await;
        }
        for session in self.registry.sessions_of(user) {
            let _claim = self.registry.claim(&session.key).await;
            session.lock().will = None;
            self.end_session(&session).await;
        }
        self.visibilities.forget(user);
        self.forget_retained(user);
        self.forget_subscriptions(user).await;
    }

    /// What others have subscribed to by the name, alone or shared: on disk it goes as well.
    async fn forget_subscriptions(&self, user: &str) {
        let mut after: Arc<str> = "".into();
        loop {
            let page = self.registry.sessions(&after);
            let Some(last) = page.last() else { return };
            after = Arc::clone(&last.key);
            for session in &page {
                for filter in session.filters().iter().filter(|filter| names(filter, user)) {
                    self.drop_subscription(session, filter).await;
                }
            }
            yield_now().await;
        }
    }

    fn forget_retained(&self, user: &str) {
        let filter = format!("{user}/#");
        let mut after: Option<Arc<str>> = None;
        loop {
            let mut retained = self.lock_retained();
            let page = retained.matching(&filter, after.as_deref(), PAGE);
            page.topics.iter().for_each(|topic| drop(retained.clear(topic)));
            match page.after {
                Some(last) => after = Some(last),
                None => return,
            }
        }
    }
}

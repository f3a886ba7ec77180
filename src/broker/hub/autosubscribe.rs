//! What the device of a chat user is subscribed to without asking: the inbox of its user, and the answers that are for this
//! device alone. With the inbox come the messages of the user's groups, where these have topics of their own.
//!
//! These are subscriptions like others, on disk where the session is. A SUBSCRIBE with the same filter replaces the options,
//! and an UNSUBSCRIBE ends one until the client connects again. They count for no limit.

use std::sync::Arc;

use tokio::time::timeout;

use super::Hub;
use super::admit::DISK;
use super::session::Session;
use super::subscribe::RequestedSubscription;
use crate::broker::refusals::Refusal;
use crate::broker::wire::Options;
use crate::chat::principal::Role;
use crate::chat::qos::QoS;
use crate::chat::topic::device_filters;

const OPTIONS: Options =
    Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, retain_handling: 0, id: None };

impl Hub {
    /// Subscribes the session of a client of this role to what it has not subscribed to. Ready when that is on disk, if the
    /// session is. Yields whether it is a device that has such subscriptions.
    pub(super) async fn autosubscribe(&self, session: &Arc<Session>, role: Option<Role>) -> Result<bool, Refusal> {
        let is_device = self.autosubscribe && role == Some(Role::User) && !session.is_background();
        let (true, Some(user), Some(device)) = (is_device, session.user.as_deref(), session.device()) else {
            return Ok(false);
        };
        let filters = device_filters(user, &device);
        let (missing, was_unsure) = {
            let mut state = session.lock();
            state.unasked = filters.len();
            // What a cut left is perhaps in memory alone.
            let is_missing =
                |filter: &String| state.subscriptions_unsure || !state.subscriptions.contains_key(&**filter);
            let missing: Vec<_> = filters.into_iter().filter(is_missing).collect();
            (missing, state.subscriptions_unsure)
        };
        let options = |filter: &str| session.lock().subscriptions.get(filter).map_or(OPTIONS, |there| there.options);
        let wanted: Vec<_> = missing
            .into_iter()
            .map(|filter| RequestedSubscription { options: options(&filter), filter: filter.into() })
            .collect();
        if wanted.is_empty() {
            return Ok(true);
        }
        let mut asked = None;
        if let Some(queue) = session.queue.stored() {
            session.lock().subscriptions_unsure = true;
            let kept = wanted.iter().map(RequestedSubscription::kept).collect();
            let subscribe = timeout(DISK, self.store.subscribe(queue, kept)).await;
            asked = Some(subscribe.map_err(|_late| Refusal::NotStored)?.map_err(|_closed| Refusal::NotStored)?);
        }
        for RequestedSubscription { filter, options } in wanted {
            self.add_subscription(session, &filter, options);
        }
        if let Some(asked) = asked {
            let subscribed = timeout(DISK, asked).await;
            subscribed.map_err(|_late| Refusal::NotStored)?.map_err(|_| Refusal::NotStored)?;
            session.lock().subscriptions_unsure = was_unsure;
        }
        Ok(true)
    }
}

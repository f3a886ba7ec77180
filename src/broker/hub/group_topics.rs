//! Topics of groups: which filters bring something of a group, and what a new subscriber gets at once.
//!
//! A member is sent its own documents, which the store makes for those who are in the group at that moment. A subscription of
//! somebody else is granted, and finds none.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::Hub;
use super::session::Session;
use crate::broker::session::OutgoingMessage;
use crate::broker::wire::Options;
use crate::chat::access::Rights;
use crate::chat::group::GroupDelivery;
use crate::chat::id::Owner;
use crate::chat::qos::QoS;
use crate::chat::topic::{all_messages_filter, inbox_filter, member_filter, reads_groups};
use crate::store::{GroupState, GroupStatePage, GroupStateQuery, Message, QueueId, StoreError, Target};
use bytes::Bytes;

impl Hub {
    /// Whether a subscription to `filter` is granted to somebody with these rights.
    pub(crate) fn may_subscribe(&self, rights: &Rights, filter: &str) -> bool {
        let of_groups = || self.has_group_topics() && rights.may_subscribe_to_groups(filter);
        rights.may_subscribe(filter) || of_groups()
    }

    /// The filter by which documents of groups are found for a subscription of the session. A device that reads its inbox
    /// without asking reads the groups of its user likewise.
    pub(super) fn filter_of_groups(&self, session: &Session, filter: &str) -> Option<String> {
        let user = session.user.as_deref()?;
        if self.has_group_topics() && self.autosubscribe && filter == inbox_filter(user) {
            return Some(all_messages_filter(user));
        }
        member_filter(user, filter)
    }

    /// Tells a new subscriber how the groups of its user are, as if that were retained.
    pub(super) async fn send_group_states(
        &self,
        session: &Session,
        filter: &str,
        options: Options,
    ) -> Result<(), StoreError> {
        let is_asked = self.has_group_topics() && reads_groups(filter);
        let user = session.user.as_deref().filter(|_| is_asked).and_then(|user| Owner::new(user).ok());
        let Some(user) = user else { return Ok(()) };
        let (qos, ids) = (options.qos.min(QoS::AtLeastOnce), options.id.into_iter().collect());
        let stored = session.queue.stored().filter(|_| qos > QoS::AtMostOnce);
        let target = Target { queue: stored.unwrap_or(QueueId(0)), qos, retain: true, ids };
        let _alone = session.group_states.lock().await;
        let mut after = String::new();
        loop {
            // Before they are composed: behind what is said of them meanwhile they would be old.
            poll_fn(|cx| if session.queue.has_room(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
            let kept = stored.map(|_| target.clone());
            let (user, filter, after_this) = (user.clone(), filter.to_owned(), after.clone());
            let query = GroupStateQuery { user, filter, after: after_this, target: kept };
            let Some(GroupStatePage { group, states }) = self.store.group_state(query).await?.await? else {
                return Ok(());
            };
            for state in states {
                self.send_group_state(session, state, &target);
            }
            group.as_str().clone_into(&mut after);
        }
    }

    fn send_group_state(&self, session: &Session, GroupState { topic, payload }: GroupState, target: &Target) {
        if session.queue.stored().is_some() && target.qos > QoS::AtMostOnce {
            session.queue.notify(|queue| queue.behind_on(&topic));
            return;
        }
        let (qos, properties, retain, expires_at) = (QoS::AtLeastOnce, Bytes::new(), true, None);
        let message = Arc::new(Message { topic, payload, properties, qos, retain, expires_at });
        session.queue.push_retained(OutgoingMessage::memory(message, target.clone()), self.last_notified());
    }

    fn has_group_topics(&self) -> bool {
        self.group_delivery == GroupDelivery::Topic
    }
}

//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5, 3.8 and 3.10), and what waits on disk for a subscription.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Hub;
use super::group::Group;
use super::queue::SharedQueue;
use super::session::{Feed, Session, Subscription};
use crate::broker::connection::Link;
use crate::broker::session::Queue;
use crate::broker::wire::Options;
use crate::chat::filter::{Shared, literal_prefix};
use crate::store::{KeptSubscription, Seen, StoreError};

/// Topics that are asked of the store at one time.
const TOPICS: usize = 256;
/// Reason codes of UNSUBACK (3.11.3).
const UNSUBSCRIBED: u8 = 0x00;
const NO_SUBSCRIPTION: u8 = 0x11;
/// MQTT 5, 3.8.3.1: retained messages are sent only to a subscription that is new.
const RETAINED_IF_NEW: u8 = 1;
/// Retained messages are not sent.
const NO_RETAINED: u8 = 2;

/// A filter that may be granted.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Whole, with `$share/` where it is shared.
    pub(crate) filter: Box<str>,
    /// How its messages are wanted.
    pub(crate) options: Options,
}

/// What follows a SUBACK: what is retained and what waits on disk.
pub(crate) type AfterSubscribe = BoxFuture<'static, Result<(), StoreError>>;

/// A filter that was granted, for what follows the SUBACK.
struct Granted {
    filter: Box<str>,
    options: Options,
    /// The filter without `$share/` and the group.
    inner: Box<str>,
    queue: Arc<SharedQueue>,
    /// The session had it with the same options: nothing of it is new on disk.
    is_unchanged: bool,
    sends_retained: bool,
}

impl Granted {
    /// As the store keeps it. When retained messages are sent is of this packet alone.
    fn kept(&self) -> KeptSubscription {
        let options = Options { retain_handling: 0, ..self.options };
        KeptSubscription { filter: self.filter.to_string(), options: options.as_u8(), id: options.id }
    }
}

impl Hub {
    /// Whether the session may have another subscription to this filter.
    pub(crate) fn has_room_for(&self, session: &Session, filter: &str, more: usize) -> bool {
        let state = session.lock();
        state.subscriptions.contains_key(filter) || state.subscriptions.len() + more < self.limits.subscriptions
    }

    /// Subscribes to filters that may be granted. Ready when they are on disk, if the session is; the second part is to be
    /// polled once the SUBACK is on its way.
    ///
    /// # Errors
    ///
    /// If the store is closed.
    pub(crate) async fn subscribe(
        self: Arc<Self>,
        session: Arc<Session>,
        link: Arc<Link>,
        wanted: Vec<Wanted>,
    ) -> Result<AfterSubscribe, StoreError> {
        let mut granted = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            granted.push(self.grant(&session, &link, wanted).await?);
        }
        if let Some(queue) = session.queue.stored() {
            let new = granted.iter().filter(|granted| !granted.is_unchanged);
            let new: Vec<_> = new.map(Granted::kept).collect();
            if !new.is_empty() {
                self.store.subscribe(queue, new).await?.await?;
            }
        }
        Ok(Box::pin(async move { self.follow(&session, granted).await }))
    }

    /// From now on what matches goes to the session, or to its group.
    async fn grant(
        self: &Arc<Self>,
        session: &Arc<Session>,
        link: &Arc<Link>,
        wanted: Wanted,
    ) -> Result<Granted, StoreError> {
        let Wanted { filter, options } = wanted;
        let mut _alone = None;
        let group = match Shared::parse(&filter) {
            Some(Ok(Shared { group, filter })) => {
                _alone = Some(self.groups.lock().await);
                Some(self.join(session, &format!("{group}/{filter}"), options).await?)
            }
            _ => None,
        };
        let (queue, inner): (_, Box<str>) = match &group {
            Some(group) => (Arc::clone(&group.queue), group.filter().into()),
            None => (Arc::clone(&session.queue), filter.clone()),
        };
        let subscription = Subscription { options, group: group.clone() };
        let replaced = session.lock().subscriptions.insert(filter.clone(), subscription);
        let is_unchanged = replaced.as_ref().is_some_and(|before| before.options == options);
        match &group {
            Some(group) => _ = self.routes.insert(&inner, &queue, group.options()),
            None => _ = self.routes.insert(&inner, &queue, options),
        }
        match &group {
            Some(_) => self.attach_alone(&queue, link).await,
            None => queue.attach(link),
        }
        // MQTT 5, 4.8.2: a shared subscription is sent no retained messages.
        let handling = options.retain_handling;
        let wants = handling < NO_RETAINED && !(replaced.is_some() && handling == RETAINED_IF_NEW);
        let sends_retained = wants && group.is_none();
        if sends_retained && self.has_retained(&inner) {
            queue.begin_retained();
        }
        Ok(Granted { filter, options, inner, queue, is_unchanged, sends_retained })
    }

    /// Makes the session a member of a group. With the first member that outlives its connection, so does the queue.
    pub(super) async fn join(
        self: &Arc<Self>,
        session: &Session,
        name: &str,
        options: Options,
    ) -> Result<Arc<Group>, StoreError> {
        let lasting = session.queue.stored().is_some();
        let group = self.registry.group(name, |name| Group::new(Arc::clone(name), self.new_queue(name)));
        group.join(session.queue.number(), options);
        if lasting && group.queue.stored().is_none() {
            let id = self.store.keep_group(name.to_owned()).await?.await?;
            group.queue.store_as(Some(id));
            self.registry.stored_as(id, &group.queue);
        }
        Ok(group)
    }

    async fn follow(&self, session: &Arc<Session>, granted: Vec<Granted>) -> Result<(), StoreError> {
        let sent = self.send_all_retained(session, &granted).await;
        session.queue.end_retained();
        sent?;
        let mut filters = Vec::with_capacity(granted.len());
        for Granted { inner, queue, .. } in granted {
            queue.read(Queue::offer_again);
            filters.push(inner);
        }
        self.watch(session, &filters).await
    }

    async fn send_all_retained(&self, session: &Session, granted: &[Granted]) -> Result<(), StoreError> {
        for Granted { filter, options, .. } in granted.iter().filter(|granted| granted.sends_retained) {
            self.send_retained(session, filter, *options).await?;
        }
        Ok(())
    }

    /// Finds the topics that have documents and match one of these filters, for the queues of a session.
    pub(super) async fn watch(&self, session: &Session, filters: &[Box<str>]) -> Result<(), StoreError> {
        if filters.is_empty() {
            return Ok(());
        }
        let prefixes: Vec<String> = filters.iter().map(|filter| literal_prefix(filter).to_owned()).collect();
        let feeds = session.feeds();
        let mut after = String::new();
        loop {
            let topics = self.store.waiting_topics(prefixes.clone(), after, TOPICS).await?.await?;
            for topic in topics.iter().map(|topic| Arc::from(topic.as_str())) {
                for route in self.routes.of(&topic, None) {
                    if feeds.iter().any(|feed| feed.queue.number() == route.queue.number()) {
                        route.queue.read(|queue| queue.watch([&topic]));
                    }
                }
            }
            match topics.into_iter().nth(TOPICS - 1) {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// Finds what waits on disk for a session that is new on this connection.
    pub(super) async fn look_on_disk(&self, session: &Arc<Session>, present: bool) -> Result<(), StoreError> {
        if !present {
            return Ok(());
        }
        let mut filters = Vec::new();
        for Feed { queue, .. } in session.feeds() {
            self.watch_own(&queue).await?;
            filters.append(&mut session.filters_of(&queue));
        }
        self.watch(session, &filters).await
    }

    /// The topics of documents that others have and this queue has not.
    pub(super) async fn watch_own(&self, queue: &SharedQueue) -> Result<(), StoreError> {
        let Some(id) = queue.stored() else { return Ok(()) };
        let mut after = String::new();
        loop {
            let topics = self.store.own_topics(id, after, TOPICS).await?.await?;
            let found: Vec<Arc<str>> = topics.iter().map(|topic| topic.as_str().into()).collect();
            queue.read(|queue| queue.watch(&found));
            match topics.into_iter().nth(TOPICS - 1) {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// Ends subscriptions. Yields a reason code for each filter.
    ///
    /// # Errors
    ///
    /// If the store is closed.
    pub(crate) async fn unsubscribe(
        self: Arc<Self>,
        session: Arc<Session>,
        link: Arc<Link>,
        filters: Vec<Box<str>>,
    ) -> Result<Vec<u8>, StoreError> {
        let mut codes = Vec::with_capacity(filters.len());
        let mut ended = Vec::new();
        for filter in filters {
            let removed = session.lock().subscriptions.remove(&filter);
            codes.push(if removed.is_some() { UNSUBSCRIBED } else { NO_SUBSCRIPTION });
            if let Some(subscription) = removed {
                self.drop_subscription(&session, &filter, &subscription).await;
                if let Some(group) = subscription.group {
                    let seen = self.detach_member(&group.queue, &link, Vec::new()).await;
                    self.documents_seen(seen).await;
                }
                ended.push(filter.into_string());
            }
        }
        if !ended.is_empty() {
            let seen = self.unwatch(&session.queue);
            self.documents_seen(seen).await;
            if let Some(queue) = session.queue.stored() {
                self.store.unsubscribe(queue, ended).await?.await?;
            }
        }
        Ok(codes)
    }

    fn unwatch(&self, queue: &SharedQueue) -> Vec<Seen> {
        queue.unwatch(|topic| self.routes.of(topic, None).iter().any(|route| route.queue.number() == queue.number()))
    }

    /// What matches goes there no longer. A group without members is no more.
    pub(super) async fn drop_subscription(
        self: &Arc<Self>,
        session: &Session,
        filter: &str,
        subscription: &Subscription,
    ) {
        let Some(group) = &subscription.group else {
            self.routes.remove(filter, &session.queue);
            return;
        };
        let _alone = self.groups.lock().await;
        group.part(session.queue.number());
        if !group.is_empty() {
            // What waits on disk is for those who are left, whether they outlive their connections or not.
            self.routes.insert(group.filter(), &group.queue, group.options());
            return;
        }
        self.routes.remove(group.filter(), &group.queue);
        self.registry.remove_group(group);
        if let Some(queue) = group.queue.stored() {
            group.queue.store_as(None);
            self.registry.not_stored(queue);
            let _ = self.store.end_queue(queue).await;
        }
    }

    /// Subscriptions of a session that the store kept.
    pub(super) async fn restore_subscriptions(
        self: &Arc<Self>,
        session: &Arc<Session>,
        subscriptions: Vec<KeptSubscription>,
    ) -> Result<(), StoreError> {
        for kept in subscriptions {
            let Some(options) = Options::read(kept.options, kept.id) else { continue };
            let group = match Shared::parse(&kept.filter) {
                Some(Ok(Shared { group, filter })) => {
                    Some(self.join(session, &format!("{group}/{filter}"), options).await?)
                }
                _ => None,
            };
            match &group {
                Some(group) => self.routes.insert(group.filter(), &group.queue, group.options()),
                None => self.routes.insert(&kept.filter, &session.queue, options),
            };
            session.lock().subscriptions.insert(kept.filter.into(), Subscription { options, group });
        }
        Ok(())
    }
}

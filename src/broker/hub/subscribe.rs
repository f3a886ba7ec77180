//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5, 3.8 and 3.10), and what waits on disk for a subscription.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::Hub;
use super::admit::DISK;
use super::group::Group;
use super::queue::SharedQueue;
use super::session::{Session, Subscription};
use crate::broker::connection::ConnectionHandle;
use crate::broker::refusals::Refusal;
use crate::broker::wire::Options;
use crate::chat::access::Rights;
use crate::chat::filter::{Shared, literal_prefix};
use crate::chat::topic::member_prefix;
use crate::store::{Committed, KeptSubscription, QueueId, StoreError};

/// Topics that are asked of the store at one time.
const TOPICS: usize = 256;
/// Reason codes of UNSUBACK (3.11.3).
const UNSUBSCRIBED: u8 = 0x00;
const NO_SUBSCRIPTION: u8 = 0x11;
/// MQTT 5, 3.8.3.1: retained messages are sent only to a subscription that is new.
const RETAINED_IF_NEW: u8 = 1;
const NO_RETAINED: u8 = 2;

/// A filter that may be granted.
#[derive(Debug)]
pub(crate) struct RequestedSubscription {
    /// Whole, with `$share/` where it is shared.
    pub(crate) filter: Box<str>,
    /// How its messages are wanted.
    pub(crate) options: Options,
}

/// What follows a SUBACK: what is retained and what waits on disk.
pub(crate) type AfterSubscribe = BoxFuture<'static, Result<(), StoreError>>;

/// A filter that was granted, for what follows the SUBACK.
struct GrantedSubscription {
    /// Without `$share/` and the group.
    filter: Box<str>,
    options: Options,
    /// Where it is shared, with what keeps the group on disk.
    group: Option<(Arc<Group>, Option<Committed<QueueId>>)>,
    sends_retained: bool,
}

/// Retained messages are yet to be sent: what is published meanwhile waits, until this is dropped.
struct RetainedFirst {
    queue: Arc<SharedQueue>,
    number: u64,
}

impl RetainedFirst {
    fn begin(queue: &Arc<SharedQueue>) -> Self {
        Self { queue: Arc::clone(queue), number: queue.begin_retained() }
    }
}

impl Drop for RetainedFirst {
    fn drop(&mut self) {
        self.queue.end_retained(self.number);
    }
}

impl RequestedSubscription {
    /// MQTT 5, 4.8.2: a shared subscription is sent none.
    fn may_be_sent_retained(&self) -> bool {
        self.options.retain_handling < NO_RETAINED && !is_shared(&self.filter)
    }

    /// As the store keeps it. When retained messages are sent is of this packet alone.
    pub(super) fn kept(&self) -> KeptSubscription {
        let options = Options { retain_handling: 0, ..self.options };
        KeptSubscription { filter: self.filter.to_string(), options: options.as_u8(), id: options.id }
    }
}

impl Hub {
    /// Whether the session may have another subscription to this filter.
    pub(crate) fn has_room_for(&self, session: &Session, filter: &str, more: usize) -> bool {
        let state = session.lock();
        let most = self.limits.subscriptions + state.unasked;
        state.subscriptions.contains_key(filter) || state.subscriptions.len() + more < most
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
        handle: Arc<ConnectionHandle>,
        wanted: Vec<RequestedSubscription>,
    ) -> Result<AfterSubscribe, StoreError> {
        let mut kept = None;
        if let Some(queue) = session.queue.stored()
            && !session.has_all(&wanted)
        {
            session.lock().subscriptions_unsure = true;
            // If this is cancelled from here on, the subscription is on disk, or not in memory either.
            kept = Some(self.store.subscribe(queue, wanted.iter().map(RequestedSubscription::kept).collect()).await?);
        }
        // Before anything is routed to it: what is retained is older.
        let retained_first = wanted
            .iter()
            .any(RequestedSubscription::may_be_sent_retained)
            .then(|| RetainedFirst::begin(&session.queue));
        let mut granted = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            granted.push(self.grant(&session, wanted).await?);
        }
        if let Some(kept) = kept {
            kept.await?;
            session.lock().subscriptions_unsure = false;
        }
        for (group, kept) in granted.iter_mut().filter_map(|granted| granted.group.as_mut()) {
            self.group_is_kept(group, kept.take()).await?;
        }
        for (group, _) in granted.iter().filter_map(|granted| granted.group.as_ref()) {
            // Not before all of them are kept: nobody is to wait for a member that is not sent anything yet.
            self.attach_member(&group.queue, &handle).await;
        }
        Ok(Box::pin(async move { self.follow(&session, granted, retained_first).await }))
    }

    async fn grant(
        &self,
        session: &Session,
        RequestedSubscription { filter, options }: RequestedSubscription,
    ) -> Result<GrantedSubscription, StoreError> {
        let alone = if is_shared(&filter) { Some(self.groups.lock().await) } else { None };
        let (group, replaced) = self.add_subscription(session, &filter, options);
        if let Some(group) = group {
            let kept = self.keep_group(session, &group).await?;
            drop(alone);
            // MQTT 5, 4.8.2: a shared subscription is sent no retained messages.
            let filter = group.filter().into();
            return Ok(GrantedSubscription { filter, options, group: Some((group, kept)), sends_retained: false });
        }
        let handling = options.retain_handling;
        let sends_retained = handling < NO_RETAINED && !(replaced && handling == RETAINED_IF_NEW);
        Ok(GrantedSubscription { filter, options, group: None, sends_retained })
    }

    /// From now on what matches goes to the session, or to a group of which it becomes a member; for that, `groups` has to
    /// be locked. Yields the group, and whether there was such a subscription.
    pub(super) fn add_subscription(
        &self,
        session: &Session,
        filter: &str,
        options: Options,
    ) -> (Option<Arc<Group>>, bool) {
        let group = match Shared::parse(filter) {
            Some(Ok(Shared { group, filter })) => {
                let new = |name: &Arc<str>| Group::new(Arc::clone(name), self.kept_queue(name));
                let group = self.registry.group(&format!("{group}/{filter}"), new);
                group.join(session.queue.number(), options);
                self.routes.insert(filter, &group.queue, group.options());
                Some(group)
            }
            _ => {
                self.routes.insert(filter, &session.queue, options);
                if let Some(of_groups) = self.filter_of_groups(session, filter) {
                    self.routes.insert(&of_groups, &session.queue, options);
                }
                None
            }
        };
        let subscription = Subscription { options, group: group.clone() };
        let replaced = session.lock().subscriptions.insert(filter.into(), subscription).is_some();
        (group, replaced)
    }

    /// With the first member that outlives its connection, so does the queue of a group.
    async fn keep_group(&self, session: &Session, group: &Group) -> Result<Option<Committed<QueueId>>, StoreError> {
        if session.queue.stored().is_none() || group.queue.stored().is_some() {
            return Ok(None);
        }
        group.set_kept();
        // Others wait for `groups`. Late is as if the store were closed: the connection ends, and its client comes again.
        let asked = timeout(DISK, self.store.keep_group(group.name.to_string())).await;
        asked.unwrap_or(Err(StoreError::Closed)).map(Some)
    }

    async fn group_is_kept(&self, group: &Group, kept: Option<Committed<QueueId>>) -> Result<(), StoreError> {
        let Some(kept) = kept else { return Ok(()) };
        let id = kept.await?;
        let _alone = self.groups.lock().await;
        // It may have ended meanwhile.
        if self.registry.group_queue(group.queue.number()).is_some() {
            self.registry.stored_as(id, &group.queue);
        }
        Ok(())
    }

    async fn follow(
        &self,
        session: &Session,
        granted: Vec<GrantedSubscription>,
        retained_first: Option<RetainedFirst>,
    ) -> Result<(), StoreError> {
        for GrantedSubscription { group, .. } in &granted {
            let queue = group.as_ref().map_or(&session.queue, |(group, _)| &group.queue);
            queue.read(|queue| {
                queue.offer_again();
                queue.look_for_topics();
            });
        }
        let mut looked = 0;
        for GrantedSubscription { filter, options, .. } in granted.iter().filter(|granted| granted.sends_retained) {
            self.send_retained(session, filter, *options, &mut looked).await?;
            self.send_group_states(session, filter, *options).await?;
        }
        drop(retained_first);
        Ok(())
    }

    /// Finds the topics with documents that come into a queue: those that nobody has had and that match its filters, and those
    /// that others have and this queue has not. In this order: when somebody has a document, it goes from the former to the
    /// latter, and asked for the other way round it would be found in neither.
    pub(super) async fn watch(&self, session: &Session, queue: &SharedQueue) -> Result<(), StoreError> {
        let filters = session.filters_of(queue);
        if !filters.is_empty() {
            let mut prefixes: Vec<String> = filters.iter().map(|filter| literal_prefix(filter).to_owned()).collect();
            let reads_groups = filters.iter().any(|filter| self.filter_of_groups(session, filter).is_some());
            if let Some(user) = session.user.as_deref().filter(|_| reads_groups) {
                prefixes.push(member_prefix(user));
            }
            let waiting = |after| self.store.waiting_topics(prefixes.clone(), after, TOPICS);
            watch_all(queue, waiting, |topic| self.routes.to(topic, queue).is_some()).await?;
        }
        match queue.stored() {
            Some(id) => watch_all(queue, |after| self.store.own_topics(id, after, TOPICS), |_| true).await,
            None => Ok(()),
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
        filters: Vec<Box<str>>,
    ) -> Result<Vec<u8>, StoreError> {
        let mut codes = Vec::with_capacity(filters.len());
        for filter in &filters {
            codes.push(if self.drop_subscription(&session, filter).await { UNSUBSCRIBED } else { NO_SUBSCRIPTION });
        }
        let is_read = |topic: &str| self.routes.to(topic, &session.queue).is_some();
        let seen = session.queue.unwatch(is_read);
        self.documents_seen(seen).await;
        if let Some(queue) = session.queue.stored() {
            // Those that are not in memory as well: what a cut left on disk is not to come back.
            self.store.unsubscribe(queue, filters.into_iter().map(Into::into).collect()).await?.await?;
        }
        Ok(codes)
    }

    /// Ends the shared subscriptions of a session that its client, who comes with these rights, would not be granted now: it was
    /// somebody else before, or an earlier release granted them. What waits for the group stays for the other members.
    ///
    /// # Errors
    ///
    /// If the disk cannot be told of it.
    pub(super) async fn leave_denied_groups(
        self: &Arc<Self>,
        session: &Arc<Session>,
        rights: &Rights,
    ) -> Result<(), Refusal> {
        let shared = session.filters().into_iter().filter(|filter| is_shared(filter));
        let denied: Vec<_> = shared.filter(|filter| !rights.may_subscribe(filter)).collect();
        if denied.is_empty() {
            return Ok(());
        }
        let ended = timeout(DISK, Arc::clone(self).unsubscribe(Arc::clone(session), denied)).await;
        ended.map_err(|_late| Refusal::NotStored)?.map(drop).map_err(|_closed| Refusal::NotStored)
    }

    /// What matches goes there no longer. A group without members ends. Yields whether there was such a subscription.
    pub(super) async fn drop_subscription(&self, session: &Session, filter: &str) -> bool {
        let alone = if is_shared(filter) { Some(self.groups.lock().await) } else { None };
        let Some(Subscription { group, .. }) = session.lock().subscriptions.remove(filter) else { return false };
        let Some(group) = group else {
            self.routes.remove(filter, &session.queue);
            if let Some(of_groups) = self.filter_of_groups(session, filter) {
                self.routes.remove(&of_groups, &session.queue);
            }
            return true;
        };
        group.leave(session.queue.number());
        if let Some(handle) = session.handle() {
            self.detach_alone(&group.queue, &handle, Vec::new()).await;
        }
        if group.is_empty() {
            self.end_group(&group).await;
        } else {
            // What waits on disk is for those who are left, whether they outlive their connections or not.
            self.routes.insert(group.filter(), &group.queue, group.options());
        }
        drop(alone);
        true
    }

    /// Ends the groups without members, which connections that were cut may have left behind.
    pub(super) async fn end_empty_groups(&self) {
        let _alone = self.groups.lock().await;
        for group in self.registry.empty_groups() {
            self.end_group(&group).await;
        }
    }

    /// To be called with `groups` locked. Should it be cut short, the group has ended in memory, and the store is asked.
    async fn end_group(&self, group: &Arc<Group>) {
        let is_kept = group.is_kept();
        self.routes.remove(group.filter(), &group.queue);
        self.registry.forget_stored(&group.queue);
        self.registry.remove_group(group);
        if is_kept {
            let (store, name) = (self.store.clone(), group.name.to_string());
            // If the store is closed, the next start finds it.
            self.go_on(async move { drop(store.end_group(name).await) }).await;
        }
    }

    /// Subscriptions of a session that the store kept.
    pub(super) async fn restore_subscriptions(
        &self,
        session: &Session,
        subscriptions: Vec<KeptSubscription>,
    ) -> Result<(), StoreError> {
        for kept in subscriptions {
            let Some(options) = Options::read(kept.options, kept.id) else { continue };
            if let (Some(group), _) = self.add_subscription(session, &kept.filter, options) {
                let kept = self.keep_group(session, &group).await?;
                self.group_is_kept(&group, kept).await?;
            }
        }
        Ok(())
    }
}

/// Has a queue watch topics, page by page, as far as it reads them.
async fn watch_all<F>(
    queue: &SharedQueue,
    page_after: impl Fn(String) -> F,
    is_read: impl Fn(&str) -> bool,
) -> Result<(), StoreError>
where
    F: Future<Output = Result<Committed<Vec<String>>, StoreError>>,
{
    let mut after = String::new();
    loop {
        let topics = page_after(after).await?.await?;
        let found = topics.iter().filter(|topic| is_read(topic));
        let found: Vec<Arc<str>> = found.map(|topic| topic.as_str().into()).collect();
        queue.read(|queue| queue.watch(&found));
        match topics.into_iter().nth(TOPICS - 1) {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

fn is_shared(filter: &str) -> bool {
    matches!(Shared::parse(filter), Some(Ok(_)))
}

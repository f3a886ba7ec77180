//! Who gets a message: from the subscriptions to the queues.

use std::cmp::max;
use std::sync::{Arc, PoisonError, RwLock};

use super::queue::SharedQueue;
use crate::broker::routing::filters::FilterTree;
use crate::broker::wire::Options;
use crate::chat::qos::QoS;
use crate::chat::topic::MemberTopic;

/// All subscriptions, by their filters. A lock that publishers share; who subscribes has it alone for one operation.
#[derive(Debug, Default)]
pub(super) struct Routes {
    tree: RwLock<FilterTree<u64, Subscriber>>,
}

#[derive(Debug, Clone)]
struct Subscriber {
    queue: Arc<SharedQueue>,
    options: Options,
}

/// A queue that gets a message.
#[derive(Debug, Clone)]
pub(super) struct MatchedQueue {
    pub(super) queue: Arc<SharedQueue>,
    /// The highest quality of service that is wanted.
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    /// Of the subscriptions that match.
    pub(super) ids: Vec<u32>,
}

impl Routes {
    /// What matches `filter` goes to the queue from now on. Yields whether it did before.
    pub(super) fn insert(&self, filter: &str, queue: &Arc<SharedQueue>, options: Options) -> bool {
        let subscriber = Subscriber { queue: Arc::clone(queue), options };
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        tree.insert(filter, queue.number(), subscriber).is_some()
    }

    pub(super) fn remove(&self, filter: &str, queue: &SharedQueue) {
        self.tree.write().unwrap_or_else(PoisonError::into_inner).remove(filter, &queue.number());
    }

    /// The queues that get a message on `topic`, each once. `publisher` is the number of the session that published it.
    pub(super) fn of(&self, topic: &str, publisher: Option<u64>) -> Vec<MatchedQueue> {
        self.find(topic, publisher).0
    }

    /// How one queue gets a message on `topic`, if it does.
    pub(super) fn to(&self, topic: &str, queue: &SharedQueue) -> Option<MatchedQueue> {
        self.of(topic, None).into_iter().find(|route| route.queue.number() == queue.number())
    }

    /// All of them, and how many subscriptions bring nothing because their clients may not read the topic.
    pub(super) fn find(&self, topic: &str, publisher: Option<u64>) -> (Vec<MatchedQueue>, u64) {
        let mut denied = 0;
        let mut routes: Vec<MatchedQueue> = Vec::new();
        // What a group has for a member, that one's filters alone find.
        let of_member = MemberTopic::parse(topic).map(MemberTopic::route);
        let found_as = of_member.as_deref().unwrap_or(topic);
        self.tree.read().unwrap_or_else(PoisonError::into_inner).for_each_match(found_as, |number, subscriber| {
            let Subscriber { queue, options } = subscriber;
            if options.no_local && publisher == Some(*number) {
                return;
            }
            if !queue.may_read(topic) {
                denied += 1;
                return;
            }
            let (qos, retain_as_published) = (options.qos, options.retain_as_published);
            let ids = options.id.into_iter().collect();
            routes.push(MatchedQueue { queue: Arc::clone(queue), qos, retain_as_published, ids });
        });
        if routes.len() > 1 {
            join(&mut routes);
        }
        (routes, denied)
    }
}

/// Makes one route of those to the same queue.
fn join(routes: &mut Vec<MatchedQueue>) {
    routes.sort_by_key(|route| route.queue.number());
    routes.dedup_by(|next, first| {
        let same = next.queue.number() == first.queue.number();
        if same {
            first.qos = max(first.qos, next.qos);
            first.retain_as_published |= next.retain_as_published;
            first.ids.append(&mut next.ids);
        }
        same
    });
}

//! Which subscriptions match a topic: a tree with one level of topic filter per node.
//!
//! The nodes lie side by side and name each other by number. In a tree of boxes a filter with thousands of levels would
//! need as many stack frames, to be removed or just dropped, and one SUBSCRIBE would end the process.

use std::collections::HashMap;

/// Topic filters, each with the things of type `T` kept under it.
#[derive(Debug)]
pub(super) struct Filters<T> {
    nodes: HashMap<NodeId, Node<T>>,
    last: NodeId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct NodeId(u64);

const ROOT: NodeId = NodeId(0);

#[derive(Debug)]
struct Node<T> {
    /// The node above and the level of this one below it. None is above the root.
    above: Option<(NodeId, Box<str>)>,
    /// Below a plain level, `+` or `#`: the three never mix, because a plain level cannot contain either.
    below: HashMap<Box<str>, NodeId>,
    here: Vec<T>,
}

impl<T: PartialEq> Filters<T> {
    pub(super) fn new() -> Self {
        Self { nodes: HashMap::from([(ROOT, Node::new(None))]), last: ROOT }
    }

    /// Keeps `item` under `filter`. The filter has been checked by the engine.
    pub(super) fn insert(&mut self, filter: &str, item: T) {
        let mut at = ROOT;
        for level in filter.split('/') {
            at = match self.below(at, level) {
                Some(below) => below,
                None => self.grow(at, level),
            };
        }
        if let Some(node) = self.nodes.get_mut(&at)
            && !node.here.contains(&item)
        {
            node.here.push(item);
        }
    }

    fn grow(&mut self, above: NodeId, level: &str) -> NodeId {
        self.last = NodeId(self.last.0 + 1);
        self.nodes.insert(self.last, Node::new(Some((above, level.into()))));
        if let Some(node) = self.nodes.get_mut(&above) {
            node.below.insert(level.into(), self.last);
        }
        self.last
    }

    /// Forgets `item` under `filter`, and the branch if nothing else is on it.
    pub(super) fn remove(&mut self, filter: &str, item: &T) {
        let Some(mut at) = filter.split('/').try_fold(ROOT, |at, level| self.below(at, level)) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&at) {
            node.here.retain(|other| other != item);
        }
        while let Some(node) = self.nodes.get(&at).filter(|node| node.is_bare())
            && let Some((above, level)) = node.above.clone()
        {
            self.nodes.remove(&at);
            if let Some(node) = self.nodes.get_mut(&above) {
                node.below.remove(&level);
            }
            at = above;
        }
    }

    /// Everything under a filter that matches `topic`.
    pub(super) fn matches(&self, topic: &str) -> Vec<&T> {
        let levels: Vec<&str> = topic.split('/').collect();
        let mut found = Vec::new();
        let mut open = vec![(ROOT, 0)];
        while let Some((at, depth)) = open.pop() {
            // A wildcard on the first level does not match a topic that starts with `$` (MQTT 5, 4.7.2).
            let reserved = depth == 0 && topic.starts_with('$');
            // `#` also matches the level above it: `a/#` matches `a`.
            if !reserved && let Some(rest) = self.below(at, "#") {
                found.extend(self.here(rest));
            }
            let Some(level) = levels.get(depth) else {
                found.extend(self.here(at));
                continue;
            };
            if !reserved && let Some(any) = self.below(at, "+") {
                open.push((any, depth + 1));
            }
            // A topic cannot contain a wildcard; should one come, it must not match the filter of the same name twice.
            if *level != "+"
                && *level != "#"
                && let Some(same) = self.below(at, level)
            {
                open.push((same, depth + 1));
            }
        }
        found
    }

    fn below(&self, at: NodeId, level: &str) -> Option<NodeId> {
        self.nodes.get(&at)?.below.get(level).copied()
    }

    fn here(&self, at: NodeId) -> &[T] {
        self.nodes.get(&at).map_or(&[], |node| &node.here)
    }
}

impl<T> Node<T> {
    fn new(above: Option<(NodeId, Box<str>)>) -> Self {
        Self { above, below: HashMap::new(), here: Vec::new() }
    }

    fn is_bare(&self) -> bool {
        self.here.is_empty() && self.below.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt5::validation::topic_matches_filter;
    use proptest::prelude::*;

    fn level() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "", "$x", "self"]).prop_map(str::to_owned)
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..4).prop_map(|levels| levels.join("/")).prop_filter("empty", |t| !t.is_empty())
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => level(), 1 => Just("+".to_owned())];
        (prop::collection::vec(level, 0..4), any::<bool>())
            .prop_map(|(mut levels, all)| {
                if all || levels.is_empty() {
                    levels.push("#".to_owned());
                }
                levels.join("/")
            })
            .prop_filter("empty", |f| !f.is_empty())
    }

    proptest! {
        #[test]
        fn agrees_with_the_engine(filters in prop::collection::vec(filter(), 0..12), topic in topic()) {
            let mut tree = Filters::new();
            for filter in &filters {
                tree.insert(filter, filter.clone());
            }
            let mut found: Vec<_> = tree.matches(&topic).into_iter().cloned().collect();
            let mut expected: Vec<_> = filters.into_iter().filter(|f| topic_matches_filter(&topic, f)).collect();
            expected.sort();
            expected.dedup();
            found.sort();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn forgets_what_is_removed(filters in prop::collection::vec(filter(), 0..12)) {
            let mut tree = Filters::new();
            for (n, filter) in filters.iter().enumerate() {
                tree.insert(filter, n);
            }
            for (n, filter) in filters.iter().enumerate() {
                tree.remove(filter, &n);
            }
            prop_assert_eq!(tree.nodes.len(), 1);
        }
    }

    #[test]
    fn a_filter_as_deep_as_a_packet_is_one_like_any_other() {
        let deep = "a/".repeat(32_767);
        let mut tree = Filters::new();
        tree.insert(&deep, 1);
        tree.insert(&(deep.clone() + "b"), 2);
        assert_eq!(tree.matches(&deep), [&1]);
        tree.remove(&deep, &1);
        assert_eq!(tree.matches(&deep), Vec::<&i32>::new());
        assert_eq!(tree.matches(&(deep + "b")), [&2]);
        drop(tree);
    }
}

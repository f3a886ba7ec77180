//! Which subscriptions match a topic: a tree with one level of topic filter per node.

use std::collections::HashMap;

/// Topic filters, each with the things of type `T` kept under it.
#[derive(Debug)]
pub(super) struct Filters<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    /// Below a plain level, `+` or `#`: the three never mix, because a plain level cannot contain either.
    below: HashMap<Box<str>, Self>,
    here: Vec<T>,
}

impl<T: PartialEq> Filters<T> {
    pub(super) fn new() -> Self {
        Self { root: Node::new() }
    }

    /// Keeps `item` under `filter`. The filter has been checked by the engine.
    pub(super) fn insert(&mut self, filter: &str, item: T) {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = node.below.entry(level.into()).or_insert_with(Node::new);
        }
        if !node.here.contains(&item) {
            node.here.push(item);
        }
    }

    /// Forgets `item` under `filter`, and the branch if nothing else is on it.
    pub(super) fn remove(&mut self, filter: &str, item: &T) {
        self.root.remove(filter.split('/'), item);
    }

    /// Everything under a filter that matches `topic`.
    pub(super) fn matches<'a>(&'a self, topic: &str) -> Vec<&'a T> {
        let levels: Vec<&str> = topic.split('/').collect();
        let mut found = Vec::new();
        self.root.collect(&levels, Depth::First, &mut found);
        found
    }
}

/// A wildcard on the first level does not match a topic that starts with `$` (MQTT 5, 4.7.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    First,
    Deeper,
}

impl<T: PartialEq> Node<T> {
    fn new() -> Self {
        Self { below: HashMap::new(), here: Vec::new() }
    }

    fn remove<'a>(&mut self, mut levels: impl Iterator<Item = &'a str>, item: &T) {
        let Some(level) = levels.next() else {
            self.here.retain(|other| other != item);
            return;
        };
        let Some(child) = self.below.get_mut(level) else {
            return;
        };
        child.remove(levels, item);
        if child.here.is_empty() && child.below.is_empty() {
            self.below.remove(level);
        }
    }

    fn collect<'a>(&'a self, levels: &[&str], depth: Depth, found: &mut Vec<&'a T>) {
        let reserved = depth == Depth::First && levels.first().is_some_and(|level| level.starts_with('$'));
        // `#` also matches the level above it: `a/#` matches `a`.
        if !reserved && let Some(rest) = self.below.get("#") {
            found.extend(&rest.here);
        }
        let Some((level, levels)) = levels.split_first() else {
            found.extend(&self.here);
            return;
        };
        if !reserved && let Some(any) = self.below.get("+") {
            any.collect(levels, Depth::Deeper, found);
        }
        // A topic cannot contain a wildcard; should one come, it must not match the filter of the same name twice.
        if *level != "+"
            && *level != "#"
            && let Some(same) = self.below.get(*level)
        {
            same.collect(levels, Depth::Deeper, found);
        }
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
            prop_assert!(tree.root.below.is_empty());
        }
    }
}

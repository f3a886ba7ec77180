//! Which subscriptions match a topic: a tree with one level of topic filter per node.
//!
//! The nodes lie side by side and name each other by index, so that neither a removal nor the end of the tree recurses.
//! A topic visits each node once at most: a node has one node above it, and its depth is that of the level it is asked
//! about.

use super::small_map::SmallMap;
use std::hash::Hash;

/// Filters, each with the values of those who subscribed to it, by key.
#[derive(Debug)]
pub(crate) struct FilterTree<K, V> {
    /// The root is the first.
    nodes: Vec<Node<K, V>>,
    /// Nodes that nothing leads to.
    free: Vec<NodeIndex>,
}

/// Where a node is. Indexes come from the nodes themselves, which name none that is free.
type NodeIndex = u32;
const ROOT: NodeIndex = 0;

#[derive(Debug)]
struct Node<K, V> {
    below: SmallMap<Box<str>, NodeIndex>,
    /// Below `+`, and below `#`. The root is below nothing.
    one: Option<NodeIndex>,
    all: Option<NodeIndex>,
    here: SmallMap<K, V>,
}

impl<K: Hash + Eq, V> Default for FilterTree<K, V> {
    fn default() -> Self {
        Self { nodes: vec![Node::new()], free: Vec::new() }
    }
}

impl<K: Hash + Eq, V> FilterTree<K, V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes[ROOT as usize].is_bare()
    }

    /// Subscribes to a filter. Yields the value that this one replaces.
    pub(crate) fn insert(&mut self, filter: &str, key: K, value: V) -> Option<V> {
        let mut at = ROOT;
        for level in filter.split('/') {
            at = match self.node(at).below(level) {
                Some(below) => below,
                None => self.grow(at, level),
            };
        }
        self.node_mut(at).here.insert(key, value)
    }

    /// Ends a subscription. Yields its value.
    pub(crate) fn remove(&mut self, filter: &str, key: &K) -> Option<V> {
        let mut path = Vec::new();
        let mut at = ROOT;
        for level in filter.split('/') {
            path.push((at, level));
            at = self.node(at).below(level)?;
        }
        let value = self.node_mut(at).here.remove(key)?;
        while self.node(at).is_bare()
            && let Some((above, level)) = path.pop()
        {
            self.free.push(at);
            at = above;
            self.node_mut(at).cut(level);
        }
        if self.is_empty() {
            *self = Self::default();
        }
        Some(value)
    }

    /// All that match a topic, in no order. Who has several filters that match comes several times.
    pub(crate) fn for_each_match(&self, topic: &str, mut found: impl FnMut(&K, &V)) {
        // A wildcard on the first level does not match a topic that starts with `$` (MQTT 5, 4.7.2).
        let mut is_reserved = topic.starts_with('$');
        let mut open = Vec::new();
        let mut next = Some((ROOT, Some(topic)));
        while let Some((at, rest)) = next.take().or_else(|| open.pop()) {
            let node = self.node(at);
            // `#` also matches the level above it: `a/#` matches `a`.
            if let Some(all) = node.all.filter(|_| !is_reserved) {
                self.node(all).here.for_each(&mut found);
            }
            let Some(rest) = rest else {
                node.here.for_each(&mut found);
                continue;
            };
            let (level, rest) = rest.split_once('/').map_or((rest, None), |(level, rest)| (level, Some(rest)));
            if let Some(one) = node.one.filter(|_| !is_reserved) {
                open.push((one, rest));
            }
            next = node.below.get(level).map(|same| (*same, rest));
            is_reserved = false;
        }
    }

    fn grow(&mut self, above: NodeIndex, level: &str) -> NodeIndex {
        let index = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::new());
            NodeIndex::try_from(self.nodes.len() - 1).expect("four thousand million nodes do not fit into memory")
        });
        let node = self.node_mut(above);
        match level {
            "+" => node.one = Some(index),
            "#" => node.all = Some(index),
            word => _ = node.below.insert(word.into(), index),
        }
        index
    }

    fn node(&self, at: NodeIndex) -> &Node<K, V> {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: NodeIndex) -> &mut Node<K, V> {
        &mut self.nodes[at as usize]
    }
}

impl<K: Hash + Eq, V> Node<K, V> {
    const fn new() -> Self {
        Self { below: SmallMap::new(), one: None, all: None, here: SmallMap::new() }
    }

    fn below(&self, level: &str) -> Option<NodeIndex> {
        match level {
            "+" => self.one,
            "#" => self.all,
            word => self.below.get(word).copied(),
        }
    }

    fn cut(&mut self, level: &str) {
        match level {
            "+" => self.one = None,
            "#" => self.all = None,
            word => _ = self.below.remove(word),
        }
    }

    fn is_bare(&self) -> bool {
        self.here.is_empty() && self.below.is_empty() && self.one.is_none() && self.all.is_none()
    }
}

#[cfg(test)]
mod tests;

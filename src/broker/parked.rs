//! The publications that wait for sessions without a connection, by topic. Pure.

use std::collections::{BTreeMap, BTreeSet};

use mqtt5::validation::{parse_shared_subscription, topic_matches_filter};

/// How much may be parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ParkedLimits {
    /// Publications.
    pub(super) publications: usize,
    /// Topics. The bridge works on a limited number of topics at a time, and each of these is one of them.
    pub(super) topics: usize,
}

/// Parked publications.
#[derive(Debug)]
pub(super) struct Parked {
    limits: ParkedLimits,
    topics: BTreeMap<u64, String>,
    by_topic: BTreeMap<String, BTreeSet<u64>>,
}

impl Parked {
    pub(super) fn new(limits: ParkedLimits) -> Self {
        Self { limits, topics: BTreeMap::new(), by_topic: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, id: u64, topic: &str) {
        self.topics.insert(id, topic.to_owned());
        self.by_topic.entry(topic.to_owned()).or_default().insert(id);
    }

    pub(super) fn remove(&mut self, id: u64) {
        let Some(topic) = self.topics.remove(&id) else { return };
        if let Some(ids) = self.by_topic.get_mut(&topic) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_topic.remove(&topic);
            }
        }
    }

    /// Those that match one of these filters, in order.
    pub(super) fn read_by<'a>(&self, filters: impl Iterator<Item = &'a str>) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        for filter in filters.map(|filter| parse_shared_subscription(filter).0) {
            // All topics that begin like the filter lie side by side.
            let beginning = filter.split(['+', '#']).next().unwrap_or_default().trim_end_matches('/');
            let candidates = self.by_topic.range(beginning.to_owned()..);
            for (topic, ids) in candidates.take_while(|(topic, _)| topic.starts_with(beginning)) {
                if topic_matches_filter(topic, filter) {
                    found.extend(ids);
                }
            }
        }
        found
    }

    /// Those that are to be taken back because there are too many. A topic goes as a whole, so that its order survives.
    pub(super) fn excess(&self) -> BTreeSet<u64> {
        let (mut found, mut topics) = (BTreeSet::new(), 0);
        for (id, topic) in &self.topics {
            let few = self.topics.len() - found.len() <= self.limits.publications;
            if few && self.by_topic.len() - topics <= self.limits.topics {
                break;
            }
            if !found.contains(id) {
                found.extend(&self.by_topic[topic]);
                topics += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(publications: usize, topics: usize) -> Parked {
        let mut parked = Parked::new(ParkedLimits { publications, topics });
        for (id, topic) in [(1, "a/others/x"), (2, "b/others/x"), (3, "a/others/y"), (4, "a/others/x")] {
            parked.insert(id, topic);
        }
        parked
    }

    fn read_by(parked: &Parked, filters: &[&str]) -> Vec<u64> {
        parked.read_by(filters.iter().copied()).into_iter().collect()
    }

    #[test]
    fn a_filter_finds_what_it_matches() {
        let parked = parked(10, 10);
        assert_eq!(read_by(&parked, &["a/others/x"]), [1, 4]);
        assert_eq!(read_by(&parked, &["a/others/+", "b/#"]), [1, 2, 3, 4]);
        assert_eq!(read_by(&parked, &["a/others/x/#"]), [1, 4]);
        assert_eq!(read_by(&parked, &["+/others/x"]), [1, 2, 4]);
        assert_eq!(read_by(&parked, &["$share/g/b/others/+"]), [2]);
        assert_eq!(read_by(&parked, &["c/#", "a"]), [0; 0]);
    }

    #[test]
    fn what_was_removed_is_not_found() {
        let mut parked = parked(10, 10);
        parked.remove(2);
        parked.remove(2);
        assert_eq!(read_by(&parked, &["#"]), [1, 3, 4]);
        assert_eq!(parked.by_topic.len(), 2);
    }

    #[test]
    fn too_many_go_topic_by_topic_from_the_oldest_on() {
        assert!(parked(4, 3).excess().is_empty());
        assert_eq!(parked(3, 3).excess(), BTreeSet::from([1, 4]));
        assert_eq!(parked(1, 3).excess(), BTreeSet::from([1, 2, 4]));
        assert_eq!(parked(4, 2).excess(), BTreeSet::from([1, 4]));
        assert_eq!(parked(4, 0).excess(), BTreeSet::from([1, 2, 3, 4]));
    }
}

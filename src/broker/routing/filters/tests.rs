use super::*;
use crate::chat::filter::matches;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Levels of a deep topic.
const DEEP: usize = 128;

fn level() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "", "$x", "self"]).prop_map(str::to_owned)
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![2 => level(), 1 => Just("+".to_owned())];
    (prop::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, all)| {
        levels.extend((all || levels.is_empty()).then(|| "#".to_owned()));
        levels.join("/")
    })
}

fn found<V: Copy + Ord>(tree: &FilterTree<u32, V>, topic: &str) -> Vec<(u32, V)> {
    let mut found = Vec::new();
    tree.for_each_match(topic, |key, value| found.push((*key, *value)));
    found.sort_unstable();
    found
}

/// Every node is free, or one other node leads to it; no node but the root is bare.
fn check_nodes<V>(tree: &FilterTree<u32, V>) {
    let mut led_to: Vec<NodeIndex> = tree.free.clone();
    for (index, node) in tree.nodes.iter().enumerate() {
        assert_eq!(node.is_bare(), tree.free.contains(&u32::try_from(index).unwrap()) || tree.is_empty());
        node.below.for_each(|_, below| led_to.push(*below));
        led_to.extend(node.one.iter().chain(&node.all));
    }
    led_to.sort_unstable();
    assert!(led_to.into_iter().eq(1..u32::try_from(tree.nodes.len()).unwrap()));
}

proptest! {
    #[test]
    fn finds_what_a_plain_list_finds_whatever_comes_and_goes(
        steps in prop::collection::vec((any::<bool>(), filter(), 0..40_u32), 0..120),
        topics in prop::collection::vec(topic(), 1..6),
    ) {
        let (mut tree, mut list) = (FilterTree::default(), BTreeMap::new());
        for (value, (subscribe, filter, key)) in steps.into_iter().enumerate() {
            if subscribe {
                prop_assert_eq!(tree.insert(&filter, key, value), list.insert((filter, key), value));
            } else {
                prop_assert_eq!(tree.remove(&filter, &key), list.remove(&(filter, key)));
            }
            check_nodes(&tree);
        }
        for topic in &topics {
            let matching = list.iter().filter(|((filter, _), _)| matches(filter, topic));
            let mut expected: Vec<_> = matching.map(|((_, key), value)| (*key, *value)).collect();
            expected.sort_unstable();
            prop_assert_eq!(found(&tree, topic), expected);
        }
        prop_assert_eq!(tree.is_empty(), list.is_empty());
        for (filter, key) in list.keys() {
            prop_assert!(tree.remove(filter, key).is_some());
        }
        prop_assert!(tree.is_empty() && tree.nodes.len() == 1 && tree.free.is_empty());
    }
}

#[test]
fn thousands_below_one_level_and_thousands_at_one_filter_come_and_go() {
    let mut tree = FilterTree::default();
    let filters: Vec<_> = (0..5_000).map(|user| format!("u{user}/others/messages")).collect();
    for (key, filter) in (0..).zip(&filters) {
        tree.insert(filter, key, 1);
        tree.insert("_bridge/status", key, 2);
    }
    assert_eq!(found(&tree, "u4711/others/messages"), [(4711, 1)]);
    assert_eq!(found(&tree, "_bridge/status").len(), 5_000);
    for (key, filter) in (0..).zip(&filters).take(4_990) {
        assert_eq!((tree.remove(filter, &key), tree.remove("_bridge/status", &key)), (Some(1), Some(2)));
    }
    assert_eq!(found(&tree, "_bridge/status"), (4_990..5_000).map(|key| (key, 2)).collect::<Vec<_>>());
    assert_eq!(found(&tree, "u4999/others/messages"), [(4_999, 1)]);
    check_nodes(&tree);
}

#[test]
fn a_topic_visits_no_node_twice_however_many_ways_lead_through_the_wildcards() {
    // Every filter of `+` and `a` of 10 levels: 2^10 ways through a topic of as many. Deeper, each goes on by itself.
    let mut tree = FilterTree::default();
    let mut expected = BTreeSet::new();
    for bits in 0..1_u32 << 10 {
        let head: Vec<_> = (0..10).map(|bit| if bits >> bit & 1 == 1 { "+" } else { "a" }).collect();
        let filter = format!("{}/{}", head.join("/"), vec!["+"; DEEP - 10].join("/"));
        tree.insert(&filter, bits, ());
        expected.insert((bits, ()));
    }
    // Ends if the work is by nodes, of which there are a hundred thousand; not if it is by ways, of which there are 2^128.
    assert_eq!(found(&tree, &vec!["a"; DEEP].join("/")), expected.into_iter().collect::<Vec<_>>());
    assert_eq!(found(&tree, &vec!["a"; DEEP - 1].join("/")), []);
}

#[test]
fn a_filter_as_deep_as_a_packet_is_one_like_any_other() {
    let deep = "a/".repeat(32_767);
    let mut tree = FilterTree::default();
    tree.insert(&deep, 1, ());
    tree.insert(&(deep.clone() + "b"), 2, ());
    assert_eq!(found(&tree, &deep), [(1, ())]);
    assert_eq!(tree.remove(&deep, &1), Some(()));
    assert_eq!(found(&tree, &deep), []);
    assert_eq!(found(&tree, &(deep + "b")), [(2, ())]);
    drop(tree);
}

#[test]
fn a_topic_with_a_wildcard_matches_no_filter_of_the_same_name_twice() {
    let mut tree = FilterTree::default();
    tree.insert("a/+", 1, ());
    tree.insert("a/#", 2, ());
    assert_eq!(found(&tree, "a/+"), [(1, ()), (2, ())]);
    assert_eq!(found(&tree, "a/#"), [(1, ()), (2, ())]);
}

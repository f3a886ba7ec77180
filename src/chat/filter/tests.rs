use super::*;
use proptest::prelude::*;

/// What matches by the words of the specification, level by level and with recursion.
fn matches_by_the_book(filter: &[&str], topic: &[&str], is_first: bool) -> bool {
    let is_reserved = is_first && topic.first().is_some_and(|level| level.starts_with('$'));
    match (filter.split_first(), topic.split_first()) {
        (Some((&"#", _)), _) => !is_reserved,
        (None, None) => true,
        (Some((&"+", filter)), Some((_, topic))) => !is_reserved && matches_by_the_book(filter, topic, false),
        (Some((word, filter)), Some((level, topic))) => word == level && matches_by_the_book(filter, topic, false),
        _ => false,
    }
}

fn level() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "", "$x", "ab"]).prop_map(str::to_owned)
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 1 => Just("+".to_owned())];
    (prop::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, all)| {
        levels.extend(all.then(|| "#".to_owned()));
        levels.join("/")
    })
}

proptest! {
    #[test]
    fn a_filter_matches_as_the_specification_says(filter in filter(), topic in topic()) {
        let [by_filter, by_topic] = [&filter, &topic].map(|text| text.split('/').collect::<Vec<_>>());
        prop_assert_eq!(matches(&filter, &topic), matches_by_the_book(&by_filter, &by_topic, true));
    }

    #[test]
    fn whatever_matches_begins_with_the_literal_prefix(filter in filter(), topic in topic()) {
        prop_assert!(!matches(&filter, &topic) || topic.starts_with(literal_prefix(&filter)));
    }

    #[test]
    fn a_filter_without_a_wildcard_matches_itself_only(topic in topic(), other in topic()) {
        prop_assert_eq!(matches(&topic, &other), topic == other);
    }

    #[test]
    fn nothing_makes_it_panic(filter in ".{0,40}", topic in ".{0,40}") {
        let (_, _) = (matches(&filter, &topic), literal_prefix(&filter));
        let (_, _) = (check(&filter), Shared::parse(&format!("$share/{filter}")));
    }
}

#[test]
fn the_examples_of_the_specification() {
    for (filter, topic) in [
        // 4.7.1.2
        ("sport/tennis/player1/#", "sport/tennis/player1"),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
        ("sport/#", "sport"),
        ("#", "anything/at/all"),
        // 4.7.1.3
        ("sport/tennis/+", "sport/tennis/player1"),
        ("sport/+", "sport/"),
        ("+/+", "/finance"),
        ("/+", "/finance"),
        ("+", "finance"),
        ("+/tennis/#", "x/tennis"),
        // 4.7.2
        ("$SYS/#", "$SYS/uptime"),
        ("$SYS/monitor/+", "$SYS/monitor/Clients"),
        ("a/+", "a/$b"),
    ] {
        assert!(matches(filter, topic), "{filter} {topic}");
    }
    for (filter, topic) in [
        ("sport/tennis/+", "sport/tennis/player1/ranking"),
        ("sport/+", "sport"),
        ("+", "/finance"),
        ("#", "$SYS/uptime"),
        ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ("sport/tennis", "sport/Tennis"),
        ("sport", "sport/"),
        ("/sport", "sport"),
        ("sport/tennis/#", "sport"),
    ] {
        assert!(!matches(filter, topic), "{filter} {topic}");
    }
}

#[test]
fn what_a_filter_may_be() {
    for good in ["#", "+", "/", "//", "a/+/b/#", "+/#", "/#", "sport/+/player1", "a b", "$SYS/#", "$share", "ü/€"] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for bad in ["sport/tennis#", "sport/tennis/#/ranking", "sport+", "+a", "a/#b", "##", "#/", "#/#", "++", "a/+b/c"] {
        assert_eq!(check(bad), Err(FilterError::Wildcard), "{bad}");
    }
    assert_eq!(check(""), Err(FilterError::Empty));
    assert_eq!(check("a\0"), Err(FilterError::Nul));
    assert_eq!(check(&"a".repeat(MAX_BYTES)), Ok(()));
    assert_eq!(check(&"a".repeat(MAX_BYTES + 1)), Err(FilterError::TooLong));
    assert_eq!(check(&vec!["+"; MAX_LEVELS].join("/")), Ok(()));
    assert_eq!(check(&vec!["+"; MAX_LEVELS + 1].join("/")), Err(FilterError::TooDeep));
}

#[test]
fn a_shared_subscription_has_a_group_and_a_filter() {
    let parsed = |filter| Shared::parse(filter).map(|shared| shared.map(|Shared { group, filter }| (group, filter)));
    assert_eq!(parsed("$share/g/a/+"), Some(Ok(("g", "a/+"))));
    assert_eq!(parsed("$share/g//a"), Some(Ok(("g", "/a"))));
    assert_eq!(parsed("$share/$g/#"), Some(Ok(("$g", "#"))));
    for plain in ["$share", "share/g/a", "a/$share/g/b", "$SHARE/g/a", "/$share/g/a"] {
        assert_eq!(parsed(plain), None, "{plain}");
    }
    for bad in ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a", "$share/a+b/c"] {
        assert_eq!(parsed(bad), Some(Err(FilterError::Group)), "{bad}");
    }
    assert_eq!(parsed("$share/g/a#"), Some(Err(FilterError::Wildcard)));
}

#[test]
fn the_literal_prefix_ends_before_the_first_wildcard() {
    for (filter, prefix) in [
        ("a/b", "a/b"),
        ("a/b/#", "a/b"),
        ("a/+/c", "a/"),
        ("#", ""),
        ("+/a", ""),
        ("/#", ""),
        ("/+", "/"),
        ("a/+/#", "a/"),
    ] {
        assert_eq!(literal_prefix(filter), prefix, "{filter}");
    }
}

#[test]
fn a_subscription_names_whoever_has_its_first_level_also_where_it_is_shared() {
    for filter in ["eve", "eve/#", "eve/self/presence", "eve/", "$share/g/eve/+/messages", "$share/eve/eve"] {
        assert!(names(filter, "eve"), "{filter}");
    }
    for filter in ["evelyn/#", "+/eve", "#", "$share/eve/+/messages", "$share/g/bob/eve", "$share/eve", "a/eve"] {
        assert!(!names(filter, "eve"), "{filter}");
    }
}

use super::*;
use proptest::prelude::*;

fn entry(bytes: u64, user: Option<&str>, expires_at: Option<u64>) -> RetainedEntry {
    RetainedEntry { bytes, user: user.map(Into::into), expires_at }
}

fn all(topics: &RetainedTopics, filter: &str, page: usize) -> Vec<Arc<str>> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let matching = topics.matching(filter, after.as_deref(), page);
        assert!(matching.topics.len() <= page);
        found.extend(matching.topics);
        after = matching.after;
        if after.is_none() {
            return found;
        }
    }
}

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "a-", "", "$x"])
}

proptest! {
    #[test]
    fn counts_and_finds_what_a_plain_list_counts_and_finds(
        steps in prop::collection::vec(
            (prop::collection::vec(level(), 1..4), prop::option::of((0..9_u64, prop::option::of(0..3_u8), prop::option::of(0..9_u64)))),
            0..60,
        ),
        filter in prop::sample::select(vec![
            "#", "+", "a", "a/#", "a/+", "+/a", "a-/#", "/#", "$x/#", "a/+/b", "b/a/#", "+/a/#", "+/a-/b", "+/+/a", "+/a/b",
            "a/+/#", "+/+", "a/+/a/#", "a//+", "+//#", "+/$x/+",
        ]),
        page in 1..5_usize,
        now in 0..9_u64,
    ) {
        let (mut topics, mut list) = (RetainedTopics::default(), BTreeMap::new());
        for (levels, kept) in steps {
            let topic: Arc<str> = levels.join("/").into();
            match kept {
                Some((bytes, user, expires_at)) => {
                    let kept = entry(bytes, user.map(|user| user.to_string()).as_deref(), expires_at);
                    prop_assert_eq!(topics.keep(Arc::clone(&topic), kept.clone()), list.insert(topic, kept));
                }
                None => prop_assert_eq!(topics.clear(&topic), list.remove(&topic)),
            }
        }
        let of = |user: Option<&str>| {
            let own = list.values().filter(|entry| user.is_none() || entry.user.as_deref() == user);
            own.fold(Usage::default(), |sum, entry| Usage { messages: sum.messages + 1, bytes: sum.bytes + entry.bytes })
        };
        prop_assert_eq!(topics.total(), of(None));
        for user in ["0", "1", "2"] {
            prop_assert_eq!(topics.usage_of(user), of(Some(user)));
        }
        let expected: Vec<_> = list.keys().filter(|topic| matches(filter, topic)).cloned().collect();
        prop_assert_eq!(all(&topics, filter, page), expected);
        let due = list.iter().filter(|(_, entry)| entry.expires_at.is_some_and(|at| at <= now));
        let expired = topics.expired(now, usize::MAX);
        prop_assert_eq!(expired.len(), due.count());
        prop_assert!(expired.iter().all(|topic| list[topic].expires_at.is_some_and(|at| at <= now)));
        prop_assert_eq!(topics.expired(now, 1), expired.into_iter().take(1).collect::<Vec<_>>());
        for topic in list.keys() {
            topics.clear(topic);
        }
        prop_assert!(topics.users.is_empty() && topics.expiries.is_empty() && topics.total() == Usage::default());
    }
}

#[test]
fn one_look_ends_after_some_thousand_topics_and_the_next_one_goes_on() {
    let mut topics = RetainedTopics::default();
    for number in 0..SCAN_MAX * 2 {
        topics.keep(format!("u{number:06}/self/profile").into(), entry(1, None, None));
    }
    topics.keep("v/self/presence".into(), entry(1, None, None));
    let first = topics.matching("+/self/presence", None, 10);
    assert_eq!(first, Matching { topics: Vec::new(), after: Some("u000999/self/profile".into()), looked: SCAN_MAX });
    assert_eq!(all(&topics, "+/self/presence", 10), ["v/self/presence".into()]);
    // Not one of the thousands is looked at.
    let own = topics.matching("v/self/#", None, 10);
    assert_eq!(own, Matching { topics: vec!["v/self/presence".into()], after: None, looked: 1 });
}

#[test]
fn what_another_word_of_the_filter_excludes_is_not_looked_at() {
    let mut topics = RetainedTopics::default();
    for number in 0..10_000 {
        topics.keep(format!("bal1/self/x/{number}").into(), entry(1, None, None));
        topics.keep(format!("bal2/self/x/{number}").into(), entry(1, None, None));
    }
    topics.keep("bal2/self/y".into(), entry(1, None, None));
    for (filter, found) in [("+/others/x1", None), ("+/self/y", Some("bal2/self/y")), ("bal1/+/y", None), ("+/+", None)]
    {
        let matching = topics.matching(filter, None, 10);
        assert_eq!(matching.topics.first().map(|topic| &**topic), found, "{filter}");
        assert!(matching.looked <= 5 && matching.after.is_none(), "{filter}: {}", matching.looked);
    }
}

#[test]
fn the_limits_count_what_a_message_replaces_only_once() {
    let usage = |messages, bytes| Usage { messages, bytes };
    let limits = RetainedLimits { total: usage(3, 100), per_user: usage(2, 60) };
    let mut topics = RetainedTopics::default();
    let alice = |bytes| entry(bytes, Some("alice"), None);
    topics.keep("a".into(), alice(30));
    topics.keep("b".into(), alice(30));
    assert!(topics.fits("a", &alice(30), &limits) && topics.fits("a", &alice(0), &limits));
    assert!(!topics.fits("a", &alice(31), &limits), "bytes of the user");
    assert!(!topics.fits("c", &alice(0), &limits), "messages of the user");
    // What takes the place of another user's message counts for who published it.
    assert!(topics.fits("a", &entry(60, Some("bob"), None), &limits));
    assert!(!topics.fits("a", &entry(61, Some("bob"), None), &limits));
    assert!(topics.fits("c", &entry(40, None, None), &limits) && !topics.fits("c", &entry(41, None, None), &limits));
    topics.keep("c".into(), entry(40, None, None));
    assert!(!topics.fits("d", &entry(0, None, None), &limits), "messages in all");
    let lower = RetainedLimits { total: usage(1, 1), per_user: usage(1, 1) };
    assert!(topics.fits("a", &alice(30), &lower) && !topics.fits("a", &alice(31), &lower));
}

//! The access rules: who may write and read which topic. Pure.
//!
//! | role | publish | read |
//! | --- | --- | --- |
//! | BAL `b` | `b/self/#` | `b/<anything but self>/#`, `+/self/presence`, `_bridge/status` |
//! | user `u` | `u/self/#` | `u/#`, `+/self/presence`, `+/self/profile`, `_bridge/status` |
//! | admin | `_bridge/commands` | `#` |
//! | anonymous (loopback only) | all but `+/others/#`, `_bridge/#` and `$...` | everything |
//!
//! A subscription is granted if its filter matches any topic that may be read, and then every delivery is checked: who
//! subscribes to `#` sees what the table allows and nothing else. A shared subscription is granted only if *every* topic
//! that it matches may be read, because what is withheld from one member no other member gets.

use std::sync::Arc;

use crate::mqtt::{Principal, Proof, Role};

use super::identity::Identity;

/// What one client may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rights {
    /// Nothing: not logged in.
    #[default]
    Nobody,
    /// What anybody may who reaches the loopback address.
    Anonymous,
    /// What the role of somebody who logged in allows.
    Known(Identity),
}

/// So many levels of a topic make a difference to the rules.
const DEPTH: usize = 4;
/// The first levels of a topic; absent where it is shorter.
type Levels<'a> = [Option<&'a str>; DEPTH];
/// A level that no rule names: no user name has a space.
const OTHER: &str = " ";

impl Rights {
    /// Whether a message, or a will, may be published on `topic`.
    pub fn may_publish(&self, topic: &str) -> bool {
        if topic.is_empty() || topic.contains(['+', '#', '\0']) {
            return false;
        }
        match self {
            Self::Nobody => false,
            Self::Anonymous => is_open_to_clients(topic),
            Self::Known(Identity { role: Role::Admin, .. }) => topic == "_bridge/commands",
            Self::Known(Identity { user, role: Role::Bal | Role::User }) => {
                matches!(levels(topic), [Some(owner), Some("self"), ..] if owner == &**user)
            }
        }
    }

    /// Whether a message on `topic` may be delivered.
    pub fn may_read(&self, topic: &str) -> bool {
        self.reads(levels(topic))
    }

    /// Whether a subscription to `filter` is granted. The filter is well-formed.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        match filter.strip_prefix("$share/") {
            None => self.samples(filter).into_iter().any(|topic| self.reads(topic)),
            Some(shared) => shared
                .split_once('/')
                .is_some_and(|(_name, filter)| self.samples(filter).into_iter().all(|topic| self.reads(topic))),
        }
    }

    /// As whom a client publishes on `topic`, if it may. `device` is which of its user's devices it is.
    pub(super) fn principal(&self, device: Option<Arc<str>>, topic: &str) -> Option<Principal> {
        match self {
            Self::Nobody => None,
            Self::Anonymous => Some(Principal::anonymous(topic)),
            Self::Known(Identity { user, role }) => {
                Some(Principal { name: Arc::clone(user), role: *role, device, proof: Proof::Login })
            }
        }
    }

    fn reads(&self, topic: Levels<'_>) -> bool {
        let identity = match self {
            Self::Nobody => return false,
            Self::Anonymous => return true,
            Self::Known(identity) => identity,
        };
        let [Some(first), second, ..] = topic else {
            return false;
        };
        if first.starts_with('$') {
            return false;
        }
        let own = first == &*identity.user;
        let public =
            matches!(topic, [_, Some("self"), Some("presence"), None] | [Some("_bridge"), Some("status"), None, None]);
        match identity.role {
            Role::Admin => true,
            Role::Bal => public || own && second.is_some_and(|second| second != "self"),
            Role::User => public || own || matches!(topic, [_, Some("self"), Some("profile"), None]),
        }
    }

    /// Topics that `filter` matches: one for each way in which the rules can tell them apart. A wildcard stands for the
    /// words that the rules know at its place, and for any other.
    fn samples<'a>(&'a self, filter: &'a str) -> Vec<Levels<'a>> {
        let (fixed, rest) = match filter.strip_suffix('#') {
            Some("") => (Vec::new(), Rest::Any),
            Some(parents) => (parents.strip_suffix('/').unwrap_or(parents).split('/').collect(), Rest::Any),
            None => (filter.split('/').collect(), Rest::Nothing),
        };
        let mut samples: Vec<Levels<'_>> = vec![[None; DEPTH]];
        for place in 0..DEPTH {
            let choice = match (fixed.get(place), rest) {
                (Some(&"+"), _) => self.words(place),
                (Some(level), _) => vec![Some(*level)],
                (None, Rest::Nothing) => vec![None],
                (None, Rest::Any) if place == 0 => self.words(place),
                (None, Rest::Any) => self.words(place).into_iter().chain([None]).collect(),
            };
            let ended = |sample: &Levels<'_>| place > 0 && sample[place - 1].is_none();
            samples = samples
                .iter()
                .flat_map(|sample| {
                    let next = if ended(sample) { &[None][..] } else { &choice[..] };
                    next.iter().map(|level| {
                        let mut longer = *sample;
                        longer[place] = *level;
                        longer
                    })
                })
                .collect();
        }
        samples
    }

    /// The words that [`Self::reads`] looks for at one place, and one that it does not look for. At the first place a
    /// wildcard does not stand for what starts with `$` (MQTT 5, 4.7.2).
    fn words(&self, place: usize) -> Vec<Option<&str>> {
        match (place, self) {
            (0, Self::Known(identity)) => vec![Some(&*identity.user), Some("_bridge"), Some(OTHER)],
            (1, Self::Known(_)) => vec![Some("self"), Some("status"), Some(OTHER)],
            (2, Self::Known(_)) => vec![Some("presence"), Some("profile"), Some(OTHER)],
            _ => vec![Some(OTHER)],
        }
    }
}

/// What follows the levels that a filter names.
#[derive(Clone, Copy)]
enum Rest {
    Nothing,
    Any,
}

fn levels(topic: &str) -> Levels<'_> {
    let mut levels = topic.split('/');
    std::array::from_fn(|_| levels.next())
}

/// What even friends leave alone: `{user}/others/...` and `_bridge/...` are the bridge's, `$...` the broker's, and what
/// has no owner has no outbox.
fn is_open_to_clients(topic: &str) -> bool {
    let [owner, suffix, ..] = levels(topic);
    let owner = owner.unwrap_or_default();
    owner != "_bridge"
        && !owner.starts_with('$')
        && suffix != Some("others")
        && !(owner.is_empty() && suffix == Some("self"))
}

#[cfg(test)]
mod tests {
    use mqtt5::validation::{parse_shared_subscription, topic_matches_filter, validate_topic_filter};
    use proptest::prelude::*;

    use super::*;

    /// Every word of the rules, a user of whom they speak, one of whom they do not, and a reserved one.
    const WORDS: [&str; 9] = ["alice", "bob", "self", "others", "presence", "profile", "status", "_bridge", "$x"];

    fn known(user: &str, role: Role) -> Rights {
        Rights::Known(Identity { user: user.into(), role })
    }

    fn rights() -> [Rights; 5] {
        let [bal, user, admin] = [Role::Bal, Role::User, Role::Admin].map(|role| known("alice", role));
        [bal, user, admin, Rights::Anonymous, Rights::Nobody]
    }

    /// All topics of one to four of the words.
    fn topics() -> Vec<String> {
        let mut all: Vec<String> = WORDS.iter().map(ToString::to_string).collect();
        let mut longest = all.clone();
        for _ in 1..4 {
            longest =
                longest.iter().flat_map(|topic| WORDS.iter().map(move |word| format!("{topic}/{word}"))).collect();
            all.extend_from_slice(&longest);
        }
        all
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => prop::sample::select(WORDS.to_vec()), 2 => Just("+")].prop_map(str::to_owned);
        (prop::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, all)| {
            if all || levels.is_empty() {
                levels.truncate(3);
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn a_subscription_is_granted_for_any_topic_and_a_shared_one_for_all(filter in filter()) {
            let shared = format!("$share/group/{filter}");
            prop_assert!(validate_topic_filter(&filter).is_ok());
            prop_assert_eq!(parse_shared_subscription(&shared), (&*filter, Some("group")));
            let matched: Vec<_> = topics().into_iter().filter(|topic| topic_matches_filter(topic, &filter)).collect();
            for rights in rights() {
                let any = matched.iter().any(|topic| rights.may_read(topic));
                let all = matched.iter().all(|topic| rights.may_read(topic));
                prop_assert_eq!(rights.may_subscribe(&filter), any, "{:?} {}", rights, filter);
                prop_assert_eq!(rights.may_subscribe(&shared), all, "{:?} {}", rights, shared);
            }
        }
    }

    #[test]
    fn publishing() {
        let [bal, user, admin, anonymous, nobody] = rights();
        for topic in ["alice/self/messages", "alice/self/devices/phone", "alice/self"] {
            assert!(bal.may_publish(topic) && user.may_publish(topic) && anonymous.may_publish(topic), "{topic}");
            assert!(!admin.may_publish(topic) && !nobody.may_publish(topic), "{topic}");
        }
        for topic in ["bob/self/messages", "others/self/x", "a", "a/b/others", "x/_bridge"] {
            assert!(anonymous.may_publish(topic), "{topic}");
        }
        for topic in
            ["bob/self/messages", "alice", "alice/my/answers", "alice/others/messages", "alice//self", "Alice/self/x"]
        {
            assert!(![&bal, &user, &admin, &nobody].iter().any(|rights| rights.may_publish(topic)), "{topic}");
        }
        for topic in
            ["bal1/others/messages", "alice/others", "_bridge/status", "_bridge", "$SYS/x", "/others/x", "/self/x"]
        {
            assert!(!rights().iter().any(|rights| rights.may_publish(topic)), "{topic}");
        }
        assert!(admin.may_publish("_bridge/commands"));
        assert!(![bal, user, anonymous, nobody].iter().any(|rights| rights.may_publish("_bridge/commands")));
    }

    #[test]
    fn no_topic_with_a_wildcard_or_nul_is_published() {
        for topic in ["", "alice/self/+", "alice/self/#", "alice/self/a\0", "_bridge/commands\0", "a+"] {
            assert!(!rights().iter().any(|rights| rights.may_publish(topic)), "{topic:?}");
        }
    }

    #[test]
    fn reading() {
        let [bal, user, admin, anonymous, nobody] = rights();
        let readers = |topic: &str| [&bal, &user, &admin, &anonymous, &nobody].map(|rights| rights.may_read(topic));
        for topic in
            ["bob/self/presence", "alice/self/presence", "_bridge/status", "alice/others/messages", "alice/my/x"]
        {
            assert_eq!(readers(topic), [true, true, true, true, false], "{topic}");
        }
        for topic in ["bob/self/profile", "alice/self/messages", "alice/self", "alice", "alice/self/devices/phone"] {
            assert_eq!(readers(topic), [false, true, true, true, false], "{topic}");
        }
        for topic in ["bob/self/messages", "bob/others/messages", "bob/self/presence/phone", "_bridge/stats", "bob"] {
            assert_eq!(readers(topic), [false, false, true, true, false], "{topic}");
        }
        assert_eq!(readers("$SYS/uptime"), [false, false, false, true, false]);
    }

    #[test]
    fn subscribing() {
        let [bal, user, ..] = rights();
        for filter in
            ["#", "+/self/+", "alice/others/+", "alice/others/#", "alice/#", "+/+", "_bridge/#", "+/self/presence"]
        {
            assert!(bal.may_subscribe(filter) && user.may_subscribe(filter), "{filter}");
        }
        for filter in ["bob/others/+", "bob/others/#", "$SYS/#", "_bridge/stats"] {
            assert!(!bal.may_subscribe(filter) && !user.may_subscribe(filter), "{filter}");
        }
        assert!(!bal.may_subscribe("+/self/messages") && user.may_subscribe("+/self/messages"));
        assert!(!bal.may_subscribe("alice/self/messages") && user.may_subscribe("alice/self/messages"));
        for filter in [
            "$share/x/#",
            "$share/x/+/others/messages",
            "$share/x/bob/others/messages",
            "$share/x/+/self/+",
            "$share/x",
        ] {
            assert!(!bal.may_subscribe(filter) && !user.may_subscribe(filter), "{filter}");
        }
        for filter in ["$share/x/alice/others/messages", "$share/x/alice/others/#", "$share/x/+/self/presence"] {
            assert!(bal.may_subscribe(filter) && user.may_subscribe(filter), "{filter}");
        }
        assert!(user.may_subscribe("$share/x/alice/#") && !bal.may_subscribe("$share/x/alice/#"));
        // Only the union of two rules covers it.
        assert!(bal.may_subscribe("$share/x/alice/+/presence") && !bal.may_subscribe("$share/x/alice/+/profile"));
    }
}

//! The access rules: who may write and read which topic. One table, which the embedded broker keeps and which
//! `fcm-mqtt-bridge acl` prints for other brokers.
//!
//! A subscription is granted if its filter matches any topic that may be read, and then every delivery is checked: who
//! subscribes to `#` sees what the table allows and nothing else. A shared subscription is granted only if *every* topic
//! that it matches may be read, because what is withheld from one member no other member gets.

use super::principal::{Identity, Principal, Proof, Role};
use std::sync::Arc;

/// Topics that a rule speaks of: those that an MQTT filter matches, but for some. The level `%u` stands for the user's own
/// name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The filter.
    pub filter: &'static str,
    /// What it matches and does not grant, as filters.
    pub but: &'static [&'static str],
}

/// What a role may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Where it publishes.
    pub publish: &'static [Grant],
    /// What it reads.
    pub read: &'static [Grant],
}

const fn all(filter: &'static str) -> Grant {
    Grant { filter, but: &[] }
}

/// A BAL. Below its own name it reads all but its outbox: inbox and response topics.
pub const BAL: Rules = Rules {
    publish: &[all("%u/self/#")],
    read: &[
        all("%u/others/#"),
        Grant { filter: "%u/+/#", but: &["%u/self/#"] },
        all("+/self/presence"),
        all("_bridge/status"),
    ],
};
/// A chat user.
pub const USER: Rules = Rules {
    publish: &[all("%u/self/#")],
    read: &[all("%u/#"), all("+/self/presence"), all("+/self/profile"), all("_bridge/status")],
};
/// Who commands the bridge.
pub const ADMIN: Rules = Rules { publish: &[all("_bridge/commands")], read: &[all("#")] };
/// Whoever reaches the loopback address where nobody logs in. Even friends leave alone what is the bridge's and the
/// broker's, and what has no owner has no outbox.
const ANONYMOUS: Rules = Rules {
    publish: &[Grant { filter: "#", but: &["+/others/#", "_bridge/#", "/self/#"] }],
    read: &[all("#"), all("$SYS/#")],
};
/// The bridge itself, as a client of another broker. (The embedded one is the bridge.)
pub const BRIDGE: Rules = Rules {
    publish: &[all("+/others/#"), all("+/self/#"), all("_bridge/#")],
    read: &[all("+/others/#"), all("+/self/#"), all("_bridge/#")],
};
const NOBODY: Rules = Rules { publish: &[], read: &[] };

impl Rules {
    /// Those of a role.
    pub fn of(role: Role) -> Self {
        match role {
            Role::Bal => BAL,
            Role::User => USER,
            Role::Admin => ADMIN,
        }
    }
}

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
        let is_topic = !topic.is_empty() && !topic.contains(['+', '#', '\0']);
        is_topic && self.allow(self.rules().publish, levels(topic))
    }

    /// Whether a message on `topic` may be delivered.
    pub fn may_read(&self, topic: &str) -> bool {
        self.allow(self.rules().read, levels(topic))
    }

    /// Whether a subscription to `filter` is granted. The filter is well-formed.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let reads = |topic: Levels<'_>| self.allow(self.rules().read, topic);
        match filter.strip_prefix("$share/") {
            None => self.samples(filter).into_iter().any(reads),
            Some(shared) => {
                shared.split_once('/').is_some_and(|(_name, filter)| self.samples(filter).into_iter().all(reads))
            }
        }
    }

    /// As whom a client publishes on `topic`, if it may. `device` is which of its user's devices it is.
    pub fn principal(&self, device: Option<Arc<str>>, topic: &str) -> Option<Principal> {
        match self {
            Self::Nobody => None,
            Self::Anonymous => Some(Principal::anonymous(topic)),
            Self::Known(Identity { user, role }) => {
                Some(Principal { name: Arc::clone(user), role: *role, device, proof: Proof::Login })
            }
        }
    }

    fn rules(&self) -> Rules {
        match self {
            Self::Nobody => NOBODY,
            Self::Anonymous => ANONYMOUS,
            Self::Known(identity) => Rules::of(identity.role),
        }
    }

    /// The name that `%u` stands for; that of somebody without a name is no level of a topic.
    fn user(&self) -> &str {
        match self {
            Self::Known(identity) => &identity.user,
            Self::Nobody | Self::Anonymous => OTHER,
        }
    }

    fn allow(&self, grants: &[Grant], topic: Levels<'_>) -> bool {
        let matches = |filter: &&str| matches(filter, self.user(), topic);
        grants.iter().any(|grant| matches(&grant.filter) && !grant.but.iter().any(matches))
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

    /// The words that the rules of reading have at one place, and one that they do not have. At the first place a
    /// wildcard does not stand for what starts with `$` (MQTT 5, 4.7.2).
    fn words(&self, place: usize) -> Vec<Option<&str>> {
        let filters = self.rules().read.iter().flat_map(|grant| grant.but.iter().chain([&grant.filter]));
        let named = filters.filter_map(|filter| match filter.split('/').nth(place)? {
            "+" | "#" => None,
            "%u" => Some(self.user()),
            word => Some(word),
        });
        let mut words: Vec<_> =
            named.filter(|word| !(place == 0 && word.starts_with('$'))).chain([OTHER]).map(Some).collect();
        words.sort_unstable();
        words.dedup();
        words
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

/// Whether the filter of a rule grants all that another one grants.
pub fn covers(filter: &str, other: &str) -> bool {
    matches(filter, "%u", levels(other))
}

/// Whether the filter of a rule matches a topic. No rule names [`DEPTH`] levels.
fn matches(filter: &str, user: &str, topic: Levels<'_>) -> bool {
    for (place, level) in filter.split('/').enumerate() {
        let found = topic[place];
        let is_for_all = place > 0 || found.is_some_and(|first| !first.starts_with('$'));
        match (level, found) {
            ("#", _) => return is_for_all,
            ("+", Some(_)) if is_for_all => {}
            ("%u", found) => {
                if found != Some(user) {
                    return false;
                }
            }
            (word, Some(found)) if word == found => {}
            _ => return false,
        }
    }
    topic[filter.split('/').count()].is_none()
}

#[cfg(test)]
mod tests {
    use crate::chat::filter::{self, Shared};
    use proptest::prelude::*;

    use super::*;

    /// Every word of the rules, a user of whom they speak, one of whom they do not, and a reserved one.
    const WORDS: [&str; 10] =
        ["alice", "bob", "self", "others", "presence", "profile", "status", "_bridge", "$SYS", "%u"];

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
            prop_assert!(filter::check(&filter).is_ok());
            prop_assert_eq!(Shared::parse(&shared), Some(Ok(Shared { group: "group", filter: &filter })));
            let matched: Vec<_> = topics().into_iter().filter(|topic| filter::matches(&filter, topic)).collect();
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
        for topic in [
            "bob/self/messages",
            "alice",
            "alice/my/answers",
            "alice/others/messages",
            "alice//self",
            "%u/self/messages",
        ] {
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

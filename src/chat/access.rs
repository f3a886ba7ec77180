//! The access rules: who may write and read which topic. One table, which the embedded broker keeps and which
//! `fcm-mqtt-bridge acl` prints for other brokers.
//!
//! A subscription is granted if its filter matches any topic that may be read, and then every delivery is checked: who
//! subscribes to `#` sees what the table allows and nothing else. A shared subscription is granted only if *every* topic
//! that it matches may be shared ([`Rules::share`]), because what one member takes, or is not shown, no other member gets.

use super::principal::{Identity, Principal, Proof, Role};
use super::topic::{Routed, Side, reads_groups};
use std::collections::BTreeSet;
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
    /// Where it publishes what the embedded broker takes as published elsewhere ([`Routed`]). Other brokers cannot do that, so
    /// there it is denied.
    pub routed: &'static [Grant],
    /// What it reads.
    pub read: &'static [Grant],
    /// What of that it may read in a group that shares a subscription. Groups of one name are one, whoever is in them: chat
    /// users share what they alone read, so that none takes its part of what others read. Other brokers do not know this.
    pub share: &'static [Grant],
}

const fn all(filter: &'static str) -> Grant {
    Grant { filter, but: &[] }
}

/// No inbox: what is the bridge's, and what has no owner.
const fn into_inboxes(filter: &'static str) -> Grant {
    Grant { filter, but: &["_bridge/#", "/#"] }
}

/// What a BAL reads. Below its own name that is all but its outbox: inbox and response topics.
const READ_BY_BALS: &[Grant] = &[
    all("%u/others/#"),
    Grant { filter: "%u/+/#", but: &["%u/self/#"] },
    all("+/self/presence"),
    all("_bridge/status"),
];
/// A BAL.
pub const BAL: Rules = Rules { publish: &[all("%u/self/#")], routed: &[], read: READ_BY_BALS, share: READ_BY_BALS };
/// A chat user. What it says comes back to its devices in its inbox, but for what they say of themselves.
pub const USER: Rules = Rules {
    publish: &[all("%u/self/#")],
    routed: &[
        into_inboxes("+/others/messages"),
        into_inboxes("+/others/chatstate"),
        into_inboxes("+/others/invitations"),
        into_inboxes("+/others/calls"),
    ],
    read: &[
        all("%u/others/#"),
        all("%u/self/presence/+"),
        all("+/self/presence"),
        all("+/self/profile"),
        all("_bridge/status"),
    ],
    share: &[all("%u/others/#"), all("%u/self/presence/+")],
};
/// Who commands the bridge.
pub const ADMIN: Rules =
    Rules { publish: &[all("_bridge/commands")], routed: &[], read: &[all("#")], share: &[all("#")] };
/// Whoever reaches the loopback address where nobody logs in. Even friends leave alone what is the bridge's and the
/// broker's, and what has no owner has no outbox.
const ANONYMOUS: Rules = Rules {
    publish: &[Grant { filter: "#", but: &["+/others/#", "_bridge/#", "/self/#"] }],
    routed: &[],
    read: &[all("#"), all("$SYS/#")],
    share: &[all("#"), all("$SYS/#")],
};
/// The bridge itself, as a client of another broker. (The embedded one is the bridge.)
pub const BRIDGE: Rules = Rules {
    publish: &[all("+/others/#"), all("+/self/#"), all("_bridge/#")],
    routed: &[],
    read: &[all("+/others/#"), all("+/self/#"), all("_bridge/#")],
    share: &[],
};
const NOBODY: Rules = Rules { publish: &[], routed: &[], read: &[], share: &[] };

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

/// So many levels of a topic make a difference to the rules: one more than any of them names.
const DEPTH: usize = 5;
/// The first levels of a topic; absent where it is shorter.
type Levels<'a> = [Option<&'a str>; DEPTH];
/// A level that no rule names: no user name has a space.
const OTHER: &str = " ";

impl Rights {
    /// Whether a message, or a will, may be published on `topic`.
    pub fn may_publish(&self, topic: &str) -> bool {
        is_topic(topic) && (self.allow(self.rules().publish, levels(topic)) || self.routed(topic).is_some())
    }

    /// Whether what is published on `topic` is for the inbox of a peer: it is not published there, but counts as published into
    /// the user's own outbox.
    pub fn routed<'a>(&self, topic: &'a str) -> Option<Routed<'a>> {
        Routed::parse(topic).filter(|_| is_topic(topic) && self.allow(self.rules().routed, levels(topic)))
    }

    /// Whether what is published on `topic` may be retained, if its publisher asks for that.
    pub fn may_retain(&self, topic: &str) -> bool {
        match self {
            Self::Known(Identity { role: Role::User, .. }) => Side::of(topic).may_be_retained_of_user(),
            _ => Side::of(topic).may_be_retained(),
        }
    }

    /// Whether a message on `topic` may be delivered.
    pub fn may_read(&self, topic: &str) -> bool {
        self.allow(self.rules().read, levels(topic))
    }

    /// Whether a subscription to `filter` is granted. The filter is well-formed.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let Rules { read, share, .. } = self.rules();
        match filter.strip_prefix("$share/") {
            None => self.samples(filter).into_iter().any(|topic| self.allow(read, topic)),
            Some(shared) => shared
                .split_once('/')
                .is_some_and(|(_name, filter)| self.samples(filter).into_iter().all(|topic| self.allow(share, topic))),
        }
    }

    /// Filters that match all topics that `filter` matches and that may be read. Where its first level is a wildcard and
    /// topics of a few names alone may be read, there is one for each of these names; else it is the filter itself.
    pub fn readable_filters(&self, filter: &str) -> Vec<String> {
        let rest = match filter {
            "#" => "/#",
            _ => match filter.strip_prefix('+') {
                Some(rest) => rest,
                None => return vec![filter.to_owned()],
            },
        };
        let readable = self.samples(filter).into_iter().filter(|topic| self.allow(self.rules().read, *topic));
        let names: BTreeSet<&str> = readable.filter_map(|topic| topic[0]).collect();
        if names.contains(OTHER) {
            return vec![filter.to_owned()];
        }
        names.into_iter().map(|name| format!("{name}{rest}")).collect()
    }

    /// Whether a subscription to `filter` is granted because it may bring something of a group, where groups have topics.
    /// Every chat user's is, for its user may be put into the group later; what it brings is what the members of the group
    /// have, each their own.
    pub fn may_subscribe_to_groups(&self, filter: &str) -> bool {
        self.role() == Some(Role::User) && reads_groups(filter)
    }

    /// As whom a client publishes on `topic`, if it may. `device` is which of its user's devices it is.
    pub fn principal(&self, device: Option<Arc<str>>, topic: &str) -> Option<Principal> {
        match self {
            Self::Nobody => None,
            Self::Anonymous => Some(Principal::anonymous(topic)),
            Self::Known(Identity { user, role }) => {
                let (name, role, background) = (Arc::clone(user), *role, false);
                Some(Principal { name, role, device, background, proof: Proof::Login })
            }
        }
    }

    /// What somebody who logged in is.
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Known(identity) => Some(identity.role),
            Self::Nobody | Self::Anonymous => None,
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

fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#', '\0'])
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

    /// All topics of one to four of the words, and longer ones: no rule names a fifth level.
    fn topics() -> Vec<String> {
        let mut all: Vec<String> = WORDS.iter().map(ToString::to_string).collect();
        let mut longest = all.clone();
        for _ in 1..4 {
            longest =
                longest.iter().flat_map(|topic| WORDS.iter().map(move |word| format!("{topic}/{word}"))).collect();
            all.extend_from_slice(&longest);
        }
        all.extend(longest.into_iter().map(|topic| format!("{topic}/x")));
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
                let all = matched.iter().all(|topic| rights.allow(rights.rules().share, levels(topic)));
                prop_assert!(!all || matched.iter().all(|topic| rights.may_read(topic)));
                prop_assert_eq!(rights.may_subscribe(&filter), any, "{:?} {}", rights, filter);
                prop_assert_eq!(rights.may_subscribe(&shared), all, "{:?} {}", rights, shared);
                let narrow = rights.readable_filters(&filter);
                for topic in &matched {
                    let found = narrow.iter().filter(|narrow| filter::matches(narrow, topic)).count();
                    prop_assert!(found <= 1, "{:?} {} {}", rights, filter, topic);
                    prop_assert!(found == 1 || !rights.may_read(topic), "{:?} {} {}", rights, filter, topic);
                }
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
            "alice/others/receipts",
            "alice//self",
            "%u/self/messages",
        ] {
            assert!(![&bal, &user, &admin, &nobody].iter().any(|rights| rights.may_publish(topic)), "{topic}");
        }
        for topic in
            ["bal1/others/receipts", "alice/others", "_bridge/status", "_bridge", "$SYS/x", "/others/x", "/self/x"]
        {
            assert!(!rights().iter().any(|rights| rights.may_publish(topic)), "{topic}");
        }
        assert!(admin.may_publish("_bridge/commands"));
        assert!(![bal, user, anonymous, nobody].iter().any(|rights| rights.may_publish("_bridge/commands")));
    }

    #[test]
    fn a_user_alone_publishes_into_inboxes_what_is_routed_from_its_outbox() {
        for suffix in ["messages", "chatstate", "invitations", "calls"] {
            for topic in ["bob", "alice", "bal1"].map(|peer| format!("{peer}/others/{suffix}")) {
                let may = rights().map(|rights| rights.may_publish(&topic) && rights.routed(&topic).is_some());
                assert_eq!(may, [false, true, false, false, false], "{topic}");
            }
        }
        let user = known("alice", Role::User);
        for topic in [
            "bob/others/receipts",
            "bob/others/messages/x",
            "_bridge/others/messages",
            "/others/messages",
            "$SYS/others/messages",
            "+/others/messages",
        ] {
            assert!(!user.may_publish(topic) && user.routed(topic).is_none(), "{topic}");
        }
        assert!(user.may_publish("alice/self/messages") && user.routed("alice/self/messages").is_none());
    }

    #[test]
    fn what_a_user_says_is_retained_only_where_it_is_how_the_user_is() {
        let [bal, user, ..] = rights();
        for (topic, of_bal, of_user) in [
            ("alice/self/presence/phone", true, true),
            ("alice/self/profile", true, true),
            ("alice/self/devices/phone", true, false),
            ("alice/self/messages", false, false),
        ] {
            assert_eq!((bal.may_retain(topic), user.may_retain(topic)), (of_bal, of_user), "{topic}");
        }
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
            ["bob/self/presence", "alice/self/presence", "_bridge/status", "alice/others/messages", "alice/others/a/b"]
        {
            assert_eq!(readers(topic), [true, true, true, true, false], "{topic}");
        }
        assert_eq!(readers("alice/my/x"), [true, false, true, true, false]);
        for topic in ["bob/self/profile", "alice/self/profile", "alice/self/presence/phone"] {
            assert_eq!(readers(topic), [false, true, true, true, false], "{topic}");
        }
        for topic in [
            "alice/self/messages",
            "alice/self",
            "alice",
            "alice/self/devices/phone",
            "bob/self/messages",
            "bob/others/messages",
            "bob/self/presence/phone",
            "_bridge/stats",
            "bob",
        ] {
            assert_eq!(readers(topic), [false, false, true, true, false], "{topic}");
        }
        assert_eq!(readers("$SYS/uptime"), [false, false, false, true, false]);
    }

    #[test]
    fn chat_users_alone_subscribe_to_topics_of_groups_and_never_share_them() {
        for filter in ["g-1/others/messages", "g-1/others/members", "g-1/others/profile", "g-1/others/+", "g-1/#"] {
            let may = rights().map(|rights| rights.may_subscribe_to_groups(filter));
            assert_eq!(may, [false, true, false, false, false], "{filter}");
            let [bal, user, ..] = rights();
            // Anybody may have a presence.
            let is_wide = filter == "g-1/#";
            assert_eq!([bal.may_subscribe(filter), user.may_subscribe(filter)], [is_wide; 2], "{filter}");
            assert!(!user.may_subscribe_to_groups(&format!("$share/x/{filter}")), "{filter}");
            assert!(!user.may_subscribe(&format!("$share/x/{filter}")), "{filter}");
        }
        let user = known("alice", Role::User);
        for filter in ["g-1/self/messages", "bob/others/messages", "bob/others/+", "g-1/others/receipts", "$member/#"] {
            assert!(!user.may_subscribe_to_groups(filter), "{filter}");
        }
    }

    #[test]
    fn where_a_name_alone_can_be_meant_a_wildcard_stands_for_it() {
        let [bal, user, admin, ..] = rights();
        assert_eq!(user.readable_filters("+/others/x1"), ["alice/others/x1"]);
        assert_eq!(bal.readable_filters("+/+/x/y"), ["alice/+/x/y"]);
        assert_eq!(user.readable_filters("+/status"), ["_bridge/status"]);
        for filter in ["+/self/presence", "#", "+/#", "bob/others/+"] {
            assert_eq!(user.readable_filters(filter), [filter]);
        }
        assert_eq!(admin.readable_filters("+/others/x1"), ["+/others/x1"]);
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
        for filter in ["+/self/messages", "alice/self/messages", "alice/self/devices/+"] {
            assert!(!bal.may_subscribe(filter) && !user.may_subscribe(filter), "{filter}");
        }
        assert!(!bal.may_subscribe("alice/self/presence/+") && user.may_subscribe("alice/self/presence/+"));
        assert!(bal.may_subscribe("alice/my/answers") && !user.may_subscribe("alice/my/answers"));
        for filter in [
            "$share/x/#",
            "$share/x/+/others/messages",
            "$share/x/bob/others/messages",
            "$share/x/+/self/+",
            "$share/x",
        ] {
            assert!(!bal.may_subscribe(filter) && !user.may_subscribe(filter), "{filter}");
        }
        for filter in ["$share/x/alice/others/messages", "$share/x/alice/others/#"] {
            assert!(bal.may_subscribe(filter) && user.may_subscribe(filter), "{filter}");
        }
        assert!(user.may_subscribe("$share/x/alice/self/presence/+"));
        // A user in the group of a BAL would take its part of what the BAL reads.
        for filter in ["+/self/presence", "alice/self/presence", "_bridge/status"] {
            let shared = format!("$share/x/{filter}");
            assert!(bal.may_subscribe(&shared) && !user.may_subscribe(&shared), "{filter}");
            assert!(user.may_subscribe(filter), "{filter}");
        }
        assert!(!user.may_subscribe("$share/x/alice/#") && !bal.may_subscribe("$share/x/alice/#"));
        // Only the union of two rules covers it.
        assert!(bal.may_subscribe("$share/x/alice/+/presence") && !bal.may_subscribe("$share/x/alice/+/profile"));
    }
}

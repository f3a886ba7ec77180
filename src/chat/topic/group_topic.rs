//! Topics of a group, as its members read them, where the operator has chosen that.
//!
//! ```text
//!   document for bob      bob/others/+/g-1/others/messages      in the store: it lies in his inbox
//!   bob's clients see                  g-1/others/messages
//!   its route      $member/bob/inbox/  g-1/others/messages      in the tree of filters
//!   bob subscribes to                  g-1/others/#             there as $member/bob/+/g-1/others/#
//! ```
//!
//! Each member has documents of its own, and a filter of somebody finds those of that one alone. So who is in the group when
//! something is written decides who gets it, whatever anybody has subscribed to. No client can name a topic with the level `+`,
//! or read one that begins with `$member`.

use crate::chat::filter;
use crate::chat::group::GroupTopic;
use crate::chat::id::{GROUP, Owner};

/// Between the inbox of a member and the topic that its clients see.
const BETWEEN: &str = "others/+/";
/// Before the routes of the documents of members, and before their filters.
const ROUTE: &str = "$member";
/// The level that tells filters without a subscription from those of subscriptions, which have a wildcard there.
const UNASKED: &str = "inbox";
/// A group that nobody asks for by name.
const SOME_GROUP: &str = "g-0";

/// The topic of a document of a group for one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberTopic<'a> {
    /// Whose document it is.
    pub member: &'a str,
    /// The topic that the clients of the member see.
    pub seen: &'a str,
}

impl<'a> MemberTopic<'a> {
    /// Reads the topic of a document; `None` if it is no such one.
    pub fn parse(topic: &'a str) -> Option<Self> {
        let (member, rest) = topic.split_once('/')?;
        Some(Self { member, seen: rest.strip_prefix(BETWEEN)? })
    }

    /// Under which name the filters of the member find it.
    pub fn route(self) -> String {
        format!("{ROUTE}/{}/{UNASKED}/{}", self.member, self.seen)
    }

    /// The group, and which of its topics it is.
    pub fn parts(self) -> Option<(Owner, GroupTopic)> {
        let (group, suffix) = self.seen.split_once("/others/")?;
        let topic = GroupTopic::ALL.into_iter().find(|topic| topic.name() == suffix)?;
        Some((Owner::of_any(group).ok().filter(Owner::is_group)?, topic))
    }
}

/// The topic of a document of `group` for `member`.
pub fn member_topic(member: &Owner, group: &Owner, topic: GroupTopic) -> String {
    format!("{member}/{BETWEEN}{}", group_topic(group, topic))
}

/// A topic of a group, as clients see it.
pub fn group_topic(group: &Owner, topic: GroupTopic) -> String {
    format!("{group}/others/{}", topic.name())
}

/// A topic as clients see it.
pub fn seen_topic(topic: &str) -> &str {
    MemberTopic::parse(topic).map_or(topic, |of_member| of_member.seen)
}

/// Whether a subscription to `filter`, which is well-formed, may bring anything of a group. A shared one never does.
pub fn reads_groups(filter: &str) -> bool {
    let first = filter.split('/').next().unwrap_or_default();
    let group = if first.starts_with(GROUP) { first } else { SOME_GROUP };
    GroupTopic::ALL.iter().any(|topic| filter::matches(filter, &format!("{group}/others/{}", topic.name())))
}

/// The filter by which what `user` gets of groups is found for a subscription to `filter`; `None` if that brings nothing of
/// a group.
pub fn member_filter(user: &str, filter: &str) -> Option<String> {
    reads_groups(filter).then(|| format!("{ROUTE}/{user}/+/{filter}"))
}

/// The same for what is written in all groups, without a subscription to it.
pub fn all_messages_filter(user: &str) -> String {
    format!("{ROUTE}/{user}/{UNASKED}/+/others/{}", GroupTopic::Messages.name())
}

/// What the topics of all documents of groups for `user` begin with.
pub fn member_prefix(user: &str) -> String {
    format!("{user}/{BETWEEN}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::access::Rights;
    use crate::chat::principal::{Identity, Role};
    use crate::chat::topic::{Side, check_response_topic};

    fn owner(name: &str) -> Owner {
        Owner::of_any(name).unwrap()
    }

    #[test]
    fn a_document_for_a_member_lies_in_the_inbox_of_that_one_and_is_seen_as_the_groups() {
        for topic in GroupTopic::ALL {
            let name = topic.name();
            let document = member_topic(&owner("bob"), &owner("g-1"), topic);
            let read = MemberTopic::parse(&document).unwrap();
            assert_eq!((read.member, read.seen), ("bob", &*format!("g-1/others/{name}")));
            assert_eq!(read.parts(), Some((owner("g-1"), topic)));
            assert_eq!(read.route(), format!("$member/bob/inbox/g-1/others/{name}"));
            assert_eq!(seen_topic(&document), group_topic(&owner("g-1"), topic));
            assert!(matches!(Side::of(&document), Side::Inbox { owner: "bob", .. }));
            assert!(document.starts_with(&member_prefix("bob")));
        }
        for topic in ["bob/others/messages", "g-1/others/messages", "bob/self/messages", "bob", "", "_bridge/status"] {
            assert_eq!(MemberTopic::parse(topic), None, "{topic}");
            assert_eq!(seen_topic(topic), topic);
        }
    }

    #[test]
    fn a_filter_finds_the_documents_of_its_own_user_alone() {
        let document = member_topic(&owner("bob"), &owner("g-1"), GroupTopic::Messages);
        let route = MemberTopic::parse(&document).unwrap().route();
        for filter in ["g-1/others/messages", "g-1/others/+", "g-1/#", "+/others/#", "+/+/messages", "#", "+/+/+"] {
            let (of_bob, of_eve) = (member_filter("bob", filter).unwrap(), member_filter("eve", filter).unwrap());
            assert!(filter::matches(&of_bob, &route), "{filter}");
            assert!(!filter::matches(&of_eve, &route), "{filter}");
            assert!(!filter::matches(filter, &route), "{filter}");
        }
        // What is read without a subscription is taken back alone.
        assert_ne!(member_filter("bob", "+/others/messages"), Some(all_messages_filter("bob")));
        assert!(filter::matches(&all_messages_filter("bob"), &route));
        assert!(!filter::matches(&all_messages_filter("eve"), &route));
        let members = member_topic(&owner("bob"), &owner("g-1"), GroupTopic::Members);
        assert!(!filter::matches(&all_messages_filter("bob"), &MemberTopic::parse(&members).unwrap().route()));
    }

    #[test]
    fn filters_of_other_topics_and_shared_ones_bring_nothing_of_a_group() {
        for filter in [
            "bob/others/+",
            "bob/others/messages",
            "g-1/self/messages",
            "g-1/others/receipts",
            "+/self/presence",
            "g-1",
            "g-1/others",
            "g-1/others/messages/x",
            "$share/x/g-1/others/messages",
            "$share/x/#",
            "$member/bob/#",
            "_bridge/#",
        ] {
            assert_eq!(member_filter("bob", filter), None, "{filter}");
        }
    }

    /// What the bridge keeps for members no client can write, subscribe to, or have answers sent to.
    #[test]
    fn no_client_reaches_what_is_kept_for_members() {
        let document = member_topic(&owner("bob"), &owner("g-1"), GroupTopic::Messages);
        let route = MemberTopic::parse(&document).unwrap().route();
        for role in [Role::User, Role::Bal, Role::Admin] {
            let rights = Rights::Known(Identity { user: "bob".into(), role });
            assert!(!rights.may_publish(&document) && !rights.may_publish(&route), "{role:?}");
            assert!(!rights.may_subscribe(&route) && !rights.may_subscribe("$member/#"), "{role:?}");
            assert!(
                !rights.may_subscribe("$member/bob/#") && !rights.may_subscribe("$share/x/$member/bob/#"),
                "{role:?}"
            );
        }
        for rights in [Rights::Anonymous, Rights::Nobody] {
            assert!(!rights.may_publish(&document) && !rights.may_subscribe("$member/#"));
        }
        assert!(check_response_topic(&owner("bob"), &document).is_err());
    }
}

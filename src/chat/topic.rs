//! The grammar of topics: text to meaning and back. No other file knows where the levels stand; who may use which topic
//! is said in [`super::access`].
//!
//! `{owner}/self/...` is written by the owner and read by the bridge ([`ClientTopic`]); `{owner}/others/...` and
//! `_bridge/...` are written by the bridge alone ([`BridgeTopic`]).

mod chat_topic;
mod group_topic;

pub use chat_topic::ChatTopic;
pub use group_topic::{
    MemberTopic, all_messages_filter, group_topic, member_filter, member_prefix, member_topic, reads_groups, seen_topic,
};

use super::id::{NameError, Owner, check};
use super::suffix::{Rules, rules};
use std::fmt;

/// Longest name of a device, in characters (topics.md, "Vocabulary").
pub const DEVICE_MAX: usize = 32;
/// Longest MQTT 5 response topic that is taken, in bytes.
pub const RESPONSE_TOPIC_MAX: usize = 256;
/// What the bridge subscribes to, to hear every [`ClientTopic`].
pub const CLIENT_FILTERS: [&str; 1] = ["+/self/#"];
/// What it subscribes to besides where clients may write into the inboxes of others (`chat.direct`): every topic of [`Routed`].
pub const DIRECT_FILTERS: [&str; 4] =
    ["+/others/messages", "+/others/chatstate", "+/others/invitations", "+/others/calls"];
/// What earlier releases subscribed to instead. A broker keeps it in the bridge's session until it is taken back, and may
/// deliver a message once for each filter that matches.
pub const FORMER_FILTERS: [&str; 4] = ["+/self/messages", "+/self/receipts", "+/self/presence", "+/self/presence/+"];
/// What does not work where a broker refuses the bridge one of its filters, in words for an operator.
pub fn lost_without(filter: &str) -> &'static str {
    match filter {
        "+/self/#" => "nothing that clients publish reaches the bridge",
        "+/self/messages" => "no message and no push reaches the bridge",
        "+/self/receipts" => "no receipt reaches the bridge",
        "+/self/presence" | "+/self/presence/+" => "who is online does not reach the bridge",
        "+/others/messages" => "messages that users write directly are neither stored nor pushed",
        "+/others/chatstate" => "that users write directly is no sign that they are there",
        "+/others/invitations" => "invitations that users write directly are neither stored nor pushed",
        "+/others/calls" => "calls that users make directly are neither stored nor pushed",
        _ => "nothing that is published there reaches the bridge",
    }
}

/// Where an app confirms a push: below its own user's name, which it knows and the bridge does not.
pub const APP_RECEIPTS: &str = "self/receipts";
/// What an owner may write below its `self/`, as far as the bridge reads it.
const SUFFIXES: [&str; 10] =
    ["messages", "receipts", "presence", "read", "chatstate", "profile", "devices", "invitations", "calls", "requests"];
/// First levels below `self/` that a later release gives a meaning (topics.md, "Reserved for later").
const RESERVED: [&str; 4] = ["state", "groups", "history", "replies"];
/// Those of them that are followed by the name of a device.
const OF_DEVICES: [&str; 3] = ["presence", "devices", "requests"];
/// Inboxes of others into which a chat user may publish: on the embedded broker, and on another one that is trusted
/// (`chat.direct`).
const ROUTED: [&str; 4] = ["messages", "chatstate", "invitations", "calls"];
/// What a chat user writes there may be seen by whoever may read it. On other topics there is a secret (a password among the
/// requests, a token and its proof among the devices), what the bridge checks first, or one of these, misspelt.
const OPEN: [&str; 6] = ["messages", "receipts", "read", "chatstate", "invitations", "calls"];
/// So many wrong, missing or surplus letters are still a slip of the pen.
const SLIP_MAX: usize = 2;

/// On which side of the bridge a topic lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side<'a> {
    /// `{owner}/self`, or something below it: written by the owner.
    Outbox {
        /// The first level.
        owner: &'a str,
        /// What follows `self/`; empty if nothing does.
        suffix: &'a str,
    },
    /// `{owner}/others`, or something below it: written by the bridge.
    Inbox {
        /// The first level.
        owner: &'a str,
        /// What follows `others/`; empty if nothing does.
        suffix: &'a str,
    },
    /// `_bridge`, or something below it: what the bridge says of itself.
    Bridge {
        /// What follows `_bridge/`; empty if nothing does.
        suffix: &'a str,
    },
    /// Anything else.
    Elsewhere,
}

impl<'a> Side<'a> {
    /// That of a topic.
    pub fn of(topic: &'a str) -> Self {
        let (owner, rest) = topic.split_once('/').unwrap_or((topic, ""));
        let (second, suffix) = rest.split_once('/').unwrap_or((rest, ""));
        match (owner, second) {
            ("_bridge", _) => Self::Bridge { suffix: rest },
            (_, "self") => Self::Outbox { owner, suffix },
            (_, "others") => Self::Inbox { owner, suffix },
            _ => Self::Elsewhere,
        }
    }

    /// Whether a broker may keep what is published there as retained. Messages would come again with every
    /// subscription.
    pub fn may_be_retained(self) -> bool {
        !matches!(self, Self::Outbox { suffix: "messages", .. })
    }

    /// Whose presence or profile is published there for others.
    pub fn shown_owner(self) -> Option<&'a str> {
        match self {
            Self::Outbox { owner, suffix: "presence" | "profile" } => Some(owner),
            _ => None,
        }
    }

    /// Whose inbox or outbox it lies in.
    pub fn owner(self) -> Option<&'a str> {
        match self {
            Self::Outbox { owner, .. } | Self::Inbox { owner, .. } => Some(owner),
            Self::Bridge { .. } | Self::Elsewhere => None,
        }
    }

    /// Whether the bridge is commanded there.
    pub fn is_command(self) -> bool {
        matches!(self, Self::Bridge { suffix: "commands" })
    }

    /// Whether presence is published there for others.
    pub fn is_presence(self) -> bool {
        matches!(self, Self::Outbox { suffix: "presence", .. })
    }

    /// Whether the bridge alone gets what a chat user publishes there: all below `self/` that is not known to be without secrets,
    /// and its presence and profile, which the bridge publishes once they are checked. What its devices say of their own presence
    /// they see of each other.
    pub fn is_unseen_of_user(self) -> bool {
        let is_seen = |suffix: &str| OPEN.contains(&suffix) || suffix.starts_with("presence/");
        matches!(self, Self::Outbox { suffix, .. } if !is_seen(suffix))
    }

    /// Whether there may be a secret in what is published there, or in what was meant for such a topic.
    pub fn may_hold_secrets(self) -> bool {
        self.is_unseen_of_user() && !self.is_presence() && !self.is_profile()
    }

    /// Whether a profile is published there for others.
    pub fn is_profile(self) -> bool {
        matches!(self, Self::Outbox { suffix: "profile", .. })
    }

    /// Whether a user, or one of its devices, says there how it is.
    pub fn is_presence_said(self) -> bool {
        matches!(self, Self::Outbox { suffix, .. } if suffix.split('/').next() == Some("presence"))
    }

    /// Whether it may keep what a chat user publishes there: how the user, or one of the devices, is.
    pub fn may_be_retained_of_user(self) -> bool {
        self.is_presence_said() || self.is_profile()
    }
}

/// A topic in the inbox of a peer into which a chat user may publish. That counts as published into the outbox of the user,
/// for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routed<'a> {
    /// Whose inbox it is.
    pub peer: &'a str,
    suffix: &'a str,
}

impl<'a> Routed<'a> {
    /// Reads a topic; `None` if it is no such one.
    pub fn parse(topic: &'a str) -> Option<Self> {
        match Side::of(topic) {
            Side::Inbox { owner, suffix } if !owner.is_empty() && ROUTED.contains(&suffix) => {
                Some(Self { peer: owner, suffix })
            }
            _ => None,
        }
    }

    /// Whether who is writing is told there: that is true while it is said, and kept nowhere.
    pub fn is_chat_state(self) -> bool {
        self.suffix == "chatstate"
    }

    /// The topic in the outbox of `user`.
    pub fn outbox_of(self, user: &str) -> String {
        format!("{user}/self/{}", self.suffix)
    }
}

/// The filters that a device of a chat user has without asking: the inbox, and what is for this device alone.
pub fn device_filters(user: &str, device: &str) -> [String; 2] {
    [inbox_filter(user), format!("{user}/others/replies/{device}")]
}

/// The filter of the inbox of a chat user.
pub fn inbox_filter(user: &str) -> String {
    format!("{user}/others/+")
}

/// A topic that a client writes and the bridge reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientTopic {
    /// `{owner}/self/messages`: messages to devices.
    Messages(Owner),
    /// `{owner}/self/receipts`: what the owner has taken out of its inbox.
    Receipts(Owner),
    /// `{owner}/self/presence`, or `{owner}/self/presence/{device}`: whether the owner is there.
    Presence(Owner, Option<Device>),
    /// What else is of chat between users.
    Chat(Owner, ChatTopic),
    /// `{owner}/self/...` with another suffix: of a later release, somebody else's, or misspelt.
    Other(Owner, Suffix),
}

impl ClientTopic {
    /// Reads a topic; `Ok(None)` if it is in no outbox.
    ///
    /// # Errors
    /// When the owner is not a legal name: it has no inbox that a fault could be told in.
    pub fn parse(topic: &str) -> Result<Option<Self>, TopicError> {
        let Side::Outbox { owner, suffix } = Side::of(topic) else { return Ok(None) };
        let owner = Owner::new(owner).map_err(TopicError::Owner)?;
        Ok(Some(match (suffix, suffix.strip_prefix("presence/").map(Device::new)) {
            ("messages", _) => Self::Messages(owner),
            ("receipts", _) => Self::Receipts(owner),
            ("presence", _) => Self::Presence(owner, None),
            (_, Some(Ok(device))) => Self::Presence(owner, Some(device)),
            _ => match ChatTopic::parse(suffix) {
                Some(chat) => Self::Chat(owner, chat),
                None => Self::Other(owner, Suffix(topic.split_once("/self").map_or("", |(_, rest)| rest).to_owned())),
            },
        }))
    }

    /// The rules of what is written there; `None` where the bridge knows no such topic.
    pub fn rules(&self) -> Option<&'static Rules> {
        let name = match self {
            Self::Messages(_) => "messages",
            Self::Receipts(_) => "receipts",
            Self::Presence(..) => "presence",
            Self::Chat(_, topic) => topic.name(),
            Self::Other(..) => return None,
        };
        rules(name)
    }

    /// Whose topic it is.
    pub fn owner(&self) -> &Owner {
        let (Self::Messages(owner)
        | Self::Receipts(owner)
        | Self::Presence(owner, _)
        | Self::Chat(owner, _)
        | Self::Other(owner, _)) = self;
        owner
    }
}

impl fmt::Display for ClientTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages(owner) => write!(f, "{owner}/self/messages"),
            Self::Receipts(owner) => write!(f, "{owner}/self/receipts"),
            Self::Presence(owner, None) => write!(f, "{owner}/self/presence"),
            Self::Presence(owner, Some(device)) => write!(f, "{owner}/self/presence/{}", device.as_str()),
            Self::Chat(owner, topic) => write!(f, "{owner}/self/{topic}"),
            Self::Other(owner, suffix) => write!(f, "{owner}/self{}", suffix.0),
        }
    }
}

/// What follows `self` where the bridge knows no such topic: nothing, or a slash and more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Suffix(String);

impl Suffix {
    /// Whether topics.md keeps it for a later release.
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&self.first_level())
    }

    /// Whether a gatekeeper answers there.
    pub fn is_replies(&self) -> bool {
        self.0 == "/replies"
    }

    /// The suffix that was most likely meant, if this one looks like a slip: of letters, or of what follows a suffix.
    pub fn nearest(&self) -> Option<&'static str> {
        let level = self.first_level().to_lowercase();
        let distance = |name: &&str| strsim::osa_distance(&level, name);
        SUFFIXES.into_iter().min_by_key(distance).filter(|name| distance(name) <= SLIP_MAX)
    }

    /// What is wrong with it, for a person.
    pub fn fault(&self) -> String {
        let device =
            OF_DEVICES.into_iter().find_map(|name| self.0.strip_prefix('/')?.strip_prefix(name)?.strip_prefix('/'));
        match (device.map(Device::new), self.nearest()) {
            (Some(Err(fault)), _) => fault.to_string(),
            (_, Some(name)) if OF_DEVICES.contains(&name) && name != "presence" => {
                format!("there is no such topic; did you mean `self/{name}/{{dev}}`?")
            }
            (_, Some(name)) => format!("there is no such topic; did you mean `self/{name}`?"),
            (_, None) => format!("there is no such topic; below `self/` there are `{}`", SUFFIXES.join("`, `")),
        }
    }

    fn first_level(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic that only the bridge writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BridgeTopic {
    /// `{owner}/others/messages`: messages from devices.
    Messages(Owner),
    /// `{owner}/others/receipts`: what became of the owner's messages.
    Receipts(Owner),
    /// `{owner}/others/errors`: what was wrong with the owner's input.
    Errors(Owner),
    /// `_bridge/status`: how the bridge is, retained.
    Status,
    /// `_bridge/stats`: counters.
    Stats,
    /// `_bridge/events`: what an operator wants to hear of.
    Events,
    /// `_bridge/replies`: what became of commands.
    Replies,
}

impl BridgeTopic {
    /// Reads a topic; `Ok(None)` if it is none of the forms above.
    ///
    /// # Errors
    /// When the suffix is known but the owner is not a legal name.
    pub fn parse(topic: &str) -> Result<Option<Self>, TopicError> {
        let form = match Side::of(topic) {
            Side::Bridge { suffix: "status" } => return Ok(Some(Self::Status)),
            Side::Bridge { suffix: "stats" } => return Ok(Some(Self::Stats)),
            Side::Bridge { suffix: "events" } => return Ok(Some(Self::Events)),
            Side::Bridge { suffix: "replies" } => return Ok(Some(Self::Replies)),
            Side::Inbox { owner, suffix } => match suffix {
                "messages" => (owner, Self::Messages as fn(Owner) -> Self),
                "receipts" => (owner, Self::Receipts as fn(Owner) -> Self),
                "errors" => (owner, Self::Errors as fn(Owner) -> Self),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let (owner, form) = form;
        Owner::new(owner).map(|owner| Some(form(owner))).map_err(TopicError::Owner)
    }
}

/// The topic of an owner's inbox with this name: a first level below it, or several.
pub fn inbox_topic(owner: &Owner, suffix: &str) -> String {
    format!("{owner}/others/{suffix}")
}

/// Whether what is published on `topic` is a command for the bridge: `_bridge/commands`.
pub fn is_command_topic(topic: &str) -> bool {
    Side::of(topic).is_command()
}

/// Whether a topic is the inbox into which a user is told of calls.
pub fn is_inbox_of_calls(topic: &str) -> bool {
    topic.ends_with("/others/calls")
}

/// Where the statuses of `owner`'s messages go, unless it names another topic.
pub fn status_topic(owner: &str) -> String {
    format!("{owner}/others/receipts")
}

/// Whether `topic` is the [`status_topic`] of `owner`.
pub fn is_status_topic(owner: &str, topic: &str) -> bool {
    topic.strip_prefix(owner) == Some("/others/receipts")
}

impl fmt::Display for BridgeTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages(owner) => write!(f, "{owner}/others/messages"),
            Self::Receipts(owner) => f.write_str(&status_topic(owner.as_str())),
            Self::Errors(owner) => write!(f, "{owner}/others/errors"),
            Self::Status => f.write_str("_bridge/status"),
            Self::Stats => f.write_str("_bridge/stats"),
            Self::Events => f.write_str("_bridge/events"),
            Self::Replies => f.write_str("_bridge/replies"),
        }
    }
}

/// The name of one device or worker of an owner: 1 to [`DEVICE_MAX`] of `A-Z a-z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device(String);

impl Device {
    /// Checks and keeps `text`.
    ///
    /// # Errors
    /// When it is empty, too long, or has another character.
    pub fn new(text: impl Into<String>) -> Result<Self, TopicError> {
        let text = text.into();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        check(&text, DEVICE_MAX, legal).map_err(TopicError::Device)?;
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks an MQTT 5 response topic, as named by `owner`: below the owner's own name, and not where the bridge listens.
///
/// # Errors
/// When it does not lie below `{owner}/`, lies below `{owner}/self/`, is longer than [`RESPONSE_TOPIC_MAX`], or
/// has a wildcard, an empty level or a control character.
pub fn check_response_topic(owner: &Owner, topic: &str) -> Result<(), TopicError> {
    let rest = topic.strip_prefix(owner.as_str()).and_then(|rest| rest.strip_prefix('/'));
    let rest = rest.ok_or(TopicError::Foreign)?;
    // A status published into an outbox would come back to the bridge as a message.
    if rest == "self" || rest.starts_with("self/") {
        return Err(TopicError::Outbox);
    }
    if topic.len() > RESPONSE_TOPIC_MAX {
        return Err(TopicError::TooLong(RESPONSE_TOPIC_MAX));
    }
    if rest.chars().any(|c| matches!(c, '+' | '#') || c.is_control()) || rest.split('/').any(str::is_empty) {
        return Err(TopicError::Form);
    }
    Ok(())
}

/// Why a topic was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The first level is not a legal name.
    #[error("the first level of the topic {0}")]
    Owner(#[source] NameError),
    /// The device is not a legal name.
    #[error("the device in the topic {0}")]
    Device(#[source] NameError),
    /// The response topic is not below the sender's own name.
    #[error("the response topic is not below the sender's own name")]
    Foreign,
    /// The response topic is in the sender's outbox.
    #[error("the response topic is below `self`, where the bridge itself listens")]
    Outbox,
    /// The response topic is longer than the limit, in bytes.
    #[error("the response topic is longer than {0} bytes")]
    TooLong(usize),
    /// The response topic has a wildcard, an empty level or a control character.
    #[error("the response topic has a wildcard, an empty level or a control character")]
    Form,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_topic_of_statuses_is_known_again() {
        assert_eq!(status_topic("bal1"), BridgeTopic::Receipts(Owner::new("bal1").unwrap()).to_string());
        assert!(is_status_topic("bal1", &status_topic("bal1")));
        for other in ["bal2/others/receipts", "bal1/others/receipts/x", "bal1/others/messages", "bal1", ""] {
            assert!(!is_status_topic("bal1", other), "{other}");
        }
    }

    fn owner() -> impl Strategy<Value = Owner> {
        "[^\\p{C}\\p{Z}/+#:_$][^\\p{C}\\p{Z}/+#:]{0,63}".prop_filter_map("reserved", |name| Owner::new(name).ok())
    }

    fn device() -> impl Strategy<Value = Device> {
        "[A-Za-z0-9_-]{1,32}".prop_map(|name| Device::new(name).unwrap())
    }

    fn chat_topic() -> impl Strategy<Value = ChatTopic> {
        prop_oneof![
            Just(ChatTopic::Read),
            Just(ChatTopic::ChatState),
            Just(ChatTopic::Profile),
            Just(ChatTopic::Invitations),
            device().prop_map(ChatTopic::Devices),
            device().prop_map(ChatTopic::Requests),
        ]
    }

    fn client_topic() -> impl Strategy<Value = ClientTopic> {
        prop_oneof![
            owner().prop_map(ClientTopic::Messages),
            owner().prop_map(ClientTopic::Receipts),
            (owner(), "[a-z]{0,9}(/[a-z/]{0,9})?").prop_filter_map("another form", |(owner, suffix)| {
                let topic = ClientTopic::parse(&format!("{owner}/self/{suffix}")).unwrap();
                topic.filter(|topic| matches!(topic, ClientTopic::Other(..)) && !suffix.is_empty())
            }),
            (owner(), prop::option::of(device())).prop_map(|(o, d)| ClientTopic::Presence(o, d)),
            (owner(), chat_topic()).prop_map(|(o, topic)| ClientTopic::Chat(o, topic)),
        ]
    }

    fn bridge_topic() -> impl Strategy<Value = BridgeTopic> {
        prop_oneof![
            owner().prop_map(BridgeTopic::Messages),
            owner().prop_map(BridgeTopic::Receipts),
            owner().prop_map(BridgeTopic::Errors),
            Just(BridgeTopic::Status),
            Just(BridgeTopic::Stats),
            Just(BridgeTopic::Events),
            Just(BridgeTopic::Replies),
        ]
    }

    proptest! {
        #[test]
        fn client_topics_survive_their_text(topic in client_topic()) {
            prop_assert_eq!(ClientTopic::parse(&topic.to_string()), Ok(Some(topic.clone())));
            prop_assert_eq!(BridgeTopic::parse(&topic.to_string()), Ok(None));
        }

        #[test]
        fn bridge_topics_survive_their_text(topic in bridge_topic()) {
            prop_assert_eq!(BridgeTopic::parse(&topic.to_string()), Ok(Some(topic.clone())));
            prop_assert_eq!(ClientTopic::parse(&topic.to_string()), Ok(None));
        }

        #[test]
        fn what_is_read_from_any_text_formats_to_that_text(text in "[a-z_$/+#:]{0,12}(/self/|/others/)[a-z/]{0,20}") {
            if let Ok(Some(topic)) = ClientTopic::parse(&text) {
                prop_assert_eq!(topic.to_string(), text.clone());
            }
            if let Ok(Some(topic)) = BridgeTopic::parse(&text) {
                prop_assert_eq!(topic.to_string(), text);
            }
        }

        #[test]
        fn an_accepted_response_topic_is_its_owners_and_no_client_topic(owner in owner(), rest in "[a-z/+#$]{0,300}") {
            let topic = format!("{owner}/{rest}");
            if check_response_topic(&owner, &topic).is_ok() {
                prop_assert!(topic.len() <= RESPONSE_TOPIC_MAX && !topic.contains(['+', '#']));
                let in_outbox = matches!(Side::of(&topic), Side::Outbox { .. });
                prop_assert!(!in_outbox);
            }
        }
    }

    #[test]
    fn what_is_published_into_an_inbox_counts_as_published_into_the_outbox_of_its_writer() {
        for suffix in ROUTED {
            let topic = format!("bob/others/{suffix}");
            assert!(DIRECT_FILTERS.contains(&&*format!("+/others/{suffix}")));
            let routed = Routed::parse(&topic).unwrap();
            assert_eq!((routed.peer, routed.outbox_of("alice")), ("bob", format!("alice/self/{suffix}")));
        }
        for topic in ["bob/others/receipts", "bob/self/messages", "/others/messages", "_bridge/others/messages", "bob"]
        {
            assert_eq!(Routed::parse(topic), None, "{topic}");
        }
        assert_eq!(Routed::parse("bob/others/messages/x"), None);
    }

    #[test]
    fn of_what_a_user_says_only_how_it_is_may_be_retained() {
        for (suffix, may) in [
            ("presence", true),
            ("presence/phone", true),
            ("profile", true),
            ("devices/phone", false),
            ("messages", false),
            ("profile/x", false),
        ] {
            assert_eq!(Side::of(&format!("alice/self/{suffix}")).may_be_retained_of_user(), may, "{suffix}");
        }
        assert!(!Side::of("alice/others/profile").may_be_retained_of_user());
    }

    #[test]
    fn where_there_may_be_a_secret_nobody_else_sees_what_a_user_says() {
        for (suffix, unseen, secret) in [
            ("messages", false, false),
            ("calls", false, false),
            ("presence", true, false),
            ("presence/phone", false, false),
            ("profile", true, false),
            ("devices/phone", true, true),
            ("devices", true, true),
            ("device/phone", true, true),
            ("requests/phone", true, true),
            ("request", true, true),
            ("messages/x", true, true),
            ("", true, true),
        ] {
            let topic = format!("alice/self/{suffix}");
            let side = Side::of(&topic);
            assert_eq!((side.is_unseen_of_user(), side.may_hold_secrets()), (unseen, secret), "{suffix}");
        }
        assert!(!Side::of("alice/others/devices").is_unseen_of_user() && !Side::of("_bridge/x").may_hold_secrets());
    }

    #[test]
    fn only_what_lies_in_an_outbox_is_for_the_bridge() {
        for topic in
            ["bal1", "", "_bridge/commands", "_bridge/self/messages", "bal1/others/messages", "a/b/self/messages"]
        {
            assert_eq!(ClientTopic::parse(topic), Ok(None), "{topic}");
        }
        for topic in ["bal1/others/devices", "_bridge/ccs/1", "bal1/self/messages", "bal1/others", ""] {
            assert_eq!(BridgeTopic::parse(topic), Ok(None), "{topic}");
        }
    }

    #[test]
    fn a_bad_name_before_a_known_suffix_is_told() {
        let parse = |topic: &str| ClientTopic::parse(topic).unwrap_err();
        assert_eq!(parse("/self/messages"), TopicError::Owner(NameError::Empty));
        assert_eq!(parse("g-1/self/messages"), TopicError::Owner(NameError::Reserved));
        assert_eq!(parse("$SYS/self/foo"), TopicError::Owner(NameError::Reserved));
        assert_eq!(BridgeTopic::parse("self/others/errors"), Err(TopicError::Owner(NameError::Reserved)));
    }

    fn suffix(text: &str) -> Suffix {
        match ClientTopic::parse(&format!("bal1/self/{text}")) {
            Ok(Some(ClientTopic::Other(_, suffix))) => suffix,
            known => panic!("{text}: {known:?}"),
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_told_with_the_nearest_name() {
        for (text, nearest) in [
            ("message", "messages"),
            ("Messages", "messages"),
            ("mesages", "messages"),
            ("messages/", "messages"),
            ("messages/x", "messages"),
            ("receipt", "receipts"),
            ("reciepts", "receipts"),
            ("presense", "presence"),
            ("presence/", "presence"),
            ("device/phone", "devices"),
            ("devices", "devices"),
            ("invitation", "invitations"),
            ("call", "calls"),
        ] {
            assert_eq!(suffix(text).nearest(), Some(nearest), "{text}");
        }
        for text in ["", "foo", "history", "statuses", "masses"] {
            assert_eq!(suffix(text).nearest(), None, "{text}");
        }
        assert_eq!(suffix("message").fault(), "there is no such topic; did you mean `self/messages`?");
        assert_eq!(
            suffix("push").fault(),
            "there is no such topic; below `self/` there are `messages`, `receipts`, `presence`, `read`, `chatstate`, \
             `profile`, `devices`, `invitations`, `calls`, `requests`"
        );
        assert_eq!(suffix("presence/").fault(), "the device in the topic is empty");
        assert_eq!(suffix("presence/a/b").fault(), "the device in the topic has a character that is not allowed: '/'");
        let long = format!("presence/{}", "x".repeat(33));
        assert_eq!(suffix(&long).fault(), "the device in the topic is longer than 32 characters");
    }

    #[test]
    fn what_a_later_release_gives_a_meaning_is_reserved() {
        for text in ["history", "groups/g-1", "replies/phone"] {
            assert!(suffix(text).is_reserved(), "{text}");
        }
        for text in ["device", "foo", ""] {
            assert!(!suffix(text).is_reserved(), "{text}");
        }
    }

    #[test]
    fn response_topics_stay_in_the_senders_own_space() {
        let bal = Owner::new("bal1").unwrap();
        let check = |topic: &str| check_response_topic(&bal, topic);
        assert_eq!(check("bal1/my/answers"), Ok(()));
        assert_eq!(check("bal1/selfish"), Ok(()));
        for foreign in ["other/x", "bal11/x", "bal1", "", "$SYS/x", "_bridge/status", "/bal1/x"] {
            assert_eq!(check(foreign), Err(TopicError::Foreign), "{foreign}");
        }
        for outbox in ["bal1/self", "bal1/self/messages", "bal1/self/presence/a"] {
            assert_eq!(check(outbox), Err(TopicError::Outbox), "{outbox}");
        }
        for form in ["bal1/+", "bal1/a/#", "bal1/", "bal1//a", "bal1/a\0b"] {
            assert_eq!(check(form), Err(TopicError::Form), "{form}");
        }
        assert_eq!(check(&format!("bal1/{}", "x".repeat(252))), Err(TopicError::TooLong(256)));
        assert!(check(&format!("bal1/{}", "x".repeat(251))).is_ok());
    }
}

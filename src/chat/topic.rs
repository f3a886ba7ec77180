//! The grammar of topics: text to meaning and back.
//!
//! `{owner}/self/...` is written by the owner and read by the bridge ([`ClientTopic`]); `{owner}/others/...` and
//! `_bridge/...` are written by the bridge alone ([`BridgeTopic`]). Suffixes that nobody knows are not an error: they
//! belong to somebody else, or to a later release.

use super::id::{NameError, Owner, check};
use std::fmt;

/// Longest name of a device, in characters (topics.md, "Vocabulary").
pub const DEVICE_MAX: usize = 32;
/// Longest MQTT 5 response topic that is taken, in bytes.
pub const RESPONSE_TOPIC_MAX: usize = 256;
/// What the bridge subscribes to, to hear every [`ClientTopic`].
pub const CLIENT_FILTERS: [&str; 4] = ["+/self/messages", "+/self/receipts", "+/self/presence", "+/self/presence/+"];

/// A topic that a client writes and the bridge reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientTopic {
    /// `{owner}/self/messages`: messages to devices.
    Messages(Owner),
    /// `{owner}/self/receipts`: what the owner has taken out of its inbox.
    Receipts(Owner),
    /// `{owner}/self/presence`, or `{owner}/self/presence/{device}`: whether the owner is there.
    Presence(Owner, Option<Device>),
}

impl ClientTopic {
    /// Reads a topic; `Ok(None)` if it is none of the forms above, whatever stands in front of the suffix.
    ///
    /// # Errors
    /// When the suffix is known but the owner or the device is not a legal name.
    pub fn parse(topic: &str) -> Result<Option<Self>, TopicError> {
        let Some((owner, suffix)) = topic.split_once("/self/") else { return Ok(None) };
        let owner = || Owner::new(owner).map_err(TopicError::Owner);
        Ok(Some(match suffix.split_once('/') {
            None if suffix == "messages" => Self::Messages(owner()?),
            None if suffix == "receipts" => Self::Receipts(owner()?),
            None if suffix == "presence" => Self::Presence(owner()?, None),
            Some(("presence", device)) => Self::Presence(owner()?, Some(Device::new(device)?)),
            _ => return Ok(None),
        }))
    }
}

impl fmt::Display for ClientTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages(owner) => write!(f, "{owner}/self/messages"),
            Self::Receipts(owner) => write!(f, "{owner}/self/receipts"),
            Self::Presence(owner, None) => write!(f, "{owner}/self/presence"),
            Self::Presence(owner, Some(device)) => write!(f, "{owner}/self/presence/{}", device.as_str()),
        }
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
}

impl BridgeTopic {
    /// Reads a topic; `Ok(None)` if it is none of the forms above.
    ///
    /// # Errors
    /// When the suffix is known but the owner is not a legal name.
    pub fn parse(topic: &str) -> Result<Option<Self>, TopicError> {
        match topic {
            "_bridge/status" => return Ok(Some(Self::Status)),
            "_bridge/stats" => return Ok(Some(Self::Stats)),
            "_bridge/events" => return Ok(Some(Self::Events)),
            _ => {}
        }
        let Some((owner, suffix)) = topic.split_once("/others/") else { return Ok(None) };
        let form = match suffix {
            "messages" => Self::Messages,
            "receipts" => Self::Receipts,
            "errors" => Self::Errors,
            _ => return Ok(None),
        };
        Owner::new(owner).map(|owner| Some(form(owner))).map_err(TopicError::Owner)
    }
}

impl fmt::Display for BridgeTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages(owner) => write!(f, "{owner}/others/messages"),
            Self::Receipts(owner) => write!(f, "{owner}/others/receipts"),
            Self::Errors(owner) => write!(f, "{owner}/others/errors"),
            Self::Status => f.write_str("_bridge/status"),
            Self::Stats => f.write_str("_bridge/stats"),
            Self::Events => f.write_str("_bridge/events"),
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

    fn owner() -> impl Strategy<Value = Owner> {
        "[^\\p{C}\\p{Z}/+#:_$][^\\p{C}\\p{Z}/+#:]{0,63}".prop_filter_map("reserved", |name| Owner::new(name).ok())
    }

    fn device() -> impl Strategy<Value = Device> {
        "[A-Za-z0-9_-]{1,32}".prop_map(|name| Device::new(name).unwrap())
    }

    fn client_topic() -> impl Strategy<Value = ClientTopic> {
        prop_oneof![
            owner().prop_map(ClientTopic::Messages),
            owner().prop_map(ClientTopic::Receipts),
            (owner(), prop::option::of(device())).prop_map(|(o, d)| ClientTopic::Presence(o, d)),
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
                prop_assert_eq!(ClientTopic::parse(&topic), Ok(None));
            }
        }
    }

    #[test]
    fn an_unknown_suffix_is_nobodys_error() {
        for topic in [
            "bal1/self/foo",
            "bal1/self/messages/x",
            "bal1/self/",
            "bal1/self",
            "bal1",
            "",
            "_bridge/commands",
            "bal1/others/messages",
            "$SYS/self/foo",
        ] {
            assert_eq!(ClientTopic::parse(topic), Ok(None), "{topic}");
        }
        for topic in ["bal1/others/devices", "_bridge/ccs/1", "bal1/self/messages", ""] {
            assert_eq!(BridgeTopic::parse(topic), Ok(None), "{topic}");
        }
    }

    #[test]
    fn a_bad_name_before_or_behind_a_known_suffix_is_told() {
        let parse = |topic: &str| ClientTopic::parse(topic).unwrap_err();
        assert_eq!(parse("/self/messages"), TopicError::Owner(NameError::Empty));
        assert_eq!(parse("g-1/self/messages"), TopicError::Owner(NameError::Reserved));
        assert_eq!(parse("a/b/self/presence"), TopicError::Owner(NameError::Character('/')));
        assert_eq!(parse("bal1/self/presence/"), TopicError::Device(NameError::Empty));
        assert_eq!(parse("bal1/self/presence/a/b"), TopicError::Device(NameError::Character('/')));
        let long = format!("bal1/self/presence/{}", "x".repeat(33));
        assert_eq!(parse(&long), TopicError::Device(NameError::TooLong(32)));
        assert_eq!(BridgeTopic::parse("self/others/errors"), Err(TopicError::Owner(NameError::Reserved)));
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

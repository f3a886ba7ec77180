//! What BALs are told that ask for events: `{bal}/others/events`.

use super::id::{Owner, Sid};
use super::topic::Side;
use serde::Serialize;
use serde_json::Value;

/// The last level of their topic.
pub const EVENTS: &str = "events";
/// Most BALs that are told.
pub const LISTENERS_MAX: usize = 8;
/// Most bytes of messages that a report carries; of those beyond only the sids are told.
pub const REPORT_BYTES: usize = 49_152;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BalEvent<'a> {
    /// A message is on disk.
    MessageStored {
        /// Its id.
        sid: String,
        /// Who wrote it.
        from: &'a str,
        /// Whom it is for: a user, a BAL or a group.
        to: &'a str,
        /// `message` or `reaction`.
        kind: &'static str,
    },
    /// A user is erased, and is to be forgotten by everybody.
    UserErased {
        /// Who.
        user: &'a str,
        /// What stands for the name where others have it.
        alias: &'a str,
    },
    /// A user is in a group.
    MemberJoined {
        /// Which.
        group: &'a str,
        /// Who.
        user: &'a str,
        /// By whom.
        by: &'a str,
    },
    /// A user is in a group no longer.
    MemberLeft {
        /// Which.
        group: &'a str,
        /// Who; of an erased user the alias.
        user: &'a str,
        /// By whom.
        by: &'a str,
    },
    /// A device has a token, or another one.
    DeviceRegistered {
        /// Whose.
        user: &'a str,
        /// Which.
        dev: &'a str,
        /// Of the token.
        token_hash: &'a str,
    },
    /// A user reports another one.
    Reported {
        /// Who reports.
        by: &'a str,
        /// Whom.
        with: &'a str,
        /// The messages.
        sids: Vec<String>,
        /// In the words of the user.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        /// Copies of those messages, as the reporter has them, as far as there is room.
        messages: Vec<Value>,
    },
}

#[derive(Serialize)]
struct Dated<'a> {
    id: String,
    #[serde(flatten)]
    event: &'a BalEvent<'a>,
    ts: u64,
}

impl BalEvent<'_> {
    /// The document to publish, under this id, said at `ts` (Unix milliseconds).
    pub fn to_payload(&self, id: Sid, ts: u64) -> Vec<u8> {
        super::message::json(&Dated { id: id.to_string(), event: self, ts })
    }
}

/// Where a BAL is told.
pub fn events_topic(bal: &Owner) -> String {
    super::topic::inbox_topic(bal, EVENTS)
}

/// Whether a BAL is told there.
pub fn is_events_topic(topic: &str) -> bool {
    matches!(Side::of(topic), Side::Inbox { suffix: EVENTS, .. })
}

/// Whether the document of an event tells that a user was erased.
pub fn tells_of_erased(document: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Told {
        event: String,
    }
    serde_json::from_slice::<Told>(document).is_ok_and(|told| told.event == "user_erased")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use serde_json::json;

    #[test]
    fn an_event_has_an_id_of_its_own_to_be_confirmed_by() {
        let id = SidSource::default().next(1_700_000_000_000, 1);
        let event = BalEvent::DeviceRegistered { user: "bob", dev: "phone", token_hash: "1a2b3c4d" };
        let said: Value = serde_json::from_slice(&event.to_payload(id, 5)).unwrap();
        let expected = json!({
            "id": id.to_string(), "event": "device_registered", "user": "bob", "dev": "phone", "token_hash": "1a2b3c4d",
            "ts": 5,
        });
        assert_eq!(said, expected);
        let topic = events_topic(&Owner::new("bal1").unwrap());
        assert_eq!(topic, "bal1/others/events");
        let erased = BalEvent::UserErased { user: "eve", alias: "deleted-1" }.to_payload(id, 5);
        assert!(is_events_topic(&topic) && !is_events_topic("bal1/others/messages"));
        assert!(tells_of_erased(&erased) && !tells_of_erased(&event.to_payload(id, 5)) && !tells_of_erased(b"no JSON"));
    }
}

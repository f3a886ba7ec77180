//! `read`: how far a user has read a conversation.

use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, Rejection};
use crate::chat::topic::Device;
use serde_json::json;

/// A read position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPosition {
    /// The other side of the conversation.
    pub with: Owner,
    /// The last message that was read.
    pub last: Last,
    /// The device, as its client says; the embedded broker knows better.
    pub dev: Option<Device>,
}

/// The message up to which was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Last {
    /// By the bridge's id of it.
    Sid(Sid),
    /// By the id that the other side gave it.
    Id(MessageId),
}

impl ReadPosition {
    /// Reads a payload.
    ///
    /// # Errors
    /// With the code of topics.md.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        fields.version()?;
        let with = conversation(&mut fields, "with")?;
        let bad = || Rejection::new(ErrorCode::BadId, "`sid` is not that of a message");
        let last = match fields.string("sid")? {
            // An id beside it is the writer's own, of this document.
            Some(sid) => Last::Sid(Sid::parse(&sid).ok_or_else(bad)?),
            None => match fields.id()? {
                Some(id) => Last::Id(id),
                None => return Err(Rejection::new(ErrorCode::MissingField, "`sid` is missing")),
            },
        };
        Ok(Self { with, last, dev: device(&mut fields)? })
    }
}

/// What the user's own devices are told: how far the user has read, and how much is unread behind it in the conversation.
pub fn read_document(with: &Owner, sid: Sid, unread: u64) -> Vec<u8> {
    crate::chat::message::json(&json!({ "with": with.as_str(), "sid": sid.to_string(), "unread": unread }))
}

/// The name of somebody else, which must be there.
pub(in crate::chat) fn peer(fields: &mut Fields, name: &str) -> Result<Owner, Rejection> {
    let missing = || Rejection::new(ErrorCode::MissingField, format!("`{name}` is missing: the name of a user"));
    let given = fields.string(name)?.ok_or_else(missing)?;
    if Owner::of_any(given.as_str()).is_ok_and(|named| named.is_group()) {
        return Err(Rejection::bad_field(name, "names a group, and a user is to be named"));
    }
    Owner::new(given).map_err(|fault| Rejection::bad_field(name, fault))
}

/// The other side of a conversation, which must be there: a user, a BAL or a group.
pub(super) fn conversation(fields: &mut Fields, name: &str) -> Result<Owner, Rejection> {
    let missing =
        || Rejection::new(ErrorCode::MissingField, format!("`{name}` is missing: the name of a user or a group"));
    let given = fields.string(name)?.ok_or_else(missing)?;
    Owner::of_any(given).map_err(|fault| Rejection::bad_field(name, fault))
}

/// The device that a client says it is.
pub(super) fn device(fields: &mut Fields) -> Result<Option<Device>, Rejection> {
    let Some(dev) = fields.string("dev")? else { return Ok(None) };
    Device::new(dev).map(Some).map_err(|fault| Rejection::bad_field("dev", fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::{GroupId, SidSource};
    use serde_json::Value;

    fn parse(payload: &Value) -> Result<ReadPosition, ErrorCode> {
        ReadPosition::parse(payload.to_string().as_bytes(), &Limits::default()).map_err(|rejection| rejection.code())
    }

    #[test]
    fn where_a_user_is_to_be_named_a_group_is_told_apart() {
        let said = |name: &str| {
            let payload = json!({ "to": name }).to_string();
            let mut fields = Fields::read(payload.as_bytes(), 1_000).unwrap();
            peer(&mut fields, "to").map_err(|rejection| rejection.detail().to_owned())
        };
        assert_eq!(said("g-1"), Err("`to` names a group, and a user is to be named".to_owned()));
        assert_eq!(said("_x"), Err("`to` is reserved".to_owned()));
        let team = GroupId::new("team").map_err(|fault| fault.to_string());
        assert_eq!(team, Err("is no group: the name of one begins with `g-`".to_owned()));
    }

    #[test]
    fn a_position_names_the_peer_and_a_message() {
        let sid = SidSource::default().next(1_700_000_000_000, 1);
        let read = parse(&json!({"with": "alice", "sid": sid.to_string(), "dev": "web"})).unwrap();
        assert_eq!((read.with.as_str(), read.last), ("alice", Last::Sid(sid)));
        let by_id = parse(&json!({"with": "alice", "id": "m1"})).unwrap();
        assert_eq!(by_id.last, Last::Id(MessageId::new("m1").unwrap()));
        let both = parse(&json!({"with": "alice", "sid": sid.to_string(), "id": "r1"})).unwrap();
        assert_eq!(both.last, Last::Sid(sid));
        for (payload, code) in [
            (json!({"sid": sid.to_string()}), ErrorCode::MissingField),
            (json!({"with": "alice"}), ErrorCode::MissingField),
            (json!({"with": "a/b", "sid": sid.to_string()}), ErrorCode::BadField),
            (json!({"with": "alice", "sid": "m1"}), ErrorCode::BadId),
            (json!({"with": 1, "sid": sid.to_string()}), ErrorCode::BadField),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
    }
}

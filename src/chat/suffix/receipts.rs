//! `receipts`: what a device of a user has, or its user has read.

use super::read::{device, peer};
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, RECEIPT_IDS_MAX, Rejection};
use crate::chat::status::Status;
use crate::chat::topic::Device;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// A receipt of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserReceipt {
    /// Of which messages.
    pub of: Of,
    /// The user has read them; else the device has them.
    pub read: bool,
    /// The device, as its client says; the embedded broker knows better.
    pub dev: Option<Device>,
}

/// What the writer of a message is told of it: a document of the writer's `receipts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReceiptDocument<'a> {
    /// The writer's own id of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// The bridge's; a message that was refused has none.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "sid_text")]
    pub sid: Option<Sid>,
    /// `sent`, `delivered`, `read`; `accepted` for a BAL; `failed` for what was refused.
    pub status: Status,
    /// When, in Unix milliseconds.
    pub ts: u64,
    /// It is true of all messages of the conversation up to this one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub up_to: bool,
    /// In a group: the member who has it, or has read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
}

impl<'a> ReceiptDocument<'a> {
    /// That of one message.
    pub fn new(id: Option<&'a str>, sid: Sid, status: Status, ts: u64) -> Self {
        Self { id, sid: Some(sid), status, ts, up_to: false, by: None }
    }

    /// The document to publish.
    pub fn to_payload(&self) -> Vec<u8> {
        crate::chat::message::json(self)
    }
}

fn sid_text<S: Serializer>(sid: &Option<Sid>, serializer: S) -> Result<S::Ok, S::Error> {
    sid.map(|sid| sid.to_string()).serialize(serializer)
}

/// What a receipt names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// These messages of users, 1 to [`RECEIPT_IDS_MAX`].
    Each(Vec<Sid>),
    /// This one, and all of its conversation before it.
    UpTo(Sid),
    /// The messages of this writer with these ids of the writer's own; with the last one all of the conversation before it.
    Written {
        /// Who wrote them.
        with: Owner,
        /// 1 to [`RECEIPT_IDS_MAX`].
        ids: Vec<MessageId>,
        /// All of the conversation up to here; then there is one id.
        up_to: bool,
    },
    /// Pushes of BALs, by the `mid` in each of them: what an app confirms that has no conversation.
    Pushes(Vec<MessageId>),
}

impl UserReceipt {
    /// Reads a payload.
    ///
    /// # Errors
    /// With the code of topics.md. The rejection names no id: those in a receipt are not its writer's.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        fields.version()?;
        let up_to = fields.flag("up_to")?.unwrap_or(false);
        let messages = several(&mut fields, "sid", "sids", Sid::parse)?;
        let pushes = several(&mut fields, "id", "ids", |text| MessageId::new(text).ok())?;
        let of = match (messages, pushes) {
            (Some(sids), None) => match (up_to, sids.as_slice()) {
                (false, _) => Of::Each(sids),
                (true, &[last]) => Of::UpTo(last),
                (true, _) => return Err(Rejection::bad_field("up_to", "goes with one `sid`")),
            },
            (None, Some(ids)) if fields.has("with") => {
                if up_to && ids.len() > 1 {
                    return Err(Rejection::bad_field("up_to", "goes with one `id`"));
                }
                Of::Written { with: peer(&mut fields, "with")?, ids, up_to }
            }
            (None, Some(_)) if up_to => return Err(Rejection::bad_field("up_to", "goes with one `sid`")),
            (None, Some(ids)) => Of::Pushes(ids),
            (Some(_), Some(_)) => return Err(Rejection::bad_field("sid", "goes without `id`")),
            (None, None) => return Err(Rejection::new(ErrorCode::MissingField, "`sid` or `sids` is missing")),
        };
        let read = match fields.string("status")?.as_deref() {
            Some("received") => false,
            Some("read") => true,
            Some(_) => return Err(Rejection::bad_field("status", "is not received or read")),
            None => return Err(Rejection::new(ErrorCode::MissingField, "`status` is missing")),
        };
        Ok(Self { of, read, dev: device(&mut fields)? })
    }
}

/// Whether a payload is about messages by their `sid`: a BAL uses this form for messages of users, and its own for what is in
/// its inbox.
pub fn names_messages(payload: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Named {
        sid: Option<IgnoredAny>,
        sids: Option<IgnoredAny>,
    }
    serde_json::from_slice(payload).is_ok_and(|Named { sid, sids }| sid.is_some() || sids.is_some())
}

fn several<T>(
    fields: &mut Fields,
    one: &str,
    many: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<Vec<T>>, Rejection> {
    let given = match (fields.take(one), fields.take(many)) {
        (None, None) => return Ok(None),
        (Some(single), None) => vec![single],
        (None, Some(Value::Array(several))) => several,
        (None, Some(_)) => return Err(Rejection::bad_field(many, "is not an array")),
        (Some(_), Some(_)) => return Err(Rejection::bad_field(many, format_args!("goes without `{one}`"))),
    };
    if given.is_empty() || given.len() > RECEIPT_IDS_MAX {
        return Err(Rejection::bad_field(many, format_args!("has not 1 to {RECEIPT_IDS_MAX} ids")));
    }
    let bad =
        || Rejection::new(ErrorCode::BadId, format!("`{one}` or `{many}` has something that is no id of a message"));
    given.iter().map(|id| id.as_str().and_then(&read).ok_or_else(bad)).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(payload: &Value) -> Result<UserReceipt, ErrorCode> {
        let payload = payload.to_string();
        UserReceipt::parse(payload.as_bytes(), &Limits::default()).map_err(|rejection| rejection.code())
    }

    fn sids(count: usize) -> (Vec<Sid>, Vec<String>) {
        let mut source = SidSource::default();
        (0..count).map(|_| source.next(1_700_000_000_000, 1)).map(|sid| (sid, sid.to_string())).unzip()
    }

    #[test]
    fn messages_one_by_one_or_up_to_one_and_pushes_by_their_mid() {
        let (sids, texts) = sids(100);
        let receipt = |of, read| Ok(UserReceipt { of, read, dev: None });
        assert_eq!(parse(&json!({"sid": texts[0], "status": "received"})), receipt(Of::Each(vec![sids[0]]), false));
        assert_eq!(parse(&json!({"sid": texts[0], "status": "read", "up_to": true})), receipt(Of::UpTo(sids[0]), true));
        assert_eq!(parse(&json!({"sids": texts, "status": "read"})), receipt(Of::Each(sids), true));
        let pushed = Of::Pushes(vec![MessageId::new("m1").unwrap()]);
        assert_eq!(parse(&json!({"id": "m1", "status": "received"})), receipt(pushed, false));
        let (with, ids) = (Owner::new("alice").unwrap(), vec![MessageId::new("m1").unwrap()]);
        let written = |up_to| Of::Written { with: with.clone(), ids: ids.clone(), up_to };
        assert_eq!(parse(&json!({"id": "m1", "with": "alice", "status": "received"})), receipt(written(false), false));
        let up_to_it = json!({"ids": ["m1"], "with": "alice", "up_to": true, "status": "read"});
        assert_eq!(parse(&up_to_it), receipt(written(true), true));
        let with_device = parse(&json!({"id": "m1", "status": "received", "dev": "phone"})).unwrap();
        assert_eq!(with_device.dev.unwrap().as_str(), "phone");
    }

    #[test]
    fn anything_else_is_told() {
        let (_, texts) = sids(101);
        for (payload, code) in [
            (json!({"status": "read"}), ErrorCode::MissingField),
            (json!({"sid": texts[0]}), ErrorCode::MissingField),
            (json!({"sid": texts[0], "sids": [texts[1]], "status": "read"}), ErrorCode::BadField),
            (json!({"sid": texts[0], "id": "m1", "status": "read"}), ErrorCode::BadField),
            (json!({"sids": [], "status": "read"}), ErrorCode::BadField),
            (json!({"sids": texts, "status": "read"}), ErrorCode::BadField),
            (json!({"sids": texts[..2], "up_to": true, "status": "read"}), ErrorCode::BadField),
            (json!({"ids": ["m1"], "up_to": true, "status": "read"}), ErrorCode::BadField),
            (json!({"ids": ["m1", "m2"], "with": "alice", "up_to": true, "status": "read"}), ErrorCode::BadField),
            (json!({"id": "m1", "with": "g-1", "status": "read"}), ErrorCode::BadField),
            (json!({"sid": "m1", "status": "read"}), ErrorCode::BadId),
            (json!({"sid": texts[0], "status": "seen"}), ErrorCode::BadField),
            (json!({"sid": texts[0], "status": "read", "dev": "a/b"}), ErrorCode::BadField),
            (json!({"sid": texts[0], "status": "read", "v": 2}), ErrorCode::Version),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = UserReceipt::parse(&bytes, &Limits::default());
        }
    }
}

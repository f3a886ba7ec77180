//! What a BAL has taken out of its inbox: `{bal}/self/receipts`.

use super::fields::Fields;
use super::{ErrorCode, Limits, Rejection};
use crate::chat::id::Sid;
use serde_json::Value;

/// Most ids in one receipt.
pub const RECEIPT_IDS_MAX: usize = 100;

/// Which messages in its inbox a BAL has. Those that somebody has read are among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BalReceipt {
    /// These, 1 to [`RECEIPT_IDS_MAX`].
    Each(Vec<Sid>),
    /// This one and all before it: the bridge's ids grow with time.
    UpTo(Sid),
}

impl BalReceipt {
    /// Reads a payload.
    ///
    /// # Errors
    /// With the code of topics.md. The rejection names no id: those in a receipt are the bridge's, not the sender's.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        fields.version()?;
        let ids = ids(&mut fields)?;
        let receipt = match (fields.flag("up_to")?.unwrap_or(false), ids.as_slice()) {
            (false, _) => Self::Each(ids),
            (true, &[last]) => Self::UpTo(last),
            (true, _) => return Err(Rejection::bad_field("up_to", "goes with one id")),
        };
        match fields.string("status")?.as_deref() {
            Some("received" | "read") => Ok(receipt),
            Some(_) => Err(Rejection::bad_field("status", "is not received or read")),
            None => Err(Rejection::new(ErrorCode::MissingField, "`status` is missing")),
        }
    }
}

fn ids(fields: &mut Fields) -> Result<Vec<Sid>, Rejection> {
    let given = match (fields.take("id"), fields.take("ids")) {
        (Some(one), None) => vec![one],
        (None, Some(Value::Array(several))) => several,
        (None, Some(_)) => return Err(Rejection::bad_field("ids", "is not an array")),
        (Some(_), Some(_)) => return Err(Rejection::bad_field("ids", "goes without `id`")),
        (None, None) => return Err(Rejection::new(ErrorCode::MissingField, "`id` or `ids` is missing")),
    };
    if given.is_empty() || given.len() > RECEIPT_IDS_MAX {
        return Err(Rejection::bad_field("ids", format_args!("has not 1 to {RECEIPT_IDS_MAX} ids")));
    }
    let sid = |id: &Value| id.as_str().and_then(Sid::parse);
    given.iter().map(|id| sid(id).ok_or_else(bad_id)).collect()
}

fn bad_id() -> Rejection {
    Rejection::new(ErrorCode::BadId, "an id is not the `id` of a message from `others/messages`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(payload: &Value) -> Result<BalReceipt, ErrorCode> {
        let payload = payload.to_string();
        BalReceipt::parse(payload.as_bytes(), &Limits::default()).map_err(|rejection| rejection.code())
    }

    fn sids(count: usize) -> Vec<Sid> {
        let mut source = SidSource::default();
        (0..count).map(|_| source.next(1_700_000_000_000, 1)).collect()
    }

    fn texts(sids: &[Sid]) -> Vec<String> {
        sids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_or_several_or_all_up_to_one() {
        let sids = sids(100);
        let one = texts(&sids[..1]).remove(0);
        assert_eq!(parse(&json!({"id": one, "status": "received"})), Ok(BalReceipt::Each(vec![sids[0]])));
        assert_eq!(parse(&json!({"id": one, "status": "read"})), Ok(BalReceipt::Each(vec![sids[0]])));
        assert_eq!(parse(&json!({"id": one, "status": "read", "up_to": true})), Ok(BalReceipt::UpTo(sids[0])));
        let several = json!({"ids": texts(&sids), "status": "received", "up_to": false});
        assert_eq!(parse(&several), Ok(BalReceipt::Each(sids)));
    }

    #[test]
    fn anything_else_is_told() {
        let ids = texts(&sids(101));
        for (payload, code) in [
            (json!({"status": "received"}), ErrorCode::MissingField),
            (json!({"id": ids[0]}), ErrorCode::MissingField),
            (json!({"id": ids[0], "ids": [ids[1]], "status": "received"}), ErrorCode::BadField),
            (json!({"ids": [], "status": "received"}), ErrorCode::BadField),
            (json!({"ids": ids, "status": "received"}), ErrorCode::BadField),
            (json!({"ids": ids[0], "status": "received"}), ErrorCode::BadField),
            (json!({"ids": ids[..2], "status": "received", "up_to": true}), ErrorCode::BadField),
            (json!({"id": ids[0], "status": "received", "up_to": 1}), ErrorCode::BadField),
            (json!({"id": ids[0], "status": "delivered"}), ErrorCode::BadField),
            (json!({"id": "a1", "status": "received"}), ErrorCode::BadId),
            (json!({"ids": [ids[0], 7], "status": "received"}), ErrorCode::BadId),
            (json!({"id": ids[0], "status": "received", "v": 2}), ErrorCode::Version),
            (json!([]), ErrorCode::NotObject),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = BalReceipt::parse(&bytes, &Limits::default());
        }
    }
}

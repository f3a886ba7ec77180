//! What a sender may ask for.

use super::ccs_form::MESSAGE_ID;
use super::fields::Fields;
use super::target::names_a_device;
use super::{ErrorCode, Rejection};
use serde_json::Value;

/// Fields that reach devices past everything that is known of their users.
const RAW: [&str; 5] = ["token", "topic", "condition", "fcm", MESSAGE_ID];

/// Who sends a message, as far as it decides what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A backend application.
    Bal,
    /// Anybody else. Its credentials lie in a phone or a web page, so it names people and BALs, never devices.
    User,
}

impl Sender {
    /// Refuses what only a BAL may give, before anything of it is looked at.
    pub(in crate::chat) fn check(self, fields: &Fields) -> Result<(), Rejection> {
        if self == Self::Bal {
            return Ok(());
        }
        let raw = RAW.into_iter().find(|name| fields.has(name));
        let raw =
            raw.or_else(|| matches!(fields.get("to"), Some(Value::String(to)) if names_a_device(to)).then_some("to"));
        raw.map_or(Ok(()), |name| Err(forbidden(name)))
    }
}

fn forbidden(field: &str) -> Rejection {
    let what = match field {
        "fcm" => "give `fcm`".to_owned(),
        MESSAGE_ID => "send in the form of CCS, which is what `message_id` means".to_owned(),
        _ => format!("name a device or an FCM topic in `{field}`"),
    };
    Rejection::new(ErrorCode::Forbidden, format!("only a BAL may {what}"))
}

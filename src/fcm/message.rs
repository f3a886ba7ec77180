//! One message to send, with the words of CCS: what a transport fills in, whatever it got it from.

use super::request::RequestError;
use super::target::Target;
use serde_json::{Map, Value};
use std::fmt;

/// One message to send.
#[derive(Clone, PartialEq)]
pub struct Message {
    /// Whom it is for.
    pub target: Target,
    /// The sender's id; v1 has no place for it but `data`.
    pub id: Option<String>,
    /// Whether somebody waits to hear that it arrived.
    pub receipt: Receipt,
    /// The application's data. Values that are not strings become strings.
    pub data: Map<String, Value>,
    /// What the device shows by itself.
    pub notification: Option<Map<String, Value>>,
    /// Messages with the same key replace each other while the device is away.
    pub collapse: Option<String>,
    /// How urgent it is. Without it FCM decides.
    pub priority: Option<Priority>,
    /// How long it is still worth delivering, in seconds: what is left when it is sent. 0 is now or never, `None` is
    /// FCM's default of four weeks.
    pub ttl_s: Option<u32>,
    /// The switches of CCS.
    pub options: Options,
    /// Fields of v1 (`android`, `apns`, `webpush`, `android_v2`, `fcm_options`), merged last.
    pub extra: Map<String, Value>,
}

/// Without what the application says.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("target", &self.target.kind()).field("id", &self.id).finish_non_exhaustive()
    }
}

/// How urgent a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Wakes the device.
    High,
    /// May wait until the device is awake.
    Normal,
}

/// Whether somebody waits to hear that a message arrived. v1 never says so: only the app itself can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// Nobody does.
    Unwanted,
    /// Somebody does, but there is nothing to confirm to.
    Wanted,
    /// The app is to confirm to this address: a topic of the bridge, or a URL.
    At(String),
}

/// The switches of CCS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Wakes an app on Apple's devices.
    pub content_available: bool,
    /// Lets an app on Apple's devices change what is shown.
    pub mutable_content: bool,
    /// Only check the message.
    pub dry_run: bool,
    /// A field of the past.
    pub delay_while_idle: bool,
    /// Only for the app with this package name.
    pub restricted_package_name: Option<String>,
}

impl Options {
    /// Takes the switches out of `fields`; the rest is what v1 calls by the same names. Null counts as not given.
    ///
    /// # Errors
    /// When one has the wrong type.
    pub fn take(fields: &mut Map<String, Value>) -> Result<Self, RequestError> {
        Ok(Self {
            content_available: flag(fields, "content_available")?,
            mutable_content: flag(fields, "mutable_content")?,
            dry_run: flag(fields, "dry_run")?,
            delay_while_idle: flag(fields, "delay_while_idle")?,
            restricted_package_name: match fields.shift_remove("restricted_package_name") {
                None | Some(Value::Null) => None,
                Some(Value::String(name)) => Some(name),
                Some(_) => return Err(RequestError::Type("restricted_package_name")),
            },
        })
    }
}

fn flag(fields: &mut Map<String, Value>, name: &'static str) -> Result<bool, RequestError> {
    match fields.shift_remove(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(RequestError::Type(name)),
    }
}

//! One message to send: what a transport fills in, whatever it got it from.

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
    /// Whether somebody waits to hear that it arrived. v1 never says so: only the app itself can.
    pub receipt: bool,
    /// Where the app confirms then: a topic of the bridge, or a URL.
    pub ack: Option<String>,
    /// What it says, in the words of CCS (`data`, `notification`, `time_to_live` for what is left of it, ...), and the
    /// blocks of v1 that are laid over that (`android`, `apns`, `webpush`, `android_v2`, `fcm_options`).
    pub fields: Map<String, Value>,
    /// Words of CCS that the sender has others for: CCS's, and the sender's.
    pub words: &'static [(&'static str, &'static str)],
}

/// Without what the application says.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("target", &self.target.kind()).field("id", &self.id).finish_non_exhaustive()
    }
}

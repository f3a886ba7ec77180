//! Whether a client is there: `{owner}/self/presence`, retained, and its will.

use super::fields::Fields;
use super::{ErrorCode, Limits, Rejection};
use serde::Serialize;
use serde_json::json;

/// Longest `conn`, in characters.
pub const CONN_MAX: usize = 64;
/// Longest `ua`, the name of the client's software, in characters. Nobody reads it but the owner's other devices.
const UA_MAX: usize = 64;

/// What a client says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// There or not.
    pub state: PresenceState,
    /// Since when, in Unix milliseconds, by the client's clock. A will carries the time of the connection.
    pub ts: Option<u64>,
    /// Which connection: the same word in birth and will, so that a late will of an old connection can be told.
    pub conn: Option<String>,
    /// Whether somebody looks at the device; nothing is said if it is absent. `true` is a sign of a person.
    pub active: Option<bool>,
}

/// There or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PresenceState {
    /// There.
    Online,
    /// Not there.
    Offline,
}

/// What the bridge says about a chat user, for all of the user's devices together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserPresence {
    /// There is at least one device, or none.
    pub state: PresenceState,
    /// When this was said, in Unix milliseconds.
    pub ts: u64,
    /// When the last device went, in Unix milliseconds; unknown if the user was never away.
    pub last_seen: Option<u64>,
}

impl UserPresence {
    /// The document to publish.
    pub fn to_payload(&self) -> Vec<u8> {
        let mut document = json!({ "v": 1, "state": self.state, "ts": self.ts });
        if let Some(last_seen) = self.last_seen {
            document["last_seen"] = last_seen.into();
        }
        super::json(&document)
    }
}

impl Presence {
    /// Reads a payload; `None` if it is empty, which is how a retained value is cleared.
    ///
    /// The one-word payloads of old clients (`L`, `F`, `Online`, `Offline`) are understood.
    ///
    /// # Errors
    /// With the code of topics.md.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Option<Self>, Rejection> {
        let bare = |state| Ok(Some(Self::bare(state)));
        match payload {
            b"" => return Ok(None),
            b"L" | b"Online" => return bare(PresenceState::Online),
            b"F" | b"Offline" => return bare(PresenceState::Offline),
            _ => {}
        }
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        fields.version()?;
        let state = match fields.string("state")?.as_deref() {
            Some("online") => PresenceState::Online,
            Some("offline") => PresenceState::Offline,
            Some(_) => return Err(Rejection::bad_field("state", "is not online or offline")),
            None => return Err(Rejection::new(ErrorCode::MissingField, "`state` is missing")),
        };
        let ts = match fields.take("ts") {
            None => None,
            Some(ts) => Some(ts.as_u64().ok_or_else(|| Rejection::bad_field("ts", "is not a whole number"))?),
        };
        fields.word("ua", UA_MAX)?;
        Ok(Some(Self { state, ts, conn: fields.word("conn", CONN_MAX)?, active: fields.flag("active")? }))
    }

    /// The state alone, as clients of old say it.
    pub fn bare(state: PresenceState) -> Self {
        Self { state, ts: None, conn: None, active: None }
    }

    /// Whether it has the form of a [`UserPresence`], which names a time and no connection.
    pub fn may_be_aggregate(&self) -> bool {
        self.ts.is_some() && self.conn.is_none() && self.active.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(payload: &str) -> Result<Option<Presence>, ErrorCode> {
        Presence::parse(payload.as_bytes(), &Limits::default()).map_err(|rejection| rejection.code())
    }

    #[test]
    fn a_birth_and_a_will_carry_the_same_connection() {
        let birth = parse(r#"{"state":"online","ts":1700000000000,"conn":"c1","ua":"x"}"#).unwrap().unwrap();
        assert_eq!(birth.state, PresenceState::Online);
        assert_eq!((birth.ts, birth.conn.as_deref()), (Some(1_700_000_000_000), Some("c1")));
        let will = parse(r#"{"state":"offline","conn":"c1"}"#).unwrap().unwrap();
        assert_eq!((will.state, will.ts, will.conn.as_deref()), (PresenceState::Offline, None, Some("c1")));
        assert_eq!((birth.active, birth.may_be_aggregate()), (None, false));
    }

    #[test]
    fn a_device_may_say_whether_somebody_looks_at_it() {
        for (payload, active) in [
            (r#"{"state":"online","active":true}"#, Some(true)),
            (r#"{"state":"online","active":false,"ts":1}"#, Some(false)),
            (r#"{"state":"offline"}"#, None),
        ] {
            let read = parse(payload).unwrap().unwrap();
            assert_eq!((read.active, read.may_be_aggregate()), (active, false), "{payload}");
        }
    }

    #[test]
    fn words_of_old_clients_are_understood() {
        for (word, state) in [
            ("L", PresenceState::Online),
            ("Online", PresenceState::Online),
            ("F", PresenceState::Offline),
            ("Offline", PresenceState::Offline),
        ] {
            assert_eq!(parse(word), Ok(Some(Presence::bare(state))), "{word}");
        }
    }

    #[test]
    fn the_word_for_a_user_leaves_out_what_is_unknown_and_can_be_read_as_a_devices() {
        let seen = UserPresence { state: PresenceState::Offline, ts: 9, last_seen: Some(7) };
        assert_eq!(seen.to_payload(), br#"{"v":1,"state":"offline","ts":9,"last_seen":7}"#);
        let new = UserPresence { state: PresenceState::Online, ts: 9, last_seen: None };
        assert_eq!(new.to_payload(), br#"{"v":1,"state":"online","ts":9}"#);
        let read = Presence::parse(&new.to_payload(), &Limits::default()).unwrap();
        assert_eq!(read, Some(Presence { ts: Some(9), ..Presence::bare(PresenceState::Online) }));
        assert!(read.unwrap().may_be_aggregate());
    }

    #[test]
    fn an_empty_payload_clears() {
        assert_eq!(parse(""), Ok(None));
    }

    #[test]
    fn anything_else_is_told() {
        for (payload, code) in [
            ("x", ErrorCode::BadJson),
            ("1", ErrorCode::NotObject),
            ("{}", ErrorCode::MissingField),
            (r#"{"state":"away"}"#, ErrorCode::BadField),
            (r#"{"state":true}"#, ErrorCode::BadField),
            (r#"{"state":"online","ts":-1}"#, ErrorCode::BadField),
            (r#"{"state":"online","conn":""}"#, ErrorCode::BadField),
            (r#"{"state":"online","active":1}"#, ErrorCode::BadField),
            (r#"{"state":"online","v":2}"#, ErrorCode::Version),
        ] {
            assert_eq!(parse(payload), Err(code), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Presence::parse(&bytes, &Limits::default());
        }
    }
}

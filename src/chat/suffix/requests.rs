//! `requests/{dev}`: what a device asks the bridge, and is answered on `replies/{dev}`.

use super::read::peer;
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, Rejection};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most messages that a report names.
pub const REPORTED_MAX: usize = 20;
/// Longest `reason` of a report, in characters.
pub const REASON_MAX: usize = 500;
/// Longest mute, in seconds: ten years.
pub const MUTE_MAX: u64 = 315_360_000;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The asker's own word for it: the answer has it as `ref`.
    pub id: Option<MessageId>,
    /// What is asked for.
    pub op: Op,
}

/// Who may write to a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writers {
    /// Everybody.
    #[default]
    Anyone,
    /// Contacts; strangers may invite.
    Contacts,
    /// Contacts, and whom the gatekeeper lets in.
    Gatekeeper,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The contacts, with name, presence, mute and block.
    Contacts {
        /// The last name that the asker has; '': from the first.
        after: String,
    },
    /// All settings.
    Settings,
    /// No pushes for a conversation.
    Mute {
        /// Which.
        with: Owner,
        /// For how long, in seconds; `None`: until it is unmuted.
        seconds: Option<u64>,
    },
    /// Pushes for it again.
    Unmute(Owner),
    /// Nothing of this user any more.
    Block(Owner),
    /// The end of that.
    Unblock(Owner),
    /// This user is no contact any more.
    RemoveContact(Owner),
    /// Who may write.
    WhoMayWrite(Writers),
    /// Whether others see when the user is there.
    HidePresence(bool),
    /// Whether others see what the user has read.
    HideRead(bool),
    /// Tells the operators of somebody.
    Report {
        /// Of whom.
        with: Owner,
        /// By which messages, at most [`REPORTED_MAX`].
        sids: Vec<Sid>,
        /// Why.
        reason: Option<String>,
    },
    /// The own devices.
    Devices,
    /// A push to the own devices, whoever is there.
    TestPush,
    /// Why the own devices were pushed for this message, or not.
    Explain(Sid),
    /// Everything that is kept of the user, in pages.
    Export {
        /// The `next` of the page before; '': the first.
        after: String,
    },
    /// Everything of the user goes.
    Erase(Secret),
    /// Everything behind this message, over all conversations; without one the newest.
    Sync {
        /// The last item that the asker has.
        since: Option<Sid>,
    },
}

/// A password or a token, by which a user proves to be there. It is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Request {
    /// Reads a payload.
    ///
    /// # Errors
    /// With the code of topics.md, and with the request's id if that could be read.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        let id = fields.id()?;
        match read(&mut fields) {
            Ok(op) => Ok(Self { id, op }),
            Err(rejection) => Err(rejection.about(id)),
        }
    }
}

fn read(fields: &mut Fields) -> Result<Op, Rejection> {
    fields.version()?;
    let missing = |name: &str| Rejection::new(ErrorCode::MissingField, format!("`{name}` is missing"));
    let op = fields.string("op")?.ok_or_else(|| missing("op"))?;
    Ok(match op.as_str() {
        "contacts" => Op::Contacts { after: fields.string("after")?.unwrap_or_default() },
        "settings" => Op::Settings,
        "mute" => mute(fields)?,
        "block" => Op::Block(peer(fields, "with")?),
        "unblock" => Op::Unblock(peer(fields, "with")?),
        "remove_contact" => Op::RemoveContact(peer(fields, "with")?),
        "who_may_write" => match fields.string("who")?.as_deref() {
            Some("anyone") => Op::WhoMayWrite(Writers::Anyone),
            Some("contacts") => Op::WhoMayWrite(Writers::Contacts),
            Some("gatekeeper") => Op::WhoMayWrite(Writers::Gatekeeper),
            Some(_) => return Err(Rejection::bad_field("who", "is not anyone, contacts or gatekeeper")),
            None => return Err(missing("who")),
        },
        "hide_presence" => Op::HidePresence(fields.flag("on")?.ok_or_else(|| missing("on"))?),
        "hide_read" => Op::HideRead(fields.flag("on")?.ok_or_else(|| missing("on"))?),
        "report" => report(fields)?,
        "devices" => Op::Devices,
        "test_push" => Op::TestPush,
        "explain" => Op::Explain(sid(fields, "sid")?.ok_or_else(|| missing("sid"))?),
        "export" => Op::Export { after: fields.string("after")?.unwrap_or_default() },
        "erase" => Op::Erase(secret(fields)?),
        "sync" => Op::Sync { since: sid(fields, "since")? },
        _ => return Err(Rejection::bad_field("op", "is none that this release knows")),
    })
}

fn secret(fields: &mut Fields) -> Result<Secret, Rejection> {
    match (fields.string("password")?, fields.string("token")?) {
        (Some(secret), None) | (None, Some(secret)) if !secret.is_empty() => Ok(Secret(secret)),
        (None, None) => Err(Rejection::new(ErrorCode::MissingField, "`password` or `token` is missing")),
        _ => Err(Rejection::bad_field("password", "or `token` is empty, or both are there")),
    }
}

fn mute(fields: &mut Fields) -> Result<Op, Rejection> {
    let with = peer(fields, "with")?;
    match fields.string("level")?.as_deref() {
        Some("all") => return Ok(Op::Unmute(with)),
        None | Some("none") => {}
        Some(_) => return Err(Rejection::bad_field("level", "is not all or none")),
    }
    let bad = || Rejection::bad_field("for", format_args!("is no number of seconds up to {MUTE_MAX}"));
    let seconds = match fields.take("for") {
        None => None,
        Some(seconds) => Some(seconds.as_u64().filter(|seconds| *seconds <= MUTE_MAX).ok_or_else(bad)?),
    };
    Ok(Op::Mute { with, seconds })
}

fn report(fields: &mut Fields) -> Result<Op, Rejection> {
    let with = peer(fields, "with")?;
    let bad = || Rejection::bad_field("sids", format_args!("is no list of at most {REPORTED_MAX} sids"));
    let sids = match fields.take("sids") {
        None => Vec::new(),
        Some(given) => {
            let given = given.as_array().filter(|sids| sids.len() <= REPORTED_MAX).ok_or_else(bad)?;
            given.iter().map(|sid| sid.as_str().and_then(Sid::parse).ok_or_else(bad)).collect::<Result<_, _>>()?
        }
    };
    Ok(Op::Report { with, sids, reason: fields.word("reason", REASON_MAX)? })
}

fn sid(fields: &mut Fields, name: &str) -> Result<Option<Sid>, Rejection> {
    let Some(text) = fields.string(name)? else { return Ok(None) };
    Sid::parse(&text).map(Some).ok_or_else(|| Rejection::bad_field(name, "is not the `sid` of a message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parse(payload: &Value) -> Result<Op, ErrorCode> {
        let parsed = Request::parse(payload.to_string().as_bytes(), &Limits::default());
        parsed.map(|request| request.op).map_err(|rejection| rejection.code())
    }

    #[test]
    fn every_op_is_read() {
        let sid = SidSource::default().next(1_700_000_000_000, 1);
        let bob = || Owner::new("bob").unwrap();
        for (payload, op) in [
            (json!({"op": "contacts"}), Op::Contacts { after: String::new() }),
            (json!({"op": "contacts", "after": "bob"}), Op::Contacts { after: "bob".to_owned() }),
            (json!({"op": "settings"}), Op::Settings),
            (json!({"op": "mute", "with": "bob", "for": 60}), Op::Mute { with: bob(), seconds: Some(60) }),
            (json!({"op": "mute", "with": "bob", "level": "none"}), Op::Mute { with: bob(), seconds: None }),
            (json!({"op": "mute", "with": "bob", "level": "all"}), Op::Unmute(bob())),
            (json!({"op": "block", "with": "bob"}), Op::Block(bob())),
            (json!({"op": "unblock", "with": "bob"}), Op::Unblock(bob())),
            (json!({"op": "remove_contact", "with": "bob"}), Op::RemoveContact(bob())),
            (json!({"op": "who_may_write", "who": "contacts"}), Op::WhoMayWrite(Writers::Contacts)),
            (json!({"op": "who_may_write", "who": "gatekeeper"}), Op::WhoMayWrite(Writers::Gatekeeper)),
            (json!({"op": "hide_presence", "on": true}), Op::HidePresence(true)),
            (json!({"op": "hide_read", "on": false}), Op::HideRead(false)),
            (
                json!({"op": "report", "with": "bob", "sids": [sid.to_string()], "reason": "spam"}),
                Op::Report { with: bob(), sids: vec![sid], reason: Some("spam".to_owned()) },
            ),
            (json!({"op": "devices"}), Op::Devices),
            (json!({"op": "test_push"}), Op::TestPush),
            (json!({"op": "explain", "sid": sid.to_string()}), Op::Explain(sid)),
            (json!({"op": "export", "after": "contacts bob"}), Op::Export { after: "contacts bob".to_owned() }),
            (json!({"op": "erase", "password": "pw"}), Op::Erase(Secret("pw".to_owned()))),
            (json!({"op": "erase", "token": "a.b.c"}), Op::Erase(Secret("a.b.c".to_owned()))),
            (json!({"op": "sync"}), Op::Sync { since: None }),
            (json!({"op": "sync", "since": sid.to_string()}), Op::Sync { since: Some(sid) }),
        ] {
            assert_eq!(parse(&payload), Ok(op), "{payload}");
        }
    }

    #[test]
    fn anything_else_is_told() {
        for (payload, code) in [
            (json!({}), ErrorCode::MissingField),
            (json!({"op": "fly"}), ErrorCode::BadField),
            (json!({"op": "mute"}), ErrorCode::MissingField),
            (json!({"op": "mute", "with": "bob", "level": "mentions"}), ErrorCode::BadField),
            (json!({"op": "mute", "with": "bob", "for": MUTE_MAX + 1}), ErrorCode::BadField),
            (json!({"op": "who_may_write", "who": "nobody"}), ErrorCode::BadField),
            (json!({"op": "hide_read"}), ErrorCode::MissingField),
            (json!({"op": "report", "with": "bob", "sids": vec!["x"; REPORTED_MAX + 1]}), ErrorCode::BadField),
            (json!({"op": "explain"}), ErrorCode::MissingField),
            (json!({"op": "erase"}), ErrorCode::MissingField),
            (json!({"op": "erase", "password": "x", "token": "y"}), ErrorCode::BadField),
            (json!({"op": "sync", "since": "m1"}), ErrorCode::BadField),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
        let refused = Request::parse(br#"{"id":"r1","op":"fly"}"#, &Limits::default()).unwrap_err();
        assert_eq!(refused.ref_id().unwrap().as_str(), "r1");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Request::parse(&bytes, &Limits::default());
        }
    }
}

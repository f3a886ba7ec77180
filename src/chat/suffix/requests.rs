//! `requests/{dev}`: what a device asks the bridge, and is answered on `replies/{dev}`.

mod groups;

pub use groups::{GroupOp, NAMED_MAX};

use super::read::{conversation, peer};
use crate::chat::contact::MuteLevel;
use crate::chat::group::GroupChange;
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, Rejection};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most messages that a report names.
pub const REPORTED_MAX: usize = 20;
/// Longest `reason` of a report, in characters.
pub const REASON_MAX: usize = 500;
/// Most conversations, or items of a history, of one page.
pub const PAGE_MAX: usize = 100;
/// Most items that are deleted at once.
pub const DELETED_MAX: usize = 100;
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

/// From where a page of a history goes, and in which direction. An item that is not kept any more counts by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryFrom {
    /// The newest.
    Newest,
    /// The newest of those before this one.
    Before(Sid),
    /// The oldest of those after this one.
    After(Sid),
}

/// Of what a user deletes the own copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeletionOf {
    /// All of the conversation with this one, up to now.
    All(Owner),
    /// These items of any conversations, at most [`DELETED_MAX`].
    Each(Vec<Sid>),
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
    /// No pushes for a conversation, or fewer.
    Mute {
        /// Which.
        with: Owner,
        /// What is still pushed; not all of it.
        level: MuteLevel,
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
        /// The first page needs one.
        secret: Option<Secret>,
    },
    /// Everything of the user goes.
    Erase(Secret),
    /// The conversations, newest first: the first screen.
    Conversations {
        /// How many, at most [`PAGE_MAX`].
        limit: usize,
        /// Those whose newest item is older.
        before: Option<Sid>,
    },
    /// One conversation.
    History {
        /// Which.
        with: Owner,
        /// Which part of it.
        from: HistoryFrom,
        /// How many items, at most [`PAGE_MAX`].
        limit: usize,
    },
    /// Puts a conversation away, or takes it out again.
    Archive {
        /// Which.
        with: Owner,
        /// Away.
        on: bool,
    },
    /// Deletes the own copy of something.
    Delete(DeletionOf),
    /// Everything behind this message, over all conversations; without one the newest.
    Sync {
        /// The last item that the asker has.
        since: Option<Sid>,
    },
    /// Something about a group.
    Group(GroupOp),
    /// What the asker has written to be sent at a time.
    Schedule {
        /// The `next` of the page before.
        after: Option<Sid>,
    },
    /// Takes back a message that is to be sent at a time, by the asker's own id of it.
    Cancel(MessageId),
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
        let read = read(&mut fields).and_then(|op| {
            if op.takes_away() {
                fields.nothing_else()?;
            }
            Ok(op)
        });
        match read {
            Ok(op) => Ok(Self { id, op }),
            Err(rejection) => Err(rejection.about(id)),
        }
    }
}

impl Op {
    /// Whether it takes away what no other request gives back: then a field that it does not have is an error, for it may say
    /// that something else was meant.
    fn takes_away(&self) -> bool {
        use GroupChange::{Dissolve, Leave, Remove};
        match self {
            Self::Erase(_) | Self::Delete(_) | Self::Cancel(_) | Self::Block(_) | Self::RemoveContact(_) => true,
            Self::Group(GroupOp::Change(_, change)) => matches!(change, Remove(_) | Leave | Dissolve),
            _ => false,
        }
    }
}

impl Request {
    /// Of how many conversations it may clear notifications, at most.
    pub fn conversations(&self) -> usize {
        if let Op::Delete(DeletionOf::Each(sids)) = &self.op { sids.len() } else { 1 }
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
        "export" => {
            let (after, secret) = (fields.string("after")?.unwrap_or_default(), secret(fields)?);
            if after.is_empty() && secret.is_none() {
                return Err(no_secret());
            }
            Op::Export { after, secret }
        }
        "erase" => Op::Erase(secret(fields)?.ok_or_else(no_secret)?),
        "conversations" => Op::Conversations { limit: limit(fields)?, before: sid(fields, "before")? },
        "history" => history(fields)?,
        "archive" => Op::Archive { with: conversation(fields, "with")?, on: fields.flag("on")?.unwrap_or(true) },
        "delete" => Op::Delete(deletion(fields)?),
        "sync" => Op::Sync { since: sid(fields, "since")? },
        op if let Some(op) = op.strip_prefix("group.") => Op::Group(groups::read(fields, op)?),
        "schedule" => Op::Schedule { after: sid(fields, "after")? },
        "cancel" => {
            let message = fields.string("message")?.ok_or_else(|| missing("message"))?;
            Op::Cancel(MessageId::new(message).map_err(|fault| Rejection::bad_field("message", fault))?)
        }
        _ => return Err(Rejection::bad_field("op", "is none that this release knows")),
    })
}

fn no_secret() -> Rejection {
    Rejection::new(ErrorCode::MissingField, "`password` or `token` is missing")
}

fn secret(fields: &mut Fields) -> Result<Option<Secret>, Rejection> {
    match (fields.string("password")?, fields.string("token")?) {
        (Some(secret), None) | (None, Some(secret)) if !secret.is_empty() => Ok(Some(Secret(secret))),
        (None, None) => Ok(None),
        _ => Err(Rejection::bad_field("password", "or `token` is empty, or both are there")),
    }
}

fn mute(fields: &mut Fields) -> Result<Op, Rejection> {
    let with = conversation(fields, "with")?;
    let level = match fields.string("level")?.as_deref() {
        Some("all") => return Ok(Op::Unmute(with)),
        Some("mentions") => MuteLevel::Mentions,
        None | Some("none") => MuteLevel::None,
        Some(_) => return Err(Rejection::bad_field("level", "is not all, mentions or none")),
    };
    let bad = || Rejection::bad_field("for", format_args!("is no number of seconds up to {MUTE_MAX}"));
    let seconds = match fields.take("for") {
        None => None,
        Some(seconds) => Some(seconds.as_u64().filter(|seconds| *seconds <= MUTE_MAX).ok_or_else(bad)?),
    };
    Ok(Op::Mute { with, level, seconds })
}

fn report(fields: &mut Fields) -> Result<Op, Rejection> {
    let with = conversation(fields, "with")?;
    let sids = sids(fields, REPORTED_MAX)?.unwrap_or_default();
    Ok(Op::Report { with, sids, reason: fields.word("reason", REASON_MAX)? })
}

fn history(fields: &mut Fields) -> Result<Op, Rejection> {
    let (before, after) = (sid(fields, "before")?, sid(fields, "after")?);
    let from = match (before, after) {
        (None, None) => HistoryFrom::Newest,
        (Some(before), None) => HistoryFrom::Before(before),
        (None, Some(after)) => HistoryFrom::After(after),
        (Some(_), Some(_)) => return Err(Rejection::bad_field("after", "does not go with `before`")),
    };
    Ok(Op::History { with: conversation(fields, "with")?, from, limit: limit(fields)? })
}

fn deletion(fields: &mut Fields) -> Result<DeletionOf, Rejection> {
    match sids(fields, DELETED_MAX)? {
        Some(_) if fields.has("with") => Err(Rejection::bad_field("sids", "does not go with `with`")),
        Some(sids) if sids.is_empty() => Err(Rejection::bad_field("sids", "is empty")),
        Some(sids) => Ok(DeletionOf::Each(sids)),
        None => Ok(DeletionOf::All(conversation(fields, "with")?)),
    }
}

fn limit(fields: &mut Fields) -> Result<usize, Rejection> {
    let bad = || Rejection::bad_field("limit", format_args!("is no number from 1 to {PAGE_MAX}"));
    let Some(limit) = fields.take("limit") else { return Ok(PAGE_MAX) };
    let limit = limit.as_u64().and_then(|limit| usize::try_from(limit).ok());
    limit.filter(|limit| (1..=PAGE_MAX).contains(limit)).ok_or_else(bad)
}

fn sids(fields: &mut Fields, max: usize) -> Result<Option<Vec<Sid>>, Rejection> {
    let bad = || Rejection::bad_field("sids", format_args!("is no list of at most {max} sids"));
    let Some(given) = fields.take("sids") else { return Ok(None) };
    let given = given.as_array().filter(|sids| sids.len() <= max).ok_or_else(bad)?;
    given.iter().map(|sid| sid.as_str().and_then(Sid::parse).ok_or_else(bad)).collect::<Result<_, _>>().map(Some)
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
        let mute = |level, seconds| Op::Mute { with: bob(), level, seconds };
        let history = |from, limit| Op::History { with: bob(), from, limit };
        for (payload, op) in [
            (json!({"op": "contacts"}), Op::Contacts { after: String::new() }),
            (json!({"op": "contacts", "after": "bob"}), Op::Contacts { after: "bob".to_owned() }),
            (json!({"op": "settings"}), Op::Settings),
            (json!({"op": "mute", "with": "bob", "for": 60}), mute(MuteLevel::None, Some(60))),
            (json!({"op": "mute", "with": "bob", "level": "none"}), mute(MuteLevel::None, None)),
            (json!({"op": "mute", "with": "bob", "level": "mentions", "for": 9}), mute(MuteLevel::Mentions, Some(9))),
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
            (
                json!({"op": "export", "after": "contacts bob"}),
                Op::Export { after: "contacts bob".to_owned(), secret: None },
            ),
            (
                json!({"op": "export", "password": "pw"}),
                Op::Export { after: String::new(), secret: Some(Secret("pw".to_owned())) },
            ),
            (json!({"op": "erase", "password": "pw"}), Op::Erase(Secret("pw".to_owned()))),
            (json!({"op": "erase", "token": "a.b.c"}), Op::Erase(Secret("a.b.c".to_owned()))),
            (json!({"op": "conversations"}), Op::Conversations { limit: PAGE_MAX, before: None }),
            (
                json!({"op": "conversations", "limit": 1, "before": sid.to_string()}),
                Op::Conversations { limit: 1, before: Some(sid) },
            ),
            (json!({"op": "history", "with": "bob"}), history(HistoryFrom::Newest, PAGE_MAX)),
            (
                json!({"op": "history", "with": "bob", "before": sid.to_string(), "limit": 7}),
                history(HistoryFrom::Before(sid), 7),
            ),
            (
                json!({"op": "history", "with": "bob", "after": sid.to_string(), "limit": 100}),
                history(HistoryFrom::After(sid), 100),
            ),
            (json!({"op": "archive", "with": "bob"}), Op::Archive { with: bob(), on: true }),
            (json!({"op": "archive", "with": "bob", "on": false}), Op::Archive { with: bob(), on: false }),
            (json!({"op": "delete", "with": "bob"}), Op::Delete(DeletionOf::All(bob()))),
            (json!({"op": "delete", "sids": [sid.to_string()]}), Op::Delete(DeletionOf::Each(vec![sid]))),
            (json!({"op": "sync"}), Op::Sync { since: None }),
            (json!({"op": "sync", "since": sid.to_string()}), Op::Sync { since: Some(sid) }),
            (json!({"op": "schedule"}), Op::Schedule { after: None }),
            (json!({"op": "schedule", "after": sid.to_string()}), Op::Schedule { after: Some(sid) }),
            (json!({"op": "cancel", "message": "m1"}), Op::Cancel(MessageId::new("m1").unwrap())),
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
            (json!({"op": "mute", "with": "bob", "level": "few"}), ErrorCode::BadField),
            (json!({"op": "conversations", "limit": 0}), ErrorCode::BadField),
            (json!({"op": "conversations", "limit": PAGE_MAX + 1}), ErrorCode::BadField),
            (json!({"op": "conversations", "before": "m1"}), ErrorCode::BadField),
            (json!({"op": "history"}), ErrorCode::MissingField),
            (json!({"op": "history", "with": "bob", "limit": "7"}), ErrorCode::BadField),
            (
                json!({"op": "history", "with": "bob", "before": "06eqbd3gy0001ab2", "after": "06eqbd3gy0001ab2"}),
                ErrorCode::BadField,
            ),
            (json!({"op": "archive"}), ErrorCode::MissingField),
            (json!({"op": "delete"}), ErrorCode::MissingField),
            (json!({"op": "delete", "sids": []}), ErrorCode::BadField),
            (json!({"op": "delete", "sids": vec!["06eqbd3gy0001ab2"; DELETED_MAX + 1]}), ErrorCode::BadField),
            (json!({"op": "delete", "with": "bob", "sids": ["06eqbd3gy0001ab2"]}), ErrorCode::BadField),
            (json!({"op": "mute", "with": "bob", "for": MUTE_MAX + 1}), ErrorCode::BadField),
            (json!({"op": "who_may_write", "who": "nobody"}), ErrorCode::BadField),
            (json!({"op": "hide_read"}), ErrorCode::MissingField),
            (json!({"op": "report", "with": "bob", "sids": vec!["x"; REPORTED_MAX + 1]}), ErrorCode::BadField),
            (json!({"op": "explain"}), ErrorCode::MissingField),
            (json!({"op": "erase"}), ErrorCode::MissingField),
            (json!({"op": "export"}), ErrorCode::MissingField),
            (json!({"op": "export", "after": "contacts bob", "password": "x", "token": "y"}), ErrorCode::BadField),
            (json!({"op": "erase", "password": "x", "token": "y"}), ErrorCode::BadField),
            (json!({"op": "sync", "since": "m1"}), ErrorCode::BadField),
            (json!({"op": "schedule", "after": "m1"}), ErrorCode::BadField),
            (json!({"op": "cancel"}), ErrorCode::MissingField),
            (json!({"op": "cancel", "message": "a/b"}), ErrorCode::BadField),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
        let refused = Request::parse(br#"{"id":"r1","op":"fly"}"#, &Limits::default()).unwrap_err();
        assert_eq!(refused.ref_id().unwrap().as_str(), "r1");
    }

    #[test]
    fn what_takes_something_away_is_not_done_by_a_guess() {
        let sid = "06eqbd3gy0001ab2";
        for (whole, is_strict) in [
            (json!({"op": "erase", "password": "pw"}), true),
            (json!({"op": "delete", "with": "bob"}), true),
            (json!({"op": "delete", "sids": [sid]}), true),
            (json!({"op": "cancel", "message": "m1"}), true),
            (json!({"op": "block", "with": "bob"}), true),
            (json!({"op": "remove_contact", "with": "bob"}), true),
            (json!({"op": "group.remove", "group": "g-1", "members": ["bob"]}), true),
            (json!({"op": "group.leave", "group": "g-1"}), true),
            (json!({"op": "group.dissolve", "group": "g-1"}), true),
            (json!({"op": "history", "with": "bob"}), false),
            (json!({"op": "unblock", "with": "bob"}), false),
            (json!({"op": "group.rename", "group": "g-1", "name": "New"}), false),
        ] {
            let mut request = whole;
            for name in ["v", "id", "user", "up_to"] {
                request[name] = json!(null);
            }
            assert!(parse(&request).is_ok(), "{request}: what is null is not given");
            request["v"] = json!(1);
            request["id"] = json!("r1");
            request["user"] = json!("bob");
            let parsed = Request::parse(request.to_string().as_bytes(), &Limits::default());
            assert_eq!(parsed.is_err(), is_strict, "{request}");
            if let Err(rejection) = parsed {
                assert_eq!((rejection.code(), rejection.ref_id().unwrap().as_str()), (ErrorCode::BadField, "r1"));
                assert!(rejection.detail().starts_with("`user` "), "{}", rejection.detail());
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Request::parse(&bytes, &Limits::default());
        }
    }
}

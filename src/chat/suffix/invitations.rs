//! `invitations`: how strangers become contacts.

use super::read::{device, peer};
use crate::chat::id::{GroupId, MessageId, Owner, Sid};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, Rejection};
use crate::chat::topic::Device;

/// Longest `body`, in characters.
pub const BODY_MAX: usize = 500;
/// How long an invitation is open without `expires`, in milliseconds: 7 days. No longer with it.
pub const OPEN_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// What an invitation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Be my contact.
    Request {
        /// A word to the invited.
        body: Option<String>,
        /// Until when it is open, in Unix milliseconds.
        expires: Option<u64>,
        /// Be in this group, instead of being a contact.
        group: Option<GroupId>,
    },
    /// An answer to the request with this sid, or its end by the one who made it.
    Answer(Answer, Sid),
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// By the invited: yes.
    Accept,
    /// By the invited: no.
    Decline,
    /// By the one who made it.
    Cancel,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The writer's own id of it.
    pub id: Option<MessageId>,
    /// The other side.
    pub to: Owner,
    /// What it says.
    pub kind: Kind,
    /// The device, as its client says; the embedded broker knows better.
    pub dev: Option<Device>,
}

impl Invitation {
    /// Reads a payload.
    ///
    /// # Errors
    /// With the code of topics.md, and with the writer's id if that could be read.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        let id = fields.id()?;
        match read(&mut fields) {
            Ok(read) => Ok(Self { id, ..read }),
            Err(rejection) => Err(rejection.about(id)),
        }
    }
}

impl Invitation {
    /// Refuses what cannot be done where nothing proves who wrote it.
    ///
    /// # Errors
    /// With the writer's id.
    pub fn check_direct(&self) -> Result<(), Rejection> {
        match self.kind {
            Kind::Request { .. } => Ok(()),
            Kind::Answer(..) => {
                let detail = "nothing proves who wrote into another one's inbox: an answer goes to `self/invitations`";
                Err(Rejection::new(ErrorCode::Forbidden, detail).about(self.id.clone()))
            }
        }
    }
}

fn read(fields: &mut Fields) -> Result<Invitation, Rejection> {
    fields.version()?;
    let group = match fields.string("group")? {
        None => None,
        Some(group) => Some(GroupId::new(group).map_err(|fault| Rejection::bad_field("group", fault))?),
    };
    let to = peer(fields, "to")?;
    let body = fields.string("body")?;
    if body.as_ref().is_some_and(|body| body.chars().count() > BODY_MAX) {
        return Err(Rejection::bad_field("body", format_args!("is longer than {BODY_MAX} characters")));
    }
    let expires = fields.time("expires")?;
    let sid = fields.string("ref")?;
    let answer = match fields.string("type")?.as_deref() {
        Some("request") if sid.is_some() => return Err(Rejection::bad_field("ref", "goes with an answer")),
        Some("request") => None,
        Some("accept") => Some(Answer::Accept),
        Some("decline") => Some(Answer::Decline),
        Some("cancel") => Some(Answer::Cancel),
        Some(_) => return Err(Rejection::bad_field("type", "is none of request, accept, decline, cancel")),
        None => return Err(Rejection::new(ErrorCode::MissingField, "`type` is missing")),
    };
    let kind = match answer {
        None => Kind::Request { body, expires, group },
        Some(answer) => {
            let missing = || Rejection::new(ErrorCode::MissingField, "`ref` is missing: the `sid` of the request");
            let bad = || Rejection::bad_field("ref", "is not the `sid` of an invitation");
            Kind::Answer(answer, Sid::parse(&sid.ok_or_else(missing)?).ok_or_else(bad)?)
        }
    };
    Ok(Invitation { id: None, to, kind, dev: device(fields)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use serde_json::{Value, json};

    fn parse(payload: &Value) -> Result<Kind, ErrorCode> {
        let parsed = Invitation::parse(payload.to_string().as_bytes(), &Limits::default());
        parsed.map(|invitation| invitation.kind).map_err(|rejection| rejection.code())
    }

    #[test]
    fn a_request_and_its_answers() {
        let sid = SidSource::default().next(1_700_000_000_000, 1);
        let request =
            json!({"id": "i1", "to": "bob", "type": "request", "body": "hello", "expires": 1_700_000_000_000_u64});
        assert_eq!(
            parse(&request),
            Ok(Kind::Request { body: Some("hello".to_owned()), expires: Some(1_700_000_000_000), group: None })
        );
        let into = json!({"to": "bob", "type": "request", "group": "g-1"});
        let group = GroupId::new("g-1").ok();
        assert_eq!(parse(&into), Ok(Kind::Request { body: None, expires: None, group }));
        for (word, answer) in [("accept", Answer::Accept), ("decline", Answer::Decline), ("cancel", Answer::Cancel)] {
            let payload = json!({"to": "bob", "type": word, "ref": sid.to_string()});
            assert_eq!(parse(&payload), Ok(Kind::Answer(answer, sid)));
        }
        for (payload, code) in [
            (json!({"to": "bob", "type": "accept"}), ErrorCode::MissingField),
            (json!({"to": "bob", "type": "accept", "ref": "i1"}), ErrorCode::BadField),
            (json!({"to": "bob", "type": "request", "ref": sid.to_string()}), ErrorCode::BadField),
            (json!({"to": "bob", "type": "request", "body": "x".repeat(BODY_MAX + 1)}), ErrorCode::BadField),
            (json!({"to": "bob", "type": "request", "group": "team"}), ErrorCode::BadField),
            (json!({"to": "bob", "type": "request", "expires": "soon"}), ErrorCode::BadField),
            (json!({"to": "bob", "type": "request", "expires": 1_700_000_000}), ErrorCode::BadField),
            (json!({"to": "bob", "type": "invite"}), ErrorCode::BadField),
            (json!({"to": "bob"}), ErrorCode::MissingField),
            (json!({"type": "request"}), ErrorCode::MissingField),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
    }
}

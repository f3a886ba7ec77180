//! `messages`: what one user writes to another, or to a BAL, and the stamped copies of it.

use crate::chat::amendment::{Amendment, TOMBSTONE};
use crate::chat::group::EVERYBODY;
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, Rejection, Sender};
use crate::chat::push::TTL_MAX;
use crate::chat::push_decision::{Matter, Wish};
use crate::chat::topic::Device;
use serde_json::{Map, Value};

/// Longest `body`, in characters.
pub const BODY_MAX: usize = 16_384;
/// Largest `data`, in bytes of its JSON.
pub const DATA_MAX: usize = 32_768;
/// Longest `type` and `thread`, in characters.
pub const WORD_MAX: usize = 64;
/// Most users in `mentions`.
pub const MENTIONS_MAX: usize = 50;
/// So much longer than a payload may a document be once it is written down, in bytes: it has a `type` and an `id` then.
pub const LONGER_MAX: usize = 256;
/// No payload grows to more than so many times its length where its numbers are written out.
const GROWS_MAX: usize = 4;
/// What a message is without a `type`.
const TEXT: &str = "text";
/// A message about another one that is never pushed by itself.
const REACTION: &str = "reaction";
/// Types that the bridge alone writes, or that a later release gives a meaning: what is stored today must not come alive then.
const NOT_TYPES: [&str; 3] = ["notice", "call", TOMBSTONE];
/// How far ahead `not_before` and `expires` may lie, in milliseconds: a year.
pub const AHEAD_MAX_MS: u64 = 366 * 86_400_000;
/// Fields of a push to a token. A message to a user is pushed in a form of the bridge's own.
const OF_PUSHES: [&str; 6] = ["token", "topic", "condition", "notification", "collapse", "fcm"];
/// What the bridge stamps: taken off, whatever a client writes.
pub(super) const STAMPED: [&str; 10] =
    ["from", "sid", "ts", "n", "group", "by", "edited", "redelivered", "status", "read"];
/// Fields that say nothing of an edit or a retract: neither is pushed, nor answers anything, nor is told `delivered`.
const NOT_OF_AMENDMENTS: [&str; 7] = ["reply_to", "thread", "push", "ttl", "receipt", "not_before", "expires"];
/// What an edit changes: it has one of these, and a retract none.
const CONTENT: [&str; 4] = ["body", "data", "files", "mentions"];

/// A message that was taken: checked, with its defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct UserMessage {
    /// The writer's own id of it.
    pub id: Option<MessageId>,
    /// Whom it is for.
    pub to: Owner,
    /// What it does with the message that its `ref` names, which is its writer's own. It is no message of its own then.
    pub amends: Option<Amendment>,
    /// Whether a device may be told of it by a push.
    pub matter: Matter,
    /// What the writer wishes of that.
    pub wish: Wish,
    /// Messages that it speaks of: `reply_to` and `ref`. They lie in the same conversation, or it is refused.
    pub about: Vec<Sid>,
    /// Who is named in it.
    pub mentions: Vec<Owner>,
    /// It mentions every member of the group.
    pub mentions_all: bool,
    /// How long a push of it is worth sending, in seconds. It bounds no history.
    pub ttl: u32,
    /// Whether the writer wishes to hear of delivery.
    pub receipt: bool,
    /// When it is to be sent, in Unix milliseconds; a time that is over is now.
    pub not_before: Option<u64>,
    /// When it is to be deleted everywhere, in Unix milliseconds.
    pub expires: Option<u64>,
    /// The device that wrote it, as its client says; the embedded broker knows better.
    pub dev: Option<Device>,
    /// What its readers get, in the writer's order, without what is stamped: `id`, `to`, `type` and the rest.
    document: Map<String, Value>,
}

/// What the bridge puts on a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// The bridge's id of the message.
    pub sid: Sid,
    /// Its place among all that this reader has of the conversation; an invitation has none.
    pub n: Option<u64>,
    /// When it was stored, in Unix milliseconds.
    pub ts: u64,
    /// Who wrote it.
    pub from: &'a Owner,
    /// The group, if it was written to one.
    pub group: Option<&'a Owner>,
    /// The device that wrote it: for the writer's own devices and for BALs.
    pub dev: Option<&'a Device>,
    /// Its reader may have it already.
    pub redelivered: bool,
}

impl UserMessage {
    /// Reads a payload, and refuses what `sender` may not ask for.
    ///
    /// # Errors
    /// With the code of topics.md, and with the writer's id if that could be read. [`ErrorCode::Forbidden`] goes before every
    /// other fault of a field but the id's.
    pub fn parse(sender: Sender, payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        let allowed = sender.check(&fields);
        let id = fields.id()?;
        let read = allowed.and_then(|()| read(&mut fields, id.clone()));
        let read = read.and_then(|message| check_written(payload, &message.document, limits).map(|()| message));
        read.map_err(|rejection| rejection.about(id))
    }

    /// The text that a push shows, if there is one.
    pub fn body(&self) -> Option<&str> {
        self.document.get("body").and_then(Value::as_str)
    }

    /// What its readers get, without the stamp: to be kept, and to be compared with a repetition.
    pub fn to_bytes(&self) -> Vec<u8> {
        crate::chat::message::json(&self.document)
    }

    /// Refuses times that cannot be kept to at `now` (Unix milliseconds).
    ///
    /// # Errors
    /// With [`ErrorCode::BadField`], and with the writer's id.
    pub fn check_times(&self, now: u64) -> Result<(), Rejection> {
        let bad = |name, detail| Err(Rejection::bad_field(name, detail).about(self.id.clone()));
        let latest = now.saturating_add(AHEAD_MAX_MS);
        if self.not_before.is_some_and(|at| at > latest) {
            return bad("not_before", "is more than a year ahead, in Unix milliseconds");
        }
        match self.expires {
            Some(at) if at <= now => bad("expires", "is over"),
            Some(at) if at > latest => bad("expires", "is more than a year ahead, in Unix milliseconds"),
            _ => Ok(()),
        }
    }

    /// Refuses what cannot be done with a message that its reader has already, and of which nothing proves who wrote it.
    ///
    /// # Errors
    /// With the writer's id.
    pub fn check_direct(&self) -> Result<(), Rejection> {
        if self.amends.is_some() {
            let detail =
                "nothing proves who wrote into another one's inbox: an edit or a retract goes to `self/messages`";
            return Err(Rejection::new(ErrorCode::Forbidden, detail).about(self.id.clone()));
        }
        if self.not_before.is_some() {
            let rejection = Rejection::bad_field("not_before", "is for `self/messages`: this one was read already");
            return Err(rejection.about(self.id.clone()));
        }
        Ok(())
    }

    /// The same under this id, which its writer did not give it.
    pub fn named(mut self, id: MessageId) -> Self {
        self.document.insert("id".to_owned(), id.as_str().into());
        self.id = Some(id);
        self
    }

    /// Whether it says the same as one that was kept, whatever its id and device.
    pub fn says_the_same(&self, kept: &[u8]) -> bool {
        let Ok(mut kept) = serde_json::from_slice::<Map<String, Value>>(kept) else { return false };
        let mut own = self.document.clone();
        own.shift_remove("id");
        kept.shift_remove("id");
        own == kept
    }
}

/// A copy for one reader of a message that was kept as `document`.
pub fn stamped(document: &[u8], stamp: &Stamp<'_>) -> Vec<u8> {
    let Stamp { sid, n, ts, from, group, dev, redelivered } = stamp;
    let n = n.map_or_else(String::new, |n| format!("\"n\":{n},"));
    // A name may have a quote in it.
    let from = Value::from(from.as_str());
    let mut copy = format!("{{\"sid\":\"{sid}\",{n}\"ts\":{ts},\"from\":{from}").into_bytes();
    if let Some(group) = group {
        copy.extend(format!(",\"group\":\"{group}\"").into_bytes());
    }
    if let Some(dev) = dev {
        copy.extend(format!(",\"dev\":\"{}\"", dev.as_str()).into_bytes());
    }
    if *redelivered {
        copy.extend(b",\"redelivered\":true");
    }
    copy.push(b',');
    // A document has `to` and `type` at least: there is something behind its brace.
    copy.extend(&document[1.min(document.len())..]);
    copy
}

/// Whether a document, as it is written down, is about as long as its payload may be: numbers have a form of their own then, and
/// `1e15` has 18 characters.
///
/// # Errors
/// [`ErrorCode::TooBig`].
pub(in crate::chat::suffix) fn check_written(
    payload: &[u8],
    document: &Map<String, Value>,
    limits: &Limits,
) -> Result<(), Rejection> {
    let most = limits.payload_bytes + LONGER_MAX;
    if payload.len() > most / GROWS_MAX && crate::chat::message::json(document).len() > most {
        let detail = format!("with its numbers written out the document is longer than {most} bytes");
        return Err(Rejection::new(ErrorCode::TooBig, detail));
    }
    Ok(())
}

fn read(fields: &mut Fields, id: Option<MessageId>) -> Result<UserMessage, Rejection> {
    fields.version()?;
    if let Some(name) = OF_PUSHES.into_iter().find(|name| fields.has(name)) {
        return Err(Rejection::bad_field(name, "does not go with `to`"));
    }
    for name in STAMPED {
        fields.take(name);
    }
    let to = recipient(fields)?;
    let kind = fields.word("type", WORD_MAX)?.unwrap_or_else(|| TEXT.to_owned());
    if NOT_TYPES.contains(&kind.as_str()) {
        return Err(Rejection::bad_field("type", "is a word of the bridge's own, or has no meaning in this release"));
    }
    let amends = Amendment::parse(&kind);
    if let Some(amends) = amends {
        check_amendment(fields, amends)?;
    }
    let matter = if kind == REACTION { Matter::Reaction } else { Matter::Message };
    let about = [sid(fields, "reply_to")?, sid(fields, "ref")?];
    if matter == Matter::Reaction && about[1].is_none() {
        return Err(Rejection::new(ErrorCode::MissingField, "`ref` is missing: a reaction is about a message"));
    }
    // An edit that names nobody takes the names away.
    let says_whom = amends.is_some() && fields.has("mentions");
    let (mentions, mentions_all) = mentions(fields, to.is_group())?;
    let asked = ["push", "ttl", "receipt", "expires"].map(|name| (name, fields.get(name).cloned()));
    let (wish, ttl, receipt) = (wish(fields)?, ttl(fields)?, fields.flag("receipt")?.unwrap_or(true));
    // Its readers are not told: for them it was written when it is sent.
    let (not_before, expires) = (fields.time("not_before")?, fields.time("expires")?);
    if expires.zip(not_before).is_some_and(|(expires, not_before)| expires <= not_before) {
        return Err(Rejection::bad_field("expires", "is not later than `not_before`"));
    }
    let dev = match fields.string("dev")? {
        Some(dev) => Some(Device::new(dev).map_err(|fault| Rejection::bad_field("dev", fault))?),
        None => None,
    };
    check_content(fields, amends)?;
    let mut document = Map::new();
    let mut put = |name: &str, value: Option<Value>| value.map(|value| document.insert(name.to_owned(), value));
    put("id", id.as_ref().map(|id| id.as_str().into()));
    put("to", Some(to.as_str().into()));
    put("type", Some(kind.into()));
    for (name, sid) in ["reply_to", "ref"].into_iter().zip(&about) {
        put(name, sid.map(|sid| sid.to_string().into()));
    }
    for (name, value) in asked {
        put(name, value);
    }
    let named = mentions_all.then_some(EVERYBODY).into_iter().chain(mentions.iter().map(Owner::as_str));
    put("mentions", Some(named.collect::<Value>()).filter(|named| says_whom || named != &Value::Array(Vec::new())));
    document.extend(fields.rest());
    let about = about.into_iter().flatten().collect();
    let message = UserMessage {
        id,
        to,
        amends,
        matter,
        wish,
        about,
        mentions,
        mentions_all,
        ttl,
        receipt,
        not_before,
        expires,
        dev,
        document,
    };
    Ok(message)
}

fn recipient(fields: &mut Fields) -> Result<Owner, Rejection> {
    let Some(to) = fields.string("to")? else {
        return Err(Rejection::new(ErrorCode::MissingField, "`to` is missing: the name of a user, a BAL or a group"));
    };
    Owner::of_any(to).map_err(|fault| Rejection::bad_field("to", fault))
}

fn sid(fields: &mut Fields, name: &str) -> Result<Option<Sid>, Rejection> {
    let Some(text) = fields.string(name)? else { return Ok(None) };
    Sid::parse(&text).map(Some).ok_or_else(|| Rejection::bad_field(name, "is not the `sid` of a message"))
}

/// Who is mentioned, and whether every member of the group is.
fn mentions(fields: &mut Fields, is_group: bool) -> Result<(Vec<Owner>, bool), Rejection> {
    let bad = || Rejection::bad_field("mentions", format_args!("is not a list of at most {MENTIONS_MAX} users"));
    let Some(given) = fields.take("mentions") else { return Ok((Vec::new(), false)) };
    let names = given.as_array().filter(|names| names.len() <= MENTIONS_MAX).ok_or_else(bad)?;
    let (mut users, mut all) = (Vec::with_capacity(names.len()), false);
    for name in names {
        match name.as_str().ok_or_else(bad)? {
            EVERYBODY if is_group => all = true,
            EVERYBODY => return Err(bad()),
            name => users.push(Owner::new(name).map_err(|_| bad())?),
        }
    }
    Ok((users, all))
}

fn wish(fields: &mut Fields) -> Result<Wish, Rejection> {
    let Some(name) = fields.string("push")? else { return Ok(Wish::Auto) };
    Wish::parse(&name).ok_or_else(|| Rejection::bad_field("push", "is none of auto, always, never, silent"))
}

fn ttl(fields: &mut Fields) -> Result<u32, Rejection> {
    let bad = || Rejection::bad_field("ttl", format_args!("is no number of seconds up to {TTL_MAX}"));
    let Some(ttl) = fields.take("ttl") else { return Ok(TTL_MAX) };
    ttl.as_u64().and_then(|ttl| u32::try_from(ttl).ok()).filter(|ttl| *ttl <= TTL_MAX).ok_or_else(bad)
}

/// An edit or a retract is about a message, and has nothing that would be ignored.
fn check_amendment(fields: &Fields, amends: Amendment) -> Result<(), Rejection> {
    if !fields.has("ref") {
        let detail = "`ref` is missing: an edit or a retract is about a message";
        return Err(Rejection::new(ErrorCode::MissingField, detail));
    }
    let of_content = CONTENT.into_iter().filter(|_| amends == Amendment::Retract);
    if let Some(name) = NOT_OF_AMENDMENTS.into_iter().chain(of_content).find(|name| fields.has(name)) {
        return Err(Rejection::bad_field(name, "does not go with this `type`"));
    }
    if amends == Amendment::Edit && !CONTENT.iter().any(|name| fields.has(name)) {
        let detail = "nothing to change: none of `body`, `data`, `files`, `mentions`";
        return Err(Rejection::new(ErrorCode::MissingField, detail));
    }
    Ok(())
}

/// `body`, `data`, `files` stay where they are; one of them must be there.
fn check_content(fields: &Fields, amends: Option<Amendment>) -> Result<(), Rejection> {
    match fields.get("body") {
        Some(Value::String(body)) if body.chars().count() > BODY_MAX => {
            return Err(Rejection::bad_field("body", format_args!("is longer than {BODY_MAX} characters")));
        }
        None | Some(Value::String(_)) => {}
        Some(_) => return Err(Rejection::bad_field("body", "is not a string")),
    }
    if fields.get("data").is_some_and(|data| data.to_string().len() > DATA_MAX) {
        return Err(Rejection::bad_field("data", format_args!("is longer than {DATA_MAX} bytes")));
    }
    let is_file = |file: &Value| file.get("url").is_some_and(Value::is_string);
    match fields.get("files") {
        Some(Value::Array(files)) if files.iter().all(is_file) => {}
        None => {}
        Some(_) => return Err(Rejection::bad_field("files", "is not a list of objects with a `url`")),
    }
    if let Some(thread) = fields.get("thread") {
        let is_word = |thread: &str| !thread.is_empty() && thread.chars().count() <= WORD_MAX;
        if !thread.as_str().is_some_and(is_word) {
            return Err(Rejection::bad_field("thread", format_args!("is no text of 1 to {WORD_MAX} characters")));
        }
    }
    // An edit may change the mentions alone, which were taken by now.
    if amends.is_none() && !["body", "data", "files"].iter().any(|name| fields.has(name)) {
        let detail = "nothing to deliver: none of `body`, `data`, `files`";
        return Err(Rejection::new(ErrorCode::MissingField, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use crate::chat::message::fields::TIME_MIN_MS;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(message: &Value) -> Result<UserMessage, ErrorCode> {
        UserMessage::parse(Sender::Bal, message.to_string().as_bytes(), &Limits::default())
            .map_err(|rejection| rejection.code())
    }

    fn some_sid() -> Sid {
        SidSource::default().next(1_700_000_000_000, 1)
    }

    #[test]
    fn a_copy_is_what_was_written_with_a_stamp() {
        let message = parse(&json!({"id": "m1", "to": "bob", "body": "hi", "x": {"any": [1, 2.5]}})).unwrap();
        let (sid, alice) = (some_sid(), Owner::new("alice").unwrap());
        let dev = Device::new("phone").unwrap();
        let stamp = Stamp { sid, n: Some(17), ts: 5, from: &alice, group: None, dev: None, redelivered: false };
        let copy: Value = serde_json::from_slice(&stamped(&message.to_bytes(), &stamp)).unwrap();
        assert_eq!(
            copy,
            json!({"sid": sid.to_string(), "n": 17, "ts": 5, "from": "alice", "id": "m1", "to": "bob", "type": "text",
                "body": "hi", "x": {"any": [1, 2.5]}})
        );
        let own = Stamp { dev: Some(&dev), redelivered: true, ..stamp };
        let copy: Value = serde_json::from_slice(&stamped(&message.to_bytes(), &own)).unwrap();
        assert_eq!((copy["dev"].as_str(), copy["redelivered"].as_bool()), (Some("phone"), Some(true)));
    }

    #[test]
    fn what_the_bridge_stamps_is_taken_off_and_what_nobody_knows_travels() {
        let mut forged = json!({"to": "bob", "body": "hi", "mine": true, "dev": "phone"});
        for name in STAMPED {
            forged[name] = json!("forged");
        }
        let message = parse(&forged).unwrap();
        let document: Value = serde_json::from_slice(&message.to_bytes()).unwrap();
        assert_eq!(document, json!({"to": "bob", "type": "text", "body": "hi", "mine": true}));
        assert_eq!(message.dev.unwrap().as_str(), "phone");
    }

    #[test]
    fn a_repetition_is_known_by_what_it_says() {
        let kept = parse(&json!({"id": "m1", "to": "bob", "body": "hi", "data": {"a": 1, "b": 2}})).unwrap().to_bytes();
        let again =
            json!({"data": {"b": 2, "a": 1}, "dev": "tab", "body": "hi", "to": "bob", "type": "text", "id": "m1"});
        assert!(parse(&again).unwrap().says_the_same(&kept), "in another order, from another device");
        let other = json!({"id": "m1", "to": "bob", "body": "ho", "data": {"a": 1, "b": 2}});
        assert!(!parse(&other).unwrap().says_the_same(&kept));
        assert!(!parse(&again).unwrap().says_the_same(b"damaged"));
    }

    /// Whatever a message is made of, what its readers get is about as long as a payload may be, and pages with it are.
    #[test]
    fn no_message_is_longer_once_it_is_written_down() {
        let of = |value: &str| {
            let head = r#"{"to":"bob","body":"hi","x":["#;
            let count = (Limits::default().payload_bytes - head.len() - 2 + 1) / (value.len() + 1);
            let payload = format!("{head}{}]}}", vec![value; count].join(","));
            assert!(payload.len() <= Limits::default().payload_bytes);
            UserMessage::parse(Sender::User, payload.as_bytes(), &Limits::default())
        };
        for (value, is_taken) in [
            ("1", true),
            ("1000000000000000.0", true),
            ("\"\\u0001\"", true),
            ("1e9", false),
            ("1e15", false),
            ("1e-5", false),
        ] {
            match of(value) {
                Ok(message) => {
                    assert!(is_taken, "{value}");
                    assert!(message.to_bytes().len() <= Limits::default().payload_bytes + LONGER_MAX);
                }
                Err(rejection) => assert_eq!((rejection.code(), is_taken), (ErrorCode::TooBig, false), "{value}"),
            }
        }
    }

    /// As topics.md says: numbers are those of IEEE 754 and of 64 bits, and JSON is no deeper than 127 levels.
    #[test]
    fn numbers_beyond_64_bits_change_and_json_that_is_too_deep_is_refused() {
        for (written, read) in [
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("0.1", "0.1"),
            ("1e2", "100.0"),
            ("12345678901234567890123", "1.2345678901234568e+22"),
        ] {
            let payload = format!(r#"{{"to":"bob","data":{written}}}"#);
            let message = UserMessage::parse(Sender::User, payload.as_bytes(), &Limits::default()).unwrap();
            let expected = format!(r#"{{"to":"bob","type":"text","data":{read}}}"#);
            assert_eq!(String::from_utf8(message.to_bytes()).unwrap(), expected);
        }
        let kept = br#"{"to":"bob","type":"text","data":12345678901234567890123}"#;
        assert!(parse(&json!({"to": "bob", "data": 12_345_678_901_234_567_890_124.0})).unwrap().says_the_same(kept));
        let huge = UserMessage::parse(Sender::User, br#"{"to":"bob","data":1e999}"#, &Limits::default());
        assert_eq!(huge.map_err(|rejection| rejection.code()), Err(ErrorCode::BadJson));
        for (levels, code) in [(126, None), (127, Some(ErrorCode::BadJson))] {
            let payload = format!(r#"{{"to":"bob","data":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
            let parsed = UserMessage::parse(Sender::User, payload.as_bytes(), &Limits::default());
            assert_eq!(parsed.err().map(|rejection| rejection.code()), code, "{levels}");
        }
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let of = |name: &str, value: Value| {
            let mut message = json!({"to": "bob", "body": "hi"});
            message[name] = value;
            parse(&message).map(drop)
        };
        let names = |count: usize| (0..count).map(|i| format!("u{i}")).collect::<Value>();
        for (name, inside, beyond) in [
            ("body", json!("é".repeat(BODY_MAX)), json!("é".repeat(BODY_MAX + 1))),
            ("data", json!("x".repeat(DATA_MAX - 2)), json!("x".repeat(DATA_MAX - 1))),
            ("mentions", names(MENTIONS_MAX), names(MENTIONS_MAX + 1)),
            ("type", json!("t".repeat(WORD_MAX)), json!("t".repeat(WORD_MAX + 1))),
            ("thread", json!("t".repeat(WORD_MAX)), json!("t".repeat(WORD_MAX + 1))),
            ("ttl", json!(TTL_MAX), json!(TTL_MAX + 1)),
            ("push", json!("silent"), json!("loud")),
            ("reply_to", json!(some_sid().to_string()), json!("m1")),
            ("files", json!([{"url": "https://a/b"}]), json!([{"mime": "x/y"}])),
        ] {
            assert_eq!(of(name, inside), Ok(()), "{name}");
            assert_eq!(of(name, beyond), Err(ErrorCode::BadField), "{name}");
        }
    }

    #[test]
    fn what_a_later_release_will_understand_is_not_stored_today() {
        for message in [
            json!({"to": "g-", "body": "hi"}),
            json!({"to": "bob", "body": "hi", "mentions": ["*"]}),
            json!({"to": "bob", "type": "tombstone", "body": "hi"}),
            json!({"to": "bob", "type": "call", "body": "hi"}),
            json!({"to": "bob", "type": "notice", "body": "hi"}),
            json!({"to": "bob", "body": "hi", "not_before": "soon"}),
            json!({"to": "bob", "body": "hi", "not_before": -1}),
            json!({"to": "bob", "body": "hi", "expires": 1.5}),
            json!({"to": "bob", "body": "hi", "not_before": 7, "expires": 7}),
            json!({"to": "bob", "body": "hi", "token": "t"}),
            json!({"to": "bob", "body": "hi", "notification": {}}),
            json!({"to": "bob", "body": "hi", "fcm": {}}),
            json!({"to": "b/b", "body": "hi"}),
            json!({"to": "", "body": "hi"}),
            json!({"to": "self", "body": "hi"}),
            json!({"to": "_bridge", "body": "hi"}),
            json!({"to": ["bob"], "body": "hi"}),
        ] {
            assert_eq!(parse(&message).map(drop), Err(ErrorCode::BadField), "{message}");
        }
        for message in
            [json!({"body": "hi"}), json!({"to": "bob"}), json!({"to": "bob", "type": "reaction", "body": "+"})]
        {
            assert_eq!(parse(&message).map(drop), Err(ErrorCode::MissingField), "{message}");
        }
        let reaction = parse(&json!({"to": "bob", "type": "reaction", "ref": some_sid().to_string(), "body": "+"}));
        assert_eq!(reaction.unwrap().matter, Matter::Reaction);
    }

    #[test]
    fn a_message_to_a_group_may_mention_everybody() {
        let message = parse(&json!({"to": "g-1", "body": "hi", "mentions": ["*", "bob"]})).unwrap();
        assert!(message.to.is_group() && message.mentions_all);
        assert_eq!(message.mentions, [Owner::new("bob").unwrap()]);
        let document: Value = serde_json::from_slice(&message.to_bytes()).unwrap();
        assert_eq!(document["mentions"], json!(["*", "bob"]));
        let nobody = parse(&json!({"to": "g-1", "body": "hi", "mentions": []})).unwrap();
        assert!(!nobody.mentions_all && !String::from_utf8(nobody.to_bytes()).unwrap().contains("mentions"));
    }

    #[test]
    fn an_edit_and_a_retract_are_about_a_message_and_have_nothing_that_would_be_ignored() {
        let of = |kind: &str, more: Value| {
            let mut message = json!({"id": "e1", "to": "bob", "type": kind, "ref": some_sid().to_string()});
            message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            parse(&message)
        };
        let document = |message: UserMessage| serde_json::from_slice::<Value>(&message.to_bytes()).unwrap();
        let edit = of("edit", json!({"body": "hi", "mentions": [], "mine": 1})).unwrap();
        assert_eq!((edit.amends, edit.about.as_slice()), (Some(Amendment::Edit), [some_sid()].as_slice()));
        assert_eq!(document(edit)["mentions"], json!([]), "it takes the names away");
        let retract = of("retract", json!({})).unwrap();
        assert_eq!(retract.amends, Some(Amendment::Retract));
        assert_eq!(
            document(retract),
            json!({"id": "e1", "to": "bob", "type": "retract", "ref": some_sid().to_string()})
        );
        for (kind, more, code) in [
            ("edit", json!({"body": "hi", "ref": null}), ErrorCode::MissingField),
            ("retract", json!({"ref": null}), ErrorCode::MissingField),
            ("edit", json!({}), ErrorCode::MissingField),
            ("edit", json!({"body": "hi", "push": "always"}), ErrorCode::BadField),
            ("edit", json!({"body": "hi", "thread": "t"}), ErrorCode::BadField),
            ("edit", json!({"body": "hi", "reply_to": some_sid().to_string()}), ErrorCode::BadField),
            ("retract", json!({"receipt": false}), ErrorCode::BadField),
            ("retract", json!({"ttl": 1}), ErrorCode::BadField),
            ("retract", json!({"body": "hi"}), ErrorCode::BadField),
            ("retract", json!({"files": []}), ErrorCode::BadField),
            ("edit", json!({"body": "x".repeat(BODY_MAX + 1)}), ErrorCode::BadField),
        ] {
            assert_eq!(of(kind, more.clone()).map(drop), Err(code), "{kind} {more}");
        }
        assert!(of("edit", json!({"mentions": ["carol"]})).is_ok() && of("edit", json!({"files": []})).is_ok());
    }

    #[test]
    fn the_time_of_deletion_travels_and_that_of_sending_does_not() {
        const SEND: u64 = 1_800_000_000_000;
        let message = parse(&json!({"to": "bob", "body": "hi", "not_before": SEND, "expires": SEND + 1})).unwrap();
        assert_eq!((message.not_before, message.expires), (Some(SEND), Some(SEND + 1)));
        let document: Value = serde_json::from_slice(&message.to_bytes()).unwrap();
        assert_eq!(document, json!({"to": "bob", "type": "text", "expires": SEND + 1, "body": "hi"}));
        let named = message.clone().named(MessageId::new("m1").unwrap());
        assert!(named.says_the_same(&message.to_bytes()) && named.id.is_some());
        let fault = |message: &UserMessage, now| message.check_times(now).map_err(|fault| fault.code()).err();
        assert_eq!(fault(&message, SEND), None, "it is to be sent now");
        assert_eq!(fault(&message, SEND + 1), Some(ErrorCode::BadField), "its time is over");
        let far = |name: &str, at: u64| {
            let mut far = json!({"to": "bob", "body": "hi"});
            far[name] = at.into();
            parse(&far).unwrap()
        };
        for name in ["not_before", "expires"] {
            assert_eq!(fault(&far(name, SEND + AHEAD_MAX_MS), SEND), None);
            assert_eq!(fault(&far(name, SEND + 1 + AHEAD_MAX_MS), SEND), Some(ErrorCode::BadField));
        }
    }

    #[test]
    fn a_time_in_seconds_is_refused_and_not_taken_for_one_that_is_over() {
        for name in ["not_before", "expires"] {
            let of = |at: Value| {
                let message = json!({"id": "m1", "to": "bob", "body": "hi", name: at}).to_string();
                UserMessage::parse(Sender::User, message.as_bytes(), &Limits::default())
            };
            for at in [json!(1_800_000_000), json!(1), json!(TIME_MIN_MS - 1), json!(1.8e12), json!(-1), json!("soon")]
            {
                let rejection = of(at.clone()).unwrap_err();
                assert_eq!((rejection.code(), rejection.ref_id().is_some()), (ErrorCode::BadField, true), "{at}");
                assert!(rejection.detail().contains(name) && rejection.detail().contains("milliseconds"), "{at}");
            }
            for at in [0, TIME_MIN_MS] {
                assert!(of(json!(at)).is_ok(), "{at} is over");
            }
            let nanoseconds =
                of(json!(1_800_000_000_000_000_000_u64)).unwrap().check_times(1_800_000_000_000).unwrap_err();
            assert!(nanoseconds.detail().contains("milliseconds"));
        }
    }

    #[test]
    fn the_id_of_what_is_refused_is_told() {
        let rejection = UserMessage::parse(Sender::Bal, br#"{"id":"m1","body":"hi"}"#, &Limits::default()).unwrap_err();
        assert_eq!(rejection.ref_id().unwrap().as_str(), "m1");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = UserMessage::parse(Sender::Bal, &bytes, &Limits::default());
            let stamp = Stamp { sid: some_sid(), n: Some(1), ts: 1, from: &Owner::new("a").unwrap(), group: None, dev: None, redelivered: false };
            let _ = stamped(&bytes, &stamp);
        }
    }
}

//! `calls`: the signals by which two users set up a call, and what the bridge says of it.
//!
//! Several documents make one call: they have its word in common, and each is passed on by itself. What a signal does to the
//! call is said in [`crate::chat::call`].

use super::messages::{DATA_MAX, STAMPED, Stamp, WORD_MAX, check_written, stamped};
use super::read::{device, peer};
use crate::chat::call::{Ending, Outcome};
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, Rejection};
use crate::chat::topic::Device;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// How long a call rings and a signal is worth delivering, in seconds: at most, and without a `ttl`.
pub const TTL_MAX: u32 = 60;
/// What the bridge says of a call: taken off, whatever a client writes.
const SAID: [&str; 2] = ["outcome", "seconds"];

/// The word that names a call: the caller chooses it, and every document of the call has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallName(String);

impl CallName {
    /// As it was kept.
    ///
    /// # Errors
    /// When no client could have chosen it.
    pub fn new(name: String) -> Result<Self, Rejection> {
        let mut fields = Fields::of("call", name.into());
        Self::read(&mut fields)
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn read(fields: &mut Fields) -> Result<Self, Rejection> {
        let missing = || Rejection::new(ErrorCode::MissingField, "`call` is missing: the word that names the call");
        fields.word("call", WORD_MAX)?.map(Self).ok_or_else(missing)
    }
}

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalKind {
    /// It rings.
    Offer,
    /// A device of the callee rings.
    Ringing,
    /// It is taken.
    Answer,
    /// A candidate for a way of the media.
    Ice,
    /// It is over.
    End,
    /// It is not wanted.
    Reject,
}

impl SignalKind {
    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "offer" => Self::Offer,
            "ringing" => Self::Ringing,
            "answer" => Self::Answer,
            "ice" => Self::Ice,
            "end" => Self::End,
            "reject" => Self::Reject,
            _ => return None,
        })
    }

    /// Whether a person did it: a client says by itself that it rings, and which candidates it has.
    pub const fn is_sign(self) -> bool {
        !matches!(self, Self::Ringing | Self::Ice)
    }
}

/// A document of a call, as one side writes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// The writer's own id of it.
    pub id: Option<MessageId>,
    /// The call.
    pub call: CallName,
    /// The other side.
    pub to: Owner,
    /// What it says.
    pub kind: SignalKind,
    /// How long it is worth delivering, in seconds; of an offer, how long it rings.
    pub ttl: u32,
    /// The device, as its client says; the embedded broker knows better.
    pub dev: Option<Device>,
    /// What its readers get, in the writer's order, without what is stamped.
    document: Map<String, Value>,
}

impl Signal {
    /// Reads a payload.
    ///
    /// # Errors
    /// With the code of topics.md, and with the writer's id if that could be read.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        let id = fields.id()?;
        let read = read(&mut fields, id.clone());
        let read = read.and_then(|signal| check_written(payload, &signal.document, limits).map(|()| signal));
        read.map_err(|rejection| rejection.about(id))
    }

    /// What its readers get, without the stamp.
    pub fn to_bytes(&self) -> Vec<u8> {
        crate::chat::message::json(&self.document)
    }

    /// Of what it says, whatever its device and the order of its fields: a repetition has the same.
    pub fn digest(&self) -> [u8; 8] {
        let mut document = Value::Object(self.document.clone());
        document.sort_all_objects();
        let digest = Sha256::digest(crate::chat::message::json(&document));
        std::array::from_fn(|place| digest[place])
    }
}

fn read(fields: &mut Fields, id: Option<MessageId>) -> Result<Signal, Rejection> {
    fields.version()?;
    for name in STAMPED.into_iter().chain(SAID) {
        fields.take(name);
    }
    let to = peer(fields, "to")?;
    let call = CallName::read(fields)?;
    let Some(name) = fields.string("type")? else {
        return Err(Rejection::new(ErrorCode::MissingField, "`type` is missing"));
    };
    let bad = || Rejection::bad_field("type", "is none of offer, ringing, answer, ice, end, reject");
    let kind = SignalKind::parse(&name).ok_or_else(bad)?;
    let to_dev = match fields.string("to_dev")? {
        Some(dev) => Some(Device::new(dev).map_err(|fault| Rejection::bad_field("to_dev", fault))?),
        None => None,
    };
    let (asked, ttl) = (fields.get("ttl").cloned(), ttl(fields)?);
    if fields.get("data").is_some_and(|data| data.to_string().len() > DATA_MAX) {
        return Err(Rejection::bad_field("data", format_args!("is longer than {DATA_MAX} bytes")));
    }
    let dev = device(fields)?;
    let mut document = Map::new();
    let mut put = |name: &str, value: Option<Value>| value.map(|value| document.insert(name.to_owned(), value));
    put("id", id.as_ref().map(|id| id.as_str().into()));
    put("call", Some(call.as_str().into()));
    put("to", Some(to.as_str().into()));
    put("to_dev", to_dev.map(|dev| dev.as_str().into()));
    put("type", Some(name.into()));
    put("ttl", asked);
    document.extend(fields.rest());
    Ok(Signal { id, call, to, kind, ttl, dev, document })
}

fn ttl(fields: &mut Fields) -> Result<u32, Rejection> {
    let bad = || Rejection::bad_field("ttl", format_args!("is no number of seconds from 1 to {TTL_MAX}"));
    let Some(ttl) = fields.take("ttl") else { return Ok(TTL_MAX) };
    let seconds = ttl.as_u64().and_then(|ttl| u32::try_from(ttl).ok());
    seconds.filter(|ttl| (1..=TTL_MAX).contains(ttl)).ok_or_else(bad)
}

/// Both sides of a call, as the bridge speaks of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parties<'a> {
    /// The word.
    pub call: &'a CallName,
    /// Who rings.
    pub caller: &'a Owner,
    /// Who is rung.
    pub callee: &'a Owner,
}

impl Parties<'_> {
    /// What the devices of the callee get when one of them, `dev`, has answered.
    pub fn taken(&self, sid: Sid, ts: u64, dev: Option<&Device>) -> Vec<u8> {
        let document = json!({"call": self.call.as_str(), "to": self.caller.as_str(), "type": "taken"});
        let stamp = Stamp { sid, n: None, ts, from: self.callee, dev, redelivered: false, group: None };
        stamped(document.to_string().as_bytes(), &stamp)
    }

    /// What both sides get when the time of a call is over, and a device that comes after its end.
    pub fn end(&self, sid: Sid, ts: u64, outcome: Outcome) -> Vec<u8> {
        let document =
            json!({"call": self.call.as_str(), "to": self.callee.as_str(), "type": "end", "outcome": outcome});
        let stamp = Stamp { sid, n: None, ts, from: self.caller, dev: None, redelivered: false, group: None };
        stamped(document.to_string().as_bytes(), &stamp)
    }

    /// The message about the call that both sides keep, without its stamp.
    pub fn message(&self, ending: Ending) -> Vec<u8> {
        let Ending { outcome, seconds } = ending;
        let (call, to) = (self.call.as_str(), self.callee.as_str());
        let document = json!({"to": to, "type": "call", "call": call, "outcome": outcome, "seconds": seconds});
        document.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use proptest::prelude::*;

    fn parse(signal: &Value) -> Result<Signal, ErrorCode> {
        Signal::parse(signal.to_string().as_bytes(), &Limits::default()).map_err(|rejection| rejection.code())
    }

    fn with(name: &str, value: Value) -> Value {
        let mut signal = json!({"call": "c1", "to": "bob", "type": "offer"});
        signal[name] = value;
        signal
    }

    #[test]
    fn each_type_is_read_and_all_else_travels() {
        for (name, kind) in [
            ("offer", SignalKind::Offer),
            ("ringing", SignalKind::Ringing),
            ("answer", SignalKind::Answer),
            ("ice", SignalKind::Ice),
            ("end", SignalKind::End),
            ("reject", SignalKind::Reject),
        ] {
            let mut forged = with("type", json!(name));
            for stamped in STAMPED.into_iter().chain(SAID).chain(["dev"]) {
                forged[stamped] = json!("forged");
            }
            forged["id"] = json!("o1");
            forged["data"] = json!({"sdp": "v=0"});
            forged["mine"] = json!(true);
            let signal = parse(&forged).unwrap();
            assert_eq!((signal.kind, signal.ttl, signal.dev.as_ref().unwrap().as_str()), (kind, TTL_MAX, "forged"));
            let document: Value = serde_json::from_slice(&signal.to_bytes()).unwrap();
            let expected =
                json!({"id": "o1", "call": "c1", "to": "bob", "type": name, "data": {"sdp": "v=0"}, "mine": true});
            assert_eq!(document, expected);
        }
    }

    #[test]
    fn limits_hold_at_their_edge() {
        for (name, inside, beyond) in [
            ("call", json!("é".repeat(WORD_MAX)), json!("c".repeat(WORD_MAX + 1))),
            ("call", json!("c"), json!("")),
            ("call", json!("c"), json!("a\nb")),
            ("ttl", json!(TTL_MAX), json!(TTL_MAX + 1)),
            ("ttl", json!(1), json!(0)),
            ("ttl", json!(30), json!("30")),
            ("data", json!("x".repeat(DATA_MAX - 2)), json!("x".repeat(DATA_MAX - 1))),
            ("data", json!([1, null]), json!({"x": "x".repeat(DATA_MAX)})),
            ("to_dev", json!("phone"), json!("a b")),
            ("to", json!("carol"), json!("g-1")),
            ("type", json!("end"), json!("taken")),
        ] {
            assert!(parse(&with(name, inside)).is_ok(), "{name}");
            assert_eq!(parse(&with(name, beyond)).map(drop), Err(ErrorCode::BadField), "{name}");
        }
        for name in ["call", "to", "type"] {
            assert_eq!(parse(&with(name, Value::Null)).map(drop), Err(ErrorCode::MissingField), "{name}");
        }
        let rejection = Signal::parse(br#"{"id":"o1","call":"c1"}"#, &Limits::default()).unwrap_err();
        assert_eq!(rejection.ref_id().unwrap().as_str(), "o1");
    }

    #[test]
    fn a_repetition_is_known_by_what_it_says() {
        let digest = |data: Value| parse(&with("data", data)).unwrap().digest();
        assert_eq!(digest(json!({"a": {"b": 1, "c": 2}})), digest(json!({"a": {"c": 2, "b": 1}})));
        assert_ne!(digest(json!({"candidate": "one"})), digest(json!({"candidate": "two"})));
        assert_eq!(
            parse(&with("dev", json!("tab"))).unwrap().digest(),
            parse(&with("dev", Value::Null)).unwrap().digest()
        );
    }

    #[test]
    fn a_name_that_was_kept_is_one() {
        assert_eq!(CallName::new("c1".to_owned()).unwrap().as_str(), "c1");
        assert!(CallName::new(String::new()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Signal::parse(&bytes, &Limits::default());
        }

        #[test]
        fn what_the_bridge_says_is_json_whatever_the_names(call in "[^\\p{Cc}]{1,64}") {
            let (alice, bob) = (Owner::new("al\"ice").unwrap(), Owner::new("bob").unwrap());
            let call = CallName::new(call).unwrap();
            let parties = Parties { call: &call, caller: &alice, callee: &bob };
            let sid = SidSource::default().next(1_700_000_000_000, 1);
            let ending = Ending { outcome: Outcome::Missed, seconds: 0 };
            for bytes in [parties.taken(sid, 1, None), parties.end(sid, 1, Outcome::Missed), parties.message(ending)] {
                let document: Value = serde_json::from_slice(&bytes).unwrap();
                prop_assert_eq!(document["call"].as_str(), Some(call.as_str()));
            }
        }
    }
}

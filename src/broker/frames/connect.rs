//! What the gate reads of a CONNECT, and how it is changed on its way to the engine.
//!
//! The engine knows one name space of client ids, so it gets the key of the session in the place of the id. And it knows
//! no protocol level with the bit that mosquitto sets when it connects as a bridge.

use bytes::{Buf, BufMut, BytesMut};

use super::fields::{self, Value};
use super::{Frame, Version, skip_properties, take, take_prefixed, take_properties, take_property};

/// Flags of CONNECT (3.1.2.3).
const RESERVED: u8 = 0x01;
const CLEAN: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER: u8 = 0x80;
/// Properties of MQTT 5.
const AUTH_METHOD: u8 = 0x15;
const PROBLEM_INFORMATION: u8 = 0x17;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;
/// The names of the protocol: since 3.1.1, and in 3.1.
const NAME: &[u8] = b"MQTT";
const NAME_OF_3_1: &[u8] = b"MQIsdp";
/// Protocol levels.
const LEVEL_V311: u8 = 4;
const LEVEL_V5: u8 = 5;
/// mosquitto sets this bit of the level where it connects as a bridge (`try_private`, the default): a server that knows
/// it spares the bridge its own messages. One that does not is to answer as if it were not there.
const BRIDGE: u8 = 0x80;

/// What has to be known of a client all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) struct Connect {
    pub(in crate::broker) version: Version,
    /// Seconds after which a client that was silent speaks; 0 if it need not.
    pub(in crate::broker) keep_alive: u16,
    /// The biggest packet that the client takes.
    pub(in crate::broker) max_packet: Option<u32>,
    /// Whether the client wants to be told why (MQTT 5, 3.1.2.11.7).
    pub(in crate::broker) reasons: Reasons,
}

/// Whether the client wants reason strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Reasons {
    Wanted,
    Unwanted,
}

/// Which protocol the first packet says that it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Protocol {
    Known(Version),
    /// MQTT 3.1, which nobody has to speak any more.
    V31,
    /// Another level.
    Level(u8),
    /// No MQTT at all.
    Other,
}

/// A whole CONNECT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) struct Hello<'a> {
    pub(in crate::broker) connect: Connect,
    /// Whether the client wants a session without a past.
    pub(in crate::broker) clean: bool,
    /// Empty if the broker is to choose one.
    pub(in crate::broker) client: &'a str,
    pub(in crate::broker) will_topic: Option<&'a str>,
    pub(in crate::broker) user: Option<&'a str>,
    pub(in crate::broker) password: Option<&'a [u8]>,
    /// MQTT 5 enhanced authentication is wanted.
    pub(in crate::broker) has_auth_method: bool,
}

impl Frame {
    /// The protocol of a CONNECT.
    pub(in crate::broker) fn protocol(&self) -> Protocol {
        let mut body = self.body();
        let name = take_prefixed(&mut body);
        let level = body.try_get_u8();
        match (name, level) {
            (Some(NAME_OF_3_1), _) => Protocol::V31,
            (Some(NAME), Ok(LEVEL_V5)) => Protocol::Known(Version::V5),
            (Some(NAME), Ok(level)) if level & !BRIDGE == LEVEL_V311 => Protocol::Known(Version::V311),
            (Some(NAME), Ok(level)) => Protocol::Level(level),
            _ => Protocol::Other,
        }
    }

    /// All fields of a CONNECT; none if it is malformed or of a version that is not spoken.
    pub(in crate::broker) fn hello(&self) -> Option<Hello<'_>> {
        match self.protocol() {
            Protocol::Known(version) => self.hello_as(version),
            Protocol::V31 | Protocol::Level(_) | Protocol::Other => None,
        }
    }

    /// The same with the fields of a version, whatever the protocol is called. MQTT 3.1 has those of 3.1.1.
    pub(in crate::broker) fn hello_as(&self, version: Version) -> Option<Hello<'_>> {
        let mut body = self.body();
        take_prefixed(&mut body)?;
        let _level = body.try_get_u8().ok()?;
        let flags = body.try_get_u8().ok()?;
        if !are_possible(flags, version) || self.bytes()[0] & 0x0f != 0 {
            return None;
        }
        let keep_alive = body.try_get_u16().ok()?;
        let mut connect = Connect { version, keep_alive, max_packet: None, reasons: Reasons::Wanted };
        let mut has_auth_method = false;
        if version == Version::V5 {
            let mut properties = take_properties(&mut body)?;
            while !properties.is_empty() {
                match take_property(&mut properties)? {
                    (MAXIMUM_PACKET_SIZE, Value::Number(size)) => connect.max_packet = Some(size),
                    (PROBLEM_INFORMATION, Value::Number(0)) => connect.reasons = Reasons::Unwanted,
                    (AUTH_METHOD, _) => has_auth_method = true,
                    _ => {}
                }
            }
        }
        let client = take_text(&mut body)?;
        let mut will_topic = None;
        if flags & WILL != 0 {
            skip_properties(&mut body, version)?;
            will_topic = Some(take_text(&mut body)?);
            let _payload = take_prefixed(&mut body)?;
        }
        let user = if flags & USER != 0 { Some(take_text(&mut body)?) } else { None };
        let password = if flags & PASSWORD != 0 { Some(take_prefixed(&mut body)?) } else { None };
        let clean = flags & CLEAN != 0;
        Some(Hello { connect, clean, client, will_topic, user, password, has_auth_method })
    }

    /// The same CONNECT with another client id, and with the protocol level that the version has; none if it is malformed.
    pub(in crate::broker) fn with_client_id(&self, version: Version, client: &str) -> Option<Self> {
        let mut rest = self.body();
        let name = take_prefixed(&mut rest)?;
        let _level = rest.try_get_u8().ok()?;
        let flags_and_keep_alive = take(&mut rest, 3)?;
        let before_properties = rest;
        skip_properties(&mut rest, version)?;
        let properties = &before_properties[..before_properties.len() - rest.len()];
        let _client = take_prefixed(&mut rest)?;
        let mut body = BytesMut::with_capacity(self.body().len() + client.len());
        fields::put_prefixed(&mut body, name);
        body.put_u8(if version == Version::V5 { LEVEL_V5 } else { LEVEL_V311 });
        body.put_slice(flags_and_keep_alive);
        body.put_slice(properties);
        fields::put_prefixed(&mut body, client.as_bytes());
        body.put_slice(rest);
        Some(Self::new(self.bytes()[0], &body))
    }
}

/// Whether these flags of a CONNECT can stand together (3.1.2.3 to 3.1.2.9).
fn are_possible(flags: u8, version: Version) -> bool {
    let has = |flag: u8| flags & flag != 0;
    let of_a_will = flags & (WILL_QOS | WILL_RETAIN);
    !has(RESERVED)
        && (has(WILL) || of_a_will == 0)
        && flags & WILL_QOS != WILL_QOS
        && (version == Version::V5 || has(USER) || !has(PASSWORD))
}

/// A text without what the specification forbids in one (1.5.4).
fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_prefixed(rest)?).ok().filter(|text| !text.contains('\0'))
}

/// Passwords are not for the log.
impl std::fmt::Debug for Hello<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello").field("connect", &self.connect).field("client", &self.client).finish_non_exhaustive()
    }
}

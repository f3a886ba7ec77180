//! CONNECT (3.1).

use super::error::PacketError;
use super::fields::Reader;
use super::properties::{self, MessageProperties, Properties, Value, id, is_topic};
use super::write::ClientEncoding;
use super::{Version, WireLimits};
use crate::chat::qos::QoS;

/// Flags (3.1.2.3).
const RESERVED: u8 = 0x01;
const CLEAN: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER: u8 = 0x80;
/// The names of the protocol: since 3.1.1, and in 3.1.
const NAME: &[u8] = b"MQTT";
const NAME_OF_3_1: &[u8] = b"MQIsdp";
/// Protocol levels.
const LEVEL_V311: u8 = 4;
const LEVEL_V5: u8 = 5;
/// mosquitto sets this bit of the level where it connects as a bridge (`try_private`, the default): a server that knows
/// it spares the bridge its own messages. One that does not is to answer as if it were not there.
const BRIDGE: u8 = 0x80;

/// What a client says of itself. What 3.1.1 cannot say has the value that MQTT 5 gives to what is absent.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Connect<'a> {
    pub(crate) version: Version,
    /// Whether the client wants a session without a past.
    pub(crate) clean: bool,
    /// Seconds; 0 if the client may be silent for ever.
    pub(crate) keep_alive: u16,
    /// Empty if the broker is to choose one.
    pub(crate) client: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) will: Option<Will<'a>>,
    /// Seconds for which the session is kept without a connection; `u32::MAX` for ever, also in 3.1.1 without `clean`.
    pub(crate) session_expiry_s: u32,
    pub(crate) receive_maximum: u16,
    /// The biggest packet that the client takes, in bytes.
    pub(crate) max_packet: Option<u32>,
    pub(crate) topic_alias_maximum: u16,
    /// Whether the client wants reason strings (3.1.2.11.7).
    pub(crate) request_problem_information: bool,
    /// Enhanced authentication is wanted.
    pub(crate) has_auth_method: bool,
}

/// The message that is published when the client goes without a DISCONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will<'a> {
    pub(crate) topic: &'a str,
    /// The topic is over a limit: the client is not let in.
    pub(crate) over_limit: bool,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) properties: MessageProperties<'a>,
}

/// A CONNECT that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused<'a> {
    pub(crate) error: PacketError,
    /// The version in which the CONNACK is written; `None`: no CONNACK is sent.
    pub(crate) version: Option<Version>,
    /// As far as the packet could be read.
    pub(crate) seen: Box<Connect<'a>>,
}

/// Reads the body of a CONNECT.
///
/// # Errors
///
/// If it breaks a rule, or is of a version that is not spoken.
pub(crate) fn connect<'a>(body: &'a [u8], limits: &WireLimits) -> Result<Connect<'a>, Refused<'a>> {
    let mut seen = Connect::new();
    let mut reader = Reader::new(body);
    let protocol = reader.binary().and_then(|name| Ok((name, reader.u8()?)));
    let (version, error) = match protocol {
        Ok((NAME_OF_3_1, _)) => {
            // Parsed as 3.1.1 to have user and client id for the log; errors are ignored, because the version is
            // refused anyway.
            let _ = seen.read(reader, limits);
            (Some(Version::V311), PacketError::Mqtt31)
        }
        Ok((NAME, level)) if level == LEVEL_V5 || level & !BRIDGE == LEVEL_V311 => {
            seen.version = if level == LEVEL_V5 { Version::V5 } else { Version::V311 };
            match seen.read(reader, limits) {
                Ok(()) => return Ok(seen),
                Err(error) => (Some(seen.version), error),
            }
        }
        Ok((NAME, level)) => {
            // In the form of 3.1.1 to a lower level, in that of MQTT 5 to a higher one (3.1.2.2). Nobody knows whether
            // the client would understand a reason string.
            seen.request_problem_information = false;
            let version = if level < LEVEL_V311 { Version::V311 } else { Version::V5 };
            (Some(version), PacketError::ProtocolLevel(level))
        }
        Ok(_) => (None, PacketError::ProtocolName),
        Err(error) => (None, error),
    };
    Err(Refused { error, version, seen: Box::new(seen) })
}

impl<'a> Connect<'a> {
    fn new() -> Self {
        Self {
            version: Version::V311,
            clean: false,
            keep_alive: 0,
            client: "",
            user: None,
            password: None,
            will: None,
            session_expiry_s: 0,
            receive_maximum: u16::MAX,
            max_packet: None,
            topic_alias_maximum: 0,
            request_problem_information: true,
            has_auth_method: false,
        }
    }

    /// In what form the client takes packets.
    pub(crate) fn encoding(&self) -> ClientEncoding {
        ClientEncoding {
            version: self.version,
            max_packet: self.max_packet.map_or(usize::MAX, |most| most as usize),
            reasons: self.request_problem_information,
        }
    }

    /// Reads what comes behind the protocol level.
    fn read(&mut self, mut reader: Reader<'a>, limits: &WireLimits) -> Result<(), PacketError> {
        let flags = reader.u8()?;
        let has = |flag: u8| flags & flag != 0;
        self.clean = has(CLEAN);
        self.keep_alive = reader.u16()?;
        match self.version {
            Version::V5 => self.read_properties(&mut reader, limits)?,
            Version::V311 if !self.clean => self.session_expiry_s = u32::MAX,
            Version::V311 => {}
        }
        self.client = reader.text()?;
        check_flags(flags, self.version)?;
        if has(WILL) {
            let mut properties = MessageProperties::default();
            if self.version == Version::V5 {
                properties = MessageProperties::take(&mut reader, properties::OF_WILL, limits)?;
            }
            let topic = reader.text()?;
            let payload = reader.binary()?;
            if !is_topic(topic) {
                return Err(PacketError::WillTopic);
            }
            let qos = QoS::from_u8((flags & WILL_QOS) >> WILL_QOS.trailing_zeros()).ok_or(PacketError::ConnectFlags)?;
            let over_limit = !limits.allow(topic);
            self.will = Some(Will { topic, over_limit, payload, qos, retain: has(WILL_RETAIN), properties });
        }
        if has(USER) {
            self.user = Some(reader.text()?);
        }
        if has(PASSWORD) {
            self.password = Some(reader.binary()?);
        }
        reader.end()
    }

    fn read_properties(&mut self, reader: &mut Reader<'a>, limits: &WireLimits) -> Result<(), PacketError> {
        let mut list = Properties::take(reader, properties::OF_CONNECT, limits)?;
        while let Some((id, value)) = list.next()? {
            match (id, value) {
                (id::SESSION_EXPIRY, Value::Number(seconds)) => self.session_expiry_s = seconds,
                (id::RECEIVE_MAXIMUM, Value::Number(most)) => self.receive_maximum = most as u16,
                (id::MAXIMUM_PACKET, Value::Number(most)) => self.max_packet = Some(most),
                (id::ALIAS_MAXIMUM, Value::Number(most)) => self.topic_alias_maximum = most as u16,
                (id::PROBLEM_INFORMATION, Value::Number(wanted)) => self.request_problem_information = wanted == 1,
                (id::AUTH_METHOD, _) => self.has_auth_method = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether these flags can stand together (3.1.2.3 to 3.1.2.9).
fn check_flags(flags: u8, version: Version) -> Result<(), PacketError> {
    let has = |flag: u8| flags & flag != 0;
    let are_possible = !has(RESERVED)
        && (has(WILL) || !has(WILL_QOS | WILL_RETAIN))
        && flags & WILL_QOS != WILL_QOS
        && (version == Version::V5 || has(USER) || !has(PASSWORD));
    if are_possible { Ok(()) } else { Err(PacketError::ConnectFlags) }
}

/// Passwords are not for the log.
impl std::fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Connect");
        shown.field("version", &self.version).field("user", &self.user).field("client", &self.client);
        shown.finish_non_exhaustive()
    }
}

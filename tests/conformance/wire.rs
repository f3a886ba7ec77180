//! MQTT packets as bytes, written after the two specifications and not after any library, right or wrong.

use bytes::{Buf, Bytes};

pub(crate) const V311: u8 = 4;
pub(crate) const V5: u8 = 5;

/// Packet types (2.1.2).
pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const PUBREL: u8 = 6;
pub(crate) const PUBCOMP: u8 = 7;

/// Properties of MQTT 5 (2.2.2.2).
pub(crate) mod prop {
    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTH_METHOD: u8 = 0x15;
    pub(crate) const AUTH_DATA: u8 = 0x16;
    pub(crate) const PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY: u8 = 0x18;
    pub(crate) const RESPONSE_INFORMATION_WANTED: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1a;
    pub(crate) const REASON: u8 = 0x1f;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET: u8 = 0x27;
    pub(crate) const WILDCARDS_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_AVAILABLE: u8 = 0x2a;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable(u32),
    Text(String),
    Binary(Vec<u8>),
    Pair(String, String),
}

pub(crate) fn word(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(crate) fn pair(name: &str, value: &str) -> Value {
    Value::Pair(name.to_owned(), value.to_owned())
}

/// The properties of one packet, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Props(pub(crate) Vec<(u8, Value)>);

impl Props {
    pub(crate) fn with(mut self, id: u8, value: Value) -> Self {
        self.0.push((id, value));
        self
    }

    pub(crate) fn get(&self, id: u8) -> Option<&Value> {
        self.all(id).into_iter().next()
    }

    pub(crate) fn all(&self, id: u8) -> Vec<&Value> {
        self.0.iter().filter(|(found, _)| *found == id).map(|(_, value)| value).collect()
    }

    /// The user properties, in their order.
    pub(crate) fn user(&self) -> Vec<(&str, &str)> {
        let all = self.0.iter().filter_map(|(id, value)| match value {
            Value::Pair(name, value) if *id == prop::USER => Some((name.as_str(), value.as_str())),
            _ => None,
        });
        all.collect()
    }

    pub(crate) fn encode(&self, version: u8) -> Vec<u8> {
        if version != V5 {
            return Vec::new();
        }
        let mut body = Vec::new();
        for (id, value) in &self.0 {
            body.push(*id);
            match value {
                Value::Byte(value) => body.push(*value),
                Value::Two(value) => body.extend(value.to_be_bytes()),
                Value::Four(value) => body.extend(value.to_be_bytes()),
                Value::Variable(value) => body.extend(variable(*value)),
                Value::Text(value) => body.extend(text(value)),
                Value::Binary(value) => body.extend(binary(value)),
                Value::Pair(name, value) => body.extend([text(name), text(value)].concat()),
            }
        }
        [variable(size(body.len())), body].concat()
    }

    fn decode(rest: &mut Bytes) -> Self {
        let length = take_variable(rest);
        let mut rest = rest.split_to(length.try_into().unwrap());
        let mut props = Self::default();
        while rest.has_remaining() {
            let id = rest.get_u8();
            let value = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => Value::Byte(rest.get_u8()),
                0x13 | 0x21..=0x23 => Value::Two(rest.get_u16()),
                0x02 | 0x11 | 0x18 | 0x27 => Value::Four(rest.get_u32()),
                0x0b => Value::Variable(take_variable(&mut rest)),
                0x03 | 0x08 | 0x12 | 0x15 | 0x1a | 0x1c | 0x1f => Value::Text(take_text(&mut rest)),
                0x09 | 0x16 => Value::Binary(take_binary(&mut rest)),
                0x26 => Value::Pair(take_text(&mut rest), take_text(&mut rest)),
                _ => panic!("the broker sent property {id:#x}"),
            };
            props = props.with(id, value);
        }
        props
    }
}

/// A whole packet.
pub(crate) fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    [vec![first], variable(size(body.len())), body.to_vec()].concat()
}

/// A field with its length before it.
pub(crate) fn text(value: &str) -> Vec<u8> {
    binary(value.as_bytes())
}

pub(crate) fn binary(value: &[u8]) -> Vec<u8> {
    [&u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

pub(crate) fn variable(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP in its shortest form, which both versions have.
pub(crate) fn ack(kind: u8, id: u16) -> Vec<u8> {
    frame(kind << 4 | if kind == PUBREL { 2 } else { 0 }, &id.to_be_bytes())
}

pub(crate) fn ping() -> Vec<u8> {
    frame(0xc0, &[])
}

/// A DISCONNECT of MQTT 5 with a reason.
pub(crate) fn disconnect(reason: u8, props: &Props) -> Vec<u8> {
    frame(0xe0, &[vec![reason], props.encode(V5)].concat())
}

#[derive(Debug, Clone)]
pub(crate) struct Connect {
    pub(crate) client: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) props: Props,
    pub(crate) will: Option<Will>,
}

#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) props: Props,
}

impl Will {
    pub(crate) fn new(topic: &str, payload: &str) -> Self {
        Self { topic: topic.to_owned(), payload: payload.to_owned(), qos: 1, retain: false, props: Props::default() }
    }

    pub(crate) fn delayed(mut self, seconds: u32) -> Self {
        self.props = self.props.with(prop::WILL_DELAY, Value::Four(seconds));
        self
    }
}

impl Connect {
    /// A client without a past or a future.
    pub(crate) fn clean(client: &str) -> Self {
        Self { client: client.to_owned(), clean: true, keep_alive: 0, props: Props::default(), will: None }
    }

    /// A client whose session outlives its connection, in either version.
    pub(crate) fn lasting(client: &str) -> Self {
        Self { clean: false, ..Self::clean(client) }.with(prop::SESSION_EXPIRY, Value::Four(3_600))
    }

    pub(crate) fn with(mut self, id: u8, value: Value) -> Self {
        self.props.0.retain(|(known, _)| *known != id);
        self.props = self.props.with(id, value);
        self
    }

    pub(crate) fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub(crate) fn flags(&self) -> u8 {
        let clean = u8::from(self.clean) << 1;
        clean | self.will.as_ref().map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5)
    }

    pub(crate) fn bytes(&self, version: u8) -> Vec<u8> {
        self.bytes_with("MQTT", version, self.flags())
    }

    pub(crate) fn bytes_with(&self, protocol: &str, level: u8, flags: u8) -> Vec<u8> {
        let mut body = [text(protocol), vec![level, flags], self.keep_alive.to_be_bytes().to_vec()].concat();
        body.extend(self.props.encode(level));
        body.extend(text(&self.client));
        if let Some(will) = &self.will {
            body.extend(will.props.encode(level));
            body.extend([text(&will.topic), text(&will.payload)].concat());
        }
        frame(0x10, &body)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) id: u16,
    pub(crate) props: Props,
}

impl Publish {
    pub(crate) fn new(topic: &str, payload: impl Into<String>, qos: u8, id: u16) -> Self {
        let (topic, payload) = (topic.to_owned(), Bytes::from(payload.into()));
        Self { topic, payload, qos, retain: false, dup: false, id, props: Props::default() }
    }

    pub(crate) fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn again(mut self) -> Self {
        self.dup = true;
        self
    }

    pub(crate) fn with(mut self, id: u8, value: Value) -> Self {
        self.props = self.props.with(id, value);
        self
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    pub(crate) fn bytes(&self, version: u8) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = text(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.extend(self.props.encode(version));
        body.extend(&self.payload);
        frame(first, &body)
    }
}

/// SUBSCRIBE with the packet identifier 1. `filters` come with their options byte.
pub(crate) fn subscribe(version: u8, filters: &[(&str, u8)], props: &Props) -> Vec<u8> {
    let mut body = [vec![0, 1], props.encode(version)].concat();
    for (filter, options) in filters {
        body.extend([text(filter), vec![*options]].concat());
    }
    frame(0x82, &body)
}

/// UNSUBSCRIBE with the packet identifier 2.
pub(crate) fn unsubscribe(version: u8, filters: &[&str]) -> Vec<u8> {
    let mut body = [vec![0, 2], Props::default().encode(version)].concat();
    filters.iter().for_each(|filter| body.extend(text(filter)));
    frame(0xa2, &body)
}

/// What came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    ConnAck { resumed: bool, code: u8, props: Props },
    Publish(Publish),
    Ack { kind: u8, id: u16, code: u8, props: Props },
    SubAck { id: u16, codes: Vec<u8>, props: Props },
    UnsubAck { id: u16, codes: Vec<u8> },
    Pong,
    Disconnect { code: u8, props: Props },
    Auth,
    Closed,
}

impl Packet {
    /// Reads a packet strictly: what the specification forbids a server to send fails the test.
    pub(crate) fn decode(version: u8, first: u8, mut body: Bytes) -> Self {
        let v5 = version == V5;
        let flags = first & 0x0f;
        match first >> 4 {
            2 => {
                let (resumed, code) = (body.get_u8(), body.get_u8());
                assert!(resumed < 2 && flags == 0, "[MQTT-3.2.2-1]");
                let props = if v5 && body.has_remaining() { Props::decode(&mut body) } else { Props::default() };
                assert!(body.is_empty(), "bytes behind a CONNACK");
                Self::ConnAck { resumed: resumed == 1, code, props }
            }
            3 => Self::Publish(decode_publish(version, flags, body)),
            kind @ 4..=7 => {
                assert_eq!(flags, if kind == PUBREL { 2 } else { 0 }, "[MQTT-2.1.3-1]");
                assert!(v5 || body.len() == 2, "3.1.1 has no reason codes in acknowledgements");
                let id = body.get_u16();
                let code = if body.has_remaining() { body.get_u8() } else { 0 };
                let props = if body.has_remaining() { Props::decode(&mut body) } else { Props::default() };
                Self::Ack { kind, id, code, props }
            }
            9 => {
                let id = body.get_u16();
                let props = if v5 { Props::decode(&mut body) } else { Props::default() };
                Self::SubAck { id, codes: body.to_vec(), props }
            }
            11 => {
                let id = body.get_u16();
                if v5 {
                    Props::decode(&mut body);
                }
                assert!(v5 || body.is_empty(), "UNSUBACK of 3.1.1 has no payload");
                Self::UnsubAck { id, codes: body.to_vec() }
            }
            13 => Self::Pong,
            14 => {
                assert!(v5, "a server sends no DISCONNECT in 3.1.1");
                let code = if body.has_remaining() { body.get_u8() } else { 0 };
                let props = if body.has_remaining() { Props::decode(&mut body) } else { Props::default() };
                Self::Disconnect { code, props }
            }
            15 if v5 => Self::Auth,
            other => panic!("the broker sent packet type {other}"),
        }
    }
}

fn decode_publish(version: u8, flags: u8, mut body: Bytes) -> Publish {
    let qos = (flags >> 1) & 3;
    assert!(qos < 3, "[MQTT-3.3.1-4]");
    let topic = take_text(&mut body);
    assert!(!topic.contains(['+', '#', '\0']), "[MQTT-3.3.2-2]");
    let id = if qos > 0 { body.get_u16() } else { 0 };
    assert!(qos == 0 || id != 0, "[MQTT-2.2.1-4]");
    let dup = flags & 8 != 0;
    assert!(qos > 0 || !dup, "[MQTT-3.3.1-2]");
    let props = if version == V5 { Props::decode(&mut body) } else { Props::default() };
    Publish { topic, payload: body, qos, retain: flags & 1 != 0, dup, id, props }
}

fn take_text(rest: &mut Bytes) -> String {
    String::from_utf8(take_binary(rest)).expect("[MQTT-1.5.4-1]")
}

fn take_binary(rest: &mut Bytes) -> Vec<u8> {
    let length = usize::from(rest.get_u16());
    rest.split_to(length).to_vec()
}

fn take_variable(rest: &mut Bytes) -> u32 {
    let mut value = 0;
    for place in 0..4 {
        let byte = rest.get_u8();
        value |= u32::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("[MQTT-1.5.5-1]")
}

fn size(length: usize) -> u32 {
    length.try_into().unwrap()
}

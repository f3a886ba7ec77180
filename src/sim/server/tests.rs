//! A scripted client against the server core, without sockets and on a clock of numbers.

use super::*;
use crate::ccs::payload::{Ack, Inbound};
use crate::ccs::stanza::{MessageError, Stanza};
use crate::sim::config::{Account, Declaration, Overrun, SimConfig};
use crate::sim::device::{DevicePatch, Presence, Refuse};
use crate::sim::fault::{DrainPlan, Faults, NackFault, Notice};
use crate::sim::service::Speech;
use crate::sim::stats::Stats;
use serde_json::{Value, json};

mod faults;
mod refusals;

/// A service and the clock.
struct Sim {
    service: Service,
    profile: Profile,
    now: u64,
}

impl Sim {
    fn new(config: SimConfig) -> Self {
        let profile = Profile { wire: config.wire.clone(), credentials: config.credentials.clone() };
        Self { service: Service::new(&config), profile, now: 1_000_000 }
    }

    fn with_faults(faults: Faults) -> Self {
        Self::new(SimConfig { faults, ..SimConfig::default() })
    }

    /// A client that has connected and said nothing yet.
    fn connect(&mut self) -> Client {
        let (id, dice) = self.service.connect();
        let server = Connection::new(id, dice, &self.profile, self.now);
        Client { server, framer: Framer::new(1 << 20, 16), raw: String::new(), pieces: 0 }
    }

    /// A client that has logged in.
    fn login(&mut self) -> Client {
        let mut client = self.connect();
        let (mut first, mut second) = (String::new(), String::new());
        write::client_header(&mut first, "gcm.googleapis.com");
        write::auth_plain(&mut first, "42@gcm.googleapis.com", "key");
        write::client_header(&mut second, "gcm.googleapis.com");
        write::bind_request(&mut second, "b1", "test");
        let mut seen = client.write(self, &first);
        client.framer.restart();
        seen.extend(client.write(self, &second));
        assert!(seen.iter().any(|seen| matches!(seen, Seen::Other(Stanza::Iq(_)))), "{seen:?}");
        client
    }

    fn put(&mut self, token: &str, patch: DevicePatch) {
        self.service.put(token, patch, self.now).unwrap();
    }

    fn speak(&mut self, token: &str, count: usize) {
        let speech = Speech { category: None, data: json!({"k": "v"}), count, message_id: None };
        self.service.speak(token, &speech).unwrap();
    }

    fn got(&self, token: &str) -> Vec<String> {
        let device = self.service.devices.device(token, 0, 1_000);
        device.map_or_else(Vec::new, |device| device.messages.into_iter().map(|record| record.message_id).collect())
    }

    fn stats(&self) -> Stats {
        self.service.stats()
    }
}

/// What a client sees.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Payload(Inbound),
    Error(MessageError),
    Other(Stanza),
    Header,
    Close,
}

/// The client's end: writes text, reads what comes back.
struct Client {
    server: Connection,
    framer: Framer,
    raw: String,
    pieces: usize,
}

impl Client {
    fn write(&mut self, sim: &mut Sim, text: &str) -> Vec<Seen> {
        self.server.receive(text.as_bytes(), &sim.profile);
        self.turn(sim)
    }

    /// Lets the server do what is due, and reads.
    fn turn(&mut self, sim: &mut Sim) -> Vec<Seen> {
        sim.service.tick(sim.now);
        self.server.serve(&mut sim.service, &sim.profile, sim.now);
        let mut seen = Vec::new();
        while let Some(chunk) = self.server.poll_write() {
            self.raw.push_str(std::str::from_utf8(&chunk).unwrap_or("\u{fffd}"));
            self.pieces += 1;
            self.framer.push(&chunk);
            while let Some(frame) = self.framer.next().unwrap() {
                seen.push(see(frame));
            }
        }
        seen
    }

    fn send(&mut self, sim: &mut Sim, payload: &Value) -> Vec<Seen> {
        self.write(sim, &stanza(payload))
    }

    /// Sends messages to `token` in one write.
    fn burst(&mut self, sim: &mut Sim, token: &str, ids: std::ops::Range<u32>) -> Vec<Seen> {
        let text: String = ids.map(|id| stanza(&json!({"to": token, "message_id": id.to_string()}))).collect();
        self.write(sim, &text)
    }

    fn ack(&mut self, sim: &mut Sim, to: &str, message_id: &str) -> Vec<Seen> {
        let mut text = String::new();
        write::message(&mut text, "", &Ack { to: to.into(), message_id: message_id.into() }.to_json());
        self.write(sim, &text)
    }

    fn leave(self, sim: &mut Sim) {
        sim.service.leave(self.server.id);
    }
}

fn stanza(payload: &Value) -> String {
    let mut text = String::new();
    write::message(&mut text, "s-1", &payload.to_string());
    text
}

fn see(frame: Frame) -> Seen {
    match frame {
        Frame::Header(_) => Seen::Header,
        Frame::Close => Seen::Close,
        Frame::Dropped(limit) => panic!("{limit}"),
        Frame::Damaged { error, .. } => panic!("{error}"),
        Frame::Stanza(element) => match Stanza::read(&element) {
            Stanza::Message(message) => Seen::Payload(Inbound::parse(&message.json.unwrap()).unwrap()),
            Stanza::MessageError(error) => Seen::Error(error),
            other => Seen::Other(other),
        },
    }
}

/// In short: `ack 1`, `nack 1 CODE`, `up 1`, `receipt dr2:1`, `draining`, `error 400`, `close`, `stream-error CONDITION`.
fn brief(seen: &[Seen]) -> Vec<String> {
    let word = |seen: &Seen| match seen {
        Seen::Payload(Inbound::Ack(ack)) => format!("ack {}", ack.message_id),
        Seen::Payload(Inbound::Nack(nack)) => {
            format!("nack {} {}", nack.message_id.as_deref().unwrap_or_default(), nack.error)
        }
        Seen::Payload(Inbound::Upstream(upstream)) => format!("up {}", upstream.message_id),
        Seen::Payload(Inbound::Receipt(receipt)) => format!("receipt {}", receipt.message_id),
        Seen::Payload(Inbound::Control { control_type }) if control_type == "CONNECTION_DRAINING" => "draining".into(),
        Seen::Error(error) => format!("error {}", error.code.unwrap_or(0)),
        Seen::Other(Stanza::StreamError { condition, .. }) => format!("stream-error {condition}"),
        Seen::Close => "close".into(),
        other => format!("{other:?}"),
    };
    seen.iter().map(word).collect()
}

#[test]
fn the_login_is_spelled_as_on_the_real_server() {
    let mut sim = Sim::new(SimConfig::default());
    let client = sim.login();
    let starts = [
        "<stream:stream from=\"gcm.googleapis.com\" id=\"",
        "<stream:features><mechanisms xmlns=\"urn:ietf:params:xml:ns:xmpp-sasl\"><mechanism>X-OAUTH2</mechanism>\
         <mechanism>X-GOOGLE-TOKEN</mechanism><mechanism>PLAIN</mechanism></mechanisms></stream:features>\
         <success xmlns=\"urn:ietf:params:xml:ns:xmpp-sasl\"/>",
        "<stream:features><bind xmlns=\"urn:ietf:params:xml:ns:xmpp-bind\"/>\
         <session xmlns=\"urn:ietf:params:xml:ns:xmpp-session\"/></stream:features>",
        "<iq type=\"result\" id=\"b1\"><bind xmlns=\"urn:ietf:params:xml:ns:xmpp-bind\">\
         <jid>42@gcm.googleapis.com/test",
    ];
    let mut rest = client.raw.as_str();
    for start in starts {
        let at = rest.find(start).unwrap_or_else(|| panic!("no {start} in {rest}"));
        rest = &rest[at + start.len()..];
    }
    assert!(!client.raw.contains("<?xml"));
    assert_eq!(rest.find("</jid>"), Some(8), "the resource comes back with 8 digits behind it");
    assert_eq!(sim.stats().logins, 1);
}

#[test]
fn the_login_works_byte_by_byte_and_with_a_declaration() {
    let mut config = SimConfig::default();
    config.wire.declaration = Declaration::Send;
    let mut sim = Sim::new(config);
    let mut client = sim.connect();
    let mut text = String::new();
    write::client_header(&mut text, "x");
    // As Qt's writer does: a stray `>` behind the header.
    text.push('>');
    write::auth_plain(&mut text, "42@fcm.googleapis.com", "key");
    text.push_str("<?xml version='1.0'?>");
    write::client_header(&mut text, "x");
    write::bind_request(&mut text, "b1", "");
    for byte in text.bytes() {
        client.server.receive(&[byte], &sim.profile);
        client.server.serve(&mut sim.service, &sim.profile, sim.now);
        while let Some(chunk) = client.server.poll_write() {
            client.raw.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
    assert_eq!(client.raw.matches("<?xml version=\"1.0\"?><stream:stream from=\"x\"").count(), 2);
    assert!(client.raw.contains("<jid>42@gcm.googleapis.com/"));
}

#[test]
fn wrong_credentials_are_refused_and_counted() {
    let account = Account { sender_id: "42".into(), key: "right".into() };
    let mut sim = Sim::new(SimConfig { credentials: Credentials::Only(vec![account]), ..SimConfig::default() });
    let mut client = sim.connect();
    let mut text = String::new();
    write::client_header(&mut text, "gcm.googleapis.com");
    write::auth_plain(&mut text, "42@gcm.googleapis.com", "wrong");
    let seen = client.write(&mut sim, &text);
    assert!(seen.contains(&Seen::Other(Stanza::Failure { condition: "not-authorized".into() })), "{seen:?}");
    assert_eq!(seen.last(), Some(&Seen::Close));
    assert_eq!(client.server.end(), Some(End::Close));
    assert_eq!(sim.stats().login_failures, 1);
}

#[test]
fn a_stanza_before_its_time_ends_the_stream() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.connect();
    let mut text = String::new();
    write::client_header(&mut text, "x");
    write::message(&mut text, "", "{}");
    let seen = client.write(&mut sim, &text);
    assert_eq!(brief(&seen[2..]), ["stream-error not-authorized", "close"]);
    assert_eq!(sim.stats().violations.early, 1);
    let mut silent = sim.connect();
    sim.now += 30_000;
    let seen = silent.turn(&mut sim);
    assert_eq!(seen[0], Seen::Header, "an error needs a stream to be in (RFC 6120, 4.9.1)");
    assert_eq!(brief(&seen[1..]), ["stream-error connection-timeout", "close"]);
    assert_eq!(silent.server.end(), Some(End::Close), "nobody may take for ever to log in");
}

#[test]
fn what_is_no_xmpp_is_told_so_in_a_stream_of_its_own() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.connect();
    let seen = client.write(&mut sim, "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(brief(&seen[1..]), ["stream-error not-well-formed", "close"]);
    assert_eq!((sim.stats().violations.malformed, client.server.end()), (1, Some(End::Close)));
}

#[test]
fn an_empty_header_closes_the_stream_at_once() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.connect();
    let text = "<stream:stream to='x' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'/>";
    let seen = client.write(&mut sim, text);
    assert_eq!(seen.last(), Some(&Seen::Close));
    assert_eq!(client.server.end(), Some(End::Close));
}

#[test]
fn a_message_reaches_its_device_and_is_acknowledged_with_its_receipt_behind() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    let message = json!({"to": "a", "message_id": "m<1>", "data": {"x": "é"}, "delivery_receipt_requested": true});
    let seen = client.send(&mut sim, &message);
    assert_eq!(brief(&seen), ["ack m<1>", "receipt dr2:m<1>"]);
    let Seen::Payload(Inbound::Receipt(receipt)) = &seen[1] else { unreachable!() };
    assert_eq!(receipt.from, "gcm.googleapis.com");
    assert_eq!(receipt.original_message_id.as_deref(), Some("m<1>"));
    assert_eq!(receipt.device_registration_id.as_deref(), Some("a"));
    assert_eq!(receipt.sent_at_ms, Some(sim.now));
    assert_eq!(receipt.status.as_deref(), Some("MESSAGE_SENT_TO_DEVICE"));
    assert!(client.raw.contains("<message><data:gcm xmlns:data=\"google:mobile:data\">{\"from\":\"a\""));
    let device = sim.service.devices.device("a", 0, 10).unwrap();
    assert_eq!(device.messages[0].data, json!({"x": "é"}));

    assert_eq!(client.ack(&mut sim, "gcm.googleapis.com", "dr2:m<1>"), []);
    let stats = sim.stats();
    assert_eq!((stats.receipts.sent, stats.receipts.acked, stats.now.unacked), (1, 1, 0));
    assert_eq!((stats.messages, stats.acks, stats.delivered), (1, 1, 1));
}

#[test]
fn a_message_of_a_device_is_spelled_as_on_the_real_server() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    sim.speak("a", 1);
    let seen = client.turn(&mut sim);
    assert_eq!(brief(&seen), ["up 1"]);
    let start = "<message type=\"normal\" from=\"devices@gcm.googleapis.com\" to=\"42@gcm.googleapis.com/test";
    assert!(client.raw.contains(start), "{}", client.raw);
    assert!(client.raw.contains("\"><gcm xmlns=\"google:mobile:data\">{\"category\":\"com.example.app\""));
    let Seen::Payload(Inbound::Upstream(upstream)) = &seen[0] else { unreachable!() };
    assert_eq!((upstream.from.as_str(), upstream.data["k"].as_str()), ("a", Some("v")));
}

#[test]
fn pings_are_answered_and_silence_is_broken_by_a_blank() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    let mut text = String::from("  \n ");
    write::ping(&mut text, "p7", None);
    client.write(&mut sim, &text);
    assert!(client.raw.contains("<iq type=\"result\" id=\"p7\" to=\"42@gcm.googleapis.com/test"));
    let due = client.server.deadline(&sim.service, sim.now).unwrap();
    assert_eq!(due, sim.now + 60_000);
    sim.now = due;
    client.turn(&mut sim);
    assert!(client.raw.ends_with(' '));
    client.write(&mut sim, "<iq type='get' id='q'><query xmlns='jabber:iq:roster'/></iq>");
    assert!(client.raw.contains("service-unavailable"));
    assert_eq!(client.server.end(), None);
}

#[test]
fn an_old_token_is_answered_with_the_new_one() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    sim.put("old", DevicePatch { canonical: Some("new".into()), ..DevicePatch::default() });
    let seen = client.send(&mut sim, &json!({"to": "old", "message_id": "1"}));
    let Seen::Payload(Inbound::Ack(ack)) = &seen[0] else { panic!("{seen:?}") };
    assert_eq!(ack.registration_id.as_deref(), Some("new"));
}

#[test]
fn an_echo_comes_back_as_a_message_of_the_device() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    sim.put("a", DevicePatch { echo: Some("com.app".into()), ..DevicePatch::default() });
    let seen = client.send(&mut sim, &json!({"to": "a", "message_id": "1", "data": {"k": "v"}}));
    assert_eq!(brief(&seen), ["ack 1", "up 1"]);
    let Seen::Payload(Inbound::Upstream(upstream)) = &seen[1] else { unreachable!() };
    assert_eq!(upstream.category.as_deref(), Some("com.app"));
    assert_eq!(Value::from(upstream.data.clone()), json!({"echo_of": "1", "k": "v"}));
}

#[test]
fn a_topic_reaches_its_subscribers_and_gives_no_receipts() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    for token in ["a", "b"] {
        sim.put(token, DevicePatch { topics: Some(["news".to_owned()].into()), ..DevicePatch::default() });
    }
    let message = json!({"to": "/topics/news", "message_id": "1", "delivery_receipt_requested": true});
    assert_eq!(brief(&client.send(&mut sim, &message)), ["ack 1"]);
    assert_eq!([sim.got("a"), sim.got("b")], [["1"], ["1"]]);
}

#[test]
fn the_server_waits_when_too_much_is_unacknowledged() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    sim.speak("a", 150);
    assert_eq!(client.turn(&mut sim).len(), 100);
    assert_eq!(client.turn(&mut sim), []);
    assert_eq!(brief(&client.ack(&mut sim, "a", "1")), ["up 101"]);
    assert_eq!(client.server.deadline(&sim.service, sim.now), Some(sim.now + 60_000), "no busy waiting");
}

#[test]
fn what_was_not_acknowledged_comes_again_on_the_next_connection() {
    let mut sim = Sim::new(SimConfig::default());
    let mut first = sim.login();
    let message = json!({"to": "a", "message_id": "m", "delivery_receipt_requested": true});
    first.send(&mut sim, &message);
    sim.speak("a", 2);
    assert_eq!(brief(&first.turn(&mut sim)), ["up 1", "up 2"]);
    first.ack(&mut sim, "a", "1");
    first.leave(&mut sim);
    let mut second = sim.login();
    assert_eq!(second.turn(&mut sim), [], "all came with the login");
    assert!(second.raw.contains("dr2:m") && second.raw.contains("\"message_id\":\"2\""), "{}", second.raw);
    assert!(!second.raw.contains("\"message_id\":\"1\""));
    let stats = sim.stats();
    assert_eq!((stats.upstream.resent, stats.receipts.resent), (1, 1));
}

#[test]
fn the_client_may_close_and_gets_its_answers_first() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    let text = stanza(&json!({"to": "a", "message_id": "1"})) + write::STREAM_CLOSE;
    assert_eq!(brief(&client.write(&mut sim, &text)), ["ack 1", "close"]);
    assert_eq!(client.server.end(), Some(End::Close));
}

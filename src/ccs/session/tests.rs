use super::*;
use crate::ccs::event::Answer;
use crate::ccs::payload::{self, Inbound, Outbound};
use crate::ccs::settings::{Limits, Timing};
use crate::ccs::stanza::{IqKind, IqPayload};
use crate::ccs::write::Spelling;
use crate::chat::refusal::{Decision, Refusal};
use crate::secret::Secret;
use proptest::prelude::*;
use std::time::Duration;

const DOMAIN: &str = "gcm.googleapis.com";
const JID: &str = "12345@gcm.googleapis.com/test0FAD177A";

fn config() -> SessionConfig {
    SessionConfig {
        xmpp_domain: DOMAIN.to_owned(),
        user: format!("12345@{DOMAIN}"),
        key: Secret::new("the-key"),
        resource: "test".to_owned(),
        window: 3,
        limits: Limits { stanza_bytes: 4096, depth: 8 },
        timing: Timing::default(),
    }
}

/// A session and what it wrote and told, on a clock that only moves when told to.
struct Harness {
    session: Session,
    now: Instant,
    written: String,
    events: Vec<Event>,
    deadline: Option<Instant>,
}

impl Harness {
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    fn new() -> Self {
        let now = Instant::now();
        let session = Session::new(config(), now);
        let mut harness = Self { session, now, written: String::new(), events: Vec::new(), deadline: None };
        harness.drain();
        harness
    }

    /// A session that is logged in.
    fn open() -> Self {
        let mut harness = Self::new();
        harness.server(|out| {
            write::server_header(out, DOMAIN, "1");
            write::mechanisms(out, &["X-OAUTH2", "X-GOOGLE-TOKEN", "PLAIN"]);
        });
        harness.server(write::success);
        harness.server(|out| {
            write::server_header(out, DOMAIN, "2");
            write::bind_features(out);
        });
        harness.server(|out| write::bind_result(out, Some("bind-1"), JID));
        assert_eq!(harness.take(), [Event::Ready { jid: JID.to_owned() }]);
        harness.written.clear();
        harness
    }

    fn input(&mut self, input: Input<'_>) {
        self.session.handle(input, self.now);
        self.drain();
    }

    fn bytes(&mut self, text: &str) {
        self.input(Input::Bytes(text.as_bytes()));
    }

    fn server(&mut self, writer: impl FnOnce(&mut String)) {
        let mut text = String::new();
        writer(&mut text);
        self.bytes(&text);
    }

    fn json(&mut self, json: &str) {
        self.server(|out| write::server_message(out, &[], Spelling::DataGcm, json));
    }

    fn inbound(&mut self, inbound: &Inbound) {
        self.json(&inbound.to_json());
    }

    fn send(&mut self, message_id: &str) {
        self.input(Input::Send { message_id, json: &format!("{{\"to\":\"T\",\"message_id\":\"{message_id}\"}}") });
    }

    fn ack(&mut self, message_id: &str) {
        self.json(&format!("{{\"from\":\"T\",\"message_id\":\"{message_id}\",\"message_type\":\"ack\"}}"));
    }

    fn nack(&mut self, message_id: &str, error: &str) {
        self.json(&format!("{{\"message_type\":\"nack\",\"message_id\":\"{message_id}\",\"error\":\"{error}\"}}"));
    }

    fn drain(&mut self) {
        loop {
            match self.session.poll() {
                Output::Write(bytes) => self.written.push_str(std::str::from_utf8(&bytes).unwrap()),
                Output::Event(event) => self.events.push(event),
                Output::Wait(deadline) => {
                    self.deadline = deadline;
                    return;
                }
            }
        }
    }

    /// Lets time pass to the deadline that the session asked for.
    fn sleep(&mut self) {
        self.now = self.deadline.expect("the session waits for something");
        self.input(Input::Tick);
    }

    fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// How many messages the session would send now.
    fn capacity(&self) -> usize {
        if self.session.phase == Phase::Open { config().window - self.session.in_flight() } else { 0 }
    }

    /// Which of `sent` have no answer yet.
    fn unanswered<'a>(&self, sent: &[&'a str]) -> Vec<&'a str> {
        sent.iter().copied().filter(|id| self.session.sent.contains(*id)).collect()
    }

    /// What the session wrote since the last call, as the server reads it.
    fn stanzas(&mut self) -> Vec<Stanza> {
        let mut framer = Framer::new(1 << 20, 16);
        let mut text = String::new();
        write::client_header(&mut text, DOMAIN);
        text.push_str(&std::mem::take(&mut self.written));
        framer.push(text.as_bytes());
        let mut stanzas = Vec::new();
        while let Some(frame) = framer.next().unwrap() {
            if let Frame::Stanza(element) = frame {
                stanzas.push(Stanza::read(&element));
            }
        }
        stanzas
    }

    fn payloads(&mut self) -> Vec<Outbound> {
        let json = |stanza| match stanza {
            Stanza::Message(message) => Outbound::parse(&message.json?).ok(),
            _ => None,
        };
        self.stanzas().into_iter().filter_map(json).collect()
    }
}

fn upstream(message_id: &str) -> Inbound {
    Inbound::Upstream(payload::Upstream {
        from: "T".to_owned(),
        category: None,
        message_id: message_id.to_owned(),
        data: serde_json::Map::new(),
        extra: serde_json::Map::new(),
    })
}

fn answered(message_id: &str, answer: Answer) -> Event {
    Event::Answered { message_id: message_id.to_owned(), answer }
}

fn closed(reason: Reason) -> [Event; 1] {
    [Event::Closed(reason)]
}

// Login: checklist 5-15, 24.

#[test]
fn the_handshake_is_written_step_by_step_and_nothing_else_before_it_ends() {
    let mut harness = Harness::new();
    assert!(
        harness.written.starts_with("<stream:stream to=\"gcm.googleapis.com\" version=\"1.0\" xmlns=\"jabber:client\"")
    );
    assert!(harness.written.ends_with("streams\">") && !harness.written.contains("/>"), "{}", harness.written);
    harness.written.clear();
    harness.send("early");
    harness.input(Input::AckUpstream { to: "T", message_id: "1" });
    assert_eq!(harness.take(), [Event::NotSent { message_id: "early".to_owned() }]);
    assert_eq!((harness.written.as_str(), harness.capacity()), ("", 0));

    harness
        .bytes("<?xml version='1.0'?><str:stream xmlns:str='http://etherx.jabber.org/streams' xmlns='jabber:client'>");
    assert_eq!(harness.written, "");
    harness.bytes(
        "<str:features><mechanisms xmlns=\"urn:ietf:params:xml:ns:xmpp-sasl\"><mechanism>PLAIN</mechanism>\
         </mechanisms></str:features>",
    );
    assert!(matches!(&harness.stanzas()[..], [Stanza::Auth { mechanism, .. }] if mechanism == "PLAIN"));
    harness.server(write::success);
    assert!(harness.written.starts_with("<stream:stream to="));
    harness.written.clear();
    harness.server(|out| {
        out.push_str("<?xml version='1.0'?>");
        write::server_header(out, DOMAIN, "2");
        write::bind_features(out);
    });
    assert!(matches!(&harness.stanzas()[..], [Stanza::Iq(iq)]
        if matches!(&iq.payload, IqPayload::Bind { resource: Some(r), .. } if r == "test")));
    harness.server(|out| write::bind_result(out, Some("another"), JID));
    assert_eq!(harness.take(), []);
    harness.server(|out| write::bind_result(out, Some("bind-1"), JID));
    assert_eq!(harness.take(), [Event::Ready { jid: JID.to_owned() }]);
    assert_eq!((harness.written.as_str(), harness.capacity()), ("", 3));
}

#[test]
fn a_login_fails_with_its_reason() {
    let with_header = |writer: &dyn Fn(&mut String)| {
        let mut harness = Harness::new();
        harness.server(|out| {
            write::server_header(out, DOMAIN, "1");
            writer(out);
        });
        harness
    };
    let offered = vec!["X-OAUTH2".to_owned()];
    let mut harness = with_header(&|out| write::mechanisms(out, &["X-OAUTH2"]));
    assert_eq!(harness.take(), closed(Reason::PlainNotOffered { offered }));

    let mut harness = with_header(&|out| {
        write::mechanisms(out, &["PLAIN"]);
        write::failure(out, "not-authorized");
        out.push_str(write::STREAM_CLOSE);
    });
    assert_eq!(harness.take(), closed(Reason::AuthFailed { condition: "not-authorized".to_owned() }));

    let mut harness = with_header(&|out| write::stream_error(out, "host-unknown"));
    assert_eq!(harness.take(), closed(Reason::StreamError { condition: "host-unknown".to_owned() }));

    let mut harness = Harness::new();
    harness.bytes("<html>");
    assert_eq!(harness.take(), closed(Reason::Protocol("the root element is no stream")));

    let mut harness = Harness::new();
    harness.bytes("\u{15}\u{3}\u{1}");
    assert_eq!(harness.take(), closed(Reason::Malformed(FramingError::NotXmpp)));

    let mut harness = Harness::new();
    harness.sleep();
    assert_eq!(harness.take(), closed(Reason::LoginTimeout));
}

#[test]
fn a_refused_resource_is_reported() {
    let mut harness = Harness::new();
    harness.server(|out| {
        write::server_header(out, DOMAIN, "1");
        write::mechanisms(out, &["PLAIN"]);
    });
    harness.server(write::success);
    harness.server(|out| {
        write::server_header(out, DOMAIN, "2");
        write::bind_features(out);
        write::iq_error(out, Some("bind-1"), None, "conflict");
    });
    assert_eq!(harness.take(), closed(Reason::BindFailed { condition: "conflict".to_owned() }));
}

#[test]
fn the_key_is_in_no_debug_text() {
    let harness = Harness::new();
    assert!(!format!("{:?}", harness.session).contains("the-key"));
}

// Staying alive and ending: checklist 17-21, 25, 32-34.

#[test]
fn silence_is_answered_by_a_ping_and_then_by_the_end() {
    let mut harness = Harness::open();
    harness.sleep();
    let id = match &harness.stanzas()[..] {
        [Stanza::Iq(iq)] if iq.payload == IqPayload::Ping => iq.id.clone(),
        other => panic!("{other:?}"),
    };
    harness.server(|out| write::iq_result(out, id.as_deref(), None));
    assert_eq!(harness.deadline, Some(harness.now + Timing::default().ping_interval));
    harness.sleep();
    harness.bytes(" ");
    assert_eq!(harness.deadline, Some(harness.now + Timing::default().ping_interval));
    harness.sleep();
    harness.sleep();
    assert_eq!(harness.take(), closed(Reason::PingTimeout));
    assert!(harness.written.ends_with(write::STREAM_CLOSE));
    assert_eq!(harness.deadline, None);
}

#[test]
fn silence_means_nothing_while_the_shell_does_not_read() {
    let mut harness = Harness::open();
    harness.sleep();
    harness.input(Input::Pause);
    assert_eq!(harness.deadline, None);
    harness.now += Duration::from_secs(3600);
    harness.input(Input::Tick);
    harness.input(Input::Resume);
    assert_eq!(harness.take(), []);
    assert_eq!(harness.deadline, Some(harness.now + Timing::default().ping_interval));
}

#[test]
fn questions_of_the_server_are_answered() {
    let mut harness = Harness::open();
    harness.bytes(" \n<iq type='get' id='1' from='gcm.googleapis.com'><ping xmlns='urn:xmpp:ping'/></iq>");
    harness.bytes("<iq type='get' id='2'><query xmlns='jabber:iq:version'/></iq><iq type='result' id='3'/><presence/>");
    let stanzas = harness.stanzas();
    assert!(matches!(&stanzas[0], Stanza::Iq(iq) if iq.kind == IqKind::Result && iq.id.as_deref() == Some("1")));
    assert!(matches!(&stanzas[1], Stanza::Iq(iq) if iq.kind == IqKind::Error && iq.id.as_deref() == Some("2")
        && iq.payload == IqPayload::Error { condition: "service-unavailable".to_owned() }));
    assert_eq!((stanzas.len(), harness.take()), (2, vec![]));
}

#[test]
fn every_end_comes_once_and_last_and_keeps_what_is_unanswered() {
    let ends: [(&str, Reason); 4] = [
        ("</stream:stream>", Reason::PeerClosed),
        (
            "<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
            Reason::StreamError { condition: "system-shutdown".to_owned() },
        ),
        ("<!DOCTYPE x>", Reason::Malformed(FramingError::Dtd)),
        ("", Reason::Broken),
    ];
    for (text, reason) in ends {
        let mut harness = Harness::open();
        for id in ["a", "b", "c"] {
            harness.send(id);
        }
        harness.ack("b");
        harness.take();
        if text.is_empty() {
            harness.input(Input::Eof);
        } else {
            harness.bytes(text);
            assert!(harness.written.ends_with(write::STREAM_CLOSE));
        }
        assert_eq!(harness.take(), closed(reason));
        harness.written.clear();
        harness.bytes("<message/>");
        harness.send("d");
        harness.input(Input::Eof);
        harness.input(Input::Shutdown);
        assert_eq!((harness.take(), harness.written.as_str(), harness.capacity()), (vec![], "", 0));
        assert_eq!(harness.unanswered(&["a", "b", "c"]), ["a", "c"]);
    }
}

#[test]
fn a_shutdown_waits_for_answers_and_acknowledgements() {
    let mut harness = Harness::open();
    harness.send("a");
    harness.inbound(&upstream("u"));
    harness.input(Input::Shutdown);
    assert_eq!(harness.capacity(), 0);
    harness.take();
    harness.inbound(&upstream("late"));
    assert_eq!(harness.take(), []);
    harness.ack("a");
    assert!(!harness.written.contains(write::STREAM_CLOSE));
    harness.input(Input::AckUpstream { to: "T", message_id: "u" });
    assert!(harness.written.ends_with(write::STREAM_CLOSE));
    harness.take();
    harness.bytes("</stream:stream>");
    assert_eq!(harness.take(), closed(Reason::Shutdown));
    assert_eq!(harness.written.matches(write::STREAM_CLOSE).count(), 1);
}

#[test]
fn a_shutdown_ends_after_its_grace_period_whatever_the_peer_does() {
    let mut harness = Harness::open();
    harness.send("a");
    let start = harness.now;
    harness.input(Input::Shutdown);
    harness.sleep();
    assert!(harness.written.ends_with(write::STREAM_CLOSE));
    harness.sleep();
    assert_eq!(harness.take(), closed(Reason::Shutdown));
    assert_eq!(harness.now - start, Timing::default().grace + Timing::default().close);
    assert_eq!(harness.unanswered(&["a"]), ["a"]);

    let mut harness = Harness::new();
    harness.input(Input::Shutdown);
    assert_eq!(harness.take(), closed(Reason::Shutdown));
}

#[test]
fn of_several_times_that_are_over_the_earliest_counts_first() {
    let mut harness = Harness::open();
    harness.send("a");
    harness.written.clear();
    harness.input(Input::Shutdown);
    harness.now += Timing::default().grace.max(Timing::default().ping_interval);
    harness.input(Input::Tick);
    assert_eq!(harness.written, write::STREAM_CLOSE, "and what it ends does not fire any more");
}

#[test]
fn what_cannot_be_used_is_counted_and_the_stream_goes_on() {
    let mut harness = Harness::open();
    harness.json("{\"broken\":");
    harness.bytes("<message/><message><body>x</body></message><message type='normal' id='1'/>");
    harness.bytes(&format!("<message><gcm xmlns='google:mobile:data'>{}</gcm></message>", "x".repeat(5000)));
    harness.json("{\"message_type\":\"news\",\"message_id\":\"1\",\"from\":\"T\"}");
    harness.json("{\"message_type\":\"control\",\"control_type\":\"NEWS\"}");
    assert_eq!((harness.take(), harness.written.as_str()), (vec![], ""));
    let counters = harness.session.counters;
    assert_eq!((counters.malformed, counters.ignored, counters.oversize), (1, 5, 1));
    harness.inbound(&upstream("1"));
    assert_eq!(harness.take().len(), 1);
}

// Upstream and receipts: checklist 35-40, 43, 48, 77-82.

#[test]
fn upstream_is_handed_up_and_acknowledged_only_when_told() {
    let mut harness = Harness::open();
    let attributes = [("type", "normal"), ("from", "devices@gcm.googleapis.com"), ("to", "12345@gcm.googleapis.com")];
    let id = "&\"'<>\u{1F600}\\";
    harness.server(|out| write::server_message(out, &attributes, Spelling::Gcm, &upstream(id).to_json()));
    let Inbound::Upstream(expected) = upstream(id) else { panic!() };
    assert_eq!(harness.take(), [Event::Upstream(expected)]);
    assert_eq!(harness.written, "");
    harness.input(Input::AckUpstream { to: "T", message_id: id });
    let expected = Ack { to: "T".to_owned(), message_id: id.to_owned() };
    assert_eq!(harness.payloads(), [Outbound::Ack(expected)]);
}

#[test]
fn a_receipt_is_acknowledged_with_its_own_id() {
    let mut harness = Harness::open();
    harness.json("{\"message_type\":\"receipt\",\"message_id\":\"dr2:m\",\"from\":\"gcm.googleapis.com\"}");
    assert!(matches!(&harness.take()[..], [Event::Receipt(r)] if r.message_id == "dr2:m"));
    harness.input(Input::AckUpstream { to: DOMAIN, message_id: "dr2:m" });
    let expected = Ack { to: DOMAIN.to_owned(), message_id: "dr2:m".to_owned() };
    assert_eq!(harness.payloads(), [Outbound::Ack(expected)]);
}

#[test]
fn a_receipt_that_names_nobody_is_acknowledged_to_the_sender_of_its_stanza_or_to_the_server() {
    let mut harness = Harness::open();
    let json = r#"{"message_type":"receipt","message_id":"dr2:m"}"#;
    harness.server(|out| write::server_message(out, &[("from", "devices@x")], Spelling::Gcm, json));
    harness.json(json);
    harness.json(r#"{"message_type":"receipt","message_id":"dr2:m","x":1e400}"#);
    let named: Vec<String> = harness
        .take()
        .into_iter()
        .map(|event| match event {
            Event::Receipt(payload::Receipt { from, .. }) | Event::Unusable { from, .. } => from,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(named, ["devices@x", DOMAIN, DOMAIN]);
}

#[test]
fn a_damaged_stanza_ends_nothing_and_what_it_is_about_is_settled_or_told_as_unusable() {
    let mut harness = Harness::open();
    harness.send("a");
    harness.send("b");
    harness.send("c");
    let damaged = |json: &str| {
        let mut bytes = b"<message><data:gcm xmlns:data='google:mobile:data'>".to_vec();
        bytes.extend(json.as_bytes());
        bytes.extend(b"</data:gcm>\xff</message>");
        bytes
    };
    for json in [
        r#"{"from":"T","message_id":"1","data":{"k":"v"}}"#,
        r#"{"message_type":"ack","message_id":"a"}"#,
        r#"{"message_type":"nack","message_id":"b","error":"INVALID_JSON"}"#,
        r#"{"message_type":"receipt","message_id":"dr2:x","from":"gcm"}"#,
        r#"{"from":"T","message_id":"2","data":7}"#,
        "no json",
    ] {
        harness.input(Input::Bytes(&damaged(json)));
    }
    // Of this one not even the ids can be read.
    harness.input(Input::Bytes(b"<message \xff xmlns:xml='x'><gcm xmlns='google:mobile:data'>{}</gcm></message>"));
    harness.bytes("<message><data:gcm>{\"message_type\":\"ack\",\"message_id\":\"c\"}</data:gcm></message>");
    let events = harness.take();
    assert!(
        matches!(&events[..], [
            Event::Unusable { message_id, error: payload::PayloadError::Stanza(FramingError::Utf8), .. },
            Event::Answered { answer: Answer::Taken { .. }, .. },
            Event::Answered { answer: Answer::Refused(_), .. },
            Event::Receipt(_),
            Event::Unusable { error: payload::PayloadError::Field("data"), .. },
            Event::Answered { message_id: c, .. },
        ] if message_id == "1" && c == "c"),
        "{events:?}"
    );
    assert_eq!(harness.session.counters.malformed, 8);
    assert_eq!(harness.session.phase, Phase::Open);
}

#[test]
fn a_server_that_declares_no_namespace_for_stanzas_is_understood() {
    let mut harness = Harness::new();
    let server = |more: &str| {
        format!(
            "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'><stream:features>{more}</stream:features>"
        )
    };
    harness.bytes(&server(
        "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>",
    ));
    harness.server(write::success);
    harness.bytes(&server("<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"));
    harness.server(|out| write::bind_result(out, Some("bind-1"), JID));
    assert_eq!(harness.take(), [Event::Ready { jid: JID.to_owned() }]);
    harness.inbound(&upstream("1"));
    assert!(matches!(&harness.take()[..], [Event::Upstream(_)]));
}

// Downstream: checklist 49, 55-70.

#[test]
fn the_window_is_kept_and_acknowledgements_pass_it() {
    let mut harness = Harness::open();
    for id in ["a", "b", "c", "d"] {
        harness.send(id);
    }
    assert_eq!(harness.take(), [Event::NotSent { message_id: "d".to_owned() }]);
    assert_eq!(harness.payloads().len(), 3);
    harness.input(Input::AckUpstream { to: "T", message_id: "u" });
    assert_eq!(harness.payloads().len(), 1);
    harness.ack("b");
    harness.take();
    assert_eq!(harness.capacity(), 1);
    harness.send("a");
    assert_eq!(harness.take(), [Event::NotSent { message_id: "a".to_owned() }], "its answer would be ambiguous");
    harness.send("d");
    assert!(matches!(&harness.payloads()[..], [Outbound::Downstream(d)] if d.message_id == "d"));
    assert_eq!(harness.session.in_flight(), 3);
}

#[test]
fn answers_settle_their_message_once() {
    let mut harness = Harness::open();
    for id in ["a", "b", "c"] {
        harness.send(id);
    }
    harness.json("{\"from\":\"T\",\"message_id\":\"a\",\"message_type\":\"ack\",\"registration_id\":\"NEW\"}");
    harness.ack("a");
    harness.nack("a", "DEVICE_UNREGISTERED");
    harness.ack("never-sent");
    assert_eq!(harness.take(), [answered("a", Answer::Taken { canonical: Some("NEW".to_owned()), group: None })]);
    assert_eq!(harness.session.counters.unknown_answers, 3);
    harness.nack("b", "InvalidJson : INVALID_TTL : x");
    let refusal = Refusal::new(Decision::FAIL, "INVALID_JSON", "InvalidJson : INVALID_TTL : x");
    assert_eq!(harness.take(), [answered("b", Answer::Refused(refusal))]);
    harness.nack("c", "BAD_ACK");
    assert_eq!((harness.take(), harness.session.in_flight()), (vec![], 1));
    assert_eq!(harness.session.counters.bad_acks, 1);
}

#[test]
fn a_stanza_error_settles_the_message_it_is_about() {
    let words = write::ErrorWords { code: 400, kind: "modify", condition: "bad-request", text: "Missing" };
    let mut harness = Harness::open();
    for id in ["a", "b", "c"] {
        harness.send(id);
    }
    harness.server(|out| write::message_error(out, "a", JID, "{\"random\":1}", &words));
    harness.server(|out| write::message_error(out, "", JID, "{\"to\":\"T\",\"message_id\":\"b\"}", &words));
    let wait = write::ErrorWords { code: 503, kind: "wait", condition: "service-unavailable", text: "" };
    harness.server(|out| write::message_error(out, "c", JID, "{}", &wait));
    harness.server(|out| write::message_error(out, "nobody", JID, "{\"from\":\"T\",\"message_id\":\"u\"}", &words));
    let got = harness.take().into_iter().map(|event| match event {
        Event::Answered { message_id, answer: Answer::Refused(refusal) } => {
            (message_id, matches!(refusal.decision, Decision::Fail { .. }))
        }
        other => panic!("{other:?}"),
    });
    let expected = [("a", true), ("b", true), ("c", false)];
    assert_eq!(got.collect::<Vec<_>>(), expected.map(|(id, is_final)| (id.to_owned(), is_final)));
    assert_eq!((harness.session.in_flight(), harness.session.counters.unknown_answers), (0, 1));
}

#[test]
fn a_refused_acknowledgement_is_counted_and_nothing_follows() {
    let words = write::ErrorWords { code: 406, kind: "modify", condition: "not-acceptable", text: "Received acks for" };
    let mut harness = Harness::open();
    harness.send("a");
    harness.written.clear();
    let echo = "{\"to\":\"T\",\"message_id\":\"a\",\"message_type\":\"ack\"}";
    harness.server(|out| write::message_error(out, "", JID, echo, &words));
    assert_eq!((harness.take(), harness.written.as_str(), harness.session.in_flight()), (vec![], "", 1));
    assert_eq!(harness.session.counters.bad_acks, 1);
}

#[test]
fn what_a_device_sends_and_nobody_can_use_is_told_and_acknowledged_if_it_can_be() {
    let mut harness = Harness::open();
    for json in [
        r#"{"from":"T","message_id":"1","data":[]}"#,
        r#"{"from":"T","message_id":2,"message_type":{}}"#,
        r#"{"message_id":"3","data":{}}"#,
        r#"{"from":"T","data":{}}"#,
        r#"{"from":"T","message_type":"nack","error":"SERVICE_UNAVAILABLE"}"#,
        r#"{"from":"T","message_id":"4""#,
    ] {
        harness.json(json);
    }
    let told: Vec<String> = harness
        .take()
        .into_iter()
        .map(|event| match event {
            Event::Unusable { from, message_id, .. } => format!("{from} {message_id}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["T 1", "T 2"]);
    assert_eq!(harness.session.counters.malformed, 6);
    harness.input(Input::Shutdown);
    assert!(!harness.written.ends_with(write::STREAM_CLOSE), "they are owed an acknowledgement");
    for message_id in ["1", "2"] {
        harness.input(Input::AckUpstream { to: "T", message_id });
    }
    assert!(harness.written.ends_with(write::STREAM_CLOSE));
}

// Draining: checklist 83-93.

#[test]
fn a_draining_session_answers_the_old_and_takes_nothing_new() {
    let mut harness = Harness::open();
    for id in ["a", "b", "c"] {
        harness.send(id);
    }
    harness.json("{\"message_type\":\"control\",\"control_type\":\"CONNECTION_DRAINING\"}");
    harness.json("{\"message_type\":\"control\",\"control_type\":\"CONNECTION_DRAINING\"}");
    assert_eq!(harness.take(), [Event::Draining]);
    harness.written.clear();
    harness.ack("a");
    harness.nack("b", "CONNECTION_DRAINING");
    harness.inbound(&upstream("u"));
    assert!(
        matches!(&harness.take()[..], [Event::Answered { answer: Answer::Taken { .. }, .. }, Event::Bounced { message_id }, Event::Upstream(_)]
        if message_id == "b")
    );
    harness.input(Input::AckUpstream { to: "T", message_id: "u" });
    assert_eq!(harness.payloads().len(), 1);
    harness.send("d");
    assert!(matches!(harness.take()[..], [Event::NotSent { .. }]));
    assert_eq!((harness.capacity(), harness.written.as_str()), (0, ""));
    harness.bytes("</stream:stream>");
    assert_eq!(harness.take(), closed(Reason::PeerClosed));
    assert_eq!(harness.unanswered(&["a", "b", "c"]), ["c"]);
}

#[test]
fn draining_may_show_up_as_a_nack_alone() {
    let mut harness = Harness::open();
    harness.send("a");
    harness.nack("a", "CONNECTION_DRAINING");
    assert_eq!(harness.take(), [Event::Draining, Event::Bounced { message_id: "a".to_owned() }]);
    assert_eq!(harness.capacity(), 0);

    let mut harness = Harness::open();
    harness.send("a");
    harness.json(r#"{"message_type":"nack","error":"CONNECTION_DRAINING"}"#);
    assert_eq!(harness.take(), [Event::Draining], "and without a message");
    assert_eq!((harness.unanswered(&["a"]), harness.session.counters.malformed), (vec!["a"], 0));
}

#[test]
fn a_session_that_is_closed_now_waits_for_no_answer_but_takes_those_that_still_come() {
    let mut harness = Harness::open();
    harness.send("a");
    harness.send("b");
    harness.input(Input::Close);
    assert!(harness.written.ends_with(write::STREAM_CLOSE));
    harness.ack("a");
    assert!(
        matches!(&harness.take()[..], [Event::Answered { message_id, answer: Answer::Taken { .. } }] if message_id == "a")
    );
    let start = harness.now;
    while harness.events.is_empty() {
        harness.sleep();
    }
    assert_eq!(harness.take(), closed(Reason::Shutdown));
    assert_eq!(harness.now - start, Timing::default().close);
}

// Whatever the peer says and however it is cut.

fn server_word() -> impl Strategy<Value = String> {
    let json = |json: &str| {
        let mut text = String::new();
        write::server_message(&mut text, &[], Spelling::DataGcm, json);
        text
    };
    let id = prop::sample::select(vec!["a", "b", "c", "d", "e"]);
    prop_oneof![
        id.clone().prop_map(move |id| json(&format!("{{\"message_type\":\"ack\",\"message_id\":\"{id}\"}}"))),
        (id.clone(), prop::sample::select(vec!["CONNECTION_DRAINING", "BAD_ACK", "INVALID_JSON", "?"])).prop_map(
            move |(id, code)| json(&format!(
                "{{\"message_type\":\"nack\",\"message_id\":\"{id}\",\"error\":\"{code}\"}}"
            ))
        ),
        id.prop_map(move |id| json(&format!("{{\"from\":\"T\",\"message_id\":\"{id}\"}}"))),
        prop::sample::select(vec![" ", "<presence/>", "<iq type='get' id='1'/>", "</stream:stream>", "<"])
            .prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn no_message_is_answered_twice_or_forgotten(
        words in prop::collection::vec((server_word(), any::<prop::sample::Index>()), 0..40),
    ) {
        let mut harness = Harness::open();
        let mut settled = Vec::new();
        let mut sent = Vec::new();
        for (word, cut) in words {
            for id in ["a", "b", "c", "d", "e"] {
                if harness.capacity() > 0 && !sent.contains(&id) {
                    harness.send(id);
                    sent.push(id);
                }
            }
            let cut = cut.index(word.len() + 1);
            harness.input(Input::Bytes(&word.as_bytes()[..cut]));
            harness.input(Input::Bytes(&word.as_bytes()[cut..]));
            prop_assert!(harness.session.in_flight() <= 3);
        }
        harness.input(Input::Eof);
        let events = harness.take();
        let ends = events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
        prop_assert_eq!(ends, 1);
        prop_assert!(matches!(events.last(), Some(Event::Closed(_))));
        for event in events {
            match event {
                Event::Answered { message_id, .. } | Event::Bounced { message_id } => settled.push(message_id),
                _ => {}
            }
        }
        settled.extend(harness.unanswered(&sent).into_iter().map(str::to_owned));
        settled.sort();
        sent.sort_unstable();
        prop_assert_eq!(settled, sent);
    }
}

use super::*;
use crate::ccs::write::{self, Spelling};
use crate::ccs::xml::{Frame, Framer};
use proptest::prelude::*;

/// The stanzas in `text`, behind a header of the other side.
fn read(text: &str) -> Vec<Stanza> {
    let mut header = String::new();
    write::server_header(&mut header, "gcm.googleapis.com", "8A3C");
    read_after(&header, text)
}

fn read_after(header: &str, text: &str) -> Vec<Stanza> {
    let mut framer = Framer::new(1 << 20, 32);
    framer.push(header.as_bytes());
    framer.push(text.as_bytes());
    let mut stanzas = Vec::new();
    while let Some(frame) = framer.next().unwrap() {
        if let Frame::Stanza(element) = frame {
            stanzas.push(Stanza::read(&element));
        }
    }
    stanzas
}

fn written(writer: impl FnOnce(&mut String)) -> Stanza {
    let mut text = String::new();
    writer(&mut text);
    let mut stanzas = read(&text);
    assert_eq!(stanzas.len(), 1, "{text}");
    stanzas.remove(0)
}

#[test]
fn the_documented_handshake_reads_with_either_prefix() {
    let features = "<PRE:features><mechanisms xmlns=\"urn:ietf:params:xml:ns:xmpp-sasl\">\
        <mechanism>X-OAUTH2</mechanism><mechanism>X-GOOGLE-TOKEN</mechanism><mechanism>PLAIN</mechanism>\
        </mechanisms></PRE:features>";
    for prefix in ["stream", "str"] {
        let header = format!(
            "<{prefix}:stream from=\"gcm.googleapis.com\" id=\"1\" version=\"1.0\" \
             xmlns:{prefix}=\"http://etherx.jabber.org/streams\" xmlns=\"jabber:client\">"
        );
        let mechanisms = ["X-OAUTH2", "X-GOOGLE-TOKEN", "PLAIN"].map(str::to_owned).to_vec();
        assert_eq!(
            read_after(&header, &features.replace("PRE", prefix)),
            [Stanza::Features(Features { mechanisms, bind: false })]
        );
    }
}

#[test]
fn login_stanzas_survive_the_wire() {
    assert_eq!(
        written(|out| write::mechanisms(out, &["X-OAUTH2", "PLAIN"])),
        Stanza::Features(Features { mechanisms: vec!["X-OAUTH2".to_owned(), "PLAIN".to_owned()], bind: false })
    );
    assert_eq!(written(write::bind_features), Stanza::Features(Features { mechanisms: vec![], bind: true }));
    assert_eq!(written(write::success), Stanza::Success);
    assert_eq!(
        written(|out| write::failure(out, "not-authorized")),
        Stanza::Failure { condition: "not-authorized".to_owned() }
    );
    let conflict = Stanza::StreamError { condition: "conflict".to_owned() };
    assert_eq!(written(|out| write::stream_error(out, "conflict")), conflict);
    let with_text = "<stream:error><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>a &lt; b</text>\
        <conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>";
    assert_eq!(read(with_text), [conflict]);
    let bind = |resource: Option<&str>, jid: Option<&str>| IqPayload::Bind {
        resource: resource.map(str::to_owned),
        jid: jid.map(str::to_owned),
    };
    let iq = |kind, payload| Stanza::Iq(Iq { kind, id: Some("b1".to_owned()), from: None, payload });
    assert_eq!(written(|out| write::bind_request(out, "b1", "test")), iq(IqKind::Set, bind(Some("test"), None)));
    let jid = "1@gcm.googleapis.com/test0FAD177A";
    assert_eq!(written(|out| write::bind_result(out, Some("b1"), jid)), iq(IqKind::Result, bind(None, Some(jid))));
    assert_eq!(written(|out| write::ping(out, "b1", Some("x"))), iq(IqKind::Get, IqPayload::Ping));
    assert_eq!(written(|out| write::iq_result(out, Some("b1"), None)), iq(IqKind::Result, IqPayload::Empty));
    assert_eq!(
        written(|out| write::iq_error(out, Some("b1"), None, "service-unavailable")),
        iq(IqKind::Error, IqPayload::Error { condition: "service-unavailable".to_owned() })
    );
}

#[test]
fn plain_is_one_line_of_base64() {
    let Stanza::Auth { mechanism, payload } =
        written(|out| write::auth_plain(out, "12345@gcm.googleapis.com", &"k".repeat(200)))
    else {
        panic!()
    };
    use base64::{Engine, engine::general_purpose::STANDARD};
    assert_eq!(mechanism, "PLAIN");
    let plain = STANDARD.decode(payload).unwrap();
    assert_eq!(plain, format!("\0{}\0{}", "12345@gcm.googleapis.com", "k".repeat(200)).as_bytes());
}

#[test]
fn both_spellings_of_the_envelope_are_messages() {
    for spelling in [Spelling::Gcm, Spelling::DataGcm] {
        let message = written(|out| write::server_message(out, &[("type", "normal")], spelling, "{\"a\":1}"));
        assert_eq!(message, Stanza::Message(Message { id: None, from: None, json: Some("{\"a\":1}".to_owned()) }));
    }
    let foreign = read("<message><gcm xmlns='urn:other'>{}</gcm></message><message/><message><body>x</body></message>");
    assert!(foreign.iter().all(|s| matches!(s, Stanza::Message(Message { json: None, .. }))), "{foreign:?}");
}

#[test]
fn the_documented_stanza_error_is_never_a_message() {
    let text = "<message id=\"3\" type=\"error\" to=\"123456789@gcm.googleapis.com/ABC\">\
        <gcm xmlns=\"google:mobile:data\">{\"random\": \"text\"}</gcm>\
        <error code=\"400\" type=\"modify\"><bad-request xmlns=\"urn:ietf:params:xml:ns:xmpp-stanzas\"/>\
        <text xmlns=\"urn:ietf:params:xml:ns:xmpp-stanzas\">InvalidJson: JSON_PARSING_ERROR : Missing Required Field: \
        message_id\n</text></error></message>";
    let expected = MessageError {
        id: Some("3".to_owned()),
        code: Some(400),
        kind: "modify".to_owned(),
        condition: "bad-request".to_owned(),
        text: "InvalidJson: JSON_PARSING_ERROR : Missing Required Field: message_id".to_owned(),
        echo: Some("{\"random\": \"text\"}".to_owned()),
    };
    assert_eq!(read(text), [Stanza::MessageError(expected.clone())]);
    let words = write::ErrorWords { code: 400, kind: "modify", condition: "bad-request", text: &expected.text };
    assert_eq!(
        written(|out| write::message_error(out, "3", "123@x/y", "{\"random\": \"text\"}", &words)),
        Stanza::MessageError(expected)
    );
    let bare = read("<message type='error' id='7'/>").remove(0);
    assert!(matches!(bare, Stanza::MessageError(e) if e.condition == "undefined-condition" && e.code.is_none()));
}

#[test]
fn a_stream_without_a_namespace_for_stanzas_has_stanzas_all_the_same() {
    let header = "<stream:stream version=\"1.0\" xmlns:stream=\"http://etherx.jabber.org/streams\">";
    let text = "<iq type='result' id='b1'/><message><gcm xmlns='google:mobile:data'>{}</gcm></message>\
        <message type='error'><gcm xmlns='google:mobile:data'>{}</gcm><error code='400' type='wait'/></message>";
    let stanzas = read_after(header, text);
    assert!(
        matches!(&stanzas[..], [Stanza::Iq(_), Stanza::Message(Message { json: Some(_), .. }), Stanza::MessageError(e)]
            if e.code == Some(400) && e.kind == "wait"),
        "{stanzas:?}"
    );
}

#[test]
fn what_nobody_knows_is_other() {
    let text = "<presence/><iq/><iq type='what'/><message xmlns='urn:x'/><features/>";
    assert!(read(text).iter().all(|stanza| *stanza == Stanza::Other));
}

proptest! {
    #[test]
    fn json_survives_the_envelope(value: String, id: String) {
        let json = serde_json::Value::from(value.clone()).to_string();
        let mut text = String::new();
        write::message(&mut text, &id, &json);
        let legal = |c: char| !matches!(c, '\0'..='\x08' | '\x0b'..='\x1f' | '\u{fffe}' | '\u{ffff}');
        prop_assert!(text.chars().all(legal));
        let Stanza::Message(message) = read(&text).remove(0) else { panic!("{text}") };
        let back: String = serde_json::from_str(&message.json.unwrap()).unwrap();
        prop_assert_eq!(back, value);
        if id.chars().all(legal) {
            prop_assert_eq!(message.id.unwrap(), id);
        }
    }
}

#[test]
fn characters_that_xml_forbids_leave_as_json_escapes() {
    let mut text = String::new();
    write::message(&mut text, "1", "\"\u{fffe}\u{1}\r</gcm>\u{1F600}\u{7f}\"");
    assert!(text.contains(">\"\\ufffe\\u0001&#13;&lt;/gcm&gt;\u{1F600}\u{7f}\"<"), "{text}");
}

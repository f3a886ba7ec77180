//! Writers for the stanzas of CCS, for both sides of the stream. Each appends to a text, so that many stanzas leave in
//! one write.
//!
//! Every value is escaped here and nowhere else. Characters that XML cannot carry at all are written as JSON escapes
//! inside of JSON, and as U+FFFD elsewhere.

use super::stanza::ns;
use std::fmt::Write;

/// How to spell the JSON envelope: both come from the real server and mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// `<gcm xmlns="google:mobile:data">`
    Gcm,
    /// `<data:gcm xmlns:data="google:mobile:data">`
    DataGcm,
}

/// Room for what stands around the JSON of a message.
const ENVELOPE: usize = 128;

/// The close tag of the stream; the same for both sides, because both open it as `stream:stream`.
pub const STREAM_CLOSE: &str = "</stream:stream>";

/// The stream header of a client. An open tag, not an empty element: CCS closed the stream at once on that.
pub fn client_header(out: &mut String, domain: &str) {
    push(
        out,
        &["<stream:stream to=\"", &attribute(domain), "\" version=\"1.0\" xmlns=\"", ns::CLIENT, "\" xmlns:stream=\""],
    );
    push(out, &[ns::STREAMS, "\">"]);
}

/// The stream header of a server.
pub fn server_header(out: &mut String, domain: &str, id: &str) {
    push(out, &["<stream:stream from=\"", &attribute(domain), "\" id=\"", &attribute(id), "\" version=\"1.0\""]);
    push(out, &[" xmlns:stream=\"", ns::STREAMS, "\" xmlns=\"", ns::CLIENT, "\">"]);
}

/// The features before the log-in. Needs the `stream` prefix of [`server_header`].
pub fn mechanisms(out: &mut String, mechanisms: &[&str]) {
    push(out, &["<stream:features><mechanisms xmlns=\"", ns::SASL, "\">"]);
    for mechanism in mechanisms {
        push(out, &["<mechanism>", &text(mechanism), "</mechanism>"]);
    }
    out.push_str("</mechanisms></stream:features>");
}

/// The features after the log-in.
pub fn bind_features(out: &mut String) {
    push(out, &["<stream:features><bind xmlns=\"", ns::BIND, "\"/><session xmlns=\"", ns::SESSION, "\"/>"]);
    out.push_str("</stream:features>");
}

/// SASL PLAIN with an empty authorization id. The base64 has no line breaks: CCS refuses them.
pub fn auth_plain(out: &mut String, user: &str, password: &str) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let payload = STANDARD.encode(format!("\0{user}\0{password}"));
    push(out, &["<auth mechanism=\"PLAIN\" xmlns=\"", ns::SASL, "\">", &payload, "</auth>"]);
}

/// The log-in went well.
pub fn success(out: &mut String) {
    push(out, &["<success xmlns=\"", ns::SASL, "\"/>"]);
}

/// The log-in was refused. `condition` is an element name, for example `not-authorized`.
pub fn failure(out: &mut String, condition: &str) {
    push(out, &["<failure xmlns=\"", ns::SASL, "\"><", condition, "/></failure>"]);
}

/// Asks for a resource.
pub fn bind_request(out: &mut String, id: &str, resource: &str) {
    push(out, &["<iq type=\"set\" id=\"", &attribute(id), "\"><bind xmlns=\"", ns::BIND, "\"><resource>"]);
    push(out, &[&text(resource), "</resource></bind></iq>"]);
}

/// Gives a resource; `id` as in the request.
pub fn bind_result(out: &mut String, id: Option<&str>, jid: &str) {
    out.push_str("<iq type=\"result\"");
    optional(out, "id", id);
    push(out, &["><bind xmlns=\"", ns::BIND, "\"><jid>", &text(jid), "</jid></bind></iq>"]);
}

/// A ping (XEP-0199).
pub fn ping(out: &mut String, id: &str, to: Option<&str>) {
    push(out, &["<iq type=\"get\" id=\"", &attribute(id), "\""]);
    optional(out, "to", to);
    push(out, &["><ping xmlns=\"", ns::PING, "\"/></iq>"]);
}

/// An empty result: the answer to a ping or a session request.
pub fn iq_result(out: &mut String, id: Option<&str>, to: Option<&str>) {
    out.push_str("<iq type=\"result\"");
    optional(out, "id", id);
    optional(out, "to", to);
    out.push_str("/>");
}

/// Refuses an IQ, whatever it is tried again with. `condition` is an element name.
pub fn iq_error(out: &mut String, id: Option<&str>, to: Option<&str>, condition: &str) {
    out.push_str("<iq type=\"error\"");
    optional(out, "id", id);
    optional(out, "to", to);
    push(out, &["><error type=\"cancel\"><", condition, " xmlns=\"", ns::STANZAS, "\"/></error></iq>"]);
}

/// A message as clients send it. CCS repeats `id` in stanza errors.
pub fn message(out: &mut String, id: &str, json: &str) {
    push(out, &["<message id=\"", &attribute(id), "\">"]);
    envelope(out, Spelling::Gcm, json);
    out.push_str("</message>");
}

/// A message as CCS sends it, with the attributes given (for example `type`, `from`, `to`, or none at all).
pub fn server_message(out: &mut String, attributes: &[(&str, &str)], spelling: Spelling, json: &str) {
    out.push_str("<message");
    for (name, value) in attributes {
        optional(out, name, Some(value));
    }
    out.push('>');
    envelope(out, spelling, json);
    out.push_str("</message>");
}

/// The words of a stanza error.
#[derive(Debug, Clone, Copy)]
pub struct ErrorWords<'a> {
    /// The legacy code, for example 400.
    pub code: u16,
    /// The error's type, for example `modify`.
    pub kind: &'a str,
    /// An element name, for example `bad-request`.
    pub condition: &'a str,
    /// What a human reads.
    pub text: &'a str,
}

/// A stanza error as CCS sends it: the refused JSON is repeated.
pub fn message_error(out: &mut String, id: &str, to: &str, echo: &str, error: &ErrorWords<'_>) {
    push(out, &["<message id=\"", &attribute(id), "\" type=\"error\" to=\"", &attribute(to), "\">"]);
    envelope(out, Spelling::Gcm, echo);
    write!(out, "<error code=\"{}\" type=\"{}\">", error.code, error.kind).expect("a String takes everything");
    push(out, &["<", error.condition, " xmlns=\"", ns::STANZAS, "\"/><text xmlns=\"", ns::STANZAS, "\">"]);
    push(out, &[&text(error.text), "</text></error></message>"]);
}

/// A stream error; the close tag follows by [`STREAM_CLOSE`]. `condition` is an element name.
pub fn stream_error(out: &mut String, condition: &str) {
    push(out, &["<stream:error><", condition, " xmlns=\"", ns::STREAM_ERRORS, "\"/></stream:error>"]);
}

fn envelope(out: &mut String, spelling: Spelling, json: &str) {
    let (open, close) = match spelling {
        Spelling::Gcm => ("<gcm xmlns=\"", "</gcm>"),
        Spelling::DataGcm => ("<data:gcm xmlns:data=\"", "</data:gcm>"),
    };
    // Of what has to be escaped there is little.
    out.reserve(json.len() + json.len() / 8 + ENVELOPE);
    push(out, &[open, ns::GCM, "\">"]);
    push_json(out, json);
    out.push_str(close);
}

/// JSON as XML text. In valid JSON a character that XML forbids is always inside a string, where `\u` means the same.
fn push_json(out: &mut String, json: &str) {
    let mut plain = 0;
    for (at, c) in json.char_indices() {
        if !needs_care(c) {
            continue;
        }
        out.push_str(&json[plain..at]);
        plain = at + c.len_utf8();
        match reference(c) {
            Some(reference) => out.push_str(reference),
            None => write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes everything"),
        }
    }
    out.push_str(&json[plain..]);
}

fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match reference(c) {
            Some(reference) => out.push_str(reference),
            None if needs_care(c) => out.push(char::REPLACEMENT_CHARACTER),
            None => out.push(c),
        }
    }
    out
}

/// White space is written as references: a parser would turn it into blanks.
fn attribute(value: &str) -> String {
    text(value).replace('"', "&quot;").replace('\n', "&#10;").replace('\t', "&#9;")
}

/// Whether `c` cannot stand raw in a text: mark-up, a carriage return (a parser would turn it into a line feed), or
/// not a character of XML at all (XML 1.0, 2.2).
fn needs_care(c: char) -> bool {
    matches!(c, '<' | '>' | '&' | '\0'..='\x08' | '\x0b'..='\x1f' | '\u{fffe}' | '\u{ffff}')
}

fn reference(c: char) -> Option<&'static str> {
    match c {
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '&' => Some("&amp;"),
        '\r' => Some("&#13;"),
        _ => None,
    }
}

fn optional(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        push(out, &[" ", name, "=\"", &attribute(value), "\""]);
    }
}

fn push(out: &mut String, pieces: &[&str]) {
    out.extend(pieces.iter().copied());
}

//! The stanzas of CCS, for both sides of the stream: [`Stanza::read`] here, the writers in [`mod@super::write`].
//!
//! Elements are known by namespace and name, never by prefix: the documents and the real server spell `str:features`,
//! `stream:features`, `gcm` and `data:gcm`.

use super::xml::Element;

/// The namespaces that CCS uses.
pub mod ns {
    /// Stream header, features, stream errors.
    pub const STREAMS: &str = "http://etherx.jabber.org/streams";
    /// Stanzas, in both directions.
    pub const CLIENT: &str = "jabber:client";
    /// Stanzas of a stream whose header declares no namespace for them.
    pub const NONE: &str = "";
    /// Authentication.
    pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
    /// Resource binding.
    pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
    /// The session feature; offered, never needed.
    pub const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
    /// XEP-0199.
    pub const PING: &str = "urn:xmpp:ping";
    /// Conditions of stanza errors.
    pub const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
    /// Conditions of stream errors.
    pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
    /// The JSON envelope.
    pub const GCM: &str = "google:mobile:data";
}

/// Longest condition that is kept, in characters; it is passed on and logged.
const CONDITION_MAX: usize = 64;

/// One stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stanza {
    /// What the server offers.
    Features(Features),
    /// The client's attempt to log in.
    Auth {
        /// For example `PLAIN`.
        mechanism: String,
        /// Base64, as it came.
        payload: String,
    },
    /// The log-in went well.
    Success,
    /// The log-in was refused.
    Failure {
        /// For example `not-authorized`.
        condition: String,
    },
    /// A question or an answer.
    Iq(Iq),
    /// An envelope with JSON in it, or none.
    Message(Message),
    /// A stanza error in answer to a message.
    MessageError(MessageError),
    /// The stream ends with an error.
    StreamError {
        /// For example `conflict`.
        condition: String,
    },
    /// Anything else.
    Other,
}

/// What a server offers in this part of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    /// SASL mechanisms; empty when none are offered.
    pub mechanisms: Vec<String>,
    /// Whether a resource can be bound.
    pub bind: bool,
}

/// An IQ stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iq {
    /// Question or answer.
    pub kind: IqKind,
    /// The id; answers repeat it.
    pub id: Option<String>,
    /// The sender.
    pub from: Option<String>,
    /// What it is about.
    pub payload: IqPayload,
}

/// The type of an IQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IqKind {
    /// A question.
    Get,
    /// A request.
    Set,
    /// The answer.
    Result,
    /// The refusal.
    Error,
}

/// The content of an IQ, as far as CCS needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IqPayload {
    /// Resource binding: the resource asked for, or the JID given.
    Bind {
        /// In a request.
        resource: Option<String>,
        /// In a result.
        jid: Option<String>,
    },
    /// The session request that some clients send.
    Session,
    /// A ping.
    Ping,
    /// An error with its condition.
    Error {
        /// For example `service-unavailable`.
        condition: String,
    },
    /// Nothing inside.
    Empty,
    /// Something else.
    Other,
}

/// A message stanza that is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The id attribute; CCS gives it no meaning but repeats it in stanza errors.
    pub id: Option<String>,
    /// The sender.
    pub from: Option<String>,
    /// The text in `<gcm>`; `None` if there is no such child.
    pub json: Option<String>,
}

/// A stanza error in answer to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageError {
    /// The id attribute of the refused stanza.
    pub id: Option<String>,
    /// The legacy code, for example 400.
    pub code: Option<u16>,
    /// The error's type, for example `modify`.
    pub kind: String,
    /// For example `bad-request`.
    pub condition: String,
    /// The server's words.
    pub text: String,
    /// The refused JSON, repeated. Never to be taken for a message from a device.
    pub echo: Option<String>,
}

impl Stanza {
    /// What `element` is. Never fails: what nobody knows is [`Stanza::Other`].
    pub fn read(element: &Element) -> Self {
        match (element.namespace(), element.name()) {
            (ns::STREAMS, "features") => Self::Features(features(element)),
            (ns::STREAMS, "error") => Self::StreamError { condition: condition(element, ns::STREAM_ERRORS) },
            (ns::SASL, "auth") => Self::Auth {
                mechanism: element.attribute("mechanism").unwrap_or_default().to_owned(),
                payload: element.text().to_owned(),
            },
            (ns::SASL, "success") => Self::Success,
            (ns::SASL, "failure") => Self::Failure { condition: condition(element, ns::SASL) },
            (ns::CLIENT | ns::NONE, "iq") => iq(element).map_or(Self::Other, Self::Iq),
            (ns::CLIENT | ns::NONE, "message") if element.attribute("type") == Some("error") => {
                Self::MessageError(message_error(element))
            }
            (ns::CLIENT | ns::NONE, "message") => Self::Message(Message {
                id: element.attribute("id").map(str::to_owned),
                from: element.attribute("from").map(str::to_owned),
                json: json(element),
            }),
            _ => Self::Other,
        }
    }
}

fn features(element: &Element) -> Features {
    let mechanisms = element.child(ns::SASL, "mechanisms").map_or(&[][..], Element::children);
    Features {
        mechanisms: mechanisms.iter().map(|mechanism| mechanism.text().trim().to_owned()).collect(),
        bind: element.child(ns::BIND, "bind").is_some(),
    }
}

fn iq(element: &Element) -> Option<Iq> {
    let kind = match element.attribute("type")? {
        "get" => IqKind::Get,
        "set" => IqKind::Set,
        "result" => IqKind::Result,
        "error" => IqKind::Error,
        _ => return None,
    };
    Some(Iq {
        kind,
        id: element.attribute("id").map(str::to_owned),
        from: element.attribute("from").map(str::to_owned),
        payload: iq_payload(element, kind),
    })
}

fn iq_payload(element: &Element, kind: IqKind) -> IqPayload {
    if kind == IqKind::Error {
        let condition = error_of(element).map(|error| condition(error, ns::STANZAS));
        return IqPayload::Error { condition: condition.unwrap_or_else(undefined) };
    }
    let Some(child) = element.children().first() else {
        return IqPayload::Empty;
    };
    let text = |name| child.child(ns::BIND, name).map(|inner| inner.text().trim().to_owned());
    match (child.namespace(), child.name()) {
        (ns::BIND, "bind") => IqPayload::Bind { resource: text("resource"), jid: text("jid") },
        (ns::SESSION, "session") => IqPayload::Session,
        (ns::PING, "ping") => IqPayload::Ping,
        _ => IqPayload::Other,
    }
}

fn message_error(element: &Element) -> MessageError {
    let error = error_of(element);
    MessageError {
        id: element.attribute("id").map(str::to_owned),
        code: error.and_then(|error| error.attribute("code")?.parse().ok()),
        kind: error.and_then(|error| error.attribute("type")).unwrap_or_default().to_owned(),
        condition: error.map_or_else(undefined, |error| condition(error, ns::STANZAS)),
        text: error
            .and_then(|error| error.child(ns::STANZAS, "text"))
            .map(|text| text.text().trim().to_owned())
            .unwrap_or_default(),
        echo: json(element),
    }
}

fn error_of(element: &Element) -> Option<&Element> {
    [ns::CLIENT, ns::NONE].into_iter().find_map(|namespace| element.child(namespace, "error"))
}

/// The text of the envelope. One without a namespace comes from a prefix that was not declared.
fn json(element: &Element) -> Option<String> {
    let envelope = [ns::GCM, ns::NONE].into_iter().find_map(|namespace| element.child(namespace, "gcm"));
    envelope.map(|gcm| gcm.text().to_owned())
}

/// The name of the first child in `namespace` that is not its text.
fn condition(element: &Element, namespace: &str) -> String {
    let is_condition = |child: &&Element| child.namespace() == namespace && child.name() != "text";
    element
        .children()
        .iter()
        .find(is_condition)
        .map_or_else(undefined, |child| child.name().chars().take(CONDITION_MAX).collect())
}

/// The condition of an error that names none (RFC 6120, 8.3.3.21).
fn undefined() -> String {
    "undefined-condition".to_owned()
}

#[cfg(test)]
mod tests;

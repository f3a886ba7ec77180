//! From the stream header to the bound resource, the server's side.
//!
//! ```text
//!   Greeting ──header──► Authenticating ──auth──► Restarting ──header──► Binding ──bind──► (session)
//! ```
//!
//! The order of everything is that of the captures of the real server.

use super::Profile;
use crate::ccs::stanza::{Iq, IqKind, IqPayload, Stanza};
use crate::ccs::write;
use crate::ccs::xml::{Element, Frame};
use crate::sim::config::{Credentials, Declaration};
use crate::sim::fault::Dice;
use base64::{Engine, engine::general_purpose::STANDARD};

/// Offered in this order by the real server; only the last is understood.
const MECHANISMS: [&str; 3] = ["X-OAUTH2", "X-GOOGLE-TOKEN", "PLAIN"];

/// How far a client has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Login {
    Greeting,
    Authenticating,
    Restarting { sender: String },
    Binding { sender: String },
}

/// What follows from a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Goes on.
    Next(Login),
    /// Goes on with a new stream.
    Restart(Login),
    /// The log-in is complete.
    Bound { sender: String, jid: String },
    /// It is over; what is to be said about it is written.
    Over(Fault),
}

/// Why a log-in is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The credentials were refused.
    Refused,
    /// A stanza came before its time.
    Early,
    /// The client closed the stream.
    Closed,
}

/// What a step needs of its connection.
pub(super) struct LoginContext<'a> {
    pub(super) profile: &'a Profile,
    pub(super) dice: &'a mut Dice,
    pub(super) out: &'a mut String,
}

impl Login {
    /// Takes a frame.
    pub(super) fn frame(self, frame: Frame, context: &mut LoginContext<'_>) -> Step {
        match (self, frame) {
            (Self::Greeting, Frame::Header(header)) => {
                context.header(&header);
                write::mechanisms(context.out, &MECHANISMS);
                Step::Next(Self::Authenticating)
            }
            (Self::Restarting { sender }, Frame::Header(header)) => {
                context.header(&header);
                write::bind_features(context.out);
                Step::Next(Self::Binding { sender })
            }
            (Self::Authenticating, Frame::Stanza(element)) => match Stanza::read(&element) {
                Stanza::Auth { mechanism, payload } => context.authenticate(&mechanism, &payload),
                _ => context.early(),
            },
            (Self::Binding { sender }, Frame::Stanza(element)) => match Stanza::read(&element) {
                Stanza::Iq(iq) => context.bind(sender, &iq),
                _ => context.early(),
            },
            (_, Frame::Close) => {
                context.out.push_str(write::STREAM_CLOSE);
                Step::Over(Fault::Closed)
            }
            (_, Frame::Header(_) | Frame::Stanza(_) | Frame::Damaged { .. } | Frame::Dropped(_)) => context.early(),
        }
    }
}

impl LoginContext<'_> {
    fn header(&mut self, header: &Element) {
        if self.profile.wire.declaration == Declaration::Send {
            self.out.push_str("<?xml version=\"1.0\"?>");
        }
        // The real server repeats what the client calls it.
        let from = header.attribute("to").unwrap_or(&self.profile.wire.domain);
        write::server_header(self.out, from, &format!("{:016X}", self.dice.any()));
    }

    fn authenticate(&mut self, mechanism: &str, payload: &str) -> Step {
        let sender = match mechanism {
            "PLAIN" => self.profile.sender_of(payload),
            _ => Err("invalid-mechanism"),
        };
        match sender {
            Ok(sender) => {
                write::success(self.out);
                Step::Restart(Login::Restarting { sender })
            }
            Err(condition) => {
                write::failure(self.out, condition);
                self.out.push_str(write::STREAM_CLOSE);
                Step::Over(Fault::Refused)
            }
        }
    }

    fn bind(&mut self, sender: String, iq: &Iq) -> Step {
        let id = iq.id.as_deref();
        match (&iq.payload, iq.kind) {
            (IqPayload::Bind { resource, .. }, IqKind::Set) => {
                let resource = resource.as_deref().unwrap_or_default();
                let suffix = self.dice.any() >> 32;
                let jid = format!("{sender}@{}/{resource}{suffix:08X}", self.profile.wire.domain);
                write::bind_result(self.out, id, &jid);
                return Step::Bound { sender, jid };
            }
            (IqPayload::Session | IqPayload::Ping, IqKind::Get | IqKind::Set) => write::iq_result(self.out, id, None),
            (_, IqKind::Get | IqKind::Set) => {
                write::iq_error(self.out, id, None, "service-unavailable");
            }
            (_, IqKind::Result | IqKind::Error) => {}
        }
        Step::Next(Login::Binding { sender })
    }

    fn early(&mut self) -> Step {
        write::stream_error(self.out, "not-authorized");
        self.out.push_str(write::STREAM_CLOSE);
        Step::Over(Fault::Early)
    }
}

impl Profile {
    /// The sender id in a SASL PLAIN payload (RFC 4616), or the condition to refuse it with.
    fn sender_of(&self, payload: &str) -> Result<String, &'static str> {
        let plain = STANDARD.decode(payload).map_err(|_| "incorrect-encoding")?;
        let plain = String::from_utf8(plain).map_err(|_| "malformed-request")?;
        let parts: Vec<&str> = plain.split('\0').collect();
        let [_authzid, user, key] = parts[..] else {
            return Err("malformed-request");
        };
        let Some((sender, domain)) = user.split_once('@') else {
            return Err("not-authorized");
        };
        let known = match &self.credentials {
            Credentials::Any => !sender.is_empty() && !key.is_empty(),
            Credentials::Only(accounts) => {
                accounts.iter().any(|account| account.sender_id == sender && account.key == key)
            }
        };
        let at_home = self.wire.login_domains.iter().any(|allowed| allowed == domain);
        if known && at_home { Ok(sender.to_owned()) } else { Err("not-authorized") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::config::{Account, WireConfig};

    fn profile(credentials: Credentials) -> Profile {
        Profile { wire: WireConfig::default(), credentials }
    }

    fn plain(user: &str, key: &str) -> String {
        STANDARD.encode(format!("\0{user}\0{key}"))
    }

    #[test]
    fn credentials_are_checked_whole() {
        let account = Account { sender_id: "1".into(), key: "k".into() };
        let only = profile(Credentials::Only(vec![account]));
        assert_eq!(only.sender_of(&plain("1@gcm.googleapis.com", "k")), Ok("1".into()));
        assert_eq!(only.sender_of(&plain("1@fcm.googleapis.com", "k")), Ok("1".into()));
        for (user, key) in [("1@gcm.googleapis.com", "x"), ("2@gcm.googleapis.com", "k"), ("1@other", "k"), ("1", "k")]
        {
            assert_eq!(only.sender_of(&plain(user, key)), Err("not-authorized"), "{user} {key}");
        }
        let any = profile(Credentials::Any);
        assert!(any.sender_of(&plain("7@gcm.googleapis.com", "whatever")).is_ok());
        assert!(any.sender_of(&plain("7@gcm.googleapis.com", "")).is_err());
    }

    #[test]
    fn base64_with_line_breaks_is_an_incorrect_encoding() {
        let mut payload = plain("1@gcm.googleapis.com", "k");
        payload.insert(8, '\n');
        assert_eq!(profile(Credentials::Any).sender_of(&payload), Err("incorrect-encoding"));
        assert_eq!(profile(Credentials::Any).sender_of(&STANDARD.encode("no nul")), Err("malformed-request"));
    }
}

//! The steps from the stream header to the bound resource.
//!
//! ```text
//!   Header ─► Mechanisms ─► Outcome ─► (stream restarts) Reheader ─► Bind ─► Address ─► bound
//! ```
//!
//! Each step consumes itself and gives the next one. What a step does not expect from an otherwise sound peer is ignored.

use super::event::Reason;
use super::settings::SessionConfig;
use super::stanza::{Features, Iq, IqKind, IqPayload, Stanza, ns};
use super::write;
use super::xml::Element;

const BIND_ID: &str = "bind-1";

/// What the log-in waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    Header,
    Mechanisms,
    Outcome,
    Reheader,
    Bind,
    Address,
}

/// What follows from a piece of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on waiting, for this.
    Wait(Login),
    /// The piece is nobody's business.
    Ignore(Login),
    /// Forget the old stream: what comes next is a new one.
    Restart(Login),
    /// The log-in is over.
    Bound { jid: String },
    /// The log-in failed.
    Fail(Reason),
}

impl Login {
    pub(super) fn header(self, header: &Element) -> Step {
        if !header.is(ns::STREAMS, "stream") {
            return Step::Fail(Reason::Protocol("the root element is no stream"));
        }
        match self {
            Self::Header => Step::Wait(Self::Mechanisms),
            Self::Reheader => Step::Wait(Self::Bind),
            Self::Mechanisms | Self::Outcome | Self::Bind | Self::Address => Step::Ignore(self),
        }
    }

    pub(super) fn stanza(self, stanza: Stanza, config: &SessionConfig, out: &mut String) -> Step {
        match (self, stanza) {
            (_, Stanza::StreamError { condition }) => Step::Fail(Reason::StreamError { condition }),
            (Self::Mechanisms, Stanza::Features(features)) => authenticate(features, config, out),
            (Self::Outcome, Stanza::Failure { condition }) => Step::Fail(Reason::AuthFailed { condition }),
            (Self::Outcome, Stanza::Success) => {
                write::client_header(out, &config.xmpp_domain);
                Step::Restart(Self::Reheader)
            }
            (Self::Bind, Stanza::Features(Features { bind: true, .. })) => {
                write::bind_request(out, BIND_ID, &config.resource);
                Step::Wait(Self::Address)
            }
            (Self::Bind, Stanza::Features(_)) => Step::Fail(Reason::Protocol("the server offers no resource binding")),
            (Self::Address, Stanza::Iq(iq)) if iq.id.as_deref() == Some(BIND_ID) => address(iq),
            _ => Step::Ignore(self),
        }
    }
}

fn authenticate(features: Features, config: &SessionConfig, out: &mut String) -> Step {
    if !features.mechanisms.iter().any(|mechanism| mechanism == "PLAIN") {
        return Step::Fail(Reason::PlainNotOffered { offered: features.mechanisms });
    }
    write::auth_plain(out, &config.user, config.key.reveal());
    Step::Wait(Login::Outcome)
}

fn address(iq: Iq) -> Step {
    match (iq.kind, iq.payload) {
        (IqKind::Result, IqPayload::Bind { jid: Some(jid), .. }) => Step::Bound { jid },
        (_, IqPayload::Error { condition }) => Step::Fail(Reason::BindFailed { condition }),
        _ => Step::Fail(Reason::Protocol("the answer to the binding has no address")),
    }
}

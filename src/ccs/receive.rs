//! What a session does with the stanzas that come in after the log-in.

use super::event::{Answer, Event, GroupResult, Reason};
use super::nack::NackCode;
use super::payload::{self, Accepted, Inbound, Nack, Outbound, PayloadError, Receipt, Upstream};
use super::refusal;
use super::session::{Phase, Session};
use super::stanza::{Iq, IqKind, IqPayload, Message, MessageError, Stanza};
use super::write;
use super::xml::FramingError;

const DRAINING: &str = "CONNECTION_DRAINING";

impl Session {
    /// `damage` is what is not well-formed in it.
    pub(super) fn handle_stanza(&mut self, stanza: Stanza, damage: Option<FramingError>) {
        match stanza {
            Stanza::Message(Message { from, json: Some(json), .. }) => self.handle_payload(from, &json, damage),
            Stanza::MessageError(error) => self.handle_rejection(error),
            Stanza::Iq(iq) => self.handle_iq(&iq),
            Stanza::StreamError { condition } => self.close_stream(Reason::StreamError { condition }),
            Stanza::Message(Message { json: None, .. })
            | Stanza::Features(_)
            | Stanza::Auth { .. }
            | Stanza::Success
            | Stanza::Failure { .. }
            | Stanza::Other => self.counters.ignored += 1,
        }
    }

    /// `from` is the sender of the stanza. An answer or a receipt in a damaged stanza counts: all that matters in it is its
    /// id, which nobody has by chance. A message from a device may have lost anything.
    fn handle_payload(&mut self, from: Option<String>, json: &str, damage: Option<FramingError>) {
        match (Inbound::parse(json), damage) {
            (Ok(Inbound::Upstream(_)), Some(damage)) => self.handle_unusable(from, json, PayloadError::Stanza(damage)),
            (Ok(Inbound::Upstream(upstream)), None) => self.handle_upstream(upstream),
            (Ok(Inbound::Receipt(receipt)), _) => self.handle_receipt(from, receipt),
            (Ok(Inbound::Ack(ack)), _) => self.handle_accepted(ack),
            (Ok(Inbound::Nack(nack)), _) => self.handle_nack(nack),
            (Ok(Inbound::Control { control_type }), _) if control_type == DRAINING => self.begin_draining(),
            (Ok(Inbound::Control { .. } | Inbound::Unknown { .. }), _) => self.counters.ignored += 1,
            (Err(error), _) => {
                self.counters.malformed += u64::from(damage.is_none());
                tracing::warn!(%error, "unreadable payload");
                self.handle_unusable(from, json, error);
            }
        }
    }

    fn handle_upstream(&mut self, upstream: Upstream) {
        if self.takes_upstream() {
            self.owed += 1;
            self.events.push_back(Event::Upstream(upstream));
        }
    }

    /// What is not acknowledged is sent again, and takes a place in CCS's window until then: what can be acknowledged has to
    /// be, whatever is in it.
    fn handle_unusable(&mut self, stanza_from: Option<String>, json: &str, error: PayloadError) {
        if let Some((from, message_id)) = payload::sender_of(json)
            && self.takes_upstream()
        {
            self.owed += 1;
            let from = self.sender(from, stanza_from);
            self.events.push_back(Event::Unusable { from, message_id, error, json: json.to_owned() });
        }
    }

    fn handle_receipt(&mut self, stanza_from: Option<String>, mut receipt: Receipt) {
        if self.takes_upstream() {
            self.owed += 1;
            receipt.from = self.sender(receipt.from, stanza_from);
            self.events.push_back(Event::Receipt(receipt));
        }
    }

    /// Whom to acknowledge to: the sender, or the stanza's if that one is not named, or the server.
    fn sender(&self, from: String, stanza_from: Option<String>) -> String {
        let named = Some(from).into_iter().chain(stanza_from).find(|from| !from.is_empty());
        named.unwrap_or_else(|| self.config.xmpp_domain.clone())
    }

    /// While shutting down nothing new is begun: what is not acknowledged comes again on the next connection.
    fn takes_upstream(&mut self) -> bool {
        let takes = matches!(self.phase, Phase::Open | Phase::Draining);
        if !takes {
            self.counters.ignored += 1;
        }
        takes
    }

    fn handle_accepted(&mut self, ack: Accepted) {
        if self.settle(&ack.message_id) {
            let Accepted { registration_id: canonical, success, failure, failed_registration_ids: failed, .. } = ack;
            let group = failure.filter(|failure| *failure > 0);
            let group = group.map(|failure| GroupResult { success: success.unwrap_or(0), failure, failed });
            let answer = Answer::Taken { canonical, group };
            self.events.push_back(Event::Answered { message_id: ack.message_id, answer });
        }
    }

    fn handle_nack(&mut self, nack: Nack) {
        let code = nack.code();
        // Its id is that of a message from a device: it must not be looked up among ours.
        if code == NackCode::BadAck {
            self.counters.bad_acks += 1;
            tracing::warn!("acknowledgement refused");
            return;
        }
        if code == NackCode::ConnectionDraining {
            self.begin_draining();
        }
        let Some(message_id) = &nack.message_id else {
            self.counters.malformed += u64::from(code != NackCode::ConnectionDraining);
            return;
        };
        if !self.settle(message_id) {
            return;
        }
        let message_id = message_id.clone();
        self.events.push_back(if code == NackCode::ConnectionDraining {
            Event::Bounced { message_id }
        } else {
            Event::Answered { message_id, answer: Answer::Refused(refusal::of_nack(&nack)) }
        });
    }

    /// A stanza error holds what it is about only as an echo: our `id`, or the JSON repeated.
    fn handle_rejection(&mut self, error: MessageError) {
        let echo = error.echo.as_deref().and_then(|json| Outbound::parse(json).ok());
        if let Some(Outbound::Ack(_)) = echo {
            self.counters.bad_acks += 1;
            tracing::warn!(code = error.code, condition = error.condition, "acknowledgement refused");
            return;
        }
        let echoed = match echo {
            Some(Outbound::Downstream(downstream)) => Some(downstream.message_id),
            _ => None,
        };
        let ours = error.id.into_iter().chain(echoed).find(|id| self.sent.remove(id));
        let Some(message_id) = ours else {
            self.counters.unknown_answers += 1;
            return;
        };
        // The peer had a fault or asks to wait (RFC 6120, 8.3.2).
        let temporary = error.kind == "wait" || error.code.is_some_and(|code| code >= 500);
        let answer = Answer::Refused(refusal::of_rejection(temporary, &error.condition, &error.text));
        self.events.push_back(Event::Answered { message_id, answer });
    }

    fn settle(&mut self, message_id: &str) -> bool {
        let known = self.sent.remove(message_id);
        if !known {
            self.counters.unknown_answers += 1;
        }
        known
    }

    /// The server asks for nothing in practice; if it does, it gets an answer (RFC 6120, 8.2.3).
    fn handle_iq(&mut self, iq: &Iq) {
        let (id, to) = (iq.id.as_deref(), iq.from.as_deref());
        match (iq.kind, &iq.payload) {
            (IqKind::Get, IqPayload::Ping) => write::iq_result(&mut self.out, id, to),
            (IqKind::Get | IqKind::Set, _) => write::iq_error(&mut self.out, id, to, "service-unavailable"),
            // The answer to a ping of ours; that something came is all that counts.
            (IqKind::Result | IqKind::Error, _) => {}
        }
    }
}

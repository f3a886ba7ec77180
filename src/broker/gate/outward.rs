//! What becomes of a packet of the engine.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::frames::fields::take_properties;
use super::super::frames::{Frame, Kind, Version};
use super::super::link::{Passing, Start};
use super::super::refusals::Refusal;
use super::Gate;
use super::pulse::Pulse;
use crate::mqtt::MarkCopy;
use crate::ops::metrics::Metric;

/// Reason codes from here on are refusals.
const FAILURE: u8 = 0x80;
/// "Not authorized" and "topic filter invalid".
const NOT_AUTHORIZED: u8 = 0x87;
const FILTER_INVALID: u8 = 0x8f;
/// The length of a packet identifier.
const ID_BYTES: usize = 2;
/// "Quota exceeded": what the engine says of a retained message for which there is no room.
const QUOTA_EXCEEDED: u8 = 0x97;

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// The same PUBLISH with its payload marked, unless that is more than the client takes.
    fn marked(&self, frame: &Frame, mark_copy: MarkCopy) -> Option<Frame> {
        let version = self.link.version();
        let payload = mark_copy(frame.publish(version)?.payload)?;
        let marked = frame.with_payload(version, &payload)?;
        self.link.max_packet().is_none_or(|most| marked.bytes().len() <= most).then_some(marked)
    }

    /// Takes a packet of the engine in the form that the client's version has.
    pub(super) fn accept(&mut self, frame: Frame) {
        let version = self.link.version();
        let is_refusal = matches!(frame.kind(), Kind::PubAck | Kind::PubRec) && frame.ack_reason() >= FAILURE;
        if is_refusal && frame.ack_reason() == QUOTA_EXCEEDED {
            self.tell(Refusal::Retained, "");
        }
        // MQTT 3.1.1 has no word for a refusal. After a denied message the connection ends; a retained message for
        // which there is no room stays unacknowledged, as one beyond the quota of the bridge does.
        if is_refusal && version == Version::V311 {
            return;
        }
        let cut = (frame.kind() == Kind::Disconnect).then(|| Refusal::of_disconnect(frame.reason())).flatten();
        if let Some(refusal) = cut {
            // Of a packet that breaks a rule the engine says more when it ends.
            if refusal != Refusal::Malformed {
                self.tell_end(refusal, "");
            }
        }
        if let Some(frame) = frame.fit(version) {
            let frame = if version == Version::V5 { self.in_our_words(frame) } else { frame };
            match cut {
                Some(refusal) => self.pass_out(&self.explained(frame, refusal.rule())),
                None => self.pass_out(&frame),
            }
        }
    }

    /// Passes the CONNACK on, with what the engine does not know of.
    fn pass_connack(&mut self, frame: &Frame) {
        let maximum = self.limits.held.try_into().unwrap_or(u16::MAX);
        let packet = self.limits.packet.try_into().unwrap_or(u32::MAX);
        let connack = frame.with_receive_maximum(maximum).with_maximum_packet_size(packet);
        let connack = match self.link.assigned().filter(|_| self.link.version() == Version::V5) {
            Some(client) => connack.with_assigned_client_id(&client),
            None => connack,
        };
        if !self.takes(&connack) {
            return self.refuse_for_connack();
        }
        self.link.began(if frame.session_present() { Start::Resumed } else { Start::Fresh });
        if frame.accepts() {
            self.link.claimed();
        }
        self.out.push(connack.bytes());
    }

    /// A refusal of the engine with the rule for a reason string, where it has words of its own; anything else as it is.
    fn in_our_words(&self, frame: Frame) -> Frame {
        let body = frame.body();
        let (id, mut rest) = body.split_at(body.len().min(ID_BYTES));
        let (plain, refusal) = match frame.kind() {
            Kind::PubAck | Kind::PubRec => {
                let code = frame.ack_reason();
                let refusal = if code == QUOTA_EXCEEDED { Some(Refusal::Retained) } else { self.link.denied() };
                (Frame::new(frame.bytes()[0], &[id, &[code]].concat()), refusal.filter(|_| code >= FAILURE))
            }
            Kind::SubAck if take_properties(&mut rest).is_some() => {
                let refusal = match rest.iter().find(|code| **code >= FAILURE) {
                    Some(&NOT_AUTHORIZED) => Some(Refusal::SubscribeDenied),
                    Some(&QUOTA_EXCEEDED) => Some(Refusal::Subscriptions),
                    Some(&FILTER_INVALID) if self.link.filters_replaced() > 0 => Some(Refusal::TopicLimit),
                    Some(&FILTER_INVALID) => Some(Refusal::FilterInvalid),
                    _ => None,
                };
                (Frame::new(frame.bytes()[0], &[id, &[0], rest].concat()), refusal)
            }
            _ => return frame,
        };
        refusal.map_or(frame, |refusal| self.explained(plain, refusal.rule()))
    }

    /// Passes a packet of the engine on, holds it, or drops it.
    fn pass_out(&mut self, frame: &Frame) {
        match frame.kind() {
            Kind::PubAck | Kind::PubRec => {
                let word = frame.ack_id().and_then(|id| self.link.take_word(id));
                // Also those that need not wait queue up: [MQTT-4.6.0-2] wants them in the order of the PUBLISHes.
                self.acks.push(frame, word);
                return;
            }
            Kind::PubComp if self.acks.swallows(frame) => return,
            Kind::PingResp if self.pulse.as_mut().is_some_and(Pulse::swallows) => return,
            Kind::ConnAck => return self.pass_connack(frame),
            Kind::Publish => match self.link.saw_publish_to_client(frame) {
                Passing::AsItIs => {}
                Passing::TellWritten(id) => self.unwritten.push(id),
                Passing::Marked(mark_copy) => {
                    if let Some(marked) = self.marked(frame, mark_copy) {
                        self.out.push(marked.bytes());
                        return;
                    }
                }
                Passing::Withheld { qos, id } => {
                    self.metrics.count(Metric::DeliveriesFiltered);
                    self.acks.answer_withheld(qos, id);
                    return;
                }
            },
            _ => {}
        }
        self.out.push(frame.bytes());
    }
}

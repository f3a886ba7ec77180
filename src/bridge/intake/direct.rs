//! What clients write into the inboxes of each other, past the bridge, on a broker of others that is trusted (`chat.direct`).
//!
//! The broker has given the document to its reader already. The bridge takes it as if its writer had written it into the own
//! outbox for that reader, and stores and pushes it; it gives the reader no second copy ([`crate::store::Writer::direct`]).
//! Nothing proves who wrote ([`crate::chat::principal::Proof::Document`]), so what could only be mended with more than
//! another message is left to the outbox: edits and retracts, and answers to invitations.

use super::Intake;
use crate::bridge::chat::clear_kept;
use crate::chat::id::Owner;
use crate::chat::message::{NotDirect, direct_writer, with_recipient};
use crate::chat::principal::{Principal, Role};
use crate::chat::suffix::chatstate::ChatState;
use crate::chat::topic::Routed;
use crate::mqtt::{AckWord, Inbound};
use crate::ops::clock::now_ms;
use crate::ops::message_log;
use crate::ops::metrics::Metric;

impl Intake {
    /// A publish as one into the outbox of its writer; `None`: it is dealt with. What lies in no inbox is left as it is.
    pub(super) async fn as_written(&self, publish: Inbound) -> Option<Inbound> {
        let Some(routed) = Routed::parse(&publish.topic).filter(|_| self.context.settings.chat.direct) else {
            return Some(publish);
        };
        // An old document that was dealt with when it was new, and would come to its reader with every connection.
        if publish.retain && publish.principal.role == Role::User && !publish.payload.is_empty() {
            clear_kept(&self.context, &publish.topic).await;
        }
        // What lies in the inbox of a BAL the bridge wrote, or it is between that BAL and whoever did.
        let is_taken = !publish.retain && !publish.payload.is_empty() && publish.principal.role == Role::User;
        let writer = if is_taken { self.writer_of(&publish) } else { None };
        let Some(writer) = writer else {
            publish.ack.release(AckWord::Done);
            return None;
        };
        if routed.is_chat_state() {
            self.direct_chat_state(&writer, routed.peer, &publish.payload);
            publish.ack.release(AckWord::Done);
            return None;
        }
        let (topic, peer) = (routed.outbox_of(writer.as_str()), routed.peer.into());
        let principal = Principal::named_by_document(writer.as_str());
        Some(Inbound { topic, routed_to: Some(peer), principal, ..publish })
    }

    /// The chat user who wrote a document, as it says. BALs have their outboxes: a document that names one is forged.
    fn writer_of(&self, publish: &Inbound) -> Option<Owner> {
        let fault = match direct_writer(&publish.payload) {
            Ok(writer) if self.context.directory.role_of(writer.as_str()).is_none_or(|role| role == Role::User) => {
                return Some(writer);
            }
            Ok(_) => "it is `from` a name that is no chat user".to_owned(),
            Err(NotDirect::OwnCopy) => return None,
            Err(fault) => fault.to_string(),
        };
        self.context.metrics.count(Metric::DirectIgnored);
        let topic = &*publish.topic;
        tracing::debug!(target: message_log::TARGET, topic, fault, "a document in an inbox is neither stored nor pushed");
        None
    }

    /// Who is writing came to its reader; it is a sign of a person. (What the bridge passes on itself names no device.)
    fn direct_chat_state(&self, writer: &Owner, peer: &str, payload: &[u8]) {
        let limits = self.context.settings.limits.message();
        let state = with_recipient(payload, peer, &limits).and_then(|payload| ChatState::parse(&payload, &limits));
        if let Ok(ChatState { dev: Some(dev), .. }) = state {
            self.context.attentions.sign(writer, &dev, now_ms());
        }
    }
}

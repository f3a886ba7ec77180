//! A PUBLISH of the client, from its packet to its acknowledgement.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Connection;
use super::closing::End;
use super::held::{AckCondition, AckVerdict};
use crate::broker::hub::{DeniedPublish, NewPublish, NotStored, Promise, Publisher, Publishing};
use crate::broker::refusals::Refusal;
use crate::broker::session::Arrived;
use crate::broker::session::aliases::AliasError;
use crate::broker::wire::{AckKind, PacketError, Publish, Version};
use crate::chat::qos::QoS;
use crate::mqtt::AckWord;
use crate::ops::clock::now_ms;
use crate::store::Message;

/// The first level of the broker's own topics.
const SYS: &str = "$SYS";
/// "No matching subscribers" (MQTT 5, 2.4).
const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;

/// Messages of the client on their way to the hub.
#[derive(Default)]
pub(super) struct PublishState {
    /// The one that the hub has no room for yet.
    waiting: Option<PendingPublish>,
    /// PUBRELs that came and are not on disk, with the codes of their PUBCOMPs.
    pub(super) released: Vec<(u16, u8)>,
    /// The topic of the last message: often that of the next one.
    topic: Option<Arc<str>>,
    /// The last message at QoS 0 that goes by the disk, until it is there.
    silent: Option<Promise>,
    /// What the store had told when the last message came to the disk, as [`crate::store::Store::commits_told`].
    told: u64,
}

struct PendingPublish {
    answer: Option<(AckKind, u16)>,
    promise: BoxFuture<'static, Result<Promise, NotStored>>,
}

impl Connection {
    /// Hands a message to the hub.
    pub(super) fn publish(&mut self, cx: &mut Context<'_>, publish: &Publish<'_>) -> Result<(), End> {
        let kind = if publish.qos == QoS::ExactlyOnce { AckKind::Pubrec } else { AckKind::Puback };
        let answer = publish.id.map(|id| (kind, id));
        let Some(topic) = self.topic(publish)? else { return self.over_limit(publish.topic, answer) };
        if self.is_denied(cx, publish, &topic)? {
            return Ok(());
        }
        let Some(again) = self.arrived(answer)? else { return Ok(()) };
        let properties = &publish.properties;
        let message = Message {
            topic,
            payload: Bytes::copy_from_slice(publish.payload),
            properties: Bytes::copy_from_slice(&properties.forwarded),
            qos: publish.qos,
            retain: publish.retain,
            expires_at: properties.expiry_s.map(|seconds| now_ms() + u64::from(seconds) * 1_000),
        };
        let new = NewPublish {
            message,
            dup: publish.dup || again,
            again,
            exactly_once: publish.id.filter(|_| publish.qos == QoS::ExactlyOnce),
            response_topic: properties.response_topic.map(str::to_owned),
            correlation: properties.correlation.map(Bytes::copy_from_slice),
            will: None,
        };
        let follows = self.may_pass_another(cx);
        let publishing = self.guard.hub.publish(Publisher { follows, ..self.publisher() }, new);
        self.publishing(cx, publishing, answer)
    }

    fn publisher(&self) -> Publisher<'_> {
        let (session, device) = (Some(&self.guard.session), self.device.as_ref());
        Publisher { session, rights: &self.rights, device, follows: true }
    }

    fn publishing(
        &mut self,
        cx: &mut Context<'_>,
        publishing: Publishing,
        answer: Option<(AckKind, u16)>,
    ) -> Result<(), End> {
        match publishing {
            Publishing::Promised(promise) => self.promised(answer, promise),
            Publishing::Waits(promise) => {
                self.publish_state.waiting = Some(PendingPublish { answer, promise });
                // Asked at once, so that it knows whom to wake.
                let _ = self.poll_publish(cx)?;
            }
            Publishing::Refused(refusal) => {
                // Nobody has it: it may come again as a new message.
                if let Some((AckKind::Pubrec, id)) = answer {
                    self.guard.packet_ids.incoming.release(id);
                }
                self.refuse(refusal, "", answer);
            }
        }
        Ok(())
    }

    /// Whether a message of this client may not be with its readers yet, so that another one that is given to them at once
    /// would pass it.
    fn may_pass_another(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(silent) = &mut self.publish_state.silent
            && silent.poll(cx).is_ready()
        {
            self.publish_state.silent = None;
            self.came_to_the_disk();
        }
        let is_on_its_way = !self.held.is_empty() || self.publish_state.silent.is_some();
        is_on_its_way || !self.guard.hub.has_distributed(self.publish_state.told)
    }

    fn came_to_the_disk(&mut self) {
        self.publish_state.told = self.guard.hub.store.commits_told();
    }

    /// Ready when the hub has every message that was handled.
    pub(super) fn poll_publish(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        let Some(PendingPublish { promise, .. }) = &mut self.publish_state.waiting else { return Ok(Poll::Ready(())) };
        let Poll::Ready(promise) = promise.poll_unpin(cx) else { return Ok(Poll::Pending) };
        let answer = self.publish_state.waiting.take().and_then(|waiting| waiting.answer);
        match (promise, answer) {
            (Ok(promise), answer) => self.promised(answer, promise),
            // At QoS 0 nobody was promised anything.
            (Err(NotStored), None) => {}
            (Err(NotStored), Some(_)) => return Err(End::NotStored),
        }
        Ok(Poll::Ready(()))
    }

    /// Lets go the acknowledgements that may leave.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while let Poll::Ready(Some((kind, id, word))) = self.held.poll_release(cx) {
            self.came_to_the_disk();
            match word {
                AckVerdict::NotStored => return Err(End::NotStored),
                AckVerdict::Refused(refusal) => self.refused(kind, id, refusal),
                AckVerdict::Answered(AckWord::Quota) => {
                    self.report(Refusal::Quota, "");
                    self.refused(kind, id, Refusal::Quota);
                }
                AckVerdict::Freed(refusal) => self.send_refusal(kind, id, refusal),
                AckVerdict::Answered(word @ (AckWord::Done | AckWord::NoSuchTopic)) => {
                    if kind == AckKind::Pubrec {
                        self.guard.packet_ids.incoming.acknowledged(id);
                    }
                    let code = if word == AckWord::NoSuchTopic { NO_MATCHING_SUBSCRIBERS } else { 0 };
                    self.say(kind, id, code, None);
                }
            }
        }
        Ok(())
    }

    /// A PUBREC of 0x80 or above ends the exchange, and the client may use the identifier for another message at once
    /// (MQTT 5, 4.3.3). Hence the identifier is free, on disk too, before the client hears of it.
    fn refused(&mut self, kind: AckKind, id: u16, refusal: Refusal) {
        // 3.1.1 has no word for a refusal: the message stays unacknowledged, and may come again.
        if self.encoding.version == Version::V311 {
            return;
        }
        let is_taken = kind == AckKind::Pubrec && self.guard.packet_ids.incoming.is_taken(id);
        let Some(queue) = self.guard.session.queue.stored().filter(|_| is_taken) else {
            return self.send_refusal(kind, id, refusal);
        };
        let store = self.guard.hub.store.clone();
        let forgotten = Box::pin(async move { store.forget_incoming(queue, vec![id]).await?.await });
        self.held.put_back(kind, id, AckCondition::Freed(refusal, forgotten));
    }

    fn send_refusal(&mut self, kind: AckKind, id: u16, refusal: Refusal) {
        if kind == AckKind::Pubrec {
            self.guard.packet_ids.incoming.release(id);
        }
        self.say(kind, id, refusal.code(), Some(refusal.rule()));
    }

    /// The topic of a message, which may be an alias; `None` if it is over a limit.
    fn topic(&mut self, publish: &Publish<'_>) -> Result<Option<Arc<str>>, PacketError> {
        let topic = match (publish.properties.alias, &self.publish_state.topic) {
            (Some(alias), _) => {
                let resolved = if publish.over_limit {
                    self.aliases.set_over_limit(alias)
                } else {
                    self.aliases.resolve(alias, publish.topic)
                };
                match resolved {
                    Ok(topic) => topic,
                    Err(AliasError::Invalid) => return Err(PacketError::AliasMaximum),
                    Err(AliasError::Unknown) => return Err(PacketError::AliasUnknown),
                    Err(AliasError::OverLimit) => return Ok(None),
                }
            }
            (None, _) if publish.over_limit => return Ok(None),
            (None, Some(last)) if **last == *publish.topic => Arc::clone(last),
            (None, _) => publish.topic.into(),
        };
        self.publish_state.topic = Some(Arc::clone(&topic));
        Ok(Some(topic))
    }

    /// A topic over a limit: MQTT 5 has a word for it where there is an acknowledgement.
    fn over_limit(&mut self, topic: &str, answer: Option<(AckKind, u16)>) -> Result<(), End> {
        if answer.is_none() || self.encoding.version == Version::V311 {
            return Err(End::Refused(Refusal::TopicLimit.with(topic)));
        }
        self.refuse(Refusal::TopicLimit, topic, answer);
        Ok(())
    }

    /// Whether the client may not publish on this topic; then it is told so: by the reason code of an acknowledgement of MQTT 5; else
    /// by an error document, and an acknowledgement where one is asked for. A client of 3.1.1 whose connection ended ([MQTT-3.3.5-2] has
    /// nothing else) would send the same again and again, and nothing behind it. So it ends for those alone who have no inbox.
    fn is_denied(&mut self, cx: &mut Context<'_>, publish: &Publish<'_>, topic: &Arc<str>) -> Result<bool, End> {
        let kind = if publish.qos == QoS::ExactlyOnce { AckKind::Pubrec } else { AckKind::Puback };
        let (answer, version) = (publish.id.map(|id| (kind, id)), self.encoding.version);
        let is_sys = topic.split('/').next() == Some(SYS);
        // A bridge of mosquitto says there how it is.
        if is_sys && version == Version::V311 {
            self.report(Refusal::SysTopic, topic);
            if let Some((kind, id)) = answer {
                self.held.push(kind, id, AckCondition::Again);
            }
            return Ok(true);
        }
        if self.rights.may_publish(topic) {
            return Ok(false);
        }
        if is_sys || version == Version::V5 && answer.is_some() {
            self.refuse(if is_sys { Refusal::SysTopic } else { Refusal::PublishDenied }, topic, answer);
            return Ok(true);
        }
        let denied = DeniedPublish { topic, payload: publish.payload, qos: publish.qos, dup: publish.dup };
        match self.guard.hub.deny(self.publisher(), &denied) {
            Some(told) => {
                self.report(Refusal::PublishDenied, topic);
                self.publishing(cx, told, answer)?;
            }
            None if version == Version::V5 => self.report(Refusal::PublishDenied, topic),
            None => {
                self.report_end(Refusal::PublishDenied, topic);
                self.guard.handle.end(Refusal::PublishDenied);
            }
        }
        Ok(true)
    }

    /// Whether a message at QoS 2 came before; none if the hub need not know of it. It comes in once and is answered each
    /// time ([MQTT-4.3.3-10]).
    fn arrived(&mut self, answer: Option<(AckKind, u16)>) -> Result<Option<bool>, End> {
        let Some((kind, id)) = answer else { return Ok(Some(false)) };
        // 3.1.1 has no receive maximum: an identifier costs a few bytes, and there are no more than 65,535.
        let room = match self.encoding.version {
            Version::V5 => usize::from(self.guard.hub.limits.held_acks).saturating_sub(self.held.pubacks()),
            Version::V311 => usize::MAX,
        };
        let incoming = &mut self.guard.packet_ids.incoming;
        if kind == AckKind::Puback {
            return if incoming.open() >= room { Err(self.too_many()) } else { Ok(Some(false)) };
        }
        match incoming.arrived(id, room) {
            Arrived::New => Ok(Some(false)),
            // Its PUBREC is still to come; or nobody knows any more whether it may, because a connection before this one, or
            // the broker, has ended. Then store and bridge are asked again: each knows it if it has it.
            Arrived::Repeat { acknowledged: false } => Ok((!self.held.has_pubrec(id)).then_some(true)),
            Arrived::Repeat { acknowledged: true } => {
                self.held.push(kind, id, AckCondition::Again);
                Ok(None)
            }
            Arrived::TooMany => Err(self.too_many()),
        }
    }

    /// The message is refused. The refusal leaves after the acknowledgements before it.
    fn refuse(&mut self, refusal: Refusal, detail: &str, answer: Option<(AckKind, u16)>) {
        self.report(refusal, detail);
        if let Some((kind, id)) = answer {
            self.held.push(kind, id, AckCondition::Refused(refusal));
        }
    }

    fn promised(&mut self, answer: Option<(AckKind, u16)>, promise: Promise) {
        match answer {
            Some((kind, id)) => self.held.push(kind, id, AckCondition::Stored(promise)),
            // The disk gets them in their order: the one before is there when this one is.
            None if promise.goes_by_the_disk() => self.publish_state.silent = Some(promise),
            None => {}
        }
    }
}

//! SUBSCRIBE, UNSUBSCRIBE and PUBREL: what is answered when the disk has it, in the order in which it came.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Connection;
use super::closing::End;
use crate::broker::hub::{AfterSubscribe, RequestedSubscription};
use crate::broker::refusals::Refusal;
use crate::broker::wire::{self, AckKind, Subscribe, Unsubscribe};
use crate::store::{QueueId, Store, StoreError};

/// "Topic filter invalid" (MQTT 5, 2.4): also for a filter over a limit, as a SUBACK has no code for that.
const FILTER_INVALID: u8 = 0x8f;

/// A request of the client that waits.
pub(super) struct Request {
    response: Response,
    done: BoxFuture<'static, Result<Done, StoreError>>,
}

/// What the client gets.
enum Response {
    /// Codes for all filters, and why the first of those that were refused was.
    Suback { id: u16, codes: Vec<u8>, why: Option<Refusal> },
    /// Codes for the filters that were refused; those of the others come with what is done.
    Unsuback { id: u16, refused: Vec<Option<u8>> },
    /// Identifiers and codes.
    Pubcomp(Vec<(u16, u8)>),
}

/// What came of it.
enum Done {
    Subscribed(AfterSubscribe),
    Unsubscribed(Vec<u8>),
    Stored,
}

impl Request {
    /// PUBREL came for these messages of the client.
    pub(super) fn pubcomp(store: Store, queue: QueueId, released: Vec<(u16, u8)>) -> Self {
        let ids = released.iter().map(|(id, _)| *id).collect();
        let done = Box::pin(async move {
            store.forget_incoming(queue, ids).await?.await?;
            Ok(Done::Stored)
        });
        Self { response: Response::Pubcomp(released), done }
    }
}

impl Connection {
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe<'_>) {
        let (hub, session) = (Arc::clone(&self.guard.hub), Arc::clone(&self.guard.session));
        let (mut codes, mut refusals, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for (filter, options) in &subscribe.filters {
            let refused = match filter.refused {
                Some(refusal) => Some(refusal),
                None if session.is_background() => Some(Refusal::SubscribeDenied),
                None if !hub.may_subscribe(&self.rights, filter.text) => Some(Refusal::SubscribeDenied),
                None if !hub.has_room_for(&session, filter.text, wanted.len()) => Some(Refusal::Subscriptions),
                None => None,
            };
            if let Some(refusal) = refused {
                // A packet full of filters over a limit is one line.
                if refusal != Refusal::TopicLimit || !refusals.contains(&refusal) {
                    self.report(refusal, filter.text);
                }
                refusals.push(refusal);
                codes.push(code(refusal));
                continue;
            }
            codes.push(options.qos as u8);
            wanted.push(RequestedSubscription { filter: filter.text.into(), options: *options });
        }
        let handle = Arc::clone(&self.guard.handle);
        let done = hub.subscribe(session, handle, wanted).map(|after| after.map(Done::Subscribed));
        let response = Response::Suback { id: subscribe.id, codes, why: refusals.first().copied() };
        self.requests.push_back(Request { response, done: done.boxed() });
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) {
        let filters = &unsubscribe.filters;
        let refused = filters.iter().map(|filter| filter.refused.map(code)).collect();
        if let Some(over) = filters.iter().find(|filter| filter.refused == Some(Refusal::TopicLimit)) {
            self.report(Refusal::TopicLimit, over.text);
        }
        let asked = filters.iter().filter(|filter| filter.refused.is_none()).map(|filter| filter.text.into()).collect();
        let (hub, session) = (Arc::clone(&self.guard.hub), Arc::clone(&self.guard.session));
        let done = hub.unsubscribe(session, asked).map(|codes| codes.map(Done::Unsubscribed));
        let response = Response::Unsuback { id: unsubscribe.id, refused };
        self.requests.push_back(Request { response, done: done.boxed() });
    }

    /// Whether a subscription is about to change: nothing that came after it may be handled before.
    pub(super) fn is_subscribing(&self) -> bool {
        self.requests.iter().any(|request| !matches!(request.response, Response::Pubcomp(_)))
    }

    /// Answers what is done, and goes on with what follows it.
    pub(super) fn poll_requests(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while let Some(request) = self.requests.front_mut()
            && let Poll::Ready(done) = request.done.poll_unpin(cx)
        {
            let done = done.map_err(|_closed| End::NotStored)?;
            if let Some(Request { response, .. }) = self.requests.pop_front() {
                self.respond(response, done)?;
            }
        }
        let mut failed = false;
        self.following.retain_mut(|following| match following.poll_unpin(cx) {
            Poll::Pending => true,
            Poll::Ready(followed) => {
                failed |= followed.is_err();
                false
            }
        });
        if failed { Err(End::NotStored) } else { Ok(()) }
    }

    fn respond(&mut self, response: Response, done: Done) -> Result<(), End> {
        let (out, encoding) = (self.out.buffer(), self.encoding);
        let fits = match (response, done) {
            (Response::Suback { id, codes, why }, done) => {
                if let Done::Subscribed(after) = done {
                    self.following.push(after);
                }
                self.sender.send_queues = self.guard.session.send_queues();
                wire::suback(out, encoding, id, &codes, why.map(Refusal::rule))
            }
            (Response::Unsuback { id, refused }, done) => {
                let mut done = if let Done::Unsubscribed(codes) = done { codes } else { Vec::new() }.into_iter();
                let codes: Vec<u8> = refused.into_iter().filter_map(|code| code.or_else(|| done.next())).collect();
                self.sender.send_queues = self.guard.session.send_queues();
                wire::unsuback(out, encoding, id, &codes, None)
            }
            (Response::Pubcomp(released), _) => {
                released.into_iter().for_each(|(id, code)| self.say(AckKind::Pubcomp, id, code, None));
                true
            }
        };
        let too_big = || End::Refused(Refusal::PacketSize.with("no answer fits into what the client takes"));
        fits.then_some(()).ok_or_else(too_big)
    }
}

/// The reason code of a SUBACK or UNSUBACK.
fn code(refusal: Refusal) -> u8 {
    if refusal == Refusal::TopicLimit { FILTER_INVALID } else { refusal.code() }
}

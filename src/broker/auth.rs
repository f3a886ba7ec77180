//! The engine's questions: who may write and read what.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;

use super::events::Events;
use super::frames::Version;
use super::identity::Doorman;
use super::link::{self, Link};
use super::refusals::{Refusal, Refusals};
use super::wills::{DelayedWill, rights_for_will};
use crate::chat::access::Rights;

/// The first level of the broker's own topics.
const SYS: &str = "$SYS";

/// The rules.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) doorman: Arc<Doorman>,
    pub(super) events: Arc<Events>,
    pub(super) refusals: Arc<Refusals>,
}

impl Rules {
    /// Says once more what [`admission`](super::admission) has said: the engine gets no other CONNECT.
    fn admitted() -> AuthResult {
        match link::current().map(|link| link.rights()) {
            Some(Rights::Anonymous) => AuthResult::success(),
            Some(Rights::Known(identity)) => AuthResult::success_with_user(&*identity.user),
            Some(Rights::Nobody) | None => AuthResult::fail(ReasonCode::NotAuthorized),
        }
    }

    fn may_publish(&self, link: &Link, topic: &str) -> bool {
        if !link.take_unasked() {
            return self.may_publish_will(link, topic);
        }
        let allowed = link.rights().may_publish(topic);
        if !allowed {
            self.deny(link, topic);
            if link.version() == Version::V311 {
                link.end(Refusal::PublishDenied);
            }
        }
        allowed
    }

    fn deny(&self, link: &Link, topic: &str) {
        let is_sys = topic.split('/').next() == Some(SYS);
        let refusal = if is_sys { Refusal::SysTopic } else { Refusal::PublishDenied };
        self.tell(link, refusal, topic);
        link.note_denied(refusal);
        if refusal == Refusal::PublishDenied && link.version() == Version::V311 {
            // For this the connection ends.
            link.note_end();
        }
    }

    /// The connection has broken, and the engine publishes its will before it says so. Who never had a CONNACK left none.
    fn may_publish_will(&self, link: &Link, topic: &str) -> bool {
        let Some(caller) = link.caller().filter(|_| link.has_begun()) else {
            return false;
        };
        let rights = rights_for_will(&self.doorman, &self.refusals, &caller, link.who().as_ref(), topic);
        let allowed = rights.is_some();
        if let Some(rights) = rights {
            link.set_will_rights(rights);
        }
        allowed
    }

    /// The engine publishes a delayed will from a task of its own and raises no event, but it asks here first.
    async fn may_publish_late(&self, client: &str, topic: &str) -> bool {
        // It arms none for which there was no connection, and so no will is without its client here.
        let Some(DelayedWill { will, device, caller, who }) = self.events.desk.take_delayed_will(client) else {
            return false;
        };
        let Some(rights) = rights_for_will(&self.doorman, &self.refusals, &caller, who.as_ref(), topic) else {
            return false;
        };
        self.events.will(will, device, &rights).await;
        true
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        let Some(link) = link::current() else {
            return false;
        };
        let allowed = link.rights().may_subscribe(filter);
        if !allowed {
            self.tell(&link, Refusal::SubscribeDenied, filter);
        }
        allowed
    }

    fn tell(&self, link: &Link, refusal: Refusal, detail: &str) {
        match link.who() {
            Some(who) => self.refusals.tell(refusal, &who, detail),
            None => self.refusals.count(refusal),
        }
    }
}

impl AuthProvider for Rules {
    fn authenticate<'a>(
        &'a self,
        _connect: &'a ConnectPacket,
        _peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = mqtt5::Result<AuthResult>> + Send + 'a>> {
        Box::pin(ready(Ok(Self::admitted())))
    }

    fn authorize_publish<'a>(
        &'a self,
        client_id: &str,
        _user_id: Option<&'a str>,
        topic: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        match link::current() {
            Some(link) => Box::pin(ready(self.may_publish(&link, topic))),
            None => {
                let client: Arc<str> = client_id.into();
                Box::pin(async move { self.may_publish_late(&client, topic).await })
            }
        }
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _client_id: &str,
        _user_id: Option<&'a str>,
        filter: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(ready(self.may_subscribe(filter)))
    }

    /// A connection of somebody who logged in has ended: what the engine asks from now on is about the will, even if it
    /// never asked about the last PUBLISH.
    fn cleanup_session<'a>(&'a self, _user_id: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        if let Some(link) = link::current() {
            link.take_unasked();
        }
        Box::pin(ready(()))
    }
}

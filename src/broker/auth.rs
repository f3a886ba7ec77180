//! The engine's questions: who may connect, and who may write and read what.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;

use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::broker::storage::StorageBackend;
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use tracing::{debug, warn};

use super::events::Events;
use super::frames::{Naming, Version};
use super::identity::{Caller, Doorman, Identity, Login, Refusal, is_client_of, owner_of, shown};
use super::link::{self, End, Link};
use super::turns::Turns;
use crate::mqtt::Role;
use crate::ops::metrics::{Metric, Metrics};

/// The rules.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) doorman: Arc<Doorman>,
    /// The limit on sessions.
    pub(super) sessions: usize,
    pub(super) turns: Arc<Turns>,
    /// Messages per second of one chat user's connection.
    pub(super) publish_rate: Option<NonZeroU32>,
    pub(super) events: Arc<Events>,
    pub(super) metrics: Arc<Metrics>,
}

impl Rules {
    async fn admit(&self, connect: &ConnectPacket, peer: SocketAddr) -> AuthResult {
        let Some(link) = link::current() else {
            return AuthResult::fail(ReasonCode::UnspecifiedError);
        };
        let caller = self.identify(connect, peer, &link).await;
        if caller.is_ok() {
            link.keep(self.turns.take(&connect.client_id).await);
        }
        match caller {
            Ok(Caller::Anonymous) => AuthResult::success(),
            Ok(Caller::Known(identity, _)) => AuthResult::success_with_user(&*identity.user),
            Err(reason) => AuthResult::fail(reason),
        }
    }

    async fn identify(
        &self,
        connect: &ConnectPacket,
        peer: SocketAddr,
        link: &Arc<Link>,
    ) -> Result<Caller, ReasonCode> {
        let login =
            Login { user: connect.username.as_deref(), password: connect.password.as_deref(), address: peer.ip() };
        let told = |refusal| reason_of(refusal, link.version());
        let caller = self.doorman.login(login, &self.metrics).await.map_err(told)?;
        if !self.may_be_called(&caller, connect, link).await {
            debug!(%peer, client = shown(&connect.client_id), "client id belongs to somebody else");
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        let (known, sessions) = self.events.desk.ledger.census(&connect.client_id);
        if !known && sessions >= self.sessions {
            return Err(ReasonCode::ServerUnavailable);
        }
        let place = self.doorman.enter(&caller, &connect.client_id, link).map_err(|refusal| {
            self.metrics.count(Metric::BrokerUserRefused);
            told(refusal)
        })?;
        link.admit(&caller, place);
        if matches!(&caller, Caller::Known(Identity { role: Role::User, .. }, _)) {
            link.set_publish_rate(self.publish_rate);
        }
        if let Some(will) = connect.will.as_ref().filter(|will| !caller.rights().may_publish(&will.topic)) {
            let (client, topic) = (shown(&connect.client_id), shown(&will.topic));
            self.doorman.tell(|untold| {
                warn!(%peer, client, topic, untold, "client may not write the topic of its will; it will not be published");
            });
        }
        Ok(caller)
    }

    /// Whether the client id is one that this caller may use: sessions go by it.
    async fn may_be_called(&self, caller: &Caller, connect: &ConnectPacket, link: &Link) -> bool {
        match (caller, link.naming()) {
            (Caller::Anonymous, Naming::Assigned) => true,
            (Caller::Known(..), Naming::Assigned) => connect.clean_start,
            (Caller::Known(identity, _), Naming::Chosen) => is_client_of(&connect.client_id, &identity.user),
            (Caller::Anonymous, Naming::Chosen) => {
                let owned = self.events.desk.disk.storage.get_session(&connect.client_id).await;
                let is_free = owned.is_ok_and(|session| session.is_none_or(|session| session.user_id.is_none()));
                is_free && !self.doorman.has(owner_of(&connect.client_id))
            }
        }
    }

    fn may_publish(&self, link: &Link, topic: &str) -> bool {
        let allowed = link.rights().may_publish(topic);
        if !allowed {
            self.deny_publish(topic);
            if link.version() == Version::V311 {
                link.end(End::Denied);
            }
        }
        allowed
    }

    /// The engine publishes a delayed will from a task of its own and raises no event, but it asks here first.
    async fn may_publish_late(&self, client: &str, user: Option<&str>, topic: &str) -> bool {
        let rights = self.doorman.rights_of(user);
        let allowed = rights.may_publish(topic);
        if allowed {
            let has_line = user.is_some_and(|user| self.doorman.has(user));
            self.events.delayed_will(client, has_line.then_some(rights)).await;
        } else {
            self.deny_publish(topic);
        }
        allowed
    }

    fn deny_publish(&self, topic: &str) {
        self.metrics.count(Metric::PublishesDenied);
        debug!(topic = shown(topic), "publication denied");
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        let allowed = link::current().is_some_and(|link| link.rights().may_subscribe(filter));
        if !allowed {
            self.metrics.count(Metric::SubscriptionsDenied);
            debug!(filter = shown(filter), "subscription denied");
        }
        allowed
    }
}

/// The word for a refusal in CONNACK. Of wrong credentials MQTT 3.1.1 clients are told 5, "not authorised", as by
/// mosquitto; of a limited address and a crowded user 3, "server unavailable", after which they try again later.
fn reason_of(refusal: Refusal, version: Version) -> ReasonCode {
    match (refusal, version) {
        (Refusal::Credentials, Version::V5) => ReasonCode::BadUsernameOrPassword,
        (Refusal::Credentials | Refusal::Nameless, _) => ReasonCode::NotAuthorized,
        (Refusal::Limited, _) => ReasonCode::ConnectionRateExceeded,
        (Refusal::Crowded, _) => ReasonCode::QuotaExceeded,
    }
}

impl AuthProvider for Rules {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = mqtt5::Result<AuthResult>> + Send + 'a>> {
        Box::pin(async move { Ok(self.admit(connect, peer).await) })
    }

    fn authorize_publish<'a>(
        &'a self,
        client_id: &str,
        user_id: Option<&'a str>,
        topic: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        match link::current() {
            Some(link) => Box::pin(ready(self.may_publish(&link, topic))),
            None => {
                let client: Arc<str> = client_id.into();
                Box::pin(async move { self.may_publish_late(&client, user_id, topic).await })
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
}

//! Who is let in, and with which session: a new one, the one that was kept, or that of a connection which it takes over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::Hub;
use super::leave::Leaving;
use super::registry::Turn;
use super::session::{Feed, Own, Session};
use crate::broker::connection::Link;
use crate::broker::identity::{CLIENT_ID_MAX, Caller, Place, assigned, session_key};
use crate::broker::refusals::{Refusal, Refused};
use crate::broker::session::{Incoming, Queue, Window};
use crate::broker::wire::{self, Connect, Version};
use crate::chat::access::Rights;
use crate::mqtt::Change;
use crate::ops::clock::now_ms;
use crate::store::{Message, SessionRecord, StoreError, Will};

/// How long the log-in may take, and the wait for the session as long again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a session that is on disk waits for the disk to know of its new connection, and a will for its place there.
pub(super) const DISK: Duration = Duration::from_secs(1);
/// How long the connection before may take to end.
const TAKE_OVER: Duration = Duration::from_secs(5);
/// A session that is kept for ever (MQTT 5, 3.1.2.11.2).
pub(super) const FOREVER: u32 = u32::MAX;

pub(crate) struct Admitted {
    pub(crate) session: Arc<Session>,
    /// What of it is the connection's.
    pub(crate) own: Own,
    /// The session is that of a connection before this one.
    pub(crate) present: bool,
    /// The client id that it was given.
    pub(crate) assigned: Option<Arc<str>>,
    /// How long the session is kept without a connection, in seconds.
    pub(crate) expiry_s: u32,
    pub(crate) rights: Rights,
    /// As long as it lives, no other connection takes the session over: until the CONNACK is written.
    pub(crate) turn: Turn,
    /// Among the connections of its user, until it is dropped.
    pub(crate) place: Option<Place>,
}

/// Who somebody turned out to be.
struct Visitor {
    caller: Caller,
    key: Arc<str>,
    user: Option<Arc<str>>,
    client: Arc<str>,
    assigned: bool,
    place: Option<Place>,
}

impl Hub {
    /// Lets a client in.
    ///
    /// # Errors
    ///
    /// If it may not come in.
    pub(crate) async fn admit(self: &Arc<Self>, connect: &Connect<'_>, link: &Arc<Link>) -> Result<Admitted, Refused> {
        let busy = |_late| Refused::from(Refusal::Busy);
        let visitor = timeout(PATIENCE, self.identify(connect, link)).await.map_err(busy)??;
        // Claimed after the log-in, so that a client that is not authenticated holds up no session.
        let turn = timeout(PATIENCE, self.registry.claim(&visitor.key)).await.map_err(busy)?;
        self.end_former(&visitor.key, connect.clean).await?;
        let mut former = self.registry.session(&visitor.key);
        if let Some(session) = former.take_if(|session| connect.clean || session.is_expired(now_ms())) {
            self.end_session(&session).await;
        }
        let present = former.is_some();
        let session = former.unwrap_or_else(|| self.new_session(&visitor));
        let expiry_s = self.expiry(connect.session_expiry_s);
        let own = self.take(&session, connect, &visitor, link);
        if self.keep(&session, expiry_s).await.is_err() {
            self.leave(&session, link, own, Leaving::Broke).await;
            return Err(Refusal::NotStored.into());
        }
        self.tell_sighting(&session, link, Change::Came).await;
        for Feed { queue, member } in session.feeds() {
            match member {
                Some(_) => self.attach_member(&queue, link).await,
                None => queue.attach(link),
            }
            if present {
                queue.read(Queue::look_for_topics);
            }
        }
        let Visitor { caller, client, assigned, place, .. } = visitor;
        Ok(Admitted {
            own,
            present,
            assigned: assigned.then_some(client),
            expiry_s,
            rights: caller.rights(),
            turn,
            place,
            session,
        })
    }

    async fn identify(&self, connect: &Connect<'_>, link: &Arc<Link>) -> Result<Visitor, Refused> {
        let (client, is_assigned) = client_id(connect)?;
        if connect.has_auth_method {
            return Err(Refusal::AuthMethod.into());
        }
        let address = link.who().address.ip();
        let caller = self.authenticator.login(connect.user, connect.password, address).await?;
        let user = match &caller {
            Caller::Anonymous => None,
            Caller::Known(identity, _) => Some(Arc::clone(&identity.user)),
        };
        let key: Arc<str> = session_key(user.as_deref(), &client).into();
        let (all, of_user) = self.registry.count(user.as_deref());
        let is_full = all >= self.limits.sessions || of_user >= self.limits.sessions_per_user;
        if is_full && self.registry.session(&key).is_none() {
            return Err(Refusal::Sessions.into());
        }
        let place = self.authenticator.enter(&caller, &key, link)?;
        if let Some(user) = &user {
            // A token need not come with a user name.
            link.set_who(link.who().as_user(user));
        }
        if let Some(expires_ms) = caller.expires_ms() {
            link.set_expires_ms(expires_ms);
        }
        Ok(Visitor { caller, key, user, client, assigned: is_assigned, place })
    }

    /// Ends the connection that has the session, wholly: its will has been dealt with when this is over.
    async fn end_former(&self, key: &str, clean: bool) -> Result<(), Refused> {
        let Some(former) = self.registry.session(key).and_then(|session| {
            let mut state = session.lock();
            state.ends_by_take_over = clean;
            state.link.clone()
        }) else {
            return Ok(());
        };
        former.end(Refusal::TakenOver);
        timeout(TAKE_OVER, former.wait_gone()).await.map_err(|_late| Refused::from(Refusal::Busy))
    }

    fn new_session(&self, Visitor { key, user, client, .. }: &Visitor) -> Arc<Session> {
        let session = Session::new(Arc::clone(key), user.clone(), Arc::clone(client), self.new_queue(key));
        self.registry.add(&session);
        session
    }

    /// The session is this connection's.
    fn take(&self, session: &Arc<Session>, connect: &Connect<'_>, visitor: &Visitor, link: &Arc<Link>) -> Own {
        self.delayed.cancel(session);
        session.queue.set_rights(visitor.caller.rights());
        let mut state = session.lock();
        let mut own = state.own.take().map_or_else(|| self.new_own(), |own| *own);
        own.window.resume(connect.receive_maximum);
        self.registry.connect(link);
        state.link = Some(Arc::clone(link));
        state.left_ms = None;
        state.ends_by_take_over = false;
        state.caller = Some(visitor.caller.clone());
        state.will = self.will(connect, visitor, link).map(Box::new);
        own
    }

    pub(super) fn new_own(&self) -> Own {
        Own { window: Window::new(self.limits.inflight), incoming: Incoming::default() }
    }

    /// Puts the session on disk, if it is to outlive its connection. One that was and no longer does stays there until its
    /// end.
    async fn keep(&self, session: &Session, expiry_s: u32) -> Result<(), StoreError> {
        let will = {
            let mut state = session.lock();
            state.expiry_s = expiry_s;
            state.will.as_deref().cloned()
        };
        if expiry_s == 0 && session.queue.stored().is_none() {
            return Ok(());
        }
        let record = SessionRecord {
            key: session.key.to_string(),
            user: session.user.as_deref().map(str::to_owned),
            client: session.client.to_string(),
            expiry_s,
        };
        let kept = self.store.keep_session(record, will).await?;
        if session.queue.stored().is_some() {
            // While the disk refuses, the session goes on as it is in memory.
            return timeout(DISK, kept).await.map_or(Ok(()), |kept| kept.map(drop));
        }
        let id = kept.await?;
        self.registry.stored_as(id, &session.queue);
        Ok(())
    }

    /// How long a session is kept without a connection: as the client wishes, within the limit.
    pub(super) fn expiry(&self, asked_s: u32) -> u32 {
        let longest = u32::try_from(self.limits.session_expiry.as_secs()).unwrap_or(FOREVER);
        asked_s.min(longest)
    }

    /// The will of a CONNECT. One that its client may not write is refused, and never published.
    fn will(&self, connect: &Connect<'_>, visitor: &Visitor, link: &Link) -> Option<Will> {
        let wire::Will { topic, payload, qos, retain, properties, .. } = connect.will.as_ref()?;
        if !visitor.caller.rights().may_publish(topic) {
            self.refusals.tell(Refusal::WillTopic, &link.who(), topic);
            return None;
        }
        let message = Message {
            topic: (*topic).into(),
            payload: Bytes::copy_from_slice(payload),
            properties: Bytes::copy_from_slice(&properties.forwarded),
            qos: *qos,
            retain: *retain,
            expires_at: properties.expiry_s.map(|seconds| u64::from(seconds) * 1_000),
        };
        Some(Will { message, delay_s: properties.delay_s })
    }
}

/// What the client is called, as it wishes, as long as that is not too long; and whether the name was given to it.
fn client_id(connect: &Connect<'_>) -> Result<(Arc<str>, bool), Refused> {
    match connect.client {
        // [MQTT-3.1.3-8] of 3.1.1: without an id nobody could find the session again. MQTT 5 tells the client its id.
        "" if connect.version == Version::V311 && !connect.clean => Err(Refusal::ClientIdMissing.into()),
        "" => Ok((assigned(rand::random()).into(), true)),
        id if id.len() > CLIENT_ID_MAX => Err(Refusal::ClientIdLength.with(format!("{} bytes", id.len()))),
        id => Ok((id.into(), false)),
    }
}

//! Who is let in, and with which session: a new one, the one that was kept, or that of a connection which it takes over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::Hub;
use super::leave::Leaving;
use super::registry::SessionClaim;
use super::session::{PacketIds, SendQueue, Session};
use super::visible::VisibleUsers;
use crate::broker::connection::ConnectionHandle;
use crate::broker::identity::{
    CLIENT_ID_MAX, Caller, LoginPermit, assigned, background_key, device_of, is_background, session_key,
};
use crate::broker::refusals::{Refusal, Refused};
use crate::broker::session::{Incoming, Queue, Window};
use crate::broker::wire::{self, Connect, Version};
use crate::chat::access::Rights;
use crate::chat::principal::Role;
use crate::mqtt::ClientChange;
use crate::ops::clock::now_ms;
use crate::store::{Message, SessionRecord, Will};

/// How long the log-in may take, and the wait for the session as long again.
pub(super) const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a session that is on disk waits for the disk to know of its new connection, and a will for its place there.
pub(super) const DISK: Duration = Duration::from_secs(1);
/// How long the connection before may take to end.
pub(super) const TAKE_OVER: Duration = Duration::from_secs(5);
/// A session that is kept for ever (MQTT 5, 3.1.2.11.2).
pub(super) const FOREVER: u32 = u32::MAX;

pub(crate) struct Admitted {
    pub(crate) session: Arc<Session>,
    /// What of it is the connection's.
    pub(crate) packet_ids: PacketIds,
    /// The session is that of a connection before this one.
    pub(crate) present: bool,
    /// The client id that it was given.
    pub(crate) assigned: Option<Arc<str>>,
    /// How long the session is kept without a connection, in seconds.
    pub(crate) expiry_s: u32,
    pub(crate) rights: Rights,
    /// As long as it lives, no other connection takes the session over: until the CONNACK is written.
    pub(crate) claim: SessionClaim,
    /// Among the connections of its user, until it is dropped.
    pub(crate) login_permit: Option<LoginPermit>,
}

/// Who somebody turned out to be.
struct IdentifiedClient {
    caller: Caller,
    key: Arc<str>,
    user: Option<Arc<str>>,
    client: Arc<str>,
    assigned: bool,
    /// A connection of a device in the background: it has a session of its own, which nobody else takes.
    background: bool,
    login_permit: Option<LoginPermit>,
}

impl Hub {
    /// Lets a client in.
    ///
    /// # Errors
    ///
    /// If it may not come in.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        connect: &Connect<'_>,
        handle: &Arc<ConnectionHandle>,
    ) -> Result<Admitted, Refused> {
        let busy = |_late| Refused::from(Refusal::Busy);
        let identified = timeout(LOGIN_TIMEOUT, self.identify(connect, handle)).await.map_err(busy)??;
        // Claimed after the log-in, so that a client that is not authenticated holds up no session.
        let claim = timeout(LOGIN_TIMEOUT, self.registry.claim(&identified.key)).await.map_err(busy)?;
        self.end_former(&identified.key, connect.clean).await?;
        let mut former = self.registry.session(&identified.key);
        if let Some(session) = former.take_if(|session| connect.clean || session.is_expired(now_ms())) {
            self.end_session(&session).await;
        }
        let expiry_s = if identified.background { 0 } else { self.expiry(connect.session_expiry_s) };
        let (role, is_kept) = (identified.caller.role(), former.as_ref().is_some_and(|session| session.is_kept()));
        let room = match identified.user.as_deref().filter(|_| role == Some(Role::User) && expiry_s > 0 && !is_kept) {
            Some(user) => Some(self.make_room_to_keep(user, &identified.key).await?),
            None => None,
        };
        let present = former.is_some();
        let session = former.unwrap_or_else(|| self.new_session(&identified));
        let before = session.wishes();
        let visible = self.visible_to(identified.user.as_ref(), role).await;
        let packet_ids = self.take(&session, connect, (&identified, visible), handle);
        // Asked again: whoever is erased since the log-in was not among the connections that are put out then, and is from here on.
        let is_erased = identified.user.as_deref().is_some_and(|user| self.store.is_erased(user));
        let kept = match is_erased {
            true => Err(Refusal::Credentials),
            false => self.keep_subscribed(&session, expiry_s, &identified.caller).await,
        };
        drop(room);
        let autosubscribed = match kept {
            Ok(autosubscribed) => autosubscribed,
            Err(refusal) => {
                // Its client was not let in: the session is what it was, and one that was not there ends.
                session.put_back(before);
                self.leave(&session, handle, packet_ids, Leaving::Broke).await;
                return Err(refusal.into());
            }
        };
        for SendQueue { queue, member } in session.send_queues() {
            match member {
                Some(_) => self.attach_member(&queue, handle).await,
                None => queue.attach(handle),
            }
            if present || autosubscribed {
                queue.read(Queue::look_for_topics);
            }
        }
        // From now on what is published for this device alone reaches it.
        self.tell_sighting(&session, handle, (ClientChange::Came, present)).await;
        let IdentifiedClient { caller, client, assigned, login_permit, .. } = identified;
        Ok(Admitted {
            packet_ids,
            present,
            assigned: assigned.then_some(client),
            expiry_s,
            rights: caller.rights(),
            claim,
            login_permit,
            session,
        })
    }

    async fn identify(
        &self,
        connect: &Connect<'_>,
        handle: &Arc<ConnectionHandle>,
    ) -> Result<IdentifiedClient, Refused> {
        let (client, is_assigned) = client_id(connect)?;
        if connect.has_auth_method {
            return Err(Refusal::AuthMethod.into());
        }
        let address = handle.who().address.ip();
        let caller = self.authenticator.login(connect.user, connect.password, address).await?;
        let user = match &caller {
            Caller::Anonymous => None,
            Caller::Known(identity, _) => Some(Arc::clone(&identity.user)),
        };
        if user.as_deref().is_some_and(|user| self.store.is_erased(user)) {
            return Err(Refusal::Credentials.with("the user was erased, and the name is not free".to_owned()));
        }
        let of_background = |user: &Arc<str>| caller.role() == Some(Role::User) && is_background(user, &client);
        let (background, key) = match user.as_ref().filter(|user| of_background(user)) {
            Some(user) => (true, background_key(user, handle.number())),
            None => (false, session_key(user.as_deref(), &client)),
        };
        let key: Arc<str> = key.into();
        let (all, of_user) = self.registry.count(user.as_deref());
        let is_full = all >= self.limits.sessions || of_user >= self.limits.sessions_per_user;
        // One in the background counts as a connection only.
        if is_full && !background && self.registry.session(&key).is_none() {
            return Err(Refusal::Sessions.into());
        }
        let login_permit = self.authenticator.enter(&caller, &key, handle)?;
        if let Some(user) = &user {
            // A token need not come with a user name.
            handle.set_who(handle.who().as_user(user));
            handle.set_owner(Arc::clone(user), device_of(user, &client).into());
        }
        if let Some(expires_ms) = caller.expires_ms() {
            handle.set_expires_ms(expires_ms);
        }
        Ok(IdentifiedClient { caller, key, user, client, assigned: is_assigned, background, login_permit })
    }

    /// Ends the connection that has the session, wholly: its will has been dealt with when this is over.
    async fn end_former(&self, key: &str, clean: bool) -> Result<(), Refused> {
        let Some(former) = self.registry.session(key).and_then(|session| {
            let mut state = session.lock();
            state.ends_by_take_over = clean;
            state.handle.clone()
        }) else {
            return Ok(());
        };
        former.end(Refusal::TakenOver);
        timeout(TAKE_OVER, former.wait_gone()).await.map_err(|_late| Refused::from(Refusal::Busy))
    }

    fn new_session(&self, identified: &IdentifiedClient) -> Arc<Session> {
        let IdentifiedClient { key, user, client, background, .. } = identified;
        let (queue, client) = (self.new_queue(key), Arc::clone(client));
        if let Some(user) = user.as_ref().filter(|_| *background) {
            return Session::in_background(Arc::clone(key), Arc::clone(user), client, queue);
        }
        let session = Session::new(Arc::clone(key), user.clone(), client, queue);
        self.registry.add(&session);
        session
    }

    /// The session is this connection's.
    fn take(
        &self,
        session: &Arc<Session>,
        connect: &Connect<'_>,
        (identified, visible): (&IdentifiedClient, Option<Arc<VisibleUsers>>),
        handle: &Arc<ConnectionHandle>,
    ) -> PacketIds {
        self.delayed_wills.cancel(session);
        session.queue.set_rights(identified.caller.rights(), visible);
        let mut state = session.lock();
        let mut packet_ids = state.packet_ids.take().map_or_else(|| self.new_packet_ids(), |packet_ids| *packet_ids);
        packet_ids.window.resume(connect.receive_maximum);
        self.registry.connect(handle);
        state.handle = Some(Arc::clone(handle));
        state.left_ms = None;
        state.ends_by_take_over = false;
        state.caller = Some(identified.caller.clone());
        state.will = self.will(connect, identified, handle).map(|will| Box::new(will.into()));
        packet_ids
    }

    pub(super) fn new_packet_ids(&self) -> PacketIds {
        PacketIds { window: Window::new(self.limits.inflight), incoming: Incoming::default() }
    }

    /// Puts the session on disk, if it is to outlive its connection, takes it out of groups that it may not be in any more, and
    /// subscribes a device to what it has without asking. Yields whether it has that.
    async fn keep_subscribed(
        self: &Arc<Self>,
        session: &Arc<Session>,
        expiry_s: u32,
        caller: &Caller,
    ) -> Result<bool, Refusal> {
        self.keep(session, expiry_s).await?;
        self.leave_denied_groups(session, &caller.rights()).await?;
        self.autosubscribe(session, caller.role()).await
    }

    /// Puts the session on disk, if it is to outlive its connection. One that was and no longer does stays there until its
    /// end.
    async fn keep(&self, session: &Session, expiry_s: u32) -> Result<(), Refusal> {
        let (will, login) = {
            let mut state = session.lock();
            state.expiry_s = expiry_s;
            (state.will.as_ref().map(|will| will.will.clone()), state.caller.as_ref().and_then(Caller::to_kept))
        };
        if expiry_s == 0 && session.queue.stored().is_none() {
            return Ok(());
        }
        let record = SessionRecord {
            key: session.key.to_string(),
            user: session.user.as_deref().map(str::to_owned),
            client: session.client.to_string(),
            expiry_s,
            login,
        };
        let not_stored = |_| Refusal::NotStored;
        // What the session is sent counts as sent from this verb on: without it, copies would not be marked.
        let asked = timeout(DISK, self.store.keep_session(record, will)).await;
        let kept = asked.map_err(|_late| Refusal::NotStored)?.map_err(not_stored)?;
        if session.queue.stored().is_some() {
            // While the disk refuses, the session goes on as it is in memory.
            return timeout(DISK, kept).await.map_or(Ok(()), |kept| kept.map(drop).map_err(not_stored));
        }
        let id = kept.await.map_err(not_stored)?;
        self.registry.stored_as(id, &session.queue);
        Ok(())
    }

    /// How long a session is kept without a connection: as the client wishes, within the limit.
    pub(super) fn expiry(&self, asked_s: u32) -> u32 {
        let longest = u32::try_from(self.limits.session_expiry.as_secs()).unwrap_or(FOREVER);
        asked_s.min(longest)
    }

    /// The will of a CONNECT. One that its client may not write is refused, and never published; that of a connection in the
    /// background, whose end means nothing, is ignored.
    fn will(&self, connect: &Connect<'_>, identified: &IdentifiedClient, handle: &ConnectionHandle) -> Option<Will> {
        let will = connect.will.as_ref().filter(|_| !identified.background)?;
        let wire::Will { topic, payload, qos, retain, properties, .. } = will;
        if !identified.caller.rights().may_publish(topic) {
            self.refusals.report(Refusal::WillTopic, &handle.who(), topic);
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

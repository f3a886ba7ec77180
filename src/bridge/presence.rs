//! Who of the chat users is there: `{user}/self/presence`, retained, written by the bridge for all devices of a user.
//!
//! ```text
//!   broker ──Sighting──▶ ┌───────────────┐ ──commit──▶ store
//!   Intake ─Presence───▶ │ UserPresences │
//!                        └───────────────┘ ──Outbound, retained──▶ broker
//! ```
//!
//! The embedded broker says who comes and goes, and clients may say that they hide or that nobody looks at them; with a
//! broker of others, births and wills say who is connected ([`crate::chat::presence`]). A change is written down before it
//! is published, so that what a crash cuts off is put right at the next start, and what a broker of others has lost when it is
//! there again. What clients say is taken in at once, however long the documents are on their way: nobody else waits for them.
//! What BALs say of themselves goes to [`BalPresences`], which decides whether messages are published or held (topics.md,
//! "When a BAL is away"). The embedded broker knows better who reads what: with it no BAL counts as away.

mod bals;
mod questions;
mod schedule;

pub(super) use self::bals::BalPresences;
use self::questions::{Question, Questions};
use self::schedule::{Due, Schedule};
use super::chat::tell_late;
use super::context::Context;
use super::intake::Remaining;
use super::settings::PublishedPresence;
use crate::chat::id::Owner;
use crate::chat::message::{Presence, UserPresence};
use crate::chat::presence::{DeviceChange, End, Evidence};
use crate::chat::principal::Role;
use crate::chat::topic::{ClientTopic, Device};
use crate::mqtt::{Ack, AckWord, BrokerLink, ClientChange, Sighting};
use crate::ops::clock::{Clock, at, every};
use crate::store::{LastPresence, PresenceChange, StoreError};
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryFutureExt};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What clients say that may wait to be taken in; beyond it the intake waits.
pub(super) const PRESENCES: usize = 256;
/// Most documents on their way, one per user. The others wait in the schedule, where the last word of each user counts.
const PENDING_MAX: usize = 256;
/// Most questions of which the store is asked at one time; the others wait, each once.
const ASKED_MAX: usize = 64;
/// How often the store is told that the bridge runs, while any chat user is known. After a crash `last_seen` may be too
/// early by so much.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// BALs that are noted as away by one verb.
const AWAY_AT_ONCE: usize = 1_000;

/// What a client published about itself on a presence topic.
#[derive(Debug)]
pub(super) struct PresencePublish {
    pub(super) owner: Owner,
    pub(super) device: Option<Device>,
    /// None: it takes back what it said.
    pub(super) presence: Option<Presence>,
    pub(super) ack: Ack,
}

/// What else is to be known of users: said by those parts of the bridge that learn it.
#[derive(Debug)]
pub(super) enum PresenceWord {
    /// A client said something.
    Said(PresencePublish),
    /// The user wants to be seen by nobody, or again by those who may.
    Hide(Owner, bool),
    /// A device has registered a token, or has none any more.
    Token(Owner, Device, bool),
    /// The user is erased: nothing more is told.
    Erased(Owner),
}

/// What came of something that was asked for.
enum Done {
    /// A user's document was on its way.
    Told {
        user: Owner,
        published: bool,
    },
    /// Whether a device has a token.
    Token(Owner, Device, bool),
    Nothing,
}

pub(super) struct UserPresences {
    context: Arc<Context>,
    broker_link: watch::Receiver<BrokerLink>,
    /// Grows when the broker has forgotten the session of the bridge, and perhaps what it kept.
    sessions: watch::Receiver<u64>,
    schedule: Schedule,
    clock: Clock,
    /// What was said before the start, or before the broker has lost it. The grace of those who were online begins when they can
    /// come back: when the broker is up.
    before: Option<Vec<LastPresence>>,
    /// That is to be asked of the store.
    has_lost: bool,
    /// Documents on their way. Of one that is cleared nothing is to be remembered.
    pending: FuturesUnordered<BoxFuture<'static, Result<Done, StoreError>>>,
    questions: Questions,
    asked: FuturesUnordered<BoxFuture<'static, Result<Done, StoreError>>>,
    heartbeat: Option<BoxFuture<'static, Result<(), StoreError>>>,
}

impl UserPresences {
    pub(super) fn new(context: Arc<Context>, broker_link: watch::Receiver<BrokerLink>) -> Self {
        let grace = u64::try_from(context.settings.presence_grace.as_millis()).unwrap_or(u64::MAX);
        let evidence = if context.broker.sees_clients { Evidence::Connections } else { Evidence::Births };
        let (schedule, clock, sessions) =
            (Schedule::new(evidence, grace), Clock::new(), context.broker_sessions.clone());
        Self {
            context,
            broker_link,
            sessions,
            schedule,
            clock,
            before: None,
            has_lost: false,
            pending: FuturesUnordered::new(),
            questions: Questions::default(),
            asked: FuturesUnordered::new(),
            heartbeat: None,
        }
    }

    /// Works until `stop`. What is not published by then is published after the next start.
    pub(super) async fn run(
        mut self,
        mut sightings: mpsc::Receiver<Sighting>,
        mut words: mpsc::Receiver<PresenceWord>,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.before = Some(self.context.store.last_presences(now).await?.await?);
        for user in self.context.store.chat_hidden().await?.await? {
            self.schedule.is_hidden(user);
        }
        let mut heartbeats = every(HEARTBEAT);
        loop {
            if std::mem::take(&mut self.has_lost) {
                let now = self.clock.now();
                self.before = Some(self.context.store.last_presences(now).await?.await?);
            }
            let deadline = self.begin();
            let heartbeat = self.heartbeat.is_none() && !self.schedule.is_empty();
            tokio::select! {
                // Sightings before what clients say: a client speaks only after its coming was told, and is known by then. A
                // loss before both.
                biased;
                () = stop.cancelled() => break,
                Ok(()) = self.sessions.changed() => self.look_at_session(),
                Some(done) = self.asked.next() => self.done(done?),
                Some(done) = self.pending.next() => self.done(done?),
                Some(sighting) = sightings.recv() => self.on_sighting(&sighting).await?,
                Some(word) = words.recv() => self.on_word(word),
                Ok(()) = self.broker_link.changed(), if self.before.is_some() => {}
                Some(done) = OptionFuture::from(self.heartbeat.as_mut()) => {
                    self.heartbeat = None;
                    done?;
                }
                _ = heartbeats.tick(), if heartbeat => {
                    let (context, now) = (Arc::clone(&self.context), self.clock.now());
                    self.heartbeat = Some(Box::pin(async move { context.store.still_alive(now).await?.await }));
                }
                () = at(deadline.map(|ms| self.clock.instant(ms))) => {}
            }
        }
        if self.schedule.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        self.context.store.still_alive(now).await?.await
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Told { user, published } => self.schedule.told(&user, published, self.clock.now()),
            Done::Token(user, device, has_token) => {
                self.schedule.token(&user, &device, has_token);
                // It has come to a broker that gives this to all devices: they know it by its sid.
                self.questions.push(Question::Late(user, None));
            }
            Done::Nothing => {}
        }
    }

    /// Where the broker has lost what it kept, all is to be told again, and whoever was there has to say so again.
    fn look_at_session(&mut self) {
        self.sessions.mark_unchanged();
        let now = self.clock.now();
        // At the first time nothing was told, and what was said before the start is known already.
        self.has_lost = self.before.is_none();
        for (user, device, connection) in self.schedule.broker_lost(now) {
            self.context.attentions.gone(&user, &device, connection, now);
        }
    }

    /// Sends off what is due; when to look again.
    fn begin(&mut self) -> Option<u64> {
        let now = self.clock.now();
        if *self.broker_link.borrow_and_update() == BrokerLink::Up {
            for last in self.before.take().into_iter().flatten() {
                self.schedule.recover(last, now);
            }
        }
        while self.asked.len() < ASKED_MAX
            && let Some(question) = self.questions.pop()
        {
            self.asked.push(Box::pin(ask(Arc::clone(&self.context), question, now)));
        }
        while self.pending.len() < PENDING_MAX {
            let context = Arc::clone(&self.context);
            match self.schedule.next(now) {
                Some(due) if context.settings.chat.presence == PublishedPresence::None => {
                    self.schedule.told(&due.user, true, now);
                }
                Some(due) => self.pending.push(Box::pin(tell(context, due))),
                None => match self.schedule.next_cleared() {
                    Some((user, device)) => self.pending.push(Box::pin(clear(context, user, device))),
                    None => return self.schedule.deadline(),
                },
            }
        }
        None
    }

    async fn on_sighting(&mut self, sighting: &Sighting) -> Result<(), StoreError> {
        // A BAL says itself how it is. A name that cannot be a topic level has no topic for it.
        let (Role::User, Ok(user)) = (sighting.role, Owner::new(&*sighting.user)) else { return Ok(()) };
        // The broker makes such a name of every client id.
        let Ok(device) = Device::new(&*sighting.device) else { return Ok(()) };
        let (connection, now) = (sighting.connection, self.clock.now());
        let end = match sighting.change {
            ClientChange::Came => {
                self.context.attentions.came(&user, &device, connection, now);
                self.schedule.came(&user, &device, connection, now);
                // It reads what it missed by itself, so pushes go to it one by one again.
                let _committed = self.context.store.chat_device_spoke(user.clone(), device.clone(), now).await?;
                if !sighting.resumed {
                    self.questions.push(Question::Late(user, Some(device)));
                }
                return Ok(());
            }
            ClientChange::Left => End::Left,
            ClientChange::Broke => End::Broke,
        };
        self.context.attentions.gone(&user, &device, connection, now);
        self.schedule.gone(&user, &device, connection, end, now);
        Ok(())
    }

    fn on_word(&mut self, word: PresenceWord) {
        // It may have come since that was looked at, and what is said now was said after it.
        if self.sessions.has_changed().unwrap_or(false) {
            self.look_at_session();
        }
        let now = self.clock.now();
        match word {
            PresenceWord::Said(publish) => self.take(publish),
            // What an erased user still wanted is not for whoever has the name next.
            PresenceWord::Hide(user, _) if self.context.store.is_erased(user.as_str()) => {}
            PresenceWord::Hide(user, hidden) => self.schedule.hide(&user, hidden, now),
            PresenceWord::Token(user, device, has_token) => self.schedule.token(&user, &device, has_token),
            PresenceWord::Erased(user) => self.schedule.erased(&user),
        }
    }

    fn take(&mut self, publish: PresencePublish) {
        let PresencePublish { owner, device, presence, ack } = publish;
        let now = self.clock.now();
        let attentions = &self.context.attentions;
        for (device, change) in self.schedule.said(&owner, device.as_ref(), presence.as_ref(), now) {
            match change {
                DeviceChange::Came(connection) => {
                    attentions.came(&owner, &device, connection, now);
                    self.questions.push(Question::Token(owner.clone(), device));
                }
                DeviceChange::Gone(connection) => attentions.gone(&owner, &device, connection, now),
                DeviceChange::Active(active) => attentions.active(&owner, &device, active, now),
                DeviceChange::Unsaid => attentions.unsaid(&owner, &device, now),
            }
        }
        ack.release(AckWord::Done);
    }
}

/// A BAL says how it is at a broker of others: now, or as that has kept it (`is_kept`). What remains is that it is on disk.
pub(super) async fn bal_said(
    context: &Context,
    said: PresencePublish,
    is_kept: bool,
) -> Result<(Remaining, Ack), StoreError> {
    let PresencePublish { owner, device, presence, ack } = said;
    let session = *context.broker_sessions.borrow();
    let told = context.bal_presences.tell((&owner, device.as_ref()), presence.as_ref(), is_kept, session);
    let Some(is_away) = told else { return Ok((Box::pin(ready(Ok(Some(AckWord::Done)))), ack)) };
    // The next start has to know it: the broker may not deliver all that it keeps. The store is asked although nothing may have
    // changed: the same word may come once more before that which came first is on disk.
    let committed = context.store.bal_changed(owner, is_away).await?;
    Ok((Box::pin(committed.map_ok(|()| Some(AckWord::Done))), ack))
}

/// A broker of others has lost the session of the bridge: BALs of which it may have lost the presence count as away, and the
/// next start has to know that.
pub(super) async fn session_lost(context: &Context) -> Result<(), StoreError> {
    let session = *context.broker_sessions.borrow();
    for away in context.bal_presences.session_lost(session).chunks(AWAY_AT_ONCE) {
        // Nobody is told that it is so.
        let _committed = context.store.bals_gone(away.to_vec()).await?;
    }
    Ok(())
}

/// Writes a document down and publishes it.
async fn tell(context: Arc<Context>, due: Due) -> Result<Done, StoreError> {
    let Due { user, document, hidden } = due;
    if context.store.is_erased(user.as_str()) {
        return Ok(Done::Told { user, published: true });
    }
    let UserPresence { state, ts: at, last_seen } = document;
    let change = PresenceChange { user: user.clone(), state, last_seen, at };
    let last_seen = context.store.presence_changed(change).await?.await?.filter(|_| !hidden);
    let payload = UserPresence { last_seen, ..document }.to_payload();
    let published = context.publish_retained(&ClientTopic::Presence(user.clone(), None), payload).await;
    tracing::debug!(%user, ?state, published, "presence of a user told");
    Ok(Done::Told { user, published })
}

/// Clears what the broker keeps of a device that went.
async fn clear(context: Arc<Context>, user: Owner, device: Device) -> Result<Done, StoreError> {
    if context.store.is_erased(user.as_str()) {
        return Ok(Done::Nothing);
    }
    context.publish_retained(&ClientTopic::Presence(user, Some(device)), Vec::new()).await;
    Ok(Done::Nothing)
}

/// Asks the store.
async fn ask(context: Arc<Context>, question: Question, now: u64) -> Result<Done, StoreError> {
    match question {
        Question::Late(user, device) => tell_late(context, user, device, now).await.map(|()| Done::Nothing),
        Question::Token(user, device) => {
            let known = context.store.chat_devices(user.clone()).await?.await?;
            let has_token = known.iter().any(|known| known.dev == device);
            Ok(Done::Token(user, device, has_token))
        }
    }
}

#[cfg(test)]
mod tests;

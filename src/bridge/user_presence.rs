//! Who of the chat users is there: `{user}/self/presence`, retained, written by the bridge for all devices of a user.
//!
//! ```text
//!   broker ──Sighting──▶ ┌────────────┐ ──commit──▶ store
//!   Intake ────Word────▶ │ UserPresence │
//!                        └────────────┘ ──Outbound, retained──▶ broker
//! ```
//!
//! The embedded broker says who comes and goes, and clients may say that they hide ([`crate::chat::presence`]). A change
//! is written down before it is published, so that what a crash cuts off is put right at the next start. Words of
//! everybody else (BALs, and all clients of an external broker) are passed on to [`BalPresences`].

mod book;
mod clock;

use self::book::{Book, Errand, Fate, Speaker};
use self::clock::Clock;
use super::bal_presence::BalPresences;
use super::context::Context;
use crate::chat::id::Owner;
use crate::chat::message::{BrokerKind, Presence, UserPresence};
use crate::chat::presence::End;
use crate::chat::topic::{ClientTopic, Device};
use crate::mqtt::{Ack, AckWord, BrokerLink, Change, Outbound, Outcome, Role, Sighting};
use crate::ops::clock::{at, every};
use crate::store::{LastPresence, PresenceChange, Store, StoreError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Words that may wait; beyond it the intake waits.
pub(super) const WORDS: usize = 256;
/// Most documents on their way, one per user.
const TELLINGS_MAX: usize = 256;
/// How often it is written down that the bridge runs, while there is somebody to be seen: that is by how much `last_seen`
/// may be too early after a crash.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// What somebody said about itself on a presence topic.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) owner: Owner,
    pub(super) device: Option<Device>,
    pub(super) topic: String,
    /// None: it takes back what it said.
    pub(super) presence: Option<Presence>,
    pub(super) ack: Ack,
}

/// The task.
pub(super) struct UserPresences {
    context: Arc<Context>,
    bal_presences: BalPresences,
    publish: mpsc::Sender<Outbound>,
    broker_link: watch::Receiver<BrokerLink>,
    book: Book,
    clock: Clock,
    /// What was said before the start. The grace of those who were online begins when they can come back: with the
    /// door of the embedded broker.
    before: Option<Vec<LastPresence>>,
    tellings: FuturesUnordered<BoxFuture<'static, Result<(Owner, Fate), StoreError>>>,
    sign: Option<BoxFuture<'static, Result<(), StoreError>>>,
}

impl UserPresences {
    pub(super) fn new(
        context: Arc<Context>,
        bal_presences: BalPresences,
        publish: mpsc::Sender<Outbound>,
        broker_link: watch::Receiver<BrokerLink>,
    ) -> Self {
        let grace = u64::try_from(context.settings.presence_grace.as_millis()).unwrap_or(u64::MAX);
        Self {
            context,
            bal_presences,
            publish,
            broker_link,
            book: Book::new(grace),
            clock: Clock::new(),
            before: None,
            tellings: FuturesUnordered::new(),
            sign: None,
        }
    }

    /// Works until `stop`. What is not published by then is published after the next start.
    pub(super) async fn run(
        mut self,
        mut sightings: mpsc::Receiver<Sighting>,
        mut words: mpsc::Receiver<Word>,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        if self.context.settings.broker == BrokerKind::Embedded {
            let now = self.clock.now();
            self.before = Some(self.context.store.last_presences(now).await?.await?);
        }
        let mut signs = every(SIGN_OF_LIFE);
        loop {
            let deadline = self.begin();
            tokio::select! {
                // Sightings before words: a client speaks only after its coming was told, and is known by then.
                biased;
                () = stop.cancelled() => break,
                Some(told) = self.tellings.next() => {
                    let ((user, fate), now) = (told?, self.clock.now());
                    self.book.told(&user, fate, now);
                }
                Some(sighting) = sightings.recv() => self.saw(&sighting),
                Some(word) = words.recv() => self.heard(word),
                Ok(()) = self.broker_link.changed(), if self.before.is_some() => {}
                done = pending(&mut self.sign), if self.sign.is_some() => {
                    self.sign = None;
                    done?;
                }
                _ = signs.tick(), if self.sign.is_none() => self.show_life(),
                () = at(deadline.map(|ms| self.clock.instant(ms))) => {}
            }
        }
        self.show_life();
        if self.sign.is_some() {
            pending(&mut self.sign).await?;
        }
        Ok(())
    }

    /// Sends off what is due; when to look again.
    fn begin(&mut self) -> Option<u64> {
        let now = self.clock.now();
        if *self.broker_link.borrow_and_update() == BrokerLink::Up {
            for last in self.before.take().into_iter().flatten() {
                self.book.recover(last, now);
            }
        }
        while self.tellings.len() < TELLINGS_MAX {
            let Some(errand) = self.book.next(now) else { return self.book.deadline() };
            self.tellings.push(Box::pin(tell(self.context.store.clone(), self.publish.clone(), errand)));
        }
        None
    }

    fn saw(&mut self, sighting: &Sighting) {
        // A BAL says itself how it is. A name that cannot be a topic level has no topic for it.
        let (Role::User, Ok(user)) = (sighting.role, Owner::new(&*sighting.user)) else { return };
        let (device, connection, now) = (&*sighting.device, sighting.connection, self.clock.now());
        match sighting.change {
            Change::Came => self.book.came(&user, device, connection, now),
            Change::Left => self.book.gone(&user, device, connection, End::Left, now),
            Change::Broke => self.book.gone(&user, device, connection, End::Broke, now),
        }
    }

    fn heard(&mut self, word: Word) {
        let Word { owner, device, topic, presence, ack } = word;
        let now = self.clock.now();
        if self.book.said(&owner, device.as_ref(), presence.as_ref(), now) == Speaker::Stranger {
            self.bal_presences.tell(owner, topic, presence);
        }
        ack.release(AckWord::Done);
    }

    fn show_life(&mut self) {
        if self.book.is_empty() {
            return;
        }
        let (store, now) = (self.context.store.clone(), self.clock.now());
        self.sign = Some(Box::pin(async move { store.still_alive(now).await?.await }));
    }
}

/// Writes a document down and publishes it.
async fn tell(store: Store, publish: mpsc::Sender<Outbound>, errand: Errand) -> Result<(Owner, Fate), StoreError> {
    let Errand { user, document } = errand;
    let UserPresence { state, ts: at, last_seen } = document;
    let change = PresenceChange { user: user.clone(), state, last_seen, at };
    let last_seen = store.presence_changed(change).await?.await?;
    let (outcome_tx, outcome) = oneshot::channel();
    let outbound = Outbound {
        topic: ClientTopic::Presence(user.clone(), None).to_string(),
        payload: UserPresence { last_seen, ..document }.to_payload().into(),
        qos: 1,
        retain: true,
        expiry: None,
        correlation: None,
        resume: true,
        mark_copy: None,
        outcome: outcome_tx,
    };
    // If the broker is gone, the outcome is as well.
    let _ = publish.send(outbound).await;
    let fate = match outcome.await {
        Ok(Outcome::Confirmed | Outcome::Kept) => Fate::Published,
        Ok(Outcome::NoReader | Outcome::Unsent | Outcome::Lost) | Err(_) => Fate::Failed,
    };
    tracing::debug!(%user, ?state, ?fate, "presence of a user told");
    Ok((user, fate))
}

async fn pending(sign: &mut Option<BoxFuture<'static, Result<(), StoreError>>>) -> Result<(), StoreError> {
    match sign {
        Some(sign) => sign.await,
        None => std::future::pending().await,
    }
}

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
//! is published, so that what a crash cuts off is put right at the next start. What BALs say of themselves on a broker of
//! others goes to [`bals`].

pub(super) mod bals;
mod schedule;

use self::schedule::{Due, Schedule};
use super::context::Context;
use super::settings::PublishedPresence;
use crate::chat::id::Owner;
use crate::chat::message::{Presence, UserPresence};
use crate::chat::presence::{DeviceChange, End, Evidence};
use crate::chat::principal::Role;
use crate::chat::topic::{ClientTopic, Device};
use crate::mqtt::{Ack, AckWord, BrokerLink, ClientChange, Outbound, Outcome, Sighting};
use crate::ops::clock::{Clock, at, every};
use crate::store::{LastPresence, PresenceChange, StoreError};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What clients say that may wait to be taken in; beyond it the intake waits.
pub(super) const PRESENCES: usize = 256;
/// Most documents on their way, one per user.
const PENDING_MAX: usize = 256;
/// How often the store is told that the bridge runs, while any chat user is known. After a crash `last_seen` may be too
/// early by so much.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What a client published about itself on a presence topic.
#[derive(Debug)]
pub(super) struct PresencePublish {
    pub(super) owner: Owner,
    pub(super) device: Option<Device>,
    /// None: it takes back what it said.
    pub(super) presence: Option<Presence>,
    pub(super) ack: Ack,
}

/// What became of a user's document.
struct Told {
    user: Owner,
    published: bool,
}

pub(super) struct UserPresences {
    context: Arc<Context>,
    broker_link: watch::Receiver<BrokerLink>,
    schedule: Schedule,
    clock: Clock,
    /// What was said before the start. The grace of those who were online begins when they can come back: when the broker
    /// is up.
    before: Option<Vec<LastPresence>>,
    /// Documents on their way. Of one that is cleared nothing is to be remembered.
    pending: FuturesUnordered<BoxFuture<'static, Result<Option<Told>, StoreError>>>,
    heartbeat: Option<BoxFuture<'static, Result<(), StoreError>>>,
}

impl UserPresences {
    pub(super) fn new(context: Arc<Context>, broker_link: watch::Receiver<BrokerLink>) -> Self {
        let grace = u64::try_from(context.settings.presence_grace.as_millis()).unwrap_or(u64::MAX);
        let evidence = if context.broker.sees_clients { Evidence::Connections } else { Evidence::Births };
        let (schedule, clock, pending) = (Schedule::new(evidence, grace), Clock::new(), FuturesUnordered::new());
        Self { context, broker_link, schedule, clock, before: None, pending, heartbeat: None }
    }

    /// Works until `stop`. What is not published by then is published after the next start.
    pub(super) async fn run(
        mut self,
        mut sightings: mpsc::Receiver<Sighting>,
        mut presences: mpsc::Receiver<PresencePublish>,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.before = Some(self.context.store.last_presences(now).await?.await?);
        let mut heartbeats = every(HEARTBEAT);
        loop {
            let deadline = self.begin();
            let heartbeat = self.heartbeat.is_none() && !self.schedule.is_empty();
            tokio::select! {
                // Sightings before what clients say: a client speaks only after its coming was told, and is known by then.
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.pending.next() => {
                    if let Some(Told { user, published }) = done? {
                        self.schedule.told(&user, published, self.clock.now());
                    }
                }
                Some(sighting) = sightings.recv() => self.on_sighting(&sighting).await?,
                Some(publish) = presences.recv() => self.take(publish),
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

    /// Sends off what is due; when to look again.
    fn begin(&mut self) -> Option<u64> {
        let now = self.clock.now();
        if *self.broker_link.borrow_and_update() == BrokerLink::Up {
            for last in self.before.take().into_iter().flatten() {
                self.schedule.recover(last, now);
            }
        }
        while self.pending.len() < PENDING_MAX {
            if let Some((user, device)) = self.schedule.next_cleared() {
                self.pending.push(Box::pin(clear(Arc::clone(&self.context), user, device)));
                continue;
            }
            let Some(due) = self.schedule.next(now) else { return self.schedule.deadline() };
            if self.context.settings.chat.presence == PublishedPresence::None {
                self.schedule.told(&due.user, true, now);
                continue;
            }
            self.pending.push(Box::pin(tell(Arc::clone(&self.context), due)));
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
                let _committed = self.context.store.chat_device_spoke(user, device, now).await?;
                return Ok(());
            }
            ClientChange::Left => End::Left,
            ClientChange::Broke => End::Broke,
        };
        self.context.attentions.gone(&user, &device, connection, now);
        self.schedule.gone(&user, &device, connection, end, now);
        Ok(())
    }

    fn take(&mut self, publish: PresencePublish) {
        let PresencePublish { owner, device, presence, ack } = publish;
        let now = self.clock.now();
        let attentions = &self.context.attentions;
        for (device, change) in self.schedule.said(&owner, device.as_ref(), presence.as_ref(), now) {
            match change {
                DeviceChange::Came(connection) => attentions.came(&owner, &device, connection, now),
                DeviceChange::Gone(connection) => attentions.gone(&owner, &device, connection, now),
                DeviceChange::Active(active) => attentions.active(&owner, &device, active, now),
                DeviceChange::Unsaid => attentions.unsaid(&owner, &device, now),
            }
        }
        ack.release(AckWord::Done);
    }
}

/// Writes a document down and publishes it.
async fn tell(context: Arc<Context>, due: Due) -> Result<Option<Told>, StoreError> {
    let Due { user, document, hidden } = due;
    let UserPresence { state, ts: at, last_seen } = document;
    let change = PresenceChange { user: user.clone(), state, last_seen, at };
    let last_seen = context.store.presence_changed(change).await?.await?.filter(|_| !hidden);
    let payload = UserPresence { last_seen, ..document }.to_payload();
    let published = publish(&context, ClientTopic::Presence(user.clone(), None), payload).await;
    tracing::debug!(%user, ?state, published, "presence of a user told");
    Ok(Some(Told { user, published }))
}

/// Clears what a broker of others keeps of a device. If that fails, the will of the device stays, which says the same.
async fn clear(context: Arc<Context>, user: Owner, device: Device) -> Result<Option<Told>, StoreError> {
    publish(&context, ClientTopic::Presence(user, Some(device)), Vec::new()).await;
    Ok(None)
}

/// Publishes a retained document; whether the broker has it.
async fn publish(context: &Context, topic: ClientTopic, payload: Vec<u8>) -> bool {
    let (outbound, outcome) = Outbound::new(topic, payload);
    // If the broker is gone, the outcome is as well.
    let _ = context.publish.send(Outbound { retain: true, ..outbound }).await;
    matches!(outcome.await, Ok(Outcome::Confirmed))
}

#[cfg(test)]
mod tests;

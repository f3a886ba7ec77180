//! Publishes the stored documents of each topic to an external broker, in order, and has the store forget each once it is
//! confirmed; not used with the embedded broker, which reads the store itself.
//!
//! Documents are messages of devices, statuses and errors. Each topic has a [`TopicWindow`]: the store holds the documents,
//! the window only knows how far they are published.

use super::Stops;
use super::context::{Context, oldest};
use super::count_told;
use super::topic_window::{PublishFlags, TopicWindow};
use crate::chat::message::mark_redelivered;
use crate::mqtt::{BrokerLink, Outbound, Outcome};
use crate::ops::clock::{every, now_ms};
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{AckedBy, DocumentRef, OutboxDocument, Seen, StoreError};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryFutureExt};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Most documents asked of the store at one time, per topic.
const FETCH: usize = 256;
/// Most topics that are worked on; further ones wait until others are done.
pub(super) const WINDOWS_MAX: usize = if cfg!(test) { 8 } else { 10_000 };
/// How long an explicit acknowledgement may take before a newly come reader gets the message again.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked for readers whose time for any of that is over, and for windows that are free again.
const ROUND_EVERY: Duration = Duration::from_millis(200);
/// Most confirmed documents whose removal is put into one operation.
const FORGET: usize = 256;
/// How long a stop waits for outstanding confirmations.
const CONFIRMATIONS_WAIT: Duration = Duration::from_secs(2);
/// How long it waits for the broker to close, which answers everything.
const CLOSE_WAIT: Duration = Duration::from_secs(8);

/// One topic's window, and what is on its way for it.
struct Track {
    topic_window: TopicWindow,
    /// The store may have more documents behind the window's cursor.
    more: bool,
    fetching: bool,
    /// Its documents stay until they are acknowledged explicitly, and are published again to who comes back.
    explicit: bool,
    /// Its owner has come back, and wants again what it has not acknowledged.
    repeat: bool,
    /// The broker said that nobody reads it: the next reader is the owner who comes back.
    unread: bool,
    /// When something was last confirmed.
    confirmed_at: Instant,
}

/// What the store has on a topic behind document `after`.
struct Fetched {
    topic: Arc<str>,
    after: u64,
    documents: Vec<OutboxDocument>,
}

pub(super) struct Publisher {
    context: Arc<Context>,
    broker_link: watch::Receiver<BrokerLink>,
    connections: watch::Receiver<u64>,
    /// The connection for which it was looked who is there: what is for BALs is held, or goes out on this one alone.
    connection: u64,
    /// The broker was up when that was looked at last.
    is_up: bool,
    /// That has changed since.
    link_changed: bool,
    readers: watch::Receiver<u64>,
    tracks: HashMap<Arc<str>, Track>,
    /// Topics with documents for which there was no window.
    postponed: BTreeSet<Arc<str>>,
    /// All windows are taken, as far as is known.
    full: bool,
    fetches: FuturesUnordered<BoxFuture<'static, Result<Fetched, StoreError>>>,
    answers: FuturesUnordered<BoxFuture<'static, (DocumentRef, Outcome)>>,
    outgoing: VecDeque<Outbound>,
    confirmed: Vec<DocumentRef>,
    /// Topics without a reader whose documents were all answered: the store is to learn that they were not handed out.
    unread: Vec<Arc<str>>,
    forgetting: VecDeque<(BoxFuture<'static, Result<(), StoreError>>, ())>,
}

impl Publisher {
    pub(super) fn new(
        context: Arc<Context>,
        (broker_link, connections): (watch::Receiver<BrokerLink>, watch::Receiver<u64>),
        readers: watch::Receiver<u64>,
    ) -> Self {
        Self {
            context,
            broker_link,
            connections,
            connection: 0,
            is_up: false,
            link_changed: false,
            readers,
            tracks: HashMap::new(),
            postponed: BTreeSet::new(),
            full: false,
            fetches: FuturesUnordered::new(),
            answers: FuturesUnordered::new(),
            outgoing: VecDeque::new(),
            confirmed: Vec::new(),
            unread: Vec::new(),
            forgetting: VecDeque::new(),
        }
    }

    /// Publishes until it is stopped, then waits until what is confirmed is forgotten as well. What is not confirmed
    /// stays in the store. `announced` is given when nobody else publishes any more.
    pub(super) async fn run(mut self, stops: Stops, announced: CancellationToken) -> Result<(), StoreError> {
        let context = Arc::clone(&self.context);
        let mut presences = context.bal_presences.changed();
        let mut rounds = every(ROUND_EVERY);
        self.look_at_everything().await?;
        while !stops.publish.is_cancelled() {
            self.forget(false).await?;
            self.report_unread().await?;
            self.fetch().await?;
            let open = self.look_at_link();
            tokio::select! {
                () = stops.publish.cancelled() => break,
                (forgotten, ()) = oldest(&mut self.forgetting) => forgotten?,
                Some(fetched) = self.fetches.next() => self.fetched(fetched?),
                Some((reference, outcome)) = self.answers.next() => self.answered(reference, outcome),
                permit = context.publish.reserve(), if open && !self.outgoing.is_empty() => {
                    let Ok(permit) = permit else { break };
                    if let Some(outbound) = self.outgoing.pop_front() {
                        permit.send(Outbound { connection: Some(self.connection), ..outbound });
                    }
                }
                topics = context.store.topics_with_documents() => {
                    for topic in topics {
                        self.look_at(topic.into());
                    }
                }
                changed = self.readers.changed() => match changed {
                    Ok(()) => self.look_at_everything().await?,
                    Err(_) => break,
                },
                changed = self.broker_link.changed() => {
                    self.link_changed = true;
                    if changed.is_err() { break }
                }
                _ = presences.changed() => {
                    self.owners_returned();
                    self.look_at_everything().await?;
                }
                _ = rounds.tick() => {
                    context.bal_presences.look_at_births(Instant::now());
                    self.repeat();
                    self.look_at_postponed();
                }
            }
        }
        self.wind_up(stops, announced).await
    }

    /// Whether the broker is up. When it has come up, who is away is not known at first: what is about to be published then
    /// waits. Those who acknowledge explicitly may have lost what they were given, and what was set aside is tried once more.
    fn look_at_link(&mut self) -> bool {
        // Before the link. What goes out for a connection that is over by then comes back unsent.
        self.connection = *self.connections.borrow();
        // It may have gone and come back meanwhile.
        let has_changed = std::mem::take(&mut self.link_changed) || self.broker_link.has_changed().unwrap_or(false);
        let is_up = *self.broker_link.borrow_and_update() == BrokerLink::Up;
        let was_up = std::mem::replace(&mut self.is_up, is_up);
        if was_up && (has_changed || !is_up) {
            self.context.bal_presences.broker_down();
        }
        if !is_up || was_up && !has_changed {
            return is_up;
        }
        let context = Arc::clone(&self.context);
        if !context.broker.sees_clients {
            let session = *context.broker_sessions.borrow();
            context.bal_presences.broker_up(Instant::now(), context.settings.births, session);
            let holds = |outbound: &Outbound| !outbound.dropped_unread && context.bal_presences.holds(&outbound.topic);
            let held: VecDeque<Outbound>;
            (held, self.outgoing) = std::mem::take(&mut self.outgoing).into_iter().partition(holds);
            for outbound in held {
                let _ = outbound.outcome.send(Outcome::Unsent);
            }
        }
        for track in self.tracks.values_mut() {
            track.repeat |= track.explicit && track.topic_window.cursor() > 0;
            // The broker may take on this connection what was too big for it.
            track.topic_window.connected();
            track.more |= track.topic_window.goes_back();
        }
        self.repeat();
        true
    }

    /// Those who came back and acknowledge explicitly get again what they have not acknowledged.
    fn owners_returned(&mut self) {
        let returned = self.context.bal_presences.take_returned();
        for (topic, track) in self.tracks.iter_mut().filter(|(_, track)| track.explicit) {
            track.repeat |= topic.split('/').next().is_some_and(|owner| returned.contains(owner));
        }
    }

    /// Readers may have come for any topic: all that have documents in the store are looked at.
    async fn look_at_everything(&mut self) -> Result<(), StoreError> {
        for topic in self.context.store.topics_to_publish().await?.await? {
            self.look_at(topic.into());
        }
        for track in self.tracks.values_mut() {
            track.topic_window.readers_changed();
        }
        self.repeat();
        Ok(())
    }

    /// Begins anew with the topics of those who came back and had time enough to acknowledge what they have.
    fn repeat(&mut self) {
        for track in self.tracks.values_mut().filter(|track| track.repeat) {
            let quiet = track.topic_window.idle() && !track.fetching && track.confirmed_at.elapsed() > ACK_WAIT;
            if quiet {
                track.repeat = false;
                track.more = true;
                track.topic_window.restart();
            }
        }
    }

    fn look_at(&mut self, topic: Arc<str>) {
        if self.tracks.len() >= WINDOWS_MAX && !self.tracks.contains_key(&topic) && !self.make_place() {
            self.postponed.insert(topic);
            return;
        }
        let settings = &self.context.settings;
        let track = self.tracks.entry(topic).or_insert_with_key(|topic| Track {
            topic_window: TopicWindow::new(settings.limits.topic_window),
            more: true,
            fetching: false,
            explicit: settings.is_explicit(topic),
            repeat: false,
            unread: false,
            confirmed_at: Instant::now(),
        });
        track.more = true;
    }

    /// Lets windows go that have nothing to do, or wait for a reader or an owner: when one comes, all topics are looked at.
    fn make_place(&mut self) -> bool {
        if !self.full {
            let done = |track: &Track| {
                let resting = !track.more || track.topic_window.held();
                resting && !track.fetching && !track.explicit && track.topic_window.may_be_forgotten()
            };
            self.tracks.retain(|_, track| !done(track));
            self.full = self.tracks.len() >= WINDOWS_MAX;
        }
        !self.full
    }

    /// Looks at the topics for which there was no window, as far as there is one now.
    fn look_at_postponed(&mut self) {
        self.full = false;
        while !self.full {
            let Some(topic) = self.postponed.pop_first() else { return };
            self.look_at(topic);
        }
    }

    /// Asks the store for the documents that windows have room for.
    async fn fetch(&mut self) -> Result<(), StoreError> {
        let window = self.context.settings.limits.topic_window.min(FETCH);
        let wanting: Vec<Arc<str>> = self
            .tracks
            .iter()
            .filter(|(_, track)| {
                let room = track.topic_window.room();
                // A nearly full window is left until a good part of it is free: fewer and larger looks into the store.
                let worth_it = room > 0 && (track.topic_window.idle() || room.min(FETCH) * 4 >= window);
                track.more && !track.fetching && worth_it
            })
            .map(|(topic, _)| topic.clone())
            .collect();
        if wanting.is_empty() {
            return Ok(());
        }
        // A window that went back must not be shown again what was confirmed behind the failure.
        self.forget(true).await?;
        for topic in wanting {
            let Some(track) = self.tracks.get_mut(&topic) else { continue };
            track.fetching = true;
            track.more = false;
            // Of an owner for whom all is held it is only asked whether the next one is held for it.
            let most = if self.context.bal_presences.holds(&topic) { 1 } else { FETCH };
            let (after, room) = (track.topic_window.cursor(), track.topic_window.room().min(most));
            let committed = self.context.store.next_to_publish(Arc::clone(&topic), after, room).await?;
            self.fetches.push(Box::pin(committed.map_ok(move |documents| Fetched { topic, after, documents })));
        }
        Ok(())
    }

    fn fetched(&mut self, fetched: Fetched) {
        let Fetched { topic, after, documents } = fetched;
        let Some(track) = self.tracks.get_mut(&topic) else { return };
        track.fetching = false;
        if track.topic_window.cursor() != after {
            // The window went back meanwhile: what lies between comes first.
            track.more = true;
            return;
        }
        track.more |= !documents.is_empty();
        let is_held = self.context.bal_presences.holds(&topic);
        for document in documents {
            if is_held && !document.reference.origin.is_dropped_unread() {
                return self.hold(topic);
            }
            // The window may have broken while the store was asked.
            let Some(track) = self.tracks.get_mut(&topic).filter(|track| track.topic_window.room() > 0) else { return };
            let flags = track.topic_window.take(document.reference.seq);
            self.send(document, flags);
        }
    }

    /// The owner of the topic is away, or that is not known yet, and its next document is held for it: until a presence changes,
    /// when all topics are looked at, or another document comes.
    fn hold(&mut self, topic: Arc<str>) {
        let Some(track) = self.tracks.get_mut(&topic) else { return };
        track.more = false;
        if track.topic_window.idle() {
            self.unread.push(topic);
        }
    }

    fn send(&mut self, document: OutboxDocument, flags: PublishFlags) {
        let OutboxDocument { reference, payload, correlation, redelivered, expires_at } = document;
        if expires_at.is_some_and(|at| at <= now_ms()) {
            // Nobody needs it any more.
            self.answers.push(Box::pin(ready((reference, Outcome::Confirmed))));
            return;
        }
        let again = flags.again || redelivered;
        if again {
            self.context.metrics.count(Metric::Republished);
        }
        // Whatever cannot be marked is published as it is.
        let marked = if again { mark_redelivered(&payload) } else { None };
        let (outbound, outcome) = Outbound::new(&reference.topic, marked.map_or(payload, Into::into));
        let dropped_unread = reference.origin.is_dropped_unread();
        self.outgoing.push_back(Outbound { correlation, dropped_unread, expires_at, resume: flags.resume, ..outbound });
        self.answers.push(Box::pin(answer(reference, outcome)));
    }

    fn answered(&mut self, reference: DocumentRef, outcome: Outcome) {
        let Some(track) = self.tracks.get_mut(&reference.topic) else { return };
        let outcome = match outcome {
            Outcome::NoReader | Outcome::SetAside if reference.origin.is_dropped_unread() => Outcome::Confirmed,
            other => other,
        };
        let is_confirmed = track.topic_window.answered(reference.seq, outcome);
        track.more |= track.topic_window.goes_back();
        if is_confirmed {
            track.confirmed_at = Instant::now();
            track.repeat |= track.explicit && std::mem::take(&mut track.unread);
            self.context.metrics.count(Metric::Published);
            tracing::debug!(target: message_log::TARGET, topic = &*reference.topic, "published and confirmed");
            self.confirmed.push(reference);
            return;
        }
        track.more = true;
        if track.topic_window.held() && track.topic_window.idle() && !track.fetching {
            self.unread.push(Arc::clone(&reference.topic));
        }
        if outcome == Outcome::NoReader {
            track.unread = true;
            self.context.metrics.count(Metric::PublishHeld);
            tracing::debug!(target: message_log::TARGET, topic = &*reference.topic, "nobody reads the topic: held on disk");
        }
    }

    /// Tells the store that what it gave for topics without a reader was not handed out, so that a status that still waits
    /// there is known not to have been told. Before anything more is fetched for them.
    async fn report_unread(&mut self) -> Result<(), StoreError> {
        if self.unread.is_empty() {
            return Ok(());
        }
        let tracks = &self.tracks;
        let seen = |topic| tracks.get(&topic).map(|track| Seen { seq: track.topic_window.seen(), topic });
        let seen = std::mem::take(&mut self.unread).into_iter().filter_map(seen).collect();
        self.forgetting.push_back((Box::pin(self.context.store.handed_out_up_to(seen).await?), ()));
        Ok(())
    }

    /// Has the store forget the confirmed documents. They gather while an earlier removal is on its way, up to [`FORGET`];
    /// `all` does not wait for that.
    async fn forget(&mut self, all: bool) -> Result<(), StoreError> {
        let quiet = self.forgetting.is_empty();
        if self.confirmed.is_empty() || !(quiet || all || self.confirmed.len() >= FORGET) {
            return Ok(());
        }
        let confirmed = std::mem::take(&mut self.confirmed);
        // A confirmation does not name its reader, whichever broker gives it: that may be one with QoS 0, an admin's tool, or
        // nobody, where a document is bigger than every reader takes.
        let committed = self.context.store.documents_acked(confirmed, AckedBy::Broker, now_ms()).await?;
        let context = Arc::clone(&self.context);
        let told = committed.map_ok(move |told| told.iter().for_each(|(_, what)| count_told(&context.metrics, what)));
        self.forgetting.push_back((Box::pin(told), ()));
        Ok(())
    }

    /// Takes the last confirmations, so that what was confirmed is not published again after the next start; then lets the
    /// broker close and takes its answers for the rest.
    async fn wind_up(&mut self, stops: Stops, announced: CancellationToken) -> Result<(), StoreError> {
        for outbound in self.outgoing.drain(..) {
            let _ = outbound.outcome.send(Outcome::Unsent);
        }
        self.take_answers(CONFIRMATIONS_WAIT).await;
        announced.cancelled().await;
        stops.quiet.cancel();
        self.take_answers(CLOSE_WAIT).await;
        self.forget(true).await?;
        while !self.forgetting.is_empty() {
            oldest(&mut self.forgetting).await.0?;
        }
        let known = self.tracks.iter().filter(|(_, track)| track.topic_window.idle());
        let seen = known.map(|(topic, track)| Seen { topic: topic.clone(), seq: track.topic_window.seen() }).collect();
        self.context.store.handed_out_up_to(seen).await?.await
    }

    /// Takes answers until all have come or `longest` is over.
    async fn take_answers(&mut self, longest: Duration) {
        let _ = timeout(longest, async {
            while let Some((reference, outcome)) = self.answers.next().await {
                self.answered(reference, outcome);
            }
        })
        .await;
    }
}

async fn answer(reference: DocumentRef, outcome: oneshot::Receiver<Outcome>) -> (DocumentRef, Outcome) {
    (reference, outcome.await.unwrap_or(Outcome::Lost))
}

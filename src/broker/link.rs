//! What the gate and the event handler of one connection tell each other.
//!
//! Both run inside the engine's task of that connection, one after the other, but the engine knows of neither: the gate
//! is its socket, the event handler its callback. They meet here, through a task-local value.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use mqtt5::WillMessage;
use tokio::sync::{SetOnce, oneshot};

use super::confirm::{Ledger, mark};
use super::frames::connect::Connect;
use super::frames::{Frame, Version};
#[cfg(test)]
use super::identity::Proof;
use super::identity::{Caller, Place};
use super::refusals::{Refusal, Who};
use super::turns::Turn;
use crate::chat::access::Rights;
use crate::chat::principal::Identity;
use crate::mqtt::{AckWord, Change, MarkCopy, Sighting};

mod naming;
mod will;

pub(super) use naming::{ChosenBy, Name};

/// The number of the last connection of this process.
static LAST: AtomicU64 = AtomicU64::new(0);

tokio::task_local! {
    /// The connection that the current task serves.
    pub(super) static LINK: Arc<Link>;
}

/// The connection of the current task. None in the engine's own tasks, such as that of a delayed will.
pub(super) fn current() -> Option<Arc<Link>> {
    LINK.try_with(Arc::clone).ok()
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    number: u64,
    ledger: Arc<Ledger>,
    /// When the token ends with which the client came, in Unix milliseconds.
    expires_ms: SetOnce<u64>,
    /// A lock because the engine wants its socket `Sync`, and because others may end or nudge the connection. It is hardly ever
    /// contended: one task uses all the rest of it, and it is not held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connect: Option<Connect>,
    /// For the lines of what is refused.
    who: Option<Who>,
    start: Option<Start>,
    publish_rate: Option<NonZeroU32>,
    /// The key of the session.
    client: Option<Arc<str>>,
    name: Option<Name>,
    rights: Rights,
    /// Who was let in.
    caller: Option<Caller>,
    /// On the roster, as long as the connection lives.
    place: Option<Place>,
    end: Option<Refusal>,
    denied: Option<Refusal>,
    /// It was told why the connection ends.
    end_told: bool,
    /// The task of the connection, which has to see the end and the nudge.
    waker: Option<Waker>,
    /// That the connection began, as the bridge was told, until it is told of the end.
    told: Option<Sighting>,
    in_hand: InHand,
    /// Filters of the packet in hand that were refused before the engine saw them.
    replaced: usize,
    /// What the bridge will say about each message that is not acknowledged yet, by packet identifier.
    words: HashMap<u16, oneshot::Receiver<AckWord>>,
    /// Publications of the bridge that are on the way to this client, by packet identifier.
    sent: HashMap<u16, u64>,
    /// The last of them: they leave in the order of their numbers.
    last: u64,
    /// A PUBLISH of the client of which the engine has not asked yet whether the client may.
    unasked: bool,
    /// The will that is published when the connection breaks.
    will: Option<WillMessage>,
    /// With which rights it may be.
    will_rights: Option<Rights>,
    /// The engine is to look up.
    nudged: bool,
    /// Among the connections of its client, until it ends.
    turn: Option<Turn>,
}

/// What the engine's event leaves out of the PUBLISH that it has in hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct InHand {
    /// Its message expiry, in seconds.
    pub(super) expiry: Option<u32>,
    /// Its flag DUP.
    pub(super) dup: bool,
}

/// How a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Fresh,
    Resumed,
}

/// What the gate has to do with a PUBLISH of the engine.
#[derive(Debug, Clone, Copy)]
pub(super) enum Passing {
    /// Pass it on.
    AsItIs,
    /// Pass it on, and tell when it is on the socket: nothing else will be heard of this publication.
    TellWritten(u64),
    /// Pass it on with its payload marked.
    Marked(MarkCopy),
    /// Drop it: the client may not read its topic.
    Withheld {
        /// 0, 1 or 2: what the engine waits for.
        qos: u8,
        /// Of the packet.
        id: Option<u16>,
    },
}

impl Link {
    pub(super) fn new(ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            number: LAST.fetch_add(1, Relaxed) + 1,
            ledger,
            expires_ms: SetOnce::new(),
            state: Mutex::default(),
        })
    }

    /// The connection of an anonymous client.
    #[cfg(test)]
    pub(super) fn of_anybody(ledger: Arc<Ledger>) -> Arc<Self> {
        let link = Self::new(ledger);
        link.admit(&Caller::Anonymous, None);
        link
    }

    /// The connection of somebody who logged in.
    #[cfg(test)]
    pub(super) fn of(identity: Identity, ledger: Arc<Ledger>) -> Arc<Self> {
        let link = Self::new(ledger);
        link.admit(&Caller::Known(identity, Proof::Token { expires_ms: u64::MAX }), None);
        link
    }

    /// The client is who it says.
    pub(super) fn admit(&self, caller: &Caller, place: Option<Place>) {
        if let Some(expires_ms) = caller.expires_ms() {
            // A second time cannot come: a connection has one CONNECT.
            let _ = self.expires_ms.set(expires_ms);
        }
        let mut state = self.lock();
        state.rights = caller.rights();
        state.caller = Some(caller.clone());
        if let (Rights::Known(identity), Some(who)) = (&state.rights, &state.who) {
            state.who = Some(who.as_user(&identity.user));
        }
        state.place = place;
    }

    /// What the client may do; nothing before it was admitted.
    pub(super) fn rights(&self) -> Rights {
        self.lock().rights.clone()
    }

    /// Who the client is, if it logged in.
    pub(super) fn identity(&self) -> Option<Identity> {
        match &self.lock().rights {
            Rights::Known(identity) => Some(identity.clone()),
            Rights::Anonymous | Rights::Nobody => None,
        }
    }

    /// Waits until it is known when the client's token ends; forever if it has none.
    pub(super) async fn expires_ms(&self) -> u64 {
        *self.expires_ms.wait().await
    }

    /// Ends the connection: at once, or because a message was denied ([MQTT-3.3.5-2] has no other word for it in 3.1.1) as
    /// soon as the acknowledgements that are held have left.
    pub(super) fn end(&self, end: Refusal) {
        let mut state = self.lock();
        // To be thrown out is the stronger one.
        if state.end.is_none_or(|before| before == Refusal::PublishDenied) {
            state.end = Some(end);
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Whether the connection is to end.
    pub(super) fn ending(&self) -> Option<Refusal> {
        self.lock().end
    }

    /// As [`Self::ending`], and wakes the task of `cx` should it change.
    pub(super) fn poll_ending(&self, cx: &Context<'_>) -> Option<Refusal> {
        let mut state = self.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        state.end
    }

    /// The biggest packet that the client takes.
    pub(super) fn max_packet(&self) -> Option<usize> {
        self.lock().connect?.max_packet.map(|size| usize::try_from(size).unwrap_or(usize::MAX))
    }

    /// The protocol version; MQTT 5 until a CONNECT said otherwise, as the engine has it.
    pub(super) fn version(&self) -> Version {
        self.lock().version()
    }

    /// How many messages per second the client may publish; as many as it likes if nothing is set.
    pub(super) fn publish_rate(&self) -> Option<NonZeroU32> {
        self.lock().publish_rate
    }

    pub(super) fn set_publish_rate(&self, rate: Option<NonZeroU32>) {
        self.lock().publish_rate = rate;
    }

    /// The CONNACK that goes out says how the session begins.
    pub(super) fn began(&self, start: Start) {
        self.lock().start = Some(start);
    }

    /// Whether the client has its CONNACK.
    pub(super) fn has_begun(&self) -> bool {
        self.lock().start.is_some()
    }

    /// How the session began.
    pub(super) fn start(&self) -> Start {
        self.lock().start.unwrap_or(Start::Fresh)
    }

    /// Keeps its turn for as long as it lives.
    pub(super) fn keep(&self, turn: Turn) {
        self.lock().turn = Some(turn);
    }

    /// The session is this connection's.
    pub(super) fn claimed(&self) {
        if let Some(turn) = &mut self.lock().turn {
            turn.claim();
        }
    }

    /// Names the session. Nothing is delivered to it before.
    pub(super) fn identify(&self, client: Arc<str>) {
        self.lock().client = Some(client);
    }

    /// The connection is about to be served: what the bridge is to be told, if anything.
    pub(super) fn came(&self) -> Option<Sighting> {
        let Identity { user, role } = self.identity()?;
        let mut state = self.lock();
        let Name { client, device, .. } = state.name.clone()?;
        let came = Sighting { user, role, client, device: device?, connection: self.number, change: Change::Came };
        state.told = Some(came.clone());
        Some(came)
    }

    /// The connection has ended: what the bridge is to be told, once, and only if it was told of the beginning.
    pub(super) fn ended(&self, change: Change) -> Option<Sighting> {
        let came = self.lock().told.take()?;
        Some(Sighting { change, ..came })
    }

    /// Has the engine look up: it forgets to when a connection before this one has put away what it had in hand, and
    /// would deliver nothing until the client sends something.
    pub(super) fn nudge(&self) {
        let mut state = self.lock();
        state.nudged = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Whether there was a [`Self::nudge`] since the last time.
    pub(super) fn take_nudge(&self) -> bool {
        std::mem::take(&mut self.lock().nudged)
    }

    /// A PUBLISH of the client is about to reach the engine.
    pub(super) fn saw_publish_of_client(&self, frame: &Frame) {
        let publish = frame.publish(self.version());
        let in_hand = publish.map(|publish| InHand { expiry: publish.expiry, dup: publish.dup });
        let mut state = self.lock();
        (state.in_hand, state.unasked) = (in_hand.unwrap_or_default(), true);
    }

    /// The engine gets a packet in which so many filters were replaced.
    pub(super) fn saw_filters_replaced(&self, filters: usize) {
        self.lock().replaced = filters;
    }

    /// How many of the filters of the SUBSCRIBE in hand were replaced.
    pub(super) fn filters_replaced(&self) -> usize {
        self.lock().replaced
    }

    /// What is to be known of the PUBLISH in hand.
    pub(super) fn in_hand(&self) -> InHand {
        self.lock().in_hand
    }

    /// The acknowledgement of `id` is to wait for `word`.
    pub(super) fn hold(&self, id: u16, word: oneshot::Receiver<AckWord>) {
        self.lock().words.insert(id, word);
    }

    /// What the acknowledgement of `id` has to wait for.
    pub(super) fn take_word(&self, id: u16) -> Option<oneshot::Receiver<AckWord>> {
        self.lock().words.remove(&id)
    }

    /// The engine sends this PUBLISH to the client: if it is one of the bridge's, watch for its acknowledgement.
    pub(super) fn saw_publish_to_client(&self, frame: &Frame) -> Passing {
        let mut state = self.lock();
        let Some(client) = &state.client else {
            return Passing::AsItIs;
        };
        let Some(publish) = frame.publish(state.version()) else {
            return Passing::AsItIs;
        };
        let leaving = self.ledger.sent(client, state.last, || mark(publish.topic, publish.payload));
        if !str::from_utf8(publish.topic).is_ok_and(|topic| state.rights.may_read(topic)) {
            if let Some(id) = leaving.and_then(|leaving| leaving.id) {
                self.ledger.withheld(client, id);
                state.last = id;
            }
            return Passing::Withheld { qos: publish.qos, id: publish.id };
        }
        let Some(leaving) = leaving else {
            return Passing::AsItIs;
        };
        let marked = leaving.mark_copy.map_or(Passing::AsItIs, Passing::Marked);
        let Some(id) = leaving.id else {
            return marked;
        };
        state.last = id;
        match publish.id {
            None => Passing::TellWritten(id),
            Some(packet) => {
                state.sent.insert(packet, id);
                marked
            }
        }
    }

    /// The client acknowledged the PUBLISH `packet` of the engine.
    pub(super) fn saw_ack_of_client(&self, packet: u16) {
        let acknowledged = {
            let mut state = self.lock();
            state.sent.remove(&packet).zip(state.client.clone())
        };
        if let Some((id, client)) = acknowledged {
            self.ledger.confirm(&client, id);
        }
    }

    /// A publication at QoS 0 is on the socket.
    pub(super) fn wrote(&self, id: u64) {
        let client = self.lock().client.clone();
        if let Some(client) = client {
            self.ledger.wrote(&client, id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn version(&self) -> Version {
        self.connect.map_or(Version::V5, |connect| connect.version)
    }
}

//! What the gate and the event handler of one connection tell each other.
//!
//! Both run inside the engine's task of that connection, one after the other, but the engine knows of neither: the gate
//! is its socket, the event handler its callback. They meet here, through a task-local value.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqtt5::WillMessage;
use tokio::sync::oneshot;

use super::confirm::{Ledger, mark};
use super::frames::{Connect, Frame, Version};
use crate::mqtt::{AckWord, MarkCopy};

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
    ledger: Arc<Ledger>,
    /// A lock because the engine wants its socket `Sync`. It is never contended: one task uses all of it, and it is
    /// not held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connect: Option<Connect>,
    start: Option<Start>,
    publish_rate: Option<NonZeroU32>,
    client: Option<Arc<str>>,
    /// The message expiry of the PUBLISH that the engine has in hand: its event leaves it out.
    expiry: Option<u32>,
    /// What the bridge will say about each message that is not acknowledged yet, by packet identifier.
    words: HashMap<u16, oneshot::Receiver<AckWord>>,
    /// Publications of the bridge that are on the way to this client, by packet identifier.
    sent: HashMap<u16, u64>,
    /// The last of them: they leave in the order of their numbers.
    last: u64,
    /// The will that is published when the connection breaks.
    will: Option<WillMessage>,
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
}

impl Link {
    pub(super) fn new(ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { ledger, state: Mutex::default() })
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

    #[cfg_attr(not(test), expect(dead_code, reason = "called where a client logs in as a chat user"))]
    pub(super) fn set_publish_rate(&self, rate: Option<NonZeroU32>) {
        self.lock().publish_rate = rate;
    }

    pub(super) fn saw_connect(&self, connect: &Frame) {
        let unknown = Connect { version: Version::V5, keep_alive: 0, max_packet: None };
        self.lock().connect = Some(connect.connect().unwrap_or(unknown));
    }

    /// The CONNACK that goes out says how the session begins.
    pub(super) fn began(&self, start: Start) {
        self.lock().start = Some(start);
    }

    /// How the session began.
    pub(super) fn start(&self) -> Start {
        self.lock().start.unwrap_or(Start::Fresh)
    }

    /// Names the client. Nothing is delivered to it before.
    pub(super) fn identify(&self, client: Arc<str>) {
        self.lock().client = Some(client);
    }

    /// The will that is published when the connection breaks.
    pub(super) fn set_will(&self, will: Option<WillMessage>) {
        self.lock().will = will;
    }

    pub(super) fn take_will(&self) -> Option<WillMessage> {
        self.lock().will.take()
    }

    /// A PUBLISH of the client is about to reach the engine.
    pub(super) fn saw_publish_of_client(&self, frame: &Frame) {
        let expiry = frame.publish(self.version()).and_then(|publish| publish.expiry);
        self.lock().expiry = expiry;
    }

    /// The message expiry of the PUBLISH in hand.
    pub(super) fn expiry(&self) -> Option<u32> {
        self.lock().expiry
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
        let Some(leaving) = self.ledger.sent(client, state.last, || mark(publish.topic, publish.payload)) else {
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

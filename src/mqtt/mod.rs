//! The broker: what the bridge needs of an MQTT broker, whichever it is.
//!
//! The port moves topics, bytes and acknowledgements and knows no word of the domain. The embedded broker
//! (`crate::broker`) and the client of an external one (in this folder) each drive an [`Outlet`]; the bridge holds the
//! [`Port`].

pub mod barrier;
mod client;
mod config;
mod directory;
mod inbound;
mod link;
mod packet_suspect;
mod refusals;
mod retry;
mod session;
mod session_log;
mod settle;
mod subscribing;
mod talk;
mod tls;
mod trouble;
mod v311;
mod v5;

use crate::chat::id::Sid;
use crate::chat::principal::{Principal, Role};
pub use client::run;
pub use config::{ClientConfig, ClientError, ClientLimits, Version, Will};
pub use directory::{Directory, Proven, RoleSource};
pub use inbound::{InboundQueues, InboundSender, inbound_queues};

use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Sightings on their way to the bridge; one that is behind slows connecting down.
const SIGHTINGS: usize = 1_024;
/// Confirmations on their way to the bridge; one that is behind slows those down who confirm.
const CONFIRMATIONS: usize = 1_024;
/// Changes of who sees whom on their way to the broker; full means: wait.
const VISIBILITIES: usize = 1_024;
/// Users who are put out, on their way to the broker.
const EVICTIONS: usize = 16;
/// Notices on their way to the bridge; what is beyond it is counted only.
const NOTICES: usize = 64;

/// A message that a client published on a topic of the bridge.
#[derive(Debug)]
pub struct Inbound {
    /// Who published it.
    pub principal: Principal,
    /// The topic, whole.
    pub topic: String,
    /// The payload, as it came.
    pub payload: Bytes,
    /// The retain flag as delivered: set means that this is an old, stored message.
    pub retain: bool,
    /// Whether its publisher asked for it to be retained. Only the embedded broker sees that.
    pub retained: bool,
    /// Its publisher may not write there: it is to be told so, and nothing else is to be done. Only the embedded broker says this, where
    /// MQTT has no word for it.
    pub denied: bool,
    /// A chat user published it into the inbox of this peer, and `topic` is the topic of the publisher's own outbox that it
    /// counts as published on: the peer is whom it is for. Only the embedded broker takes such publishes.
    pub routed_to: Option<Arc<str>>,
    /// It was published with QoS 0: nobody waits for its acknowledgement.
    pub at_most_once: bool,
    /// The flag DUP: the message may have come before. Clients need not set it when they publish once more.
    pub dup: bool,
    /// MQTT 5 message expiry, in seconds.
    pub expiry: Option<u32>,
    /// MQTT 5 response topic.
    pub response_topic: Option<String>,
    /// MQTT 5 correlation data.
    pub correlation: Option<Bytes>,
    /// To be released once the message is safe.
    pub ack: Ack,
}

impl Inbound {
    /// A new message with QoS 1 and none of the properties that it may have.
    pub fn new(principal: Principal, topic: String, payload: Bytes, ack: Ack) -> Self {
        Self {
            principal,
            topic,
            payload,
            retain: false,
            retained: false,
            denied: false,
            routed_to: None,
            at_most_once: false,
            dup: false,
            expiry: None,
            response_topic: None,
            correlation: None,
            ack,
        }
    }
}

/// The publisher's acknowledgement, held back. Dropping it without a word means that the message is not safe: the
/// publisher gets no PUBACK and sends it again.
#[derive(Debug)]
pub struct Ack(oneshot::Sender<AckWord>);

/// What the publisher is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckWord {
    /// The message is dealt with: on disk, or answered by an error document.
    Done,
    /// The message is dealt with, but the bridge has no such topic (MQTT 5: reason 0x10, "no matching subscribers").
    /// MQTT 3.1.1 has no such word; the publisher gets a plain PUBACK.
    NoSuchTopic,
    /// The quota is used up (MQTT 5: reason 0x97). MQTT 3.1.1 has no such word; the publisher gets no PUBACK.
    Quota,
}

impl Ack {
    /// An acknowledgement and the end on which its word arrives.
    pub fn new() -> (Self, oneshot::Receiver<AckWord>) {
        let (tx, rx) = oneshot::channel();
        (Self(tx), rx)
    }

    /// Whether nobody waits for the word any more: the connection on which the message came has ended.
    pub fn is_dead(&self) -> bool {
        self.0.is_closed()
    }

    /// Says the word. It is not an error if the publisher is gone: it will publish again, and is recognised then.
    pub fn release(self, word: AckWord) {
        let _ = self.0.send(word);
    }
}

/// A message that the bridge publishes.
#[derive(Debug)]
pub struct Outbound {
    /// The topic, whole.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// Quality of service, 0 or 1.
    pub qos: u8,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// It is for those who read the topic now: without any it is [`Outcome::Confirmed`] as well.
    pub dropped_unread: bool,
    /// For these devices of the owner of the topic alone, as far as they read it now, where the broker knows devices.
    pub devices: Option<Vec<Arc<str>>>,
    /// MQTT 5 correlation data.
    pub correlation: Option<Bytes>,
    /// It is of no use from this time on, in Unix milliseconds: MQTT 5 message expiry.
    pub expires_at: Option<u64>,
    /// The first one of its topic after a failure. After a failure, the broker answers everything of the topic
    /// with [`Outcome::Unsent`] until it sees one of these, so that order survives ([`barrier::Barrier`]).
    pub resume: bool,
    /// The connection to a broker of others ([`Port::connections`]) for which it was decided to publish it now; on a later one it
    /// is not sent, and the outcome is [`Outcome::Unsent`]: what was known of its reader may be old. None: it goes out on any.
    pub connection: Option<u64>,
    /// Where the outcome is told. Dropped by the broker: as [`Outcome::Lost`].
    pub outcome: oneshot::Sender<Outcome>,
}

impl Outbound {
    /// A publication at QoS 1 that waits for none before it, and the end on which its outcome arrives. It is neither retained
    /// nor dropped unread, and has no correlation data.
    pub fn new(topic: impl ToString, payload: impl Into<Bytes>) -> (Self, oneshot::Receiver<Outcome>) {
        let (topic, payload) = (topic.to_string(), payload.into());
        let (tell, outcome) = oneshot::channel();
        let (qos, retain, dropped_unread, resume) = (1, false, false, true);
        let (devices, correlation, expires_at) = (None, None, None);
        let outbound = Self {
            topic,
            payload,
            qos,
            retain,
            dropped_unread,
            devices,
            correlation,
            expires_at,
            resume,
            connection: None,
            outcome: tell,
        };
        (outbound, outcome)
    }

    /// Whether it needs no reader to be confirmed: the broker keeps it for later ones, or nobody asks for it later.
    pub fn may_be_unread(&self) -> bool {
        self.retain || self.dropped_unread
    }
}

/// What became of an [`Outbound`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop has it: the external broker, or the readers of the embedded one.
    Confirmed,
    /// Nobody is there to read the topic now; nothing was sent. [`Port::readers`] changes when somebody comes.
    NoReader,
    /// Not sent, because an earlier publication of the topic failed and the publisher has not resumed yet, or because it was for
    /// an earlier connection.
    Unsent,
    /// It was sent, and the connection ended before it was confirmed: publish it again, it may arrive twice.
    Lost,
    /// Not sent, because it is bigger than the packets that the broker takes. Those behind it on its topic go on. Somebody is
    /// told of it ([`Notice::SetAside`]). Only a broker of others answers this, and not of what is retained.
    SetAside,
}

/// A connection of somebody who logged in began or ended. Only the embedded broker tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Who: the MQTT username.
    pub user: Arc<str>,
    /// What they are.
    pub role: Role,
    /// The MQTT client id.
    pub client: Arc<str>,
    /// Which of the user's devices the client id names.
    pub device: Arc<str>,
    /// The connection. Numbers are never used twice within a process; at a take-over the new connection may be told
    /// before the end of the old one.
    pub connection: u64,
    /// What happened.
    pub change: ClientChange,
    /// It goes on with a session that was kept, in which it finds what it missed.
    pub resumed: bool,
}

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientChange {
    /// It began.
    Came,
    /// The client said goodbye (DISCONNECT).
    Left,
    /// It ended without a word.
    Broke,
}

/// A device of a chat user has acknowledged a copy of a message at QoS 1 or 2, and that is on disk. Only the embedded broker
/// tells. A copy that comes again is confirmed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// Whose inbox the copy lay in, and whose device it is.
    pub user: Arc<str>,
    /// The device.
    pub device: Arc<str>,
    /// The message.
    pub sid: Sid,
}

/// Whether a chat user sees another one's presence and profile from now on. What is published after it is told is delivered
/// accordingly; what is retained comes to a new watcher when it is published again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visibility {
    /// Who sees.
    pub watcher: Arc<str>,
    /// Who is seen; `None`: the presence of all others, whoever may be seen.
    pub of: Option<Arc<str>>,
    /// Whether it is so.
    pub visible: bool,
}

/// Somebody is put out: the connections end, and the sessions with all that waits for them, and nothing that was retained below the
/// name is sent to anybody any more. What is on disk of it the bridge removes.
#[derive(Debug)]
pub struct Eviction {
    /// Who.
    pub user: Arc<str>,
    /// Told when it is so.
    pub done: oneshot::Sender<()>,
}

/// A document of the bridge that a client, or a broker of others, was not sent: it takes no packets of that size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The topic, whole.
    pub topic: Arc<str>,
    /// The document.
    pub payload: Bytes,
    /// How long the packet would be, in bytes.
    pub bytes: usize,
    /// The longest packet that is taken, in bytes (MQTT 5, 3.1.2.11.4 and 3.2.2.3.6).
    pub most: usize,
}

/// What somebody is to hear of trouble with a client, or with the broker itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A document is too big for it.
    SetAside(SetAside),
    /// A broker of others has not kept the bridge's session: what clients published while the bridge was away is lost.
    SessionLost,
    /// A broker of others keeps the bridge's session for less time than asked for (MQTT 5).
    SessionShort {
        /// For how many seconds it keeps it.
        seconds: u32,
        /// For how many it was asked.
        asked: u32,
    },
    /// So much waits for its session that messages of clients are not kept for it.
    QueueFull {
        /// The session, as operators are shown it; of a shared subscription `{group}/{filter}`.
        session: Arc<str>,
        /// Messages that were not kept since this was said last.
        refused: u64,
    },
}

/// How the broker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerLink {
    /// Not connected to a broker, or not subscribed yet.
    Down,
    /// Connected and subscribed.
    Up,
}

/// What the bridge can count on with a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// It takes documents from the store itself, where they wait until a reader has them. Otherwise they are published to it,
    /// a confirmation is its own, and who is away has to say so.
    pub takes_documents: bool,
    /// It sees clients come and go ([`Sighting`]).
    pub sees_clients: bool,
    /// The word for a publish is told to its publisher, who may hear that there is no room. Otherwise the broker has taken the
    /// publish long ago, and a refusal would be the end of it.
    pub answers_publishers: bool,
    /// What the bridge publishes comes back to it, where it has subscribed to the topic.
    pub hears_itself: bool,
}

impl Capabilities {
    /// Those of the embedded broker.
    pub const EMBEDDED: Self =
        Self { takes_documents: true, sees_clients: true, answers_publishers: true, hears_itself: false };
    /// Those of a broker that the bridge is a client of, with MQTT 5.
    pub const EXTERNAL: Self =
        Self { takes_documents: false, sees_clients: false, answers_publishers: false, hears_itself: false };

    /// Those of a broker that the bridge is a client of.
    pub fn external(version: Version) -> Self {
        // A subscription of MQTT 3.1.1 has no option for it.
        Self { hears_itself: version == Version::V311, ..Self::EXTERNAL }
    }
}

/// The bridge's end.
#[derive(Debug)]
pub struct Port {
    /// What the broker can do.
    pub capabilities: Capabilities,
    /// What clients published.
    pub inbound: InboundQueues,
    /// What to publish; full means: wait. Publications of one topic keep their order.
    pub publish: mpsc::Sender<Outbound>,
    /// Whether the broker is there.
    pub broker_link: watch::Receiver<BrokerLink>,
    /// The number of the connection to a broker of others: it grows before that is [`BrokerLink::Up`], and after the one before is
    /// [`BrokerLink::Down`]. Whoever reads it first, and the link then, never takes an earlier link for that of this connection.
    pub connections: watch::Receiver<u64>,
    /// Grows when the broker has come up without the session that the bridge had there: it may have lost all that it kept.
    /// Before anything comes from it.
    pub sessions: watch::Receiver<u64>,
    /// Why it is not, or what it refuses.
    pub trouble: watch::Receiver<Option<String>>,
    /// Changes whenever a topic that had no reader may have got one.
    pub readers: watch::Receiver<u64>,
    /// Clients connected to the broker; `None` if it does not say.
    pub clients: watch::Receiver<Option<usize>>,
    /// Who comes and goes, in order per connection.
    pub sightings: mpsc::Receiver<Sighting>,
    /// Which copies of messages devices of chat users have; in order per connection.
    pub confirmations: mpsc::Receiver<Confirmation>,
    /// What trouble clients have: a document that is set aside, once for a connection.
    pub notices: mpsc::Receiver<Notice>,
    /// Whom the broker knows.
    pub directory: Directory,
    /// Who sees whom from now on, said before what is published then. Only the embedded broker takes it: with another one it
    /// is closed.
    pub visibility: mpsc::Sender<Visibility>,
    /// Whom to put out. Only the embedded broker can: with another one it is closed.
    pub evictions: mpsc::Sender<Eviction>,
}

/// The broker's end.
#[derive(Debug)]
pub struct Outlet {
    /// What clients published.
    pub inbound: InboundSender,
    /// What to publish.
    pub publish: mpsc::Receiver<Outbound>,
    /// Whether the broker is there.
    pub broker_link: watch::Sender<BrokerLink>,
    /// To be changed with each connection, before the link is up.
    pub connections: watch::Sender<u64>,
    /// To be changed when the broker has not the session that the bridge had there.
    pub sessions: watch::Sender<u64>,
    /// Why it is not, or what it refuses, in words for an operator.
    pub trouble: watch::Sender<Option<String>>,
    /// To be changed whenever a topic that had no reader may have got one.
    pub readers: watch::Sender<u64>,
    /// Clients connected to the broker, if it knows.
    pub clients: watch::Sender<Option<usize>>,
    /// Who comes and goes, if it knows.
    pub sightings: mpsc::Sender<Sighting>,
    /// Which copies of messages devices of chat users have, if it knows; full means: wait.
    pub confirmations: mpsc::Sender<Confirmation>,
    /// What trouble clients have; full means that nobody is told.
    pub notices: mpsc::Sender<Notice>,
    /// To be told how to find out whom it knows.
    pub directory: Directory,
    /// Who sees whom from now on, to be heeded before what is published then.
    pub visibility: mpsc::Receiver<Visibility>,
    /// Whom to put out.
    pub evictions: mpsc::Receiver<Eviction>,
}

/// Makes both ends, for the embedded broker. `inbound` and `publish` are the sizes of the queues in both
/// directions, in messages.
pub fn port(inbound: usize, publish: usize) -> (Port, Outlet) {
    let (inbound_tx, inbound_rx) = inbound_queues(inbound);
    let (publish_tx, publish_rx) = mpsc::channel(publish);
    let (link_tx, link_rx) = watch::channel(BrokerLink::Down);
    let (connections_tx, connections_rx) = watch::channel(0);
    let (sessions_tx, sessions_rx) = watch::channel(0);
    let (trouble_tx, trouble_rx) = watch::channel(None);
    let (readers_tx, readers_rx) = watch::channel(0);
    let (clients_tx, clients_rx) = watch::channel(None);
    let (sightings_tx, sightings_rx) = mpsc::channel(SIGHTINGS);
    let (confirmations_tx, confirmations_rx) = mpsc::channel(CONFIRMATIONS);
    let (notices_tx, notices_rx) = mpsc::channel(NOTICES);
    let (visibility_tx, visibility_rx) = mpsc::channel(VISIBILITIES);
    let (evictions_tx, evictions_rx) = mpsc::channel(EVICTIONS);
    let directory = Directory::default();
    (
        Port {
            capabilities: Capabilities::EMBEDDED,
            inbound: inbound_rx,
            publish: publish_tx,
            broker_link: link_rx,
            connections: connections_rx,
            sessions: sessions_rx,
            trouble: trouble_rx,
            readers: readers_rx,
            clients: clients_rx,
            sightings: sightings_rx,
            confirmations: confirmations_rx,
            notices: notices_rx,
            directory: directory.clone(),
            visibility: visibility_tx,
            evictions: evictions_tx,
        },
        Outlet {
            inbound: inbound_tx,
            publish: publish_rx,
            broker_link: link_tx,
            connections: connections_tx,
            sessions: sessions_tx,
            trouble: trouble_tx,
            readers: readers_tx,
            clients: clients_tx,
            sightings: sightings_tx,
            confirmations: confirmations_tx,
            notices: notices_tx,
            directory,
            visibility: visibility_rx,
            evictions: evictions_rx,
        },
    )
}

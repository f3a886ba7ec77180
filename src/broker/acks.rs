//! Acknowledgements that wait for the bridge's word, in the order in which the messages came.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::frames::{Frame, Kind, Version};
use crate::mqtt::AckWord;

/// MQTT 5 reason code "no matching subscribers".
const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
/// MQTT 5 reason code "quota exceeded".
const QUOTA_EXCEEDED: u8 = 0x97;
/// MQTT 5 reason code "not authorized".
const NOT_AUTHORIZED: u8 = 0x87;
/// From here on reason codes mean that it did not work (2.4).
const FIRST_ERROR: u8 = 0x80;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;

/// The queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Acks {
    queue: VecDeque<Entry>,
    /// Packets that the engine has to read before anything else of the client.
    for_engine: VecDeque<Bytes>,
    /// PUBCOMPs that answer them, which the client must not see.
    unasked: VecDeque<u16>,
    /// Messages at QoS 2 that the client knows are here: their PUBREC has left, their PUBREL has not come. The engine has
    /// a limit for them.
    received: HashSet<u16>,
}

#[derive(Debug)]
struct Entry {
    frame: Bytes,
    kind: Kind,
    id: u16,
    /// The engine's reason code.
    reason: u8,
    /// Absent: nothing to wait for but the ones before.
    word: Option<oneshot::Receiver<AckWord>>,
}

impl Entry {
    /// The acknowledgement with another reason code (MQTT 5), and no properties.
    fn with_reason(&self, reason: u8) -> Bytes {
        let [high, low] = self.id.to_be_bytes();
        let kind = if self.kind == Kind::PubRec { PUBREC } else { PUBACK };
        Bytes::copy_from_slice(&[kind, 3, high, low, reason])
    }

    /// Whether this PUBREC says that the message is here.
    fn promises(&self) -> bool {
        self.kind == Kind::PubRec && self.reason < FIRST_ERROR
    }
}

/// What is to be done with the acknowledgement at the front.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// To be sent to the client.
    Send(Bytes),
    /// The bridge has no room for the message; what the client is to be told, if there is a word for it.
    Full(Option<Bytes>),
    /// The bridge let go of the message without a word: the client must not believe that it is safe.
    Unsafe,
}

impl Acks {
    /// Queues an acknowledgement of the engine.
    pub(super) fn push(&mut self, frame: &Frame, word: Option<oneshot::Receiver<AckWord>>) {
        // A copy, because the frame keeps the whole write buffer alive.
        let bytes = Bytes::copy_from_slice(frame.bytes());
        let id = frame.ack_id().unwrap_or_default();
        self.queue.push_back(Entry { frame: bytes, kind: frame.kind(), id, reason: frame.ack_reason(), word });
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes the acknowledgement at the front, if its word has come.
    pub(super) fn poll_release(&mut self, cx: &mut Context<'_>, version: Version) -> Poll<Release> {
        let Some(front) = self.queue.front_mut() else {
            return Poll::Pending;
        };
        let word = match &mut front.word {
            None => Ok(AckWord::Done),
            Some(word) => match Pin::new(word).poll(cx) {
                Poll::Ready(word) => word,
                Poll::Pending => return Poll::Pending,
            },
        };
        let Some(entry) = self.queue.pop_front() else {
            return Poll::Pending;
        };
        Poll::Ready(match (word, version) {
            (Ok(word @ (AckWord::Done | AckWord::NoSuchTopic)), version) => {
                if entry.promises() {
                    self.received.insert(entry.id);
                }
                let says_so = word == AckWord::NoSuchTopic && version == Version::V5 && entry.reason < FIRST_ERROR;
                Release::Send(if says_so { entry.with_reason(NO_MATCHING_SUBSCRIBERS) } else { entry.frame })
            }
            (Ok(AckWord::Quota), Version::V5) => Release::Full(Some(self.refuse(&entry))),
            (Ok(AckWord::Quota), Version::V311) => Release::Full(None),
            (Err(_dropped), _) => Release::Unsafe,
        })
    }

    /// Whether the client repeats a message at QoS 2, which is to come in once and to be answered each time
    /// ([MQTT-4.3.3-10]). The engine would take it for another.
    pub(super) fn repeats(&mut self, id: u16) -> bool {
        if self.received.contains(&id) {
            let [high, low] = id.to_be_bytes();
            let frame = [PUBREC, 2, high, low];
            let frame = Bytes::copy_from_slice(&frame);
            self.queue.push_back(Entry { frame, kind: Kind::PubRec, id, reason: 0, word: None });
            return true;
        }
        // Its answer is still to come.
        self.queue.iter().any(|entry| entry.kind == Kind::PubRec && entry.id == id)
    }

    /// The client has released a message at QoS 2: its identifier is free.
    pub(super) fn released(&mut self, id: u16) {
        self.received.remove(&id);
    }

    /// The next packet that the engine has to read although the client did not send it.
    pub(super) fn next_for_engine(&mut self) -> Option<Bytes> {
        self.for_engine.pop_front()
    }

    /// Gives the engine the acknowledgement of a PUBLISH that the client never saw. Otherwise its window would not open
    /// again.
    pub(super) fn answer_withheld(&mut self, qos: u8, id: Option<u16>) {
        let (1 | 2, Some(id)) = (qos, id) else {
            return;
        };
        let [high, low] = id.to_be_bytes();
        let answer: &[u8] = match qos {
            1 => &[PUBACK, 2, high, low],
            // As a refusal it ends the exchange at once (MQTT 5, 4.3.3). The engine reads it so in 3.1.1 as well.
            _ => &[PUBREC, 3, high, low, NOT_AUTHORIZED],
        };
        self.for_engine.push_back(Bytes::copy_from_slice(answer));
    }

    /// Whether this PUBCOMP answers a packet that the client did not send.
    pub(super) fn swallows(&mut self, pubcomp: &Frame) -> bool {
        let found = self.unasked.iter().position(|id| Some(*id) == pubcomp.ack_id());
        found.and_then(|at| self.unasked.remove(at)).is_some()
    }

    fn refuse(&mut self, entry: &Entry) -> Bytes {
        if entry.kind == Kind::PubRec {
            // A PUBREC of 0x80 or above ends the exchange, and the client may use the identifier again at once
            // (MQTT 5, 4.3.3). The engine still waits for a PUBREL, so it gets one.
            let [high, low] = entry.id.to_be_bytes();
            self.for_engine.push_back(Bytes::copy_from_slice(&[PUBREL, 2, high, low]));
            self.unasked.push_back(entry.id);
        }
        entry.with_reason(QUOTA_EXCEEDED)
    }
}

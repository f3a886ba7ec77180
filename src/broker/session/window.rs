//! The packet identifiers of messages on their way to a client, and what their acknowledgements settle.
//!
//! Identifiers come from two halves. The upper half is for QoS 2 rows of the session's own queue: only those are on disk with
//! their identifier and keep it over a restart. They are read again page by page; until then nobody knows which
//! identifiers they have, hence nothing else may use that half.

use std::collections::{BTreeMap, BTreeSet};

use super::outgoing_message::{OutgoingMessage, Source, SourceKey};
use crate::chat::qos::QoS;
use crate::store::QueueRow;

/// Identifiers in each half: 1 to 32,767, and 32,769 to 65,535.
const HALF: u16 = 0x7fff;
/// The bit that tells the halves apart.
const DURABLE: u16 = 0x8000;

/// Which queue a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueRef {
    /// The session's own.
    Own,
    /// Of a group, by the number that the hub gave it.
    Group(u64),
}

/// A message that was sent and is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InFlight {
    /// The queue it came from.
    pub(crate) queue_ref: QueueRef,
    /// Where it is kept.
    pub(crate) source: Source,
    /// How it was sent.
    pub(crate) qos: QoS,
    /// The message itself, if it is a group's, which is sent at QoS 1 only: another member may get it.
    item: Option<Box<OutgoingMessage>>,
    /// Its PUBREC came.
    released: bool,
    /// It was sent over this connection, and takes room in the window.
    counted: bool,
    /// Its place in the order of sending.
    order: u64,
}

impl InFlight {
    /// What needs no identifier: sent at QoS 0, or not at all.
    pub(crate) fn unsent(queue_ref: QueueRef, item: &OutgoingMessage) -> Self {
        let (source, qos) = (item.source.clone(), item.qos);
        Self { queue_ref, source, qos, item: None, released: false, counted: false, order: 0 }
    }

    /// At QoS 2, over a former connection and not yet over this one.
    fn is_to_be_sent_again(&self) -> bool {
        self.qos == QoS::ExactlyOnce && !self.counted && !self.released
    }

    /// What is marked on disk when its PUBREC has come.
    fn row(&self) -> Option<u64> {
        if let Source::Row(seq) = self.source { Some(seq) } else { None }
    }
}

/// How a message is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) id: u16,
    pub(crate) dup: bool,
    /// The store must have the identifier (`assign`) before the message is sent.
    pub(crate) must_store: bool,
}

/// What a PUBREC means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PubrecOutcome {
    /// The client has the message, and PUBREL follows: of a row, when that is marked on disk (`released`).
    Release(Option<u64>),
    /// The client refused the message (0x80 and above): it is acknowledged, no PUBREL follows.
    Done(InFlight),
    /// PUBREL is to be sent once more.
    AlreadyReleased,
    /// It answers what was sent over a former connection and is about to be sent over this one: a PUBREL now would stand
    /// before that PUBLISH, and the client would take it for another message ([MQTT-4.3.3-6]). It says PUBREC once more then.
    Early,
    /// No such identifier: PUBREL with 0x92.
    Unknown,
}

/// The window of a session. It outlives connections.
#[derive(Debug)]
pub(crate) struct Window {
    unacked: BTreeMap<u16, InFlight>,
    /// Identifiers of what was sent over a former connection and not yet over this one.
    kept: BTreeMap<SourceKey, u16>,
    /// Rows of a former connection whose PUBCOMP came: a page that was asked for before may still have them.
    completed: BTreeSet<u64>,
    /// The identifiers given last, in the lower and the upper half.
    last: [u16; 2],
    order: u64,
    /// Flights that take room.
    open: usize,
    room: usize,
    inflight: u16,
}

impl Window {
    /// `inflight` is how many messages are unacknowledged at most, whatever the client allows.
    pub(crate) fn new(inflight: u16) -> Self {
        let inflight = inflight.min(HALF);
        let (unacked, kept, completed) = Default::default();
        Self { unacked, kept, completed, last: [0; 2], order: 0, open: 0, room: inflight.into(), inflight }
    }

    /// A connection begins whose client has this Receive Maximum.
    pub(crate) fn resume(&mut self, receive_maximum: u16) {
        self.room = self.inflight.min(receive_maximum).into();
    }

    /// Whether a message with QoS 1 or 2 can be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.open < self.room
    }

    /// How many messages with QoS 1 or 2 can be sent.
    pub(crate) fn room_left(&self) -> usize {
        self.room.saturating_sub(self.open)
    }

    /// How many messages are not acknowledged, those of former connections included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.unacked.len()
    }

    /// Gives a message with QoS 1 or 2 its identifier; the one that it had on a former connection. `None` if there is no room.
    pub(crate) fn take_id(&mut self, item: &OutgoingMessage, queue_ref: QueueRef) -> Option<Sent> {
        if !self.has_room() {
            return None;
        }
        let own = queue_ref == QueueRef::Own;
        let must_store = own && item.qos == QoS::ExactlyOnce && matches!(item.source, Source::Row(_));
        let former = if own { self.former_id(&item.source) } else { None };
        let id = match former {
            Some(id) => id,
            None => self.free_id(must_store)?,
        };
        self.order += 1;
        self.open += 1;
        let (source, item_of_group) = (item.source.clone(), (!own).then(|| Box::new(item.clone())));
        let flight = InFlight {
            queue_ref,
            source,
            qos: item.qos,
            item: item_of_group,
            released: false,
            counted: true,
            order: self.order,
        };
        self.unacked.insert(id, flight);
        Some(Sent { id, dup: item.copy || former.is_some(), must_store })
    }

    /// Whether something of the own queue has an identifier that its client may know.
    pub(crate) fn knows(&self, source: &Source) -> bool {
        source.key().is_some_and(|key| self.kept.contains_key(&key))
    }

    /// A message is not sent at all: expired, or too big for the client. The identifier that it had is free.
    pub(crate) fn forget(&mut self, source: &Source) {
        if let Some(id) = self.former_id(source) {
            self.unacked.remove(&id);
        }
    }

    pub(crate) fn puback(&mut self, id: u16) -> Option<InFlight> {
        self.sent(id, QoS::AtLeastOnce)?;
        self.remove(id)
    }

    /// A PUBREC came; `refused` if with a reason of 0x80 or above.
    pub(crate) fn pubrec(&mut self, id: u16, refused: bool) -> PubrecOutcome {
        if self.unacked.get(&id).is_some_and(|flight| flight.is_to_be_sent_again()) {
            return PubrecOutcome::Early;
        }
        let Some(flight) = self.sent(id, QoS::ExactlyOnce) else { return PubrecOutcome::Unknown };
        match (flight.released, refused) {
            (_, true) => self.remove(id).map_or(PubrecOutcome::Unknown, PubrecOutcome::Done),
            (true, false) => PubrecOutcome::AlreadyReleased,
            (false, false) => {
                flight.released = true;
                PubrecOutcome::Release(flight.row())
            }
        }
    }

    /// A PUBCOMP came. A row of the session's own queue is acknowledged now.
    pub(crate) fn pubcomp(&mut self, id: u16) -> Option<InFlight> {
        let flight = self.unacked.get(&id).filter(|flight| flight.released)?;
        if let (false, Source::Row(seq)) = (flight.counted, &flight.source) {
            self.completed.insert(*seq);
        }
        self.remove(id)
    }

    /// The identifiers for which PUBREL is sent when the session is resumed, in the order of their messages, and the rows
    /// that are to be marked before.
    pub(crate) fn released(&self) -> Vec<(u16, Option<u64>)> {
        let mut released: Vec<_> = self.unacked.iter().filter(|(_, flight)| flight.released).collect();
        released.sort_by_key(|(_, flight)| flight.order);
        released.into_iter().map(|(&id, flight)| (id, flight.row())).collect()
    }

    /// A row of the own queue was read: what the store knows of it from before a restart. Says for which identifier PUBREL
    /// is to be sent now.
    pub(crate) fn restore(&mut self, row: &QueueRow) -> Option<u16> {
        let id = row.packet_id?;
        if id & DURABLE != 0 {
            // New identifiers start behind the restored ones.
            self.last[1] = self.last[1].max(id & HALF);
        }
        if self.unacked.contains_key(&id) || self.completed.remove(&row.seq) {
            return None;
        }
        self.order += 1;
        let (source, qos, order) = (Source::Row(row.seq), QoS::ExactlyOnce, self.order);
        let flight = InFlight {
            queue_ref: QueueRef::Own,
            source,
            qos,
            item: None,
            released: row.released,
            counted: false,
            order,
        };
        self.unacked.insert(id, flight);
        if row.released {
            return Some(id);
        }
        self.kept.insert(SourceKey::Row(row.seq), id);
        None
    }

    /// The connection ended. Identifiers of what was released are kept for PUBREL, those of its own rows and documents for
    /// their next sending; what was only in memory is gone. Returns the messages of groups, with the numbers of the groups,
    /// in the order in which they were sent: they are given back.
    pub(crate) fn suspend(&mut self) -> Vec<(u64, OutgoingMessage)> {
        self.open = 0;
        self.completed.clear();
        let mut unacked: Vec<_> = std::mem::take(&mut self.unacked).into_iter().collect();
        unacked.sort_by_key(|(_, flight)| flight.order);
        let mut back = Vec::new();
        for (id, mut flight) in unacked {
            flight.counted = false;
            match (flight.queue_ref, flight.source.key()) {
                (QueueRef::Group(group), _) => back.extend(flight.item.map(|item| (group, *item))),
                (QueueRef::Own, None) => {}
                (QueueRef::Own, Some(key)) => {
                    if !flight.released {
                        self.kept.insert(key, id);
                    }
                    self.unacked.insert(id, flight);
                }
            }
        }
        back
    }

    /// The identifier that something of the own queue had on a former connection. Rows, and documents of a topic, are read
    /// in their order: what stands before it and was not read again is gone from the disk.
    fn former_id(&mut self, source: &Source) -> Option<u16> {
        let key = if self.kept.is_empty() { None } else { source.key() }?;
        let first = match &key {
            SourceKey::Row(_) => SourceKey::Row(0),
            SourceKey::Document(topic, _) => SourceKey::Document(topic.clone(), 0),
        };
        while let Some((passed, &id)) = self.kept.range(&first..&key).next() {
            let passed = passed.clone();
            self.kept.remove(&passed);
            self.unacked.remove(&id);
        }
        self.kept.remove(&key)
    }

    fn free_id(&mut self, durable: bool) -> Option<u16> {
        let (half, last) = if durable { (DURABLE, &mut self.last[1]) } else { (0, &mut self.last[0]) };
        (0..HALF).find_map(|_| {
            *last = *last % HALF + 1;
            let id = half | *last;
            (!self.unacked.contains_key(&id)).then_some(id)
        })
    }

    /// A flight of this connection, or one whose PUBREL was repeated over it.
    fn sent(&mut self, id: u16, qos: QoS) -> Option<&mut InFlight> {
        self.unacked.get_mut(&id).filter(|flight| flight.qos == qos && (flight.counted || flight.released))
    }

    fn remove(&mut self, id: u16) -> Option<InFlight> {
        let flight = self.unacked.remove(&id)?;
        self.open -= usize::from(flight.counted);
        // An empty map keeps room for eleven, and most clients have nothing unacknowledged most of the time.
        if self.unacked.is_empty() {
            self.unacked = BTreeMap::new();
        }
        Some(flight)
    }
}

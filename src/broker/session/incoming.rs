//! QoS 2 from the client: the packet identifiers that were taken and not released (MQTT 5, 4.3.3).

use std::collections::BTreeMap;

/// The identifiers of a session. They outlive its connections.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    ids: BTreeMap<u16, IncomingId>,
    /// How many of them count against the receive maximum of this connection.
    open: usize,
}

#[derive(Debug, Clone, Copy)]
struct IncomingId {
    /// Its PUBREC was said.
    acknowledged: bool,
    /// It came over this connection.
    counted: bool,
}

/// What a PUBLISH with QoS 2 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// A new message.
    New,
    /// The same once more. If it is acknowledged, its PUBREC is repeated; otherwise that is still to come, unless the
    /// connection that would say it is over.
    Repeat {
        /// Its PUBREC was said.
        acknowledged: bool,
    },
    /// One more than the receive maximum allows (0x93).
    TooMany,
}

impl Incoming {
    /// Those of a session that the store kept. Whether the bridge had their messages is not known.
    pub(crate) fn kept(ids: &[u16]) -> Self {
        let taken = IncomingId { acknowledged: false, counted: false };
        Self { ids: ids.iter().map(|&id| (id, taken)).collect(), open: 0 }
    }

    /// How many messages of this connection are not done.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// A PUBLISH came. `room` is how many messages the receive maximum leaves for QoS 2: without those of QoS 1 that are
    /// not acknowledged.
    pub(crate) fn arrived(&mut self, id: u16, room: usize) -> Arrived {
        if let Some(taken) = self.ids.get_mut(&id) {
            self.open += usize::from(!taken.counted);
            taken.counted = true;
            return Arrived::Repeat { acknowledged: taken.acknowledged };
        }
        if self.open >= room {
            return Arrived::TooMany;
        }
        self.ids.insert(id, IncomingId { acknowledged: false, counted: true });
        self.open += 1;
        Arrived::New
    }

    /// Its PUBREC may be said: what it promises is on disk.
    pub(crate) fn acknowledged(&mut self, id: u16) {
        if let Some(taken) = self.ids.get_mut(&id) {
            taken.acknowledged = true;
        }
    }

    /// Whether a message with this identifier came and was not released.
    pub(crate) fn is_taken(&self, id: u16) -> bool {
        self.ids.contains_key(&id)
    }

    /// A PUBREL came, or a PUBREC with an error left: the identifier is free. Whether it was taken.
    pub(crate) fn release(&mut self, id: u16) -> bool {
        let Some(taken) = self.ids.remove(&id) else { return false };
        self.open -= usize::from(taken.counted);
        true
    }

    /// The connection ended. What is not acknowledged stays: its readers in memory have it, and its commit may still come.
    pub(crate) fn suspend(&mut self) {
        self.ids.values_mut().for_each(|taken| taken.counted = false);
        self.open = 0;
    }
}

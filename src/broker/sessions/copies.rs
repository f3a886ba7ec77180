//! Who gets a copy of a publication, and how it gets into the queue of a session.

use super::{Held, Sessions};
use crate::broker::outgoing::{packet, size_of_packet};
use crate::broker::readers::{Delivery, Reader, Sharing};
use crate::mqtt::Outbound;
use mqtt5::broker::storage::QueuedMessage;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of a publication besides its words.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Marks {
    /// What the gate knows it by.
    pub(in crate::broker) mark: u64,
    pub(in crate::broker) readers: Readers,
}

/// Who gets a publication.
///
/// Of several the first one to confirm it settles it for the bridge, and the copies of the others are only with the
/// engine. So these must be told from all others in the engine's files after a crash ([`is_for_several`]). The engine
/// keeps no field of ours; what it does keep, and what is true of every document of the bridge, is that the payload is
/// UTF-8 (MQTT 5, 3.3.2.3.2). Copies for several say so, others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Readers {
    One,
    Several,
}

/// Whether a copy in the engine's files was one of several.
pub(in crate::broker) fn is_for_several(payload_format_indicator: Option<bool>) -> bool {
    payload_format_indicator == Some(true)
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Handed {
    /// It waits for the client.
    Queued,
    /// The client takes no packet of that size.
    TooBig,
    /// The engine has discarded the session.
    Gone,
}

impl Sessions {
    /// Who gets a copy of a publication: each session with a matching subscription, and of each shared subscription
    /// one member. A session that is away gets one for its return, unless it asked for QoS 0.
    pub(in crate::broker) fn copies_of(&mut self, topic: &str) -> Vec<Delivery> {
        let mut own: BTreeMap<&Arc<str>, Delivery> = BTreeMap::new();
        let mut shared: BTreeMap<&Arc<str>, Vec<&Reader>> = BTreeMap::new();
        for reader in self.readers_of(topic) {
            match reader.sharing {
                Sharing::Shared => shared.entry(&reader.filter).or_default().push(reader),
                Sharing::Own => {
                    let delivery = Delivery::to(reader);
                    match own.get_mut(&reader.client) {
                        Some(first) => first.merge(delivery),
                        None => drop(own.insert(&reader.client, delivery)),
                    }
                }
            }
        }
        let chosen = shared.values().filter_map(|members| self.choose(members)).map(Delivery::to);
        let mut deliveries: Vec<Delivery> = own.into_values().chain(chosen).collect();
        deliveries.retain(|copy| copy.wants_ack() || self.is_connected(&copy.client));
        self.turn = self.turn.wrapping_add(1);
        deliveries
    }

    /// The connected member with the fewest open copies; among equals they take turns. If none is connected, the first
    /// one gets it on its return.
    fn choose<'a>(&self, members: &[&'a Reader]) -> Option<&'a Reader> {
        let connected: Vec<&Reader> =
            members.iter().copied().filter(|member| self.is_connected(&member.client)).collect();
        let load = |reader: &&'a Reader| self.get(&reader.client).map_or(0, |session| session.copies.len());
        let turns = (0..connected.len()).map(|n| connected[(n + self.turn % connected.len()) % connected.len()]);
        turns.min_by_key(load).or_else(|| members.first().copied())
    }

    /// Puts a copy into the engine's queue of a session.
    pub(in crate::broker) fn hand(&mut self, copy: &Delivery, id: u64, message: &Outbound, marks: Marks) -> Handed {
        let Some(session) = self.by_client.get_mut(&copy.client) else {
            return Handed::Gone;
        };
        let mut publish = packet(message, copy.qos);
        if marks.readers == Readers::Several {
            publish.properties.set_payload_format_indicator(true);
        }
        for id in &copy.subscription_ids {
            publish.properties.set_subscription_identifier(*id);
        }
        if session.max_packet.is_some_and(|limit| size_of_packet(&publish) > limit) {
            // The engine would drop it in silence.
            return Handed::TooBig;
        }
        let queued = QueuedMessage::new(publish, copy.client.to_string(), copy.qos, None);
        if session.queue.push_in_epoch(queued, session.epoch).is_none() {
            return Handed::Gone;
        }
        session.queue.notify();
        // A member of a shared subscription that also subscribes on its own has two copies; the first that is
        // acknowledged answers for both.
        let mark = marks.mark;
        session.copies.push_back(Held { id, mark, wants_ack: copy.wants_ack(), sent: false });
        Handed::Queued
    }
}

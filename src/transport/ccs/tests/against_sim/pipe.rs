//! One direction of a connection in memory: bytes arrive late and in pieces, but in order.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;

/// All chance of a run, from one seed.
pub(super) struct Weather {
    rng: Xoshiro256PlusPlus,
    latency_ms: u64,
    piece: usize,
}

/// What comes out of a pipe.
pub(super) enum Item {
    Bytes(Vec<u8>),
    End,
}

/// What is on its way, with the time of its arrival.
#[derive(Default)]
pub(super) struct Pipe {
    items: VecDeque<(u64, Item)>,
    last: u64,
    /// Nothing goes in any more.
    ended: bool,
}

impl Weather {
    pub(super) fn new(seed: u64, latency_ms: u64, piece: usize) -> Self {
        Self { rng: Xoshiro256PlusPlus::seed_from_u64(seed), latency_ms, piece }
    }

    /// A number from 0 to `limit`.
    pub(super) fn upto(&mut self, limit: u64) -> u64 {
        self.rng.random_range(0..=limit)
    }
}

impl Pipe {
    pub(super) fn push(&mut self, mut bytes: &[u8], now: u64, weather: &mut Weather) {
        while !bytes.is_empty() {
            let size = (1 + weather.upto(weather.piece as u64) as usize).min(bytes.len());
            let (piece, rest) = bytes.split_at(size);
            self.add(Item::Bytes(piece.to_vec()), now, weather);
            bytes = rest;
        }
    }

    pub(super) fn end(&mut self, now: u64, weather: &mut Weather) {
        self.add(Item::End, now, weather);
    }

    /// The connection breaks: what is on its way gets through up to some point.
    pub(super) fn cut(&mut self, now: u64, weather: &mut Weather) {
        let kept = weather.upto(self.items.len() as u64) as usize;
        self.items.truncate(kept);
        self.items.retain(|(_, item)| matches!(item, Item::Bytes(_)));
        self.ended = false;
        self.add(Item::End, now, weather);
    }

    /// Nothing arrives before `until`.
    pub(super) fn hold(&mut self, until: u64) {
        self.last = self.last.max(until);
        for (due, _) in &mut self.items {
            *due = (*due).max(until);
        }
    }

    pub(super) fn pop(&mut self, now: u64) -> Option<Item> {
        if self.due()? > now {
            return None;
        }
        self.items.pop_front().map(|(_, item)| item)
    }

    pub(super) fn due(&self) -> Option<u64> {
        self.items.front().map(|(due, _)| *due)
    }

    fn add(&mut self, item: Item, now: u64, weather: &mut Weather) {
        if self.ended {
            return;
        }
        self.ended = matches!(item, Item::End);
        // Most of a message's pieces come close together.
        let late = if weather.upto(3) == 0 { 1 + weather.upto(weather.latency_ms) } else { 1 };
        self.last = self.last.max(now + late);
        self.items.push_back((self.last, item));
    }
}

//! The devices of one user, and the messages that wait for them. Pure.

use crate::chat::attention::{Attended, Attention};
use crate::chat::id::Sid;
use crate::chat::push_decision::PushWhen;
use crate::chat::topic::Device;
use std::collections::BTreeMap;

/// Most connected devices of one user; nobody counts as looking at further ones.
pub(super) const DEVICES_MAX: usize = 1_000;
/// Most devices of one user that are not connected and keep their signs; the oldest sign is forgotten first.
pub(super) const DEVICES_AWAY_MAX: usize = 10;

/// What is known of one user. Each method that returns messages returns those that are to be decided again.
#[derive(Debug)]
pub(super) struct User {
    when: PushWhen,
    sign_counts_ms: u64,
    /// On the heap one by one: a map makes room for eleven, and a user has one or two.
    devices: BTreeMap<Device, Box<Known>>,
    /// Each message that no attended device has confirmed, and how many devices hold it. Not used if each device waits for
    /// itself.
    waiting: BTreeMap<Sid, usize>,
}

/// A device that is connected, or whose last sign still counts.
#[derive(Debug)]
struct Known {
    /// None: it is away. At a take-over the old one is still among them.
    connections: Vec<u64>,
    attention: Attention,
}

impl User {
    pub(super) fn new(when: PushWhen, sign_counts_ms: u64) -> Self {
        Self { when, sign_counts_ms, devices: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    pub(super) fn handle_came(&mut self, device: &Device, connection: u64) {
        if self.devices.len() >= DEVICES_MAX && !self.devices.contains_key(device) {
            return;
        }
        let known = self.ensure(device);
        if !known.connections.contains(&connection) {
            known.connections.push(connection);
            known.attention.handle_unsaid();
        }
    }

    /// The devices with a connection.
    pub(super) fn connected_devices(&self) -> Vec<Device> {
        let connected = self.devices.iter().filter(|(_, known)| known.is_connected());
        connected.map(|(device, _)| device.clone()).collect()
    }

    pub(super) fn handle_gone(&mut self, device: &Device, connection: u64, now_ms: u64) -> Vec<Sid> {
        let Some(known) = self.connected(device) else { return Vec::new() };
        known.connections.retain(|&live| live != connection);
        if !known.connections.is_empty() {
            return Vec::new();
        }
        let left = known.attention.handle_ended();
        self.forget(now_ms);
        self.give_up(left)
    }

    pub(super) fn handle_sign(&mut self, device: &Device, now_ms: u64) {
        self.ensure(device).attention.handle_sign(now_ms);
        self.forget(now_ms);
    }

    /// A word of a device that is not connected is ignored, as it would end with the connection.
    pub(super) fn handle_active(&mut self, device: &Device, active: bool, now_ms: u64) -> Vec<Sid> {
        let Some(known) = self.connected(device) else { return Vec::new() };
        let left = known.attention.handle_active(active, now_ms);
        self.give_up(left)
    }

    /// The client takes back that nobody looks at it.
    pub(super) fn handle_unsaid(&mut self, device: &Device) {
        if let Some(known) = self.connected(device) {
            known.attention.handle_unsaid();
        }
    }

    /// A message that no device holds is returned itself: whoever was looking when that was asked has gone since.
    pub(super) fn handle_given(&mut self, sid: Sid, now_ms: u64) -> Vec<Sid> {
        let (mut holders, mut left) = (0, Vec::new());
        for known in self.devices.values_mut().filter(|known| known.is_connected()) {
            let back = known.attention.handle_message(sid, now_ms);
            if known.attention.is_waited_for(sid) || back.contains(&sid) {
                holders += 1;
            }
            left.extend(back);
        }
        if holders == 0 {
            return vec![sid];
        }
        if self.when != PushWhen::PerDevice {
            self.waiting.insert(sid, holders);
        }
        self.give_up(left)
    }

    pub(super) fn handle_taken_back(&mut self, sid: Sid) {
        self.devices.values_mut().for_each(|known| known.attention.handle_taken_back(sid));
        self.waiting.remove(&sid);
    }

    /// Whether the device is attended, or was when it was given what it confirms.
    pub(super) fn handle_confirmed(&mut self, device: &Device, sid: Sid, now_ms: u64) -> bool {
        let Some(known) = self.connected(device) else { return false };
        let waited = known.attention.handle_confirmed(sid);
        let attended = waited || known.attention.is_attended(now_ms);
        if attended {
            self.waiting.remove(&sid);
        }
        attended
    }

    /// The messages up to this one for which pushes wait for the device's confirmation: at most
    /// [`UNCONFIRMED_MAX`](crate::chat::attention::UNCONFIRMED_MAX).
    pub(super) fn waited_for(&self, device: &Device, sid: Sid) -> Vec<Sid> {
        let known = self.devices.get(device).filter(|known| known.is_connected());
        known.map(|known| known.attention.waited_for_up_to(sid).collect()).unwrap_or_default()
    }

    pub(super) fn attended(&self, now_ms: u64) -> Attended {
        let attended =
            self.devices.iter().filter(|(_, known)| known.is_connected() && known.attention.is_attended(now_ms));
        Attended { devices: attended.map(|(device, _)| device.clone()).collect() }
    }

    /// What has waited for too long.
    pub(super) fn poll(&mut self, now_ms: u64) -> Vec<Sid> {
        let left = self.devices.values_mut().flat_map(|known| known.attention.poll(now_ms)).collect();
        self.forget(now_ms);
        self.give_up(left)
    }

    /// When to [poll](Self::poll) although nothing happens.
    pub(super) fn deadline(&self) -> Option<u64> {
        let deadline = |known: &Known| match known.is_connected() {
            true => known.attention.deadline(),
            false => known.attention.sign_counts_until(),
        };
        self.devices.values().filter_map(|known| deadline(known)).min()
    }

    /// Whether no device is connected.
    pub(super) fn is_away(&self) -> bool {
        !self.devices.values().any(|known| known.is_connected())
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    fn connected(&mut self, device: &Device) -> Option<&mut Known> {
        self.devices.get_mut(device).map(Box::as_mut).filter(|known| known.is_connected())
    }

    fn ensure(&mut self, device: &Device) -> &mut Known {
        let attention = Attention::new(self.sign_counts_ms);
        let new = || Box::new(Known { connections: Vec::with_capacity(1), attention });
        self.devices.entry(device.clone()).or_insert_with(new)
    }

    /// Forgets the devices that are away and whose signs count no more, or are too many.
    fn forget(&mut self, now_ms: u64) {
        let counts = |known: &Known| known.attention.sign_counts_until().is_some_and(|until| now_ms < until);
        self.devices.retain(|_, known| known.is_connected() || counts(known));
        let away = self.devices.iter().filter(|(_, known)| !known.is_connected());
        let mut away: Vec<_> =
            away.map(|(device, known)| (known.attention.sign_counts_until(), device.clone())).collect();
        away.sort_unstable();
        for (_, device) in &away[..away.len().saturating_sub(DEVICES_AWAY_MAX)] {
            self.devices.remove(device);
        }
    }

    /// A device waits no longer for these: those among them for which no other one waits.
    fn give_up(&mut self, mut sids: Vec<Sid>) -> Vec<Sid> {
        sids.sort_unstable();
        if self.when == PushWhen::PerDevice {
            sids.dedup();
            return sids;
        }
        sids.retain(|sid| {
            let Some(holders) = self.waiting.get_mut(sid) else { return false };
            *holders -= 1;
            *holders == 0 && self.waiting.remove(sid).is_some()
        });
        sids
    }
}

impl Known {
    fn is_connected(&self) -> bool {
        !self.connections.is_empty()
    }
}

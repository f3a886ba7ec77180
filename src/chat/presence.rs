//! Whether somebody is there: one state for all devices of a chat user, or of a BAL.
//!
//! What says that a device is connected depends on the broker ([`Evidence`]). The embedded one sees every connection begin
//! and end, whatever a will says that it publishes late. A broker of others shows documents only: a device is connected from
//! its birth (`online`) to its will (`offline`), and a will that names another connection than the newest birth is ignored.
//!
//! ```text
//!              came                         came
//!   (nothing) ──────▶ Here(visible) ◀──────────────┐
//!                      │        ▲ │ broke          │
//!              offline │ online │ └──────▶ Awaited ┘
//!                      ▼        │             │ its time is over
//!                     Here(hidden) ─────▶   Gone
//! ```
//!
//! A device that left in an orderly way is forgotten at once. One whose connection broke is awaited for a grace period,
//! in which its user still counts as there. After that it is only remembered for its will. A connected device that says
//! `offline` hides; with [`Evidence::Births`] that is the end of the connection itself. Whether somebody looks at a device
//! (`active`) is for pushes alone ([`super::attention`]) and seen by nobody else.

mod device;

use self::device::{Absence, Device, Standing};
use super::message::{Presence, PresenceState, UserPresence};
use super::topic::Device as DeviceName;
use std::collections::BTreeMap;

pub use device::LATE_WILL_MS;

/// The device of a client whose id names none.
pub const DEFAULT_DEVICE: &str = "default";
/// Most devices of one owner that are known by their births; further ones count as silent.
pub const DEVICES_MAX: usize = 1_000;

/// What says that a device is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The broker sees connections, and documents say how a connected device is.
    Connections,
    /// Only documents: births and wills.
    Births,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a goodbye.
    Left,
    /// Without a word.
    Broke,
}

/// What a document means for whether somebody looks at its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChange {
    /// A connection of this number began. Numbers are unique among those of the device that have not ended.
    Came(u64),
    /// It ended.
    Gone(u64),
    /// Somebody looks at the device, or nobody does.
    Active(bool),
    /// Nothing is said of that any more.
    Unsaid,
}

/// What is known of one user. Times are Unix milliseconds by the caller's clock, which must not go back.
#[derive(Debug)]
pub struct Aggregate {
    evidence: Evidence,
    grace_ms: u64,
    /// On the heap one by one: a map makes room for eleven, and a user has one or two.
    devices: BTreeMap<DeviceName, Box<Device>>,
    /// Devices from before a restart: somebody was there, and nothing else is known.
    unaccounted: Option<Absence>,
    last_seen: Option<u64>,
    /// The user wants to be seen by nobody.
    hidden: bool,
    told: Option<UserPresence>,
    /// Devices that went and whose retained presence is to be cleared.
    cleared: Vec<DeviceName>,
}

impl Aggregate {
    /// A user of whom nothing is known, whose devices have `grace_ms` to come back.
    pub fn new(evidence: Evidence, grace_ms: u64) -> Self {
        let (devices, cleared) = (BTreeMap::new(), Vec::new());
        Self { evidence, grace_ms, devices, unaccounted: None, last_seen: None, hidden: false, told: None, cleared }
    }

    /// The user was there when the bridge stopped, and has until `until` to come back; `last_seen` is the last time at which
    /// that is known for certain.
    pub fn handle_restart(&mut self, last_seen: Option<u64>, until: u64) {
        self.unaccounted = Some(Absence { since: last_seen, until });
    }

    /// The broker has forgotten everything: whoever was there has until `until` to say so again. Returns the connections that
    /// count no longer.
    pub fn handle_broker_lost(&mut self, now_ms: u64, until: u64) -> Vec<(DeviceName, u64)> {
        self.expire(now_ms);
        if self.devices.values().any(|device| device.counts()) {
            self.unaccounted = Some(Absence { since: Some(now_ms), until });
        }
        (self.told, self.cleared) = (None, Vec::new());
        let devices = std::mem::take(&mut self.devices).into_iter();
        let ended = devices.flat_map(|(name, device)| {
            let connections =
                if let Standing::Here { connections, .. } = device.standing { connections } else { Vec::new() };
            connections.into_iter().map(move |connection| (name.clone(), connection))
        });
        ended.collect()
    }

    /// The same of one who is away until that is said: whoever has said something is there no longer.
    pub fn handle_all_gone(&mut self, now_ms: u64) {
        for device in self.devices.values_mut() {
            (device.standing, device.broke_at) = (Standing::Gone, Some(now_ms));
        }
    }

    /// The user was last seen at `last_seen`, if not later.
    pub fn handle_memory(&mut self, last_seen: Option<u64>) {
        self.last_seen = self.last_seen.max(last_seen);
    }

    /// Whether the user wants to be seen by nobody: always offline, without the time of the last visit.
    pub fn handle_hide(&mut self, hidden: bool) {
        self.hidden = hidden;
    }

    /// Whether a device has registered a token. With [`Evidence::Births`] the retained presence of one that has none is cleared
    /// after it went, and that of one of which it is not known is left.
    pub fn handle_token(&mut self, device: &DeviceName, has_token: bool) {
        if let Some(known) = self.devices.get_mut(device) {
            known.has_token = Some(has_token);
        }
    }

    /// A device has connected.
    pub fn handle_came(&mut self, device: &DeviceName, connection: u64, now_ms: u64) {
        self.expire(now_ms);
        self.devices.entry(device.clone()).or_insert_with(|| Box::new(Device::gone())).connect(connection);
    }

    /// A connection of a device has ended.
    pub fn handle_gone(&mut self, device: &DeviceName, connection: u64, end: End, now_ms: u64) {
        self.expire(now_ms);
        let Some(known) = self.devices.get_mut(device) else { return };
        let Standing::Here { connections, hidden } = &mut known.standing else { return };
        connections.retain(|&live| live != connection);
        if end == End::Broke {
            known.broke_at = Some(now_ms);
        }
        if !connections.is_empty() {
            return;
        }
        let visible = !*hidden;
        match end {
            End::Left => {
                let clear = known.is_to_be_cleared(self.evidence);
                self.cleared.extend(clear.then(|| device.clone()));
                self.devices.remove(device);
            }
            End::Broke if visible && self.grace_ms > 0 => {
                let until = now_ms.saturating_add(self.grace_ms);
                known.standing = Standing::Awaited(Absence { since: Some(now_ms), until });
                return;
            }
            End::Broke => known.standing = Standing::Gone,
        }
        if visible {
            self.handle_memory(Some(now_ms));
        }
    }

    /// A client said how it is; `None` takes back what it said. Without a device it is a client of old that has only one. With
    /// [`Evidence::Births`] it speaks for [`DEFAULT_DEVICE`]; else for the one device that is connected or, among several,
    /// for that one.
    pub fn handle_said(
        &mut self,
        device: Option<&DeviceName>,
        said: Option<&Presence>,
        now_ms: u64,
    ) -> Vec<(DeviceName, DeviceChange)> {
        let Some(device) = device.cloned().or_else(|| self.speaker()) else { return Vec::new() };
        let mut changes = match self.evidence {
            Evidence::Connections => Vec::new(),
            Evidence::Births => self.hear_of_connection(&device, said, now_ms),
        };
        changes.extend(self.hear(&device, said, now_ms));
        changes.into_iter().map(|change| (device.clone(), change)).collect()
    }

    /// What was told has been lost or overwritten: [`Self::poll_document`] has it again.
    pub fn handle_loss(&mut self) {
        self.told = None;
    }

    /// Whether a document on the aggregate's own topic is a copy of what was told last.
    pub fn has_told(&self, document: &Presence) -> bool {
        self.told.is_some_and(|told| told.state == document.state && Some(told.ts) == document.ts)
    }

    /// What others are to be told, if it differs from what they were told last.
    pub fn poll_document(&mut self, now_ms: u64) -> Option<UserPresence> {
        self.expire(now_ms);
        let visible = !self.hidden && self.devices.values().any(|device| device.counts());
        if !visible && !self.hidden && self.unaccounted.is_some() {
            return None;
        }
        let state = if visible { PresenceState::Online } else { PresenceState::Offline };
        let last_seen = self.last_seen.filter(|_| !self.hidden);
        let changed = self.told.is_none_or(|told| {
            // The same state may have another time: the user was there and gone again before it could be told.
            told.state != state || (state == PresenceState::Offline && told.last_seen != last_seen)
        });
        let document = UserPresence { state, ts: now_ms, last_seen };
        changed.then(|| *self.told.insert(document))
    }

    /// A device whose retained presence is to be cleared.
    pub fn poll_cleared(&mut self) -> Option<DeviceName> {
        self.cleared.pop()
    }

    /// When to poll again although nothing happened.
    pub fn deadline(&self) -> Option<u64> {
        let devices = self.devices.values().filter_map(|device| device.deadline());
        devices.chain(self.unaccounted.map(|absence| absence.until)).min()
    }

    /// Whether nothing is left that could still change by itself or by the end of a connection.
    pub fn is_idle(&self) -> bool {
        self.devices.is_empty() && self.unaccounted.is_none()
    }

    /// Whether some device said something and none is there, the awaited ones included.
    pub fn is_away(&self) -> bool {
        !self.devices.is_empty() && !self.devices.values().any(|device| device.counts())
    }

    fn expire(&mut self, now_ms: u64) {
        let Self { evidence, devices, unaccounted, last_seen, cleared, .. } = self;
        devices.retain(|name, device| {
            if let Standing::Awaited(absence) = device.standing
                && absence.until <= now_ms
            {
                device.standing = Standing::Gone;
                *last_seen = (*last_seen).max(absence.since);
            }
            let kept = device.deadline().is_none_or(|deadline| deadline > now_ms);
            if !kept && device.is_to_be_cleared(*evidence) {
                cleared.push(name.clone());
            }
            kept
        });
        if let Some(absence) = unaccounted.take_if(|absence| absence.until <= now_ms) {
            *last_seen = (*last_seen).max(absence.since);
        }
    }

    /// Who speaks without saying which device it is.
    fn speaker(&self) -> Option<DeviceName> {
        let mut connected = self.devices.iter().filter(|(_, device)| device.connection().is_some());
        match (self.evidence, connected.next(), connected.next()) {
            (Evidence::Connections, None, _) => None,
            (Evidence::Connections, Some((only, _)), None) => Some(only.clone()),
            _ => DeviceName::new(DEFAULT_DEVICE).ok(),
        }
    }

    /// A connected device says how it is.
    fn hear(&mut self, device: &DeviceName, said: Option<&Presence>, now_ms: u64) -> Option<DeviceChange> {
        // What it says takes the place of what was to be cleared.
        self.cleared.retain(|cleared| cleared != device);
        let known = self.devices.get_mut(device)?;
        known.said = said.is_some();
        if said.is_some_and(|said| known.is_late_will(said, now_ms)) {
            return None;
        }
        let Standing::Here { hidden, .. } = &mut known.standing else { return None };
        if let Some(conn) = said.and_then(|said| said.conn.clone()) {
            known.conn = Some(conn);
        }
        let hides = said.is_some_and(|said| said.state == PresenceState::Offline);
        let before = std::mem::replace(hidden, hides);
        if hides && !before {
            self.handle_memory(Some(now_ms));
        }
        match said {
            _ if hides => Some(DeviceChange::Active(false)),
            Some(&Presence { active: Some(active), .. }) => Some(DeviceChange::Active(active)),
            Some(_) if !before => None,
            _ => Some(DeviceChange::Unsaid),
        }
    }

    /// Where only documents are seen: what one means for the connection of its device.
    fn hear_of_connection(&mut self, device: &DeviceName, said: Option<&Presence>, now_ms: u64) -> Vec<DeviceChange> {
        let known = self.devices.get(device);
        let (here, birth) = (known.and_then(|known| known.connection()), known.and_then(|known| known.conn.as_ref()));
        let other = said.is_some_and(|said| said.conn.is_some() && said.conn.as_ref() != birth);
        let full = known.is_none() && self.devices.len() >= DEVICES_MAX;
        match (said.map(|said| said.state), here) {
            (Some(PresenceState::Online), Some(_)) if !other => Vec::new(),
            (Some(_), None) if full => Vec::new(),
            (Some(PresenceState::Online), former) => {
                let connection = former.map_or(0, |former| former + 1);
                self.handle_came(device, connection, now_ms);
                if let Some(former) = former {
                    self.handle_gone(device, former, End::Broke, now_ms);
                }
                [Some(DeviceChange::Came(connection)), former.map(DeviceChange::Gone)].into_iter().flatten().collect()
            }
            (Some(PresenceState::Offline), Some(_)) if other && birth.is_some() => Vec::new(),
            (Some(PresenceState::Offline), None) => {
                let known = self.devices.entry(device.clone()).or_insert_with(|| Box::new(Device::gone()));
                known.broke_at = Some(now_ms);
                Vec::new()
            }
            (said, Some(connection)) => {
                let end = if said.is_some() { End::Broke } else { End::Left };
                self.devices.entry(device.clone()).and_modify(|known| known.said = said.is_some());
                self.handle_gone(device, connection, end, now_ms);
                vec![DeviceChange::Gone(connection)]
            }
            (None, None) => {
                if let Some(known) = self.devices.remove(device)
                    && let Standing::Awaited(absence) = known.standing
                {
                    self.handle_memory(absence.since);
                }
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Setting devices up, letting them speak, and looking at them: the control side of the devices.

use super::{Happening, VirtualDevices, is_token};
use crate::sim::condition::is_topic;
use crate::sim::device::{DevicePatch, Presence, Refuse};
use crate::sim::log::Record;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// A request about a device that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is no such device.
    #[error("there is no such device")]
    NoDevice,
    /// The text cannot be a token.
    #[error("a token is 1 to 4096 characters without white space")]
    Token,
    /// The new token belongs to another device.
    #[error("the canonical token belongs to another device")]
    Taken,
    /// The text cannot be a topic.
    #[error("a topic has only the characters a-z A-Z 0-9 - _ . ~ %")]
    Topic,
    /// There are too many topics.
    #[error("a device has at most {0} topics")]
    Topics(usize),
    /// There are too many devices.
    #[error("there are {0} devices already, the limit")]
    Full(usize),
    /// The device is not there to speak.
    #[error("the device is {0:?} and cannot send")]
    Silent(Presence),
}

/// A device in a list.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceSummary {
    /// Its present token.
    pub token: String,
    /// Where it is.
    pub state: Presence,
    /// Messages it got, duplicates included.
    pub received: u64,
    /// Messages it got again.
    pub duplicates: u64,
    /// Messages that wait for it to come back.
    pub stored: usize,
    /// Messages on their way to it.
    pub on_the_way: usize,
    /// Messages that it was never given.
    pub discarded: u64,
    /// Messages that it has sent.
    pub sent: u64,
}

/// A device and what it got.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceView {
    /// The figures.
    #[serde(flatten)]
    pub summary: DeviceSummary,
    /// How late it gets its messages while slow, in milliseconds.
    pub delay_ms: u64,
    /// The refusals left.
    pub refuse: Option<Refuse>,
    /// The category of its echo.
    pub echo: Option<String>,
    /// Whether deliveries to it are told.
    pub receipts: bool,
    /// Its package name.
    pub category: String,
    /// Its topics.
    pub topics: BTreeSet<String>,
    /// What it got and is remembered, oldest first.
    pub messages: Vec<RecordView>,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordView {
    /// Counted from 1 per device.
    pub seq: u64,
    /// The sender's id.
    pub message_id: String,
    /// The application's data.
    pub data: Value,
    /// What the device shows by itself.
    pub notification: Option<Value>,
    /// What is for Apple's devices only: headers and payload of APNs.
    pub apns: Option<Value>,
    /// When, in Unix milliseconds.
    pub at: u64,
    /// 1 for the first copy, 2 and more for duplicates.
    pub copy: u32,
}

impl From<&Record> for RecordView {
    fn from(record: &Record) -> Self {
        let json = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
        Self {
            seq: record.seq,
            message_id: record.message.id.to_string(),
            data: json(&record.message.data),
            notification: record.message.notification.as_deref().map(json),
            apns: record.message.apns.as_deref().map(json),
            at: record.at,
            copy: record.copy,
        }
    }
}

impl VirtualDevices {
    /// Changes a device, or makes it. Nothing changes if there is an error.
    ///
    /// # Errors
    /// When a token or topic is not one, or a limit is reached.
    pub fn put(&mut self, token: &str, patch: DevicePatch, now: u64) -> Result<(), DeviceError> {
        self.check(token, &patch)?;
        let known = self.tokens.get(token).copied();
        let at = known.or_else(|| self.make(token)).ok_or(DeviceError::Full(self.config.max_devices))?;
        if let Some(topics) = patch.topics {
            self.subscribe(at, topics);
        }
        let device = &mut self.devices[at];
        if let Some(canonical) = patch.canonical {
            device.token = canonical.into();
            self.tokens.insert(device.token.clone(), at);
        }
        device.delay_ms = patch.delay_ms.unwrap_or(device.delay_ms);
        if let Some(refuse) = patch.refuse {
            device.refuse = (refuse.times > 0).then_some(refuse);
        }
        if let Some(category) = patch.echo {
            device.echo = (!category.is_empty()).then(|| category.into());
        }
        device.receipts = patch.receipts.unwrap_or(device.receipts);
        if let Some(category) = patch.category {
            device.category = category.into();
        }
        if let Some(presence) = patch.state {
            self.place(at, presence, now);
        }
        Ok(())
    }

    fn check(&self, token: &str, patch: &DevicePatch) -> Result<(), DeviceError> {
        if !is_token(token) || patch.canonical.as_deref().is_some_and(|canonical| !is_token(canonical)) {
            return Err(DeviceError::Token);
        }
        if let Some(canonical) = &patch.canonical
            && let Some(owner) = self.tokens.get(canonical.as_str())
            && self.tokens.get(token) != Some(owner)
        {
            return Err(DeviceError::Taken);
        }
        match &patch.topics {
            Some(topics) if topics.len() > self.config.topics_per_device => {
                Err(DeviceError::Topics(self.config.topics_per_device))
            }
            Some(topics) if !topics.iter().all(|topic| is_topic(topic)) => Err(DeviceError::Topic),
            _ => Ok(()),
        }
    }

    fn subscribe(&mut self, at: usize, topics: BTreeSet<String>) {
        let topics: BTreeSet<String> = topics.iter().map(|topic| topic.to_ascii_lowercase()).collect();
        for old in self.devices[at].topics.difference(&topics) {
            if let Some(members) = self.topics.get_mut(old) {
                members.remove(&at);
                if members.is_empty() {
                    self.topics.remove(old);
                }
            }
        }
        for topic in &topics {
            self.topics.entry(topic.clone()).or_default().insert(at);
        }
        self.devices[at].topics = topics;
    }

    fn place(&mut self, at: usize, presence: Presence, now: u64) {
        let device = &mut self.devices[at];
        device.presence = presence;
        device.expire(now);
        match presence {
            Presence::Online | Presence::Slow => {
                for message in std::mem::take(&mut device.stored) {
                    self.hand(at, &message, now);
                }
            }
            Presence::Uninstalled => {
                device.discarded += device.stored.len() as u64;
                device.stored.clear();
            }
            Presence::Offline => {}
        }
    }

    /// Lets a device send a message: `data` is a JSON object as text. Without an id it gets the device's next one.
    ///
    /// # Errors
    /// When there is no such device, or it is away.
    pub fn speak(
        &mut self,
        token: &str,
        category: Option<&str>,
        data: String,
        message_id: Option<String>,
    ) -> Result<(), DeviceError> {
        let at = self.tokens.get(token).copied();
        let at = at.or_else(|| self.find_or_make(token).ok()).ok_or(DeviceError::NoDevice)?;
        let device = &mut self.devices[at];
        if !matches!(device.presence, Presence::Online | Presence::Slow) {
            return Err(DeviceError::Silent(device.presence));
        }
        let message_id = message_id.unwrap_or_else(|| device.next_id());
        let category = category.map_or_else(|| device.category.clone(), Into::into);
        self.happened.push_back(Happening::Said { token: device.token.clone(), category, message_id, data });
        Ok(())
    }

    /// A device, and up to `limit` of the deliveries behind number `after`.
    pub fn device(&self, token: &str, after: u64, limit: usize) -> Option<DeviceView> {
        let at = *self.tokens.get(token)?;
        let device = &self.devices[at];
        Some(DeviceView {
            summary: self.summary(at),
            delay_ms: device.delay_ms,
            refuse: device.refuse.clone(),
            echo: device.echo.as_deref().map(str::to_owned),
            receipts: device.receipts,
            category: device.category.to_string(),
            topics: device.topics.clone(),
            messages: device.log.after(after).take(limit).map(RecordView::from).collect(),
        })
    }

    /// Up to `limit` devices in the order of their making, without the first `skip`.
    pub fn list(&self, skip: usize, limit: usize) -> impl Iterator<Item = DeviceSummary> {
        (0..self.devices.len()).skip(skip).take(limit).map(|at| self.summary(at))
    }

    fn summary(&self, at: usize) -> DeviceSummary {
        let device = &self.devices[at];
        DeviceSummary {
            token: device.token.to_string(),
            state: device.presence,
            received: device.log.received(),
            duplicates: device.log.duplicates(),
            stored: device.stored.len(),
            on_the_way: device.on_the_way.len(),
            discarded: device.discarded,
            sent: device.sent,
        }
    }
}

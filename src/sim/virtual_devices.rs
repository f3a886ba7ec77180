//! The virtual devices of all connections, and what happens to them. Time comes in as Unix milliseconds; what happened
//! goes out by [`VirtualDevices::poll`]. Knows no wire protocol.
//!
//! Invariant: what is remembered stays within the limits of [`VirtualDevicesConfig`], whatever is sent.

mod setup;

pub use setup::{DeviceError, DeviceSummary, DeviceView, RecordView};

use super::condition::Condition;
use super::config::VirtualDevicesConfig;
use super::device::{Confirm, Device, Handed, Message, Presence, Storage};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

/// A message to send to devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// Who gets it.
    pub target: Target,
    /// The message.
    pub message: Arc<Message>,
    /// Whether to deliver it, or only to say whether it could be.
    pub mode: Mode,
}

/// Who gets a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One device.
    Token(String),
    /// The subscribers of a topic; the name has no `/topics/` in front.
    Topic(String),
    /// The devices for which an expression holds.
    Condition(Condition),
}

/// Whether a message is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Deliver,
    /// It is only to be checked.
    DryRun,
}

/// The service took a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The device's present token, if the message was sent to an older one.
    pub canonical: Option<Arc<str>>,
}

/// Why the service did not take a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There never was such a token.
    BadToken,
    /// The token is dead.
    Unregistered,
    /// There are too many devices, or too many messages on their way.
    Full,
    /// The device was told to be refused with this word.
    Ordered(String),
}

/// What happened at the devices.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// A device got a message.
    Delivered {
        /// Its token at the time.
        token: Arc<str>,
        /// Its package name.
        category: Arc<str>,
        /// The message.
        message: Arc<Message>,
        /// Which copy of it.
        copy: u32,
        /// When.
        at: u64,
        /// Whether its sender is to be told.
        receipt: bool,
    },
    /// A device sends a message.
    Said {
        /// Its token.
        token: Arc<str>,
        /// The category.
        category: Arc<str>,
        /// The device's id of the message.
        message_id: String,
        /// A JSON object as text.
        data: String,
    },
    /// An app says that it has a message.
    Confirmed {
        /// Its device.
        token: Arc<str>,
        /// What it says.
        confirm: Confirm,
        /// When the sender hears that it was accepted, in Unix milliseconds.
        answered_at: u64,
        /// When.
        at: u64,
    },
    /// There was too much for a device that is away: everything stored for it is deleted, and the app will hear of it.
    Deleted {
        /// Its token.
        token: Arc<str>,
    },
}

/// The virtual devices.
#[derive(Debug)]
pub struct VirtualDevices {
    config: VirtualDevicesConfig,
    devices: Vec<Device>,
    /// Tokens, old ones too, to places in `devices`.
    tokens: HashMap<Arc<str>, usize>,
    /// Topics in lower case to their subscribers.
    topics: HashMap<String, BTreeSet<usize>>,
    /// Arrivals at slow devices.
    arrivals: BinaryHeap<Reverse<(u64, usize)>>,
    happened: VecDeque<Happening>,
    /// Which device's record is the oldest of all, and its number.
    ages: VecDeque<(usize, u64)>,
    remembered: usize,
    remembered_bytes: usize,
}

/// Entries of forgotten records that are left alone.
const AGES_SLACK: usize = 64;

impl VirtualDevices {
    /// No device.
    pub fn new(config: VirtualDevicesConfig) -> Self {
        Self {
            config,
            devices: Vec::new(),
            tokens: HashMap::new(),
            topics: HashMap::new(),
            arrivals: BinaryHeap::new(),
            happened: VecDeque::new(),
            ages: VecDeque::new(),
            remembered: 0,
            remembered_bytes: 0,
        }
    }

    /// Takes a message for devices.
    ///
    /// # Errors
    /// When the service refuses it; nothing is delivered then.
    pub fn push(&mut self, push: &Push, now: u64) -> Result<Accepted, Refusal> {
        if self.arrivals.len() >= self.config.on_the_way {
            return Err(Refusal::Full);
        }
        match &push.target {
            Target::Token(token) => {
                let at = self.find_or_make(token)?;
                let device = &mut self.devices[at];
                if let Some(code) = device.take_refusal() {
                    return Err(Refusal::Ordered(code));
                }
                if device.presence == Presence::Uninstalled {
                    return Err(Refusal::Unregistered);
                }
                let canonical = (*device.token != **token).then(|| device.token.clone());
                if push.mode == Mode::Deliver {
                    self.hand(at, &push.message, now);
                }
                Ok(Accepted { canonical })
            }
            Target::Topic(topic) => Ok(self.fan_out(&Condition::In(topic.to_ascii_lowercase()), push, now)),
            Target::Condition(condition) => Ok(self.fan_out(condition, push, now)),
        }
    }

    /// The refusal that was ordered for the next message to a device; uses it up.
    pub fn take_refusal(&mut self, token: &str) -> Option<String> {
        self.tokens.get(token).copied().and_then(|at| self.devices[at].take_refusal())
    }

    /// What happened since the last call, in order.
    pub fn poll(&mut self) -> Option<Happening> {
        self.happened.pop_front()
    }

    /// Lets arrive what is due.
    pub fn tick(&mut self, now: u64) {
        while let Some(&Reverse((due, at))) = self.arrivals.peek()
            && due <= now
        {
            self.arrivals.pop();
            if let Some((_, message)) = self.devices[at].on_the_way.pop_front() {
                self.deliver(at, message, now);
            }
        }
    }

    /// When [`VirtualDevices::tick`] is due.
    pub fn next_due(&self) -> Option<u64> {
        self.arrivals.peek().map(|Reverse((due, _))| *due)
    }

    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether there is no device yet.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    fn find_or_make(&mut self, token: &str) -> Result<usize, Refusal> {
        if let Some(&at) = self.tokens.get(token) {
            return Ok(at);
        }
        let prefix = self.config.auto_devices.as_deref().ok_or(Refusal::BadToken)?;
        if !token.starts_with(prefix) || !is_token(token) {
            return Err(Refusal::BadToken);
        }
        self.make(token).ok_or(Refusal::Full)
    }

    fn make(&mut self, token: &str) -> Option<usize> {
        if self.devices.len() >= self.config.max_devices {
            return None;
        }
        let token: Arc<str> = token.into();
        self.devices.push(Device::new(token.clone()));
        self.tokens.insert(token, self.devices.len() - 1);
        Some(self.devices.len() - 1)
    }

    fn fan_out(&mut self, condition: &Condition, push: &Push, now: u64) -> Accepted {
        let mut members = BTreeSet::new();
        for topic in condition.topics() {
            members.extend(self.topics.get(topic).into_iter().flatten());
        }
        if condition.holds(&|_| false) {
            // It asks for those that are not subscribed to something.
            members.extend(0..self.devices.len());
        }
        for at in members {
            let subscribed = |topic: &str| self.topics.get(topic).is_some_and(|devices| devices.contains(&at));
            if push.mode == Mode::Deliver && condition.holds(&subscribed) {
                self.hand(at, &push.message, now);
            }
        }
        Accepted { canonical: None }
    }

    fn hand(&mut self, at: usize, message: &Arc<Message>, now: u64) {
        let storage = Storage { messages: self.config.stored_per_device, collapse_keys: self.config.collapse_keys };
        match self.devices[at].hand(message, now, storage) {
            Handed::Now => self.deliver(at, message.clone(), now),
            Handed::At(due) => self.arrivals.push(Reverse((due, at))),
            Handed::Kept => {}
            Handed::Emptied => {
                self.happened.push_back(Happening::Deleted { token: self.devices[at].token.clone() });
            }
        }
    }

    fn deliver(&mut self, at: usize, message: Arc<Message>, now: u64) {
        let device = &mut self.devices[at];
        if device.presence == Presence::Uninstalled {
            device.discarded += 1;
            return;
        }
        let copy = device.log.add(message.clone(), now);
        self.happened.push_back(Happening::Delivered {
            token: device.token.clone(),
            category: device.category.clone(),
            message: message.clone(),
            copy,
            at: now,
            receipt: device.receipts && message.receipt,
        });
        if let Some(confirm) = message.confirm.clone().filter(|_| device.receipts) {
            let (token, answered_at) = (device.token.clone(), message.answered_at);
            self.happened.push_back(Happening::Confirmed { token, confirm, answered_at, at: now });
        }
        if let Some(category) = device.echo.clone() {
            let message_id = device.next_id();
            let data = echo(&message);
            self.happened.push_back(Happening::Said { token: device.token.clone(), category, message_id, data });
        }
        self.ages.push_back((at, device.log.received()));
        self.remembered_bytes += message.weight();
        self.remembered += 1;
        self.forget(at);
    }

    /// Keeps the memory of device `at`, and of all together, within the limits.
    fn forget(&mut self, at: usize) {
        if self.devices[at].log.len() > self.config.records_per_device {
            self.forget_oldest(at);
        }
        while self.remembered_bytes > self.config.record_bytes {
            let Some((oldest, seq)) = self.ages.pop_front() else {
                break;
            };
            if self.devices[oldest].log.first_seq() == Some(seq) {
                self.forget_oldest(oldest);
            }
        }
        // Entries of records that went by a device's own limit stay behind. Swept so seldom, they cost next to nothing.
        if self.ages.len() > 2 * self.remembered + AGES_SLACK {
            let devices = &self.devices;
            self.ages.retain(|&(at, seq)| devices[at].log.first_seq().is_some_and(|first| first <= seq));
        }
    }

    fn forget_oldest(&mut self, at: usize) {
        if let Some(record) = self.devices[at].log.forget_oldest() {
            self.remembered_bytes -= record.message.weight();
            self.remembered -= 1;
        }
    }
}

/// Whether `text` can be a registration token at all.
fn is_token(text: &str) -> bool {
    /// Real tokens have around 160 characters.
    const TOKEN_MAX: usize = 4_096;
    (1..=TOKEN_MAX).contains(&text.len()) && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// What a device answers: the data it got, and the id of what it answers.
fn echo(message: &Message) -> String {
    let id = serde_json::Value::from(&*message.id);
    match message.data.strip_prefix('{').map(str::trim_start) {
        Some(rest) if rest != "}" => format!("{{\"echo_of\":{id},{rest}"),
        _ => format!("{{\"echo_of\":{id}}}"),
    }
}

#[cfg(test)]
mod tests;

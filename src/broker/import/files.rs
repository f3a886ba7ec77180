//! The files of earlier releases, as they are.

use crate::chat::qos::QoS;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};

/// The form of the files that all releases wrote.
const VERSION: &str = "2";
/// No release wrote a longer record of a session: 1,000 subscriptions of 1 kB are a megabyte.
const RECORD_MAX: u64 = 64 << 20;
/// The longest file of a message that is read. A byte of a payload takes about nine in there.
const MESSAGE_MAX: u64 = 256 << 20;

/// The folder. Damaged things are counted in what the callers hand over.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

/// A session; what is not wanted of it is not named.
#[derive(Debug, Deserialize)]
pub(super) struct StoredSession {
    client_id: String,
    /// In seconds; `None`: kept by MQTT 3.1.1.
    pub(super) expiry_interval: Option<u32>,
    pub(super) subscriptions: BTreeMap<String, StoredSubscription>,
    pub(super) will_message: Option<IgnoredAny>,
    pub(super) user_id: Option<String>,
    /// Unix milliseconds.
    pub(super) disconnected_at: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StoredSubscription {
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    #[serde(default)]
    retain_handling: u8,
    pub(super) subscription_id: Option<u32>,
}

/// A message that waits, was sent, or is retained: three forms with nearly the same fields.
#[derive(Debug, Deserialize)]
pub(super) struct StoredMessage {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: QoS,
    #[serde(default)]
    pub(super) retain: bool,
    /// Unix seconds.
    #[serde(alias = "queued_at_secs")]
    pub(super) stored_at_secs: u64,
    /// Seconds, counted from then.
    message_expiry_interval: Option<u32>,
    #[serde(default)]
    pub(super) user_properties: Vec<(String, String)>,
    content_type: Option<String>,
    response_topic: Option<String>,
    correlation_data: Option<Vec<u8>>,
    payload_format_indicator: Option<bool>,
    pub(super) packet_id: Option<u16>,
    /// Of one that waits: it was sent to a connection that is gone.
    #[serde(default)]
    dup: bool,
    #[serde(default)]
    pub(super) subscription_identifiers: Vec<u32>,
    /// Of one that was sent.
    pub(super) direction: Option<Direction>,
    pub(super) phase: Option<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Direction {
    Inbound,
    Outbound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[expect(clippy::enum_variant_names, reason = "the words of the files")]
pub(super) enum Phase {
    AwaitingPubrec,
    AwaitingPubrel,
    AwaitingPubcomp,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Record {
    Put { id: String, session: Box<StoredSession> },
    Remove { id: String },
}

impl Folder {
    /// `None` if nobody has written there.
    pub(super) fn open(folder: &Path) -> io::Result<Option<Self>> {
        let version = match fs::read_to_string(folder.join(".storage_version")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            version => version?,
        };
        if version.trim() != VERSION {
            let reason =
                format!("{} has files of a form that no release wrote: {:?}", folder.display(), version.trim());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(Some(Self(folder.to_owned())))
    }

    /// The sessions by the names of their folders.
    pub(super) fn sessions(&self, damaged: &mut u64) -> io::Result<BTreeMap<String, StoredSession>> {
        let mut sessions = BTreeMap::new();
        let mut log = match File::open(self.0.join("sessions/sessions.log")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sessions),
            file => BufReader::new(file?),
        };
        let mut line = Vec::new();
        while log.by_ref().take(RECORD_MAX).read_until(b'\n', &mut line)? > 0 {
            match line.strip_suffix(b"\n").and_then(record) {
                Some(Record::Put { id, session }) if session.client_id == id && is_name(&id) => {
                    drop(sessions.insert(id, *session));
                }
                Some(Record::Remove { id }) => drop(sessions.remove(&id)),
                // The last one may be incomplete: then nobody was told that it was there.
                _ => *damaged += 1,
            }
            line.clear();
        }
        Ok(sessions)
    }

    /// What waits for a session, in order.
    pub(super) fn queue(&self, session: &str, damaged: &mut u64) -> io::Result<Vec<StoredMessage>> {
        let folder = self.0.join("queues").join(session);
        let mut names = names(&folder)?;
        // Of names of other lengths a shorter one has the smaller number.
        names.sort_unstable_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        messages(&folder, &names, damaged)
    }

    /// What a session was sent, or has sent, and what is not finished; in no order.
    pub(super) fn inflight(&self, session: &str, damaged: &mut u64) -> io::Result<Vec<StoredMessage>> {
        let folder = self.0.join("inflight").join(session);
        messages(&folder, &names(&folder)?, damaged)
    }

    pub(super) fn retained(&self) -> io::Result<Vec<String>> {
        names(&self.0.join("retained"))
    }

    /// A retained message; `None` if it is damaged.
    pub(super) fn retained_message(&self, name: &str, damaged: &mut u64) -> io::Result<Option<StoredMessage>> {
        read_json(&self.0.join("retained").join(name), damaged)
    }
}

impl StoredSubscription {
    /// As a byte of a SUBSCRIBE (MQTT 5, 3.8.3.1).
    pub(super) fn options(&self) -> u8 {
        let flags = u8::from(self.no_local) << 2 | u8::from(self.retain_as_published) << 3;
        self.qos as u8 | flags | self.retain_handling.min(2) << 4
    }
}

impl StoredMessage {
    /// Of one that waits: its packet identifier, if it was sent to a connection that is gone.
    pub(super) fn packet_id(&self) -> Option<u16> {
        self.packet_id.filter(|id| self.dup && *id > 0)
    }

    /// When it is not worth delivering any more, in Unix milliseconds.
    pub(super) fn expires_at(&self) -> Option<u64> {
        let seconds = self.stored_at_secs.saturating_add(self.message_expiry_interval?.into());
        Some(seconds.saturating_mul(1_000))
    }

    /// What makes two copies the same message.
    pub(super) fn identity(&self) -> (&str, &[u8], &[(String, String)], u64) {
        (&self.topic, &self.payload, &self.user_properties, self.stored_at_secs)
    }

    /// The properties as they are on the wire, without message expiry (MQTT 5, 3.3.2.3); `None` if a packet cannot hold
    /// them.
    pub(super) fn properties(&self) -> Option<Bytes> {
        let mut wire = Vec::new();
        if let Some(is_text) = self.payload_format_indicator {
            wire.extend([0x01, u8::from(is_text)]);
        }
        for (id, text) in [(0x03, &self.content_type), (0x08, &self.response_topic)] {
            if let Some(text) = text {
                wire.push(id);
                put_text(&mut wire, text)?;
            }
        }
        if let Some(data) = &self.correlation_data {
            wire.push(0x09);
            put(&mut wire, data)?;
        }
        for (name, value) in &self.user_properties {
            wire.push(0x26);
            put_text(&mut wire, name)?;
            put_text(&mut wire, value)?;
        }
        Some(wire.into())
    }
}

fn put_text(wire: &mut Vec<u8>, text: &str) -> Option<()> {
    if text.contains('\0') { None } else { put(wire, text.as_bytes()) }
}

fn put(wire: &mut Vec<u8>, data: &[u8]) -> Option<()> {
    wire.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    wire.extend(data);
    Some(())
}

/// The names of the JSON files in a folder; none if there is no folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // Files that were being written, or were found damaged, have other endings.
        names.extend(entry?.file_name().into_string().ok().filter(|name| name.ends_with(".json")));
    }
    Ok(names)
}

fn messages(folder: &Path, names: &[String], damaged: &mut u64) -> io::Result<Vec<StoredMessage>> {
    let mut messages = Vec::with_capacity(names.len());
    for name in names {
        messages.extend(read_json(&folder.join(name), damaged)?);
    }
    Ok(messages)
}

fn read_json<T: DeserializeOwned>(path: &Path, damaged: &mut u64) -> io::Result<Option<T>> {
    let mut text = Vec::new();
    File::open(path)?.take(MESSAGE_MAX).read_to_end(&mut text)?;
    let read = serde_json::from_slice(&text).ok();
    *damaged += u64::from(read.is_none());
    Ok(read)
}

/// A line of the log, without its end.
fn record(line: &[u8]) -> Option<Record> {
    let (checksum, json) = line.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    let expected = u32::from_str_radix(str::from_utf8(checksum).ok()?, 16).ok()?;
    if crc32(json) != expected {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// CRC-32 as in ISO 3309.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _bit| step(crc)))
}

/// Whether it names a folder, and none above.
fn is_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

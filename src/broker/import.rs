//! Reads the sessions that earlier releases kept in files (`[broker] data`), so that the store can take them.
//!
//! They kept sessions and retained messages in files of their own:
//!
//! ```text
//! .storage_version                2
//! sessions/sessions.log           a change a line: CRC-32 in hexadecimal, a space, JSON; the last one of a session counts
//! queues/{session}/{n}.json       a message that waits for a session; sent in the order of n
//! inflight/{session}/outbound_*   a message that was sent to it and not acknowledged
//! inflight/{session}/inbound_*    a QoS 2 message of it that was not released
//! retained/{topic}.json           a retained message
//! ```
//!
//! Sessions are named by their keys ([`session_key`]), in the first release by client ids. Nothing is written here, so what
//! a kill interrupts can be begun again. What cannot be read is left out and counted ([`LeftOut`]); a fault of the disk
//! is an error, because nobody looks into the folder again after an import. Memory holds what waits for one session, of
//! which the limits of those releases allowed 10,000 messages unless configured otherwise.

mod files;

use super::identity::{is_key_of, session_key};
use crate::chat::filter::is_subscription;
use crate::chat::qos::QoS;
use crate::chat::topic::Side;
use crate::store::{ImportedMessage, ImportedSent, KeptSubscription, Message, SessionRecord};
use bytes::Bytes;
use files::{Direction, Folder, Phase, StoredMessage, StoredSession};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;

/// The user property that every message of a client was given; it names the client.
const PUBLISHER: &str = "x-mqtt-client-id";
/// The one that a message of somebody who had logged in was given; it names the user.
const SENDER: &str = "x-mqtt-sender";

/// A folder, and what was found in it.
#[derive(Debug)]
pub(super) struct FormerFolder {
    /// The sessions; what waits for each is told by [`FormerFolder::waiting`].
    pub(super) sessions: Vec<FormerSession>,
    folder: Folder,
    /// Names of retained files that were not read yet.
    retained: std::vec::IntoIter<String>,
    /// What has been left out so far.
    pub(super) left_out: LeftOut,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FormerSession {
    /// Its key in today's form. Where the key holds a hash instead of the client id, `record.client` is that hash until
    /// the client connects again.
    pub(super) record: SessionRecord,
    /// When its last connection ended, in Unix milliseconds; `None` if it had one at the end.
    pub(super) left_at: Option<u64>,
    pub(super) subscriptions: Vec<KeptSubscription>,
    /// The name of its folders.
    name: String,
    /// The name of a second session of the same client, under the key of the first release.
    joined: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SessionBacklog {
    /// In the order in which they are sent.
    pub(super) messages: Vec<ImportedMessage>,
    /// QoS 2 messages that the session published and has not released, with their packet identifiers. The client knows
    /// that they arrived; nobody has got them yet.
    pub(super) incoming: Vec<(u16, Message)>,
}

/// What is not taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Documents of the bridge: they are in the store.
    pub(super) documents: u64,
    pub(super) wills: u64,
    /// Messages at QoS 0, and the in-flight messages of a second session of the client, under its first key.
    pub(super) messages: u64,
    /// Records and files that cannot be understood, and subscriptions with invalid topic filters.
    pub(super) damaged: u64,
}

/// Reads the sessions in a folder; `None` if no earlier release left anything there.
///
/// # Errors
///
/// If the disk fails, or the files have a form that no release gave them.
pub(super) fn read(folder: &Path) -> io::Result<Option<FormerFolder>> {
    let Some(folder) = Folder::open(folder)? else { return Ok(None) };
    let mut left_out = LeftOut::default();
    let stored = folder.sessions(&mut left_out.damaged)?;
    let retained = folder.retained()?.into_iter();
    let sessions = sessions(stored, &mut left_out);
    Ok(Some(FormerFolder { sessions, folder, retained, left_out }))
}

impl FormerFolder {
    pub(super) fn waiting(&mut self, session: &FormerSession) -> io::Result<SessionBacklog> {
        let mut waiting = SessionBacklog::default();
        let mut sent = self.folder.inflight(&session.name, &mut self.left_out.damaged)?;
        sent.sort_by_key(|message| (message.stored_at_secs, message.packet_id));
        for message in sent {
            self.take_sent(message, &mut waiting);
        }
        let on_the_way: HashSet<u16> =
            waiting.messages.iter().filter_map(|taken| Some(taken.sent?.packet_id)).collect();
        let own = self.folder.queue(&session.name, &mut self.left_out.damaged)?;
        let under_first_key = match &session.joined {
            None => Vec::new(),
            Some(first_key) => self.missing(first_key, &own)?,
        };
        for message in under_first_key.into_iter().chain(own) {
            // After a kill a resent message may be both in `queues/` and in `inflight/`.
            if !message.packet_id().is_some_and(|id| on_the_way.contains(&id)) {
                self.take_queued(message, &mut waiting);
            }
        }
        Ok(waiting)
    }

    /// The next retained message, and the user who published it; the user is `None` for the bridge and for anonymous
    /// clients.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub(super) fn next_retained(&mut self) -> io::Result<Option<(Message, Option<String>)>> {
        for name in self.retained.by_ref() {
            let Some(stored) = self.folder.retained_message(&name, &mut self.left_out.damaged)? else { continue };
            let user = stored.user_properties.iter().find(|(name, _)| name == SENDER).map(|(_, user)| user.clone());
            match message(stored) {
                Some(message) => return Ok(Some((Message { retain: true, ..message }, user))),
                None => self.left_out.damaged += 1,
            }
        }
        Ok(None)
    }

    fn take_sent(&mut self, stored: StoredMessage, waiting: &mut SessionBacklog) {
        let (direction, phase, id) = (stored.direction, stored.phase, stored.packet_id);
        if direction == Some(Direction::Outbound) && self.is_document(&stored) {
            return;
        }
        let (Some(mut message), Some(packet_id @ 1..)) = (message(stored), id) else {
            self.left_out.damaged += 1;
            return;
        };
        let released = phase == Some(Phase::AwaitingPubcomp);
        if direction == Some(Direction::Inbound) {
            waiting.incoming.push((packet_id, message));
            return;
        }
        if released {
            (message.payload, message.properties) = (Bytes::new(), Bytes::new());
        }
        waiting.messages.push(ImportedMessage {
            message,
            ids: Vec::new(),
            sent: Some(ImportedSent { packet_id, released }),
        });
    }

    fn take_queued(&mut self, mut stored: StoredMessage, waiting: &mut SessionBacklog) {
        if self.is_document(&stored) {
            return;
        }
        if stored.qos == QoS::AtMostOnce {
            self.left_out.messages += 1;
            return;
        }
        let sent = stored.packet_id().map(|packet_id| ImportedSent { packet_id, released: false });
        let ids = std::mem::take(&mut stored.subscription_identifiers);
        match message(stored) {
            Some(message) => waiting.messages.push(ImportedMessage { message, ids, sent }),
            None => self.left_out.damaged += 1,
        }
    }

    /// What waits under the key of the first release and not under today's. What was sent has packet identifiers that the
    /// session under today's may use for something else.
    fn missing(&mut self, first_key: &str, own: &[StoredMessage]) -> io::Result<Vec<StoredMessage>> {
        self.left_out.messages += self.folder.inflight(first_key, &mut self.left_out.damaged)?.len() as u64;
        let mut has = HashMap::new();
        for message in own {
            let count: &Cell<usize> = has.entry(message.identity()).or_default();
            count.set(count.get() + 1);
        }
        let mut missing = self.folder.queue(first_key, &mut self.left_out.damaged)?;
        missing.retain(|message| match has.get(&message.identity()) {
            Some(left) if left.get() > 0 => {
                left.set(left.get() - 1);
                false
            }
            _ => true,
        });
        missing.iter_mut().for_each(|message| message.packet_id = None);
        Ok(missing)
    }

    /// Whether it is a document of the bridge, which the store has. The bridge's own messages have no publisher, and a
    /// document may be on any topic that a client wished for its answers.
    fn is_document(&mut self, message: &StoredMessage) -> bool {
        let is_of_client = message.user_properties.iter().any(|(name, _)| name == PUBLISHER);
        let is_document = !is_of_client && matches!(Side::of(&message.topic), Side::Inbox { .. } | Side::Elsewhere);
        self.left_out.documents += u64::from(is_document);
        is_document
    }
}

/// One session of each client. Where there are two, under both forms of its key, the one under today's stays, and gets what
/// waits under the first key: the first release may have run again in between.
fn sessions(stored: BTreeMap<String, StoredSession>, left_out: &mut LeftOut) -> Vec<FormerSession> {
    let lasting = stored.into_iter().filter(|(_, session)| session.expiry_interval != Some(0));
    let (todays, under_first_key): (Vec<_>, Vec<_>) =
        lasting.partition(|(name, session)| is_key_of(session.user_id.as_deref(), name));
    let mut sessions = BTreeMap::new();
    for (name, session) in todays {
        let client = client_of(session.user_id.as_deref(), &name).to_owned();
        sessions.insert(name.clone(), FormerSession::new(name.clone(), name, client, session, left_out));
    }
    for (name, session) in under_first_key {
        let key = session_key(session.user_id.as_deref(), &name);
        match sessions.get_mut(&key) {
            Some(todays) => todays.joined = Some(name),
            None => {
                let session = FormerSession::new(key.clone(), name.clone(), name, session, left_out);
                sessions.insert(key, session);
            }
        }
    }
    sessions.into_values().collect()
}

impl FormerSession {
    fn new(key: String, name: String, client: String, stored: StoredSession, left_out: &mut LeftOut) -> Self {
        left_out.wills += u64::from(stored.will_message.is_some());
        let count = stored.subscriptions.len();
        let subscriptions: Vec<_> = stored
            .subscriptions
            .into_iter()
            .filter(|(filter, _)| is_subscription(filter))
            .map(|(filter, stored)| KeptSubscription { filter, options: stored.options(), id: stored.subscription_id })
            .collect();
        left_out.damaged += (count - subscriptions.len()) as u64;
        // MQTT 3.1.1 knows no interval: a session that is kept is kept for ever.
        let expiry_s = stored.expiry_interval.unwrap_or(u32::MAX);
        let record = SessionRecord { key, user: stored.user_id, client, expiry_s, login: None };
        Self { record, left_at: stored.disconnected_at, subscriptions, name, joined: None }
    }
}

/// The client id in a key, or what stands there for it.
fn client_of<'a>(user: Option<&str>, key: &'a str) -> &'a str {
    let part = match user {
        None => key.strip_prefix(':'),
        Some(user) => key.strip_prefix(user).and_then(|rest| rest.strip_prefix("::")),
    };
    part.unwrap_or(key)
}

/// A message without what it was given on its way; `None` if no packet can hold it.
fn message(mut stored: StoredMessage) -> Option<Message> {
    let is_topic = !stored.topic.is_empty() && !stored.topic.contains(['+', '#', '\0']);
    if !is_topic || u16::try_from(stored.topic.len()).is_err() {
        return None;
    }
    stored.user_properties.retain(|(name, _)| name != PUBLISHER && name != SENDER);
    Some(Message {
        properties: stored.properties()?,
        expires_at: stored.expires_at(),
        topic: stored.topic.into(),
        payload: stored.payload.into(),
        qos: stored.qos,
        retain: stored.retain,
    })
}

#[cfg(test)]
mod tests;

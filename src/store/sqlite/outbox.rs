//! The outbox: documents that wait to be published over MQTT, in order per topic.

use super::chat::group::message::SharedCopy;
use super::chat::group::state::{self, Composed};
use super::chat::{calls, expired, position};
use super::column::{NEVER, from_sql, sql_ms};
use super::delivery::Delivery;
use super::tx::{ReadTx, Tx};
use super::{erase, upstream};
use crate::chat::delivery::{Event, Fate};
use crate::chat::id::{Row, Sid};
use crate::chat::refusal::RetryClock;
use crate::chat::topic::{Side, is_inbox_of_calls};
use crate::store::{AckedBy, CommitEvent, DocumentRef, NOTES_PER_TOPIC, Note, Origin, OutboxDocument, Recorded, Seen};
use bytes::Bytes;
use rusqlite::params;
use std::sync::Arc;
use std::time::Duration;

const INSERT: &str =
    "INSERT INTO outbox (topic, seq, kind, about, tail, queued_at, redelivered, corr, payload, expires_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9)";
pub(super) const OLDEST_NOTE: &str = "SELECT min(seq) FROM outbox WHERE kind = 3 AND topic = ?1 HAVING count(*) >= ?2";
pub(super) const PAGE: &str = "SELECT seq, kind, about, tail, redelivered, corr, payload, expires_at FROM outbox
    WHERE topic = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
const ONE: &str =
    "SELECT seq, kind, about, tail, redelivered, corr, payload, expires_at FROM outbox WHERE topic = ?1 AND seq = ?2";
pub(super) const EXPIRED: &str = "SELECT topic, seq FROM outbox WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2";
const CLAIM: &str = "INSERT INTO claims (topic, seq) VALUES (?1, ?2)
    ON CONFLICT (topic) DO UPDATE SET seq = max(seq, excluded.seq)";
const LENGTH: &str = "SELECT length(payload) FROM outbox WHERE topic = ?1 AND seq = ?2";
const DELETE: &str = "DELETE FROM outbox WHERE topic = ?1 AND seq = ?2";
const REDELIVERED: &str = "UPDATE outbox SET redelivered = 1 WHERE topic = ?1 AND seq = ?2";
pub(super) const NEXT_TOPIC: &str = "SELECT topic FROM outbox WHERE topic > ?1 ORDER BY topic LIMIT 1";
const ANY: &str = "SELECT 1 FROM outbox WHERE topic = ?1 LIMIT 1";
const SEEN: &str = "UPDATE outbox SET redelivered = 1 WHERE topic = ?1 AND seq <= ?2 AND redelivered = 0";
const UNCLAIM: &str = "DELETE FROM claims WHERE topic = ?1";
/// The embedded broker claims a topic without limit until it calls `documents_seen`.
const UNCLAIM_EMPTY: &str = "DELETE FROM claims WHERE topic = ?1 AND seq < ?2";

/// What the message of a delivery into an inbox says: the document there has no copy of it.
const BODY: &str = "SELECT message.body FROM deliveries part JOIN deliveries message ON message.row = part.message
    WHERE part.row = ?1";

/// The topic of what has no route yet. No MQTT topic is empty.
pub(super) const NO_TOPIC: &str = "";

impl Origin {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Status(_) => 0,
            Self::Upstream(_) => 1,
            Self::UpstreamToAck(_) => 2,
            Self::Note => 3,
            Self::Delivery(_) => 4,
            Self::ChatCopy(_) => 5,
            Self::UserNote => 6,
        }
    }

    pub(super) fn parts(self) -> (Row, u32) {
        match self {
            Self::Status(sid)
            | Self::Upstream(sid)
            | Self::UpstreamToAck(sid)
            | Self::Delivery(sid)
            | Self::ChatCopy(sid) => sid.parts(),
            Self::Note | Self::UserNote => (Row(0), 0),
        }
    }

    pub(super) fn read(row: &rusqlite::Row<'_>, kind: usize, about: usize, tail: usize) -> rusqlite::Result<Self> {
        let (code, sid) = (row.get(kind)?, Sid::from_parts(row.get(about)?, row.get(tail)?));
        Self::of_parts(code, sid).ok_or(rusqlite::Error::IntegralValueOutOfRange(kind, code))
    }

    pub(super) fn of_parts(code: i64, sid: Option<Sid>) -> Option<Self> {
        match (code, sid) {
            (0, Some(sid)) => Some(Self::Status(sid)),
            (1, Some(sid)) => Some(Self::Upstream(sid)),
            (2, Some(sid)) => Some(Self::UpstreamToAck(sid)),
            (3, _) => Some(Self::Note),
            (4, Some(sid)) => Some(Self::Delivery(sid)),
            (5, Some(sid)) => Some(Self::ChatCopy(sid)),
            (6, _) => Some(Self::UserNote),
            _ => None,
        }
    }
}

/// A document on its way into the outbox.
pub(super) struct Document<'a> {
    pub(super) topic: &'a str,
    pub(super) origin: Origin,
    pub(super) at: u64,
    pub(super) correlation: Option<&'a [u8]>,
    pub(super) payload: &'a [u8],
}

/// Puts a document at the end of its topic; returns its number.
pub(super) fn queue(tx: &mut Tx<'_>, document: &Document<'_>) -> rusqlite::Result<i64> {
    queue_until(tx, document, None)
}

/// The same for a document that is of no use from a time on (Unix milliseconds): it waits no longer, neither here nor in a
/// session.
pub(super) fn queue_until(tx: &mut Tx<'_>, document: &Document<'_>, expires_at: Option<u64>) -> rusqlite::Result<i64> {
    let seq = tx.next_seq()?;
    let (about, tail) = document.origin.parts();
    let at = sql_ms(document.at);
    let kind = document.origin.code();
    let Document { topic, correlation, payload, .. } = *document;
    tx.execute(INSERT, params![topic, seq, kind, about, tail, at, correlation, payload, expires_at.map(sql_ms)])?;
    wake(tx, topic);
    let origin = document.origin;
    notify(tx, topic, || OutboxDocument {
        reference: DocumentRef { topic: topic.into(), seq: from_sql(seq), origin },
        payload: Bytes::copy_from_slice(payload),
        correlation: correlation.map(Bytes::copy_from_slice),
        redelivered: false,
        expires_at,
    });
    Ok(seq)
}

/// A document that was there already got this topic and this number.
pub(super) fn moved(tx: &mut Tx<'_>, topic: &str, seq: i64) -> rusqlite::Result<()> {
    wake(tx, topic);
    if tx.memory_draft.events.is_some()
        && let Some(document) = one(tx, &topic.into(), seq)?
    {
        notify(tx, topic, || document);
    }
    Ok(())
}

/// Tells the embedded broker, if there is one. The body of a delivery into an inbox is added before the commit: its row
/// may not be there yet.
fn notify(tx: &mut Tx<'_>, topic: &str, document: impl FnOnce() -> OutboxDocument) {
    if topic != NO_TOPIC
        && let Some(events) = &mut tx.memory_draft.events
    {
        let OutboxDocument { reference, payload, correlation, expires_at, .. } = document();
        events.push(CommitEvent::Document { reference, payload, correlation, expires_at });
    }
}

/// Before the commit: adds the bodies of deliveries into inboxes to the events. A document that was removed in the same
/// batch is left out.
pub(super) fn fill_events(tx: &mut Tx<'_>) -> rusqlite::Result<()> {
    let Some(events) = tx.memory_draft.events.take() else { return Ok(()) };
    let mut filled = Vec::with_capacity(events.len());
    let mut shared: Option<SharedCopy> = None;
    let mut composed = Composed::default();
    for mut event in events {
        if let CommitEvent::Document { reference: DocumentRef { topic, origin: Origin::UserNote, .. }, payload, .. } =
            &mut event
            && payload.is_empty()
            && state::is_state(topic)
        {
            let Some(document) = composed.document(tx, topic)? else { continue };
            *payload = document;
        }
        if let CommitEvent::Document {
            reference: DocumentRef { origin: Origin::ChatCopy(sid), topic, .. },
            payload,
            ..
        } = &mut event
            && payload.is_empty()
        {
            // The copies of one message follow one another.
            if shared.as_ref().is_none_or(|shared| !shared.is_of(*sid)) {
                shared = SharedCopy::load(tx, *sid)?;
            }
            let copy = shared.as_ref().map_or(Ok(None), |shared| shared.for_inbox(tx, topic))?;
            let Some(copy) = copy else { continue };
            *payload = copy;
        }
        if let CommitEvent::Document { reference: DocumentRef { origin: Origin::Delivery(sid), .. }, payload, .. } =
            &mut event
        {
            let Some(body) = body(tx, *sid)? else { continue };
            *payload = body;
        }
        filled.push(event);
    }
    tx.memory_draft.events = Some(filled);
    Ok(())
}

/// Puts a delivery into an inbox; returns the number of its document.
pub(super) fn put_in(tx: &mut Tx<'_>, topic: &str, sid: Sid, at: u64) -> rusqlite::Result<i64> {
    queue(tx, &Document { topic, origin: Origin::Delivery(sid), at, correlation: None, payload: &[] })
}

pub(super) fn wake(tx: &mut Tx<'_>, topic: &str) {
    if topic != NO_TOPIC && !tx.memory_draft.topics.contains(topic) {
        tx.memory_draft.topics.insert(topic.to_owned());
    }
}

pub(in crate::store) fn queue_note(tx: &mut Tx<'_>, note: &Note) -> rusqlite::Result<()> {
    if erase::is_of_taken(tx, &note.topic)? {
        return Ok(());
    }
    if let Some(oldest) = tx.one(OLDEST_NOTE, params![note.topic, NOTES_PER_TOPIC], |row| row.get::<_, i64>(0))? {
        tx.execute(DELETE, params![note.topic, oldest])?;
        tx.memory_draft.figures.notes_dropped += 1;
    }
    let Note { topic, payload, correlation, at } = note;
    let correlation = correlation.as_deref();
    queue(tx, &Document { topic, origin: Origin::Note, at: *at, correlation, payload }).map(drop)
}

/// The next documents of a topic. Before they leave, the place up to which they were read is written down: after a
/// crash everything up to there may have been published.
pub(in crate::store) fn next(
    tx: &Tx<'_>,
    topic: &Arc<str>,
    after_seq: u64,
    limit: usize,
) -> rusqlite::Result<Vec<OutboxDocument>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    loop {
        let page = tx.all(PAGE, params![&**topic, sql_ms(after_seq), limit], |row| waiting(topic, row))?;
        let (found, mut documents) = (page.len(), Vec::with_capacity(page.len()));
        for document in page {
            documents.extend(with_body(tx, document)?);
        }
        if let Some(last) = documents.last() {
            tx.execute(CLAIM, params![&**topic, sql_ms(last.reference.seq)])?;
        } else if found > 0 {
            // All of this page were damaged and removed; an empty answer would mean that there are no more.
            continue;
        }
        return Ok(documents);
    }
}

pub(super) fn waiting(topic: &Arc<str>, row: &rusqlite::Row<'_>) -> rusqlite::Result<OutboxDocument> {
    let (seq, origin) = (from_sql(row.get(0)?), Origin::read(row, 1, 2, 3)?);
    Ok(OutboxDocument {
        reference: DocumentRef { topic: topic.clone(), seq, origin },
        redelivered: row.get(4)?,
        correlation: row.get::<_, Option<Vec<u8>>>(5)?.map(Bytes::from),
        payload: Bytes::from(row.get::<_, Vec<u8>>(6)?),
        expires_at: row.get::<_, Option<i64>>(7)?.map(from_sql),
    })
}

/// The document, with the body of its message if it is a delivery of one, or with that of a message to a group. Without a body,
/// because of damage or because the message is not kept any more, the document is removed; so is one that is
/// obsolete.
pub(super) fn with_body(tx: &Tx<'_>, document: OutboxDocument) -> rusqlite::Result<Option<OutboxDocument>> {
    if is_obsolete(tx, &document)? {
        withdraw(tx, &document.reference.topic, sql_ms(document.reference.seq))?;
        return Ok(None);
    }
    let payload = match document.reference.origin {
        Origin::Delivery(sid) => body(tx, sid)?,
        Origin::ChatCopy(sid) if document.payload.is_empty() => {
            let shared = SharedCopy::load(tx, sid)?;
            shared.map_or(Ok(None), |shared| shared.for_inbox(tx, &document.reference.topic))?
        }
        Origin::UserNote if state::is_state(&document.reference.topic) => {
            Composed::default().document(tx, &document.reference.topic)?
        }
        _ => return Ok(Some(document)),
    };
    let Some(payload) = payload else {
        withdraw(tx, &document.reference.topic, sql_ms(document.reference.seq))?;
        return Ok(None);
    };
    Ok(Some(OutboxDocument { payload, ..document }))
}

/// Whether it offers a call that was answered since, or is over: a device that comes now must not ring. Or whether it says how
/// a group is to somebody who is in it no longer, or a newer one does.
pub(super) fn is_obsolete(tx: &ReadTx<'_>, document: &OutboxDocument) -> rusqlite::Result<bool> {
    match document.reference.origin {
        Origin::ChatCopy(offer) if is_inbox_of_calls(&document.reference.topic) => Ok(!calls::rings(tx, offer)?),
        Origin::UserNote => state::is_obsolete(tx, &document.reference.topic, document.reference.seq),
        _ => Ok(false),
    }
}

/// Removes documents whose time is over, a chunk of them; returns how many.
pub(super) fn drop_expired(tx: &Tx<'_>, now: u64, chunk: usize) -> rusqlite::Result<usize> {
    let expired: Vec<(String, i64)> =
        tx.all(EXPIRED, params![sql_ms(now), chunk as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    expired.iter().try_for_each(|(topic, seq)| withdraw(tx, topic, *seq))?;
    Ok(expired.len())
}

fn body(tx: &ReadTx<'_>, sid: Sid) -> rusqlite::Result<Option<Bytes>> {
    Ok(tx.one(BODY, [sid.row()], |row| row.get::<_, Option<Vec<u8>>>(0))?.flatten().map(Bytes::from))
}

pub(super) fn one(tx: &Tx<'_>, topic: &Arc<str>, seq: i64) -> rusqlite::Result<Option<OutboxDocument>> {
    let found = tx.one(ONE, params![&**topic, seq], |row| waiting(topic, row))?;
    found.map_or(Ok(None), |document| with_body(tx, document))
}

pub(in crate::store) fn topics(tx: &ReadTx<'_>) -> rusqlite::Result<Vec<String>> {
    let mut topics: Vec<String> = Vec::new();
    while let Some(topic) = tx.one(NEXT_TOPIC, [topics.last().map_or(NO_TOPIC, String::as_str)], |row| row.get(0))? {
        topics.push(topic);
    }
    Ok(topics)
}

/// Acknowledged by the broker, a client or the owner. Returns what became of the deliveries among them.
pub(in crate::store) fn documents_acked(
    tx: &mut Tx<'_>,
    references: &[DocumentRef],
    by: AckedBy,
    at: u64,
) -> rusqlite::Result<Vec<(Sid, Recorded)>> {
    let mut moved = Vec::new();
    for reference in references {
        settle(tx, reference, at)?;
        moved.extend(delivered(tx, reference, by, at)?);
    }
    for of_topic in references.chunk_by(|one, next| one.topic == next.topic) {
        tidy(tx, &of_topic[0].topic)?;
    }
    Ok(moved)
}

/// A document was acknowledged. Returns whether that is its first acknowledgement: then it becomes a row of the other
/// queues.
pub(super) fn settle(tx: &mut Tx<'_>, reference: &DocumentRef, at: u64) -> rusqlite::Result<bool> {
    let (topic, seq) = (&*reference.topic, sql_ms(reference.seq));
    match reference.origin {
        // A delivery's goes with the delivery that moves; without one it would come again and again.
        Origin::Status(_) | Origin::Note | Origin::Delivery(_) | Origin::UserNote => {
            Ok(tx.execute(DELETE, params![topic, seq])? > 0)
        }
        Origin::ChatCopy(sid) => {
            let is_first = tx.execute(DELETE, params![topic, seq])? > 0;
            if is_first {
                expired::forget_document(tx, sid.row(), seq)?;
            }
            Ok(is_first)
        }
        Origin::Upstream(sid) => upstream::done(tx, sid.row(), topic, seq, at),
        Origin::UpstreamToAck(sid) => {
            let waits = tx.execute(REDELIVERED, params![topic, seq])? > 0;
            Ok(upstream::published(tx, sid.row(), topic, at)? && waits)
        }
    }
}

/// Moves the delivery that the document belongs to, if there is one.
pub(super) fn delivered(
    tx: &mut Tx<'_>,
    reference: &DocumentRef,
    by: AckedBy,
    at: u64,
) -> rusqlite::Result<Option<(Sid, Recorded)>> {
    let sid = match reference.origin {
        Origin::Delivery(sid) => sid,
        Origin::ChatCopy(sid) => {
            if by == AckedBy::Owner
                && let Side::Inbox { owner, .. } = Side::of(&reference.topic)
            {
                position::acknowledged(tx, owner, sid, at)?;
            }
            return Ok(None);
        }
        _ => return Ok(None),
    };
    let Some(delivery) = Delivery::by_sid(tx, sid)? else { return Ok(None) };
    Ok(Some((sid, delivery.record(tx, &event_of_ack(by, at), at)?)))
}

/// What an acknowledgement means for a delivery into an inbox: from the broker it is `sent`, as from a push service;
/// from the owner it is the receipt.
fn event_of_ack(by: AckedBy, at: u64) -> Event {
    let clock = RetryClock { now_ms: at, deadline_ms: u64::MAX, longest: Duration::MAX, permille: 0 };
    match by {
        AckedBy::Broker => Event::Back { fate: Fate::ACCEPTED, copies: 1, replays: 0, clock },
        AckedBy::Owner => Event::RECEIPT,
    }
}

/// Removes a document that is obsolete.
pub(super) fn withdraw(tx: &Tx<'_>, topic: &str, seq: i64) -> rusqlite::Result<()> {
    tx.execute(DELETE, params![topic, seq])?;
    tidy(tx, topic)
}

/// Clients may choose endless topics for answers; an empty one leaves no trace.
fn tidy(tx: &Tx<'_>, topic: &str) -> rusqlite::Result<()> {
    if !tx.exists(ANY, [topic])? {
        tx.execute(UNCLAIM_EMPTY, params![topic, NEVER])?;
    }
    Ok(())
}

/// Takes a document out; returns its bytes, `None` if it is not there any more.
pub(super) fn remove(tx: &Tx<'_>, topic: &str, seq: i64) -> rusqlite::Result<Option<u64>> {
    let bytes = tx.one(LENGTH, params![topic, seq], |row| row.get(0).map(from_sql))?;
    tx.execute(DELETE, params![topic, seq])?;
    Ok(bytes)
}

/// At an orderly stop, and where nobody subscribes: it is known how far documents were handed out, so nothing beyond
/// that is marked, or counted as read.
pub(in crate::store) fn handed_out_up_to(tx: &Tx<'_>, topics: &[Seen]) -> rusqlite::Result<()> {
    for seen in topics {
        mark_seen(tx, seen)?;
        tx.execute(UNCLAIM, params![&*seen.topic])?;
    }
    Ok(())
}

pub(super) fn mark_seen(tx: &Tx<'_>, Seen { topic, seq }: &Seen) -> rusqlite::Result<()> {
    tx.execute(SEEN, params![&**topic, sql_ms(*seq)]).map(drop)
}

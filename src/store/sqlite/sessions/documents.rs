//! Documents of the bridge, as readers of a broker of our own get them: from the outbox until the first of them has a
//! document; then it is a row in the queue of each other one.

use super::row::{COPY, NewRows, StoredRow};
use super::{may_be_sent, queue, queue_facts, row};
use crate::chat::qos::QoS;
use crate::store::sqlite::chat::expired;
use crate::store::sqlite::chat::group::state;
use crate::store::sqlite::column::{NEVER, from_sql, sql_ms};
use crate::store::sqlite::outbox::{self, NO_TOPIC};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{
    AckOutcome, AckedBy, AckedDocument, Acknowledged, DocumentPage, DocumentRef, Message, Origin, OutboxDocument, Page,
    QueueId, QueuedDocument, Recorded, Seen,
};
use bytes::Bytes;
use rusqlite::params;
use std::sync::Arc;

pub(in crate::store::sqlite) const UNSETTLED: &str = "SELECT seq, kind, about, tail, redelivered, corr, payload, expires_at FROM outbox WHERE topic = ?1 AND seq > ?2 ORDER BY seq";
pub(in crate::store::sqlite) const OWN: &str =
    "SELECT q.seq, q.how, q.bytes, q.packet_id, q.expires_at, q.about, q.tail, q.ids,
        q.topic, q.properties, q.payload, b.topic, b.properties, b.payload
    FROM queue q INDEXED BY queue_documents LEFT JOIN bodies b ON b.seq = q.seq
    WHERE q.queue = ?1 AND q.document = ?2 AND q.seq > ?3 ORDER BY q.seq";
pub(in crate::store::sqlite) const MARK_OWN: &str = "UPDATE queue INDEXED BY queue_documents SET how = how | ?4
    WHERE queue = ?1 AND document = ?2 AND seq <= ?3 AND how & ?4 = 0";
const CRASHED: &str = "SELECT crashed_up_to FROM queues WHERE queue = ?1";
const CLAIM: &str = "INSERT INTO claims (topic, seq) VALUES (?1, ?2)
    ON CONFLICT (topic) DO UPDATE SET seq = excluded.seq WHERE seq < excluded.seq";
pub(in crate::store::sqlite) const FIRST_TOPIC: &str =
    "SELECT topic FROM outbox WHERE topic >= ?1 ORDER BY topic LIMIT 1";
pub(in crate::store::sqlite) const NEXT_OWN_TOPIC: &str = "SELECT document FROM queue INDEXED BY queue_documents WHERE queue = ?1 AND document > ?2 ORDER BY document LIMIT 1";

/// The next documents of a topic, of the outbox and of the queue's own rows. From now on all that comes there may be sent.
pub(in crate::store) fn read(
    tx: &mut Tx<'_>,
    topic: &Arc<str>,
    queue: Option<QueueId>,
    after: u64,
    page: Page,
) -> rusqlite::Result<DocumentPage> {
    tx.execute(CLAIM, params![&**topic, NEVER])?;
    let (mut after, mut own) = (sql_ms(after), DocumentPage::default());
    if let Some(queue) = queue {
        if let Some(known) = queue_facts(tx, queue)? {
            may_be_sent(tx, queue, known, NEVER)?;
        }
        own = own_documents(tx, topic, queue, after, page)?;
    }
    let mut found = unsettled(tx, topic, &mut after, page)?;
    // All documents of a page may have been damaged; an empty answer without `more` would mean that there are no more.
    while found.documents.is_empty() && found.more {
        found = unsettled(tx, topic, &mut after, page)?;
    }
    Ok(union(found, own, page))
}

fn unsettled(tx: &Tx<'_>, topic: &Arc<str>, after: &mut i64, page: Page) -> rusqlite::Result<DocumentPage> {
    let (mut found, mut bytes, mut documents) = (DocumentPage::default(), 0, Vec::new());
    let mut statement = tx.conn.prepare_cached(UNSETTLED)?;
    let mut rows = statement.query(params![&**topic, *after])?;
    while let Some(row) = rows.next()? {
        if is_full(documents.len(), bytes, page) {
            found.more = true;
            break;
        }
        let document = outbox::waiting(topic, row)?;
        bytes += document.payload.len();
        documents.push(document);
    }
    drop(rows);
    // Of a document that is composed when it is read the length is known only now.
    bytes = 0;
    for document in documents {
        if is_full(found.documents.len(), bytes, page) {
            found.more = true;
            break;
        }
        *after = sql_ms(document.reference.seq);
        let Some(waiting) = outbox::with_body(tx, document)? else { continue };
        bytes += waiting.payload.len();
        found.documents.push(QueuedDocument { waiting, own: None });
    }
    Ok(found)
}

fn own_documents(
    tx: &Tx<'_>,
    topic: &Arc<str>,
    queue: QueueId,
    after: i64,
    page: Page,
) -> rusqlite::Result<DocumentPage> {
    let crashed = tx.one(CRASHED, [queue], |row| row.get::<_, i64>(0))?.unwrap_or_default();
    let (mut found, mut bytes, mut obsolete) = (DocumentPage::default(), 0, Vec::new());
    let mut statement = tx.conn.prepare_cached(OWN)?;
    let mut rows = statement.query(params![queue, &**topic, after])?;
    while let Some(row) = rows.next()? {
        if is_full(found.documents.len(), bytes, page) {
            found.more = true;
            break;
        }
        let StoredRow { seq, message, target, origin, copy, .. } = StoredRow::read(queue, row)?;
        bytes += message.payload.len();
        let reference =
            DocumentRef { topic: topic.clone(), seq: from_sql(seq), origin: origin.unwrap_or(Origin::Note) };
        let Message { payload, properties, expires_at, .. } = message;
        let correlation = (!properties.is_empty()).then_some(properties);
        let redelivered = copy || seq <= crashed;
        let waiting = OutboxDocument { reference, payload, correlation, redelivered, expires_at };
        if outbox::is_obsolete(tx, &waiting)? {
            obsolete.push(seq);
            continue;
        }
        found.documents.push(QueuedDocument { waiting, own: Some(target) });
    }
    drop(rows);
    for seq in obsolete {
        row::remove(tx, queue, seq)?;
    }
    Ok(found)
}

fn is_full(rows: usize, bytes: usize, page: Page) -> bool {
    rows > 0 && (rows >= page.rows || bytes >= page.bytes)
}

/// Both in one order. What waits for its explicit acknowledgement may be in both: then the one of the outbox stays.
fn union(unsettled: DocumentPage, own: DocumentPage, page: Page) -> DocumentPage {
    let last = |page: &DocumentPage| page.documents.last().map_or(0, |last| last.waiting.reference.seq);
    // Behind the end of a page that has more there may be something of its kind.
    let end = [&unsettled, &own].into_iter().filter(|page| page.more).map(last).min().unwrap_or(u64::MAX);
    let mut documents = unsettled.documents;
    documents.extend(own.documents);
    documents.sort_by_key(|document| (document.waiting.reference.seq, document.own.is_some()));
    documents.dedup_by_key(|document| document.waiting.reference.seq);
    let (mut bytes, found) = (0, documents.len());
    let fits = |(before, document): &(usize, QueuedDocument)| {
        let fits = document.waiting.reference.seq <= end && !is_full(*before, bytes, page);
        bytes += document.waiting.payload.len();
        fits
    };
    let documents: Vec<_> = documents.into_iter().enumerate().take_while(fits).map(|(_, document)| document).collect();
    DocumentPage { more: unsettled.more || own.more || documents.len() < found, documents }
}

/// Topics of the outbox that begin with one of `prefixes`, behind `after`. The prefixes are sorted, and none begins with
/// another one. Looks at as many topics as there are of these, or at as many prefixes, whichever are fewer.
pub(in crate::store) fn waiting_topics(
    tx: &ReadTx<'_>,
    prefixes: &[String],
    after: &str,
    limit: usize,
) -> rusqlite::Result<Vec<String>> {
    let mut topics: Vec<String> = Vec::new();
    let mut next = tx.one(outbox::NEXT_TOPIC, [after], |row| row.get::<_, String>(0))?;
    while topics.len() < limit
        && let Some(topic) = next.take()
    {
        let behind = prefixes.partition_point(|prefix| prefix.as_str() <= topic.as_str());
        let begins = behind.checked_sub(1).is_some_and(|last| topic.starts_with(prefixes[last].as_str()));
        if begins && topic != NO_TOPIC {
            next = tx.one(outbox::NEXT_TOPIC, [&topic], |row| row.get(0))?;
            topics.push(topic);
        } else if let Some(prefix) = prefixes.get(behind) {
            next = tx.one(FIRST_TOPIC, [prefix], |row| row.get(0))?;
        }
    }
    Ok(topics)
}

/// Topics of documents that are rows of the queue, behind `after`.
pub(in crate::store) fn own_topics(
    tx: &ReadTx<'_>,
    queue: QueueId,
    after: &str,
    limit: usize,
) -> rusqlite::Result<Vec<String>> {
    let mut topics: Vec<String> = Vec::new();
    while topics.len() < limit {
        let after = topics.last().map_or(after, String::as_str);
        let Some(topic) = tx.one(NEXT_OWN_TOPIC, params![queue, after], |row| row.get(0))? else { break };
        topics.push(topic);
    }
    Ok(topics)
}

pub(in crate::store) fn acknowledged(tx: &mut Tx<'_>, what: &Acknowledged) -> rusqlite::Result<AckOutcome> {
    let mut settled = AckOutcome::default();
    if let Some(queue) = what.queue {
        settled.rows = queue::remove(tx, queue, &what.rows)?;
    }
    for AckedDocument { reference, others } in &what.documents {
        let seq = sql_ms(reference.seq);
        // Its body may go with its delivery.
        let document = if others.is_empty() { None } else { outbox::one(tx, &reference.topic, seq)? };
        let first = outbox::settle(tx, reference, what.at)?;
        if first && let Some(document) = document {
            hand_on(tx, document, others)?;
        }
        let own = match what.queue {
            Some(queue) => row::remove(tx, queue, seq)?.is_some(),
            None => false,
        };
        // The end of the queue may have come before what its client, who has the document, acknowledged.
        if first || own || what.by == AckedBy::Owner {
            let moved = outbox::delivered(tx, reference, what.by, what.at)?;
            settled.moved.extend(moved.filter(|(_, recorded)| *recorded != Recorded::NoEffect));
        }
    }
    Ok(settled)
}

fn hand_on(tx: &mut Tx<'_>, document: OutboxDocument, others: &[crate::store::Target]) -> rusqlite::Result<()> {
    let OutboxDocument { reference, payload, correlation, redelivered, expires_at } = document;
    let properties: Bytes = correlation.unwrap_or_default();
    let expires_at = expires_at.map_or_else(|| expired::time_of(tx, reference.origin), |at| Ok(Some(at)))?;
    let (qos, topic) = (QoS::AtLeastOnce, reference.topic);
    if reference.origin == Origin::UserNote && state::is_state(&topic) {
        state::drop_older_rows(tx, &topic, others)?;
    }
    let message = Message { topic, payload, properties, qos, retain: false, expires_at };
    // Who may have had it before is one of them, or the one who has it now.
    let (seq, origin) = (sql_ms(reference.seq), Some(reference.origin));
    NewRows { seq, message: &message, origin, copy: redelivered }.put(tx, others).map(drop)
}

/// Documents up to these have been seen by the reader of the queue and are marked the next time, in the outbox and in the
/// queue. Without any reader that is all that may have been.
pub(in crate::store) fn seen(
    tx: &Tx<'_>,
    queue: Option<QueueId>,
    seen: &[Seen],
    still_read: bool,
) -> rusqlite::Result<()> {
    if let Some(queue) = queue {
        for Seen { topic, seq } in seen.iter().filter(|seen| seen.seq > 0) {
            tx.execute(MARK_OWN, params![queue, &**topic, sql_ms(*seq), COPY])?;
        }
    }
    if !still_read {
        return outbox::handed_out_up_to(tx, seen);
    }
    seen.iter().try_for_each(|seen| outbox::mark_seen(tx, seen))
}

//! Messages of clients: into the queues, out of them, and the steps of QoS 2 between.

use super::retained;
use super::row::{self, NewRows, RELEASED, StoredRow};
use super::{queue_facts, sent_up_to};
use crate::chat::qos::QoS;
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::tx::Tx;
use crate::store::{CommitEvent, Enqueue, GivenRow, Message, Page, QueueId, QueueRow, RowCount, RowPage, Target};
use rusqlite::params;
use std::sync::Arc;

/// Expired rows that one look into a queue takes out at most.
const EXPIRED_AT_ONCE: u64 = 500;

const TAKE: &str = "INSERT INTO incoming (queue, id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
const FORGET: &str = "DELETE FROM incoming WHERE queue = ?1 AND id = ?2";
const PLACE: &str = "SELECT sent_up_to, crashed_up_to FROM queues WHERE queue = ?1";
pub(in crate::store::sqlite) const ROWS: &str =
    "SELECT q.seq, q.how, q.bytes, q.packet_id, q.expires_at, q.about, q.tail, q.ids,
        q.topic, q.properties, q.payload, b.topic, b.properties, b.payload
    FROM queue q LEFT JOIN bodies b ON b.seq = q.seq
    WHERE q.queue = ?1 AND q.seq > ?2 AND q.document IS NULL ORDER BY q.seq";
const ASSIGN: &str = "UPDATE queue SET packet_id = ?3 WHERE queue = ?1 AND seq = ?2";
/// Of a row with a body of its own, and of one without.
const RELEASE: [&str; 2] = [
    "UPDATE queue SET how = how | ?3, expires_at = NULL, properties = x'', payload = x''
    WHERE queue = ?1 AND seq = ?2 AND payload IS NOT NULL",
    "UPDATE queue SET how = how | ?3, expires_at = NULL, properties = x'', payload = x'',
        topic = (SELECT topic FROM bodies WHERE seq = ?2) WHERE queue = ?1 AND seq = ?2",
];

/// Yields whether the message is new.
pub(in crate::store) fn enqueue(tx: &mut Tx<'_>, enqueue: &Enqueue) -> rusqlite::Result<bool> {
    let message = &enqueue.message;
    if let Some((queue, id)) = enqueue.incoming
        && queue_facts(tx, queue)?.is_some()
        && tx.execute(TAKE, params![queue, id])? == 0
    {
        return Ok(false);
    }
    if let Some(will) = enqueue.will {
        retained::drop_will(tx, will)?;
    }
    if let Some(retain) = &enqueue.retain {
        retained::keep(tx, message, retain)?;
    }
    if enqueue.targets.is_empty() {
        return Ok(true);
    }
    put(tx, message, &enqueue.targets)?;
    Ok(true)
}

/// Puts a message into a queue if it is still what is retained on its topic. Whether it is.
pub(in crate::store) fn enqueue_retained(
    tx: &mut Tx<'_>,
    message: &Arc<Message>,
    target: &Target,
) -> rusqlite::Result<bool> {
    let is_retained = retained::one(tx, &message.topic)?.is_some_and(|retained| retained == **message);
    if is_retained {
        put(tx, message, std::slice::from_ref(target))?;
    }
    Ok(is_retained)
}

/// Puts a message into queues, and tells those with a connection. Yields its number.
fn put(tx: &mut Tx<'_>, message: &Arc<Message>, targets: &[Target]) -> rusqlite::Result<i64> {
    let seq = tx.next_seq()?;
    let connected = NewRows { seq, message, origin: None, copy: false }.put(tx, targets)?;
    let passing = targets.iter().filter(|target| target.qos == QoS::AtMostOnce);
    if let Some(events) = &mut tx.memory_draft.events {
        // Who is away will look on the disk.
        events.extend(connected.into_iter().chain(passing).map(|target| CommitEvent::Row {
            seq: from_sql(seq),
            message: Arc::clone(message),
            target: target.clone(),
        }));
    }
    Ok(seq)
}

/// The same for what another reader may have. It is read from the disk, where its mark is.
fn put_copy(tx: &mut Tx<'_>, message: &Message, targets: &[Target]) -> rusqlite::Result<i64> {
    let seq = tx.next_seq()?;
    NewRows { seq, message, origin: None, copy: true }.put(tx, targets)?;
    Ok(seq)
}

/// Rows of a group become rows of one member.
pub(in crate::store) fn give(tx: &mut Tx<'_>, group: QueueId, rows: &[GivenRow]) -> rusqlite::Result<(RowCount, u64)> {
    let (mut given, mut last) = (RowCount::default(), 0);
    for GivenRow { seq, message, target, copy } in rows {
        let Some(removed) = row::remove(tx, group, sql_ms(*seq))? else { continue };
        given.add(Some(removed));
        let targets = std::slice::from_ref(target);
        let seq = if *copy { put_copy(tx, message, targets)? } else { put(tx, message, targets)? };
        last = from_sql(seq);
    }
    Ok((given, last))
}

/// PUBREL has come: these identifiers are free.
pub(in crate::store) fn forget_incoming(tx: &Tx<'_>, queue: QueueId, ids: &[u16]) -> rusqlite::Result<()> {
    ids.iter().try_for_each(|id| tx.execute(FORGET, params![queue, id]).map(drop))
}

/// The next rows. What has expired goes, unless its reader may have its packet identifier: that has to be answered.
pub(in crate::store) fn read_rows(
    tx: &mut Tx<'_>,
    queue: QueueId,
    after: u64,
    page: Page,
    now: u64,
) -> rusqlite::Result<RowPage> {
    let place = tx.one(PLACE, [queue], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    let Some((sent, crashed)) = place else { return Ok(RowPage::default()) };
    let (mut found, mut expired, mut bytes) = (RowPage::default(), Vec::new(), 0);
    let mut statement = tx.conn.prepare_cached(ROWS)?;
    let mut rows = statement.query(params![queue, sql_ms(after)])?;
    while let Some(row) = rows.next()? {
        let full = found.rows.len() >= page.rows.max(1) || bytes >= page.bytes && !found.rows.is_empty();
        if full || expired.len() as u64 >= EXPIRED_AT_ONCE {
            found.more = true;
            break;
        }
        let StoredRow { seq, message, target, packet_id, released, copy, .. } = StoredRow::read(queue, row)?;
        if packet_id.is_none() && message.expires_at.is_some_and(|at| at <= now) {
            expired.push(seq);
            continue;
        }
        bytes += message.payload.len() + message.properties.len();
        let (message, maybe_sent) = (Arc::new(message), copy || seq <= crashed);
        found.rows.push(QueueRow { seq: from_sql(seq), message, target, packet_id, released, maybe_sent });
    }
    drop(rows);
    drop(statement);
    for seq in expired {
        found.expired.add(row::remove(tx, queue, seq)?);
    }
    if let Some(last) = found.rows.last().map(|row| sql_ms(row.seq)).filter(|last| *last > sent) {
        sent_up_to(tx, queue, last)?;
    }
    Ok(found)
}

/// Takes rows out that their reader has; returns what they counted for.
pub(in crate::store) fn remove(tx: &Tx<'_>, queue: QueueId, rows: &[u64]) -> rusqlite::Result<RowCount> {
    let mut removed = RowCount::default();
    for seq in rows {
        removed.add(row::remove(tx, queue, sql_ms(*seq))?);
    }
    Ok(removed)
}

pub(in crate::store) fn assign(tx: &Tx<'_>, queue: QueueId, ids: &[(u64, u16)]) -> rusqlite::Result<()> {
    ids.iter().try_for_each(|(seq, id)| tx.execute(ASSIGN, params![queue, sql_ms(*seq), id]).map(drop))
}

/// PUBREC has come: the rows lose their bodies and stay, counted as before, until PUBCOMP comes.
pub(in crate::store) fn released(tx: &Tx<'_>, queue: QueueId, rows: &[u64]) -> rusqlite::Result<()> {
    let [own, shared] = RELEASE;
    for seq in rows {
        let params = params![queue, sql_ms(*seq), RELEASED];
        if tx.execute(own, params)? == 0 && tx.execute(shared, params)? > 0 {
            row::let_go(tx, sql_ms(*seq))?;
        }
    }
    Ok(())
}

impl RowCount {
    pub(super) fn add(&mut self, more: Option<Self>) {
        let more = more.unwrap_or_default();
        self.rows += more.rows;
        self.bytes += more.bytes;
    }
}

//! Messages that belong to no queue: retained ones, and wills that wait.

use crate::chat::qos::QoS;
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{KeptRetained, KeptWill, Message, QueueId, Retain, Will, WillRef};
use bytes::Bytes;
use rusqlite::params;
use std::sync::Arc;

const KEEP: &str = "INSERT INTO retained (topic, qos, bytes, user, expires_at, properties, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (topic) DO UPDATE SET qos = excluded.qos, bytes = excluded.bytes,
        user = excluded.user, expires_at = excluded.expires_at, properties = excluded.properties,
        payload = excluded.payload";
const DROP: &str = "DELETE FROM retained WHERE topic = ?1";
const ONE: &str = "SELECT topic, qos, 1, expires_at, properties, payload FROM retained WHERE topic = ?1";
const ALL: &str = "SELECT topic, bytes, user, qos, expires_at FROM retained";
pub(in crate::store::sqlite) const EXPIRED: &str =
    "SELECT topic FROM retained WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2";
const KEEP_WILL: &str =
    "INSERT OR REPLACE INTO wills (queue, delay_s, qos, retain, expires_ms, topic, properties, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
const WILL_DUE: &str = "UPDATE wills SET due_at = ?2 WHERE queue = ?1";
/// The end of a session ends the delay.
const WILLS_DUE: &str = "UPDATE wills SET due_at = ?1 + 1000 * min(delay_s,
        (SELECT expiry_s FROM queues WHERE queues.queue = wills.queue)) WHERE due_at IS NULL";
const DROP_WILL: &str = "DELETE FROM wills WHERE queue = ?1";
const DROP_THIS_WILL: &str = "DELETE FROM wills WHERE queue = ?1 AND due_at IS ?2";
const WILLS: &str = "SELECT topic, qos, retain, expires_ms, properties, payload, queue, due_at, delay_s FROM wills";

pub(super) fn keep(tx: &Tx<'_>, message: &Message, retain: &Retain) -> rusqlite::Result<()> {
    let Retain::Keep(user) = retain else { return drop_topic(tx, &message.topic) };
    let Message { topic, payload, properties, qos, expires_at, .. } = message;
    let (bytes, expires_at) = (sql_ms(message.bytes()), expires_at.map(sql_ms));
    tx.execute(KEEP, params![&**topic, *qos as u8, bytes, user, expires_at, &**properties, &**payload]).map(drop)
}

/// Whether there is one on the topic.
pub(super) fn is_there(tx: &ReadTx<'_>, topic: &str) -> rusqlite::Result<bool> {
    tx.exists(ONE, [topic])
}

fn drop_topic(tx: &Tx<'_>, topic: &str) -> rusqlite::Result<()> {
    tx.execute(DROP, [topic]).map(drop)
}

/// Drops what has expired, a chunk of it; returns the topics.
pub(super) fn expire(tx: &Tx<'_>, now: u64, chunk: i64) -> rusqlite::Result<Vec<String>> {
    let topics: Vec<String> = tx.all(EXPIRED, params![sql_ms(now), chunk], |row| row.get(0))?;
    topics.iter().try_for_each(|topic| drop_topic(tx, topic))?;
    Ok(topics)
}

pub(in crate::store) fn read(tx: &ReadTx<'_>, topics: &[String]) -> rusqlite::Result<Vec<Message>> {
    let mut found = Vec::new();
    for topic in topics {
        found.extend(one(tx, topic)?);
    }
    Ok(found)
}

pub(super) fn one(tx: &ReadTx<'_>, topic: &str) -> rusqlite::Result<Option<Message>> {
    tx.one(ONE, [topic], message)
}

pub(super) fn all(tx: &ReadTx<'_>) -> rusqlite::Result<Vec<KeptRetained>> {
    tx.all(ALL, [], kept)
}

/// The columns topic, bytes, user, qos, expires_at.
pub(in crate::store::sqlite) fn kept(row: &rusqlite::Row<'_>) -> rusqlite::Result<KeptRetained> {
    Ok(KeptRetained {
        topic: row.get(0)?,
        bytes: from_sql(row.get(1)?),
        user: row.get(2)?,
        qos: qos(row, 3)? as u8,
        expires_at: row.get::<_, Option<i64>>(4)?.map(from_sql),
    })
}

/// The will of a session that has a connection.
pub(super) fn keep_will(tx: &Tx<'_>, queue: QueueId, will: &Will) -> rusqlite::Result<()> {
    let Will { message: Message { topic, payload, properties, qos, retain, expires_at }, delay_s } = will;
    let expires_ms = expires_at.map(sql_ms);
    let values = params![queue, delay_s, *qos as u8, retain, expires_ms, &**topic, &**properties, &**payload];
    tx.execute(KEEP_WILL, values).map(drop)
}

/// Its connection has ended.
pub(super) fn will_due(tx: &Tx<'_>, queue: QueueId, at: u64) -> rusqlite::Result<()> {
    tx.execute(WILL_DUE, params![queue, sql_ms(at)]).map(drop)
}

/// All connections have ended.
pub(super) fn wills_due(tx: &Tx<'_>, now: u64) -> rusqlite::Result<()> {
    tx.execute(WILLS_DUE, [sql_ms(now)]).map(drop)
}

pub(super) fn drop_will_of(tx: &Tx<'_>, queue: QueueId) -> rusqlite::Result<()> {
    tx.execute(DROP_WILL, [queue]).map(drop)
}

pub(in crate::store) fn drop_will(tx: &Tx<'_>, will: WillRef) -> rusqlite::Result<()> {
    tx.execute(DROP_THIS_WILL, params![will.queue, will.due_at.map(sql_ms)]).map(drop)
}

pub(super) fn wills(tx: &ReadTx<'_>) -> rusqlite::Result<Vec<KeptWill>> {
    tx.all(WILLS, [], |row| {
        let due_at = row.get::<_, Option<i64>>(7)?.map(from_sql);
        Ok(KeptWill { queue: row.get(6)?, due_at, will: Will { message: message(row)?, delay_s: row.get(8)? } })
    })
}

/// The columns topic, qos, retain, expires_at, properties, payload.
fn message(row: &rusqlite::Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        topic: Arc::from(row.get_ref(0)?.as_str()?),
        payload: blob(row, 5)?,
        properties: blob(row, 4)?,
        qos: qos(row, 1)?,
        retain: row.get(2)?,
        expires_at: row.get::<_, Option<i64>>(3)?.map(from_sql),
    })
}

fn blob(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(column).map(Bytes::from)
}

fn qos(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<QoS> {
    let number: u8 = row.get(column)?;
    QoS::from_u8(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, number.into()))
}

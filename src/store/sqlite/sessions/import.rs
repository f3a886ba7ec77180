//! Sessions and retained messages from elsewhere. A session comes whole or not at all.

use super::row::NewRows;
use super::{SESSION, queue, retained, session};
use crate::store::sqlite::column::from_sql;
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{Enqueue, ImportedMessage, ImportedSent, ImportedSession, Message, QueueId, Retain, Target};
use rusqlite::params;

const IS_DONE: &str = "SELECT 1 FROM marks WHERE imported = 1";
const DONE: &str = "UPDATE marks SET imported = 1";
/// Up to here its client may have everything.
const SENT: &str = "UPDATE queues SET sent_up_to = ?2, crashed_up_to = ?2 WHERE queue = ?1";
const TAKEN: &str = "INSERT INTO incoming (queue, id, pending) VALUES (?1, ?2, 1) ON CONFLICT DO NOTHING";
const PENDING: &str = "SELECT id FROM incoming WHERE queue = ?1 AND pending = 1";
const HANDED_ON: &str = "UPDATE incoming SET pending = 0 WHERE queue = ?1 AND id = ?2 AND pending = 1";

pub(in crate::store) fn is_done(tx: &ReadTx<'_>) -> rusqlite::Result<bool> {
    tx.exists(IS_DONE, [])
}

pub(in crate::store) fn done(tx: &Tx<'_>) -> rusqlite::Result<()> {
    tx.execute(DONE, []).map(drop)
}

/// Yields the packet identifiers of its messages that no queue has got yet.
pub(in crate::store) fn session(tx: &mut Tx<'_>, session: &ImportedSession) -> rusqlite::Result<Vec<u16>> {
    let queue = match session::find(tx, &session.record.key, SESSION)? {
        Some(queue) => queue,
        None => put(tx, session)?,
    };
    tx.all(PENDING, [queue], |row| row.get(0))
}

fn put(tx: &mut Tx<'_>, session: &ImportedSession) -> rusqlite::Result<QueueId> {
    let ImportedSession { record, left_at, subscriptions, messages, incoming } = session;
    let queue = session::keep(tx, record, None)?;
    session::left(tx, queue, *left_at, record.expiry_s, None)?;
    session::subscribe(tx, queue, subscriptions)?;
    let mut sent_up_to = 0;
    for message in messages {
        let seq = put_message(tx, queue, message)?;
        if message.sent.is_some() {
            sent_up_to = seq;
        }
    }
    tx.execute(SENT, params![queue, sent_up_to])?;
    incoming.iter().try_for_each(|id| tx.execute(TAKEN, params![queue, id]).map(drop))?;
    Ok(queue)
}

fn put_message(tx: &mut Tx<'_>, queue: QueueId, imported: &ImportedMessage) -> rusqlite::Result<i64> {
    let ImportedMessage { message, ids, sent } = imported;
    let seq = tx.next_seq()?;
    let target = Target { queue, qos: message.qos, retain: message.retain, ids: ids.clone() };
    NewRows { seq, message, origin: None, copy: false }.put(tx, &[target])?;
    if let Some(ImportedSent { packet_id, released }) = *sent {
        queue::assign(tx, queue, &[(from_sql(seq), packet_id)])?;
        if released {
            queue::released(tx, queue, &[from_sql(seq)])?;
        }
    }
    Ok(seq)
}

pub(in crate::store) fn retained(tx: &Tx<'_>, messages: &[(Message, Option<String>)]) -> rusqlite::Result<()> {
    for (message, user) in messages {
        if !retained::is_there(tx, &message.topic)? {
            retained::keep(tx, message, &Retain::Keep(user.clone()))?;
        }
    }
    Ok(())
}

/// Its readers get it now, if they have not got it before.
pub(in crate::store) fn hand_on(tx: &mut Tx<'_>, from: (QueueId, u16), message: &Enqueue) -> rusqlite::Result<()> {
    let (queue, id) = from;
    if tx.execute(HANDED_ON, params![queue, id])? > 0 { queue::enqueue(tx, message).map(drop) } else { Ok(()) }
}

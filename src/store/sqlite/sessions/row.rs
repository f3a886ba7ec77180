//! A row of a queue: how it is written, read and removed.

use super::{may_be_sent, queue_facts};
use crate::chat::id::Sid;
use crate::chat::qos::QoS;
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::tx::Tx;
use crate::store::{Message, Origin, QueueId, RowCount, Target};
use bytes::Bytes;
use rusqlite::{OptionalExtension, params};
use std::sync::Arc;

const INSERT: &str =
    "INSERT INTO queue (queue, seq, how, bytes, expires_at, about, tail, document, ids, topic, properties, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO NOTHING";
const BODY: &str = "INSERT INTO bodies (seq, readers, topic, properties, payload) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(in crate::store::sqlite) const REMOVE: &str =
    "DELETE FROM queue WHERE queue = ?1 AND seq = ?2 RETURNING bytes, payload IS NULL, document IS NULL";
const LET_GO: &str = "UPDATE bodies SET readers = readers - 1 WHERE seq = ?1";
const DROP_BODY: &str = "DELETE FROM bodies WHERE seq = ?1 AND readers <= 0";

/// Bits of the column `how`; `schema` tells what they are.
const RETAIN: i64 = 1 << 2;
const PUBLISHED_RETAIN: i64 = 1 << 5;
pub(super) const RELEASED: i64 = 1 << 6;
pub(super) const COPY: i64 = 1 << 7;
const PUBLISHED_QOS_SHIFT: u32 = 3;
const KIND_SHIFT: u32 = 8;

/// A message on its way into queues, under this number.
pub(in crate::store::sqlite) struct NewRows<'a> {
    pub(in crate::store::sqlite) seq: i64,
    pub(in crate::store::sqlite) message: &'a Message,
    /// Of a document of the bridge. Its correlation data are the message's properties.
    pub(in crate::store::sqlite) origin: Option<Origin>,
    /// Another reader may have had it.
    pub(in crate::store::sqlite) copy: bool,
}

impl NewRows<'_> {
    /// Gives each of these queues its row, as far as there are such queues and the message is kept for them. Returns those with a connection.
    pub(in crate::store::sqlite) fn put<'t>(
        &self,
        tx: &mut Tx<'_>,
        targets: &'t [Target],
    ) -> rusqlite::Result<Vec<&'t Target>> {
        let mut live = Vec::with_capacity(targets.len());
        for target in targets.iter().filter(|target| target.qos > QoS::AtMostOnce) {
            live.extend(queue_facts(tx, target.queue)?.map(|known| (target, known)));
        }
        let (inline, mut readers, mut connected) = (live.len() == 1, 0i64, Vec::new());
        for (target, known) in live {
            if self.insert(tx, target, inline)? > 0 {
                readers += 1;
                may_be_sent(tx, target.queue, known, self.seq)?;
                connected.extend(known.connected.then_some(target));
            }
        }
        if !inline && readers > 0 {
            let Message { topic, properties, payload, .. } = self.message;
            tx.execute(BODY, params![self.seq, readers, &**topic, &**properties, &**payload])?;
        }
        Ok(connected)
    }

    fn insert(&self, tx: &Tx<'_>, target: &Target, inline: bool) -> rusqlite::Result<usize> {
        let message = self.message;
        let how = target.qos as i64
            | if target.retain { RETAIN } else { 0 }
            | (message.qos as i64) << PUBLISHED_QOS_SHIFT
            | if message.retain { PUBLISHED_RETAIN } else { 0 }
            | if self.copy { COPY } else { 0 }
            | self.origin.map_or(0, |origin| origin.code() << KIND_SHIFT);
        let (about, tail) = self.origin.map(Origin::parts).unzip();
        let ids: Vec<u8> = target.ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        let values = params![
            target.queue,
            self.seq,
            how,
            sql_ms(message.bytes()),
            message.expires_at.map(sql_ms),
            about,
            tail,
            self.origin.map(|_| &*message.topic),
            (!ids.is_empty()).then_some(ids),
            inline.then_some(&*message.topic),
            inline.then_some(&*message.properties),
            inline.then_some(&*message.payload),
        ];
        tx.execute(INSERT, values)
    }
}

/// What stands in a row, by the columns of [`super::queue::ROWS`].
pub(super) struct StoredRow {
    pub(super) seq: i64,
    pub(super) message: Message,
    pub(super) target: Target,
    pub(super) packet_id: Option<u16>,
    pub(super) released: bool,
    /// Another reader may have had it before it came into this queue; of a document also its own one.
    pub(super) copy: bool,
    /// Of a document of the bridge.
    pub(super) origin: Option<Origin>,
}

impl StoredRow {
    pub(super) fn read(queue: QueueId, row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let how: i64 = row.get(1)?;
        let out_of_range = || rusqlite::Error::IntegralValueOutOfRange(1, how);
        let qos = |bits: i64| u8::try_from(bits & 3).ok().and_then(QoS::from_u8).ok_or_else(out_of_range);
        let origin = |about| {
            let sid = Sid::from_parts(about, row.get(6)?);
            Origin::of_parts(how >> KIND_SHIFT, sid).ok_or_else(out_of_range)
        };
        let ids = row.get_ref(7)?.as_blob_or_null()?.unwrap_or_default();
        let ids = ids.chunks_exact(4).map(|id| id.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)));
        // With its own body or with that of several.
        let at = if row.get_ref(10)? == rusqlite::types::ValueRef::Null { 11 } else { 8 };
        let blob = |column: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<Vec<u8>>>(column)?.unwrap_or_default());
        Ok(Self {
            seq: row.get(0)?,
            message: Message {
                topic: Arc::from(row.get_ref(at)?.as_str_or_null()?.unwrap_or_default()),
                properties: Bytes::from(blob(at + 1)?),
                payload: Bytes::from(blob(at + 2)?),
                qos: qos(how >> PUBLISHED_QOS_SHIFT)?,
                retain: how & PUBLISHED_RETAIN != 0,
                expires_at: row.get::<_, Option<i64>>(4)?.map(from_sql),
            },
            target: Target { queue, qos: qos(how)?, retain: how & RETAIN != 0, ids: ids.collect() },
            packet_id: row.get(3)?,
            released: how & RELEASED != 0,
            copy: how & COPY != 0,
            origin: row.get::<_, Option<_>>(5)?.map(origin).transpose()?,
        })
    }
}

/// Takes a row out; returns what it counted for, which is nothing if it was a document. `None`: it was not there.
pub(in crate::store::sqlite) fn remove(tx: &Tx<'_>, queue: QueueId, seq: i64) -> rusqlite::Result<Option<RowCount>> {
    let removed = tx
        .conn
        .prepare_cached(REMOVE)?
        .query_one(params![queue, seq], |row| Ok((row.get(0).map(from_sql)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((bytes, shared, counts)) = removed else { return Ok(None) };
    if shared {
        let_go(tx, seq)?;
    }
    Ok(Some(if counts { RowCount { rows: 1, bytes } } else { RowCount::default() }))
}

/// Decrements `bodies.readers`, and removes a body without rows.
pub(super) fn let_go(tx: &Tx<'_>, seq: i64) -> rusqlite::Result<()> {
    tx.execute(LET_GO, [seq])?;
    tx.execute(DROP_BODY, [seq]).map(drop)
}

//! What a broker of our own has to know when it starts.

use super::{ENDED, GROUP, retained, role_of_number};
use crate::store::sqlite::column::from_sql;
use crate::store::sqlite::tx::ReadTx;
use crate::store::{
    BrokerState, KeptGroup, KeptLogin, KeptSession, KeptSubscription, QueueId, RowCount, SessionRecord,
};
use std::collections::HashMap;

/// What had a connection before the last stop: all that may have been sent to it was sent.
pub(in crate::store::sqlite) const STARTED: &str = "UPDATE queues
    SET crashed_up_to = max(crashed_up_to, min(sent_up_to, ?1)), sent_up_to = min(sent_up_to, ?1)
    WHERE crashed_up_to < sent_up_to";
const QUEUES: &str =
    "SELECT queue, kind, key, user, client, expiry_s, role, token_key, left_at FROM queues WHERE kind <> ?1";
/// Along the primary key, past bodies that lie on pages of their own.
pub(in crate::store::sqlite) const COUNTS: &str =
    "SELECT queue, count(*), sum(bytes) FROM queue WHERE document IS NULL GROUP BY queue";
const SUBSCRIPTIONS: &str = "SELECT queue, filter, options, id FROM subscriptions";
const INCOMING: &str = "SELECT queue, id FROM incoming";

pub(in crate::store) fn broker_state(tx: &ReadTx<'_>) -> rusqlite::Result<BrokerState> {
    let counts = tx.all(COUNTS, [], |row| {
        Ok((row.get::<_, QueueId>(0)?, RowCount { rows: from_sql(row.get(1)?), bytes: from_sql(row.get(2)?) }))
    })?;
    let counts: HashMap<_, _> = counts.into_iter().collect();
    let mut subscriptions = by_queue(tx, SUBSCRIPTIONS, |row| {
        Ok(KeptSubscription { filter: row.get(1)?, options: row.get(2)?, id: row.get(3)? })
    })?;
    let mut incoming = by_queue(tx, INCOMING, |row| row.get::<_, u16>(1))?;
    let mut state = BrokerState { retained: retained::all(tx)?, wills: retained::wills(tx)?, ..Default::default() };
    let mut statement = tx.conn.prepare_cached(QUEUES)?;
    let mut rows = statement.query([ENDED])?;
    while let Some(row) = rows.next()? {
        let (queue, kind): (_, i64) = (row.get(0)?, row.get(1)?);
        let RowCount { rows, bytes } = counts.get(&queue).copied().unwrap_or_default();
        if kind == GROUP {
            state.groups.push(KeptGroup { queue, name: row.get(2)?, rows, bytes });
            continue;
        }
        state.sessions.push(KeptSession {
            queue,
            record: record(row, 2)?,
            left_at: row.get::<_, Option<i64>>(8)?.map(from_sql),
            subscriptions: subscriptions.remove(&queue).unwrap_or_default(),
            rows,
            bytes,
            incoming: incoming.remove(&queue).unwrap_or_default(),
        });
    }
    Ok(state)
}

/// The columns key, user, client, expiry_s, role, token_key.
pub(in crate::store::sqlite) fn record(row: &rusqlite::Row<'_>, key: usize) -> rusqlite::Result<SessionRecord> {
    Ok(SessionRecord {
        key: row.get(key)?,
        user: row.get(key + 1)?,
        client: row.get(key + 2)?,
        expiry_s: row.get(key + 3)?,
        login: match row.get::<_, Option<i64>>(key + 4)?.and_then(role_of_number) {
            Some(role) => Some(KeptLogin { role, token_key: row.get(key + 5)? }),
            None => None,
        },
    })
}

fn by_queue<T>(
    tx: &ReadTx<'_>,
    sql: &str,
    mut read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<HashMap<QueueId, Vec<T>>> {
    let mut found: HashMap<QueueId, Vec<T>> = HashMap::new();
    for (queue, one) in tx.all(sql, [], |row| Ok((row.get(0)?, read(row)?)))? {
        found.entry(queue).or_default().push(one);
    }
    Ok(found)
}

//! Reading for operators, on a connection of its own: works while the bridge runs, and never disturbs it.

use super::column::{bytes_of, from_sql, sid, state};
use super::recipient_queue::PARKED;
use super::{fault, file};
use crate::chat::delivery::State;
use crate::chat::id::Sid;
use crate::store::{OpenError, StoreError, Summary, Trace, TraceDelivery, TraceUpstream};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;
use std::path::Path;

/// Deliveries that share one id (of different BALs) shown by one trace.
const TRACES_MAX: i64 = 20;

const DELIVERY: &str =
    "SELECT row, tail, bal, id, recipient, way, provider_id, order_key, state, due_at, deadline, accepted_at, claimed_at,
    sent_at, final_at, attempt, dup_possible, receipt, code, detail, reply,
    (SELECT count(*) FROM outbox WHERE topic = reply AND kind = 0 AND about = deliveries.row), log, length(body)
    FROM deliveries";
const UPSTREAM: &str = "SELECT row, tail, bal, category, topic, received_at, published_at, final_at,
    EXISTS (SELECT 1 FROM outbox o WHERE o.topic = inbox.topic AND o.seq = inbox.seq) FROM inbox WHERE row = ?1 AND tail = ?2";

/// A reader of the store.
#[derive(Debug)]
pub struct Inspector {
    conn: Connection,
}

impl Inspector {
    /// Opens the file for reading.
    ///
    /// # Errors
    /// When there is none, or it is not a store this program understands.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        file::open_read_only(path).map(|conn| Self { conn })
    }

    /// Everything about one id: the bridge's, or the one a BAL chose (then there may be several).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn trace(&self, id: &str) -> Result<Vec<Trace>, StoreError> {
        self.traces(id).map_err(fault::of_look)
    }

    /// The newest deliveries, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self, limit: u32) -> Result<Vec<Trace>, StoreError> {
        self.deliveries("ORDER BY row DESC LIMIT ?1", params![limit]).map_err(fault::of_look)
    }

    /// How many there are of what. Reads the whole file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn counts(&self) -> Result<Summary, StoreError> {
        self.summary().map_err(fault::of_look)
    }

    fn traces(&self, id: &str) -> rusqlite::Result<Vec<Trace>> {
        let mut traces = Vec::new();
        if let Some((row, tail)) = Sid::parse(id).map(Sid::parts) {
            traces.extend(self.deliveries("WHERE row = ?1 AND tail = ?2", params![row, tail])?);
            let upstream = self.conn.query_row(UPSTREAM, params![row, tail], upstream).optional()?;
            traces.extend(upstream.map(Trace::Upstream));
        }
        traces.extend(self.deliveries("WHERE id = ?1 LIMIT ?2", params![id, TRACES_MAX])?);
        Ok(traces)
    }

    fn summary(&self) -> rusqlite::Result<Summary> {
        let mut summary = Summary::default();
        let mut statement = self.conn.prepare("SELECT state, count(*) FROM deliveries GROUP BY state")?;
        for pair in statement.query_map([], |row| Ok((state(row, 0)?, from_sql(row.get(1)?))))? {
            let (state, count) = pair?;
            let name = serde_json::to_value(state).ok().and_then(|name| name.as_str().map(str::to_owned));
            summary.deliveries.insert(name.unwrap_or_default(), count);
        }
        let mut statement =
            self.conn.prepare("SELECT topic, count(*), sum(kind IN (1, 2)) FROM outbox GROUP BY topic")?;
        let mut topics = statement.query([])?;
        while let Some(topic) = topics.next()? {
            summary.outbox.insert(topic.get(0)?, from_sql(topic.get(1)?));
            summary.spool += from_sql(topic.get(2)?);
        }
        Ok(summary)
    }

    fn deliveries(&self, clause: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<Trace>> {
        let mut statement = self.conn.prepare(&format!("{DELIVERY} {clause}"))?;
        let traces = statement.query_map(params, |row| Ok(Trace::Delivery(Box::new(delivery(row)?))))?;
        traces.collect()
    }
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(from_sql))
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<TraceDelivery> {
    let state = state(row, 8)?;
    let log: Option<String> = row.get(22)?;
    Ok(TraceDelivery {
        sid: sid(row, 0, 1)?.to_string(),
        bal: row.get(2)?,
        id: row.get(3)?,
        recipient: row.get(4)?,
        transport: row.get(5)?,
        provider_id: row.get(6)?,
        order: row.get(7)?,
        state,
        // Left over from the last time it was due, in every other state; what is parked has none.
        due_at: time(row, 9)?.filter(|at| state == State::Due && *at != from_sql(PARKED)),
        deadline: from_sql(row.get(10)?),
        accepted_at: from_sql(row.get(11)?),
        claimed_at: time(row, 12)?,
        sent_at: time(row, 13)?,
        final_at: time(row, 14)?,
        attempt: row.get(15)?,
        dup_possible: row.get(16)?,
        receipt: row.get(17)?,
        code: row.get(18)?,
        detail: row.get(19)?,
        reply: row.get(20)?,
        statuses_unread: from_sql(row.get(21)?),
        log: log.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| Value::Array(Vec::new())),
        body_bytes: bytes_of(row.get(23)?),
    })
}

fn upstream(row: &Row<'_>) -> rusqlite::Result<TraceUpstream> {
    Ok(TraceUpstream {
        sid: sid(row, 0, 1)?.to_string(),
        bal: row.get(2)?,
        category: row.get(3)?,
        topic: row.get(4)?,
        received_at: from_sql(row.get(5)?),
        published_at: time(row, 6)?,
        final_at: time(row, 7)?,
        kept: row.get(8)?,
    })
}

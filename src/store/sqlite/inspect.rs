//! Reading for operators, on a connection of its own: works while the bridge runs, and never disturbs it.

use super::chat::explain;
use super::column::{NEVER, bytes_of, fan_out, from_sql, sid, sql_ms, state};
use super::message::SEVERAL;
use super::recipient_queue::PARKED;
use super::request::reply_topic;
use super::{erase, errors, file};
use crate::chat::delivery::State;
use crate::chat::erasure::name_key;
use crate::chat::id::{self, Owner, Sid, short_hash};
use crate::store::{
    INBOX, OpenError, PushExplanation, QueueState, StoreError, Summary, Trace, TraceDelivery, TraceMessage,
    TraceUpstream, UserSummary,
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;
use std::path::Path;

/// Deliveries that share one id (of different BALs) shown by one trace.
const TRACES_MAX: i64 = 20;

/// The rows of messages. Its deliveries are shown inside a message with several.
const MESSAGES: &str = "SELECT row, state FROM deliveries";
/// The message of a delivery, which may be its own.
const MESSAGE_OF: &str = "WHERE row = (SELECT coalesce(message, row) FROM deliveries WHERE row = ?1 AND tail = ?2)";
const DELIVERY: &str =
    "SELECT row, tail, bal, id, recipient, way, provider_id, order_key, state, due_at, deadline, accepted_at, claimed_at,
    sent_at, final_at, attempt, dup_possible, receipt, code, detail, reply, log, body FROM deliveries";
const SEVERAL_OF: &str = "SELECT d.row, d.tail, d.bal, d.id, d.order_key, d.accepted_at, d.sent_at, d.final_at,
    d.dup_possible, d.receipt, d.code, d.reply, length(d.body), m.fan_out, m.told_at, m.kept_until
    FROM messages m JOIN deliveries d ON d.row = m.row WHERE m.row = ?1";
/// The column `way` stands behind the bodies, and is read only where it decides: of one of several.
const COUNTED: &str =
    "SELECT state, count(*) FROM deliveries WHERE state < ?1 AND (bal <> '' OR way <> ?2) GROUP BY state";
/// What is to be sent and is not on its way, from the index alone.
pub(super) const QUEUED: &str = "SELECT way, count(*) FILTER (WHERE due_at IS NULL OR due_at <= ?1),
    count(*) FILTER (WHERE due_at > ?1 AND due_at < ?2), count(*) FILTER (WHERE due_at = ?2), min(row)
    FROM deliveries INDEXED BY deliveries_due WHERE state = 0 GROUP BY way";
const STATUSES: &str = "SELECT count(*) FROM outbox WHERE topic = ?1 AND kind = 0 AND about = ?2";
const UPSTREAM: &str = "SELECT row, tail, bal, category, topic, received_at, published_at, final_at,
    EXISTS (SELECT 1 FROM outbox o WHERE o.topic = inbox.topic AND o.seq = inbox.seq) FROM inbox WHERE row = ?1 AND tail = ?2";

/// A read-only connection to the store's file.
#[derive(Debug)]
pub struct Inspector {
    pub(super) conn: Connection,
}

impl Inspector {
    /// Opens the file for reading, also while the bridge writes.
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
        self.traces(id).map_err(errors::of_inspection)
    }

    /// The newest messages, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self, limit: u32) -> Result<Vec<Trace>, StoreError> {
        self.messages("WHERE message IS NULL ORDER BY row DESC LIMIT ?1", params![limit]).map_err(errors::of_inspection)
    }

    /// How many there are of what. Reads the whole file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn counts(&self) -> Result<Summary, StoreError> {
        self.summary().map_err(errors::of_inspection)
    }

    /// What waits for each push service at `now`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn queue_states(&self, now: u64) -> Result<Vec<QueueState>, StoreError> {
        let read = |row: &Row<'_>| {
            let oldest = Sid::from_parts(row.get(4)?, 0).map(Sid::millis);
            Ok(QueueState {
                transport: row.get(0)?,
                due: row.get(1).map(from_sql)?,
                put_off: row.get(2).map(from_sql)?,
                behind: row.get(3).map(from_sql)?,
                oldest_at: oldest.unwrap_or(now),
            })
        };
        let mut statement = self.conn.prepare(QUEUED).map_err(errors::of_inspection)?;
        let states = statement.query_map(params![sql_ms(now), PARKED], read).map_err(errors::of_inspection)?;
        states.collect::<Result<_, _>>().map_err(errors::of_inspection)
    }

    /// Why the devices of `user` were pushed for a message to it, or were not; `None`: it has no such message.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn explain_push(&self, user: &Owner, sid: Sid) -> Result<Option<PushExplanation>, StoreError> {
        explain::of_message(&self.conn, user, sid).map_err(errors::of_inspection)
    }

    /// Every chat user that was heard of, by name.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn users(&self) -> Result<Vec<UserSummary>, StoreError> {
        explain::users(&self.conn).map_err(errors::of_inspection)
    }

    /// Whether a user of this name was erased, or is being erased, and the name is not free.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_erased(&self, name: &str) -> Result<bool, StoreError> {
        self.conn
            .prepare_cached(erase::IS_TAKEN)
            .and_then(|mut taken| taken.exists([name_key(name)]))
            .map_err(errors::of_inspection)
    }

    fn traces(&self, id: &str) -> rusqlite::Result<Vec<Trace>> {
        let mut traces = Vec::new();
        if let Some((row, tail)) = Sid::parse(id).map(Sid::parts) {
            traces.extend(self.messages(MESSAGE_OF, params![row, tail])?);
            let upstream = self.conn.query_row(UPSTREAM, params![row, tail], upstream).optional()?;
            traces.extend(upstream.map(Trace::Upstream));
        }
        traces.extend(self.messages("WHERE id = ?1 AND message IS NULL LIMIT ?2", params![id, TRACES_MAX])?);
        Ok(traces)
    }

    fn summary(&self) -> rusqlite::Result<Summary> {
        let mut summary = Summary::default();
        let mut statement = self.conn.prepare(COUNTED)?;
        for pair in statement.query_map(params![SEVERAL, INBOX], |row| Ok((state(row, 0)?, from_sql(row.get(1)?))))? {
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

    fn messages(&self, clause: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<Trace>> {
        let mut statement = self.conn.prepare(&format!("{MESSAGES} {clause}"))?;
        let rows = statement.query_map(params, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(id::Row, i64)> = rows.collect::<Result<_, _>>()?;
        let trace = |(row, state)| {
            if state == SEVERAL {
                return self.several(row);
            }
            let Some(mut only) = self.deliveries("WHERE row = ?1", row)?.pop() else { return Ok(None) };
            only.statuses_unread = self.unread(&only.reply, row)?;
            Ok(Some(Trace::Delivery(Box::new(only))))
        };
        rows.into_iter().filter_map(|found| trace(found).transpose()).collect()
    }

    fn several(&self, row: id::Row) -> rusqlite::Result<Option<Trace>> {
        // The message and its deliveries are shown as they stand at one moment.
        let _moment = self.conn.unchecked_transaction()?;
        let Some(mut message) = self.conn.prepare_cached(SEVERAL_OF)?.query_row([row], message).optional()? else {
            return Ok(None);
        };
        message.statuses_unread = self.unread(&message.reply, row)?;
        message.deliveries = self.deliveries("WHERE message = ?1 ORDER BY row", row)?;
        for delivery in &mut message.deliveries {
            delivery.bal.clone_from(&message.bal);
            delivery.id.clone_from(&message.id);
            if delivery.transport != INBOX {
                delivery.reply.clone_from(&message.reply);
            }
        }
        Ok(Some(Trace::Message(Box::new(message))))
    }

    fn deliveries(&self, clause: &str, of: id::Row) -> rusqlite::Result<Vec<TraceDelivery>> {
        let mut statement = self.conn.prepare_cached(&format!("{DELIVERY} {clause}"))?;
        let deliveries = statement.query_map([of], delivery)?;
        deliveries.collect()
    }

    /// Statuses of a message on a topic that nobody has read.
    fn unread(&self, topic: &str, row: id::Row) -> rusqlite::Result<u64> {
        self.conn.prepare_cached(STATUSES)?.query_row(params![topic, row], |row| row.get(0).map(from_sql))
    }
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(from_sql))
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<TraceDelivery> {
    let state = state(row, 8)?;
    let log: Option<String> = row.get(21)?;
    let bal: String = row.get(2)?;
    let reply = reply_topic(&bal, row.get_ref(20)?.as_str()?).into_owned();
    let body: Option<Vec<u8>> = row.get(22)?;
    Ok(TraceDelivery {
        sid: sid(row, 0, 1)?.to_string(),
        bal,
        id: row.get(3)?,
        recipient: row.get(4)?,
        transport: row.get(5)?,
        provider_id: row.get(6)?,
        order: row.get(7)?,
        state,
        // Left over from the last time it was due, in every other state; what is parked has none.
        due_at: time(row, 9)?.filter(|at| state == State::Due && *at != from_sql(PARKED)),
        behind: (state == State::Due && time(row, 9)? == Some(from_sql(PARKED))).then_some(true),
        deadline: time(row, 10)?.filter(|at| *at != from_sql(NEVER)),
        accepted_at: from_sql(row.get(11)?),
        claimed_at: time(row, 12)?,
        sent_at: time(row, 13)?,
        final_at: time(row, 14)?,
        attempt: row.get(15)?,
        dup_possible: row.get(16)?,
        receipt: row.get(17)?,
        code: row.get(18)?,
        detail: row.get(19)?,
        reply,
        statuses_unread: 0,
        log: log.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| Value::Array(Vec::new())),
        token_hash: body.as_deref().and_then(token_hash),
        body_bytes: body.map_or(0, |body| body.len() as u64),
    })
}

/// The hash of the token that is in a body, or is the address of one of several recipients.
fn token_hash(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let token = body.pointer("/target/token").or_else(|| body.get("token"))?;
    token.as_str().map(short_hash)
}

fn message(row: &Row<'_>) -> rusqlite::Result<TraceMessage> {
    let bal: String = row.get(2)?;
    let reply = reply_topic(&bal, row.get_ref(11)?.as_str()?).into_owned();
    Ok(TraceMessage {
        sid: sid(row, 0, 1)?.to_string(),
        bal,
        id: row.get(3)?,
        order: row.get(4)?,
        status: fan_out(row, 13)?.status(),
        accepted_at: from_sql(row.get(5)?),
        sent_at: time(row, 6)?,
        told_at: from_sql(row.get(14)?),
        final_at: time(row, 7)?,
        kept_until: time(row, 15)?,
        dup_possible: row.get(8)?,
        receipt: row.get(9)?,
        code: row.get(10)?,
        reply,
        statuses_unread: 0,
        body_bytes: bytes_of(row.get(12)?),
        deliveries: Vec::new(),
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

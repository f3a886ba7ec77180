//! Sessions and retained messages, as operators are shown them while the bridge runs.

use super::{SESSION, retained, state};
use crate::store::sqlite::Inspector;
use crate::store::sqlite::column::from_sql;
use crate::store::sqlite::errors;
use crate::store::{KeptRetained, QueueId, SessionSummary, StoreError};
use rusqlite::params;

pub(in crate::store::sqlite) const SESSIONS: &str =
    "SELECT queue, key, user, client, expiry_s, role, token_key, left_at FROM queues
    WHERE key > ?1 AND kind = ?2 ORDER BY key LIMIT ?3";
const SUBSCRIPTIONS: &str = "SELECT count(*) FROM subscriptions WHERE queue = ?1";
const WAITING: &str = "SELECT count(*) FILTER (WHERE document IS NULL),
        coalesce(sum(bytes) FILTER (WHERE document IS NULL), 0), count(document) FROM queue WHERE queue = ?1";
pub(in crate::store::sqlite) const RETAINED: &str =
    "SELECT topic, bytes, user, qos, expires_at FROM retained WHERE topic > ?1 ORDER BY topic LIMIT ?2";

impl Inspector {
    /// The sessions that outlive their connections, by their keys: the next behind `after`, at most `limit`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sessions(&self, after: &str, limit: u32) -> Result<Vec<SessionSummary>, StoreError> {
        self.session_page(after, limit).map_err(errors::of_inspection)
    }

    /// The retained messages, by their topics: the next behind `after`, at most `limit`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn retained(&self, after: &str, limit: u32) -> Result<Vec<KeptRetained>, StoreError> {
        let page = || {
            let mut statement = self.conn.prepare_cached(RETAINED)?;
            let rows = statement.query_map(params![after, limit], retained::kept)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        page().map_err(errors::of_inspection)
    }

    fn session_page(&self, after: &str, limit: u32) -> rusqlite::Result<Vec<SessionSummary>> {
        // Sessions and what they have are shown as they are at one moment.
        let _moment = self.conn.unchecked_transaction()?;
        let mut statement = self.conn.prepare_cached(SESSIONS)?;
        let sessions = statement.query_map(params![after, SESSION, limit], |row| {
            let (queue, left_at): (QueueId, Option<i64>) = (row.get(0)?, row.get(7)?);
            let count = |sql| self.conn.prepare_cached(sql)?.query_row([queue], |row| row.get(0).map(from_sql));
            let (rows, bytes, documents) = self
                .conn
                .prepare_cached(WAITING)?
                .query_row([queue], |row| Ok((from_sql(row.get(0)?), from_sql(row.get(1)?), from_sql(row.get(2)?))))?;
            let (record, subscriptions) = (state::record(row, 1)?, count(SUBSCRIPTIONS)?);
            Ok(SessionSummary { record, left_at: left_at.map(from_sql), subscriptions, rows, bytes, documents })
        })?;
        sessions.collect()
    }
}

//! How many messages of a group are tombstones behind a row, for many members at once.
//!
//! What is unread for a member is a difference of counts, less the tombstones behind its position; each push says it. A group
//! whose messages expire has many of them, and a message to it has a thousand members who ask. So where they are many, they are
//! read once in a verb, and counted for each member in memory.

use crate::chat::id::{Owner, Row};
use crate::store::sqlite::column::from_sql;
use crate::store::sqlite::tx::ReadTx;
use rusqlite::params;
use std::collections::HashMap;

/// So many are counted for one member alone.
const FEW: usize = 64;
/// Rows that a verb remembers, of all groups together.
const REMEMBERED_MAX: usize = 1_000_000;

pub(in crate::store::sqlite) const BEHIND: &str = "SELECT row FROM chat INDEXED BY chat_gone_behind
    WHERE peer = ?1 AND gone = 1 AND kind = 0 AND row > ?2 ORDER BY row LIMIT ?3";
pub(in crate::store::sqlite) const COUNT: &str =
    "SELECT count(*) FROM chat INDEXED BY chat_gone_behind WHERE peer = ?1 AND gone = 1 AND kind = 0 AND row > ?2";

/// The tombstones of groups, as long as a verb makes none and drops none.
#[derive(Debug, Default)]
pub(in crate::store::sqlite) struct Tombstones {
    rows: HashMap<Owner, Vec<Row>>,
    remembered: usize,
}

impl Tombstones {
    /// How many messages of the group behind this row are tombstones.
    pub(super) fn behind(&mut self, tx: &ReadTx<'_>, group: &Owner, row: Row) -> rusqlite::Result<u64> {
        if let Some(rows) = self.rows.get(group) {
            return Ok(count_behind(rows, row));
        }
        let few = rows_behind(tx, group, row, FEW + 1)?.len();
        if few <= FEW {
            return Ok(few as u64);
        }
        let left = REMEMBERED_MAX.saturating_sub(self.remembered);
        let rows = rows_behind(tx, group, Row(0), left + 1)?;
        if rows.len() > left {
            let count = tx.one(COUNT, params![group.as_str(), row], |row| row.get(0).map(from_sql))?;
            return Ok(count.unwrap_or_default());
        }
        self.remembered += rows.len();
        let behind = count_behind(&rows, row);
        self.rows.insert(group.clone(), rows);
        Ok(behind)
    }
}

fn rows_behind(tx: &ReadTx<'_>, group: &Owner, row: Row, limit: usize) -> rusqlite::Result<Vec<Row>> {
    tx.all(BEHIND, params![group.as_str(), row, limit as i64], |row| row.get(0))
}

fn count_behind(rows: &[Row], row: Row) -> u64 {
    (rows.len() - rows.partition_point(|one| *one <= row)) as u64
}

//! The sessions of a broker of our own: their queues and everything they have promised.
//!
//! A message goes into the queues of all who get it in one row each, under one number. The body lies in the row where there
//! is one queue, else once in `bodies`, until its last row goes. What is taken from a queue is read in pages, and stays until
//! it is acknowledged. Which rows may have been sent before a crash is known from one number of each queue: what came or was
//! read while it had a connection counts as sent. So copies are marked, and some that were never sent are as well.

pub(in crate::store) mod documents;
pub(in crate::store) mod import;
pub(super) mod inspect;
pub(in crate::store) mod queue;
pub(in crate::store) mod retained;
pub(super) mod row;
pub(in crate::store) mod session;
pub(in crate::store) mod state;
pub(in crate::store) mod sweep;

use super::column::NEVER;
use super::tx::Tx;
use crate::chat::principal::Role;
use crate::store::QueueId;
use rusqlite::params;
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// The column `kind` of `queues`.
const SESSION: i64 = 0;
const GROUP: i64 = 1;
const ENDED: i64 = 2;

/// The roles, by their numbers in the column `role` of `queues`.
const ROLES: [Role; 3] = [Role::User, Role::Bal, Role::Admin];

const KNOWN: &str = "SELECT left_at IS NULL, sent_up_to FROM queues WHERE queue = ?1 AND kind < 2";
const SENT: &str = "UPDATE queues SET sent_up_to = ?2 WHERE queue = ?1";

/// What has to be known of a queue to put something in.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueFacts {
    connected: bool,
    sent_up_to: i64,
}

/// The queue, unless it has ended.
fn queue_facts(tx: &mut Tx<'_>, queue: QueueId) -> rusqlite::Result<Option<QueueFacts>> {
    if let Some(known) = tx.memory_draft.queues.get(&queue) {
        return Ok(*known);
    }
    let known = tx.one(KNOWN, [queue], |row| Ok(QueueFacts { connected: row.get(0)?, sent_up_to: row.get(1)? }))?;
    tx.memory_draft.queues.insert(queue, known);
    Ok(known)
}

/// Before a connection is notified of the row `seq`: raises `sent_up_to`, once per connection.
fn may_be_sent(tx: &mut Tx<'_>, queue: QueueId, known: QueueFacts, seq: i64) -> rusqlite::Result<()> {
    if known.connected && known.sent_up_to < seq { sent_up_to(tx, queue, NEVER) } else { Ok(()) }
}

fn sent_up_to(tx: &mut Tx<'_>, queue: QueueId, seq: i64) -> rusqlite::Result<()> {
    tx.execute(SENT, params![queue, seq])?;
    tx.memory_draft.queues.remove(&queue);
    Ok(())
}

fn role_number(role: Role) -> i64 {
    match role {
        Role::User => 0,
        Role::Bal => 1,
        Role::Admin => 2,
    }
}

fn role_of_number(number: i64) -> Option<Role> {
    ROLES.into_iter().find(|role| role_number(*role) == number)
}

impl ToSql for QueueId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for QueueId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Self)
    }
}

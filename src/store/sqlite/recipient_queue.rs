//! The SQL form of [`crate::chat::recipient_queue`]: the queue of a recipient on one transport.
//!
//! ```text
//!   never put off ── may not go ──► put off:   first   │ second   third   fourth ...
//!    (due_at NULL)                               a time  │ parked
//!          │                                       │     ▲
//!          └────── claimed ◄── its time has come ──┘     └── a message has gone: the first one is looked at again
//! ```
//!
//! A message that may not go is parked: its due time never comes, and no look at what is due finds it. In return, whenever
//! a message leaves the queue or its transport, the first of the queue is looked at, if it is parked ([`RecipientQueue::advance`]).
//! So a message is parked once and unparked once, however long the queue is, and what has a time of its own keeps it.
//!
//! What is in flight is few, and nothing is after a restart, so it is kept in memory ([`InFlight`]); only rows that were
//! put off are asked for with SQL, through an index over them. That is enough, because **what was never put off is younger
//! than all of its queue that is in flight or put off**: messages are claimed in the order of their rows, and one whose
//! turn of its `order` key comes late is written as put off where it has to be ([`RecipientQueue::has_younger`]).

use super::column::sql_ms;
use super::tx::{ReadTx, Tx};
use crate::chat::delivery::{Due, State};
use crate::chat::id::{Recipient, Row};
use crate::chat::recipient_queue::{Ahead, Behind, Pipelining};
use crate::chat::transport::Transport;
use crate::store::NewPush;
use rusqlite::params;
use std::collections::BTreeSet;

/// The due time of what is parked.
pub(super) const PARKED: i64 = i64::MAX;
/// The due time of what goes before all others.
const FIRST_OF_ALL: i64 = 0;

pub(super) const OLDER: &str = "SELECT 1 FROM deliveries
    WHERE recipient = ?1 AND row < ?2 AND way = ?3 AND state = 0 AND due_at IS NOT NULL LIMIT 1";
pub(super) const FIRST: &str = "SELECT row, due_at FROM deliveries
    WHERE recipient = ?1 AND way = ?2 AND state = 0 AND due_at IS NOT NULL ORDER BY row LIMIT 1";
pub(super) const YOUNGER: &str = "SELECT 1 FROM deliveries
    WHERE recipient = ?1 AND row > ?2 AND way = ?3 AND state = 0 AND due_at IS NOT NULL LIMIT 1";
const DUE: &str = "UPDATE deliveries SET due_at = ?2 WHERE row = ?1";

/// Older than all: only what is in flight may be in its way.
const OLDEST: Row = Row(0);

/// The name of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RecipientQueue {
    pub(super) recipient: Recipient,
    pub(super) transport: Transport,
}

/// What of a queue is in flight.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    /// With which they were claimed.
    pipelining: Pipelining,
    count: usize,
    /// The youngest that was claimed since there was nothing in flight.
    youngest: Row,
    /// Those of them that were tried before.
    again: BTreeSet<Row>,
    /// Whether the first of the queue may be parked behind them.
    parked: bool,
}

pub(super) static NOTHING: InFlight =
    InFlight { pipelining: Pipelining::OneAtATime, count: 0, youngest: OLDEST, again: BTreeSet::new(), parked: false };

impl InFlight {
    /// What is in flight ahead of a message; `waiting`: whether an older one waits.
    fn ahead(&self, row: Row, waiting: bool) -> Ahead {
        Ahead { waiting, again: self.again.first().is_some_and(|first| *first < row), in_flight: self.count }
    }

    /// Whether a message may go of whose queue nothing older waits.
    fn may_go(&self, row: Row) -> bool {
        self.pipelining.behind(self.ahead(row, false)).is_none()
    }

    /// Whether nothing is known any more that is worth keeping.
    pub(super) fn is_over(&self) -> bool {
        self.count == 0
    }
}

impl RecipientQueue {
    /// That of a message to be pushed.
    pub(super) fn of(push: &NewPush) -> Self {
        Self { recipient: push.recipient, transport: push.transport.clone() }
    }

    /// What a message that is due has to wait for. `put_off`: whether any message of the transport is.
    pub(super) fn behind(
        &self,
        tx: &Tx<'_>,
        row: Row,
        pipelining: Pipelining,
        put_off: bool,
    ) -> rusqlite::Result<Option<Behind>> {
        let waiting = put_off && self.is_put_off(tx, OLDER, row)?;
        Ok(pipelining.behind(tx.in_flight(self).ahead(row, waiting)))
    }

    /// Whether any message on that side of `row` is put off.
    fn is_put_off(&self, tx: &ReadTx<'_>, side: &str, row: Row) -> rusqlite::Result<bool> {
        tx.exists(side, params![self.recipient, row, self.transport.to_string()])
    }

    /// Puts a message off until what it waits for has gone.
    pub(super) fn park(&self, tx: &mut Tx<'_>, row: Row, behind: Behind) -> rusqlite::Result<()> {
        if behind == Behind::InFlight {
            tx.in_flight_mut(self).parked = true;
        }
        tx.execute(DUE, params![row, PARKED])?;
        Ok(())
    }

    /// A message is handed out; `again` if it was tried before.
    pub(super) fn claimed(&self, tx: &mut Tx<'_>, row: Row, again: bool, pipelining: Pipelining) {
        let flights = tx.in_flight_mut(self);
        flights.pipelining = pipelining;
        flights.youngest = if flights.is_over() { row } else { flights.youngest.max(row) };
        flights.count += 1;
        if again {
            flights.again.insert(row);
        }
    }

    /// A message left `state`; true if another one of the queue became due.
    pub(super) fn left(&self, tx: &mut Tx<'_>, row: Row, state: State) -> rusqlite::Result<bool> {
        if state == State::InFlight {
            // After a restart nothing is known to be in flight, and nothing is parked behind it.
            let flights = tx.in_flight_mut(self);
            flights.count = flights.count.saturating_sub(1);
            flights.again.remove(&row);
            if !flights.parked {
                return Ok(false);
            }
        }
        self.advance(tx)
    }

    /// Makes the first of the queue due if it is parked and may go now. True if so.
    pub(super) fn advance(&self, tx: &mut Tx<'_>) -> rusqlite::Result<bool> {
        if !tx.in_flight(self).may_go(OLDEST) {
            // Whichever is the first, it has to wait.
            tx.in_flight_mut(self).parked = true;
            return Ok(false);
        }
        let first: Option<(Row, i64)> =
            tx.one(FIRST, params![self.recipient, self.transport.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let parked = first.filter(|(_, due_at)| *due_at == PARKED).map(|(row, _)| row);
        let goes = parked.filter(|row| tx.in_flight(self).may_go(*row));
        tx.in_flight_mut(self).parked = parked.is_some() && goes.is_none();
        if let Some(row) = goes {
            tx.execute(DUE, params![row, FIRST_OF_ALL])?;
        }
        Ok(goes.is_some())
    }

    /// How a due time is written. What was never put off has none; it must not be older than what is put off or in flight.
    pub(super) fn due_at(&self, tx: &Tx<'_>, row: Row, due: Due) -> rusqlite::Result<Option<i64>> {
        Ok(match due {
            Due::InTurn => self.has_younger(tx, row)?.then_some(FIRST_OF_ALL),
            Due::First => Some(FIRST_OF_ALL),
            Due::At(ms) => Some(sql_ms(ms).max(1)),
        })
    }

    /// Whether anything that is younger is in flight or put off: then what was never put off must not be older. Where
    /// nothing is, an older one may never have been put off, and goes first.
    fn has_younger(&self, tx: &Tx<'_>, row: Row) -> rusqlite::Result<bool> {
        let flights = tx.in_flight(self);
        Ok(!flights.is_over() && flights.youngest > row || self.is_put_off(tx, YOUNGER, row)?)
    }
}

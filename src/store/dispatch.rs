//! Handing out what is due, and writing down what became of it.
//!
//! What waited for its time (or was on its way once) goes before what never waited, so a backlog cannot starve retries.
//! Per recipient the order of acceptance holds whatever is put off: nothing overtakes an older message of the same
//! recipient that waits for its time ([`super::recipient_queue`]). A message behind another of its order key takes its place when
//! its turn comes; what was due before that may go first.

use super::delivery::{Delivery, sid};
use super::recipient_queue::{self, Hold, PARKED};
use super::sweep::Overdue;
use super::tx::Tx;
use super::{from_sql, sql_ms};
use crate::chat::delivery::{Event, Life, State};
use crate::chat::id::Sid;
use crate::chat::refusal::Tried;
use crate::chat::status::{Source, Status};
use crate::chat::transport::Transport;
use bytes::Bytes;
use rusqlite::{OptionalExtension, Params, Row, params};
use std::fmt;
use std::sync::Arc;

/// Rows of each queue looked at by one call, so that a long line of blocked messages does not hold up the writer thread.
const SCAN_MAX: usize = 1000;

pub(super) const TIMED: &str =
    "SELECT row, tail, recipient, accepted_at, deadline, attempt, dup_possible, receipt, waited_ms, unknown,
    body FROM deliveries
    WHERE state = 0 AND way = ?3 AND due_at <= ?1 ORDER BY due_at, row LIMIT ?2";
pub(super) const FRESH: &str =
    "SELECT row, tail, recipient, accepted_at, deadline, attempt, dup_possible, receipt, waited_ms, unknown,
    body FROM deliveries
    WHERE state = 0 AND way = ?2 AND due_at IS NULL ORDER BY row LIMIT ?1";
const CLAIM: &str = "UPDATE deliveries SET state = ?2, attempt = ?3, claimed_at = ?4 WHERE row = ?1";
pub(super) const ANY_TIMED: &str =
    "SELECT due_at FROM deliveries WHERE state = 0 AND way = ?1 AND due_at >= 0 ORDER BY due_at LIMIT 1";
pub(super) const ANY_FRESH: &str = "SELECT 1 FROM deliveries WHERE state = 0 AND way = ?1 AND due_at IS NULL LIMIT 1";

/// What to hand out.
#[derive(Clone)]
pub struct DueQuery {
    /// Only what goes by this one.
    pub transport: Transport,
    /// Unix milliseconds.
    pub now: u64,
    /// At most this many.
    pub limit: usize,
    /// Who has to wait.
    pub gate: Gate,
}

impl fmt::Debug for DueQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DueQuery")
            .field("way", &self.transport)
            .field("now", &self.now)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Says of each message that could go whether it has to wait. It is asked on the writer thread, in the order in which they
/// go, and what it lets through is handed out.
#[derive(Clone)]
pub struct Gate(Arc<dyn Fn() -> Guard + Send + Sync>);

/// `guard(recipient, row)`.
type Guard = Box<dyn FnMut(i64, i64) -> Option<Hold>>;

impl Gate {
    /// `post` posts a guard. A batch that the disk refuses runs again, each time with a new one, so a guard may count whom
    /// it lets through.
    pub fn new<G: FnMut(i64, i64) -> Option<Hold> + 'static>(post: impl Fn() -> G + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || Box::new(post())))
    }
}

/// A message to be sent now. It is in flight until [`super::Store::record`] says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The bridge's id of it.
    pub sid: Sid,
    /// Who gets it.
    pub recipient: i64,
    /// What was given to [`super::Store::accept`].
    pub body: Bytes,
    /// When it was accepted, in Unix milliseconds.
    pub accepted_at: u64,
    /// When it is not worth sending any more, in Unix milliseconds.
    pub deadline_ms: u64,
    /// How often it was handed out, this time included.
    pub attempt: u32,
    /// What was tried before.
    pub tried: Tried,
    /// Whether the device may have it already.
    pub dup_possible: bool,
}

/// The answer to a [`DueQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// What to send, in this order.
    pub claimed: Vec<Claimed>,
    /// What was found overdue instead, and expired.
    pub expired: Vec<Overdue>,
    /// When to ask again, in Unix milliseconds; not after `now` when more is due already, `None` when nothing waits.
    pub next_due: Option<u64>,
}

/// What an event did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// No such delivery, or not any more.
    Unknown,
    /// It means nothing (any more).
    Swallowed,
    /// The delivery moved.
    Moved {
        /// Its sender.
        bal: String,
        /// Its sender's id of it.
        id: String,
        /// Who gets it.
        recipient: i64,
        /// By which transport it goes.
        transport: Transport,
        /// Where it stands now.
        life: Life,
        /// What the sender was told.
        told: &'static [Status],
    },
}

pub(super) fn take_due(tx: &mut Tx<'_>, query: &DueQuery) -> rusqlite::Result<Taken> {
    let transport = query.transport.to_string();
    let lines = any_timed(tx, &transport)?.is_some();
    let mut round =
        Round { query, transport, guard: (query.gate.0)(), claimed: Vec::new(), expired: Vec::new(), lines };
    round.scan(tx, Queue::Timed)?;
    round.scan(tx, Queue::Fresh)?;
    let next_due = next_due(tx, &round.transport)?;
    Ok(Taken { claimed: round.claimed, expired: round.expired, next_due })
}

/// The earliest time at which something that goes by this transport is due; 0 when it is due already.
fn next_due(tx: &Tx<'_>, transport: &str) -> rusqlite::Result<Option<u64>> {
    if tx.conn.prepare_cached(ANY_FRESH)?.query_row([transport], |_| Ok(())).optional()?.is_some() {
        return Ok(Some(0));
    }
    Ok(any_timed(tx, transport)?.filter(|&due| due != PARKED).map(from_sql))
}

pub(super) fn record(tx: &mut Tx<'_>, sid: Sid, event: &Event, at: u64) -> rusqlite::Result<Recorded> {
    let Some(mut delivery) = Delivery::by_sid(tx, sid)? else { return Ok(Recorded::Unknown) };
    move_on(tx, &mut delivery, event, at)
}

/// The apps on the devices have these messages, they say; that counts where nobody else can say it.
pub(super) fn confirm(tx: &mut Tx<'_>, sids: &[Sid], at: u64) -> rusqlite::Result<Vec<(Sid, Recorded)>> {
    let mut recorded = Vec::new();
    for sid in sids {
        let Some(mut delivery) = Delivery::by_sid(tx, *sid)? else { continue };
        if delivery.transport.witness() == Source::App {
            recorded.push((*sid, move_on(tx, &mut delivery, &Event::Receipt, at)?));
        }
    }
    Ok(recorded)
}

/// The first message that waits for `recipient` is looked at again at once.
pub(super) fn unpark(tx: &mut Tx<'_>, recipient: i64, transport: &str) -> rusqlite::Result<()> {
    tx.draft.due |= recipient_queue::move_up(tx, recipient, transport)?;
    Ok(())
}

fn move_on(tx: &mut Tx<'_>, delivery: &mut Delivery, event: &Event, at: u64) -> rusqlite::Result<Recorded> {
    let Some(told) = delivery.apply(tx, event, at)? else { return Ok(Recorded::Swallowed) };
    let Delivery { bal, id, recipient, transport, life, .. } = delivery.clone();
    Ok(Recorded::Moved { bal, id, recipient, transport, life, told })
}

fn any_timed(tx: &Tx<'_>, transport: &str) -> rusqlite::Result<Option<i64>> {
    tx.conn.prepare_cached(ANY_TIMED)?.query_row([transport], |row| row.get(0)).optional()
}

/// A row that is due.
struct Candidate {
    sid: Sid,
    recipient: i64,
    accepted_at: u64,
    deadline: u64,
    life: Life,
    body: Vec<u8>,
}

fn select(tx: &Tx<'_>, sql: &str, params: impl Params) -> rusqlite::Result<Vec<Candidate>> {
    tx.conn.prepare_cached(sql)?.query_map(params, candidate)?.collect()
}

fn candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    Ok(Candidate {
        sid: sid(row, 0, 1)?,
        recipient: row.get(2)?,
        accepted_at: from_sql(row.get(3)?),
        deadline: from_sql(row.get(4)?),
        life: Life {
            state: State::Due,
            attempt: row.get(5)?,
            dup_possible: row.get(6)?,
            receipt: row.get(7)?,
            tried: Tried { waited_ms: from_sql(row.get(8)?), unknown: row.get(9)? },
        },
        body: row.get(10)?,
    })
}

/// Where a message that is due comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// It stands in its recipient's line.
    Timed,
    /// It was never put off.
    Fresh,
}

/// One call of [`take_due`].
struct Round<'a> {
    query: &'a DueQuery,
    transport: String,
    guard: Guard,
    claimed: Vec<Claimed>,
    expired: Vec<Overdue>,
    /// Whether anybody stands in a line; if not, there is no need to look for older ones.
    lines: bool,
}

impl Round<'_> {
    /// Looks at what is due. Every row leaves the range of the scan: claimed, expired, or put off.
    fn scan(&mut self, tx: &mut Tx<'_>, queue: Queue) -> rusqlite::Result<()> {
        let mut scanned = 0;
        while let Some(room) = self.room(scanned) {
            let rows = match queue {
                Queue::Timed => select(tx, TIMED, params![sql_ms(self.query.now), room, self.transport])?,
                Queue::Fresh => select(tx, FRESH, params![room, self.transport])?,
            };
            if rows.is_empty() {
                break;
            }
            scanned += rows.len();
            for row in rows {
                self.handle(tx, row, queue)?;
            }
        }
        Ok(())
    }

    /// How many rows to look at next; `None` when this scan has done enough.
    fn room(&self, scanned: usize) -> Option<i64> {
        let room = (self.query.limit - self.claimed.len()).min(SCAN_MAX.saturating_sub(scanned));
        i64::try_from(room).ok().filter(|&room| room > 0)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, row: Candidate, queue: Queue) -> rusqlite::Result<()> {
        if row.deadline <= self.query.now {
            if let Some(mut delivery) = Delivery::by_sid(tx, row.sid)? {
                self.expired.extend(delivery.expire(tx, self.query.now)?);
            }
        } else if let Some(hold) = self.hold(tx, &row)? {
            recipient_queue::put_off(tx, row.sid.row(), hold, self.query.now)?;
            self.lines = true;
        } else {
            let recipient = row.recipient;
            self.claim(tx, row)?;
            if queue == Queue::Timed {
                recipient_queue::move_up(tx, recipient, &self.transport)?;
            }
        }
        Ok(())
    }

    fn hold(&mut self, tx: &Tx<'_>, row: &Candidate) -> rusqlite::Result<Option<Hold>> {
        if self.lines && recipient_queue::is_behind(tx, row.recipient, row.sid.row(), &self.transport)? {
            return Ok(Some(Hold::UntilCalled));
        }
        Ok((self.guard)(row.recipient, row.sid.row()))
    }

    fn claim(&mut self, tx: &Tx<'_>, row: Candidate) -> rusqlite::Result<()> {
        let Some(step) = row.life.step(&Event::Claimed) else { return Ok(()) };
        let Life { state, attempt, tried, dup_possible, .. } = step.life;
        tx.execute(CLAIM, params![row.sid.row(), state.code(), attempt, sql_ms(self.query.now)])?;
        self.claimed.push(Claimed {
            sid: row.sid,
            recipient: row.recipient,
            body: row.body.into(),
            accepted_at: row.accepted_at,
            deadline_ms: row.deadline,
            attempt,
            tried,
            dup_possible,
        });
        Ok(())
    }
}

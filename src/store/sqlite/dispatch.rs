//! Handing out what is due, and writing down what became of it.
//!
//! What was put off (or was on its way once) goes before what never was, so a backlog cannot starve retries. Which of a
//! recipient's messages may go is decided in [`super::recipient_queue`].

use super::chat::device;
use super::column::{from_sql, sid, sql_ms};
use super::delivery::Delivery;
use super::recipient_queue::{PARKED, RecipientQueue};
use super::request::is_inbox_of;
use super::tx::{ReadTx, Tx};
use crate::chat::delivery::{Event, Life, State};
use crate::chat::id::{self, Owner, Sid};
use crate::chat::refusal::RetryHistory;
use crate::chat::transport::Transport;
use crate::store::{Claimed, DueBatch, DueQuery, Recorded};
use bytes::Bytes;
use rusqlite::{Row, params};

/// Rows of each queue looked at by one call, so that a long line of blocked messages does not hold up the writer thread.
const SCAN_MAX: usize = 1000;

pub(super) const TIMED: &str =
    "SELECT row, tail, recipient, accepted_at, deadline, attempt, dup_possible, receipt, waited_ms, unknown,
    body, message FROM deliveries
    WHERE state = 0 AND way = ?3 AND due_at <= ?1 ORDER BY due_at, row LIMIT ?2";
pub(super) const FRESH: &str =
    "SELECT row, tail, recipient, accepted_at, deadline, attempt, dup_possible, receipt, waited_ms, unknown,
    body, message FROM deliveries
    WHERE state = 0 AND way = ?2 AND due_at IS NULL ORDER BY row LIMIT ?1";
/// The deliveries into inboxes of a message with several.
pub(super) const IN_INBOXES: &str = "SELECT part.row, part.reply FROM deliveries message
    JOIN deliveries part ON part.message = message.row
    WHERE message.row = ?1 AND message.tail = ?2 AND part.reply <> ''";
const BODY: &str = "SELECT body FROM deliveries WHERE row = ?1";
const CLAIM: &str = "UPDATE deliveries SET state = ?2, attempt = ?3, claimed_at = ?4 WHERE row = ?1";
/// What has a time after a refusal, the earliest first. What is parked has none, and what never was tried is put off for
/// another reason.
pub(super) const FLUSH: &str = "UPDATE deliveries SET due_at = 0 WHERE row IN (
    SELECT row FROM deliveries INDEXED BY deliveries_due WHERE state = 0 AND way = ?1 AND due_at > 0 AND due_at < ?2
    AND attempt > 0 ORDER BY due_at LIMIT ?3)";
const FLUSH_CHUNK: i64 = 250;
pub(super) const ANY_PUT_OFF: &str =
    "SELECT due_at FROM deliveries WHERE state = 0 AND way = ?1 AND due_at >= 0 ORDER BY due_at LIMIT 1";
pub(super) const ANY_FRESH: &str = "SELECT 1 FROM deliveries WHERE state = 0 AND way = ?1 AND due_at IS NULL LIMIT 1";

pub(in crate::store) fn take_due(tx: &mut Tx<'_>, query: &DueQuery) -> rusqlite::Result<DueBatch> {
    let transport = query.transport.to_string();
    let put_off = any_put_off(tx, &transport)?.is_some();
    let limit = query.limit.saturating_sub(tx.untaken_on_accept(query));
    let mut round = Round { query, limit, transport, put_off, taken: DueBatch::default(), shared: None };
    round.scan(tx, DueRows::Timed)?;
    round.scan(tx, DueRows::Fresh)?;
    let next_due = next_due(tx, &round.transport)?;
    let claimed_on_accept = tx.open_on_accept(query, next_due, limit - round.taken.claimed.len(), round.put_off);
    Ok(DueBatch { next_due, claimed_on_accept, ..round.taken })
}

/// The earliest time at which something that goes by this transport is due; 0 when it is due already.
fn next_due(tx: &ReadTx<'_>, transport: &str) -> rusqlite::Result<Option<u64>> {
    if tx.exists(ANY_FRESH, [transport])? {
        return Ok(Some(0));
    }
    Ok(any_put_off(tx, transport)?.filter(|&due| due != PARKED).map(from_sql))
}

pub(in crate::store) fn record(tx: &mut Tx<'_>, sid: Sid, event: &Event, at: u64) -> rusqlite::Result<Recorded> {
    Delivery::by_sid(tx, sid)?.map_or(Ok(Recorded::Unknown), |delivery| delivery.record(tx, event, at))
}

/// Apps on devices say that they have these messages, which counts where nobody else can say it; or readers of the inbox of
/// `name`, that they have what lay there.
pub(in crate::store) fn confirm(
    tx: &mut Tx<'_>,
    name: &Owner,
    sids: &[Sid],
    at: u64,
) -> rusqlite::Result<Vec<(Sid, Recorded)>> {
    let mut recorded = Vec::new();
    for sid in sids {
        let confirmed = match Delivery::by_sid(tx, *sid)? {
            Some(delivery) => vec![delivery],
            None => in_inbox_of(tx, name, *sid)?,
        };
        for delivery in confirmed.into_iter().filter(|delivery| delivery.is_confirmed_by(name)) {
            if !device::may_confirm(tx, delivery.recipient(), name)? {
                continue;
            }
            recorded.push((delivery.request.sid, delivery.record(tx, &Event::RECEIPT, at)?));
        }
    }
    Ok(recorded)
}

/// What a message with several deliveries has put into the inbox of `name`. All its recipients read the same, so the id of
/// the message is the only one that they know.
fn in_inbox_of(tx: &ReadTx<'_>, name: &Owner, message: Sid) -> rusqlite::Result<Vec<Delivery>> {
    let (row, tail) = message.parts();
    let parts = tx.all(IN_INBOXES, params![row, tail], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    let own = parts.into_iter().filter(|(_, topic)| is_inbox_of(topic, name));
    own.filter_map(|(row, _)| Delivery::by_row(tx, row).transpose()).collect()
}

fn any_put_off(tx: &ReadTx<'_>, transport: &str) -> rusqlite::Result<Option<i64>> {
    tx.one(ANY_PUT_OFF, [transport], |row| row.get(0))
}

/// What was refused and waits for a time is due now, a chunk of it. Returns how many.
pub(in crate::store) fn flush(tx: &mut Tx<'_>, transport: &Transport) -> rusqlite::Result<u64> {
    let flushed = tx.execute(FLUSH, params![transport.to_string(), PARKED, FLUSH_CHUNK])?;
    if flushed > 0 {
        tx.now_due();
    }
    Ok(flushed as u64)
}

/// A row that is due, before it is claimed, and the message that it is one of several deliveries of: then what it says is
/// still to be read.
fn read(row: &Row<'_>) -> rusqlite::Result<(Claimed, Option<id::Row>)> {
    let message: Option<id::Row> = row.get(11)?;
    let kept = row.get::<_, Vec<u8>>(10)?.into();
    let (body, address) = if message.is_none() { (kept, None) } else { (Bytes::new(), Some(kept)) };
    let claimed = Claimed {
        sid: sid(row, 0, 1)?,
        recipient: row.get(2)?,
        accepted_at: from_sql(row.get(3)?),
        deadline_ms: from_sql(row.get(4)?),
        life: Life {
            state: State::Due,
            attempt: row.get(5)?,
            dup_possible: row.get(6)?,
            receipt: row.get(7)?,
            retry_history: RetryHistory { waited_ms: from_sql(row.get(8)?), unknown: row.get(9)? },
        },
        body,
        address,
    };
    Ok((claimed, message))
}

/// Where a message that is due comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DueRows {
    /// It was put off.
    Timed,
    /// It was never put off.
    Fresh,
}

/// One call of [`take_due`].
struct Round<'a> {
    query: &'a DueQuery,
    /// Room for so many.
    limit: usize,
    transport: String,
    /// Whether any message may be put off; if not, there is no need to look for older ones.
    put_off: bool,
    taken: DueBatch,
    /// What the last message with several deliveries says: they often come one after the other.
    shared: Option<(id::Row, Bytes)>,
}

impl Round<'_> {
    /// Looks at what is due. Every row leaves the range of the scan: claimed, expired, or parked.
    fn scan(&mut self, tx: &mut Tx<'_>, queue: DueRows) -> rusqlite::Result<()> {
        let mut scanned = 0;
        while let Some(room) = self.room(scanned) {
            let rows = match queue {
                DueRows::Timed => tx.all(TIMED, params![sql_ms(self.query.now), room, self.transport], read)?,
                DueRows::Fresh => tx.all(FRESH, params![room, self.transport], read)?,
            };
            if rows.is_empty() {
                break;
            }
            let overdue: Vec<_> =
                rows.iter().filter(|(row, _)| row.deadline_ms <= self.query.now).map(|(row, _)| row.sid).collect();
            if overdue.is_empty() {
                scanned += rows.len();
                for (row, message) in rows {
                    self.handle(tx, row, message, queue)?;
                }
            } else {
                // First of all, and then the rows anew: the end of one may make another one due that is older.
                scanned += overdue.len();
                self.expire(tx, &overdue)?;
            }
        }
        Ok(())
    }

    fn expire(&mut self, tx: &mut Tx<'_>, overdue: &[Sid]) -> rusqlite::Result<()> {
        self.put_off = true;
        for sid in overdue {
            if let Some(mut delivery) = Delivery::by_sid(tx, *sid)? {
                self.taken.expired += u64::from(delivery.expire(tx, self.query.now)?);
            }
        }
        Ok(())
    }

    /// How many rows to look at next; `None` when this scan has done enough.
    fn room(&self, scanned: usize) -> Option<i64> {
        let room = (self.limit - self.taken.claimed.len()).min(SCAN_MAX.saturating_sub(scanned));
        i64::try_from(room).ok().filter(|&room| room > 0)
    }

    fn handle(
        &mut self,
        tx: &mut Tx<'_>,
        row: Claimed,
        message: Option<id::Row>,
        from: DueRows,
    ) -> rusqlite::Result<()> {
        let DueQuery { transport, pipelining, .. } = self.query;
        let queue = RecipientQueue { recipient: row.recipient, transport: transport.clone() };
        if let Some(behind) = queue.behind(tx, row.sid.row(), *pipelining, self.put_off)? {
            queue.park(tx, row.sid.row(), behind)?;
            self.put_off = true;
            return Ok(());
        }
        let row = match message {
            Some(message) => Claimed { body: self.body_of(tx, message)?, ..row },
            None => row,
        };
        self.claim(tx, &queue, row)?;
        if from == DueRows::Timed {
            queue.advance(tx)?;
        }
        Ok(())
    }

    fn body_of(&mut self, tx: &ReadTx<'_>, message: id::Row) -> rusqlite::Result<Bytes> {
        if let Some((_, body)) = self.shared.as_ref().filter(|(row, _)| *row == message) {
            return Ok(body.clone());
        }
        let body =
            tx.one(BODY, [message], |row| row.get::<_, Vec<u8>>(0))?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let (_, body) = self.shared.insert((message, body.into()));
        Ok(body.clone())
    }

    fn claim(&mut self, tx: &mut Tx<'_>, queue: &RecipientQueue, row: Claimed) -> rusqlite::Result<()> {
        let Some(step) = row.life.step(&Event::Claimed) else { return Ok(()) };
        let Life { state, attempt, .. } = step.life;
        tx.execute(CLAIM, params![row.sid.row(), state.code(), attempt, sql_ms(self.query.now)])?;
        queue.claimed(tx, row.sid.row(), attempt > 1, self.query.pipelining);
        self.taken.claimed.push(Claimed { life: step.life, ..row });
        Ok(())
    }
}

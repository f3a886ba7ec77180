//! Taking a message of a BAL: remembered and answered `accepted` in one transaction.

use super::column::sql_ms;
use super::delivery::Delivery;
use super::outbox::{self, Document};
use super::tx::Tx;
use crate::chat::delivery::{Life, State};
use crate::chat::status::{Status, StatusDocument};
use crate::store::{Accepted, NewDelivery, Origin};
use rusqlite::params;

pub(super) const UNSETTLED: &str =
    "SELECT 1 FROM deliveries WHERE bal = ?1 AND order_key = ?2 AND final_at IS NULL LIMIT 1";
const INSERT: &str = "INSERT INTO deliveries (row, tail, bal, id, recipient, order_key, state, deadline, look_at,
    accepted_at, attempt, dup_possible, receipt, told_seq, reply, corr, body, way)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, 0, 0, ?10, ?11, ?12, ?13, ?14, ?15)
    ON CONFLICT (id, bal) DO NOTHING";

pub(in crate::store) fn accept(tx: &mut Tx<'_>, new: &NewDelivery) -> rusqlite::Result<Accepted> {
    let bytes = new.body.len() as u64;
    if tx.queue_is_full(bytes) {
        return Ok(repeat(tx, new)?.map_or(Accepted::Full, Accepted::Repeated));
    }
    let state = if is_behind(tx, new)? { State::Waiting } else { State::Due };
    if insert(tx, new, state)? == 0 {
        return repeat(tx, new)?.map(Accepted::Repeated).ok_or(rusqlite::Error::QueryReturnedNoRows);
    }
    let (origin, at, correlation) = (Origin::Status(new.sid), new.accepted_at, new.correlation.as_deref());
    let life = Life::new(state, new.receipt);
    let document = StatusDocument::new(new.id.as_str(), Status::Accepted, at, life, &new.transport);
    let payload = document.notice(new.notice.as_deref()).correlation(correlation).to_bytes();
    outbox::queue(tx, &Document { topic: &new.reply, origin, at, correlation, payload: &payload })?;
    tx.draft.figures.queue_rows += 1;
    tx.draft.figures.queue_bytes += bytes;
    tx.draft.due |= state == State::Due;
    Ok(Accepted::Stored)
}

fn repeat(tx: &mut Tx<'_>, new: &NewDelivery) -> rusqlite::Result<Option<Status>> {
    let Some(known) = Delivery::by_id(tx, new.bal.as_str(), new.id.as_str())? else { return Ok(None) };
    known.repeat(tx, new).map(Some)
}

fn is_behind(tx: &Tx<'_>, new: &NewDelivery) -> rusqlite::Result<bool> {
    new.order.as_ref().map_or(Ok(false), |key| tx.exists(UNSETTLED, [new.bal.as_str(), key]))
}

fn insert(tx: &Tx<'_>, new: &NewDelivery, state: State) -> rusqlite::Result<usize> {
    let (row, tail) = new.sid.parts();
    tx.execute(
        INSERT,
        params![
            row,
            tail,
            new.bal.as_str(),
            new.id.as_str(),
            new.recipient,
            new.order,
            state.code(),
            sql_ms(new.deadline_ms),
            sql_ms(new.accepted_at),
            new.receipt,
            // The number that the status `accepted` gets next; a repeat takes none.
            tx.draft.numbers.next,
            new.reply,
            new.correlation.as_deref(),
            &*new.body,
            new.transport.to_string(),
        ],
    )
}

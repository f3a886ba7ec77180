//! What a BAL gets of a group that it is in: in its inbox, as it gets messages of users, and held until it has acknowledged them.
//!
//! A group does not wait for a BAL that takes nothing. Where the spool has no room, the copy is made when there is some again,
//! and what comes later for the same BAL waits behind it.

use super::message::hidden_text;
use super::{is_hidden_from, position};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::topic::{BridgeTopic, Side};
use crate::store::sqlite::chat::message::{document_of, for_bal};
use crate::store::sqlite::chat::position::BY_ROW;
use crate::store::sqlite::chat::{Call, ChatRow, owner};
use crate::store::sqlite::outbox::{self, Document};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{Acks, ChatPolicy};
use rusqlite::params;

/// Copies that are made at one time when there is room again.
const CHUNK: usize = 250;

const INSERT: &str = "INSERT INTO bal_copies (bal, row, tail, seq) VALUES (?1, ?2, ?3, ?4)";
pub(in crate::store::sqlite) const WAITS: &str =
    "SELECT 1 FROM bal_copies INDEXED BY bal_copies_waits WHERE bal = ?1 AND seq IS NULL LIMIT 1";
pub(in crate::store::sqlite) const WAITING: &str =
    "SELECT bal, row FROM bal_copies INDEXED BY bal_copies_waits WHERE seq IS NULL ORDER BY bal, row LIMIT ?1";
const MADE: &str = "UPDATE bal_copies SET seq = ?3 WHERE bal = ?1 AND row = ?2";
const FORGET: &str = "DELETE FROM bal_copies WHERE bal = ?1 AND row = ?2";
const PLACE: &str = "SELECT seq FROM bal_copies WHERE bal = ?1 AND row = ?2 AND tail = ?3";
const PUBLISHED: &str = "UPDATE bal_copies SET published = 1 WHERE bal = ?1 AND row = ?2 AND published = 0";
pub(in crate::store::sqlite) const OF_MESSAGE: &str = "SELECT bal, seq FROM bal_copies WHERE row = ?1";

/// Gives a BAL a copy of what was written or done in a group; `kept` is its document. `is_blocked`: the BAL has blocked the writer.
pub(super) fn give(
    tx: &mut Tx<'_>,
    (row, kept): (&ChatRow, &[u8]),
    (bal, is_blocked): (&Owner, bool),
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    let payload = payload(row, kept, is_blocked);
    let waits = tx.spool_is_full(payload.len() as u64) || tx.exists(WAITS, [bal.as_str()])?;
    let seq = if waits { None } else { Some(queue(tx, (row.sid, bal), &payload, call)?) };
    let (number, tail) = row.sid.parts();
    tx.execute(INSERT, params![bal.as_str(), number, tail, seq]).map(drop)
}

fn payload(row: &ChatRow, kept: &[u8], is_blocked: bool) -> Vec<u8> {
    if is_blocked { for_bal(&ChatRow { dev: None, ..row.clone() }, &hidden_text(row)) } else { for_bal(row, kept) }
}

fn queue(tx: &mut Tx<'_>, (sid, bal): (Sid, &Owner), payload: &[u8], call: &Call<'_>) -> rusqlite::Result<i64> {
    let topic = topic(bal);
    let origin = acks(call.policy, bal).origin(sid);
    let document = Document { topic: &topic, origin, at: call.at, correlation: None, payload };
    let seq = outbox::queue(tx, &document)?;
    tx.memory_draft.figures.spool_rows += 1;
    tx.memory_draft.figures.spool_bytes += payload.len() as u64;
    Ok(seq)
}

fn topic(bal: &Owner) -> String {
    BridgeTopic::Messages(bal.clone()).to_string()
}

fn acks(policy: &ChatPolicy, bal: &Owner) -> Acks {
    if policy.explicit.contains(bal) { Acks::Explicit } else { Acks::OnPublish }
}

/// Makes copies that waited for room, as far as there is some. Whether there may be more to do at once.
pub(in crate::store::sqlite::chat) fn make_waiting(tx: &mut Tx<'_>, call: &Call<'_>) -> rusqlite::Result<bool> {
    let waiting = tx.all(WAITING, [CHUNK as i64], |row| Ok((owner(row, 0)?, row.get::<_, Row>(1)?)))?;
    for (bal, number) in &waiting {
        // What was dropped meanwhile, because it is not kept as long, is dropped for the BAL as well.
        let Some(row) = tx.one(BY_ROW, [number], ChatRow::read)? else {
            tx.execute(FORGET, params![bal.as_str(), number])?;
            continue;
        };
        let kept = document_of(tx, &row, &row.peer)?;
        let payload = payload(&row, &kept, is_hidden_from(tx, &row.writer, bal)?);
        if tx.spool_is_full(payload.len() as u64) {
            return Ok(false);
        }
        let seq = queue(tx, (row.sid, bal), &payload, call)?;
        tx.execute(MADE, params![bal.as_str(), number, seq])?;
    }
    Ok(waiting.len() == CHUNK)
}

/// The topic and the number of the document, if the BAL has one of this message.
pub(in crate::store::sqlite) fn place(tx: &ReadTx<'_>, sid: Sid, bal: &str) -> rusqlite::Result<Option<(String, i64)>> {
    let (row, tail) = sid.parts();
    let seq = tx.one(PLACE, params![bal, row, tail], |row| row.get::<_, Option<i64>>(0))?.flatten();
    Ok(seq.zip(Owner::new(bal).ok()).map(|(seq, bal)| (topic(&bal), seq)))
}

/// It was published, and the acknowledgement of its BAL is still to come. Returns whether it is the first time.
pub(in crate::store::sqlite) fn published(tx: &Tx<'_>, row: Row, topic: &str) -> rusqlite::Result<bool> {
    Ok(tx.execute(PUBLISHED, params![bal_of(topic), row])? > 0)
}

/// The BAL has it: as with any other member, those who wrote it may be told.
pub(in crate::store::sqlite) fn taken(tx: &mut Tx<'_>, row: Row, topic: &str, at: u64) -> rusqlite::Result<()> {
    if !forget(tx, row, topic)? {
        return Ok(());
    }
    let Some(message) = tx.one(BY_ROW, [row], ChatRow::read)? else { return Ok(()) };
    let Ok(bal) = Owner::new(bal_of(topic)) else { return Ok(()) };
    position::received(tx, &bal, &message, (false, at))
}

/// The document on this topic is gone; whether it was a copy of a message to a group.
pub(in crate::store::sqlite) fn forget(tx: &Tx<'_>, row: Row, topic: &str) -> rusqlite::Result<bool> {
    Ok(tx.execute(FORGET, params![bal_of(topic), row])? > 0)
}

fn bal_of(topic: &str) -> &str {
    if let Side::Inbox { owner, .. } = Side::of(topic) { owner } else { "" }
}

/// The time of a message is over: no BAL gets it any more.
pub(in crate::store::sqlite) fn expired(tx: &mut Tx<'_>, row: Row) -> rusqlite::Result<()> {
    let copies = tx.all(OF_MESSAGE, [row], |row| Ok((owner(row, 0)?, row.get::<_, Option<i64>>(1)?)))?;
    for (bal, seq) in copies {
        if let Some(seq) = seq
            && let Some(bytes) = outbox::remove(tx, &topic(&bal), seq)?
        {
            tx.memory_draft.figures.unspool(bytes);
        }
        tx.execute(FORGET, params![bal.as_str(), row])?;
    }
    Ok(())
}

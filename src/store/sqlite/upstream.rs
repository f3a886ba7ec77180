//! Upstream messages, from devices: recognised when the push service repeats them.

use super::chat::{group::bal_copy, position};
use super::column::{from_sql, sid, sql_ms};
use super::erase;
use super::outbox::{self, Document, NO_TOPIC};
use super::tx::{HistoryEntry, ReadTx, Tx};
use crate::chat::id::{Row, Sid, Token};
use crate::store::{Acks, Received, Route, Unrouted, Upstream};
use rusqlite::params;
use sha2::{Digest, Sha256};

/// Messages dropped by one acknowledgement "up to", per transaction.
const ACK_CHUNK: i64 = 500;
/// Bytes of SHA-256 that recognise a message. At a million remembered ones, 128 bits make a false repeat one in 10^26.
const KEY_BYTES: usize = 16;

const KNOWN: &str = "SELECT 1 FROM inbox WHERE key = ?1";
const INSERT: &str = "INSERT INTO inbox (row, tail, key, bal, category, topic, seq, received_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (key) DO NOTHING";
pub(super) const UNROUTED: &str =
    "SELECT o.seq, o.about, o.tail, i.category FROM outbox o JOIN inbox i ON i.row = o.about
    WHERE o.topic = '' AND o.seq > ?1 ORDER BY o.seq LIMIT ?2";
const UNROUTED_AT: &str = "SELECT seq FROM inbox WHERE row = ?1 AND tail = ?2 AND topic = ''";
const MOVE: &str = "UPDATE outbox SET topic = ?2, seq = ?3, kind = ?4 WHERE topic = '' AND seq = ?1";
const ROUTED: &str = "UPDATE inbox SET bal = ?2, topic = ?3, seq = ?4 WHERE row = ?1";
const PUBLISHED: &str = "UPDATE inbox SET published_at = ?2 WHERE row = ?1 AND published_at IS NULL";
const DONE: &str = "UPDATE inbox SET published_at = coalesce(published_at, ?2), final_at = ?2 WHERE row = ?1";
const PLACE: &str = "SELECT topic, seq FROM inbox WHERE row = ?1 AND tail = ?2 AND bal = ?3";
const WAITS: &str = "SELECT topic, seq FROM inbox WHERE row = ?1 AND final_at IS NULL";
/// `kind = 2` is `Origin::UpstreamToAck`.
pub(super) const UNACKED: &str =
    "SELECT about, seq FROM outbox WHERE topic = ?1 AND seq <= ?2 AND kind = 2 ORDER BY seq LIMIT ?3";

pub(in crate::store) fn receive(tx: &mut Tx<'_>, message: &Upstream) -> rusqlite::Result<Received> {
    let key = key(&message.token, &message.message_id);
    let bytes = message.payload.len() as u64;
    if tx.spool_is_full(bytes) {
        return Ok(if tx.exists(KNOWN, [key])? { Received::Duplicate } else { Received::Full });
    }
    let (row, tail) = message.sid.parts();
    let topic = message.route.as_ref().map_or(NO_TOPIC, |route| &route.topic);
    let bal = message.route.as_ref().map(|route| route.bal.as_str());
    // The number that the document gets below; a repeat takes none.
    let seq = tx.memory_draft.numbers.next;
    let params = params![row, tail, key, bal, message.category, topic, seq, sql_ms(message.at)];
    if tx.execute(INSERT, params)? == 0 {
        return Ok(Received::Duplicate);
    }
    let acks = message.route.as_ref().map_or(Acks::OnPublish, |route| route.acks);
    let (origin, at) = (acks.origin(message.sid), message.at);
    outbox::queue(tx, &Document { topic, origin, at, correlation: None, payload: &message.payload })?;
    tx.memory_draft.figures.spool_rows += 1;
    tx.memory_draft.figures.spool_bytes += bytes;
    Ok(Received::Stored)
}

/// A message of a user to a BAL, which is recognised in `chat`: here it is new.
pub(super) fn receive_of_user(
    tx: &mut Tx<'_>,
    sid: Sid,
    route: &Route,
    payload: &[u8],
    at: u64,
) -> rusqlite::Result<()> {
    let (row, tail) = sid.parts();
    let digest = Sha256::new().chain_update("user").chain_update([0]).chain_update(sid.to_string()).finalize();
    let (topic, seq) = (&*route.topic, tx.memory_draft.numbers.next);
    let params = params![row, tail, &digest[..KEY_BYTES], route.bal.as_str(), None::<&str>, topic, seq, sql_ms(at)];
    tx.execute(INSERT, params)?;
    outbox::queue(tx, &Document { topic, origin: route.acks.origin(sid), at, correlation: None, payload })?;
    tx.memory_draft.figures.spool_rows += 1;
    tx.memory_draft.figures.spool_bytes += payload.len() as u64;
    Ok(())
}

/// The next messages without a route, oldest first.
pub(in crate::store) fn unrouted(tx: &ReadTx<'_>, after_seq: u64, limit: usize) -> rusqlite::Result<Vec<Unrouted>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.all(UNROUTED, params![sql_ms(after_seq), limit], |row| {
        Ok(Unrouted { seq: from_sql(row.get(0)?), sid: sid(row, 1, 2)?, category: row.get(3)? })
    })
}

/// Moves messages without a route to the end of their topics, in this order.
pub(in crate::store) fn give_routes(tx: &mut Tx<'_>, routes: &[(Sid, Route)]) -> rusqlite::Result<u64> {
    let mut routed = 0;
    for (sid, route) in routes {
        let (row, tail) = sid.parts();
        let Some(seq) = tx.one(UNROUTED_AT, params![row, tail], |row| row.get::<_, i64>(0))? else { continue };
        let new_seq = tx.next_seq()?;
        let kind = route.acks.origin(*sid).code();
        tx.execute(MOVE, params![seq, route.topic, new_seq, kind])?;
        tx.execute(ROUTED, params![row, route.bal.as_str(), route.topic, new_seq])?;
        outbox::moved(tx, &route.topic, new_seq)?;
        routed += 1;
    }
    Ok(routed)
}

/// The BAL has them. Ids of others, or of messages that are done, mean nothing.
pub(in crate::store) fn acked(tx: &mut Tx<'_>, bal: &str, sids: &[Sid], at: u64) -> rusqlite::Result<()> {
    for sid in sids {
        if let Some((topic, seq)) = place(tx, *sid, bal)? {
            done(tx, sid.row(), &topic, seq, at)?;
        }
    }
    Ok(())
}

/// The BAL has this one and all before it, of which this is a chunk. Whether there may be more.
pub(in crate::store) fn acked_up_to(tx: &mut Tx<'_>, bal: &str, last: Sid, at: u64) -> rusqlite::Result<bool> {
    let Some((topic, last)) = place(tx, last, bal)? else { return Ok(false) };
    let unacked: Vec<(Row, i64)> =
        tx.all(UNACKED, params![topic, last, ACK_CHUNK], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for &(row, seq) in &unacked {
        done(tx, row, &topic, seq, at)?;
    }
    Ok(unacked.len() as i64 == ACK_CHUNK)
}

fn place(tx: &ReadTx<'_>, sid: Sid, bal: &str) -> rusqlite::Result<Option<(String, i64)>> {
    let (row, tail) = sid.parts();
    let of_two = tx.one(PLACE, params![row, tail, bal], |row| Ok((row.get(0)?, row.get(1)?)))?;
    of_two.map_or_else(|| bal_copy::place(tx, sid, bal), |place| Ok(Some(place)))
}

/// It was published; its BAL's acknowledgement is still to come. Returns whether it is the first time.
pub(super) fn published(tx: &Tx<'_>, row: Row, topic: &str, at: u64) -> rusqlite::Result<bool> {
    Ok(tx.execute(PUBLISHED, params![row, sql_ms(at)])? > 0 || bal_copy::published(tx, row, topic)?)
}

/// The BAL has it: removes it from the spool and keeps its key. False if that was done before.
pub(super) fn done(tx: &mut Tx<'_>, row: Row, topic: &str, seq: i64, at: u64) -> rusqlite::Result<bool> {
    erase::told(tx, topic, seq)?;
    let Some(bytes) = outbox::remove(tx, topic, seq)? else { return Ok(false) };
    tx.memory_draft.figures.unspool(bytes);
    if tx.execute(DONE, params![row, sql_ms(at)])? == 0 {
        bal_copy::taken(tx, row, topic, at)?;
        return Ok(true);
    }
    tx.memory_draft.upstream.add(HistoryEntry { at, row });
    // Where it is a user's message, that user is told.
    position::taken_by_bal(tx, row, at)?;
    Ok(true)
}

/// The time of a message is over that a user wrote to a BAL, or to a group with BALs: it leaves the spool. Nobody is told.
pub(super) fn expired(tx: &mut Tx<'_>, row: Row, at: u64) -> rusqlite::Result<()> {
    let place = tx.one(WAITS, [row], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let Some((topic, seq)) = place else { return bal_copy::expired(tx, row) };
    let Some(bytes) = outbox::remove(tx, &topic, seq)? else { return Ok(()) };
    tx.memory_draft.figures.unspool(bytes);
    tx.execute(DONE, params![row, sql_ms(at)])?;
    tx.memory_draft.upstream.add(HistoryEntry { at, row });
    Ok(())
}

/// What recognises a message: the device's id is unique only per device. The length keeps the two parts apart.
fn key(token: &Token, message_id: &str) -> [u8; KEY_BYTES] {
    let mut digest = Sha256::new();
    digest.update((token.reveal().len() as u64).to_be_bytes());
    digest.update(token.reveal());
    digest.update(message_id);
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&digest.finalize()[..KEY_BYTES]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_keeps_token_and_id_apart() {
        let token = |text: &str| Token::new(text).unwrap();
        assert_eq!(key(&token("ab"), "c"), key(&token("ab"), "c"));
        assert_ne!(key(&token("ab"), "c"), key(&token("a"), "bc"));
        assert_ne!(key(&token("ab"), "c"), key(&token("ab"), "d"));
    }
}

//! Documents that wait: for the person, and for others about the person.

use super::{Work, page};
use crate::chat::erasure::Fate;
use crate::chat::id::Row;
use crate::store::sqlite::chat::group::bal_copy;
use crate::store::sqlite::outbox;
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// Documents that one call removes.
const CHUNK: i64 = 250;
/// Documents that one call looks at.
const LOOKED_AT: i64 = 500;

pub(in crate::store::sqlite) const OWN: &str =
    "SELECT topic, seq, kind, about FROM outbox WHERE topic > ?1 AND topic < ?2 ORDER BY topic, seq LIMIT ?3";
const CLAIMS: &str = "DELETE FROM claims WHERE topic > ?1 AND topic < ?2";
pub(in crate::store::sqlite) const ALL: &str =
    "SELECT topic, seq, kind, about, payload FROM outbox WHERE (topic, seq) > (?1, ?2) ORDER BY topic, seq LIMIT ?3";
const REPLACE: &str = "UPDATE outbox SET payload = ?3 WHERE topic = ?1 AND seq = ?2";
pub(super) const PAYLOAD: &str = "SELECT payload FROM outbox WHERE topic = ?1 AND seq = ?2";
const FORGET_UPSTREAM: &str = "DELETE FROM inbox WHERE row = ?1";
/// [`crate::store::Origin`]: messages to BALs, which count in the spool and are remembered.
const UPSTREAM: [i64; 2] = [1, 2];

/// A document, without what it says.
struct Place {
    topic: String,
    seq: i64,
    kind: i64,
    about: Row,
}

impl Place {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { topic: row.get(0)?, seq: row.get(1)?, kind: row.get(2)?, about: row.get(3)? })
    }

    /// It says something else from now on: this in the place of so many bytes.
    fn replace(&self, tx: &mut Tx<'_>, payload: &[u8], before: usize) -> rusqlite::Result<()> {
        tx.execute(REPLACE, params![self.topic, self.seq, payload])?;
        if UPSTREAM.contains(&self.kind) {
            let bytes = &mut tx.memory_draft.figures.spool_bytes;
            *bytes = (*bytes + payload.len() as u64).saturating_sub(before as u64);
        }
        Ok(())
    }

    fn remove(&self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        let bytes = outbox::remove(tx, &self.topic, self.seq)?;
        if UPSTREAM.contains(&self.kind) {
            tx.memory_draft.figures.unspool(bytes.unwrap_or_default());
            if !bal_copy::forget(tx, self.about, &self.topic)? {
                tx.execute(FORGET_UPSTREAM, [self.about])?;
            }
        }
        Ok(())
    }
}

/// Everything below the person's name.
pub(super) fn own_topics(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let (first, last) = work.topics();
    let found = tx.all(OWN, params![first, last, CHUNK], Place::read)?;
    for place in &found {
        place.remove(tx)?;
    }
    work.removed("documents", found.len());
    tx.execute(CLAIMS, params![first, last])?;
    Ok(!found.is_empty())
}

/// All documents once: those that the person wrote go, and those that name the person get the other name.
pub(super) fn all(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let (topic, seq) = work.after.rsplit_once(' ').unwrap_or(("", "0"));
    let seq: i64 = seq.parse().unwrap_or(0);
    let erased = work.erased();
    let (page, is_full) = page(tx, ALL, params![topic, seq, LOOKED_AT], |row| {
        let (place, payload) = (Place::read(row)?, row.get_ref(4)?.as_blob()?);
        let fate = erased.fate_of(&place.topic, payload);
        Ok(((place, fate, payload.len()), payload.len()))
    })?;
    for (place, fate, length) in &page {
        match fate {
            Fate::Stays => {}
            Fate::Goes => {
                place.remove(tx)?;
                work.removed("documents", 1);
            }
            Fate::Becomes(payload) => {
                place.replace(tx, payload, *length)?;
                work.kept("documents of others that name the person", 1);
            }
        }
    }
    if let Some((last, ..)) = page.last().filter(|_| is_full) {
        work.after = format!("{} {}", last.topic, last.seq);
    }
    Ok(is_full)
}

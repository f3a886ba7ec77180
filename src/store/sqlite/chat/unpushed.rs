//! Messages of which a push waits for room in the queue: remembered until it is decided about them once more, however long that
//! takes.

use super::{owner, push};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::Undecided;
use crate::store::sqlite::column::sid;
use crate::store::sqlite::tx::Tx;

const NOTE: &str = "INSERT INTO unpushed (row) VALUES (?1) ON CONFLICT DO NOTHING";
const FORGET: &str = "DELETE FROM unpushed WHERE row = ?1";
/// What is not in `chat` any more has no reader.
pub(in crate::store::sqlite) const OLDEST: &str = "SELECT unpushed.row, chat.peer, chat.row, chat.tail
    FROM unpushed LEFT JOIN chat ON chat.row = unpushed.row ORDER BY unpushed.row LIMIT ?1";

/// Whether a push of the message waits for room.
pub(super) fn note(tx: &mut Tx<'_>, row: Row, waits: bool) -> rusqlite::Result<()> {
    let waiting = tx.memory_draft.figures.chat_unpushed;
    if waits {
        tx.memory_draft.figures.chat_unpushed += tx.execute(NOTE, [row])? as u64;
    } else if waiting > 0 {
        tx.memory_draft.figures.chat_unpushed = waiting.saturating_sub(tx.execute(FORGET, [row])? as u64);
    }
    Ok(())
}

/// The oldest `limit` messages of which pushes wait for room.
pub(in crate::store) fn oldest(tx: &mut Tx<'_>, limit: usize) -> rusqlite::Result<Vec<Undecided>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = tx.all(OLDEST, [limit], |row| {
        let is_kept = row.get::<_, Option<Row>>(2)?.is_some();
        let message = if is_kept { Some((owner(row, 1)?, sid(row, 2, 3)?)) } else { None };
        Ok((row.get::<_, Row>(0)?, message))
    })?;
    let mut kept: Vec<(Owner, Sid)> = Vec::with_capacity(found.len());
    for (row, message) in found {
        match message {
            Some(message) => kept.push(message),
            None => note(tx, row, false)?,
        }
    }
    kept.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()).then(one.1.cmp(&other.1)));
    Ok(push::by_user(kept))
}

//! Messages of which a push waits for room in the queue: remembered until it is decided about them once more, however long that
//! takes.

use super::calls::ringing;
use super::position::BY_ROW;
use super::{ChatRow, group, push};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::Undecided;
use crate::store::sqlite::tx::Tx;

const NOTE: &str = "INSERT INTO unpushed (row) VALUES (?1) ON CONFLICT DO NOTHING";
const FORGET: &str = "DELETE FROM unpushed WHERE row = ?1";
/// What is neither in `chat` nor rings has no reader.
pub(in crate::store::sqlite) const OLDEST: &str = "SELECT row FROM unpushed ORDER BY row LIMIT ?1";

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
    let mut kept: Vec<(Owner, Sid)> = Vec::new();
    for row in tx.all(OLDEST, [limit], |row| row.get::<_, Row>(0))? {
        if let Some(offer) = ringing::without_room(tx, row)? {
            kept.push(offer);
            continue;
        }
        let message = tx.one(BY_ROW, [row], ChatRow::read)?;
        let readers = match &message {
            Some(message) if message.peer.is_group() => group::push::without_room(tx, message)?,
            Some(message) => vec![message.peer.clone()],
            None => Vec::new(),
        };
        if readers.is_empty() {
            note(tx, row, false)?;
        }
        let sid = message.map(|message| message.sid);
        kept.extend(readers.into_iter().filter_map(|user| Some((user, sid?))));
    }
    kept.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()).then(one.1.cmp(&other.1)));
    Ok(push::by_user(kept))
}

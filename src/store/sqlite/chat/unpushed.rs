//! Messages of which a push waits for room in the queue: remembered until it is decided about them once more, however long that
//! takes. Of a message to a group it is known whose pushes do.

use super::calls::ringing;
use super::notified::Seen;
use super::position::BY_ROW;
use super::{ChatRow, owner, push};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::Undecided;
use crate::store::sqlite::tx::Tx;
use rusqlite::{Connection, params};

const NOTE: &str = "INSERT INTO unpushed (row) VALUES (?1) ON CONFLICT DO NOTHING";
const FORGET: &str = "DELETE FROM unpushed WHERE row = ?1";
const NOTE_MEMBER: &str = "INSERT INTO unpushed_members (user, peer, row) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
pub(in crate::store::sqlite) const FORGET_MEMBER: &str =
    "DELETE FROM unpushed_members WHERE user = ?1 AND peer = ?2 AND row <= ?3 AND row >= ?4";
pub(in crate::store::sqlite) const FORGET_MEMBERS: &str = "DELETE FROM unpushed_members WHERE row = ?1";
pub(in crate::store::sqlite) const MEMBERS: &str =
    "SELECT user FROM unpushed_members WHERE row = ?1 ORDER BY user LIMIT ?2";
const WAITS: &str = "SELECT 1 FROM unpushed_members WHERE user = ?1 AND peer = ?2 AND row = ?3";
/// What is neither in `chat` nor rings has no reader.
pub(in crate::store::sqlite) const OLDEST: &str = "SELECT row FROM unpushed ORDER BY row LIMIT ?1";

/// Whether a push of the message waits for room.
pub(super) fn note(tx: &mut Tx<'_>, row: Row, waits: bool) -> rusqlite::Result<()> {
    let waiting = tx.memory_draft.figures.chat_unpushed;
    if waits {
        tx.memory_draft.figures.chat_unpushed += tx.execute(NOTE, [row])? as u64;
    } else if waiting > 0 {
        let forgotten = tx.execute(FORGET, [row])? as u64;
        tx.memory_draft.figures.chat_unpushed = waiting.saturating_sub(forgotten);
        if forgotten > 0 {
            tx.execute(FORGET_MEMBERS, [row])?;
        }
    }
    Ok(())
}

/// Whether the push of a message to a group waits for room at some device of a member.
pub(super) fn note_member(tx: &mut Tx<'_>, row: &ChatRow, member: &Owner, waits: bool) -> rusqlite::Result<()> {
    if !waits {
        return forget_seen(tx, &Seen { user: member, peer: &row.peer, sid: row.sid, up_to: false });
    }
    note(tx, row.sid.row(), true)?;
    tx.execute(NOTE_MEMBER, params![member.as_str(), row.peer.as_str(), row.sid.row()]).map(drop)
}

/// A member needs no push any more of what it has seen of a group.
pub(super) fn forget_seen(tx: &Tx<'_>, seen: &Seen<'_>) -> rusqlite::Result<()> {
    if tx.memory_draft.figures.chat_unpushed == 0 {
        return Ok(());
    }
    let values = params![seen.user.as_str(), seen.peer.as_str(), seen.sid.row(), seen.first()];
    tx.execute(FORGET_MEMBER, values).map(drop)
}

/// Whether a push of a message to a group waits for room at some device of this member.
pub(super) fn waits_for(conn: &Connection, row: &ChatRow, member: &Owner) -> rusqlite::Result<bool> {
    conn.prepare_cached(WAITS)?.exists(params![member.as_str(), row.peer.as_str(), row.sid.row()])
}

/// The oldest messages of which pushes wait for room; one to a group counts for each member who is named, and all together are
/// `limit` at most.
pub(in crate::store) fn oldest(tx: &mut Tx<'_>, limit: usize) -> rusqlite::Result<Vec<Undecided>> {
    let mut kept: Vec<(Owner, Sid)> = Vec::new();
    for row in tx.all(OLDEST, [limit as i64], |row| row.get::<_, Row>(0))? {
        let left = limit.saturating_sub(kept.len());
        if left == 0 {
            break;
        }
        if let Some(offer) = ringing::without_room(tx, row)? {
            kept.push(offer);
            continue;
        }
        let message = tx.one(BY_ROW, [row], ChatRow::read)?;
        let readers = match &message {
            Some(message) if message.peer.is_group() => {
                tx.all(MEMBERS, params![row, left as i64], |row| owner(row, 0))?
            }
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

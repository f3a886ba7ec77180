//! What the person wrote, and what others wrote to the person.

use super::Work;
use crate::chat::conversation::Conversation;
use crate::chat::erasure::{quoted, renamed, tombstone};
use crate::chat::id::{Owner, Row};
use crate::store::sqlite::chat::{self, ChatRow, json};
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// Rows that one call changes.
const CHUNK: i64 = 100;
/// Rows that one call looks at.
const LOOKED_AT: i64 = 500;

pub(in crate::store::sqlite) const WRITTEN: &str = chat_rows!("WHERE writer = ?1 ORDER BY row LIMIT ?2");
pub(in crate::store::sqlite) const GOT: &str = chat_rows!("WHERE peer = ?1 AND hidden = 0 ORDER BY row LIMIT ?2");
/// The last of the rows that are looked at next; NULL: all that there are.
const LAST: &str = "SELECT row FROM chat WHERE row > ?1 ORDER BY row LIMIT 1 OFFSET ?2";
/// What was swallowed by a block, and what mentions the person in other conversations.
const IN_RANGE: &str = chat_rows!("WHERE row > ?1 AND row <= ?2 AND (peer = ?3 OR instr(document, ?4))");
const DOCUMENT: &str = "SELECT document FROM chat WHERE row = ?1";
const BURY: &str = "UPDATE chat SET writer = ?2, id = NULL, dev = NULL, waits = 0, decided = NULL, document = ?3
    WHERE row = ?1";
const READDRESS: &str = "UPDATE chat SET peer = ?2, waits = 0, decided = NULL, document = ?3 WHERE row = ?1";
const SET_DOCUMENT: &str = "UPDATE chat SET document = ?2 WHERE row = ?1";
const DROP: &str = "DELETE FROM chat WHERE row = ?1";
const UNNOTE: &str = "DELETE FROM pushed WHERE user = ?1 AND peer = ?2 AND row = ?3";
const IS_ALIAS: &str = "SELECT 1 FROM erased WHERE alias = ?1";
const CONVERSATIONS: &str = "SELECT first, second, standing FROM conversations WHERE first = ?1
    UNION ALL SELECT first, second, standing FROM conversations WHERE second = ?1 AND first <> ?1 LIMIT ?2";
const DROP_CONVERSATION: &str = "DELETE FROM conversations WHERE first = ?1 AND second = ?2";

/// Messages of the person: their places stay, for others count them. Where nobody else is, and invitations, go.
pub(super) fn own(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let rows = tx.all(WRITTEN, params![work.user, CHUNK], ChatRow::read)?;
    for row in &rows {
        tx.execute(UNNOTE, params![row.peer.as_str(), work.user, row.sid.row()])?;
        let is_seen = !row.hidden && row.n_reader.is_some() && row.peer.as_str() != work.user;
        if !is_seen || tx.exists(IS_ALIAS, [row.peer.as_str()])? {
            drop_row(tx, row.sid.row())?;
            work.removed("messages", 1);
        } else {
            let document = tombstone(&row.peer);
            resize(tx, row.sid.row(), document.len())?;
            tx.execute(BURY, params![row.sid.row(), work.erasure.alias, document])?;
            work.removed("texts of messages", 1);
        }
    }
    Ok(!rows.is_empty())
}

/// Messages to the person: they are their writers'.
pub(super) fn of_others(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let rows = tx.all(GOT, params![work.user, CHUNK], ChatRow::read)?;
    rows.iter().try_for_each(|row| readdress(tx, work, row))?;
    Ok(!rows.is_empty())
}

/// All rows once, for what no index finds.
pub(super) fn all(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let after: i64 = work.after.parse().unwrap_or(0);
    let last = tx.one(LAST, params![after, LOOKED_AT - 1], |row| row.get::<_, i64>(0))?;
    let mark = quoted(&work.user).into_bytes();
    let found = tx.all(IN_RANGE, params![after, last.unwrap_or(i64::MAX), work.user, mark], ChatRow::read)?;
    for row in &found {
        if row.peer.as_str() == work.user {
            readdress(tx, work, row)?;
        } else if let Some(document) = document(tx, row.sid.row())?.and_then(|document| without(work, &document)) {
            resize(tx, row.sid.row(), document.len())?;
            tx.execute(SET_DOCUMENT, params![row.sid.row(), document])?;
            work.kept("messages of others that mention the person", 1);
        }
    }
    work.after = last.unwrap_or(i64::MAX).to_string();
    Ok(last.is_some())
}

/// A message to the person stays with its writer; where that one was erased as well, nobody has it.
fn readdress(tx: &mut Tx<'_>, work: &mut Work, row: &ChatRow) -> rusqlite::Result<()> {
    let number = row.sid.row();
    if tx.exists(IS_ALIAS, [row.writer.as_str()])? {
        drop_row(tx, number)?;
        work.removed("messages", 1);
        return Ok(());
    }
    let Some(before) = document(tx, number)? else { return Ok(()) };
    let document = without(work, &before).unwrap_or(before);
    resize(tx, number, document.len())?;
    tx.execute(READDRESS, params![number, work.erasure.alias, document])?;
    work.kept("messages of others to the person", 1);
    Ok(())
}

fn without(work: &Work, document: &[u8]) -> Option<Vec<u8>> {
    renamed(document, &work.user, &work.erasure.alias)
}

fn document(tx: &Tx<'_>, row: Row) -> rusqlite::Result<Option<Vec<u8>>> {
    tx.one(DOCUMENT, [row], |row| row.get(0))
}

/// The document of a row is about to be so long.
fn resize(tx: &mut Tx<'_>, row: Row, bytes: usize) -> rusqlite::Result<()> {
    let before = document(tx, row)?.map_or(0, |document| document.len());
    let figures = &mut tx.memory_draft.figures;
    figures.chat_bytes = (figures.chat_bytes + bytes as u64).saturating_sub(before as u64);
    Ok(())
}

fn drop_row(tx: &mut Tx<'_>, row: Row) -> rusqlite::Result<()> {
    resize(tx, row, 0)?;
    let dropped = tx.execute(DROP, [row])?;
    let figures = &mut tx.memory_draft.figures;
    figures.chat_rows = figures.chat_rows.saturating_sub(dropped as u64);
    Ok(())
}

/// Conversations go on under the other name: whoever stays has counts and positions in them.
pub(super) fn conversations(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let found = tx.all(CONVERSATIONS, params![work.user, CHUNK], |row| {
        let pair = (chat::owner(row, 0)?, chat::owner(row, 1)?);
        Ok((pair, json::<Conversation>(row, 2)?))
    })?;
    for ((first, second), conversation) in &found {
        tx.execute(DROP_CONVERSATION, params![first.as_str(), second.as_str()])?;
        let is_first = first.as_str() == work.user;
        let other = if is_first { second } else { first };
        if other.as_str() == work.user || tx.exists(IS_ALIAS, [other.as_str()])? {
            work.removed("conversations", 1);
            continue;
        }
        let Ok(alias) = Owner::new(work.erasure.alias.as_str()) else { continue };
        // Each pair has one row, and the smaller name is its first.
        let stays = is_first == (alias.as_str() < other.as_str());
        let conversation = if stays { *conversation } else { conversation.swapped() };
        chat::save(tx, &alias, other, &conversation)?;
        work.kept("conversations of others with the person", 1);
    }
    Ok(!found.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn json_of_a_conversation_survives_its_other_order() {
        let talk = crate::chat::conversation::Conversation::default();
        assert_eq!(talk.swapped().swapped(), talk);
    }
}

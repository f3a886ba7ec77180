//! What the person wrote, and what others wrote to the person.

use super::Work;
use crate::chat::amendment::without_writer;
use crate::chat::erasure::{quoted, renamed};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::USER_DEVICES_MAX;
use crate::store::sqlite::chat::group::{forget_mentions, push::forget_member};
use crate::store::sqlite::chat::notified::{self, Seen};
use crate::store::sqlite::chat::{self, Call, ChatRow, Kind, amend, history};
use crate::store::sqlite::column::sid;
use crate::store::sqlite::tx::{ReadTx, Tx};
use rusqlite::params;

/// Rows that one call changes.
const CHUNK: i64 = 100;
/// Rows that one call looks at.
const LOOKED_AT: i64 = 500;

pub(in crate::store::sqlite) const WRITTEN: &str = chat_rows!("WHERE writer = ?1 ORDER BY row LIMIT ?2");
pub(in crate::store::sqlite) const GOT: &str = chat_rows!("WHERE peer = ?1 AND hidden = 0 ORDER BY row LIMIT ?2");
/// The last of the rows that are looked at next; NULL: all that there are.
const LAST: &str = "SELECT row FROM chat WHERE row > ?1 ORDER BY row LIMIT 1 OFFSET ?2";
/// What was swallowed by a block, and what names the person in other conversations.
const IN_RANGE: &str = chat_rows!(
    "WHERE row > ?1 AND row <= ?2
    AND (peer = ?3 OR instr(document, ?4) OR instr(own, ?4) OR instr(decided, CAST(?4 AS TEXT)))"
);
const KEPT: &str = "SELECT document, own FROM chat WHERE row = ?1";
const BURY: &str =
    "UPDATE chat SET writer = ?2, id = NULL, dev = NULL, waits = 0, decided = NULL, gone = 1 WHERE row = ?1";
const SET_WRITER: &str = "UPDATE chat SET writer = ?2 WHERE row = ?1";
/// Nobody is there any more who could answer an invitation.
const READDRESS: &str = "UPDATE chat SET peer = ?2, waits = 0, decided = NULL,
    answer = CASE WHEN kind = 2 THEN coalesce(answer, 0) ELSE answer END WHERE row = ?1";
const SET_KEPT: &str = "UPDATE chat SET document = ?2, own = ?3 WHERE row = ?1";
const DROP: &str = "DELETE FROM chat WHERE row = ?1";
const IS_SHOWN: &str = "SELECT 1 FROM pushed WHERE user = ?1 AND peer = ?2 AND row = ?3";
const RENOTE: &str = "UPDATE OR REPLACE pushed SET peer = ?4 WHERE user = ?1 AND peer = ?2 AND row = ?3";
const UNNOTE: &str = "DELETE FROM pushed WHERE user = ?1 AND peer = ?2 AND row = ?3";
/// What the person wrote between two has the other name by now.
pub(in crate::store::sqlite) const SHOWN: &str = "SELECT c.row, c.tail, c.peer,
        EXISTS (SELECT 1 FROM pushed p WHERE p.user = c.peer AND p.peer = ?1 AND p.row = c.row)
    FROM chat c WHERE c.writer = ?1 AND c.row > ?2 ORDER BY c.row LIMIT ?3";
const IS_ALIAS: &str = "SELECT 1 FROM erased WHERE alias = ?1";
const CONVERSATIONS: &str = "SELECT first, second FROM conversations WHERE first = ?1
    UNION ALL SELECT first, second FROM conversations WHERE second = ?1 AND first <> ?1 LIMIT ?2";
const DROP_CONVERSATION: &str = "DELETE FROM conversations WHERE first = ?1 AND second = ?2";
/// What the other side has deleted of the conversation, or is about to.
const OF_OTHER_SIDE: [&str; 3] = [
    "UPDATE OR REPLACE deleted SET peer = ?3 WHERE user = ?1 AND peer = ?2",
    "UPDATE OR REPLACE purges SET peer = ?3 WHERE user = ?1 AND peer = ?2",
    "DELETE FROM mentions WHERE user = ?1 AND peer = ?2 AND ?3 <> ''",
];

/// Messages of the person: their places stay, for others count them. Where nobody else is, and invitations, go, and with them
/// what phones show, as far as there are ids for it; of the places that is a step of its own.
pub(super) fn own(tx: &mut Tx<'_>, work: &mut Work, call: &mut Call<'_>) -> rusqlite::Result<bool> {
    let Ok(alias) = Owner::new(work.erasure.alias.as_str()) else { return Ok(false) };
    let rows = tx.all(WRITTEN, params![work.user, CHUNK], ChatRow::read)?;
    for row in &rows {
        let number = row.sid.row();
        let is_shown = tx.exists(IS_SHOWN, params![row.peer.as_str(), work.user, number])?;
        if is_shown && call.push_sids.len() < USER_DEVICES_MAX {
            return Ok(true);
        }
        let has_place = row.n_reader.is_some() || row.amends.is_some();
        if row.kind == Kind::Notice {
            tx.execute(SET_WRITER, params![number, work.erasure.alias])?;
            rename(tx, work, number)?;
            work.kept("notices of groups", 1);
        } else if row.hidden || !has_place || row.peer.as_str() == work.user || is_alias(tx, &row.peer)? {
            drop_row(tx, number)?;
            work.removed("messages", 1);
        } else {
            bury(tx, work, row)?;
        }
        if is_shown {
            // By the other name: that of the person is to be in no push that waits.
            tx.execute(RENOTE, params![row.peer.as_str(), work.user, number, alias.as_str()])?;
        }
        if is_shown && !has_place {
            clear_one(tx, (&row.peer, &alias), row.sid, call)?;
        }
    }
    Ok(!rows.is_empty())
}

/// What phones show of the places that are left goes, as far as there are ids for it: now that nothing of the person is unread.
pub(super) fn clear(tx: &mut Tx<'_>, work: &mut Work, call: &mut Call<'_>) -> rusqlite::Result<bool> {
    let Ok(alias) = Owner::new(work.erasure.alias.as_str()) else { return Ok(false) };
    let after: i64 = work.after.parse().unwrap_or(0);
    let read = |row: &rusqlite::Row<'_>| Ok((sid(row, 0, 1)?, chat::owner(row, 2)?, row.get::<_, bool>(3)?));
    let rows = tx.all(SHOWN, params![alias.as_str(), after, CHUNK], read)?;
    for (sid, user, is_shown) in &rows {
        if *is_shown {
            if call.push_sids.len() < USER_DEVICES_MAX {
                return Ok(true);
            }
            clear_one(tx, (user, &alias), *sid, call)?;
        }
        work.after = sid.row().0.to_string();
    }
    Ok(!rows.is_empty())
}

/// No phone of `user` shows it any more. A push that is taken back here is about the name before: its note would stay.
fn clear_one(tx: &mut Tx<'_>, (user, alias): (&Owner, &Owner), sid: Sid, call: &mut Call<'_>) -> rusqlite::Result<()> {
    notified::clear(tx, &Seen { user, peer: alias, sid, up_to: false }, None, &[], call)?;
    tx.execute(UNNOTE, params![user.as_str(), alias.as_str(), sid.row()]).map(drop)
}

/// Nothing of the text is left. Whoever has not read it has nothing to read there any more.
fn bury(tx: &mut Tx<'_>, work: &mut Work, row: &ChatRow) -> rusqlite::Result<()> {
    let number = row.sid.row();
    let Some(kept) = Kept::of(tx, number)? else { return Ok(()) };
    if row.peer.is_group() {
        forget_mentions(tx, row)?;
    } else if !row.gone {
        amend::forget_unread(tx, &row.peer, row)?;
    }
    let left = Kept { document: without_writer(&kept.document), own: None };
    left.replace(tx, number, &kept)?;
    tx.execute(BURY, params![number, work.erasure.alias])?;
    work.removed("texts of messages", 1);
    Ok(())
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
            continue;
        }
        if row.peer.is_group() {
            forget_member(tx, row.sid.row(), &work.user)?;
        }
        if rename(tx, work, row.sid.row())? {
            let what = if row.kind == Kind::Notice {
                "notices of groups"
            } else {
                "messages of others that mention the person"
            };
            work.kept(what, 1);
        }
    }
    work.after = last.unwrap_or(i64::MAX).to_string();
    Ok(last.is_some())
}

/// A message to the person stays with its writer; where that one was erased as well, nobody has it.
fn readdress(tx: &mut Tx<'_>, work: &mut Work, row: &ChatRow) -> rusqlite::Result<()> {
    let number = row.sid.row();
    if is_alias(tx, &row.writer)? {
        drop_row(tx, number)?;
        work.removed("messages", 1);
        return Ok(());
    }
    rename(tx, work, number)?;
    tx.execute(READDRESS, params![number, work.erasure.alias])?;
    work.kept("messages of others to the person", 1);
    Ok(())
}

fn is_alias(tx: &ReadTx<'_>, name: &Owner) -> rusqlite::Result<bool> {
    tx.exists(IS_ALIAS, [name.as_str()])
}

/// What is kept of a row: as its reader has it, and as its writer alone has it.
struct Kept {
    document: Vec<u8>,
    own: Option<Vec<u8>>,
}

impl Kept {
    fn of(tx: &ReadTx<'_>, row: Row) -> rusqlite::Result<Option<Self>> {
        tx.one(KEPT, [row], |row| Ok(Self { document: row.get(0)?, own: row.get(1)? }))
    }

    fn bytes(&self) -> u64 {
        (self.document.len() + self.own.as_ref().map_or(0, Vec::len)) as u64
    }

    fn replace(&self, tx: &mut Tx<'_>, row: Row, before: &Self) -> rusqlite::Result<()> {
        tx.execute(SET_KEPT, params![row, self.document, self.own])?;
        let bytes = &mut tx.memory_draft.figures.chat_bytes;
        *bytes = (*bytes + self.bytes()).saturating_sub(before.bytes());
        Ok(())
    }
}

/// The other name stands in what is kept of a row; whether the person was named there.
fn rename(tx: &mut Tx<'_>, work: &Work, row: Row) -> rusqlite::Result<bool> {
    let Some(kept) = Kept::of(tx, row)? else { return Ok(false) };
    let without = |document: &[u8]| renamed(document, &work.user, &work.erasure.alias);
    let (document, own) = (without(&kept.document), kept.own.as_deref().and_then(without));
    if document.is_none() && own.is_none() {
        return Ok(false);
    }
    let after =
        Kept { document: document.unwrap_or_else(|| kept.document.clone()), own: own.or_else(|| kept.own.clone()) };
    after.replace(tx, row, &kept)?;
    Ok(true)
}

fn drop_row(tx: &mut Tx<'_>, row: Row) -> rusqlite::Result<()> {
    let bytes = Kept::of(tx, row)?.map_or(0, |kept| kept.bytes());
    let dropped = tx.execute(DROP, [row])?;
    let figures = &mut tx.memory_draft.figures;
    figures.chat_bytes = figures.chat_bytes.saturating_sub(bytes);
    figures.chat_rows = figures.chat_rows.saturating_sub(dropped as u64);
    Ok(())
}

/// Conversations go on under the other name: whoever stays has counts and positions in them.
pub(super) fn conversations(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let found =
        tx.all(CONVERSATIONS, params![work.user, CHUNK], |row| Ok((chat::owner(row, 0)?, chat::owner(row, 1)?)))?;
    for (first, second) in &found {
        let (other, user) = if first.as_str() == work.user { (second, first) } else { (first, second) };
        let (conversation, side) = chat::load(tx, user, other)?;
        tx.execute(DROP_CONVERSATION, params![first.as_str(), second.as_str()])?;
        if other == user || is_alias(tx, other)? {
            work.removed("conversations", 1);
            continue;
        }
        let Ok(alias) = Owner::new(work.erasure.alias.as_str()) else { continue };
        for sql in OF_OTHER_SIDE {
            tx.execute(sql, params![other.as_str(), user.as_str(), alias.as_str()])?;
        }
        // Each pair has one row, and the smaller name is its first.
        let (_, other_side) = chat::load(tx, other, &alias)?;
        let conversation = if other_side == side.other() { conversation } else { conversation.swapped() };
        chat::save(tx, &alias, other, &conversation)?;
        // The newest may be among what went.
        let mut conversation = conversation;
        let last = history::newest_item(tx, other, &alias)?.map(|row| row.sid.row());
        conversation.set_last(other_side, last);
        conversation.set_last(other_side.other(), None);
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

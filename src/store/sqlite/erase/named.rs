//! Tables that have names of users in columns: one statement for each, which removes a chunk.

use super::Work;
use crate::store::sqlite::chat::owner;
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// Rows that one call removes of a table.
const CHUNK: i64 = 250;

/// What it is called in the answer, and how rows of it go: `?1` is the name, `?2` how many at most.
///
/// A further table is a line here. Where a row of somebody else has to stay, under the other name, it is a step of its own.
const DROPPED: [(&str, &str); 16] = [
    (
        "contacts of others",
        "DELETE FROM contacts WHERE other = ?1 AND user IN (SELECT user FROM contacts WHERE other = ?1 LIMIT ?2)",
    ),
    (
        "notifications",
        "DELETE FROM pushed WHERE (user, peer, row, dev) IN (
            SELECT user, peer, row, dev FROM pushed WHERE user = ?1 LIMIT ?2)",
    ),
    (
        "proofs",
        "DELETE FROM proofs WHERE (recipient, made_at) IN (
            SELECT recipient, made_at FROM proofs WHERE user = ?1 LIMIT ?2)",
    ),
    (
        "memberships",
        "DELETE FROM members WHERE user = ?1 AND gid IN (SELECT gid FROM members WHERE user = ?1 LIMIT ?2)",
    ),
    (
        "confirmations in groups",
        "DELETE FROM group_confirmed WHERE (user, peer, row, dev) IN (
            SELECT user, peer, row, dev FROM group_confirmed WHERE user = ?1 LIMIT ?2)",
    ),
    (
        "pushes in groups that wait for room",
        "DELETE FROM unpushed_members WHERE (user, peer, row) IN (
            SELECT user, peer, row FROM unpushed_members WHERE user = ?1 LIMIT ?2)",
    ),
    (
        "mentions",
        "DELETE FROM mentions WHERE (user, peer, row) IN (SELECT user, peer, row FROM mentions WHERE user = ?1 LIMIT ?2)",
    ),
    (
        "items of which the own copy was deleted",
        "DELETE FROM deleted WHERE (user, peer, row) IN (SELECT user, peer, row FROM deleted WHERE user = ?1 LIMIT ?2)",
    ),
    (
        "deletions under way",
        "DELETE FROM purges WHERE user = ?1 AND peer IN (SELECT peer FROM purges WHERE user = ?1 LIMIT ?2)",
    ),
    (
        "copies that wait for their end",
        "DELETE FROM expiring_documents WHERE (row, seq) IN (
            SELECT row, seq FROM expiring_documents WHERE topic > ?1 || '/' AND topic < ?1 || '0' LIMIT ?2)",
    ),
    (
        "devices that ring",
        "DELETE FROM ringing WHERE (call, dev) IN (SELECT r.call, r.dev FROM ringing r
            JOIN calls c ON c.row = r.call WHERE c.caller = ?1 OR c.callee = ?1 LIMIT ?2)",
    ),
    (
        "signals of calls",
        "DELETE FROM signals WHERE (writer, id) IN (SELECT s.writer, s.id FROM signals s
            JOIN calls c ON c.row = s.call WHERE c.caller = ?1 OR c.callee = ?1 LIMIT ?2)",
    ),
    ("calls", "DELETE FROM calls WHERE row IN (SELECT row FROM calls WHERE caller = ?1 OR callee = ?1 LIMIT ?2)"),
    (
        "signals of calls that are forgotten",
        "DELETE FROM signals WHERE (writer, id) IN (SELECT writer, id FROM signals WHERE writer = ?1 LIMIT ?2)",
    ),
    ("presence", "DELETE FROM presence WHERE user = ?1 AND ?2 > 0"),
    ("settings and profile", "DELETE FROM users WHERE user = ?1 AND ?2 > 0"),
];

const CONTACTS: &str = "SELECT other FROM contacts WHERE user = ?1 LIMIT ?2";
const DROP_CONTACT: &str = "DELETE FROM contacts WHERE user = ?1 AND other = ?2";

/// Those whom the person had among the contacts, who see the person no more.
pub(super) fn drop_contacts(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let others = tx.all(CONTACTS, params![work.user, CHUNK], |row| owner(row, 0))?;
    for other in &others {
        tx.execute(DROP_CONTACT, params![work.user, other.as_str()])?;
    }
    work.removed("contacts", others.len());
    let is_full = others.len() == CHUNK as usize;
    work.unseen = others;
    Ok(is_full)
}

/// A chunk of one of them.
pub(super) fn drop_rows(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let at: usize = work.after.parse().unwrap_or(0);
    let Some((what, sql)) = DROPPED.get(at) else { return Ok(false) };
    let removed = tx.execute(sql, params![work.user, CHUNK])?;
    work.removed(what, removed);
    if removed < CHUNK as usize {
        work.after = (at + 1).to_string();
    }
    Ok(true)
}

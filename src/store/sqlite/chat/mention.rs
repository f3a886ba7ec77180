//! Unread messages in which a user is named. A mention lives from its message to the read position that passes it.

use crate::chat::id::{Owner, Row};
use crate::store::sqlite::column::from_sql;
use crate::store::sqlite::tx::{ReadTx, Tx};
use rusqlite::params;

const NOTE: &str = "INSERT INTO mentions (user, peer, row) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
const FORGET: &str = "DELETE FROM mentions WHERE user = ?1 AND peer = ?2 AND row = ?3";
pub(in crate::store::sqlite) const READ: &str = "DELETE FROM mentions WHERE user = ?1 AND peer = ?2 AND row <= ?3";
pub(in crate::store::sqlite) const IN_CONVERSATION: &str =
    "SELECT count(*) FROM mentions WHERE user = ?1 AND peer = ?2";
pub(in crate::store::sqlite) const IN_ALL: &str = "SELECT count(*) FROM mentions WHERE user = ?1";

/// A message that came to `user` in the conversation with `peer` names the user.
pub(super) fn note(tx: &Tx<'_>, user: &Owner, peer: &Owner, message: Row) -> rusqlite::Result<()> {
    tx.execute(NOTE, params![user.as_str(), peer.as_str(), message]).map(drop)
}

/// The message names the user no more, or is there no more.
pub(super) fn forget(tx: &Tx<'_>, user: &Owner, peer: &Owner, message: Row) -> rusqlite::Result<()> {
    tx.execute(FORGET, params![user.as_str(), peer.as_str(), message]).map(drop)
}

/// The user has read the conversation up to this row.
pub(super) fn read(tx: &Tx<'_>, user: &Owner, peer: &Owner, up_to: Row) -> rusqlite::Result<()> {
    tx.execute(READ, params![user.as_str(), peer.as_str(), up_to]).map(drop)
}

/// In how many unread messages of the conversation with `peer` the user is named.
pub(super) fn in_conversation(tx: &ReadTx<'_>, user: &Owner, peer: &Owner) -> rusqlite::Result<u64> {
    Ok(tx.one(IN_CONVERSATION, params![user.as_str(), peer.as_str()], |row| row.get(0).map(from_sql))?.unwrap_or(0))
}

/// The same over all conversations.
pub(super) fn in_all(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<u64> {
    Ok(tx.one(IN_ALL, [user.as_str()], |row| row.get(0).map(from_sql))?.unwrap_or(0))
}

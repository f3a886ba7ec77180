//! Own copies that a user deletes, and conversations that a user puts away.
//!
//! A user deletes all of a conversation up to now, which is a position in it, or single items, which are rows of `deleted`. The
//! other side keeps its copy. What no side has any more is buried: its row stays, as the memory of its place and of its id, and
//! nothing of its text.

use super::history::{directions, last_row, newest_item};
use super::notified::{self, Seen};
use super::{Call, ChatRow, Kind, amend, group, load, mention, people, save, tell};
use crate::chat::conversation::{Conversation, Side};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::suffix::requests::DeletionOf;
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{Archiving, ChatCall, Deletion};
use rusqlite::params;
use serde_json::{Map, Value};

/// Rows of a conversation that are looked at in one verb, for text that no side has any more.
const CHUNK: usize = 250;

pub(in crate::store::sqlite) const ITEM: &str = chat_rows!("WHERE row = ?1");
const DELETED: &str = "SELECT blocked FROM deleted WHERE user = ?1 AND peer = ?2 AND row = ?3";
pub(super) const DELETE: &str = "INSERT INTO deleted (user, peer, row) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
const HIDE: &str = "INSERT INTO deleted (user, peer, row, blocked) VALUES (?1, ?2, ?3, 1) ON CONFLICT DO NOTHING";
pub(in crate::store::sqlite) const FORGET: &str = "DELETE FROM deleted WHERE row = ?1";
pub(super) const FORGET_ALL: &str = "DELETE FROM deleted WHERE user = ?1 AND peer = ?2 AND row <= ?3";
const PURGE: &str = "INSERT INTO purges (user, peer, done, up_to) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (user, peer) DO UPDATE SET up_to = excluded.up_to";
const NEXT_PURGE: &str = "SELECT user, peer FROM purges LIMIT 1";
const ITS_PURGE: &str = "SELECT done, up_to FROM purges WHERE user = ?1 AND peer = ?2";
const GO_ON: &str = "UPDATE purges SET done = ?3 WHERE user = ?1 AND peer = ?2";
const END_PURGE: &str = "DELETE FROM purges WHERE user = ?1 AND peer = ?2";
pub(in crate::store::sqlite) const TO_PURGE: &str = chat_rows!(
    "INDEXED BY chat_pair WHERE peer = ?1 AND writer = ?2 AND row > ?3 AND row <= ?4 AND hidden <= ?5 ORDER BY row LIMIT ?6"
);

/// Whether a user still has what is on its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnCopy {
    Whole,
    /// The user has deleted this item.
    Deleted,
    /// The user has deleted all of the conversation up to it, or behind it.
    DeletedWithAll,
    /// The user had blocked its writer: of what is written in a group there is a place, and no content.
    Blocked,
}

/// Whether `user` still has a row that is on its side. An edit or retract goes with the message that it is about.
pub(super) fn own_copy(tx: &ReadTx<'_>, user: &Owner, row: &ChatRow) -> rusqlite::Result<OwnCopy> {
    let (with, item) = (row.other(user), row.amends.unwrap_or_else(|| row.sid.row()));
    let up_to = if with.is_group() {
        group::own_copy::deleted_up_to(tx, with, user)?
    } else {
        let (conversation, side) = load(tx, user, with)?;
        conversation.of(side).deleted.map(Sid::row)
    };
    if up_to.is_some_and(|up_to| item <= up_to || row.sid.row() <= up_to) {
        return Ok(OwnCopy::DeletedWithAll);
    }
    // What was written before the user came to the group is changed later, and the user has never had it.
    if with.is_group()
        && let Some(item) = row.amends
        && !tx.one(ITEM, [item], ChatRow::read)?.map_or(Ok(false), |item| item.is_of(tx, user))?
    {
        return Ok(OwnCopy::DeletedWithAll);
    }
    let values = params![user.as_str(), with.as_str(), item];
    Ok(match tx.one(DELETED, values, |row| row.get::<_, bool>(0))? {
        None => OwnCopy::Whole,
        Some(false) => OwnCopy::Deleted,
        Some(true) => OwnCopy::Blocked,
    })
}

/// A member has blocked the writer of a row of a group: that member never gets its content, also when the block has ended.
pub(super) fn hide(tx: &Tx<'_>, member: &Owner, row: &ChatRow) -> rusqlite::Result<()> {
    tx.execute(HIDE, params![member.as_str(), row.peer.as_str(), row.sid.row()]).map(drop)
}

/// Whether the content of this row of a group is kept from `member`, whatever that of the message is that it is about.
pub(super) fn is_hidden(tx: &ReadTx<'_>, member: &Owner, row: &ChatRow) -> rusqlite::Result<bool> {
    let values = params![member.as_str(), row.peer.as_str(), row.sid.row()];
    Ok(tx.one(DELETED, values, |row| row.get::<_, bool>(0))?.unwrap_or(false))
}

/// Whether `user` has no own copy of a row: deleted, or never got.
pub(super) fn is_deleted(tx: &ReadTx<'_>, user: &Owner, row: &ChatRow) -> rusqlite::Result<bool> {
    Ok(own_copy(tx, user, row)? != OwnCopy::Whole)
}

/// The row is not kept any more.
pub(super) fn forget(tx: &Tx<'_>, row: &ChatRow) -> rusqlite::Result<()> {
    tx.execute(FORGET, [row.sid.row()]).map(drop)
}

/// Deletes, and tells the user's devices. Returns up to where, if it is all of a conversation in which there is anything.
pub(in crate::store) fn delete(
    tx: &mut Tx<'_>,
    deletion: &Deletion,
    call: &ChatCall,
) -> rusqlite::Result<Result<Option<Sid>, Rejection>> {
    let call = &mut Call::of(call);
    let up_to = match &deletion.of {
        DeletionOf::All(with) if with.is_group() => group::own_copy::delete_all(tx, deletion, with, call)?,
        DeletionOf::All(with) => delete_all(tx, deletion, with, call)?,
        DeletionOf::Each(sids) => {
            let mut rows = Vec::with_capacity(sids.len());
            for sid in sids {
                let row = ChatRow::by_sid(tx, *sid)?.filter(|row| row.kind != Kind::Amendment);
                let is_own = row.as_ref().map_or(Ok(false), |row| row.is_of(tx, &deletion.user))?;
                let Some(row) = row.filter(|_| is_own) else {
                    let detail = "a sid among `sids` is that of nothing that the user has";
                    return Ok(Err(Rejection::new(ErrorCode::NotFound, detail)));
                };
                rows.push(row);
            }
            for row in &rows {
                delete_one(tx, deletion, row, call)?;
            }
            None
        }
    };
    let mut told: Map<String, Value> = serde_json::from_slice(&deletion.told).unwrap_or_default();
    if let Some(up_to) = up_to {
        told.insert("up_to".to_owned(), up_to.to_string().into());
    }
    tell(tx, &deletion.user, "changes", Value::Object(told).to_string().as_bytes(), call.at)?;
    Ok(Ok(up_to))
}

fn delete_all(
    tx: &mut Tx<'_>,
    deletion: &Deletion,
    with: &Owner,
    call: &mut Call<'_>,
) -> rusqlite::Result<Option<Sid>> {
    let user = &deletion.user;
    let (mut conversation, side) = load(tx, user, with)?;
    // Of what is not kept any more the list of conversations still has the place.
    let place = conversation.of(side).last.and_then(Sid::last_of);
    let Some(last) = last_row(tx, user, with)?.map(|row| row.sid).or(place) else { return Ok(None) };
    let before = conversation.of(side).deleted.map_or(Row(0), Sid::row);
    let unread = conversation.handle_deleted(side, last);
    save(tx, user, with, &conversation)?;
    people::add_unread(tx, user, -i64::try_from(unread).unwrap_or(i64::MAX))?;
    mention::read(tx, user, with, last.row())?;
    tx.execute(FORGET_ALL, params![user.as_str(), with.as_str(), last.row()])?;
    let seen = Seen { user, peer: with, sid: last, up_to: true };
    notified::clear(tx, &seen, deletion.dev.as_ref(), &deletion.connected, call)?;
    tx.execute(PURGE, params![user.as_str(), with.as_str(), before, last.row()])?;
    purge(tx, user, with)?;
    Ok(Some(last))
}

fn delete_one(tx: &mut Tx<'_>, deletion: &Deletion, row: &ChatRow, call: &mut Call<'_>) -> rusqlite::Result<()> {
    let (user, with, number) = (&deletion.user, row.other(&deletion.user).clone(), row.sid.row());
    if is_deleted(tx, user, row)? {
        return Ok(());
    }
    if with.is_group() {
        return group::own_copy::delete_one(tx, deletion, row, call);
    }
    if row.peer == *user && row.writer != *user {
        if row.gone {
            mention::forget(tx, user, &with, number)?;
        } else {
            amend::forget_unread(tx, user, row)?;
        }
        let seen = Seen { user, peer: &with, sid: row.sid, up_to: false };
        notified::clear(tx, &seen, deletion.dev.as_ref(), &deletion.connected, call)?;
    }
    tx.execute(DELETE, params![user.as_str(), with.as_str(), number])?;
    let (mut conversation, side) = load(tx, user, &with)?;
    if conversation.of(side).last == Some(number) {
        let last = newest_item(tx, user, &with)?.map(|row| row.sid.row());
        conversation.set_last(side, last);
        save(tx, user, &with, &conversation)?;
    }
    if is_with_nobody(tx, user, row)? { amend::bury(tx, row) } else { Ok(()) }
}

/// Whether a row that `user` has deleted is on no other side.
fn is_with_nobody(tx: &ReadTx<'_>, user: &Owner, row: &ChatRow) -> rusqlite::Result<bool> {
    let other = row.other(user);
    Ok(row.hidden || other == user || is_deleted(tx, other, row)?)
}

/// Goes on with what was deleted and not looked at yet. Whether there is more.
pub(super) fn purge_some(tx: &mut Tx<'_>) -> rusqlite::Result<bool> {
    let Some((user, peer)) = tx.one(NEXT_PURGE, [], |row| Ok((super::owner(row, 0)?, super::owner(row, 1)?)))? else {
        return Ok(false);
    };
    purge(tx, &user, &peer)?;
    tx.exists(NEXT_PURGE, [])
}

/// Buries what neither side has any more of a conversation that `user` has deleted; a chunk of it.
fn purge(tx: &mut Tx<'_>, user: &Owner, with: &Owner) -> rusqlite::Result<()> {
    let pair = params![user.as_str(), with.as_str()];
    let job = tx.one(ITS_PURGE, pair, |row| Ok((row.get::<_, Row>(0)?, row.get::<_, Row>(1)?)))?;
    let Some((done, up_to)) = job else { return Ok(()) };
    let mut rows = Vec::new();
    for (peer, writer, hidden) in directions(user, with) {
        let values = params![peer.as_str(), writer.as_str(), done, up_to, hidden, CHUNK as i64];
        rows.extend(tx.all(TO_PURGE, values, ChatRow::read)?);
    }
    rows.sort_by_key(|row| row.sid);
    rows.truncate(CHUNK);
    for row in rows.iter().filter(|row| !row.gone) {
        if is_with_nobody(tx, user, row)? {
            amend::bury(tx, row)?;
        }
    }
    match rows.last().filter(|_| rows.len() == CHUNK) {
        Some(last) => tx.execute(GO_ON, params![user.as_str(), with.as_str(), last.sid.row()]).map(drop),
        None => tx.execute(END_PURGE, pair).map(drop),
    }
}

/// A message came to the conversation of `user` with another one: it is put away no more, unless it is muted.
pub(super) fn take_out(
    tx: &ReadTx<'_>,
    conversation: &mut Conversation,
    side: Side,
    (user, with): (&Owner, &Owner),
    at: u64,
) -> rusqlite::Result<()> {
    if conversation.of(side).archived && !people::entry(tx, user, with)?.is_muted(at) {
        conversation.handle_archived(side, false);
    }
    Ok(())
}

/// Puts a conversation away, or takes it out again, and tells the user's devices.
pub(in crate::store) fn archive(
    tx: &mut Tx<'_>,
    new: &Archiving,
    call: &ChatCall,
) -> rusqlite::Result<Result<(), Rejection>> {
    let call = &mut Call::of(call);
    let (user, with) = (&new.user, &new.with);
    if with.is_group() {
        return group::own_copy::archive(tx, new, call);
    }
    let (mut conversation, side) = load(tx, user, with)?;
    if conversation.of(side).last.is_none() {
        return Ok(Err(Rejection::new(ErrorCode::NotFound, "`with` names nobody with whom there is a conversation")));
    }
    if conversation.handle_archived(side, new.on) {
        save(tx, user, with, &conversation)?;
    }
    if let Some(last) = last_row(tx, user, with)?.filter(|_| new.on) {
        let seen = Seen { user, peer: with, sid: last.sid, up_to: true };
        notified::clear(tx, &seen, new.dev.as_ref(), &new.connected, call)?;
    }
    tell(tx, user, "changes", &new.told, call.at)?;
    Ok(Ok(()))
}

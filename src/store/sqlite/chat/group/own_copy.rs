//! What a member deletes of a group, or puts away: the others keep what they have.

use super::message::by_row;
use super::{Group, Member};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::store::sqlite::chat::deletion::{DELETE, FORGET_ALL};
use crate::store::sqlite::chat::notified::{self, Seen};
use crate::store::sqlite::chat::{Call, ChatRow, mention, tell};
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{Archiving, Deletion};
use rusqlite::params;

const DELETED: &str = "UPDATE members SET deleted = ?3, read = max(read, ?3),
    read_counted = CASE WHEN read < ?3 THEN ?4 ELSE read_counted END WHERE gid = ?1 AND user = ?2";
const ARCHIVED: &str = "UPDATE members SET archived = ?3 WHERE gid = ?1 AND user = ?2";

/// Up to where a member has deleted everything, if it has.
pub(in crate::store::sqlite::chat) fn deleted_up_to(
    tx: &ReadTx<'_>,
    name: &Owner,
    user: &Owner,
) -> rusqlite::Result<Option<Row>> {
    Ok(Member::now_or_before(tx, name, user)?.map(|member| member.deleted).filter(|deleted| *deleted > Row(0)))
}

/// Deletes all that the member has now. Returns up to where, if there is anything.
pub(in crate::store::sqlite::chat) fn delete_all(
    tx: &mut Tx<'_>,
    deletion: &Deletion,
    name: &Owner,
    call: &mut Call<'_>,
) -> rusqlite::Result<Option<Sid>> {
    let user = &deletion.user;
    let Some((group, last)) = last_of(tx, name, user)? else { return Ok(None) };
    let row = last.row();
    tx.execute(DELETED, params![name.as_str(), user.as_str(), row, sql_ms(group.counted)])?;
    mention::read(tx, user, name, row)?;
    tx.execute(FORGET_ALL, params![user.as_str(), name.as_str(), row])?;
    let seen = Seen { user, peer: name, sid: last, up_to: true };
    notified::clear(tx, &seen, deletion.dev.as_ref(), &deletion.connected, call)?;
    Ok(Some(last))
}

/// The newest thing that a member has, whatever it is.
fn last_of(tx: &ReadTx<'_>, name: &Owner, user: &Owner) -> rusqlite::Result<Option<(Group, Sid)>> {
    let (Some(group), Some(member)) = (Group::load(tx, name)?, Member::now_or_before(tx, name, user)?) else {
        return Ok(None);
    };
    let row = member.gone.unwrap_or(group.newest);
    let kept = by_row(tx, row)?.map(|last| last.sid);
    Ok(kept.or_else(|| Sid::from_parts(row, 0)).map(|last| (group, last)))
}

/// Deletes one item.
pub(in crate::store::sqlite::chat) fn delete_one(
    tx: &mut Tx<'_>,
    deletion: &Deletion,
    row: &ChatRow,
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    let (user, name, number) = (&deletion.user, &row.peer, row.sid.row());
    tx.execute(DELETE, params![user.as_str(), name.as_str(), number])?;
    mention::forget(tx, user, name, number)?;
    let seen = Seen { user, peer: name, sid: row.sid, up_to: false };
    notified::clear(tx, &seen, deletion.dev.as_ref(), &deletion.connected, call)
}

/// Puts the group away until something new comes, or takes it out again.
pub(in crate::store::sqlite::chat) fn archive(
    tx: &mut Tx<'_>,
    new: &Archiving,
    call: &mut Call<'_>,
) -> rusqlite::Result<Result<(), Rejection>> {
    let (user, name) = (&new.user, &new.with);
    let Some((_, last)) = last_of(tx, name, user)? else {
        return Ok(Err(Rejection::new(ErrorCode::NotFound, "`with` names no group of the user's")));
    };
    let row = if new.on { last.row() } else { Row(0) };
    tx.execute(ARCHIVED, params![name.as_str(), user.as_str(), row])?;
    if new.on {
        let seen = Seen { user, peer: name, sid: last, up_to: true };
        notified::clear(tx, &seen, new.dev.as_ref(), &new.connected, call)?;
    }
    tell(tx, user, "changes", &new.told, call.at)?;
    Ok(Ok(()))
}

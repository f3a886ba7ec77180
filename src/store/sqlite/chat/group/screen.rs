//! Groups on the first screen, and the history of one.

use super::former::GroupView;
use super::{Group, Member};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::suffix::requests::HistoryFrom;
use crate::store::sqlite::chat::conversations::stamped;
use crate::store::sqlite::chat::position::BY_ROW;
use crate::store::sqlite::chat::{ChatRow, json_text, mention, owner, people};
use crate::store::sqlite::tx::ReadTx;
use crate::store::{ConversationItem, GroupSummary, HistoryQuery};
use rusqlite::params;

/// A user is in few groups, and was in few more.
pub(in crate::store::sqlite) const GROUPS: &str = "SELECT m.gid, coalesce(m.gone, g.newest) AS newest FROM members m
    JOIN chat_groups g ON g.gid = m.gid
    WHERE m.user = ?1 AND coalesce(m.gone, g.newest) > m.deleted AND coalesce(m.gone, g.newest) < ?2";
pub(in crate::store::sqlite) const BEFORE: &str = chat_rows!(
    "WHERE peer = ?1 AND hidden = 0 AND row < ?2 AND row >= ?3 AND row <= ?4 AND kind <> 4 ORDER BY row DESC LIMIT ?5"
);
pub(in crate::store::sqlite) const AFTER: &str = chat_rows!(
    "WHERE peer = ?1 AND hidden = 0 AND row > ?2 AND row >= ?3 AND row <= ?4 AND kind <> 4 ORDER BY row LIMIT ?5"
);
/// The newest that the member has not deleted.
pub(in crate::store::sqlite) const NEWEST: &str = chat_rows!(
    "WHERE peer = ?1 AND hidden = 0 AND row <= ?2 AND row > ?3 AND kind <> 4
    AND NOT EXISTS (SELECT 1 FROM deleted d WHERE d.user = ?4 AND d.peer = ?1 AND d.row = chat.row)
    ORDER BY row DESC LIMIT 1"
);

/// The groups of a user whose newest item is older than `before`, each with that item's row.
pub(in crate::store::sqlite::chat) fn groups(
    tx: &ReadTx<'_>,
    user: &Owner,
    before: Row,
) -> rusqlite::Result<Vec<(Owner, Row)>> {
    tx.all(GROUPS, params![user.as_str(), before], |row| Ok((owner(row, 0)?, row.get(1)?)))
}

/// A group, as somebody sees it who is in it, or was.
pub(in crate::store::sqlite::chat) fn item(
    tx: &ReadTx<'_>,
    user: &Owner,
    with: Owner,
    (newest, at): (Row, u64),
) -> rusqlite::Result<Option<ConversationItem>> {
    let (Some(group), Some(member)) = (Group::load(tx, &with)?, Member::now_or_before(tx, &with, user)?) else {
        return Ok(None);
    };
    let place =
        tx.one(BY_ROW, [newest], ChatRow::read)?.map_or_else(|| Sid::from_parts(newest, 0), |row| Some(row.sid));
    let Some(place) = place else { return Ok(None) };
    let last = newest_item(tx, &with, user, &member)?;
    let read = tx.one(BY_ROW, [member.read], ChatRow::read)?.map(|row| row.sid);
    let is_in = member.gone.is_none();
    let view = GroupView::of(tx, (&with, user), (&group, &member))?;
    let entry = people::entry(tx, user, &with)?;
    let counted = (member.read, member.read_counted);
    Ok(Some(ConversationItem {
        place,
        profile: Some(json_text(&view.settings)?),
        sees_profile: true,
        last: last.map_or(Ok(None), |last| stamped(tx, user, &last))?,
        count: view.count,
        unread: if is_in { group.unread(tx, (&with, user), counted)? } else { 0 },
        mentions: mention::in_conversation(tx, user, &with)?,
        read,
        peer_received: None,
        peer_read: None,
        archived: member.archived >= newest || member.archived > Row(0) && entry.is_muted(at),
        entry,
        is_former: !is_in,
        group: is_in.then_some(GroupSummary {
            version: group.version,
            members: group.members,
            role: member.role,
            post: group.settings.post,
        }),
        invitations: Vec::new(),
        more_invitations: false,
        with,
    }))
}

/// The newest item that a member has and has not deleted.
fn newest_item(tx: &ReadTx<'_>, name: &Owner, user: &Owner, member: &Member) -> rusqlite::Result<Option<ChatRow>> {
    for (first, last) in member.readable() {
        let behind = member.deleted.max(Row(first.0 - 1));
        let found = tx.one(NEWEST, params![name.as_str(), last, behind, user.as_str()], ChatRow::read)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The rows of a page of the history of a group, in any order, and one more; `None`: the user was never in it.
pub(in crate::store::sqlite::chat) fn history(
    tx: &ReadTx<'_>,
    user: &Owner,
    query: &HistoryQuery,
) -> rusqlite::Result<Option<Vec<ChatRow>>> {
    let Some(member) = Member::now_or_before(tx, &query.with, user)? else { return Ok(None) };
    let (sql, edge) = match query.from {
        HistoryFrom::Newest => (BEFORE, Row(i64::MAX)),
        HistoryFrom::Before(sid) => (BEFORE, sid.row()),
        HistoryFrom::After(sid) => (AFTER, sid.row()),
    };
    let mut ranges = member.readable();
    if matches!(query.from, HistoryFrom::After(_)) {
        ranges.reverse();
    }
    let mut rows = Vec::new();
    for (first, last) in ranges {
        let (from, left) = (first.max(Row(member.deleted.0 + 1)), query.limit + 1 - rows.len());
        rows.extend(tx.all(sql, params![query.with.as_str(), edge, from, last, left as i64], ChatRow::read)?);
        if rows.len() > query.limit {
            break;
        }
    }
    Ok(Some(rows))
}

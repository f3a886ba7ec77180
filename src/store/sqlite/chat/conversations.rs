//! The conversations of a user, newest first: the first screen of a client.

use super::deletion::{OwnCopy, own_copy};
use super::group::tombstones::Tombstones;
use super::history::{Shown, directions, shown};
use super::position::BY_ROW;
use super::{ChatRow, group, load, mention, owner, people};
use crate::chat::contact::is_seen_by;
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::principal::Role;
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::tx::ReadTx;
use crate::store::{ConversationItem, ConversationPage, OPEN_MAX};
use bytes::Bytes;
use rusqlite::params;

/// Sorted here and not by an index, which each message would have to move an entry in.
pub(in crate::store::sqlite) const NEWEST_FIRST: &str = "SELECT peer, newest FROM (
        SELECT second AS peer, newest_first AS newest FROM conversations WHERE first = ?1 AND newest_first < ?2
        UNION ALL
        SELECT first, newest_second FROM conversations INDEXED BY conversations_second
            WHERE second = ?1 AND first <> ?1 AND newest_second < ?2)
    ORDER BY newest DESC LIMIT ?3";
pub(in crate::store::sqlite) const INVITED: &str = chat_rows!(
    "INDEXED BY chat_invited WHERE peer = ?1 AND writer = ?2 AND kind = 2 AND answer IS NULL AND deadline > ?3
    AND hidden <= ?4 ORDER BY row DESC LIMIT ?5"
);

/// A page of the conversations of `user` whose newest item is older than `before`, at `at` Unix milliseconds.
pub(in crate::store) fn page(
    tx: &ReadTx<'_>,
    user: &Owner,
    before: Option<Sid>,
    limit: usize,
    at: u64,
) -> rusqlite::Result<ConversationPage> {
    let before = before.map_or(Row(i64::MAX), Sid::row);
    let values = params![user.as_str(), before, limit as i64 + 1];
    let mut found = tx.all(NEWEST_FIRST, values, |row| Ok((owner(row, 0)?, row.get::<_, Row>(1)?)))?;
    found.extend(group::screen::groups(tx, user, before)?);
    found.sort_by_key(|(_, newest)| std::cmp::Reverse(*newest));
    found.truncate(limit + 1);
    let complete = found.len() <= limit;
    let mut items = Vec::with_capacity(found.len());
    for (with, newest) in found.into_iter().take(limit) {
        items.extend(item(tx, user, with, newest, at)?);
    }
    let unread = people::unread(tx, user, &mut Tombstones::default())?;
    Ok(ConversationPage { items, complete, unread, mentions: mention::in_all(tx, user)? })
}

fn item(
    tx: &ReadTx<'_>,
    user: &Owner,
    with: Owner,
    newest: Row,
    at: u64,
) -> rusqlite::Result<Option<ConversationItem>> {
    if with.is_group() {
        return group::screen::item(tx, user, with, (newest, at));
    }
    let (conversation, side) = load(tx, user, &with)?;
    let (own, theirs) = (*conversation.of(side), *conversation.of(side.other()));
    let last = tx.one(BY_ROW, [newest], ChatRow::read)?;
    let Some(place) = last.as_ref().map_or_else(|| Sid::from_parts(newest, 0), |last| Some(last.sid)) else {
        return Ok(None);
    };
    let is_to_oneself = with == *user;
    let (invitations, more_invitations) = open_invitations(tx, user, &with, at)?;
    Ok(Some(ConversationItem {
        place,
        profile: people::profile_text(tx, &with)?,
        sees_profile: is_to_oneself || is_seen_by(Role::User, people::entry(tx, &with, user)?, false),
        last: last.map_or(Ok(None), |last| stamped(tx, user, &last))?,
        count: own.count,
        unread: own.unread,
        mentions: mention::in_conversation(tx, user, &with)?,
        read: own.read,
        // What was told, and nothing that a receipt would not say.
        peer_received: theirs.told_delivered.filter(|_| !is_to_oneself),
        peer_read: theirs.told_read.filter(|_| !is_to_oneself),
        entry: people::entry(tx, user, &with)?,
        archived: own.archived,
        is_former: false,
        group: None,
        invitations,
        more_invitations,
        with,
    }))
}

pub(super) fn stamped(tx: &ReadTx<'_>, user: &Owner, row: &ChatRow) -> rusqlite::Result<Option<Bytes>> {
    Ok(match shown(tx, user, row)? {
        Shown::Item(item) => Some(item.into()),
        Shown::Nothing => None,
    })
}

/// The invitations between the two that are open, of either side, newest first, and whether there are more. One of which the
/// user has deleted the own copy is not shown.
fn open_invitations(tx: &ReadTx<'_>, user: &Owner, with: &Owner, at: u64) -> rusqlite::Result<(Vec<Bytes>, bool)> {
    let mut found = Vec::new();
    for (peer, writer, hidden) in directions(user, with) {
        let values = params![peer.as_str(), writer.as_str(), sql_ms(at), hidden, OPEN_MAX as i64 + 1];
        found.extend(tx.all(INVITED, values, ChatRow::read)?);
    }
    found.sort_by_key(|row| std::cmp::Reverse(row.sid));
    let has_more = found.len() > OPEN_MAX;
    let mut shown = Vec::with_capacity(found.len().min(OPEN_MAX));
    for row in found.iter().take(OPEN_MAX) {
        if own_copy(tx, user, row)? == OwnCopy::Whole {
            shown.extend(stamped(tx, user, row)?);
        }
    }
    Ok((shown, has_more))
}

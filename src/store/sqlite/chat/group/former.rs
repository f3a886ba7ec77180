//! Who has gone from a group: what such a member still has of it, and when that is forgotten.

use super::{Group, Member, span};
use crate::chat::group::GroupSettings;
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::topic::Device;
use crate::store::USER_FORMER_GROUPS_MAX;
use crate::store::sqlite::chat::notified::{self, Seen};
use crate::store::sqlite::chat::{Call, ChatRow, json, json_text, keep, mention, owner};
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::tx::{ReadTx, Tx};
use rusqlite::params;

/// Memberships, or groups, that one call forgets.
const CHUNK: i64 = 250;

const GO: &str = "UPDATE members SET gone = ?3, owner = 0, left_settings = ?4, left_version = ?5, left_count = ?6,
    spans = ?7 WHERE gid = ?1 AND user = ?2 AND gone IS NULL";
const LEFT: &str = "SELECT left_settings, left_version, left_count FROM members
    WHERE gid = ?1 AND user = ?2 AND left_settings IS NOT NULL";
/// The last edit of a message of a group: those before have no text any more.
pub(in crate::store::sqlite) const CHANGED_AT: &str = "SELECT row FROM chat WHERE amends = ?1 AND gone = 0";
pub(in crate::store::sqlite) const OLDEST: &str = "SELECT gid FROM members WHERE user = ?1 AND gone IS NOT NULL
    ORDER BY gone DESC LIMIT -1 OFFSET ?2";
pub(in crate::store::sqlite) const ENDED: &str =
    "SELECT gid, user FROM members WHERE gone <= ?1 ORDER BY gone LIMIT ?2";
/// Members of whose oldest span nothing is kept any more.
pub(in crate::store::sqlite) const SPAN_ENDED: &str =
    "SELECT gid, user FROM members WHERE spans IS NOT NULL AND json_extract(spans, '$[0][2]') <= ?1 LIMIT ?2";
const SET_SPANS: &str = "UPDATE members SET spans = ?3 WHERE gid = ?1 AND user = ?2";
pub(in crate::store::sqlite) const EMPTY: &str = "SELECT gid FROM chat_groups INDEXED BY chat_groups_ended
    WHERE members = 0 AND newest <= ?1 AND NOT EXISTS (SELECT 1 FROM members m WHERE m.gid = chat_groups.gid) LIMIT ?2";
const FORGET_GROUP: &str = "DELETE FROM chat_groups WHERE gid = ?1";
/// What a user has of a group, beside what was written there.
const FORGET: [&str; 4] = [
    "DELETE FROM members WHERE gid = ?1 AND user = ?2",
    "DELETE FROM contacts WHERE other = ?1 AND user = ?2",
    "DELETE FROM mentions WHERE peer = ?1 AND user = ?2",
    "DELETE FROM pushed WHERE peer = ?1 AND user = ?2",
];

/// A member goes by the notice that is written next, at `row`. Whether it was one.
pub(super) fn go(tx: &Tx<'_>, (group, name): (&Group, &Owner), user: &Owner, row: Row) -> rusqlite::Result<bool> {
    let Some(member) = Member::load(tx, name, user)? else { return Ok(false) };
    let (version, count) = (sql_ms(group.version + 1), sql_ms(group.count + 1));
    let (settings, spans) = (json_text(&group.settings)?, span::text(&member.spans_up_to(row))?);
    let values = params![name.as_str(), user.as_str(), row, settings, version, count, spans];
    Ok(tx.execute(GO, values)? > 0)
}

/// Nothing of the group is unread or shown any more for who went by the notice `sid`.
pub(super) fn clear(
    tx: &mut Tx<'_>,
    (user, name): (&Owner, &Owner),
    sid: Sid,
    (by, connected): (Option<&Device>, &[Device]),
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    mention::read(tx, user, name, sid.row())?;
    notified::clear(tx, &Seen { user, peer: name, sid, up_to: true }, by, connected, call)?;
    for group in tx.all(OLDEST, params![user.as_str(), USER_FORMER_GROUPS_MAX as i64], |row| owner(row, 0))? {
        forget(tx, &group, user)?;
    }
    Ok(())
}

fn forget(tx: &Tx<'_>, name: &Owner, user: &Owner) -> rusqlite::Result<()> {
    FORGET.iter().try_for_each(|sql| tx.execute(sql, params![name.as_str(), user.as_str()]).map(drop))
}

/// What somebody sees a group as: who is gone as it was then.
pub(super) struct GroupView {
    pub(super) settings: GroupSettings,
    pub(super) version: u64,
    pub(super) count: u64,
}

impl GroupView {
    pub(super) fn of(
        tx: &ReadTx<'_>,
        (name, user): (&Owner, &Owner),
        (group, member): (&Group, &Member),
    ) -> rusqlite::Result<Self> {
        if member.gone.is_some() {
            let left = tx.one(LEFT, params![name.as_str(), user.as_str()], |row| {
                Ok(Self { settings: json(row, 0)?, version: from_sql(row.get(1)?), count: from_sql(row.get(2)?) })
            })?;
            return Ok(left.unwrap_or_else(|| Self { settings: GroupSettings::default(), version: 0, count: 0 }));
        }
        Ok(Self { settings: group.settings.clone(), version: group.version, count: group.count })
    }
}

/// Whether a message was last edited while `user` was not in its group: the words that are kept are not for such a reader.
pub(in crate::store::sqlite::chat) fn is_changed_meanwhile(
    tx: &ReadTx<'_>,
    user: &Owner,
    row: &ChatRow,
) -> rusqlite::Result<bool> {
    if row.amends.is_some() || row.writer == *user {
        return Ok(false);
    }
    // Who has never gone may read what follows on anything that it may read.
    let Some(member) = Member::now_or_before(tx, &row.peer, user)?.filter(|member| !member.over.is_empty()) else {
        return Ok(false);
    };
    let changed_at = tx.all(CHANGED_AT, [row.sid.row()], |row| row.get(0))?;
    Ok(changed_at.into_iter().any(|row| !member.may_read(row)))
}

/// Whether anything has changed a message since it was written.
pub(super) fn is_changed(tx: &ReadTx<'_>, row: &ChatRow) -> rusqlite::Result<bool> {
    tx.exists(CHANGED_AT, [row.sid.row()])
}

/// Forgets the spans of a member that ended up to here.
fn forget_spans(tx: &Tx<'_>, (name, user): (&Owner, &Owner), floor: Row) -> rusqlite::Result<()> {
    let Some(Member { mut over, .. }) = Member::now_or_before(tx, name, user)? else { return Ok(()) };
    over.retain(|span| span.last > floor);
    tx.execute(SET_SPANS, params![name.as_str(), user.as_str(), span::text(&over)?]).map(drop)
}

/// Forgets memberships, spans of them, and groups of which nothing is kept any more, a chunk of each. Whether there are more.
pub(in crate::store::sqlite::chat) fn sweep(tx: &Tx<'_>) -> rusqlite::Result<bool> {
    let floor = keep::floor(tx)?;
    let ended = tx.all(ENDED, params![floor, CHUNK], |row| Ok((owner(row, 0)?, owner(row, 1)?)))?;
    ended.iter().try_for_each(|(name, user)| forget(tx, name, user))?;
    let spans = tx.all(SPAN_ENDED, params![floor, CHUNK], |row| Ok((owner(row, 0)?, owner(row, 1)?)))?;
    spans.iter().try_for_each(|(name, user)| forget_spans(tx, (name, user), floor))?;
    let empty = tx.all(EMPTY, params![floor, CHUNK], |row| owner(row, 0))?;
    empty.iter().try_for_each(|name| tx.execute(FORGET_GROUP, [name.as_str()]).map(drop))?;
    Ok(ended.len().max(spans.len()).max(empty.len()) as i64 >= CHUNK)
}

//! Groups on disk: a row for each, one for each member, and the messages in `chat` whose `peer` is the group.
//!
//! What a message costs does not depend on how many have a device: its body is one row, its author's positions move, and each
//! member gets a document without a payload, which is composed when somebody reads it.

pub(in crate::store) mod amend;
pub(in crate::store) mod bal_copy;
pub(in crate::store) mod explain;
pub(in crate::store) mod former;
pub(in crate::store) mod invited;
pub(in crate::store) mod members;
pub(in crate::store) mod membership;
pub(in crate::store) mod message;
pub(in crate::store) mod own_copy;
pub(in crate::store) mod position;
pub(in crate::store) mod push;
pub(in crate::store) mod screen;
pub(in crate::store) mod span;
pub(in crate::store) mod state;
pub(in crate::store) mod tombstones;

use super::message::document_of;
use super::{ChatRow, json, json_text, mention, people};
use crate::chat::group::{EVERYBODY, GroupRole, GroupSettings};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::EXPORT_PAGE;
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::tx::{ReadTx, Tx};
use former::GroupView;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json as object};
use span::Span;
use tombstones::Tombstones;

const LOAD: &str = "SELECT settings, version, members, count, counted, dropped, newest FROM chat_groups WHERE gid = ?1";
const SAVE: &str = "INSERT INTO chat_groups (gid, settings, version, members, count, counted, dropped, newest)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT (gid) DO UPDATE SET settings = excluded.settings, version = excluded.version,
        members = excluded.members, count = excluded.count, counted = excluded.counted, dropped = excluded.dropped,
        newest = excluded.newest";
pub(in crate::store::sqlite) const MEMBER: &str =
    "SELECT owner, came, reads_from, gone, read, read_counted, received, deleted, archived, bal, spans FROM members
    WHERE gid = ?1 AND user = ?2";
pub(in crate::store::sqlite) const GROUPS_OF: &str = "SELECT gid, came, gone, spans FROM members WHERE user = ?1";
pub(in crate::store::sqlite) const UNREAD: &str =
    "SELECT m.gid, m.read, max(0, g.counted - max(m.read_counted, g.dropped)) FROM members m
    JOIN chat_groups g ON g.gid = m.gid
    WHERE m.user = ?1 AND m.gone IS NULL AND g.counted > max(m.read_counted, g.dropped)";
pub(in crate::store::sqlite) const EXPORTED: &str =
    "SELECT gid FROM members WHERE user = ?1 AND gid > ?2 ORDER BY gid LIMIT ?3";
/// Messages behind a row that were counted and are not unread, beside tombstones: those of which the member has no own copy, and its
/// own.
pub(in crate::store::sqlite) const DELETED_BEHIND: &str =
    "SELECT count(*) FROM deleted d CROSS JOIN chat c ON c.row = d.row
    WHERE d.user = ?2 AND d.peer = ?1 AND d.row > ?3 AND c.gone = 0 AND c.kind = 0";
pub(in crate::store::sqlite) const OWN_BEHIND: &str = "SELECT count(*) FROM chat INDEXED BY chat_pair
    WHERE peer = ?1 AND writer = ?2 AND row > ?3 AND kind = 0 AND gone = 0
    AND NOT EXISTS (SELECT 1 FROM deleted d WHERE d.user = ?2 AND d.peer = ?1 AND d.row = chat.row)";

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) settings: GroupSettings,
    pub(super) version: u64,
    pub(super) members: u64,
    count: u64,
    counted: u64,
    dropped: u64,
    newest: Row,
}

/// The place of a message in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    n: u64,
    counted: u64,
}

impl Group {
    fn new(settings: GroupSettings) -> Self {
        Self { settings, version: 0, members: 0, count: 0, counted: 0, dropped: 0, newest: Row(0) }
    }

    pub(super) fn load(tx: &ReadTx<'_>, group: &Owner) -> rusqlite::Result<Option<Self>> {
        let count = |row: &rusqlite::Row<'_>, column| row.get(column).map(from_sql);
        tx.one(LOAD, [group.as_str()], |row| {
            Ok(Self {
                settings: json(row, 0)?,
                version: count(row, 1)?,
                members: count(row, 2)?,
                count: count(row, 3)?,
                counted: count(row, 4)?,
                dropped: count(row, 5)?,
                newest: row.get(6)?,
            })
        })
    }

    fn save(&self, tx: &Tx<'_>, group: &Owner) -> rusqlite::Result<()> {
        let Self { settings, version, members, count, counted, dropped, newest } = self;
        let number = |count: &u64| sql_ms(*count);
        let values = params![
            group.as_str(),
            json_text(settings)?,
            number(version),
            number(members),
            number(count),
            number(counted),
            number(dropped),
            newest
        ];
        tx.execute(SAVE, values).map(drop)
    }

    /// Gives something that is written its place.
    fn place(&mut self, sid: Sid, counts: bool) -> Place {
        self.count += 1;
        self.counted += u64::from(counts);
        self.newest = sid.row();
        Place { n: self.count, counted: self.counted }
    }

    /// What is unread for a member who has read up to a row, where so many counted.
    fn unread(
        &self,
        tx: &ReadTx<'_>,
        (name, user): (&Owner, &Owner),
        (read, read_counted): (Row, u64),
    ) -> rusqlite::Result<u64> {
        let behind = self.counted.saturating_sub(read_counted.max(self.dropped));
        less_gone(tx, (name, user), (read, behind), &mut Tombstones::default())
    }
}

/// A message that counts, with its place, is about to be dropped.
pub(super) fn handle_dropped(tx: &Tx<'_>, row: &ChatRow) -> rusqlite::Result<()> {
    const DROPPED: &str = "UPDATE chat_groups SET dropped = max(dropped, ?2) WHERE gid = ?1";
    tx.execute(DROPPED, params![row.peer.as_str(), sql_ms(row.theirs_reader)])?;
    forget_mentions(tx, row)
}

/// The message names nobody any more.
pub(in crate::store::sqlite) fn forget_mentions(tx: &Tx<'_>, row: &ChatRow) -> rusqlite::Result<()> {
    let kept: Value = serde_json::from_slice(&document_of(tx, row, &row.peer)?).unwrap_or_default();
    let names = kept["mentions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(group) = row.peer.group().filter(|_| !names.is_empty()) else { return Ok(()) };
    let is_named = |user: &Owner| names.iter().any(|name| name == EVERYBODY || name == user.as_str());
    let members = members::names(tx, &group)?;
    members
        .iter()
        .filter(|user| is_named(user))
        .try_for_each(|user| mention::forget(tx, user, &row.peer, row.sid.row()))
}

/// Somebody who is in a group, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) role: GroupRole,
    came: Row,
    reads_from: Row,
    gone: Option<Row>,
    read: Row,
    read_counted: u64,
    received: Row,
    deleted: Row,
    archived: Row,
    is_bal: bool,
    /// When it was in the group, as far as that is over: the oldest first.
    over: Vec<Span>,
}

impl Member {
    /// Whoever is in the group now.
    pub(super) fn load(tx: &ReadTx<'_>, group: &Owner, user: &Owner) -> rusqlite::Result<Option<Self>> {
        Ok(Self::now_or_before(tx, group, user)?.filter(|member| member.gone.is_none()))
    }

    fn now_or_before(tx: &ReadTx<'_>, group: &Owner, user: &Owner) -> rusqlite::Result<Option<Self>> {
        Self::find(tx.conn, group, user)
    }

    fn find(conn: &Connection, group: &Owner, user: &Owner) -> rusqlite::Result<Option<Self>> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Self {
                role: role(row.get(0)?),
                came: row.get(1)?,
                reads_from: row.get(2)?,
                gone: row.get(3)?,
                read: row.get(4)?,
                read_counted: from_sql(row.get(5)?),
                received: row.get(6)?,
                deleted: row.get(7)?,
                archived: row.get(8)?,
                is_bal: row.get(9)?,
                over: span::read(row, 10)?,
            })
        };
        conn.prepare_cached(MEMBER)?.query_row(params![group.as_str(), user.as_str()], read).optional()
    }

    /// When it was in the group, and is: the newest first.
    fn spans(&self) -> impl Iterator<Item = Span> {
        let Self { came, reads_from, received, read, .. } = *self;
        let now = Span { came, reads_from, last: Row(i64::MAX), received, read };
        let now = self.gone.is_none().then_some(now);
        now.into_iter().chain(self.over.iter().rev().copied())
    }

    /// Whether what was written at `row` is something that this one may read.
    fn may_read(&self, row: Row) -> bool {
        self.spans().any(|span| span.has(row))
    }
}

fn role(owns: bool) -> GroupRole {
    if owns { GroupRole::Owner } else { GroupRole::Member }
}

/// A page of the groups of a user behind `after`, as an export has them.
pub(super) fn exported(tx: &ReadTx<'_>, user: &Owner, after: &str) -> rusqlite::Result<Vec<(String, Value)>> {
    let names = tx.all(EXPORTED, params![user.as_str(), after, EXPORT_PAGE as i64], |row| super::owner(row, 0))?;
    let mut items = Vec::with_capacity(names.len());
    for name in names {
        let (Some(group), Some(member)) = (Group::load(tx, &name)?, Member::now_or_before(tx, &name, user)?) else {
            continue;
        };
        let is_in = member.gone.is_none();
        let read = message::by_row(tx, member.read)?.map(|row| row.sid.to_string());
        let view = GroupView::of(tx, (&name, user), (&group, &member))?;
        let unread = if is_in { group.unread(tx, (&name, user), (member.read, member.read_counted))? } else { 0 };
        let item = object!({
            "kind": "group", "group": name.as_str(), "settings": view.settings, "version": view.version,
            "member": is_in, "role": member.role, "unread": unread, "read": read,
        });
        items.push((name.as_str().to_owned(), item));
    }
    Ok(items)
}

/// Whether `user` may read a message of a group.
pub(super) fn may_read(tx: &ReadTx<'_>, row: &ChatRow, user: &Owner) -> rusqlite::Result<bool> {
    Ok(row.writer == *user || is_member_of(tx.conn, row, user)?)
}

/// Whether `user` is in the group, or was.
pub(super) fn was_member(tx: &ReadTx<'_>, group: &Owner, user: &Owner) -> rusqlite::Result<bool> {
    Ok(Member::now_or_before(tx, group, user)?.is_some())
}

/// Whether a message of a group is one that `user` may read as a member, or as one who was.
pub(super) fn is_member_of(conn: &Connection, row: &ChatRow, user: &Owner) -> rusqlite::Result<bool> {
    let member = Member::find(conn, &row.peer, user)?;
    Ok(member.is_some_and(|member| member.may_read(row.sid.row())))
}

/// Unread messages of the user in all groups.
pub(super) fn unread(tx: &ReadTx<'_>, user: &Owner, tombstones: &mut Tombstones) -> rusqlite::Result<u64> {
    let behind = tx.all(UNREAD, [user.as_str()], |row| {
        Ok((super::owner(row, 0)?, row.get::<_, Row>(1)?, from_sql(row.get(2)?)))
    })?;
    behind
        .into_iter()
        .try_fold(0, |sum, (name, read, behind)| Ok(sum + less_gone(tx, (&name, user), (read, behind), tombstones)?))
}

/// Of so many messages behind a row those that are still to be read.
fn less_gone(
    tx: &ReadTx<'_>,
    (name, user): (&Owner, &Owner),
    (read, behind): (Row, u64),
    tombstones: &mut Tombstones,
) -> rusqlite::Result<u64> {
    if behind == 0 {
        return Ok(0);
    }
    let of_user = |sql| tx.one(sql, params![name.as_str(), user.as_str(), read], |row| row.get(0).map(from_sql));
    let (deleted, own) = (of_user(DELETED_BEHIND)?.unwrap_or_default(), of_user(OWN_BEHIND)?.unwrap_or_default());
    Ok(behind.saturating_sub(tombstones.behind(tx, name, read)? + deleted + own))
}

/// A group of a user.
pub(super) struct OfUser {
    pub(super) group: Owner,
    /// What was written while the user was in it, the oldest first: behind the first row, up to the second.
    pub(super) spans: Vec<(Row, Row)>,
}

/// The groups in which a user is, or was.
pub(super) fn groups_of(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Vec<OfUser>> {
    tx.all(GROUPS_OF, [user.as_str()], |row| {
        let (came, gone) = (row.get::<_, Row>(1)?, row.get::<_, Option<Row>>(2)?);
        let now = gone.is_none().then_some((came, Row(i64::MAX)));
        let over = span::read(row, 3)?.into_iter().map(|span| (span.came, span.last));
        let spans = over.chain(now).map(|(came, last)| (Row(came.0 - 1), last)).collect();
        Ok(OfUser { group: super::owner(row, 0)?, spans })
    })
}

/// Whether what `writer` writes in a group comes to `reader` without its content.
pub(super) fn is_hidden_from(tx: &ReadTx<'_>, writer: &Owner, reader: &Owner) -> rusqlite::Result<bool> {
    Ok(writer != reader && people::entry(tx, reader, writer)?.blocked)
}

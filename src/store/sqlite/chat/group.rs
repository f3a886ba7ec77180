//! Groups on disk: a row for each, one for each member, and the messages in `chat` whose `peer` is the group.
//!
//! What a message costs does not depend on how many have a device: its body is one row, its author's positions move, and each
//! member gets a document without a payload, which is composed when somebody reads it.

pub(in crate::store) mod message;
pub(in crate::store) mod position;
pub(in crate::store) mod push;
pub(in crate::store) mod roster;

use super::{ChatRow, json, json_text, people};
use crate::chat::group::{GroupRole, GroupSettings};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::tx::Tx;
use rusqlite::{Connection, params};

const LOAD: &str = "SELECT settings, version, members, count, counted, dropped, newest FROM chat_groups WHERE gid = ?1";
const SAVE: &str = "INSERT INTO chat_groups (gid, settings, version, members, count, counted, dropped, newest)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT (gid) DO UPDATE SET settings = excluded.settings, version = excluded.version,
        members = excluded.members, count = excluded.count, counted = excluded.counted, dropped = excluded.dropped,
        newest = excluded.newest";
pub(in crate::store::sqlite) const MEMBER: &str =
    "SELECT owner, came, reads_from, gone, read, read_counted, received FROM members WHERE gid = ?1 AND user = ?2";
pub(in crate::store::sqlite) const GROUPS_OF: &str = "SELECT m.gid, m.came, m.gone, g.newest FROM members m
    JOIN chat_groups g ON g.gid = m.gid WHERE m.user = ?1";
pub(in crate::store::sqlite) const UNREAD: &str =
    "SELECT sum(max(0, g.counted - max(m.read_counted, g.dropped))) FROM members m JOIN chat_groups g ON g.gid = m.gid
    WHERE m.user = ?1 AND m.gone IS NULL";

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

    pub(super) fn load(tx: &Tx<'_>, group: &Owner) -> rusqlite::Result<Option<Self>> {
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

    /// What is unread for a member.
    fn unread(&self, read_counted: u64) -> u64 {
        self.counted.saturating_sub(read_counted.max(self.dropped))
    }

    /// A message that counts, with its place, is not kept any more.
    pub(super) fn handle_dropped(tx: &Tx<'_>, row: &ChatRow) -> rusqlite::Result<()> {
        const DROPPED: &str = "UPDATE chat_groups SET dropped = max(dropped, ?2) WHERE gid = ?1";
        tx.execute(DROPPED, params![row.peer.as_str(), sql_ms(row.theirs_reader)]).map(drop)
    }
}

/// Somebody who is in a group, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) role: GroupRole,
    came: Row,
    reads_from: Row,
    gone: Option<Row>,
    read: Row,
    read_counted: u64,
    received: Row,
}

impl Member {
    /// Whoever is in the group now.
    pub(super) fn load(tx: &Tx<'_>, group: &Owner, user: &Owner) -> rusqlite::Result<Option<Self>> {
        Ok(Self::now_or_before(tx, group, user)?.filter(|member| member.gone.is_none()))
    }

    fn now_or_before(tx: &Tx<'_>, group: &Owner, user: &Owner) -> rusqlite::Result<Option<Self>> {
        tx.one(MEMBER, params![group.as_str(), user.as_str()], |row| {
            Ok(Self {
                role: role(row.get(0)?),
                came: row.get(1)?,
                reads_from: row.get(2)?,
                gone: row.get(3)?,
                read: row.get(4)?,
                read_counted: from_sql(row.get(5)?),
                received: row.get(6)?,
            })
        })
    }

    /// Whether what was written at `row` is something that this one may read.
    fn may_read(&self, row: Row) -> bool {
        row >= self.reads_from && self.gone.is_none_or(|gone| row <= gone)
    }
}

fn role(owns: bool) -> GroupRole {
    if owns { GroupRole::Owner } else { GroupRole::Member }
}

/// Whether `user` may read a message of a group.
pub(super) fn may_read(tx: &Tx<'_>, row: &ChatRow, user: &Owner) -> rusqlite::Result<bool> {
    let member = Member::now_or_before(tx, &row.peer, user)?;
    Ok(row.writer == *user || member.is_some_and(|member| member.may_read(row.sid.row())))
}

/// The same for what is only read.
pub(super) fn is_member_of(conn: &Connection, row: &ChatRow, user: &Owner) -> rusqlite::Result<bool> {
    const MAY_READ: &str = "SELECT 1 FROM members WHERE gid = ?1 AND user = ?2 AND reads_from <= ?3
        AND (gone IS NULL OR gone >= ?3)";
    conn.prepare_cached(MAY_READ)?.exists(params![row.peer.as_str(), user.as_str(), row.sid.row()])
}

/// Unread messages of the user in all groups.
pub(super) fn unread(tx: &Tx<'_>, user: &Owner) -> rusqlite::Result<u64> {
    Ok(tx.one(UNREAD, [user.as_str()], |row| row.get::<_, Option<i64>>(0))?.flatten().map_or(0, from_sql))
}

/// A group of a user, and the rows of it that are the user's.
pub(super) struct OfUser {
    pub(super) group: Owner,
    /// Behind it.
    pub(super) came: Row,
    /// Up to it.
    pub(super) gone: Option<Row>,
    pub(super) newest: Row,
}

/// The groups in which a user is, or was.
pub(super) fn groups_of(tx: &Tx<'_>, user: &Owner) -> rusqlite::Result<Vec<OfUser>> {
    tx.all(GROUPS_OF, [user.as_str()], |row| {
        Ok(OfUser { group: super::owner(row, 0)?, came: row.get(1)?, gone: row.get(2)?, newest: row.get(3)? })
    })
}

/// Whether what `writer` writes in a group comes to `reader` without its content.
pub(super) fn is_hidden_from(tx: &Tx<'_>, writer: &Owner, reader: &Owner) -> rusqlite::Result<bool> {
    Ok(writer != reader && people::entry(tx, reader, writer)?.blocked)
}

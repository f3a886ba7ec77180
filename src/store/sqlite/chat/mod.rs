//! Chat between users: what they wrote, how far they have read, and the pushes to their devices.
//!
//! A message is one row of `chat` and a change of the row of its conversation; what its readers get are documents of the
//! outbox, composed from the row in the same transaction. A push to a device is a row of `deliveries` of which no status is
//! told ([`push`]); `pushed` remembers which devices may show a notification.

/// A query of [`ChatRow`]s: its columns, and what follows them.
macro_rules! chat_rows {
    ($rest:literal) => {
        concat!(
            "SELECT row, tail, kind, writer, by_bal, id, peer, dev, at, n_writer, n_reader, theirs_writer, theirs_reader,
            hidden, receipt, waits, deadline, amends, gone FROM chat ",
            $rest
        )
    };
}

pub(in crate::store) mod amend;
pub(in crate::store) mod calls;
pub(in crate::store) mod conversations;
pub(in crate::store) mod deletion;
pub(in crate::store) mod device;
pub(in crate::store) mod ended_invitations;
pub(in crate::store) mod events;
pub(in crate::store) mod expired;
pub(in crate::store) mod explain;
pub(in crate::store) mod export;
pub(in crate::store) mod group;
pub(in crate::store) mod history;
pub(in crate::store) mod invitation;
pub(in crate::store) mod keep;
pub(in crate::store) mod mention;
pub(in crate::store) mod message;
pub(in crate::store) mod named;
pub(in crate::store) mod notified;
pub(in crate::store) mod people;
pub(in crate::store) mod position;
pub(in crate::store) mod push;
pub(in crate::store) mod scheduled;
pub(in crate::store) mod sync;
pub(in crate::store) mod test_push;
pub(in crate::store) mod unpushed;

use super::erase;
use super::outbox::{self, Document};
use super::tx::{ReadTx, Tx};
use crate::chat::conversation::{Conversation, Side, pair};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::topic::inbox_topic;
use crate::store::sqlite::column::{from_sql, sid, sql_ms};
use crate::store::{ChatCall, ChatPolicy, Origin, StoreFigures};
use group::tombstones::Tombstones;
use rusqlite::params;
use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;

const LOAD: &str = "SELECT standing, newest_first, newest_second FROM conversations WHERE first = ?1 AND second = ?2";
const SAVE: &str = "INSERT INTO conversations (first, second, standing, newest_first, newest_second)
    VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (first, second) DO UPDATE SET standing = excluded.standing,
    newest_first = excluded.newest_first, newest_second = excluded.newest_second";
const WRITE_FIGURES: &str = "UPDATE marks SET chat_rows = ?1, chat_bytes = ?2";
pub(in crate::store::sqlite) const BY_SID: &str = chat_rows!("WHERE row = ?1 AND tail = ?2");

/// A verb while it is done: what it was asked with, and the ids for pushes that it has not used.
pub(in crate::store) struct Call<'a> {
    /// Unix milliseconds.
    pub(super) at: u64,
    pub(super) policy: &'a ChatPolicy,
    /// Each push takes the next one, so those of a device are in the order in which they were made.
    pub(super) push_sids: std::slice::Iter<'a, Sid>,
    /// Of groups, while the verb makes none.
    pub(super) tombstones: Tombstones,
}

impl<'a> Call<'a> {
    pub(super) fn of(call: &'a ChatCall) -> Self {
        Self { at: call.at, policy: &call.policy, push_sids: call.push_sids.iter(), tombstones: Tombstones::default() }
    }
}

/// What a row of `chat` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::sqlite) enum Kind {
    Message = 0,
    Reaction = 1,
    Invitation = 2,
    Answer = 3,
    /// An edit or a retract of a message.
    Amendment = 4,
    /// Of a change of a group.
    Notice = 5,
    /// How a call ended.
    Call = 6,
    /// The offer of a call while it rings, which is a row of `calls` instead.
    Offer = -1,
}

impl Kind {
    fn from_code(code: i64) -> Option<Self> {
        let stored =
            [Self::Message, Self::Reaction, Self::Invitation, Self::Answer, Self::Amendment, Self::Notice, Self::Call];
        stored.into_iter().find(|kind| *kind as i64 == code)
    }
}

/// A row of `chat`, without its document.
#[derive(Debug, Clone)]
pub(in crate::store::sqlite) struct ChatRow {
    pub(in crate::store::sqlite) sid: Sid,
    pub(in crate::store::sqlite) kind: Kind,
    pub(in crate::store::sqlite) writer: Owner,
    pub(in crate::store::sqlite) by_bal: bool,
    pub(in crate::store::sqlite) id: Option<String>,
    pub(in crate::store::sqlite) peer: Owner,
    pub(in crate::store::sqlite) dev: Option<String>,
    pub(in crate::store::sqlite) at: u64,
    pub(in crate::store::sqlite) n_writer: Option<u64>,
    pub(in crate::store::sqlite) n_reader: Option<u64>,
    theirs_writer: u64,
    theirs_reader: u64,
    pub(in crate::store::sqlite) hidden: bool,
    /// Its writer wants to hear more of it than `sent`.
    pub(in crate::store::sqlite) receipt: bool,
    pub(in crate::store::sqlite) waits: bool,
    pub(in crate::store::sqlite) deadline: u64,
    /// The message that an edit or retract is about.
    pub(in crate::store::sqlite) amends: Option<Row>,
    /// It is a tombstone: retracted, or deleted by both sides.
    pub(in crate::store::sqlite) gone: bool,
}

impl ChatRow {
    pub(in crate::store::sqlite) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let code = row.get(2)?;
        let count = |column| row.get::<_, Option<i64>>(column).map(|count| count.map(from_sql));
        Ok(Self {
            sid: sid(row, 0, 1)?,
            kind: Kind::from_code(code).ok_or(rusqlite::Error::IntegralValueOutOfRange(2, code))?,
            writer: owner(row, 3)?,
            by_bal: row.get(4)?,
            id: row.get(5)?,
            peer: owner(row, 6)?,
            dev: row.get(7)?,
            at: from_sql(row.get(8)?),
            n_writer: count(9)?,
            n_reader: count(10)?,
            theirs_writer: from_sql(row.get(11)?),
            theirs_reader: from_sql(row.get(12)?),
            hidden: row.get(13)?,
            receipt: row.get(14)?,
            waits: row.get(15)?,
            deadline: from_sql(row.get(16)?),
            amends: row.get(17)?,
            gone: row.get(18)?,
        })
    }

    pub(super) fn by_sid(tx: &ReadTx<'_>, sid: Sid) -> rusqlite::Result<Option<Self>> {
        let (row, tail) = sid.parts();
        tx.one(BY_SID, params![row, tail], Self::read)
    }

    /// Whether `user` has it.
    pub(super) fn is_of(&self, tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<bool> {
        Ok(self.writer == *user || self.went_to(tx, user)?)
    }

    /// Whether `user` got it, be it from himself.
    pub(super) fn went_to(&self, tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<bool> {
        if self.peer.is_group() {
            return group::may_read(tx, self, user);
        }
        Ok(self.peer == *user && !self.hidden)
    }

    /// The other side of its conversation, as `user` sees it: another user, or the group.
    pub(super) fn other(&self, user: &Owner) -> &Owner {
        if self.writer == *user || self.peer.is_group() { &self.peer } else { &self.writer }
    }

    /// Whether it counts as unread: a message, or a call that was missed. Of how calls ended, that alone has a time for pushes.
    pub(super) fn counts(&self) -> bool {
        self.kind == Kind::Message || self.kind == Kind::Call && self.deadline > self.at
    }

    /// Its place among all that `user` has of the conversation.
    pub(super) fn n(&self, user: &Owner) -> Option<u64> {
        if self.writer == *user { self.n_writer } else { self.n_reader }
    }

    /// How many messages of the other side count as unread up to it, on the side of `user`.
    fn theirs(&self, user: &Owner) -> u64 {
        if self.writer == *user { self.theirs_writer } else { self.theirs_reader }
    }
}

/// Before the commit: how much is kept is written down where the batch changed it, so that no start has to count it.
pub(super) fn write_figures(tx: &Tx<'_>) -> rusqlite::Result<()> {
    let of = |figures: &StoreFigures| (figures.chat_rows, figures.chat_bytes);
    let (rows, bytes) = of(&tx.memory_draft.figures);
    if (rows, bytes) != of(&tx.memory.figures) {
        tx.execute(WRITE_FIGURES, [sql_ms(rows), sql_ms(bytes)])?;
    }
    Ok(())
}

/// The conversation of two, and on which side of it `one` is.
pub(in crate::store::sqlite) fn load(
    tx: &ReadTx<'_>,
    one: &Owner,
    other: &Owner,
) -> rusqlite::Result<(Conversation, Side)> {
    let (first, second, side) = pair(one, other);
    let read = |row: &rusqlite::Row<'_>| Ok(json::<Conversation>(row, 0)?.with_last(row.get(1)?, row.get(2)?));
    let found = tx.one(LOAD, params![first.as_str(), second.as_str()], read)?;
    Ok((found.unwrap_or_default(), side))
}

pub(in crate::store::sqlite) fn save(
    tx: &Tx<'_>,
    one: &Owner,
    other: &Owner,
    conversation: &Conversation,
) -> rusqlite::Result<()> {
    let (first, second, _) = pair(one, other);
    let [newest_first, newest_second] = [Side::First, Side::Second].map(|side| conversation.of(side).last);
    let values = params![first.as_str(), second.as_str(), json_text(conversation)?, newest_first, newest_second];
    tx.execute(SAVE, values).map(drop)
}

/// Tells a user something that is dropped where nobody reads it.
pub(super) fn tell(tx: &mut Tx<'_>, user: &Owner, suffix: &str, payload: &[u8], at: u64) -> rusqlite::Result<()> {
    document(tx, user, suffix, Origin::UserNote, payload, at)
}

fn document(
    tx: &mut Tx<'_>,
    user: &Owner,
    suffix: &str,
    origin: Origin,
    payload: &[u8],
    at: u64,
) -> rusqlite::Result<()> {
    if erase::is_taken(tx, user.as_str())? {
        return Ok(());
    }
    document_on(tx, &inbox_topic(user, suffix), origin, payload, at)
}

fn document_on(tx: &mut Tx<'_>, topic: &str, origin: Origin, payload: &[u8], at: u64) -> rusqlite::Result<()> {
    let seq = outbox::queue(tx, &Document { topic, origin, at, correlation: None, payload })?;
    expired::note_document(tx, origin, topic, seq)
}

pub(in crate::store::sqlite) fn owner(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Owner> {
    Owner::of_any(row.get_ref(column)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(in crate::store::sqlite) fn json<T: DeserializeOwned>(
    row: &rusqlite::Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(in crate::store::sqlite) fn json_text(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

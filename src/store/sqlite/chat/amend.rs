//! Edits and retracts: a row of its own each, so that who catches up gets it in its order, and a change of the message that it is
//! about, which is the only one that has the text.
//!
//! What is swallowed by a block changes the message as its writer has it, and leaves it to the reader as it was: neither may a
//! blocked user change what others read, nor hear that it did not.

use super::message::{admission, copy, document_of, for_bal, insert, is_full, refused, tell_writer};
use super::notified::{self, Seen};
use super::{Call, ChatRow, Kind, deletion, expired, load, mention, people, save};
use crate::chat::amendment::{Amendment, EDITED_BYTES_MAX, Why, edited, is_tombstone, tombstone};
use crate::chat::contact::What;
use crate::chat::id::{Owner, Row};
use crate::chat::message::ErrorCode;
use crate::chat::principal::Role;
use crate::store::sqlite::column::from_sql;
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::sqlite::upstream;
use crate::store::{ChatOutcome, NewChatMessage};
use rusqlite::params;
use serde_json::Value;

/// Earlier changes of a message that may have a text: the newest, and one more where a block swallowed some.
pub(in crate::store::sqlite) const EARLIER: &str = chat_rows!("INDEXED BY chat_amends WHERE amends = ?1 AND gone = 0");
const LENGTH: &str = "SELECT length(document) + coalesce(length(own), 0) FROM chat WHERE row = ?1";
pub(super) const REPLACE: &str = "UPDATE chat SET document = ?2, own = NULL WHERE row = ?1";
const REPLACE_OWN: &str = "UPDATE chat SET own = ?2 WHERE row = ?1";
pub(super) const GONE: &str = "UPDATE chat SET gone = 1 WHERE row = ?1";

pub(super) fn write(
    tx: &mut Tx<'_>,
    new: &NewChatMessage,
    amends: Amendment,
    call: &mut Call<'_>,
) -> rusqlite::Result<ChatOutcome> {
    let (from, to) = (&new.from, &new.to);
    // Before it is asked who the other one is: a `ref` of something else would tell who exists, as often as one asks.
    let is_meant =
        |row: &ChatRow| matches!(row.kind, Kind::Message | Kind::Reaction) && *row.other(&from.name) == to.name;
    let about = new.message.about.first().map_or(Ok(None), |sid| ChatRow::by_sid(tx, *sid))?.filter(is_meant);
    let is_own = about.as_ref().map_or(Ok(false), |row| row.is_of(tx, &from.name))?;
    let Some(message) = about.filter(|_| is_own) else {
        return Ok(refused(new, ErrorCode::NotFound, "`ref` names no message of the conversation"));
    };
    if message.writer != from.name {
        return Ok(refused(new, ErrorCode::Forbidden, "`ref` names a message of somebody else"));
    }
    // Whoever takes something back writes nothing that could be unwanted.
    let what = if amends == Amendment::Retract { What::Invitation } else { What::Message };
    let admission = match admission(tx, what, from, to, call)? {
        Ok(admission) => admission,
        Err(rejection) => return Ok(ChatOutcome::Refused(rejection.about(new.message.id.clone()))),
    };
    let document = new.message.to_bytes();
    let before = Texts::of(tx, &message)?;
    if let Err(code) = before.may_be(amends) {
        return Ok(refused(new, code, "the message is retracted or deleted"));
    }
    let after = before.changed(amends, &document, call.at);
    if after.own.len() > EDITED_BYTES_MAX {
        let detail = format!("the message would be longer than {EDITED_BYTES_MAX} bytes");
        return Ok(refused(new, ErrorCode::TooBig, &detail));
    }
    // The reader's alone is too long where a block swallowed what made it shorter: a refusal would tell of the block.
    let swallowed = admission.is_swallowed() || after.theirs.len() > EDITED_BYTES_MAX;
    let amendment = Amended { message, amends, swallowed };
    if is_full(tx, new, &document) {
        return Ok(ChatOutcome::Full);
    }
    let row = amendment.row(tx, new, call.at)?;
    expired::note_amendment(tx, &row)?;
    amendment.replace(tx, &before, &after)?;
    tell(tx, new, (&amendment, &row), &document, call.at)?;
    insert(tx, &row, None::<&()>, &document)?;
    if !row.hidden && to.role != Some(Role::Bal) {
        amendment.follow_at_reader(tx, new, &after.theirs, call)?;
    }
    Ok(ChatOutcome::Done {
        seen: Vec::new(),
        stranger: admission.is_of_stranger(),
        waits: false,
        confirmed: Vec::new(),
    })
}

/// What a message says: as its writer has it, and as its reader does. They differ where a block swallowed what was changed.
struct Texts {
    own: Vec<u8>,
    theirs: Vec<u8>,
}

impl Texts {
    fn of(tx: &ReadTx<'_>, message: &ChatRow) -> rusqlite::Result<Self> {
        Ok(Self { own: document_of(tx, message, &message.writer)?, theirs: document_of(tx, message, &message.peer)? })
    }

    /// Whether there is still something that can be changed, as far as its writer knows: that a reader has kept what was taken
    /// back while it had blocked the writer would tell of the block.
    fn may_be(&self, amends: Amendment) -> Result<(), ErrorCode> {
        match amends {
            _ if !is_tombstone(&self.own) => Ok(()),
            Amendment::Edit => Err(ErrorCode::NotFound),
            Amendment::Retract => Err(ErrorCode::Duplicate),
        }
    }

    /// Each of them changed by itself: nobody gets by a later change what was swallowed before.
    fn changed(&self, amends: Amendment, change: &[u8], at: u64) -> Self {
        let changed = |kept: &[u8]| match amends {
            Amendment::Edit if is_tombstone(kept) => kept.to_vec(),
            Amendment::Edit => edited(kept, change, at),
            Amendment::Retract => tombstone(kept, Why::Retracted),
        };
        Self { own: changed(&self.own), theirs: changed(&self.theirs) }
    }
}

/// A message that is edited or retracted.
struct Amended {
    message: ChatRow,
    amends: Amendment,
    /// The reader, who has the message, does not get it.
    swallowed: bool,
}

impl Amended {
    /// The row of the edit or retract itself: beside the messages of the conversation, without a place.
    fn row(&self, tx: &ReadTx<'_>, new: &NewChatMessage, at: u64) -> rusqlite::Result<ChatRow> {
        let (conversation, by) = load(tx, &new.from.name, &new.to.name)?;
        Ok(ChatRow {
            sid: new.sid,
            kind: Kind::Amendment,
            writer: new.from.name.clone(),
            by_bal: new.from.role == Role::Bal,
            id: new.message.id.as_ref().map(|id| id.as_str().to_owned()),
            peer: new.to.name.clone(),
            dev: new.from.dev.as_ref().map(|dev| dev.as_str().to_owned()),
            at,
            n_writer: None,
            n_reader: None,
            theirs_writer: conversation.of(by).theirs,
            theirs_reader: conversation.of(by.other()).theirs,
            hidden: self.swallowed || self.message.hidden,
            // Of a message it is told whether it came; of a change of it, that it is on disk.
            receipt: false,
            waits: false,
            deadline: at,
            amends: Some(self.message.sid.row()),
            gone: false,
        })
    }

    /// The message gets its text, or its tombstone. No other row has an earlier text any more.
    fn replace(&self, tx: &mut Tx<'_>, before: &Texts, after: &Texts) -> rusqlite::Result<()> {
        let why = if self.amends == Amendment::Retract { Why::Retracted } else { Why::Edited };
        for earlier in tx.all(EARLIER, [self.message.sid.row()], ChatRow::read)? {
            let kept = document_of(tx, &earlier, &earlier.writer)?;
            if self.is_for_writer_alone(&earlier) {
                replace_by(tx, REPLACE_OWN, earlier.sid.row(), &tombstone(&kept, why))?;
            } else {
                bury_one(tx, &earlier, &tombstone(&kept, why))?;
            }
        }
        let message = self.message.sid.row();
        if self.is_for_writer_alone(&self.message) {
            return replace_by(tx, REPLACE_OWN, message, &after.own);
        }
        replace_by(tx, REPLACE, message, &after.theirs)?;
        if self.amends == Amendment::Retract {
            tx.execute(GONE, [message])?;
        } else if before.own != before.theirs {
            replace_by(tx, REPLACE_OWN, message, &after.own)?;
        }
        Ok(())
    }

    /// The reader keeps another document of this row than its writer.
    fn is_for_writer_alone(&self, row: &ChatRow) -> bool {
        self.swallowed && !row.hidden
    }

    /// What of the message may still be shown or counted at its reader.
    fn follow_at_reader(
        &self,
        tx: &mut Tx<'_>,
        new: &NewChatMessage,
        after: &[u8],
        call: &mut Call<'_>,
    ) -> rusqlite::Result<()> {
        let message = &self.message;
        let (reader, writer) = (&message.peer, &message.writer);
        let seen = Seen { user: reader, peer: writer, sid: message.sid, up_to: false };
        match self.amends {
            Amendment::Retract => {
                forget_unread(tx, reader, message)?;
                notified::clear(tx, &seen, None, &new.to.attended.devices, call)
            }
            Amendment::Edit => {
                let after: Value = serde_json::from_slice(after).unwrap_or_default();
                notified::retext(tx, &seen, after["body"].as_str().unwrap_or_default())?;
                self.mention(tx, &after)
            }
        }
    }

    /// The names in the message are others now.
    fn mention(&self, tx: &Tx<'_>, after: &Value) -> rusqlite::Result<()> {
        let Self { message, .. } = self;
        let (reader, writer, row) = (&message.peer, &message.writer, message.sid.row());
        mention::forget(tx, reader, writer, row)?;
        let names = after["mentions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (conversation, side) = load(tx, reader, writer)?;
        let is_unread = conversation.of(side).read.is_none_or(|read| read < message.sid);
        let counts = message.kind == Kind::Message && is_unread && !deletion::is_deleted(tx, reader, message)?;
        if counts && names.iter().any(|name| name == reader.as_str()) {
            mention::note(tx, reader, writer, row)?;
        }
        Ok(())
    }
}

/// The reader has the message no more: it is not unread, and names nobody.
pub(in crate::store::sqlite) fn forget_unread(tx: &Tx<'_>, reader: &Owner, message: &ChatRow) -> rusqlite::Result<()> {
    mention::forget(tx, reader, &message.writer, message.sid.row())?;
    if !message.counts() || message.hidden || deletion::is_deleted(tx, reader, message)? {
        return Ok(());
    }
    let (mut conversation, side) = load(tx, reader, &message.writer)?;
    if conversation.handle_dropped(side, message.sid) {
        save(tx, reader, &message.writer, &conversation)?;
        people::add_unread(tx, reader, -1)?;
    }
    Ok(())
}

fn tell(
    tx: &mut Tx<'_>,
    new: &NewChatMessage,
    (amended, row): (&Amended, &ChatRow),
    document: &[u8],
    at: u64,
) -> rusqlite::Result<()> {
    tell_writer(tx, row, document, at)?;
    if row.hidden {
        return Ok(());
    }
    match &new.route {
        Some(route) => upstream::receive_of_user(tx, row.sid, route, &for_bal(row, document), at).map(drop),
        // Who has deleted the own copy is told nothing of it any more.
        None if deletion::is_deleted(tx, &row.peer, &amended.message)? => Ok(()),
        None => copy(tx, row, document, &row.peer, false, at),
    }
}

/// Nothing of the text is left of a row that both sides have deleted, nor of what changed it.
pub(super) fn bury(tx: &mut Tx<'_>, row: &ChatRow) -> rusqlite::Result<()> {
    bury_as(tx, row, Why::Deleted)
}

/// The same, of what is gone for another reason.
pub(super) fn bury_as(tx: &mut Tx<'_>, row: &ChatRow, why: Why) -> rusqlite::Result<()> {
    let mut rows = tx.all(EARLIER, [row.sid.row()], ChatRow::read)?;
    rows.push(row.clone());
    for row in rows.iter().filter(|row| !row.gone) {
        let kept = document_of(tx, row, &row.peer)?;
        bury_one(tx, row, &tombstone(&kept, why))?;
    }
    Ok(())
}

/// A tombstone takes the place of what a row says, on both sides.
pub(super) fn bury_one(tx: &mut Tx<'_>, row: &ChatRow, tombstone: &[u8]) -> rusqlite::Result<()> {
    replace_by(tx, REPLACE, row.sid.row(), tombstone)?;
    tx.execute(GONE, [row.sid.row()]).map(drop)
}

pub(super) fn replace_by(tx: &mut Tx<'_>, sql: &str, row: Row, document: &[u8]) -> rusqlite::Result<()> {
    let length =
        |tx: &ReadTx<'_>| Ok::<_, rusqlite::Error>(tx.one(LENGTH, [row], |row| row.get(0).map(from_sql))?.unwrap_or(0));
    let before = length(tx)?;
    tx.execute(sql, params![row, document])?;
    let after = length(tx)?;
    let bytes = &mut tx.memory_draft.figures.chat_bytes;
    *bytes = bytes.saturating_sub(before) + after;
    Ok(())
}

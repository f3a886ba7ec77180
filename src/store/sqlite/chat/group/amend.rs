//! Edits and retracts in a group: by the writer of the message, and retracts by owners as well.

use super::members::{self, Present, present};
use super::message::{give, refused, tell, tell_author};
use super::{Group, Member, is_hidden_from};
use crate::chat::amendment::{Amendment, EDITED_BYTES_MAX, Why, edited, is_tombstone, tombstone, without_writer};
use crate::chat::group::{EVERYBODY, GroupRole, may_write, not_member};
use crate::chat::id::{Owner, Row};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::store::sqlite::chat::amend::{EARLIER, GONE, REPLACE, bury_one, replace_by};
use crate::store::sqlite::chat::message::{document_of, insert, stamped_for};
use crate::store::sqlite::chat::notified::{self, Seen};
use crate::store::sqlite::chat::push::STOP_WAITING;
use crate::store::sqlite::chat::{Call, ChatRow, Kind, deletion, expired, mention};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{GroupOutcome, NewGroupMessage};
use serde_json::Value;

pub(super) fn write(
    tx: &mut Tx<'_>,
    new: &NewGroupMessage,
    amends: Amendment,
    call: &mut Call<'_>,
) -> rusqlite::Result<GroupOutcome> {
    let name = Owner::from(new.group.clone());
    let Amended { group, message, kept } = match amended(tx, new, &name, amends)? {
        Ok(found) => found,
        Err(rejection) => return Ok(refused(new, rejection)),
    };
    let said = new.message.to_bytes();
    let after = match amends {
        Amendment::Edit => edited(&kept, &said, call.at),
        Amendment::Retract => tombstone(&kept, Why::Retracted),
    };
    if after.len() > EDITED_BYTES_MAX {
        let detail = format!("the message would be longer than {EDITED_BYTES_MAX} bytes");
        return Ok(refused(new, Rejection::new(ErrorCode::TooBig, detail)));
    }
    let why = if amends == Amendment::Retract { Why::Retracted } else { Why::Edited };
    for earlier in tx.all(EARLIER, [message.sid.row()], ChatRow::read)? {
        let text = document_of(tx, &earlier, &earlier.writer)?;
        bury_one(tx, &earlier, &tombstone(&text, why))?;
    }
    replace_by(tx, REPLACE, message.sid.row(), &after)?;
    if amends == Amendment::Retract {
        tx.execute(GONE, [message.sid.row()])?;
        tx.execute(STOP_WAITING, [message.sid.row()])?;
    }
    let row = row(new, (&group, &message), call.at);
    expired::note_amendment(tx, &row)?;
    tell_author(tx, &row, &said, call)?;
    insert(tx, &row, None::<&()>, &said)?;
    let changed = Changed { row: &row, document: &said, message: &message, before: &kept, after: &after };
    changed.follow(tx, amends, call)?;
    Ok(GroupOutcome::Done { waiting: Vec::new() })
}

/// A message that is to be changed, its document, and its group.
struct Amended {
    group: Group,
    message: ChatRow,
    kept: Vec<u8>,
}

/// What is to be changed, if its changer may.
fn amended(
    tx: &ReadTx<'_>,
    new: &NewGroupMessage,
    name: &Owner,
    amends: Amendment,
) -> rusqlite::Result<Result<Amended, Rejection>> {
    let refuse = |code, detail: &str| Ok(Err(Rejection::new(code, detail)));
    let from = &new.from.name;
    let (Some(group), Some(member)) = (Group::load(tx, name)?, Member::load(tx, name, from)?) else {
        return Ok(Err(not_member()));
    };
    let about = new.message.about.first().map_or(Ok(None), |sid| ChatRow::by_sid(tx, *sid))?;
    let is_meant = |row: &ChatRow| matches!(row.kind, Kind::Message | Kind::Reaction) && row.peer == *name;
    let Some(message) = about.filter(is_meant).filter(|row| row.writer == *from || member.may_read(row.sid.row()))
    else {
        return refuse(ErrorCode::NotFound, "`ref` names no message of the group");
    };
    let may_retract = amends == Amendment::Retract && member.role == GroupRole::Owner;
    if message.writer != *from && !may_retract {
        return refuse(ErrorCode::Forbidden, "`ref` names a message of somebody else");
    }
    if amends == Amendment::Edit
        && let Err(rejection) = may_write(group.settings.post, Some(member.role), new.message.mentions_all)
    {
        return Ok(Err(rejection));
    }
    let kept = document_of(tx, &message, from)?;
    match (is_tombstone(&kept), amends) {
        (false, _) => Ok(Ok(Amended { group, message, kept })),
        (true, Amendment::Edit) => refuse(ErrorCode::NotFound, "the message is retracted or deleted"),
        (true, Amendment::Retract) => refuse(ErrorCode::Duplicate, "the message is retracted or deleted"),
    }
}

/// The row of the edit or retract itself: without a place, and behind all that was written before it.
fn row(new: &NewGroupMessage, (group, message): (&Group, &ChatRow), at: u64) -> ChatRow {
    ChatRow {
        sid: new.sid,
        kind: Kind::Amendment,
        writer: new.from.name.clone(),
        by_bal: new.from.role == Role::Bal,
        id: new.message.id.as_ref().map(|id| id.as_str().to_owned()),
        dev: new.from.dev.as_ref().map(|dev| dev.as_str().to_owned()),
        at,
        n_writer: None,
        n_reader: None,
        theirs_writer: group.counted,
        theirs_reader: group.counted,
        receipt: false,
        waits: false,
        deadline: at,
        amends: Some(message.sid.row()),
        gone: false,
        ..message.clone()
    }
}

/// A message that is edited or retracted, and the row and the document of that.
struct Changed<'a> {
    row: &'a ChatRow,
    document: &'a [u8],
    message: &'a ChatRow,
    before: &'a [u8],
    after: &'a [u8],
}

impl Changed<'_> {
    /// What of the message the other members may have been shown, or have counted.
    fn follow(&self, tx: &mut Tx<'_>, amends: Amendment, call: &mut Call<'_>) -> rusqlite::Result<()> {
        let message = self.message;
        let Some(group) = message.peer.group() else { return Ok(()) };
        let json = |document| serde_json::from_slice::<Value>(document).unwrap_or_default();
        let (before, after) = (json(self.before), json(self.after));
        for member in present(tx, &group)? {
            let user = &member.user;
            let is_hidden = is_hidden_from(tx, &message.writer, user)?;
            if !is_hidden {
                self.tell(tx, &member, call)?;
            }
            if *user == message.writer {
                continue;
            }
            let seen = Seen { user, peer: &message.peer, sid: message.sid, up_to: false };
            if is_hidden || names(&before, user) && !names(&after, user) {
                mention::forget(tx, user, &message.peer, message.sid.row())?;
            }
            match amends {
                Amendment::Retract => notified::clear(tx, &seen, None, &[], call)?,
                // All members have one text, and this one is not for whoever has blocked its writer.
                Amendment::Edit if is_hidden => {
                    deletion::hide(tx, user, message)?;
                    notified::clear(tx, &seen, None, &[], call)?;
                }
                Amendment::Edit => {
                    notified::retext(tx, &seen, after["body"].as_str().unwrap_or_default())?;
                    if names(&after, user) && !names(&before, user) && !member.is_bal {
                        note_if_unread(tx, user, message)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives a member the edit or retract, if it has the message. Of an owner whom it has blocked, it hears that and not more.
    fn tell(&self, tx: &mut Tx<'_>, member: &Present, call: &Call<'_>) -> rusqlite::Result<()> {
        let (message, user) = (self.message, &member.user);
        let may_read = Member::load(tx, &message.peer, user)?.is_some_and(|member| member.may_read(message.sid.row()));
        let is_reader = *user != self.row.writer && may_read && !deletion::is_deleted(tx, user, message)?;
        if !is_reader {
            return Ok(());
        }
        let row = self.row;
        if row.writer == message.writer || !is_hidden_from(tx, &row.writer, user)? {
            return tell(tx, (row, self.document), (member, false), call);
        }
        deletion::hide(tx, user, row)?;
        let bare = without_writer(self.document);
        if member.is_bal {
            return tell(tx, (row, &bare), (member, false), call);
        }
        give(tx, row, user, &stamped_for(row, &bare, user, false), call)
    }
}

/// Of what is no longer there no phone of a member shows anything, and nobody is named in it.
pub(in crate::store::sqlite::chat) fn clear_all(
    tx: &mut Tx<'_>,
    message: &ChatRow,
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    let Some(group) = message.peer.group() else { return Ok(()) };
    for user in members::names(tx, &group)? {
        mention::forget(tx, &user, &message.peer, message.sid.row())?;
        let seen = Seen { user: &user, peer: &message.peer, sid: message.sid, up_to: false };
        notified::clear(tx, &seen, None, &[], call)?;
    }
    Ok(())
}

fn names(document: &Value, user: &Owner) -> bool {
    let names = document["mentions"].as_array().map(Vec::as_slice).unwrap_or_default();
    names.iter().any(|name| name == EVERYBODY || name == user.as_str())
}

fn note_if_unread(tx: &Tx<'_>, user: &Owner, message: &ChatRow) -> rusqlite::Result<()> {
    let read = Member::load(tx, &message.peer, user)?.map_or(Row(i64::MAX), |member| member.read);
    let counts = message.kind == Kind::Message && read < message.sid.row();
    if counts && !deletion::is_deleted(tx, user, message)? {
        mention::note(tx, user, &message.peer, message.sid.row())?;
    }
    Ok(())
}

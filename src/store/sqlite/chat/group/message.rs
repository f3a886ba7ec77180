//! A message to a group: one row, a document for each member, and the pushes.

use super::members::Present;
use super::push::{Deciding, Rules};
use super::{Group, Member, Place, amend, bal_copy, former, may_read, position};
use crate::chat::amendment::{Why, is_edited, is_tombstone, tombstone};
use crate::chat::group::{GroupDelivery, GroupTopic, may_write, not_member};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::push_decision::Matter;
use crate::chat::status::Status;
use crate::chat::suffix::messages::{Stamp, stamped};
use crate::chat::topic::{inbox_topic, member_topic};
use crate::store::sqlite::chat::deletion::{self, OwnCopy};
use crate::store::sqlite::chat::history::{Shown, shown};
use crate::store::sqlite::chat::message::{self, by_id, document_of, insert, receipt, tell_again, tell_writer};
use crate::store::sqlite::chat::{Call, ChatRow, Kind, document_on, events, expired, scheduled};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{ChatCall, ChatOutcome, ChatPolicy, GroupOutcome, NewGroupMessage, Origin};
use bytes::Bytes;
use rusqlite::params;

const WROTE: &str = "UPDATE members SET read = ?3, read_counted = ?4, received = max(received, ?3)
    WHERE gid = ?1 AND user = ?2";

pub(in crate::store) fn write(
    tx: &mut Tx<'_>,
    new: &NewGroupMessage,
    call: &ChatCall,
) -> rusqlite::Result<GroupOutcome> {
    let call = &mut Call::of(call);
    let NewGroupMessage { sid, from, message, deadline_ms, .. } = new;
    let written = scheduled::Written { sid: *sid, from, message, deadline_ms: *deadline_ms };
    match scheduled::before(tx, &written, call)? {
        Some(ChatOutcome::Refused(rejection)) => Ok(GroupOutcome::Refused(rejection)),
        Some(ChatOutcome::Scheduled) => Ok(GroupOutcome::Scheduled),
        Some(_) => Ok(GroupOutcome::Repeated),
        None => write_now(tx, new, true, call),
    }
}

/// Writes a message, whatever it says of when it is to be sent. `reads`: it is written by somebody who has the group before the eyes.
pub(in crate::store::sqlite::chat) fn write_now(
    tx: &mut Tx<'_>,
    new: &NewGroupMessage,
    reads: bool,
    call: &mut Call<'_>,
) -> rusqlite::Result<GroupOutcome> {
    // Before its times, as between two.
    if let Some(known) = known(tx, new, call)? {
        return Ok(known);
    }
    if let Err(rejection) = new.message.check_times(call.at) {
        return Ok(GroupOutcome::Refused(rejection));
    }
    if let Some(amends) = new.message.amends {
        return amend::write(tx, new, amends, call);
    }
    let group_name = Owner::from(new.group.clone());
    let writer = &new.from.name;
    let (Some(mut group), Some(member)) = (Group::load(tx, &group_name)?, Member::load(tx, &group_name, writer)?)
    else {
        return Ok(refused(new, not_member()));
    };
    if let Err(rejection) = may_write(group.settings.post, Some(member.role), new.message.mentions_all) {
        return Ok(refused(new, rejection));
    }
    if !is_about_own(tx, new, &group_name)? {
        let detail = "it speaks of a message that is not in the conversation";
        return Ok(refused(new, Rejection::new(ErrorCode::NotFound, detail)));
    }
    // As between two, what a BAL writes is no sign that it has read anything.
    let reads = reads && new.from.role == Role::User;
    if reads {
        position::read_all(tx, &new.from, &group_name, (&group, &member), call)?;
    }
    let kind = if new.message.matter == Matter::Reaction { Kind::Reaction } else { Kind::Message };
    let place = group.place(new.sid, kind == Kind::Message);
    group.save(tx, &group_name)?;
    let row = row(new, kind, place, call.at);
    if reads {
        wrote(tx, &row, place)?;
    }
    let kept = new.message.to_bytes();
    if let Some(at) = new.message.expires {
        expired::note(tx, row.sid.row(), at)?;
    }
    tell_author(tx, &row, &kept, call)?;
    // Before the pushes, which may take all ids that are left.
    events::stored(tx, &row, call)?;
    let deciding = Deciding { row: &row, message: &new.message, kept: &kept, group: &group, attended: &new.attended };
    let Rules { decided, waiting } = deciding.tell_members(tx, call)?;
    insert(tx, &ChatRow { waits: !waiting.is_empty(), ..row }, Some(&decided), &kept)?;
    Ok(GroupOutcome::Done { waiting })
}

pub(super) fn refused(new: &NewGroupMessage, rejection: Rejection) -> GroupOutcome {
    GroupOutcome::Refused(rejection.about(new.message.id.clone()))
}

/// What is said of a message whose id its writer has used before.
fn known(tx: &mut Tx<'_>, new: &NewGroupMessage, call: &Call<'_>) -> rusqlite::Result<Option<GroupOutcome>> {
    let Some(id) = &new.message.id else { return Ok(None) };
    let Some(row) = by_id(tx, &new.from.name, id.as_str())? else { return Ok(None) };
    let kept = document_of(tx, &row, &row.writer)?;
    let is_message = matches!(row.kind, Kind::Message | Kind::Reaction | Kind::Amendment);
    // Of what was changed since, nobody knows what it said.
    let says_the_same = is_tombstone(&kept) || is_edited(&kept) || new.message.says_the_same(&kept);
    if !(is_message && says_the_same) {
        let detail = "another message of the same writer has this `id`";
        return Ok(Some(refused(new, Rejection::new(ErrorCode::Duplicate, detail))));
    }
    if row.by_bal {
        tell_again(tx, &row, &kept, call.at)?;
    } else {
        give(tx, &row, &row.writer, &message::stamped_for(&row, &kept, &row.writer, true), call)?;
    }
    Ok(Some(GroupOutcome::Repeated))
}

/// Whether every message that it speaks of lies in the group, where its writer may read it.
fn is_about_own(tx: &ReadTx<'_>, new: &NewGroupMessage, group: &Owner) -> rusqlite::Result<bool> {
    for sid in &new.message.about {
        let row = ChatRow::by_sid(tx, *sid)?.filter(|row| row.peer == *group);
        let Some(row) = row else { return Ok(false) };
        let writer = &new.from.name;
        if !may_read(tx, &row, writer)? || deletion::own_copy(tx, writer, &row)? == OwnCopy::Blocked {
            return Ok(false);
        }
    }
    Ok(true)
}

fn row(new: &NewGroupMessage, kind: Kind, place: Place, at: u64) -> ChatRow {
    ChatRow {
        sid: new.sid,
        kind,
        writer: new.from.name.clone(),
        by_bal: new.from.role == Role::Bal,
        id: new.message.id.as_ref().map(|id| id.as_str().to_owned()),
        peer: new.group.clone().into(),
        dev: new.from.dev.as_ref().map(|dev| dev.as_str().to_owned()),
        at,
        n_writer: Some(place.n),
        n_reader: Some(place.n),
        theirs_writer: place.counted,
        theirs_reader: place.counted,
        hidden: false,
        receipt: new.message.receipt,
        waits: false,
        deadline: new.message.expires.map_or(new.deadline_ms, |at| at.min(new.deadline_ms)),
        amends: None,
        gone: false,
    }
}

/// Whoever writes in a group has read it.
pub(super) fn wrote(tx: &Tx<'_>, row: &ChatRow, place: Place) -> rusqlite::Result<()> {
    let counted = crate::store::sqlite::column::sql_ms(place.counted);
    tx.execute(WROTE, params![row.peer.as_str(), row.writer.as_str(), row.sid.row(), counted]).map(drop)
}

/// Where a member reads what is written in a group.
fn topic_of(member: &Owner, group: &Owner, policy: &ChatPolicy) -> String {
    match policy.group_delivery {
        GroupDelivery::Inbox => inbox_topic(member, GroupTopic::Messages.name()),
        GroupDelivery::Topic => member_topic(member, group, GroupTopic::Messages),
    }
}

/// Gives the devices of a member a copy, in its own words.
pub(super) fn give(
    tx: &mut Tx<'_>,
    row: &ChatRow,
    member: &Owner,
    payload: &[u8],
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    document_on(tx, &topic_of(member, &row.peer, call.policy), Origin::ChatCopy(row.sid), payload, call.at)
}

/// The devices of the writer get the copy that names the device, and `sent`; a BAL gets its statuses alone.
pub(super) fn tell_author(tx: &mut Tx<'_>, row: &ChatRow, kept: &[u8], call: &Call<'_>) -> rusqlite::Result<()> {
    if row.by_bal {
        return tell_writer(tx, row, kept, call.at);
    }
    give(tx, row, &row.writer, &message::stamped_for(row, kept, &row.writer, false), call)?;
    receipt(tx, row, Status::Sent, call.at)
}

/// Gives a member the copy: without a payload, unless the member has blocked its writer, or is a BAL.
pub(super) fn tell(
    tx: &mut Tx<'_>,
    (row, kept): (&ChatRow, &[u8]),
    (member, is_blocked): (&Present, bool),
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    if member.is_bal {
        return bal_copy::give(tx, (row, kept), (&member.user, is_blocked), call);
    }
    let payload = if is_blocked { hidden(row) } else { Vec::new() };
    give(tx, row, &member.user, &payload, call)
}

/// What a member gets of what somebody writes whom it has blocked.
pub(in crate::store::sqlite::chat) fn hidden(row: &ChatRow) -> Vec<u8> {
    let stamp = Stamp {
        sid: row.sid,
        n: row.n_reader,
        ts: row.at,
        from: &row.writer,
        group: Some(&row.peer),
        dev: None,
        redelivered: false,
    };
    stamped(&hidden_text(row), &stamp)
}

/// The same without the stamp.
pub(super) fn hidden_text(row: &ChatRow) -> Vec<u8> {
    tombstone(serde_json::json!({ "to": row.peer.as_str() }).to_string().as_bytes(), Why::Blocked)
}

/// What documents without a payload stand for.
pub(in crate::store::sqlite) struct SharedCopy {
    row: ChatRow,
    copy: Bytes,
    /// It was changed since, so that it depends on the reader what there is to be read.
    is_changed: bool,
}

impl SharedCopy {
    /// `None`: it is not kept any more.
    pub(in crate::store::sqlite) fn load(tx: &ReadTx<'_>, sid: Sid) -> rusqlite::Result<Option<Self>> {
        let Some(row) = ChatRow::by_sid(tx, sid)? else { return Ok(None) };
        let kept = document_of(tx, &row, &row.peer)?;
        // A device is named to the writer's own devices alone, and their copies have payloads of their own.
        let row = ChatRow { dev: None, ..row };
        let copy = message::stamped_for(&row, &kept, &row.peer, false).into();
        let is_changed = !row.gone && former::is_changed(tx, &row)?;
        Ok(Some(Self { row, copy, is_changed }))
    }

    pub(in crate::store::sqlite) fn is_of(&self, sid: Sid) -> bool {
        self.row.sid == sid
    }

    /// The copy in the inbox that is `topic`; `None`: there is nothing of it for its owner any more.
    pub(in crate::store::sqlite) fn for_inbox(&self, tx: &ReadTx<'_>, topic: &str) -> rusqlite::Result<Option<Bytes>> {
        let reader = topic.split('/').next().and_then(|name| Owner::new(name).ok()).filter(|_| self.is_changed);
        let Some(reader) = reader else { return Ok(Some(self.copy.clone())) };
        Ok(match shown(tx, &reader, &self.row)? {
            Shown::Item(item) => Some(item.into()),
            Shown::Nothing => None,
        })
    }
}

/// A notice of the roster: stored, and told to everybody who is in the group, and to those who go by it.
pub(super) fn notice(
    tx: &mut Tx<'_>,
    row: &ChatRow,
    kept: &[u8],
    members: &[Present],
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    for member in members {
        let is_blocked = false;
        tell(tx, (row, kept), (member, is_blocked), call)?;
    }
    insert(tx, row, None::<&()>, kept)
}

/// That of a notice, which counts as unread nowhere.
pub(super) fn notice_row((group, by): (&Owner, &Owner), sid: Sid, place: Place, at: u64) -> ChatRow {
    ChatRow {
        sid,
        kind: Kind::Notice,
        writer: by.clone(),
        by_bal: false,
        id: None,
        peer: group.clone(),
        dev: None,
        at,
        n_writer: Some(place.n),
        n_reader: Some(place.n),
        theirs_writer: place.counted,
        theirs_reader: place.counted,
        hidden: false,
        receipt: false,
        waits: false,
        deadline: at,
        amends: None,
        gone: false,
    }
}

/// The newest thing in a group, as far as it is kept.
pub(super) fn by_row(tx: &ReadTx<'_>, row: Row) -> rusqlite::Result<Option<ChatRow>> {
    tx.one(crate::store::sqlite::chat::position::BY_ROW, [row], ChatRow::read)
}

//! A message to a group: one row, a document for each member, and the pushes.

use super::push::{Deciding, Rules};
use super::{Group, Member, Place, amend, may_read, position};
use crate::chat::amendment::{Why, is_edited, is_tombstone, tombstone};
use crate::chat::group::{GroupDelivery, GroupTopic, may_write, not_member};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::push_decision::Matter;
use crate::chat::status::Status;
use crate::chat::suffix::messages::{Stamp, stamped};
use crate::chat::topic::{inbox_topic, member_topic};
use crate::store::sqlite::chat::message::{self, by_id, document_of, insert, receipt};
use crate::store::sqlite::chat::{Call, ChatRow, Kind, document_on, events, expired, unpushed};
use crate::store::sqlite::tx::Tx;
use crate::store::{ChatCall, ChatPolicy, GroupOutcome, NewGroupMessage, Origin};
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
    if let Err(rejection) = new.message.check_times(call.at) {
        return Ok(GroupOutcome::Refused(rejection));
    }
    if let Some(known) = known(tx, new, call)? {
        return Ok(known);
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
    position::read_all(tx, &new.from, &group_name, (&group, &member), call)?;
    let kind = if new.message.matter == Matter::Reaction { Kind::Reaction } else { Kind::Message };
    let place = group.place(new.sid, kind == Kind::Message);
    group.save(tx, &group_name)?;
    let row = row(new, kind, place, call.at);
    wrote(tx, &row, place)?;
    let kept = new.message.to_bytes();
    if let Some(at) = new.message.expires {
        expired::note(tx, row.sid.row(), at)?;
    }
    copy(tx, &row, &kept, false, call)?;
    receipt(tx, &row, Status::Sent, call.at)?;
    // Before the pushes, which may take all ids that are left.
    events::stored(tx, &row, call)?;
    let deciding = Deciding { row: &row, message: &new.message, group: &group, attended: &new.attended };
    let Rules { decided, waiting } = deciding.tell_members(tx, call)?;
    unpushed::note(tx, row.sid.row(), decided.waits_for_room())?;
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
    copy(tx, &row, &kept, true, call)?;
    Ok(Some(GroupOutcome::Repeated))
}

/// Whether every message that it speaks of lies in the group, where its writer may read it.
fn is_about_own(tx: &Tx<'_>, new: &NewGroupMessage, group: &Owner) -> rusqlite::Result<bool> {
    for sid in &new.message.about {
        let row = ChatRow::by_sid(tx, *sid)?.filter(|row| row.peer == *group);
        let Some(row) = row else { return Ok(false) };
        if !may_read(tx, &row, &new.from.name)? {
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

/// Gives the devices of its writer the copy that names the device.
pub(super) fn copy(
    tx: &mut Tx<'_>,
    row: &ChatRow,
    kept: &[u8],
    redelivered: bool,
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    let payload = message::stamped_for(row, kept, &row.writer, redelivered);
    let topic = topic_of(&row.writer, &row.peer, call.policy);
    document_on(tx, &topic, Origin::ChatCopy(row.sid), &payload, call.at)
}

/// Gives a member the copy: without a payload, unless the member has blocked its writer.
pub(super) fn tell(
    tx: &mut Tx<'_>,
    row: &ChatRow,
    (member, is_blocked): (&Owner, bool),
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    let payload = if is_blocked { hidden(row) } else { Vec::new() };
    document_on(tx, &topic_of(member, &row.peer, call.policy), Origin::ChatCopy(row.sid), &payload, call.at)
}

/// What a member gets of what somebody writes whom it has blocked.
pub(in crate::store::sqlite::chat) fn hidden(row: &ChatRow) -> Vec<u8> {
    let kept = tombstone(serde_json::json!({ "to": row.peer.as_str() }).to_string().as_bytes(), Why::Blocked);
    let stamp = Stamp {
        sid: row.sid,
        n: row.n_reader,
        ts: row.at,
        from: &row.writer,
        group: Some(&row.peer),
        dev: None,
        redelivered: false,
    };
    stamped(&kept, &stamp)
}

/// The copy that a document without a payload stands for, the same for every member; `None`: it is not kept any more.
pub(in crate::store::sqlite) fn shared_copy(tx: &Tx<'_>, sid: Sid) -> rusqlite::Result<Option<Bytes>> {
    let Some(row) = ChatRow::by_sid(tx, sid)? else { return Ok(None) };
    let kept = document_of(tx, &row, &row.peer)?;
    // A device is named to the writer's own devices alone, and their copies have payloads of their own.
    let row = ChatRow { dev: None, ..row };
    Ok(Some(message::stamped_for(&row, &kept, &row.peer, false).into()))
}

/// A notice of the roster: stored, and told to everybody who is in the group, and to those who go by it.
pub(super) fn notice(
    tx: &mut Tx<'_>,
    row: &ChatRow,
    kept: &[u8],
    members: &[Owner],
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    for member in members {
        let is_blocked = false;
        tell(tx, row, (member, is_blocked), call)?;
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
pub(super) fn by_row(tx: &Tx<'_>, row: Row) -> rusqlite::Result<Option<ChatRow>> {
    tx.one(crate::store::sqlite::chat::position::BY_ROW, [row], ChatRow::read)
}

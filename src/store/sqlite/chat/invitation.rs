//! An invitation and its answers: who is no contact yet becomes one.
//!
//! An invitation is open from its commit until it is answered, cancelled, or its time is over; its row says by what it ended. An
//! invitation has no `n`: it is beside the messages of its conversation, and in its history.

use super::message::{admission, by_id, copy, document_of, insert, receipt, stamped_for};
use super::notified::{self, Seen};
use super::push::{Asking, Told};
use super::{Call, ChatRow, Kind, group, load, people, position, push, save};
use crate::chat::attention::Attended;
use crate::chat::contact::{Admission, What};
use crate::chat::id::{GroupId, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::push_decision::{Asked, Matter, Wish};
use crate::chat::status::Status;
use crate::chat::suffix::invitations::{Answer, Kind as Says, OPEN_MS};
use crate::chat::topic::{Device, inbox_topic};
use crate::store::sqlite::outbox::{self, Document};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{ChatCall, ChatOutcome, NewInvitation, Origin};
use rusqlite::params;
use serde_json::{Map, Value};

const ANSWERED: &str = "SELECT answer FROM chat WHERE row = ?1";
const ANSWER: &str = "UPDATE chat SET answer = ?2, waits = 0 WHERE row = ?1";

pub(in crate::store) fn invite(tx: &mut Tx<'_>, new: &NewInvitation, call: &ChatCall) -> rusqlite::Result<ChatOutcome> {
    let call = &mut Call::of(call);
    if new.from.name == new.to.name {
        return Ok(refused(new, ErrorCode::BadField, "`to` is the writer"));
    }
    if let Some(known) = known(tx, new, call.at)? {
        return Ok(known);
    }
    // Before it is asked who the other one is: the answer to a foreign invitation would tell who exists, as often as one asks.
    let asked = match &new.invitation.kind {
        Says::Request { .. } => None,
        Says::Answer(kind, sid) => match invitation_of(tx, new, *sid)? {
            Some(asked) => Some((*kind, asked)),
            None => return Ok(refused(new, ErrorCode::NotFound, "`ref` names no invitation between these two")),
        },
    };
    let admission = match admission(tx, What::Invitation, &new.from, &new.to, call)? {
        Ok(admission) => admission,
        Err(rejection) => return Ok(ChatOutcome::Refused(rejection.about(new.invitation.id.clone()))),
    };
    match asked {
        None => request(tx, new, admission, call),
        Some(asked) => answer(tx, new, asked, admission, call),
    }
}

/// The invitation between the two that is answered, if its answerer has it. Of one that both have deleted nobody knows any more
/// what it was to.
fn invitation_of(tx: &ReadTx<'_>, new: &NewInvitation, sid: Sid) -> rusqlite::Result<Option<ChatRow>> {
    let from = &new.from.name;
    let is_meant = |row: &ChatRow| row.kind == Kind::Invitation && !row.gone && *row.other(from) == new.to.name;
    let asked = ChatRow::by_sid(tx, sid)?.filter(is_meant);
    let is_own = asked.as_ref().map_or(Ok(false), |row| row.is_of(tx, from))?;
    Ok(asked.filter(|_| is_own))
}

/// An invitation that the bridge makes in the name of somebody who may: `Done`, or refused.
pub(super) fn invite_admitted(
    tx: &mut Tx<'_>,
    new: &NewInvitation,
    call: &mut Call<'_>,
) -> rusqlite::Result<ChatOutcome> {
    match admission(tx, What::Invitation, &new.from, &new.to, call)? {
        Ok(admission) => request(tx, new, admission, call),
        Err(rejection) => Ok(ChatOutcome::Refused(rejection)),
    }
}

fn refused(new: &NewInvitation, code: ErrorCode, detail: &str) -> ChatOutcome {
    ChatOutcome::Refused(Rejection::new(code, detail).about(new.invitation.id.clone()))
}

/// What is said of an invitation whose id its writer has used before.
fn known(tx: &mut Tx<'_>, new: &NewInvitation, at: u64) -> rusqlite::Result<Option<ChatOutcome>> {
    let Some(id) = &new.invitation.id else { return Ok(None) };
    let Some(row) = by_id(tx, &new.from.name, id.as_str())? else { return Ok(None) };
    let kept = document_of(tx, &row, &row.writer)?;
    if !matches!(row.kind, Kind::Invitation | Kind::Answer) || !says_the_same(new, &kept) {
        return Ok(Some(refused(new, ErrorCode::Duplicate, "something else of the same writer has this `id`")));
    }
    if !row.by_bal {
        copy(tx, &row, &kept, &row.writer, true, at)?;
    }
    Ok(Some(ChatOutcome::Repeated))
}

/// Whatever the profile of its writer says by now. A time of its own may have been cut.
fn says_the_same(new: &NewInvitation, kept: &[u8]) -> bool {
    let Ok(mut kept) = serde_json::from_slice::<Map<String, Value>>(kept) else { return false };
    let mut said = written(new, None);
    let until = kept.remove("expires").and_then(|until| until.as_u64());
    let same_end = match &new.invitation.kind {
        Says::Request { expires: Some(expires), .. } => until.is_some_and(|until| until <= *expires),
        _ => true,
    };
    for map in [&mut kept, &mut said] {
        for name in ["id", "name", "image", "group_name"] {
            map.shift_remove(name);
        }
    }
    same_end && kept == said
}

/// What both sides get, without the stamp and the profile.
fn written(new: &NewInvitation, until: Option<u64>) -> Map<String, Value> {
    let mut document = Map::new();
    let mut put = |name: &str, value: Option<Value>| value.map(|value| document.insert(name.to_owned(), value));
    put("id", new.invitation.id.as_ref().map(|id| id.as_str().into()));
    put("to", Some(new.to.name.as_str().into()));
    match &new.invitation.kind {
        Says::Request { body, group, .. } => {
            put("type", Some("request".into()));
            put("group", group.as_ref().map(|group| group.as_str().into()));
            put("body", body.as_deref().map(Into::into));
            put("expires", until.map(Into::into));
        }
        Says::Answer(answer, sid) => {
            let name = match answer {
                Answer::Accept => "accept",
                Answer::Decline => "decline",
                Answer::Cancel => "cancel",
            };
            put("type", Some(name.into()));
            put("ref", Some(sid.to_string().into()));
        }
    }
    document
}

/// The document: `name` and `image` are the profile's, and a group is called as it is now.
fn document(
    tx: &ReadTx<'_>,
    new: &NewInvitation,
    until: Option<u64>,
    group_name: Option<String>,
) -> rusqlite::Result<Vec<u8>> {
    let mut document = written(new, until);
    document.extend(group_name.map(|name| ("group_name".to_owned(), name.into())));
    let mut profile = people::profile(tx, &new.from.name)?;
    for name in ["name", "image"] {
        if let Some(value) = profile.remove(name) {
            document.insert(name.to_owned(), value);
        }
    }
    Ok(Value::Object(document).to_string().into_bytes())
}

fn request(
    tx: &mut Tx<'_>,
    new: &NewInvitation,
    admission: Admission,
    call: &mut Call<'_>,
) -> rusqlite::Result<ChatOutcome> {
    let Says::Request { expires, group, .. } = &new.invitation.kind else {
        return Ok(refused(new, ErrorCode::BadField, "`type` is not request"));
    };
    if new.to.role == Some(Role::Bal) && group.is_none() {
        return Ok(refused(new, ErrorCode::BadField, "`to` names a BAL, which needs no invitation"));
    }
    let latest = call.at.saturating_add(OPEN_MS);
    let until = expires.map_or(latest, |expires| expires.min(latest));
    if until <= call.at {
        return Ok(refused(new, ErrorCode::BadField, "`expires` is over"));
    }
    let (from, to) = (&new.from, &new.to);
    let mut group_name = None;
    if let Some(group) = group {
        match group::invited::may_invite(tx, group, &from.name, &to.name)? {
            Ok(name) => group_name = name,
            Err(rejection) => return Ok(ChatOutcome::Refused(rejection.about(new.invitation.id.clone()))),
        }
    }
    let is_of_users = from.role == Role::User && to.role != Some(Role::Bal);
    let seen = if is_of_users { people::make_contact(tx, &from.name, &to.name)? } else { None };
    if seen.is_some() {
        position::tell_contact(tx, &from.name, &to.name, call.at)?;
    }
    let row = row(tx, new, (Kind::Invitation, until), admission.is_swallowed(), call.at)?;
    let document = document(tx, new, Some(until), group_name)?;
    tell_both(tx, &row, &document, new, call.at)?;
    let told = decide(tx, new, &row, call)?;
    insert(tx, &ChatRow { waits: told.waits, ..row }, told.decided.as_ref(), &document)?;
    let (seen, stranger) = (seen.into_iter().collect(), admission.is_of_stranger());
    Ok(ChatOutcome::Done { seen, stranger, waits: told.waits, confirmed: Vec::new() })
}

fn decide(tx: &mut Tx<'_>, new: &NewInvitation, row: &ChatRow, call: &mut Call<'_>) -> rusqlite::Result<Told> {
    let entry = people::entry(tx, &row.peer, &row.writer)?;
    let asked = Asked::of(Matter::Invitation, Wish::Auto).by(entry, entry, &new.to.attended, call.at);
    let body = if let Says::Request { body: Some(body), .. } = &new.invitation.kind { body } else { "" };
    let attended = &new.to.attended;
    let asking = Asking { reader: &row.peer, row, body, title: None, asked, attended, before: None, call: None };
    push::decide(tx, &asking, call)
}

fn answer(
    tx: &mut Tx<'_>,
    new: &NewInvitation,
    (answer, asked): (Answer, ChatRow),
    admission: Admission,
    call: &mut Call<'_>,
) -> rusqlite::Result<ChatOutcome> {
    let (from, to, sid) = (&new.from, &new.to, asked.sid);
    let by_inviter = asked.writer == from.name;
    if by_inviter != (answer == Answer::Cancel) {
        return Ok(refused(new, ErrorCode::Forbidden, "the invited answers, and who invited cancels"));
    }
    match tx.one(ANSWERED, [sid.row()], |row| row.get::<_, Option<Row>>(0))?.flatten() {
        Some(Row(1..)) => return Ok(refused(new, ErrorCode::Duplicate, "the invitation was answered or cancelled")),
        Some(_) => return Ok(refused(new, ErrorCode::NotFound, "the time of the invitation is over")),
        None if call.at >= asked.deadline => {
            return Ok(refused(new, ErrorCode::NotFound, "the time of the invitation is over"));
        }
        None => {}
    }
    let mut seen = Vec::new();
    let into = if answer == Answer::Accept { group_of(tx, &asked)? } else { None };
    if let Some(group) = &into {
        if let Err(rejection) = group::invited::join(tx, group, (from, &asked), call)? {
            return Ok(ChatOutcome::Refused(rejection.about(new.invitation.id.clone())));
        }
    } else if answer == Answer::Accept {
        for (user, other) in [(&from.name, &to.name), (&to.name, &from.name)] {
            let seeing = people::make_contact(tx, user, other)?;
            if seeing.is_some() {
                position::tell_contact(tx, user, other, call.at)?;
            }
            seen.extend(seeing);
        }
    }
    // Whom it does not reach since it was not reached by the invitation, or has blocked the writer by now.
    let hidden = admission.is_swallowed() || (asked.hidden && by_inviter);
    let row = row(tx, new, (Kind::Answer, call.at), hidden, call.at)?;
    let document = document(tx, new, None, None)?;
    tell_both(tx, &row, &document, new, call.at)?;
    insert(tx, &row, None::<&()>, &document)?;
    tx.execute(ANSWER, params![sid.row(), new.sid.row()])?;
    let invited = Seen { user: &asked.peer, peer: &asked.writer, sid, up_to: false };
    if by_inviter {
        let Attended { devices } = &to.attended;
        notified::clear(tx, &invited, None, devices, call)?;
    } else {
        notified::clear(tx, &invited, from.dev.as_ref(), &from.connected, call)?;
    }
    Ok(ChatOutcome::Done { seen, stranger: false, waits: false, confirmed: Vec::new() })
}

/// The group into which an invitation was.
fn group_of(tx: &ReadTx<'_>, row: &ChatRow) -> rusqlite::Result<Option<GroupId>> {
    let kept: Map<String, Value> = serde_json::from_slice(&document_of(tx, row, &row.peer)?).unwrap_or_default();
    Ok(kept.get("group").and_then(Value::as_str).and_then(|group| GroupId::new(group).ok()))
}

/// A row beside the messages of its conversation, which comes before older ones by it.
fn row(
    tx: &Tx<'_>,
    new: &NewInvitation,
    (kind, deadline): (Kind, u64),
    hidden: bool,
    at: u64,
) -> rusqlite::Result<ChatRow> {
    let (mut conversation, by) = load(tx, &new.from.name, &new.to.name)?;
    conversation.handle_beside(new.sid, by, hidden);
    save(tx, &new.from.name, &new.to.name, &conversation)?;
    Ok(ChatRow {
        sid: new.sid,
        kind,
        writer: new.from.name.clone(),
        by_bal: new.from.role == Role::Bal,
        id: new.invitation.id.as_ref().map(|id| id.as_str().to_owned()),
        peer: new.to.name.clone(),
        dev: new.from.dev.as_ref().map(|dev: &Device| dev.as_str().to_owned()),
        at,
        n_writer: None,
        n_reader: None,
        theirs_writer: conversation.of(by).theirs,
        theirs_reader: conversation.of(by.other()).theirs,
        hidden,
        receipt: true,
        waits: false,
        deadline,
        amends: None,
        gone: false,
    })
}

/// The writer's devices get the copy and `sent`; so does a BAL, but for the copy. The other side gets the copy, unless it has
/// the document already.
fn tell_both(tx: &mut Tx<'_>, row: &ChatRow, document: &[u8], new: &NewInvitation, at: u64) -> rusqlite::Result<()> {
    if row.by_bal {
        receipt(tx, row, Status::Accepted, at)?;
    } else {
        copy(tx, row, document, &row.writer, false, at)?;
    }
    receipt(tx, row, Status::Sent, at)?;
    if row.hidden || new.from.direct {
        return Ok(());
    }
    if new.to.role != Some(Role::Bal) {
        return copy(tx, row, document, &row.peer, false, at);
    }
    // A BAL may be away: what it is told waits for it.
    let payload = stamped_for(row, document, &row.peer, false);
    let topic = &*inbox_topic(&row.peer, "invitations");
    outbox::queue(tx, &Document { topic, origin: Origin::Note, at, correlation: None, payload: &payload }).map(drop)
}

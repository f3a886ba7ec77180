//! A message: decided, stored, and told to both sides, in one transaction.

use super::push::{Asking, Told};
use super::{
    Call, ChatRow, Kind, amend, deletion, document, events, expired, json_text, load, mention, people, position, push,
    save, scheduled, tell,
};
use crate::chat::amendment::{is_edited, is_tombstone};
use crate::chat::contact::{Admission, What, admit, too_many_strangers};
use crate::chat::conversation::Written;
use crate::chat::id::Owner;
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::push_decision::{Asked, Matter};
use crate::chat::status::Status;
use crate::chat::suffix::messages::{Stamp, stamped};
use crate::chat::suffix::receipts::ReceiptDocument;
use crate::chat::suffix::requests::Writers;
use crate::chat::topic::Device;
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::erase;
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::sqlite::upstream;
use crate::store::{ChatCall, ChatOutcome, NewChatMessage, Origin, Peer, Seeing, Writer};
use rusqlite::params;

const DOCUMENT: &str = "SELECT document FROM chat WHERE row = ?1";
const OWN: &str = "SELECT coalesce(own, document) FROM chat WHERE row = ?1";
pub(in crate::store::sqlite) const BY_ID: &str = chat_rows!("WHERE writer = ?1 AND id = ?2");
const INSERT: &str = "INSERT INTO chat (row, tail, kind, writer, by_bal, id, peer, dev, at, n_writer, n_reader,
    theirs_writer, theirs_reader, received, hidden, receipt, waits, deadline, decided, document, amends)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?21, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";

pub(in crate::store) fn write(tx: &mut Tx<'_>, new: &NewChatMessage, call: &ChatCall) -> rusqlite::Result<ChatOutcome> {
    let call = &mut Call::of(call);
    let NewChatMessage { sid, from, message, deadline_ms, .. } = new;
    let written = scheduled::Written { sid: *sid, from, message, deadline_ms: *deadline_ms };
    match scheduled::before(tx, &written, call)? {
        Some(outcome) => Ok(outcome),
        None => write_now(tx, new, true, call),
    }
}

/// The same, where a BAL is asked about messages and the publisher is not to wait for that ([`scheduled::in_order`]).
pub(in crate::store) fn write_in_order(
    tx: &mut Tx<'_>,
    new: &NewChatMessage,
    asks: bool,
    call: &ChatCall,
) -> rusqlite::Result<ChatOutcome> {
    let call = &mut Call::of(call);
    let NewChatMessage { sid, from, message, deadline_ms, .. } = new;
    let written = scheduled::Written { sid: *sid, from, message, deadline_ms: *deadline_ms };
    match scheduled::in_order(tx, &written, asks, call)? {
        Some(outcome) => Ok(outcome),
        None => write_now(tx, new, true, call),
    }
}

/// Writes a message, whatever it says of when it is to be sent. `reads`: it is written by somebody who has the conversation before the eyes.
pub(super) fn write_now(
    tx: &mut Tx<'_>,
    new: &NewChatMessage,
    reads: bool,
    call: &mut Call<'_>,
) -> rusqlite::Result<ChatOutcome> {
    // Before its times: what was taken once is repeated by a client that did not hear so, and that may be late.
    if let Some(known) = known(tx, new, call.at)? {
        return Ok(known);
    }
    if let Err(rejection) = new.message.check_times(call.at) {
        return Ok(ChatOutcome::Refused(rejection));
    }
    if let Some(amends) = new.message.amends {
        return amend::write(tx, new, amends, call);
    }
    let (from, to) = (&new.from, &new.to);
    // Before it is asked who the other one is: what is said of a foreign message says nothing of that.
    if !is_about_own(tx, new)? {
        return Ok(refused(new, ErrorCode::NotFound, "it speaks of a message that is not in the conversation"));
    }
    let admission = match admission(tx, What::Message, from, to, call)? {
        Ok(admission) => admission,
        Err(rejection) => return Ok(ChatOutcome::Refused(rejection.about(new.message.id.clone()))),
    };
    let document = new.message.to_bytes();
    if is_full(tx, new, &document) {
        return Ok(ChatOutcome::Full);
    }
    let swallowed = admission.is_swallowed();
    let seen = if from.role == Role::User && to.role != Some(Role::Bal) && from.name != to.name {
        people::make_contact(tx, &from.name, &to.name)?
    } else {
        None
    };
    if seen.is_some() {
        position::tell_contact(tx, &from.name, &to.name, call.at)?;
    }
    if reads {
        position::read_all(tx, from, &to.name, call)?;
    }
    let row = place(tx, new, (swallowed, reads), call.at)?;
    let waits = tell_both(tx, new, &row, &document, call)?;
    events::stored(tx, &row, call)?;
    Ok(done(seen, admission, waits))
}

fn done(seen: Option<Seeing>, admission: Admission, waits: bool) -> ChatOutcome {
    let (seen, stranger) = (seen.into_iter().collect(), admission.is_of_stranger());
    ChatOutcome::Done { seen, stranger, waits, confirmed: Vec::new() }
}

pub(super) fn refused(new: &NewChatMessage, code: ErrorCode, detail: &str) -> ChatOutcome {
    ChatOutcome::Refused(Rejection::new(code, detail).about(new.message.id.clone()))
}

/// What is said of a message whose id its writer has used before.
fn known(tx: &mut Tx<'_>, new: &NewChatMessage, at: u64) -> rusqlite::Result<Option<ChatOutcome>> {
    let Some(id) = &new.message.id else { return Ok(None) };
    let Some(row) = by_id(tx, &new.from.name, id.as_str())? else { return Ok(None) };
    let document = document_of(tx, &row, &row.writer)?;
    let is_message = matches!(row.kind, Kind::Message | Kind::Reaction | Kind::Amendment);
    // Of what was changed since, nobody knows what it said.
    let says_the_same = is_tombstone(&document) || is_edited(&document) || new.message.says_the_same(&document);
    if !(is_message && says_the_same) {
        let detail = "another message of the same writer has this `id`";
        return Ok(Some(refused(new, ErrorCode::Duplicate, detail)));
    }
    tell_again(tx, &row, &document, at)?;
    Ok(Some(ChatOutcome::Repeated))
}

/// The writer of a message that is known is told once more: its devices by the copy, a BAL by a status.
pub(super) fn tell_again(tx: &mut Tx<'_>, row: &ChatRow, document: &[u8], at: u64) -> rusqlite::Result<()> {
    if row.by_bal { receipt(tx, row, Status::Sent, at) } else { copy(tx, row, document, &row.writer, true, at) }
}

/// The row of what `writer` wrote under this id.
pub(super) fn by_id(tx: &ReadTx<'_>, writer: &Owner, id: &str) -> rusqlite::Result<Option<ChatRow>> {
    tx.one(BY_ID, params![writer.as_str(), id], ChatRow::read)
}

/// The document of a row, as one side of its conversation has it.
pub(super) fn document_of(tx: &ReadTx<'_>, row: &ChatRow, reader: &Owner) -> rusqlite::Result<Vec<u8>> {
    let sql = if row.writer == *reader { OWN } else { DOCUMENT };
    tx.one(sql, [row.sid.row()], |row| row.get(0))?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// Whether `to` is somebody, and takes what `from` writes. Who writes to too many strangers hears no more of whether they
/// exist.
pub(super) fn admission(
    tx: &Tx<'_>,
    what: What,
    from: &Writer,
    to: &Peer,
    call: &Call<'_>,
) -> rusqlite::Result<Result<Admission, Rejection>> {
    let admitted = admitted(tx, what, from, to, call)?;
    let is_stranger = admitted.as_ref().map_or(true, |admission| admission.is_of_stranger());
    if is_stranger && !from.strangers {
        return Ok(Err(too_many_strangers()));
    }
    Ok(admitted)
}

fn admitted(
    tx: &Tx<'_>,
    what: What,
    from: &Writer,
    to: &Peer,
    call: &Call<'_>,
) -> rusqlite::Result<Result<Admission, Rejection>> {
    let settings = people::settings(tx, &to.name)?;
    let is_gone = erase::is_taken(tx, to.name.as_str())?;
    if to.role.is_none() && settings.is_none() || to.role == Some(Role::Admin) || is_gone {
        let is_push = from.role == Role::Bal;
        let hint = if is_push { ": for a push give a `token`, or, in the form of CCS, a `message_id`" } else { "" };
        return Ok(Err(Rejection::new(ErrorCode::NotFound, format!("`to` names nobody{hint}"))));
    }
    if from.direct && people::settings(tx, &from.name)?.is_none() {
        return Ok(Err(Rejection::new(ErrorCode::NotFound, "`from` names nobody")));
    }
    if to.role != Some(Role::Bal) && settings.is_none() {
        people::ensure(tx, &to.name)?;
    }
    if from.name == to.name {
        return Ok(Ok(Admission::Taken { stranger: false }));
    }
    let entry = people::entry(tx, &to.name, &from.name)?;
    let writers = match to.role {
        Some(Role::Bal) => Default::default(),
        _ => settings.and_then(|settings| settings.writers).unwrap_or(call.policy.writers),
    };
    let writers = if from.let_in && writers == Writers::Gatekeeper { Writers::Anyone } else { writers };
    Ok(match admit(what, from.role, writers, entry) {
        Admission::Forbidden => Err(Rejection::new(ErrorCode::Forbidden, "`to` takes messages of contacts only")),
        // A BAL knows its writers by what they write.
        Admission::Taken { .. } if to.role == Some(Role::Bal) => Ok(Admission::Taken { stranger: false }),
        Admission::Swallowed { .. } if to.role == Some(Role::Bal) => Ok(Admission::Swallowed { stranger: false }),
        taken => Ok(taken),
    })
}

/// Whether every message that it speaks of lies in its conversation, on the writer's side.
fn is_about_own(tx: &ReadTx<'_>, new: &NewChatMessage) -> rusqlite::Result<bool> {
    for sid in &new.message.about {
        let Some(row) = ChatRow::by_sid(tx, *sid)? else { return Ok(false) };
        if *row.other(&new.from.name) != new.to.name || !row.is_of(tx, &new.from.name)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether there is no room for it. A user gets it in any case: only its pushes need room, and wait for that.
pub(super) fn is_full(tx: &Tx<'_>, new: &NewChatMessage, document: &[u8]) -> bool {
    new.route.is_some() && tx.spool_is_full(document.len() as u64)
}

/// Gives the message its places on both sides of the conversation.
fn place(tx: &Tx<'_>, new: &NewChatMessage, (swallowed, reads): (bool, bool), at: u64) -> rusqlite::Result<ChatRow> {
    let (from, to) = (&new.from.name, &new.to.name);
    let kind = if new.message.matter == Matter::Reaction { Kind::Reaction } else { Kind::Message };
    let (mut conversation, by) = load(tx, from, to)?;
    let (counts, to_self) = (kind == Kind::Message, from == to);
    let places = conversation.handle_written(Written { sid: new.sid, by, swallowed, counts, to_self, reads });
    let comes_to = [Some((by, from, to)), places.reader.map(|_| (by.other(), to, from))];
    for (side, user, other) in comes_to.into_iter().flatten().filter(|_| counts) {
        deletion::take_out(tx, &mut conversation, side, (user, other), at)?;
    }
    save(tx, from, to, &conversation)?;
    if places.reader.is_some() && counts && new.to.role != Some(Role::Bal) {
        people::add_unread(tx, to, 1)?;
        if new.message.mentions.contains(to) {
            mention::note(tx, to, from, new.sid.row())?;
        }
    }
    Ok(ChatRow {
        sid: new.sid,
        kind,
        writer: from.clone(),
        by_bal: new.from.role == Role::Bal,
        id: new.message.id.as_ref().map(|id| id.as_str().to_owned()),
        peer: to.clone(),
        dev: new.from.dev.as_ref().map(|dev| dev.as_str().to_owned()),
        at,
        n_writer: Some(places.writer),
        n_reader: places.reader,
        theirs_writer: conversation.of(by).theirs,
        theirs_reader: conversation.of(by.other()).theirs,
        hidden: places.reader.is_none(),
        receipt: new.message.receipt,
        waits: false,
        deadline: new.message.expires.map_or(new.deadline_ms, |at| at.min(new.deadline_ms)),
        amends: None,
        gone: false,
    })
}

/// Stores the row, tells the writer, gives the reader the message, and has its devices pushed. Returns whether pushes wait.
fn tell_both(
    tx: &mut Tx<'_>,
    new: &NewChatMessage,
    row: &ChatRow,
    document: &[u8],
    call: &mut Call<'_>,
) -> rusqlite::Result<bool> {
    if let Some(at) = new.message.expires {
        expired::note(tx, row.sid.row(), at)?;
    }
    tell_writer(tx, row, document, call.at)?;
    let mut told = Told::default();
    if let Some(route) = &new.route {
        // What a BAL writes to itself is kept, and comes back to it no more than anything else that it writes.
        if row.writer != row.peer && !row.hidden {
            let payload = for_bal(row, document);
            upstream::receive_of_user(tx, row.sid, route, &payload, call.at)?;
        }
    } else {
        if !row.hidden && !new.from.direct {
            copy(tx, row, document, &row.peer, false, call.at)?;
        }
        let entry = people::entry(tx, &row.peer, &row.writer)?;
        let asked = Asked {
            own: row.writer == row.peer,
            mentioned: new.message.mentions.contains(&row.peer),
            ..Asked::of(new.message.matter, new.message.wish).by(entry, entry, &new.to.attended, call.at)
        };
        let body = new.message.body().unwrap_or_default();
        let (reader, attended) = (&row.peer, &new.to.attended);
        let asking = Asking { reader, row, body, title: None, asked, attended, before: None, call: None };
        told = push::decide(tx, &asking, call)?;
    }
    insert(tx, &ChatRow { waits: told.waits, ..row.clone() }, told.decided.as_ref(), document)?;
    Ok(told.waits)
}

/// The writer's devices get the copy, and `sent`; a BAL gets its statuses alone.
pub(super) fn tell_writer(tx: &mut Tx<'_>, row: &ChatRow, document: &[u8], at: u64) -> rusqlite::Result<()> {
    if row.by_bal {
        receipt(tx, row, Status::Accepted, at)?;
    } else {
        copy(tx, row, document, &row.writer, false, at)?;
    }
    receipt(tx, row, Status::Sent, at)
}

/// Stores a row, which counts from then on.
pub(super) fn insert(
    tx: &mut Tx<'_>,
    row: &ChatRow,
    decided: Option<&impl serde::Serialize>,
    document: &[u8],
) -> rusqlite::Result<()> {
    let (number, tail) = row.sid.parts();
    let count = |n: Option<u64>| n.map(sql_ms);
    let values = params![
        number,
        tail,
        row.kind as i64,
        row.writer.as_str(),
        row.by_bal,
        row.id,
        row.peer.as_str(),
        row.dev,
        sql_ms(row.at),
        count(row.n_writer),
        count(row.n_reader),
        sql_ms(row.theirs_writer),
        sql_ms(row.theirs_reader),
        row.hidden,
        row.receipt,
        row.waits,
        sql_ms(row.deadline),
        decided.map(json_text).transpose()?,
        document,
        row.amends,
        // What members of a group have is where each of them stands.
        row.peer.is_group(),
    ];
    tx.execute(INSERT, values)?;
    tx.memory_draft.figures.chat_rows += 1;
    tx.memory_draft.figures.chat_bytes += document.len() as u64;
    Ok(())
}

/// Puts the stamped copy into the inbox of one side.
pub(super) fn copy(
    tx: &mut Tx<'_>,
    row: &ChatRow,
    kept: &[u8],
    reader: &Owner,
    redelivered: bool,
    at: u64,
) -> rusqlite::Result<()> {
    let payload = stamped_for(row, kept, reader, redelivered);
    let suffix = if matches!(row.kind, Kind::Invitation | Kind::Answer) { "invitations" } else { "messages" };
    document(tx, reader, suffix, Origin::ChatCopy(row.sid), &payload, at)
}

/// The stamped document for one side of its conversation.
pub(super) fn stamped_for(row: &ChatRow, kept: &[u8], reader: &Owner, redelivered: bool) -> Vec<u8> {
    let dev = row.dev.as_deref().filter(|_| row.writer == *reader).and_then(|dev| Device::new(dev).ok());
    let (sid, n, group) = (row.sid, row.n(reader), Some(&row.peer).filter(|peer| peer.is_group()));
    stamped(kept, &Stamp { sid, n, ts: row.at, from: &row.writer, group, dev: dev.as_ref(), redelivered })
}

/// What a BAL gets: the bridge's id is the only one, and the device is named.
pub(super) fn for_bal(row: &ChatRow, kept: &[u8]) -> Vec<u8> {
    let mut document: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(kept).unwrap_or_default();
    document.insert("id".to_owned(), row.sid.to_string().into());
    let dev = row.dev.as_deref().and_then(|dev| Device::new(dev).ok());
    let stamp = Stamp {
        sid: row.sid,
        n: row.n_reader,
        ts: row.at,
        from: &row.writer,
        group: Some(&row.peer).filter(|peer| peer.is_group()),
        dev: dev.as_ref(),
        redelivered: false,
    };
    stamped(serde_json::Value::Object(document).to_string().as_bytes(), &stamp)
}

/// Tells the writer of a message what became of it.
pub(super) fn receipt(tx: &mut Tx<'_>, row: &ChatRow, status: Status, at: u64) -> rusqlite::Result<()> {
    receipt_up_to(tx, row, status, false, at)
}

pub(super) fn receipt_up_to(
    tx: &mut Tx<'_>,
    row: &ChatRow,
    status: Status,
    up_to: bool,
    at: u64,
) -> rusqlite::Result<()> {
    let document = ReceiptDocument { up_to, ..ReceiptDocument::new(row.id.as_deref(), row.sid, status, at) };
    tell_receipt(tx, row, &document, at)
}

/// The same, with whatever is to be said.
pub(super) fn tell_receipt(
    tx: &mut Tx<'_>,
    row: &ChatRow,
    document: &ReceiptDocument<'_>,
    at: u64,
) -> rusqlite::Result<()> {
    let payload = document.to_payload();
    if row.by_bal {
        return status_note(tx, &row.writer, &payload, at);
    }
    tell(tx, &row.writer, "receipts", &payload, at)
}

/// A status for a BAL, which may be away: it waits there.
pub(super) fn status_note(tx: &mut Tx<'_>, bal: &Owner, payload: &[u8], at: u64) -> rusqlite::Result<()> {
    let topic = &*crate::chat::topic::status_topic(bal.as_str());
    let document =
        crate::store::sqlite::outbox::Document { topic, origin: Origin::Note, at, correlation: None, payload };
    crate::store::sqlite::outbox::queue(tx, &document).map(drop)
}

//! The end of a call: what rings stops, and both sides keep a message about it.

use super::{CallRow, kept, ringing, tell};
use crate::chat::attention::Attended;
use crate::chat::call::{CallState, Ending, Follows, Outcome, Party};
use crate::chat::id::{Owner, Sid};
use crate::chat::push_decision::{Asked, Matter, Wish};
use crate::chat::suffix::calls::{SignalKind, TTL_MAX};
use crate::chat::topic::Device;
use crate::store::sqlite::chat::message::{copy, insert};
use crate::store::sqlite::chat::push::{self, Asking, TTL_MS, Told};
use crate::store::sqlite::chat::{Call, ChatRow, Kind, deletion, load, people, save};
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::tx::Tx;
use crate::store::{CALLS_DUE_MAX, ChatCall, ChatOutcome, DueCall, DueCalls, Origin, OverdueCall};
use rusqlite::params;

pub(in crate::store::sqlite) const DUE: &str = call_rows!("WHERE look_at <= ?1 ORDER BY look_at LIMIT ?2");
pub(in crate::store::sqlite) const NEXT: &str = "SELECT look_at FROM calls WHERE look_at > ?1 ORDER BY look_at LIMIT 1";
/// The states of a call that is not over.
const GOING_ON: &str =
    call_rows!("WHERE (caller = ?1 OR callee = ?1) AND json_extract(state, '$.state') <> 'ended' ORDER BY row LIMIT 1");
const FORGET: &str = "DELETE FROM calls WHERE row = ?1";
pub(in crate::store::sqlite) const FORGET_SIGNALS: &str = "DELETE FROM signals WHERE call = ?1";

/// Signals that are forgotten in one transaction, at most, and those of one more call.
const FORGOTTEN_MAX: usize = 1_000;

/// Calls whose time is over. Those that ended long ago are forgotten.
pub(in crate::store) fn due(tx: &Tx<'_>, at: u64) -> rusqlite::Result<DueCalls> {
    let found = tx.all(DUE, params![sql_ms(at), CALLS_DUE_MAX as i64], CallRow::read)?;
    let mut is_all = found.len() < CALLS_DUE_MAX;
    let (mut calls, mut forgotten) = (DueCalls::default(), 0);
    for row in found {
        if row.state.deadline().is_none() {
            if forgotten >= FORGOTTEN_MAX {
                is_all = false;
                continue;
            }
            tx.execute(FORGET, [row.sid.row()])?;
            forgotten += tx.execute(FORGET_SIGNALS, [row.sid.row()])?;
            continue;
        }
        calls.due.push(DueCall { offer: row.sid, callee: row.callee });
    }
    calls.next = if is_all { tx.one(NEXT, [sql_ms(at)], |row| row.get(0).map(from_sql))? } else { Some(at) };
    Ok(calls)
}

/// Ends a call whose time is over.
pub(in crate::store) fn over(tx: &mut Tx<'_>, overdue: &OverdueCall, call: &ChatCall) -> rusqlite::Result<ChatOutcome> {
    let call = &mut Call::of(call);
    let done = |waits| ChatOutcome::Done { seen: Vec::new(), stranger: false, waits, confirmed: Vec::new() };
    let Some(mut row) = CallRow::by_sid(tx, overdue.offer)? else { return Ok(done(false)) };
    let Some(ending) = row.state.poll(call.at) else { return Ok(done(false)) };
    let until = call.at.saturating_add(u64::from(TTL_MAX) * 1_000);
    let payload = row.parties().end(overdue.sid, call.at, ending.outcome);
    tell(tx, &row.caller, (Origin::UserNote, &payload), call.at, until)?;
    if !row.hidden {
        tell(tx, &row.callee, (Origin::UserNote, &payload), call.at, until)?;
    }
    let ended = Ended { ending, sid: overdue.sid, message: overdue.message, until };
    let waits = end(tx, &row, &ended, (None, &overdue.callee.attended), call)?;
    Ok(done(waits))
}

/// Ends a call that a user is in, as if that one had hung up; false: there is none. The user is told nothing.
pub(in crate::store::sqlite) fn hang_up(tx: &mut Tx<'_>, user: &Owner, call: &mut Call<'_>) -> rusqlite::Result<bool> {
    let Some(mut row) = tx.one(GOING_ON, [user.as_str()], CallRow::read)? else { return Ok(false) };
    let (party, other) = match row.party(user) {
        Party::Caller => (Party::Caller, row.callee.clone()),
        Party::Callee => (Party::Callee, row.caller.clone()),
    };
    let follows = row.state.handle_signal(party, SignalKind::End, call.at);
    let (Ok(Follows::Ended(ending)), Some(sid), Some(message)) =
        (follows, call.push_sids.next().copied(), call.push_sids.next().copied())
    else {
        // Its time is over, which ends it as well; or there are no ids, and it goes without a word.
        row.state = CallState::Ended { outcome: Outcome::Cancelled };
        row.save(tx, call.at)?;
        return Ok(true);
    };
    let until = call.at.saturating_add(u64::from(TTL_MAX) * 1_000);
    if !row.hidden {
        let payload = row.parties().end(sid, call.at, ending.outcome);
        tell(tx, &other, (Origin::UserNote, &payload), call.at, until)?;
    }
    end(tx, &row, &Ended { ending, sid, message, until }, (None, &Attended::default()), call)?;
    Ok(true)
}

/// How a call ended.
pub(super) struct Ended {
    pub(super) ending: Ending,
    /// The id of the document by which it ended.
    pub(super) sid: Sid,
    /// The id of the message about it.
    pub(super) message: Sid,
    /// Until when a device that comes late is told.
    pub(super) until: u64,
}

/// The call is over, and its row says so by now in memory: `by` is the device of the callee that ended it. Whether pushes wait
/// for the devices of the callee that somebody looks at.
pub(super) fn end(
    tx: &mut Tx<'_>,
    row: &CallRow,
    ended: &Ended,
    (by, attended): (Option<&Device>, &Attended),
    call: &mut Call<'_>,
) -> rusqlite::Result<bool> {
    row.save(tx, call.at)?;
    let payload = row.parties().end(ended.sid, call.at, ended.ending.outcome);
    kept::keep(tx, row.sid, (Some(&payload), (!row.hidden).then_some(&*payload)), ended.until)?;
    ringing::stop(tx, row, by, call)?;
    keep_message(tx, row, ended, attended, call)
}

/// Both sides keep a message about the call; one that was missed counts as unread, and is pushed.
fn keep_message(
    tx: &mut Tx<'_>,
    call_row: &CallRow,
    ended: &Ended,
    attended: &Attended,
    call: &mut Call<'_>,
) -> rusqlite::Result<bool> {
    let (caller, callee) = (&call_row.caller, &call_row.callee);
    let is_missed = ended.ending.outcome == Outcome::Missed;
    let (mut conversation, by) = load(tx, caller, callee)?;
    let places = conversation.handle_call(ended.message, by, call_row.hidden, is_missed);
    if is_missed && places.reader.is_some() {
        deletion::take_out(tx, &mut conversation, by.other(), (callee, caller), call.at)?;
        people::add_unread(tx, callee, 1)?;
    }
    save(tx, caller, callee, &conversation)?;
    let row = ChatRow {
        sid: ended.message,
        kind: Kind::Call,
        writer: caller.clone(),
        by_bal: call_row.by_bal,
        id: None,
        peer: callee.clone(),
        dev: None,
        at: call.at,
        n_writer: Some(places.writer),
        n_reader: places.reader,
        theirs_writer: conversation.of(by).theirs,
        theirs_reader: conversation.of(by.other()).theirs,
        hidden: call_row.hidden,
        // Nobody wrote it, who could want to hear of it.
        receipt: false,
        waits: false,
        // Only what was missed is pushed.
        deadline: if is_missed { call.at.saturating_add(TTL_MS) } else { call.at },
        amends: None,
        gone: false,
    };
    let document = call_row.parties().message(ended.ending);
    if !row.by_bal {
        copy(tx, &row, &document, caller, false, call.at)?;
    }
    if !row.hidden {
        copy(tx, &row, &document, callee, false, call.at)?;
    }
    let told = if is_missed { decide(tx, &row, attended, call)? } else { Told::default() };
    insert(tx, &ChatRow { waits: told.waits, ..row }, told.decided.as_ref(), &document)?;
    Ok(told.waits)
}

fn decide(tx: &mut Tx<'_>, row: &ChatRow, attended: &Attended, call: &mut Call<'_>) -> rusqlite::Result<Told> {
    let entry = people::entry(tx, &row.peer, &row.writer)?;
    let asked = Asked::of(Matter::Message, Wish::Auto).by(entry, entry, attended, call.at);
    // A block that was lifted since hides the call all the same.
    let asked = Asked { blocked: asked.blocked || row.hidden, ..asked };
    push::decide(
        tx,
        &Asking { reader: &row.peer, row, body: "", title: None, asked, attended, before: None, call: None },
        call,
    )
}

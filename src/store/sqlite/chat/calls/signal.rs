//! A signal: decided by the state of its call, and told to both sides, in one transaction.

use super::ending::{Ended, end};
use super::{CallRow, kept, ringing, tell};
use crate::chat::attention::Attended;
use crate::chat::call::{CallState, Fault, Follows, Party};
use crate::chat::contact::What;
use crate::chat::id::{MessageId, Owner, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::status::Status;
use crate::chat::suffix::calls::SignalKind;
use crate::chat::suffix::messages::{Stamp, stamped};
use crate::chat::topic::Device;
use crate::store::sqlite::chat::message::{admission, receipt};
use crate::store::sqlite::chat::push::Told;
use crate::store::sqlite::chat::{Call, ChatRow, json_text, people, position};
use crate::store::sqlite::column::{from_sql, sid, sql_ms};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{ChatCall, ChatOutcome, NewSignal, Origin, Seeing};
use rusqlite::params;

pub(in crate::store::sqlite) const KNOWN: &str =
    "SELECT digest, row, tail, at FROM signals WHERE writer = ?1 AND id = ?2";
const REMEMBER: &str =
    "INSERT INTO signals (writer, id, call, digest, row, tail, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const INSERT: &str = "INSERT INTO calls (row, tail, caller, by_bal, callee, call, dev, at, state, look_at, hidden,
    received, waits, until, decided, to_callee, kept_until)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0, ?12, ?13, ?14, ?15, ?13)";

/// Signals of one call that are remembered by their ids, at most.
const SIGNALS_MAX: i64 = 1_000;
const IS_FULL: &str = "SELECT 1 FROM signals WHERE call = ?1 LIMIT 1 OFFSET ?2 - 1";
/// Calls of one user to another of which devices that come late are told, at most.
const OFFERS_MAX: i64 = 20;
pub(in crate::store::sqlite) const RINGS_TOO_OFTEN: &str = "SELECT 1 FROM calls INDEXED BY calls_callee
    WHERE callee = ?1 AND kept_until > ?2 AND caller = ?3 LIMIT 1 OFFSET ?4 - 1";

pub(in crate::store) fn take(tx: &mut Tx<'_>, new: &NewSignal, call: &ChatCall) -> rusqlite::Result<ChatOutcome> {
    let call = &mut Call::of(call);
    if let Some(known) = known(tx, new, call.at)? {
        return Ok(known);
    }
    let taken = match new.signal.kind {
        SignalKind::Offer => offer(tx, new, call)?,
        _ => of_call(tx, new, call)?,
    };
    match taken {
        Ok(Taken { of, outcome }) => {
            // Of an end that comes later than the other side's nothing follows, however often.
            if !tx.exists(IS_FULL, params![of.row(), 2 * SIGNALS_MAX])? {
                remember(tx, new, of, call.at)?;
            }
            Ok(outcome)
        }
        Err(outcome) => Ok(outcome),
    }
}

/// A signal that was taken.
struct Taken {
    /// The sid of the offer of its call.
    of: Sid,
    outcome: ChatOutcome,
}

fn refused(new: &NewSignal, code: ErrorCode, detail: &str) -> ChatOutcome {
    ChatOutcome::Refused(Rejection::new(code, detail).about(new.signal.id.clone()))
}

/// What is said of a signal whose id its writer has used before.
fn known(tx: &mut Tx<'_>, new: &NewSignal, at: u64) -> rusqlite::Result<Option<ChatOutcome>> {
    let Some(id) = &new.signal.id else { return Ok(None) };
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, sid(row, 1, 2)?, from_sql(row.get(3)?)));
    let Some((digest, sid, ts)) = tx.one(KNOWN, params![new.from.name.as_str(), id.as_str()], read)? else {
        return Ok(None);
    };
    if digest != new.signal.digest() {
        return Ok(Some(refused(new, ErrorCode::Duplicate, "another signal of the same writer has this `id`")));
    }
    if new.from.role == Role::User {
        let payload = stamped(&new.signal.to_bytes(), &Stamp { sid, ts, redelivered: true, ..stamp(new, at) });
        tell(tx, &new.from.name, (Origin::UserNote, &payload), at, new.until)?;
    }
    Ok(Some(ChatOutcome::Repeated))
}

/// The sid of the offer of a call that `writer` made to this user under this id.
pub(in crate::store::sqlite::chat) fn offered_to(
    tx: &ReadTx<'_>,
    user: &Owner,
    writer: &Owner,
    id: &MessageId,
) -> rusqlite::Result<Option<Sid>> {
    let read = |row: &rusqlite::Row<'_>| sid(row, 1, 2);
    let Some(sid) = tx.one(KNOWN, params![writer.as_str(), id.as_str()], read)? else { return Ok(None) };
    Ok(ringing::is_to(tx, user, sid)?.then_some(sid))
}

fn remember(tx: &Tx<'_>, new: &NewSignal, of: Sid, at: u64) -> rusqlite::Result<()> {
    let Some(id) = &new.signal.id else { return Ok(()) };
    let (row, tail) = new.sid.parts();
    let call: Row = of.row();
    let digest = new.signal.digest();
    let values = params![new.from.name.as_str(), id.as_str(), call, digest, row, tail, sql_ms(at)];
    tx.execute(REMEMBER, values).map(drop)
}

/// The device is shown to both sides.
fn stamp(new: &NewSignal, at: u64) -> Stamp<'_> {
    let (from, dev) = (&new.from.name, new.from.dev.as_ref());
    Stamp { sid: new.sid, n: None, ts: at, from, group: None, dev, redelivered: false }
}

fn offer(tx: &mut Tx<'_>, new: &NewSignal, call: &mut Call<'_>) -> rusqlite::Result<Result<Taken, ChatOutcome>> {
    let (from, to) = (&new.from, &new.to);
    if from.name == to.name {
        return Ok(Err(refused(new, ErrorCode::BadField, "`to` is the writer")));
    }
    if to.role == Some(Role::Bal) {
        return Ok(Err(refused(new, ErrorCode::BadField, "`to` names a BAL, which cannot be called")));
    }
    let admission = match admission(tx, What::Message, from, to, call)? {
        Ok(admission) => admission,
        Err(rejection) => return Ok(Err(ChatOutcome::Refused(rejection.about(new.signal.id.clone())))),
    };
    if CallRow::by_name(tx, &new.signal.call, &from.name, &to.name)?.is_some() {
        return Ok(Err(refused(new, ErrorCode::Duplicate, "another call of these two has this `call`")));
    }
    let of_pair = params![to.name.as_str(), sql_ms(call.at), from.name.as_str(), OFFERS_MAX];
    if tx.exists(RINGS_TOO_OFTEN, of_pair)? {
        let detail = format!("{OFFERS_MAX} calls to this user ring, or have just ended");
        return Ok(Err(refused(new, ErrorCode::RateLimited, &detail)));
    }
    let seen = if from.role == Role::User { contact(tx, &from.name, &to.name, call.at)? } else { None };
    let row = CallRow {
        sid: new.sid,
        caller: from.name.clone(),
        by_bal: from.role == Role::Bal,
        callee: to.name.clone(),
        name: new.signal.call.clone(),
        dev: from.dev.as_ref().map(|dev| dev.as_str().to_owned()),
        at: call.at,
        state: CallState::Offered { until: new.until },
        hidden: admission.is_swallowed(),
        waits: false,
        until: new.until,
    };
    let payload = stamped(&new.signal.to_bytes(), &stamp(new, call.at));
    if row.by_bal {
        let id = new.signal.id.as_ref().map(|id| id.as_str().to_owned());
        receipt(tx, &ChatRow { id, ..row.offer() }, Status::Accepted, call.at)?;
    } else {
        tell(tx, &row.caller, (Origin::UserNote, &payload), call.at, row.until)?;
    }
    // The answer of the gatekeeper may have taken longer than it rings: then it is missed, as the clock of calls says.
    let rings = call.at < row.until;
    if rings && !row.hidden && !from.direct {
        tell(tx, &row.callee, (Origin::ChatCopy(row.sid), &payload), call.at, row.until)?;
    }
    let told = if rings { ringing::decide(tx, &row, &to.attended, call)? } else { Told::default() };
    insert(tx, &row, &told, &payload)?;
    let (seen, stranger) = (seen.into_iter().collect(), admission.is_of_stranger());
    let outcome = ChatOutcome::Done { seen, stranger, waits: told.waits, confirmed: Vec::new() };
    Ok(Ok(Taken { of: new.sid, outcome }))
}

/// Who rings somebody, or answers, makes a contact of the other one, as who writes does.
fn contact(tx: &mut Tx<'_>, user: &Owner, other: &Owner, at: u64) -> rusqlite::Result<Option<Seeing>> {
    let seen = people::make_contact(tx, user, other)?;
    if seen.is_some() {
        position::tell_contact(tx, user, other, at)?;
    }
    Ok(seen)
}

fn insert(tx: &Tx<'_>, row: &CallRow, told: &Told, payload: &[u8]) -> rusqlite::Result<()> {
    let (number, tail) = row.sid.parts();
    let values = params![
        number,
        tail,
        row.caller.as_str(),
        row.by_bal,
        row.callee.as_str(),
        row.name.as_str(),
        row.dev,
        sql_ms(row.at),
        json_text(&row.state)?,
        sql_ms(row.look_at(row.at)),
        row.hidden,
        told.waits,
        sql_ms(row.until),
        told.decided.as_ref().map(json_text).transpose()?,
        (!row.hidden).then_some(payload),
    ];
    tx.execute(INSERT, values).map(drop)
}

/// A signal of a call that was offered before.
fn of_call(tx: &mut Tx<'_>, new: &NewSignal, call: &mut Call<'_>) -> rusqlite::Result<Result<Taken, ChatOutcome>> {
    let (from, to) = (&new.from.name, &new.to.name);
    let row = CallRow::by_name(tx, &new.signal.call, from, to)?;
    // Whoever has blocked the caller knows nothing of the call.
    let Some(mut row) = row.filter(|row| !row.hidden || row.party(from) == Party::Caller) else {
        return Ok(Err(refused(new, ErrorCode::NotFound, "there is no such call between these two")));
    };
    let party = row.party(from);
    let follows = match row.state.handle_signal(party, new.signal.kind, call.at) {
        Ok(follows) => follows,
        Err(Fault::Taken) => return Ok(Err(refused(new, ErrorCode::Duplicate, "the call was answered before"))),
        Err(Fault::Over) => return Ok(Err(refused(new, ErrorCode::NotFound, "the call is over"))),
        Err(Fault::NotItsTurn) => {
            let detail = "who is called rings, answers and rejects, and the caller ends";
            return Ok(Err(refused(new, ErrorCode::Forbidden, detail)));
        }
    };
    if follows == Follows::Passed && tx.exists(IS_FULL, params![row.sid.row(), SIGNALS_MAX])? {
        let detail = format!("{SIGNALS_MAX} signals of this call are known");
        return Ok(Err(refused(new, ErrorCode::RateLimited, &detail)));
    }
    let payload = stamped(&new.signal.to_bytes(), &stamp(new, call.at));
    // The call may have begun before the block.
    let is_heard = !row.hidden && !people::entry(tx, to, from)?.blocked;
    if follows != Follows::Nothing {
        pass_on(tx, new, is_heard, &payload, call.at)?;
    }
    let mut seen = None;
    match follows {
        Follows::Passed | Follows::Nothing => {}
        Follows::Taken => seen = answered(tx, new, &row, &payload, call)?,
        Follows::Ended(ending) => {
            let by = new.from.dev.as_ref().filter(|_| party == Party::Callee);
            let ended = Ended { ending, sid: new.sid, message: new.message, until: new.until };
            if !is_heard && !row.hidden {
                // In the bridge's own words.
                let over = row.parties().end(new.sid, call.at, ending.outcome);
                tell(tx, to, (Origin::UserNote, &over), call.at, ended.until)?;
            }
            // Only a missed call is pushed, and this is none.
            end(tx, &row, &ended, (by, &Attended::default()), call)?;
        }
    }
    let seen = seen.into_iter().collect();
    let outcome = ChatOutcome::Done { seen, stranger: false, waits: false, confirmed: Vec::new() };
    Ok(Ok(Taken { of: row.sid, outcome }))
}

/// The writer's devices get the copy, unless it is a BAL, and so does the other side if it is to hear anything, unless it has
/// the signal already.
fn pass_on(tx: &mut Tx<'_>, new: &NewSignal, is_heard: bool, payload: &[u8], at: u64) -> rusqlite::Result<()> {
    let until = new.until;
    if new.from.role == Role::User {
        tell(tx, &new.from.name, (Origin::UserNote, payload), at, until)?;
    }
    let is_told = is_heard && !new.from.direct;
    if is_told { tell(tx, &new.to.name, (Origin::UserNote, payload), at, until) } else { Ok(()) }
}

/// The other devices of the callee stop ringing.
fn answered(
    tx: &mut Tx<'_>,
    new: &NewSignal,
    row: &CallRow,
    payload: &[u8],
    call: &mut Call<'_>,
) -> rusqlite::Result<Option<Seeing>> {
    row.save(tx, call.at)?;
    let dev: Option<&Device> = new.from.dev.as_ref();
    let until = new.until;
    if let Some(sid) = call.push_sids.next() {
        let taken = row.parties().taken(*sid, call.at, dev);
        tell(tx, &row.callee, (Origin::UserNote, &taken), call.at, until.max(row.until))?;
        kept::keep(tx, row.sid, (Some(payload), Some(&taken)), until)?;
    }
    ringing::stop(tx, row, dev, call)?;
    if row.by_bal { Ok(None) } else { contact(tx, &row.callee, &row.caller, call.at) }
}

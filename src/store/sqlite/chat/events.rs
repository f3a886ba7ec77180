//! What BALs are told of chat: held for each of them like the messages of devices, and acknowledged alike.

use super::history::{Shown, shown};
use super::{Call, ChatRow, Kind};
use crate::chat::bal_event::{BalEvent, REPORT_BYTES};
use crate::chat::id::Sid;
use crate::store::sqlite::tx::Tx;
use crate::store::sqlite::{outbox, upstream};
use crate::store::{ChatCall, NewReport};

/// Tells every BAL that asks for events. Beyond the limits of the spool nothing is kept for them: chat goes on.
pub(in crate::store::sqlite) fn tell(
    tx: &mut Tx<'_>,
    event: &BalEvent<'_>,
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    for route in &call.policy.listeners {
        let Some(sid) = call.push_sids.next() else { return Ok(()) };
        let payload = event.to_payload(*sid, call.at);
        if tx.spool_is_full(payload.len() as u64) {
            tx.memory_draft.figures.notes_dropped += 1;
        } else {
            upstream::receive_of_user(tx, *sid, route, &payload, call.at)?;
        }
    }
    Ok(())
}

/// A message is stored. Where no BAL asks nothing is written.
pub(super) fn stored(tx: &mut Tx<'_>, row: &ChatRow, call: &mut Call<'_>) -> rusqlite::Result<()> {
    if call.policy.listeners.is_empty() {
        return Ok(());
    }
    let kind = if row.kind == Kind::Reaction { "reaction" } else { "message" };
    let (from, to) = (row.writer.as_str(), row.peer.as_str());
    tell(tx, &BalEvent::MessageStored { sid: row.sid.to_string(), from, to, kind }, call)
}

/// A user reports another one, to the operator and to BALs: to them with the messages as far as they are of their conversation.
pub(in crate::store) fn reported(tx: &mut Tx<'_>, report: &NewReport, call: &ChatCall) -> rusqlite::Result<()> {
    let NewReport { by, with, sids, reason, event } = report;
    outbox::queue_note(tx, event)?;
    let call = &mut Call::of(call);
    if call.policy.listeners.is_empty() {
        return Ok(());
    }
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for sid in sids {
        let Some(row) = ChatRow::by_sid(tx, *sid)?.filter(|row| row.other(by) == with) else { continue };
        if !row.is_of(tx, by)? {
            continue;
        }
        let Shown::Item(copy) = shown(tx, by, &row)? else { continue };
        bytes += copy.len();
        if bytes > REPORT_BYTES {
            break;
        }
        messages.extend(serde_json::from_slice(&copy));
    }
    let sids = sids.iter().map(Sid::to_string).collect();
    let (by, with, reason) = (by.as_str(), with.as_str(), reason.as_deref());
    tell(tx, &BalEvent::Reported { by, with, sids, reason, messages }, call)
}

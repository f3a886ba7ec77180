//! The devices that ring because they were pushed: decided for the offer as for a message, and stopped when the call is
//! answered or over.

use super::CallRow;
use crate::chat::attention::Attended;
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::push_decision::{Asked, Matter, PushWhen, Wish};
use crate::chat::push_document::Content;
use crate::chat::suffix::calls::TTL_MAX;
use crate::chat::topic::Device;
use crate::store::NewReceipt;
use crate::store::sqlite::chat::notified::cancel;
use crate::store::sqlite::chat::push::{self, Asking, Decided, News, Told, queue, registered};
use crate::store::sqlite::chat::{Call, json, json_text, people, unpushed};
use crate::store::sqlite::tx::{ReadTx, Tx};
use rusqlite::params;
use std::collections::BTreeSet;

const NOTE: &str = "INSERT INTO ringing (call, dev, delivery) VALUES (?1, ?2, ?3)
    ON CONFLICT (call, dev) DO UPDATE SET delivery = excluded.delivery";
const SENT: &str = "UPDATE ringing SET delivery = NULL WHERE call = ?1 AND dev = ?2 AND delivery = ?3";
const UNNOTE: &str = "DELETE FROM ringing WHERE call = ?1 AND dev = ?2 AND delivery = ?3";
pub(in crate::store::sqlite) const NOTED: &str = "SELECT dev, delivery FROM ringing WHERE call = ?1";
const FORGET: &str = "DELETE FROM ringing WHERE call = ?1";
pub(in crate::store::sqlite) const FORGET_DEVICE: &str = "DELETE FROM ringing WHERE dev = ?2
    AND call IN (SELECT row FROM calls INDEXED BY calls_callee WHERE callee = ?1)";
const DECIDED: &str = "SELECT decided FROM calls WHERE row = ?1 AND waits = 1";
const SET_DECIDED: &str = "UPDATE calls SET waits = ?2, decided = ?3 WHERE row = ?1";
const STOP_WAITING: &str = "UPDATE calls SET waits = 0 WHERE row = ?1";
const RECEIVED: &str = "UPDATE calls SET received = 1 WHERE row = ?1 AND tail = ?2 AND callee = ?3 AND hidden = 0";
pub(in crate::store::sqlite) const UNDECIDED: &str = call_rows!(
    "INDEXED BY calls_waits WHERE waits = 1 AND received = 0
    AND row NOT IN (SELECT row FROM unpushed) ORDER BY callee, row"
);
const BY_ROW: &str = call_rows!("WHERE row = ?1");

/// Decides for each device of the callee, and queues the pushes that go now.
pub(super) fn decide(
    tx: &mut Tx<'_>,
    row: &CallRow,
    attended: &Attended,
    call: &mut Call<'_>,
) -> rusqlite::Result<Told> {
    decide_after(tx, row, attended, None, call)
}

fn decide_after(
    tx: &mut Tx<'_>,
    row: &CallRow,
    attended: &Attended,
    before: Option<Decided>,
    call: &mut Call<'_>,
) -> rusqlite::Result<Told> {
    let entry = people::entry(tx, &row.callee, &row.caller)?;
    let asked = Asked::of(Matter::Call, Wish::Auto).by(entry, entry, attended, call.at);
    let asked = Asked { blocked: asked.blocked || row.hidden, ..asked };
    let offer = row.offer();
    let (reader, call_name) = (&row.callee, Some(&row.name));
    let asking = Asking { reader, row: &offer, body: "", title: None, asked, attended, before, call: call_name };
    push::decide(tx, &asking, call)
}

/// Decides anew about an offer whose pushes waited. Whether they wait further; `None`: it is no offer to this user.
pub(in crate::store::sqlite) fn decide_again(
    tx: &mut Tx<'_>,
    user: &Owner,
    offer: Sid,
    attended: &Attended,
    call: &mut Call<'_>,
) -> rusqlite::Result<Option<bool>> {
    let Some(row) = CallRow::by_sid(tx, offer)?.filter(|row| row.callee == *user) else { return Ok(None) };
    let before = tx.one(DECIDED, [offer.row()], |row| json::<Decided>(row, 0))?;
    // Its time may be over, and nobody has looked yet.
    let Some(before) = before.filter(|_| row.state.rings() && call.at < row.until) else {
        unpushed::note(tx, offer.row(), false)?;
        return Ok(Some(false));
    };
    let told = decide_after(tx, &row, attended, Some(before), call)?;
    if let Some(decided) = &told.decided {
        tx.execute(SET_DECIDED, params![offer.row(), told.waits, json_text(decided)?])?;
    } else {
        tx.execute(STOP_WAITING, [offer.row()])?;
    }
    Ok(Some(told.waits))
}

/// Offers whose pushes waited for an attended device and that no device has confirmed.
pub(in crate::store::sqlite) fn undecided(tx: &ReadTx<'_>) -> rusqlite::Result<Vec<(Owner, Sid)>> {
    tx.all(UNDECIDED, [], |row| CallRow::read(row).map(|row| (row.callee, row.sid)))
}

/// The offer with this row, if there is one: who is rung, and its sid.
pub(in crate::store::sqlite) fn without_room(tx: &ReadTx<'_>, offer: Row) -> rusqlite::Result<Option<(Owner, Sid)>> {
    tx.one(BY_ROW, [offer], |row| CallRow::read(row).map(|row| (row.callee, row.sid)))
}

/// The device was pushed for an offer, by a push that may be taken back.
pub(in crate::store::sqlite) fn note(tx: &Tx<'_>, offer: Row, dev: &str, delivery: Row) -> rusqlite::Result<()> {
    tx.execute(NOTE, params![offer, dev, delivery]).map(drop)
}

/// The push went.
pub(in crate::store::sqlite) fn sent(tx: &Tx<'_>, offer: Row, dev: &str, delivery: Row) -> rusqlite::Result<()> {
    tx.execute(SENT, params![offer, dev, delivery]).map(drop)
}

/// The push did not go, and will not.
pub(in crate::store::sqlite) fn unnote(tx: &Tx<'_>, offer: Row, dev: &str, delivery: Row) -> rusqlite::Result<()> {
    tx.execute(UNNOTE, params![offer, dev, delivery]).map(drop)
}

/// The device has no token any more: nothing is cleared at it.
pub(in crate::store::sqlite) fn forget_device(tx: &Tx<'_>, user: &Owner, dev: &str) -> rusqlite::Result<()> {
    tx.execute(FORGET_DEVICE, params![user.as_str(), dev]).map(drop)
}

/// Nothing rings any more: pushes that wait are taken back, and devices that were pushed get a `clear`, but for `by`, which did
/// what stops them.
pub(super) fn stop(tx: &mut Tx<'_>, row: &CallRow, by: Option<&Device>, call: &mut Call<'_>) -> rusqlite::Result<()> {
    let offer = row.sid.row();
    tx.execute(STOP_WAITING, [offer])?;
    unpushed::note(tx, offer, false)?;
    let mut rings = BTreeSet::new();
    for (dev, delivery) in noted(tx, offer)? {
        let is_taken_back = match delivery {
            Some(delivery) => cancel(tx, delivery, call.at)?,
            None => false,
        };
        if !is_taken_back {
            rings.insert(dev);
        }
    }
    tx.execute(FORGET, [offer])?;
    let devices = if rings.is_empty() { Vec::new() } else { registered(tx, &row.callee)? };
    for mut device in devices {
        if !rings.contains(device.dev.as_str()) || by == Some(&device.dev) {
            continue;
        }
        let content = Content::ClearCall { with: &row.caller, sid: row.sid, call: &row.name };
        // A device that hears of it later has stopped by itself.
        let deadline = call.at.saturating_add(u64::from(TTL_MAX) * 1_000);
        queue(tx, &News { user: &row.callee, content, deadline, about: None }, &mut device, call)?;
    }
    Ok(())
}

fn noted(tx: &ReadTx<'_>, offer: Row) -> rusqlite::Result<Vec<(String, Option<Row>)>> {
    tx.all(NOTED, [offer], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// A device of `user` acknowledged the copy of an offer over MQTT.
pub(in crate::store::sqlite) fn acknowledged(tx: &Tx<'_>, user: &str, offer: Sid) -> rusqlite::Result<bool> {
    let (row, tail) = offer.parts();
    Ok(tx.execute(RECEIVED, params![row, tail, user])? > 0)
}

/// Whether this is the offer of a call to this user, as far as it knows.
pub(in crate::store::sqlite) fn is_to(tx: &ReadTx<'_>, user: &Owner, offer: Sid) -> rusqlite::Result<bool> {
    Ok(CallRow::by_sid(tx, offer)?.is_some_and(|row| row.callee == *user && !row.hidden))
}

/// A device says that it has an offer to this user.
pub(in crate::store::sqlite) fn receipt(
    tx: &mut Tx<'_>,
    new: &NewReceipt,
    offer: Sid,
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    acknowledged(tx, new.user.as_str(), offer)?;
    // A device that nobody looks at says nothing of the others.
    match new.dev.as_ref().filter(|_| new.attended) {
        Some(dev) => attended(tx, &new.user, dev, offer, call),
        None => Ok(()),
    }
}

/// The attended device `dev` rings: pushes that still wait to be sent, or to be decided, are taken back.
pub(in crate::store::sqlite) fn attended(
    tx: &mut Tx<'_>,
    user: &Owner,
    dev: &Device,
    offer: Sid,
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    if !is_to(tx, user, offer)? {
        return Ok(());
    }
    let own_only = call.policy.push_when == PushWhen::PerDevice;
    for (pushed, delivery) in noted(tx, offer.row())? {
        if let Some(delivery) = delivery.filter(|_| !own_only || dev.as_str() == pushed) {
            cancel(tx, delivery, call.at)?;
        }
    }
    let decided = tx.one(DECIDED, [offer.row()], |row| json::<Decided>(row, 0))?;
    match decided.filter(|_| own_only) {
        None => tx.execute(STOP_WAITING, [offer.row()]).map(drop),
        Some(decided) => {
            let decided = decided.confirmed_by(dev);
            tx.execute(SET_DECIDED, params![offer.row(), decided.waits(), json_text(&decided)?]).map(drop)
        }
    }
}

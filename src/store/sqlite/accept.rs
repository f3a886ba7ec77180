//! Taking a message: remembered and answered `accepted` in one transaction.

use super::column::{NEVER, fan_out_text, sql_ms};
use super::delivery::Delivery;
use super::message::{FanOutMessage, RELEASE_ORDER_KEY, SEVERAL};
use super::outbox::{self, Document};
use super::request::BY_ID;
use super::tx::{ReadTx, Tx};
use crate::chat::delivery::{Event, Life, State};
use crate::chat::fan_out::FanOut;
use crate::chat::id::{Recipient, Row, Sid};
use crate::chat::status::{Status, StatusDocument};
use crate::chat::topic::is_status_topic;
use crate::chat::transport::Transport;
use crate::store::{
    Accepted, Deliveries, Destination, INBOX, NewDelivery, NewMessage, NewPush, Origin, SeveralDeliveries,
};
use rusqlite::params;

pub(super) const UNSETTLED: &str =
    "SELECT 1 FROM deliveries WHERE bal = ?1 AND order_key = ?2 AND final_at IS NULL LIMIT 1";
/// `look_at` is the time of the sweep, `due_at` that of the dispatcher.
const INSERT: &str = "INSERT INTO deliveries (row, tail, bal, id, recipient, order_key, state, deadline, look_at,
    accepted_at, attempt, dup_possible, receipt, told_seq, reply, corr, body, way, claimed_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?16, 0, ?10, ?11, ?12, ?13, ?14, ?15, ?17)
    ON CONFLICT (id, bal) DO NOTHING";
/// `id` is the delivery's own id and `bal` is empty, so that the index (id, bal) stays unique.
const INSERT_PART: &str =
    "INSERT INTO deliveries (row, tail, bal, id, recipient, state, deadline, look_at, accepted_at,
    claimed_at, attempt, dup_possible, receipt, told_seq, reply, body, way, message)
    VALUES (?1, ?2, '', ?3, ?4, ?5, ?6, ?6, ?7, ?8, ?9, 0, ?10, ?11, ?12, ?13, ?14, ?15)";
const INSERT_SEVERAL: &str = "INSERT INTO messages (row, fan_out, told_at, kept_until) VALUES (?1, ?2, ?3, ?4)";

pub(in crate::store) fn accept(tx: &mut Tx<'_>, new: &NewMessage) -> rusqlite::Result<Accepted> {
    let (rows, bytes) = size(new);
    if tx.queue_is_full(rows, bytes) {
        return Ok(repeat(tx, new)?.map_or(Accepted::Full, Accepted::Repeated));
    }
    let state = if is_behind(tx, new)? { State::Waiting } else { State::Due };
    let on_accept = match &new.deliveries {
        Deliveries::Only(push) if state == State::Due => tx.may_claim_on_accept(new, push)?,
        _ => None,
    };
    let inserted = match &new.deliveries {
        Deliveries::Only(push) => {
            let state = if on_accept.is_some() { State::InFlight } else { state };
            insert(tx, new, state.code(), push, &push.transport.to_string())?
        }
        Deliveries::Several(several) => {
            let receipt = several.parts().0.iter().any(NewDelivery::receipt);
            let (recipient, transport, deadline_ms) = (Recipient(0), Transport::default(), u64::MAX);
            insert(tx, new, SEVERAL, &NewPush { recipient, transport, deadline_ms, receipt }, "")?
        }
    };
    if inserted == 0 {
        return repeat(tx, new)?.map(Accepted::Repeated).ok_or(rusqlite::Error::QueryReturnedNoRows);
    }
    let (origin, at, correlation) = (Origin::Status(new.sid), new.accepted_at, new.correlation.as_deref());
    let document = StatusDocument::without_transport(new.id.as_str(), Status::Accepted, at, false);
    let payload = document.notice(new.notice.as_deref()).correlation(correlation).to_bytes();
    outbox::queue(tx, &Document { topic: &new.reply, origin, at, correlation, payload: &payload })?;
    match &new.deliveries {
        Deliveries::Only(push) => {
            queued(tx, bytes);
            match on_accept {
                Some(pipelining) => tx.claim_on_accept(new, push, pipelining),
                None if state == State::Due => tx.now_due(),
                None => {}
            }
        }
        Deliveries::Several(several) => insert_several(tx, new, several, state)?,
    }
    Ok(Accepted::Stored)
}

/// Queues a push to a device of a user. Nobody is told `accepted`. `at_once`: it is due from now on, and may be claimed.
pub(super) fn queue_push(tx: &mut Tx<'_>, new: &NewMessage, at_once: bool) -> rusqlite::Result<()> {
    let Deliveries::Only(push) = &new.deliveries else { return Ok(()) };
    let on_accept = if at_once { tx.may_claim_on_accept(new, push)? } else { None };
    let state = if on_accept.is_some() { State::InFlight } else { State::Due };
    insert(tx, new, state.code(), push, &push.transport.to_string())?;
    queued(tx, new.body.len() as u64);
    match on_accept {
        Some(pipelining) => tx.claim_on_accept(new, push, pipelining),
        None => tx.now_due(),
    }
    Ok(())
}

/// The rows and bytes that the limits must have room for.
fn size(new: &NewMessage) -> (u64, u64) {
    let body = new.body.len() as u64;
    match &new.deliveries {
        Deliveries::Only(_) => (1, body),
        Deliveries::Several(several) => {
            let addresses = several.parts().0.iter().filter_map(|delivery| match &delivery.destination {
                Destination::Push { address, .. } => Some(address.len() as u64),
                Destination::Inbox { .. } => None,
            });
            addresses.fold((0, body), |(rows, bytes), address| (rows + 1, bytes + address))
        }
    }
}

/// Counts a push delivery, and the bytes kept for it alone, in the figures.
fn queued(tx: &mut Tx<'_>, bytes: u64) {
    tx.memory_draft.figures.queue_rows += 1;
    tx.memory_draft.figures.queue_bytes += bytes;
}

pub(in crate::store) fn repeat(tx: &mut Tx<'_>, new: &NewMessage) -> rusqlite::Result<Option<Status>> {
    let found = tx.one(BY_ID, [new.id.as_str(), new.bal.as_str()], |row| row.get::<_, Row>(0))?;
    let Some(row) = found else { return Ok(None) };
    if let Some(known) = Delivery::by_row(tx, row)? {
        return known.repeat(tx, new);
    }
    FanOutMessage::by_row(tx, row)?.map(|known| known.repeat(tx, new)).transpose()
}

fn is_behind(tx: &ReadTx<'_>, new: &NewMessage) -> rusqlite::Result<bool> {
    new.order.as_ref().map_or(Ok(false), |key| tx.exists(UNSETTLED, [new.bal.as_str(), key]))
}

fn insert(tx: &Tx<'_>, new: &NewMessage, state: i64, push: &NewPush, transport: &str) -> rusqlite::Result<usize> {
    let (row, tail) = new.sid.parts();
    let in_flight = state == State::InFlight.code();
    tx.execute(
        INSERT,
        params![
            row,
            tail,
            new.bal.as_str(),
            new.id.as_str(),
            push.recipient,
            new.order,
            state,
            sql_ms(push.deadline_ms),
            sql_ms(new.accepted_at),
            push.receipt,
            // The number that the status `accepted` gets next; a repeat takes none.
            tx.memory_draft.numbers.next,
            if is_status_topic(new.bal.as_str(), &new.reply) { "" } else { &new.reply },
            new.correlation.as_deref(),
            &*new.body,
            transport,
            u32::from(in_flight),
            in_flight.then_some(sql_ms(new.accepted_at)),
        ],
    )
}

/// Inserts the deliveries of a message, and its row of `messages`. All of them wait for the order key together.
fn insert_several(
    tx: &mut Tx<'_>,
    new: &NewMessage,
    several: &SeveralDeliveries,
    state: State,
) -> rusqlite::Result<()> {
    let (deliveries, kept_until) = several.parts();
    let mut pushes = 0;
    for delivery in deliveries {
        match &delivery.destination {
            Destination::Push { push, address } => {
                pushes += 1;
                queued(tx, address.len() as u64);
                if state == State::Due {
                    tx.now_due();
                }
                let (recipient, transport, deadline) =
                    (push.recipient, &*push.transport.to_string(), sql_ms(push.deadline_ms));
                let (sid, life, body) = (delivery.sid, Life::new(state, push.receipt), Some(&**address));
                let row = DeliveryRow { sid, life, recipient, transport, deadline, document_seq: 0, topic: "", body };
                row.insert(tx, new)?;
            }
            Destination::Inbox { topic, deadline_ms, receipt } => {
                let mut life = Life::new(state, *receipt);
                let mut document_seq = 0;
                // An inbox waits for nothing but its order key.
                if let Some(step) = life.step(&Event::Claimed) {
                    life = step.life;
                    document_seq = outbox::put_in(tx, topic, delivery.sid, new.accepted_at)?;
                }
                let deadline = deadline_ms.map_or(NEVER, sql_ms);
                let (sid, recipient, transport) = (delivery.sid, Recipient(0), INBOX);
                let row = DeliveryRow { sid, life, recipient, transport, deadline, document_seq, topic, body: None };
                row.insert(tx, new)?;
            }
        }
    }
    if pushes > 0 {
        tx.memory_draft.figures.queue_bytes += new.body.len() as u64;
    }
    let inboxes = u32::try_from(deliveries.len()).unwrap_or(u32::MAX) - pushes;
    let fan_out = FanOut::new(pushes, inboxes);
    let (row, at) = (new.sid.row(), sql_ms(new.accepted_at));
    tx.execute(INSERT_SEVERAL, params![row, fan_out_text(&fan_out)?, at, kept_until.map(sql_ms)])?;
    if state == State::Due && !fan_out.holds_order() {
        // An inbox-only message holds no order key: clear it, so that the next message of the key is due.
        tx.execute(RELEASE_ORDER_KEY, [row])?;
    }
    Ok(())
}

/// One of several deliveries, on its way to its row.
struct DeliveryRow<'a> {
    sid: Sid,
    life: Life,
    recipient: Recipient,
    transport: &'a str,
    deadline: i64,
    document_seq: i64,
    topic: &'a str,
    body: Option<&'a [u8]>,
}

impl DeliveryRow<'_> {
    fn insert(&self, tx: &Tx<'_>, new: &NewMessage) -> rusqlite::Result<()> {
        let (row, tail) = self.sid.parts();
        let at = sql_ms(new.accepted_at);
        let values = params![
            row,
            tail,
            self.sid.to_string(),
            self.recipient,
            self.life.state.code(),
            self.deadline,
            at,
            (self.life.attempt > 0).then_some(at),
            self.life.attempt,
            self.life.receipt,
            self.document_seq,
            self.topic,
            self.body,
            self.transport,
            new.sid.row(),
        ];
        tx.execute(INSERT_PART, values).map(drop)
    }
}

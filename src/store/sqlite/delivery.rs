//! One row of `deliveries`: reading it, moving it one step, telling its sender.

use super::column::{bytes_of, from_sql, sid, sql_ms, state, transport};
use super::outbox::{self, Document};
use super::recipient_queue::{FIRST_OF_ALL, RecipientQueue};
use super::tx::{Settled, Tx};
use crate::chat::delivery::{AMBIGUOUS, Due, EXPIRED, Event, Fate, Life, State};
use crate::chat::id::{Row, Sid};
use crate::chat::refusal::{Decision, Refusal, TokenFate, Tried};
use crate::chat::status::{Status, StatusDocument, TokenAction, cut_detail};
use crate::store::{NewDelivery, Note, Origin};
use bytes::Bytes;
use rusqlite::{Params, params};
use serde_json::{Value, json};

/// Entries in the log of one delivery; the first ones tell the story, `attempt` counts the rest.
const LOG_MAX: i64 = 32;

const BY_ROW: &str = "SELECT row, tail, bal, id, recipient, order_key, state, attempt, dup_possible, receipt,
    accepted_at, sent_at, final_at, told_seq, code, detail, token_action, new_token, reply, corr, length(body),
    way, provider_id, waited_ms, unknown FROM deliveries WHERE row = ?1";
pub(super) const BY_ID: &str = "SELECT row FROM deliveries WHERE id = ?1 AND bal = ?2";
/// Still to be sent: the body stays. A number stands for the same value here and in the next two.
const BACK: &str = "UPDATE deliveries SET state = ?1, attempt = ?2, dup_possible = ?3, due_at = ?4, waited_ms = ?5,
    unknown = ?6 WHERE row = ?15";
/// Sent, not settled: none of the columns that decide about `deliveries_look` is named, so that index is not touched.
const SENT: &str = "UPDATE deliveries SET state = ?1, attempt = ?2, dup_possible = ?3, sent_at = ?7, told_seq = ?8,
    token_action = ?9, new_token = ?10, provider_id = ?11, detail = ?12, body = NULL WHERE row = ?15";
const SETTLED: &str = "UPDATE deliveries SET state = ?1, attempt = ?2, dup_possible = ?3, sent_at = ?7, told_seq = ?8,
    token_action = ?9, new_token = ?10, provider_id = ?11, detail = ?12, code = ?13, final_at = ?14, body = NULL
    WHERE row = ?15";
const LOG: &str = "UPDATE deliveries SET log = json_insert(coalesce(log, '[]'), '$[#]', json(?2))
    WHERE row = ?1 AND coalesce(json_array_length(log), 0) < ?3";
/// The word of the last refusal for now, if nothing else became of it since.
const LAST_REFUSAL: &str = "SELECT json_extract(log, '$[#-1].code') FROM deliveries WHERE row = ?1";
pub(super) const FIRST_OF_ORDER: &str = "SELECT row FROM deliveries
    WHERE bal = ?1 AND order_key = ?2 AND final_at IS NULL ORDER BY row LIMIT 1";
const TOLD: &str = "UPDATE deliveries SET told_seq = ?2 WHERE row = ?1";
/// A document that was handed out may have been read already, so it is not unread for certain.
const UNREAD: &str = "SELECT 1 FROM outbox WHERE topic = ?1 AND seq = ?2
    AND NOT EXISTS (SELECT 1 FROM claims WHERE claims.topic = ?1 AND claims.seq >= ?2)";

/// A row, without its body.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) sid: Sid,
    pub(super) bal: String,
    pub(super) id: String,
    /// The queue in which it has its place.
    pub(super) queue: RecipientQueue,
    pub(super) life: Life,
    order_key: Option<String>,
    accepted_at: u64,
    sent_at: Option<i64>,
    final_at: Option<i64>,
    told_seq: i64,
    code: Option<String>,
    detail: Option<String>,
    token_action: Option<TokenAction>,
    new_token: Option<String>,
    reply: String,
    corr: Option<Vec<u8>>,
    body_bytes: u64,
    provider_id: Option<String>,
}

impl Delivery {
    pub(super) fn by_sid(tx: &Tx<'_>, sid: Sid) -> rusqlite::Result<Option<Self>> {
        Ok(Self::by_row(tx, sid.row())?.filter(|delivery| delivery.sid == sid))
    }

    pub(super) fn by_row(tx: &Tx<'_>, row: Row) -> rusqlite::Result<Option<Self>> {
        tx.one(BY_ROW, [row], Self::read)
    }

    pub(super) fn by_id(tx: &Tx<'_>, bal: &str, id: &str) -> rusqlite::Result<Option<Self>> {
        Self::found(tx, BY_ID, [id, bal])
    }

    /// The one whose row a statement finds.
    fn found(tx: &Tx<'_>, sql: &str, params: impl Params) -> rusqlite::Result<Option<Self>> {
        tx.one(sql, params, |row| row.get(0))?.map_or(Ok(None), |row| Self::by_row(tx, row))
    }

    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            sid: sid(row, 0, 1)?,
            bal: row.get(2)?,
            id: row.get(3)?,
            queue: RecipientQueue { recipient: row.get(4)?, transport: transport(row, 21)? },
            order_key: row.get(5)?,
            life: Life {
                state: state(row, 6)?,
                attempt: row.get(7)?,
                dup_possible: row.get(8)?,
                receipt: row.get(9)?,
                tried: Tried { waited_ms: from_sql(row.get(23)?), unknown: row.get(24)? },
            },
            accepted_at: from_sql(row.get(10)?),
            sent_at: row.get(11)?,
            final_at: row.get(12)?,
            told_seq: row.get(13)?,
            code: row.get(14)?,
            detail: row.get(15)?,
            token_action: row.get::<_, Option<i64>>(16)?.and_then(TokenAction::from_code),
            new_token: row.get(17)?,
            reply: row.get(18)?,
            corr: row.get(19)?,
            body_bytes: bytes_of(row.get(20)?),
            provider_id: row.get(22)?,
        })
    }

    /// Moves it by `event`. Returns what was told, or `None` when the event means nothing any more.
    pub(super) fn apply(
        &mut self,
        tx: &mut Tx<'_>,
        event: &Event,
        at: u64,
    ) -> rusqlite::Result<Option<&'static [Status]>> {
        let Some(step) = self.life.step(event) else {
            self.note_late(tx, event)?;
            return Ok(None);
        };
        let was = self.life;
        self.life = step.life;
        if let (Event::Back { replays: times @ 1.., .. }, State::InFlight) = (event, was.state) {
            self.log(tx, &json!({"at": at, "event": "replayed", "times": times}))?;
        }
        self.note_facts(event);
        if self.life.state == State::Expired {
            let copies = if let Event::Back { copies, .. } = event { *copies } else { 0 };
            self.note_expiry(tx, was.expiry(copies))?;
        }
        for status in step.tell {
            if *status == Status::Sent {
                self.sent_at = Some(sql_ms(at));
            }
            self.told_seq = self.tell(tx, *status, at)?;
        }
        if self.life.settled() {
            self.final_at = Some(sql_ms(at));
        }
        let row = self.sid.row();
        self.write(tx, step.due)?;
        if let Some(entry) = log_entry(event, step.due, at) {
            self.log(tx, &entry)?;
        }
        if was.unsent() && !self.life.unsent() {
            tx.draft.figures.unqueue(self.body_bytes);
        }
        if matches!(was.state, State::Due | State::InFlight) && was.state != self.life.state {
            tx.draft.due |= self.queue.left(tx, row, was.state)?;
        }
        if self.life.settled() {
            tx.draft.deliveries.add(Settled { at, row });
            self.let_next_go(tx, at)?;
        }
        Ok(Some(step.tell))
    }

    /// Its time to live is over; false when that means nothing any more.
    pub(super) fn expire(&mut self, tx: &mut Tx<'_>, at: u64) -> rusqlite::Result<bool> {
        Ok(self.apply(tx, &Event::Expired, at)?.is_some())
    }

    /// Tells the last status again, on the topic of the one who asks, and marked: it was told before. Unless it still
    /// waits to be published there, for then the first telling is the answer to both.
    pub(super) fn repeat(&self, tx: &mut Tx<'_>, asked: &NewDelivery) -> rusqlite::Result<Status> {
        let (topic, correlation, at) = (&*asked.reply, asked.correlation.as_deref(), asked.accepted_at);
        let status = self.life.status();
        let document = self.document(status, self.time_of(status));
        let document = document.notice(asked.notice.as_deref());
        let payload = document.correlation(correlation).redelivered(true).to_bytes();
        if topic != self.reply || correlation != self.corr.as_deref() {
            // Another question. Clients may ask as many as they like, so its answer is a note, of which few are kept.
            let (topic, correlation) = (topic.to_owned(), correlation.map(Bytes::copy_from_slice));
            outbox::tell(tx, &Note { topic, payload: payload.into(), correlation, at })?;
            return Ok(status);
        }
        if !tx.exists(UNREAD, params![topic, self.told_seq])? {
            let document = Document { topic, origin: Origin::Status(self.sid), at, correlation, payload: &payload };
            let seq = outbox::queue(tx, &document)?;
            tx.execute(TOLD, params![self.sid.row(), seq])?;
        }
        Ok(status)
    }

    fn tell(&self, tx: &mut Tx<'_>, status: Status, at: u64) -> rusqlite::Result<i64> {
        let correlation = self.corr.as_deref();
        let payload = self.document(status, at).correlation(correlation).to_bytes();
        let document =
            Document { topic: &self.reply, origin: Origin::Status(self.sid), at, correlation, payload: &payload };
        outbox::queue(tx, &document)
    }

    fn document(&self, status: Status, at: u64) -> StatusDocument<'_> {
        StatusDocument::new(&self.id, status, at, self.life, &self.queue.transport)
            .provider_id(self.provider_id.as_deref())
            .reason(self.code.as_deref(), self.detail.as_deref())
            .token(self.token_action, self.new_token.as_deref())
    }

    fn time_of(&self, status: Status) -> u64 {
        match status {
            Status::Accepted => self.accepted_at,
            Status::Sent => self.sent_at.map_or(self.accepted_at, from_sql),
            _ => self.final_at.map_or(self.accepted_at, from_sql),
        }
    }

    /// The device's word overtook the answer of the push service: no status tells any more what that brings, but who asks
    /// later hears of it.
    fn note_late(&mut self, tx: &mut Tx<'_>, event: &Event) -> rusqlite::Result<()> {
        if !matches!(self.life.state, State::Sent | State::Delivered) {
            return Ok(());
        }
        let Event::Back { fate, replays, .. } = event else { return Ok(()) };
        self.life.attempt = self.life.attempt.saturating_add(*replays);
        match fate {
            Fate::Accepted { provider_id: Some(_), .. } if self.provider_id.is_none() => self.note_facts(event),
            _ if *replays == 0 => return Ok(()),
            _ => {}
        }
        self.write(tx, None)
    }

    fn note_facts(&mut self, event: &Event) {
        let Event::Back { fate, .. } = event else { return };
        match fate {
            Fate::Accepted { canonical, provider_id, detail } => {
                self.provider_id.clone_from(provider_id);
                self.detail = detail.as_deref().map(|text| cut_detail(text).to_owned());
                if let Some(token) = canonical {
                    self.token_action = Some(TokenAction::Replace);
                    self.new_token = Some(token.reveal().to_owned());
                }
            }
            Fate::Refused(refusal) if self.life.state == State::Failed => {
                self.code = Some(refusal.code.clone());
                self.detail = Some(cut_detail(&refusal.detail).to_owned());
                let fate = if let Decision::Fail { token, .. } = refusal.decision { token } else { TokenFate::Keep };
                self.token_action = Some(fate.into());
            }
            Fate::Unsendable { code, detail } => {
                self.code = Some(code.clone());
                self.detail = Some(cut_detail(detail).to_owned());
            }
            _ => {}
        }
    }

    /// `why` it expired, and the last refusal that the log has.
    fn note_expiry(&mut self, tx: &Tx<'_>, why: &str) -> rusqlite::Result<()> {
        let last: Option<String> = tx.one(LAST_REFUSAL, [self.sid.row()], |row| row.get(0))?.flatten();
        let refused = match last.as_deref() {
            None => String::new(),
            Some(AMBIGUOUS) => " (no answer to the last try, or none that settles it)".to_owned(),
            Some(code) => format!(" (last refused with {code})"),
        };
        self.code = Some(EXPIRED.to_owned());
        self.detail = Some(cut_detail(&format!("{why}{refused}")).to_owned());
        Ok(())
    }

    fn log(&self, tx: &Tx<'_>, entry: &Value) -> rusqlite::Result<()> {
        tx.execute(LOG, params![self.sid.row(), entry.to_string(), LOG_MAX]).map(drop)
    }

    fn write(&self, tx: &mut Tx<'_>, due: Option<Due>) -> rusqlite::Result<()> {
        let Life { state, attempt, dup_possible, tried, .. } = self.life;
        tx.draft.due |= due.is_some();
        let sql = match state {
            // What may have to be sent keeps its body.
            State::Due | State::Waiting | State::InFlight => BACK,
            _ if self.life.settled() => SETTLED,
            _ => SENT,
        };
        let values = params![
            state.code(),
            attempt,
            dup_possible,
            due.map_or(Ok(None), |due| self.due_at(tx, due))?,
            sql_ms(tried.waited_ms),
            tried.unknown,
            self.sent_at,
            self.told_seq,
            self.token_action.map(TokenAction::code),
            self.new_token,
            self.provider_id,
            self.detail,
            self.code,
            self.final_at,
            self.sid.row(),
        ];
        tx.execute(sql, values).map(drop)
    }

    /// How a due time is written. What was never put off has none; it must not be older than what is put off or in flight.
    fn due_at(&self, tx: &Tx<'_>, due: Due) -> rusqlite::Result<Option<i64>> {
        Ok(match due {
            Due::InTurn => self.queue.has_younger(tx, self.sid.row())?.then_some(FIRST_OF_ALL),
            Due::First => Some(FIRST_OF_ALL),
            Due::At(ms) => Some(sql_ms(ms).max(1)),
        })
    }

    /// The final word on this one is the turn of the next of the same order key.
    fn let_next_go(&self, tx: &mut Tx<'_>, at: u64) -> rusqlite::Result<()> {
        let Some(key) = &self.order_key else { return Ok(()) };
        if let Some(mut next) = Self::found(tx, FIRST_OF_ORDER, [&self.bal, key])? {
            next.apply(tx, &Event::Turn, at)?;
        }
        Ok(())
    }
}

/// What the log keeps: only what is unusual.
fn log_entry(event: &Event, due: Option<Due>, at: u64) -> Option<Value> {
    Some(match event {
        Event::Crashed => json!({"at": at, "event": "crash"}),
        Event::Back { fate: Fate::Refused(Refusal { code, .. }), .. } => match due? {
            Due::At(due) => json!({"at": at, "event": "retry", "code": code, "due": due}),
            Due::InTurn | Due::First => json!({"at": at, "event": "retry", "code": code}),
        },
        Event::Back { fate: Fate::Lost, copies, .. } => json!({"at": at, "event": "lost", "copies": copies}),
        Event::Back { fate: Fate::Accepted { canonical: Some(token), .. }, .. } => {
            json!({"at": at, "event": "canonical_id", "token": token.to_string()})
        }
        Event::Back { fate: Fate::Accepted { .. }, copies: copies @ 2.., .. } => {
            json!({"at": at, "event": "copies", "copies": copies})
        }
        _ => return None,
    })
}

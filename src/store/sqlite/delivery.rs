//! The life of one delivery, in its row of `deliveries`: reading it, moving it one step, and what follows.

use super::chat::notified;
use super::chat::push::DevicePush;
use super::column::{NEVER, bytes_of, from_sql, sql_ms, state, transport};
use super::message::{FanOutMessage, SEVERAL};
use super::recipient_queue::RecipientQueue;
use super::request::{Request, is_inbox_of};
use super::tx::{HistoryEntry, ReadTx, Tx};
use super::{log, outbox};
use crate::chat::delivery::{AMBIGUOUS, Due, EXPIRED, Event, Fate, Life, State, Step};
use crate::chat::fan_out::By;
use crate::chat::id::{Owner, Recipient, Row, Sid};
use crate::chat::refusal::{Decision, RetryHistory, TokenFate};
use crate::chat::status::{Source, Status, StatusDocument, TokenAction, cut_detail};
use crate::store::{INBOX, NewMessage, RECEIPT_GRACE_MS, Recorded};
use rusqlite::params;
use serde_json::json;

/// Why what lay in an inbox to the end expired.
const UNREAD: &str = "the time to live ended before it was read";
/// Why what a broker took expired.
const UNCONFIRMED: &str = "it was taken, but no word of its delivery came in time";
const BY_ROW: &str =
    "SELECT row, tail, bal, id, order_key, accepted_at, told_seq, reply, corr, recipient, state, attempt,
    dup_possible, receipt, sent_at, final_at, code, detail, token_action, new_token, length(body), way, provider_id,
    waited_ms, unknown, message, chat FROM deliveries WHERE row = ?1";
/// Still to be sent: the body stays. A number stands for the same value here and in the next two.
const BACK: &str = "UPDATE deliveries SET state = ?1, attempt = ?2, dup_possible = ?3, due_at = ?4, waited_ms = ?5,
    unknown = ?6 WHERE row = ?15";
/// Sent, not settled: none of the columns that decide about `deliveries_look` is named, so that index is not touched.
const SENT: &str = "UPDATE deliveries SET state = ?1, attempt = ?2, dup_possible = ?3, sent_at = ?7, told_seq = ?8,
    token_action = ?9, new_token = ?10, provider_id = ?11, detail = ?12, body = NULL WHERE row = ?15";
const SETTLED: &str = "UPDATE deliveries SET state = ?1, attempt = ?2, dup_possible = ?3, sent_at = ?7, told_seq = ?8,
    token_action = ?9, new_token = ?10, provider_id = ?11, detail = ?12, code = ?13, final_at = ?14, body = NULL
    WHERE row = ?15";
/// A receipt is asked for that nobody can give.
const NO_RECEIPT: &str = "UPDATE deliveries SET receipt = 0 WHERE row = ?1";
const IN_INBOX: &str = "UPDATE deliveries SET told_seq = ?2, claimed_at = ?3 WHERE row = ?1";
/// What was to lie in an inbox for ever does not wait for its receipt as long.
const AWAIT_RECEIPT: &str = "UPDATE deliveries SET look_at = ?2 WHERE row = ?1 AND deadline = ?3";

/// Where a delivery goes.
#[derive(Debug, Clone)]
pub(super) enum DeliveryPath {
    /// To a transport, from a place in this queue.
    Queue(RecipientQueue),
    /// Into an inbox, the topic of which stands in the place of the statuses'.
    Inbox,
}

impl DeliveryPath {
    pub(super) fn by(&self) -> By {
        match self {
            Self::Queue(_) => By::Push,
            Self::Inbox => By::Inbox,
        }
    }
}

/// A delivery, without its body.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    /// What its sender said, where it is all of its message.
    pub(super) request: Request,
    pub(super) path: DeliveryPath,
    pub(super) life: Life,
    /// The message that it is one of several deliveries of.
    message: Option<Row>,
    /// A push to a device of a user: no status is told of it.
    chat: Option<DevicePush>,
    sent_at: Option<i64>,
    final_at: Option<i64>,
    pub(super) code: Option<String>,
    detail: Option<String>,
    token_action: Option<TokenAction>,
    new_token: Option<String>,
    body_bytes: u64,
    provider_id: Option<String>,
}

impl Delivery {
    pub(super) fn by_sid(tx: &ReadTx<'_>, sid: Sid) -> rusqlite::Result<Option<Self>> {
        Ok(Self::by_row(tx, sid.row())?.filter(|delivery| delivery.request.sid == sid))
    }

    /// The delivery in this row, unless it is that of a message with several.
    pub(super) fn by_row(tx: &ReadTx<'_>, row: Row) -> rusqlite::Result<Option<Self>> {
        Ok(tx.one(BY_ROW, [row], Self::read)?.flatten())
    }

    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Self>> {
        if row.get::<_, i64>(10)? == SEVERAL {
            return Ok(None);
        }
        let path = match row.get_ref(21)?.as_str()? {
            INBOX => DeliveryPath::Inbox,
            _ => DeliveryPath::Queue(RecipientQueue { recipient: row.get(9)?, transport: transport(row, 21)? }),
        };
        Ok(Some(Self {
            request: Request::read(row)?,
            path,
            life: Life {
                state: state(row, 10)?,
                attempt: row.get(11)?,
                dup_possible: row.get(12)?,
                receipt: row.get(13)?,
                retry_history: RetryHistory { waited_ms: from_sql(row.get(23)?), unknown: row.get(24)? },
            },
            message: row.get(25)?,
            chat: DevicePush::read(row, 26)?,
            sent_at: row.get(14)?,
            final_at: row.get(15)?,
            code: row.get(16)?,
            detail: row.get(17)?,
            token_action: row.get::<_, Option<i64>>(18)?.and_then(TokenAction::from_code),
            new_token: row.get(19)?,
            body_bytes: bytes_of(row.get(20)?),
            provider_id: row.get(22)?,
        }))
    }

    /// Moves it by `event`. Returns what was told of its message, or `None` when the event means nothing any more.
    pub(super) fn apply(
        &mut self,
        tx: &mut Tx<'_>,
        event: &Event,
        at: u64,
    ) -> rusqlite::Result<Option<&'static [Status]>> {
        let Some(step) = self.step(event) else {
            self.note_late(tx, event)?;
            return Ok(None);
        };
        let (was, row) = (self.life, self.request.sid.row());
        self.life = step.life;
        if let (Event::Back { replays: times @ 1.., .. }, State::InFlight) = (event, was.state) {
            log::add(tx, row, &json!({"at": at, "event": "replayed", "attempt": step.life.attempt, "times": times}))?;
        }
        self.note_facts(event);
        if self.life.state == State::Expired {
            let copies = if let Event::Back { copies, .. } = event { *copies } else { 0 };
            let why = match (&self.path, was.state) {
                (DeliveryPath::Inbox, State::InFlight) => UNREAD,
                (DeliveryPath::Inbox, State::Sent) => UNCONFIRMED,
                _ => was.expiry(copies),
            };
            self.note_expiry(tx, why)?;
        }
        for status in step.tell {
            if *status == Status::Sent {
                self.sent_at = Some(sql_ms(at));
            }
            if let Some(queue) = self.only() {
                let handed_over_ms = if let Event::Receipt { handed_over_ms } = event { *handed_over_ms } else { None };
                let document = self.document(queue, *status, at).handed_over(handed_over_ms);
                let seq = self.request.tell(tx, document, at)?;
                self.request.document_seq = seq;
            }
        }
        if self.life.settled() {
            self.final_at = Some(sql_ms(at));
        }
        self.write(tx, step.due)?;
        if was.receipt && !self.life.receipt {
            tx.execute(NO_RECEIPT, [row])?;
        }
        if let Some(entry) = log::entry(event, self.life, step.due, at) {
            log::add(tx, row, &entry)?;
        }
        self.left(tx, was, at)?;
        if let Some(push) = self.chat.take() {
            notified::moved(tx, &push, self, at)?;
            self.chat = Some(push);
        }
        self.message_moved(tx, was, step.tell, at).map(Some)
    }

    /// The queue of the only delivery of its message.
    fn only(&self) -> Option<&RecipientQueue> {
        match &self.path {
            DeliveryPath::Queue(queue) if self.message.is_none() && self.chat.is_none() => Some(queue),
            _ => None,
        }
    }

    fn step(&self, event: &Event) -> Option<Step> {
        let step = self.life.step(event)?;
        match self.path {
            // There is nothing that an inbox could wait for.
            DeliveryPath::Inbox if step.due.is_some() => step.life.step(&Event::Claimed),
            _ => Some(step),
        }
    }

    /// What a step changes in its queue or inbox.
    fn left(&mut self, tx: &mut Tx<'_>, was: Life, at: u64) -> rusqlite::Result<()> {
        let (row, state, done) = (self.request.sid.row(), self.life.state, was.unsent() && !self.life.unsent());
        match &self.path {
            DeliveryPath::Queue(queue) => {
                if done {
                    tx.memory_draft.figures.unqueue(self.body_bytes);
                }
                let left = matches!(was.state, State::Due | State::InFlight) && was.state != state;
                if left && queue.left(tx, row, was.state)? {
                    tx.now_due();
                }
            }
            DeliveryPath::Inbox if done => {
                outbox::withdraw(tx, &self.request.reply, self.request.document_seq)?;
                if !self.life.settled() {
                    let end = at.saturating_add(RECEIPT_GRACE_MS);
                    tx.execute(AWAIT_RECEIPT, params![row, sql_ms(end), NEVER])?;
                }
            }
            DeliveryPath::Inbox if was.state == State::Waiting => {
                self.request.document_seq = outbox::put_in(tx, &self.request.reply, self.request.sid, at)?;
                tx.execute(IN_INBOX, params![row, self.request.document_seq, sql_ms(at)])?;
            }
            DeliveryPath::Inbox => {}
        }
        Ok(())
    }

    /// What a step comes to for the message; `tell` is what is told if this is its only delivery. Returns what was told.
    fn message_moved(
        &mut self,
        tx: &mut Tx<'_>,
        was: Life,
        tell: &'static [Status],
        at: u64,
    ) -> rusqlite::Result<&'static [Status]> {
        let Some(message) = self.message else {
            if self.life.settled() {
                tx.memory_draft.deliveries.add(HistoryEntry { at, row: self.request.sid.row() });
                self.request.let_next_go(tx, at)?;
            }
            return Ok(tell);
        };
        let (request, told) = FanOutMessage::moved(tx, message, self, was, at)?;
        self.request = request;
        Ok(told)
    }

    /// The device's new token, if the push service named one.
    pub(super) fn new_token(&self) -> Option<&str> {
        self.new_token.as_deref()
    }

    /// What it is to a chat user, where it is a push to one of its devices.
    pub(super) fn chat(&self) -> Option<&DevicePush> {
        self.chat.as_ref()
    }

    /// What the refusal says of the token.
    pub(super) fn token_action(&self) -> Option<TokenAction> {
        self.token_action
    }

    /// Whose the token is; of a delivery into an inbox nobody's.
    pub(super) fn recipient(&self) -> Recipient {
        match &self.path {
            DeliveryPath::Queue(queue) => queue.recipient,
            DeliveryPath::Inbox => Recipient(0),
        }
    }

    /// Its time to live is over; true when the sender of its message is told so.
    pub(super) fn expire(&mut self, tx: &mut Tx<'_>, at: u64) -> rusqlite::Result<bool> {
        Ok(self.apply(tx, &Event::Expired, at)?.is_some_and(|told| told.contains(&Status::Expired)))
    }

    /// The same, and what that came to.
    pub(super) fn record(mut self, tx: &mut Tx<'_>, event: &Event, at: u64) -> rusqlite::Result<Recorded> {
        let Some(told) = self.apply(tx, event, at)? else { return Ok(Recorded::NoEffect) };
        let Self { request: Request { bal, id, .. }, life, .. } = self;
        Ok(Recorded::Moved { bal, id, life, told })
    }

    /// Tells the last status again ([`Request::repeat`]); `None` if it is not the only delivery of its message.
    pub(super) fn repeat(&self, tx: &mut Tx<'_>, asked: &NewMessage) -> rusqlite::Result<Option<Status>> {
        let Some(queue) = self.only() else { return Ok(None) };
        let status = self.life.status();
        self.request.repeat(tx, self.document(queue, status, self.time_of(status)), asked)?;
        Ok(Some(status))
    }

    /// Whether it is for `name` to say that it has arrived.
    pub(super) fn is_confirmed_by(&self, name: &Owner) -> bool {
        match &self.path {
            DeliveryPath::Queue(queue) => queue.transport.witness() == Source::App,
            DeliveryPath::Inbox => is_inbox_of(&self.request.reply, name),
        }
    }

    fn document(&self, queue: &RecipientQueue, status: Status, at: u64) -> StatusDocument<'_> {
        StatusDocument::new(&self.request.id, status, at, self.life, &queue.transport)
            .provider_id(self.provider_id.as_deref())
            .reason(self.code.as_deref(), self.detail.as_deref())
            .token(self.token_action, self.new_token.as_deref())
    }

    fn time_of(&self, status: Status) -> u64 {
        match status {
            Status::Accepted => self.request.accepted_at,
            Status::Sent => self.sent_at.map_or(self.request.accepted_at, from_sql),
            _ => self.final_at.map_or(self.request.accepted_at, from_sql),
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
            Fate::Accepted { canonical, provider_id, detail, .. } => {
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
                // That no answer settles it is the bridge's own word: the push service has said nothing of the token.
                self.token_action = (refusal.code != AMBIGUOUS).then(|| fate.into());
            }
            Fate::Unsendable { code, detail } => {
                self.code = Some(code.clone());
                self.detail = Some(cut_detail(detail).to_owned());
            }
            _ => {}
        }
    }

    /// `why` it expired, and what the log has last: a refusal, or what held it.
    fn note_expiry(&mut self, tx: &ReadTx<'_>, why: &str) -> rusqlite::Result<()> {
        let last = log::last(tx, self.request.sid.row())?;
        let refused = match (last["code"].as_str(), last["why"].as_str()) {
            (Some(AMBIGUOUS), _) => " (no answer to the last try, or none that settles it)".to_owned(),
            (Some(code), _) => format!(" (last refused with {code})"),
            (None, Some(held)) => format!(" (held: {held})"),
            (None, None) => String::new(),
        };
        self.code = Some(EXPIRED.to_owned());
        self.detail = Some(cut_detail(&format!("{why}{refused}")).to_owned());
        Ok(())
    }

    fn write(&self, tx: &mut Tx<'_>, due: Option<Due>) -> rusqlite::Result<()> {
        let Life { state, attempt, dup_possible, retry_history, .. } = self.life;
        if due.is_some() {
            tx.now_due();
        }
        let due_at = match (&self.path, due) {
            (DeliveryPath::Queue(queue), Some(due)) => queue.due_at(tx, self.request.sid.row(), due)?,
            _ => None,
        };
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
            due_at,
            sql_ms(retry_history.waited_ms),
            retry_history.unknown,
            self.sent_at,
            self.request.document_seq,
            self.token_action.map(TokenAction::code),
            self.new_token,
            self.provider_id,
            self.detail,
            self.code,
            self.final_at,
            self.request.sid.row(),
        ];
        tx.execute(sql, values).map(drop)
    }
}

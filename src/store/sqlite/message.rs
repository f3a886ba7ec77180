//! A message with several deliveries: its row of `deliveries`, which has no life of its own, beside it a row of `messages`,
//! and one of `deliveries` for each of them.

use super::column::{bytes_of, fan_out, fan_out_text, from_sql, sql_ms};
use super::delivery::Delivery;
use super::request::Request;
use super::tx::{HistoryEntry, ReadTx, Tx};
use crate::chat::delivery::{Event, Life, State};
use crate::chat::fan_out::FanOut;
use crate::chat::id::Row;
use crate::chat::status::{Status, StatusDocument};
use crate::store::NewMessage;
use rusqlite::params;

/// What stands in the place of a state in the row of a message with several deliveries. It is that of no delivery, and is
/// never given another meaning.
pub(super) const SEVERAL: i64 = 8;

pub(super) const BY_ROW: &str = "SELECT d.row, d.tail, d.bal, d.id, d.order_key, d.accepted_at, d.told_seq, d.reply,
    d.corr, d.dup_possible, d.sent_at, d.code, length(d.body), m.fan_out, m.told_at, m.kept_until
    FROM messages m JOIN deliveries d ON d.row = m.row WHERE m.row = ?1";
const MOVED: &str = "UPDATE messages SET fan_out = ?2, told_at = ?3, kept_until = ?4 WHERE row = ?1";
const TOLD: &str = "UPDATE deliveries SET dup_possible = ?2, sent_at = ?3, code = ?4, told_seq = ?5, final_at = ?6,
    order_key = ?7 WHERE row = ?1";
/// Clears the order key: the next message of the key becomes first, and new ones do not wait for this one.
pub(super) const RELEASE_ORDER_KEY: &str = "UPDATE deliveries SET order_key = NULL WHERE row = ?1";
const DROP_BODY: &str = "UPDATE deliveries SET body = NULL WHERE row = ?1";
pub(super) const PARTS_WAITING: &str = "SELECT row FROM deliveries WHERE message = ?1 AND state = ?2";
const FORGET: &str = "DELETE FROM deliveries WHERE row = ?1 AND final_at IS NOT NULL";
pub(super) const FORGET_PARTS: &str = "DELETE FROM deliveries WHERE message = ?1";
const FORGET_COUNTS: &str = "DELETE FROM messages WHERE row = ?1";

/// What is known of it, without its body.
#[derive(Debug)]
pub(super) struct FanOutMessage {
    request: Request,
    fan_out: FanOut,
    /// Whether any of its deliveries may have arrived twice.
    dup_possible: bool,
    sent_at: Option<i64>,
    told_at: u64,
    /// That of the delivery that failed last.
    code: Option<String>,
    kept_until: Option<i64>,
    body_bytes: u64,
}

impl FanOutMessage {
    pub(super) fn by_row(tx: &ReadTx<'_>, row: Row) -> rusqlite::Result<Option<Self>> {
        tx.one(BY_ROW, [row], |row| {
            Ok(Self {
                request: Request::read(row)?,
                dup_possible: row.get(9)?,
                sent_at: row.get(10)?,
                code: row.get(11)?,
                body_bytes: bytes_of(row.get(12)?),
                fan_out: fan_out(row, 13)?,
                told_at: from_sql(row.get(14)?),
                kept_until: row.get(15)?,
            })
        })
    }

    /// Applies the change `was` -> `delivery.life` to the counts of the message `row`. Returns what its sender was
    /// told, and the message's request.
    pub(super) fn moved(
        tx: &mut Tx<'_>,
        row: Row,
        delivery: &Delivery,
        was: Life,
        at: u64,
    ) -> rusqlite::Result<(Request, &'static [Status])> {
        let mut message = Self::by_row(tx, row)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let now = delivery.life;
        if was.unsent() && now.unsent() && was.dup_possible == now.dup_possible {
            return Ok((message.request, &[]));
        }
        let (pushes, unsent) = (message.fan_out.pushes(), message.fan_out.unsent());
        let told = message.fan_out.moved(delivery.path.by(), was, now);
        let releases_order_key = message.releases_order_key(tx)?;
        let mut news = !told.is_empty() || now.dup_possible && !message.dup_possible;
        message.dup_possible |= now.dup_possible;
        if now.state == State::Failed && message.code != delivery.code {
            message.code.clone_from(&delivery.code);
            news = true;
        }
        message.tell(tx, told, at)?;
        if pushes && !message.fan_out.pushes() {
            tx.memory_draft.figures.queue_bytes =
                tx.memory_draft.figures.queue_bytes.saturating_sub(message.body_bytes);
        }
        if unsent && !message.fan_out.unsent() && message.kept_until.is_none() {
            tx.execute(DROP_BODY, [row])?;
        }
        let settled = message.fan_out.settled();
        if settled {
            // What is kept is remembered as long as what is not.
            let remembered = sql_ms(at.saturating_add(tx.limits.history_ms()));
            message.kept_until = message.kept_until.map(|until| until.max(remembered));
        }
        message.write(tx)?;
        // The body is in this row, so it is not written again for nothing.
        if news || settled || releases_order_key {
            let order_key = message.request.order_key.as_deref().filter(|_| !releases_order_key || settled);
            message.write_told(tx, settled.then_some(at), order_key)?;
        }
        if settled && message.kept_until.is_none() {
            tx.memory_draft.deliveries.add(HistoryEntry { at, row });
        }
        if settled || releases_order_key {
            message.request.let_next_go(tx, at)?;
        }
        Ok((message.request, told))
    }

    /// Whether the message stops holding its order key with this step. As long as it waits for the key itself, there is
    /// nothing to release.
    fn releases_order_key(&self, tx: &ReadTx<'_>) -> rusqlite::Result<bool> {
        if self.request.order_key.is_none() || self.fan_out.holds_order() {
            return Ok(false);
        }
        Ok(!tx.exists(PARTS_WAITING, params![self.request.sid.row(), State::Waiting.code()])?)
    }

    fn tell(&mut self, tx: &mut Tx<'_>, told: &[Status], at: u64) -> rusqlite::Result<()> {
        for status in told {
            self.told_at = at;
            if *status == Status::Sent {
                self.sent_at = Some(sql_ms(at));
            }
            self.request.document_seq = self.request.tell(tx, self.document(*status, &self.detail()), at)?;
        }
        Ok(())
    }

    /// Where its deliveries stand.
    fn write(&self, tx: &Tx<'_>) -> rusqlite::Result<()> {
        let (row, told_at) = (self.request.sid.row(), sql_ms(self.told_at));
        tx.execute(MOVED, params![row, fan_out_text(&self.fan_out)?, told_at, self.kept_until]).map(drop)
    }

    fn write_told(&self, tx: &Tx<'_>, final_at: Option<u64>, order_key: Option<&str>) -> rusqlite::Result<()> {
        let Self { request: Request { sid, document_seq, .. }, dup_possible, sent_at, code, .. } = self;
        let final_at = final_at.map(sql_ms);
        tx.execute(TOLD, params![sid.row(), dup_possible, sent_at, code, document_seq, final_at, order_key]).map(drop)
    }

    fn detail(&self) -> String {
        self.fan_out.reason(None).1
    }

    fn document<'a>(&'a self, status: Status, detail: &'a str) -> StatusDocument<'a> {
        let detail = matches!(status, Status::Failed | Status::Expired).then_some(detail);
        let (code, _) = self.fan_out.reason(self.code.as_deref());
        StatusDocument::without_transport(&self.request.id, status, self.told_at, self.dup_possible)
            .reason(code, detail)
    }

    /// Tells the last status again ([`Request::repeat`]).
    pub(super) fn repeat(&self, tx: &mut Tx<'_>, asked: &NewMessage) -> rusqlite::Result<Status> {
        let status = self.fan_out.status();
        self.request.repeat(tx, self.document(status, &self.detail()), asked)?;
        Ok(status)
    }

    /// The message is the first of its order key: all its deliveries become due. Returns whether it holds the key.
    pub(super) fn take_order_key(tx: &mut Tx<'_>, row: Row, at: u64) -> rusqlite::Result<bool> {
        for part in tx.all(PARTS_WAITING, params![row, State::Waiting.code()], |row| row.get::<_, Row>(0))? {
            if let Some(mut delivery) = Delivery::by_row(tx, part)? {
                delivery.apply(tx, &Event::Turn, at)?;
            }
        }
        let holds = Self::by_row(tx, row)?.is_some_and(|message| message.fan_out.holds_order());
        if !holds {
            tx.execute(RELEASE_ORDER_KEY, [row])?;
        }
        Ok(holds)
    }

    /// Its `kept_until` is over: it is forgotten, or, if it is not settled, kept no longer than others. Returns how
    /// many rows changed.
    pub(super) fn kept_enough(tx: &mut Tx<'_>, row: Row) -> rusqlite::Result<usize> {
        let Some(mut message) = Self::by_row(tx, row)? else { return Ok(0) };
        if message.fan_out.settled() {
            return Self::forget(tx, row);
        }
        message.kept_until = None;
        if !message.fan_out.unsent() {
            tx.execute(DROP_BODY, [row])?;
        }
        message.write(tx)?;
        Ok(1)
    }

    /// Takes it out with its deliveries, if it is settled. Returns how many rows there were.
    pub(super) fn forget(tx: &Tx<'_>, row: Row) -> rusqlite::Result<usize> {
        let own = tx.execute(FORGET, [row])?;
        if own == 0 {
            return Ok(0);
        }
        Ok(own + tx.execute(FORGET_PARTS, [row])? + tx.execute(FORGET_COUNTS, [row])?)
    }
}

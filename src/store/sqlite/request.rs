//! What the sender of a message said of it, and how it is told what became of it.

use super::column::{from_sql, sid};
use super::delivery::Delivery;
use super::message::FanOutMessage;
use super::outbox::{self, Document};
use super::tx::Tx;
use crate::chat::delivery::Event;
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::status::StatusDocument;
use crate::chat::topic::{Side, status_topic};
use crate::store::{NewMessage, Note, Origin};
use bytes::Bytes;
use rusqlite::params;
use std::borrow::Cow;

pub(super) const BY_ID: &str = "SELECT row FROM deliveries WHERE id = ?1 AND bal = ?2";
pub(super) const FIRST_OF_ORDER: &str = "SELECT row FROM deliveries
    WHERE bal = ?1 AND order_key = ?2 AND final_at IS NULL ORDER BY row LIMIT 1";
const TOLD: &str = "UPDATE deliveries SET told_seq = ?2 WHERE row = ?1";
/// A document that was handed out may have been read already, so it is not unread for certain.
const UNREAD: &str = "SELECT 1 FROM outbox WHERE topic = ?1 AND seq = ?2
    AND NOT EXISTS (SELECT 1 FROM claims WHERE claims.topic = ?1 AND claims.seq >= ?2)";

/// The columns of a message's row that do not depend on how many deliveries it has.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) sid: Sid,
    pub(super) bal: String,
    pub(super) id: String,
    pub(super) order_key: Option<String>,
    pub(super) accepted_at: u64,
    /// The last status document; of a delivery into an inbox, the document there.
    pub(super) document_seq: i64,
    /// Where statuses go. Empty: where all statuses of this sender do, which is not worth writing down with each message.
    pub(super) reply: String,
    correlation: Option<Vec<u8>>,
}

impl Request {
    /// Reads the first nine columns: `row, tail, bal, id, order_key, accepted_at, document_seq, reply, corr`.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            sid: sid(row, 0, 1)?,
            bal: row.get(2)?,
            id: row.get(3)?,
            order_key: row.get(4)?,
            accepted_at: from_sql(row.get(5)?),
            document_seq: row.get(6)?,
            reply: row.get(7)?,
            correlation: row.get(8)?,
        })
    }

    fn topic(&self) -> Cow<'_, str> {
        reply_topic(&self.bal, &self.reply)
    }

    /// Queues a status. Returns the number of its document.
    pub(super) fn tell(&self, tx: &mut Tx<'_>, document: StatusDocument<'_>, at: u64) -> rusqlite::Result<i64> {
        let correlation = self.correlation.as_deref();
        let payload = document.correlation(correlation).to_bytes();
        let (topic, origin) = (&*self.topic(), Origin::Status(self.sid));
        outbox::queue(tx, &Document { topic, origin, at, correlation, payload: &payload })
    }

    /// Tells the last status again, on the topic of the one who asks, and marked: it was told before. Unless it still
    /// waits to be published there, for then the first telling is the answer to both.
    pub(super) fn repeat(
        &self,
        tx: &mut Tx<'_>,
        document: StatusDocument<'_>,
        asked: &NewMessage,
    ) -> rusqlite::Result<()> {
        let (topic, correlation, at) = (&*asked.reply, asked.correlation.as_deref(), asked.accepted_at);
        let document = document.notice(asked.notice.as_deref());
        let payload = document.correlation(correlation).redelivered(true).to_bytes();
        if topic != self.topic() || correlation != self.correlation.as_deref() {
            // Another question. Clients may ask as many as they like, so its answer is a note, of which few are kept.
            let (topic, correlation) = (topic.to_owned(), correlation.map(Bytes::copy_from_slice));
            return outbox::queue_note(tx, &Note { topic, payload: payload.into(), correlation, at });
        }
        if !tx.exists(UNREAD, params![topic, self.document_seq])? {
            let document = Document { topic, origin: Origin::Status(self.sid), at, correlation, payload: &payload };
            let seq = outbox::queue(tx, &document)?;
            tx.execute(TOLD, params![self.sid.row(), seq])?;
        }
        Ok(())
    }

    /// Makes the next message of the order key due, and those after it up to the first that holds the key.
    pub(super) fn let_next_go(&self, tx: &mut Tx<'_>, at: u64) -> rusqlite::Result<()> {
        let Some(key) = &self.order_key else { return Ok(()) };
        let mut waited_for = false;
        while !waited_for && let Some(row) = tx.one(FIRST_OF_ORDER, [&self.bal, key], |row| row.get::<_, Row>(0))? {
            waited_for = match Delivery::by_row(tx, row)? {
                Some(mut next) => next.apply(tx, &Event::Turn, at).map(|_| true)?,
                None => FanOutMessage::take_order_key(tx, row, at)?,
            };
        }
        Ok(())
    }
}

pub(super) fn reply_topic<'a>(bal: &str, reply: &'a str) -> Cow<'a, str> {
    if reply.is_empty() { status_topic(bal).into() } else { reply.into() }
}

/// Whether a topic is in the inbox of `name`.
pub(super) fn is_inbox_of(topic: &str, name: &Owner) -> bool {
    matches!(Side::of(topic), Side::Inbox { owner, .. } if owner == name.as_str())
}

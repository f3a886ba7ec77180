//! A message on its way to one reader.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::chat::message::mark_redelivered;
use crate::chat::qos::QoS;
use crate::store::{DocumentRef, Message, QueueRow, Target};

/// The property Correlation Data (MQTT 5, 3.3.2.3.6).
const CORRELATION_DATA: u8 = 0x09;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutgoingMessage {
    pub(crate) message: Arc<Message>,
    /// The quality of service with which it is delivered.
    pub(crate) qos: QoS,
    /// The retain flag that the reader sees.
    pub(crate) retain: bool,
    /// The identifiers of the subscriptions that match.
    pub(crate) ids: Vec<u32>,
    /// Where it is kept.
    pub(crate) source: Source,
    /// It may have been delivered before: DUP.
    pub(crate) copy: bool,
    /// What is handed out: how often the queue was left by all its consumers before.
    pub(crate) generation: u64,
}

/// Where a message is kept until it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nowhere else.
    Memory,
    /// A row of the queue, with this number.
    Row(u64),
    /// A document of the bridge.
    Document(DocumentRef),
}

/// The name of what is on disk, to know it again when it is read again. In the order in which it is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SourceKey {
    /// A row of the session's own queue.
    Row(u64),
    /// A document: topic and number.
    Document(Arc<str>, u64),
}

impl Source {
    /// Its name; what is only in memory has none.
    pub(crate) fn key(&self) -> Option<SourceKey> {
        match self {
            Self::Memory => None,
            Self::Row(seq) => Some(SourceKey::Row(*seq)),
            Self::Document(reference) => Some(SourceKey::Document(Arc::clone(&reference.topic), reference.seq)),
        }
    }
}

impl OutgoingMessage {
    /// What is not on disk, or not for this reader.
    pub(crate) fn memory(message: Arc<Message>, target: Target) -> Self {
        Self::new(message, target, Source::Memory)
    }

    /// A row that was just committed.
    pub(crate) fn row(seq: u64, message: Arc<Message>, target: Target) -> Self {
        Self::new(message, target, Source::Row(seq))
    }

    /// A document for a reader whose subscriptions grant `qos` and have these identifiers. The bridge publishes documents
    /// with QoS 1, so that nobody gets them with more. `message` is made by [`document_message`], once for all readers.
    pub(crate) fn document(
        message: Arc<Message>,
        reference: DocumentRef,
        qos: QoS,
        ids: Vec<u32>,
        redelivered: bool,
    ) -> Self {
        let (qos, source) = (qos.min(QoS::AtLeastOnce), Source::Document(reference));
        Self { message, qos, retain: false, ids, source, copy: redelivered, generation: 0 }
    }

    /// The same, which may have been delivered before. A document says so itself.
    pub(super) fn into_copy(mut self) -> Self {
        let is_document = matches!(self.source, Source::Document(_));
        let marked = if is_document && !self.copy { mark_redelivered(&self.message.payload) } else { None };
        if let Some(payload) = marked.map(Bytes::from) {
            self.message = Arc::new(Message { payload, ..Message::clone(&self.message) });
        }
        self.copy = true;
        self
    }

    /// What it takes in memory, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.message.topic.len() + self.message.payload.len() + self.message.properties.len()
    }

    fn new(message: Arc<Message>, target: Target, source: Source) -> Self {
        let Target { qos, retain, ids, .. } = target;
        Self { message, qos, retain, ids, source, copy: false, generation: 0 }
    }
}

impl From<QueueRow> for OutgoingMessage {
    fn from(row: QueueRow) -> Self {
        Self { copy: row.maybe_sent, ..Self::row(row.seq, row.message, row.target) }
    }
}

/// A document as a message. One that may have been published before says so in its payload, too; one may be of no use from a
/// time on, in Unix milliseconds.
pub(crate) fn document_message(
    topic: &Arc<str>,
    payload: Bytes,
    correlation: Option<&Bytes>,
    (redelivered, expires_at): (bool, Option<u64>),
) -> Arc<Message> {
    let marked = if redelivered { mark_redelivered(&payload) } else { None };
    Arc::new(Message {
        topic: Arc::clone(topic),
        payload: marked.map_or(payload, Bytes::from),
        properties: correlation.map_or_else(Bytes::new, correlation_data),
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at,
    })
}

/// Correlation data in wire form. It came over the same wire, hence fits the two bytes of its length.
fn correlation_data(data: &Bytes) -> Bytes {
    let Ok(length) = u16::try_from(data.len()) else { return Bytes::new() };
    let mut property = BytesMut::with_capacity(3 + data.len());
    property.put_u8(CORRELATION_DATA);
    property.put_u16(length);
    property.extend_from_slice(data);
    property.freeze()
}

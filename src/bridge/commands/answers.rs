//! The documents of an answer.

use crate::chat::id::MessageId;
use crate::chat::message::Rejection;
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

/// Where the answer to one command goes. Whoever asked may have gone: then it is said to nobody.
pub(super) struct Answers {
    to: mpsc::Sender<Bytes>,
    id: Option<MessageId>,
}

impl Answers {
    pub(super) fn new(to: mpsc::Sender<Bytes>, id: Option<MessageId>) -> Self {
        Self { to, id }
    }

    /// A part of the answer; others follow.
    pub(super) async fn more(&self, fields: Value) {
        let mut document = head(self.id.as_ref(), true);
        document.insert("more".to_owned(), true.into());
        self.say(document, fields).await;
    }

    /// The answer, or its last part.
    pub(super) async fn done(&self, fields: Value) {
        self.say(head(self.id.as_ref(), true), fields).await;
    }

    /// It is not done.
    pub(super) async fn refuse(&self, rejection: &Rejection) {
        let _ = self.to.send(refusal(self.id.as_ref(), rejection).into()).await;
    }

    /// Whether nobody listens any more.
    pub(super) fn is_unheard(&self) -> bool {
        self.to.is_closed()
    }

    async fn say(&self, mut document: Map<String, Value>, fields: Value) {
        if let Value::Object(fields) = fields {
            document.extend(fields);
        }
        let _ = self.to.send(Value::Object(document).to_string().into()).await;
    }
}

fn head(id: Option<&MessageId>, ok: bool) -> Map<String, Value> {
    let mut document = Map::new();
    if let Some(id) = id {
        document.insert("ref".to_owned(), id.as_str().into());
    }
    document.insert("ok".to_owned(), ok.into());
    document
}

/// The document of a command that is not carried out.
pub(super) fn refusal(id: Option<&MessageId>, rejection: &Rejection) -> Vec<u8> {
    let mut document = head(id, false);
    document.insert("code".to_owned(), rejection.code().to_string().into());
    document.insert("detail".to_owned(), rejection.detail().into());
    Value::Object(document).to_string().into_bytes()
}

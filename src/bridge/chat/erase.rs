//! A user asks to be erased, and proves to be there.

use super::requests::{Asked, document};
use super::{Remaining, TakeError};
use crate::bridge::context::Context;
use crate::bridge::erasing;
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::suffix::requests::{Op, Request};
use crate::chat::topic::inbox_topic;
use crate::mqtt::{AckWord, Outbound, Proven};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long the device that asked may take to read the answer, before its connection ends.
const ANSWER: Duration = Duration::from_secs(5);

/// Answers, and does it. The answer comes first: with the erase all connections of the user end.
pub(super) async fn answer(context: &Arc<Context>, asked: Asked) -> Result<Remaining, TakeError> {
    let context = Arc::clone(context);
    Ok(Box::pin(async move {
        let Asked { user, dev, request: Request { id, op }, .. } = asked;
        let proven = match &op {
            Op::Erase(secret) => context.directory.prove(user.as_str(), secret.reveal()).await,
            _ => Proven::No,
        };
        let refusal = |detail| Err(Rejection::new(ErrorCode::Forbidden, detail));
        let reply = match proven {
            Proven::Yes => Ok(promised()),
            Proven::No => refusal("the password is wrong, or the token is, or was not issued within ten minutes"),
            Proven::Unknown => refusal("the bridge checks no log-ins of this broker: ask its operator"),
        };
        let is_to_do = reply.is_ok();
        let topic = inbox_topic(&user, &format!("replies/{}", dev.as_str()));
        let (outbound, outcome) = Outbound::new(topic, document(id.as_ref(), reply));
        let _ = context.publish.send(Outbound { dropped_unread: true, ..outbound }).await;
        let _ = timeout(ANSWER, outcome).await;
        if is_to_do {
            erasing::erase(&context, &user).await?;
        }
        Ok(Some(AckWord::Done))
    }))
}

fn promised() -> Map<String, Value> {
    match json!({ "removes": erasing::REMOVES, "remains": erasing::remains() }) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

//! A user asks to be erased, and proves to be there.

use super::requests::{Asked, document};
use super::{Remaining, TakeError};
use crate::bridge::context::Context;
use crate::bridge::erasing;
use crate::chat::id::Owner;
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

/// Begins it, answers, and has it done. The answer comes when the erase is on disk, and before it is done: with it all connections
/// of the user end.
pub(super) async fn answer(context: &Arc<Context>, asked: Asked) -> Result<Remaining, TakeError> {
    let context = Arc::clone(context);
    Ok(Box::pin(async move {
        let Asked { user, dev, request: Request { id, op }, .. } = asked;
        let secret = if let Op::Erase(secret) = &op { secret.reveal() } else { "" };
        let reply = prove(&context, &user, secret).await.map(|()| promised());
        let is_to_do = reply.is_ok();
        // As long as it is held nobody else goes on with it: the user is to read the answer first.
        let not_yet = if is_to_do { timeout(ANSWER, context.erasing.lock()).await.ok() } else { None };
        if is_to_do {
            erasing::begin(&context, &user).await?;
        }
        let topic = inbox_topic(&user, &format!("replies/{}", dev.as_str()));
        // No document of the store: those of the user are not kept any more.
        let (outbound, outcome) = Outbound::new(topic, document(id.as_ref(), reply));
        let told = async {
            let _ = context.publish.send(Outbound { dropped_unread: true, ..outbound }).await;
            let _ = outcome.await;
        };
        let _ = timeout(ANSWER, told).await;
        drop(not_yet);
        if is_to_do {
            context.erase_begun.notify_one();
        }
        Ok(Some(AckWord::Done))
    }))
}

/// Whether it is the user who asks.
pub(super) async fn prove(context: &Context, user: &Owner, secret: &str) -> Result<(), Rejection> {
    let refusal = |detail| Err(Rejection::new(ErrorCode::Forbidden, detail));
    match context.directory.prove(user.as_str(), secret).await {
        Proven::Yes => Ok(()),
        Proven::No => refusal("the password is wrong, or the token is, or was not issued within ten minutes"),
        Proven::Unknown => refusal("the bridge checks no log-ins of this broker: ask its operator"),
    }
}

fn promised() -> Map<String, Value> {
    match json!({ "removes": erasing::REMOVES, "remains": erasing::remains() }) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

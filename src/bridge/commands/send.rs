//! `send`: a message to a user, followed to its end.

use super::Commands;
use super::answers::Answers;
use crate::chat::id::{Owner, Sid};
use crate::chat::message::{ErrorCode, Rejection, Sender};
use crate::chat::principal::Role;
use crate::chat::suffix::messages::UserMessage;
use crate::store::{
    ChatOutcome, ExplainedDevice, NewChatMessage, Peer, PushExplanation, StoreError, USER_DEVICES_MAX, Writer,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long it is followed.
const FOLLOW: Duration = Duration::from_secs(30);
/// How often the store is asked what became of it.
const LOOK: Duration = Duration::from_millis(200);

impl Commands {
    pub(super) async fn send(
        &self,
        from: Option<Owner>,
        to: &Owner,
        text: &str,
        answers: &Answers,
    ) -> Result<(), StoreError> {
        let Some(from) = from.or_else(|| self.context.settings.routes.default_bal().cloned()) else {
            let detail =
                "`from` is missing: the BAL in whose name it goes; the configuration has no routes.default_bal";
            answers.refuse(&Rejection::new(ErrorCode::MissingField, detail)).await;
            return Ok(());
        };
        let in_order = self.context.next_written().await;
        let (sid, at) = in_order.id();
        let written = match self.written(sid, at, from, to, text) {
            Ok(written) => written,
            Err(rejection) => {
                answers.refuse(&rejection).await;
                return Ok(());
            }
        };
        let waits = written.to.attended.any();
        let call = self.context.chat_call(at, 2 * USER_DEVICES_MAX, &self.policy);
        let committed = self.context.store.chat_message(written, call).await?;
        if waits {
            self.context.attentions.given(to, sid, at);
        }
        drop(in_order);
        let outcome = committed.await?;
        if waits && !matches!(outcome, ChatOutcome::Done { waits: true, .. }) {
            self.context.attentions.taken_back(to, sid);
        }
        match outcome {
            // What a BAL is told of its fields means nothing here.
            ChatOutcome::Refused(rejection) if rejection.code() == ErrorCode::NotFound => {
                answers.refuse(&Rejection::new(ErrorCode::NotFound, "there is no chat user of this name")).await;
            }
            ChatOutcome::Refused(rejection) => answers.refuse(&rejection).await,
            ChatOutcome::Full => {
                answers.refuse(&Rejection::new(ErrorCode::QueueFull, "there is no room for further pushes")).await;
            }
            ChatOutcome::Done { seen, .. } => {
                self.context.show(seen).await;
                self.follow(to, sid, answers).await?;
            }
            ChatOutcome::Repeated | ChatOutcome::Scheduled => self.follow(to, sid, answers).await?,
        }
        Ok(())
    }

    /// The message, as that BAL would have written it.
    fn written(&self, sid: Sid, at: u64, from: Owner, to: &Owner, text: &str) -> Result<NewChatMessage, Rejection> {
        let context = &self.context;
        let role = context.directory.role_of(to.as_str());
        if matches!(role, Some(Role::Bal | Role::Admin)) {
            return Err(Rejection::bad_field("to", "is no chat user"));
        }
        let payload = json!({ "id": sid.to_string(), "to": to.as_str(), "body": text }).to_string();
        let message = UserMessage::parse(Sender::Bal, payload.as_bytes(), &context.settings.limits.message())?;
        let deadline_ms = at.saturating_add(u64::from(message.ttl) * 1_000);
        let (dev, by_token, connected, strangers, let_in) = (None, None, Vec::new(), true, false);
        let from = Writer { name: from, role: Role::Bal, dev, by_token, connected, strangers, let_in, direct: false };
        let to = Peer { name: to.clone(), role, attended: context.attentions.attended(to, at) };
        Ok(NewChatMessage { sid, from, to, message, deadline_ms, route: None })
    }

    /// Says each change of what became of it, until a device has confirmed it, or nothing more is to come.
    async fn follow(&self, to: &Owner, sid: Sid, answers: &Answers) -> Result<(), StoreError> {
        let (until, mut said) = (Instant::now() + FOLLOW, Value::Null);
        loop {
            let Some(found) = self.context.store.chat_explain(to.clone(), sid).await?.await? else {
                answers.refuse(&Rejection::new(ErrorCode::NotFound, "the message is not kept any more")).await;
                return Ok(());
            };
            let now = progress(&found);
            let is_awaited = found.waits || found.devices.iter().any(|device| device.push.is_some());
            let may_confirm = is_awaited || !self.context.attentions.connected(to).is_empty();
            if found.received || !may_confirm || Instant::now() >= until || answers.is_unheard() {
                answers.done(now).await;
                return Ok(());
            }
            if now != said {
                answers.more(now.clone()).await;
                said = now;
            }
            sleep(LOOK).await;
        }
    }
}

fn progress(found: &PushExplanation) -> Value {
    let device = |device: &ExplainedDevice| {
        let mut item = json!(device);
        item["rule"] = device.rule.number().into();
        item["why"] = json!(device.rule);
        item
    };
    let devices: Vec<Value> = found.devices.iter().map(device).collect();
    json!({ "sid": found.sid, "delivered": found.received, "waits": found.waits, "devices": devices })
}

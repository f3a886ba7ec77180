//! `pause`, `drain`, `resume`, `flush`: what is said of sending by the transports.

use super::Commands;
use super::answers::Answers;
use crate::bridge::sending::covers;
use crate::chat::command::Sending;
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::transport::Transport;
use crate::store::StoreError;
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// How long `drain` waits for what is on its way.
const DRAIN_WAIT: Duration = Duration::from_secs(30);

impl Commands {
    pub(super) async fn pause(&self, which: &Sending, answers: &Answers) -> Result<(), StoreError> {
        if let Some(names) = self.names(which, answers).await {
            self.context.sending.pause(which, self.all(), true);
            answers.done(json!({ "transports": names })).await;
        }
        Ok(())
    }

    pub(super) async fn drain(&self, which: &Sending, answers: &Answers) -> Result<(), StoreError> {
        let Some(names) = self.names(which, answers).await else { return Ok(()) };
        let sending = &self.context.sending;
        sending.pause(which, self.all(), true);
        let drained = timeout(DRAIN_WAIT, sending.drained(which)).await.is_ok();
        let in_flight = if drained { 0 } else { sending.in_flight(which) };
        answers.done(json!({ "transports": names, "drained": drained, "in_flight": in_flight })).await;
        Ok(())
    }

    pub(super) async fn resume(&self, which: &Sending, answers: &Answers) -> Result<(), StoreError> {
        if let Some(names) = self.names(which, answers).await {
            self.context.sending.pause(which, self.all(), false);
            answers.done(json!({ "transports": names })).await;
        }
        Ok(())
    }

    pub(super) async fn flush(&self, which: &Sending, answers: &Answers) -> Result<(), StoreError> {
        let Some(names) = self.names(which, answers).await else { return Ok(()) };
        let mut flushed = 0;
        for transport in self.all().filter(|one| covers(which, one)) {
            flushed += self.context.store.flush(&transport).await?;
        }
        answers.done(json!({ "transports": names, "flushed": flushed })).await;
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = Transport> {
        self.context.capabilities.keys().cloned()
    }

    /// Which transports are meant; one that is not configured is refused.
    async fn names(&self, which: &Sending, answers: &Answers) -> Option<Vec<String>> {
        let names: Vec<String> = self.all().filter(|one| covers(which, one)).map(|one| one.to_string()).collect();
        if names.is_empty() {
            answers.refuse(&Rejection::new(ErrorCode::NotFound, "no such transport is configured")).await;
            return None;
        }
        Some(names)
    }
}

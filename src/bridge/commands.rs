//! What operators ask of the bridge while it runs, on its control socket and on `_bridge/commands`.
//!
//! ```text
//!   socket ── ControlCall ──┐
//!                           ├──▶ parse ─▶ verb ─▶ lines of the answer ──▶ the client, or `_bridge/replies`
//!   intake ── payload ──────┘
//! ```
//!
//! An answer is one document or several; all but the last have `more`. Nothing of a command or its answer is on disk: a
//! reply that nobody reads is gone.

mod answers;
mod devices;
mod send;
mod transports;
mod users;

use super::context::Context;
use crate::chat::command::{Command, CommandRequest};
use crate::chat::message::{ErrorCode, Rejection, document_id};
use crate::chat::topic::BridgeTopic;
use crate::mqtt::Outbound;
use crate::ops::control::ControlCall;
use crate::store::{ChatPolicy, StoreError, StoreHealth};
use answers::{Answers, refusal};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Commands of admins that wait to be taken; one more is answered `RATE_LIMITED`.
pub(super) const WAITING_MAX: usize = 16;
/// Commands that are carried out at one time; further ones wait.
const RUNNING_MAX: usize = 16;
/// Erases among them, each of which may take minutes: the others are answered meanwhile.
const ERASES_MAX: usize = 8;

/// Carries commands out.
pub(super) struct Commands {
    context: Arc<Context>,
    policy: Arc<ChatPolicy>,
    /// Places for erases.
    erases: Semaphore,
}

impl Commands {
    pub(super) fn new(context: Arc<Context>) -> Self {
        let policy = Arc::new(context.settings.chat_policy());
        Self { context, policy, erases: Semaphore::new(ERASES_MAX) }
    }

    /// Works until `stop`. What is not done by then is left, and its client sees the end of its answer.
    pub(super) async fn run(
        self,
        (mut socket, mut mqtt): (mpsc::Receiver<ControlCall>, mpsc::Receiver<Bytes>),
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut running: FuturesUnordered<BoxFuture<'_, Result<(), StoreError>>> = FuturesUnordered::new();
        loop {
            let has_room = running.len() < RUNNING_MAX;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(done) = running.next() => done?,
                Some(call) = socket.recv(), if has_room => running.push(Box::pin(self.carry_out(call))),
                Some(payload) = mqtt.recv(), if has_room => running.push(Box::pin(self.reply(payload))),
                else => return Ok(()),
            }
        }
    }

    /// Carries a command of an admin out, and publishes what it comes to.
    async fn reply(&self, payload: Bytes) -> Result<(), StoreError> {
        let (call, mut answers) = ControlCall::new(payload);
        let publish = async {
            while let Some(answer) = answers.recv().await {
                publish(&self.context, answer).await;
            }
        };
        let (done, ()) = tokio::join!(self.carry_out(call), publish);
        done
    }

    async fn carry_out(&self, call: ControlCall) -> Result<(), StoreError> {
        let ControlCall { request, answers } = call;
        match CommandRequest::parse(&request, &self.context.settings.limits.message()) {
            Ok(CommandRequest { id, command }) => {
                let answers = Answers::new(answers, id);
                tracing::info!(command = command.name(), about = command.target(), "an operator commands");
                self.execute(command, &answers).await
            }
            Err(rejection) => {
                Answers::new(answers, rejection.ref_id().cloned()).refuse(&rejection).await;
                Ok(())
            }
        }
    }

    /// Carries a command out; while the disk takes nothing, what needs it is refused. What is under way by then is left where that
    /// does no harm, and waits for the disk where half of it may be done.
    async fn execute(&self, command: Command, answers: &Answers) -> Result<(), StoreError> {
        let may_be_left = match &command {
            Command::Pause(_) | Command::Drain(_) | Command::Resume(_) => return self.carry_on(command, answers).await,
            Command::DeviceList(_) | Command::UserExport(_) | Command::Flush(_) => true,
            Command::UserErase(_) | Command::UserFree(_) | Command::DeviceForget(..) | Command::Send { .. } => false,
        };
        let mut reason = blocked(&self.context.store.health().borrow());
        if reason.is_none() {
            let mut health = self.context.store.health();
            let told =
                async { health.wait_for(|now| *now != StoreHealth::Ok).await.ok().and_then(|now| blocked(&now)) };
            tokio::select! {
                done = self.carry_on(command, answers) => return done,
                Some(told) = told, if may_be_left => reason = Some(told),
            }
        }
        let detail = format!("the store is blocked: {}", reason.unwrap_or_default());
        answers.refuse(&Rejection::new(ErrorCode::StoreBlocked, detail)).await;
        Ok(())
    }

    async fn carry_on(&self, command: Command, answers: &Answers) -> Result<(), StoreError> {
        match command {
            Command::UserErase(user) => self.erase_user(&user, answers).await,
            Command::UserExport(user) => self.export_user(&user, answers).await,
            Command::UserFree(user) => self.free_user(&user, answers).await,
            Command::DeviceList(user) => self.list_devices(&user, answers).await,
            Command::DeviceForget(user, dev) => self.forget_device(&user, &dev, answers).await,
            Command::Send { from, to, text } => self.send(from, &to, &text, answers).await,
            Command::Pause(which) => self.pause(&which, answers).await,
            Command::Drain(which) => self.drain(&which, answers).await,
            Command::Resume(which) => self.resume(&which, answers).await,
            Command::Flush(which) => self.flush(&which, answers).await,
        }
    }
}

/// Why the disk takes nothing.
fn blocked(health: &StoreHealth) -> Option<String> {
    match health {
        StoreHealth::Ok => None,
        StoreHealth::Blocked { reason } => Some(reason.clone()),
    }
}

/// Passes the command of an admin on; if too many wait, it is answered so.
pub(super) fn ask(context: &Context, commanded: &mpsc::Sender<Bytes>, payload: Bytes) {
    let id = document_id(&payload);
    if commanded.try_send(payload).is_err() {
        let rejection = Rejection::new(ErrorCode::RateLimited, "too many commands are given at one time");
        let (outbound, _outcome) = Outbound::new(BridgeTopic::Replies, refusal(id.as_ref(), &rejection));
        // A broker that has no room for it is busy with others.
        let _ = context.publish.try_send(Outbound { dropped_unread: true, ..outbound });
    }
}

async fn publish(context: &Context, answer: Bytes) {
    let (outbound, _outcome) = Outbound::new(BridgeTopic::Replies, answer);
    // If the broker has gone, so have those who asked.
    let _ = context.publish.send(Outbound { dropped_unread: true, ..outbound }).await;
}
